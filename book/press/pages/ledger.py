"""Sphinx extension: the claims ledger as a table, as a picture and as a file, from the recorded results.

``{claims-ledger}`` tabulates every claim; ``{claims-picture}`` counts them by paper and verdict. ``{kept-editions}``
tabulates what is recorded, ``{claims-beside}`` the verdicts of the editions beside each other. Beside the pages stands
``ledger.json`` with the same content. The profile is named in BOOK_PROFILE.
"""

import os
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx

from book.press import editions, ledger
from book.press.pages.templates import HtmlDirective, html
from nbutils.lab import claims

# Colour and hatch of each of the ledger's states, told apart in grey, too.
FILLS = (("#0072B2", ""), ("#F0E442", "M2 2h1"), ("#D55E00", "M0 8 8 0"), ("#56B4E9", "M0 4h8"), ("#CC79A7", "M2 4h4"),
         ("#BBBBBB", "M0 8 8 0M0 0l8 8"), ("#FFFFFF", ""), ("#E8E8E8", "M4 0v8"))

kept = cache(editions.kept)  # a build reads and checks them once


@cache
def entries() -> list[ledger.Entry]:
    """The ledger of the runs that the pages show; beside an edition, those of the others count for papers' settings."""
    others = kept() if os.environ.get("BOOK_EDITION") else {}
    return ledger.entries(os.environ.get("BOOK_PROFILE", "quick"), {**others, **ledger.executed()})


class ClaimsLedger(HtmlDirective):
    """``{claims-ledger}``: a table of all claims, chapter by chapter."""

    def html(self) -> str:
        def page(chapter: str) -> str:
            return str(self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{chapter}"))

        return html("ledger", entries=entries(), page=page)


class ClaimsPicture(HtmlDirective):
    """``{claims-picture}``: how many claims of each paper, and of ours, came out how."""

    def html(self) -> str:
        counts = ledger.counts(entries())
        words = "; ".join(f"{paper}: " + (", ".join(f"{n} {state}" for state, n in row.items() if n) or "no claim yet")
                          for paper, row in counts.items())
        return html("counts", counts=counts, most=max(1, *(sum(row.values()) for row in counts.values())), fills=FILLS,
                    alt=f"Claims by paper and verdict. {words}.",
                    caption="Claims by paper and verdict, in the edition shown here. Chapters share networks, so "
                            "agreement between their verdicts is not replication.")


class KeptEditions(HtmlDirective):
    """``{kept-editions}``: the chapters of each edition, where and how long they ran."""

    def html(self) -> str:
        return html("editions", editions=kept())


class ClaimsBeside(HtmlDirective):
    """``{claims-beside}``: each claim with its verdict in every edition that has chapters."""

    def html(self) -> str:
        return html("beside", editions={name: ledger.entries(name, kept()) for name, found in kept().items() if found},
                    root="..")


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
    app.connect("build-finished", write_file)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
