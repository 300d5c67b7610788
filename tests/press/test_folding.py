"""What a page folds is still there, under a line that says what it is."""

import re

import pytest
from docutils import nodes
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.press.ledger import Entry
from book.press.pages import folding
from nbutils.lab import claims
from nbutils.lab.figures import curves, drawn
from nbutils.lab.results import RecordedVerdict, Result, Table
from tests.helpers import record

RESULT = Result.of("a", "b", [0.5, 0.25], attack="PGD", n=8)
TABLE = Table({"row": {"one": RESULT}}, "Numbers")
VERDICT = claims.Verdict(claims.find("attack-plants-the-pattern"), RESULT, "held", "held in the planted world")


def finished(body: str, page: str = "notebooks/03_constructed_datasets") -> str:
    context = {"body": body}
    folding.finish(None, page, "page.html", context, None)  # type: ignore[arg-type]  # it looks at the page alone
    return context["body"]


def words(page: str) -> list[str]:
    """What stands on a page, folded or not."""
    return sorted(re.sub(r"<summary>.*?</summary>|<[^>]*>|[:.]", " ", page).split())


def test_a_verdict_is_a_line_and_its_criterion_is_folded() -> None:
    shown = VERDICT._repr_html_().replace("<a data-result", '<a class="address" data-result')
    page = finished(shown)
    line, _, inside = page.partition("<details")
    assert "held in the planted world" in line
    assert VERDICT.claim.paraphrase in line
    assert str(RESULT) in line
    assert str(VERDICT.claim.criterion) in inside
    assert set(words(shown)) <= set(words(page))
    assert finished(shown, "book/intro") == shown


def test_why_a_control_failed_is_folded_with_the_criterion() -> None:
    said = "control failed (what it is (net): 0.2, needed: more)"
    failed = claims.Verdict(VERDICT.claim, RESULT, "control failed", said)
    shown = failed._repr_html_().replace("<a data-result", '<a class="address" data-result')
    line, _, inside = finished(shown).partition("<details")
    assert "<strong>⊘ control failed:</strong>" in line
    assert f"Verdict: {said}." in inside


def test_notes_small_print_and_tables_beside_their_picture_are_folded() -> None:
    picture = curves({"line": [RESULT]}, [1], xlabel="x", ylabel="y", caption="A point", stamp="a run")._repr_html_()
    shown = (f'<div class="output text_html">{picture}</div>\n<div class="output text_html">{TABLE._repr_html_()}</div>'
             + drawn(TABLE, xlabel="x")._repr_html_() + TABLE._repr_html_())
    page = finished(shown)
    assert words(page) == words(shown)
    assert page.count("<summary>The numbers</summary>") == 2
    assert page.count("<summary>Intervals, attacks and settings</summary>") == 3
    assert page.count("<summary>Intervals and record</summary>") == 2
    assert page.count("<details") == page.count("</details>") == 7


@pytest.mark.parametrize(("kind", "name"), [("nf", "step"), ("nc", "PGD"), ("fm", "__call__")])  # as Pygments has it
def test_code_of_the_engine_is_folded_under_its_name(kind: str, name: str) -> None:
    code = (f'<div class="highlight-default notranslate"><div class="highlight"><pre><span class="{kind}">{name}</span>'
            "</pre></div>\n</div>")
    assert finished(code) == folding.box(code, f"In code: <code>{name}</code>", "code")


def test_cells_have_the_tags_of_today_and_gone_code_is_folded() -> None:
    hidden = {"tags": ["hide-input"]}
    source = new_notebook(cells=[new_code_cell("a", id="a", metadata=hidden), new_code_cell("b", id="b")])
    ran = [new_code_cell("a", id="a"), new_code_cell("b", id="b", metadata=hidden),
           new_code_cell("c", id="c", metadata={"tags": ["x"]}), new_code_cell("d", id="d", metadata=hidden)]
    tags = [cell.metadata["tags"] for cell in folding.tagged(ran, source)]
    assert tags == [["hide-input"], [], ["hide-input", "x"], ["hide-input"]]  # each once, as nbformat asks


def test_a_folded_section_keeps_its_heading_and_tells_its_verdicts() -> None:
    cell = new_markdown_cell("(a)=\n## Control\n\nText.\n\n### More", metadata={"tags": ["folded"]})
    folding.tagged([cell], new_notebook())
    assert cell.source.count("% folded") == 1
    assert "## Control\n\n% folded\n" in cell.source

    inner = nodes.section("", nodes.title("", "More"), nodes.comment("", "folded"), nodes.paragraph("", "Deep"))
    outer = nodes.section("", nodes.title("", "Control"), nodes.comment("", "folded"), nodes.paragraph("", "Text"))
    outer += inner
    doctree = nodes.Element("", outer)
    folding.parts(None, doctree)  # type: ignore[arg-type]  # it looks at the tree alone
    kinds = [type(child).__name__ for child in outer.children]
    assert kinds == ["title", "raw", "paragraph", "section", "raw"]
    assert [type(child).__name__ for child in inner.children] == ["title", "paragraph"]

    page = finished(outer[1].astext() + VERDICT._repr_html_() + outer[-1].astext())
    summary = page.partition("</summary>")[0]
    assert VERDICT.claim.paraphrase in summary
    assert "<a" not in summary


def test_a_box_names_no_result_by_its_id() -> None:
    assert folding.plain("not comparable (known.DM, known.CL: not measured)", None) == (
        "not comparable (a control that it asks for was not measured)")
    failed = "control failed (known.label: a: 0.1 [0.0, 0.2], needed: above 0.5; known.b: 0.2, needed: above 0.5 (all))"
    ran = record([Result.of("known.label: a", "what is known", [0.1], model="net")])
    assert folding.plain(failed, ran) == ("control failed (what is known (net): 0.1 [0.0, 0.2], needed: above 0.5; "
                                          "a control: 0.2, needed: above 0.5 (all))")
    for words in ("held", "not comparable (1 seed, the claim asks for 3)", "held, fragile (q = 0.060)"):
        assert folding.plain(words, ran) == words


def test_a_box_says_how_an_older_run_came_out_by_the_criterion_of_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    unmeasured = Entry(VERDICT.claim, None, None, None)
    monkeypatch.setattr(folding.ledger, "runs", dict)
    assert folding.told(unmeasured) == ("not run", "")
    runs = {"quick": {VERDICT.claim.chapter: record([RESULT], verdicts=[RecordedVerdict(
        claim=VERDICT.claim.id, held="held", words="held in the planted world", result=RESULT.id)])}}
    monkeypatch.delenv("BOOK_PROFILE", raising=False)
    monkeypatch.setattr(folding.ledger, "runs", lambda: runs)
    assert folding.told(unmeasured) == (
        "not judged (today's criterion is newer than this run; by an earlier one held in the planted world)",
        str(RESULT))
    assert folding.told(Entry(VERDICT.claim, VERDICT, None, None)) == (VERDICT.words, str(RESULT))
    assert folding.told(Entry(claims.find("attacks-transfer"), None, None, None)) == ("not run", "")
