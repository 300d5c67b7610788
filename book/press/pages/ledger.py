"""Sphinx extension: the claims ledger as a table, as a picture and as a file, from the recorded results.

``{claims-ledger}`` tabulates every claim; ``{claims-picture}`` counts them by paper and verdict; ``{claim}`` in a
sentence leads to one claim's row. ``{kept-editions}`` tabulates what is recorded, ``{claims-beside}`` the verdicts of
the editions beside each other. Beside the pages stands ``ledger.json`` with the same content. The profile is named
in BOOK_PROFILE.
"""

import os
from functools import cache
from html import escape
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from book.press import editions, ledger
from nbutils.lab import claims, figures

kept = cache(editions.kept)  # a build reads and checks them once


@cache
def entries() -> list[ledger.Entry]:
    """The ledger of the runs that the pages show; beside an edition, those of the others count for papers' settings."""
    others = kept() if os.environ.get("BOOK_EDITION") else {}
    return ledger.entries(os.environ.get("BOOK_PROFILE", "quick"), {**others, **ledger.executed()})


def _raw(content: str) -> list[nodes.Node]:
    return [nodes.raw("", content, format="html")]


class ClaimsLedger(SphinxDirective):
    """``{claims-ledger}``: a table of all claims, chapter by chapter."""

    def run(self) -> list[nodes.Node]:
        def page(chapter: str) -> str:
            return str(self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{chapter}"))

        return _raw(ledger.table(entries(), page))


class ClaimsPicture(SphinxDirective):
    """``{claims-picture}``: how many claims of each paper came out how."""

    def run(self) -> list[nodes.Node]:
        counts = ledger.counts(entries())
        words = "; ".join(f"{paper}: " + (", ".join(f"{n} {state}" for state, n in row.items() if n) or "no claim yet")
                          for paper, row in counts.items())
        picture = figures.stacked(counts, xlabel="number of claims", alt=f"Claims by paper and verdict. {words}.",
                                  caption="Claims by paper and verdict, in the edition shown here.")
        return _raw(picture._repr_html_())


class KeptEditions(SphinxDirective):
    """``{kept-editions}``: the chapters of each edition, where and how long they ran."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for name, chapters in kept().items():
            links = ", ".join(f'<a href="../records/{quote(name)}/{chapter}.html">{chapter[:2]}</a>'
                              for chapter in chapters)
            minutes = f"{sum(record.minutes for record in chapters.values()):.0f}" * bool(chapters)
            devices = "; ".join(sorted({record.device for record in chapters.values()}))
            last = max((str(record.finished.date()) for record in chapters.values()), default="")
            cells = (escape(name), links or "not yet recorded", minutes, escape(devices), escape(last))
            rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        columns = ("Edition", "Chapters recorded", "Minutes of the last runs", "Device", "Last on")
        return _raw(ledger.grid(columns, rows, "records"))


class ClaimsBeside(SphinxDirective):
    """``{claims-beside}``: each claim with its verdict in every edition that has chapters."""

    def run(self) -> list[nodes.Node]:
        names = [name for name, chapters in kept().items() if chapters]
        found = {name: ledger.entries(name, kept()) for name in names}
        return _raw(ledger.beside(found, ".."))


class ClaimRole(SphinxRole):
    """``{claim}`id` ``: the claim's name, as a link to its row in the ledger."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            claims.find(self.text)
        except ValueError as error:
            message = self.inliner.reporter.error(str(error), line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        page = self.env.app.builder.get_relative_uri(self.env.docname, "book/ledger")
        return [nodes.reference("", self.text, refuri=f"{page}#claim-{self.text}", internal=True,
                                classes=["claim-id"])], []


def write_file(app: Sphinx, error: Exception | None) -> None:
    """On ``build-finished``: the ledger as a file that machines can read."""
    if error is None and app.builder.format == "html":
        ledger.write(Path(app.outdir) / "ledger.json", entries())


def setup(app: Sphinx) -> dict[str, bool]:
    claims.load()  # a claim without a criterion stops the build here
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_directive("claims-picture", ClaimsPicture)
    app.add_directive("kept-editions", KeptEditions)
    app.add_directive("claims-beside", ClaimsBeside)
    app.add_role("claim", ClaimRole())
    app.connect("build-finished", write_file)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
