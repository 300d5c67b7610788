"""The claims ledger: each claim of the book beside the verdict of its last recorded run, those never run included."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nbutils.lab import claims, results
from nbutils.lab.claims import Claim, Verdict
from nbutils.lab.store import ROOT, build_dir

STATES = ("held", "undecided", "not held", "not comparable", "not run")
PAPERS = ("ilyas2019", "kim2021", "li2023")  # those that the book is about
CLAIMS = ROOT / "book" / "claims.yml"


@dataclass(frozen=True)
class Entry:
    """A claim and what is known about it.

    Attributes:
        claim: what is claimed, and its criterion.
        verdict: computed from the recorded result; None where no run has measured the claim's statistic.
        run: header of the record: chapter, parameters, device, commit, when it finished.
        commit, committed: the commit that gave the criterion its present form, and when; "" and None where the
            history does not tell.
    """

    claim: Claim
    verdict: Verdict | None
    run: dict[str, Any]
    commit: str
    committed: datetime | None

    @property
    def state(self) -> str:
        """One of STATES."""
        return self.verdict.held if self.verdict else "not run"

    @property
    def words(self) -> str:
        """The verdict, in the words that its data allow."""
        return self.verdict.words if self.verdict else "not run"

    @property
    def in_time(self) -> bool | None:
        """Whether the criterion is older than the result; None where that cannot be told."""
        if not self.run or self.committed is None:
            return None
        return self.committed < datetime.fromisoformat(self.run["finished"])

    @property
    def row(self) -> dict[str, Any]:
        """Plain values, for the machine-readable ledger."""
        found = self.verdict.result if self.verdict else None
        measured = {name: getattr(found, name) for name in ("value", "low", "high", "interval", "values", "unit", "n",
                    "model", "data", "threat", "attack", "norms", "seconds", "profile", "device")} if found else {}
        return {**self.claim.model_dump(mode="json", include={"id", "chapter", "paper", "place", "paraphrase",
                                                              "published", "statistic", "measures", "seen"}),
                "criterion": str(self.claim.criterion), "criterion_commit": self.commit,
                "criterion_committed": self.committed and self.committed.isoformat(), "criterion_older": self.in_time,
                "state": self.state, "verdict": self.words, **measured,
                "code": self.run.get("commit", ""), "finished": self.run.get("finished", "")}


def entries(profile: str = "quick") -> list[Entry]:
    """The ledger of one profile, in the order of the file of claims.

    Raises:
        ValueError: a record that cannot be read, or of another schema.
    """
    records, commits, found = {}, criterion_commits(), []
    for claim in claims.load().values():
        path = build_dir() / "results" / profile / f"{claim.chapter}.json"
        if claim.chapter not in records:
            records[claim.chapter] = results.read(path) if path.exists() else ({}, [])
        run, measured = records[claim.chapter]
        result = next((result for result in measured if result.id == claim.statistic), None)
        verdict = claims.judge(claim, result) if result else None
        found.append(Entry(claim, verdict, run if result else {}, *commits.get(claim.id, ("", None))))
    return found


def criterion_commits(path: Path = CLAIMS) -> dict[str, tuple[str, datetime]]:
    """For each claim the commit that last changed its criterion, with its time; empty without a history.

    A criterion that is not committed, or older than a shallow clone, is left out.
    """
    try:
        blame = subprocess.run(["git", "blame", "--line-porcelain", path.name], cwd=path.parent, capture_output=True,
                               text=True)
    except OSError:
        return {}
    found, known, claim, commit, when = {}, True, "", "", datetime.now(UTC)
    for line in blame.stdout.splitlines():
        if header := re.match("([0-9a-f]{40}) ", line):
            commit, known = header[1], header[1] != "0" * 40
        elif line.startswith("committer-time "):
            when = datetime.fromtimestamp(int(line.split()[1]), UTC)
        elif line == "boundary":
            known = False
        elif line.startswith("\t- id: "):
            claim = line.removeprefix("\t- id: ").strip()
        elif line.startswith("\t  criterion:") and known:
            found[claim] = (commit[:10], when)
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
        place = f"{page(claim.chapter)}#claim-{claim.id}"
        measured = "not yet"
        if verdict:
            seeds = len(verdict.result.values)
            attack = "" if verdict.result.attack == "none" else f" Attack: {html.escape(verdict.result.attack)}."
            measured = (f"{verdict.result}<br><small>{html.escape(claim.measures.rstrip(','))}; "
                        f"n = {verdict.result.n}, {seeds} seed{'s' * (seeds > 1)}.{attack}</small>")
        fixed = f"fixed {claim.fixed}" + f", commit {entry.commit}" * bool(entry.commit)
        if entry.in_time is False:
            fixed += "; <strong>younger than the result</strong>"
        words = f"{claims.MARKS[entry.state]} {html.escape(entry.words)}"
        rows.append(
            f'<tr class="verdict-{entry.state.replace(" ", "-")}"><td>{words}</td>'
            f'<td>{html.escape(claim.paraphrase)}<br><a class="claim-id" href="{place}">{claim.id}</a><br>'
            f"<small>{html.escape(claims.paper_name(claim.paper))}, {html.escape(claim.place)}. "
            f"Published: {html.escape(claim.published)}</small></td>"
            f"<td>{measured}<br><small>Criterion: {claim.criterion} ({fixed}).</small></td></tr>")
    head = "".join(f'<th scope="col">{column}</th>' for column in ("Verdict", "Claim", "Measured"))
    return f'<div class="ledger"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
