"""Assignments: one source each, from which come the student's, the teacher's and the grader's notebook.

A source, `book/teach/NN_name.py`, is a Python file in cells. The line above a cell says what it is:

    # %% text              Markdown for all, behind comment signs
    # %% code              code for all
    # %% answer q1         what the student writes; what stands between BEGIN and END SOLUTION is the solution
    # %% check q1 3        what q1 must have for its 3 points: a generator, see `book.teach.worlds.points`
    # %% rubric            Markdown for the teacher

It imports little, since each student's kernel imports it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nbutils.machine import ROOT
from nbutils.messages import read_text

SOURCES = ROOT / "book" / "teach"
HEADER = re.compile(r"# %% (text|code|answer|check|rubric)(?: (q\d+))?(?: (\d+))?")
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"^ *#+ *(BEGIN|END)\b", re.MULTILINE)
GRADER = "BOOK_TEACH_GRADER"  # the variable that tells a kernel which world and which checks are meant
HIDDEN = """### BEGIN HIDDEN TESTS
from book.teach.worlds import check
check("{}", globals())
### END HIDDEN TESTS"""
STORED = """# Checked by your teacher, who finds your answer under these names.
for name in {}:
    print(name, "=", str(globals().get(name, "missing"))[:200])"""


@dataclass(frozen=True)
class Cell:
    """A cell of a source: its kind, as above, the question it belongs to and its points, where it has any."""

    kind: str
    question: str
    points: int
    source: str


@dataclass(frozen=True)
class Assignment:
    """An assignment: its name, that of its file, and its cells."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def points(self) -> dict[str, int]:
        """Question -> how many points there are for it."""
        return {cell.question: cell.points for cell in self.cells if cell.kind == "check"}


def read(path: Path) -> Assignment:
    """Read a source, with the cells of `opening.py` beside it after the first one.

    Raises:
        ValueError: what stands above a cell is none of the above, or a question lacks its answer or check; in one line.
    """
    if not (cells := _cells(path)):
        raise ValueError(f"{path}: no cell; expected lines such as '# %% text' above the cells")
    first, *others = cells
    opening = _cells(path.with_name("opening.py")) if path.with_name("opening.py").exists() else ()
    found = Assignment(path.stem, (first, *opening, *others))
    answers, checks = ([cell.question for cell in found.cells if cell.kind == kind] for kind in ("answer", "check"))
    if answers != checks or answers != sorted(set(answers)):
        raise ValueError(f"{path}: answers for {answers}, checks for {checks}; expected one of each, in order")
    return found


def _cells(path: Path) -> tuple[Cell, ...]:
    cells: list[Cell] = []
    for part in re.split(r"^(?=# %%)", read_text(path), flags=re.MULTILINE)[1:]:
        header, _, body = part.partition("\n")
        found = HEADER.fullmatch(header)
        if not found or (found[1] in ("answer", "check")) != bool(found[2]) or (found[1] == "check") != bool(found[3]):
            raise ValueError(f"{path}: {header!r} is no kind of cell; expected one such as '# %% check q1 3'")
        text = found[1] in ("text", "rubric")
        source = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if text else body
        solutions = len(SOLUTION.findall(source))
        if MARK.findall(source) != ["BEGIN", "END"] * solutions or (found[1] == "answer") != bool(solutions):
            raise ValueError(f"{path}: {header!r}: a solution that could not be taken out; expected a line '### BEGIN "
                             "SOLUTION' and a line '### END SOLUTION' around it, in each answer and nowhere else")
        cells.append(Cell(found[1], found[2] or "", int(found[3] or 0), source.strip("\n")))
    return tuple(cells)


def sources(folder: Path = SOURCES) -> dict[str, Path]:
    """Name -> file of each assignment."""
    return {path.stem: path for path in sorted(folder.glob("[0-9]*.py"))}


def stubbed(code: str) -> str:
    """Code without its solutions; dots stand in their place."""
    return SOLUTION.sub(r"\1...  # yours", code)


def stored(assignment: Assignment, check: Cell) -> list[str]:
    """The names that a check reads and the student gives: all but those of the code that is handed out."""
    given = "\n".join(cell.source for cell in assignment.cells if cell.kind == "code")
    names = dict.fromkeys(re.findall(r"\bmine\.(\w+)", check.source))
    return [name for name in names if not re.search(rf"^(?:def |class )?{name}\b", given, re.MULTILINE)]


def notebook(assignment: Assignment, version: str) -> nbformat.NotebookNode:
    """The assignment as a notebook, for "student", "teacher" or nbgrader, the "grader"."""
    cells = []
    for number, cell in enumerate(assignment.cells):
        id = f"{assignment.name[:2]}-{number}"
        answer, checked = cell.kind == "answer", cell.kind == "check"
        if cell.kind == "rubric" and version != "teacher":
            continue
        if cell.kind in ("text", "rubric") or (checked and version == "teacher"):
            code = f"**What {cell.question} must have, for {cell.points} points**\n\n```python\n{cell.source}\n```"
            cells.append(new_markdown_cell(code if checked else cell.source, id=id))
            continue
        code = stubbed(cell.source) if version == "student" else cell.source
        if checked:
            code = HIDDEN.format(cell.question) if version == "grader" else STORED.format(stored(assignment, cell))
        about = {"schema_version": 3, "task": False, "grade": checked, "solution": answer, "locked": not answer,
                 "grade_id": {"answer": cell.question, "check": f"{cell.question}-check"}.get(cell.kind, id)}
        about |= {"points": cell.points} if checked else {}
        cells.append(new_code_cell(code, id=id, metadata={"nbgrader": about}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
