"""The course kit: `python -m book.press teach COURSE`.

A course is a folder outside of the repository:

    students.txt           a name on each line, which the teacher writes
    private/               the salt of the worlds, nbgrader's gradebook
    handout/NAME.zip       what student NAME gets: all assignments, and a world of one's own
    handout/practice.zip   the same with a world that everybody may have
    handout/ASSIGNMENT.pdf the same for all on paper, where there is a Chromium to print it
    teacher/               solutions, rubrics and checks; plans; slides
    submitted/NAME/        what student NAME hands in
    graded/                reports and summaries, see `book.press.grade`
"""

import os
import re
import secrets
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import nbformat
from pydantic import BaseModel

from book.press import chapters, editions, sheets
from book.press.assignments import SOURCES, Assignment, notebook, read, sources
from book.press.files import packed, write
from nbutils.machine import ROOT, build_dir
from nbutils.messages import counted, read_project_file, read_text

STUDENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}")
PRACTICE = "practice"
PREDICT = re.compile(r"\{admonition\} Predict first\n:class: predict\n\n(.*?)\n\n`{3,}\{admonition\}", re.DOTALL)


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

    @property
    def source(self) -> chapters.Chapter:
        return chapters.named(self.chapter, f"syllabi.yml: {self.chapter!r}: no such chapter")

    @property
    def title(self) -> str:
        return self.source.title


def plans(folder: Path = SOURCES) -> dict[int, list[Session]]:
    """Number of sessions -> the rows of the plan in syllabi.yml.

    Raises:
        ValueError: a plan that cannot be read, a chapter or an assignment that there is not; in one line.
    """
    path = folder / "syllabi.yml"
    found, known = read_project_file(path, dict[int, list[Session]]), list(sources(folder))
    for row in chain(*found.values()):
        chapters.named(row.chapter, f"{path}: {row.chapter!r}: no such chapter")
        if row.assignment and row.assignment not in known:
            near = chapters.nearest(row.assignment, known)
            raise ValueError(f"{path}: {row.assignment!r}: no such assignment{near}")
    return found


def table(rows: Iterable[Session], addresses: Callable[[Session, int], dict[str, str]]) -> str:
    """A plan as HTML, whose rows lead to these addresses; see the template."""
    from book.press.pages.templates import html  # here, since it needs Sphinx

    return html("syllabus", rows=[(row, addresses(row, number)) for number, row in enumerate(rows, start=1)])


def syllabi(folder: Path = SOURCES, book: str = "") -> dict[str, str]:
    """File name -> page of each plan: a table, and what to ask before each session.

    Args:
        book: address of the rendered book, to whose pages the rows lead; "" if there is none.
    """
    pages = {}
    for sessions, rows in plans(folder).items():
        head = f"A plan for {counted(sessions, 'session')}, {sum(row.minutes for row in rows)} minutes in all"
        body = [sheets.rendered(f"# {head}"), table(rows, lambda row, number: {
            "page": f"{book}/notebooks/{row.chapter}.html" if book else "", "ask": f"#session-{number}",
            "assignment": f"{row.assignment}.ipynb", "slides": f"slides/{row.chapter}.html"})]
        body += [f'<h2 id="session-{number}">Before session {number}</h2>\n{sheets.rendered(_box(row.source.source))}'
                 for number, row in enumerate(rows, start=1)]
        pages[f"syllabus-{sessions}.html"] = sheets.page(head, "\n".join(body), "slides/mathjax/tex-svg-full.js")
    return pages


def address(book: str) -> str:
    """The address of a rendered book: of this one, on the web or in a folder, or else of the one last rendered here.

    Raises:
        ValueError: a folder that holds no pages; in one line.
    """
    if "://" in book:
        return book.rstrip("/")
    places = [Path(book).expanduser()] if book else [build_dir() / "_build" / "html",
                                                     build_dir() / "editions" / editions.BEST / "_build" / "html"]
    found = [place for place in places if (place / "notebooks").is_dir()]
    if book and not found:
        raise ValueError(f"{book}: no rendered book; expected a folder with index.html, or an address such as https://...")
    return found[0].resolve().as_uri() if found else ""


def _box(chapter: Path) -> str:
    """The question of a chapter's box "Predict first"."""
    text = "\n\n".join(cell.source for cell in chapters.read(chapter).cells if cell.cell_type == "markdown")
    box = PREDICT.search(text)
    return box[1] if box else ""


def students(course: Path) -> list[str]:
    """The names in students.txt.

    Raises:
        ValueError: there is none, or a name that is used twice or cannot be that of a folder; in one line.
    """
    path = course / "students.txt"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected one with a student's name on each line")
    names = read_text(path).removeprefix("\ufeff").split("\n")  # which some editors put there
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise ValueError(f"{path}: no student in it; expected a name on each line")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: {name!r} stands twice; expected each student once")
        if not STUDENT.fullmatch(name) or name == PRACTICE:
            raise ValueError(f"{path}: {name!r}; expected names of a-z, 0-9, '.', '_' and '-', and not "
                             f"{PRACTICE!r}")
    return names


def salt(course: Path) -> bytes:
    """The salt of a course, drawn at the first call. Without it nobody can make its worlds again: keep it.

    Raises:
        ValueError: a course inside the repository, where the salt could be committed, or a salt that is none.
    """
    course = course.resolve()
    if course.is_relative_to(ROOT) and not course.is_relative_to(build_dir()):
        raise ValueError(f"{course}: lies in the repository; expected a folder outside, for it holds a salt and marks")
    path = course / "private" / "salt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        write({path: secrets.token_hex(32)})
    if not re.fullmatch("[0-9a-f]{64}", key := read_text(path).strip()):  # a short one can be guessed
        raise ValueError(f"{path}: not a salt; expected 64 hexadecimal digits: put the course's own back, or remove "
                         "the file to have a new one drawn, which gives everybody another world")
    return bytes.fromhex(key)


def world_seed(key: bytes, student: str) -> int:
    """The seed of a student's world, and of that for practice."""
    from book.teach.worlds import own_seed  # here, since the images of a world need torch

    return 0 if student == PRACTICE else own_seed(key, student)


def handout(found: Iterable[Assignment], seed: int, book: str = "") -> bytes:
    """The zip that one student gets: each assignment without solutions and checks, and the images of the world. Where
    the book is on the web, an assignment's head leads to its chapter."""
    from book.teach.worlds import World  # here, since the images of a world need torch

    files = {"world.safetensors": World(seed).file()}
    pages = {chapter.name[:3]: chapter.name for chapter in chapters.every("")}
    for one in found:
        made = notebook(one, "student")
        if book.startswith("http"):
            link = rf"\1[\2]({book}/notebooks/{pages[one.name[:3]]}.html)"
            made.cells[0].source = re.sub(r"(Chapter \d+: )(\*.+?\*)", link, made.cells[0].source, count=1)
        files[f"{one.name}.ipynb"] = nbformat.writes(made).encode()
    return packed(files)


def make(course: Path, folder: Path = SOURCES, book: str = "") -> None:
    """Write what is handed out and what the teacher keeps; the same course gives the same files.

    Args:
        book: where plans and, on the web, assignments find the book's pages, see `address`.
    """
    from book.press import slides  # here, since they need Sphinx

    course = Path(os.path.expanduser(course))  # as it is where there is no such home
    names, key, place = students(course), salt(course), address(book)
    found = [read(path) for path in sources(folder).values()]
    texts = {f"{one.name}.ipynb": recorded(nbformat.writes(notebook(one, "teacher"))) for one in found}
    write({course / "teacher" / name: text for name, text in (texts | syllabi(folder, place)).items()})
    slides.make(course / "teacher" / "slides")
    (course / "handout").mkdir(exist_ok=True)
    for name in [*names, PRACTICE]:
        (course / "handout" / f"{name}.zip").write_bytes(handout(found, world_seed(key, name), place))
    sheets.make(course / "handout", folder)
    print(f"{len(names)} students: hand out {course / 'handout'}/NAME.zip, each to its student alone\n"
          f"everybody: {course / 'handout' / PRACTICE}.zip, and PDFs where Chromium has printed them\n"
          f"for you: {course / 'teacher'}; never hand out {course / 'private'}")
    if not place:
        print("plans do not link to the book's pages: none is rendered here; make read, or give the address of one")
    if not (course / "teacher" / "node_modules").exists():
        print(f"slides need, once: npm install --prefix {course / 'teacher'} reveal.js@{slides.REVEAL}")
