"""The claims ledger: each claim of the book beside the verdict of its last recorded run, those never run included."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from book.press.chapters import recorded
from nbutils.lab import claims, history, results, student
from nbutils.lab.claims import Claim, Criterion, Verdict
from nbutils.lab.results import Result
from nbutils.machine import ROOT, build_dir

STATES = tuple(claims.MARKS)
JUDGED = ("held", "not held", "undecided")  # by the criterion
PAPERS = ("ilyas2019", "kim2021", "li2023")  # those that the book is about
CLAIMS = ROOT / "book" / "claims.yml"
# What `git blame -lntf` says of a line: ^ at the end of a shallow clone, commit, file, number and time there, the line.
BLAMED = re.compile(r"^(\^?)([0-9a-f]{39,40}) (.+?) +([0-9]+) \(.*? ([0-9]+) [+-]\d{4} +\d+\) (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Commit:
    """The commit that gave a criterion its present form: its hash, its time, and the whole claim as it stood there."""

    hash: str
    time: datetime
    text: str


@dataclass(frozen=True)
class Entry:
    """A claim and what is known about it.

    Attributes:
        claim: what is claimed, and its criterion.
        verdict: computed from the recorded result; None where no run has measured the claim's statistic.
        run: the record of the run that measured it; None like the verdict.
        commit: the one that gave the criterion its present form; None where the history does not tell.
        q: p value of the verdict, adjusted for the number of verdicts in the edition; see `entries`.
    """

    claim: Claim
    verdict: Verdict | None
    run: results.Record | None
    commit: Commit | None
    q: float | None = None

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.verdict:
            return self.verdict.held
        return "not tested" if self.claim.setting else "not run"

    @property
    def words(self) -> str:
        """The verdict, in the words that its data allow."""
        words = self.verdict.words if self.verdict else self.state
        return f"{words}, fragile (q = {self.q:.3f})" if self.fragile else words

    @property
    def fragile(self) -> bool:
        """Whether the verdict is decided and would not be, had all verdicts of the edition been one question."""
        return self.state in ("held", "not held") and self.q is not None and self.q > 0.05

    @property
    def in_time(self) -> bool | None:
        """Whether the criterion is older than the result; None where that cannot be told."""
        if not self.run or self.commit is None:
            return None
        return self.commit.time < self.run.finished

    @property
    def row(self) -> dict[str, Any]:
        """Plain values, for the machine-readable ledger."""
        found = self.verdict.result if self.verdict else None
        measured = {name: getattr(found, name) for name in ("value", "interval", "values", "unit", "n", "model", "data",
                    "threat", "attack", "norms", "seconds", "profile", "device")} if found else {}
        measured["low"], measured["high"] = (found.limits() if found else None) or (None, None)
        return {**self.claim.model_dump(mode="json", include={"id", "chapter", "role", "paper", "place", "paraphrase",
                                                              "statistic", "measures", "arms", "seen", "setting"}),
                "gates": {id: str(gate) for id, gate in self.claim.gates.items()}, "q": self.q,
                "published": self.claim.printed, "published_value": self.claim.published_value,
                "criterion": str(self.claim.criterion), "criterion_commit": self.commit.hash if self.commit else "",
                "criterion_committed": self.commit and self.commit.time.isoformat(), "criterion_older": self.in_time,
                "state": self.state, "verdict": self.words, **measured,
                "code": self.run.commit if self.run else "",
                "finished": self.run.finished.isoformat() if self.run else ""}


Records = Mapping[str, Mapping[str, results.Record]]  # profile or edition -> chapter -> what a run found


def executed() -> Records:
    """What the executed notebooks in the build folder hold, those of stages too; where a run is not whole, or its
    record cannot be read, there is none."""
    folder, found = build_dir() / "executed", defaultdict[str, dict[str, results.Record]](dict)
    for path in sorted(folder.rglob("*.ipynb")):
        with suppress(ValueError):
            found[str(path.parent.relative_to(folder))][path.stem] = recorded(path)
    return found


def entries(profile: str, records: Records, controls: Mapping[str, results.Record] = MappingProxyType({}),
            ) -> list[Entry]:
    """The ledger of one profile or edition, in the order of the file of claims.

    controls: chapter -> record of its run on planted images. What the chapter's own run of other images has not
    measured since no truth was known, is judged from there.

    A claim about a paper's own setting is judged by the last run in that setting, whatever its profile was; a run with
    too few images or seeds, or under another threat model, counts only where there is no other.

    Of the edition's own verdicts that are held, not held or undecided, sanity checks left out, each gets the q value of
    Benjamini and Hochberg (1995): the expected share of false ones among the verdicts decided at this level or a
    stricter one. They take the verdicts as independent or positively dependent.
    """
    commits, found = criterion_commits(), []
    for claim in claims.load().values():
        runs = [chapters[claim.chapter] for name, chapters in records.items()
                if claim.chapter in chapters and (claim.setting or name == profile)]
        if runs and not claim.setting and not any(claim.statistic in run.by_id or run.dataset == "planted"
                                                  for run in runs):
            runs += [controls[claim.chapter]] if claim.chapter in controls else []
        judged = [(run, claims.judge(claim, run.by_id[claim.statistic], run.parameters, run.results, run.classes))
                  for run in runs if claim.fits(run.parameters) and claim.statistic in run.by_id]
        run, verdict = max(judged, key=lambda one: (one[1].held != "not comparable", one[0].finished),
                           default=(None, None))
        found.append(Entry(claim, verdict, run, commits.get(claim.id)))
    p = {entry.claim.id: p_value(entry.claim.criterion, entry.verdict.result) for entry in found if entry.verdict
         and entry.state in JUDGED and entry.claim.role != "sanity" and not entry.claim.setting}
    ranked = sorted(p, key=lambda id: p[id])
    shares = [p[id] * len(p) / place for place, id in enumerate(ranked, start=1)]
    q = dict(zip(reversed(ranked), np.minimum.accumulate([1.0, *reversed(shares)])[1:].tolist(), strict=True))
    return [replace(entry, q=q.get(entry.claim.id)) for entry in found]


def p_value(criterion: Criterion, result: Result) -> float:
    """How surprising a result over seeds is if the truth lies on the nearest bound of the criterion, two-sided.

    One minus the confidence of the interval that just reaches this bound; half of that for a value within two bounds,
    where it is the larger of the two one-sided p values.
    """
    value, _ = result.limits(0) or (math.nan, math.nan)
    bound = min(criterion.region, key=lambda end: abs(end - value))

    def left(confidence: float) -> float:
        """How far from the bound the interval ends."""
        low, high = result.limits(confidence) or (-math.inf, math.inf)
        return bound - high if bound > value else low - bound

    most = 1 - 1e-9
    p = 1 - (most if left(most) > 0 else student.root(lambda confidence: -left(confidence), 0, most))
    return p / 2 if criterion.within and abs(value) < criterion.within else p


def criterion_commits(path: Path = CLAIMS) -> dict[str, Commit]:
    """For each claim the commit that last changed its criterion, its statistic, its gates or its arms; empty without
    a history.

    One that is not committed, or older than a shallow clone, is left out.
    """
    try:
        blame = history.git("blame", "-lntf", path.name, folder=path.parent).stdout
    except OSError:  # no git
        return {}
    show = cache(lambda commit, file: history.git("show", f"{commit}:{file}", folder=path.parent).stdout.splitlines())
    youngest: dict[str, tuple[str, ...]] = {}
    claim = ""
    for line in BLAMED.findall(blame):
        if line[-1].startswith("- id: "):
            claim = line[-1].removeprefix("- id: ").strip()
        elif line[-1].startswith(("  criterion:", "  statistic:", "  gates:", "  arms:")):
            youngest[claim] = max(youngest.get(claim, line), line, key=lambda one: int(one[4]))
    found = {}
    for claim, (shallow, commit, file, number, when, _) in youngest.items():
        if not shallow and commit.strip("0"):
            text, place = show(commit, file), int(number)
            begin = max((i for i in range(place) if text[i].startswith("- id: ")), default=0)
            end = next((i for i in range(place, len(text)) if not text[i].startswith("  ")), len(text))
            time = datetime.fromtimestamp(int(when), UTC)
            found[claim] = Commit(commit[:10], time, "\n".join(text[begin:end]))
    return found


def write(path: Path, ledger: Sequence[Entry]) -> None:
    """The ledger as JSON, one object per claim."""
    path.write_text(json.dumps([entry.row for entry in ledger], indent=1))


def counts(ledger: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Whose claim -> state -> number of claims: each paper that the book is about, all others together, and apart from
    them our controls and the sanity checks."""
    rows = {**{key: claims.paper_name(key) for key in PAPERS}, "": "other work", "control": "our controls",
            "sanity": "sanity checks"}
    found: dict[str, Counter[str]] = {name: Counter() for name in rows.values()}
    for entry in ledger:
        whose = entry.claim.paper if entry.claim.role == "paper" else entry.claim.role
        found[rows.get(whose, "other work")][entry.state] += 1
    return {paper: {state: states[state] for state in STATES} for paper, states in found.items()}

