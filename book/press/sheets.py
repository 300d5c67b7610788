"""Assignments on paper: the student's version of each, printed, with its hints on the last page.

What a student answers is still handed in as a notebook; a sheet is for reading, and for a first guess with a pen.
"""

import re
import tempfile
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from book.press import pdf
from book.press.assignments import SOURCES, Assignment, notebook, read, sources
from nbutils.machine import ROOT

HINT = re.compile(r"<details><summary>(.*?)</summary>\n\n(.*?)\n\n</details>", re.DOTALL)
QUESTION = re.compile(r"## (.*) \(\d+ points?\)")


def sheet(one: Assignment) -> str:
    """The student's version as a page of HTML; formulas are left to MathJax."""
    from book.press.pages.templates import html  # here, since it needs Sphinx

    markdown = MarkdownIt("commonmark").use(dollarmath_plugin, renderer=lambda tex, _: rf"\({escape(tex)}\)")
    parts, hints = list[str](), list[str]()
    for cell in notebook(one, "student").cells:
        if cell.cell_type == "markdown":
            parts.append(markdown.render(HINT.sub("", cell.source)))
            title = QUESTION.match(cell.source)
            hints += [f"**{title[1] if title else ''}. {name}.** {text}" for name, text in HINT.findall(cell.source)]
        elif not cell.metadata.nbgrader.grade:
            parts.append(f"<pre>{escape(cell.source)}</pre>")
    parts += [f'<div class="hints">{markdown.render("## Hints")}', *map(markdown.render, hints), "</div>"]
    mathjax = ROOT / "book" / "_static" / "mathjax" / "tex-svg-full.js"
    head = one.cells[0].source.partition("\n")[0].removeprefix("# ")
    return html("sheet", title=head, mathjax=mathjax.as_uri(), body="\n".join(parts))


def make(folder: Path, of: Path = SOURCES) -> None:
    """Print all assignments into a folder, NAME.pdf; where there is no Chromium, it is said.

    Raises:
        ValueError: one that cannot be read or was not printed; in one line.
    """
    if not pdf.possible("Assignments on paper are"):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as pages:
        for name, path in sources(of).items():
            page = Path(pages) / f"{name}.html"
            page.write_text(sheet(read(path)), encoding="utf-8")
            pdf.print_page(page, folder.resolve() / f"{name}.pdf")
