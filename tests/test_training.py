"""The training loop against a loop written out by hand, its schedule, and models that are trained once."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils import networks, training
from nbutils.images import ImageSet, load
from nbutils.robustness import PGD, ThreatModel
from nbutils.training import Adversarial, Schedule, Standard, fast_adversarial, fit, pgd_adversarial, trained


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
    assert repr(pgd_adversarial(threat, 5).attack) == "PGD(L_inf 8/255, 5 steps of 4/255, 1 restart, last iterate)"


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
        (digits, pgd_adversarial(threat, 1), schedule, 0),
        (digits, pgd_adversarial(threat, 2), schedule, 0),
        (digits, Adversarial(PGD(threat, 2)), schedule, 0),
        (digits, pgd_adversarial(ThreatModel("Linf", 0.2), 2), schedule, 0),
    )]
    assert len(set(keys)) == len(keys)
