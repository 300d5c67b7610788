"""The chapters of the book: which there are, what each one takes, and how its last run ended.

A chapter's source is ``notebooks/<name>.ipynb``. Its executed twin is ``executed/<profile>/<name>.ipynb`` in the
build folder; ``<name>.partial.ipynb`` beside it is a run under way, or what is left of one that failed.
"""

import ast
import json
import re
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import nbformat
from pydantic import BaseModel

from nbutils.lab import results
from nbutils.lab.parameters import ParameterError, Parameters, plain, resolve, set_in
from nbutils.machine import ROOT, build_dir
from nbutils.messages import DECIMAL, did_you_mean, read_project_file, read_text, short_repr


class _File(BaseModel):
    file: str


class _Part(BaseModel):
    chapters: list[_File]


class _Contents(BaseModel):
    """What is read of the table of contents."""

    format: Literal["jb-book"]
    root: str
    parts: list[_Part]


@dataclass(frozen=True)
class State:
    """How a chapter's last run ended.

    ``status`` is ``"ok"``, ``"failed"``, ``"stopped"`` (killed, or still running), ``"stale"`` (its code changed
    since) or ``"not run"``; ``note`` says where and why, in one line.
    """

    status: str
    note: str = ""
    minutes: float | None = None
    when: str = ""
    device: str = ""

    def __str__(self) -> str:
        return f"{self.status} {self.note}".rstrip()


@dataclass(frozen=True)
class Chapter:
    """One chapter at one profile: its three files and what they tell."""

    source: Path
    profile: str

    @property
    def name(self) -> str:
        return self.source.stem

    @property
    def title(self) -> str:
        """The heading that its notebook begins with."""
        return read(self.source).cells[0].source.partition("\n")[0].lstrip("# ")

    @property
    def twin(self) -> Path:
        return build_dir() / "executed" / self.profile / self.source.name

    @property
    def partial(self) -> Path:
        return self.twin.with_suffix(".partial.ipynb")

    @cached_property
    def parameters(self) -> list[str]:
        """Names assigned in the cell tagged ``parameters``."""
        return list(set_in(read(self.source), self.name))

    @property
    def defaults(self) -> dict[str, Any]:
        """Name -> value assigned there, where it is a plain one."""
        return plain(read(self.source), self.name)

    def state(self) -> State:
        """Read the last run's end from papermill's own records; an edition keeps none, but has a record."""
        found = ((path, readable(path)) for path in (self.twin, self.partial))
        path, notebook = next(((path, notebook) for path, notebook in found if notebook), (None, None))
        if notebook is None:
            return State("not run")
        record, ran = self.record, notebook.metadata.get("papermill", {})
        minutes = ran["duration"] / 60 if ran.get("duration") else record.minutes if record else None
        when = ran.get("start_time") or (record.finished.isoformat() if record else "")
        status, note = ended(notebook)
        if status == "ok" and path == self.partial:
            status, note = "stopped", "between two cells"
        # An edition shows its own code, and its page says what has changed.
        if status == "ok" and "edition" not in notebook.metadata and written(notebook) != written(read(self.source)):
            status, note = "stale", "since its code was edited"
        return State(status, note, minutes, when[:16].replace("T", " "), record.device if record else "")

    @property
    def record(self) -> results.Record | None:
        """The record in the executed notebook; None where there is none that can be read."""
        try:
            return recorded(self.twin)
        except ValueError:
            return None


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook file in the current format; raises ValueError where there is none that is whole, in one line."""
    text = read_text(path)
    try:
        notebook = nbformat.convert(nbformat.reader.reads(text), 4)
        with warnings.catch_warnings(action="ignore"):  # a cell without an id gets one
            nbformat.validate(notebook)
    except (ValueError, AssertionError, AttributeError, LookupError, TypeError, RecursionError,
            nbformat.ValidationError) as error:
        fault = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path}: not a notebook ({one_line(type(error).__name__, fault)})") from None
    return notebook


def readable(path: Path) -> nbformat.NotebookNode | None:
    """The notebook, or None where there is none that is whole: none yet, or one cut off by a full disk or a kill."""
    try:
        return read(path)
    except ValueError:
        return None


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that run, in order: the n-th one shows as ``[n]`` once executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def one_line(name: str, message: str) -> str:
    """``name: message`` on a single line of at most 300 characters."""
    text = " ".join(f"{name}: {message}".strip(": ").split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def ended(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    """How the run of a notebook ended: status and note of its `State`, as far as its cells tell."""
    cells = code_cells(notebook)
    for number, cell in enumerate(cells, start=1):
        where = f"in cell {number} of {len(cells)}"
        for error in (output for output in cell.outputs if output.output_type == "error"):
            return "failed", f"{where}: {one_line(error.ename, error.evalue)}"
        if cell.metadata.get("papermill", {}).get("status") == "running":
            return "stopped", where
    return "ok", ""


def is_injected(cell: nbformat.NotebookNode) -> bool:
    """Whether papermill added this cell."""
    return "injected-parameters" in cell.metadata.get("tags", [])


def written(notebook: nbformat.NotebookNode) -> list[tuple[str, list[str]]]:
    """What the author's code does, and its tags: neither the text nor the layout of the code is part of a run."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and not is_injected(cell)]
    return [(_tree(cell.source), cell.metadata.get("tags", [])) for cell in code]


def _tree(code: str) -> str:
    try:
        return ast.dump(ast.parse(code))
    except SyntaxError:  # a command of IPython's
        return code


def recorded(path: Path) -> results.Record:
    """The record of a run: from its file, or from the last run card of an executed notebook.

    Raises:
        ValueError: no such file, neither of the two, or no whole run of a chapter; in one line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected an executed notebook or a record of results")
    try:
        notebook = read(path) if "cells" in json.loads(read_text(path)) else None
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{path}: neither an executed notebook nor a record of results") from None
    if notebook is None:
        return results.read(path)
    cells = code_cells(notebook)
    for output in reversed([output for cell in cells for output in cell.outputs]):
        if results.MIME in output.get("data", {}):
            return results.loads(output.data[results.MIME], path)
    ran, (status, note) = sum(cell.execution_count is not None for cell in cells), ended(notebook)
    if not any("lab.start(" in cell.source for cell in cells):
        fault = "not a chapter of this book, since no cell calls lab.start"
    elif status != "ok":
        fault = f"{status} {note}"
    elif ran < len(cells):
        fault = f"{ran} of its {len(cells)} cells ran; run it to its end"
    else:
        fault = "its run card holds no results, as in older versions; run it again"
    raise ValueError(f"{path}: {fault}")


def parse(value: str) -> Any:
    """A value from the command line: a plain decimal number, ``null``, otherwise the text itself."""
    if value == "null":
        return None
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,11})", value):
        return int(value)
    return float(value) if re.fullmatch(rf"-?{DECIMAL}", value) and "." in value else value


def nearest(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?``, or the known words where none is near."""
    return did_you_mean(word, known) or f"; there are: {', '.join(known)}"


def every(profile: str, root: Path = ROOT) -> list[Chapter]:
    """All chapters, in the book's order: the notebooks that the table of contents lists, and no others.

    Raises ValueError where it cannot be read, in one line.
    """
    path = root / "_toc.yml"
    contents = read_project_file(path, _Contents)
    files = [chapter.file for part in contents.parts for chapter in part.chapters]
    for file in (contents.root, *files):
        ending = ".ipynb" if file.startswith("notebooks/") else ".md"
        if not (root / f"{file}{ending}").is_file():
            raise ValueError(f"{path}: lists {file}{ending}, which is not there")
    return [Chapter(root / f"{file}.ipynb", profile) for file in files if file.startswith("notebooks/")]


def named(name: str, words: str) -> Chapter:
    """The chapter of this name; where this book has none, raises ValueError with these words."""
    chapters = {chapter.name: chapter for chapter in every("")}
    if name not in chapters:
        raise ValueError(f"{words}{nearest(name, list(chapters))}")
    return chapters[name]


def images(settings: Mapping[str, str]) -> list[tuple[str, int, int, int]]:
    """Path, size and times of change of each file that a chapter set to these reads as ``folder:PATH``."""
    dataset = settings.get("dataset", "")
    if not dataset.startswith("folder:"):
        return []
    files = sorted(path for path in Path(dataset.removeprefix("folder:")).expanduser().rglob("*") if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in files]


def select(profile: str, wanted: str = "", settings: str = "", swept: str = "") -> dict[Chapter, dict[str, str]]:
    """The chapters to run, each with the parameters that are set, the profile first.

    ``wanted`` names one chapter, or gives its number (``"02"``, ``"2"``); empty means all. ``settings`` is
    ``"name=value ..."``, quoted as in a shell; each chapter takes those it has a parameter for. ``swept`` is
    more of them, which stand in SWEEP.
    Raises ParameterError, in one line, before anything has run.
    """
    chapters = every(profile)
    if wanted:
        chosen = [c for c in chapters if wanted == c.name or wanted.zfill(2) == c.name.split("_")[0]]
        if not chosen:
            raise ParameterError(f"CHAPTER = {wanted!r}: no such chapter{nearest(wanted, [c.name for c in chapters])}")
        chapters = chosen
    more = assignments(swept, "SWEEP")
    given = assignments(settings) | more
    known = {name for chapter in chapters for name in chapter.parameters} - {"profile"}
    for name in given:
        if name not in known:
            others = Parameters.model_fields.keys() - {"profile"}
            hint = "; other chapters have it" if name in others else nearest(name, sorted(known))
            variable = "SWEEP" if name in more else "SET"
            raise ParameterError(f"{variable} = {name!r}: no chosen chapter has this parameter{hint}")
    resolve({"profile": profile}, ["profile"])
    selected = {}
    for chapter in chapters:
        mine = {name: value for name, value in given.items() if name in chapter.parameters}
        try:
            device = resolved(chapter, {"profile": profile, **mine}).device
            if device not in ("auto", "cpu"):
                from nbutils.lab.runs import choose_device  # here, since torch alone knows the machine's GPUs

                choose_device(device)
        except ParameterError as error:
            raise ParameterError(f"{chapter.name}: {error}") from None
        selected[chapter] = {"profile": profile, **mine}
    return selected


def resolved(chapter: Chapter, settings: Mapping[str, str]) -> Parameters:
    """All parameters of a chapter that is set to these, the profile among them; raises ParameterError."""
    values = chapter.defaults | {"profile": settings["profile"]}
    values |= {name: parse(value) for name, value in settings.items() if name != "profile"}
    return resolve(values, chapter.parameters, chapter.name)


def assignments(settings: str, variable: str = "SET") -> dict[str, str]:
    """Name -> value of ``"name=value ..."``, quoted as in a shell; raises ParameterError, which names the variable that
    has it, where it is something else."""
    try:
        words = shlex.split(settings)
    except ValueError as error:
        raise ParameterError(f"{variable}: {error} in {short_repr(settings)}") from None
    given = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ParameterError(f"{variable} = {short_repr(word)}: expected name=value, such as eps=8/255")
        if name in given:
            raise ParameterError(f"{variable}: {name} stands twice; expected each parameter once")
        if not value:
            raise ParameterError(f"{variable} = {word!r}: expected a value behind the sign, such as {name}=null")
        given[name] = value
    return given


def table(chapters: Iterable[Chapter]) -> str:
    """Chapter, status, minutes and device of the last runs, as plain text."""
    rows = [("chapter", "minutes", "device", "status")]
    for chapter in chapters:
        state = chapter.state()
        minutes = "" if state.minutes is None else f"{state.minutes:.1f}"
        rows.append((chapter.name, minutes, state.device, str(state)))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as plain text in columns; the first row names them, and "minutes" stand to the right."""
    sides = [">" if name == "minutes" else "<" for name in rows[0]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([f"{word:{side}{width}}" for word, side, width in zip(row, sides, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def summary(profile: str) -> None:
    """Print what `make book` ends with: the table of chapters and the book's place."""
    chapters = every(profile)
    print(table(chapters))
    for chapter in chapters:
        if chapter.partial.exists() and not chapter.twin.exists():
            print(f"Partial output of {chapter.name}: {chapter.partial}")
    book = build_dir() / "_build" / "html" / "index.html"
    print(f"The book: {book}" if book.exists() else "The book was not rendered: see the warnings above.")
