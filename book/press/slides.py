"""Slides of a chapter: its headings, formulas, figures and tables; what is said beside them stands in the notes.

They need no network: MathJax and all figures lie beside them, and reveal.js, which `npm install --prefix TEACHER
reveal.js@5.2.1` puts into the folder above. Press S for the speaker's view.
"""

import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path

import nbformat

from book.press.chapters import Chapter, every, read
from book.press.files import write
from book.press.pages.executed import merged
from book.press.pages.records import known, look_up
from book.press.pages.templates import html
from book.press.stages import EDITIONS
from book.press.teach import PREDICT
from nbutils.lab import results
from nbutils.machine import ROOT

REVEAL = "5.2.1"
RUNS = EDITIONS / "planted"
SHOWN = ('<figure class="picture', '<div class="result-table"', '<div class="verdict')
PASSED_OVER = ("Parameters", "Exercises", "Run card")
SENTENCE = re.compile(r".{40,}?(?<!\bal)(?<!\bvs)[.?!](?= |$)")  # the first, with words such as "In short." before it
# Directives whose content is no prose.
HIDDEN = r"^(`{3,})\{(?:literalinclude|math|exercise|picture|solution|verdicts)[^\n]*\n.*?^\1$"


def make(folder: Path) -> None:
    """Write the slides of all recorded chapters into a folder."""
    write({folder / f"{chapter.name}.html": deck(chapter, run) for chapter in every("")
           if (run := RUNS / chapter.source.name).exists()})
    shutil.copytree(ROOT / "book" / "_static" / "mathjax", folder / "mathjax", dirs_exist_ok=True)


def deck(chapter: Chapter, run: Path) -> str:
    """The slides of a chapter, of its text and of a recorded run."""
    slides = [_slide(f"<{level}>{_inline(head)}</{level}>{body}", text) + shown
              for level, head, body, text, shown in _sections(merged(read(chapter.source), read(run)), chapter.name)]
    return html("slides", title=chapter.title, slides=slides)


def _sections(cells: list[nbformat.NotebookNode], chapter: str) -> Iterator[tuple[str, str, str, str, str]]:
    """For each slide of words: level of its heading, heading, formulas, notes, and the slides below it."""
    parts: list[tuple[str, list[str], list[str]]] = []
    for cell in cells:
        if cell.cell_type != "markdown":
            parts[-1][2].extend(_slide(shown, alt) for shown, alt in _outputs(cell))
            continue
        for block in filter(str.strip, re.split(r"^(?=##? )", cell.source, flags=re.MULTILINE)):
            head = re.match(r"##? (.*)", block)
            if head:
                parts.append((head[1], [], []))
            parts[-1][1].append(block.partition("\n")[2] if head else block)
    for number, (title, texts, shown) in enumerate(parts):
        if title in PASSED_OVER:
            continue
        text = "\n\n".join(texts)
        formulas = re.findall(r"^```\{math\}\n(?::label:[^\n]*\n)?(.*?)^```", text, re.DOTALL | re.MULTILINE)
        body = "".join(f"<p>$${escape(formula.strip())}$$</p>" for formula in formulas)
        said = words(text, chapter)
        if points := re.match(r"(?:- .*(?:\n|$))+", said):  # takeaways, and what would change our mind
            body = "<ul>" + "".join(f"<li>{_inline(point[2:])}</li>" for point in points[0].splitlines()) + "</ul>"
        if not body and (sentence := SENTENCE.match(" ".join(said.split()))):  # a heading alone says too little
            body = f"<p>{_inline(sentence[0])}</p>"
        yield "h1" if number == 0 else "h2", title, body, said, "\n".join(shown)
        if box := PREDICT.search(text):
            yield "h2", "Predict first", f"<p>{_inline(words(box[1], chapter))}</p>", "Ask; show hands; then go on.", ""


def _outputs(cell: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    """What a cell shows: HTML of figures, tables and verdicts, three of these at a time, and the same in words."""
    for output in cell.outputs:
        shown, plain = ("".join(output.get("data", {}).get(kind, "")) for kind in ("text/html", "text/plain"))
        if shown.startswith(SHOWN[2]):
            verdicts = re.split(r'(?=<div class="verdict)', re.sub(r"</?a\b[^>]*>", "", shown))[1:]
            yield from (("".join(verdicts[at:at + 3]), "") for at in range(0, len(verdicts), 3))
        elif shown.startswith(SHOWN):
            yield re.sub(r"</?a\b[^>]*>", "", shown), plain if shown.startswith(SHOWN[0]) else ""


def _slide(content: str, notes: str) -> str:
    said = "".join(f"<p>{_inline(part)}</p>" for part in notes.split("\n\n") if part.strip())
    return f'<section>{content}<aside class="notes">{said}</aside></section>'


def _inline(text: str) -> str:
    """Words as HTML; formulas stay for MathJax."""
    emphatic = re.sub(r"\*+([^*\n]+)\*+", r"<em>\1</em>", escape(text, quote=False))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", emphatic)


def words(text: str, chapter: str) -> str:
    """Text without directives, with the words or numbers that its roles stand for, as on the chapter's page."""
    def said(found: re.Match[str]) -> str:
        role, content = found[1], found[2]
        if role in ("result", "interval"):
            return str(look_up(known(), chapter, content)[1])
        if role == "published":
            return str(results.published(*content.split("; ")))
        if role == "cite:t":  # a word of its sentence
            return re.sub(r"([a-z]+)(\d{4})\w*", lambda key: f"{key[1].capitalize()} ({key[2]})", content)
        return "" if role.startswith("cite") else "the formula" if role == "eq" else content.partition(" <")[0]

    text = re.sub(HIDDEN, "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\bequation (?=\{eq\})", "", text)
    text = re.sub(r"^(?:(?:[`:]{3,}.*|:\w+:.*|\(.*\)=|---+)$|#+ )", "", text, flags=re.MULTILINE)
    return re.sub(r"\{([\w:]+)\}`([^`]+)`", said, text).strip()
