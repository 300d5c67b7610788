"""The course kit, from one source for each assignment: `python -m book.press teach COURSE`.

A source, `book/teach/NN_name.py`, is a Python file in cells. The line above a cell says what it is:

    # %% text              Markdown for all, behind comment signs
    # %% code              code for all
    # %% answer q1         what the student writes; what stands between BEGIN and END SOLUTION is the solution
    # %% check q1 3        what q1 must have for its 3 points, a generator (see `book.press.worlds.points`)
    # %% rubric            Markdown for the teacher

A course is a folder outside of the repository:

    students.txt           a name on each line, which the teacher writes
    private/               the salt of the worlds, nbgrader's gradebook
    handout/NAME.zip       what student NAME gets: all assignments, and a world of one's own
    handout/practice.zip   the same with a world that everybody may have
    teacher/               solutions, rubrics and checks; syllabi
    submitted/NAME/        what student NAME hands in
    graded/                reports and summaries, see `book.press.grade`
"""

import io
import re
import secrets
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pydantic import BaseModel

from book.press import chapters, editions
from book.press.files import write
from nbutils.lab import results
from nbutils.machine import ROOT, build_dir
from nbutils.messages import read_project_file, read_text

SOURCES = ROOT / "book" / "teach"
HEADER = re.compile(r"# %% (text|code|answer|check|rubric)(?: (q\d+))?(?: (\d+))?")
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION$", re.DOTALL | re.MULTILINE)
STUDENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}")
PRACTICE = "practice"
HIDDEN = """### BEGIN HIDDEN TESTS
from book.press.worlds import check
check("{}", globals())
### END HIDDEN TESTS"""


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
    first, *others = _cells(path)
    opening = _cells(path.with_name("opening.py")) if path.with_name("opening.py").exists() else ()
    found = Assignment(path.stem, (first, *opening, *others))
    for kind in ("answer", "check"):
        asked = [cell.question for cell in found.cells if cell.kind == kind]
        if asked != sorted(set(asked)) or asked != list(found.points):
            raise ValueError(f"{path}: the cells of kind {kind!r} are for {asked}; expected one for each question")
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
        cells.append(Cell(found[1], found[2] or "", int(found[3] or 0), source.strip("\n")))
    return tuple(cells)


def sources(folder: Path = SOURCES) -> dict[str, Path]:
    """Name -> file of each assignment."""
    return {path.stem: path for path in sorted(folder.glob("[0-9]*.py"))}


def stubbed(code: str) -> str:
    """Code without its solutions; dots stand in their place."""
    return SOLUTION.sub(r"\1...  # yours", code)


def notebook(assignment: Assignment, version: str) -> nbformat.NotebookNode:
    """The assignment as a notebook, for "student", "teacher" or nbgrader, the "grader"."""
    cells = []
    for number, cell in enumerate(assignment.cells):
        id = f"{assignment.name[:2]}-{number}"
        if cell.kind == "rubric" or (cell.kind == "check" and version == "teacher"):
            if version == "teacher":
                code = f"**What {cell.question} must have, for {cell.points} points**\n\n```python\n{cell.source}\n```"
                cells.append(new_markdown_cell(cell.source if cell.kind == "rubric" else code, id=id))
            continue
        if cell.kind == "text":
            cells.append(new_markdown_cell(cell.source, id=id))
            continue
        code = stubbed(cell.source) if version == "student" else cell.source
        if cell.kind == "check":
            code = HIDDEN.format(cell.question) if version == "grader" else "# Checked by your teacher."
        answer, checked = cell.kind == "answer", cell.kind == "check"
        about = {"schema_version": 3, "task": False, "grade": checked, "solution": answer, "locked": not answer,
                 "grade_id": {"answer": cell.question, "check": f"{cell.question}-check"}.get(cell.kind, id)}
        about |= {"points": cell.points} if checked else {}
        cells.append(new_code_cell(code, id=id, metadata={"nbgrader": about}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def recorded(text: str) -> str:
    """Text with what stands as {result}`edition/chapter:id` in place: the number on record, with its interval."""
    def shown(found: re.Match[str]) -> str:
        result = editions.find(found[1], found[2]).by_id[found[3]]
        return f"{result} ({result.interval}, edition {found[1]})"

    return re.sub(r"\{result\}`(\w[\w-]*)/(\w+):([^`]+)`", shown, text)


class Session(BaseModel):
    """A row of a syllabus: what is learned, from which chapter, in how many minutes, and what is handed out."""

    objective: str
    chapter: str
    minutes: int
    assignment: str = ""


def syllabi(folder: Path = SOURCES) -> dict[str, str]:
    """File name -> text of the plans for 1, 3 and 12 sessions.

    Raises:
        ValueError: a plan that cannot be read, a chapter or an assignment that there is not; in one line.
    """
    path = folder / "syllabi.yml"
    plans = read_project_file(path, dict[int, list[Session]])
    pages, known = {}, {chapter.name: chapter.source for chapter in chapters.every("")}
    for sessions, rows in plans.items():
        lines = [f"# {sessions} session{'s' * (sessions > 1)}, {sum(row.minutes for row in rows)} minutes\n",
                 "| | Objective | Pages | Minutes | Assignment | Slides |", "|---|---|---|---|---|---|"]
        boxes = []
        for number, row in enumerate(rows, start=1):
            source = known[chapters.named(row.chapter, f"{path}: {row.chapter!r}: no such chapter")]
            if row.assignment and row.assignment not in sources(folder):
                raise ValueError(f"{path}: {row.assignment!r}: no such assignment{chapters.nearest(row.assignment, list(sources(folder)))}")
            title, box = _title_and_box(source)
            lines.append(f"| {number} | {row.objective} | {title} | {row.minutes} | {row.assignment or 'none'} | "
                         f"slides/{row.chapter}.slides.html |")
            boxes.append(f"**{number}. {title}.** {box}\n")
        text = "\n".join(["", "## Ask before each session", "", *boxes])
        pages[f"syllabus-{sessions}.md"] = "\n".join(lines) + "\n" + text
    return pages


def _title_and_box(chapter: Path) -> tuple[str, str]:
    """A chapter's title and the question of its box "Predict first"."""
    text = "\n\n".join(cell.source for cell in chapters.read(chapter).cells if cell.cell_type == "markdown")
    box = re.search(r"\{admonition\} Predict first\n:class: predict\n\n(.*?)\n\n`{3,}\{admonition\}", text, re.DOTALL)
    return text.partition("\n")[0].lstrip("# "), box[1] if box else ""


def packed(files: dict[str, bytes]) -> bytes:
    """A zip of these files that is the same whenever it is made."""
    packet = io.BytesIO()
    with zipfile.ZipFile(packet, "w") as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return packet.getvalue()


def students(course: Path) -> list[str]:
    """The names in students.txt.

    Raises:
        ValueError: there is none, or a name that is used twice or cannot be that of a folder; in one line.
    """
    path = course / "students.txt"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected one with a student's name on each line")
    names = read_text(path).split("\n")
    names = [name.strip() for name in names if name.strip()]
    for name in names:
        if not STUDENT.fullmatch(name) or name == PRACTICE or names.count(name) > 1:
            raise ValueError(f"{path}: {name!r}; expected names that differ, of a-z, 0-9, '.', '_' and '-', and not {PRACTICE!r}")
    return names


def salt(course: Path) -> bytes:
    """The salt of a course, drawn at the first call. Without it nobody can make its worlds again: keep it.

    Raises:
        ValueError: a course inside the repository, where the salt could be committed.
    """
    course = course.resolve()
    if course.is_relative_to(ROOT) and not course.is_relative_to(build_dir()):
        raise ValueError(f"{course}: lies in the repository; expected a folder outside, since it holds the salt and marks")
    path = course / "private" / "salt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        write({path: secrets.token_hex(32)})
    return bytes.fromhex(read_text(path))


def handout(found: Iterable[Assignment], seed: int) -> bytes:
    """The zip that one student gets: each assignment without solutions and checks, and the images of the world."""
    from book.press.worlds import World  # here, since the images of a world need torch

    files = {f"{one.name}.ipynb": nbformat.writes(notebook(one, "student")).encode() for one in found}
    return packed(files | {"world.safetensors": World(seed).file()})


def make(course: Path, folder: Path = SOURCES) -> None:
    """Write what is handed out and what the teacher keeps; the same course gives the same files."""
    from book.press.worlds import own_seed

    names, key = students(course), salt(course)
    found = [read(path) for path in sources(folder).values()]
    texts = {f"{one.name}.ipynb": recorded(nbformat.writes(notebook(one, "teacher"))) for one in found}
    write({course / "teacher" / name: text for name, text in (texts | syllabi(folder)).items()})
    (course / "handout").mkdir(exist_ok=True)
    for name in [*names, PRACTICE]:
        seed = 0 if name == PRACTICE else own_seed(key, name)
        (course / "handout" / f"{name}.zip").write_bytes(handout(found, seed))
    print(f"{len(names)} students: hand out {course / 'handout'}/NAME.zip, each to its student alone\n"
          f"everybody: {course / 'handout' / PRACTICE}.zip\n"
          f"for you: {course / 'teacher'}; never hand out {course / 'private'}")
