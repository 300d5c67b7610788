"""Grade what a course's students handed in: `python -m book.press grade COURSE ASSIGNMENT`.

nbgrader runs each submission in the student's own world, drawn anew, and keeps the marks in its gradebook. What could
not be graded is told apart from what is wrong. Students' code runs with your rights: use an account or a container that
holds nothing else.
"""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import nbformat

from book.press import chapters, teach
from book.press.assignments import GRADER, SOURCES, Assignment, notebook, read, sources, stubbed
from book.press.files import write
from nbutils.machine import ROOT
from nbutils.messages import did_you_mean

CONFIG = """c = get_config()
c.CourseDirectory.course_id = "course"
c.Execute.timeout = {limit}
c.Execute.interrupt_on_timeout = False  # a loop ends the run: else its questions would count as wrong
c.Execute.error_on_timeout = {{}}
c.Execute.shutdown_kernel = "immediate"
c.LimitOutput.max_lines = 100
"""
REASONS = {"DeadKernelError": "the kernel died", "CellTimeoutError": "a cell ran for more than {limit} seconds",
           "TimeoutExpired": "the notebook did not end"}
# Ends of an answer, or of its check, in which something is not there, rather than wrong.
ABSENT = re.compile(r"(?:stopped: )?((?:NameError|ImportError|ModuleNotFoundError|FileNotFoundError):.*"
                    r"|(?<=AttributeError: )there is no '\w+')$", re.MULTILINE)


@dataclass
class Graded:
    """What became of a student's work.

    Attributes:
        points: question -> its points; None where it was not graded.
        fault: why nothing was graded, or "".
        notes: what the teacher should know. said: question -> the lines that its check printed.
    """

    student: str
    points: dict[str, float | None]
    fault: str = ""
    notes: list[str] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> float | None:
        """The sum, or None if any question was not graded."""
        found = [points for points in self.points.values() if points is not None]
        return sum(found) if len(found) == len(self.points) else None


@dataclass(frozen=True)
class Desk:
    """Where an assignment of a course is graded.

    Attributes:
        root: nbgrader's folder. one: the assignment. source: its file. key: the salt.
        due: when it was due, if that is asked. limit: seconds that a cell may run.
    """

    root: Path
    one: Assignment
    source: Path
    key: bytes
    due: datetime | None
    limit: int

    def nbgrader(self, *words: str, **variables: str) -> str:
        """Run a command of nbgrader's; returns what it said if it failed, or ""."""
        own, seconds = Path(sys.prefix), self.limit * (2 + len(self.one.cells))
        environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "JUPYTER_PATH": str(own / "share" / "jupyter"),
                       "PATH": f"{own / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}  # it calls alembic
        try:
            done = subprocess.run([sys.executable, "-m", "nbgrader", *words], cwd=self.root, capture_output=True,
                                  env=os.environ | environment | variables, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return "TimeoutExpired"
        return (done.stderr or "failed") if done.returncode else ""

    def prepare(self) -> None:
        """Lay out the assignment, anew each time: nbgrader would go on with cells that have changed since.

        Raises:
            ValueError: nbgrader does not take it; with the last line that it said.
        """
        name = self.one.name
        write({self.root / "nbgrader_config.py": CONFIG.format(limit=self.limit),
               self.root / "source" / name / f"{name}.ipynb": nbformat.writes(notebook(self.one, "grader"))})
        if told := self.nbgrader("generate_assignment", name, "--force", "--create"):
            raise ValueError(f"nbgrader could not read {name}: {told.strip().splitlines()[-1]}")
        for left in self.root.glob(f"*/*/{name}"):  # of an earlier grading
            shutil.rmtree(left)
        self.forget()

    def forget(self, student: str = "") -> None:
        """Take a student's submission, or all, out of the gradebook: marks of an earlier grading, or a silent 0."""
        from nbgrader.api import Gradebook

        with Gradebook(f"sqlite:///{self.root / 'gradebook.db'}", "course") as book:
            for whose in [one.student.id for one in book.assignment_submissions(self.one.name)]:
                if student in ("", whose):
                    book.remove_submission(self.one.name, whose)

    def graded(self, student: str, handed_in: Path) -> Graded:
        """Grade what a student handed in, in the student's own world."""
        name, graded = self.one.name, Graded(student, dict.fromkeys(self.one.points))
        files = [path for path in handed_in.rglob(f"{name}.ipynb") if path.is_file()]  # a pipe would never end
        files.sort(key=lambda path: (-len(path.parts), path))  # the last counts: one in a folder "old" does not
        if not files:
            others = sorted(path.name for path in handed_in.rglob("*") if path.is_file())
            graded.fault = f"not graded: there is no {name}.ipynb" + (f", only {', '.join(others)}" if others else "")
            return graded
        try:
            work = chapters.read(files[-1])
        except ValueError as error:
            graded.fault = f"not graded: {str(error).removeprefix(f'{files[-1]}: ')}"
            return graded
        for word in (GRADER, "book.teach", "book.press"):
            if word in nbformat.writes(work):
                graded.fault = f"not graded: it names {word}, which could tell its world"
                return graded
        missing = _compared(graded, work, notebook(self.one, "student"))
        _single(work)
        if len(files) > 1:
            graded.notes.append(f"handed in {len(files)} times; {files[-1].relative_to(handed_in)} counts")
        if self.due and (late := _late(files[-1], self.due)):
            graded.notes.append(late)
        if not graded.fault:
            self._run(graded, work, missing)
        return graded

    def _run(self, graded: Graded, work: nbformat.NotebookNode, missing: set[str]) -> None:
        from nbgrader.utils import determine_grade

        from book.teach.worlds import World  # here, since the images of a world need torch

        name, world = self.one.name, World(teach.world_seed(self.key, graded.student))
        place = Path(graded.student) / name / f"{name}.ipynb"
        stubs = {cell.question: stubbed(cell.source) for cell in self.one.cells if cell.kind == "answer"}
        write({self.root / "submitted" / place: nbformat.writes(work)})
        (self.root / "submitted" / place.with_name("world.safetensors")).write_bytes(world.file())
        told = json.dumps({"seed": world.seed, "source": str(self.source)})
        failed = self.nbgrader("autograde", name, "--student", graded.student, "--force", **{GRADER: told})
        if failed:
            last = failed.strip().splitlines()[-1]
            reason = next((words for error, words in REASONS.items() if error in failed), last)
            graded.fault = "not graded: " + reason.format(limit=self.limit)
            self.forget(graded.student)
            return
        cells = {_id(cell): cell for cell in chapters.read(self.root / "autograded" / place).cells}
        for question in [one for one in graded.points if one not in missing]:
            answer, check = cells[question], cells[f"{question}-check"]
            said = "".join(output.text for output in check.outputs if output.output_type == "stream")
            failed, ended, gone = _error(answer), _error(check), ABSENT.search(said)
            if not ended and not any(output.output_type == "execute_result" for output in check.outputs):
                ended = "no number"  # nbgrader would give all points
            if ended:  # ours, or made by what the student did to Python: a check tells a wrong answer in words
                graded.notes.append(f"{question} not graded: its check ended in {ended.partition(':')[0]}")
            elif gone and answer.source.strip() not in ("", stubs[question]) and (not failed or ABSENT.match(failed)):
                graded.notes.append(f"{question} not graded, since something is missing: {failed or gone[1]}")
            else:
                graded.points[question], _ = determine_grade(check)
                graded.said[question] = said
                graded.notes += [f"{question}: its cell ended in {failed}"] * bool(failed)


def grade(course: Path, assignment: str, due: str = "", limit: int = 300, folder: Path = SOURCES) -> None:
    """Grade all submissions of an assignment; write a report for each student and a summary.

    Args:
        due: when it was due, such as "2026-12-01 12:00"; a note tells who was late, the marks are as they are.
        limit: seconds that a cell may run.

    Raises:
        ValueError: nbgrader is not installed, no such assignment, no students; in one line.
    """
    if not find_spec("nbgrader"):
        raise ValueError("nbgrader is not installed; expected: .venv/bin/pip install -c constraints.txt -e '.[teach]'")
    course, known = Path(os.path.expanduser(course)), sources(folder)
    if assignment not in known:
        raise ValueError(f"{assignment!r}: no such assignment{chapters.nearest(assignment, list(known))}")
    root, path = course.resolve() / "private" / "gradebook", known[assignment]
    desk = Desk(root, read(path), path, teach.salt(course), _moment(due, "--due") if due else None, limit)
    desk.prepare()
    found = []
    names = teach.students(course)
    if (course / "submitted" / teach.PRACTICE).is_dir():  # of whoever tries an assignment out
        names.append(teach.PRACTICE)
    for path in sorted((course / "submitted").glob("*")):
        if path.name not in names:
            print(f"{path}: not graded, since students.txt has no such name{did_you_mean(path.name, names)}")
    for name in names:
        found.append(desk.graded(name, course / "submitted" / name))
        with suppress(OSError):  # of whoever listens no more; the marks are written all the same
            print(f"{name:20} {found[-1].fault or _shown(found[-1].total)}", flush=True)
    _report(course / "graded" / assignment, desk.one, found)


def _moment(text: str, place: object) -> datetime:
    """A time as written; without a zone it is UTC. Raises ValueError, in one line."""
    try:
        found = datetime.fromisoformat(text.strip().removesuffix(" UTC"))  # which nbgrader writes
    except ValueError:
        raise ValueError(f"{place}: {text.strip()!r}; expected a time such as '2026-12-01 12:00'") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _late(work: Path, due: datetime) -> str:
    """What to note of when a notebook was handed in. A time belongs to one: by its name, or by that of its folder."""
    stamp = work.with_suffix(".timestamp.txt")
    if not stamp.exists() and work.parent.name == work.stem:  # as nbgrader has it
        stamp = work.with_name("timestamp.txt")
    try:
        if not stamp.is_file():
            raise ValueError(f"there is no {work.stem}.timestamp.txt")
        late = (_moment(stamp.read_text(errors="replace"), stamp.name) - due).total_seconds() / 3600
    except (ValueError, OSError) as error:
        return f"not known when it was handed in: {error}"
    return f"late by {late:.1f} hours" if late > 0 else ""


def _error(cell: nbformat.NotebookNode) -> str:
    """The error that a cell ended in, in one line, or ""."""
    return next((chapters.one_line(output.ename, output.evalue) for output in cell.outputs
                 if output.output_type == "error"), "")


def _compared(graded: Graded, work: nbformat.NotebookNode, original: nbformat.NotebookNode) -> set[str]:
    """The questions whose answer or check was deleted, or is no code any more; notes them, and what stands twice.

    Of cells that stand twice the last one counts: so it does in Python.
    """
    ids = Counter(_id(cell) for cell in work.cells if cell.cell_type == "code")
    missing = set()
    for id in filter(None, map(_id, original.cells)):
        question = id.partition("-")[0]
        if not ids[id]:
            if question not in graded.points:
                graded.fault = "not graded: a cell with given code was deleted, or turned into text"
            elif question not in missing:
                graded.notes.append(f"{question} not graded: a cell of it was deleted, or turned into text")
                missing.add(question)
        elif ids[id] > 1:
            graded.notes.append(f"{question}: a cell stands {ids[id]} times; the last one counts")
    return missing


def _single(work: nbformat.NotebookNode) -> None:
    """Take what nbgrader stored out of cells that stand again further down, and out of text: it stops at them."""
    last = {_id(cell): cell for cell in work.cells if cell.cell_type == "code"}
    for cell in work.cells:
        if _id(cell) and cell is not last.get(_id(cell)):
            cell.metadata.pop("nbgrader", None)


def _id(cell: nbformat.NotebookNode) -> str:
    """What nbgrader calls a cell of an assignment: q1, or q1-check; "" for one of the student's own."""
    about = cell.metadata.get("nbgrader")
    return str(about.get("grade_id", "")) if isinstance(about, dict) else ""


def _shown(points: float | None) -> str:
    return "not graded" if points is None else f"{points:g}"


def _report(folder: Path, one: Assignment, found: list[Graded]) -> None:
    """A report for each student, and for the teacher a table of all points and how they are distributed.

    Reports of an earlier grading go. All files say when they were made, but for the summary.
    """
    whole, now = sum(one.points.values()), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    texts = {}
    for graded in found:
        lines = [f"# {one.name}: {graded.student}", "", f"Graded {now}.", "",
                 graded.fault or f"{_shown(graded.total)} of {whole} points", *[f"- {note}" for note in graded.notes]]
        for question, points in graded.points.items():
            if not graded.fault:
                said = graded.said.get(question, "").strip()
                lines += ["", f"## {question}: {_shown(points)} of {one.points[question]}",
                          *["", f"```text\n{said}\n```"] * bool(said)]
        texts[folder / "reports" / f"{graded.student}.md"] = "\n".join(lines) + "\n"
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["student", *one.points, "total", "fault", "notes", "graded"])
    for graded in found:
        rows.writerow([graded.student, *map(_shown, graded.points.values()), _shown(graded.total), graded.fault,
                       "; ".join(graded.notes), now])
    summary = ["question,points,graded,mean,all points,some,none,not graded"]
    for question, most in one.points.items():
        given = [points for graded in found if (points := graded.points[question]) is not None]
        full, none = sum(points == most for points in given), sum(points == 0 for points in given)
        summary.append(f"{question},{most},{len(given)},{fmean(given) if given else 0:.2f},{full},"
                       f"{len(given) - full - none},{none},{len(found) - len(given)}")
    texts |= {folder / "marks.csv": table.getvalue(), folder / "questions.csv": "\n".join(summary) + "\n"}
    write(texts)
    for left in set((folder / "reports").glob("*.md")) - texts.keys():
        left.unlink()
    print(chapters.aligned([line.split(",") for line in summary]))
    print(f"marks and notes: {folder / 'marks.csv'}; a report for each student: {folder / 'reports'}")
