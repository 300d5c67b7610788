"""Words of the text that speak of a record are held against it when the book is made."""

import dataclasses
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from nbformat import v4, write

from book.press.pages import records
from book.press.says import Statement, difference, side
from nbutils.lab import results
from nbutils.lab.results import Result, wilson
from nbutils.machine import ROOT
from tests.book.test_records import CONF, NAME, PARAMETERS, run, sphinx
from tests.helpers import pages, record


def found(id: str, *values: float, **changes: object) -> Result:
    return dataclasses.replace(Result.of(id, "accuracy", list(values), n=1000), **changes)


@pytest.mark.parametrize(("text", "parts"), [
    ("d-det-generalises is not held", ("d-det-generalises", "is", "not held")),
    ("a.PGD(L2 0.5) above 50 %", ("a.PGD(L2 0.5)", "above", "50 %")),
    ("02_x:a.b not told from a.c d", ("02_x:a.b", "not told from", "a.c d")),
])
def test_a_statement_is_read(text: str, parts: tuple[str, str, str]) -> None:
    assert dataclasses.astuple(Statement.of(text)) == parts


@pytest.mark.parametrize(("text", "number"), [("a above .25", 0.25), ("a below 25 %", 0.25), ("a above b.c", None),
                                              ("a above -3 points", -0.03), ("a above 1", 1.0)])
def test_a_number_is_a_share(text: str, number: float | None) -> None:
    assert Statement.of(text).number == number


@pytest.mark.parametrize(("text", "words"), [
    ("a is hold", "verdict 'hold': expected one of held, undecided, not held, .*; did you mean 'held'?"),
    ("a over b", "expected a claim, 'is' and its verdict, or a result, one of 'above', 'below' and 'not told from'"),
])
def test_what_cannot_be_read_is_told_in_one_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        Statement.of(text)


def test_a_difference_over_seeds_is_the_recorded_one() -> None:
    """Student's t over the paired differences, as `Run.difference` has it, and not over the two spreads."""
    a, b = found("a", 0.5, 0.7, 0.9), found("b", 0.44, 0.66, 0.85)
    paired = Result.of("d", "difference", list(np.subtract(a.values, b.values)), unit="points", n=1000)
    assert difference(a, b) == pytest.approx(paired.limits())
    assert side(a, b) == "above"
    assert side(b, a) == "below"
    assert side(a, 0.6) == "not told from"  # though the mean is .7


def test_a_difference_of_two_models_is_newcombes() -> None:
    """The example of Newcombe (1998), method 10: 56 of 70 minus 48 of 80, [0.0524, 0.3339]."""
    a, b = (found(id, k / n, n=n, k=k) for id, k, n in (("a", 56, 70), ("b", 48, 80)))
    assert difference(a, b) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert difference(a, 0.5) == pytest.approx([end - 0.5 for end in wilson(56, 70)])


def test_nothing_is_decided_without_an_interval_or_a_value() -> None:
    assert side(found("a", 0.5), 0.1) == "without an interval"
    assert side(found("a", float("nan"), 0.5), 0.1) == "undefined"
    with pytest.raises(ValueError, match="units number and share; expected two of one kind"):
        side(found("a", 0.5, 0.6, unit="number"), found("b", 0.5, 0.6))


HIGH, LOW = found("known.high", 0.9, 0.91, 0.9), found("known.low", 0.1, 0.12, 0.1)
TILE = found("known.tile.usefulness", 0.94, 0.95, 0.94, unit="number")
TRUE = ("A {says}`useful pattern <tile-is-useful is held>` stands here. The first is {says}`higher <known.high above "
        "known.low>`, and {says}`most are right <known.high above 50 %>`.")
FALSE = ("All is well. A pattern {says}`fails <tile-is-useful is not held>` here, we say. And the first is "
         "{says}`lower\n<known.high below known.low>`.")


def made(folder: Path, text: str, book: str) -> tuple[int, str, str]:
    """Render a chapter of this text whose run is the book's, or another one: (exit status, messages, page)."""
    own = record([TILE, HIGH, LOW], parameters=PARAMETERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBUTILS_BUILD", str(folder))
        run(results.dumps(own))
    editions = folder / "editions"
    (editions / "quick").mkdir(parents=True)
    (editions / "order.yml").write_text("- quick\n")
    ours = own if book == "same" else record([LOW, dataclasses.replace(LOW, id="known.high"),
                                              dataclasses.replace(TILE, values=(0.1, 0.13, 0.1), value=0.11)],
                                             parameters=PARAMETERS, finished="2030-01-01T00:00:00+00:00")
    (editions / "quick" / f"{NAME}.json").write_text(results.dumps(ours))
    (folder / "notebooks").mkdir()
    cells = [v4.new_markdown_cell(f"# Chapter\n\nIt is {{result}}`known.high`. {text}")]
    notebook = v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    write(notebook, folder / "notebooks" / f"{NAME}.ipynb")
    place = f"from pathlib import Path\nfrom book.press import editions\neditions.EDITIONS = Path({str(editions)!r})\n"
    (folder / "conf.py").write_text(CONF.replace("extensions =", f"{place}extensions =", 1))
    (folder / "index.md").write_text(f"# Book\n\n```{{toctree}}\nnotebooks/{NAME}\n```\n")
    done = subprocess.run([*sphinx(folder), "--keep-going"], capture_output=True, text=True, cwd=ROOT, check=False,
                          env=os.environ | {"NBUTILS_BUILD": str(folder)})
    page = folder / "html" / "notebooks" / f"{NAME}.html"
    return done.returncode, done.stderr, page.read_text() if page.exists() else ""


def test_what_the_record_bears_out_passes(tmp_path: Path) -> None:
    status, messages, page = made(tmp_path, TRUE, "same")
    assert (status, messages) == (0, "")
    assert re.search(r'href="../book/ledger.html#claim-tile-is-useful" title="held \([^"]*">useful pattern</a>', page)
    assert re.search(rf'href="../records/{NAME}.html#known.high" title="above \(known.high 90.3[^"]*">higher</a>', page)
    assert records.MARK not in page


def test_a_contradiction_stops_the_build_with_sentence_and_record(tmp_path: Path) -> None:
    status, messages, _ = made(tmp_path, FALSE, "same")
    assert status != 0
    first, second = (line for line in messages.splitlines() if "the record says otherwise" in line)
    assert f"{NAME}.ipynb" in first
    assert "\N{LEFT DOUBLE QUOTATION MARK}A pattern fails here, we say.\N{RIGHT DOUBLE QUOTATION MARK}" in first
    assert "states tile-is-useful is not held: held (recovers the known truth: yes; 0.943 " in first
    assert "And the first is lower." in second
    assert "states known.high below known.low: above (known.high 90.3 %" in second


def test_a_page_of_another_run_is_marked_and_not_stopped(tmp_path: Path) -> None:
    status, messages, page = made(tmp_path, FALSE, "other")
    assert (status, messages) == (0, "")
    assert '>fails</a><em> (here: held)</em> here' in page
    assert '>lower</a><em> (here: above)</em>' in page
    assert re.search(rf'href="../records/quick/{NAME}.html#known.high" title="edition quick; [^"]*">10.7\xa0%</a><sup>'
                     f"{records.MARK}</sup>", page)


@pytest.fixture
def in_the_book() -> Iterator[None]:
    """The book's records alone: none of what other tests have read."""
    caches = (records.known, records.entries, records.of_the_book)
    for read_once in caches:
        read_once.cache_clear()
    yield
    for read_once in caches:
        read_once.cache_clear()


def test_what_the_text_says_is_so_in_the_book(in_the_book: None) -> None:
    """Without rendering it; a build says the same."""
    wrong, seen = [], 0
    for page, text in pages().items():
        for words, check in re.findall(r"\{says\}`([^`]+?)\s*<([^<`]+)>`", text):
            statement, seen = Statement.of(" ".join(check.split())), seen + 1
            is_verdict = statement.relation == "is"
            held = records.verdict(statement) if is_verdict else records.compared(page, statement)
            if held.book != (statement.object if is_verdict else statement.relation):
                wrong.append(f"{page}: {words!r} states {check}: {held.told}")
    assert not wrong, "\n".join(wrong)
    assert seen
