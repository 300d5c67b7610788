"""The training loop against a loop written out by hand, its schedule, and models that are trained once."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nbutils import networks, training
from nbutils.images import ImageSet, PlantedWorld, load
from nbutils.robustness import PGD, ThreatModel
from nbutils.training import (
    DEFENCES,
    MART,
    TRADES,
    Adversarial,
    Schedule,
    Standard,
    fast_adversarial,
    fit,
    mart,
    pgd_adversarial,
    robust_teacher,
    trades,
    trained,
)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("digits", "train", 80)


# --- objectives ---------------------------------------------------------------------------------------------------

def test_standard_objective_is_the_mean_cross_entropy(digits: ImageSet, generator: torch.Generator) -> None:
    model = networks.build("small", 10).eval()
    x, y = digits.x[:20], digits.y[:20]
    with torch.no_grad():
        probabilities = model(x).double().softmax(1)
        expected = -probabilities[torch.arange(20), y].log().mean().item()
    assert Standard()(model, x, y, generator).item() == pytest.approx(expected, rel=1e-6)


@dataclass(frozen=True)
class Shift:
    """An attack that can be told afterwards: it adds .125."""

    threat: ThreatModel | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x + 0.125


def test_adversarial_objective_learns_from_the_attacked_images_in_training_mode(digits: ImageSet,
                                                                                generator: torch.Generator) -> None:
    model = networks.build("small", 10).train()
    seen: list[tuple[Tensor, bool]] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0], module.training)))
    x, y = digits.x[:20] / 2, digits.y[:20]
    loss = Adversarial(Shift())(model, x, y, generator)  # type: ignore[arg-type]
    assert len(seen) == 1
    assert torch.equal(seen[0][0], x + 0.125)
    assert seen[0][1]
    torch.testing.assert_close(loss, F.cross_entropy(networks.build("small", 10).train()(x + 0.125), y))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_adversarial_objective_attacks_in_evaluation_mode_and_raises_the_loss(digits: ImageSet,
                                                                              generator: torch.Generator) -> None:
    model = networks.build("small", 10).train()
    modes: list[bool] = []
    model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    x, y = digits.x[:40], digits.y[:40]
    clean = F.cross_entropy(model(x), y).item()
    attacked = pgd_adversarial(ThreatModel("Linf", 0.1), 3)(model, x, y, generator).item()
    assert modes == [True, False, False, False, True]
    assert attacked > clean


def test_named_adversarial_objectives() -> None:
    threat = ThreatModel("Linf", 8 / 255)
    assert repr(fast_adversarial(threat).attack) == "FGSM(L_inf 8/255, 1 step of 10/255, 1 restart)"
    assert pgd_adversarial(threat, 1) == fast_adversarial(threat)
    assert repr(pgd_adversarial(threat, 5).attack) == "PGD(L_inf 8/255, 5 steps of 4/255, 1 restart, last iterate)"


def test_the_ball_of_the_robust_teacher_holds_a_planted_image_with_another_tile() -> None:
    grey, world = torch.full((1, 3, 32, 32), 0.5), PlantedWorld()
    own, other = (grey + world.amplitude * world.patterns[[c]] for c in (0, 1))
    ours, papers = (robust_teacher(planted, 8 / 255, 7).attack for planted in (True, False))
    assert torch.equal(ours.threat.project(other, own), other)
    assert papers.threat.distance(papers.threat.project(grey, own) - grey) > 0.3  # a good third of the tile stays
    assert (ours.steps, papers.steps) == (1, 7)


# --- TRADES and MART ----------------------------------------------------------------------------------------------

def naive_kl(p: Tensor, q: Tensor) -> Tensor:
    """(B,) sum_k p_k log(p_k / q_k)."""
    return (p * (p / q).log()).sum(1)


def naive_trades(clean: Tensor, adversarial: Tensor, y: Tensor, beta: float, adversarial_labels: bool) -> Tensor:
    """Zhang et al. (2019), equation 5, in probabilities."""
    p, q, rows = clean.softmax(1), adversarial.softmax(1), torch.arange(len(y))
    labelled = q if adversarial_labels else p
    return (-labelled[rows, y].log()).mean() + beta * naive_kl(p, q).mean()


def naive_mart(clean: Tensor, adversarial: Tensor, y: Tensor, beta: float) -> Tensor:
    """Wang et al. (2020), equations 5 to 7, in probabilities, image by image."""
    p, q = clean.softmax(1), adversarial.softmax(1)
    terms = []
    for i, label in enumerate(y.tolist()):
        rival = torch.cat([q[i, :label], q[i, label + 1:]]).max()
        boosted = -q[i, label].log() - (1 - rival).log()
        terms.append(boosted + beta * naive_kl(p[i:i + 1], q[i:i + 1])[0] * (1 - p[i, label]))
    return torch.stack(terms).mean()


NAIVE: dict[str, tuple[object, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "TRADES": (TRADES(Shift()), lambda *args: naive_trades(*args, 6.0, False)),
    "TRADES, beta .5, labels on x_adv": (TRADES(Shift(), 0.5, True),  # type: ignore[arg-type]
                                         lambda *args: naive_trades(*args, 0.5, True)),
    "TRADES, beta 0": (TRADES(Shift(), 0.0), lambda *args: naive_trades(*args, 0.0, False)),  # type: ignore[arg-type]
    "MART": (MART(Shift()), lambda *args: naive_mart(*args, 5.0)),  # type: ignore[arg-type]
    "MART, beta .5": (MART(Shift(), 0.5), lambda *args: naive_mart(*args, 0.5)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", NAIVE)
def test_objectives_are_their_formulas_and_so_are_their_gradients(name: str, digits: ImageSet,
                                                                  generator: torch.Generator) -> None:
    """In float64 and training mode, where both branches reach every weight; to 1e-10 of the largest gradient."""
    objective, formula = NAIVE[name]
    x, y = digits.x[:20].double() / 2, digits.y[:20]
    model = networks.build("small", 10, seed=4).double().train()
    with torch.no_grad():
        model.stages[-1].weight *= 20  # predictions far from uniform
    reference = copy.deepcopy(model)
    loss = objective(model, x, y, generator)  # type: ignore[operator]
    expected = formula(reference(x), reference(x + 0.125), y)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    loss.backward()
    expected.backward()
    largest = max(parameter.grad.abs().max().item() for parameter in reference.parameters())
    assert largest > 0.01
    for found, wanted in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=0, atol=1e-10 * largest)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, reference.get_buffer(name), msg=name)  # one update by each branch


class Given(nn.Module):
    """Logits that are weights, one row per image of the batch, the same before and after an attack or not."""

    def __init__(self, clean: Tensor, adversarial: Tensor) -> None:
        super().__init__()
        self.clean, self.adversarial = nn.Parameter(clean), nn.Parameter(adversarial)

    def forward(self, x: Tensor) -> Tensor:
        return self.adversarial if x.mean() > 0.1 else self.clean


@pytest.mark.parametrize("name", NAIVE)
def test_both_predictions_are_learned_from(name: str, generator: torch.Generator) -> None:
    """The gradient for each branch's logits; neither is held fixed."""
    objective, formula = NAIVE[name]
    clean, adversarial = 2 * torch.randn(2, 12, 10, generator=generator, dtype=torch.float64)
    x, y = torch.zeros(12, 3, 4, 4), torch.arange(12) % 10
    ours, theirs = Given(clean.clone(), adversarial.clone()), Given(clean.clone(), adversarial.clone())
    objective(ours, x, y, generator).backward()  # type: ignore[operator]
    formula(theirs.clean, theirs.adversarial, y).backward()
    for branch in ("clean", "adversarial"):
        wanted = getattr(theirs, branch).grad
        assert wanted.abs().max() > 0 or name == "TRADES, beta 0"
        found = getattr(ours, branch).grad
        torch.testing.assert_close(torch.zeros_like(wanted) if found is None else found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mart_is_finite_where_a_wrong_class_is_almost_certain(dtype: torch.dtype, generator: torch.Generator) -> None:
    """p = 1 - 1e-12 is 1 in float32, where log(1 - p) would be -inf; the value is that of float64."""
    other = (torch.tensor(1e-12, dtype=torch.float64) / 9).log()
    logits = other.repeat(1, 10)
    logits[0, 3] = torch.tensor(1 - 1e-12, dtype=torch.float64).log()
    clean = torch.zeros(1, 10, dtype=torch.float64)
    model = Given(clean.to(dtype), logits.to(dtype))
    loss = MART(Shift())(model, torch.zeros(1, 3, 4, 4), torch.tensor([7]), generator)  # type: ignore[arg-type]
    divergence = -math.log(10) - (0.1 * logits).sum().item()
    expected = -other.item() - math.log(1e-12) + 5 * divergence * 0.9
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert torch.isfinite(model.adversarial.grad).all()
    assert model.adversarial.grad[0, 3] > 0.9  # the certain class is to be taken back


@pytest.mark.parametrize("make", [trades, mart])
def test_inner_attacks_see_evaluation_mode(make: Callable[[ThreatModel, int], TRADES | MART], digits: ImageSet,
                                           generator: torch.Generator) -> None:
    model = networks.build("small", 10).train()
    modes: list[tuple[bool, bool]] = []
    model.register_forward_pre_hook(
        lambda module, inputs: modes.append((module.training, next(module.parameters()).requires_grad)))
    make(ThreatModel("Linf", 0.1), 3)(model, digits.x[:20], digits.y[:20], generator)
    target = [(False, False)] * (make is trades)
    assert modes == [*target, *[(False, False)] * 3, (True, True), (True, True)]


def test_the_attack_of_trades_starts_from_the_prediction_in_evaluation_mode(digits: ImageSet,
                                                                            generator: torch.Generator) -> None:
    model = networks.build("small", 10, seed=1).train()
    given: list[Tensor] = []

    class Still(Shift):
        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
            given.append(y)
            return x

    TRADES(Still())(model, digits.x[:20], digits.y[:20], generator)
    with torch.no_grad():
        expected = networks.build("small", 10, seed=1).eval()(digits.x[:20])
    torch.testing.assert_close(given[0], expected)
    assert not given[0].requires_grad


@pytest.mark.parametrize(("objective", "label", "beta"), [
    (trades(ThreatModel("Linf", 8 / 255), 5),
     "PGD(L_inf 8/255, 5 steps of 4/255, 1 restart near x (sd 0.001), kl, last iterate)", 6.0),
    (trades(ThreatModel("L2", 0.5), 10, 0.5),
     "PGD(L2 0.5, 10 steps of 0.125, 1 restart near x (sd 0.001), kl, last iterate)", 0.5),
    (mart(ThreatModel("Linf", 8 / 255), 5),
     "PGD(L_inf 8/255, 5 steps of 4/255, 1 restart near x (sd 0.001), last iterate)", 5.0),
    (mart(ThreatModel("L2", 0.5), 10, 0.5),
     "PGD(L2 0.5, 10 steps of 0.125, 1 restart near x (sd 0.001), last iterate)", 0.5),
])
def test_named_objectives_with_two_terms(objective: TRADES | MART, label: str, beta: float) -> None:
    assert repr(objective.attack) == label
    assert objective.beta == beta
    assert label in repr(objective)
    assert f"beta={beta}" in repr(objective)


def test_the_tables_methods_with_a_k_are_those_of_kim_et_al() -> None:
    threat = ThreatModel("Linf", 0.03)
    assert DEFENCES["TRADES-K"](threat, 3) == TRADES(trades(threat, 3).attack, 0.5, adversarial_labels=True)
    assert DEFENCES["MART-K"](threat, 3) == MART(mart(threat, 3).attack, 0.5)
    assert DEFENCES["TRADES"](threat, 3) == TRADES(trades(threat, 3).attack, 6.0, adversarial_labels=False)


@dataclass(frozen=True)
class Brighter:
    """An attack of one's own, which works in place or on a copy."""

    in_place: bool
    threat: Any = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return (x if self.in_place else x.clone()).add_(0.1).clamp_(0, 1)


@pytest.mark.parametrize("objective", [Adversarial, TRADES, MART])
def test_an_attack_that_works_in_place_trains_the_same_network(objective: Any, digits: ImageSet) -> None:
    losses = []
    for in_place in (True, False):
        model = networks.build("small", 10)
        losses.append(training.fit(model, digits.take(64), objective(Brighter(in_place)), Schedule(1, 32), 0))
    assert losses[0] == losses[1]


def test_trades_buys_a_smaller_divergence_under_attack(digits: ImageSet) -> None:
    """Mean KL(p(x) || p(x_adv)) after the same few epochs: at most half of that after training on clean images, and
    smaller for the larger beta."""
    threat = ThreatModel("Linf", 0.1)
    found = []
    for objective in (Standard(), trades(threat, 3, 1.0), trades(threat, 3, 12.0)):
        model = networks.build("small", 10, seed=0)
        fit(model, digits, objective, Schedule(10, batch_size=20, peak_rate=0.1), seed=0)
        with torch.no_grad():
            clean = model(digits.x)
        attack = PGD(threat, 5, loss="kl", random_start=0.001)
        with torch.no_grad():
            logits = model(attack(model, digits.x, clean, torch.Generator().manual_seed(1)))
            found.append(naive_kl(clean.double().softmax(1), logits.double().softmax(1)).mean().item())
    assert found[2] < found[1] < found[0]
    assert found[2] < 0.5 * found[0], found


# --- schedule -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("total", [1, 3, 10, 100, 1000])
def test_the_rate_rises_for_a_fifth_and_falls_to_almost_nothing(total: int) -> None:
    schedule = Schedule(1, peak_rate=0.2)
    rates = [schedule.rate(step, total) for step in range(total)]
    assert all(0 < rate <= 0.2 for rate in rates)
    peak = max(range(total), key=rates.__getitem__)
    assert abs(peak - 0.2 * total) <= 1
    assert rates[-1] == pytest.approx(min(0.2 / (0.8 * total), rates[peak]), rel=1e-12)
    if total % 5 == 0:
        assert rates[total // 5] == pytest.approx(0.2, rel=1e-12)
        changes = [after - before for before, after in pairwise(rates)]
        rise, fall = 0.2 / (0.2 * total + 1), -0.2 / (0.8 * total)
        assert changes == pytest.approx([rise] * (total // 5) + [fall] * (total - total // 5 - 1), rel=1e-9)


@pytest.mark.parametrize("total", [10, 100, 1000])
def test_the_rate_of_adamw_rises_for_a_tenth_and_falls_along_half_a_cosine(total: int) -> None:
    schedule = Schedule(1, peak_rate=0.2, optimizer="adamw")
    rates, warm = [schedule.rate(step, total) for step in range(total)], total // 10
    assert rates[: warm + 1] == pytest.approx([0.2 * (step + 1) / (warm + 1) for step in range(warm + 1)], rel=1e-12)
    falling = 0.1 * (1 + np.cos(np.pi * np.arange(total - warm) / (total - warm)))
    assert rates[warm:] == pytest.approx(falling.tolist(), rel=1e-12)


# --- the loop -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_loop_is_nesterov_sgd_with_weight_decay(momentum: float, digits: ImageSet) -> None:
    """Against the update written out in float64: v <- m v + g, w <- w - rate (g + m v), g with weight decay."""
    epochs, decay, images = 4, 0.01, digits.take(30)
    schedule = Schedule(epochs, batch_size=30, peak_rate=0.1, momentum=momentum, weight_decay=decay)

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(x.double()), y)

    model = networks.build("small", 10, seed=2).double()
    history = fit(model, images, objective, schedule)

    reference = networks.build("small", 10, seed=2).double().train()
    weights = list(reference.parameters())
    velocity = [torch.zeros_like(weight) for weight in weights]
    expected = []
    for step in range(epochs):
        loss = F.cross_entropy(reference(images.x.double()), images.y)
        expected.append(loss.item())
        gradients = torch.autograd.grad(loss, weights)
        rate = 0.1 * min((step + 1) / (0.2 * epochs + 1), (epochs - step) / (0.8 * epochs))
        with torch.no_grad():
            for weight, gradient, v in zip(weights, gradients, velocity, strict=True):
                g = gradient + decay * weight
                v.mul_(momentum).add_(g)
                weight -= rate * (g + momentum * v)
    assert history == pytest.approx(expected, rel=1e-9)
    for found, weight in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(found, weight, rtol=0, atol=1e-9)
    assert not model.training


def test_adamw_is_adam_with_decoupled_weight_decay(digits: ImageSet) -> None:
    """Against Loshchilov and Hutter (2019), algorithm 2, written out in float64."""
    steps, decay, images = 4, 0.1, digits.take(30)
    schedule = Schedule(steps, batch_size=30, peak_rate=0.01, weight_decay=decay, optimizer="adamw")

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(x.double()), y)

    model = networks.build("small", 10, seed=2).double()
    fit(model, images, objective, schedule)

    reference = networks.build("small", 10, seed=2).double().train()
    weights = list(reference.parameters())
    first, second = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    for step in range(steps):
        gradients = torch.autograd.grad(F.cross_entropy(reference(images.x.double()), images.y), weights)
        rate = schedule.rate(step, steps)
        with torch.no_grad():
            for weight, g, m, v in zip(weights, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.95).add_(0.05 * g * g)
                unbiased = (v / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
                weight.sub_(rate * (m / (1 - 0.9 ** (step + 1)) / unbiased + decay * weight))
    for found, weight in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(found, weight, rtol=0, atol=1e-9)


def test_every_epoch_sees_every_image_with_its_label(digits: ImageSet) -> None:
    seen: list[tuple[bytes, int]] = []

    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        seen.extend((image.contiguous().numpy().tobytes(), int(label)) for image, label in zip(x, y, strict=True))
        return F.cross_entropy(model(x), y)

    fit(networks.build("small", 10), digits, objective, Schedule(2, batch_size=32))
    known = sorted((image.contiguous().numpy().tobytes(), int(label))
                   for image, label in zip(digits.x, digits.y, strict=True))
    assert sorted(seen[:80]) == known
    assert sorted(seen[80:]) == known
    assert seen[:80] != seen[80:]


def test_a_seed_decides_the_training(digits: ImageSet) -> None:
    images = replace(digits, augmentation="crop+flip")
    objective = pgd_adversarial(ThreatModel("Linf", 0.05), 2)
    global_state, results = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        model = networks.build("small", 10, seed=0)
        history = fit(model, images, objective, Schedule(2, batch_size=32), seed)
        results.append((history, [weight.clone() for weight in model.parameters()]))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert results[0][0] == results[1][0] != results[2][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_training_learns(digits: ImageSet) -> None:
    history = fit(networks.build("small", 10), digits, Standard(), Schedule(8, batch_size=16))
    assert len(history) == 8
    assert history[0] < math.log(10) + 1
    assert history[-1] < 0.5 * history[0]


def test_a_diverging_loss_is_said(digits: ImageSet) -> None:
    def objective(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(x), y) * torch.nan

    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 1.*peak_rate below 0\.2"):
        fit(networks.build("small", 10), digits, objective, Schedule(3))


@dataclass(frozen=True)
class Collapsing:
    """Adversarial training against one step that turns to clean images with permuted labels after `sound` steps."""

    attack: PGD
    sound: int
    seen: list[int] = field(default_factory=list)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        self.seen.append(len(x))
        return F.cross_entropy(model(x), y if len(self.seen) <= self.sound else (y + 1) % 10)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_network_that_collapses_against_one_step_keeps_its_last_sound_epoch(
        steps: int, digits: ImageSet, own_build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schedule, epoch = Schedule(12, batch_size=16), 5  # batches of one epoch of 80 images
    objective = Collapsing(PGD(ThreatModel("Linf", 0.001), steps), sound=8 * epoch)
    model, until = networks.build("small", 10), networks.build("small", 10)
    history = fit(model, digits, objective, schedule)
    if steps == 2:  # nobody watches
        assert len(history) == 12
        return
    assert 8 <= len(history) < 12
    sound = replace(objective, seen=[])
    weights: dict[int, dict[str, Tensor]] = {}

    def watched(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if len(sound.seen) % epoch == 0:  # before the first batch of an epoch: the weights of the epoch before
            weights[len(sound.seen) // epoch] = copy.deepcopy(model.state_dict())
        return sound(model, x, y, generator)

    fit(until, digits, watched, schedule)
    for name, value in weights[len(history)].items():
        assert torch.equal(model.state_dict()[name], value), name
    for _ in range(2):  # trained, then read from the store
        trained("small", digits, replace(objective, seen=[]), schedule, name="fast")
        assert f"fast, seed 0: in pass {len(history) + 1} of 12" in capsys.readouterr().out


def test_a_network_that_stays_sound_is_not_touched_by_the_watch(digits: ImageSet) -> None:
    objective = fast_adversarial(ThreatModel("Linf", 0.01))
    watched, plain = networks.build("small", 10), networks.build("small", 10)
    history = fit(watched, digits, objective, Schedule(3, batch_size=16))
    assert history == fit(plain, digits, lambda *batch: objective(*batch), Schedule(3, batch_size=16))
    for name, value in plain.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name


# --- the store ----------------------------------------------------------------------------------------------------

def no_training(*arguments: object) -> list[float]:
    raise AssertionError("it trained again")


def test_a_network_is_trained_once(digits: ImageSet, monkeypatch: pytest.MonkeyPatch, own_build: Path) -> None:
    schedule = Schedule(1, batch_size=16)
    first = trained("small", digits, Standard(), schedule, seed=3, name="standard")
    assert list(own_build.glob("store/model/*/tensors.safetensors"))
    monkeypatch.setattr(training, "fit", no_training)
    again = trained("small", digits, Standard(), schedule, seed=3, name="called otherwise")
    assert not again.training
    assert again.key == first.key
    assert (first.name, again.name) == ("standard", "called otherwise")
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with torch.no_grad():
        assert torch.equal(first(digits.x), again(digits.x))


class Stopped(Exception):
    pass


@pytest.fixture
def stopped_after_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Every training is kept after each epoch and stopped after its second, until this is called."""
    write = training.Unfinished.write

    def stop(self: training.Unfinished, history: list[float]) -> None:
        write(self, history)
        if len(history) == 2:
            raise Stopped

    monkeypatch.setattr(training.Unfinished, "SECONDS", 0.0)
    monkeypatch.setattr(training.Unfinished, "write", stop)
    return lambda: monkeypatch.setattr(training.Unfinished, "write", write)


@pytest.mark.parametrize("objective", [Standard(), fast_adversarial(ThreatModel("Linf", 0.01))])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
        objective: Adversarial | Standard, optimizer: str, digits: ImageSet, tmp_path: Path,
        stopped_after_two: Callable[[], None]) -> None:
    data, file = replace(digits, augmentation="crop"), tmp_path / "model.unfinished"
    schedule = Schedule(3, 16, 0.01 if optimizer == "adamw" else 0.2, optimizer=optimizer)
    with pytest.raises(Stopped):
        fit(networks.build("small", 10), data, objective, schedule, seed=2, unfinished=file)
    stopped_after_two()
    seen = []

    def counted(*batch: Any) -> Tensor:
        seen.append(1)
        return objective(*batch)

    counted.attack = getattr(objective, "attack", None)  # type: ignore[attr-defined]
    halves, whole = networks.build("small", 10), networks.build("small", 10)
    history = fit(whole, data, objective, schedule, seed=2)
    assert fit(halves, data, counted, schedule, seed=2, unfinished=file) == history
    assert len(seen) == 5  # one epoch
    for name, value in whole.state_dict().items():
        assert torch.equal(halves.state_dict()[name], value), name


@pytest.mark.parametrize("spoil", ["loop", "network", "epochs"])
def test_what_another_training_left_is_said_and_left_alone(spoil: str, digits: ImageSet, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    file, schedule = tmp_path / "model.unfinished", Schedule(1, batch_size=64)
    expected = fit(networks.build("small", 10), digits, Standard(), schedule)
    monkeypatch.setattr(training.Unfinished, "SECONDS", 0.0)
    left = networks.build("small", 12 if spoil == "network" else 10)
    fit(left, digits, Standard(), Schedule(2 if spoil == "epochs" else 1, batch_size=64), unfinished=file)
    if spoil == "loop":
        save_file({name: tensor for name, tensor in load_file(file).items() if not name.startswith("loop/")}, file)
    capsys.readouterr()
    assert fit(networks.build("small", 10), digits, Standard(), schedule, unfinished=file) == expected
    assert capsys.readouterr().err == f"note: {file}: not what this training left when it was stopped; it starts anew\n"


def test_an_unfinished_training_is_found_by_its_recipe_and_leaves_nothing_behind(
        digits: ImageSet, own_build: Path, stopped_after_two: Callable[[], None]) -> None:
    recipe = "small", digits, Standard(), Schedule(3, batch_size=16)
    with pytest.raises(Stopped):
        trained(*recipe)
    [left] = own_build.glob("store/model/*.unfinished")
    left.write_bytes(b"damaged")  # then it begins again
    with pytest.raises(Stopped):
        trained(*recipe)
    stopped_after_two()
    assert len(trained(*recipe).losses) == 3
    assert {path.suffix for path in own_build.glob("store/model/*")} == {"", ".lock"}


def test_training_through_the_store_is_the_same_training(digits: ImageSet) -> None:
    schedule = Schedule(2, batch_size=16)
    stored = trained("small", digits, Standard(), schedule, seed=3)
    model = networks.build("small", 10, seed=3)
    fit(model, digits, Standard(), schedule, seed=3)
    for name, value in model.state_dict().items():
        assert torch.equal(stored.state_dict()[name], value), name


def test_whatever_decides_the_weights_is_in_the_key(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "fit", lambda *arguments: [])
    threat, schedule = ThreatModel("Linf", 0.1), Schedule(1)
    keys = [trained("small", *recipe).key for recipe in (
        (digits, Standard(), schedule, 0),
        (digits, Standard(), schedule, 1),
        (digits.take(79), Standard(), schedule, 0),
        (replace(digits, augmentation="crop"), Standard(), schedule, 0),
        (digits, Standard(), Schedule(2), 0),
        (digits, Standard(), Schedule(1, weight_decay=0), 0),
        (digits, fast_adversarial(threat), schedule, 0),
        (digits, pgd_adversarial(threat, 2), schedule, 0),
        (digits, Adversarial(PGD(threat, 2)), schedule, 0),
        (digits, pgd_adversarial(ThreatModel("Linf", 0.2), 2), schedule, 0),
        (digits, Standard(), Schedule(1, optimizer="adamw"), 0),
        (digits, trades(threat, 2), schedule, 0),
        (digits, trades(threat, 2, 1.0), schedule, 0),
        (digits, replace(trades(threat, 2), adversarial_labels=True), schedule, 0),
        (digits, mart(threat, 2), schedule, 0),
        (digits, mart(threat, 2, 1.0), schedule, 0),
    )]
    keys.append(trained("small", digits, Standard(), schedule, 0, precision="bfloat16").key)
    assert len(set(keys)) == len(keys)
