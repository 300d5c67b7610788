"""The claims ledger: each claim of the book beside the verdict of its last recorded run, those never run included."""

from __future__ import annotations

import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from book.press.chapters import recorded
from nbutils.lab import claims, history, results
from nbutils.lab.claims import Claim, Verdict
from nbutils.machine import ROOT, build_dir
from nbutils.messages import counted

STATES = tuple(claims.MARKS)
PAPERS = ("ilyas2019", "kim2021", "li2023")  # those that the book is about
CLAIMS = ROOT / "book" / "claims.yml"


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
    """

    claim: Claim
    verdict: Verdict | None
    run: results.Record | None
    commit: Commit | None

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.verdict:
            return self.verdict.held
        return "not tested" if self.claim.setting else "not run"

    @property
    def words(self) -> str:
        """The verdict, in the words that its data allow."""
        return self.verdict.words if self.verdict else self.state

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
        measured = {name: getattr(found, name) for name in ("value", "low", "high", "interval", "values", "unit", "n",
                    "model", "data", "threat", "attack", "norms", "seconds", "profile", "device")} if found else {}
        return {**self.claim.model_dump(mode="json", include={"id", "chapter", "paper", "place", "paraphrase",
                                                              "statistic", "measures", "seen", "setting"}),
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


def entries(profile: str, records: Records) -> list[Entry]:
    """The ledger of one profile or edition, in the order of the file of claims.

    A claim about a paper's own setting is judged by the last run in that setting, whatever its profile was; a run with
    too few images or seeds, or under another threat model, counts only where there is no other.
    """
    commits, found = criterion_commits(), []
    for claim in claims.load().values():
        runs = [chapters[claim.chapter] for name, chapters in records.items()
                if claim.chapter in chapters and (claim.setting or name == profile)]
        judged = [(run, claims.judge(claim, run.by_id[claim.statistic], run.parameters, run.results, run.classes))
                  for run in runs if claim.fits(run.parameters) and claim.statistic in run.by_id]
        run, verdict = max(judged, key=lambda one: (one[1].held != "not comparable", one[0].finished),
                           default=(None, None))
        found.append(Entry(claim, verdict, run, commits.get(claim.id)))
    return found


def criterion_commits(path: Path = CLAIMS) -> dict[str, Commit]:
    """For each claim the commit that last changed its criterion; empty without a history.

    A criterion that is not committed, or older than a shallow clone, is left out.
    """
    @cache
    def git(*words: str) -> str:
        return history.git(*words, folder=path.parent).stdout

    try:
        blame = git("blame", "--line-porcelain", path.name)
    except OSError:  # no git
        return {}
    found, known, claim, commit, number, file, when = {}, True, "", "", 0, "", datetime.now(UTC)
    for line in blame.splitlines():
        if header := re.match("([0-9a-f]{40}) ([0-9]+) ", line):
            commit, number, known = header[1], int(header[2]), header[1] != "0" * 40
        elif line.startswith("committer-time "):
            when = datetime.fromtimestamp(int(line.split()[1]), UTC)
        elif line.startswith("filename "):
            file = line.removeprefix("filename ")
        elif line == "boundary":
            known = False
        elif line.startswith("\t- id: "):
            claim = line.removeprefix("\t- id: ").strip()
        elif line.startswith("\t  criterion:") and known:
            text = git("show", f"{commit}:{file}").splitlines()
            begin = max((i for i in range(number) if text[i].startswith("- id: ")), default=0)
            end = next((i for i in range(number, len(text)) if not text[i].startswith("  ")), len(text))
            found[claim] = Commit(commit[:10], when, "\n".join(text[begin:end]))
    return found


def write(path: Path, ledger: Sequence[Entry]) -> None:
    """The ledger as JSON, one object per claim."""
    path.write_text(json.dumps([entry.row for entry in ledger], indent=1))


def counts(ledger: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Paper -> state -> number of claims, for each paper that the book is about and all others together."""
    found: dict[str, Counter[str]] = {**{claims.paper_name(key): Counter() for key in PAPERS}, "other work": Counter()}
    for entry in ledger:
        found[claims.paper_name(entry.claim.paper) if entry.claim.paper in PAPERS else "other work"][entry.state] += 1
    return {paper: {state: states[state] for state in STATES} for paper, states in found.items()}


def table(ledger: Sequence[Entry], page: Callable[[str], str]) -> str:
    """The ledger as an HTML table.

    Args:
        page: name of a chapter -> address of its page.
    """
    rows = []
    for entry in ledger:
        claim, verdict = entry.claim, entry.verdict
        chapter = page(claim.chapter)
        place = chapter if claim.setting else f"{chapter}#claim-{claim.id}"  # a chapter shows no verdict on those
        setting = " ".join(f"{name}={value}" for name, value in claim.setting.items())
        needed = (f" Setting: {html.escape(setting)}, n = {claim.least_n} and {claim.least_seeds} seeds, or more."
                  if setting else "")
        measured = "not yet"
        if verdict:
            seeds = counted(len(verdict.result.values), "seed")
            attack = "" if verdict.result.attack == "none" else f" Attack: {html.escape(verdict.result.attack)}."
            edition = html.escape(f"{verdict.result.data}, profile {verdict.result.profile}")
            measured = (f"{verdict.result}<br><small>{html.escape(claim.measures.rstrip(','))}; {edition}, "
                        f"n = {verdict.result.n}, {seeds}.{attack}</small>")
        fixed = f"<div>Fixed {claim.fixed}</div>"
        if entry.commit:
            younger = " <strong>younger than the result</strong>" if entry.in_time is False else ""
            fixed = (f"<details><summary>Fixed {claim.fixed}, commit {entry.commit.hash}{younger}</summary>"
                     f"{entry.commit.time:%Y-%m-%d %H:%M} UTC<pre>{html.escape(entry.commit.text)}</pre></details>")
        words = f"{claims.MARKS[entry.state]} {html.escape(entry.words)}"
        rows.append(
            f'<tr class="verdict-{entry.state.replace(" ", "-")}" id="claim-{claim.id}"><td>{words}</td>'
            f'<td>{html.escape(claim.paraphrase)}<br><a class="claim-id" href="{place}">{claim.id}</a><br>'
            f"<small>{html.escape(claims.paper_name(claim.paper))}, {html.escape(claim.place)}; chapter "
            f"{claim.chapter[:2]}. Published: {html.escape(claim.printed)}</small></td>"
            f"<td>{measured}<br><small>Criterion: {claim.criterion}.{needed}</small>{fixed}</td></tr>")
    return grid(("Verdict", "Claim", "Measured"), rows)


def beside(editions: Mapping[str, Sequence[Entry]], root: str) -> str:
    """The verdicts of several editions beside each other, as an HTML table: a row per claim that any of them judges.

    A claim that holds in one and fails in another is marked in the first column.

    Args:
        editions: name -> ledger; all of them list the same claims.
        root: address of the book's first folder.
    """
    rows = []
    for entries in zip(*editions.values(), strict=True):
        if entries[0].claim.setting or not any(entry.verdict for entry in entries):
            continue
        states, claim = {entry.state for entry in entries}, entries[0].claim
        differ = {"held", "not held"} <= states
        cells = []
        for name, entry in zip(editions, entries, strict=True):
            shown = "not yet recorded"
            if entry.verdict:
                found = entry.verdict.result
                place = f"{root}/records/{quote(name)}/{claim.chapter}.html#{results.anchor(found.id)}"
                shown = (f'{claims.MARKS[entry.state]} {entry.state}<br><a class="address" href="{place}">'
                         f"{found}</a><br><small>n = {found.n}, {counted(len(found.values), 'seed')}</small>")
            cells.append(f"<td>{shown}</td>")
        rows.append(f'<tr class="verdict-{"not-held" if differ else "same"}"><td>{html.escape(claim.paraphrase)}<br>'
                    f'<a class="claim-id" href="{root}/book/ledger.html#claim-{claim.id}">{claim.id}</a>; chapter '
                    f"{claim.chapter[:2]}{'<br><strong>they differ</strong>' * differ}<br><small>"
                    f"{html.escape(claim.measures.rstrip(','))}; {claim.criterion}</small></td>{''.join(cells)}</tr>")
    return grid(("Claim", *map(html.escape, editions)), rows, "beside")


def grid(columns: Sequence[str], rows: Sequence[str], style: str = "") -> str:
    """An HTML table of rows that are HTML already. style: a class of the style sheet."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = f'<thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
    return f'<div class="ledger {style}"><table>{body}</table></div>'
