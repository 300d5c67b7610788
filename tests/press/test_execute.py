"""The strict runner: a chapter ends either whole or with one line and its partial output."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from book.press.chapters import Chapter, State, read

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes notebook 01_x with a parameters cell and the given code cells."""

    def _write(*codes: str) -> Path:
        head = nbformat.v4.new_code_cell('profile: str = "quick"\nsteps: int | None = None\neps: str | None = None')
        head.metadata.tags = ["parameters"]
        cells = [nbformat.v4.new_markdown_cell("# X"), head, *map(nbformat.v4.new_code_cell, codes)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_x.ipynb")
        return tmp_path / "01_x.ipynb"

    return _write


def command(source: Path, *words: str) -> list[str]:
    output = Chapter(source, "smoke").twin
    return [sys.executable, "-m", "book.press", "execute", str(source), str(output), "-p", "profile", "smoke", *words]


def run(source: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(source, *words), capture_output=True, text=True, timeout=120)


def state(source: Path) -> State:
    return Chapter(source, "smoke").state()


def test_a_finished_chapter(write: Write) -> None:
    bar = "import sys\nprint('\\r 10%', end='\\r      \\r', file=sys.stderr)"
    source = write(bar, "print(steps, repr(eps), profile)")
    done = run(source, "-p", "steps", "7", "-p", "eps", "8/255")
    assert done.returncode == 0, done.stderr
    assert "cell 4 of 4" in done.stdout
    twin = read(Chapter(source, "smoke").twin)
    assert [o.text for cell in twin.cells[3:] for o in cell.outputs] == ["7 '8/255' smoke\n"]  # no progress bar
    assert not Chapter(source, "smoke").partial.exists()
    assert state(source).status == "ok"
    assert twin.metadata.papermill.duration > 0


def test_a_failing_cell(write: Write) -> None:
    source = write("x = 1", "raise ValueError('two\\nlines')", "print('never')")
    done = run(source)
    assert done.returncode == 1
    chapter = Chapter(source, "smoke")
    line = f"01_x failed in cell 4 of 5: ValueError: two lines (partial output: {chapter.partial})"
    assert done.stderr.strip() == line
    assert not chapter.twin.exists()
    assert state(source).note == "in cell 4 of 5: ValueError: two lines"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "stepz", "7"], "parameter 'stepz'"),
        (["-p", "steps", "many"], "steps = 'many'"),
        (["-p", "eps", "8"], ": pixels are in [0, 1]; did you mean 8/255?"),
    ],
)
def test_a_bad_parameter_stops_before_the_first_cell(write: Write, words: list[str], message: str) -> None:
    source = write("print('never')")
    done = run(source, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Chapter(source, "smoke").partial.exists()


def test_a_dead_kernel(write: Write) -> None:
    source = write("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "print('never')")
    done = run(source)
    assert done.returncode == 1
    assert "01_x failed in cell 3 of 4: DeadKernelError" in done.stderr
    assert "ran out of memory" in state(source).note
    last = read(Chapter(source, "smoke").partial).cells[-1]
    assert last.metadata.papermill.status == "pending"  # papermill itself would say completed


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_its_partial_output(write: Write, how: signal.Signals, tmp_path: Path) -> None:
    flag = tmp_path / "go"
    source = write(f"import os, time\nwhile not os.path.exists({str(flag)!r}): time.sleep(0.1)")
    with subprocess.Popen(command(source), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("cell 3 of 3" in line for line in process.stdout), "it never came to the last cell"
        time.sleep(0.5)
        os.kill(process.pid, how)
        assert process.wait(60) != 0
    assert state(source).status == ("failed" if how == signal.SIGTERM else "stopped")
    assert state(source).note.startswith("in cell 3")
    flag.touch()
    assert run(source).returncode == 0
    assert state(source).status == "ok"


def test_a_folder_that_cannot_be_written(write: Write, own_build: Path) -> None:
    own_build.write_text("a file where the build folder should be")
    done = run(write("x = 1"))
    assert done.returncode == 2
    assert str(own_build) in done.stderr
    assert done.stderr.count("\n") == 1
