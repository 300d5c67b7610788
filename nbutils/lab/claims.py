"""Claims that are fixed before their results, and verdicts that are computed from them."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pybtex.database as bibtex
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nbutils.lab.results import Result, address
from nbutils.lab.store import ROOT
from nbutils.messages import did_you_mean

Held = Literal["held", "not held", "undecided", "not comparable"]
MARKS = {"held": "✓", "not held": "✗", "undecided": "?", "not comparable": "–", "not run": "·"}


class Criterion(BaseModel):
    """The claim holds if the whole 95 % interval lies on the named side of the bound, and fails if it
    lies on the other side; in between it is undecided. Bounds are shares or differences of shares, not percent."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Criterion:
        if (self.above is None) == (self.below is None):
            raise ValueError("a criterion has exactly one of 'above' and 'below'")
        return self

    def judge(self, low: float, high: float) -> Held:
        """Where the interval [low, high] stands."""
        if self.above is not None:
            return "held" if low > self.above else "not held" if high <= self.above else "undecided"
        assert self.below is not None
        return "held" if high < self.below else "not held" if low >= self.below else "undecided"

    def __str__(self) -> str:
        side, bound = ("above", self.above) if self.above is not None else ("below", self.below)
        return f"the whole 95 % interval lies {side} {bound:g}"


class Change(BaseModel):
    """What a claim said before, when that ended, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    until: date
    reason: str = Field(min_length=10)
    was: dict[str, Any]


class Claim(BaseModel):
    """One statement that a chapter will judge. See book/claims.yml for the meaning of each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    chapter: str
    paper: str
    place: str
    paraphrase: str = Field(min_length=20)
    published: str
    statistic: str
    measures: str = Field(min_length=10)
    criterion: Criterion
    least_n: int = Field(ge=1)
    least_seeds: int = Field(ge=1)
    seen: str
    threat: str = ""
    bound: Literal["", "upper"] = ""
    planted: bool = False
    fixed: date
    history: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim, the result it was held against, and how it came out."""

    claim: Claim
    result: Result
    held: Held
    reason: str = ""

    @property
    def words(self) -> str:
        """The verdict in the words that its data allow: a planted world can only show that a known truth is found."""
        if self.held == "not comparable":
            return f"not comparable ({self.reason})"
        if self.held == "held" and self.claim.bound == "upper":
            return "not refuted: the statistic is an upper bound, and no attack has brought it below the criterion"
        if not re.match("planted($|, | under )", self.result.data):
            return f"direction {self.held}"
        if not self.claim.planted:
            return f"{self.held} in the planted world"
        answer = {"held": "yes", "not held": "no"}.get(self.held, self.held)
        return f"recovers the known truth: {answer}"

    def _repr_html_(self) -> str:
        attack = "" if self.result.attack == "none" else f"Attack: {html.escape(self.result.attack)}."
        return (f'<div class="verdict verdict-{self.held.replace(" ", "-")}" id="claim-{self.claim.id}">'
                f'<p><strong>{MARKS[self.held]} {self.words}</strong> '
                f'<span class="claim-id">{self.claim.id}</span></p><p>{self.claim.paraphrase}</p>'
                f'<p>Measured: {self.claim.measures} {address(self.result.id, html.escape(str(self.result)))} '
                f'({len(self.result.values)} seed{"s" * (len(self.result.values) > 1)}, n = {self.result.n} each). '
                f'{attack} Published: {html.escape(self.claim.published)} '
                f'({html.escape(paper_name(self.claim.paper))}, {html.escape(self.claim.place)}). '
                f'Criterion, fixed {self.claim.fixed}: {self.claim.criterion}.</p></div>')

    def __repr__(self) -> str:
        return f"{self.claim.id}: {self.words}; {self.result}; {self.claim.criterion}"


@dataclass(frozen=True)
class Verdicts:
    """Several verdicts, shown one below the other."""

    verdicts: tuple[Verdict, ...]

    def _repr_html_(self) -> str:
        return "".join(verdict._repr_html_() for verdict in self.verdicts)

    def __repr__(self) -> str:
        return "\n".join(repr(verdict) for verdict in self.verdicts)


@cache
def load(path: Path = ROOT / "book" / "claims.yml") -> dict[str, Claim]:
    """All claims by id.

    Raises:
        ValueError: the file does not fit the schema, or an id stands twice (the claim is named).
    """
    claims: dict[str, Claim] = {}
    for entry in yaml.safe_load(path.read_text()):
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            name = entry.get("id", "?") if isinstance(entry, dict) else entry
            raise ValueError(f"{path.name}, claim {name!r}, {where or 'criterion'}: {first['msg']}") from None
        if claim.id in claims:
            raise ValueError(f"{path.name}: claim {claim.id!r} stands twice")
        claims[claim.id] = claim
    return claims


def find(id: str) -> Claim:
    """The claim with this id.

    Raises:
        ValueError: unknown id (the nearest is suggested).
    """
    claims = load()
    if id not in claims:
        raise ValueError(f"claim {id!r}: not in book/claims.yml{did_you_mean(id, claims)}")
    return claims[id]


@cache
def paper_name(key: str) -> str:
    """How the text names a paper, for example "Kim et al. 2021", from its key in book/references.bib.

    Raises:
        ValueError: unknown key.
    """
    papers = bibtex.parse_file(str(ROOT / "book" / "references.bib")).entries
    if key not in papers:
        raise ValueError(f"paper {key!r}: not in book/references.bib{did_you_mean(key, papers)}")
    names = [" ".join(person.last_names) for person in papers[key].persons["author"]]
    return f"{' and '.join(names) if len(names) < 3 else f'{names[0]} et al.'} {papers[key].fields['year']}"


def judge(claim: Claim, result: Result) -> Verdict:
    """Hold a result against a claim, by the claim's own criterion."""
    if len(result.values) < claim.least_seeds:
        found = len(result.values)
        few = f"{found} seed{'s' * (found > 1)}, the claim asks for {claim.least_seeds}"
        return Verdict(claim, result, "not comparable", few)
    if result.n < claim.least_n:
        return Verdict(claim, result, "not comparable", f"n = {result.n}, the claim asks for {claim.least_n}")
    if claim.threat and result.threat != claim.threat:
        reason = f"measured under {result.threat}, the claim is about {claim.threat}"
        return Verdict(claim, result, "not comparable", reason)
    if result.low is None or result.high is None:
        return Verdict(claim, result, "not comparable", "the result has no interval")
    return Verdict(claim, result, claim.criterion.judge(result.low, result.high))
