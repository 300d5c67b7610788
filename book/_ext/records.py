"""Sphinx extension: every number has an address.

Each chapter gets a page ``records/<chapter>`` with all results of its run, and the numbers in the chapter's tables and
figures become links to their rows there. The profile is named in BOOK_PROFILE.
"""

import html
import os
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from nbutils.lab import results
from nbutils.lab.chapters import every
from nbutils.lab.results import MINUS, Record, Result
from nbutils.lab.runs import build_dir


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


def read(app: Sphinx) -> None:
    """On ``builder-inited``: the records are read once."""
    app.records = records()  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", read)
    app.connect("html-collect-pages", pages)
    app.connect("html-page-context", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
