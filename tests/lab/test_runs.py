"""Runs: which parameters they get, from where, on which device, and what they record."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from papermill.translators import PythonTranslator

from nbutils import lab
from nbutils.lab import claims, results, runs
from nbutils.lab.claims import Claim
from nbutils.lab.runs import ParameterError, Parameters, choose_device, resolve, start
from nbutils.lab.store import ROOT

ALLOWED = tuple(Parameters.model_fields)


CELL = """
profile: str = "smoke"  # which profile of book/profiles gives the values left None
dataset: str | None = None
eps: str | float | None = None
seeds: int | None = None
device: str | None = "cpu"
"""


def notebook(*cells: str, **given: Any) -> dict[str, Any]:
    """The names of a notebook after its parameters cell, papermill's cell for what is given, and others."""
    run_cells = [CELL, *([PythonTranslator.codify(given)] if given else []), *cells]
    names: dict[str, Any] = {"In": ["", *run_cells]}
    for cell in run_cells:
        exec(cell, names)
    return names


# --- precedence ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", sorted((ROOT / "book" / "profiles").glob("*.yml")), ids=lambda path: path.stem)
def test_every_profile_resolves_to_what_it_says(path: Path) -> None:
    found = resolve({"profile": path.stem}, ALLOWED).model_dump()
    written = yaml.safe_load(path.read_text())
    del written["about"]
    assert found["profile"] == path.stem
    for name, value in written.items():
        assert found[name] == value


def test_what_is_given_beats_the_profile_and_the_profile_beats_the_default() -> None:
    smoke = resolve({"profile": "smoke"}, ALLOWED)
    given = resolve({"profile": "smoke", "seeds": 7, "steps": None}, ALLOWED)
    assert smoke.seeds != 7
    assert given.seeds == 7
    assert given.steps == smoke.steps != Parameters.model_fields["steps"].default
    assert smoke.eps == Parameters.model_fields["eps"].default


def test_quick_is_the_profile_when_none_is_named() -> None:
    assert resolve({}, ALLOWED) == resolve({"profile": "quick"}, ALLOWED) == resolve({"profile": None}, ALLOWED)


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("eps", "4/255", 4 / 255), ("eps", 0.03, 0.03), ("eps", "0.03", 0.03), ("eps", 0, 0.0), ("eps", 1, 1.0),
    ("seeds", "3", 3), ("seeds", 3.0, 3), ("dataset", "digits", "digits"), ("device", "cuda:1", "cuda:1"),
])
def test_values_are_read_as_people_write_them(name: str, value: object, expected: object) -> None:
    found = getattr(resolve({"profile": "smoke", name: value}, ALLOWED), name)
    assert found == expected
    assert type(found) is type(expected)


def test_parameters_are_fixed_once_resolved() -> None:
    with pytest.raises(ValueError, match="frozen"):
        resolve({}, ALLOWED).seeds = 4  # type: ignore[misc]


# --- start --------------------------------------------------------------------------------------------------------

def test_a_run_starts_from_the_notebooks_names() -> None:
    run = start("02_adversarial_training", notebook(eps="4/255"))
    assert run.chapter == "02_adversarial_training"
    assert run.parameters.eps == 4 / 255
    assert run.parameters.seeds == len(run.seeds) == 2
    assert list(run.seeds) == [0, 1]
    assert run.device == torch.device("cpu")
    assert run.stamp.startswith("profile smoke with eps = 0.01569, cpu, ")
    assert re.fullmatch(r"02_adversarial_training\.changed-[0-9a-f]{8}\.json", run.record.name)
    assert start("02_adversarial_training", notebook(eps=4 / 255)).record == run.record
    assert start("02_adversarial_training", notebook(eps="2/255")).record != run.record
    untouched = start("02_adversarial_training", notebook())
    assert untouched.stamp.startswith("profile smoke, cpu, ")
    assert untouched.record.name == "02_adversarial_training.json"


def test_more_images_cannot_be_attacked_than_there_are() -> None:
    with pytest.raises(ParameterError, match="attack_size = 101: expected at most test_size = 100"):
        resolve({"profile": "smoke", "attack_size": 101, "test_size": 100}, {"profile", "attack_size", "test_size"})


def test_a_cell_that_never_ran_does_not_stop_the_next_start() -> None:
    names = notebook("unrelated = 2")
    names["In"].insert(2, "epz = (1")
    assert start("x", names).parameters.profile == "smoke"


def test_the_laboratory_offers_start() -> None:
    assert lab.start is start


def test_papermills_known_names_pass() -> None:
    assert start("x", notebook(eps="4/255", seeds=3)).parameters.seeds == 3


@pytest.mark.parametrize(("name", "near"), [("epz", "eps"), ("sseds", "seeds"), ("data_set", "dataset")])
def test_papermills_unknown_names_are_refused(name: str, near: str) -> None:
    """Papermill runs them without a word, and the reader would believe that they count."""
    with pytest.raises(ParameterError, match=f"parameter '{name}'.*did you mean '{near}'") as caught:
        start("x", notebook(**{name: 1}))
    assert "\n" not in str(caught.value)


def test_a_parameter_of_another_chapter_is_refused() -> None:
    with pytest.raises(ParameterError, match="parameter 'train_steps'"):
        start("x", notebook(train_steps=3))


def test_names_of_other_cells_are_not_parameters() -> None:
    assert start("x", notebook("epz = 1", "unrelated: int = 2")).parameters.profile == "smoke"


# --- device -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("cuda", "mps", "expected"), [
    (True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_best_device_there_is(cuda: bool, mps: bool, expected: str,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for wanted in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ParameterError, match=f"device = '{wanted}': this machine has cpu; did you mean 'auto'"):
            choose_device(wanted)


# --- the record ---------------------------------------------------------------------------------------------------

@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch) -> Claim:
    made = Claim.model_validate({
        "id": "a-claim", "chapter": "x", "paper": "ilyas2019", "place": "Section 2", "published": "none",
        "paraphrase": "A pattern can be a useful feature.", "statistic": "known.tile",
        "measures": "usefulness of a tile", "criterion": {"above": 0.5}, "least_n": 10, "least_seeds": 2,
        "seen": "no", "fixed": "2026-11-21"})
    monkeypatch.setattr(claims, "load", lambda: {made.id: made})
    return made


def test_every_result_is_on_disk_from_the_moment_it_is_known(own_build: Path, claim: Claim) -> None:
    run = start("x", notebook())
    path = own_build / "results" / "smoke" / "x.json"
    assert run.record == path
    first = run.measure("known.tile", "usefulness", [0.8, 0.9], n=20)
    assert results.read(path)[1] == [first]
    assert (first.profile, first.device) == ("smoke", run.device_name)
    second = run.measure("known.other", "usefulness", [0.5], n=20, unit="number")
    assert results.read(path)[1] == [first, second]
    verdicts = run.judge("a-claim")
    header, found = results.read(path)
    assert found == [first, second]
    assert header["verdicts"] == [{"claim": "a-claim", "held": verdicts.verdicts[0].held, "result": "known.tile",
                                   "words": verdicts.verdicts[0].words}]
    assert header["parameters"]["seeds"] == 2
    assert header["chapter"] == "x"


def test_measuring_again_replaces(own_build: Path) -> None:
    run = start("x", notebook())
    run.measure("a", "w", [0.1])
    again = run.measure("a", "w", [0.2])
    assert results.read(run.record)[1] == [again]


def test_a_claim_without_its_measurement_is_refused(claim: Claim) -> None:
    run = start("x", notebook())
    run.measure("known.tiles", "w", [0.1])
    with pytest.raises(ValueError, match="'known.tile' has not been measured; did you mean 'known.tiles'"):
        run.judge("a-claim")


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path / "file"))
    run = start("x", notebook())
    assert run.measure("a", "w", [0.25]).value == 0.25
    note = capfd.readouterr().err
    assert note.startswith("note: results were not saved in ")
    assert "NBUTILS_BUILD" in note
    assert note.count("\n") == 1


def test_the_run_card_says_what_it_took(own_build: Path) -> None:
    run = start("x", notebook(eps="4/255"))
    card = run.card()
    html = card._repr_html_()
    for words in ("smoke", "eps = 0.01569", "seeds = 2", run.device_name, "GiB", "minutes", torch.__version__):
        assert words in html
        assert words in repr(card)
    record = json.loads(run.record.read_text())
    assert 0.05 < record["peak_memory_gib"] < 64
    assert record["minutes"] < 1
    assert runs.build_dir() == own_build.resolve()
