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
    {claim}`tile-is-useful`                              the row of a claim in the ledger
"""

import html
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxRole

from book.press.chapters import every, recorded
from book.press.editions import DEFAULT, order
from book.press.pages.ledger import kept
from book.press.pages.templates import html as filled
from nbutils.lab import claims, results
from nbutils.lab.results import Record, Result
from nbutils.messages import did_you_mean


def records() -> dict[str, Record]:
    """Chapter -> record of the run that its page shows, for the chapters that have a whole one.

    Raises:
        ValueError: a run card of another schema, or without results.
    """
    chapters = every(os.environ.get("BOOK_PROFILE", "quick"))
    return {chapter.name: recorded(chapter.twin) for chapter in chapters if chapter.state().status == "ok"}


@cache
def known() -> dict[str, Record]:
    """The same and those of kept editions, under "edition/chapter"; a build reads them once."""
    return records() | {f"{edition}/{chapter}": record for edition, found in kept().items()
                        for chapter, record in found.items()}


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """On ``html-collect-pages``: one page of records per chapter."""
    for name, record in known().items():
        edition, _, chapter = name.rpartition("/")
        body = filled("records", chapter=chapter, edition=edition, record=record)
        yield f"records/{name}", {"title": f"Records of {name}", "body": body}, "page.html"


def link(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """On ``html-page-context``: numbers that are on record become links; others stay text."""
    chapter = pagename.removeprefix("notebooks/")
    if "body" not in context or chapter not in known():
        return
    ids = known()[chapter].by_id

    def address(found: re.Match[str]) -> str:
        id = html.unescape(found[1])
        return f'<a class="address" href="../records/{chapter}.html#{results.anchor(id)}">' if id in ids else "<a>"

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
    if id in found:
        return key, found[id]
    if edition:  # recorded before the chapter measured it; the run itself must have it
        return key, "not yet recorded"
    if recorded[key].dataset != "planted":
        return key, "not measured"
    raise ValueError(f"no such result in the record of {key}{did_you_mean(id, found)}")


class Role(SphinxRole):
    """A role that shows what a function makes of it; a ValueError of that function stops the build, in one line."""

    def __init__(self, show: Callable[[SphinxRole], nodes.Node]) -> None:
        super().__init__()
        self.show = show

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            return [self.show(self)], []
        except ValueError as error:
            raise ExtensionError(f"{self.env.docname}: {{{self.name}}}`{self.text}`: {error}") from None


def address(role: SphinxRole, page: str, anchor: str, shown: str, **attributes: Any) -> nodes.reference:
    """A link from the role's page to a place on another one."""
    uri = f"{role.env.app.builder.get_relative_uri(role.env.docname, page)}#{anchor}"
    return nodes.reference("", shown, internal=True, refuri=uri, **attributes)


def measured(role: SphinxRole) -> nodes.Node:
    """``{result}``: the value of a recorded result, with a link to its record; ``{interval}``: its interval, too."""
    chapter, result = look_up(known(), role.env.docname, role.text)
    if isinstance(result, str):
        return nodes.emphasis("", result)
    title = "; ".join([result.what, str(result), *results.intervals([result])])
    number = str(result) if role.name == "interval" else result.parts[0]
    return address(role, f"records/{chapter}", results.anchor(result.id), unbroken(number), reftitle=title,
                   classes=["address"])


def published(role: SphinxRole) -> nodes.Node:
    """``{published}``: a number that a paper prints; its place is shown when one points at it."""
    paper, *cells = role.text.split("; ")
    number = results.published(paper, *cells)
    place = f"{claims.paper_name(paper)}: {'; '.join(cells)} ({number.certainty})"
    return nodes.abbreviation("", unbroken(number.parts[0]), explanation=place)


def claim(role: SphinxRole) -> nodes.Node:
    """``{claim}``: the claim's name, as a link to its row in the ledger."""
    claims.find(role.text)
    return address(role, "book/ledger", f"claim-{role.text}", role.text, classes=["claim-id"])


def read(app: Sphinx) -> None:
    """On ``builder-inited``: a record that cannot be read stops the build, in one line."""
    try:
        known()
    except ValueError as error:
        raise ExtensionError(str(error)) from None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", read)
    app.connect("html-collect-pages", pages)
    app.connect("html-page-context", link)
    for name, show in {"result": measured, "interval": measured, "published": published, "claim": claim}.items():
        app.add_role(name, Role(show))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
