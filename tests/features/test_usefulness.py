"""Usefulness: closed forms against searches and large draws."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils import networks
from nbutils.features import (
    LinearFeature,
    OneFeature,
    channel_usefulness,
    class_weights,
    matched_filter,
    population_usefulness,
    robust_channel_usefulness,
    scene_response,
    tile_projections,
    usefulness,
    variance_explained,
)
from nbutils.images import ImageSet, PlantedSet, PlantedWorld
from nbutils.networks import GlobalAveragePool, SplitClassifier
from nbutils.robustness import PGD, ThreatModel
from nbutils.robustness.attacks import margin


def random_images(n: int, low: float, high: float, classes: int = 2, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    x = low + (high - low) * torch.rand(n, 3, 6, 6, generator=generator)
    return ImageSet(x, torch.arange(n) % classes, tuple("abcdefghij"[:classes]), "random")


class TwoLogits(nn.Module):
    """The linear feature as a classifier of rest (0) and target (1)."""

    def __init__(self, feature: LinearFeature) -> None:
        super().__init__()
        self.feature = feature
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.name, self.key = "linear", ""

    def forward(self, x: Tensor) -> Tensor:
        half = self.scale * self.feature(x) / 2
        return torch.stack([-half, half], 1)


def test_both_sides_weigh_half() -> None:
    signs, weights = class_weights(torch.tensor([2, 0, 1, 2, 2, 0]), 2)
    assert signs.tolist() == [1, -1, -1, 1, 1, -1]
    torch.testing.assert_close(weights, torch.tensor([1, 1, 1, 1, 1, 1]) / 6)
    _, weights = class_weights(torch.tensor([0, 1, 1, 1]), 0)
    torch.testing.assert_close(weights, torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]))


def test_a_fitted_feature_has_mean_0_and_variance_1() -> None:
    images = random_images(50, 0, 1, classes=5)
    feature = LinearFeature.fitted(torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1)), images, 3)
    value = feature(images.x)
    sides = value[images.y == 3], value[images.y != 3]
    assert sum(side.mean().item() for side in sides) / 2 == pytest.approx(0, abs=1e-6)
    assert sum((side**2).mean().item() for side in sides) / 2 == pytest.approx(1, rel=1e-5)
    # E[y f] with both sides weighing the same is half the distance of their means
    clean = feature.robust_usefulness(images, ThreatModel("Linf", 0))
    assert clean == pytest.approx((sides[0].mean() - sides[1].mean()).item() / 2, rel=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.0), ("Linf", 0.03), ("Linf", 0.3), ("L2", 0.0), ("L2", 0.1)])
def test_the_worst_case_is_what_pgd_finds(norm: str, eps: float) -> None:
    """Linf over the whole pixel range, L2 where no pixel reaches 0 or 1."""
    images = random_images(30, 0, 1) if norm == "Linf" else random_images(30, 0.3, 0.7)
    threat = ThreatModel(norm, eps)
    feature = LinearFeature.fitted(torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1)), images, 1)
    signs = torch.where(images.y == 1, 1.0, -1.0)
    found = PGD(threat, 5, loss="margin", random_start=False)(TwoLogits(feature), images.x, images.y)
    torch.testing.assert_close(feature.worst_case(images.x, signs, threat), signs * feature(found), rtol=0, atol=1e-4)


def test_the_l2_worst_case_is_a_lower_bound_at_saturated_pixels() -> None:
    images = random_images(30, 0, 1, seed=2)
    saturated = ImageSet(images.x.round(), images.y, images.classes, "black and white")
    feature = LinearFeature.fitted(torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1)), saturated, 1)
    threat, signs = ThreatModel("L2", 0.5), torch.where(images.y == 1, 1.0, -1.0)
    found = PGD(threat, 50, loss="margin")(TwoLogits(feature), saturated.x, images.y, torch.Generator().manual_seed(0))
    assert (feature.worst_case(saturated.x, signs, threat) < signs * feature(found)).all()


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 0.4)])
def test_the_closed_form_is_the_worst_case_inside_the_pixel_range(norm: str, eps: float) -> None:
    """E[y f] falls by eps times the dual norm of the weight over the standard deviation (Goh 2019)."""
    weight = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1))
    inside, threat = random_images(40, 0.2, 0.8, classes=4), ThreatModel(norm, eps)
    feature = LinearFeature.fitted(weight, inside, 2)
    exact = feature.robust_usefulness(inside, threat)
    assert feature.closed_form(inside, threat) == pytest.approx(exact, abs=1e-5)
    if norm == "Linf":  # the range of pixels takes room from the adversary
        everywhere = random_images(40, 0, 1, classes=4)
        feature = LinearFeature.fitted(weight, everywhere, 2)
        assert feature.closed_form(everywhere, threat) < feature.robust_usefulness(everywhere, threat) - 0.01


@pytest.fixture(scope="module", params=[PlantedWorld(), PlantedWorld(amplitude=8 / 255, rho=0.5, period=8, seed=2)],
                ids=["rho .95", "rho .5"])
def large_draws(request: pytest.FixtureRequest) -> tuple[PlantedSet, PlantedSet]:
    """Two independent draws of 4,000."""
    return request.param.draw(4000, seed=1), request.param.draw(4000, seed=2)


@pytest.mark.parametrize("target", [0, 6])
def test_population_usefulness_is_what_a_large_draw_tends_to(target: int,
                                                             large_draws: tuple[PlantedSet, PlantedSet]) -> None:
    """A draw holds 400 images of the class and 3,600 others. Within a side the variance is 1 - u^2 <= .71, so the
    standard error of u = E[y f] is at most .5 sqrt(.71 / 400) + .5 sqrt(.71 / 3600) = .028; we allow three."""
    images, others = large_draws
    world, scene = images.world, scene_response(others, target)
    feature = LinearFeature.fitted(matched_filter(world, target), images, target)
    for eps in (0, world.amplitude / 2, world.amplitude):
        measured = feature.robust_usefulness(images, ThreatModel("Linf", eps))
        assert measured == pytest.approx(population_usefulness(world, target, eps, scene), abs=0.085)
    assert population_usefulness(world, target, 0, scene) > 0.5


def test_population_usefulness_without_scene_is_elementary() -> None:
    """With rho = 1 and no scene the response is one of ten known numbers; weigh them by hand."""
    world, target, eps = PlantedWorld(rho=1.0), 3, 1 / 255
    response = world.amplitude * (world.tiles[target] * world.tiles).flatten(1).double().mean(1)
    others = torch.cat([response[:target], response[target + 1:]])
    mean = (response[target] + others.mean()) / 2
    std = ((response[target] - mean) ** 2 / 2 + ((others - mean) ** 2).mean() / 2).sqrt()
    expected = ((response[target] - others.mean()) / 2 - eps) / std
    found = population_usefulness(world, target, eps, torch.zeros(2, 2))
    assert found == pytest.approx(expected.item(), rel=1e-6)


def test_scene_response_is_mean_and_variance_by_side() -> None:
    images = PlantedWorld().draw(300, seed=4)
    pattern = images.world.patterns[5].double()
    response = ((images.base.double() + images.noise.double()) * pattern).mean((1, 2, 3))
    found = scene_response(images, 5)
    for row, side in enumerate((response[images.shape == 5], response[images.shape != 5])):
        assert found[row, 0].item() == pytest.approx(side.mean().item(), abs=1e-7)
        assert found[row, 1].item() == pytest.approx(side.var(correction=0).item(), rel=1e-3)


def test_the_matched_filter_reads_the_amplitude() -> None:
    """It removes flat colour altogether and has l1 norm 1, so eps can lower its response by eps at most."""
    world = PlantedWorld()
    weight = matched_filter(world, 2)
    assert weight.abs().sum().item() == pytest.approx(1, abs=1e-5)
    assert ((0.5 + world.amplitude * world.patterns[2]) * weight).sum().item() == pytest.approx(4 / 255, abs=1e-6)


# --- a network's feature ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", [0, 4, 9])
def test_usefulness_is_that_of_the_logit_minus_the_largest_other(target: int, planted_test: PlantedSet) -> None:
    model = networks.build("small", 10, seed=1).eval()
    with torch.no_grad():
        logits = model(planted_test.x).double()
    f = [row[target] - max(value for k, value in enumerate(row) if k != target) for row in logits.tolist()]
    expected, _ = channel_usefulness(torch.tensor(f)[:, None], planted_test.y, 10)
    assert usefulness(model, planted_test, target) == pytest.approx(expected[target, 0].item(), abs=1e-5)


@pytest.mark.parametrize("eps", [0.0, 0.02, 0.1])
def test_usefulness_of_a_linear_network_is_that_of_the_linear_feature(eps: float) -> None:
    images, threat = random_images(40, 0, 1), ThreatModel("Linf", eps)
    feature = LinearFeature.fitted(torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1)), images, 1)
    attack = PGD(threat, 10, loss="margin") if eps else None
    found = usefulness(TwoLogits(feature), images, 1, attack)  # type: ignore[arg-type]
    assert found == pytest.approx(feature.robust_usefulness(images, threat), abs=1e-4)


def test_usefulness_leaves_a_model_in_training_mode_as_it_was(planted_test: PlantedSet) -> None:
    model = networks.build("small", 10, seed=1)
    expected = usefulness(model.eval(), planted_test, 2)
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert usefulness(model, planted_test, 2) == pytest.approx(expected, rel=1e-9)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_seed_decides_the_random_start(planted_test: PlantedSet) -> None:
    model, images = networks.build("small", 10, seed=1).eval(), planted_test.take(20)
    target, attack = int(images.y[0]), PGD(ThreatModel("Linf", 0.02), 1, loss="margin", keep_best=False)
    first, again, other = (usefulness(model, images, target, attack, seed) for seed in (0, 0, 1))
    assert first == again != other


# --- tiles in a perturbation --------------------------------------------------------------------------------------

@pytest.mark.parametrize("period", [4, 16])
def test_projections_recover_a_planted_tile(period: int) -> None:
    world = PlantedWorld(period=period)
    amplitudes = torch.tensor([0.01, -0.02, 0.0]).view(3, 1, 1, 1)
    planted = torch.tensor([2, 7, 0])
    found = tile_projections(amplitudes * world.patterns[planted], world)
    flat = world.tiles.flatten(1)
    expected = amplitudes.view(3, 1) * (flat[planted] @ flat.T) / flat.shape[1]
    assert found.shape == (3, 10)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[torch.arange(3), planted], amplitudes.flatten(), rtol=0, atol=1e-6)
    assert found[:2].abs().argmax(1).tolist() == [2, 7]


def test_projections_ignore_smooth_perturbations() -> None:
    world = PlantedWorld()
    blocky = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 2)
    delta = blocky.repeat_interleave(2, 3) - 0.5
    torch.testing.assert_close(tile_projections(delta, world), torch.zeros(4, 10), rtol=0, atol=1e-6)


# --- features of channels ---------------------------------------------------------------------------------------------

def linear_channels(weights: Tensor) -> SplitClassifier:
    """A classifier whose channels are linear in the pixels and positive, so that its ReLU does nothing."""
    conv = nn.Conv2d(3, len(weights), 6)
    with torch.no_grad():
        conv.weight.copy_(weights)
        conv.bias.fill_(10.0)
    stages = {"conv": conv, "relu": nn.ReLU(), "pool": GlobalAveragePool(), "linear": nn.Linear(len(weights), 3)}
    return SplitClassifier(stages, "linear channels").eval()


def with_a_class_in_the_first_pixel(n: int, seed: int) -> ImageSet:
    """Three classes; pixels in [.3, .7], so that no attack of radius .1 reaches the end of the range."""
    images = random_images(n, 0.3, 0.6, classes=3, seed=seed)
    images.x[:, 0, 0, 0] += 0.1 * (images.y == 1)
    return images


def test_usefulness_of_channels_is_that_of_linear_features() -> None:
    images = random_images(40, 0, 1, classes=4)
    weights = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    found, std = channel_usefulness(images.x.flatten(1) @ weights.flatten(1).T, images.y, 4)
    for target in range(4):
        for k, weight in enumerate(weights):
            feature = LinearFeature.fitted(weight, images, target)
            assert found[target, k].item() == pytest.approx(feature.robust_usefulness(images, ThreatModel("Linf", 0)),
                                                            abs=1e-5)
            assert std[target, k].item() == pytest.approx(feature.std, rel=1e-5)


def test_a_dead_channel_and_a_missing_class_have_no_usefulness() -> None:
    values = torch.stack([torch.full((6,), 3.0), torch.arange(6.0)], 1)
    found, _ = channel_usefulness(values, torch.tensor([0, 0, 0, 1, 1, 1]), 3)
    assert found.isfinite().tolist() == [[False, True], [False, True], [False, False]]


def test_robust_usefulness_of_a_linear_channel_is_the_closed_form() -> None:
    """One signed step that crosses the ball reaches the worst corner, whatever the random start (seeds 0 and 1)."""
    weights = 0.1 * torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    weights[:, 0, 0, 0] = torch.tensor([3.0, -3.0, 0.5, 1.0])  # for class 1, and against it
    images, train = with_a_class_in_the_first_pixel(60, 0), with_a_class_in_the_first_pixel(60, 1)
    threat = ThreatModel("Linf", 0.1)
    attack = PGD(threat, 1, 0.2, loss="margin")
    rho, gamma = robust_channel_usefulness(linear_channels(weights), images, images.take(12), train, attack)
    for k, weight in enumerate(weights):
        best, _ = channel_usefulness((train.x.flatten(1) @ weight.flatten())[:, None], train.y, 3)
        target = int(best.abs().argmax())
        sign = best[target, 0].sign()
        feature = LinearFeature.fitted(sign * weight, images, target)
        assert rho[k].item() == pytest.approx(feature.robust_usefulness(images, ThreatModel("Linf", 0)), abs=1e-3)
        assert gamma[k].item() == pytest.approx(feature.closed_form(images, threat), abs=1e-3)
    assert (rho[:2] > 0.4).all()  # also the one that speaks against its class


def test_a_channel_against_its_class_is_attacked_the_other_way() -> None:
    """Softplus of minus three times one pixel: it rises less than it falls, so the two directions differ."""
    eps, images = 0.1, with_a_class_in_the_first_pixel(60, 0)
    model = linear_channels(torch.zeros(1, 3, 6, 6))
    with torch.no_grad():
        model.stages[0].weight[0, 0, 0, 0] = -3.0  # type: ignore[index,operator]
        model.stages[0].bias.zero_()  # type: ignore[operator,union-attr]
    model.stages[1] = nn.Softplus(beta=10)
    clean, up, down = (F.softplus(-3 * (images.x[:, 0, 0, 0].double() + shift), beta=10) for shift in (0, -eps, eps))
    member = images.y == 1
    means = clean[member].mean(), clean[~member].mean()
    std = sum((clean[side] - sum(means) / 2).square().mean() for side in (member, ~member)).div(2).sqrt()
    rho, gamma = robust_channel_usefulness(model, images, images, images, PGD(ThreatModel("Linf", eps), 1, 2 * eps,
                                                                              loss="margin"))
    assert rho.item() == pytest.approx(((means[1] - means[0]) / 2 / std).item(), abs=1e-4)
    assert gamma.item() == pytest.approx(((down[~member].mean() - up[member].mean()) / 2 / std).item(), abs=1e-4)


def test_the_class_of_a_channel_is_chosen_on_other_images() -> None:
    """Those other images call class 2 what the judged ones call class 1, so the channel is judged for class 2."""
    weight = torch.zeros(1, 3, 6, 6)
    weight[0, 0, 0, 0] = 1.0
    images = with_a_class_in_the_first_pixel(60, 0)
    other = replace(images, y=torch.tensor([0, 2, 1])[images.y])
    rho, _ = robust_channel_usefulness(linear_channels(weight), images, images.take(12), other,
                                       PGD(ThreatModel("Linf", 0.1), 1, loss="margin"))
    values = images.x.flatten(1) @ weight[0].flatten()
    mine = channel_usefulness(values[:, None], images.y, 3)[0][2, 0]
    assert rho.item() == pytest.approx(mine.item(), abs=1e-3)
    assert rho.item() < 0


def test_channels_are_attacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = with_a_class_in_the_first_pixel(12, 0)
    weights = 0.1 * torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    arguments = linear_channels(weights), images, images, images, PGD(ThreatModel("Linf", 0.1), 1, loss="margin")
    first = robust_channel_usefulness(*arguments)
    calls: list[Tensor] = []
    monkeypatch.setattr(OneFeature, "forward", lambda self, x: calls.append(x))
    for before, after in zip(first, robust_channel_usefulness(*arguments), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert not calls


@pytest.mark.parametrize("change", ["model", "images", "few", "chosen_on", "attack", "seed"])
def test_with_another_input_channels_are_attacked_anew(change: str, own_build: Path) -> None:
    images, others = (with_a_class_in_the_first_pixel(6, seed) for seed in (0, 1))
    attack = PGD(ThreatModel("Linf", 0.1), 1, loss="margin")
    given: dict[str, Any] = {"model": linear_channels(torch.ones(1, 3, 6, 6)), "images": images, "few": images,
                             "chosen_on": images, "attack": attack, "seed": 0}
    other = {"model": linear_channels(torch.zeros(1, 3, 6, 6)), "images": others, "few": others, "chosen_on": others,
             "attack": replace(attack, steps=2), "seed": 1}
    kept = []
    for arguments in (given, {**given, change: other[change]}):
        robust_channel_usefulness(**arguments)
        kept.append(sum(path.is_dir() for path in (own_build / "store" / "channels").iterdir()))
    assert kept[1] == kept[0] + 1


def test_robust_usefulness_without_a_value_is_undefined() -> None:
    weights = torch.zeros(2, 3, 6, 6)
    weights[1, 0, 0, 0] = 1.0
    images = with_a_class_in_the_first_pixel(30, 0)
    attack = PGD(ThreatModel("Linf", 0.1), 1, loss="margin")
    for few in (images.take(images.y != 1), images.take(images.y == 1)):  # one side of the second channel is missing
        rho, gamma = robust_channel_usefulness(linear_channels(weights), images, few, images, attack)
        assert rho.isfinite().tolist() == [False, True]
        assert gamma.isnan().all()


def test_channels_are_attacked_on_the_margin() -> None:
    images = with_a_class_in_the_first_pixel(6, 0)
    with pytest.raises(ValueError, match="^loss = 'cross-entropy': expected 'margin'"):
        robust_channel_usefulness(linear_channels(torch.ones(1, 3, 6, 6)), images, images, images,
                                  PGD(ThreatModel("Linf", 0.1)))


def test_the_margin_of_one_feature_is_the_feature() -> None:
    model, x = networks.build("small", 3), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = OneFeature(model.eval(), lambda model, x: model.features(x, "pool")[:, 5])(x)
    torch.testing.assert_close(margin(logits, torch.zeros(4, dtype=torch.int64)), model.features(x, "pool")[:, 5])
    torch.testing.assert_close(logits.sum(1), torch.zeros(4))


def test_two_independent_labels_share_the_variance_without_overlap() -> None:
    """Every pair of 4 shapes and 3 tiles once: the shares of a sum of both add up to 1."""
    shape, tile = torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4)
    generator = torch.Generator().manual_seed(0)
    of_shape, of_tile = torch.randn(4, generator=generator), torch.randn(3, generator=generator)
    values = torch.stack([of_shape[shape], of_tile[tile], of_shape[shape] + of_tile[tile], torch.ones(12)], 1)
    by_shape, by_tile = variance_explained(values, shape), variance_explained(values, tile)
    torch.testing.assert_close(by_shape[:2], torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close((by_shape + by_tile)[2].item(), 1.0)
    assert by_shape[3].isnan()
