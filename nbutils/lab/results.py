"""One form for every number that the book shows, with the two kinds of interval, kept apart.

*this model*: a share counted on n images by one trained model; Wilson score interval.
*this method*: the mean over independent seeds (initialisation, data order, data draw, attack start); Student t.
Counts are never pooled over seeds.
"""

from __future__ import annotations

import hashlib
import html
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError
from scipy import stats

from nbutils.machine import ROOT
from nbutils.messages import check_choice, did_you_mean, first_fault, read_project_file, read_text

if TYPE_CHECKING:  # only their types are needed: records are read where there is no torch
    from torch import Tensor

    from nbutils.robustness.evaluate import Outcome

SCHEMA = 1
MIME = "application/vnd.nbutils.record"  # of a record inside an executed notebook
NUMBERS = (int, float, np.number)
MINUS = "\N{MINUS SIGN}"
THIS_MODEL, THIS_METHOD, NO_INTERVAL = "this model", "this method", "none"


def wilson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a share k / n (Wilson 1927).

    Raises:
        ValueError: n below 1, or k outside 0 to n.
    """
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"k = {k}, n = {n}: expected 0 <= k <= n and n >= 1")
    interval = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def student_t(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval for the mean of independent values, with len(values) - 1 degrees of freedom.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} value(s): a spread over seeds needs at least 2")
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * error
    return mean - half, mean + half


def mcnemar(a: Tensor, b: Tensor) -> float:
    """Exact two-sided p value that two classifiers are right equally often, on the same images (McNemar 1947).

    Args:
        a, b: (N,) bool, right or wrong per image.

    Raises:
        ValueError: different shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"{tuple(a.shape)} and {tuple(b.shape)} images: expected the same images")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation, and its exact p value: the share of all orders of b with one at least as large.

    Equal values share the mean of their ranks. Where all values of a or of b are equal nothing can be ranked: 0 and
    p = 1. With n pairs p is at least 1 / n!.

    Raises:
        ValueError: lists of different lengths, or other than 2 to 9 pairs, for which n! orders can be gone through.
    """
    if len(a) != len(b) or not 2 <= len(a) <= 9:
        raise ValueError(f"{len(a)} and {len(b)} values: expected 2 to 9 pairs")
    x, y = (stats.rankdata(values) - (len(values) + 1) / 2 for values in (a, b))
    length = math.sqrt(float(x @ x) * float(y @ y))
    if length == 0:
        return 0.0, 1.0
    orders = np.array(list(itertools.permutations(y))) @ x
    found = float(x @ y)
    return found / length, float((orders >= found - 1e-9).mean())  # ranks are halves: smaller gaps are rounding


@dataclass(frozen=True)
class Result:
    """One number and everything needed to judge it.

    Attributes:
        id: its address, "<chapter's words>.<what>"; claims name it.
        what: the quantity in words. unit: "share" (in [0, 1], shown in %), "points" (a difference of shares, shown
            in percentage points) or "number".
        value, low, high: estimate and 95 % interval. interval: "this model", "this method" or "none".
        values: one estimate per seed. n: images per seed. k: images counted, for a single model.
        model, data, threat, attack: in words; "none" where there is no attack.
        norms: median L2 and L_inf norm of the perturbations that broke an image that needed one (mean over seeds),
            in pixel units; for unbounded attacks, whose accuracy says nothing without them.
        inputs: keys of the artifacts and fingerprints of the data behind it.
        seconds: computing time of the evaluation. profile, device: where it was measured.
    """

    id: str
    what: str
    unit: str
    value: float
    low: float | None
    high: float | None
    interval: str
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

    @classmethod
    def of(cls, id: str, what: str, measured: Sequence[Outcome] | Sequence[float], *, unit: str = "share",
           n: int = 0, **context: Any) -> Result:
        """A result from one entry per seed: outcomes (their accuracy), or values that you have computed.

        One outcome gets a Wilson interval, several of either kind a Student t interval, one bare value none.

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
                context.setdefault(shared, found.pop())
            if context["threat"] == "unbounded":
                context.setdefault("norms", median_norms(outcomes))
            n = min(map(len, outcomes))
            k = int(outcomes[0].correct.sum()) if len(outcomes) == 1 else None
            values = tuple(outcome.accuracy for outcome in outcomes)
            context.setdefault("inputs", tuple(key for outcome in outcomes for key in outcome.inputs))
            context.setdefault("seconds", sum(outcome.seconds for outcome in outcomes))
        value = float(np.mean(values))
        if len(values) > 1:
            interval, (low, high) = THIS_METHOD, student_t(values)
        elif k is not None:
            interval, (low, high) = THIS_MODEL, wilson(k, n)
        else:
            return cls(id, what, unit, value, None, None, NO_INTERVAL, values, n, k, **context)
        if unit == "share":  # a t interval knows nothing of 0 and 1
            low, high = max(low, 0.0), min(high, 1.0)
        return cls(id, what, unit, value, low, high, interval, values, n, k, **context)

    @property
    def parts(self) -> tuple[str, ...]:
        """The estimate, its interval and the norms of an unbounded attack as text; the last two where there are any.
        A share of no images at all, NaN, is "undefined"."""
        if math.isnan(self.value):
            return ("undefined",)
        scale, digits, tail = {"share": (100, 1, " %"), "points": (100, 1, " points")}.get(self.unit, (1, 3, ""))
        parts = [f"{scale * self.value:.{digits}f}{tail}"]
        if self.low is not None and self.high is not None:
            parts.append(f"[{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]")
        if self.norms is not None:
            parts += [f"median L2 {self.norms[0]:.2f}", f"median L_inf {self.norms[1]:.3f}"]
        return tuple(part.replace("-", MINUS) for part in parts)

    def __str__(self) -> str:
        return " ".join(self.parts)


def median_norms(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Mean over outcomes of the median L2 and L_inf norm of the images that were moved and broken; 0 if none was."""
    medians = []
    for outcome in outcomes:
        broken = ~outcome.correct & (outcome.l2 > 0)
        if broken.any():
            medians.append((outcome.l2[broken].median().item(), outcome.linf[broken].median().item()))
    l2, linf = np.mean(medians, axis=0).tolist() if medians else (0.0, 0.0)
    return l2, linf


Record = tuple[dict[str, Any], list[Result]]  # a run's header, with its verdicts, and its results
_RESULTS = TypeAdapter(list[Result])


class _Parameters(BaseModel):
    profile: str
    dataset: str


class _Verdict(BaseModel):
    claim: str
    held: str


class _Header(BaseModel):
    """What pages and comparisons read of a record's header."""

    chapter: str
    parameters: _Parameters
    device: str
    minutes: FiniteFloat
    finished: datetime
    version: str
    commit: str
    python: str
    torch: str
    verdicts: list[_Verdict]


class _Printed(BaseModel):
    """A row of book/published."""

    table: str
    dataset: str
    model: str
    method: str
    attack: str
    quantity: str
    value: FiniteFloat
    unit: Literal["percent", "ratio", "count", "1"]
    certainty: Literal["certain", "inferred", "unknown"]


@dataclass(frozen=True)
class Published:
    """A number printed by others, with its place. certainty: "certain", or "inferred" from damaged text."""

    value: float
    unit: str
    place: str
    certainty: str

    @property
    def parts(self) -> tuple[str, ...]:
        """The value and its place as text."""
        doubt = "" if self.certainty == "certain" else f", {self.certainty}"
        return f"{self.value:g}{' %' if self.unit == 'percent' else ''}", f"({self.place}{doubt})"

    def __str__(self) -> str:
        return " ".join(self.parts)


@cache
def printed(paper: str) -> list[dict[str, Any]]:
    """The rows of book/published/<paper>.csv.

    Raises:
        ValueError: unknown paper, or a damaged file.
    """
    papers = {path.stem: path for path in sorted((ROOT / "book" / "published").glob("*.csv"))}
    path = papers[check_choice("paper", paper, papers)]
    return [row.model_dump() for row in read_project_file(path, list[_Printed])]


def published(paper: str, *cells: str, **where: str) -> Published:
    """The one published number that fits, from book/published/<paper>.csv.

    Args:
        paper: for example "kim2021". cells: what else stands in its row, for example "Table 1", "VGG-16".
        where: the same with columns, for example table="Table 1", model="VGG-16".

    Raises:
        ValueError: unknown paper, cell or column, or not exactly one number fits.
    """
    rows = printed(paper)
    unknown = set(where) - set(rows[0])
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: expected columns among {', '.join(rows[0])}")
    words = {value for row in rows for column, value in row.items() if column != "value"}
    for cell in cells:
        if cell not in words:
            raise ValueError(f"{paper} {cell!r}: in no row of its published numbers{did_you_mean(cell, words)}")
    found = [row for row in rows if set(cells) <= set(row.values())
             and all(row[column] == value for column, value in where.items())]
    if len(found) != 1:
        asked = ", ".join([*cells, *(f"{column} = {value}" for column, value in where.items())])
        differ = [column for column in rows[0] if len({row[column] for row in found}) > 1 and column != "value"]
        hint = f"; they differ in {', '.join(differ)}" if differ else ""
        raise ValueError(f"{paper} {asked}: {len(found)} published numbers fit, expected exactly one{hint}")
    row = found[0]
    return Published(row["value"], row["unit"], row["table"], row["certainty"])


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
        return pd.DataFrame([[str(cells.get(column, "")) for column in self.columns] for cells in self.rows.values()],
                            index=list(self.rows), columns=list(self.columns))

    def notes(self) -> list[str]:
        """How to read the numbers: interval, n, seeds, and every attack with its threat model."""
        results = [cell for cells in self.rows.values() for cell in cells.values() if isinstance(cell, Result)]
        lines = intervals(results) if self.rows else ["no row: there is nothing here that could be shown"]
        if any(result.low == result.high is not None for result in results):
            lines.append("an interval without width says that all seeds agree, not that there is nothing left to find: "
                         "with n images a share below 1/n goes unseen")
        lines += self._attacks()
        if self.stamp:
            lines.append(self.stamp)
        return lines

    def _attacks(self) -> list[str]:
        """The attacks behind each column; behind each row, where only rows keep to one attack each."""
        columns = {column: [row[column] for row in self.rows.values() if column in row] for column in self.columns}
        rows = {label: list(row.values()) for label, row in self.rows.items()}
        sides = []
        for groups in (columns, rows):
            attacked = {label: [cell for cell in cells if isinstance(cell, Result) and cell.attack != "none"]
                        for label, cells in groups.items()}
            sides.append({label: {f"{cell.attack}{f', n = {cell.n}' * bool(cell.n)}": None for cell in cells}
                          for label, cells in attacked.items() if cells})
        fewest = min(sides, key=lambda side: sum(len(attacks) > 1 for attacks in side.values()))
        return [f"{label}: {'; '.join(attacks)}" for label, attacks in fewest.items()]

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


def dumps(header: Mapping[str, Any], results: Iterable[Result], verdicts: Iterable[Mapping[str, Any]]) -> str:
    """A chapter's record as JSON. A result names only the fields that differ from those of the result before it."""
    rows = [asdict(result) for result in results]
    short = [{name: value for name, value in row.items() if name not in before or before[name] != value}
             for before, row in zip([{}, *rows], rows, strict=False)]
    content = {"schema": SCHEMA, **header, "results": short, "verdicts": list(verdicts)}
    content["check"] = _check(*_parsed(json.dumps(content)))
    return json.dumps(content, separators=(",", ":"))


def loads(text: str, place: object) -> Record:
    """What `dumps` wrote.

    Args:
        place: where the text stood, for messages.

    Raises:
        ValueError: not a record, or one of another schema version.
    """
    try:
        header, rows = _parsed(text)
        check = header.pop("check", None)  # older records have none
        if header["schema"] != SCHEMA:
            raise ValueError(f"{place}: written with schema {header['schema']}; expected {SCHEMA}, "
                             "run the chapter again")
        found = _RESULTS.validate_python(rows)
        if check not in (None, _check(header, rows)):
            raise ValueError(f"{place}: its record was changed by hand; run the chapter again")
        return header, found
    except ValidationError as error:
        raise ValueError(f"{place}: not a record of results ({first_fault(error)})") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{place}: not a record of results ({error})") from error


def _parsed(text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    content, row = json.loads(text), dict[str, Any]()
    return content, [row := row | new for new in content.pop("results")]


def _check(header: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str:
    """Hash of a record but for names of data, from which paths of the machine are taken out once it is written."""
    checked = [{**header, "parameters": {**header.get("parameters", {}), "dataset": ""}},
               *({**row, "data": ""} for row in rows)]
    return hashlib.sha256(json.dumps(checked, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> Record:
    """A chapter's record: header (with the verdicts) and results.

    Raises:
        ValueError: see `loads` and `whole`.
    """
    return whole(loads(read_text(path), path), path)


def whole(record: Record, place: object) -> Record:
    """The record, if its header says what is told of a run; raises ValueError where it does not, in one line."""
    try:
        _Header.model_validate(record[0])
    except ValidationError as error:
        raise ValueError(f"{place}: not the record of a run ({first_fault(error)})") from None
    return record
