"""One form for every number that the book shows, with the two kinds of interval, kept apart.

*this model*: a share counted on n images by one trained model; Wilson score interval.
*this method*: the mean over independent seeds (initialisation, data order, data draw, attack start); Student t, and for
a share no narrower than counting its images makes it.
"""

from __future__ import annotations

import hashlib
import html
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import (
    AliasPath,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from nbutils.lab import student
from nbutils.lab.parameters import short
from nbutils.machine import ROOT
from nbutils.messages import check_choice, did_you_mean, first_fault, read_project_file, read_text, short_repr

if TYPE_CHECKING:  # only their types are needed: records are read where there is no torch, and no pandas
    import pandas as pd
    from torch import Tensor

    from nbutils.robustness.evaluate import Outcome

SCHEMA = 1
MIME = "application/vnd.nbutils.record"  # of a record inside an executed notebook
MOST = {"seeds": 100_000, "first_seed": 1_000_000_000}  # of a record
NUMBERS = (int, float, np.number)
Held = Literal["held", "not held", "undecided", "at the floor", "control failed", "not comparable"]
LIMITS = {"share": (0, 1), "points": (-2, 2), "correlation": (-1, 1), "number": (-math.inf, math.inf)}  # of each unit
MINUS = "\N{MINUS SIGN}"
THIS_MODEL, THIS_METHOD, NO_INTERVAL = "this model", "this method", "none"


def wilson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a share k / n (Wilson 1927).

    Raises:
        ValueError: n below 1, k outside 0 to n, or a confidence outside of [0, 1).
    """
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"k = {k}, n = {n}: expected 0 <= k <= n and n >= 1")
    z, share = student.normal(confidence), k / n
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = ((middle + side * half) / (1 + z * z / n) for side in (-1, 1))
    return low if k else 0.0, high if k < n else 1.0


def student_t(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval for the mean of independent values, with len(values) - 1 degrees of freedom.

    Raises:
        ValueError: fewer than two values, or a confidence outside of [0, 1).
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} value(s): a spread over seeds needs at least 2")
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    half = student.half_width(confidence, len(values) - 1) * error
    return mean - half, mean + half


def counting(value: float, images: int, confidence: float = 0.95) -> float:
    """Half the width that counting so many images gives a share; 0 where their number is not known.

    The normal interval, with two more images of each kind in the share (Agresti and Coull 1998), so that 0 and 1 have a
    width too. For a difference of shares its size stands for the share of images on which the two sides differ. That is
    the least it can be, so the true error is as large or larger.
    """
    share = (min(abs(value), 1.0) * images + 2) / (images + 4)
    error = math.sqrt(share * (1 - share) / images) if images else 0.0
    return student.normal(confidence) * error


@cache
def detectable(seeds: int, power: float = 0.8) -> float:
    """How far from a bound a mean must lie to be told from it with this power, in half widths of its 95 % interval.

    Student's t of a mean away from the bound follows the noncentral t distribution.

    Raises:
        ValueError: fewer than two seeds, or a power outside of [0, 1).
    """
    student.probability("power", power)
    least = student.half_width(0.95, seeds - 1)
    return student.root(lambda shift: student.power(least, shift, seeds - 1) - power, 0, 2 * least) / least


def mcnemar(a: Tensor, b: Tensor) -> float:
    """Exact two-sided p value that two classifiers are right equally often, on the same images (McNemar 1947).

    Args:
        a, b: (N,) bool, right or wrong per image.

    Raises:
        ValueError: different shapes; what is no bool, as predictions are not.
    """
    if not all(str(side.dtype).endswith("bool") for side in (a, b)):
        raise ValueError(f"{a.dtype} and {b.dtype}: expected bool, right or wrong for each image, as `outcome.correct`")
    if a.shape != b.shape:
        raise ValueError(f"{tuple(a.shape)} and {tuple(b.shape)} images: expected the same images")
    from scipy import stats  # here, as below: only who runs a chapter has it

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def rank_correlation(a: Sequence[float], b: Sequence[float],
                     groups: Sequence[object] | None = None) -> tuple[float, float]:
    """Spearman's rank correlation, and its exact p value: the share of all orders of b with one at least as large.

    Equal values share the mean of their ranks. Where all values of a or of b are equal nothing can be ranked: 0 and
    p = 1. With n pairs p is at least 1 / n!.

    Args:
        groups: of each pair, families of networks for example. Ranks, less their mean, and orders are then those
            within each group, so that what sets the groups apart adds nothing.

    Raises:
        ValueError: lists of different lengths, other than 2 to 9 pairs, for which n! orders can be gone through, or
            what is no finite number.
    """
    if unranked := [value for value in (*a, *b) if not isinstance(value, NUMBERS) or not math.isfinite(value)]:
        raise ValueError(f"value {short_repr(unranked[0])}: expected finite numbers, which have ranks")
    groups = [None] * len(a) if groups is None else groups
    if not len(a) == len(b) == len(groups) or not 2 <= len(a) <= 9:
        raise ValueError(f"{len(a)} and {len(b)} values, groups of {len(groups)}: expected 2 to 9 pairs")
    from scipy import stats

    members = [[i for i, own in enumerate(groups) if own == group] for group in dict.fromkeys(groups)]
    x, y = ([stats.rankdata([values[i] for i in each]) - (len(each) + 1) / 2 for each in members] for values in (a, b))
    length = math.sqrt(sum(u @ u for u in x) * sum(v @ v for v in y))
    if length == 0:
        return 0.0, 1.0
    orders = reduce(np.add.outer, [np.array(list(itertools.permutations(v))) @ u for u, v in zip(x, y, strict=True)])
    found = sum(float(u @ v) for u, v in zip(x, y, strict=True))
    return found / length, float((orders >= found - 1e-9).mean())  # ranks are halves: smaller gaps are rounding


@dataclass(frozen=True)
class Result:
    """One number and everything needed to judge it.

    Attributes:
        id: its address, "<chapter's words>.<what>"; claims name it.
        what: the quantity in words. unit: "share" (in [0, 1], shown in %), "points" (a difference of shares, shown
            in percentage points), "correlation" or "number".
        value: estimate, the mean of values. values: one estimate per seed.
        n: images per seed. k: images counted, for a single model.
        model, data, threat, attack: in words; "none" where there is no attack.
        norms: median L2 and L_inf norm of the perturbations that broke an image that needed one (mean over seeds),
            in pixel units; for unbounded attacks, whose accuracy says nothing without them.
        inputs: keys of the artifacts and fingerprints of the data behind it.
        seconds: computing time of the evaluation. profile, device: where it was measured.

    Raises:
        ValueError: an unknown unit, values outside of its limits, a value that is not their mean, or k of n images that
            cannot be counted.
    """

    id: str
    what: str
    unit: str
    value: float
    values: Annotated[tuple[float, ...], Field(min_length=1)]
    n: int
    k: int | None = None
    model: str = "none"
    data: str = "none"
    threat: str = "none"
    attack: str = "none"
    norms: tuple[float, float] | None = None
    inputs: tuple[str, ...] = ()
    seconds: float = 0.0
    profile: str = ""
    device: str = ""

    def __post_init__(self) -> None:
        low, high = LIMITS[check_choice("unit", self.unit, LIMITS)]
        for value in self.values:
            if not (math.isnan(value) or low - 1e-6 <= value <= high + 1e-6):  # rounding in float32
                raise ValueError(f"{self.id}: {value:g}; expected a {self.unit} from {low} to {high}")
        mean = float(np.mean(self.values))
        if not (self.value == mean or abs(self.value - mean) <= 1e-9 * abs(mean) or math.isnan(self.value + mean)):
            raise ValueError(f"{self.id}: value {self.value:g}; expected the mean of its values, {mean:g}")
        if self.n < 0 or not 0 <= (self.k or 0) <= self.n:
            raise ValueError(f"{self.id}: k = {self.k}, n = {self.n}; expected 0 <= k <= n")

    @classmethod
    def of(cls, id: str, what: str, measured: Sequence[Outcome] | Sequence[float], *, unit: str = "share",
           n: int = 0, **context: Any) -> Result:
        """A result from one entry per seed: outcomes (their accuracy), or values that you have computed.

        Args:
            n: images per seed behind bare values. context: further attributes of `Result`.

        Raises:
            ValueError: nothing measured, or outcomes that do not belong together.
        """
        if not measured:
            raise ValueError(f"{id}: nothing was measured; expected one entry per seed")
        outcomes = [entry for entry in measured if not isinstance(entry, NUMBERS)]
        values = tuple(float(entry) for entry in measured if isinstance(entry, NUMBERS))
        if outcomes and values:
            raise ValueError(f"{id}: {len(outcomes)} outcomes and {len(values)} bare values: expected one kind")
        k = None
        if outcomes:
            for shared in ("attack", "threat", "model", "data"):
                found = {getattr(outcome, shared) for outcome in outcomes}
                if len(found) > 1:
                    raise ValueError(f"{id}: outcomes of different {shared} {sorted(found)}: expected one")
                context[shared] = found.pop()
            twice = [one for n, one in enumerate(outcomes) if one.key and (one.key, one.inputs) in [
                (other.key, other.inputs) for other in outcomes[:n]]]
            if twice:
                raise ValueError(f"{id}: {twice[0].model!r} on one and the same images stands twice; expected another "
                                 "network, or other images, for each seed")
            context |= {"inputs": tuple(key for outcome in outcomes for key in outcome.inputs),
                        "seconds": sum(outcome.seconds for outcome in outcomes),
                        "norms": median_norms(outcomes) if context["threat"] == "unbounded" else None}
            n = min(map(len, outcomes))
            k = int(outcomes[0].correct.sum()) if len(outcomes) == 1 and n else None
            values = tuple(outcome.accuracy for outcome in outcomes)
        return cls(id, what, unit, float(np.mean(values)), values, n, k, **context)

    @property
    def interval(self) -> str:
        """Which kind of interval it has: "this model", "this method" or "none"."""
        return THIS_METHOD if len(self.values) > 1 else NO_INTERVAL if self.k is None else THIS_MODEL

    def limits(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """The interval of this confidence: Wilson's for one model, Student's t over seeds, None for one bare value.

        Correlations are taken to Fisher's z first. Shares and points have an error of counting beside that of seeds.
        Where each seed drew its own images, the spread over seeds holds it already, but a few seeds may agree by luck:
        the interval is no narrower than counting alone makes it. Where seeds share their images (there are fewer
        fingerprints of data than seeds), the spread leaves it out, and the two variances add.
        """
        if len(self.values) == 1:
            return None if self.k is None else wilson(self.k, self.n, confidence)
        if self.unit == "correlation":
            low, high = student_t(np.arctanh(np.clip(self.values, -0.995, 0.995)), confidence)
            return math.tanh(low), math.tanh(high)
        low, high = student_t(self.values, confidence)
        if self.unit not in ("share", "points"):
            return low, high
        half, seeds = (high - low) / 2, len(self.values)
        if 0 < len({key for key in self.inputs if "-" not in key}) < seeds:  # keys of artifacts have a dash
            half = math.hypot(half, counting(self.value, self.n, confidence))
        else:
            half = max(half, counting(self.value, seeds * self.n, confidence))
        low, high = self.value - half, self.value + half
        return (max(low, 0.0), min(high, 1.0)) if self.unit == "share" else (low, high)

    def written(self, *numbers: float) -> str:
        """A number in this unit as text; two numbers as an interval."""
        scale, digits, tail = {"share": (100, 1, " %"), "points": (100, 1, " points")}.get(self.unit, (1, 3, ""))
        text = ", ".join(f"{scale * number:.{digits}f}" for number in numbers)
        return (f"[{text}]" if len(numbers) > 1 else text + tail).replace("-", MINUS)

    @property
    def parts(self) -> tuple[str, ...]:
        """The estimate, its interval and the norms of an unbounded attack as text; the last two where there are any.
        A share of no images at all, NaN, is "undefined"."""
        if math.isnan(self.value):
            return ("undefined",)
        parts = [self.written(self.value)]
        if limits := self.limits():
            parts.append(self.written(*limits))
        if self.norms is not None:
            parts += [f"median L2 {self.norms[0]:.2f}", f"median L_inf {self.norms[1]:.3f}"]
        return tuple(parts)

    def __str__(self) -> str:
        return " ".join(self.parts)


def newcombe(a: Result, b: Result) -> tuple[float, float] | None:
    """How far the 95 % interval of a - b reaches below and above it, of independent results; None where one has none.

    Their intervals are put together (Newcombe 1998, method 10; for any two estimates Zou and Donner 2008).
    """
    first, second = a.limits(), b.limits()
    if first is None or second is None:
        return None
    return (math.hypot(a.value - first[0], second[1] - b.value), math.hypot(first[1] - a.value, b.value - second[0]))


def median_norms(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Mean over outcomes of the median L2 and L_inf norm of the images that were moved and broken; 0 if none was."""
    medians = []
    for outcome in outcomes:
        broken = ~outcome.correct & (outcome.l2 > 0)
        if broken.any():
            medians.append((outcome.l2[broken].median().item(), outcome.linf[broken].median().item()))
    l2, linf = np.mean(medians, axis=0).tolist() if medians else (0.0, 0.0)
    return l2, linf


class Published(BaseModel):
    """A number printed by others: a row of book/published. certainty: "inferred" from damaged text, for example."""

    model_config = ConfigDict(frozen=True)
    table: str
    dataset: str
    model: str
    method: str
    attack: str
    quantity: str
    value: FiniteFloat
    unit: Literal["percent", "ratio", "count", "1"]
    certainty: Literal["certain", "inferred", "unknown"]

    @property
    def number(self) -> float:
        """The value in our units: a share where percent were printed."""
        return self.value / (100 if self.unit == "percent" else 1)

    @property
    def parts(self) -> tuple[str, ...]:
        """The value and its place as text."""
        doubt = "" if self.certainty == "certain" else f", {self.certainty}"
        return f"{self.value:g}{' %' if self.unit == 'percent' else ''}", f"({self.table}{doubt})"

    def __str__(self) -> str:
        return " ".join(self.parts)


@cache
def printed(paper: str) -> list[Published]:
    """The rows of book/published/<paper>.csv.

    Raises:
        ValueError: unknown paper, or a damaged file.
    """
    papers = {path.stem: path for path in sorted((ROOT / "book" / "published").glob("*.csv"))}
    return read_project_file(papers[check_choice("paper", paper, papers)], list[Published])


def published(paper: str, *cells: str, **where: str) -> Published:
    """The one published number that fits, from book/published/<paper>.csv.

    Args:
        paper: for example "kim2021". cells: what else stands in its row, for example "Table 1", "VGG-16".
        where: the same with columns, for example table="Table 1", model="VGG-16".

    Raises:
        ValueError: unknown paper, cell or column, or not exactly one number fits.
    """
    rows = [(number, number.model_dump(exclude={"value"})) for number in printed(paper)]
    columns = rows[0][1].keys()
    if unknown := sorted(where.keys() - columns):
        raise ValueError(f"{', '.join(unknown)}: expected columns among {', '.join(columns)}")
    words = {word for _, row in rows for word in row.values()}
    for cell in cells:
        if cell not in words:
            raise ValueError(f"{paper} {cell!r}: in no row of its published numbers{did_you_mean(cell, words)}")
    found = [(number, row) for number, row in rows if {*cells} <= {*row.values()} and where.items() <= row.items()]
    if len(found) != 1:
        asked = ", ".join([*cells, *(f"{column} = {value}" for column, value in where.items())])
        differ = [column for column in columns if len({row[column] for _, row in found}) > 1]
        hint = f"; they differ in {', '.join(differ)}" if differ else ""
        raise ValueError(f"{paper} {asked}: {len(found)} published numbers fit, expected exactly one{hint}")
    return found[0][0]


def kim(table: str, network: str, method: str, attack: str, quantity: str = "accuracy, all features") -> Published:
    """What Kim et al. (2021) print on CIFAR-10.

    Args:
        network: in their words, see `architectures.original`. method: one of `training.DEFENCES`; a K at its end is no
            part of their word. attack: "clean" for none.

    Raises:
        ValueError: see `published`.
    """
    return published("kim2021", table, "CIFAR-10", network, method.removesuffix("-K"), quantity=quantity,
                     attack="none" if attack == "clean" else attack)


def intervals(results: Sequence[Result]) -> list[str]:
    """What kinds of interval these results have, over how many seeds and images; one line for each kind."""
    lines = []
    for interval, words in ((THIS_METHOD, "mean over {seeds} seeds, 95 % Student t interval (this method)"),
                            (THIS_MODEL, "one model; 95 % Wilson interval over its images (this model)"),
                            (NO_INTERVAL, "one model, without an interval")):
        group = [result for result in results if result.interval == interval]
        if group:
            seeds = "/".join(sorted({str(len(result.values)) for result in group}))
            images = "/".join(str(n) for n in sorted({result.n for result in group if result.n}))
            lines.append(words.format(seeds=seeds) + (f"; n = {images} images per seed" if images else ""))
    return lines


@dataclass(frozen=True)
class Table:
    """Results in rows and columns, with a note that says what each number needs to be read.

    Attributes:
        rows: row label -> column label -> Result, Published or text.
        caption: one sentence above the table.
        stamp: profile and device, shown with the note.
    """

    rows: Mapping[str, Mapping[str, Result | Published | str]]
    caption: str
    stamp: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Labels of all columns, in the order in which rows first name them."""
        return tuple(dict.fromkeys(column for cells in self.rows.values() for column in cells))

    @property
    def frame(self) -> pd.DataFrame:
        """The table as text."""
        import pandas as pd  # here: only who runs a chapter has it

        return pd.DataFrame([[str(cells.get(column, "")) for column in self.columns] for cells in self.rows.values()],
                            index=list(self.rows), columns=list(self.columns))

    def notes(self) -> list[str]:
        """How to read the numbers: interval, n, seeds, and every attack with its threat model."""
        results = [cell for cells in self.rows.values() for cell in cells.values() if isinstance(cell, Result)]
        lines = intervals(results) if self.rows else ["no row: there is nothing here that could be shown"]
        lines += self._attacks()
        if self.stamp:
            lines.append(self.stamp)
        return lines

    def _attacks(self) -> list[str]:
        """The attacks behind each column; behind each row, where only rows keep to one attack each."""
        sides = []
        for groups in ({column: [row.get(column) for row in self.rows.values()] for column in self.columns},
                       {label: row.values() for label, row in self.rows.items()}):
            attacks = {label: {f"{cell.attack}{f', n = {cell.n}' * bool(cell.n)}": None for cell in cells
                               if isinstance(cell, Result) and cell.attack != "none"}
                       for label, cells in groups.items()}
            sides.append({label: names for label, names in attacks.items() if names})
        fewest = min(sides, key=lambda side: sum(len(names) > 1 for names in side.values()))
        return [f"{label}: {'; '.join(names)}" for label, names in fewest.items()]

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes())
        head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in self.columns)
        body = "".join(f'<tr><th scope="row">{html.escape(label)}</th>'
                       + "".join(f"<td>{_cell(cells.get(column, ''))}</td>" for column in self.columns) + "</tr>"
                       for label, cells in self.rows.items())
        return (f'<div class="result-table mathjax_ignore"><table><caption>{html.escape(self.caption)}</caption>'
                f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
                f'<ul class="table-notes">{notes}</ul></div>')

    def __repr__(self) -> str:
        return "\n".join([self.caption, self.frame.to_string(), *self.notes()])


def _cell(content: Result | Published | str) -> str:
    """One table cell: the number, and below it its interval and norms, or its place."""
    if isinstance(content, str):
        return f'<span class="place">{html.escape(content)}</span>' if content else ""
    value, *small = (html.escape(part) for part in content.parts)
    if isinstance(content, Result):
        value = address(content.id, value)
    place = ' class="place"' * isinstance(content, Published)  # which may be long, and may wrap
    return value + "".join(f"<br><small{place}>{part}</small>" for part in small)


def anchor(id: str) -> str:
    """A result's id as it can stand in an address."""
    return re.sub(r"[^\w.-]+", "-", id)


def address(id: str, shown: str) -> str:
    """HTML that the book turns into a link to the record of the result with this id."""
    return f'<a data-result="{html.escape(id)}">{shown}</a>'


class RecordedVerdict(BaseModel):
    """How a claim came out in a run. result: id of what it was held against."""

    claim: str
    held: Held
    words: str = ""
    result: str = ""


class Record(BaseModel):
    """What one run of a chapter found, and how: it stands in the executed notebook, which shows it as a small table.

    Attributes:
        chapter, parameters, profile, dataset: what ran, with what; the last two are two of the parameters.
        classes: how many its images have; None in older records. device, minutes, peak_memory_gib: what it took.
        precision: of training; older records were all made in float32.
        finished, version, commit, python, torch: when, and with which code.
        results, verdicts: what it found, in the order of measuring.
        networks: keys of those that it trained or read, in the order of use; older records do not say it.
        sources: of a record that was pooled, words for each run -> its seeds.
    """

    chapter: str
    parameters: dict[str, Any]
    profile: str = Field(validation_alias=AliasPath("parameters", "profile"), exclude=True)
    dataset: str = Field(validation_alias=AliasPath("parameters", "dataset"), exclude=True)
    classes: Annotated[int | None, Field(ge=2)] = None
    device: str
    precision: str = "float32"
    minutes: Annotated[FiniteFloat, Field(ge=0)]
    peak_memory_gib: Annotated[FiniteFloat, Field(ge=0)]
    finished: AwareDatetime
    version: str
    commit: str
    python: str
    torch: str
    results: list[Result]
    verdicts: list[RecordedVerdict]
    networks: tuple[str, ...] = ()
    sources: dict[str, tuple[int, ...]] = {}

    @model_validator(mode="after")
    def _whole(self) -> Record:
        for name, most in MOST.items():
            value, least = self.parameters.get(name, 1), int(name == "seeds")
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"{name} = {short_repr(value)}: expected a whole number from {least} to {most}")
        if len(ids := self.by_id) < len(self.results):
            raise ValueError(f"{len(self.results)} results under {len(ids)} ids; expected another id for each")
        for verdict in self.verdicts:
            if verdict.result and verdict.result not in ids:
                raise ValueError(f"verdict of {verdict.claim}: no result {verdict.result!r}"
                                 f"{did_you_mean(verdict.result, ids)}")
        return self

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Its seeds; older records do not say the first one, which was 0."""
        if self.sources:
            return tuple(seed for seeds in self.sources.values() for seed in seeds)
        first = self.parameters.get("first_seed", 0)
        return tuple(range(first, first + self.parameters.get("seeds", 1)))

    @property
    def by_id(self) -> dict[str, Result]:
        """The results by their ids."""
        return {result.id: result for result in self.results}

    def _rows(self) -> dict[str, str]:
        given = ", ".join(f"{name} = {short(value)}" for name, value in self.parameters.items() if name != "profile")
        return {"profile": self.profile, "parameters": given, "device": self.device, "trained in": self.precision,
                "minutes": f"{self.minutes:.1f}",
                "peak memory": f"{self.peak_memory_gib:.1f} GiB", "finished": self.finished.isoformat(),
                "code": f"nbutils {self.version}, commit {self.commit}",
                "python, torch": f"{self.python}, {self.torch}"}

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in self._rows().items())
        return f'<table class="run-card"><caption>Run card</caption>{rows}</table>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {MIME: dumps(self)}  # as text: notebooks cannot hold a NaN

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._rows().items())


def dumps(record: Record) -> str:
    """A record as JSON. A result names only the fields that differ from those of the result before it."""
    content = {"schema": SCHEMA, **record.model_dump()}
    rows = content["results"]
    content["results"] = [{name: value for name, value in row.items() if name not in before or before[name] != value}
                          for before, row in zip([{}, *rows], rows, strict=False)]
    text = json.dumps(content, default=datetime.isoformat)
    return json.dumps({**json.loads(text), "check": _check(_whole(text))}, separators=(",", ":"))


def loads(text: str, place: object, older: bool = True) -> Record:
    """What `dumps` wrote.

    Args:
        place: where the text stood, for messages. older: whether to accept a record without a check, as older versions
            wrote them.

    Raises:
        ValueError: not a record, one of another schema version, or one that was changed by hand; in one line.
    """
    damaged = f"{place}: not a record of results"
    try:
        content = _whole(text)
        schema, check = content["schema"], content.pop("check", None)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{damaged} ({error})") from None
    if schema != SCHEMA:
        raise ValueError(f"{place}: written with schema {short_repr(schema)}; expected {SCHEMA}, run the chapter again")
    try:
        record, as_it_is = Record.model_validate(content), None if check is None and older else _check(content)
    except (ValidationError, RecursionError) as error:
        raise ValueError(f"{damaged} ({first_fault(error) if isinstance(error, ValidationError) else error})") from None
    if check != as_it_is:
        raise ValueError(f"{place}: its record was changed by hand; run the chapter again")
    return record


def _whole(text: str) -> dict[str, Any]:
    """A record's JSON, with all fields of every result."""
    content, row = json.loads(text), dict[str, Any]()
    return {**content, "results": [row := row | new for new in content["results"]]}


def _check(content: Mapping[str, Any]) -> str:
    """Hash of a record but for names of data, from which paths of the machine are taken out once it is written."""
    header = {name: value for name, value in content.items() if name != "results"}
    checked = [{**header, "parameters": {**content["parameters"], "dataset": ""}},
               *({**row, "data": ""} for row in content["results"])]
    return hashlib.sha256(json.dumps(checked, sort_keys=True).encode()).hexdigest()


def read(path: Path, older: bool = True) -> Record:
    """A chapter's record, from its file; raises ValueError, see `loads`."""
    return loads(read_text(path), path, older)
