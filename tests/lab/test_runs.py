"""Runs: which parameters they get, from where, on which device, and what they record."""

import functools
import math
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from IPython.core.inputtransformer2 import TransformerManager
from papermill.translators import PythonTranslator
from PIL import Image
from torch.utils.data import TensorDataset

from book.press import chapters
from nbutils import features, lab, networks, training
from nbutils.architectures import CUTTABLE, NETWORKS
from nbutils.datasets import DATASETS
from nbutils.features.bottleneck import Bottleneck, Distilled
from nbutils.images import ImageSet, sources
from nbutils.lab import claims, parameters, results, runs
from nbutils.lab.claims import Claim
from nbutils.lab.evidence import evidence
from nbutils.lab.parameters import MASKED, NEEDS_TRUTH, ParameterError, Parameters, resolve
from nbutils.lab.results import Result
from nbutils.lab.runs import Run, choose_device, start
from nbutils.machine import ROOT
from nbutils.networks import SplitClassifier
from nbutils.paradigms.recipes import SIZES
from nbutils.precision import PRECISIONS
from nbutils.robustness import PGD, Noise, ThreatModel, autoattack, evaluate, parse_eps
from tests import helpers

ALLOWED = tuple(Parameters.model_fields)
# But for those that a chapter, whoever runs it, or the machine gives.
ALLOWED_IN_PROFILES = set(ALLOWED) - {"profile", "eps", "first_seed", "device", "precision"}


CELL = """
profile: str = "smoke"  # which profile of book/profiles gives the values left None
dataset: str | None = None
eps: str | float | None = None
seeds: int | None = None
first_seed: int | None = None
device: str | None = "cpu"
precision: str | None = "float32"
"""


def notebook(*cells: str, **given: Any) -> dict[str, Any]:
    """The names of a notebook after its parameters cell, papermill's cell for what is given, and others."""
    run_cells = [CELL, *([PythonTranslator.codify(given)] if given else []), *cells]
    names: dict[str, Any] = {"In": ["", *run_cells]}
    for cell in run_cells:
        exec(cell, names)
    return names


# --- precedence ---------------------------------------------------------------------------------------------------

def two_classes(root: Path, train: int = 1, test: int = 1) -> str:
    """A folder of two classes, as a data set, with so many images of each."""
    for split, number in (("train", train), ("test", test)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                shade = (40 * index, 255 * (name == "dog"), 255 * (split == "test"))
                Image.new("RGB", (32, 32), shade).save(root / split / name / f"{index}.png")
    return f"folder:{root}"


@pytest.mark.parametrize("path", sorted((ROOT / "book" / "profiles").glob("*.yml")), ids=lambda path: path.stem)
def test_every_profile_resolves_to_what_it_says(path: Path) -> None:
    found = resolve({"profile": path.stem}, ALLOWED).model_dump()
    written = yaml.safe_load(path.read_text())
    del written["about"]
    assert found["profile"] == path.stem
    for name, value in written.items():
        assert found[name] == value


def test_what_is_given_beats_the_profile() -> None:
    smoke = resolve({"profile": "smoke"}, ALLOWED)
    given = resolve({"profile": "smoke", "seeds": 7, "steps": None}, ALLOWED)
    assert smoke.seeds != 7
    assert given.seeds == 7
    assert given.steps == smoke.steps
    assert smoke.eps == Parameters.model_fields["eps"].default


def test_quick_is_the_profile_when_none_is_named() -> None:
    assert resolve({}, ALLOWED) == resolve({"profile": "quick"}, ALLOWED) == resolve({"profile": None}, ALLOWED)


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("eps", "4/255", 4 / 255), ("eps", 0.03, 0.03), ("eps", "0.03", 0.03), ("eps", 1, 1.0),
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
    untouched = start("x", notebook())
    assert untouched.stamp.startswith("profile smoke, cpu, ")


def test_weights_that_are_not_there_are_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBUTILS_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="NBUTILS_WEIGHTS = .*none': holds no folder 'model'"):
        start("02_adversarial_training", notebook())


def test_more_images_cannot_be_attacked_than_there_are() -> None:
    with pytest.raises(ParameterError, match="attack_size = 101: expected at most test_size = 100"):
        resolve({"profile": "smoke", "attack_size": 101, "test_size": 100}, {"profile", "attack_size", "test_size"})


@pytest.mark.parametrize(("given", "allowed", "message"), [
    ({"test_size": 99}, ("attack_size", "test_size"),
     "attack_size = 100 (from profile 'smoke'): expected at most test_size = 99"),
    ({"attack_size": 10, "costly_size": 11}, ("attack_size", "costly_size"),
     "costly_size = 11: expected at most attack_size = 10"),
    ({"test_size": 11, "costly_size": 12}, ("costly_size", "test_size"),
     "costly_size = 12: expected at most test_size = 11"),
    ({"construct_size": 201}, ("construct_size", "train_size"),
     "construct_size = 201: expected at most train_size = 200"),
    ({"match_size": 101}, ("match_size", "construct_size"),
     "match_size = 101: expected at most construct_size = 100"),
])
def test_sizes_that_do_not_go_together(given: dict[str, int], allowed: tuple[str, ...], message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)):
        resolve({"profile": "smoke", **given}, {"profile", *allowed})


def test_no_more_images_than_a_folder_holds(tmp_path: Path) -> None:
    given = {"profile": "smoke", "dataset": two_classes(tmp_path, 10, 5), "attack_size": 10}
    for more, message in (({"train_size": 20}, f"test_size = 100 (from profile 'smoke'): {tmp_path}/test holds 10"),
                          ({"train_size": 21, "test_size": 10}, f"train_size = 21: {tmp_path}/train holds 20 images"),
                          ({"train_size": 20, "test_size": 11}, f"test_size = 11: {tmp_path}/test holds 10 images")):
        with pytest.raises(ParameterError, match=re.escape(message)):
            resolve(given | more, ALLOWED)
    sizes = {"train_size": 20, "test_size": 10, "construct_size": 20, "match_size": 20}
    assert resolve(given | sizes, ALLOWED).train_size == 20
    assert resolve(given, {"profile", "dataset", "attack_size"}).train_size == 200  # which this chapter does not use


@pytest.mark.parametrize(("train", "test", "where", "held", "least"), [
    (1, 5, "train", 2, "20, which is the least train_size"), (10, 1, "test", 2, "10, which is the least test_size")])
def test_a_folder_with_fewer_images_than_any_chapter_takes(train: int, test: int, where: str, held: int, least: str,
                                                           tmp_path: Path) -> None:
    given = {"profile": "smoke", "dataset": two_classes(tmp_path, train, test), "train_size": 20}
    for more in ({}, {f"{where}_size": 20}):
        helpers.assert_one_line(lambda more=more: resolve(given | more, ALLOWED),  # type: ignore[misc]
                                [f"{where} holds {held} images; expected at least {least}"])


def test_numbers_as_text_are_what_they_are_as_numbers() -> None:
    assert resolve({"profile": "smoke", "train_size": "1e3"}, ALLOWED).train_size == 1000
    for found, words in (({"first_seed": "\u0661"}, "expected a whole number, such as 3"),
                         ({"seeds": "-3"}, "seeds = '-3': expected greater than or equal to 1"),
                         ({"seeds": "0x10"}, "seeds = '0x10': expected a whole number, such as 3"),
                         ({"train_size": "20.5"}, "train_size = 20.5: expected a valid integer"),
                         ({"d_r_step_size": "x"}, "d_r_step_size = 'x': expected a number, such as 0.1")):
        helpers.assert_one_line(lambda found=found: resolve({"profile": "smoke", **found},  # type: ignore[misc]
                                                            {"profile", *found}), [words])


@pytest.mark.parametrize(("dataset", "train", "test"), [
    ("digits", 1437, 360), ("cifar10", 50_000, 10_000), ("svhn", 73_257, 26_032), ("tiny-imagenet", 100_000, 10_000)])
def test_no_more_images_than_a_data_set_has(dataset: str, train: int, test: int) -> None:
    for name, most in (("train_size", train), ("test_size", test)):
        words = f"{name} = {most + 1}: {dataset} {name[:-5]} holds {most} images; expected at most {most}"
        with pytest.raises(ParameterError, match=re.escape(words)):
            resolve({"profile": "paper", "dataset": dataset, name: most + 1}, ALLOWED)
        assert resolve({"profile": "smoke", "dataset": dataset, name: most}, ALLOWED)


def test_a_profile_that_asks_for_more_takes_all_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    found = resolve({"profile": "planted", "dataset": "digits"}, ALLOWED)
    assert (found.train_size, found.test_size, found.attack_size, found.costly_size) == (1437, 360, 360, 100)
    assert (found.construct_size, found.match_size) == (1437, 1437)
    with pytest.raises(ParameterError, match="attack_size = 361: expected at most test_size = 360"):
        resolve({"profile": "planted", "dataset": "digits", "attack_size": 361}, ALLOWED)
    for split, most in (("train", 1437), ("test", 360)):
        assert len(sources.load("digits", split)) == most
    run = start("02_adversarial_training", notebook(profile="quick", dataset="digits") | {"train_size": None})
    assert "dataset = digits, " in run.stamp
    assert "train_size = 1437, " in run.stamp
    assert capsys.readouterr().out == "train_size = 1437: digits has no more images\n"


def test_chapters_that_need_more_than_one_network_or_test_images_to_spare() -> None:
    one = {"table_networks": "small", "seeds": 1}
    with pytest.raises(ParameterError, match="table_networks = 'small', seeds = 1: expected two of either"):
        resolve(one, ALLOWED, "06_feature_visualization")
    assert resolve(one | {"seeds": 2}, ALLOWED, "06_feature_visualization")
    assert resolve(one | {"table_networks": "small, vgg16"}, ALLOWED, "06_feature_visualization")
    all_attacked = {"test_size": 50, "attack_size": 50, "costly_size": 50}
    with pytest.raises(ParameterError, match="costly_size = 50: expected less than test_size = 50"):
        resolve(all_attacked, ALLOWED, "08_nrf_attack")
    assert resolve(all_attacked | {"costly_size": 49}, ALLOWED, "08_nrf_attack")
    assert resolve(all_attacked | one, ALLOWED, "05_ib_distillation")


def test_sizes_that_a_chapter_lacks_follow() -> None:
    found = resolve({"profile": "quick", "test_size": 20, "train_size": 30}, {"profile", "test_size", "train_size"})
    assert (found.attack_size, found.costly_size, found.construct_size, found.match_size) == (20, 20, 30, 30)
    kept = resolve({"profile": "quick", "test_size": 400}, {"profile", "test_size"})
    usual = resolve({"profile": "quick"}, {"profile"})
    assert resolve({"profile": "gpu"}, ALLOWED).dataset == "cifar10"
    assert resolve({"profile": "gpu"}, {"profile"}).dataset == "planted"  # a chapter without a choice of images
    assert (kept.attack_size, kept.costly_size) == (usual.attack_size, usual.costly_size)


@pytest.mark.parametrize(("given", "message"), [
    ({"table_networks": "small,vgg16, small"}, "table_networks = 'small,vgg16, small': found small 2 times"),
    ({"transfer_networks": "small, small"}, "transfer_networks = 'small, small': found small 2 times"),
    ({"table_methods": "ADV,ADV"}, "table_methods = 'ADV,ADV': found ADV 2 times; expected each name once"),
    ({"transfer_networks": "small"}, "transfer_networks = 'small': 1 name; expected 2 to 9"),
    ({"transfer_networks": ",".join(list(NETWORKS)[:10])}, "10 names; expected 2 to 9"),
    ({"eps": 0}, "eps = 0: expected more than 0"),
    ({"eps": "0/255"}, "eps = '0/255': expected more than 0"),
    ({"seeds": [1, 2]}, "seeds = [1, 2]: expected a number or text, not a list"),
    ({"dataset": {"a": 1}}, "dataset = {'a': 1}: expected a number or text, not a dict"),
    ({"profile": ["smoke"]}, "profile = ['smoke']: expected a number or text, not a list"),
])
def test_what_no_chapter_can_run_with(given: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)) as caught:
        resolve({"profile": "smoke", **given}, ALLOWED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [2, 9])
def test_architectures_that_can_be_ranked(number: int) -> None:
    names = ", ".join(list(NETWORKS)[:number])
    assert resolve({"transfer_networks": names}, ALLOWED).transfer_networks == names


def test_the_names_of_parameters_are_those_of_the_engine() -> None:
    def has_a_cut(name: str) -> bool:
        try:
            with torch.device("meta"):  # no weights are made
                return bool(features.last_cut(networks.build(name)))
        except ValueError:
            return False

    assert sorted(CUTTABLE) == sorted(filter(has_a_cut, NETWORKS))
    assert {"planted", *sources.LOADERS} == set(DATASETS)
    assert (SIZES, tuple(autoattack.VERSIONS)) == (parameters.ENCODER_SIZES, parameters.AUTOATTACKS)
    assert tuple(training.DEFENCES) == parameters.METHODS
    assert ("auto", *PRECISIONS) == parameters.PRECISIONS


@given(st.integers(1, 99) | st.floats(0, 1, exclude_min=True))
def test_a_usual_radius_is_what_the_engine_reads(levels: float) -> None:
    text = f"{levels}/255" if isinstance(levels, int) else levels
    assert resolve({"eps": text}, ALLOWED).eps == ThreatModel("Linf", parse_eps(text)).eps


MASKING = {chapter.name for chapter in chapters.every("") if "features.last_cut(" in chapter.source.read_text()}


@pytest.mark.parametrize("chapter", sorted(MASKING))
def test_chapters_that_mask_channels_name_the_networks_they_can_mask(chapter: str) -> None:
    message = "table_networks = 'small, resnet18': before the head of resnet18 .*; expected some of small, .*121$"
    with pytest.raises(ParameterError, match=message):
        resolve({"table_networks": "small, resnet18"}, ALLOWED, chapter)
    assert resolve({"table_networks": "small, densenet121"}, ALLOWED, chapter)
    assert resolve({"table_networks": "small, resnet18"}, ALLOWED, "02_adversarial_training")


def test_all_chapters_that_mask_channels_are_known() -> None:
    assert set(MASKED) == MASKING
    assert resolve({"table_networks": "resnet18, small"}, ALLOWED, "12_three_definitions")


NUMBERS = [name for name, field in Parameters.model_fields.items() if field.annotation in (int, float)]
NEAR_NUMBERS = st.from_regex(r"\A[-+ ]?[0-9_]{0,400}[.,/:]?[0-9]{0,30}(e[-+]?[0-9]{1,9})?[\n ]?\Z")


@pytest.mark.parametrize("name", NUMBERS)
@settings(max_examples=25)
@given(text=st.text() | NEAR_NUMBERS | st.integers().map(str) | st.floats().map(str) | st.just("9" * 5000))
def test_any_text_is_a_number_in_range_or_one_line(name: str, text: str) -> None:
    began, message = time.process_time(), ""
    try:
        found = getattr(resolve({"profile": "smoke", name: text}, {"profile", name}), name)
    except ParameterError as error:
        found, message = 1, str(error)
    assert math.isfinite(found)
    assert 0 < found <= 1_000_000
    assert not message or (message.startswith(f"{name} = ") and len(message.splitlines()) == 1)
    assert time.process_time() - began < 1


def test_the_numbers_are_most_parameters() -> None:
    assert len(NUMBERS) == 20
    assert {"eps", "d_r_step_size", "d_nr_step_size", "seeds"} <= set(NUMBERS)


@pytest.mark.parametrize("path", sorted((ROOT / "book" / "profiles").glob("*.yml")), ids=lambda path: path.stem)
def test_every_profile_names_every_parameter_that_is_a_profiles(path: Path) -> None:
    assert yaml.safe_load(path.read_text()).keys() - {"about"} == ALLOWED_IN_PROFILES


def test_a_cell_that_never_ran_does_not_stop_the_next_start() -> None:
    names = notebook("unrelated = 2")
    names["In"].insert(2, "epz = (1")
    assert start("x", names).parameters.profile == "smoke"


def typed(**values: object) -> dict[str, Any]:
    """The names of notebook 01 after a reader typed values into its parameters cell."""
    cells = (cell for cell in chapters.code_cells(chapters.read(ROOT / "notebooks" / "01_known_features.ipynb")))
    code = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    names: dict[str, Any] = {}
    code = "\n".join([code.replace('"quick"', '"smoke"'), *(f"{name} = {value!r}" for name, value in values.items())])
    exec(code, names)
    return names | {"In": ["", code]}


@pytest.mark.parametrize(("values", "changes"), [
    ({}, ()), ({"eps": "0.1", "train_size": 60}, ("eps", "train_size")), ({"eps": 8 / 255, "seeds": "2"}, ()),
    ({"eps": "8/255", "train_size": 200}, ()), ({"device": "cpu", "epochs": 2}, ("epochs",)), ({"eps": None}, ()),
])
def test_what_is_typed_into_the_parameters_cell_is_a_change(values: dict[str, object],
                                                            changes: tuple[str, ...]) -> None:
    run = start("01_known_features", typed(**values))
    assert run.changed == changes
    for name in changes:
        assert f"{name} = " in run.stamp
    assert ("with" in run.stamp) == bool(changes)


def test_a_chapters_own_value_is_no_change_and_the_profiles_given_again_is_none() -> None:
    assert start("02_adversarial_training", notebook(eps="0.03", seeds=2)).changed == ()
    assert start("02_adversarial_training", notebook(eps="8/255")).changed == ("eps",)
    assert start("of no notebook", notebook(eps="8/255")).changed == ()


def test_an_unknown_name_typed_into_the_parameters_cell_is_refused_until_it_is_mended() -> None:
    names = typed(seedz=2)
    with pytest.raises(ParameterError, match="parameter 'seedz'.*; did you mean 'seeds'"):
        start("01_known_features", names)
    names["In"].append(names["In"][-1].replace("seedz", "seeds"))
    assert start("01_known_features", names | {"seeds": 2})


def test_a_parameters_cell_that_did_not_run_is_named() -> None:
    with pytest.raises(ParameterError, match="profile: not set; run the cell tagged 'parameters' first"):
        start("01_known_features", {"In": ["", "profile: str = ("]})


def test_a_list_in_the_parameters_cell_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"seeds = \[2\]: expected a number or text, not a list"):
        start("x", notebook(seeds=[2]))


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
    made = Claim.model_validate({**yaml.safe_load(helpers.CLAIM)[0], "least_n": 10, "least_seeds": 2})
    made = made.model_copy(update={"chapter": "x"})
    monkeypatch.setattr(claims, "load", lambda: {made.id: made})
    return made


def images(n: int, name: str = "dots") -> ImageSet:
    return ImageSet(torch.full((n, 3, 4, 4), 0.5), torch.arange(n) % 2, ("a", "b"), name)


def number(run: Run, id: str, values: list[float], count: int = 10) -> Result:
    """A recorded number with these values, one for each seed, on so many images."""
    return run.number(id, "w", lambda value, _: value, values, images(count), unit="share")


def recorded(run: Run) -> results.Record:
    """What the run's card takes into the notebook."""
    data, _ = DisplayFormatter().format(run.card())
    assert data.keys() == {results.MIME, "text/html", "text/plain"}
    return results.loads(data[results.MIME], "card")


def test_what_a_run_found_is_in_its_card_and_nowhere_else(own_build: Path, claim: Claim) -> None:
    run = start("x", notebook())
    first = number(run, "known.tile", [0.8, 0.9], count=20)
    assert (first.profile, first.device) == ("smoke", run.device_name)
    second = number(run, "known.other", [0.5], count=20)
    verdicts = run.judge("a-claim")
    found = recorded(run)
    assert found.results == [first, second]
    assert [verdict.model_dump() for verdict in found.verdicts] == [
        {"claim": "a-claim", "held": verdicts.verdicts[0].held, "result": "known.tile",
         "words": verdicts.verdicts[0].words}]
    assert found.parameters["seeds"] == 2
    assert found.chapter == "x"
    assert not own_build.exists()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_card_names_the_commit_of_the_start_and_the_precision(precision: str,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter(("first", "second"))
    monkeypatch.setattr("nbutils.lab.runs.present_commit", lambda: next(commits))
    card = start("x", notebook(precision=precision)).card()
    assert (card.commit, card.precision) == ("first", precision)
    assert f"trained in: {precision}" in repr(card)


@pytest.mark.usefixtures("own_build")
def test_a_run_knows_how_many_classes_its_images_have(tmp_path: Path, claim: Claim,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = claim.model_copy(update={"classes": 10})
    monkeypatch.setattr(claims, "load", lambda: {bounded.id: bounded})
    for word, dataset, classes in (("not comparable (2 classes, the bound is for 10)", two_classes(tmp_path), 2),
                                   ("undecided in the planted world", "planted", 10)):
        run = start("x", notebook(dataset=dataset))
        number(run, "known.tile", [0.4, 0.9], count=20)
        assert run.judge(claim.id).verdicts[0].words == word
        assert recorded(run).classes == classes


def test_measuring_again_replaces(own_build: Path) -> None:
    run = start("x", notebook())
    number(run, "a", [0.1])
    again = number(run, "a", [0.2])
    assert recorded(run).results == [again]


def test_a_claim_without_its_measurement_is_refused(claim: Claim) -> None:
    run = start("x", notebook())
    number(run, "known.tiles", [0.1])
    with pytest.raises(ValueError, match="'known.tile' has not been measured; did you mean 'known.tiles'"):
        run.judge("a-claim")


@pytest.mark.parametrize("needed", [{"gates": {"known.control": {"above": 0}}}, {"arms": ["known.control"]}])
def test_a_claim_without_its_controls_is_refused(own_build: Path, claim: Claim, monkeypatch: pytest.MonkeyPatch,
                                                 needed: dict[str, object]) -> None:
    plain = claim.model_dump(exclude_none=True, exclude={"setting", "value"}) | {"chapter": "01_known_features"}
    more = claim.model_validate({**plain, **needed}).model_copy(update={"chapter": "x"})
    monkeypatch.setattr(claims, "load", lambda: {more.id: more})
    run = start("x", notebook())
    number(run, "known.tile", [0.8, 0.9])
    with pytest.raises(ValueError, match="^claim 'a-claim': 'known.control' has not been measured;"):
        run.judge("a-claim")
    number(run, "known.control", [0.8, 0.9])
    assert run.judge("a-claim").verdicts[0].held != "not comparable"


def test_the_run_card_says_what_it_took(own_build: Path) -> None:
    run = start("x", notebook(eps="4/255"))
    card = run.card()
    html = card._repr_html_()
    for words in ("smoke", "eps = 0.01569", "seeds = 2", run.device_name, "GiB", "minutes", torch.__version__):
        assert words in html
        assert words in repr(card)
    found = recorded(run)
    assert 0.05 < found.peak_memory_gib < 64
    assert found.minutes < 1


def test_a_card_holds_what_has_no_value_too(claim: Claim) -> None:
    run = start("x", notebook())
    kept = number(run, "known.tile", [0.8, float("nan")], count=20)
    assert repr(recorded(run).results) == repr([kept])  # not ==, for NaN differs from itself


# --- what a number rests on ---------------------------------------------------------------------------------------

def network(name: str, key: str) -> SplitClassifier:
    model = networks.build("small", 2, 16)
    model.name, model.key = name, key
    return model.eval()


def test_a_number_says_what_it_was_computed_from(own_build: Path) -> None:
    run, attack = start("x", notebook()), PGD(ThreatModel("Linf", "8/255"), 3)
    sets = [images(12), images(7)]
    models = [network("small", "model-1"), network("small", "model-2")]
    seen: list[tuple[int, str, float]] = []

    def f(model: SplitClassifier, data: ImageSet, search: PGD, factor: float) -> float:
        seen.append((len(data), model.key, factor))
        return factor * len(data)

    found = run.number("a.b", "images", f, models, sets, attack, 0.5, unit="number")
    assert seen == [(12, "model-1", 0.5), (7, "model-2", 0.5)]
    assert found.values == (6.0, 3.5)
    assert (found.n, found.data, found.model) == (7, "dots", "small")
    assert (found.threat, found.attack) == ("L_inf 8/255", repr(attack))
    assert found.inputs == ("model-1", "model-2", *(each.fingerprint for each in sets))
    assert 0 < found.seconds < 1
    assert found.norms is None
    assert found.device == run.device_name
    assert recorded(run).results == [found]


def test_a_number_of_results_rests_on_what_they_rest_on(own_build: Path) -> None:
    run, attack = start("x", notebook()), PGD(ThreatModel("L2", 0.5), 2)
    model = network("small", "model-1")
    data = ImageSet(torch.full((12, 3, 16, 16), 0.5), torch.arange(12) % 2, ("a", "b"), "dots")
    other = replace(data, x=data.x / 2)
    clean = run.measure("clean", "w", [evaluate(model, data), evaluate(model, other)])
    under = run.measure("under", "w", [evaluate(model, each.take(8), attack) for each in (data, other)])
    gap = run.difference("gap", "w", clean, under)
    assert gap.values == tuple(a - b for a, b in zip(clean.values, under.values, strict=True))
    assert gap.unit == "points"
    assert (gap.n, gap.model, gap.data, gap.threat, gap.attack) == (8, "small", "dots", "L2 0.5", repr(attack))
    prints = [each.fingerprint for each in (data, other, data.take(8), other.take(8))]
    assert gap.inputs == ("model-1", *prints)
    assert gap.seconds >= clean.seconds + under.seconds


def test_a_number_for_each_name_of_a_mapping(own_build: Path) -> None:
    run = start("x", notebook())
    accuracy = {"one": number(run, "one", [0.5, 0.75]), ("two", "b"): number(run, "two", [0.25, 0.5])}
    factors = {"one": 2, ("two", "b"): 4}
    found = run.number("a", "w", lambda value, factor, plus: factor * value + plus, accuracy, factors, [1.0, 3.0])
    assert {name: each.values for name, each in found.items()} == {"one": (2.0, 4.5), ("two", "b"): (2.0, 5.0)}
    assert found["one"] is run.found["a.one"]
    assert found["two", "b"] is run.found["a.two.b"]
    assert run.difference("odds", "w", found["one"], found["two", "b"]).unit == "number"
    with pytest.raises(ValueError, match="^x: units share and number; expected two of one kind$"):
        run.difference("x", "w", accuracy["one"], found["one"])
    ranks = [run.number(id, "w", lambda value: value, [0.5, 0.75], unit="correlation") for id in ("r", "s")]
    assert run.difference("t", "w", *ranks).unit == "number"
    assert run.mean("m", "w", ranks).unit == "correlation"
    gaps = run.difference("gap", "w", accuracy, accuracy["one"])
    assert (gaps["two", "b"].values, gaps["one"].unit) == ((-0.25, -0.25), "points")


def test_what_is_used_in_several_places_counts_once() -> None:
    found = evidence({"a": images(5), "b": [images(5)]}, (network("x", ""), network("y", "")), "words", 3)
    assert found == {"n": 5, "data": "dots", "model": "x; y", "threat": "none", "attack": "none",
                     "inputs": (images(5).fingerprint,), "seconds": 0, "norms": None}
    assert evidence([images(5)] * 3, images(5))["n"] == 5
    many = evidence(tuple(network(name, "") for name in "abcdefg"))
    assert many["model"] == "a; b; c and 4 more"


@dataclass(frozen=True)
class Pair:
    first: object
    second: object


def test_whatever_holds_a_thing_rests_on_it() -> None:
    data, model, attack = images(5), network("net", "model-1"), PGD(ThreatModel("Linf", 0.5), 2)

    for holder in (data, (data,), {"a": [data]}, {data}, Pair(data, 1), functools.partial(len, data)):
        found = evidence(holder)
        assert (found["n"], found["data"], found["inputs"]) == (5, "dots", (data.fingerprint,))
    for holder in (Pair(attack, (model, model)), functools.partial(attack, model), [attack, {"m": model}]):
        found = evidence(holder)
        assert (found["attack"], found["threat"], found["model"]) == (repr(attack), "L_inf 0.5", "net")
        assert found["inputs"] == ("model-1",)
    masks = Distilled(*(torch.zeros(7, 2) for _ in range(3)), torch.zeros(7), "pool", Bottleneck())
    assert evidence(masks, images(9))["n"] == 7
    assert evidence(TensorDataset(torch.zeros(6, 2), torch.zeros(6)), masks)["n"] == 6
    assert evidence(torch.nn.Identity())["model"] == "Identity"
    assert evidence(PGD, 3, "words", None, len)["attack"] == "none"


def test_time_of_what_is_used_twice_counts_once() -> None:
    outcome = replace(evaluate(network("net", ""), ImageSet(torch.full((4, 3, 16, 16), 0.5), torch.arange(4) % 2,
                                                           ("a", "b"), "dots")), seconds=2.0)
    assert evidence(outcome, [outcome], {"a": outcome})["seconds"] == 2.0


def test_norms_are_those_of_unbounded_attacks_alone() -> None:
    base = evaluate(network("net", ""), ImageSet(torch.full((4, 3, 16, 16), 0.5), torch.arange(4) % 2, ("a", "b"), "d"))
    free = replace(base, threat="unbounded", attack="CW", correct=torch.zeros(4, dtype=torch.bool),
                   l2=torch.tensor([1.0, 2, 3, 4]), linf=torch.tensor([0.1, 0.2, 0.3, 0.4]))
    far = replace(free, l2=3 * free.l2, linf=3 * free.linf)
    results = [Result.of("a", "w", [each, replace(each, key=("another",))]) for each in (free, far)]
    assert evidence(*results)["norms"] == pytest.approx((4.0, 0.4))  # the mean of both medians
    assert evidence(free)["norms"] is None  # a number of one's own is no accuracy under attack
    assert evidence(Result.of("a", "w", [replace(free, threat="L_inf 0.5")]))["norms"] is None


def test_each_gives_every_seed_its_own(own_build: Path) -> None:
    run = start("x", notebook(seeds=2))

    def f(data: str, both: object, *, value: float, seed: int = 0, device: object = 0) -> tuple[object, ...]:
        return data, both, value, seed, device

    measured = Result.of("a", "w", [0.25, 0.75])
    assert run.each(f, ["a", "b"], (1, 2), value=measured) == [("a", (1, 2), 0.25, 0, run.device),
                                                               ("b", (1, 2), 0.75, 1, run.device)]
    assert [row[3] for row in run.each(f, ["a", "b"], (), value=1.0, first_seed=100)] == [100, 101]
    assert [row[3] for row in run.each(f, ["a", "b"], (), value=1.0, seed=[7, 9])] == [7, 9]
    assert run.each(f, "a", (), value=1.0, device="here") == [("a", (), 1.0, 0, "here"), ("a", (), 1.0, 1, "here")]
    assert run.each(f, ["a"], (), value=1.0) == [("a", (), 1.0, 0, run.device)]  # a control of one seed
    assert run.each(lambda precision: precision) == [run.precision] * 2
    assert run.each(functools.partial(f, value=1.0, seed=5), ["a", "b"], ()) == [
        ("a", (), 1.0, 5, run.device), ("b", (), 1.0, 5, run.device)]
    assert run.precision == "float32"
    assert start("x", notebook(precision="bfloat16", seeds=1)).precision == "bfloat16"
    assert start("x", notebook(precision="auto", seeds=1)).precision in {"float32", "bfloat16"}
    named = run.each(f, {"one": ["a", "b"], "two": ["c", "d"]}, 0, value={"two": 2.0, "one": 1.0}, first_seed=5)
    assert named == {"one": [("a", 0, 1.0, 5, run.device), ("b", 0, 1.0, 6, run.device)],
                     "two": [("c", 0, 2.0, 5, run.device), ("d", 0, 2.0, 6, run.device)]}
    with pytest.raises(ValueError, match="^f: inputs of 1, 2 seeds; expected"):
        run.each(f, ["a", "b"], [()], value=1.0)


def test_a_run_takes_its_seeds_from_the_first_one_on(own_build: Path) -> None:
    run = start("x", notebook(seeds=2, first_seed=3))
    assert list(run.seeds) == run.each(lambda seed: seed) == [3, 4]
    assert run.each(lambda seed: seed, first_seed=100) == [103, 104]
    assert run.stamp.startswith("profile smoke with first_seed = 3, ")
    draws = [start("x", notebook(seeds=3, first_seed=first)).each(sources.load, "planted", "test", 4)
             for first in (0, 1)]
    same = [[bool((a.x == b.x).all()) for b in draws[1]] for a in draws[0]]
    assert same == [[False] * 3, [True, False, False], [False, True, False]]


@pytest.mark.parametrize(("first", "seeds", "good"), [
    (0, 100, True), (97, 3, True), (98, 3, False), (100, 1, False), (9_999, 1, False), (10_000, 100, True),
    (20_050, 51, False), (1_000_000_000, 1, True), (1_000_000_001, 1, False), (-1, 1, False)])
def test_students_share_no_seed_with_the_teachers_of_another_run(first: int, seeds: int, good: bool) -> None:
    given = {"profile": "smoke", "first_seed": first, "seeds": seeds}
    if good:
        assert resolve(given, ALLOWED).first_seed == first
        return
    with pytest.raises(ParameterError, match=f"^first_seed = {first}[,:].* expected") as caught:
        resolve(given, ALLOWED)
    assert "\n" not in str(caught.value)


def test_accuracies_are_those_of_evaluate_in_rows_and_columns(own_build: Path) -> None:
    run = start("x", notebook(seeds=2))
    models = {"one": [network("one", "m1"), network("one", "m2")], ("two", "b"): [network("two", "m3")]}
    data = [ImageSet(torch.full((9, 3, 16, 16), 0.5), torch.arange(9) % 2, ("a", "b"), "dots")] * 2
    attacks = {"clean": None, "noise": Noise(ThreatModel("Linf", "8/255"))}
    table = run.accuracies("a", models, data, attacks)
    assert set(run.found) == {"a.one.clean", "a.one.noise", "a.two.b.clean", "a.two.b.noise"}
    assert table["one"]["noise"] is run.found["a.one.noise"]
    for seed, outcome in enumerate(run.outcomes["a.one.noise"]):
        expected = evaluate(models["one"][seed], data[seed], attacks["noise"], seed=seed)
        assert torch.equal(outcome.correct, expected.correct)
    assert table["two", "b"]["clean"].interval == "this model"  # one network: the first images
    views = run.accuracies("v", models["one"], {"all": data, "few": [each.take(4) for each in data]})
    assert (views["all"].n, views["few"].n, views["all"].what) == (9, 4, "accuracy, all")
    first = run.accuracies("r", models["one"], data, read=lambda model, x: torch.zeros(len(x), dtype=torch.long))
    assert first.values == tuple((each.y == 0).double().mean().item() for each in data)
    says = {name: lambda model, x, k=k: torch.full((len(x),), k) for k, name in enumerate(models)}
    told = run.accuracies("n", models, data, read=says)
    assert told["one"].values == first.values
    assert told["two", "b"].value == pytest.approx(1 - first.value)
    line = run.curve("c", models["one"], data, [None, Noise(ThreatModel("Linf", 0.5))])
    assert [each.id for each in line] == ["c.None", "c.Noise(L_inf 0.5)"]
    assert line[0].values == table["one"]["clean"].values
    lines = run.curve("d", models, data, [None])
    assert [line[0].id for line in lines.values()] == ["d.one.None", "d.two.b.None"]
    assert lines["one"][0].values == line[0].values
    assert run.mean("m", "w", table["one"].values()).value == pytest.approx(
        (table["one"]["clean"].value + table["one"]["noise"].value) / 2)


def test_what_training_adds_to_an_encoder_is_recorded_and_named(own_build: Path) -> None:
    run = start("x", notebook())
    trained = {kind: number(run, f"t.{kind}", values, 400)
               for kind, values in {"CL": [0.9, 0.8], "DM": [0.5, 0.52], "SL": [1.0, 1.0]}.items()}
    untrained = {kind: number(run, f"u.{kind}", values, 400) for kind, values in {"CL": [0.4, 0.3],
                                                                                 "DM": [0.5, 0.48]}.items()}
    rows = run.learned("x.learned", trained, untrained)
    assert rows["trained"] == {"CL": trained["CL"], "DM": trained["DM"]}
    assert rows["untrained"] == untrained
    gained = rows["trained minus untrained"]
    assert gained["CL"] is run.found["x.learned.CL"]
    assert gained["CL"].values == pytest.approx((0.5, 0.5))
    assert gained["DM"].values == pytest.approx((0.0, 0.04))
    assert rows["the encoder has learned"] == {"CL": "yes", "DM": "no"}


@pytest.mark.parametrize("inputs", [([1.0, 2.0], [1.0]), (3.0,), ()])
def test_a_number_needs_one_entry_per_seed(inputs: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="a.b: inputs of .* seeds; expected lists or results of one number of seeds"):
        start("x", notebook()).number("a.b", "w", lambda *given: 1.0, *inputs)


def test_cells_that_need_a_known_truth_are_skipped_on_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = TransformerManager()
    monkeypatch.setattr(runs, "get_ipython", lambda: SimpleNamespace(
        input_transformers_cleanup=manager.cleanup_transforms))
    cell, usual = f"{NEEDS_TRUTH}\nx = 1\n", list(manager.cleanup_transforms)
    for _ in range(2):  # a reader may start again
        start("04_transferability", {"profile": "smoke", "dataset": "cifar10"})
        assert manager.transform_cell(cell) == f"print({runs.SKIPPED!r})\n"
        assert manager.transform_cell("y = 2\n") == "y = 2\n"
    start("04_transferability", {"profile": "smoke", "dataset": "planted"})
    assert manager.transform_cell(cell) == cell
    assert manager.cleanup_transforms == usual


@pytest.mark.parametrize(("values", "unit", "words"), [
    ([1.0, 2.0, 3.0], "number", "a.b: 3 values; expected one for each of 2 seeds, or one in all"),
    ([5.0, 5.0], "share", "a.b: 5; expected a share from 0 to 1"),
    ([0.5, 0.5], "percent", "unit = 'percent': expected one of share, points, correlation, number"),
    ([0.5, 1.5], "correlation", "a.b: 1.5; expected a correlation from -1 to 1"),
])
def test_a_number_that_is_none_of_its_kind_is_refused(values: list[float], unit: str, words: str) -> None:
    run = start("x", notebook())
    with pytest.raises(ValueError, match=re.escape(words)):
        run.number("a.b", "w", float, values, unit=unit)
    assert not run.found
    assert run.number("a.b", "w", float, values[:1], unit="number").value == values[0]


@pytest.mark.parametrize(("source", "words"), [
    ("seeds = " + "-" * 5000 + "1", "nested too deeply"), ("seeds = 3\0", "syntax error in its parameters cell: ")])
def test_a_parameters_cell_that_python_cannot_read_is_one_line(source: str, words: str) -> None:
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    helpers.assert_one_line(lambda: parameters.set_in(nbformat.v4.new_notebook(cells=[cell]), "x"), ["x: ", words])


def test_what_profiles_cannot_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "book" / "profiles" / "smoke.yml").read_text()
    monkeypatch.setattr(parameters, "PROFILES", tmp_path)
    for name, content, words in (("a", f"{text}eps: 8/255\n", "'eps' is no parameter of a profile; expected it in SET"),
                                 ("b", re.sub("table_networks:.*", "table_networks: [small, vgg_small]", text),
                                  "table_networks = ['small', 'vgg_small']: expected names with commas"),
                                 ("a{b}", text, "expected a name of letters, digits")):
        (tmp_path / f"{name}.yml").write_text(content)
        with pytest.raises(ParameterError) as caught:
            resolve({"profile": name}, ALLOWED)
        assert words in str(caught.value)
    assert resolve({"profile": "b", "table_networks": "small", "d_r_step_size": "1e-3"}, ALLOWED).d_r_step_size == 1e-3
