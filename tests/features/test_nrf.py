"""NRF against CW, against its two terms written out, and what its masks and its ball promise. All in float64."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nbutils import networks
from nbutils.features import NRF, Bottleneck, distill, random_masks
from nbutils.images import PlantedSet
from nbutils.networks import GlobalAveragePool, Normalize, SplitClassifier
from nbutils.robustness import CW, ThreatModel, evaluate
from nbutils.robustness.minimum_norm import from_tanh_space
from nbutils.robustness.threat import NORMS
from tests.helpers import assert_one_line

AT = "block4.bn"
QUICK = Bottleneck(iterations=30)
ATTACK = NRF(0.1, 20, at=AT, bottleneck=QUICK)
Pair = tuple[SplitClassifier, SplitClassifier]
EXACT = {"rtol": 0.0, "atol": 1e-9}


@pytest.fixture(scope="module")
def model(network_pair: Pair) -> SplitClassifier:
    return copy.deepcopy(network_pair[0]).double()


@pytest.fixture(scope="module")
def pixels(planted_test: PlantedSet, model: SplitClassifier) -> tuple[Tensor, Tensor]:
    x = planted_test.x[:10].double()
    return x, model(x).argmax(1)


def curved() -> SplitClassifier:
    """Softplus and tanh after the cut: the gradient of a margin changes from point to point."""
    torch.manual_seed(0)
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        normalize=Normalize(), conv=nn.Conv2d(3, 8, 5, 4), soft=nn.Softplus(), mix=nn.Conv2d(8, 8, 1), tanh=nn.Tanh(),
        pool=GlobalAveragePool(), linear=nn.Linear(8, 5))
    return SplitClassifier(stages, "curved").double().requires_grad_(False)


def moved(x_adv: Tensor, x: Tensor) -> Tensor:
    return (x_adv != x).flatten(1).any(1)


# --- against CW -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cw", [CW(0.1, 30), CW(0.01, 10, searches=3, confidence=0.5), CW(0.1, 10, targeted=True)],
                         ids=repr)
def test_without_channels_it_is_cw(cw: CW, model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    y = (y + 1) % 10 if cw.targeted else y
    expected = cw(model, x, y)
    for second_order in (False, True):
        found = NRF(**vars(cw), at=AT, channels="none", second_order=second_order)(model, x, y)
        torch.testing.assert_close(found, expected, **EXACT)
    assert moved(expected, x).any()


def test_equation_8_is_cw_where_the_network_is_linear_in_pieces(model: SplitClassifier,
                                                                pixels: tuple[Tensor, Tensor]) -> None:
    expected = CW(0.1, 20)(model, *pixels)
    for magnitude in ("up", "down"):
        found = replace(ATTACK, second_order=True, magnitude=magnitude)(model, *pixels)
        torch.testing.assert_close(found, expected, **EXACT)
    assert not torch.allclose(ATTACK(model, *pixels), expected, atol=1e-3)


# --- the two forms of the extra term ----------------------------------------------------------------------------------

def written_out(model: SplitClassifier, attack: NRF, x: Tensor, y: Tensor, x_adv: Tensor, c: Tensor) -> Tensor:
    """Objectives (B,) without the distance, one image at a time: lines of section 4 and the released distance."""
    mask, rows = attack.mask(model, x, y), []
    for row in range(len(x)):
        z = model.features(x_adv[row:row + 1], attack.at)
        logits = model.logits_from(z, attack.at)[0]
        others = torch.cat([logits[: y[row]], logits[y[row] + 1:]])
        base = c[row] * (logits[y[row]] - others.max()).clamp_min(0)
        (g,) = torch.autograd.grad(base, z, create_graph=True)
        g = g * mask.expand(len(x), -1)[row].view(1, -1, 1, 1)
        up = 1 if attack.magnitude == "up" else -1
        extra = -g.norm() if attack.second_order else torch.dist(z, z.detach() - g.detach())
        rows.append(base + up * extra)
    return torch.stack(rows)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("channels", ["all", "random", "robust", "non-robust"])
@pytest.mark.parametrize("magnitude", ["up", "down"])
def test_the_gradient_is_that_of_the_terms_written_out(second_order: bool, channels: str, magnitude: str) -> None:
    network, x = curved(), torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    y = network(x).argmax(1)
    attack = replace(ATTACK, at="conv", second_order=second_order, channels=channels, magnitude=magnitude)
    x_adv = (x + 0.02).requires_grad_()
    c = torch.linspace(0.1, 2, 6).double()
    value, fooled = attack.penalty(network, x, y)(x_adv, c)
    expected = written_out(network, attack, x, y, x_adv, c)
    (found,), (wanted,) = (torch.autograd.grad(objective.sum(), x_adv, retain_graph=True)
                           for objective in (value, expected))
    assert not fooled.all()
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, **EXACT)
    if second_order:
        torch.testing.assert_close(value, expected, **EXACT)


def test_the_second_order_gradient_is_the_numerical_one() -> None:
    """Central differences of 1e-6: error about 1e-9, asked 1e-6; the first-order part alone is far from it."""
    network, x = curved(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    y = network(x).argmax(1)
    loss = replace(ATTACK, at="conv", second_order=True).penalty(network, x, y)
    c = torch.ones(2).double()
    x_adv = (x + 0.01).requires_grad_()
    (found,) = torch.autograd.grad(loss(x_adv, c)[0].sum(), x_adv)
    (plain,) = torch.autograd.grad(CW().penalty(network, x, y)(x_adv, c)[0].sum(), x_adv)
    for seed in range(4):
        step = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
        ends = [loss((x_adv + side * step).detach().requires_grad_(), c)[0].sum() for side in (1, -1)]
        numerical = ((ends[0] - ends[1]) / 2e-6).item()
        assert (found * step).sum().item() / 1e-6 == pytest.approx(numerical, abs=1e-6)
        assert abs((plain * step).sum().item() / 1e-6 - numerical) > 1e-3


def test_the_norm_over_the_batch_is_one_number() -> None:
    network, x = curved(), torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    y, c = network(x).argmax(1), torch.ones(3).double()
    per_image, whole = (replace(ATTACK, at="conv", second_order=True, channels="all", norm_over=over)
                        .penalty(network, x, y)(x.clone().requires_grad_(), c)[0] for over in ("image", "batch"))
    gap = CW().penalty(network, x, y)(x, c)[0]
    lengths = gap - per_image
    assert (gap - whole).sum().item() == pytest.approx(lengths.square().sum().sqrt().item(), abs=1e-12)


def test_with_all_channels_it_is_cw_at_a_higher_price(model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels[0].clone().requires_grad_(), pixels[1]
    z = model.features(x, AT)
    (g,) = torch.autograd.grad(CW().gap(model.logits_from(z, AT), y)[0].sum(), z)
    c = torch.linspace(0.1, 2, len(x)).double()
    for magnitude, sign in (("up", 1), ("down", -1)):
        value, _ = replace(ATTACK, channels="all", magnitude=magnitude).penalty(model, x, y)(x, c)
        priced, _ = CW().penalty(model, x, y)(x, c + sign / g.flatten(1).norm(dim=1))
        (found,), (wanted,) = (torch.autograd.grad(total.sum(), x) for total in (value, priced))
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(found, wanted, **EXACT)


# --- masks ------------------------------------------------------------------------------------------------------------

def test_masks_are_those_of_the_clean_images(model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    robust = distill(model, *pixels, AT, QUICK).robust
    masks = {channels: replace(ATTACK, channels=channels).mask(model, *pixels)
             for channels in ("none", "all", "random", "random-as-robust", "robust", "non-robust")}
    assert torch.equal(masks["robust"], robust)
    assert torch.equal(masks["non-robust"], ~robust)
    assert torch.equal(masks["random"].sum(1), (~robust).sum(1))
    assert not torch.equal(masks["random"], ~robust)
    assert torch.equal(masks["random-as-robust"].sum(1), robust.sum(1))
    assert not torch.equal(masks["random-as-robust"], robust)
    assert masks["all"].all()
    assert not masks["none"].any()
    seeded = replace(QUICK, seed=1)
    chosen = ~distill(model, *pixels, AT, seeded).robust
    drawn = replace(ATTACK, channels="random", bottleneck=seeded).mask(model, *pixels)
    assert torch.equal(drawn, random_masks(chosen, pixels[0], seed=1))


def test_up_attacks_and_down_protects(model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    """The order of Table 4, for either kind of channels; CW stands between."""
    cw = moved(CW(0.02, 20)(model, *pixels), pixels[0]).sum()
    for channels in ("non-robust", "all"):
        up, down = (moved(replace(ATTACK, c=0.02, channels=channels, magnitude=magnitude)(model, *pixels), pixels[0])
                    .sum() for magnitude in ("up", "down"))
        assert up > cw > down or (up == cw == 10 and down < cw) or (up > cw == down == 0)


# --- what an attack promises ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", [ATTACK, replace(ATTACK, channels="random"), replace(ATTACK, second_order=True),
                                    replace(ATTACK, within=ThreatModel("L2", 0.3))], ids=repr)
def test_an_image_is_attacked_the_same_in_every_batch_and_order(attack: NRF, model: SplitClassifier,
                                                                pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    whole = attack(model, x, y)
    order = torch.tensor([7, 2, 4])
    torch.testing.assert_close(attack(model, x[order], y[order]), whole[order], **EXACT)
    torch.testing.assert_close(attack(model, x[2:3], y[2:3]), whole[2:3], **EXACT)


def test_a_norm_over_the_batch_makes_images_depend_on_each_other(model: SplitClassifier,
                                                                 pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    attack = replace(ATTACK, norm_over="batch")
    assert not torch.allclose(attack(model, x, y)[:1], attack(model, x[:1], y[:1]), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.01, 0.2])
def test_the_bounded_search_stays_inside_and_uses_the_ball(norm: str, eps: float, model: SplitClassifier,
                                                           pixels: tuple[Tensor, Tensor]) -> None:
    x, y = pixels
    threat = ThreatModel(norm, eps)
    seen: list[Tensor] = []
    behind: list[Tensor] = []

    class Watched(NRF):
        def image(self, w: Tensor, x: Tensor) -> Tensor:
            found = super().image(w, x)
            seen.append(found.detach() - x)
            behind.append(from_tanh_space(w.detach()) - x)
            return found

    attack = Watched(**vars(replace(ATTACK, within=threat)))
    x_adv = attack(model, x, y)
    assert max(threat.distance(delta).max().item() for delta in seen) <= eps + 1e-6
    assert max(threat.distance(delta).max().item() for delta in behind) <= eps + 1e-4  # w does not walk away
    assert max(threat.distance(delta).max().item() for delta in seen) > 0.9 * min(eps, 0.05)
    assert threat.distance(x_adv - x).max() <= eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (model(x_adv).argmax(1) != y)[moved(x_adv, x)].all()


def test_no_radius_no_change(model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    attack = replace(ATTACK, within=ThreatModel("Linf", 0))
    assert torch.equal(attack(model, *pixels), pixels[0])


def test_black_and_white_images_can_be_attacked(model: SplitClassifier, pixels: tuple[Tensor, Tensor]) -> None:
    x = pixels[0].round()
    y = model(x).argmax(1)
    for attack in (replace(ATTACK, steps=100), replace(ATTACK, steps=100, within=ThreatModel("Linf", 0.1))):
        x_adv = attack(model, x, y)
        assert moved(x_adv, x).any()
        assert torch.isfinite(x_adv).all()


def test_model_and_random_state_are_left_as_they_were(pixels: tuple[Tensor, Tensor], network_pair: Pair) -> None:
    model = copy.deepcopy(network_pair[0]).double().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.no_grad():
        for attack in (ATTACK, replace(ATTACK, second_order=True)):
            attack(model, *pixels)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_outcomes_carry_the_threat(network_pair: Pair, planted_test: PlantedSet) -> None:
    images, quick = planted_test.take(8), replace(ATTACK, steps=5)
    assert evaluate(network_pair[0], images, quick).threat == "unbounded"
    inside = evaluate(network_pair[0], images, replace(quick, within=ThreatModel("Linf", 8 / 255)))
    assert inside.threat == "L_inf 8/255"
    assert inside.linf.max() <= 8 / 255 + 1e-6


def test_repr_tells_settings_apart() -> None:
    attacks = [NRF(at=AT), NRF(at="block3.bn"), NRF(at=AT, channels="all"), NRF(at=AT, magnitude="down"),
               NRF(at=AT, second_order=True), NRF(at=AT, norm_over="batch"), NRF(at=AT, within=ThreatModel("L2", 1)),
               NRF(at=AT, bottleneck=QUICK), NRF(0.2, at=AT), NRF(at=AT, steps=10)]
    assert len({repr(attack) for attack in attacks}) == len(attacks)
    assert repr(attacks[0]) == ("NRF(unbounded L2, 200 steps of Adam 0.1, c = 0.1, non-robust channels at block4.bn, "
                                "gradient up)")
    assert "NRF(L2 1, " in repr(attacks[6])


class Broken(SplitClassifier):
    def logits_from(self, z: Tensor, at: str) -> Tensor:
        return super().logits_from(z, at) * torch.nan


@pytest.mark.parametrize(("call", "words"), [
    (lambda: NRF(at=AT, channels="nonrobust"), ("channels = 'nonrobust'", "did you mean 'non-robust'")),
    (lambda: NRF(at=AT, magnitude="upp"), ("magnitude = 'upp'", "did you mean 'up'")),
    (lambda: NRF(at=AT, norm_over="images"), ("norm_over = 'images'", "did you mean 'image'")),
    (lambda: NRF(at=AT, steps=0), ("steps = 0", ">= 1")),
    (lambda: NRF(at="block4.b")(networks.build("small"), torch.rand(2, 3, 32, 32), torch.tensor([0, 1])),
     ("cut = 'block4.b'", "did you mean 'block4.bn'")),
    (lambda: NRF(at="nowhere", channels="all")(networks.build("small"), torch.rand(2, 3, 32, 32), torch.tensor([0, 1])),
     ("cut = 'nowhere'", "expected one of")),
    (lambda: NRF(at=AT)(nn.Flatten(), torch.rand(2, 3, 8, 8), torch.tensor([0, 1])), ("Flatten", "SplitClassifier")),
    (lambda: NRF(at="conv", channels="all")(Broken(dict(zip(curved().cuts, curved().stages, strict=True)), "broken"),
                                            torch.rand(2, 3, 16, 16).double(), torch.tensor([0, 1])),
     ("NRF: the logits are not finite", "nan")),
])
def test_bad_input_is_one_line(call: Callable[[], object], words: tuple[str, ...]) -> None:
    assert_one_line(call, words)
