"""Numbers lead to their records, in a book rendered as the real one is."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from nbformat import read, v4, write
from sphinx.errors import ExtensionError

from book.press import editions
from book.press.chapters import Chapter, every
from book.press.pages import records
from nbutils.lab import results
from nbutils.lab.results import Result, Table
from nbutils.machine import ROOT
from tests.helpers import WITHOUT_TORCH, record

NAME = "01_known_features"  # a chapter that exists: pages are made for chapters only
CONF = f"""{WITHOUT_TORCH}
sys.path.append({str(ROOT)!r})
extensions = ["myst_nb", "book.press.pages.folding", "book.press.pages.ledger", "book.press.pages.records"]
nb_execution_mode = "off"
html_theme = "basic"
exclude_patterns = ["build", "executed"]
"""
PAGE = """# Book

Here {result}`01_known_features:known.tile.usefulness`, there {result}`02_adversarial_training:any.id`,
in print {published}`kim2021; Table 2; CIFAR-10; VGG-16; PGD`.
An edition has {result}`quick/01_known_features:known.tile.usefulness`, with its interval
{interval}`quick/01_known_features:known.tile.usefulness`.

```{toctree}
notebooks/01_known_features
```

One sentence names {claim}`tile-is-useful`.

```{verdicts}
tile-is-useful
attacks-transfer
```

```{claims-picture}
```

```{claims-ledger}
```

```{kept-editions}
```

```{seed-minutes} quick
first_seed=100 dataset=4 network=8
```

```{claims-beside}
```
"""
PARAMETERS = {"profile": "quick", "dataset": "planted", "eps": "<8/255>"}


def sphinx(folder: Path) -> list[str]:
    """The command that renders a folder, with warnings as errors."""
    return [sys.executable, "-m", "sphinx", "-q", "-W", str(folder), str(folder / "html")]


def run(card: str, **papermill: object) -> Chapter:
    """Leave an executed chapter, in $NBUTILS_BUILD, whose run card holds this record."""
    chapter = next(chapter for chapter in every("quick") if chapter.name == NAME)
    notebook = read(chapter.source, as_version=4)
    notebook.metadata["papermill"] = {"duration": 1.0, **papermill}
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    last.outputs = [v4.new_output("display_data", {results.MIME: card})]
    chapter.twin.parent.mkdir(parents=True, exist_ok=True)
    write(notebook, chapter.twin)
    return chapter


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pages of a book whose one chapter shows a table of two results, one of them on record."""
    known = Result.of("known.tile.usefulness", "usefulness", [0.94, 0.95, 0.94], unit="number", n=500, data="planted")
    spaced = Result.of("a.PGD(L_inf 8/255, <5>)", "accuracy", [0.5, 0.25], n=8, attack="PGD", threat="L_inf 8/255")
    lost = Result.of("lost", "accuracy", [0.125])
    tmp_path = tmp_path_factory.mktemp("book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBUTILS_BUILD", str(tmp_path))
        judged = [results.RecordedVerdict(claim="tile-is-useful", held="held")]
        ran = record([known, spaced], parameters=PARAMETERS).model_copy(update={"verdicts": judged})
        run(results.dumps(ran))
    table = Table({"row": {"one": known, "two": spaced, "three": lost}}, "All")
    shown = v4.new_output("display_data", data={"text/html": table._repr_html_()})
    text = "# Chapter\n\nIt is right on {result}`a.PGD(L_inf 8/255, <5>)` of them."
    cells = [v4.new_markdown_cell(text), v4.new_code_cell("table", outputs=[shown])]
    (tmp_path / "notebooks").mkdir()
    notebook = v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    write(notebook, tmp_path / "notebooks" / f"{NAME}.ipynb")
    (tmp_path / "conf.py").write_text(CONF)
    (tmp_path / "index.md").write_text(PAGE)
    environment = os.environ | {"NBUTILS_BUILD": str(tmp_path)}
    subprocess.run(sphinx(tmp_path), check=True, cwd=ROOT, env=environment)
    html = tmp_path / "html"
    names = ("index.html", f"notebooks/{NAME}.html", f"records/{NAME}.html", f"records/quick/{NAME}.html",
             "ledger.json")
    return {name: (html / name).read_text() for name in names}


def test_each_recorded_number_of_a_chapter_leads_to_its_row(pages: dict[str, str]) -> None:
    chapter = pages[f"notebooks/{NAME}.html"]
    links = re.findall(r'<a class="address" href="\.\./records/01_known_features\.html#([^"]+)">', chapter)
    rows = re.findall(r'<tr id="([^"]+)">', pages[f"records/{NAME}.html"])
    assert links == rows == ["known.tile.usefulness", "a.PGD-L_inf-8-255-5-"]
    assert "<a>12.5 %</a>" in pages[f"notebooks/{NAME}.html"]  # it is not on record: no link that leads nowhere


def test_a_number_in_the_text_leads_to_its_row(pages: dict[str, str]) -> None:
    page, chapter = pages["index.html"], pages[f"notebooks/{NAME}.html"]
    book = rf'href="records/planted/{NAME}.html#known.tile.usefulness" title="usefulness[^"]*mean over 5 seeds[^"]*"'
    assert re.search(rf'{book}>[\d.]+</a>, there <em>not yet recorded<', page)  # the record that the book is about
    title = r'title="accuracy; 37.5 % \[[^"]*; mean over 2 seeds, [^"]*; n = 8 images per seed"'
    assert re.search(rf'href="../records/{NAME}.html#a.PGD-L_inf-8-255-5-" {title}>37.5\xa0%</a> of', chapter)
    assert '<abbr title="Kim et al. 2021: Table 2; CIFAR-10; VGG-16; PGD (certain)">93.43\xa0%</abbr>' in page


def test_the_numbers_of_editions_have_addresses_whatever_the_book_shows(pages: dict[str, str]) -> None:
    page = pages["index.html"]
    id = "known.tile.usefulness"
    assert re.search(rf'href="records/quick/{NAME}.html#{id}" title="[^"]+">[\d.]+</a>, with', page)
    assert re.search(rf'href="records/quick/{NAME}.html#{id}" title="[^"]+">[\d.]+\xa0\[[\d.]+,\xa0[\d.]+\]</a>', page)
    assert f'<a href="../records/quick/{NAME}.html">01</a>, <a href="../records/quick/02_' in page  # what is kept
    assert page.count(f'href="../records/quick/{NAME}.html#{id}"') == 1  # its claim, beside other editions
    took = editions.find("quick", NAME)
    minutes = took.minutes / took.parameters["seeds"]
    assert f"<tr><td>01</td><td>{minutes:.1f}</td><td>800</td><td>{minutes * 800 / 60:.0f}</td></tr>" in page
    kept = pages[f"records/quick/{NAME}.html"]
    assert f'<a href="../../notebooks/{NAME}.html">{NAME}</a>, edition quick' in kept
    assert f'<tr id="{id}">' in kept


KNOWN = {NAME: record([Result.of("known.tile", "share", [0.5])])}
OTHER_IMAGES = {NAME: record(parameters={"profile": "quick", "dataset": "cifar10"})}


@pytest.mark.parametrize(("text", "words"), [
    (f"{NAME}:known.tle", f"no such result in the record of {NAME}; did you mean 'known.tile'?"),
    ("known.tile", f"this page is no chapter; name one before the id, as in {NAME}:known.tile"),
    (f"quik/{NAME}:known.tile", "no edition 'quik'; did you mean 'quick'?"),
    ("01_known:known.tile", f"no chapter '01_known'; did you mean '{NAME}'?"),
])
def test_a_wrong_name_in_the_text_is_told_in_one_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(words) + "$"):
        records.look_up(KNOWN, "book/intro", text)


def test_what_there_is_no_result_for() -> None:
    assert records.look_up(KNOWN, "02_adversarial_training", "an.id")[1] == "not run"
    assert records.look_up(KNOWN, "page", f"gpu/{NAME}:an.id") == (f"gpu/{NAME}", "not yet recorded")
    assert records.look_up(OTHER_IMAGES, f"notebooks/{NAME}", "known.tile")[1] == "not measured"


def test_the_text_speaks_of_the_record_that_the_book_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever run the page shows; what only planted images can tell comes from the edition on those."""
    monkeypatch.setattr(records, "the_books", lambda chapter: "cifar-cpu")
    monkeypatch.setattr(records, "the_controls", lambda chapter: "planted")
    tile, high = (Result.of(id, "share", [0.25]) for id in ("known.tile", "known.high"))
    new = Result.of("known.new", "share", [0.75])
    book = record([high], finished="2031-01-01T00:00:00+00:00")
    known = {NAME: record([tile, high, new]), f"cifar-cpu/{NAME}": book, f"planted/{NAME}": record([tile, high])}
    for page, prefix in ((f"notebooks/{NAME}", ""), ("book/intro", f"{NAME}:")):
        assert records.look_up(known, page, f"{prefix}known.high") == (f"cifar-cpu/{NAME}", high)
        assert records.look_up(known, page, f"{prefix}known.tile") == (f"planted/{NAME}", tile)
        assert records.look_up(known, page, f"{prefix}known.new") == (NAME, new)  # no edition has it yet
        assert records.look_up(known | {NAME: book}, page, f"{prefix}known.high") == (NAME, high)
    assert not records.is_the_books(known, NAME)
    assert records.is_the_books(known | {NAME: book}, NAME)


@pytest.mark.parametrize(("text", "words"), [
    (f"{{result}}`{NAME}:an.id`", f"index: {{result}}`{NAME}:an.id`: no such result in the record of {NAME}"),
    ("{published}`kim2021; Table 2; VGG-16; PGD`", "index: {published}`kim2021; Table 2; VGG-16; PGD`: kim2021 "
     "Table 2, VGG-16, PGD: 2 published numbers fit, expected exactly one; they differ in dataset, certainty"),
])
def test_a_wrong_name_in_the_text_stops_the_build(tmp_path: Path, own_build: Path, text: str, words: str) -> None:
    run(results.dumps(record()))
    (tmp_path / "conf.py").write_text(CONF)
    (tmp_path / "index.md").write_text(f"# Book\n\n{text}")
    build = [sys.executable, "-m", "sphinx", "-q", str(tmp_path), str(tmp_path / "html")]
    done = subprocess.run(build, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1] == words


def test_a_record_of_another_schema_stops_the_build_in_one_line(own_build: Path) -> None:
    run('{"schema": 0, "results": []}')
    with pytest.raises(ExtensionError, match=f"{NAME}.ipynb: written with schema 0; expected 1, run the chapter again"):
        records.read(SimpleNamespace())  # type: ignore[arg-type]


def test_the_records_are_those_of_the_run_that_the_page_shows(own_build: Path) -> None:
    """Not those of one that stopped halfway."""
    shown = Result.of("known.tile", "share", [0.5])
    assert records.records() == {}
    chapter = run(results.dumps(record([shown])), parameters={"eps": "4/255"})
    assert records.records()[NAME].results == [shown]
    chapter.twin.rename(chapter.partial)
    assert records.records() == {}


def test_a_row_says_what_is_needed_to_judge_its_number(pages: dict[str, str]) -> None:
    page = pages[f"records/{NAME}.html"]
    for words in ("L_inf 8/255; PGD", "n = 8; per seed: 0.5, 0.25", "commit abc", "eps = &lt;8/255&gt;",
                  "a.PGD(L_inf 8/255, &lt;5&gt;)"):
        assert words in page


def test_the_ledger_leads_to_the_verdicts(pages: dict[str, str]) -> None:
    assert f'href="notebooks/{NAME}.html#claim-tile-is-useful"' in pages["index.html"]
    assert 'id="claim-tile-is-useful"' in pages["index.html"]  # where the names in sentences lead
    assert len(re.findall(r'href="notebooks/[^"]+#claim-', pages["index.html"])) == 1  # no other is shown
    records = pages[f"records/{NAME}.html"]
    assert '<a class="claim-id" href="../book/ledger.html#claim-tile-is-useful">tile-is-useful</a>' in records
    assert re.search('href="book/ledger.html#claim-tile-is-useful">tile-is-useful<', pages["index.html"])
    assert "sanity checks: 1 held" in pages["index.html"]  # the picture's alternative text
    assert '"state": "held"' in pages["ledger.json"]


def test_a_box_of_verdicts_says_what_its_words_mean(pages: dict[str, str]) -> None:
    shown = re.search(r'<ul class="verdicts">(.*?)</ul>\n<p class="meant">(.*?)</p>', pages["index.html"], re.DOTALL)
    assert shown
    box, meant = shown.groups()
    assert re.findall(r"<strong>(. [^<]*):</strong>", box) == ["✓ recovers the known truth: yes", "· not run"]
    assert meant.startswith("Known truth: the answer was planted, and the method finds it or not. In brackets: ")
    assert "Direction" not in meant  # no box says so
    assert "In the planted world" not in meant
    assert 'href="book/reading.html#verdicts"' in meant


def test_an_unknown_claim_in_the_prose_stops_the_book(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(CONF)
    (tmp_path / "index.md").write_text("# Book\n\nOne sentence names {claim}`tile-is-usefull`.\n")
    run = subprocess.run(sphinx(tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert "claim 'tile-is-usefull': not in book/claims.yml; did you mean 'tile-is-useful'?" in run.stderr
