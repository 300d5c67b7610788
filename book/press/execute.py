"""Run one chapter strictly.

    python -m book.press execute notebooks/01_known_features.ipynb OUTPUT.ipynb -p profile smoke -p eps 4/255

Papermill runs it; this module adds what papermill leaves out. Parameters are checked before anything runs. The output
appears only if every cell finished; until then, and after a failure, ``OUTPUT.partial.ipynb`` holds what there is.
A cell that fails, a kernel that dies and Ctrl-C all end in one line that names the cell and the partial file.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from book.press.chapters import code_cells, one_line, parse, read, readable
from book.press.files import alone, write
from nbutils.lab.parameters import resolve, set_in
from nbutils.machine import ROOT


class ChapterFailed(Exception):
    """A chapter that did not reach its end; the message is one line."""


class Progress:
    """Prints one short line when a cell starts, and remembers which cell that was."""

    def __init__(self, chapter: str, total: int) -> None:
        self.chapter, self.total, self.number, self.index = chapter, total, 0, -1
        self.start = time.monotonic()

    def __call__(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type != "code" or not cell.source.strip():
            return
        self.number, self.index = self.number + 1, cell_index
        print(f"{self.elapsed()}  {self.chapter}  cell {self.number} of {self.total}", flush=True)

    def elapsed(self) -> str:
        minutes, seconds = divmod(round(time.monotonic() - self.start), 60)
        return f"{minutes:3d}:{seconds:02d}"


def execute(source: Path, output: Path, settings: Mapping[str, str] | Iterable[tuple[str, str]],
            once: bool = False) -> None:
    """Run ``source`` with these parameters set to these words, and write the executed notebook to ``output``.

    Args:
        once: not if it is there already, made by another process that was waited for, for example.

    Raises ParameterError before anything has run, and ChapterFailed if the chapter does not reach its end.
    """
    source, output = source.resolve(), output.resolve()
    notebook, given = read(source), {name: parse(value) for name, value in dict(settings).items()}
    resolve(given, set_in(notebook, source.stem), source.stem)
    partial = output.with_suffix(".partial.ipynb")
    with alone(output.with_suffix(".lock"), f"another process is running {source.stem}"):
        if once and output.exists():
            print(f"{source.stem} is there already", flush=True)
            return
        progress = Progress(source.stem, len(code_cells(notebook)) + bool(given))  # papermill adds a cell for `given`
        reason = _run(source, partial, given, progress)
        if not reason:
            _finish(source, partial, output)
    if reason:
        where = f"in cell {progress.number} of {progress.total}" if progress.number else "before its first cell"
        left = f" (partial output: {_short(partial)})" if partial.exists() else ""
        raise ChapterFailed(f"{source.stem} failed {where}: {reason}{left}")
    print(f"{progress.elapsed()}  {source.stem}  finished", flush=True)


def _run(source: Path, partial: Path, given: Mapping[str, Any], progress: Progress) -> str:
    """Run all cells into ``partial``; returns what went wrong, in one line, or nothing."""
    import papermill  # here: who only renders pages does without
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    # A kernel of this very environment, whatever else the user has registered as "python3".
    os.environ["JUPYTER_PATH"] = os.path.join(sys.prefix, "share", "jupyter")
    try:
        papermill.execute_notebook(
            source,
            partial,
            dict(given),
            kernel_name="python3",
            language="python",
            cwd=Path.cwd(),  # so that folder:PATH means the same here as for plain papermill
            progress_bar=False,
            on_cell_start=progress,
            coalesce_streams=True,  # a carriage return covers what stood before it, as on a screen
            stderr_file=sys.stderr if sys.stderr.isatty() else None,  # progress bars, for who is watching
            shutdown_kernel="immediate",  # one that is asked to end in the middle of a cell prints tracebacks
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
    except PapermillExecutionError as error:
        return one_line(error.ename, error.evalue)
    except (Exception, KeyboardInterrupt) as error:
        return _mark_stopped(partial, progress, error)
    return ""


def _finish(source: Path, partial: Path, output: Path) -> None:
    """Rename the partial file to ``output``, with no path of this machine in it; repeat the notes of the run."""
    notebook = read(partial)
    for cell in code_cells(notebook):
        errors = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stderr")
        for note in (line for line in errors.splitlines() if line.startswith("note: ")):
            print(note, flush=True)
        cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text.strip()]
    notebook.metadata.papermill.update(input_path=_short(source), output_path=_short(output))
    here = json.dumps(f"{ROOT}{os.sep}")[1:-1]
    write({output: nbformat.writes(notebook).replace(here, "")})
    partial.unlink()


def _mark_stopped(partial: Path, progress: Progress, error: BaseException) -> str:
    """Record in the partial file which cell did not finish; papermill marks it and all later ones as completed."""
    name, message = type(error).__name__, str(error)
    if name == "DeadKernelError":
        message = "the kernel stopped: it was killed, or ran out of memory"
    if isinstance(error, KeyboardInterrupt):
        message = "stopped by the user"
    if progress.index >= 0 and (notebook := readable(partial)):
        cell = notebook.cells[progress.index]
        cell.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=message, traceback=[message]))
        cell.metadata.papermill.update(exception=True, status="failed")
        for later in notebook.cells[progress.index + 1 :]:
            later.metadata.papermill["status"] = "pending"
        write({partial: nbformat.writes(notebook)})
    return one_line(name, message)


def _short(path: Path) -> str:
    """The path from the repository's root, if it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
