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
from pathlib import Path

import nbutils
from book.press import editions, make, pdf, sheets, weights
from book.press.chapters import every
from book.press.environment import PYTHONS
from book.press.files import packed
from book.press.plain import TITLE
from nbutils.lab.history import present_commit
from nbutils.machine import ROOT, build_dir, stores
from nbutils.versions import sha256

NAME = "robust-and-non-robust-features"
FIRST = "book/intro"  # the page that holds all others, in a single one
BESIDE = ("LICENSE", "LICENSE-text.md", "CITATION.cff", "CHANGELOG.md")
README = f"""{TITLE}

Open html/index.html in a browser: it needs no network and no server. book.pdf, if it is here, holds the same text, and
assignments/ what students can be asked.

To run a chapter, with Python {PYTHONS}:

    python3 -m venv env
    env/bin/pip install package/*.whl jupyterlab
    env/bin/jupyter lab notebooks

Plain pip takes PyTorch with CUDA, several GB; without a GPU, install its CPU build first, as its own page says.

MANIFEST.json has the SHA-256 of every file.
"""
PRINT = """<style>
nav, header, footer, .sidebar, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer,
#pst-skip-link, #pst-back-to-top, #jb-print-docs-body, .search-button__wrapper, .headerlink, .copybtn,
details:is(.hide, .part) > summary { display: none !important; }
body, html { background: white !important; font-size: 9pt !important; }
.bd-page-width, .bd-article-container, .bd-main, .bd-content { max-width: none !important; display: block !important;
  overflow: visible !important; padding: 0 !important; }
summary { list-style: none; break-after: avoid; break-inside: avoid; }
.contents { break-after: page; } figure, .verdict { break-inside: avoid; } pre { white-space: pre-wrap; }
div[class*=highlight] { break-inside: auto !important; }
figure img, figure svg { max-height: 200mm; }
details > * { display: block !important; }
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
        if make.render():
            return 1
        rendered = pages / "_build"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(rendered / "html", folder / "html", ignore=shutil.ignore_patterns(".buildinfo*"))
        for page in (folder / "html").rglob("*.html"):
            page.write_text(for_a_folder(page.read_text(encoding="utf-8")), encoding="utf-8")
        if not print_pdf(rendered, folder / "book.pdf"):
            return 1
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
    single, page = rendered / "singlehtml" / f"{FIRST}.html", rendered / "singlehtml" / "print.html"
    page.write_text(for_print(single.read_text(encoding="utf-8")), encoding="utf-8")  # from here its styles are found
    pdf.print_page(page, path)
    return True


def for_a_folder(page: str) -> str:
    """A page that is read from file://, where a browser refuses fonts in advance; the styles bring the same ones. What
    outwits a browser's memory goes: of some files it depends on whether the page was rendered before."""
    return re.sub(r'<link rel="preload" as="font"[^>]*>\n?|(?:(?<=\.css)|(?<=\.js))\?v=[0-9a-f]+(?=")', "", page)


def for_print(page: str) -> str:
    """One page of HTML as it is printed: contents in front, nothing folded, no link that leads to another file, and no
    script but that of the formulas, since those of the theme keep a third of each sheet free."""
    page = re.sub("(?s)<script.*?</script>", lambda found: found[0] * ("mathjax" in found[0].lower()), page)
    page = page.replace("<html", '<html data-theme="light"', 1)  # which is one script's task; colours hang on it
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
    titles = re.findall(r'<section[^>]* id="([^"]+)">\s*(?:<span[^>]*></span>)*<(h[12])>(.*?)'
                        r'<a class="headerlink"', page)
    lines = [f'<p style="margin: 2pt 0 0 {"0" if level == "h1" else "2em"}"><a href="#{id}">'
             f'{re.sub("<[^>]+>", "", title)}</a></p>' for id, level, title in titles]
    about = f"Version {nbutils.__version__}, commit {present_commit()}. Text and figures: CC BY 4.0. Code: MIT."
    contents = f'<div class="contents"><p style="font-size: 2em">{TITLE}</p><p>{about}</p>{"".join(lines)}</div>'
    return re.sub(r"(<section[^>]*>\s*<h1>.*?</h1>)", lambda found: found[1] + contents, page, count=1)
