"""The book shows executed notebooks, refuses stale or failed ones, and says so where a notice may stand in."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from book.press import chapters, editions
from book.press.chapters import Chapter
from book.press.ledger import Entry
from book.press.pages import executed, records
from book.press.pages.executed import merged
from nbutils.lab import claims, results
from nbutils.lab.claims import Verdict
from nbutils.lab.parameters import NEEDS_TRUTH
from nbutils.lab.results import MIME, Result
from nbutils.machine import ROOT
from tests.helpers import WITHOUT_TORCH, record

CONF = f"""{WITHOUT_TORCH}
sys.path.append({str(ROOT)!r})
extensions = ["myst_nb", "book.press.pages.executed"]
nb_execution_mode = "off"
html_theme = "basic"
myst_enable_extensions = ["colon_fence"]
"""
INDEX = """# Book

```{toctree}
01_x
```

```{execution-status}
```
"""
ERROR = nbformat.v4.new_output("error", ename="KeyError", evalue="`x`", traceback=[])


def notebook(*outputs: nbformat.NotebookNode, code: str = "6 * 7") -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell(code, outputs=list(outputs), id="code")
    title = nbformat.v4.new_markdown_cell("(label)=\n# Chapter X", id="title")
    metadata = {"papermill": {"duration": 90.0}, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=[title, cell], metadata=metadata)


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Renders a book of one chapter whose twin is given: (exit status, messages, the chapter's page)."""
    book = tmp_path / "book"
    book.mkdir()
    (book / "conf.py").write_text(CONF)
    (book / "index.md").write_text(INDEX)
    nbformat.write(notebook(), book / "01_x.ipynb")
    chapter = Chapter(book / "01_x.ipynb", "quick")
    chapter.twin.parent.mkdir(parents=True)

    def _build(
        twin: nbformat.NotebookNode | None, place: str = "twin", incomplete: bool = False, edition: str = ""
    ) -> tuple[int, str, str]:
        if twin:
            nbformat.write(twin, getattr(chapter, place))
        words = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", str(book), str(book / "html")]
        environment = {"BOOK_PROFILE": "quick", "BOOK_INCOMPLETE": "1" if incomplete else "",
                       "BOOK_EDITION": edition}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        page = book / "html" / "01_x.html"
        return done.returncode, done.stderr, page.read_text() if page.exists() else ""

    return _build


def test_the_page_shows_the_twin_and_the_table_its_record(build: Callable, tmp_path: Path) -> None:
    twin = notebook(nbformat.v4.new_output("stream", text="forty-two"))
    twin.cells.insert(1, nbformat.v4.new_code_cell("# Parameters", metadata={"tags": ["injected-parameters"]}))
    status, messages, page = build(twin)
    assert (status, messages) == (0, "")
    assert "forty-two" in page
    table = (tmp_path / "book" / "html" / "index.html").read_text()
    assert "Chapter X" in table
    assert "1.5" in table


def test_new_text_is_shown_without_a_new_run(build: Callable, tmp_path: Path) -> None:
    source = notebook()
    source.cells[0].source += "\n\nNew words."
    source.cells.append(nbformat.v4.new_markdown_cell("New end."))
    nbformat.write(source, tmp_path / "book" / "01_x.ipynb")
    twin = notebook(nbformat.v4.new_output("stream", text="forty-two"))
    twin.cells.append(nbformat.v4.new_markdown_cell("Old end."))
    status, messages, page = build(twin)
    assert (status, messages) == (0, "")
    assert page.index("New words.") < page.index("forty-two") < page.index("New end.")
    assert "Old end." not in page


def test_marks_for_who_makes_assignments_are_not_shown(build: Callable, tmp_path: Path) -> None:
    code = "### BEGIN SOLUTION\nanswer = 42\n### END SOLUTION"
    nbformat.write(notebook(code=code), tmp_path / "book" / "01_x.ipynb")
    status, messages, page = build(notebook(nbformat.v4.new_output("stream", text="forty-two"), code=code))
    assert (status, messages) == (0, "")
    assert "answer" in page
    assert "SOLUTION" not in page


def test_the_record_in_a_run_card_is_not_shown(build: Callable) -> None:
    card = nbformat.v4.new_output("display_data", data={MIME: "the record", "text/html": "<p>the card</p>"})
    status, messages, page = build(notebook(card))
    assert (status, messages) == (0, "")
    assert "the card" in page
    assert "the record" not in page


def test_an_alternative_text_does_not_tell_what_another_run_showed(build: Callable) -> None:
    told = '<img src="data:," alt="Three curves. In the default run two &quot;fall&quot;."><p>In the default run</p>'
    status, messages, page = build(notebook(nbformat.v4.new_output("display_data", data={"text/html": told})))
    assert (status, messages) == (0, "")
    assert 'alt="Three curves."><p>In the default run</p>' in page


def test_no_page_from_runs_that_do_not_count(build: Callable, tmp_path: Path) -> None:
    """Five chapters of one book, each with another reason."""
    runs = [
        (None, "twin", "not run"),
        (notebook(code="6 * 8"), "twin", "stale since its code was edited"),
        (notebook(ERROR), "twin", "failed in cell 1 of 1: KeyError"),
        (notebook(ERROR), "partial", "failed in cell 1 of 1: KeyError"),
        (notebook(), "partial", "stopped between two cells"),
    ]
    chapters = [Chapter(tmp_path / "book" / f"{number:02}_x.ipynb", "quick") for number in range(1, 6)]
    for chapter, (twin, place, _) in zip(chapters, runs, strict=True):
        source = notebook()
        source.cells[0].source = source.cells[0].source.replace("label", f"label-{chapter.name}")
        nbformat.write(source, chapter.source)
        if twin:
            nbformat.write(twin, getattr(chapter, place))
    contents = "\n".join(chapter.name for chapter in chapters)
    (tmp_path / "book" / "index.md").write_text(INDEX.replace("01_x", contents))
    status, messages, _ = build(None)
    assert status != 0
    assert "01_x at profile quick: not run" in messages  # it stops at the first; the others are refused alike
    status, messages, _ = build(None, incomplete=True)
    assert (status, messages) == (0, "")
    for chapter, (_, place, reason) in zip(chapters, runs, strict=True):
        assert chapter.state().status != "ok"
        page = (tmp_path / "book" / "html" / f"{chapter.name}.html").read_text()
        assert "no finished run" in page
        assert reason in page
        assert f'id="label-{chapter.name.replace("_", "-")}"' in page
        assert (f"{chapter.name}.partial.ipynb" in page) == (place == "partial")


def test_a_bare_picture_is_refused(build: Callable) -> None:
    picture = nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})
    status, messages, _ = build(notebook(picture))
    assert status != 0
    assert "text alternative" in messages


def test_a_page_says_at_its_head_what_it_shows_and_at_its_foot_where_it_came_from(
    build: Callable, tmp_path: Path, own_build: Path
) -> None:
    ran = record(device="one GPU", parameters={"profile": "gpu", "dataset": "planted"})
    card = nbformat.v4.new_output("display_data", {MIME: results.dumps(ran), "text/html": "<p>card</p>"})
    twin = notebook(nbformat.v4.new_output("stream", text="forty-two"), card)
    stamp = {"set": "steps=5", "engine": "x", "published": "x"}
    twin.metadata = {"edition": stamp, "language_info": {"name": "python"}}
    status, messages, page = build(twin, edition="quick")
    assert (status, messages) == (0, "")
    head = "Shown: the run <strong>gpu</strong> on planted images (1 seed), 2030-01-02."
    assert page.index("Chapter X</h1>" if "Chapter X</h1>" in page else "Chapter X<a") < page.index(head)
    words = "steps=5</span></code>, recorded on 2030-01-02 on one GPU, from commit abc. Nothing was run for this page."
    assert page.index(head) < page.index("forty-two") < page.index("<strong>gpu</strong>, set to") < page.index(words)
    for changed in ("the code of <code", "the table of published numbers behind it changed"):
        assert page.index(words) < page.index(changed)
    table = (tmp_path / "book" / "html" / "index.html").read_text()
    for cell in ("gpu", "1.5", "2030-01-02 03:04", "one GPU"):
        assert f"<p>{cell}</p>" in table


def test_markup_in_a_record_is_shown_as_it_is_written(build: Callable, tmp_path: Path) -> None:
    device = "<img src=x onerror=alert(1)> `a` | $b$ [c](d)"
    ran = record(device=device, commit="<b>", parameters={"profile": "gpu", "dataset": "folder:`<i>`"})
    card = nbformat.v4.new_output("display_data", {MIME: results.dumps(ran), "text/html": "<p>card</p>"})
    twin = notebook(card)
    twin.metadata = {"edition": {"set": "", "engine": "x", "published": "x"}, "language_info": {"name": "python"}}
    status, messages, page = build(twin, edition="quick")
    assert (status, messages) == (0, "")
    shown = "&lt;img src=x onerror=alert(1)&gt; `a` | $b$ [c](d)"
    assert shown in page
    assert shown in (tmp_path / "book" / "html" / "index.html").read_text()
    for markup in ("<img src=x", "<b>,", "<i>"):
        assert markup not in page


def test_code_that_ran_is_shown_with_the_text_of_today() -> None:
    """Cells are found by their ids; all that ran is shown, in its order, and what never ran is not."""
    def made(*cells: tuple[str, str]) -> nbformat.NotebookNode:
        kinds = {"t": nbformat.v4.new_markdown_cell, "c": nbformat.v4.new_code_cell}
        return nbformat.v4.new_notebook(cells=[kinds[id[0]](text, id=id) for id, text in cells])

    source = made(("t1", "A"), ("c1", "new 1"), ("t2", "B"), ("c9", "added"), ("t3", "C"), ("c3", "3"), ("t4", "D"))
    twin = made(("c1", "old 1"), ("c2", "gone"), ("c3", "3"))
    assert [cell.source for cell in merged(source, twin)] == ["A", "old 1", "gone", "B", "C", "3", "D"]
    turned = made(("c3", "3"), ("c1", "old 1"))
    assert [cell.source for cell in merged(source, turned)] == ["A", "B", "C", "3", "old 1", "D"]
    same = made(("t1", "A"), ("c1", "1"), ("t2", "B"), ("c2", "2"))
    other_ids = made(("c7", "1"), ("c8", "2"))
    assert [cell.source for cell in merged(same, other_ids)] == ["A", "1", "B", "2"]


def test_a_text_says_that_all_it_would_show_is_newer_than_the_run() -> None:
    """Not where the run shows something below it, nor where the new code shows nothing."""
    def made(*cells: tuple[str, str]) -> nbformat.NotebookNode:
        kinds = {"t": nbformat.v4.new_markdown_cell, "c": nbformat.v4.new_code_cell}
        return nbformat.v4.new_notebook(cells=[kinds[id[0]](text, id=id) for id, text in cells])

    judged = "run.judge('a-claim')"
    source = made(("t1", "A"), ("c1", "new"), ("t2", "B"), ("c2", judged), ("t3", "C"), ("c3", "3"), ("c4", judged),
                  ("t5", "D"), ("c5", "def f(): pass"), ("t6", "E"), ("c6", "6"), ("c7", judged))
    twin = made(("c1", "old"), ("c3", "3"), ("c6", "6"))
    twin.cells[1].outputs = [nbformat.v4.new_output("stream", text="shown")]
    assert [cell.source for cell in merged(source, twin)] == [
        "A", "old", "B", executed.NEWER, "C", "3", "D", "E", executed.NEWER, "6"]


CHAPTER = "04_transferability"
CLAIMS = [claim for claim in claims.load().values() if claim.chapter == CHAPTER]
FOUND = [Result.of(attack, "x", [0.5] * 5, n=n, attack=attack) for attack, n in
         (("none", 1500), ("Noise(L2 1)", 1500), ("PGD(L2 1)", 500), ("PGD(L2 1) in training", 6000))]
SIZES = "5 seeds of up to 1,500 test images, under attack 500"


@pytest.fixture
def editions_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Editions with a chapter of three cells, two of which need a truth: on photographs, on planted images."""
    monkeypatch.setattr(editions, "EDITIONS", tmp_path)
    monkeypatch.setattr(executed, "EDITIONS", tmp_path)
    (tmp_path / "order.yml").write_text("- cifar-cpu\n- planted\n")
    for name, dataset in (("cifar-cpu", "folder:photographs"), ("planted", "planted")):
        (tmp_path / name).mkdir()
        parameters = {"profile": name, "dataset": dataset, "seeds": 5, "test_size": 2000}
        ran = record(FOUND, chapter=CHAPTER, parameters=parameters)
        (tmp_path / name / f"{CHAPTER}.json").write_text(results.dumps(ran))
        cells = [nbformat.v4.new_code_cell(f"{id} of {name}", id=id) for id in ("a", "b", "c")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / name / f"{CHAPTER}.ipynb")
    source = [nbformat.v4.new_code_cell(code, id=id) for id, code in
              (("a", "a"), ("b", f"{NEEDS_TRUTH}\nb"), ("c", f"{NEEDS_TRUTH}\nc"), ("d", f"{NEEDS_TRUTH}\nd"))]
    nbformat.write(nbformat.v4.new_notebook(cells=source), tmp_path / f"{CHAPTER}.ipynb")
    return tmp_path


def ran_on(place: Path, dataset: str, **changes: object) -> Chapter:
    """The chapter as it last ran, on these images."""
    parameters = {"profile": "quick", "dataset": dataset, "seeds": 3, "attack_size": 100}
    card = nbformat.v4.new_output("display_data", {MIME: results.dumps(record(
        chapter=CHAPTER, parameters=parameters, **changes))})
    chapter = Chapter(place / f"{CHAPTER}.ipynb", "quick")
    cells = [nbformat.v4.new_code_cell(f"{id} ran", id=id) for id in ("a", "b", "c", "d")]
    cells[-1].outputs = [card]
    chapter.twin.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), chapter.twin)
    return chapter


def test_what_needs_a_known_truth_is_shown_from_planted_images(editions_of_both: Path) -> None:
    """One line stands above cells that follow each other, another in place of those that the edition does not have."""
    chapter = ran_on(editions_of_both, "folder:photographs")
    shown = executed.with_controls(chapters.read(chapter.twin).cells, chapter)
    edition = f"edition **planted** on planted images ({SIZES})"
    words, older = (f":::{{container}} shown-controls\nNeeds a known truth, {rest}.\n:::" for rest in (
        f"so it is shown from {edition}", f"and is newer than {edition}, so no result is shown"))
    assert [cell.source for cell in shown] == ["a ran", words, "b of planted", "c of planted", older]
    planted = ran_on(editions_of_both, "planted")
    assert [cell.source for cell in executed.with_controls(chapters.read(planted.twin).cells, planted)] == [
        "a ran", "b ran", "c ran", "d ran"]


def test_a_page_of_another_run_says_what_came_out_otherwise(editions_of_both: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = CLAIMS[:2]
    found = Result.of("x", "x", [0.5, 0.5], n=10)

    def ledger_of(*states: str) -> list[Entry]:
        return [Entry(claim, Verdict(claim, found, state, state), None, None)
                for claim, state in zip((first, second), states, strict=True)]

    monkeypatch.setattr(executed.ledger, "of_the_book", lambda: ledger_of("held", "undecided"))
    monkeypatch.setattr(executed.ledger, "entries", lambda: ledger_of("held", "not held"))
    monkeypatch.setattr(records, "the_books", editions.of_the_book)
    ours = results.read(editions_of_both / "cifar-cpu" / f"{CHAPTER}.json")
    monkeypatch.setattr(executed, "known", lambda: {f"cifar-cpu/{CHAPTER}": ours})
    chapter = ran_on(editions_of_both, "planted", finished="2030-02-01T00:00:00+00:00")
    assert chapter.record
    assert executed.head(chapter, chapter.record) == (
        "This page shows another run than the one that the book is about: **quick** on planted images (3 seeds), "
        f"2030-02-01. In sentences, numbers marked {records.MARK} are the book's, from edition "
        f"**cifar-cpu** on images of `photographs` ({SIZES}).\n\n"
        ":::{dropdown} 1 verdict came out otherwise\n"
        f"- {{claim}}`{second.id}`: not held, in the book undecided\n:::")
    assert executed.head(chapter, ours) == (
        f"Shown: the run **cifar-cpu** on images of `photographs` ({SIZES}), 2030-01-02.")


def test_a_chapter_that_an_edition_lacks(build: Callable, tmp_path: Path) -> None:
    status, messages, page = build(None, incomplete=True, edition="gpu")
    assert (status, messages) == (0, "")
    assert "Not yet recorded in edition" in page
    assert 'id="label"' in page
    assert "<p>not yet recorded</p>" in (tmp_path / "book" / "html" / "index.html").read_text()


def test_a_page_has_one_verdict_for_a_claim() -> None:
    """That of today's criterion; where the day of the run said otherwise, the box names that, too."""
    first, second = CLAIMS[:2]
    found = Result.of("x", "x", [0.5, 0.5], n=10)
    told = ((first, "held & done"), (second, "held"))  # the second is a word of its box's class, too
    boxes = {claim.id: Verdict(claim, found, "held", words)._repr_html_() for claim, words in told}
    cell = nbformat.v4.new_code_cell("judge", outputs=[
        nbformat.v4.new_output("display_data", {"text/html": f"<p>a</p>{''.join(boxes.values())}<p>b</p>"})])
    now = Verdict(first, found, "not held", "not held")
    ran = record()
    executed.judged_today([cell], [Entry(first, now, None, None), Entry(second, None, None, None)], ran)
    shown = cell.outputs[0].data["text/html"]
    today = now._repr_html_().removesuffix("</p></div>") + " On the day of the run: held &amp; done.</p></div>"
    words = "· not judged (today&#x27;s criterion is newer than this run; by an earlier one held)"
    unmeasured = boxes[second.id].replace("✓ held", words).replace("verdict-held", "verdict-not-run")
    assert shown == f"<p>a</p>{today}{unmeasured}<p>b</p>"
    executed.judged_today([cell], [], ran)
    assert cell.outputs[0].data["text/html"] == shown
    executed.judged_today([cell], [Entry(first, now, None, None)], ran)
    assert cell.outputs[0].data["text/html"] == f"<p>a</p>{now._repr_html_()}{unmeasured}<p>b</p>"


def test_a_printed_box_names_no_result_by_its_id() -> None:
    claim, ran = CLAIMS[0], record([Result.of("a.b", "what it is", [0.1], model="net")])
    verdicts = [Verdict(claim, ran.results[0], "control failed", f"control failed (a.b: {value}, needed: more)")
                for value in (0.1, 0.2)]
    cell = nbformat.v4.new_code_cell("judge", outputs=[
        nbformat.v4.new_output("display_data", {"text/html": verdicts[0]._repr_html_()})])
    executed.judged_today([cell], [Entry(claim, verdicts[1], ran, None)], ran)
    shown = cell.outputs[0].data["text/html"]
    assert "control failed (what it is (net): 0.2, needed: more)" in shown
    assert "On the day of the run: control failed (what it is (net): 0.1, needed: more)." in shown
    assert "a.b: " not in shown
