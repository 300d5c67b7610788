"""Grade what a course's students handed in: `python -m book.press grade COURSE ASSIGNMENT`.

nbgrader runs each submission in the student's own world, drawn anew, and keeps the marks in its gradebook. What could
not be graded is told apart from what is wrong. Students' code runs with your rights: use an account or a container that
holds nothing else.
"""

import csv
import io
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import nbformat

from book.press import chapters, teach
from book.press.files import write
from nbutils.machine import ROOT

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


def grade(course: Path, assignment: str, due: str = "", limit: int = 300, folder: Path = teach.SOURCES) -> None:
    """Grade all submissions of an assignment; write a report for each student and a summary.

    Args:
        due: when it was due, such as "2026-12-01 12:00"; the note tells who was late, the marks are as they are.
        limit: seconds that a cell may run.

    Raises:
        ValueError: nbgrader is not installed, no such assignment, no students; in one line.
    """
    if not find_spec("nbgrader"):
        raise ValueError("nbgrader is not installed; expected: .venv/bin/pip install -c constraints.txt -e '.[teach]'")
    known = teach.sources(folder)
    if assignment not in known:
        raise ValueError(f"{assignment!r}: no such assignment{chapters.nearest(assignment, list(known))}")
    one, key = teach.read(known[assignment]), teach.salt(course)
    desk = course.resolve() / "private" / "gradebook"
    original = teach.notebook(one, "grader")
    write({desk / "nbgrader_config.py": CONFIG.format(limit=limit),
           desk / "source" / assignment / f"{assignment}.ipynb": nbformat.writes(original)})
    told = _nbgrader(desk, "generate_assignment", assignment, "--force", "--create")
    if told:
        raise ValueError(f"nbgrader could not read {assignment}: {told.strip().splitlines()[-1]}")
    found = []
    for name in teach.students(course):
        found.append(_graded(course, desk, one, original, name, key, known[assignment], due, limit))
        print(f"{name:20} {found[-1].fault or _shown(found[-1].total)}", flush=True)
    _report(course / "graded" / assignment, one, found)


def _nbgrader(desk: Path, *words: str, seconds: int | None = None, **variables: str) -> str:
    """Run a command of nbgrader's; returns what it said if it failed, or ""."""
    own = Path(sys.prefix)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_PATH": str(own / "share" / "jupyter"),
                                "PATH": f"{own / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}  # it calls alembic
    try:
        done = subprocess.run([sys.executable, "-m", "nbgrader", *words], cwd=desk, env=environment | variables,
                              capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "TimeoutExpired"
    return (done.stderr or "failed") if done.returncode else ""


def _graded(course: Path, desk: Path, one: teach.Assignment, original: nbformat.NotebookNode, name: str, key: bytes,
            source: Path, due: str, limit: int) -> Graded:
    """Grade one student."""
    from book.press.worlds import GRADER, World, own_seed

    graded = Graded(name, dict.fromkeys(one.points))
    files = sorted((course / "submitted" / name).rglob(f"{one.name}.ipynb"))
    if not files:
        graded.fault = f"not graded: there is no {one.name}.ipynb"
        return graded
    try:
        work = chapters.read(files[-1])
    except ValueError as error:
        graded.fault = f"not graded: {str(error).removeprefix(f'{files[-1]}: ')}"
        return graded
    if GRADER in nbformat.writes(work):
        graded.fault = f"not graded: it reads {GRADER}, which tells its world"
        return graded
    missing = _compared(graded, work, original)
    if graded.fault:
        return graded
    if due and (stamp := files[-1].with_name("timestamp.txt")).exists():
        late = (_moment(stamp.read_text(), stamp) - _moment(due, "due")).total_seconds() / 3600
        graded.notes += [f"late by {late:.1f} hours"] * (late > 0)
    desk_file = desk / "submitted" / name / one.name / files[-1].name
    world = World(own_seed(key, name))
    write({desk_file: nbformat.writes(work)})
    desk_file.with_name("world.safetensors").write_bytes(world.file())
    told = json.dumps({"seed": world.seed, "source": str(source)})
    failed = _nbgrader(desk, "autograde", one.name, "--student", name, "--force",
                       seconds=limit * (1 + len(work.cells)), **{GRADER: told})
    if failed:
        reason = next((words for error, words in REASONS.items() if error in failed), failed.strip().splitlines()[-1])
        graded.fault = "not graded: " + reason.format(limit=limit)
        _marks(desk, one.name, name, forget=True)
        return graded
    ran = chapters.read(desk / "autograded" / name / one.name / files[-1].name)
    marks = _marks(desk, one.name, name)
    for cell in ran.cells:
        question, _, check = cell.metadata.get("nbgrader", {}).get("grade_id", "").partition("-")
        if check != "check" or question not in marks or question in missing:
            continue
        error = next((output.ename for output in cell.outputs if output.output_type == "error"), "")
        if error:  # ours, or made by what the student did to Python: a check tells a wrong answer in words
            graded.notes.append(f"{question} not graded: its check ended in {error}")
            continue
        graded.points[question] = marks[question]
        graded.said[question] = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    return graded


def _moment(text: str, place: object) -> datetime:
    """A time as written; without a zone it is UTC. Raises ValueError, in one line."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{place}: {text.strip()!r}; expected a time such as '2026-12-01 12:00'") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _compared(graded: Graded, work: nbformat.NotebookNode, original: nbformat.NotebookNode) -> set[str]:
    """The questions whose answer or check was deleted; notes them, and what stands twice.

    Of cells that stand twice nbgrader takes the last one: so does Python.
    """
    ids = Counter(cell.metadata.get("nbgrader", {}).get("grade_id", "") for cell in work.cells)
    missing = set()
    for cell in original.cells:
        id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        question = id.partition("-")[0]
        if id and not ids[id]:
            if question not in graded.points:
                graded.fault = "not graded: a cell with given code was deleted"
            elif question not in missing:
                graded.notes.append(f"{question} not graded: a cell of it was deleted")
                missing.add(question)
        elif id and ids[id] > 1:
            graded.notes.append(f"{question}: a cell stands {ids[id]} times; the last one counts")
    return missing


def _marks(desk: Path, assignment: str, student: str, forget: bool = False) -> dict[str, float]:
    """Question -> points in nbgrader's gradebook, or nothing after the submission was taken out of it."""
    from nbgrader.api import Gradebook, MissingEntry

    with Gradebook(f"sqlite:///{desk / 'gradebook.db'}", "course") as book:
        try:
            if forget:
                book.remove_submission(assignment, student)
                return {}
            grades = book.find_submission_notebook(assignment, assignment, student).grades
            return {grade.name.partition("-")[0]: grade.auto_score or 0.0 for grade in grades}
        except MissingEntry:
            return {}


def _shown(points: float | None) -> str:
    return "not graded" if points is None else f"{points:g}"


def _report(folder: Path, one: teach.Assignment, found: list[Graded]) -> None:
    """A report for each student, and for the teacher a table of all points and how they are distributed."""
    whole = sum(one.points.values())
    texts = {}
    for graded in found:
        lines = [f"# {one.name}: {graded.student}", "",
                 graded.fault or f"{_shown(graded.total)} of {whole} points", *[f"- {note}" for note in graded.notes]]
        for question, points in graded.points.items():
            if not graded.fault:
                lines += ["", f"## {question}: {_shown(points)} of {one.points[question]}", "",
                          f"```text\n{graded.said.get(question, '').strip()}\n```"]
        texts[folder / "reports" / f"{graded.student}.md"] = "\n".join(lines) + "\n"
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["student", *one.points, "total", "fault", "notes"])
    for graded in found:
        rows.writerow([graded.student, *map(_shown, graded.points.values()), _shown(graded.total), graded.fault,
                       "; ".join(graded.notes)])
    summary = ["question,points,graded,mean,all points,some,none,not graded"]
    for question, most in one.points.items():
        given = [points for graded in found if (points := graded.points[question]) is not None]
        full, none = sum(points == most for points in given), sum(points == 0 for points in given)
        summary.append(f"{question},{most},{len(given)},{fmean(given) if given else 0:.2f},{full},"
                       f"{len(given) - full - none},{none},{len(found) - len(given)}")
    texts |= {folder / "marks.csv": table.getvalue(), folder / "questions.csv": "\n".join(summary) + "\n"}
    write(texts)
    print(chapters.aligned([line.split(",") for line in summary]))
    print(f"marks and notes: {folder / 'marks.csv'}; a report for each student: {folder / 'reports'}")
