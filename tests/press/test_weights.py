"""A run from the networks that a record names trains nothing and finds the same, to the last digit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from book.press import weights
from nbutils import features, images, lab, store, training
from nbutils.lab.results import Record, dumps, loads
from nbutils.machine import stores

CHAPTER = "02_adversarial_training"


def chapter(monkeypatch: pytest.MonkeyPatch) -> Record:
    """A small chapter: a teacher, whose set is all that is seen of it, and a student of that set."""
    monkeypatch.setattr(store, "given", {})  # a chapter has a process of its own
    run = lab.start(CHAPTER, {"profile": "smoke", "dataset": "planted"})
    train = run.each(images.load, "planted", "train", 128)
    test = run.each(images.load, "planted", "test", 100)
    schedule, goal = training.Schedule(1), training.Standard()
    teachers = run.each(training.trained, "small", train, goal, schedule)
    sets = run.each(features.D_R, [data.take(64) for data in train], teachers, steps=2, step_size=0.1)
    students = run.each(training.trained, "small", sets, goal, schedule, first_seed=100)
    run.accuracies("student", students, test)
    return loads(dumps(run.card()), "here")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Record, Path]:
    """The record of a run, and its networks as a release has them; what follows has an empty store."""
    record, folder = chapter(monkeypatch), tmp_path / "weights"
    weights.gather(folder, {CHAPTER: record}, stores())
    monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path / "empty"))
    monkeypatch.setenv("NBUTILS_WEIGHTS", str(folder))
    return record, folder


def test_a_run_from_weights_trains_nothing_and_equals_its_record(made: tuple[Record, Path], tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = made
    monkeypatch.setattr(training, "fit", lambda *inputs: pytest.fail("it is not to be trained"))
    again = chapter(monkeypatch)
    assert [replace(result, seconds=0) for result in again.results] == [
        replace(result, seconds=0) for result in record.results]
    assert again.networks == record.networks
    assert not list(tmp_path.glob("empty/store/model/*/"))


def test_a_teacher_is_given_away_with_its_students(made: tuple[Record, Path]) -> None:
    record, folder = made
    seeds = len(record.all_seeds)
    students = {key for result in record.results for key in result.inputs if key.startswith("model-")}
    assert (len(students), len(weights.networks(record))) == (seeds, 2 * seeds)
    assert {path.name for path in (folder / "model").iterdir()} == set(record.networks)
    assert f"| {CHAPTER} | smoke | planted | {record.commit} | {2 * seeds} |" in (folder / "README.md").read_text()


def test_a_damaged_network_is_refused_in_one_line_and_trained_anew(
        made: tuple[Record, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    record, folder = made
    data = folder / "model" / record.networks[0] / "tensors.safetensors"
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    trained, fit = [], training.fit
    monkeypatch.setattr(training, "fit", lambda *inputs: trained.append(1) or fit(*inputs))
    assert chapter(monkeypatch).by_id["student"].values == record.by_id["student"].values
    notes = [line for line in capfd.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {record.networks[0]} is damaged (its checksum differs); not used"]
    assert len(trained) == 1
    monkeypatch.setenv("NBUTILS_BUILD", str(folder.parent / "other"))  # whose store has no sound one
    first = record.model_copy(update={"networks": record.networks[:1]})
    with pytest.raises(ValueError, match=f"{record.networks[0]}/tensors.safetensors: damaged"):
        weights.gather(folder.parent / "next", {CHAPTER: first}, stores())


def test_a_card_has_the_accuracies_with_intervals(made: tuple[Record, Path]) -> None:
    record, folder = made
    (student,) = record.results
    (key, *_) = [key for key in student.inputs if key.startswith("model-")]
    card = (folder / "model" / key / "README.md").read_text()
    assert f"| {student.what} | small | {student.data} | none | 100 | {student} (this method) |" in card
    assert json.loads(card.split("```json")[1].split("```")[0])["schedule"]["epochs"] == 1
    teacher = (folder / "model" / record.networks[0] / "README.md").read_text()
    assert "| accuracy" not in teacher


def test_what_is_left_out_is_said(made: tuple[Record, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    record, folder = made
    monkeypatch.setattr(weights, "LIMIT", 1)
    weights.gather(tmp_path / "large", {CHAPTER: record}, stores())
    shutil.rmtree(folder / "model" / record.networks[0])
    weights.gather(tmp_path / "absent", {CHAPTER: record}, stores())
    shutil.rmtree(folder / "model")
    (folder / "model").mkdir()
    weights.gather(tmp_path / "none", {CHAPTER: record}, stores())
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in said[:2]] == ["more than 0 MB with those of the others",
                                                              "1 are not in the store"]
    assert said[2].startswith("The trained networks are left out; pages and notebooks need none")
    assert not any((tmp_path / name).exists() for name in ("large", "absent", "none"))


def test_an_older_record_names_what_its_results_rest_on(made: tuple[Record, Path]) -> None:
    record, _ = made
    older = record.model_copy(update={"networks": ()})
    assert weights.networks(older) < weights.networks(record)


def test_a_folder_without_networks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBUTILS_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="NBUTILS_WEIGHTS = .*holds no folder 'model'; expected the weights of a rel"):
        store.load_or_build("model", {"n": 1}, dict)
