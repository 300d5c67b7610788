"""One figure style: readable by colour-blind people and in grey, with text for those who do not see the picture.

Every function returns a `Picture`, which a notebook shows when it stands last in a cell; its `texts` are those of the
picture: alt, caption and stamp. Where numbers are drawn, the alternative text is made of them: names, axes, and where
each line or group begins, ends and lies. An `alt` that is given stands before it.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from nbutils.lab.results import Published, Result, Table, address, intervals

if TYPE_CHECKING:  # only its type is needed: pages are made where there is no torch
    from torch import Tensor

# Okabe and Ito's colours in an order of falling contrast in grey; marker and line differ as well.
SERIES = (("#000000", "o", "-"), ("#D55E00", "s", "--"), ("#0072B2", "^", "-."), ("#E69F00", "D", ":"),
          ("#56B4E9", "v", (0, (5, 1))), ("#009E73", "P", (0, (3, 1, 1, 1))))
MARKERS = "os^DvPX*<>"
STYLE: dict[Any, Any] = {
    "figure.dpi": 110, "savefig.bbox": "tight", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False, "axes.titlesize": 10, "lines.linewidth": 1.6,
    "text.parse_math": False,  # a class may be called "cost $1 and $2"
}


@dataclass(frozen=True)
class Picture:
    """A finished figure with its alternative text and caption.

    Attributes:
        figure: the matplotlib figure.
        results: those that are drawn; the caption says what their intervals are and leads to their records.
        alt: what a reader who cannot see it needs to know. caption: shown below.
        stamp: profile and device, shown with the caption.

    Raises:
        ValueError: no alternative text.
    """

    figure: Figure
    results: tuple[Result, ...] = ()
    _: KW_ONLY
    alt: str
    caption: str
    stamp: str = ""

    def __post_init__(self) -> None:
        if len(self.alt) < 20:
            raise ValueError(f"alt = {self.alt!r}: expected a sentence that says what the figure shows")

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(buffer, format="png", metadata={"Software": None})
        data = base64.b64encode(buffer.getvalue()).decode()
        recorded = ""
        if self.results:
            first, more = self.results[0].id, f" and {len(self.results) - 1} more" * (len(self.results) > 1)
            kinds = "; ".join(intervals(self.results))
            recorded = f"<small>{kinds}. Recorded as {address(first, html.escape(first))}{more}.</small>"
        return ('<figure class="picture mathjax_ignore">'  # in JupyterLab, too, a "$" is no formula
                f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}">'
                f"<figcaption>{html.escape(self.caption)}{_stamped(self.stamp)} {recorded}</figcaption></figure>")

    def __repr__(self) -> str:
        return f"[figure: {self.alt}]"


def curves(lines: Mapping[str, Sequence[Result]], x: Sequence[float], *, xlabel: str, ylabel: str,
           ticks: Sequence[str] | None = None, marks: Mapping[str, float] | None = None, **texts: str) -> Picture:
    """Results over a quantity, one line per entry, with their intervals as bands.

    Args:
        lines: label -> one Result per entry of x; shares are shown in percent.
        ticks: text for the entries of x. marks: label -> x position of a vertical line.

    Raises:
        ValueError: a line whose length differs from that of x, or more lines than can be told apart.
    """
    _tell_apart("lines", lines, SERIES)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.6))
        axes, drawn = figure.subplots(), {}
        for (label, results), (colour, marker, dash) in zip(lines.items(), SERIES, strict=False):
            if len(results) != len(x):
                raise ValueError(f"line {label!r}: {len(results)} results for {len(x)} positions")
            (drawn[label],) = axes.plot(x, [result.value for result in results], color=colour, marker=marker,
                                        linestyle=dash)
            ends = [limits for result in results if (limits := result.limits())]
            if len(ends) == len(x):
                low, high = zip(*ends, strict=True)
                axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        _mark(axes, marks or {}, 1, (3, -2), "top")
        if ticks is not None:
            axes.set_xticks(list(x), list(ticks))
        _value_axis(axes.yaxis, axes.set_ylim, next(iter(lines.values())))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2 if len(lines) == 4 else 3}
        _legend(axes, drawn, **(above if len(lines) > 3 else {"loc": "best"}))  # of many no place inside is free
        places = [str(tick) for tick in ticks] if ticks is not None else [f"{place:g}" for place in x]
        seen = [f"{ylabel} against {xlabel}.", *(_course(label, line, places) for label, line in lines.items())]
        return Picture(figure, tuple(chain(*lines.values())), **_described(texts, seen))


def dots(groups: Mapping[str, Mapping[str, Result | Published]], *, xlabel: str,
         marks: Mapping[str, float] | None = None, **texts: str) -> Picture:
    """Results as dots with their intervals: one row per group, one colour and marker per series.

    Args:
        groups: row label -> series label -> Result, or a published number, which is a hollow dot without interval.
        marks: label -> x position of a vertical line, such as chance.
    """
    series = list(dict.fromkeys(label for group in groups.values() for label in group))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 1.2 + max(0.42, 0.13 * len(series)) * len(groups)))
        axes, drawn = figure.subplots(), {}
        for index, label in enumerate(series):
            colour, marker, _ = SERIES[index % len(SERIES)]
            shift = 0.16 * (index - (len(series) - 1) / 2)
            cells = [(row + shift, group[label]) for row, group in enumerate(groups.values()) if label in group]
            rows = [(height, cell) for height, cell in cells if isinstance(cell, Result)]
            for height, result in rows:
                if limits := result.limits():
                    axes.plot(limits, [height, height], color=colour, linewidth=1.4)
            (drawn[label],) = axes.plot([result.value for _, result in rows], [height for height, _ in rows], marker,
                                        color=colour)
            printed = [(height, cell) for height, cell in cells if isinstance(cell, Published)]
            if printed:
                axes.plot([cell.number for _, cell in printed],
                          [height for height, _ in printed], marker, color=colour, fillstyle="none")
        _mark(axes, marks or {}, 0, (3, 3), "baseline")
        results = tuple(cell for group in groups.values() for cell in group.values() if isinstance(cell, Result))
        count = len(groups)
        axes.set(xlabel=xlabel, yticks=range(count), yticklabels=list(groups), ylim=(count - 0.5, -0.5))
        _value_axis(axes.xaxis, axes.set_xlim, results)
        _legend(axes, drawn, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(series))
        rows_told = (_group(row, {name: result.parts[0] for name, result in group.items()})
                     for row, group in groups.items())
        return Picture(figure, results, **_described(texts, [f"{xlabel}, as dots with intervals.", *rows_told]))


@dataclass(frozen=True)
class Drawn:
    """The numbers of a table as a picture, with the table itself folded below it."""

    picture: Picture
    table: Table

    def _repr_html_(self) -> str:
        return (f"{self.picture._repr_html_()}<details class=\"numbers\"><summary>The numbers</summary>"
                f"{self.table._repr_html_()}</details>")

    def __repr__(self) -> str:
        return f"{self.picture!r}\n{self.table!r}"


def drawn(table: Table, *, xlabel: str, columns: Sequence[str] = (), marks: Mapping[str, float] | None = None) -> Drawn:
    """A table's numbers as dots, a row of it a row of dots; its text alternative names the lowest and the highest.

    Args:
        columns: those that are drawn, in one unit; all where none is named. Text is not drawn. marks: see `dots`.

    Raises:
        ValueError: no number to draw, several units, or more columns than can be told apart.
    """
    wanted = columns or table.columns
    groups = {label: {column: cell for column in wanted if not isinstance(cell := cells.get(column, ""), str)}
              for label, cells in table.rows.items()}
    groups = {label: cells for label, cells in groups.items() if cells}
    found = [(cell, f"{label}, {column}") for label, cells in groups.items() for column, cell in cells.items()
             if isinstance(cell, Result) and not math.isnan(cell.value)]
    if not found or len({cell.unit for cell, _ in found}) > 1:
        raise ValueError(f"units {sorted({cell.unit for cell, _ in found})}: expected numbers, all in one unit")
    _tell_apart("columns", list(dict.fromkeys(column for cells in groups.values() for column in cells)), SERIES)
    low, high = (f"{cell.parts[0]} ({where})" for cell, where in (f(found, key=lambda one: one[0].value)
                                                                for f in (min, max)))
    hollow = " Hollow: published." * any(isinstance(cell, Published) for cells in groups.values()
                                         for cell in cells.values())
    picture = dots(groups, xlabel=xlabel, marks=marks, caption=table.caption + hollow, stamp=table.stamp,
                   alt=f"{table.caption} The lowest is {low}, the highest {high}.")
    return Drawn(picture, table)


def matrix(cells: Mapping[str, Mapping[str, Result]], *, xlabel: str, ylabel: str, **texts: str) -> Picture:
    """Shares as a table of shaded squares, each with its value in percent; the darker, the larger.

    Cells whose row and column have one name, such as a network attacked with its own gradients, are framed.

    Args:
        cells: row label -> column label -> Result; all rows have the same columns.

    Raises:
        ValueError: rows with different columns, or a result that is no share.
    """
    rows, columns = list(cells), list(next(iter(cells.values())))
    for label, row in cells.items():
        if list(row) != columns or any(result.unit != "share" for result in row.values()):
            raise ValueError(f"row {label!r}: expected shares in the columns {', '.join(columns)}")
    values = np.array([[result.value for result in row.values()] for row in cells.values()])
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.9 + 0.52 * len(columns), 1.3 + 0.4 * len(rows)))
        axes = figure.subplots()
        axes.imshow(values, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center",
                      color="white" if value > 0.5 else "black")
            if rows[row] == columns[column]:
                axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#D55E00",
                                         linewidth=2))
        axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        seen = [f"Shaded squares with percentages; rows: {ylabel}; columns: {xlabel}."]
        for label, row in cells.items():
            ends = [end(row.items(), key=lambda cell: cell[1].value) for end in (min, max)]
            seen.append(f"{label}: " + " to ".join(f"{result.parts[0]} ({column})" for column, result in ends) + ".")
        results = tuple(result for row in cells.values() for result in row.values())
        return Picture(figure, results, **_described(texts, seen))


def scatter(pairs: Mapping[str, tuple[Result, Result]], *, xlabel: str, ylabel: str, **texts: str) -> Picture:
    """One result against another, with the intervals of both; the axes show the range of the points only.

    Args:
        pairs: label -> (result on the x axis, result on the y axis).

    Raises:
        ValueError: more points than there are markers.
    """
    _tell_apart("points", pairs, MARKERS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 3.8))
        axes, drawn = figure.subplots(), {}
        for index, (label, (x, y)) in enumerate(pairs.items()):
            colour = SERIES[index % len(SERIES)][0]
            (drawn[label],) = axes.plot([x.value], [y.value], MARKERS[index], color=colour, markersize=8, zorder=3)
            for across, along, line in ((y, x, axes.hlines), (x, y, axes.vlines)):
                if limits := along.limits():
                    line(across.value, *limits, color=colour, linewidth=1, alpha=0.7)
        for axis, results in zip((axes.xaxis, axes.yaxis), zip(*pairs.values(), strict=True), strict=True):
            if all(result.unit == "share" for result in results):
                axis.set_major_formatter(PercentFormatter(1.0))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        _legend(axes, drawn, loc="center left", bbox_to_anchor=(1.01, 0.5))
        seen = [f"{ylabel} against {xlabel}, one point each.",
                *(f"{label}: {y.parts[0]} at {x.parts[0]}." for label, (x, y) in pairs.items())]
        return Picture(figure, tuple(chain(*pairs.values())), **_described(texts, seen))


def clouds(panels: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str], *, caption: str,
           **texts: str) -> Picture:
    """Points in the plane by class, in small panels, three to a line. An embedding has no unit, so no axis is shown.

    Args:
        panels: title -> (points (N, 2), labels (N,)). names: of the classes; points of the first ten are drawn, and
            the caption says so where there are more.
    """
    shown = list(names)[:len(MARKERS)]
    if len(names) > len(shown):
        caption += f" Drawn: the first {len(shown)} of {len(names)} classes."
    by_class = {title: {name: places[labels == index].T for index, name in enumerate(shown)}
                for title, (places, labels) in panels.items()}
    with mpl.rc_context(STYLE):
        figure, grid = _panels(by_class, 3, 2.3)
        for axes in grid:
            _bare(axes)
        seen = [f"Points in the plane, a marker for each of {', '.join(shown)}.",
                *(f"{title}: {len(places)} points." for title, (places, _) in panels.items())]
        return Picture(figure, (), caption=caption, **_described(texts, seen))


def points(panels: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]], *, xlabel: str, ylabel: str,
           **texts: str) -> Picture:
    """Many points, one number against another, in panels side by side with axes of their own.

    Args:
        panels: title -> group -> (x (n,), y (n,)); a point without a value, NaN, is not drawn. Groups differ in colour
            and marker.

    Raises:
        ValueError: more groups in a panel than can be told apart.
    """
    for groups in panels.values():
        _tell_apart("groups", groups, SERIES)
    with mpl.rc_context(STYLE):
        figure, grid = _panels(panels, len(panels), 2.9)
        for axes in grid:
            axes.set_xlabel(xlabel)
        grid[0].set_ylabel(ylabel)
        seen = [f"{ylabel} against {xlabel}, a point each."]
        for title, groups in panels.items():
            seen.append(_group(title, {f"{label}, {len(x)} points": f"from {_range(y)} at {_range(x)}"
                                       for label, (x, y) in groups.items()}))
        return Picture(figure, (), **_described(texts, seen))


def _described(texts: Mapping[str, str], seen: Iterable[str]) -> dict[str, str]:
    """The texts of a picture, with these sentences in its alternative text."""
    return {**texts, "alt": " ".join([*filter(None, [texts.get("alt")]), *seen])}


def _course(label: str, line: Sequence[Result], places: Sequence[str]) -> str:
    """Where a line begins and ends, and its highest and lowest point where these lie elsewhere."""
    known = [(result, place) for result, place in zip(line, places, strict=True) if not math.isnan(result.value)]
    if not known:
        return f"{label}: undefined."
    ends = {"": known[0], "to ": known[-1]}
    beyond = {"highest ": max, "lowest ": min}
    ends |= {word: found for word, end in beyond.items()
             if (found := end(known, key=lambda point: point[0].value))[0].value not in (known[0][0].value,
                                                                                        known[-1][0].value)}
    return f"{label}: {', '.join(f'{word}{result.parts[0]} at {place}' for word, (result, place) in ends.items())}."


def _group(label: str, parts: Mapping[str, str]) -> str:
    return f"{label}: {'; '.join(f'{name} {words}' for name, words in parts.items())}."


def _range(values: Tensor) -> str:
    """Its ends, without what has no value."""
    known = values[~values.isnan()]
    return f"{known.min():.2g} to {known.max():.2g}" if len(known) else "undefined"


def _panels(panels: Mapping[str, Mapping[str, Any]], columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Title -> group -> (x, y), drawn in so many columns with one legend below; also the axes, line by line."""
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(0.6 + 0.93 * height * columns, height * lines), layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, (title, groups) in zip(grid, panels.items(), strict=False):
        for index, (x, y) in enumerate(groups.values()):
            axes.plot(x.tolist(), y.tolist(), MARKERS[index], color=SERIES[index % len(SERIES)][0], markersize=4,
                      alpha=0.75, markeredgewidth=0)
        axes.set_title(title)
    first = next(iter(panels.values()))
    _legend(figure, dict(zip(first, grid[0].lines, strict=True)), loc="outside lower center", ncols=5)
    return figure, grid


def _legend(owner: Axes | Figure, drawn: Mapping[str, Any], **place: Any) -> None:
    """A legend of all that was drawn; matplotlib would leave out names that begin with an underscore."""
    legend = owner.legend(list(drawn.values()), [f" {label}" for label in drawn], **place)
    for text, label in zip(legend.get_texts(), drawn, strict=True):
        text.set_text(label)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _tell_apart(what: str, drawn: Sized, looks: Sized) -> None:
    if len(drawn) > len(looks):
        raise ValueError(f"{len(drawn)} {what}: expected at most {len(looks)} that can be told apart")


def _mark(axes: Axes, marks: Mapping[str, float], height: int, shift: tuple[int, int], va: str) -> None:
    """Vertical lines with their labels, at the foot (0) or the top (1) of the axes."""
    for label, position in marks.items():
        axes.axvline(position, color="0.35", linewidth=1, linestyle=":")
        axes.annotate(label, (position, height), xycoords=("data", "axes fraction"), xytext=shift,
                      textcoords="offset points", va=va, fontsize=8, color="0.25")


def _value_axis(axis: Axis, set_limits: Callable[[float, float], Any], results: Sequence[Result]) -> None:
    if all(result.unit == "share" for result in results):
        set_limits(-0.03, 1.03)
    if all(result.unit in ("share", "points") for result in results):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def image_grid(rows: Mapping[str, Tensor], *, columns: Sequence[str] = (),
               notes: Mapping[str, Sequence[str]] | None = None, **texts: str) -> Picture:
    """Images in rows with labels.

    Args:
        rows: row label -> (n, 3, H, W), pixels in [0, 1]. columns: n titles.
        notes: row label -> n short texts shown under its images, for example predictions.

    Raises:
        ValueError: rows of different lengths, or values outside [0, 1].
    """
    width = len(next(iter(rows.values())))
    for label, images in rows.items():
        if len(images) != width or images.min() < 0 or images.max() > 1:
            raise ValueError(f"row {label!r}: {len(images)} images from {images.min():.3g} to {images.max():.3g}; "
                             f"expected {width} with pixels in [0, 1]")
    notes = notes or {}
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.3 + 0.86 * width, (1.0 + 0.2 * bool(notes)) * len(rows) + 0.2))
        grid: np.ndarray = figure.subplots(len(rows), width, squeeze=False)
        for (label, images), line in zip(rows.items(), grid, strict=True):
            for index, axes in enumerate(line):
                axes.imshow(images[index].detach().cpu().permute(1, 2, 0).numpy(), interpolation="nearest")
                _bare(axes)
                if label in notes:
                    axes.set_xlabel(notes[label][index], fontsize=7, labelpad=2)
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        for index, title in enumerate(columns):
            grid[0, index].set_title(title, fontsize=8)
        figure.subplots_adjust(wspace=0.08, hspace=0.3 if notes else 0.08)
        return Picture(figure, (), **texts)


@dataclass(frozen=True)
class Steps:
    """Rows of small images at each of several settings; a page shows one setting at a time, with a slider for them.

    Without a script, on paper and in JupyterLab all settings stand below each other.

    Attributes:
        settings: name of a setting -> row label -> (images (n, 3, H, W) with pixels in [0, 1], n short texts).
        name: what the slider sets, such as "eps". alt, caption, stamp: see `Picture`.
    """

    settings: Mapping[str, Mapping[str, tuple[Tensor, Sequence[str]]]]
    name: str
    _: KW_ONLY
    alt: str
    caption: str
    stamp: str = ""

    def _repr_html_(self) -> str:
        steps = "".join(
            f'<div class="step" data-step="{html.escape(setting)}"><p>{html.escape(f"{self.name} = {setting}")}</p>'
            + "".join(f'<div class="tiles"><span class="tiles-label">{html.escape(label)}</span>'
                      + "".join(_tile(image, label, text) for image, text in zip(images, words, strict=True)) + "</div>"
                      for label, (images, words) in rows.items()) + "</div>"
            for setting, rows in self.settings.items())
        return (f'<figure class="picture steps mathjax_ignore" data-name="{html.escape(self.name)}" role="group" '
                f'aria-label="{html.escape(self.alt)}">{steps}<figcaption>{html.escape(self.caption)}'
                f'{_stamped(self.stamp)}</figcaption></figure>')

    def __repr__(self) -> str:
        return f"[figure: {self.alt}]"


def _stamped(stamp: str) -> str:
    """The stamp of a picture as it stands behind the caption; nothing where there is none."""
    return f' <span class="stamp">({html.escape(stamp)})</span>' if stamp else ""


def _tile(image: Tensor, label: str, text: str) -> str:
    """A small image as HTML, with its text below."""
    buffer = io.BytesIO()
    pixels = (255 * image.detach().cpu().permute(1, 2, 0)).round().numpy().astype(np.uint8)
    imsave(buffer, pixels, format="png", metadata={"Software": ""})
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = html.escape(f"{label}: {text}" if text else label)
    return (f'<span class="tile"><img src="data:image/png;base64,{data}" alt="{alt}">'
            f"<span>{html.escape(text)}</span></span>")


def magnify(perturbation: Tensor, limit: float) -> Tensor:
    """A perturbation (n, 3, H, W) in [-limit, limit] as pixels in [0, 1]: grey where nothing changes."""
    return (0.5 + 0.5 * perturbation / limit).clamp(0, 1)
