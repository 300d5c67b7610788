"""Sphinx extension: every number has an address.

Each chapter gets a page ``records/<chapter>`` with all results of its run, and the numbers in the chapter's tables and
figures become links to their rows there. So does each chapter of each kept edition, ``records/<edition>/<chapter>``.
The profile is named in BOOK_PROFILE. Roles put numbers and statements into the text, which speaks of one record of each
chapter: that of the best edition (see `editions.of_the_book`). Where a page shows another run, its numbers are marked.

    {result}`known.tile.usefulness`                      a measured one, of the chapter on whose page it stands
    {result}`01_known_features:known.tile.usefulness`    the same on any other page
    {result}`planted/01_known_features:known.tile...`    that of a kept edition, whatever the book shows
    {interval}`...`                                      as {result}, with the interval
    {published}`kim2021; Table 1; VGG-16; PGD; ...`      a printed one: the paper, and what else stands in its row
    {claim}`tile-is-useful`                              the row of a claim in the ledger
    {says}`fails <d-det-generalises is not held>`        words, and what must be true of the record for them to stand
"""

import html
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from book.press import editions
from book.press.chapters import every, recorded
from book.press.editions import order
from book.press.pages.ledger import entries, kept, of_edition, of_the_book
from book.press.pages.templates import html as filled
from book.press.says import Statement, side
from nbutils.lab import claims, results
from nbutils.lab.results import Record, Result
from nbutils.messages import did_you_mean

logger = logging.getLogger(__name__)
the_books = cache(editions.of_the_book)
the_controls = cache(editions.of_the_controls)
MARK = "\N{DAGGER}"  # of numbers in sentences that are not those of the run that the page shows


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
    _, own = shown(known(), chapter)

    def address(found: re.Match[str]) -> str:
        id = html.unescape(found[1])
        key = next((key for key in own if id in known()[key].by_id), None)
        return f'<a class="address" href="../records/{key}.html#{results.anchor(id)}">' if key else "<a>"

    context["body"] = re.sub('<a data-result="([^"]+)">', address, context["body"])


def unbroken(number: str) -> str:
    """A number that keeps its unit on its line."""
    return number.replace(" ", "\N{NO-BREAK SPACE}")


def shown(recorded: dict[str, Record], chapter: str) -> tuple[list[str], list[str]]:
    """Where numbers of a chapter are looked up, the first place first: of the record that the book is about, and of the
    run that its page shows. Either has what needs a known truth from a record on planted images."""
    keys = [f"{edition}/{chapter}" for edition in (the_books(chapter), the_controls(chapter))]
    book, controls = ([key] if key in recorded else [] for key in keys)
    own = [chapter] if chapter in recorded else []
    if book and own and is_the_books(recorded, chapter):
        book = own
    return [*(book or own), *controls], [*own, *controls]


def is_the_books(recorded: dict[str, Record], chapter: str) -> bool:
    """Whether a chapter's page shows the record that the book is about, as far as it is about one."""
    ours = recorded.get(f"{the_books(chapter)}/{chapter}")
    own = recorded.get(chapter)
    return own is None or ours is None or (own.profile, own.finished) == (ours.profile, ours.finished)


def named(page: str, text: str) -> tuple[str, str, str]:
    """Edition, chapter and id of what a text names on a page; the edition is "" where the text leaves it out.

    Raises:
        ValueError: no such chapter or edition (the nearest is suggested), or a page that is no chapter and names none.
    """
    found = re.fullmatch(r"(?:([\w-]+)/)?(\d\d_\w+):(.+)", text)
    edition, chapter, id = found.groups() if found else (None, page.removeprefix("notebooks/"), text)
    chapters = [known.name for known in every("")]
    if chapter not in chapters:
        raise ValueError(f"no chapter {chapter!r}{did_you_mean(chapter, chapters)}" if found else
                         f"this page is no chapter; name one before the id, as in {chapters[0]}:{id}")
    return kept_edition(edition or ""), chapter, id


def kept_edition(name: str) -> str:
    """The name of an edition, or ""; raises ValueError where there is none of that name (the nearest is suggested)."""
    if name and name not in order():
        raise ValueError(f"no edition {name!r}{did_you_mean(name, order())}")
    return name


def look_up(recorded: dict[str, Record], page: str, text: str) -> tuple[str, Result | str]:
    """The record and the result that ``{result}`` names on a page, or a word in place of a result.

    It is "not run" where the chapter has no whole run, "not yet recorded" where the editions lack it or its number, and
    "not measured" where a run on other images than the planted ones has left it out; in a run on planted images an
    unknown id is an error.

    Raises:
        ValueError: see `named`; or no such id (the nearest is suggested).
    """
    edition, chapter, id = named(page, text)
    keys = [f"{edition}/{chapter}"] if edition else list(dict.fromkeys(chain(*shown(recorded, chapter))))
    there = [key for key in keys if key in recorded]
    if not there:
        return keys[0] if edition else chapter, "not yet recorded" if edition else "not run"
    for key in there:
        if id in recorded[key].by_id:
            return key, recorded[key].by_id[id]
    if edition or chapter not in there or os.environ.get("BOOK_EDITION"):
        return there[0], "not yet recorded"  # it was recorded before the chapter measured it
    if recorded[chapter].dataset != "planted":
        return chapter, "not measured"
    raise ValueError(f"no such result in the record of {chapter}{did_you_mean(id, recorded[chapter].by_id)}")


class Role(SphinxRole):
    """A role that shows what its function in ROLES makes of it; a ValueError of that function stops the build, in one
    line."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            return ROLES[self.name](self.env, self.name, self.text), []
        except ValueError as error:
            raise ExtensionError(f"{self.env.docname}: {{{self.name}}}`{self.text}`: {error}") from None


def address(env: BuildEnvironment, page: str, anchor: str, shown: str, **attributes: Any) -> nodes.reference:
    """A link from the page that is read to a place on another one."""
    uri = f"{env.app.builder.get_relative_uri(env.docname, page)}#{anchor}"
    return nodes.reference("", shown, internal=True, refuri=uri, **attributes)


def measured(env: BuildEnvironment, name: str, text: str) -> list[nodes.Node]:
    """``{result}``: the value of a recorded result, with a link to its record; ``{interval}``: its interval, too.

    It is marked where the page shows another run of this chapter.
    """
    page, recorded = env.docname, known()
    key, result = look_up(recorded, page, text)
    if isinstance(result, str):
        return [nodes.emphasis("", result)]
    number = str(result) if name == "interval" else result.parts[0]
    edition, chapter, _ = named(page, text)
    other = not edition and page == f"notebooks/{chapter}" and not is_the_books(recorded, chapter) and key != chapter
    title = "; ".join([f"edition {key.partition('/')[0]}"] * other
                      + [result.what, str(result), *results.intervals([result])])
    found = address(env, f"records/{key}", results.anchor(result.id), unbroken(number), reftitle=title,
                    classes=["address"])
    return [found, nodes.superscript("", MARK)] if other else [found]


def published(env: BuildEnvironment, name: str, text: str) -> list[nodes.Node]:
    """``{published}``: a number that a paper prints; its place is shown when one points at it."""
    paper, *cells = text.split("; ")
    number = results.published(paper, *cells)
    place = f"{claims.paper_name(paper)}: {'; '.join(cells)} ({number.certainty})"
    return [nodes.abbreviation("", unbroken(number.parts[0]), explanation=place)]


def claim(env: BuildEnvironment, name: str, text: str) -> list[nodes.Node]:
    """``{claim}``: the claim's name, as a link to its row in the ledger."""
    claims.find(text)
    return [address(env, "book/ledger", f"claim-{text}", text, classes=["claim-id"])]


def says(env: BuildEnvironment, name: str, text: str) -> list[nodes.Node]:
    """``{says}``: words that speak of a record, with a link to what was measured, see `book.press.says`.

    Where the page shows this record and it does not bear the words out, `unsaid` tells so. Where it shows another run
    that does not, what is true of that run stands behind them.
    """
    parts = re.fullmatch(r"(?s)(.+?)\s*<([^<]+)>", text)
    if not parts:
        raise ValueError("expected words and, in <>, what must be true for them to stand")
    words, statement = " ".join(parts[1].split()), Statement.of(" ".join(parts[2].split()))
    is_verdict = statement.relation == "is"
    found = verdict(statement) if is_verdict else compared(env.docname, statement)
    wanted = statement.object if is_verdict else statement.relation
    link = address(env, *found.place, words, reftitle=found.told, classes=["address"])
    if found.edition or (the_books(found.chapter) and is_the_books(known(), found.chapter)):
        if found.book != wanted:
            link["unsaid"] = f"{statement.subject} {statement.relation} {statement.object}: {found.told}"
        return [link]
    return [link, nodes.emphasis("", f" (here: {found.own})")] if found.own not in ("", wanted) else [link]


ROLES: dict[str, Callable[[BuildEnvironment, str, str], list[nodes.Node]]] = {
    "result": measured, "interval": measured, "published": published, "claim": claim, "says": says}


@dataclass(frozen=True)
class Found:
    """What is true where a statement says something.

    Attributes:
        book, own: the verdict, or the side; of the record that the book is about, and of the run that the page shows,
            "" where that has not measured it. told: what stands in the first, with its numbers.
        edition: of which alone the statement speaks, or "". chapter: the one that measured it.
        place: page and anchor of what was measured.
    """

    book: str
    own: str
    told: str
    edition: str
    chapter: str
    place: tuple[str, str]


def verdict(statement: Statement) -> Found:
    """How a claim came out; "quick/" before it for that in a kept edition."""
    edition, _, id = statement.subject.rpartition("/")
    claims.find(id)
    ledgers = (of_edition(kept_edition(edition)),) * 2 if edition else (of_the_book(), entries())
    book, own = (next(entry for entry in found if entry.claim.id == id) for found in ledgers)
    told = f"{book.state} ({book.words}; {book.verdict.result})" if book.verdict else book.state
    return Found(book.state, own.state if own.verdict else "", told, edition, book.claim.chapter,
                 ("book/ledger", f"claim-{id}"))


def compared(page: str, statement: Statement) -> Found:
    """On which side of what it is compared with a result lies; both come from one record."""
    recorded = known()
    edition, chapter, id = named(page, statement.subject)
    prefix = statement.subject.removesuffix(id)
    ids = [id] if statement.number is not None else [id, statement.object]
    key, *_ = [look_up(recorded, page, prefix + each)[0] for each in ids]  # of an unknown id it tells the nearest

    def true_in(keys: list[str]) -> tuple[str, str]:
        for key in keys:
            if key in recorded and all(each in recorded[key].by_id for each in ids):
                first, *rest = (recorded[key].by_id[each] for each in ids)
                held = side(first, rest[0] if rest else float(statement.number or 0))
                return held, f"{held} ({', '.join(f'{result.id} {result}' for result in (first, *rest))})"
        there = {known for key in keys if key in recorded for known in recorded[key].by_id}
        missing = next((each for each in ids if each not in there), id)
        return "", f"{missing} is not on record{did_you_mean(missing, there)}"

    books, own = ([f"{edition}/{chapter}"],) * 2 if edition else shown(recorded, chapter)
    held, told = true_in(books)
    return Found(held, true_in(own)[0], told, edition, chapter, (f"records/{key}", results.anchor(id)))


def unsaid(app: Sphinx, doctree: nodes.document) -> None:
    """On ``doctree-read``: a warning for each statement that the record contradicts, with the sentence around it."""
    for node in [node for node in doctree.findall(nodes.reference) if "unsaid" in node]:
        words, text = node.astext(), " ".join(node.parent.astext().split())
        sentences = re.split(r"(?<=[.!?:]) ", text)
        sentence = next((one for one in sentences if words in one), text)
        logger.warning("the record says otherwise: \N{LEFT DOUBLE QUOTATION MARK}%s\N{RIGHT DOUBLE QUOTATION MARK} "
                       "states %s", sentence, node["unsaid"], location=node)


def read(app: Sphinx) -> None:
    """On ``builder-inited``: a record that cannot be read stops the build, in one line."""
    try:
        known()
    except ValueError as error:
        raise ExtensionError(str(error)) from None


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", read)
    app.connect("html-collect-pages", pages)
    app.connect("html-page-context", link)
    app.connect("doctree-read", unsaid)
    for name in ROLES:
        app.add_role(name, Role())
