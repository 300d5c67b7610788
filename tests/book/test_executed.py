"""The book shows executed notebooks, refuses stale or failed ones, and says so where a notice may stand in."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from book.press.chapters import Chapter
from book.press.pages.executed import merged
from nbutils.lab import results
from nbutils.lab.results import MIME
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


def test_the_record_in_a_run_card_is_not_shown(build: Callable) -> None:
    card = nbformat.v4.new_output("display_data", data={MIME: "the record", "text/html": "<p>the card</p>"})
    status, messages, page = build(notebook(card))
    assert (status, messages) == (0, "")
    assert "the card" in page
    assert "the record" not in page


@pytest.mark.parametrize(
    ("twin", "place", "reason"),
    [
        (None, "twin", "not run"),
        (notebook(code="6 * 8"), "twin", "stale since its code was edited"),
        (notebook(ERROR), "twin", "failed in cell 1 of 1: KeyError"),
        (notebook(ERROR), "partial", "failed in cell 1 of 1: KeyError"),
        (notebook(), "partial", "stopped between two cells"),
    ],
)
def test_no_page_from_a_run_that_does_not_count(
    build: Callable, twin: nbformat.NotebookNode | None, place: str, reason: str
) -> None:
    status, messages, _ = build(twin, place)
    assert status != 0
    assert f"01_x at profile quick: {reason}" in messages
    status, messages, page = build(None, incomplete=True)
    assert (status, messages) == (0, "")
    assert "no finished run" in page
    assert reason in page
    assert 'id="label"' in page
    assert ("01_x.partial.ipynb" in page) == (place == "partial")


def test_a_bare_picture_is_refused(build: Callable) -> None:
    picture = nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})
    status, messages, _ = build(notebook(picture))
    assert status != 0
    assert "text alternative" in messages


def test_a_page_from_an_edition_says_so_below_its_title(build: Callable, tmp_path: Path, own_build: Path) -> None:
    ran = record(device="one GPU", parameters={"profile": "gpu", "dataset": "planted"})
    card = nbformat.v4.new_output("display_data", {MIME: results.dumps(ran), "text/html": "<p>card</p>"})
    twin = notebook(nbformat.v4.new_output("stream", text="forty-two"), card)
    stamp = {"set": "steps=5", "engine": "x", "published": "x"}
    twin.metadata = {"edition": stamp, "language_info": {"name": "python"}}
    status, messages, page = build(twin, edition="quick")
    assert (status, messages) == (0, "")
    words = "steps=5</span></code>, recorded on 2030-01-02 on one GPU, from commit abc. Nothing was run for this page."
    assert page.index("Chapter X</h1>" if "Chapter X</h1>" in page else "Chapter X<a") < page.index(words)
    assert page.index("<strong>gpu</strong>, set to") < page.index(words) < page.index("forty-two")
    for changed in ("the code of <code", "the table of published numbers behind it changed"):
        assert page.index(words) < page.index(changed) < page.index("forty-two")
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


def test_a_chapter_that_an_edition_lacks(build: Callable, tmp_path: Path) -> None:
    status, messages, page = build(None, incomplete=True, edition="gpu")
    assert (status, messages) == (0, "")
    assert "Not yet recorded in edition" in page
    assert 'id="label"' in page
    assert "<p>not yet recorded</p>" in (tmp_path / "book" / "html" / "index.html").read_text()
