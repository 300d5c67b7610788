"""A release holds the same bytes whenever it is made, and what it prints leads nowhere outside."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nbutils
from book.press import pdf, release
from nbutils.lab.history import present_commit
from nbutils.machine import ROOT
from nbutils.versions import sha256
from tests.helpers import WITHOUT_TORCH


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "book-0"
    (made / "html").mkdir(parents=True)
    (made / "html" / "index.html").write_text("<p>x</p>")
    (made / "a.txt").write_text("a")
    return made


def test_a_zip_depends_on_content_alone(folder: Path) -> None:
    first = sha256(release.pack(folder))
    for path in reversed(release.files(folder)):
        text = (folder / path).read_text()
        (folder / path).unlink()
        (folder / path).write_text(text)
        os.utime(folder / path, (10**9, 10**9))
        (folder / path).chmod(0o600)
    packed = release.pack(folder)
    assert sha256(packed) == first
    assert zipfile.ZipFile(packed).namelist() == ["book-0/a.txt", "book-0/html/index.html"]
    (folder / "a.txt").write_text("b")
    assert sha256(release.pack(folder)) != first


def test_the_manifest_lists_every_other_file(folder: Path) -> None:
    release.manifest(folder)
    release.manifest(folder)
    listed = json.loads((folder / "MANIFEST.json").read_text())["files"]
    assert listed["a.txt"] == {"bytes": 1, "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}
    assert set(listed) == {"a.txt", "html/index.html"}


def test_what_is_printed() -> None:
    page = ('<html lang="en"><head><script>x.theme = ""</script><script src="mathjax/tex.js"></script></head>'
            '<section id="t"><h1>Book<a class="headerlink" href="#t">#</a></h1>'
            '<a class="address" href="../records/01_x.html#a">5</a><details class="d"><p>in</p></details>'
            '<a href="book/intro.html#s">part</a><a href="https://x.org/#s">x</a>'
            '<section id="s">\n<span id="x"></span><h2>Part <em>one</em><a class="headerlink" href="#s">#</a></h2>'
            '</section><section id="s"><h2>Two<a class="headerlink" href="#s">#</a></h2></section></section>')
    printed = release.for_print(page)
    assert f"Version {nbutils.__version__}, commit {present_commit()}." in printed
    assert 'class="address" >5</a>' in printed
    assert '<a href="#s">part</a><a href="https://x.org/#s">x</a>' in printed
    assert "<details open" in printed
    assert re.findall("<script(.+?)</script>", printed) == [' src="mathjax/tex.js">']
    assert '<html data-theme="light" lang="en">' in printed
    contents = printed.partition('class="contents"')[2].partition("</div>")[0]
    listed = re.findall(r'<a href="#([\w-]+)">([^<]+)</a>', contents)
    assert listed == [("t", "Book"), ("s", "Part one"), ("s-2", "Two")]
    assert '<p class="of-h2"><a href="#s">Part one</a> 7</p>' in release.for_print(page, {"s": 7})


def test_the_print_has_the_parts_of_the_book_and_the_ledgers_headings_below_its_own() -> None:
    page = ('<html><head></head><section id="t"><h1>Book</h1></section><span id="document-book/findings"></span>'
            '<section id="f"><h2>Found<a class="headerlink"></a></h2></section>'
            '<section class="claims"><h2>1. One</h2><div class="claims-group"><h3>Ours</h3>')
    printed = release.for_print(page)
    contents = printed.partition('class="contents"')[2].partition("</div>")[0]
    assert re.findall('<p class="of-(h.)"><a href="#.+?">(.+?)</a>', contents) == [
        ("h1", "Book"), ("h1", "How to use this book"), ("h2", "Found")]
    assert '<h3>1. One</h3><div class="claims-group"><h4>Ours</h4>' in printed


def test_links_of_the_print_lead_to_the_one_place_that_is_meant() -> None:
    short, long = ('<div class="highlight"><pre>' + "x\n" * lines + "</pre></div>" for lines in (30, 31))
    page = ('<html><head></head><section id="t"><span class="bibtex-citation" id="id5">[<a href="#id5">1</a>]</span>'
            '<span id="id5"><a href="#id7">2</a></span><div class="verdict verdict-held" id="claim-a">A</div>'
            '<a href="book/ledger.html#claim-a">a</a><p><strong>Alone</strong></p><p><strong>Not</strong> alone</p>'
            '<span id="document-book/api/store"></span><section id="s"><h3>Store</h3>\n<p>Left out</p>\n</section>\n'
            f'{short}{long}<details class="claim" id="claim-a"></details>'
            '<div class="citation" id="id5"></div><div class="citation" id="id7"></div></section>')
    printed = release.for_print(page)
    places = re.findall(r'<(\w+)[^>]* id="(id\d|claim-a)"', printed)
    assert places == [("details", "claim-a"), ("div", "id5"), ("div", "id7")]
    assert re.findall('href="#(id.|claim-a)"', printed) == ["id5", "id7", "claim-a"]
    assert '<p class="alone"><strong>Alone' in printed
    assert '<p><strong>Not' in printed
    assert "Store" not in printed
    assert printed.count('<div class="highlight short">') == printed.count('<div class="highlight">') == 1


def test_a_pdf_is_the_same_however_its_nodes_were_counted() -> None:
    said = "/ID (node0000142{}) /K (node0000142{}) /CreationDate (D:2026120102{}00+00'00')"
    first, second = (pdf.settled(said.format(*values).encode()) for values in (("5", "7", "01"), ("6", "9", "59")))
    assert first == second == b"/ID (node00000000) /K (node00000001) /CreationDate (D:19800101000000+00'00')"


def test_the_place_of_a_target_is_read_off_a_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(
        b"2 0 obj\n<</Type /Page\n>>\n9 0 obj\n<</Type /Page\n>>\n10 0 obj\n<</Type /Pages\n>>\n"
        b"11 0 obj\n<</one [2 0 R /XYZ 0 841.9 0]\n/two-b [9 0 R /XYZ 1 2 0]>>")
    assert pdf.places(tmp_path / "a.pdf") == {"one": 1, "two-b": 2}


@pytest.mark.skipif(not pdf.chromium(), reason="no Chromium is installed")
def test_code_that_only_prepares_is_not_printed_and_parameters_are(tmp_path: Path) -> None:
    pages = {}
    for kind in ("cell", "cell tag_parameters"):
        folded = f'<details class="above-input"><summary></summary><pre>{"x = 1<br>" * 300}</pre></details>'
        code = f'<div class="{kind}">{folded}'
        (tmp_path / "a.html").write_text(release.for_print(
            f'<html><head></head><body><section id="a"><h1>A</h1>{code}</div></section></body></html>'))
        pdf.print_page(tmp_path / "a.html", tmp_path / "a.pdf")
        pages[kind] = (tmp_path / "a.pdf").read_bytes().count(b"/Type /Page\n")
    assert pages["cell tag_parameters"] - pages["cell"] >= 4  # 300 lines of 9 points


def test_a_page_in_a_folder_asks_for_no_font_in_advance() -> None:
    kept = '<link rel="stylesheet" href="all.css">'
    assert release.for_a_folder(f'<link rel="preload" as="font" crossorigin href="a.woff2" />\n{kept}') == kept


def test_a_release_knows_nothing_of_an_earlier_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def render() -> int:  # as Sphinx, which names the checksum of a file that lies there already
        html = tmp_path / "_build" / "html"
        (html / "notebooks").mkdir(parents=True, exist_ok=True)
        (html / "index.html").write_text(f"<p>{(html / 'a.css').exists()}</p>")
        (html / "a.css").touch()
        return 0

    monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path))
    monkeypatch.setattr(release.make, "published", lambda: nullcontext(tmp_path))
    monkeypatch.setattr(release.make, "render", render)
    monkeypatch.setattr(release.pdf, "possible", lambda what: False)
    monkeypatch.setattr(release, "wheel", lambda folder: None)
    made = set()
    for _ in range(2):
        assert release.release() == 0
        (zipped,) = (tmp_path / "release").glob("*.zip")
        made.add(sha256(zipped))
        (tmp_path / "_build" / "html" / "of_an_earlier_commit.html").touch()
    assert len(made) == 1


def test_no_chromium_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(pdf, "CHROMIUM", ("nosuch-chromium",))
    assert release.print_pdf(tmp_path, tmp_path / "book.pdf")
    assert capsys.readouterr().out == ("book.pdf is left out: no Chromium is installed (on Debian: apt install "
                                       "chromium)\n")
    assert not list(tmp_path.iterdir())


def test_what_renders_is_in_the_small_environment() -> None:
    """Every module that our code imports on the way to a page belongs to something that the extra "read" brings."""
    code = WITHOUT_TORCH + """
from book.press import __main__
from book.press.pages import api, executed, ledger, records, takeaway
ours = [module.__file__ for name, module in sys.modules.items() if name.startswith(("nbutils", "book.press"))]
print("\\n".join(filter(None, ours)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    trees = [ast.parse(Path(path).read_text()) for path in done.stdout.split()]
    lines = [line for tree in trees for line in tree.body if isinstance(line, (ast.Import, ast.ImportFrom))]
    names = {alias.name if isinstance(line, ast.Import) else str(line.module) for line in lines for alias in line.names}
    roots = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"nbutils", "book"}
    assert roots >= {"numpy", "pydantic", "docutils"}
    home = metadata.packages_distributions()
    missing = [root for root in roots if not {canonicalize_name(one) for one in home[root]} & brought()]
    assert not missing


def brought() -> set[str]:
    """The names of all packages that the extra "read" installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked, found = [Requirement(word) for word in project["optional-dependencies"]["read"]], set()
    while asked:
        one = asked.pop()
        name = canonicalize_name(one.name)
        if name not in found and (not one.marker or one.marker.evaluate({"extra": ""})):
            found.add(name)
            asked += map(Requirement, metadata.requires(name) or [])
    return found
