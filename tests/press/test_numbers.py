"""Equations, figures, tables and exercises have numbers of their own, and drawings stand in the page."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from book.press.pages import numbers
from nbutils.lab.figures import curves
from nbutils.lab.results import Result, Table
from nbutils.machine import ROOT
from tests.helpers import pages

DRAWINGS = {path.name: path.read_text() for path in (ROOT / "book" / "_static").glob("*.svg")}


def finished(body: str, page: str = "notebooks/03_constructed_datasets") -> str:
    context = {"body": body}
    numbers.finish(None, page, "page.html", context, None)  # type: ignore[arg-type]  # it looks at the page alone
    return context["body"]


def test_figures_and_tables_count_by_chapter() -> None:
    line = [Result.of("a", "b", [0.5, 0.25])]
    picture = curves({"line": line}, [1], xlabel="x", ylabel="y", caption="A point")._repr_html_()
    table = Table({"row": {"one": Result.of("a", "b", [0.5, 0.25])}}, "Numbers")._repr_html_()
    found = re.findall(r"(?:Figure|Table) [\d.]+", finished(picture + table + picture + table + table))
    assert found == ["Figure 3.1", "Table 3.1", "Figure 3.2", "Table 3.2", "Table 3.3"]
    assert finished(picture, "book/intro") == picture
    numbered_by_sphinx = '<figcaption>\n<p><span class="caption-number">Fig. 1</span></p></figcaption>'
    assert finished(numbered_by_sphinx) == numbered_by_sphinx


def test_exercises_count_by_chapter_and_so_do_their_solutions() -> None:
    title = '<p class="admonition-title">'
    exercise = title + '<span class="caption-number">Exercise {} </span> (Recall)</p>'
    solution = title + 'Solution to<a class="reference internal" href="#ex"> Exercise {} (Recall)</a></p>'
    page = finished("".join((exercise + solution).format(number, number) for number in (12, 13)))
    assert re.findall(r"Exercise [\d.]+", page) == ["Exercise 3.1", "Exercise 3.1", "Exercise 3.2", "Exercise 3.2"]


def test_where_all_pages_are_one_each_chapter_counts_for_itself() -> None:
    exercise = '<span class="caption-number">Exercise {} </span>'
    one = "<p>intro</p>" + "".join(f'<span id="document-{name}"></span>' + exercise.format(number) for name, number in (
        ("notebooks/01_x", 1), ("notebooks/02_y", 2), ("book/z", 3), ("notebooks/03_w", 4)))
    found = re.findall(r"Exercise [\d.]+", finished(one, "book/intro"))
    assert found == ["Exercise 1.1", "Exercise 2.1", "Exercise 3", "Exercise 3.1"]


def test_equations_count_by_chapter_in_their_order() -> None:
    given = {"notebooks/12_three_definitions": {"displaymath": {"eq-b": (7,), "eq-a": (8,)}, "figure": {"f": (1,)}},
             "book/notation": {"displaymath": {"eq-c": (9,)}}}
    env = SimpleNamespace(toc_fignumbers=given)
    numbers.equations(None, env)  # type: ignore[arg-type]
    assert given["notebooks/12_three_definitions"] == {"displaymath": {"eq-b": (12, 1), "eq-a": (12, 2)},
                                                       "figure": {"f": (1,)}}
    assert given["book/notation"] == {"displaymath": {"eq-c": (9,)}}


def test_a_claims_name_leads_to_the_ledger() -> None:
    page = finished('<span class="claim-id">tile-is-useful</span>')
    assert page == '<a class="claim-id" href="../book/ledger.html#claim-tile-is-useful">tile-is-useful</a>'


def test_every_drawing_that_a_page_names_is_there_and_says_what_it_shows() -> None:
    shown = re.findall(r"\{drawing\} (\S+)\n:alt: (.+)\n(.+)\n", "\n".join(pages().values()))
    assert len(shown) >= 4
    for name, alt, caption in shown:
        assert name in DRAWINGS
        assert len(alt) > 100
        assert len(caption) > 30


@pytest.mark.parametrize("name", sorted(name for name in DRAWINGS if name != "debate.svg"))
def test_a_drawing_has_the_colours_of_its_page(name: str) -> None:
    """No colour of its own, which the dark page would swallow, and no name that another drawing has, too."""
    assert set(re.findall(r'(?:fill|stroke)="([^"]+)"', DRAWINGS[name])) <= {"none", "currentColor"}
    assert all(id.startswith(Path(name).stem) for id in re.findall(r'\bid="([^"]+)"', DRAWINGS[name]))
