"""Which chapters run with which parameters, and how their last run is told."""

import json
import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from book.press import chapters
from nbutils.lab import parameters, results
from nbutils.lab.parameters import ParameterError
from nbutils.machine import ROOT
from tests.helpers import record


@pytest.mark.parametrize("wanted", ["01", "1", "01_known_features"])
def test_a_chapter_is_chosen_by_number_or_name(wanted: str) -> None:
    assert [chapter.name for chapter in chapters.select("smoke", wanted)] == ["01_known_features"]


def test_a_size_that_a_chapter_lacks_is_no_bound() -> None:
    (given,) = chapters.select("smoke", "09", "test_size=40").values()
    assert given == {"profile": "smoke", "test_size": "40"}


def test_settings_reach_the_chapters_that_have_them() -> None:
    for chapter, given in chapters.select("smoke", settings="steps=7").items():
        assert given == {"profile": "smoke"} | ({"steps": "7"} if "steps" in chapter.parameters else {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smoke", "known_features"), "CHAPTER = 'known_features': .* did you mean '01_known_features'?"),
        (("smoke", "99"), "CHAPTER = '99': no such chapter; there are: 01_known"),
        (("smoke", "", "step=7"), "SET = 'step': .*; did you mean 'steps'?"),
        (("smoke", "", "steps"), "SET = 'steps': expected name=value"),
        (("smoke", "", "profile=quick"), "SET = 'profile'"),
        (("smoke", "", "steps=many"), "steps = 'many'"),
        (("smoke", "", "steps=010"), "steps = '010': expected a whole number"),
        (("smoke", "", "steps=7 steps=8"), "SET: steps stands twice"),
        (("smoke", "", "steps="), "SET = 'steps=': expected a value"),
        (("smoke", "", "eps=1e999999999"), "eps = '1e999999999': expected a number or a fraction"),
        (("smoke", "", "train_size=1000000000"), "train_size = 1000000000: expected less than or equal to 1000000"),
        (("smoke", "", "steps='7"), "SET: No closing quotation"),
        (("smoke", "09", "test_size=40 costly_size=4"), "SET = 'costly_size': no chosen .*; other chapters have it"),
        (("smoke", "01", "dataset=digits"), "SET = 'dataset': no chosen .*; other chapters have it"),
        (("smoke", "10", "costly_size=101"), "10_.*: costly_size = 101: expected at most attack_size = 100"),
        (("smoke", "04", "transfer_networks=small"), "04_.*: transfer_networks = 'small': 1 name; expected 2 to 9"),
        (("smoke", "08", "eps=0"), "08_nrf_attack: eps = 0: expected more than 0"),
        (("smoke", "05", "table_networks=small,resnet18"), "05_.*: table_networks = .*: before the head of resnet18"),
        (("smok",), "profile = 'smok': .* did you mean 'smoke'?"),
    ],
)
def test_bad_choices_are_one_line_before_anything_runs(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as error:
        chapters.select(*arguments)
    assert "\n" not in str(error.value)


def test_a_line_without_a_name_begins_with_its_words() -> None:
    assert chapters.one_line("", "a: b\n c ") == "a: b c"
    assert chapters.one_line("E", "") == "E"


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", "8/255"), ("7", 7), (".5", 0.5), ("true", "true"),
     ("010", "010"), ("1:30", "1:30"), ("1_0", "1_0"), ("0x10", "0x10"), ("1e3", "1e3"),
     ("null", None), ("folder:a", "folder:a"), ("[1", "[1")],
)
def test_values_from_the_command_line(text: str, value: object) -> None:
    assert chapters.parse(text) == value


def test_parameter_names_come_from_the_tagged_cell() -> None:
    cell = nbformat.v4.new_code_cell('profile: str = "quick"  # which\neps: float | None = None\nsteps = 3')
    cell.metadata.tags = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("other = 1"), cell])
    assert list(parameters.set_in(notebook, "x")) == ["profile", "eps", "steps"]


def book_of(monkeypatch: pytest.MonkeyPatch, folder: Path, old: str, new: str) -> None:
    """A book whose one chapter is 01 with another parameters cell."""
    source = folder / "01_known_features.ipynb"
    text = (ROOT / "notebooks" / source.name).read_text()
    assert text.count(json.dumps(old)[1:-1]) == 1
    source.write_text(text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1]))
    monkeypatch.setattr(chapters, "every", lambda profile: [chapters.Chapter(source, profile)])


@pytest.mark.parametrize(("old", "new", "message"), [
    ('= "8/255"', "= (1", "01_known_features: syntax error in line 9 of its parameters cell: '(' was never closed in"),
    ('= "8/255"', '= "8/0"', "01_known_features: eps = '8/0': expected a number or a fraction"),
    ("seeds: int = None", "seeds: int = [2]", "01_known_features: seeds = [2]: expected a number or text, not a list"),
    ("seeds: int = None", "seeds: int = True", "01_known_features: seeds = True: expected a whole number"),
    ("seeds: int = None", "seedz: int = 2", "01_known_features: its parameters cell sets 'seedz', which is no param"),
    ("seeds: int = None", "seedz: int = 2", "did you mean 'seeds'?"),
])
def test_a_bad_parameters_cell_is_one_line_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str, message: str
) -> None:
    book_of(monkeypatch, tmp_path, old, new)
    with pytest.raises(ParameterError, match=re.escape(message)) as error:
        chapters.select("smoke")
    assert "\n" not in str(error.value)


def test_a_cell_may_compute_its_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    book_of(monkeypatch, tmp_path, '= "8/255"', "= 8 / 255")
    (chapter,) = chapters.select("smoke")
    assert "eps" in chapter.parameters
    assert "eps" not in chapter.defaults


def test_committed_values_are_those_of_the_history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name, notebooks = "01_known_features", tmp_path / "notebooks"
    before = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
    notebooks.mkdir()
    book_of(monkeypatch, notebooks, '= "8/255"', '= "4/255"')
    monkeypatch.setattr(parameters, "ROOT", tmp_path)
    for shown, eps in ((before, "8/255"), ("", "4/255")):
        done = subprocess.CompletedProcess([], 0, shown, "")
        monkeypatch.setattr(parameters, "git", lambda *words, done=done: done)
        assert parameters.committed(name)["eps"] == eps
    assert parameters.committed("no_such_chapter") == {}


def test_the_table_names_status_and_device(tmp_path: Path) -> None:
    source = tmp_path / "01_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), source)
    chapter = chapters.Chapter(source, "smoke")
    assert "not run" in chapters.table([chapter])
    chapter.twin.parent.mkdir(parents=True)
    twin = nbformat.read(source, 4)
    twin.metadata.papermill = {"duration": 90.0, "start_time": "2026-01-02T03:04:05+00:00"}
    card = results.dumps(record())
    twin.cells[0].outputs = [nbformat.v4.new_output("display_data", {results.MIME: card})]
    nbformat.write(twin, chapter.twin)
    assert chapters.table([chapter]).splitlines()[1].split() == ["01_x", "1.5", "cpu,", "2", "threads", "ok"]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("(\n    1\n)  # in other words")]), source)
    assert chapter.state().status == "ok"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("2")]), source)
    assert chapter.state().status == "stale"


@pytest.mark.parametrize("kept", [0, 0.5])
@pytest.mark.parametrize("which", ["twin", "partial"])
def test_a_notebook_cut_off_counts_as_not_run(tmp_path: Path, which: str, kept: float) -> None:
    notebook = nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]))
    (tmp_path / "01_x.ipynb").write_text(notebook)
    chapter = chapters.Chapter(tmp_path / "01_x.ipynb", "smoke")
    chapter.twin.parent.mkdir(parents=True)
    path: Path = getattr(chapter, which)
    path.write_text(notebook[: int(kept * len(notebook))])
    assert chapter.state().status == "not run"
    assert chapter.record is None
