"""Sphinx extension: what a chapter's page folds, so that its answer is read first and nothing is lost.

Code is folded unless it teaches: a code cell with the tag ``hide-input``, and the engine's code below a formula. So are
the criterion of a verdict, the small print of pictures and tables, and a table that is long or whose numbers stand in
the picture above it. A section whose first cell has the tag ``folded`` is folded under its heading, with its verdicts
in the line that opens it. All of it is ``details``: it opens by key, to a search and to a link, on paper, and without a
script.

``{verdicts}`` shows how the claims that its lines name came out in the run that the page shows. ``{picture} cell-09``
shows, once more, the first picture of that cell, or of the next one named; on another page that of the record that the
book is about, ``{picture} 02_adversarial_training:cell-09``.
"""

import html
import os
import re
import struct
from base64 import b64decode
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from nbformat import NotebookNode
from sphinx.application import Sphinx

from book.press import editions
from book.press.chapters import Chapter, read
from book.press.ledger import Entry
from book.press.pages import ledger
from book.press.pages.numbers import number_of
from book.press.pages.templates import HtmlDirective
from book.press.pages.templates import html as filled
from nbutils.lab import claims
from nbutils.lab.results import Record

MEANT = {  # words of verdicts that do not say it themselves -> what they mean
    "direction": "Direction: networks smaller than the paper's, so the criterion is ours and not the paper's number.",
    "in the planted world": "In the planted world: on images that we drew, so nothing is said of photographs.",
    "recovers the known truth": "Known truth: the answer was planted, and the method finds it or not.",
    "control failed": "Control failed: what the claim stands on did not hold, so nothing follows.",
    "at the floor": "At the floor: nothing is left that could be compared.",
    "not comparable": "Not comparable: measured, but not judged, for the reason given.",
}
ABSENT = re.compile(r"\([^)]*: not measured\)")  # names results by id
NEEDED = re.compile(r"(control failed \(|; )(.+?)(: [^:;]*, needed: )")  # the same
FAILED = re.compile(r"(control failed) \(.*\)")  # what a line has no room for
UNJUDGED = "not judged (today's criterion is newer than this run; by an earlier one {})"
FOLDED = "folded"  # tag of a cell whose section is folded, and the comment below its heading
OPEN = '<details class="part"><summary></summary>'
SECTION = re.compile(rf"{OPEN}(.*?)</details><!--part-->", re.DOTALL)
CAPTION = re.compile(r'<figcaption>(.*?)(?: <span class="stamp".*?)?</figcaption>', re.DOTALL)
FIGURE = re.compile(r"<figure\b.*?</figure>", re.DOTALL)
CODE = re.compile(r'<div class="highlight-default notranslate"><div class="highlight"><pre>.*?</pre></div>\s*</div>',
                  re.DOTALL)
NAME = re.compile(r'<span class="(?:n[fc]|fm)">(\w+)</span>')
VERDICT = re.compile(r'(<div class="verdict [^>]*>)<p><strong>(.*?)</strong> (<(?:a|span) class="claim-id".*?)</p>'
                     r"<p>(.*?)</p><p>Measured: (.*?)(<a\b.*?</a>)(.*?)</p></div>", re.DOTALL)
TOLD = re.compile(r'<div class="(verdict [^"]*)"[^>]*><p>(.*?)</p>', re.DOTALL)
NOTES = re.compile(r'<ul class="table-notes">.*?</ul>', re.DOTALL)
SMALL = re.compile(r'(?: <span class="stamp">(?:(?!</span>).)*</span>)?\s*<small>(?:(?!</?small>).)*</small>'
                   "(?=</figcaption>)", re.DOTALL)
TABLE = re.compile(r'(?<!</summary>)<div class="result-table[^>]*><table><caption>(.*?)</caption>.*?</div>', re.DOTALL)
LARGE = 8  # rows of a table that is shown at once
BESIDE = re.compile(r'(</figure></div>\s*<div class="output text_html">)(<div class="result-table[^>]*>.*?</div>)',
                    re.DOTALL)


def tagged(cells: list[NotebookNode], source: NotebookNode) -> list[NotebookNode]:
    """A page's cells with the tags that they have in the source today; folded is code that is no longer there."""
    tags = {cell.id: cell.metadata.get("tags", []) for cell in source.cells}
    for cell in cells:
        if cell.cell_type == "code":
            cell.metadata["tags"] = tags.get(cell.id, sorted({*cell.metadata.get("tags", []), "hide-input"}))
        elif FOLDED in cell.metadata.get("tags", []):
            cell.source = re.sub(r"(?m)^(#+ .*)$", rf"\1\n\n% {FOLDED}\n", cell.source, count=1)
    return cells


def parts(app: Sphinx, doctree: nodes.document) -> None:
    """On ``doctree-read``: what follows the comment in a section becomes one box."""
    while inside := _comments(doctree):
        section, place = inside[0].parent, inside[0].parent.index(inside[0])
        for comment in _comments(section):
            comment.parent.remove(comment)  # those of sections in this one, too: there is no box in a box
        section[place:] = [nodes.raw("", OPEN, format="html"), *section.children[place:],
                           nodes.raw("", "</details><!--part-->", format="html")]


def _comments(within: nodes.Element) -> list[nodes.comment]:
    return [found for found in within.findall(nodes.comment) if found.astext() == FOLDED]


def box(inner: str, words: str, kind: str = "numbers") -> str:
    return f'<details class="{kind}"><summary>{words}</summary>{inner}</details>'


def plain(words: str, run: Record | None) -> str:
    """The words of a verdict, which name results by their ids, in those in which its run has recorded them."""

    def named(found: re.Match[str]) -> str:
        result = run.by_id.get(found[2]) if run else None
        return f"{found[1]}{f'{result.what} ({result.model})' if result else 'a control'}{found[3]}"

    return NEEDED.sub(named, ABSENT.sub("(a control that it asks for was not measured)", words))


def told(entry: Entry) -> tuple[str, str]:
    """How a claim came out, and what was measured, or "".

    Where its criterion asks for what the page's run, which is older, has not measured, they are those of its day.
    """
    run = ledger.runs().get(os.environ.get("BOOK_PROFILE", "quick"), {}).get(entry.claim.chapter)
    of_its_day = {verdict.claim: verdict for verdict in run.verdicts} if run else {}
    if run is None or entry.verdict or entry.claim.id not in of_its_day:
        return plain(entry.words, entry.run), str(entry.verdict.result) if entry.verdict else ""
    then = of_its_day[entry.claim.id]
    found = run.by_id.get(then.result)
    return UNJUDGED.format(plain(then.words or then.held, run)), str(found) if found else ""


def finish(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """On ``html-page-context``: fold what is the same on every page."""
    if "body" not in context or number_of(pagename) is None:
        return

    def code(found: re.Match[str]) -> str:
        names = dict.fromkeys(NAME.findall(found[0]))
        return box(found[0], f"In code: <code>{next(iter(names))}</code>", "code") if names else found[0]

    def large(found: re.Match[str]) -> str:
        rows = found[0].count("<tr>") - 1
        return box(found[0], f"{found[1]} ({rows} rows)") if rows > LARGE else found[0]

    def section(found: re.Match[str]) -> str:
        told = "".join(f'<span class="{kind}">{words}</span>' for kind, words in TOLD.findall(found[1]))
        told = re.sub(r"</?a\b[^>]*>", "", told)  # a link in a summary cannot be reached by key
        return box(found[1], f"Show this part{told}", "part")

    def verdict(found: re.Match[str]) -> str:
        short = FAILED.sub(r"\1", found[2])
        why = "" if short == found[2] else f" Verdict: {found[2].partition(' ')[2]}."
        criterion = box(f"<p>{found[3]}.{why} Measured: {found[5]}{found[6]}{found[7]}</p>", "Criterion")
        return f"{found[1]}<p><strong>{short}:</strong> {found[4]} {found[6]}</p>{criterion}</div>"

    body = VERDICT.sub(verdict, CODE.sub(code, context["body"]))
    body = NOTES.sub(lambda found: box(found[0], "Intervals, attacks and settings"), body)
    body = SMALL.sub(lambda found: box(found[0], "Intervals and record"), body)
    body = BESIDE.sub(lambda found: found[1] + box(found[2], "The numbers"), body)
    body = TABLE.sub(large, body)
    context["body"] = SECTION.sub(section, body)


class Verdicts(HtmlDirective):
    """``{verdicts}``: claims, each with its verdict in the run that the page shows."""

    has_content = True

    def html(self) -> str:
        found = {entry.claim.id: entry for entry in ledger.entries()}
        wanted = [claims.find(id).id for id in self.content]
        entries = [found[id] for id in wanted]
        address = partial(self.env.app.builder.get_relative_uri, self.env.docname)
        lines = [(entry, FAILED.sub(r"\1", words), number) for entry in entries for words, number in [told(entry)]]
        meant = [words for word, words in MEANT.items() if any(word in line[1] for line in lines)]
        return filled("verdicts", lines=lines, meant=meant, ledger=address("book/ledger"),
                      reading=address("book/reading"))


class Picture(HtmlDirective):
    """``{picture}``: a chapter's picture, once more; nothing where the run has drawn none.

    Its option ``caption`` stands in place of the caption; of a grid, ``rows``, as in "3 of 5", says how many are shown.
    """

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {"caption": directives.unchanged_required, "rows": directives.unchanged_required}

    def html(self) -> str:
        chapter, _, ids = self.arguments[0].rpartition(":")
        if chapter:
            path = editions.EDITIONS / (editions.of_the_book(chapter) or "") / f"{chapter}.ipynb"
        else:
            path = Chapter(Path(self.env.doc2path(self.env.docname)), os.environ.get("BOOK_PROFILE", "quick")).twin
        cells = {cell.id: cell for cell in read(path).cells} if path.is_file() else {}
        outputs = [output.get("data", {}).get("text/html", "") for id in ids.split() if id in cells
                   for output in cells[id].get("outputs", [])]
        found = FIGURE.search("".join(outputs))
        if not found:
            return ""
        caption = html.escape(self.options["caption"]) if "caption" in self.options else None
        rows, _, of = self.options.get("rows", "").partition(" of ")
        style = ""
        if rows:
            width, height = struct.unpack(">II", b64decode(found[0].partition("base64,")[2][:32])[16:24])  # of a PNG
            style = f' style="--shape: {width / height * int(of) / int(rows):.4f}"'

        def again(old: re.Match[str]) -> str:
            return f'<figcaption class="again">{old[1] if caption is None else caption}</figcaption>'

        return CAPTION.sub(again, found[0]).replace("<img", f"<img{style}", 1)


def setup(app: Sphinx) -> None:
    app.add_directive("picture", Picture)
    app.add_directive("verdicts", Verdicts)
    app.connect("doctree-read", parts)
    app.connect("html-page-context", finish, priority=600)  # after numbers and links are in place
