"""Grading with nbgrader: ten students who were made up get the marks they should."""

import csv
import os
import shutil
from pathlib import Path

import nbformat
import pytest

from book.press import assignments, grade, teach
from book.press.grade import Graded, _compared, _late, _moment
from book.teach import worlds
from book.teach.worlds import World, own_seed
from tests.helpers import assert_one_line

TINY = Path(__file__).with_name("tiny")
ONE = assignments.read(TINY / "01_tiny.py")
STUDENTS = ("right", "wrong", "loop", "dead", "duplicated", "deleted", "otherseed", "huge", "late", "empty",
            "untouched", "silent", "renamed", "uprooted", "fileless", "text", "checktext", "setuptext", "again")


def solved(**answers: str) -> nbformat.NotebookNode:
    """What a student hands in: the handout with these answers, otherwise with the solutions."""
    work = assignments.notebook(ONE, "student")
    right = {cell.question: cell.source for cell in ONE.cells if cell.kind == "answer"}
    for cell in work.cells:
        id = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.source = (right | answers).get(id, cell.source)
    return work


def place(work: nbformat.NotebookNode, id: str) -> int:
    return next(n for n, cell in enumerate(work.cells) if cell.metadata.get("nbgrader", {}).get("grade_id") == id)


def without(work: nbformat.NotebookNode, id: str) -> nbformat.NotebookNode:
    del work.cells[place(work, id)]
    return work


def turned(work: nbformat.NotebookNode, id: str) -> nbformat.NotebookNode:
    """With the cell as Markdown, as a key in Jupyter makes it: what nbgrader stored stays in it."""
    number = place(work, id)
    cell = work.cells[number]
    work.cells[number] = nbformat.v4.new_markdown_cell(cell.source, id=cell.id, metadata=cell.metadata)
    return work


def with_copy(work: nbformat.NotebookNode, id: str) -> nbformat.NotebookNode:
    """The cell copied below itself, as Jupyter does it: with what nbgrader stored in it. The first one is wrong."""
    number = place(work, id)
    work.cells.insert(number, nbformat.from_dict({**work.cells[number], "id": "copied", "source": "total = 0"}))
    return work


@pytest.mark.skipif(not grade.find_spec("nbgrader"), reason="nbgrader is not installed: it is in the extra [teach]")
def test_ten_students_get_the_marks_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(worlds, "SIZES", {"test": worlds.SIZES["test"]})  # all that this assignment reads
    (tmp_path / "students.txt").write_text("\n".join(STUDENTS))
    key = teach.salt(tmp_path)
    copied = sum(number * int(label) for number, label in enumerate(World(own_seed(key, "right")).test.shape))
    works = {
        "right": solved(),
        "wrong": solved(q1="def double(x):\n    return 6", q2="total = labels.undefined"),
        "loop": solved(q2="import time\nwhile True:\n    time.sleep(1)"),
        "dead": solved(q2="import os\nos._exit(1)"),
        "duplicated": with_copy(solved(), "q2"),
        "deleted": without(solved(), "q1-check"),
        "otherseed": solved(q2=f"total = {copied}  # what a friend found"),
        "huge": solved(q1="def double(x):\n    return x + x\n\nfor _ in range(100_000):\n    print('-' * 60)"),
        "late": solved(q1="import warnings\n\ndef double(x):\n    warnings.warn('slow')\n    return x + x"),
        "untouched": assignments.notebook(ONE, "student"),
        "silent": solved(q2="total = 0\nget_ipython().ast_node_interactivity = 'none'"),
        # What is not there is not wrong:
        "renamed": solved(q1="def twice(x):\n    return x + x"),
        "uprooted": without(solved(q1="def double(x):\n    return x + x\nnumbers = range(300)",
                                   q2="total = sum(n * int(label) for n, label in zip(numbers, labels))"), "q1"),
        "fileless": solved(q1="def double(x):\n    from mine import two\n    return two * x"),
        "text": turned(solved(), "q2"),
        "checktext": turned(solved(), "q2-check"),
        "setuptext": turned(solved(), assignments.notebook(ONE, "student").cells[1].id),
        "again": solved(),
    }
    for name, work in works.items():
        folder = tmp_path / "submitted" / name
        folder.mkdir(parents=True)
        nbformat.write(work, folder / "01_tiny.ipynb")
    (tmp_path / "submitted" / "empty").mkdir()
    (tmp_path / "submitted" / "empty" / "01_tiny.ipynb").touch()
    for name in works:
        written = "2030-01-02 14:30:00" if name == "late" else "2030-01-01 12:00"
        (tmp_path / "submitted" / name / "01_tiny.timestamp.txt").write_text(written)
    (tmp_path / "submitted" / "again" / "first").mkdir()
    nbformat.write(assignments.notebook(ONE, "student"), tmp_path / "submitted" / "again" / "01_tiny.ipynb")
    nbformat.write(solved(), tmp_path / "submitted" / "again" / "first" / "01_tiny.ipynb")
    (tmp_path / "submitted" / "rigth").mkdir()
    graded = tmp_path / "graded" / "01_tiny"

    grade.grade(tmp_path, "01_tiny", due="2030-01-02 12:00", limit=60, folder=TINY)
    said = capsys.readouterr().out
    rows = {row["student"]: row for row in csv.DictReader((graded / "marks.csv").read_text().splitlines())}
    marks = {name: (row["q1"], row["q2"], row["total"]) for name, row in rows.items()}
    nothing = ("not graded",) * 3
    assert marks == {
        "right": ("2", "3", "5"), "wrong": ("1", "0", "1"), "loop": nothing, "dead": nothing,
        "duplicated": ("2", "3", "5"), "deleted": ("not graded", "3", "not graded"), "otherseed": ("2", "0", "2"),
        "huge": ("2", "3", "5"), "late": ("2", "3", "5"), "empty": nothing, "untouched": ("0", "0", "0"),
        "silent": ("2", "not graded", "not graded"),
        "renamed": ("not graded", "3", "not graded"), "uprooted": nothing,
        "fileless": ("not graded", "3", "not graded"),
        "text": ("2", "not graded", "not graded"), "checktext": ("2", "not graded", "not graded"),
        "setuptext": nothing, "again": ("2", "3", "5")}
    assert "ran for more than 60 seconds" in rows["loop"]["fault"]
    assert "the kernel died" in rows["dead"]["fault"]
    assert "not a notebook" in rows["empty"]["fault"]
    assert rows["duplicated"]["notes"] == "q2: a cell stands 2 times; the last one counts"
    assert rows["deleted"]["notes"] == "q1 not graded: a cell of it was deleted, or turned into text"
    assert rows["renamed"]["notes"] == "q1 not graded, since something is missing: there is no 'double'"
    assert rows["uprooted"]["notes"].endswith("missing: NameError: name 'numbers' is not defined")
    assert rows["fileless"]["notes"].endswith("missing: ModuleNotFoundError: No module named 'mine'")
    assert rows["text"]["notes"] == "q2 not graded: a cell of it was deleted, or turned into text"
    assert rows["wrong"]["notes"] == ("q2: its cell ended in AttributeError: 'numpy.ndarray' object has no attribute "
                                      "'undefined'")
    assert rows["setuptext"]["fault"] == "not graded: a cell with given code was deleted, or turned into text"
    assert rows["again"]["notes"].startswith("handed in 2 times; first/01_tiny.ipynb counts; not known")
    assert rows["late"]["notes"] == "late by 2.5 hours"
    assert rows["silent"]["notes"] == "q2 not graded: its check ended in no number"
    assert not any(rows[name]["fault"] or rows[name]["notes"] for name in ("right", "otherseed", "untouched"))
    questions = list(csv.DictReader((graded / "questions.csv").read_text().splitlines()))
    assert [list(row.values()) for row in questions] == [
        ["q1", "2", "11", "1.73", "9", "1", "1", "8"], ["q2", "3", "11", "2.18", "8", "0", "3", "8"]]
    reports = {path.stem: path.read_text() for path in (graded / "reports").iterdir()}
    assert reports.keys() == set(STUDENTS)
    check = [line.strip() for cell in ONE.cells if cell.kind == "check" for line in cell.source.splitlines()]
    assert not [line for text in reports.values() for line in [*check, "book.teach", "Traceback"] if line in text]
    assert "1 of 1: twice 3 is 6\n0 of 1: twice -2 is -4" in reports["wrong"]
    assert max(map(len, reports.values())) < 1000
    from nbgrader.api import Gradebook, MissingEntry

    desk = tmp_path / "private" / "gradebook"
    assert (desk / "autograded" / "huge" / "01_tiny" / "01_tiny.ipynb").stat().st_size < 50_000
    with Gradebook(f"sqlite:///{desk / 'gradebook.db'}", "course") as book:
        grades = book.find_submission_notebook("01_tiny", "01_tiny", "right").grades
        assert {one.name: one.auto_score for one in grades} == {"q1-check": 2, "q2-check": 3}
        with pytest.raises(MissingEntry):  # not a silent 0
            book.find_submission("01_tiny", "dead")
    assert "submitted/rigth: not graded, since students.txt has no such name; did you mean 'right'?" in said

    # Graded again, nothing of this grading is left: no report, no mark, no point in nbgrader's own book.
    (tmp_path / "students.txt").write_text("right")
    (tmp_path / "submitted" / "right" / "01_tiny.ipynb").write_text("")
    grade.grade(tmp_path, "01_tiny", folder=TINY)
    assert [path.stem for path in (graded / "reports").iterdir()] == ["right"]
    assert "5 of 5" not in (graded / "reports" / "right.md").read_text()
    assert len((graded / "marks.csv").read_text().splitlines()) == 2
    assert not list((desk / "autograded").rglob("*.ipynb"))
    with Gradebook(f"sqlite:///{desk / 'gradebook.db'}", "course") as book:
        assert not book.assignment_submissions("01_tiny")
    shutil.rmtree(desk)


def test_what_was_deleted_or_stands_twice_is_noted() -> None:
    original = assignments.notebook(ONE, "student")

    def told(work: nbformat.NotebookNode) -> tuple[str, list[str], set[str]]:
        graded = Graded("ada", dict.fromkeys(ONE.points))
        missing = _compared(graded, work, original)
        return graded.fault, graded.notes, missing

    assert told(solved()) == ("", [], set())
    gone = without(without(solved(), "q1"), "q1-check")
    assert told(gone) == ("", ["q1 not graded: a cell of it was deleted, or turned into text"], {"q1"})
    assert told(with_copy(solved(), "q2"))[1:] == (["q2: a cell stands 2 times; the last one counts"], set())
    assert told(without(solved(), original.cells[1].id))[0].startswith("not graded: a cell with given code was deleted")


def test_what_cannot_be_graded_is_told_without_a_run(tmp_path: Path) -> None:
    desk = grade.Desk(tmp_path / "desk", ONE, TINY / "01_tiny.py", b"", None, 60)
    assert desk.graded("ada", tmp_path / "ada").fault == "not graded: there is no 01_tiny.ipynb"
    (tmp_path / "ada").mkdir()
    for code in (f"import os; os.environ['{assignments.GRADER}']", "from book.teach import worlds"):
        nbformat.write(solved(q1=code), tmp_path / "ada" / "01_tiny.ipynb")
        assert "could tell its world" in desk.graded("ada", tmp_path / "ada").fault
    (tmp_path / "ada" / "01_tiny.ipynb").rename(tmp_path / "ada" / "01_tiny (1).ipynb")
    assert desk.graded("ada", tmp_path / "ada").fault.endswith("no 01_tiny.ipynb, only 01_tiny (1).ipynb")
    assert not desk.root.exists()


def test_what_nbgrader_did_not_write_and_pipes_stop_no_grading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grade.Desk, "_run", lambda *words: None)
    desk = grade.Desk(tmp_path / "desk", ONE, TINY / "01_tiny.py", b"", _moment("2030-01-02 12:00", "due"), 60)
    (tmp_path / "ada" / "old").mkdir(parents=True)
    os.mkfifo(tmp_path / "ada" / "01_tiny.ipynb")
    nbformat.write(solved(), tmp_path / "ada" / "old" / "01_tiny.ipynb")
    assert not desk.graded("ada", tmp_path / "ada").fault
    (tmp_path / "ada" / "01_tiny.ipynb").unlink()
    for own in (None, "x", []):
        work = solved()
        work.cells.append(nbformat.v4.new_code_cell("1 + 1", metadata={"nbgrader": own}))
        nbformat.write(work, tmp_path / "ada" / "01_tiny.ipynb")
        graded = desk.graded("ada", tmp_path / "ada")
        assert not graded.fault
        assert graded.notes[0] == "handed in 2 times; 01_tiny.ipynb counts"  # not the one in old/
    (tmp_path / "ada" / "01_tiny.timestamp.txt").mkdir()
    assert "not known when it was handed in" in desk.graded("ada", tmp_path / "ada").notes[1]


def test_a_time_is_read_with_and_without_a_zone() -> None:
    assert (_moment("2030-01-01 12:00+02:00", "due") - _moment("2030-01-01 09:00\n", "due")).total_seconds() == 3600
    assert_one_line(lambda: _moment("soon", "due"), ["due", "'soon'", "expected a time"])


def test_a_time_belongs_to_one_submission(tmp_path: Path) -> None:
    due = _moment("2030-01-02 12:00", "due")
    work, other = tmp_path / "01_tiny.ipynb", tmp_path / "02_tiny.ipynb"
    (tmp_path / "timestamp.txt").write_text("2030-01-02 14:30")  # of which of the two?
    (tmp_path / "02_tiny.timestamp.txt").write_text("2030-01-02 13:00:00.5 UTC")
    assert _late(work, due) == "not known when it was handed in: there is no 01_tiny.timestamp.txt"
    assert _late(other, due) == "late by 1.0 hours"
    (tmp_path / "01_tiny.timestamp.txt").write_text("2030-01-02 11:00")
    assert _late(work, due) == ""
    (tmp_path / "01_tiny.timestamp.txt").write_bytes(b"soon \xff")
    assert _late(work, due).startswith("not known when it was handed in: 01_tiny.timestamp.txt: 'soon")
    (tmp_path / "01_tiny").mkdir()
    (tmp_path / "01_tiny" / "timestamp.txt").write_text("2030-01-02 14:30")  # as nbgrader lays it out
    assert _late(tmp_path / "01_tiny" / "01_tiny.ipynb", due) == "late by 2.5 hours"


def test_an_unknown_assignment_or_a_missing_nbgrader_is_one_line(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grade, "find_spec", lambda name: True)
    assert_one_line(lambda: grade.grade(tmp_path, "01_tine", folder=TINY), ["did you mean '01_tiny'?"])
    monkeypatch.setattr(grade, "find_spec", lambda name: None)
    assert_one_line(lambda: grade.grade(tmp_path, "01_tiny", folder=TINY), ["nbgrader is not installed", "[teach]"])
