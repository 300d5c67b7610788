"""Sphinx extension: every number has an address.

Each chapter gets a page ``records/<chapter>`` with all results of its run, and the numbers in the chapter's tables and
figures become links to their rows there. The profile is named in BOOK_PROFILE. Two roles put numbers into the text:

    {result}`known.tile.usefulness`                      a measured one, of the chapter that the page shows
    {result}`01_known_features:known.tile.usefulness`    the same on any other page
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

from nbutils.lab import results
from nbutils.lab.chapters import every
from nbutils.lab.claims import paper_name
from nbutils.lab.results import MINUS, Result
from nbutils.lab.runs import build_dir
from nbutils.messages import did_you_mean

Record = tuple[dict[str, Any], list[Result]]


def records() -> dict[str, Record]:
    """Chapter -> header and results of its run, for the chapters that have run."""
    profile = os.environ.get("BOOK_PROFILE", "quick")
    paths = {chapter.name: build_dir() / "results" / profile / f"{chapter.name}.json" for chapter in every(profile)}
    return {name: results.read(path) for name, path in paths.items() if path.exists()}


def anchor(id: str) -> str:
    """The id as it can stand in an address."""
    return re.sub(r"[^\w.-]+", "-", id)


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """On ``html-collect-pages``: one page of records per chapter."""
    for name, (header, found) in app.records.items():  # type: ignore[attr-defined]
        yield f"records/{name}", {"title": f"Records of {name}", "body": page(name, header, found)}, "page.html"


def page(name: str, header: dict[str, Any], found: list[Result]) -> str:
    """All results of a chapter, as HTML."""
    parameters = ", ".join(f"{key} = {value}" for key, value in header["parameters"].items())
    facts = {"code": f"nbutils {header['version']}, commit {header['commit']}", "finished": header["finished"],
             "python, torch": f"{header['python']}, {header['torch']}", "parameters": parameters}  # fmt: skip
    rows = []
    for result in found:
        values = ", ".join(f"{value:.4g}" for value in result.values).replace("-", MINUS)
        what = "; ".join(text for text in (result.model, result.data, result.threat, result.attack) if text != "none")
        rows.append(
            f'<tr id="{anchor(result.id)}"><td>{html.escape(result.what)}<br><small>{html.escape(what)}</small><br>'
            f'<span class="claim-id">{html.escape(result.id)}</span></td>'
            f"<td>{result}<br><small>{result.interval}; n = {result.n}; per seed: {values}<br>"
            f"{html.escape(result.device)}, {result.seconds:.1f} s</small></td></tr>"
        )
    head = "".join(f'<th scope="col">{word}</th>' for word in ("What was measured", "Value"))
    lines = "".join(f"<dt>{key}</dt><dd>{html.escape(str(value))}</dd>" for key, value in facts.items())
    return (
        f'<section><h1>Records of <a href="../notebooks/{name}.html">{name}</a></h1><p>Every number that the chapter '
        f'measured, in the order of measuring.</p><dl>{lines}</dl><div class="ledger records"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def link(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """On ``html-page-context``: numbers that are on record become links; others stay text."""
    chapter = pagename.removeprefix("notebooks/")
    if "body" not in context or chapter not in app.records:  # type: ignore[attr-defined]
        return
    known = {result.id for result in app.records[chapter][1]}  # type: ignore[attr-defined]

    def address(found: re.Match[str]) -> str:
        id = html.unescape(found[1])
        return f'<a class="address" href="../records/{chapter}.html#{anchor(id)}">' if id in known else "<a>"

    context["body"] = re.sub('<a data-result="([^"]+)">', address, context["body"])


class MeasuredNumber(SphinxRole):
    """``{result}``: the value of a recorded result, with a link to its record.

    It is "not run" where there is no record, and "not measured" where a run on other images than the planted ones has
    left it out; in a run on planted images an unknown id is an error.
    """

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        here = self.env.docname
        named = re.fullmatch(r"(\d\d_\w+):(.+)", self.text)
        chapter, id = named.groups() if named else (here.removeprefix("notebooks/"), self.text)
        chapters = [known.name for known in every("")]
        if chapter not in chapters:
            problem = f"no chapter {chapter!r}{did_you_mean(chapter, chapters)}" if named else (
                f"this page is no chapter; expected the chapter's name before the id, as in {chapters[0]}:{id}")
            raise ExtensionError(f"{here}: {{{self.name}}}`{self.text}`: {problem}")
        recorded = self.env.app.records  # type: ignore[attr-defined]
        if chapter not in recorded:
            return [nodes.emphasis("", "not run")], []
        header, measured = recorded[chapter]
        found = {result.id: result for result in measured}
        if id not in found and header["parameters"].get("dataset", "planted") != "planted":
            return [nodes.emphasis("", "not measured")], []
        if id not in found:
            raise ExtensionError(f"{here}: {{{self.name}}}`{self.text}`: no such result in the record of {chapter}"
                                 f"{did_you_mean(id, found)}")
        result = found[id]
        address = f"{self.env.app.builder.get_relative_uri(here, f'records/{chapter}')}#{anchor(id)}"
        title = "; ".join([result.what, str(result), *results.intervals([result])])
        shown = nodes.reference("", result.parts[0], internal=True, refuri=address, reftitle=title, classes=["address"])
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
        return [nodes.abbreviation("", number.parts[0], explanation=place)], []


def read(app: Sphinx) -> None:
    """On ``builder-inited``: the records are read once."""
    try:
        app.records = records()  # type: ignore[attr-defined]
    except ValueError as error:
        raise ExtensionError(str(error)) from None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", read)
    app.connect("html-collect-pages", pages)
    app.connect("html-page-context", link)
    app.add_role("result", MeasuredNumber())
    app.add_role("published", PublishedNumber())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
