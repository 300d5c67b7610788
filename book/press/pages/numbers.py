"""Sphinx extension: our own numbers, drawings, and the last touches to a written page.

Equations, figures and tables of a chapter are numbered by it, so that none is taken for a paper's: the second figure
of chapter 03 is figure 3.2, its first equation (3.1), its second exercise 3.2. A claim's name becomes a link to its row
in the ledger.

``{drawing} recipe.svg`` puts a drawing from ``book/_static`` into the page itself, where it takes the page's colours;
its content is the caption, its option ``alt`` the text alternative.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from nbutils.machine import ROOT
from nbutils.messages import read_text

CAPTION = re.compile(r'<figcaption>(?!\s*<p><span class="caption-)|<div class="result-table[^>]*><table><caption>')
EXERCISE = re.compile(r'<span class="caption-number">Exercise (\d+) ?</span>')
LABELLED = '<summary aria-label="Toggle hidden content">'  # which hides from a screen reader what the summary says


def number_of(docname: str) -> int | None:
    """The number of the chapter that a page is, None for others."""
    found = re.fullmatch(r"notebooks/(\d\d)_\w+", docname)
    return int(found[1]) if found else None


def equations(app: Sphinx, env: BuildEnvironment) -> Iterable[str]:
    """On ``env-get-updated``: in each chapter equations count from one, after the chapter's number."""
    for docname, kinds in env.toc_fignumbers.items():
        if (chapter := number_of(docname)) and "displaymath" in kinds:
            kinds["displaymath"] = {id: (chapter, i) for i, id in enumerate(kinds["displaymath"], start=1)}
    return []


def finish(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """On ``html-page-context``: numbers before captions and of exercises, links to the ledger, and summaries that a
    screen reader reads. Where all pages are one, each begins with a mark that names it."""
    if "body" not in context:
        return
    body = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')  # which no longer exists
    pages = re.split('(?=<span id="document-)', body)
    names = (re.match('<span id="document-([^"]+)"', page) for page in pages)
    chapters = [number_of(name[1] if name else pagename) for name in names]
    context["body"] = "".join(page if chapter is None else finished(page, chapter)
                              for page, chapter in zip(pages, chapters, strict=True))


def finished(body: str, chapter: int) -> str:
    """A chapter's page with its numbers; see `finish`."""
    seen = Counter[str]()

    def numbered(found: re.Match[str]) -> str:
        kind = "Figure" if found[0].startswith("<fig") else "Table"
        seen[kind] += 1
        return f'{found[0]}<span class="number">{kind} {chapter}.{seen[kind]}</span> '

    body = CAPTION.sub(numbered, body).replace(LABELLED, "<summary>")
    body = re.sub(r'<th class="blank[^>]*>&nbsp;</th>', "<td></td>", body)  # pandas' empty corner
    exercises = {old: f"Exercise {chapter}.{new}" for new, old in enumerate(EXERCISE.findall(body), start=1)}
    body = EXERCISE.sub(lambda found: f'<span class="caption-number">{exercises[found[1]]}</span>', body)
    body = re.sub(r'(<p class="admonition-title">Solution to<a [^>]*>) ?Exercise (\d+)',
                  lambda found: f"{found[1]} {exercises[found[2]]}", body)
    return re.sub(r'<span class="claim-id">([\w-]+)</span>',
                  r'<a class="claim-id" href="../book/ledger.html#claim-\1">\1</a>', body)


class Drawing(SphinxDirective):
    """``{drawing}``: a drawing with its caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        path = ROOT / "book" / "_static" / self.arguments[0]
        self.env.note_dependency(str(path))
        drawn = f'<div role="img" aria-label="{html.escape(self.options["alt"])}">{read_text(path)}</div>'
        return [nodes.raw("", f'<figure class="picture drawing">{drawn}<figcaption>', format="html"),
                *self.parse_content_to_nodes(), nodes.raw("", "</figcaption></figure>", format="html")]


def setup(app: Sphinx) -> None:
    app.add_directive("drawing", Drawing)
    app.connect("env-get-updated", equations, priority=900)  # after Sphinx has given its numbers
    app.connect("html-page-context", finish)
