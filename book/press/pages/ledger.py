"""Sphinx extension: the claims ledger as a table, as a picture and as a file, from the recorded results.

``{claims-ledger}`` tabulates every claim; ``{claims-picture}`` counts them by paper and verdict. ``{kept-editions}``
tabulates what is recorded, ``{seed-minutes}`` what a seed took, ``{claims-beside}`` the verdicts of the editions beside
each other, and ``{edition-slopes}`` draws some of their results. Beside the pages stands ``ledger.json`` with the same
content. The profile is named in BOOK_PROFILE.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

from docutils.parsers.rst import directives
from sphinx.application import Sphinx

from book.press import editions, ledger
from book.press.chapters import every
from book.press.pages.templates import HtmlDirective, html
from nbutils.lab import claims, results

# Colour and hatch of each of the ledger's states, told apart in grey, too.
FILLS = (("#0072B2", ""), ("#F0E442", "M2 2h1"), ("#D55E00", "M0 8 8 0"), ("#56B4E9", "M0 4h8"), ("#CC79A7", "M2 4h4"),
         ("#BBBBBB", "M0 8 8 0M0 0l8 8"), ("#FFFFFF", ""), ("#E8E8E8", "M4 0v8"))

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
    return ledger.entries(os.environ.get("BOOK_PROFILE", "quick"), runs(), controls())


@cache
def of_edition(edition: str) -> list[ledger.Entry]:
    """The ledger of a kept edition."""
    return ledger.entries(edition, kept())


@cache
def of_the_book() -> list[ledger.Entry]:
    """The ledger of the records that the book is about, whatever its pages show."""
    return ledger.entries(editions.BEST, {**kept(), editions.BEST: _chosen(editions.of_the_book)}, controls())


@cache
def controls() -> dict[str, results.Record]:
    """Chapter -> the record that controls with a known truth are taken from."""
    return _chosen(editions.of_the_controls)


def _chosen(edition_of: Callable[[str], str | None]) -> dict[str, results.Record]:
    """Chapter -> its record in the edition that is chosen for it."""
    chosen = {chapter.name: edition_of(chapter.name) for chapter in every("")}
    return {name: kept()[edition][name] for name, edition in chosen.items() if edition}


class ClaimsLedger(HtmlDirective):
    """``{claims-ledger}``: all claims, chapter by chapter."""

    def html(self) -> str:
        uri = partial(self.env.app.builder.get_relative_uri, self.env.docname)
        return table(entries(), runs().get(os.environ.get("BOOK_PROFILE", "quick"), {}), uri)


def table(found: Sequence[ledger.Entry], shown: Mapping[str, results.Record], uri: Callable[[str], str]) -> str:
    """The ledger as HTML.

    Args:
        shown: chapter -> record of the run that its page shows. uri: name of a page -> its address.
    """
    places = {"": shown, **{f"{edition}/": records for edition, records in kept().items()}}

    def verdict_at(entry: ledger.Entry) -> str:
        """Where the chapter's page shows the verdict, if its run has judged the claim."""
        chapter = entry.claim.chapter
        judged = chapter in shown and entry.claim.id in [verdict.claim for verdict in shown[chapter].verdicts]
        return f"{uri(f'notebooks/{chapter}')}#claim-{entry.claim.id}" if judged else ""

    def record_at(entry: ledger.Entry) -> str:
        """Where what was measured stands, if the book has a page for it."""
        chapter = entry.claim.chapter
        at = next((f"records/{place}{chapter}" for place, records in places.items() if entry.run
                   and chapter in records and records[chapter].finished == entry.run.finished), None)
        return f"{uri(at)}#{results.anchor(entry.claim.statistic)}" if at else ""

    chapters = []
    for chapter in every(""):
        rows = [(entry, verdict_at(entry), record_at(entry)) for entry in found if entry.claim.chapter == chapter.name]
        groups = {words: chosen for whose, words in WHOSE.items()
                  if (chosen := [row for row in rows if whose == _whose(row[0].claim)])}
        chapters.append((chapter.title, uri(f"notebooks/{chapter.name}"), groups))
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
        return html("counts", counts=counts, most=max(1, *(sum(row.values()) for row in counts.values())), fills=FILLS,
                    alt=f"Claims by paper and verdict. {words}.",
                    caption="Claims by paper and verdict, in the edition shown here. Chapters share networks, so "
                            "agreement between their verdicts is not replication.")


class KeptEditions(HtmlDirective):
    """``{kept-editions}``: the chapters of each edition, where and how long they ran."""

    def html(self) -> str:
        return html("editions", editions=kept())


class SeedMinutes(HtmlDirective):
    """``{seed-minutes} planted``: what one seed of each chapter of an edition took, and what a sweep would.

    Its content says how many values each parameter has: ``first_seed=100 dataset=4``. A chapter runs once for all
    values of a parameter that it lacks, as in `sweep.jobs`.
    """

    required_arguments = 1
    has_content = True

    def html(self) -> str:
        found, counts = kept()[self.arguments[0]], [word.split("=") for word in " ".join(self.content).split()]
        rows = {}
        for chapter in every(""):
            if record := found.get(chapter.name):
                runs = math.prod(int(count) for name, count in counts if name in chapter.parameters)
                rows[chapter.name] = (record.minutes / record.parameters["seeds"], runs)
        return html("minutes", rows=rows, hours=sum(took * runs for took, runs in rows.values()) / 60)


class ClaimsBeside(HtmlDirective):
    """``{claims-beside}``: each claim with its verdict in every edition that has chapters."""

    def html(self) -> str:
        return html("beside", editions={name: of_edition(name) for name, found in kept().items() if found}, root="..")


class EditionSlopes(HtmlDirective):
    """``{edition-slopes} 05_ib_distillation``: results of a chapter as lines from edition to edition.

    A line of its content names a result and what it is called: ``bottleneck.all.pgd = no mask``. Shown are the editions
    that have all of them.
    """

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"ylabel": directives.unchanged_required, "caption": directives.unchanged_required}

    def html(self) -> str:
        chapter, names = self.arguments[0], dict(line.split(" = ") for line in self.content if line)
        found = {edition: records[chapter].by_id for edition, records in kept().items()
                 if chapter in records and names.keys() <= records[chapter].by_id.keys()}
        if len(found) < 2:
            return "<p><em>Not yet recorded in two editions.</em></p>"
        lines = {words: [results[id] for results in found.values()] for id, words in names.items()}
        told = "; ".join(f"{words}: {', '.join(result.parts[0] for result in line)}" for words, line in lines.items())
        ends = [end for line in lines.values() for result in line for end in (result.value, *(result.limits() or ()))]
        return html("slopes", lines=lines, names=list(found), low=min(ends), high=max(ends),
                    ylabel=self.options["ylabel"], caption=self.options["caption"],
                    alt=f"Lines over the editions {', '.join(found)}. {told}.")


def write_file(app: Sphinx, error: Exception | None) -> None:
    """On ``build-finished``: the ledger as a file that machines can read."""
    if error is None and app.builder.format == "html":
        ledger.write(Path(app.outdir) / "ledger.json", entries())


def setup(app: Sphinx) -> None:
    claims.load()  # a claim without a criterion stops the build here
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_directive("claims-picture", ClaimsPicture)
    app.add_directive("kept-editions", KeptEditions)
    app.add_directive("seed-minutes", SeedMinutes)
    app.add_directive("claims-beside", ClaimsBeside)
    app.add_directive("edition-slopes", EditionSlopes)
    app.connect("build-finished", write_file)
