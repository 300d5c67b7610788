"""Rules for what stands in the repository: notebooks, table of contents, profiles, and no trace of one machine."""

import ast
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from book.press.chapters import Chapter, code_cells, every, read
from nbutils.lab.parameters import NEEDS_TRUTH, Parameters, resolve
from nbutils.machine import ROOT

CHAPTERS = every("smoke")
TEXT = {".py", ".md", ".yml", ".toml", ".txt", ".ipynb", ".csv", ".bib", ".cff", ".css", ""}
# Formulas without code below them, and why.
NO_CODE_BELOW = {
    "eq-dr": "a hope of the paper's; the chapter tests it",
    "eq-ib": "neither of its terms can be computed",
    "eq-along": "another setting of the code under the formula before it",
    "eq-shares": "an identity, by which the result is explained",
    "eq-foreign": "a ratio of what the chapter measures first",
}
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)


@each_chapter
def test_notebooks_hold_no_results(chapter: Chapter) -> None:
    for cell in code_cells(read(chapter.source)):
        assert not cell.outputs
        assert cell.execution_count is None
        assert "papermill" not in cell.metadata


@each_chapter
def test_pages_speak_of_the_number_of_seeds_and_classes_that_there_are(chapter: Chapter) -> None:
    """A reader may run one seed, or images of two classes."""
    code = "\n".join(cell.source for cell in code_cells(read(chapter.source)))
    assert not re.search(r"\{[^{}]*\} (seed|epoch)s\b", code)
    if "dataset" in chapter.parameters:
        anywhere = "\n".join(cell.source for cell in code_cells(read(chapter.source))
                             if not cell.source.startswith(NEEDS_TRUTH))
        assert not re.search(r"range\(10\)|[Cc]hance is 10 %", anywhere)


@each_chapter
def test_seeds_need_not_begin_at_0(chapter: Chapter) -> None:
    """A run with first_seed = 3 has no entry 3 in its lists."""
    assert chapter.defaults["first_seed"] == 0
    code = "\n".join(cell.source for cell in code_cells(read(chapter.source)))
    assert not re.search(r"\[seed\]|\[seed \+", code)
    for name in re.findall(r"for (\w+) in run\.seeds", code):
        assert not re.search(rf"\[(.*, )?{name}\]", code)


@each_chapter
def test_a_cell_fits_on_a_screen(chapter: Chapter) -> None:
    for cell in code_cells(read(chapter.source)):
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#")]
        assert len(lines) <= 25, f"{chapter.name}, {cell.id}: {len(lines)} lines of code"


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_third_class_is_neither_or_steps_aside_by_name(classes: int, capsys: pytest.CaptureFixture[str]) -> None:
    (chapter,) = (chapter for chapter in CHAPTERS if chapter.name == "07_correlation_tables")
    (cell,) = (cell.source for cell in code_cells(read(chapter.source)) if "def third_class(" in cell.source)
    names: dict[str, Any] = {"torch": torch, "train": [SimpleNamespace(num_classes=classes)]}
    exec(cell, names)
    if classes == 2:
        assert list(names["LABELS"].values()) == ["true", "answer"]
        assert "need 3 classes and here are 2: a mask for a third class" in capsys.readouterr().out
        return
    assert list(names["LABELS"].values()) == ["true", "answer", "third"]
    assert not capsys.readouterr().out
    y = torch.arange(60) % classes
    answer = (y + 1 + torch.arange(60) % (classes - 1)) % classes
    third = names["third_class"](y, answer, classes, 0)
    assert ((third != y) & (third != answer) & (third >= 0) & (third < classes)).all()


@each_chapter
def test_one_parameters_cell_then_the_start_of_the_run(chapter: Chapter) -> None:
    cells = [cell for cell in read(chapter.source).cells if cell.cell_type == "code"]
    assert all(cell.source.strip() for cell in cells), "an empty code cell would shift the numbers of the others"
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert f'lab.start("{chapter.name}", globals())' in cells[tagged[0] + 1].source
    assert chapter.parameters[0] == "profile"
    resolve({"profile": "quick"}, chapter.parameters)
    for line in cells[tagged[0]].source.splitlines():
        assert re.fullmatch(r"\w+: .+ = .+  # .+", line), f"expected 'name: type = value  # what it is': {line}"


@each_chapter
def test_exercises_are_numbered_and_solved(chapter: Chapter) -> None:
    text = "\n".join(cell.source for cell in read(chapter.source).cells if cell.cell_type == "markdown")
    labels = re.findall(r"`{3,}\{exercise(?:-start)?\}.*\n:label: (\S+)", text)
    assert len(labels) >= 3
    solved = re.findall(r"`{3,}\{solution(?:-start)?\} (\S+)\n(?::label: \S+\n)?:class: dropdown", text)
    assert sorted(solved) == sorted(labels)


@each_chapter
def test_solutions_are_marked_and_their_checks_hidden(chapter: Chapter) -> None:
    code = "\n".join(cell.source for cell in code_cells(read(chapter.source)))
    assert code.count("### BEGIN SOLUTION") == code.count("### END SOLUTION") >= 1
    hidden = [c for c in code_cells(read(chapter.source)) if "remove-cell" in c.metadata.get("tags", [])]
    assert any("assert" in cell.source for cell in hidden)


@each_chapter
def test_answers_are_hidden_until_the_reader_has_guessed(chapter: Chapter) -> None:
    text = "\n".join(cell.source for cell in read(chapter.source).cells if cell.cell_type == "markdown")
    assert text.count(":class: predict") == text.count(":class: reveal") >= 1


@each_chapter
def test_code_shown_under_formulas_exists_and_is_short(chapter: Chapter) -> None:
    for cell in read(chapter.source).cells:
        for path, options in re.findall(r"^```\{literalinclude\} (\S+)\n((?::.*\n)+)```$", cell.source, re.MULTILINE):
            (name,) = re.findall(r"^:pyobject: (\S+)$", options, re.MULTILINE)
            assert 2 <= lines_of(chapter.source.parent / path, name) <= 20, f"{path}: {name}"
            assert (":dedent: 4" in options) == ("." in name), f"{path}: {name}"
        assert cell.source.count("{literalinclude}") == len(re.findall(r"^:pyobject:", cell.source, re.MULTILINE))


def lines_of(path: Path, name: str) -> int:
    """How many lines a function or method such as "PGD.step" has, with its decorators."""
    node: Any = ast.parse(path.read_text())
    for word in name.split("."):
        (node,) = (part for part in node.body if getattr(part, "name", None) == word)
    return node.end_lineno + 1 - min(part.lineno for part in (node, *node.decorator_list))


def test_code_stands_below_every_formula_that_is_computed() -> None:
    """An include in the same cell, or a code cell among the next two that is not the parameters."""
    formulas, bare = set(), set()
    for chapter in CHAPTERS:
        cells = read(chapter.source).cells
        for place, cell in enumerate(cells):
            after = [c for c in cells[place + 1 : place + 3] if "parameters" not in c.metadata.get("tags", [])]
            for label, text in re.findall(r":label: (eq-\S+)\n(.*?)(?=:label: eq-|\Z)", cell.source, re.DOTALL):
                formulas.add(label)
                if "{literalinclude}" not in text and all(c.cell_type != "code" for c in after):
                    bare.add(label)
    assert bare == set(NO_CODE_BELOW)
    assert len(formulas - bare) >= 25


def test_every_notebook_has_its_place_in_the_book() -> None:
    toc = (ROOT / "_toc.yml").read_text()
    listed = re.findall(r"file: notebooks/(\S+)", toc)
    assert listed == [chapter.name for chapter in CHAPTERS]
    for page in re.findall(r"(?:file|root): (book/\S+)", toc):
        assert (ROOT / f"{page}.md").exists()


@pytest.mark.parametrize("profile", sorted((ROOT / "book" / "profiles").glob("*.yml")), ids=lambda path: path.stem)
def test_every_profile_is_complete_and_serves_every_chapter(profile: Path) -> None:
    values = yaml.safe_load(profile.read_text())
    assert values["about"]
    assert set(values) == set(Parameters.model_fields) - {
        "profile", "eps", "first_seed", "device", "precision"} | {"about"}
    for chapter in CHAPTERS:
        (cell,) = (cell for cell in code_cells(read(chapter.source)) if "parameters" in cell.metadata.get("tags", []))
        names: dict[str, object] = {}
        exec(cell.source, names)
        given = {name: names[name] for name in chapter.parameters}
        assert resolve({**given, "profile": profile.stem}, chapter.parameters).profile == profile.stem


def test_pins_are_complete_and_serve_every_build_of_torch() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)


def test_nothing_names_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for path in (ROOT / name for name in listed.split("\0") if name):
        if path.is_file() and path.suffix in TEXT and "mathjax" not in path.parts and path != Path(__file__):
            found = re.search(r"(?<![\w.:])/(home|root|work|tmp|Users)/\w+", path.read_text())
            assert found is None, f"{path.relative_to(ROOT)} names {found and found[0]}"
