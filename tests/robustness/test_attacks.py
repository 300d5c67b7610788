"""Attacks against closed forms on linear models and against foolbox, and what they must leave untouched."""

import copy
import itertools
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nbutils import networks
from nbutils.images import PlantedSet
from nbutils.networks import SplitClassifier
from nbutils.robustness import BIM, FGSM, LOSSES, PGD, Noise, ThreatModel, kim_pgd
from tests.helpers import Scores

with warnings.catch_warnings():  # foolbox uses an old name of scipy
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox

SHAPE = (3, 4, 4)
LINF, L2 = ThreatModel("Linf", 8 / 255), ThreatModel("L2", 0.3)
LABELLED = [loss for loss in LOSSES if loss != "kl"]  # which is measured from the clean logits, not from labels


class Linear(nn.Module):
    """Logits x W^T in float64."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 48, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.fixture(scope="module")
def double_network() -> SplitClassifier:
    """The small network in float64, where rounding cannot turn the sign of a gradient."""
    return networks.build("small", 10, seed=3).double().eval()


@pytest.fixture(scope="module")
def pixels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(16, 3, 32, 32, generator=generator, dtype=torch.float64)
    x[:4] = (3 * x[:4] - 1).clamp(0, 1)  # two thirds of these pixels are 0 or 1
    return x, torch.randint(10, (16,), generator=generator)


def test_pgd_of_kim_et_al_takes_ten_steps_of_23_hundredths_of_eps() -> None:
    attack = kim_pgd(ThreatModel("Linf", 0.03))
    assert (attack.steps, attack.restarts, attack.random_start, attack.keep_best) == (10, 1, True, False)
    assert attack.step_size == pytest.approx(0.0069, rel=1e-12)


# --- closed forms -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("threat", [ThreatModel("Linf", 0.1), ThreatModel("L2", 0.5)], ids=str)
def test_pgd_on_a_linear_model_is_the_closed_form(threat: ThreatModel, steps: int, loss: str,
                                                  generator: torch.Generator) -> None:
    """With two classes every loss grows along w = w_other - w_y: the worst delta is eps sign(w) or eps w / ||w||."""
    model = Linear(2)
    x = 0.3 + 0.4 * torch.rand(6, *SHAPE, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    w = (model.weight[1 - y] - model.weight[y]).detach().view(6, *SHAPE)
    best = w.sign() if threat.norm == "Linf" else w / w.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    found = PGD(threat, steps, loss=loss, random_start=False)(model, x, y)
    torch.testing.assert_close(found, x + threat.eps * best, rtol=0, atol=1e-12)


def test_linf_pgd_on_a_linear_model_from_random_starts_and_at_saturated_pixels(generator: torch.Generator) -> None:
    model = Linear(2)
    x = torch.rand(6, *SHAPE, generator=generator, dtype=torch.float64).round()
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    w = (model.weight[1 - y] - model.weight[y]).detach().view(6, *SHAPE)
    found = PGD(ThreatModel("Linf", 0.1), 10)(model, x, y, generator)
    torch.testing.assert_close(found, (x + 0.1 * w.sign()).clamp(0, 1), rtol=0, atol=1e-12)


def test_tiny_gradients_still_make_full_l2_steps(generator: torch.Generator) -> None:
    model = Linear(2).float()
    with torch.no_grad():
        model.weight *= 1e-30
    x = torch.full((2, *SHAPE), 0.5)
    found = PGD(L2, 5, loss="margin", random_start=False)(model, x, torch.tensor([0, 1]))
    torch.testing.assert_close((found - x).flatten(1).norm(dim=1), torch.full((2,), 0.3), rtol=1e-5, atol=0)


# --- foolbox ------------------------------------------------------------------------------------------------------

PAIRS = {
    "PGD Linf": (PGD(LINF, 10, 2 / 255, random_start=False, keep_best=False),
                 foolbox.attacks.LinfPGD(abs_stepsize=2 / 255, steps=10, random_start=False)),
    "PGD Linf, default step": (PGD(LINF, 20, random_start=False, keep_best=False),
                               foolbox.attacks.LinfPGD(rel_stepsize=2.5 / 20, steps=20, random_start=False)),
    "PGD L2": (PGD(L2, 10, 0.07, random_start=False, keep_best=False),
               foolbox.attacks.L2PGD(abs_stepsize=0.07, steps=10, random_start=False)),
    "BIM": (BIM(LINF, 12), foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=1 / 255, steps=12)),
    "FGSM": (FGSM(LINF), foolbox.attacks.LinfFastGradientAttack()),
    "FGSM L2": (FGSM(L2), foolbox.attacks.L2FastGradientAttack()),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_equals_foolbox(pair: str, double_network: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    ours, theirs = PAIRS[pair]
    x, y = pixels
    reference = theirs.run(foolbox.PyTorchModel(double_network, bounds=(0, 1), device="cpu"), x,
                           foolbox.criteria.Misclassification(y), epsilon=ours.threat.eps)
    found = ours(double_network, x, y)
    assert (found - x).abs().amax() > 0.9 * ours.step_size / 55.5  # it moved: L2 steps spread over 3,072 pixels
    torch.testing.assert_close(found, reference, rtol=0, atol=1e-10)


# --- edges --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", [PGD(ThreatModel("Linf", 0), 5), PGD(ThreatModel("L2", 0), 5, 0.1, restarts=3),
                                    FGSM(ThreatModel("Linf", 0)), BIM(ThreatModel("Linf", 0))], ids=repr)
def test_zero_radius_returns_the_image(attack: PGD, double_network: SplitClassifier,
                                       pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    found = attack(double_network, x, y)
    assert torch.equal(found, x)
    assert found.data_ptr() != x.data_ptr()  # a caller may write into what it got


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
@pytest.mark.parametrize("keep_best", [True, False])
def test_empty_batch(threat: ThreatModel, keep_best: bool, double_network: SplitClassifier) -> None:
    x = torch.zeros(0, 3, 32, 32, dtype=torch.float64)
    found = PGD(threat, 3, restarts=2, keep_best=keep_best)(double_network, x, torch.zeros(0, dtype=torch.int64))
    assert found.shape == x.shape


@pytest.mark.parametrize("threat", [LINF, L2, ThreatModel("Linf", 1)], ids=str)
@pytest.mark.parametrize("batch", [1, 16])
def test_images_are_admissible_and_the_input_is_not_written_to(
        threat: ThreatModel, batch: int, double_network: SplitClassifier, pixels: tuple[Tensor, Tensor],
        generator: torch.Generator) -> None:
    x, y = (tensor[:batch] for tensor in pixels)
    before = x.clone()
    found = PGD(threat, 4, restarts=2)(double_network, x, y, generator)
    assert torch.equal(x, before)
    assert ((found >= 0) & (found <= 1)).all()
    distance = torch.linalg.vector_norm((found - x).flatten(1), float("inf") if threat.norm == "Linf" else 2, dim=1)
    assert (distance <= threat.eps + 1e-6).all()


@pytest.mark.parametrize("attack", [PGD(LINF, 2), PGD(LINF, 2, random_start=False), PGD(LINF, 2, keep_best=False),
                                    PGD(LINF, 2, restarts=2), FGSM(LINF)], ids=repr)
@pytest.mark.parametrize("requires_grad", [False, True])  # who studies input gradients may hand in a leaf
def test_returned_images_carry_no_graph(attack: PGD, requires_grad: bool, double_network: SplitClassifier,
                                        pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels[0][:2], pixels[1][:2]
    found = attack(double_network, x.clone().requires_grad_(requires_grad), y, torch.Generator().manual_seed(0))
    assert not found.requires_grad
    assert torch.equal(found, attack(double_network, x, y, torch.Generator().manual_seed(0)))


def test_model_is_left_exactly_as_it_was(pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    model = networks.build("small", 10, seed=3).double()
    model.train()
    model.stages[2].eval()  # one BatchNorm fixed, the others training
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    for index, parameter in enumerate(parameters[1:-1]):
        parameter.grad = torch.full_like(parameter, index)
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    global_state = torch.get_rng_state()

    PGD(LINF, 3, restarts=2)(model, x, y, torch.Generator().manual_seed(0))

    assert torch.equal(torch.get_rng_state(), global_state)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)
    assert parameters[0].grad is None
    assert parameters[-1].grad is None
    for index, parameter in enumerate(parameters[1:-1]):
        assert torch.equal(parameter.grad, torch.full_like(parameter, index))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_model_is_left_as_it_was_when_the_attack_fails(pixels: tuple[Tensor, Tensor]) -> None:
    model = networks.build("small", 10).double()
    model.train()
    with torch.no_grad():
        model.stages[-1].bias[3] = torch.nan  # type: ignore[index]
    with pytest.raises(ValueError, match="not finite"):
        PGD(LINF, 3)(model, *pixels)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_attacked_model_is_seen_in_evaluation_mode(pixels: tuple[Tensor, Tensor]) -> None:
    model = networks.build("small", 10, seed=3).double()
    attack = PGD(LINF, 3, random_start=False)
    in_evaluation = attack(model.eval(), *pixels)
    assert torch.equal(attack(model.train(), *pixels), in_evaluation)


def test_works_without_gradient_mode(double_network: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    attack = PGD(LINF, 3, random_start=False)
    expected = attack(double_network, *pixels)
    with torch.no_grad():
        found = attack(double_network, *pixels)
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)


def test_seed_decides_the_random_start(double_network: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    attack = PGD(LINF, 2)
    first, again, other = (attack(double_network, *pixels, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- noise --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_noise_has_exactly_the_length_eps_and_no_direction(threat: ThreatModel,
                                                           double_network: SplitClassifier) -> None:
    x = torch.full((200, *SHAPE), 0.5, dtype=torch.float64)
    y = torch.zeros(200, dtype=torch.int64)
    first, again, other = (Noise(threat)(double_network, x, y, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    delta = (first - x).flatten(1)
    length = delta.abs() if threat.norm == "Linf" else delta.norm(dim=1)  # a corner: every pixel moves by eps
    torch.testing.assert_close(length, torch.full_like(length, threat.eps), rtol=1e-9, atol=0)
    scale = threat.eps if threat.norm == "Linf" else threat.eps / 48**0.5
    assert delta.mean(0).abs().max() < 5 * scale / 200**0.5
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- the loss -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("loss", LABELLED)
@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_an_image_is_attacked_the_same_in_every_batch(threat: ThreatModel, loss: str, double_network: SplitClassifier,
                                                      pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels[0].repeat(4, 1, 1, 1), torch.randint(10, (64,), generator=torch.Generator().manual_seed(2))
    attack = PGD(threat, 4, loss=loss, random_start=False)
    together = attack(double_network, x, y)
    alone = torch.cat([attack(double_network, x[i:i + 1], y[i:i + 1]) for i in range(0, 64, 5)])
    torch.testing.assert_close(together[::5], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize("shift", [0.0, -1e4])  # all logits negative: a zero must not hide among the others
def test_margin_is_the_largest_other_logit_minus_the_true_one(classes: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(50, classes, generator=generator, dtype=torch.float64) + shift
    y = torch.randint(classes, (50,), generator=generator)
    expected = [np.delete(row, label).max() - row[label] for row, label in zip(logits.numpy(), y.numpy(), strict=True)]
    found = LOSSES["margin"](logits, y)
    assert np.allclose(found.numpy(), expected, rtol=0, atol=1e-9)
    assert torch.equal(found > 0, logits.argmax(1) != y)


def test_cross_entropy_is_per_image() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    found = LOSSES["cross-entropy"](logits, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([2.0, 4.0]).log())


# --- starts close to the image -----------------------------------------------------------------------------------

@pytest.mark.parametrize("threat", [ThreatModel("Linf", 0.1), ThreatModel("L2", 0.5)], ids=str)
@pytest.mark.parametrize("sd", [0.001, 0.01])
def test_a_start_near_the_image_is_gaussian(sd: float, threat: ThreatModel) -> None:
    """Ten thousand pixels, hardly a step: mean, spread, share within one standard deviation, to 5 sigma."""
    x = torch.full((200, *SHAPE), 0.5, dtype=torch.float64)
    attack = PGD(threat, 1, 1e-12, random_start=sd, keep_best=False)
    noise = (attack(Linear(2), x, torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0)) - x) / sd
    assert abs(noise.mean()) < 5 / 9600**0.5
    assert abs(noise.std() - 1) < 5 / 19200**0.5
    assert abs((noise.abs() < 1).double().mean() - 0.6827) < 5 * (0.6827 * 0.3173 / 9600) ** 0.5
    assert noise[0].abs().sum() != noise[1].abs().sum()  # every image has its own
    other = attack(Linear(2), x, torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(1)) - x
    assert not torch.equal(other / sd, noise)


@pytest.mark.parametrize("threat", [ThreatModel("Linf", 0.001), ThreatModel("L2", 0.01)], ids=str)
def test_a_start_near_the_image_stays_inside_the_ball(threat: ThreatModel) -> None:
    x = torch.rand(50, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()
    attack = PGD(threat, 1, 1e-12, random_start=0.01)  # keeps the start, for nothing after it is worse
    found = attack(Linear(2), x, torch.zeros(50, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert ((found >= 0) & (found <= 1)).all()
    distance = threat.distance(found - x)
    assert (distance <= threat.eps + 1e-12).all()
    assert (distance > 0.2 * threat.eps).all()  # half of the noise is clipped away at black and white


def test_a_start_near_the_image_is_in_the_label() -> None:
    assert repr(PGD(LINF, 10, 2 / 255, random_start=0.001, loss="kl")) == (
        "PGD(L_inf 8/255, 10 steps of 2/255, 1 restart near x (sd 0.001), kl)")


# --- divergence from the clean prediction -------------------------------------------------------------------------

@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_kl_is_the_divergence_of_the_clean_from_the_adversarial_prediction(classes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits, clean = scale * torch.randn(2, 50, classes, generator=generator, dtype=torch.float64)
    categorical = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(categorical(logits=clean), categorical(logits=logits))
    found = LOSSES["kl"](logits, clean)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (found >= -1e-12).all()
    torch.testing.assert_close(LOSSES["kl"](clean, clean), torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-12)


def test_kl_needs_the_clean_logits(double_network: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    attack = PGD(LINF, 2, loss="kl", random_start=0.001)
    with pytest.raises(ValueError, match=r"'kl': targets of shape \(16,\); expected the clean logits \(16, 10\)"):
        attack(double_network, *pixels)
    with pytest.raises(ValueError, match=r"targets of shape \(16, 9\); expected the clean logits \(16, 10\)"):
        attack(double_network, pixels[0], torch.zeros(16, 9, dtype=torch.float64))


def test_kl_has_no_slope_at_the_image_itself(double_network: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    """Why TRADES starts beside x: p - p = 0 up to rounding, of which the sign would be noise."""
    x = pixels[0]
    with torch.no_grad():
        clean = double_network(x)
    slopes = []
    for offset in (0.0, 0.001):
        moved = (x + offset).requires_grad_()
        (slope,) = torch.autograd.grad(LOSSES["kl"](double_network(moved), clean).sum(), moved)
        slopes.append(slope.abs().max().item())
    assert slopes[0] < 1e-12
    assert slopes[1] > 1e6 * slopes[0]


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_kl_on_a_linear_model_is_the_closed_form(threat: ThreatModel) -> None:
    """With two classes the divergence grows with |change of the margin|: along w or against it, whichever is worse."""
    model = Linear(2)
    x = 0.4 + 0.2 * torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        clean = model(x)
    w = (model.weight[1] - model.weight[0]).detach().view(SHAPE)
    best = w.sign() if threat.norm == "Linf" else w / w.norm()
    ends = [x + sign * threat.eps * best for sign in (1, -1)]
    found = PGD(threat, 8, loss="kl", random_start=0.001)(model, x, clean, torch.Generator().manual_seed(0))
    distance = torch.stack([(found - end).abs().flatten(1).amax(1) for end in ends])
    rest = 1e-12 if threat.norm == "Linf" else 0.002  # what a projection leaves of the noise across w
    assert (distance.amin(0) < rest).all()


@pytest.mark.parametrize("keep_best", [True, False])
def test_kl_attacks_an_image_the_same_in_every_batch(keep_best: bool, double_network: SplitClassifier,
                                                     pixels: tuple[Tensor, Tensor]) -> None:
    """From a start that does not depend on the batch: half a grey level above the image."""
    x = pixels[0].repeat(2, 1, 1, 1)
    with torch.no_grad():
        clean = double_network(x)
    attack = PGD(LINF, 4, loss="kl", random_start=False, keep_best=keep_best)
    start = (x + 0.5 / 255).clamp(0, 1)
    together = attack(double_network, start, clean)
    assert (together - start).abs().amax() > 0.9 * LINF.eps
    alone = torch.cat([attack(double_network, start[i:i + 1], clean[i:i + 1]) for i in range(0, 32, 5)])
    torch.testing.assert_close(together[::5], alone, rtol=0, atol=1e-10)


def test_kl_with_keep_best_and_restarts_never_does_less_harm(planted_test: PlantedSet,
                                                             network_pair: tuple[SplitClassifier, SplitClassifier],
                                                             ) -> None:
    model, x = network_pair[0], planted_test.x
    with torch.no_grad():
        clean = model(x)
    previous = None
    for restarts in (1, 3):
        attack = PGD(ThreatModel("Linf", 2 / 255), 2, loss="kl", random_start=0.001, restarts=restarts)
        with torch.no_grad():
            logits = model(attack(model, x, clean, torch.Generator().manual_seed(0)))
        changed, loss = logits.argmax(1) != clean.argmax(1), LOSSES["kl"](logits, clean)
        assert 0 < changed.sum() < 100
        if previous is not None:
            assert (changed >= previous[0]).all()
            assert (loss[~changed] >= previous[1][~changed] - 1e-4).all()
        previous = changed, loss


# --- properties ---------------------------------------------------------------------------------------------------

@given(norm=st.sampled_from(["Linf", "L2"]), eps=st.sampled_from([0.0, 0.03, 1.0]),
       loss=st.sampled_from(sorted(LOSSES)),
       start=st.sampled_from([True, False, 0.001, 2.0]), keep_best=st.booleans(), targeted=st.booleans(),
       classes=st.sampled_from([2, 3, 10, 200]), batch=st.sampled_from([0, 1, 5]), saturated=st.booleans(),
       dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 100))
def test_every_setting_returns_admissible_pixels(norm: str, eps: float, loss: str, start: bool | float,
                                                 keep_best: bool, targeted: bool, classes: int, batch: int,
                                                 saturated: bool, dtype: torch.dtype, seed: int) -> None:
    if loss == "dlr":
        classes = max(classes, 3)
    generator = torch.Generator().manual_seed(seed)
    model = Scores(classes, dtype)
    x = torch.rand(batch, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    x = x.round() if saturated else x
    y = torch.randint(classes, (batch,), generator=generator)
    with torch.no_grad():
        target = model(x) if loss == "kl" else y
    threat = ThreatModel(norm, eps)
    attack = PGD(threat, 2, loss=loss, random_start=start, keep_best=keep_best, targeted=targeted,
                 restarts=2 if start else 1)
    found = attack(model, x, target, torch.Generator().manual_seed(seed))
    assert found.shape == x.shape
    assert found.dtype == dtype
    assert ((found >= 0) & (found <= 1)).all()
    assert (threat.distance(found - x) <= eps + 1e-6).all()
    if eps == 0:
        assert torch.equal(found, x)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_said(bad: float, loss: str) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum((1, 2, 3)), torch.full((len(x),), bad), -x.sum((1, 2, 3))], 1)

    x = torch.full((2, *SHAPE), 0.5)
    target = torch.zeros(2, 3) if loss == "kl" else torch.tensor([0, 0])
    with pytest.raises(ValueError, match=rf"PGD, step 0: the logits are not finite \({bad}\); expected"):
        PGD(LINF, 2, loss=loss)(Broken(), x, target)


# --- more effort never helps the defender -------------------------------------------------------------------------

def harm(attack: PGD, model: SplitClassifier, images: PlantedSet, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(N,) misclassified, (N,) loss of the attack's images, computed afresh."""
    found = attack(model, images.x, images.y, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model(found)
    return logits.argmax(1) != images.y, LOSSES[attack.loss](logits, images.y)


@pytest.mark.parametrize("loss", LABELLED)
@pytest.mark.parametrize("threat", [ThreatModel("Linf", 2 / 255), ThreatModel("L2", 0.3)], ids=str)
def test_more_steps_of_one_size_never_help_the_defender(threat: ThreatModel, loss: str, planted_test: PlantedSet,
                                                        network_pair: tuple[SplitClassifier, SplitClassifier]) -> None:
    model, previous = network_pair[0], None
    broken_by = []
    for steps in range(1, 8):
        wrong, losses = harm(PGD(threat, steps, 2 * threat.eps, loss=loss), model, planted_test)
        if previous is not None:
            still_right = ~wrong & ~previous[0]
            assert (wrong | ~previous[0]).all()
            assert (losses[still_right] >= previous[1][still_right] - 1e-4).all()
        previous = wrong, losses
        broken_by.append(int(wrong.sum()))
    assert broken_by[0] < broken_by[-1] < len(planted_test)  # neither trivially easy nor without effect


class Valley(torch.nn.Module):
    """Wrong about class 1 only where the mean pixel is within .01 of .52: a step of .018 from .5 falls in, the next
    one leaves on the other side, the third comes back."""

    def forward(self, x: Tensor) -> Tensor:
        right = (x.mean((1, 2, 3)) - 0.52) ** 2 - 1e-4
        return torch.stack([torch.zeros_like(right), right], 1)


@pytest.mark.parametrize(("steps", "wrong_at_the_end"), [(1, True), (2, False), (3, True)])
def test_the_last_iterate_can_help_the_defender(steps: int, wrong_at_the_end: bool) -> None:
    """Why keep_best exists: an image that was broken is right again, and only the best iterate remembers."""
    x, y = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64), torch.tensor([1])
    for keep_best in (False, True):
        attack = PGD(ThreatModel("Linf", 0.05), steps, 0.018, random_start=False, keep_best=keep_best)
        wrong = Valley()(attack(Valley(), x, y)).argmax(1) != y
        assert bool(wrong) == (wrong_at_the_end or keep_best)


@pytest.mark.parametrize("loss", LABELLED)
@pytest.mark.parametrize("restarts", [1, 3])
def test_leaving_early_changes_no_verdict(loss: str, restarts: int, planted_test: PlantedSet,
                                          network_pair: tuple[SplitClassifier, SplitClassifier]) -> None:
    attack = PGD(ThreatModel("Linf", 2 / 255), 6, restarts=restarts, loss=loss)
    thorough, _ = harm(attack, network_pair[0], planted_test)
    quick, _ = harm(replace(attack, early_exit=True), network_pair[0], planted_test)
    assert 0 < int(thorough.sum()) < len(planted_test)
    assert torch.equal(quick, thorough)


def test_leaving_early_leaves_the_fooled_alone(planted_test: PlantedSet,
                                               network_pair: tuple[SplitClassifier, SplitClassifier]) -> None:
    """A model that is already wrong about an image is not asked for it again."""
    seen = []
    model = network_pair[0]
    hook = model.register_forward_hook(lambda module, arguments, logits: seen.append(len(logits)))
    PGD(ThreatModel("Linf", 8 / 255), 20, early_exit=True)(model, planted_test.x, planted_test.y)
    hook.remove()
    assert seen[0] == len(planted_test)
    assert sum(seen) < 21 * len(planted_test)
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("threat", [ThreatModel("Linf", 0.03), ThreatModel("L2", 0.5)], ids=str)
def test_a_targeted_attack_equals_foolbox_and_reaches_its_class(
        threat: ThreatModel, planted_test: PlantedSet, network_pair: tuple[SplitClassifier, SplitClassifier]) -> None:
    model, x, wanted = network_pair[0], planted_test.x[:64], (planted_test.y[:64] + 1) % 10
    ours = PGD(threat, 10, threat.eps / 4, random_start=False, keep_best=False, targeted=True)
    theirs = (foolbox.attacks.LinfPGD if threat.norm == "Linf" else foolbox.attacks.L2PGD)(
        abs_stepsize=threat.eps / 4, steps=10, random_start=False)
    _, clipped, _ = theirs(foolbox.PyTorchModel(model.eval(), bounds=(0, 1)), x,
                           foolbox.criteria.TargetedMisclassification(wanted), epsilons=threat.eps)
    found = ours(model, x, wanted)
    torch.testing.assert_close(found, clipped, atol=2e-5, rtol=0)
    with torch.no_grad():
        assert (model(found).argmax(1) == wanted).float().mean() > 2 * (model(x).argmax(1) == wanted).float().mean()


def test_dlr_is_scale_and_shift_free_and_follows_its_formula() -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0, 0.0], [-5.0, -1.0, -2.0, -9.0]], dtype=torch.float64)
    y = torch.tensor([0, 2])
    expected = torch.tensor([-(3.0 - 1.0) / (3.0 - 0.0), (-1.0 + 2.0) / (-1.0 + 5.0)], dtype=torch.float64)
    torch.testing.assert_close(LOSSES["dlr"](logits, y), expected)
    torch.testing.assert_close(LOSSES["dlr"](7 * logits - 3, y), expected)
    with pytest.raises(ValueError, match="2 classes, expected at least 3; did you mean 'margin'"):
        LOSSES["dlr"](logits[:, :2], torch.tensor([0, 1]))


def test_a_misclassified_iterate_beats_a_right_one_of_larger_loss() -> None:
    """The step from p = (.45, .50, .05) to (.35, .33, .32) raises the cross-entropy and makes class 0 right again."""
    start, end = (torch.tensor(p, dtype=torch.float64).log() for p in ((0.45, 0.50, 0.05), (0.35, 0.33, 0.32)))

    class OnALine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return start + (x.mean((1, 2, 3)) - 0.5)[:, None] / 0.1 * (end - start)

    x, y, threat = torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0]), ThreatModel("Linf", 0.1)
    last = PGD(threat, 1, 0.1, random_start=False, keep_best=False)(OnALine(), x, y)
    torch.testing.assert_close(last, x + 0.1)  # ascent does lead there
    assert torch.equal(PGD(threat, 1, 0.1, random_start=False)(OnALine(), x, y), x)


@pytest.mark.parametrize("keep_best", [True, False])
def test_restarts_only_help(keep_best: bool, planted_test: PlantedSet,
                            network_pair: tuple[SplitClassifier, SplitClassifier]) -> None:
    threat = ThreatModel("Linf", 2 / 255)
    found = [harm(PGD(threat, 2, 2 / 255, restarts, keep_best=keep_best), network_pair[0], planted_test)
             for restarts in (1, 2, 4, 8)]
    for (wrong, losses), (wrong_later, losses_later) in itertools.pairwise(found):
        assert (wrong_later | ~wrong).all()
        assert (losses_later[~wrong_later] >= losses[~wrong_later] - 1e-4).all()
    assert found[0][0].sum() < found[-1][0].sum()


def test_a_restart_attacks_only_what_is_left(planted_test: PlantedSet,
                                             network_pair: tuple[SplitClassifier, SplitClassifier]) -> None:
    model, attack = network_pair[0], PGD(ThreatModel("Linf", 2 / 255), 2, 2 / 255)
    left = int((~harm(attack, model, planted_test)[0]).sum())
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    try:
        replace(attack, restarts=2)(model, planted_test.x, planted_test.y, torch.Generator().manual_seed(0))
    finally:
        hook.remove()
    assert sizes == [100] * 3 + [left] * 3
    assert 0 < left < 100


# --- labels -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("attack", "label"), [
    (PGD(LINF, 10, 2 / 255), "PGD(L_inf 8/255, 10 steps of 2/255, 1 restart)"),
    (PGD(L2, 1, 0.3, 5, "margin"), "PGD(L2 0.3, 1 step of 0.3, 5 restarts, margin)"),
    (PGD(LINF, 40, random_start=False), "PGD(L_inf 8/255, 40 steps of 0.5/255, no random start)"),
    (FGSM(LINF), "FGSM(L_inf 8/255, 1 step of 8/255, no random start)"),
    (BIM(LINF), "BIM(L_inf 8/255, 10 steps of 1/255, no random start, last iterate)"),
])
def test_repr_is_the_label_of_tables(attack: PGD, label: str) -> None:
    assert repr(attack) == label


def test_repr_tells_settings_apart() -> None:
    attacks = {PGD(threat, steps, size, restarts, loss, random_start, keep_best)
               for threat, steps, size, restarts, loss, random_start, keep_best in itertools.product(
                   (LINF, ThreatModel("Linf", 4 / 255), L2, ThreatModel("L2", 8 / 255)), (1, 5), (None, 1 / 255, 0.01),
                   (1, 3), LOSSES, (True, False), (True, False))
               if random_start or restarts == 1}
    labels: dict[str, PGD] = {}
    for attack in sorted(attacks, key=str):
        assert repr(attack) not in labels, f"{attack!r} is also the label of {vars(labels[repr(attack)])}"
        labels[repr(attack)] = attack


def test_equal_settings_are_equal_values() -> None:
    assert PGD(LINF, 10, 2 / 255) == PGD(ThreatModel("Linf", "8/255"), 10, 2 / 255)  # type: ignore[arg-type]
    assert PGD(LINF, 10) == PGD(LINF, 10, 2.5 * (8 / 255) / 10)
    assert PGD(LINF, 10) != PGD(LINF, 11)
