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


def rendered(text: str) -> str:
    """Markdown as HTML; formulas are left to MathJax."""
    def formula(tex: str, _: dict[str, bool]) -> str:
        return rf'<span class="math">\({escape(tex)}\)</span>'

    return str(MarkdownIt("commonmark").use(dollarmath_plugin, renderer=formula).render(text))


def title(one: Assignment) -> str:
    """The heading that an assignment begins with."""
    return one.cells[0].source.partition("\n")[0].removeprefix("# ")


def page(head: str, body: str, mathjax: str) -> str:
    """A page to print or to read, with this heading in its tab. mathjax: address of its script."""
    from book.press.pages.templates import html  # here, since it needs Sphinx

    return html("sheet", title=head, mathjax=mathjax, body=body)


def questions(one: Assignment) -> str:
    """The student's version as HTML, with all hints at its end."""
    parts, hints = list[str](), list[str]()
    for cell in notebook(one, "student").cells:
        if cell.cell_type == "markdown":
            parts.append(rendered(HINT.sub("", cell.source)))
            asked = QUESTION.match(cell.source)
            hints += [f"**{asked[1] if asked else ''}. {name}.** {text}" for name, text in HINT.findall(cell.source)]
        elif not cell.metadata.nbgrader.grade:
            parts.append(f"<pre>{escape(cell.source)}</pre>")
    parts += [f'<div class="hints">{rendered("## Hints")}', *map(rendered, hints), "</div>"]
    return "\n".join(parts)


def sheet(one: Assignment) -> str:
    """The student's version as a page of HTML."""
    return page(title(one), questions(one), (ROOT / "book" / "_static" / "mathjax" / "tex-svg-full.js").as_uri())


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
            made = Path(pages) / f"{name}.html"
            made.write_text(sheet(read(path)), encoding="utf-8")
            pdf.print_page(made, folder.resolve() / f"{name}.pdf")
