"""Sphinx extension: what a reader takes away. Beside each chapter's page stands its reader's notebook, see
`book.press.plain`, and a button leads there; others to Colab and Binder where BOOK_REPOSITORY, "owner/name" on GitHub,
says where a release keeps them. A link to a page shows elsewhere what the page says in short (OpenGraph)."""

import html
import os
import re
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from sphinx.application import Sphinx

from book.press import plain
from book.press.chapters import every
from book.press.pages.records import ROLES

BRANCH = "readers"  # of a release's notebooks, in the repository


def said(app: Sphinx, docname: str, name: str, text: str) -> str:
    """The text that a role of the book gives on a page; raises ValueError for one that there is not."""
    if name not in ROLES:
        raise ValueError(f"{docname}: {{{name}}}: no such role")
    app.env.temp_data["docname"] = docname
    return "".join(node.astext() for node in ROLES[name](app.env, name, text))


def write(app: Sphinx, error: Exception | None) -> None:
    """On ``build-finished``: the notebooks, beside the pages."""
    if error is not None or app.builder.name != "html":
        return
    chapters = [chapter for chapter in every("") if f"notebooks/{chapter.name}" in app.env.found_docs]
    equations = plain.numbered({chapter.name[:2]: chapter.source for chapter in chapters})
    for chapter in chapters:
        page = f"notebooks/{chapter.name}"
        made = plain.reader_notebook(chapter.source, partial(said, app, page), equations)
        (Path(app.outdir) / f"{page}.ipynb").write_text(nbformat.writes(made) + "\n", encoding="utf-8")


def buttons(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """On ``html-page-context``: what the head of a chapter's page leads to."""
    if not pagename.startswith("notebooks/") or "header_buttons" not in context:
        return
    file = f"{pagename.removeprefix('notebooks/')}.ipynb"

    def button(url: str, text: str, icon: str) -> dict[str, str]:
        return {"type": "link", "url": url, "tooltip": text, "text": text.split()[-1], "icon": icon,
                "label": f"take-{icon[4:]}"}

    found = [button(file, "Download the notebook", "fas fa-download")]
    if repository := os.environ.get("BOOK_REPOSITORY"):
        found += [button(f"https://colab.research.google.com/github/{repository}/blob/{BRANCH}/notebooks/{file}",
                         "Open in Colab", "fas fa-rocket"),
                  button(f"https://mybinder.org/v2/gh/{repository}/{BRANCH}?urlpath=lab/tree/notebooks/{file}",
                         "Open in Binder", "fas fa-play")]
    context["header_buttons"][:0] = found


def card(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """On ``html-page-context``: a page's title and its answer, or its first words, for who is sent a link to it."""
    texts = [part.astext() for part in doctree.findall(nodes.paragraph)] if doctree else []
    if not texts:
        return
    answer = next((text for text in texts if text.startswith("In short.")), texts[0]).removeprefix("In short.")
    plain_text = re.sub(r"\\[a-z]+ ?|[{}$]", "", answer)  # what is left of formulas
    said = {"og:type": "article", "og:site_name": plain.TITLE, "og:title": re.sub("<[^>]+>", "", context["title"]),
            "og:description": textwrap.shorten(plain_text, 200, placeholder=" ...")}
    context["metatags"] += "".join(f'<meta property="{name}" content="{html.escape(html.unescape(words))}">\n'
                                   for name, words in said.items())


def setup(app: Sphinx) -> None:
    app.connect("build-finished", write)
    app.connect("html-page-context", buttons, priority=550)  # after the theme has put its own there
    app.connect("html-page-context", card)
