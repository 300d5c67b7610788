"""Reader's notebooks: a chapter's notebook in plain Markdown, as Jupyter and Colab show it, without the book.

What MyST adds is resolved: numbers and citations are written out, equations numbered, boxes become quotations, code
shown from the engine is copied in. The checks of the exercises, which the page leaves out, are there.
"""

from __future__ import annotations

import re
import textwrap
from base64 import b64encode
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import nbformat

from book.press.chapters import read
from nbutils.lab.claims import paper_name
from nbutils.messages import read_text

TITLE = "Robust and Non-Robust Features: a book that runs"
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")
OPEN = r"^(`{3,}|:{3,})[ ]*\{([\w:-]+)\}[ ]*(.*)$"
BOX = re.compile(rf"{OPEN}\n((?::[\w-]+:.*\n)*)((?:.*\n)*?)\1(?:\n|\Z)", re.MULTILINE)
OPTION = re.compile(r":([\w-]+):[ ]*(.*)\n")
TARGET = re.compile(r"^\([\w:.-]+\)=\n", re.MULTILINE)
HEAD = (f"*A chapter of **{TITLE}**. It needs the package `nbutils`: "
        "`README.txt` of the release says how it is installed. With `profile = \"smoke\"` in its parameters cell a "
        "first run takes a minute or two, and no number means anything.*")


def reader_notebook(source: Path, say: Callable[[str, str], str],
                    equations: Mapping[str, str]) -> nbformat.NotebookNode:
    """The chapter's notebook as its reader takes it away.

    Args:
        source: the chapter's own. say: the text that one of the book's roles gives. equations: of all chapters, the
            label of each -> its number.

    Raises:
        ValueError: a box without an end, or code that is not where the text says, in one line.
    """
    notebook, places = read(source), count(1)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\*\*Exercise\.", lambda _: f"**Exercise {int(source.name[:2])}.{next(places)}.",
                                 plain(cell.source, source.parent, say, equations))
        elif cell.metadata.get("tags") == ["remove-cell"]:
            cell.metadata = nbformat.from_dict({})
    title, _, rest = notebook.cells[0].source.partition("\n")
    notebook.cells[0].source = f"{title}\n\n{HEAD}\n{rest}"
    return notebook


def numbered(sources: Mapping[str, Path]) -> dict[str, str]:
    """Label -> number of each equation, counted by chapter. sources: number of a chapter -> its notebook."""
    found = dict[str, str]()
    for number, source in sources.items():
        texts = "\n".join(cell.source for cell in read(source).cells if cell.cell_type == "markdown")
        labels = re.findall(r"^```\{math\}\n:label: (\S+)", texts, re.MULTILINE)
        found |= {label: f"{int(number)}.{place}" for place, label in enumerate(labels, start=1)}
    return found


def plain(text: str, folder: Path, say: Callable[[str, str], str], equations: Mapping[str, str]) -> str:
    """MyST as plain Markdown; folder: where its paths start."""

    def role(found: re.Match[str]) -> str:
        name, content = found[1], " ".join(found[2].split())
        words = re.fullmatch(r"(.+?)\s*<[^<>]+>", content)
        if name.startswith("cite"):
            names = "; ".join(paper_name(key.strip()) for key in content.split(","))
            return f"({names})" if name == "cite:p" else names
        if name == "eq":
            return f"({equations[content]})"
        if name in ("ref", "doc", "term", "numref"):
            return words[1] if words else content
        return say(name, content)

    def spoken(words: str) -> str:
        if left := re.search(OPEN, words, re.MULTILINE):
            raise ValueError(f"{left[0]}: this box has no end")
        return ROLE.sub(role, TARGET.sub("", words.removesuffix("\n")))

    def made(text: str) -> str:
        parts, done = list[str](), 0
        for found in BOX.finditer(text):
            _, name, title, options, inner = found.groups()
            parts += [spoken(text[done:found.start()]), box(name, title, dict(OPTION.findall(options)), inner)]
            done = found.end()
        return "\n\n".join([*parts, spoken(text[done:])])

    def box(name: str, title: str, options: dict[str, str], inner: str) -> str:
        if name == "math":
            tag = f"\\tag{{{equations[options['label']]}}}" if "label" in options else ""
            return "$$\n" + inner.strip() + tag + "\n$$"
        if name == "literalinclude":
            return f"```python\n{code(folder / title, options['pyobject'])}\n```"
        if name == "exercise-start":
            return f"**Exercise. {title}**"
        if name == "solution-start":
            return "**Solution**"
        if name.endswith("-end") or name in ("picture", "verdicts"):  # which the run itself shows
            return ""
        if name == "drawing":
            address = picture(folder.parent / "book" / "_static" / title)
            return f"![{options['alt']}]({address})\n\n{made(inner).strip()}"
        if name == "solution":
            return f"<details><summary>Solution</summary>\n\n{made(inner).strip()}\n\n</details>"
        head = f"Exercise. {title}" if name == "exercise" else spoken(title) or name.capitalize()
        return textwrap.indent(f"**{head}**\n\n{made(inner).strip()}", "> ", lambda line: True)

    return re.sub(r"\n{3,}", "\n\n", made(text)).strip()


def picture(path: Path) -> str:
    """A drawing of the book as the address of an image, with the colours of the light page."""
    style = read_text(path.with_name("book.css"))
    parts = re.findall(r"^:root \{\n  --draw.*?^\}|^\.drawing \.\w+ \{.*?^\}", style, re.MULTILINE | re.DOTALL)
    drawn = read_text(path).replace("<svg ", '<svg class="drawing" width="480" style="background: #fff" ', 1)
    drawn = drawn.replace(">", f"><style>{''.join(parts)}</style>", 1)
    return f"data:image/svg+xml;base64,{b64encode(drawn.encode()).decode()}"


def code(path: Path, name: str) -> str:
    """The source of a function, class or method, "Class.method", with no indentation.

    Raises:
        ValueError: it is not there.
    """
    from sphinx.pycode import ModuleAnalyzer  # here, since it takes a moment; pages find code with it, too

    places = ModuleAnalyzer.for_file(str(path), "").find_tags()
    if name not in places:
        raise ValueError(f"{path}: no {name}")
    _, first, last = places[name]
    return textwrap.dedent("\n".join(read_text(path).splitlines()[first - 1:last]))
