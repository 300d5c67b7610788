"""Sphinx extension: every number has an address.

Each chapter gets a page ``records/<chapter>`` with all results of its run, and the numbers in the chapter's tables and
figures become links to their rows there. So does each chapter of each kept edition, ``records/<edition>/<chapter>``.
The profile is named in BOOK_PROFILE. Roles put numbers into the text, which speaks of the default run: where the
book shows editions, BOOK_EDITION, its numbers are those of edition quick.

    {result}`known.tile.usefulness`                      a measured one, of the chapter that the page shows
    {result}`01_known_features:known.tile.usefulness`    the same on any other page
    {result}`planted/01_known_features:known.tile...`    that of a kept edition, whatever the book shows
    {interval}`...`                                      as {result}, with the interval
    {published}`kim2021; Table 1; VGG-16; PGD; ...`      a printed one: the paper, and what else stands in its row
"""

import html
import os
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxRole

from book.press import ledger
from book.press.chapters import every, recorded
from book.press.editions import DEFAULT, kept, order
from nbutils.lab import results
from nbutils.lab.claims import paper_name
from nbutils.lab.results import MINUS, Record, Result
from nbutils.messages import did_you_mean


def records() -> dict[str, Record]:
    """Chapter -> record of the run that its page shows, for the chapters that have a whole one.

    Raises:
        ValueError: a run card of another schema, or without results.
    """
    chapters = every(os.environ.get("BOOK_PROFILE", "quick"))
    return {chapter.name: recorded(chapter.twin) for chapter in chapters if chapter.state().status == "ok"}


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """On ``html-collect-pages``: one page of records per chapter."""
    for name, record in app.records.items():  # type: ignore[attr-defined]
        yield f"records/{name}", {"title": f"Records of {name}", "body": page(name, record)}, "page.html"


def page(name: str, record: Record) -> str:
    """All results of a chapter, as HTML."""
    parameters = ", ".join(f"{key} = {value}" for key, value in record.parameters.items())
    facts = {"code": f"nbutils {record.version}, commit {record.commit}", "finished": record.finished.isoformat(),
             "python, torch": f"{record.python}, {record.torch}", "parameters": parameters}
    rows = []
    for result in record.results:
        values = ", ".join(f"{value:.4g}" for value in result.values).replace("-", MINUS)
        what = "; ".join(text for text in (result.model, result.data, result.threat, result.attack) if text != "none")
        rows.append(
            f'<tr id="{results.anchor(result.id)}"><td>{html.escape(result.what)}<br>'
            f'<small>{html.escape(what)}</small><br><span class="claim-id">{html.escape(result.id)}</span></td>'
            f"<td>{result}<br><small>{html.escape(result.interval)}; n = {result.n}; per seed: {values}<br>"
            f"{html.escape(result.device)}, {result.seconds:.1f} s</small></td></tr>"
        )
    lines = "".join(f"<dt>{key}</dt><dd>{html.escape(str(value))}</dd>" for key, value in facts.items())
    edition, _, chapter = name.rpartition("/")
    of = f'{"../" * name.count("/")}../notebooks/{chapter}.html'
    where = f", edition {html.escape(edition)}" if edition else ""
    return (
        f'<section><h1>Records of <a href="{of}">{chapter}</a>{where}</h1><p>Every number that the chapter '
        f"measured, in the order of measuring.</p><dl>{lines}</dl>"
        f"{ledger.grid(('What was measured', 'Value'), rows, 'records')}</section>"
    )


def link(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """On ``html-page-context``: numbers that are on record become links; others stay text."""
    chapter = pagename.removeprefix("notebooks/")
    if "body" not in context or chapter not in app.records:  # type: ignore[attr-defined]
        return
    known = app.records[chapter].by_id  # type: ignore[attr-defined]

    def address(found: re.Match[str]) -> str:
        id = html.unescape(found[1])
        return f'<a class="address" href="../records/{chapter}.html#{results.anchor(id)}">' if id in known else "<a>"

    context["body"] = re.sub('<a data-result="([^"]+)">', address, context["body"])


def unbroken(number: str) -> str:
    """A number that keeps its unit on its line."""
    return number.replace(" ", "\N{NO-BREAK SPACE}")


def look_up(recorded: dict[str, Record], page: str, text: str) -> tuple[str, Result | str]:
    """The record and the result that ``{result}`` names on a page, or a word in place of a result.

    It is "not run" where the chapter has no whole run, "not yet recorded" where the edition lacks it or its number, and
    "not measured" where a run on other images than the planted ones has left it out; in a run on planted images an
    unknown id is an error.

    Raises:
        ValueError: no such chapter or id (the nearest is suggested), or a page that is no chapter and names none.
    """
    named = re.fullmatch(r"(?:([\w-]+)/)?(\d\d_\w+):(.+)", text)
    edition, chapter, id = named.groups() if named else (None, page.removeprefix("notebooks/"), text)
    chapters = [known.name for known in every("")]
    if chapter not in chapters:
        raise ValueError(f"no chapter {chapter!r}{did_you_mean(chapter, chapters)}" if named else
                         f"this page is no chapter; name one before the id, as in {chapters[0]}:{id}")
    if edition and edition not in order():
        raise ValueError(f"no edition {edition!r}{did_you_mean(edition, order())}")
    if not edition and os.environ.get("BOOK_EDITION"):
        edition = DEFAULT
    key = f"{edition}/{chapter}" if edition else chapter
    if key not in recorded:
        return key, "not yet recorded" if edition else "not run"
    found = recorded[key].by_id
    if id not in found and edition:  # recorded before the chapter measured it; the run itself must have it
        return key, "not yet recorded"
    if id not in found and recorded[key].dataset != "planted":
        return key, "not measured"
    if id not in found:
        raise ValueError(f"no such result in the record of {key}{did_you_mean(id, found)}")
    return key, found[id]


class MeasuredNumber(SphinxRole):
    """``{result}``: the value of a recorded result, with a link to its record; ``{interval}``: its interval, too."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        app, page = self.env.app, self.env.docname
        try:
            chapter, result = look_up(app.records, page, self.text)  # type: ignore[attr-defined]
        except ValueError as error:
            raise ExtensionError(f"{page}: {{{self.name}}}`{self.text}`: {error}") from None
        if isinstance(result, str):
            return [nodes.emphasis("", result)], []
        address = f"{app.builder.get_relative_uri(page, f'records/{chapter}')}#{results.anchor(result.id)}"
        title = "; ".join([result.what, str(result), *results.intervals([result])])
        number = str(result) if self.name == "interval" else result.parts[0]
        shown = nodes.reference("", unbroken(number), internal=True, refuri=address, reftitle=title)
        shown["classes"].append("address")
        return [shown], []


class PublishedNumber(SphinxRole):
    """``{published}``: a number that a paper prints; its place is shown when one points at it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        paper, *cells = self.text.split("; ")
        try:
            number = results.published(paper, *cells)
        except ValueError as error:
            raise ExtensionError(f"{self.env.docname}: {{{self.name}}}`{self.text}`: {error}") from None
        place = f"{paper_name(paper)}: {'; '.join(cells)} ({number.certainty})"
        return [nodes.abbreviation("", unbroken(number.parts[0]), explanation=place)], []


def read(app: Sphinx) -> None:
    """On ``builder-inited``: the records are read once, those of editions under "edition/chapter"."""
    try:
        others = {f"{edition}/{chapter}": record
                  for edition, found in kept().items() for chapter, record in found.items()}
        app.records = records() | others  # type: ignore[attr-defined]
    except ValueError as error:
        raise ExtensionError(str(error)) from None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", read)
    app.connect("html-collect-pages", pages)
    app.connect("html-page-context", link)
    app.add_role("result", MeasuredNumber())
    app.add_role("interval", MeasuredNumber())
    app.add_role("published", PublishedNumber())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
