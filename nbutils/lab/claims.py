"""Claims that are fixed before their results, and verdicts that are computed from them."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pybtex.database as bibtex
from pybtex.exceptions import PybtexError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nbutils.lab.parameters import OF_MACHINE, Parameters, resolve
from nbutils.lab.results import LIMITS, Held, Result, address, counting, detectable, published
from nbutils.machine import ROOT
from nbutils.messages import DECIMAL, check_choice, counted, did_you_mean, first_fault, read_project_file, read_text

MARKS = {"held": "✓", "undecided": "?", "not held": "✗", "at the floor": "⌊", "control failed": "⊘",
         "not comparable": "–", "not run": "·", "not tested": "○"}
LEAST_LEARNED = 0.05  # what the training of an encoder must add to the accuracy of a probe on it
MOST_EPS = {"L_inf": 1, "L2": math.inf}
TOLERANCE = 0.03  # a published value is met if no part of our 90 % interval lies further away


def _written(pattern: str, words: str) -> BeforeValidator:
    """Takes text as people write it alone: 1_0 is no 10, 0500 no 500, and 20261121 no day."""
    def check(value: Any) -> Any:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r}: expected {words}")
        return value

    return BeforeValidator(check)


def _threat(words: str) -> str:
    """Threat models, each once, in the words in which runs record them: `str(ThreatModel(...))`, made without torch."""
    found = words.split(", ") if words else []
    for word in found:
        norm, _, eps = word.partition(" ")
        decimal = re.fullmatch(DECIMAL, eps) and f"{float(eps):.4g}" == eps and 0 < float(eps) <= MOST_EPS.get(norm, 0)
        levels = norm in MOST_EPS and re.fullmatch("([1-9]|[12][0-9]|3[0-2])/255", eps)
        if not (word == "unbounded" or decimal or levels) or found.count(word) > 1:
            raise ValueError(f"{word!r}: expected words in which a run records its threat, such as L_inf 8/255, L2 0.5 "
                             "or unbounded, each once")
    return words


def _past(day: date) -> date:
    if day > datetime.now(UTC).date() + timedelta(days=1):  # it may be tomorrow elsewhere
        raise ValueError(f"{day}: is yet to come; expected a day that has been")
    return day


_decimal = _written(rf"-?(?!0[0-9]){DECIMAL}", "a plain decimal number")
Number = Annotated[float, _decimal]
Count = Annotated[int, _decimal]
Day = Annotated[date, _written("[0-9]{4}(-[0-9]{2}){2}", "a day such as 2026-11-21"), AfterValidator(_past)]


class Criterion(BaseModel):
    """The claim holds if the whole 95 % interval lies on the named side of the bound, and fails if it
    lies on the other side; in between it is undecided. Bounds are shares or differences of shares, not percent.

    Within a bound it holds if the 90 % interval lies between the bound and its negative: two one-sided tests at 5 %
    (Schuirmann 1987)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    above: Number | None = None
    below: Number | None = None
    within: Annotated[Number | None, Field(gt=0)] = None

    @model_validator(mode="before")
    @classmethod
    def _one_bound(cls, given: Any) -> Any:
        if not isinstance(given, dict) or len(given) != 1:  # {above: 0,8} has two, 'above' and '8'
            raise ValueError("a criterion has exactly one of 'above', 'below' and 'within', such as {above: 0.8}")
        return given

    @property
    def region(self) -> tuple[float, float]:
        """Between which bounds the claim holds."""
        ((side, bound),) = self.model_dump(exclude_none=True).items()
        return {"above": (bound, math.inf), "below": (-math.inf, bound), "within": (-bound, bound)}[side]

    def decides(self, unit: str) -> bool:
        """Whether some values of this unit meet it and others do not: 80 for 80 % is none that a share can reach."""
        (least, most), (low, high) = self.region, LIMITS[unit]
        return least < high and most > low and (least >= low or most <= high)

    def judge(self, result: Result) -> Held:
        """Where the interval of a result stands; without one nothing is decided."""
        least, most = self.region
        inner, outer = result.limits(0.9 if self.within else 0.95), result.limits()
        if inner and least < inner[0] and inner[1] < most:
            return "held"
        return "not held" if outer and (outer[1] <= least or outer[0] >= most) else "undecided"

    def __str__(self) -> str:
        ((side, bound),) = self.model_dump(exclude_none=True).items()
        return f"the whole {90 if self.within else 95} % interval lies {side} {bound:g}{' of 0' if self.within else ''}"


class Change(BaseModel):
    """What a claim said before, when that ended, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    until: Day
    reason: str = Field(min_length=10)
    was: dict[str, Any]


def _setting(given: dict[str, Any]) -> dict[str, Any]:
    """The parameters in the form in which a run records them."""
    if given.get("dataset", "planted") == "planted":
        raise ValueError("expected the dataset of the paper among them")
    for name in given:
        if name not in Parameters.model_fields or name in OF_MACHINE:
            raise ValueError(f"parameter {name!r}: no chapter has it, or it is the machine's"
                             f"{did_you_mean(name, Parameters.model_fields.keys() - OF_MACHINE)}")
    parameters = resolve({"profile": "quick", **given}, Parameters.model_fields)
    return {name: getattr(parameters, name) for name in given}


class Claim(BaseModel):
    """One statement that a chapter will judge. See book/claims.yml for the meaning of each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    chapter: str
    role: Literal["paper", "control", "sanity"]
    paper: str
    place: str
    paraphrase: str = Field(min_length=20)
    published: str = ""
    statistic: str = Field(min_length=1)
    measures: str = Field(min_length=10)
    criterion: Criterion
    least_n: Count = Field(ge=1)
    least_seeds: Count = Field(ge=2, le=100)  # the most that a run has
    seen: str
    threat: Annotated[str, AfterValidator(_threat)] = ""
    gates: dict[str, Criterion] = {}
    arms: tuple[str, ...] = ()
    bound: Literal["", "upper"] = ""
    classes: Count | None = Field(None, ge=2)
    planted: bool = False
    setting: Annotated[dict[str, Any], AfterValidator(_setting)] = Field({}, min_length=1)
    value: tuple[dict[str, str], ...] = Field((), min_length=1, max_length=2)
    fixed: Day
    history: tuple[Change, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Claim:
        known = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
        check_choice("chapter", self.chapter, sorted(known) or [self.chapter])  # a wheel has none
        paper_name(self.paper)
        if self.statistic in self.gates:
            raise ValueError(f"gates: {self.statistic} is the statistic itself; expected results beside it")
        for field in (field for change in self.history for field in change.was.keys() - Claim.model_fields.keys()):
            raise ValueError(f"history: was {field!r}: no claim has it{did_you_mean(field, Claim.model_fields)}")
        if bool(self.published) == bool(self.value):
            raise ValueError("a claim has exactly one of 'published', in words, and 'value', a place in book/published")
        if self.value and not self.setting:
            raise ValueError("'value' needs a 'setting': the parameters of a run that may be held against it")
        _ = self.published_value  # not exactly one number there
        return self

    @property
    def published_value(self) -> float | None:
        """What the paper printed, as a share, a difference of shares or a ratio; None where no number is named."""
        if not self.value:
            return None
        printed = [published(self.paper, **where) for where in self.value]
        shares = [each.number for each in printed]
        return round(shares[0] - sum(shares[1:]), 6)

    @property
    def printed(self) -> str:
        """What the paper printed, in words."""
        return self.published or " minus ".join(str(published(self.paper, **where)) for where in self.value)

    def fits(self, parameters: Mapping[str, Any]) -> bool:
        """Whether a run with these parameters was made in the claim's setting: with names equal, and numbers as
        large or larger. A claim without a setting takes any run."""
        return all((parameters.get(name) or 0) >= wanted if isinstance(wanted, int) else parameters.get(name) == wanted
                   for name, wanted in self.setting.items())


@dataclass(frozen=True)
class Verdict:
    """A claim, the result it was held against, how it came out, and that in the words that its data allow."""

    claim: Claim
    result: Result
    held: Held
    words: str

    @property
    def margin(self) -> str:
        """Which gap between truth and bound a run like this one would find; empty where the result has no spread."""
        if len(self.result.values) < 2 or not (limits := self.result.limits()) or math.isnan(self.result.value):
            return ""
        shown = replace(self.result, unit="points") if self.result.unit == "share" else self.result
        gap = detectable(len(self.result.values)) * max(abs(end - self.result.value) for end in limits)
        return (f"With {counted(len(self.result.values), 'seed')} and this spread a gap of {shown.written(gap)} "
                "would be found with 80 % power.")

    def _repr_html_(self) -> str:
        attack = "" if self.result.attack == "none" else f"Attack: {html.escape(self.result.attack)}."
        return (f'<div class="verdict verdict-{self.held.replace(" ", "-")}" id="claim-{self.claim.id}">'
                f'<p><strong>{MARKS[self.held]} {html.escape(self.words)}</strong> '
                f'<span class="claim-id">{self.claim.id}</span></p><p>{html.escape(self.claim.paraphrase)}</p>'
                f'<p>Measured: {html.escape(self.claim.measures)} '
                f'{address(self.result.id, html.escape(str(self.result)))} '
                f'({counted(len(self.result.values), "seed")}, n = {self.result.n} each). '
                f'{self.margin} {attack} Published: {html.escape(self.claim.printed)} '
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
    for entry in read_project_file(path, list[dict[str, Any]]):
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            raise ValueError(f"{path.name}, claim {entry.get('id', '?')!r}: {first_fault(error)}") from None
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
def papers(path: Path = ROOT / "book" / "references.bib") -> dict[str, str]:
    """Key -> how the text names this paper, for example "Kim et al. 2021".

    Raises:
        ValueError: the file cannot be read, is no bibliography, or has an entry without author and year; in one line.
    """
    found = {}
    try:
        for key, entry in bibtex.parse_string(read_text(path), "bibtex").entries.items():
            names = [" ".join(person.last_names) for person in entry.persons.get("author", [])]
            if not names or "year" not in entry.fields:
                raise ValueError(f"{path}: entry {key!r}: expected an author and a year")
            found[key] = f"{' and '.join(names) if len(names) < 3 else f'{names[0]} et al.'} {entry.fields['year']}"
    except PybtexError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    return found


def paper_name(key: str) -> str:
    """How the text names the paper with this key in book/references.bib; raises ValueError where there is none."""
    if key not in papers():
        raise ValueError(f"paper {key!r}: not in book/references.bib{did_you_mean(key, papers())}")
    return papers()[key]


def has_learned(result: Result) -> bool:
    """Whether an encoder counts, from the accuracy of a probe on it minus that before its training."""
    return Criterion(above=LEAST_LEARNED).judge(result) == "held"


def judge(claim: Claim, result: Result, parameters: Mapping[str, Any], beside: Iterable[Result] = (),
          classes: int | None = None) -> Verdict:
    """Hold a result against a claim, by the claim's own criterion.

    Args:
        parameters: those of the run that measured it. beside: the results of this run: the claim's gates and arms.
        classes: how many its images have; None where an older record does not say.
    """
    found = {other.id: other for other in beside}
    if obstacle := _obstacle(claim, result, parameters, found, classes):
        return Verdict(claim, result, "not comparable", f"not comparable ({obstacle})")
    failed = [f"{id}: {found[id]}, needed: {gate}" for id, gate in claim.gates.items()
              if gate.judge(found[id]) != "held"]
    if failed:
        return Verdict(claim, result, "control failed", f"control failed ({'; '.join(failed)})")
    arms = [found[id] for id in claim.arms if id in found]  # older records may lack some
    for end, name in ((0, "0"), (1, "100")):
        if arms and all(abs(arm.value - end) <= counting(arm.value, arm.n * len(arm.values)) for arm in arms):
            return Verdict(claim, result, "at the floor", f"at the floor (all that is compared is at {name} %)")
    held = claim.criterion.judge(result)
    return Verdict(claim, result, held, _words(claim, held, result, parameters.get("dataset") == "planted"))


def _obstacle(claim: Claim, result: Result, parameters: Mapping[str, Any], found: Mapping[str, Result],
              classes: int | None) -> str | None:
    """Why this result cannot be held against the claim; None where it can. found: the run's results by their ids."""
    if not claim.fits(parameters):
        return "measured outside the paper's setting"
    if classes and claim.classes and classes != claim.classes:
        return f"{classes} classes, the bound is for {claim.classes}"
    if len(result.values) < claim.least_seeds:
        return f"{counted(len(result.values), 'seed')}, the claim asks for {claim.least_seeds}"
    if result.n < claim.least_n:
        return f"n = {result.n}, the claim asks for {claim.least_n}"
    if claim.threat and result.threat != claim.threat:
        return f"measured under {result.threat}, the claim is about {claim.threat}"
    if math.isnan(result.value):
        return "the result is undefined"
    if absent := [id for id in claim.gates if id not in found]:
        return f"{', '.join(absent)}: not measured"
    for criterion, held in ((claim.criterion, result), *((gate, found[id]) for id, gate in claim.gates.items())):
        if not criterion.decides(held.unit):
            return f"{held.id} is of unit {held.unit}, so that all or none meet: {criterion}"
    return None


def _words(claim: Claim, held: Held, result: Result, planted: bool) -> str:
    """The verdict in the words that its data allow: a planted world can only show that a known truth is found.

    A published value is reproduced if the whole 90 % interval lies within TOLERANCE of it: two one-sided tests.
    """
    if held == "held" and claim.bound == "upper":
        return "not refuted: the statistic is an upper bound, and no attack has brought it below the criterion"
    if (value := claim.published_value) is not None:
        low, high = result.limits(0.9) or (-math.inf, math.inf)
        met = value - TOLERANCE <= low and high <= value + TOLERANCE
        return {"held": "reproduced" if met else "partly reproduced", "not held": "not reproduced"}.get(held, held)
    if not planted:
        return f"direction {held}"
    if not claim.planted:
        return f"{held} in the planted world"
    return f"recovers the known truth: {({'held': 'yes', 'not held': 'no'}).get(held, held)}"
