"""Reader's notebooks hold what the page says, in Markdown that Jupyter shows."""

import re
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from book.press.chapters import every
from book.press.pages import takeaway
from book.press.plain import code, numbered, plain, reader_notebook
from nbutils.machine import ROOT

CHAPTERS = every("smoke")
EQUATIONS = numbered({chapter.name[:2]: chapter.source for chapter in CHAPTERS})


def say(name: str, text: str) -> str:
    return f"<{name} of {text}>"


def made(text: str) -> str:
    return plain(text, ROOT / "notebooks", say, {"eq-a": "2.3"})


@pytest.mark.parametrize(
    ("myst", "expected"),
    [
        ("(ch02-table)=\n## Result", "## Result"),
        ("{result}`a.b` of {published}`kim2021; Table 1`", "<result of a.b> of <published of kim2021; Table 1>"),
        ("see {ref}`the table <ch02-table>`, {doc}`chapter 01 <01_x>`", "see the table, chapter 01"),
        ("{cite:t}`kim2021` {cite:p}`ilyas2019,li2023`", "Kim et al. 2021 (Ilyas et al. 2019; Li et al. 2023)"),
        ("by {eq}`eq-a`", "by (2.3)"),
        ("```{math}\n:label: eq-a\nx = 1\n```", "$$\nx = 1\\tag{2.3}\n$$"),
        ("```{exercise} Recall\n:label: ex\n\nWhy?\n```", "> **Exercise. Recall**\n> \n> Why?"),
        ("```{exercise-start} Modify\n:label: ex\n```\nDo.\n```{exercise-end}\n```", "**Exercise. Modify**\n\nDo."),
        ("```{solution} ex\n:class: dropdown\n\nSo.\n```", "<details><summary>Solution</summary>\n\nSo.\n\n</details>"),
        ("````{admonition} Out\nA.\n```{admonition} In\n:class: reveal\n{eq}`eq-a`\n```\n````",
         "> **Out**\n> \n> A.\n> \n> > **In**\n> > \n> > (2.3)"),
        ("```python\nx\n```", "```python\nx\n```"),
        ("`{result}` alone", "`{result}` alone"),
    ],
)
def test_what_becomes_of_markup(myst: str, expected: str) -> None:
    assert made(myst) == expected


def test_a_drawing_is_in_the_notebook_with_its_colours() -> None:
    head, caption = made("```{drawing} three.svg\n:alt: A box.\nBy {eq}`eq-a`.\n```").split("\n\n")
    address = head.removeprefix("![A box.](data:image/svg+xml;base64,").removesuffix(")")
    drawn = b64decode(address, validate=True).decode()
    assert caption == "By (2.3)."
    assert len(head) < 10_000
    assert ElementTree.fromstring(drawn).get("class") == "drawing"
    named = set(re.findall(r"var\((--[\w-]+)\)", drawn))
    assert named
    assert all(f"{name}: #" in drawn for name in named)


def test_a_box_without_an_end_is_told() -> None:
    with pytest.raises(ValueError, match="this box has no end"):
        made("```{admonition} A\nwords")


def test_code_is_that_of_the_engine() -> None:
    step = made("```{literalinclude} ../nbutils/robustness/attacks.py\n:pyobject: PGD.step\n:dedent: 4\n```")
    assert step.startswith("```python\ndef step(self")
    assert code(ROOT / "nbutils/lab/student.py", "half_width").startswith("@cache\ndef half_width(")
    with pytest.raises(ValueError, match=r"student\.py: no nosuch"):
        code(ROOT / "nbutils/lab/student.py", "nosuch")


@pytest.mark.parametrize("source", [chapter.source for chapter in CHAPTERS], ids=lambda path: path.stem)
def test_every_chapter_is_plain(source: Path) -> None:
    """No directive, role or target is left, and each cell of code is there as it was."""
    notebook = reader_notebook(source, say, EQUATIONS)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not re.findall(r"^\s*>?\s*(?:`{3,}|:{3,})\s*\{.*|\{[\w:-]+\}`.*|^\([\w-]+\)=", text, re.MULTILINE)
    assert text.startswith("# ")
    assert text.count("```") % 2 == 0
    assert any("assert" in cell.source and not cell.metadata for cell in notebook.cells)


def test_the_roles_of_the_book_are_asked() -> None:
    app = SimpleNamespace(env=SimpleNamespace(docname="notebooks/02_x", temp_data={}))
    words = "kim2021; Table 2; CIFAR-10; VGG-16; PGD"
    assert takeaway.said(app, "notebooks/02_x", "published", words) == "93.43\N{NO-BREAK SPACE}%"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"notebooks/02_x: \{nosuch\}: no such role"):
        takeaway.said(app, "notebooks/02_x", "nosuch", "x")  # type: ignore[arg-type]
