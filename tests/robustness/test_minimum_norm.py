"""CW against foolbox, against a loop written out per image, and against the closed form of a linear model.

All in float64, where the three agree far below the tolerances stated: 1e-9 per pixel and per distance.
"""

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nbutils.images import PlantedSet
from nbutils.networks import SplitClassifier
from nbutils.robustness import CW, evaluate
from nbutils.robustness.minimum_norm import from_tanh_space, to_tanh_space
from tests.helpers import Scores

with warnings.catch_warnings():  # foolbox uses an old name of scipy
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox

Pair = tuple[SplitClassifier, SplitClassifier]
EXACT = {"rtol": 0.0, "atol": 1e-9}
INWARDS = 3e-5  # L2 norm of the step by which 3,072 pixels are moved inside tanh's range, at most 5e-7 sqrt(3072)


@pytest.fixture(scope="module")
def model(network_pair: Pair) -> SplitClassifier:
    """A trained network in float64."""
    return copy.deepcopy(network_pair[0]).double()


@pytest.fixture(scope="module")
def pixels(planted_test: PlantedSet, model: SplitClassifier) -> tuple[Tensor, Tensor]:
    """Sixteen images, four of them with black and white pixels, labelled as the network sees them but for two."""
    x = planted_test.x[:16].double()
    x[2:6] = (3 * x[2:6] - 1).clamp(0, 1)
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 10
    return x, y


def verdicts(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) == y


def lengths(delta: Tensor) -> Tensor:
    return delta.flatten(1).square().sum(1).sqrt()


# --- foolbox ------------------------------------------------------------------------------------------------------

# values of c that float32 holds exactly, as foolbox rounds them; fewer than ten, for from ten on it repeats the last
ATTACKS = [
    CW(0.125, 40),
    CW(2**-10, 8, 0.02),  # leaves some images right
    CW(2**-10, 8, 0.02, searches=5),
    CW(2**-4, 15, 0.02, searches=9),
    CW(0.125, 30, confidence=2.0),
    CW(2**-6, 20, searches=3, confidence=0.5),
    CW(2**-4, 40, targeted=True),  # reaches some of its classes
    CW(2**-8, 25, searches=4, confidence=1.0, targeted=True),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_equals_foolbox(attack: CW, model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    """Same verdict for every image, and the same images, except that foolbox returns zeros where it found nothing and
    searches also for images that need no search."""
    x, y = pixels[0], (pixels[1] + 3) % 10 if attack.targeted else pixels[1]
    criteria = foolbox.criteria
    criterion = criteria.TargetedMisclassification(y) if attack.targeted else criteria.Misclassification(y)
    theirs = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=attack.searches, steps=attack.steps, stepsize=attack.rate, confidence=attack.confidence,
        initial_const=attack.c, abort_early=False)
    reference = theirs.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, criterion)
    found = attack(model, x, y)
    given_up = (reference == 0).flatten(1).all(1)
    at_once = lengths(reference - x) < INWARDS
    assert (~given_up & ~at_once).sum() >= 6
    torch.testing.assert_close(found[given_up | at_once], x[given_up | at_once], rtol=0, atol=0)
    searched = ~given_up & ~at_once
    torch.testing.assert_close(found[searched], reference[searched], **EXACT)
    torch.testing.assert_close(lengths(found - x)[searched], lengths(reference - x)[searched], **EXACT)
    reached = verdicts(model, reference, y) == attack.targeted
    assert torch.equal((verdicts(model, found, y) == attack.targeted)[~given_up], reached[~given_up])
    if attack.confidence == 0:
        assert reached[~given_up].all()
        assert (verdicts(model, found[given_up], y[given_up]) != attack.targeted).all()


def test_the_comparison_with_foolbox_has_failures_and_successes(model: SplitClassifier,
                                                                pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    assert 0 < verdicts(model, CW(2**-10, 8, 0.02)(model, x, y), y).sum() < 14
    wanted = (y + 3) % 10
    assert 0 < verdicts(model, CW(2**-4, 40, targeted=True)(model, x, wanted), wanted).sum() < 16


# --- a loop written out -------------------------------------------------------------------------------------------

def by_hand(model: nn.Module, x: Tensor, y: int, attack: CW) -> Tensor:
    """One image (3, H, W), one value of c, untargeted: the paper's objective and Adam's update rule."""
    with torch.no_grad():
        logits = model(x[None])[0].tolist()
    if max(value for k, value in enumerate(logits) if k != y) > logits[y] + attack.confidence:
        return x
    w = torch.atanh((1 - 1e-6) * (2 * x - 1))
    start = (torch.tanh(w) + 1) / 2
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    best, shortest = x, math.inf
    for step in range(1, attack.steps + 1):
        w = w.clone().requires_grad_()
        x_adv = (torch.tanh(w) + 1) / 2
        logits = model(x_adv[None])[0]
        rival = torch.cat([logits[:y], logits[y + 1:]]).max()
        gap = logits[y] - rival + attack.confidence
        objective = ((x_adv - start) ** 2).sum() + attack.c * torch.clamp(gap, min=0)
        objective.backward()
        g, w = w.grad, w.detach()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - attack.rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        distance = ((x_adv.detach() - x) ** 2).sum().sqrt().item()
        if gap < 0 and distance < shortest:
            best, shortest = x_adv.detach(), distance
    return best


@pytest.mark.parametrize("attack", [CW(0.1, 30), CW(0.3, 15, 0.05, confidence=1.5)], ids=repr)
def test_equals_a_loop_over_single_images(attack: CW, model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels[0][:8], pixels[1][:8]
    found = attack(model, x, y)
    expected = torch.stack([by_hand(model, image, int(label), attack) for image, label in zip(x, y, strict=True)])
    assert (lengths(found - x) > 0).sum() >= 5
    torch.testing.assert_close(found, expected, **EXACT)


# --- closed form --------------------------------------------------------------------------------------------------

class Plane(nn.Module):
    """Two classes, logits (0, w.x + b) in float64, so that the boundary lies at |w.x + b| / ||w||."""

    def __init__(self, b: float = 4.5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(48, generator=generator, dtype=torch.float64))
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight + self.b
        return torch.stack([torch.zeros_like(score), score], 1)


def test_on_a_linear_model_the_distance_is_that_to_the_boundary() -> None:
    """Interior points, where no pixel reaches 0 or 1: never nearer than the boundary, and within 2 % of it."""
    plane = Plane()
    x = 0.35 + 0.3 * torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = plane(x).argmax(1)
    with torch.no_grad():
        expected = (x.flatten(1) @ plane.weight + plane.b).abs() / plane.weight.norm()
    assert set(y.tolist()) == {0, 1}
    found = CW(1.0, 400, 0.001, searches=9)(plane, x, y)
    assert not verdicts(plane, found, y).any()
    assert ((found > 0.01) & (found < 0.99)).all()
    ratio = lengths(found - x) / expected
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio < 1.02).all(), ratio


@pytest.mark.parametrize("targeted", [False, True])
def test_confidence_is_the_margin_that_is_reached(targeted: bool) -> None:
    """Each unit of confidence costs 1 / ||w|| more; the margin is at least the confidence, and not much more."""
    plane = Plane()
    x = 0.35 + 0.3 * torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    right = plane(x).argmax(1)
    y = 1 - right if targeted else right
    for confidence in (0.5, 1.0):
        found = CW(1.0, 300, 0.005, searches=5, confidence=confidence, targeted=targeted)(plane, x, y)
        with torch.no_grad():
            logits = plane(found)
        reached = (logits.gather(1, 1 - right[:, None]) - logits.gather(1, right[:, None]))[:, 0]
        assert (reached >= confidence).all()
        assert (reached < confidence + 0.03).all(), reached


# --- more values of c ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("c", [2**-10, 1.0, 64.0])
def test_more_values_of_c_never_increase_the_distance(c: float, model: SplitClassifier,
                                                      pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    previous = None
    for searches in (1, 2, 3, 5):
        found = CW(c, 8, searches=searches)(model, x, y)
        fooled = ~verdicts(model, found, y)
        distance = torch.where(fooled, lengths(found - x), torch.inf)
        if previous is not None:
            assert (distance <= previous).all()
        else:
            first = distance
        previous = distance
    assert (distance < first).any()


def test_c_grows_tenfold_until_a_success_and_is_bisected_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images, one broken from c = 30 on and one from c = 3 on: each follows its own search."""
    tried: list[list[float]] = []
    least = torch.tensor([30.0, 3.0])

    def descend(attack: CW, x: Tensor, c: Tensor, loss: object) -> tuple[Tensor, Tensor]:
        tried.append(c.tolist())
        return x, torch.where(c >= least, c, torch.inf)

    monkeypatch.setattr(CW, "_descend", descend)
    x = torch.full((2, 3, 4, 4), 0.5)
    CW(1.0, searches=6)(Plane().float(), x, Plane().float()(x).argmax(1))
    assert [c for c, _ in tried] == [1, 10, 100, 55, 32.5, 21.25]
    assert [c for _, c in tried] == [1, 10, 5.5, 3.25, 2.125, 2.6875]


# --- edges --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", [CW(0.1, 10), CW(2**-8, 6, searches=3)], ids=repr)
def test_an_image_is_attacked_the_same_in_every_batch_and_order(attack: CW, model: SplitClassifier,
                                                                pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    together = attack(model, x, y)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attack(model, x[order], y[order]), together[order], **EXACT)
    for size in (1, 5):
        parts = [attack(model, a, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
        torch.testing.assert_close(torch.cat(parts), together, **EXACT)


def test_all_negative_logits_change_nothing(model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    """A constant added to all logits changes no margin, unless a zero stands for an excluded class."""

    class Sunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) - 1000

    attack = CW(0.1, 10, confidence=0.5)
    expected = attack(model, *pixels)
    assert (lengths(expected - pixels[0]) > 0).sum() >= 6
    torch.testing.assert_close(attack(Sunk(), *pixels), expected, rtol=0, atol=1e-6)


def test_images_already_wrong_come_back_unchanged(model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    wrong = ~verdicts(model, x, y)
    assert wrong[:2].all()
    found = CW(0.1, 20, searches=2)(model, x, y)
    assert torch.equal(found[wrong], x[wrong])
    assert (lengths(found - x)[~wrong] > INWARDS).all()
    reached = CW(0.1, 20, targeted=True)(model, x, model(x).argmax(1))
    assert torch.equal(reached, x)


def test_images_wrong_by_less_than_the_confidence_are_still_attacked() -> None:
    plane = Plane()
    x = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    margin = (plane(x)[0, 1] - plane(x)[0, 0]).item()
    wrong = torch.tensor([int(margin < 0)])
    assert torch.equal(CW(1.0, 50, confidence=0.9 * abs(margin))(plane, x, wrong), x)
    assert not torch.equal(CW(1.0, 50, confidence=1.1 * abs(margin))(plane, x, wrong), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_space_is_finite_at_black_and_white_and_exact_inside(dtype: torch.dtype) -> None:
    x = torch.linspace(0, 1, 101, dtype=dtype)
    w = to_tanh_space(x)
    assert torch.isfinite(w).all()
    torch.testing.assert_close(from_tanh_space(w), x, rtol=0, atol=1e-6)
    inside = (torch.tanh(w.double()) + 1) / 2
    assert ((inside > 0) & (inside < 1)).all()


def test_black_and_white_images_can_be_attacked(model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    """At 0 and 1 the slope of tanh is about 1e-6, and Adam takes full steps all the same."""
    x = pixels[0].round()
    y = model(x).argmax(1)
    found = CW(10.0, 60)(model, x, y)
    assert not verdicts(model, found, y).any()
    assert ((found >= 0) & (found <= 1)).all()
    assert (lengths(found - x) > INWARDS).all()


def test_images_that_resist_come_back_unchanged_and_nothing_is_written_to(model: SplitClassifier,
                                                                          pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    before = x.clone()
    found = CW(2**-10, 1)(model, x, y)  # the only image it looks at is the clean one
    assert torch.equal(found, x)
    assert found.data_ptr() != x.data_ptr()
    found.zero_()
    assert torch.equal(x, before)


def test_model_and_random_state_are_left_as_they_were(pixels: tuple[Tensor, Tensor], network_pair: Pair) -> None:
    model = copy.deepcopy(network_pair[0]).double().train()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    for index, parameter in enumerate(parameters[1:-1]):
        parameter.grad = torch.full_like(parameter, index)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        found = CW(0.1, 3, searches=2)(model, *pixels)
        assert not torch.is_grad_enabled()
    assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)
    assert parameters[-1].grad is None
    for index, parameter in enumerate(parameters[1:-1]):
        assert torch.equal(parameter.grad, torch.full_like(parameter, index))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(found, CW(0.1, 3, searches=2)(model.eval(), *pixels))  # it saw evaluation mode


# --- properties ---------------------------------------------------------------------------------------------------

@given(classes=st.sampled_from([2, 3, 10, 200]), batch=st.sampled_from([0, 1, 5]), targeted=st.booleans(),
       dtype=st.sampled_from([torch.float32, torch.float64]), saturated=st.booleans(), searches=st.integers(1, 3),
       confidence=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 100))
def test_images_are_pixels_and_each_is_adversarial_or_unchanged(
        classes: int, batch: int, targeted: bool, dtype: torch.dtype, saturated: bool, searches: int,
        confidence: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = Scores(classes, dtype)
    x = torch.rand(batch, 3, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    x = x.round() if saturated else x
    y = torch.randint(classes, (batch,), generator=generator)
    found = CW(1.0, 6, 0.3, searches, confidence, targeted)(model, x, y)
    assert found.shape == x.shape
    assert found.dtype == dtype
    assert ((found >= 0) & (found <= 1)).all()
    with torch.no_grad():
        logits = model(found).double()
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1) if batch else own
    margin = own - others if targeted else others - own
    unchanged = (found == x).flatten(1).all(1)
    assert (unchanged | (margin >= confidence - 1e-4)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_said(bad: float) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum((1, 2, 3)), torch.full((len(x),), bad)], 1)

    with pytest.raises(ValueError, match=rf"CW: the logits are not finite \({bad}\); expected"):
        CW(steps=2)(Broken(), torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 0]))


def test_outcomes_report_the_distances(network_pair: Pair, planted_test: PlantedSet) -> None:
    attack = CW(0.1, 20)
    outcome = evaluate(network_pair[0], planted_test, attack)
    found = attack(network_pair[0], planted_test.x, planted_test.y)
    assert (outcome.threat, outcome.attack) == ("unbounded", "CW(unbounded L2, 20 steps of Adam 0.1, c = 0.1)")
    torch.testing.assert_close(outcome.l2, lengths(found - planted_test.x), rtol=1e-4, atol=1e-6)
    assert torch.equal(outcome.l2 == 0, outcome.correct | ~verdicts(network_pair[0], planted_test.x, planted_test.y))


def test_repr_tells_settings_apart() -> None:
    attack = CW()
    changed = [attack, replace(attack, c=1.0), replace(attack, steps=10), replace(attack, rate=0.01),
               replace(attack, searches=9), replace(attack, confidence=1.0), replace(attack, targeted=True)]
    assert len({repr(each) for each in changed}) == len(changed)
    assert repr(CW(0.5, 10, 0.01, 9, 2.0, True)) == (
        "CW(unbounded L2, 10 steps of Adam 0.01, 9 values of c from 0.5, confidence 2, targeted)")
