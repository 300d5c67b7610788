"""Sphinx extension: what a teacher needs of the book. ``{syllabus} 3`` is the plan for three sessions; its rows lead to
the chapters, to their box "Predict first", and to the questions of the assignments, which are pages of their own."""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from book.press import sheets, teach
from book.press.assignments import read, sources
from book.press.pages.templates import HtmlDirective

# Sphinx gives MathJax only to pages that it has read itself. Its menu would make every formula a tab stop.
MATHJAX = """<script>MathJax = {options: {enableMenu: false}}</script>
<script defer src="../_static/mathjax/tex-svg-full.js"></script>"""
NOTE = """<p><em>As everybody may read it. Students answer in a notebook, each with a world of their own: see
<a href="../book/teach.html">how it is handed out</a>.</em></p>"""
BOX = re.compile(r'<div class="(?:predict admonition|admonition predict)"')


class Syllabus(HtmlDirective):
    """A plan for so many sessions, see `teach.plans`."""

    required_arguments = 1

    def html(self) -> str:
        def at(page: str) -> str:
            return self.env.app.builder.get_relative_uri(self.env.docname, page)

        def places(row: teach.Session, number: int) -> dict[str, str]:
            chapter = at(f"notebooks/{row.chapter}")
            return {"page": chapter, "ask": f"{chapter.partition('#')[0]}#{box(row.chapter)}",
                    "assignment": at(f"assignments/{row.assignment}"), "slides": ""}

        return teach.table(teach.plans()[int(self.arguments[0])], places)


def box(chapter: str) -> str:
    """The name of a chapter's box "Predict first" in the address of its page."""
    return f"predict-{chapter[:2]}"


def named(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """On ``html-page-context``: the first such box of a chapter's page gets its name."""
    folder, _, chapter = pagename.rpartition("/")
    if "body" in context and folder == "notebooks":
        context["body"] = BOX.sub(rf'\g<0> id="{box(chapter)}"', context["body"], count=1)


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """On ``html-collect-pages``: the questions of each assignment, as every student gets them."""
    for name, path in sources().items():
        one = read(path)
        body = sheets.questions(one).replace("</h1>", f"</h1>{NOTE}", 1) + MATHJAX
        yield f"assignments/{name}", {"title": sheets.title(one), "body": body}, "page.html"


def setup(app: Sphinx) -> None:
    app.add_directive("syllabus", Syllabus)
    app.connect("html-collect-pages", pages)
    app.connect("html-page-context", named)
