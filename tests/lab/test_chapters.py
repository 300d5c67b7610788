"""Which chapters run with which parameters, and how their last run is told."""

from pathlib import Path

import nbformat
import pytest

from nbutils.lab import chapters, results
from nbutils.lab.runs import ParameterError


@pytest.mark.parametrize("wanted", ["01", "1", "01_known_features"])
def test_a_chapter_is_chosen_by_number_or_name(wanted: str) -> None:
    assert [chapter.name for chapter in chapters.select("smoke", wanted)] == ["01_known_features"]


def test_settings_reach_the_chapters_that_have_them() -> None:
    for chapter, words in chapters.select("smoke", settings="steps=7").items():
        assert ("steps" in words) == ("steps" in chapter.parameters)
        assert words[:3] == ["-p", "profile", "smoke"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smoke", "known_features"), "CHAPTER = 'known_features': .* did you mean '01_known_features'?"),
        (("smoke", "99"), "CHAPTER = '99': no such chapter; there are: 01_known"),
        (("smoke", "", "step=7"), "SET = 'step': .*; did you mean 'steps'?"),
        (("smoke", "", "steps"), "SET = 'steps': expected name=value"),
        (("smoke", "", "profile=quick"), "SET = 'profile'"),
        (("smoke", "", "steps=many"), "steps = 'many'"),
        (("smoke", "", "steps=010"), "steps = '010': expected an integer"),
        (("smoke", "", "steps=7 steps=8"), "SET: steps stands twice"),
        (("smoke", "", "steps="), "SET = 'steps=': expected a value"),
        (("smoke", "", "eps=1e999999999"), "eps = '1e999999999': expected a number or a fraction"),
        (("smoke", "", "train_size=1000000000"), "train_size = 1000000000: expected less than or equal to 1000000"),
        (("smoke", "", "steps='7"), "SET: No closing quotation"),
        (("smok",), "profile = 'smok': .* did you mean 'smoke'?"),
    ],
)
def test_bad_choices_are_one_line_before_anything_runs(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as error:
        chapters.select(*arguments)
    assert "\n" not in str(error.value)


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
    assert chapters.parameter_names(notebook) == ["profile", "eps", "steps"]


def test_the_table_names_status_and_device(tmp_path: Path) -> None:
    source = tmp_path / "01_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), source)
    chapter = chapters.Chapter(source, "smoke")
    assert "not run" in chapters.table([chapter])
    chapter.twin.parent.mkdir(parents=True)
    twin = nbformat.read(source, 4)
    twin.metadata.papermill = {"duration": 90.0, "start_time": "2026-01-02T03:04:05+00:00"}
    card = results.dumps({"device": "cpu, 2 threads"}, [], [])
    twin.cells[0].outputs = [nbformat.v4.new_output("display_data", {results.MIME: card})]
    nbformat.write(twin, chapter.twin)
    assert chapters.table([chapter]).splitlines()[1].split() == ["01_x", "1.5", "cpu,", "2", "threads", "ok"]
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
    assert chapter.header == {}
