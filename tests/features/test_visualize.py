"""Pictures of features: where the answer is known it is found, and no picture depends on the others. In float64."""

import copy
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from nbutils import networks
from nbutils.features import PictureSearch, activation_maximum, invert, parts
from nbutils.features.visualize import _excitement, total_variation
from nbutils.images import PlantedSet
from nbutils.networks import GlobalAveragePool, SplitClassifier
from tests.helpers import assert_one_line

AT = "block4.bn"
QUICK = PictureSearch(steps=15)
EXACT = {"rtol": 0.0, "atol": 1e-9}
PLAIN = PictureSearch(steps=800, smoothness=0, shift=0)
Picturing = Callable[[SplitClassifier, PictureSearch], Tensor]


def of_maps(stage: nn.Module, channels: int) -> SplitClassifier:
    """A network whose features at "maps" are those of one stage."""
    stages: OrderedDict[str, nn.Module] = OrderedDict(maps=stage, pool=GlobalAveragePool(),
                                                      linear=nn.Linear(channels, 2))
    return SplitClassifier(stages, "of maps").double()


def mixing(*weights: tuple[float, float, float]) -> SplitClassifier:
    """Each channel is a weighted sum of red, green and blue."""
    stage = nn.Conv2d(3, len(weights), 1, bias=False)
    stage.weight.data.copy_(torch.tensor(weights)[..., None, None])
    return of_maps(stage, len(weights))


@pytest.fixture(scope="module")
def model(network_pair: tuple[SplitClassifier, SplitClassifier]) -> SplitClassifier:
    return copy.deepcopy(network_pair[0]).double()


@pytest.fixture(scope="module")
def z(planted_test: PlantedSet, model: SplitClassifier) -> Tensor:
    with torch.no_grad():
        return model.features(planted_test.x[:5].double(), AT)


@pytest.fixture(scope="module")
def mask(z: Tensor) -> Tensor:
    return torch.rand(z.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.3


def single(*numbers: int, of: int) -> Tensor:
    return torch.eye(of, dtype=torch.bool)[list(numbers)]


PICTURING: dict[str, Picturing] = {
    "invert": lambda model, settings: invert(model, torch.ones(3, 96, 2, 2), AT, settings=settings)[0],
    "activation_maximum": lambda model, settings: activation_maximum(model, AT, single(1, 5, 7, of=96),
                                                                     settings=settings),
}
both = pytest.mark.parametrize("picturing", PICTURING.values(), ids=PICTURING)


# --- where the answer is known ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("network", [of_maps(nn.Identity(), 3), mixing((1, 2, 0), (0, 1, -1), (3, 0, 1), (1, 1, 1))],
                         ids=["identity", "linear"])
def test_features_that_keep_the_image_give_it_back(network: SplitClassifier, planted_test: PlantedSet) -> None:
    x = planted_test.x[:3, :, 8:20, 8:20].double()
    with torch.no_grad():
        targets = network.features(x, "maps")
    pictures, residual = invert(network, targets, "maps", settings=PLAIN, size=12)
    torch.testing.assert_close(pictures, x, rtol=0, atol=2e-3)
    assert residual.max() < 2e-3


def test_channels_outside_the_mask_are_left_open() -> None:
    """Red is asked for; green and blue stay as the search began, whatever the target says there."""
    network, targets = of_maps(nn.Identity(), 3), torch.full((1, 3, 6, 6), 0.8, dtype=torch.float64)
    red = torch.tensor([True, False, False])
    (picture,), _ = invert(network, targets, "maps", red, settings=PLAIN, size=6)
    start = PLAIN.start(1, 6, targets)[0].sigmoid()
    torch.testing.assert_close(picture[0], targets[0, 0], rtol=0, atol=2e-3)
    assert torch.equal(picture[1:], start[1:])
    (zeros,), residual = invert(network, parts(targets, red)[0], "maps", settings=PLAIN, size=6)
    assert zeros[1:].max() < 0.02
    assert residual < 0.02


def test_along_the_features_the_answer_is_a_corner(planted_test: PlantedSet) -> None:
    targets = planted_test.x[:2, :, :6, :6].double() - 0.5
    pictures, residual = invert(of_maps(nn.Identity(), 3), targets, "maps", along=True, settings=PLAIN, size=6)
    torch.testing.assert_close(pictures, (targets > 0).double(), rtol=0, atol=0.01)
    assert (residual > 1).all()


def test_the_maximum_of_a_linear_channel_is_a_corner() -> None:
    network = mixing((1, -1, 0), (0, 0, 1))
    first, second, mean = activation_maximum(network, "maps", torch.tensor([[1, 0], [0, 1], [1, 1]]).bool(),
                                             settings=PLAIN, size=9)
    start = PLAIN.start(1, 9, first)[0].sigmoid()
    torch.testing.assert_close(first[:2], torch.stack([torch.ones(9, 9), torch.zeros(9, 9)]).double(), rtol=0, atol=.01)
    assert torch.equal(first[2], start[2])
    assert torch.equal(second[:2], start[:2])
    torch.testing.assert_close(mean, torch.stack([first[0], first[1], second[2]]), rtol=0, atol=1e-4)


def test_a_search_starts_at_its_contrast_and_moves_to_every_side_alike() -> None:
    search, like = PictureSearch(contrast=2, shift=2), torch.empty(0, dtype=torch.float64)
    torch.testing.assert_close(search.start(1, 32, like), 2 * PictureSearch(contrast=1).start(1, 32, like))
    x, move = torch.arange(64.0).view(1, 1, 8, 8), search.moves()
    seen = Counter(int(move(x)[0, 0, 3, 3]) for _ in range(1000))
    assert set(seen) == {8 * row + column for row in range(1, 6) for column in range(1, 6)}
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


def test_what_is_excited_is_the_mean_of_the_channels_minus_roughness(generator: torch.Generator) -> None:
    """Lucent minimises the sum over the pictures."""
    channels = torch.tensor([[True, False, True], [False, True, False]])
    seen = {"layer": torch.randn(2, 3, 4, 4, generator=generator), "input": torch.rand(2, 3, 8, 8, generator=generator)}
    wanted = seen["layer"][0, [0, 2]].mean() + seen["layer"][1, 1].mean() - 0.7 * total_variation(seen["input"]).sum()
    torch.testing.assert_close(_excitement("layer", channels.float(), 0.7)(seen.__getitem__), -wanted)


def test_total_variation_is_that_of_a_double_loop() -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for image, found in zip(x, total_variation(x), strict=True):
        down = [(image[c, i + 1, j] - image[c, i, j]).abs() for c in range(3) for i in range(3) for j in range(5)]
        across = [(image[c, i, j + 1] - image[c, i, j]).abs() for c in range(3) for i in range(4) for j in range(4)]
        torch.testing.assert_close(found, sum(down) / len(down) + sum(across) / len(across))


# --- what a search promises -------------------------------------------------------------------------------------------

def test_the_residual_is_what_it_says_and_falls(model: SplitClassifier, z: Tensor, mask: Tensor) -> None:
    pictures, residual = invert(model, z, AT, mask, settings=QUICK)
    with torch.no_grad():
        gap, asked = (parts(part, mask)[0].flatten(1).norm(dim=1) for part in (model.features(pictures, AT) - z, z))
    torch.testing.assert_close(residual, gap / asked)
    _, longer = invert(model, z, AT, mask, settings=replace(QUICK, steps=100))
    assert (longer < residual).all()
    assert longer.mean() < 0.6  # features of zero leave 1; the network itself varies with the number of threads


def test_targets_outside_the_mask_play_no_part(model: SplitClassifier, z: Tensor, mask: Tensor) -> None:
    pictures, _ = invert(model, z, AT, mask, settings=QUICK)
    other, _ = invert(model, z + 5 * ~mask[..., None, None], AT, mask, settings=QUICK)
    torch.testing.assert_close(other, pictures, **EXACT)


@pytest.mark.parametrize(("batch_size", "along"), [(1, False), (2, True), (64, False)])
def test_no_inversion_depends_on_its_company(model: SplitClassifier, z: Tensor, mask: Tensor, batch_size: int,
                                             along: bool) -> None:
    pictures, residual = invert(model, z, AT, mask, along=along, settings=QUICK)
    order = torch.tensor([3, 0, 4])
    again, left = invert(model, z[order], AT, mask[order], along=along, settings=QUICK, batch_size=batch_size)
    torch.testing.assert_close(again, pictures[order], **EXACT)
    torch.testing.assert_close(left, residual[order], **EXACT)


def test_no_maximum_depends_on_its_company(model: SplitClassifier, mask: Tensor) -> None:
    pictures = activation_maximum(model, AT, mask, settings=QUICK)
    torch.testing.assert_close(activation_maximum(model, AT, mask[3:4], settings=QUICK), pictures[3:4], **EXACT)


def test_the_maximum_excites_its_channels(model: SplitClassifier) -> None:
    chosen = single(1, 5, 7, of=96)
    with torch.no_grad():
        few, many = (model.features(activation_maximum(model, AT, chosen, settings=replace(QUICK, steps=steps)), AT)
                     .mean((2, 3))[chosen] for steps in (1, 60))
    assert (many > few + 0.5).all()


def test_nothing_asked_is_undefined(model: SplitClassifier, z: Tensor, mask: Tensor) -> None:
    empty = mask.clone()
    empty[0] = False
    pictures, residual = invert(model, z, AT, empty, settings=QUICK)
    assert residual.isnan().tolist() == [True, False, False, False, False]
    assert pictures.isfinite().all()
    single = copy.deepcopy(model).float()  # where a division by almost nothing overflows
    for along in (False, True):  # zeros in place of a mask, as for a part without channels
        pictures, residual = invert(single, parts(z, empty)[0].float(), AT, along=along, settings=QUICK)
        assert residual.isnan().tolist() == [True, False, False, False, False]
        assert pictures.isfinite().all()


@both
def test_pixels_stay_in_range_and_the_seed_decides(model: SplitClassifier, picturing: Picturing) -> None:
    pictures = picturing(model, QUICK)
    assert pictures.shape == (3, 3, 32, 32)
    assert pictures.dtype == torch.float64
    assert 0 <= pictures.min() < pictures.max() <= 1
    before = torch.get_rng_state()
    assert torch.equal(picturing(model, QUICK), pictures)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.allclose(picturing(model, replace(QUICK, seed=1)), pictures, atol=0.1)


@both
def test_the_model_stays_as_it_was(model: SplitClassifier, picturing: Picturing) -> None:
    used = copy.deepcopy(model).train()
    used.stages[1].eval()
    modes = [module.training for module in used.modules()]
    picturing(used, QUICK)
    assert [module.training for module in used.modules()] == modes
    assert all(weight.requires_grad and weight.grad is None for weight in used.parameters())
    assert not any(module._forward_hooks for module in used.modules())
    for (name, now), then in zip(used.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(now, then), name


def test_float32_and_other_sizes_work() -> None:
    network = networks.build("wrn_small", image_size=21).eval()
    with torch.no_grad():
        targets = network.features(torch.rand(2, 3, 21, 21, generator=torch.Generator().manual_seed(0)), "bn")
    pictures, residual = invert(network, targets, "bn", settings=QUICK, size=21)
    assert pictures.shape == (2, 3, 21, 21)
    assert pictures.dtype == residual.dtype == torch.float32
    assert activation_maximum(network, "bn", single(2, of=128), settings=QUICK, size=21).shape == (1, 3, 21, 21)


# --- bad input --------------------------------------------------------------------------------------------------------

SMALL = networks.build("small")
Z = torch.zeros(2, 96, 2, 2)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: PictureSearch(steps=0), ("steps = 0", "whole number >= 1")),
    (lambda: PictureSearch(steps=2.5), ("steps = 2.5", "whole number >= 1")),  # type: ignore[arg-type]
    (lambda: PictureSearch(rate=0), ("rate = 0", "finite number > 0", "0.1")),
    (lambda: PictureSearch(rate=math.inf), ("rate = inf", "finite")),
    (lambda: PictureSearch(smoothness=-1), ("smoothness = -1", ">= 0", "such as 3.0")),
    (lambda: PictureSearch(contrast=math.nan), ("contrast = nan", "finite number >= 0")),
    (lambda: PictureSearch(shift=-1), ("shift = -1", "whole number >= 0")),
    (lambda: invert(SMALL, Z, "block4.bm"), ("cut = 'block4.bm'", "expected one of normalize", "mean 'block4.bn'")),
    (lambda: invert(SMALL, Z, "pool"), ("cut = 'pool'", "(96,)", "maps (C, H, W)")),
    (lambda: invert(SMALL, Z[:, :95], AT), ("targets (2, 95, 2, 2)", "block4.bn", "(N, 96, 2, 2)", "32 x 32")),
    (lambda: invert(SMALL, Z[:0], AT), ("targets (0, 96, 2, 2)", "N >= 1")),
    (lambda: invert(SMALL, Z / 0, AT), ("targets (2, 96, 2, 2)", "finite")),
    (lambda: invert(SMALL, Z, AT, size=64), ("targets (2, 96, 2, 2)", "(N, 96, 4, 4)", "64 x 64")),
    (lambda: invert(SMALL, Z, AT, torch.ones(95).bool()), ("mask", "(95,)", "(96,)")),
    (lambda: invert(SMALL, Z, AT, torch.ones(3, 96).bool()), ("mask", "(3, 96)", "bool (2, 96)")),
    (lambda: invert(SMALL, Z, AT, torch.ones(2, 96)), ("mask torch.float32", "bool (2, 96)")),
    (lambda: activation_maximum(SMALL, "block5.bn", single(0, of=96)), ("cut = 'block5.bn'", "expected one of")),
    (lambda: activation_maximum(SMALL, "linear", single(0, of=96)), ("cut = 'linear'", "maps")),
    (lambda: activation_maximum(SMALL, AT, single(0, of=95)), ("channels torch.bool (1, 95)", "bool (N, 96)")),
    (lambda: activation_maximum(SMALL, AT, torch.tensor([3, 7])), ("channels torch.int64 (2,)", "bool (N, 96)")),
    (lambda: activation_maximum(SMALL, AT, torch.zeros(2, 96).bool()), ("channels", "at least one")),
])
def test_bad_input_stops_in_one_line(call: Callable[[], object], words: tuple[str, ...]) -> None:
    assert_one_line(call, words)
