"""A release: the book as one folder and one zip, for who has neither a checkout nor a network.

    html/         the pages, which read from file://
    book.pdf      the same as one document, where there is a Chromium to print it
    assignments/  those of `book.press.teach` on paper, under the same condition
    notebooks/    the chapters in plain Markdown, for Jupyter
    records/      what every kept run has found
    package/      the wheel that the notebooks import
    MANIFEST.json version, commit, and size and SHA-256 of every file

Beside it stand the trained networks of the records that are in the stores of this machine, see `weights`, in a folder
and a zip of their own.

Two runs from one commit give the same bytes: files are sorted, and times are those of nothing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import nbutils
from book.press import editions, make, pdf, sheets, weights
from book.press.chapters import every
from book.press.environment import PYTHONS
from book.press.files import packed
from book.press.plain import TITLE
from nbutils.lab.history import present_commit
from nbutils.machine import ROOT, build_dir, stores
from nbutils.messages import read_text
from nbutils.versions import sha256

NAME = "robust-and-non-robust-features"
FIRST = "book/intro"  # the page that holds all others, in a single one
PART = re.compile(r"""- caption: ["']?(.*?)["']?\n    chapters:\n      - file: (\S+)""")  # of _toc.yml
BESIDE = ("LICENSE", "LICENSE-text.md", "CITATION.cff", "CHANGELOG.md")
README = f"""{TITLE}

Open html/index.html in a browser: it needs no network and no server. book.pdf, if it is here, holds the same text, and
assignments/ what students can be asked. records/ has what every recorded run found, number by number.

Text and figures: CC BY 4.0 (LICENSE-text.md). Code: MIT (LICENSE). How to cite: CITATION.cff, with the commit that
MANIFEST.json names.

To run a chapter, with Python {PYTHONS}:

    python3 -m venv env
    env/bin/pip install package/*.whl jupyterlab
    env/bin/jupyter lab notebooks

Plain pip takes PyTorch with CUDA, several GB; without a GPU, install its CPU build first, as its own page says.

MANIFEST.json has the SHA-256 of every file.
"""
PRINT = """<style>
nav, header, footer, .sidebar, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer,
#pst-skip-link, #pst-back-to-top, #jb-print-docs-body, .search-button__wrapper, .headerlink, .copybtn, .claims-filter,
.cell:not(.tag_parameters) > details.above-input, details:is(.hide, .part) > summary, .claim pre, .claim a:not([href]),
.address:not([href]), section:has(> .beside) {
  display: none !important; }
body, html { background: white !important; font-size: 9pt !important; }
.bd-page-width, .bd-article-container, .bd-main, .bd-content { max-width: none !important; display: block !important;
  overflow: visible !important; padding: 0 !important; }
.bd-article h1:first-of-type { display: block !important; }
.bd-article :is(h1, h2, h3, h4, h5, h6) { margin: 1.2em 0 .5em !important; line-height: 1.2 !important; }
h1 { font-size: 22pt !important; } h2 { font-size: 17pt !important; } h3 { font-size: 13pt !important; }
h4 { font-size: 11pt !important; } h5, h6 { font-size: 9.5pt !important; }
a:not([href]), abbr[title] { color: inherit !important; text-decoration: none !important; }
.contents p { display: flex; justify-content: space-between; margin: 1pt 0 0; line-height: 1.4; }
.contents .of-h2 { margin-left: 2em; }
.contents, section.part, span[id^="document-"] { display: block; break-before: page; }
.contents, section.part + span[id^="document-"] { break-before: auto; }
.contents { break-after: page; }
.bd-article :is(.cell, .admonition, .highlight, div[class*=highlight], details, pre) { break-inside: auto !important;
  box-decoration-break: clone; }
.bd-article :is(.short, .short pre, .cell_input:has(.short), div[class*=highlight]:has(.short)) {
  break-inside: avoid !important; }
p, li, pre, dd { orphans: 3; widows: 3; } pre { white-space: pre-wrap; padding-block: 2pt !important; }
.bd-article table:is(.run-card, :not(:has(tr:nth-child(10)))), figure, .verdict, .table-notes, tr,
div.math, mjx-container[display] { break-inside: avoid; }
h1, h2, h3, h4, h5, h6, dt, summary, caption, .admonition-title, p.alone { break-after: avoid; }
dd > :first-child, .table-notes, tbody tr:is(:first-child, :last-child) { break-before: avoid; }
summary { list-style: none; break-inside: avoid; }
details > * { display: block !important; }
.bd-article figure :is(img, svg) { max-height: 105mm !important; }
th, td { padding: 1pt 4pt !important; overflow-wrap: break-word; }
td code .pre { overflow-wrap: break-word !important; }
.claim :is(dl, dt, dd) { display: inline; padding: 0; font-size: 7.5pt; }
.claim dl { display: block; padding: 0 0 4pt 6pt; } .claim dt::after { content: ": "; }
.claim dd::after { content: " "; }
.claim .state::before { display: none !important; }
@page { size: A4; margin: 18mm 16mm; @bottom-center { content: counter(page); font-size: 8pt; } }
</style>"""


def release() -> int:
    """Make the folders and the zips, and print where they are; returns the exit status.

    Raises:
        ValueError: kept runs, networks or pages that cannot be used, in one line.
    """
    folder = build_dir() / "release" / f"{NAME}-{nbutils.__version__}"
    beside, places = folder.with_name(f"{folder.name}-weights"), stores()  # of this build folder, not of the pages
    with make.published() as pages:
        shutil.rmtree(beside, ignore_errors=True)
        weights.gather(beside, {chapter.name: editions.find(edition, chapter.name) for chapter in every("")
                                if (edition := editions.of_the_book(chapter.name))}, places)
        rendered = pages / "_build"
        shutil.rmtree(rendered, ignore_errors=True)  # what an earlier commit left there would be packed
        print("Rendering the pages, a minute or two ...", flush=True)
        if make.render():
            return 1
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(rendered / "html", folder / "html", ignore=shutil.ignore_patterns(".buildinfo*"))
        for page in (folder / "html").rglob("*.html"):
            page.write_text(for_a_folder(page.read_text(encoding="utf-8")), encoding="utf-8")
        if not print_pdf(rendered, folder / "book.pdf"):
            return 1
        print("Printing the assignments, and packing ...", flush=True)
        sheets.make(folder / "assignments")
        shutil.copytree(folder / "html" / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("*.html"))
        for record in sorted(editions.EDITIONS.glob("*/*.json")):
            copy = folder / "records" / record.relative_to(editions.EDITIONS)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(record, copy)
        wheel(folder / "package")
        for name in BESIDE:
            shutil.copy(ROOT / name, folder)
        (folder / "README.txt").write_text(README, encoding="utf-8")
        for made in filter(Path.is_dir, (folder, beside)):
            manifest(made)
            zipped = pack(made)
            print(f"{zipped}  {zipped.stat().st_size / 1e6:.1f} MB\nSHA-256 {sha256(zipped)}")
    return 0


def files(folder: Path) -> list[str]:
    """The files in a folder, by their sorted paths from there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def manifest(folder: Path) -> None:
    """Write ``MANIFEST.json``, with the size and the SHA-256 of every other file."""
    listed = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
              for name in files(folder) if name != "MANIFEST.json"}
    whole = {"version": nbutils.__version__, "commit": present_commit(), "files": listed}
    (folder / "MANIFEST.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def pack(folder: Path) -> Path:
    """The folder as a zip beside it, of the same bytes for the same files."""
    path = folder.with_name(f"{folder.name}.zip")
    path.write_bytes(packed({f"{folder.name}/{name}": (folder / name).read_bytes() for name in files(folder)}))
    return path


def wheel(folder: Path) -> None:
    """Build the package's wheel into a folder, of the same bytes for the same files; needs no network.

    Raises:
        ValueError: it was not built; pip has said why.
    """
    with tempfile.TemporaryDirectory() as copy:  # what setuptools leaves behind is left there
        for name in ("nbutils", "book"):
            shutil.copytree(ROOT / name, Path(copy) / name, ignore=shutil.ignore_patterns("__pycache__", "editions"))
        for name in ("pyproject.toml", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
                 "--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(folder), copy]
        done = subprocess.run(words, env=os.environ | {"SOURCE_DATE_EPOCH": "315532800"})
    if done.returncode:
        raise ValueError("The wheel was not built: see above.")


def print_pdf(rendered: Path, path: Path) -> bool:
    """The whole book as one PDF; it is said where there is no Chromium. False where it could not be rendered.

    Raises:
        ValueError: it was not printed; in one line.
    """
    if not pdf.possible("book.pdf is"):
        return True
    if make.render(builder="singlehtml"):
        return False
    print("Printing them, twice, since only then the pages in the contents are known ...", flush=True)
    single, page = rendered / "singlehtml" / f"{FIRST}.html", rendered / "singlehtml" / "print.html"
    pages = dict[str, int]()
    for _ in range(2):
        page.write_text(for_print(read_text(single), pages), encoding="utf-8")  # from here its styles are found
        pdf.print_page(page, path)
        pages = pdf.places(path)
    return True


def for_a_folder(page: str) -> str:
    """A page that is read from file://, where a browser refuses fonts in advance; the styles bring the same ones."""
    return re.sub(r'<link rel="preload" as="font"[^>]*>\n?', "", page)


def for_print(page: str, pages: Mapping[str, int] = MappingProxyType({})) -> str:
    """One page of HTML as it is printed: contents in front, parts as in the table of contents, nothing folded, no link
    that leads to another file, and no script but that of the formulas, since those of the theme keep a third of each
    sheet free. pages: section -> its page, where that is known."""
    page = re.sub("(?s)<script.*?</script>", lambda found: found[0] * ("mathjax" in found[0].lower()), page)
    page = page.replace("<html", '<html data-theme="light"', 1)  # which is one script's task; colours hang on it
    page = re.sub(r'(class="claims(?:-group)?"><h)(\d)(>.*?</h)\d',  # one deeper, as those of a document among others
                  lambda found: f"{found[1]}{int(found[2]) + 1}{found[3]}{int(found[2]) + 1}", page)
    for number, (part, first) in enumerate(PART.findall(read_text(ROOT / "_toc.yml")), start=1):
        heading = f'<section id="part-{number}" class="part"><h1>{part}</h1></section>'
        page = page.replace(mark := f'<span id="document-{first}">', heading + mark)
    page = re.sub(r'(<span(?: class="bibtex-citation")?) id="id\d+"', r"\1", page)  # each document counts from one
    page = re.sub(r'(<div class="verdict[^>]*?) id="[^"]*"', r"\1", page)  # links to a claim lead to the ledger
    page = re.sub(r'<span id="document-book/api/.*?</section>\n?', "", page, flags=re.DOTALL)  # which print leaves out
    page = re.sub(r"<p>(<strong>[^<]*</strong>)</p>", r'<p class="alone">\1</p>', page)
    page = re.sub(r'<div class="highlight">(?=<pre>(?:[^\n]*\n){1,30}</pre>)', '<div class="highlight short">', page)
    seen = Counter[str]()

    def unique(found: re.Match[str]) -> str:  # chapters have sections of the same name
        seen[found[2]] += 1
        return f"{found[1]}{found[2]}{f'-{seen[found[2]]}' * (seen[found[2]] > 1)}{found[3]}"

    page = re.sub(r'(<section[^>]* id=")([^"]+)(">)', unique, page)
    ids = set(re.findall(r' id="([^"]+)"', page))

    def link(found: re.Match[str]) -> str:
        file, _, anchor = found[2].partition("#")
        if file.startswith(("http:", "https:", "mailto:")):
            return found[0]
        return f'{found[1]}href="#{anchor}"' if anchor in ids else found[1]

    page = re.sub(r'(<a [^>]*?)href="([^"]*)"', link, page)
    page = page.replace("<details", "<details open").replace("</head>", f"{PRINT}</head>", 1)
    titles = re.findall(r'<section[^>]* id="([^"]+)"[^>]*>\s*(?:<span[^>]*></span>)*<(h[12])>(.*?)'
                        r'(?:<a class="headerlink"|</h1>)', page)
    lines = [f'<p class="of-{level}"><a href="#{id}">{re.sub("<[^>]+>", "", title)}</a> {pages.get(id, "")}</p>'
             for id, level, title in titles]
    about = (f"Version {nbutils.__version__}, commit {present_commit()}. Text and figures: CC BY 4.0. Code: MIT. Cite "
             "it by its title, version and commit, and the three papers for their results. Code that only prepares, "
             "measures or draws is not printed; the notebooks have it.")
    contents = f'<div class="contents"><p style="font-size: 2em">{TITLE}</p><p>{about}</p>{"".join(lines)}</div>'
    return re.sub("<section", lambda found: contents + found[0], page, count=1)
