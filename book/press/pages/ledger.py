"""Sphinx extension: the claims ledger as a table, as a picture and as a file, from the recorded results.

``{claims-ledger}`` tabulates every claim; ``{claims-picture}`` counts them by paper and verdict. ``{kept-editions}``
tabulates what is recorded, ``{claims-beside}`` the verdicts of the editions beside each other. Beside the pages stands
``ledger.json`` with the same content. The profile is named in BOOK_PROFILE.
"""

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx

from book.press import editions, ledger
from book.press.chapters import every, read
from book.press.pages.templates import HtmlDirective, html
from nbutils.lab import claims, figures, results

WHOSE = {"paper": "Claims of the papers", "own size": "The same at the papers' own size", "control": "Our controls",
         "sanity": "Sanity checks"}
kept = cache(editions.kept)  # a build reads and checks them once


@cache
def runs() -> ledger.Records:
    """What the pages show; beside an edition also the others, which count for papers' settings."""
    others = kept() if os.environ.get("BOOK_EDITION") else {}
    return {**others, **ledger.executed()}


@cache
def entries() -> list[ledger.Entry]:
    """The ledger of the runs that the pages show."""
    return ledger.entries(os.environ.get("BOOK_PROFILE", "quick"), runs())


class ClaimsLedger(HtmlDirective):
    """``{claims-ledger}``: all claims, chapter by chapter."""

    def html(self) -> str:
        def uri(page: str) -> str:
            return str(self.env.app.builder.get_relative_uri(self.env.docname, page))

        return table(entries(), uri)


def table(found: Sequence[ledger.Entry], uri: Callable[[str], str]) -> str:
    """The ledger as HTML; uri: name of a page -> its address."""
    shown = runs().get(os.environ.get("BOOK_PROFILE", "quick"), {})

    def verdict_at(entry: ledger.Entry) -> str:
        """Where the chapter's page shows the verdict, if its run has judged the claim."""
        chapter = entry.claim.chapter
        judged = chapter in shown and entry.claim.id in [verdict.claim for verdict in shown[chapter].verdicts]
        return f"{uri(f'notebooks/{chapter}')}#claim-{entry.claim.id}" if judged else ""

    def record_at(entry: ledger.Entry) -> str:
        """Where what was measured stands, if the book has a page for it."""
        places = {"": shown, **{f"{edition}/": records for edition, records in kept().items()}}
        at = next((f"records/{place}{entry.claim.chapter}" for place, records in places.items()
                   if entry.run and entry.run == records.get(entry.claim.chapter)), None)
        return f"{uri(at)}#{results.anchor(entry.claim.statistic)}" if at else ""

    chapters = []
    for chapter in every(""):
        rows = [(entry, verdict_at(entry), record_at(entry)) for entry in found if entry.claim.chapter == chapter.name]
        groups = {words: chosen for whose, words in WHOSE.items()
                  if (chosen := [row for row in rows if whose == _whose(row[0].claim)])}
        title = read(chapter.source).cells[0].source.partition("\n")[0].lstrip("# ")
        chapters.append((title, uri(f"notebooks/{chapter.name}"), groups))
    papers = {entry.claim.paper: claims.paper_name(entry.claim.paper) for entry in found}
    return html("ledger", chapters=chapters, papers=papers)


def _whose(claim: claims.Claim) -> str:
    return "own size" if claim.setting else claim.role


class ClaimsPicture(HtmlDirective):
    """``{claims-picture}``: how many claims of each paper, and of ours, came out how."""

    def html(self) -> str:
        counts = ledger.counts(entries())
        words = "; ".join(f"{paper}: " + (", ".join(f"{n} {state}" for state, n in row.items() if n) or "no claim yet")
                          for paper, row in counts.items())
        picture = figures.stacked(counts, xlabel="number of claims", alt=f"Claims by paper and verdict. {words}.",
                                  caption="Claims by paper and verdict, in the edition shown here. Chapters share "
                                          "networks, so agreement between their verdicts is not replication.")
        return picture._repr_html_()


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
