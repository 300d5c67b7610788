"""Sphinx extension: the book shows executed notebooks, though the sources hold no outputs.

Each page under notebooks/ has its text from the source and its code and outputs from the executed twin in the build
folder, for the profile named in BOOK_PROFILE. A twin that is missing, of other code than its source or not run to its
end stops the build; with BOOK_INCOMPLETE set, the page becomes a notice instead. A line at its head says which run a
page shows, and what came out otherwise than in the record that the book is about; the foot of a page from an edition
says where that came from. Cells that need a known truth are shown from an edition on planted images. The directive
``{execution-status}`` tabulates papermill's records, or those of the edition.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html import escape, unescape
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from book.press.chapters import Chapter, State, code_cells, is_injected, read, written
from book.press.editions import (
    EDITIONS,
    banner,
    find,
    literal,
    literal_code,
    of_the_book,
    of_the_controls,
    older_claims,
)
from book.press.ledger import Entry
from book.press.pages import ledger
from book.press.pages.folding import UNJUDGED, plain, tagged
from book.press.pages.records import MARK, is_the_books, known
from nbutils.lab.claims import MARKS
from nbutils.lab.parameters import NEEDS_TRUTH
from nbutils.lab.results import MIME, Record
from nbutils.messages import counted

logger = logging.getLogger(__name__)
JUDGED = re.compile(r'<div class="verdict [^"]*" id="claim-([a-z0-9-]+)"><p><strong>\S+ (.*?)</strong>(.*?</div>)',
                    re.DOTALL)
SHOWS = re.compile(r"run\.(?:table|judge)\(|lab\.figures\.")  # code that shows what it finds
# Until alternative texts were made of what is drawn, they were typed, and told what the pictures of another run showed.
OF_ANOTHER_RUN = re.compile(r' In the default run [^"]*(?=")')
MARKS_OF_SOLUTIONS = re.compile(r"^### (?:BEGIN|END) SOLUTION(?:\n|\Z)", re.MULTILINE)  # for who makes assignments
NOT_RECORDED = "Not yet recorded"
NEWER = ":::{container} shown-controls\nWhat would stand here is newer than this run, so no result is shown.\n:::"


def chapter_of(app: Sphinx, docname: str) -> Chapter | None:
    """The chapter that a page shows, or None for a page of prose."""
    path = Path(app.env.doc2path(docname))
    return Chapter(path, os.environ.get("BOOK_PROFILE", "quick")) if path.suffix == ".ipynb" else None


def show_twin(app: Sphinx, docname: str, source: list[str]) -> None:
    """On ``source-read``: put the executed notebook in the place of its source."""
    chapter = chapter_of(app, docname)
    if chapter is None:
        return
    state = chapter.state()
    if state.status == "ok":
        twin = read(chapter.twin)
        ours = read(chapter.source)
        twin.cells = tagged(with_controls(merged(ours, twin), chapter), ours)
        twin.metadata.pop("papermill", None)
        if chapter.record:
            title, rest = split(twin.cells[0].source)
            older = older_claims(chapter, twin.metadata.get("edition"))
            judged_today(twin.cells, ledger.entries(), chapter.record)
            line = f"::::{{container}} shown-run\n{head(chapter, chapter.record)}\n\n{older}\n::::"
            twin.cells[0].source = "\n\n".join([title, line, rest])
        if stamp := twin.metadata.pop("edition", None):
            box = f":::{{admonition}} A recorded run\n:class: note\n{banner(chapter, stamp)}\n:::"
            twin.cells.append(nbformat.v4.new_markdown_cell(box))
        for number, cell in enumerate(code_cells(twin), start=1):
            cell.source = MARKS_OF_SOLUTIONS.sub("", cell.source)
            for data in (output.data for output in cell.outputs if "data" in output):
                data.pop(MIME, None)  # the run's record, which no page shows
                if "text/html" in data:
                    data["text/html"] = OF_ANOTHER_RUN.sub("", data["text/html"])
                if "image/png" in data:
                    logger.warning("cell %d shows a bare picture; a lab.figures.Picture has a text alternative", number,
                                   location=docname)
        source[0] = nbformat.writes(twin)
    elif os.environ.get("BOOK_INCOMPLETE"):
        page = nbformat.v4.new_markdown_cell(notice(chapter, state))
        source[0] = nbformat.writes(nbformat.v4.new_notebook(cells=[page]))
    else:
        raise ExtensionError(f"{chapter.name} at profile {chapter.profile}: {state}; run `make book`")


def merged(source: nbformat.NotebookNode, twin: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The text of the source around the executed code: a change of words needs no new run.

    All code that ran is shown, in the order in which it ran. Where the source's code has changed since, as it may after
    an edition was recorded, a cell is found in the source by its id: the text above it comes before it. A line says
    below which text all that would be shown is newer than the run.
    """
    code = [place for place, cell in enumerate(source.cells) if cell.cell_type == "code"]
    ran = [cell for cell in twin.cells if cell.cell_type == "code"]
    ids = [cell.id for cell in ran if not is_injected(cell)]
    if written(source) != written(twin):
        ids = [source.cells[place].id for place in code]
    places, cells, done = dict(zip(ids, code, strict=True)), [], 0
    shown = {places.get(cell.id): cell.outputs or cell.source.startswith(NEEDS_TRUTH) for cell in ran}
    text, newer, older = 0, set(), set()
    for place, cell in enumerate(source.cells):
        if cell.cell_type != "code":
            text = place
        elif shown.get(place):
            older.add(text)
        elif place not in shown and SHOWS.search(cell.source):
            newer.add(text)

    def texts(first: int, end: int) -> Iterator[nbformat.NotebookNode]:
        for place in range(first, end):
            if source.cells[place].cell_type != "code":
                yield source.cells[place]
                if place in newer - older:
                    yield nbformat.v4.new_markdown_cell(NEWER)

    for cell in ran:
        place = places.get(cell.id, -1) + 1
        cells += [*texts(done, place), cell]
        done = max(done, place)
    return [*cells, *texts(done, len(source.cells))]


def with_controls(cells: list[nbformat.NotebookNode], chapter: Chapter) -> list[nbformat.NotebookNode]:
    """The cells of a page; those that need a known truth from an edition on planted images, where the run has none.

    A line above them says which edition that is; one in place of them, that it is older than they are.
    """
    edition = of_the_controls(chapter.name)
    if not edition or not chapter.record or chapter.record.dataset == "planted":
        return cells
    path = EDITIONS / edition / chapter.source.name
    theirs = {cell.id: cell for cell in read(path).cells} if path.exists() else {}
    marked = {cell.id for cell in code_cells(read(chapter.source)) if cell.source.startswith(NEEDS_TRUTH)}
    from_there = f"edition {described(find(edition, chapter.name))}"
    words = {True: f"Needs a known truth, so it is shown from {from_there}.",
             False: f"Needs a known truth, and is newer than {from_there}, so no result is shown."}
    shown, before = [], None
    for cell in cells:
        there = cell.id in theirs if cell.id in marked else None
        if there not in (None, before):
            shown.append(nbformat.v4.new_markdown_cell(f":::{{container}} shown-controls\n{words[there]}\n:::"))
        if there is not False:
            shown.append(theirs[cell.id] if there else cell)
        before = there
    return shown


def judged_today(cells: Iterable[nbformat.NotebookNode], entries: Iterable[Entry], record: Record) -> None:
    """Put the verdicts of today's criteria in the place of those that a run printed, which are named where they differ.

    A claim that today asks for what the run has not measured is not judged, as in `folding.told`.
    """
    found = {entry.claim.id: entry for entry in entries}

    def again(box: re.Match[str]) -> str:
        entry, words = found.get(box[1]), plain(unescape(box[2]), record)
        if entry is None:
            return box[0]
        if entry.verdict is None:
            return (f'<div class="verdict verdict-not-run" id="claim-{box[1]}"><p><strong>{MARKS["not run"]} '
                    f"{escape(UNJUDGED.format(words))}</strong>{box[3]}")
        then = "" if escape(entry.verdict.words) == box[2] else f" On the day of the run: {escape(words)}."
        now = replace(entry.verdict, words=plain(entry.words, entry.run))
        return now._repr_html_().removesuffix("</p></div>") + f"{then}</p></div>"

    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if "text/html" in output.get("data", {}):
            output.data["text/html"] = JUDGED.sub(again, output.data["text/html"])


def described(record: Record) -> str:
    """A run for a line of text: its edition or profile, images, seeds, and of how many images its numbers are."""
    dataset = record.dataset
    images = {"planted": "planted images"}.get(dataset, f"images of {literal_code(dataset.removeprefix('folder:'))}")
    seeds = counted(record.parameters.get("seeds", 1), "seed")
    return f"**{literal(record.profile)}** on {images} ({' of up to '.join(filter(None, (seeds, sizes(record))))})"


def sizes(record: Record) -> str:
    """Of how many test images a number of a run is at most, per seed; and one under attack, where there is one, which
    may count only those that were right before."""
    most = record.parameters.get("test_size", 0)  # what is of more images is of training images
    tested = [result for result in record.results if 0 < result.n <= most]
    attacked = [result for result in tested if result.attack != "none" and not result.attack.startswith("Noise(")]
    return ", ".join(words.format(max(result.n for result in group)) for group, words in
                     ((tested, "{:,} test images"), (attacked, "under attack {:,}")) if group)


def head(chapter: Chapter, record: Record) -> str:
    """The line at the head of a page: which run it shows, and folded below what came out otherwise than in the book."""
    edition = of_the_book(chapter.name)
    if not edition or is_the_books({**known(), chapter.name: record}, chapter.name):
        return f"Shown: the run {described(record)}, {record.finished.date()}."
    book = {entry.claim.id: entry.state for entry in ledger.of_the_book()}
    other = [f"- {{claim}}`{entry.claim.id}`: {entry.state}, in the book {book[entry.claim.id]}"
             for entry in ledger.entries() if entry.claim.chapter == chapter.name and entry.verdict
             and not entry.claim.setting and entry.state != book[entry.claim.id]]
    words = (f"This page shows another run than the one that the book is about: {described(record)}, "
             f"{record.finished.date()}. In sentences, numbers marked {MARK} are the book's, from edition "
             f"{described(find(edition, chapter.name))}.")
    if not other:
        return f"{words} All verdicts came out as there."
    return "\n".join([words, "", f":::{{dropdown}} {counted(len(other), 'verdict')} came out otherwise", *other, ":::"])


def split(text: str) -> tuple[str, str]:
    """A page's text up to and with its title, and what follows; all follows where there is no title."""
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines, start=1) if line.startswith("# ")), 0)
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def notice(chapter: Chapter, state: State) -> str:
    """What stands in place of a chapter that has no valid run: its title, kept for links, and what is known."""
    cells = read(chapter.source).cells
    head = [(split(cells[0].source)[0] if cells else "") or f"# {chapter.name}", ""]
    if os.environ.get("BOOK_EDITION"):
        return "\n".join([*head, f"::::{{note}}\n{NOT_RECORDED} in edition `{chapter.profile}`.\n::::"])
    text = ["::::{error}", f"This chapter has no finished run at profile `{chapter.profile}`.", "",
            "```text", str(state).replace("`", "'"), "```", ""]
    if chapter.partial.exists():
        text += [f"What it wrote before stands in `{chapter.partial.name}`, in the build folder under",
                 f"`executed/{chapter.profile}`."]
    again = "" if state.status == "not run" else f" CHAPTER={chapter.name.split('_')[0]}"
    return "\n".join([*head, *text, f"Run `make book{again}` to make this page.", "::::"])


class ExecutionStatus(SphinxDirective):
    """``{execution-status}``: a table of all chapters and their last runs."""

    def run(self) -> list[nodes.Node]:
        lines = ["| Chapter | Profile | Status | Minutes | When (UTC) | Device |", "|---|---|---|--:|---|---|"]
        for docname in sorted(self.env.found_docs):
            if chapter := chapter_of(self.env.app, docname):
                state = chapter.state()
                minutes = "" if state.minutes is None else f"{state.minutes:.1f}"
                absent = os.environ.get("BOOK_EDITION") and state.status == "not run"
                status = NOT_RECORDED.lower() if absent else state.status
                ran = chapter.record
                profile = "" if absent else ran.profile if ran else chapter.profile
                told = map(literal, (profile, status, minutes, state.when, state.device))
                cells = [f"{{doc}}`/{docname}`", *told]
                lines.append(f"| {' | '.join(cells)} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> None:
    app.connect("source-read", show_twin)
    app.add_directive("execution-status", ExecutionStatus)
