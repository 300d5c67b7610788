"""Figures carry their text, show what they were given, and refuse what would mislead."""

import base64
import io
import re
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from PIL import Image

from nbutils.lab.figures import (
    MARKERS,
    SERIES,
    Picture,
    Steps,
    clouds,
    curves,
    dots,
    drawn,
    image_grid,
    magnify,
    matrix,
    points,
    scatter,
)
from nbutils.lab.results import Result, Table, published

ALT = "Accuracy falls from 97 % to 0 % as eps grows to 8/255."
TEXTS = {"alt": ALT, "caption": "Accuracy <under> PGD & friends", "stamp": 'profile "smoke", cpu'}
AXES = {"xlabel": "eps", "ylabel": "accuracy"}


def share(value: float, seeds: int = 3) -> Result:
    return Result.of("a.b", "accuracy", [min(value + 0.01 * k, 1.0) for k in range(seeds)])


def line(*values: float) -> list[Result]:
    return [share(value) for value in values]


def test_html_holds_the_picture_and_escaped_texts() -> None:
    texts = {**TEXTS, "alt": 'A "quoted" <b>bold</b> & long text.'}
    html = curves({"standard": line(0.9, 0.4)}, [0, 1], **AXES, **texts)._repr_html_()
    assert 'alt="A &quot;quoted&quot; &lt;b&gt;bold&lt;/b&gt; &amp; long text. accuracy against' in html
    assert "Accuracy &lt;under&gt; PGD &amp; friends" in html
    assert html.startswith('<figure class="picture mathjax_ignore">')
    assert "(profile &quot;smoke&quot;, cpu)" in html
    data = html.split("base64,")[1].split('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert min(image.size) > 200
        assert len(np.unique(np.asarray(image.convert("L")))) > 20  # not blank


def test_a_picture_without_stamp_has_no_brackets() -> None:
    assert "stamp" not in Picture(Figure(), alt=ALT, caption="caption")._repr_html_()


def test_the_alternative_text_is_made_of_what_is_drawn() -> None:
    """Names, axes and values, whatever the run; an author's words, if any, stand before them."""
    text = {"caption": "c"}
    drawn = curves({"one": line(0.9, 0.99, 0.4), "two": line(0.1, 0.2, 0.3)}, [0, 1, 2], **AXES, **text)
    assert drawn.alt == ("accuracy against eps. one: 91.0 % at 0, to 41.0 % at 2, highest 99.7 % at 1. "
                         "two: 11.0 % at 0, to 31.0 % at 2.")
    ticked = curves({"one": [share(0.1), share(float("nan"))]}, [0, 1], ticks=["a", "b"], **AXES, **TEXTS)
    assert ticked.alt == f"{ALT} accuracy against eps. one: 11.0 % at a, to 11.0 % at a."
    rows = dots({"row": {"x": share(0.1), "y": share(0.2)}}, xlabel="accuracy", **text)
    assert rows.alt == "accuracy, as dots with intervals. row: x 11.0 %; y 21.0 %."
    cells = {"r": {"c": share(0.1), "d": share(0.5)}}
    squares = matrix(cells, xlabel="to", ylabel="from", **text)
    assert squares.alt == "Shaded squares with percentages; rows: from; columns: to. r: 11.0 % (c) to 51.0 % (d)."
    assert scatter({"a": (share(0.1), share(0.2))}, **AXES, **text).alt == (
        "accuracy against eps, one point each. a: 21.0 % at 11.0 %.")
    where, labels = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([0, 1])
    assert clouds({"robust": (where, labels)}, ["disc", "L"], **text).alt == (
        "Points in the plane, a marker for each of disc, L. robust: 2 points.")
    group = {"g": (torch.tensor([0.0, 0.5]), torch.tensor([1.0, float("nan")]))}
    assert points({"all": group}, **AXES, **text).alt == (
        "accuracy against eps, a point each. all: g, 2 points from 1 to 1 at 0 to 0.5.")


def test_a_figure_of_results_leads_to_their_records() -> None:
    first = Result.of('a."one"', "accuracy", [0.5])
    shown = dots({"a": {"x": first, "y": share(0.2)}}, xlabel="accuracy", **TEXTS)
    assert shown.results == (first, share(0.2))
    assert ("mean over 3 seeds, 95 % Student t interval (this method); one model, without an interval. "
            'Recorded as <a data-result="a.&quot;one&quot;">a.&quot;one&quot;</a> and 1 more.') in shown._repr_html_()


def test_in_plain_text_a_picture_is_its_alternative_text() -> None:
    assert repr(Picture(Figure(), alt=ALT, caption="caption")) == f"[figure: {ALT}]"


def test_curves_show_values_and_intervals() -> None:
    lines = {"standard": line(0.9, 0.4, 0.1), "adversarial": line(0.8, 0.7, 0.6)}
    x = [0, 4 / 255, 8 / 255]
    picture = curves(lines, x, ticks=["0", "4/255", "8/255"], marks={"here": 4 / 255}, **AXES, **TEXTS)
    (axes,) = picture.figure.axes
    drawn = dict(zip(lines, axes.lines, strict=False))
    for label, results in lines.items():
        assert list(drawn[label].get_xdata()) == x
        assert list(drawn[label].get_ydata()) == [result.value for result in results]
    bands = [band.get_paths()[0].get_extents() for band in axes.collections]
    for band, results in zip(bands, lines.values(), strict=True):
        low, high = zip(*(result.limits() or () for result in results), strict=True)
        assert (band.y0, band.y1) == pytest.approx((min(low), max(high)))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "4/255", "8/255"]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(lines)
    assert axes.get_ylim()[0] < 0
    assert axes.get_ylim()[1] > 1


@pytest.mark.parametrize(("count", "above"), [(3, False), (4, True), (5, True)])
def test_the_legend_of_many_lines_stands_above_them(count: int, above: bool) -> None:
    lines = {f"line {i}": line(1.0 - 0.1 * i, 0.9 - 0.1 * i) for i in range(count)}
    figure = curves(lines, [0, 1], **AXES, **TEXTS).figure
    figure.draw_without_rendering()
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert (legend.get_window_extent().y0 >= axes.get_window_extent().y1) == above


def test_no_line_is_left_out_in_silence() -> None:
    lines = {f"model {k}": line(0.1 * k, 0.1 * k) for k in range(1, len(SERIES) + 2)}
    with pytest.raises(ValueError, match="7 lines"):
        curves(lines, [0, 1], **AXES, **TEXTS)


def test_dots_show_every_result_of_every_group() -> None:
    groups = {"natural": {"standard": share(0.9), "adversarial": share(0.8)}, "swapped": {"standard": share(0.2)}}
    (axes,) = dots(groups, xlabel="accuracy", marks={"chance": 0.1}, **TEXTS).figure.axes
    values = sorted(x for drawn in axes.lines if drawn.get_linestyle() == "None" for x in drawn.get_xdata())
    assert values == sorted(result.value for group in groups.values() for result in group.values())
    spans = sorted(tuple(drawn.get_xdata()) for drawn in axes.lines if len(drawn.get_xdata()) == 2
                   and drawn.get_linestyle() == "-" and drawn.get_xdata()[0] != drawn.get_xdata()[1])
    assert spans == sorted(result.limits() or () for group in groups.values() for result in group.values())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["natural", "swapped"]
    assert axes.yaxis_inverted()  # the first row stands on top


def test_a_matrix_shows_every_value_and_frames_what_has_one_name() -> None:
    cells = {"small": {"small": share(0.9), "wide": share(0.2)}, "wide": {"small": share(0.5), "wide": share(0.98)}}
    (axes,) = matrix(cells, xlabel="target", ylabel="source", **TEXTS).figure.axes
    assert np.allclose(axes.images[0].get_array(), [[0.91, 0.21], [0.51, 0.99]])
    assert [text.get_text() for text in axes.texts] == ["91", "21", "51", "99"]
    assert [patch.get_center().tolist() for patch in axes.patches] == [[0, 0], [1, 1]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["small", "wide"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["small", "wide"]
    assert {text.get_color() for text in axes.texts[:2]} == {"white", "black"}


@pytest.mark.parametrize("row", [{"small": share(0.1)},
                                 {"small": share(0.1), "wide": Result.of("a", "b", [1], unit="number")}])
def test_a_matrix_has_shares_in_every_cell(row: dict[str, Result]) -> None:
    with pytest.raises(ValueError, match="row 'wide': expected shares in the columns small, wide"):
        matrix({"small": {"small": share(0.9), "wide": share(0.2)}, "wide": row}, xlabel="x", ylabel="y", **TEXTS)


def test_a_scatter_shows_points_and_both_intervals() -> None:
    points = {"small": (share(0.9), share(0.3)), "wide": (share(0.8), share(0.2))}
    (axes,) = scatter(points, xlabel="learned", ylabel="transfer", **TEXTS).figure.axes
    assert [(*drawn.get_xdata(), *drawn.get_ydata()) for drawn in axes.lines] == [(x.value, y.value)
                                                                                 for x, y in points.values()]
    drawn = [tuple(map(tuple, bar.get_segments()[0])) for bar in axes.collections]
    assert drawn == [bar for x, y in points.values()
                     for bar in (tuple((end, y.value) for end in x.limits() or ()),
                                 tuple((x.value, end) for end in y.limits() or ()))]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(points)
    assert len(set(MARKERS)) == len(MARKERS)
    with pytest.raises(ValueError, match="11 points"):
        scatter({str(k): (share(0.5), share(0.5)) for k in range(11)}, xlabel="x", ylabel="y", **TEXTS)


def test_clouds_show_each_class_by_its_marker() -> None:
    where, labels = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 1, 0, 2, 1])
    picture = clouds({"robust": (where, labels), "rest": (-where, labels)}, ["disc", "ring", "L"], alt=ALT,
                     caption="c")
    first, second, empty = picture.figure.axes
    assert [axes.get_title() for axes in (first, second, empty)] == ["robust", "rest", ""]
    for index, dotted in enumerate(first.lines):
        assert np.array_equal(dotted.get_xydata(), where[labels == index].numpy())
        assert dotted.get_marker() == MARKERS[index]
    assert np.array_equal(second.lines[2].get_xydata(), -where[4:5].numpy())
    assert not empty.lines
    (legend,) = picture.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["disc", "ring", "L"]
    assert picture.caption == "c"
    many = clouds({"all": (where, labels)}, [str(k) for k in range(200)], alt=ALT, caption="c")
    assert many.caption == "c Drawn: the first 10 of 200 classes."
    assert len(many.figure.axes[0].lines) == len(MARKERS)


def test_no_group_is_left_out_in_silence() -> None:
    where = torch.arange(2.0)
    with pytest.raises(ValueError, match="^7 groups: expected at most 6 that can be told apart"):
        points({"all": {str(k): (where, where) for k in range(7)}}, xlabel="x", ylabel="y", alt=ALT, caption="c")


def test_points_stand_where_their_numbers_say_group_by_group() -> None:
    x, y = torch.tensor([1.0, 2.0, np.nan]), torch.tensor([3.0, 5.0, 6.0])
    picture = points({"first": {"shape": (x, y), "tile": (y, x)}, "second": {"shape": (y, y)}}, xlabel="x", ylabel="y",
                     alt=ALT, caption="c")
    first, second = picture.figure.axes
    np.testing.assert_array_equal(first.lines[0].get_xydata(), torch.stack([x, y], 1).numpy())
    assert len({(line.get_marker(), line.get_color()) for line in first.lines}) == 2
    assert [axes.get_title() for axes in (first, second)] == ["first", "second"]
    (legend,) = picture.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["shape", "tile"]


def test_an_image_grid_shows_the_pixels() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    picture = image_grid({"clean": images, "attacked": 1 - images}, columns=["disc", "ring"],
                         notes={"attacked": ["star", "L"]}, alt=ALT, caption="c")
    axes = picture.figure.axes
    assert len(axes) == 4
    for place, expected in zip(axes, [images[0], images[1], 1 - images[0], 1 - images[1]], strict=True):
        assert np.array_equal(place.images[0].get_array(), expected.permute(1, 2, 0).numpy())
    assert [place.get_title() for place in axes] == ["disc", "ring", "", ""]
    assert [place.get_ylabel() for place in axes] == ["clean", "", "attacked", ""]
    assert [place.get_xlabel() for place in axes] == ["", "", "star", "L"]
    assert "base64" in picture._repr_html_()


def test_magnified_perturbations_are_grey_where_nothing_changes() -> None:
    found = magnify(torch.tensor([-0.2, -0.1, 0.0, 0.05, 0.1, 0.3]), 0.1)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.5, 0.75, 1.0, 1.0]))


def test_series_differ_in_more_than_colour_and_the_first_ones_in_grey() -> None:
    assert len({marker for _, marker, _ in SERIES}) == len({dash for *_, dash in SERIES}) == len(SERIES)
    grey = [float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114))) for colour, *_ in SERIES[:2]]
    assert grey[1] - grey[0] > 0.3


NAMES = (r"$\foo$", "cost $1 and $2", "_other", "price_$10_$20", "<b>&", "line\nbreak", r"\frac{", "$$", "%d {x}")


def drawings(names: Sequence[str]) -> dict[str, Picture]:
    """Each kind of figure, with the names wherever it takes any."""
    where, labels = torch.arange(12.0).view(6, 2), torch.arange(6) % len(names)
    images = torch.zeros(len(names), 3, 2, 2)
    pairs = {name: (share(0.1), share(0.2)) for name in names}
    return {
        "curves": curves({name: line(0.1, 0.2) for name in names}, [0, 1], ticks=names[:2], xlabel=names[0],
                         ylabel=names[1], marks={names[0]: 0.5}, **TEXTS),
        "dots": dots({name: {other: share(0.2) for other in names} for name in names}, xlabel=names[0], **TEXTS),
        "matrix": matrix({name: {other: share(0.2) for other in names} for name in names}, xlabel=names[0],
                         ylabel=names[0], **TEXTS),
        "scatter": scatter(pairs, xlabel=names[0], ylabel=names[0], **TEXTS),
        "clouds": clouds({names[0]: (where, labels)}, names, alt=ALT, caption=""),
        "points": points({names[0]: dict.fromkeys(names, (where[:, 0], where[:, 1]))}, xlabel=names[0],
                         ylabel=names[0], alt=ALT, caption=""),
        "image_grid": image_grid(dict.fromkeys(names, images), columns=names, notes={names[0]: names}, alt=ALT,
                                 caption=""),
    }


@pytest.mark.parametrize("kind", drawings(["a", "b"]))
@pytest.mark.parametrize("names", [NAMES[:6], NAMES[3:]], ids=["mathtext", "markup"])
def test_names_are_shown_as_they_are(kind: str, names: Sequence[str]) -> None:
    picture = drawings(names)[kind]
    assert "base64" in picture._repr_html_()  # it can be drawn
    texts = picture.figure.findobj(Text)
    assert set(names) <= {text.get_text() for text in texts}
    assert not any(text.get_parse_math() for text in texts)
    legends = picture.figure.findobj(Legend)
    assert [[text.get_text() for text in legend.get_texts()] for legend in legends] == [list(names)] * len(legends)
    assert len(legends) == (kind not in ("matrix", "image_grid"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8), min_size=2, max_size=3,
                unique=True))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_can_stand_in_a_legend(names: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        picture = clouds({names[0]: (torch.zeros(2, 2), torch.tensor([0, 1]))}, names, alt=ALT, caption="")
        picture.figure.draw_without_rendering()
    (legend,) = picture.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names


def test_a_table_is_drawn_with_its_numbers_below() -> None:
    printed = published("kim2021", "Table 2", "CIFAR-10", "VGG-16", "PGD")
    rows = {"ours": {"a": share(0.5), "b": share(0.25), "note": "a text"}, "theirs": {"a": printed, "note": "none"},
            "only text": {"note": "nothing to draw"}}
    found = drawn(Table(rows, "Shares by way.", "profile x"), xlabel="share")
    (axes,) = found.picture.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours", "theirs"]
    (hollow,) = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert hollow.get_xdata() == pytest.approx([printed.value / 100])
    assert "The lowest is 26.0 % (ours, b), the highest 51.0 % (ours, a)." in found.picture.alt
    assert found.picture.results == (rows["ours"]["a"], rows["ours"]["b"])
    picture, _, table = found._repr_html_().partition('<details class="numbers">')
    assert "Hollow: published." in picture
    assert "nothing to draw" in table


@pytest.mark.parametrize(("columns", "message"), [((), r"units \['points', 'share'\]: expected numbers, all in one"),
                                                  (("note",), r"units \[\]: expected numbers")])
def test_a_picture_of_a_table_has_one_axis(columns: Sequence[str], message: str) -> None:
    gap = Result.of("gap", "gap", [0.1, 0.2], unit="points")
    with pytest.raises(ValueError, match=message):
        drawn(Table({"row": {"share": share(0.5), "gap": gap, "note": "x"}}, "Two units."), xlabel="x", columns=columns)


def test_the_images_of_each_setting_stand_in_the_page() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    html = Steps({"0": {"a & b": (images, ["disc", "ring"])}, "1/255": {"a & b": (1 - images, ["", "star"])}}, "eps",
                 **TEXTS)._repr_html_()
    assert re.findall(r'data-step="([^"]+)"', html) == ["0", "1/255"]
    assert re.findall(r'alt="(a &amp; b[^"]*)"', html) == ["a &amp; b: disc", "a &amp; b: ring", "a &amp; b",
                                                           "a &amp; b: star"]
    found = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
             for data in re.findall(r"base64,([^\"]+)", html)]
    for pixels, expected in zip(found, [*images, *(1 - images)], strict=True):
        assert np.abs(pixels / 255 - expected.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
