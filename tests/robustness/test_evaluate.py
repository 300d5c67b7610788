"""Scores under attack: verdicts per image, promises kept, curves, worst cases, health checks."""

import copy
import functools
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from nbutils import console, store
from nbutils.features import NRF, Bottleneck
from nbutils.images import ImageSet, PlantedSet
from nbutils.lab.evidence import evidence
from nbutils.machine import build_dir
from nbutils.networks import SplitClassifier
from nbutils.robustness import (
    BIM,
    CW,
    FAB,
    FGSM,
    PGD,
    AutoAttack,
    Noise,
    Outcome,
    ThreatModel,
    accuracy_curve,
    accuracy_gap,
    attacked,
    attacked_once,
    evaluate,
    health_checks,
    mean_transfer_rate,
    predict,
    right_before,
    transfer_matrix,
    transfer_perturbation,
    transfer_rate,
    worst_case,
)
from nbutils.robustness.attacks import Attack

LINF = ThreatModel("Linf", 2 / 255)
Pair = tuple[SplitClassifier, SplitClassifier]


class Wrapped(nn.Module):
    """A network behind something that hides its gradients."""

    def __init__(self, model: SplitClassifier) -> None:
        super().__init__()
        self.model, self.name, self.key = model, "masked", ""


class Quantised(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(torch.round(x * 32) / 32)  # the gradient of rounding is zero


class Saturated(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.model(x)  # the softmax is exactly 0 and 1, and so its gradient is zero


@dataclass(frozen=True)
class Returns:
    """An "attack" that adds a constant, whatever it has promised."""

    threat: ThreatModel | None
    change: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x + self.change


# --- evaluate -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("batch_size", [7, 100, 256])
def test_clean_verdicts_are_those_of_the_model(batch_size: int, network_pair: Pair, planted_test: PlantedSet) -> None:
    model = network_pair[0]
    outcome = evaluate(model, planted_test, batch_size=batch_size)
    with torch.no_grad():
        prediction = model(planted_test.x).argmax(1)
    assert torch.equal(outcome.prediction, prediction)
    assert torch.equal(outcome.correct, prediction == planted_test.y)
    assert outcome.accuracy == pytest.approx((prediction == planted_test.y).sum().item() / 100, abs=1e-12)
    assert len(outcome) == 100
    assert outcome.l2.count_nonzero() == outcome.linf.count_nonzero() == 0
    assert (outcome.attack, outcome.threat, outcome.model, outcome.data) == ("none", "none", "small", "planted")
    assert planted_test.fingerprint in outcome.inputs


def test_attacked_verdicts_and_norms_are_those_of_the_attacked_images(network_pair: Pair,
                                                                      planted_test: PlantedSet) -> None:
    model, attack = network_pair[0], PGD(LINF, 3)
    outcome = evaluate(model, planted_test, attack, seed=5)
    early = replace(attack, early_exit=True)
    found = early(model, planted_test.x, planted_test.y, torch.Generator().manual_seed(5)).detach()
    with torch.no_grad():
        prediction = model(found).argmax(1)
    delta = (found - planted_test.x).flatten(1)
    assert torch.equal(outcome.prediction, prediction)
    assert torch.equal(outcome.correct, prediction == planted_test.y)
    torch.testing.assert_close(outcome.linf, delta.abs().amax(1), rtol=0, atol=0)
    torch.testing.assert_close(outcome.l2, (delta**2).sum(1).sqrt(), rtol=1e-5, atol=0)
    assert not outcome.l2.requires_grad
    assert (outcome.attack, outcome.threat) == (repr(attack), "L_inf 2/255")


def test_an_answer_may_be_read_off_otherwise(network_pair: Pair, planted_test: PlantedSet, own_build: Path) -> None:
    model, attack, calls = network_pair[0], PGD(LINF, 2), []

    def last(model: SplitClassifier, x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return torch.full((len(x),), 9)

    found = evaluate(model, planted_test, attack, read=last, seed=3)
    assert torch.equal(found.correct, planted_test.y == 9)
    assert torch.equal(calls[0], attacked(model, planted_test, attack, seed=3).x)  # no early exit: the whole attack
    again = evaluate(model, planted_test, attack, read=lambda model, x: calls.append(x) or last(model, x), seed=3)
    assert torch.equal(calls[1], calls[0])
    assert (again.attack, again.threat, again.inputs) == (repr(attack), str(LINF), found.inputs)
    once, each_time = (f(model, planted_test, attack, seed=3) for f in (attacked_once, attacked))
    assert (once.name, once.fingerprint) == (each_time.name, each_time.fingerprint)
    assert attacked_once(model, planted_test, None) is planted_test
    assert len(list((own_build / "store" / "attacked").glob("attacked-*/record.json"))) == 1
    evaluate(model, planted_test, attack, source=network_pair[1], read=last, seed=3)
    assert torch.equal(calls[-1], attacked(network_pair[1], planted_test, attack, seed=3).x)


def test_model_is_scored_in_evaluation_mode_and_left_as_it_was(network_pair: Pair, planted_test: PlantedSet) -> None:
    model = network_pair[0]
    expected = evaluate(model, planted_test).prediction
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    try:
        found = evaluate(model, planted_test).prediction
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    assert torch.equal(found, expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_seed_decides_the_outcome_and_the_global_generator_is_left(network_pair: Pair,
                                                                   planted_test: PlantedSet) -> None:
    before = torch.get_rng_state()
    first, again, other = (evaluate(network_pair[0], planted_test, PGD(LINF, 1), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.l2, again.l2)
    assert not torch.equal(first.l2, other.l2)


def test_transfer_attacks_the_source_and_scores_the_model(network_pair: Pair, planted_test: PlantedSet) -> None:
    model, source = network_pair
    attack = PGD(ThreatModel("Linf", 8 / 255), 3)
    outcome = evaluate(model, planted_test, attack, source=source, seed=2)
    found = attack(source, planted_test.x, planted_test.y, torch.Generator().manual_seed(2)).detach()
    with torch.no_grad():
        assert torch.equal(outcome.prediction, model(found).argmax(1))
    assert outcome.model == model.name
    assert outcome.attack != repr(attack)  # a table must not show it as a white-box attack
    assert outcome.accuracy > evaluate(model, planted_test, attack, seed=2).accuracy  # weaker than with own gradients


@pytest.mark.parametrize(("attack", "message"), [
    (Returns(ThreatModel("Linf", 0.01), 0.02), "moved an image by 0.02: expected at most 0.01"),
    (Returns(ThreatModel("L2", 0.1), 0.01), "moved an image by 0.55.*: expected at most 0.1"),
    (Returns(ThreatModel("Linf", 1), 0.9), r"returned pixels from .* expected \[0, 1\]"),
    (Returns(None, -0.9), r"returned pixels from .* expected \[0, 1\]"),
    (Returns(None, float("nan")), r"returned pixels from nan to nan: expected \[0, 1\]"),
], ids=str)
def test_an_attack_that_breaks_its_promise_is_refused(attack: Returns, message: str, network_pair: Pair) -> None:
    grey = ImageSet(torch.full((2, 3, 32, 32), 0.5), torch.zeros(2, dtype=torch.int64), ("a", "b"), "grey")
    with pytest.raises(ValueError, match=message):
        evaluate(network_pair[0], grey, attack)


class Writes:
    """An attack, or a reader of answers, that works in place on all that it is given."""

    threat = ThreatModel("Linf", 0.01)

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor | None = None,
                 generator: torch.Generator | None = None) -> torch.Tensor:
        x.add_(0.5).clamp_(0, 1)
        return x if y is None else x + 0 * y.zero_()[:, None, None, None]


def test_an_attack_and_a_reader_that_work_in_place_leave_the_images(network_pair: Pair,
                                                                    planted_test: PlantedSet) -> None:
    images = planted_test.take(8)
    x, y = images.x.clone(), images.y.clone()
    with pytest.raises(ValueError, match="moved an image by 0.5: expected at most 0.01"):
        evaluate(network_pair[0], images, Writes())
    evaluate(network_pair[0], images, read=lambda model, x: Writes()(model, x).flatten(1).argmax(1) % 10)
    assert torch.equal(images.x, x)
    assert torch.equal(images.y, y)


def test_outcomes_of_trained_networks_know_their_keys(network_pair: Pair, planted_test: PlantedSet) -> None:
    model, source = map(copy.deepcopy, network_pair)
    model.key, source.key = "model-a", "model-b"
    clean, white = (evaluate(model, planted_test, attack) for attack in (None, PGD(LINF, 1)))
    across = evaluate(model, planted_test, PGD(LINF, 1), source=source)
    assert clean.key == white.key == across.key == (model.key,) != (source.key,)
    assert clean.fingerprint == across.fingerprint == (planted_test.fingerprint,)
    assert worst_case([white, across]).key == clean.key
    right_before(clean, across)
    changed = replace(planted_test, x=planted_test.x.flip(3))
    right_before(clean, evaluate(model, changed))  # without an attack of ours, images may have been changed before
    twin = copy.deepcopy(source)
    twin.name = model.name
    for other, words in ((evaluate(twin, planted_test, PGD(LINF, 1)), "one key"),
                         (evaluate(model, changed, PGD(LINF, 1)), "one fingerprint")):
        with pytest.raises(ValueError, match=words):
            right_before(clean, other)
        with pytest.raises(ValueError, match=words):
            worst_case([white, other])


def test_an_attack_without_radius_is_unbounded(network_pair: Pair, planted_test: PlantedSet) -> None:
    outcome = evaluate(network_pair[0], planted_test.view("pattern_only"), Returns(None, 0.001))
    assert outcome.threat == "unbounded"
    torch.testing.assert_close(outcome.linf, torch.full((100,), 0.001), rtol=0, atol=1e-6)


def test_attacked_images_keep_their_labels_and_truth(network_pair: Pair, planted_test: PlantedSet) -> None:
    attack = PGD(LINF, 2)
    found = attacked(network_pair[0], planted_test, attack, seed=4, batch_size=32)
    assert isinstance(found, PlantedSet)
    assert torch.equal(found.y, planted_test.y)
    assert torch.equal(found.pattern, planted_test.pattern)
    assert repr(attack) in found.name
    distance = (found.x - planted_test.x).abs().amax((1, 2, 3))
    assert (distance <= LINF.eps + 1e-6).all()
    assert (distance > 0).all()
    score = evaluate(network_pair[0], planted_test, attack, seed=4, batch_size=32)
    assert torch.equal(predict(network_pair[0], found.x, batch_size=9) == found.y, score.correct)


def test_every_batch_has_random_starts_of_its_own(network_pair: Pair, planted_test: PlantedSet) -> None:
    twice = planted_test.take(torch.arange(4) % 2)
    found = attacked(network_pair[0], twice, Noise(LINF), seed=4, batch_size=2).x
    assert not torch.equal(found[:2], found[2:])


# --- what is shown while an attack runs ---------------------------------------------------------------------------

@pytest.fixture
def shown_at_once(monkeypatch: pytest.MonkeyPatch) -> list[tqdm]:
    """Counters appear without the delay of two seconds; the list holds those that were made."""
    made: list[tqdm] = []

    @functools.wraps(tqdm)
    def at_once(**options: object) -> tqdm:
        made.append(tqdm(**{**options, "delay": 0, "mininterval": 0}))
        return made[-1]

    monkeypatch.setattr(console, "tqdm", at_once)
    return made


def hooks(model: nn.Module) -> int:
    return len(model._forward_pre_hooks) + len(model._forward_hooks)


def test_short_work_shows_nothing(network_pair: Pair, planted_test: PlantedSet,
                                  capfd: pytest.CaptureFixture[str]) -> None:
    attacked(network_pair[0], planted_test, PGD(LINF, 2))
    assert capfd.readouterr() == ("", "")
    assert hooks(network_pair[0]) == 0


@pytest.mark.parametrize("attack", [PGD(LINF, 3), PGD(LINF, 3, early_exit=True), CW(0.1, 3, searches=2),
                                    FAB("Linf", None, 3), AutoAttack(LINF, "apgd-ce", 3)], ids=repr)
def test_the_counter_counts_every_image_that_passes(attack: PGD | CW | FAB | AutoAttack, network_pair: Pair,
                                                    planted_test: PlantedSet, shown_at_once: list[tqdm]) -> None:
    model, images = network_pair[0], planted_test.take(10)
    passed: list[int] = []
    hook = model.stages[0].register_forward_pre_hook(lambda module, inputs: passed.append(len(inputs[0])))
    try:
        attacked(model, images, attack, batch_size=4)
    finally:
        hook.remove()
    assert len(shown_at_once) == 1
    assert shown_at_once[0].n == sum(passed) > 10
    assert hooks(model) == 0
    if attack == PGD(LINF, 3):
        assert sum(passed) == 4 * 10
    if isinstance(attack, CW):
        assert sum(passed) == (1 + 2 * 3) * 10


def test_what_is_shown_does_not_change_the_images(network_pair: Pair, planted_test: PlantedSet,
                                                  request: pytest.FixtureRequest,
                                                  capfd: pytest.CaptureFixture[str]) -> None:
    hidden = attacked(network_pair[0], planted_test, PGD(LINF, 2))
    request.getfixturevalue("shown_at_once")
    shown = attacked(network_pair[0], planted_test, PGD(LINF, 2))
    assert torch.equal(shown.x, hidden.x)
    assert f"{PGD(LINF, 2)!r} on 100 images: 300pass" in capfd.readouterr().err


def test_the_counter_is_removed_when_the_attack_fails(network_pair: Pair, planted_test: PlantedSet) -> None:
    def fails(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        assert hooks(network_pair[0]) == 1
        raise RuntimeError("out of luck")

    fails.threat = None  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="out of luck"):
        attacked(network_pair[0], planted_test, fails)  # type: ignore[arg-type]
    assert hooks(network_pair[0]) == 0
    with pytest.raises(ValueError, match="returned pixels"):
        attacked(network_pair[0], planted_test, Returns(None, 1.0))
    assert hooks(network_pair[0]) == 0


# --- transfer matrices --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", [PGD(ThreatModel("Linf", 3 / 255), 3), PGD(LINF, 3, keep_best=False), CW(0.1, 10)],
                         ids=repr)
def test_a_transfer_matrix_holds_what_evaluations_one_by_one_would_find(attack: PGD | CW, network_pair: Pair,
                                                                        planted_test: PlantedSet) -> None:
    matrix = transfer_matrix(network_pair, planted_test, attack, seed=4)
    assert [len(row) for row in matrix] == [2, 2]
    for i, source in enumerate(network_pair):
        found = attacked(source, planted_test, attack, seed=4).x
        for j, model in enumerate(network_pair):
            outcome = matrix[i][j]
            assert torch.equal(outcome.prediction, predict(model, found))
            assert torch.equal(outcome.correct, predict(model, found) == planted_test.y)
            assert outcome.attack == (repr(attack) if i == j else f"transferred {attack!r}")
            alone = evaluate(model, planted_test, attack, source=None if i == j else source, seed=4)
            assert torch.equal(outcome.correct, alone.correct)
            for what in ("attack", "threat", "model", "inputs"):
                assert getattr(outcome, what) == getattr(alone, what)
            if i != j:
                assert torch.equal(outcome.prediction, alone.prediction)
                assert torch.equal(outcome.l2, alone.l2)
                assert outcome.accuracy > matrix[j][j].accuracy  # weaker than against the model itself
        assert torch.equal(matrix[i][0].l2, matrix[i][1].l2)  # one row, one set of images
    assert not torch.equal(matrix[0][0].l2, matrix[1][0].l2)


def test_a_transferred_attack_rests_on_its_source(planted_test: PlantedSet, network_pair: Pair) -> None:
    """One target and several sources, the last one a network that holds two: other images, other inputs."""
    target, first, second = (copy.deepcopy(network_pair[index]) for index in (0, 1, 1))
    target.key, first.key, second.key = "model-1", "model-2", "model-3"
    images, attack = planted_test.take(4), PGD(LINF, 1)
    sources = (None, first, second, torch.nn.ModuleDict({"a": first, "b": second}))
    behind: list[tuple[str, ...]] = [(), ("model-2",), ("model-3",), ("model-2", "model-3")]
    sources[-1].forward = second.forward  # type: ignore[union-attr]
    for source, keys in zip(sources, behind, strict=True):
        assert evaluate(target, images, attack, source=source).inputs == ("model-1", *keys, images.fingerprint)
    ((outcome,),) = transfer_matrix([first], images, attack, targets=[target])
    assert outcome.inputs == ("model-1", "model-2", images.fingerprint)
    assert evaluate(target, images).inputs == ("model-1", images.fingerprint)


def test_a_transfer_matrix_attacks_each_model_once(network_pair: Pair, planted_test: PlantedSet) -> None:
    calls: list[nn.Module] = []

    @dataclass(frozen=True)
    class Counted(Returns):
        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
            calls.append(model)
            return x

    transfer_matrix([*network_pair, network_pair[0]], planted_test, Counted(None, 0.0))
    assert len(calls) == 3
    assert [call is model for call, model in zip(calls, [*network_pair, network_pair[0]], strict=True)] == [True] * 3


def test_a_transfer_matrix_can_score_other_models_than_it_attacks(network_pair: Pair, planted_test: PlantedSet) -> None:
    attack = PGD(LINF, 2)
    (row,) = transfer_matrix(network_pair[:1], planted_test, attack, targets=network_pair)
    whole = transfer_matrix(network_pair, planted_test, attack)
    for outcome, expected in zip(row, whole[0], strict=True):
        assert torch.equal(outcome.correct, expected.correct)
        assert outcome.attack == expected.attack


def test_a_transfer_rate_counts_only_images_that_were_right() -> None:
    clean = Outcome(torch.tensor([1, 1, 1, 1, 0]).bool(), *[torch.zeros(5)] * 3, "none", "none", "net", "planted")
    under = replace(clean, correct=torch.tensor([0, 1, 1, 0, 0]).bool(), attack="PGD")
    assert transfer_rate(clean, under) == 0.5
    assert transfer_rate(replace(clean, correct=torch.zeros(5).bool()), under) == 0
    right = right_before(clean, under)
    assert [len(outcome) for outcome in right] == [len(outcome.l2) for outcome in right] == [4, 4]
    assert [outcome.accuracy for outcome in right] == [1, 0.5]
    assert transfer_rate(*right) == 0.5
    assert evidence(right)["n"] == 4  # what a record says that the rate is a share of


def test_a_transfer_matrix_of_one_model_and_of_none(network_pair: Pair, planted_test: PlantedSet) -> None:
    (row,) = transfer_matrix(network_pair[:1], planted_test, PGD(LINF, 1))
    assert len(row) == 1
    assert transfer_matrix([], planted_test, PGD(LINF, 1)) == []


# --- curves and worst cases ---------------------------------------------------------------------------------------

class Window(nn.Module):
    """Says 1 while the mean pixel is above .55 and below .65, else 0: a defence that a larger push overshoots."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))
        self.name, self.key = "window", ""

    def forward(self, x: Tensor) -> Tensor:
        distance = (x.mean((1, 2, 3)) - 0.6).abs()
        return -torch.stack([0.05 + self.zero.expand_as(distance), distance], 1)


def test_an_image_stays_broken_from_the_first_radius_that_broke_it() -> None:
    images = ImageSet(torch.tensor([0.5, 0.42, 0.1]).view(3, 1, 1, 1).expand(3, 3, 4, 4).clone(),
                      torch.zeros(3, dtype=torch.int64), ("outside", "inside"), "grey")
    attacks = [Returns(ThreatModel("Linf", eps), eps) for eps in (0.0, 0.1, 0.2, 0.3)]
    alone = [evaluate(Window(), images, attack).correct.tolist() for attack in attacks]  # type: ignore[arg-type]
    curve = accuracy_curve(Window(), images, attacks)  # type: ignore[arg-type]
    assert alone == [[True, True, True], [False, True, True], [True, False, True], [True, True, True]]
    assert [outcome.correct.tolist() for outcome in curve] == [
        [True, True, True], [False, True, True], [False, False, True], [False, False, True]]
    assert [outcome.attack for outcome in curve] == [repr(attack) for attack in attacks]


def test_a_last_iterate_is_scored_as_what_it_is() -> None:
    """From .5 the first step of .08 falls into the window and the second leaves it: the label promises the second."""
    images = ImageSet(torch.full((1, 3, 4, 4), 0.5), torch.tensor([0]), ("outside", "inside"), "grey")
    for steps, right in ((1, False), (2, True)):
        attack = BIM(ThreatModel("Linf", 0.2), steps, 0.08)
        with torch.no_grad():
            assert bool(Window()(attack(Window(), images.x, images.y)).argmax(1) == 0) == right
        assert bool(evaluate(Window(), images, attack).correct) == right  # type: ignore[arg-type]


def test_a_curve_over_growing_radii_never_rises(network_pair: Pair, planted_test: PlantedSet) -> None:
    attacks = [PGD(ThreatModel("Linf", k / 255), 1) for k in (0, 0.5, 1, 2, 4, 16, 64, 128)]
    curve = accuracy_curve(network_pair[0], planted_test, attacks)
    for smaller, larger in pairwise(curve):
        assert (larger.correct <= smaller.correct).all()
    assert curve[0].accuracy > curve[4].accuracy


def test_a_curve_joins_only_nested_threat_models(network_pair: Pair, planted_test: PlantedSet) -> None:
    attacks = [FGSM(ThreatModel("Linf", 8 / 255)), FGSM(ThreatModel("Linf", 1 / 255)), FGSM(ThreatModel("L2", 0.05))]
    curve = accuracy_curve(network_pair[0], planted_test, attacks)
    for outcome, attack in zip(curve, attacks, strict=True):
        assert torch.equal(outcome.correct, evaluate(network_pair[0], planted_test, attack).correct)


def test_what_an_unbounded_attack_broke_says_nothing_of_a_radius(network_pair: Pair, planted_test: PlantedSet) -> None:
    """CW has no radius; PGD after it, with a small one, breaks what it breaks alone."""
    model, images, weak = network_pair[0], planted_test.take(20), PGD(ThreatModel("Linf", 0.1 / 255), 1)
    broken, after = accuracy_curve(model, images, [CW(steps=20), weak])
    alone = evaluate(model, images, weak)
    assert torch.equal(after.correct, alone.correct)
    assert broken.accuracy < alone.accuracy


def outcome(correct: list[bool], prediction: list[int], attack: str, size: float) -> Outcome:
    norms = torch.full((len(correct),), size)
    return Outcome(torch.tensor(correct), torch.tensor(prediction), norms, 2 * norms, attack, "L_inf 8/255", "m", "d")


def test_worst_case_is_per_image() -> None:
    """Each attack alone leaves half of the images; together they leave a quarter."""
    a = replace(outcome([True, True, False, False], [0, 1, 7, 7], "A", 0.1), inputs=("model-a", "f"), seconds=1.0)
    b = replace(outcome([True, False, True, False], [0, 8, 2, 8], "B", 0.2), inputs=("model-a", "model-b", "f"),
                seconds=2.0)
    worst = worst_case([a, b])
    assert worst.correct.tolist() == [True, False, False, False]
    assert worst.accuracy == 0.25 < min(a.accuracy, b.accuracy) == 0.5
    assert worst.prediction.tolist() == [0, 8, 7, 7]
    torch.testing.assert_close(worst.l2, torch.tensor([0.2, 0.2, 0.1, 0.1]))
    torch.testing.assert_close(worst.linf, torch.tensor([0.4, 0.4, 0.2, 0.2]))
    assert (worst.attack, worst.inputs, worst.seconds) == ("A + B", ("model-a", "f", "model-b"), 3.0)
    assert worst_case([a]).correct.tolist() == a.correct.tolist()


@pytest.mark.parametrize("change", [{"model": "other"}, {"data": "other"}, {"threat": "L2 0.5"}])
def test_worst_case_needs_outcomes_that_belong_together(change: dict[str, str]) -> None:
    a = outcome([True], [0], "A", 0.1)
    with pytest.raises(ValueError, match=f"expected outcomes of one {next(iter(change))}"):
        worst_case([a, replace(a, **change)])  # type: ignore[arg-type]


# --- health checks ------------------------------------------------------------------------------------------------

def checks(model: nn.Module, images: PlantedSet, other: SplitClassifier) -> dict[str, bool]:
    judging = PGD(LINF, 12, LINF.eps / 4)
    found = health_checks(model, images, judging, transfer_from=other)  # type: ignore[arg-type]
    return {check.question: check.passed for check in found}


def test_health_checks_pass_a_sound_evaluation(network_pair: Pair, planted_test: PlantedSet) -> None:
    found = checks(network_pair[0], planted_test, network_pair[1])
    assert len(found) == 5
    assert all(found.values()), found


@pytest.mark.parametrize("mask", [Quantised, Saturated])
def test_health_checks_catch_masked_gradients(mask: type[Wrapped], network_pair: Pair,
                                              planted_test: PlantedSet) -> None:
    masked = mask(network_pair[0])
    assert evaluate(masked, planted_test).accuracy > 0.9  # type: ignore[arg-type]  # it looks like a good network
    found = checks(masked, planted_test, network_pair[1])
    assert not all(found.values()), found


def test_health_checks_say_what_they_saw(network_pair: Pair, planted_test: PlantedSet) -> None:
    judging = PGD(LINF, 8, LINF.eps / 4)
    found = health_checks(network_pair[0], planted_test, judging, transfer_from=network_pair[1])
    first = evaluate(network_pair[0], planted_test, replace(judging, steps=1)).accuracy
    assert found[0].seen.startswith(f"1: {100 * first:.1f} %, 2: ")
    assert "8: " in found[0].seen
    assert found[1].seen == "0.0 %"


def test_health_checks_find_out_a_weakened_attack(network_pair: Pair, planted_test: PlantedSet) -> None:
    """A robust-looking number made by one timid step does not survive the comparison with a harder search."""
    timid = PGD(LINF, 1, LINF.eps / 8)
    assert evaluate(network_pair[0], planted_test, timid).accuracy > 0.5
    found = health_checks(network_pair[0], planted_test, timid, transfer_from=network_pair[1])
    assert not found[-1].passed
    assert "harder search" in found[-1].question


@pytest.mark.parametrize(("broken", "passes"), [(4, True), (10, False)])
def test_a_harder_search_may_find_five_points_more(broken: int, passes: bool, network_pair: Pair,
                                                   planted_test: PlantedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 images the harder search breaks so many more than the judging attack, which breaks none."""
    zeros = torch.zeros(100)
    judged = Outcome(zeros == 0, zeros.long(), zeros, zeros, "A", "L_inf 2/255", "m", "d")

    def scored(model: nn.Module, images: ImageSet, attack: PGD, **options: object) -> Outcome:
        return replace(judged, correct=torch.arange(100) >= broken) if attack.loss == "margin" else judged

    monkeypatch.setitem(health_checks.__globals__, "evaluate", scored)
    found = health_checks(network_pair[0], planted_test, PGD(LINF, 4), transfer_from=network_pair[1])
    assert found[-1].passed == passes


def test_health_checks_do_what_their_questions_say(network_pair: Pair, planted_test: PlantedSet,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def scored(model: nn.Module, images: ImageSet, attack: PGD, **options: object) -> Outcome:
        made.append(repr(attack))
        return evaluate(model, images, None)  # type: ignore[arg-type]

    monkeypatch.setitem(health_checks.__globals__, "evaluate", scored)
    found = health_checks(network_pair[0], planted_test, PGD(LINF, 4), transfer_from=network_pair[1])
    assert "(0.5; 20 steps of 0.1)" in found[1].question
    assert "PGD(L_inf 0.5, 20 steps of 0.1, 1 restart)" in made
    assert "(40 steps of eps / 4, margin)" in found[-1].question
    assert f"PGD({LINF}, 40 steps of 0.5/255, 1 restart, margin)" in made


@pytest.mark.parametrize("recovers", [False, True])
def test_more_steps_that_help_one_image_are_seen(recovers: bool, network_pair: Pair, planted_test: PlantedSet,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """One step breaks image 0, more break images 1 to 3: fewer are right, though image 0 may be right again."""
    zeros = torch.zeros(100)

    def scored(model: nn.Module, images: ImageSet, attack: PGD, **options: object) -> Outcome:
        index = torch.arange(100)
        correct = index > 0 if attack.steps == 1 else (index > 3) | ((index == 0) & recovers)
        return Outcome(correct, zeros.long(), zeros, zeros, "A", "L_inf 2/255", "m", "d")

    monkeypatch.setitem(health_checks.__globals__, "evaluate", scored)
    found = health_checks(network_pair[0], planted_test, PGD(LINF, 4), transfer_from=network_pair[1])
    assert found[0].passed != recovers


def test_a_model_that_works_in_place_gets_copies(planted_test: PlantedSet) -> None:
    class InPlace(nn.Module):
        name = key = "in place"

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x.sub_(0.5).div_(0.25).mean((2, 3)))

    model, images = InPlace(), planted_test.take(8)
    before = images.x.clone()
    for attack in (None, PGD(LINF, 2), CW(steps=2), FAB("Linf", LINF.eps, 2)):
        first, second = (evaluate(model, images, attack) for _ in range(2))  # type: ignore[arg-type]
        assert torch.equal(images.x, before)
        assert torch.equal(first.prediction, second.prediction)


def test_labels_of_32_bits_and_inference_mode(planted_test: PlantedSet, network_pair: Pair) -> None:
    x, y, attack = planted_test.x[:4], planted_test.y[:4], PGD(LINF, 2, random_start=False)
    assert torch.equal(attack(network_pair[0], x, y.int()), attack(network_pair[0], x, y))
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode is on.*did you mean torch.no_grad"):
        attack(network_pair[0], x, y)


def test_a_bar_that_shows_itself_does_not_disturb_the_attack(
        planted_test: PlantedSet, network_pair: tuple[SplitClassifier, SplitClassifier],
        monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar answers True when it has redrawn itself, and a forward hook that answers replaces the model's input."""
    attack = PGD(ThreatModel("Linf", 2 / 255), 2, random_start=False)
    quiet = attacked(network_pair[0], planted_test.take(8), attack).x
    monkeypatch.setattr(console.tqdm, "update", lambda bar, n=1: True)
    assert torch.equal(attacked(network_pair[0], planted_test.take(8), attack).x, quiet)


# --- perturbations of other images ---------------------------------------------------------------------------------

def test_perturbations_are_added_to_other_images_and_clipped(network_pair: Pair, planted_test: PlantedSet) -> None:
    (model, source), images, clean = network_pair, planted_test.take(20), planted_test.take(slice(20, 40))
    changed = attacked(source, clean, PGD(ThreatModel("Linf", 8 / 255), 3))
    before, under = transfer_perturbation(model, images, clean, changed)
    right = predict(model, images.x) == images.y
    expected = (images.x + (changed.x - clean.x)).clamp(0, 1)[right]
    assert before.correct.all()
    assert torch.equal(under.prediction, predict(model, expected))
    rate = 1 - under.accuracy
    assert transfer_rate(before, under) == pytest.approx(rate, rel=1e-12)
    assert rate > 0
    assert mean_transfer_rate([(before, under), (before, before)]) == pytest.approx(rate / 2, rel=1e-12)


def test_a_gap_is_taken_on_the_images_that_all_have_seen() -> None:
    few, many = (outcome(correct, len(correct) * [0], "A", 0.1)
                 for correct in ([True, False], [True, True, False, False, False]))
    assert accuracy_gap([many, many], [few]) == 0.5
    assert accuracy_gap([few], [many, few]) == -0.25


# --- what is kept -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", [AutoAttack(LINF, "apgd-ce", 3), FAB("Linf", LINF.eps, 2), CW(steps=2),
                                    NRF(steps=2, at="block4.bn", bottleneck=Bottleneck(iterations=2))], ids=repr)
def test_what_a_costly_attack_finds_is_kept_and_read_again(attack: Attack, network_pair: Pair,
                                                          planted_test: PlantedSet,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = network_pair[0], planted_test.take(8)
    first = evaluate(model, images, attack, seed=1)
    monkeypatch.setattr(type(attack), "__call__", lambda *inputs: pytest.fail("it attacks again"))
    again = evaluate(model, images, attack, seed=1)
    for name in ("correct", "prediction", "l2", "linf"):
        assert torch.equal(getattr(again, name), getattr(first, name))
    assert (again.attack, again.threat, again.inputs) == (first.attack, first.threat, first.inputs)
    assert again.seconds == first.seconds > 0


@pytest.mark.parametrize("change", ["attack", "seed", "images", "weights", "source", "batch_size"])
def test_another_attack_seed_image_or_weight_is_another_outcome(change: str, network_pair: Pair,
                                                              planted_test: PlantedSet) -> None:
    model, images, attack = copy.deepcopy(network_pair[0]), planted_test.take(8), CW(steps=2)
    evaluate(model, images, attack)
    kept = build_dir() / "store" / "outcome"
    before = {path.name for path in kept.iterdir() if path.is_dir()}
    if change == "weights":
        with torch.no_grad():
            next(model.parameters()).add_(0.01)
    evaluate(model, images.take(7) if change == "images" else images, CW(steps=3) if change == "attack" else attack,
             source=network_pair[1] if change == "source" else None, seed=int(change == "seed"),
             batch_size=8 if change == "batch_size" else 256)
    assert len({path.name for path in kept.iterdir() if path.is_dir()} - before) == 1


class Clipped(nn.Module):
    """A stage with a setting that neither its printed form nor its weights show."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=self.limit)


def clipped(model: SplitClassifier, limit: float) -> SplitClassifier:
    stages = copy.deepcopy(dict(zip(model.cuts, model.stages, strict=True)))
    return SplitClassifier({"clip": Clipped(limit), **stages}, "clipped")


def test_settings_code_and_hooks_tell_networks_of_equal_weights_apart(network_pair: Pair) -> None:
    model = network_pair[0]
    assert store.fingerprint(clipped(model, 0.5)) == store.fingerprint(clipped(model, 0.5))
    assert store.fingerprint(clipped(model, 0.5)) != store.fingerprint(clipped(model, 0.25))
    plain, hooked, other = (clipped(model, 0.5) for _ in range(3))
    hooked.stages[0].register_forward_hook(lambda part, inputs, output: -output)
    other.stages[0].__class__ = type("Clipped", (Clipped,), {"__module__": "nbutils.messages"})  # other code
    assert len({store.fingerprint(copy_) for copy_ in (plain, hooked, other)}) == 3
    plain.train()
    assert store.fingerprint(plain) == store.fingerprint(clipped(model, 0.5))  # a mode is no other network


def test_what_is_cheap_is_not_kept(network_pair: Pair, planted_test: PlantedSet,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "load_or_build", lambda *inputs: pytest.fail("it is kept"))
    evaluate(network_pair[0], planted_test.take(8), PGD(LINF, 2))


def test_a_network_of_the_notebook_is_known_by_its_code(network_pair: Pair, planted_test: PlantedSet,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    kept = store.load_or_build

    def noted(*inputs: Any) -> store.Artifact:
        artifact = kept(*inputs)
        keys.append(artifact.key)
        return artifact

    monkeypatch.setattr(store, "load_or_build", noted)
    stages = dict(zip(network_pair[0].cuts, network_pair[0].stages, strict=True))
    for body in ("x", "x", "1 - x"):
        space: dict[str, Any] = {"__name__": "__main__", "nn": torch.nn}
        exec(f"class Own(nn.Module):\n    def forward(self, x):\n        return {body}", space)
        evaluate(SplitClassifier({"own": space["Own"](), **stages}, "own"), planted_test.take(4), CW(steps=2))
    assert keys[0] == keys[1] != keys[2]


@dataclass(frozen=True)
class Gives:
    """An "attack" that gives what a function makes of the images."""

    make: Any
    threat: ThreatModel | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.make(x)


def test_an_attack_that_works_in_place_leaves_the_set_as_it_was(network_pair: Pair,
                                                               planted_test: PlantedSet) -> None:
    images = planted_test.take(20)
    before = images.x.clone()
    moved = evaluate(network_pair[0], images, Gives(lambda x: x.mul_(0.5)))
    assert torch.equal(images.x, before)
    assert torch.allclose(moved.linf, before.flatten(1).amax(1) / 2)
    with pytest.raises(ValueError, match="moved an image by 0.49"):
        evaluate(network_pair[0], images, Gives(lambda x: x.mul_(0.5), LINF))
