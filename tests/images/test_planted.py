"""The planted world: exact decomposition, exact tiles, the stated laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from torch import Tensor

from nbutils.datasets import SHAPES
from nbutils.features import LinearFeature, matched_filter, population_usefulness
from nbutils.images import VIEWS, PlantedSet, PlantedWorld, views
from nbutils.images.planted import SIGNED_DISTANCES
from nbutils.robustness import ThreatModel


@pytest.fixture(scope="module")
def drawn() -> PlantedSet:
    return PlantedWorld().draw(4000, seed=7)


def carried(images: PlantedSet, view: str) -> Tensor | None:
    return {"natural": images.pattern, "no_pattern": None, "swapped": images.wrong,
            "independent": images.independent, "pattern_only": images.pattern}[view]


def test_other_tiles_change_nothing_but_the_tiles(drawn: PlantedSet) -> None:
    other, tiles = drawn.view("swapped").with_tiles(1), PlantedWorld(seed=1)
    assert torch.equal(other.view("no_pattern").x, drawn.view("no_pattern").x)
    assert torch.equal(other.x, drawn.base + drawn.noise + tiles.amplitude * tiles.patterns[drawn.wrong])
    assert torch.equal(other.with_tiles(0).x, drawn.view("swapped").x)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_exactly_the_sum_of_its_parts(view: str, drawn: PlantedSet) -> None:
    """In float64, so that only the rounding of two float32 sums is left, 2^-23 at most."""
    seen = drawn.view(view)
    scene = drawn.background if view == "pattern_only" else drawn.base
    expected = scene.double() + drawn.noise.double()
    label = carried(drawn, view)
    if label is not None:
        tile = drawn.world.tiles[label].double()
        for i in range(0, 32, 4):
            for j in range(0, 32, 4):
                expected[:, :, i:i + 4, j:j + 4] += 4 / 255 * tile
    assert (seen.x - expected).abs().max() <= 2**-23


@pytest.mark.parametrize("view", VIEWS)
def test_labels_are_the_shape_or_the_pattern(view: str, drawn: PlantedSet) -> None:
    seen = drawn.view(view)
    assert torch.equal(seen.y, drawn.pattern if view == "pattern_only" else drawn.shape)
    for part in ("base", "background", "noise", "shape", "pattern", "wrong", "independent"):
        assert torch.equal(getattr(seen, part), getattr(drawn, part))
    assert torch.equal(seen.view("natural").x, drawn.x)


@pytest.mark.parametrize("view", ["natural", "swapped", "independent", "pattern_only"])
def test_scored_by_pattern_the_label_is_the_tile_in_the_image(view: str, drawn: PlantedSet) -> None:
    seen = drawn.view(view).by_pattern()
    assert torch.equal(seen.y, carried(drawn, view))
    assert torch.equal(seen.x, drawn.view(view).x)


def test_views_tell_which_feature_an_answer_goes_by(drawn: PlantedSet) -> None:
    """Who names the shape is right on the first three; who names the wrong pattern's class, on the last alone."""
    by_shape, by_tile = ({name: (answer == data.y).double().mean().item() for name, (data,) in views([drawn]).items()}
                         for answer in (drawn.shape, drawn.wrong))
    assert by_shape == {"natural": 1, "no pattern": 1, "wrong pattern: shape's class": 1,
                        "wrong pattern: pattern's class": 0}
    assert by_tile == {name: 1 - share for name, share in by_shape.items()}
    assert torch.equal(views([drawn])["wrong pattern: pattern's class"][0].x, drawn.view("swapped").x)


def test_one_feature_each_shows_a_shape_or_a_pattern_and_never_both(drawn: PlantedSet) -> None:
    both, half = drawn.one_feature_each(), len(drawn) // 2
    shape, pattern = drawn.view("no_pattern"), drawn.view("pattern_only")
    assert torch.equal(both.x, torch.cat([shape.x[:half], pattern.x[half:]]))
    assert torch.equal(both.y, torch.cat([drawn.shape[:half], drawn.pattern[half:]]))


@given(amplitude=st.sampled_from([0.0, 1 / 255, 4 / 255, 0.05, 0.0599]), noise=st.sampled_from([0.0, 0.03, 1.0]),
       period=st.sampled_from([4, 8, 16, 32]), seed=st.integers(0, 50), texture=st.sampled_from([0.0, 12 / 255, 0.29]))
def test_no_pixel_ever_reaches_a_bound(amplitude: float, noise: float, period: int, seed: int, texture: float) -> None:
    images = PlantedWorld(amplitude, period=period, noise=noise, seed=seed, texture=texture).draw(6, seed)
    for view in VIEWS:
        x = images.view(view).x
        assert x.min() > 0
        assert x.max() < 1


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("period", [4, 8, 16, 32])
def test_tiles_are_balanced_and_vanish_under_a_two_by_two_mean(period: int, seed: int) -> None:
    world = PlantedWorld(period=period, seed=seed)
    tiles = world.tiles
    assert tiles.shape == (10, 3, period, period)
    assert torch.equal(tiles.abs(), torch.ones_like(tiles))
    assert torch.equal(tiles.sum((2, 3)), torch.zeros(10, 3))
    blocks = tiles.reshape(10, 3, period // 2, 2, period // 2, 2).sum((3, 5))
    assert torch.equal(blocks, torch.zeros_like(blocks))
    patterns = world.patterns
    assert patterns.shape == (10, 3, 32, 32)
    for shift in range(period, 32, period):
        assert torch.equal(patterns[..., shift:], patterns[..., :-shift])
        assert torch.equal(patterns[..., shift:, :], patterns[..., :-shift, :])
    assert torch.equal(patterns[..., :period, :period], tiles)


@pytest.mark.parametrize(("period", "bound"), [(4, 0.1), (8, 0.08), (16, 0.04), (32, 0.02)])
def test_tiles_are_nearly_uncorrelated(period: int, bound: float) -> None:
    """Among ten tiles taken at random the largest correlation is about .44, .21, .09 and .05."""
    for seed in range(3):
        flat = PlantedWorld(period=period, seed=seed).tiles.flatten(1).double()
        correlation = flat @ flat.T / flat.shape[1]
        correlation.fill_diagonal_(0)
        assert correlation.abs().max() <= bound


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("texture", [0.0, 12 / 255])
def test_pattern_follows_its_law(rho: float, texture: float) -> None:
    """P(pattern = shape) = rho + (1 - rho) / 10; the other classes share the rest evenly."""
    n = 4000
    images = PlantedWorld(rho=rho, texture=texture).draw(n, seed=3)
    expected = rho + (1 - rho) / 10
    error = 5 * math.sqrt(expected * (1 - expected) / n)
    assert abs((images.pattern == images.shape).double().mean().item() - expected) <= error
    offset = (images.pattern - images.shape) % 10
    counts = torch.bincount(offset, minlength=10)[1:].double()
    share = n * (1 - rho) / 10
    assert ((counts - share).abs() <= 5 * math.sqrt(share)).all()


def test_shapes_are_balanced_and_swaps_are_uniform_over_the_others(drawn: PlantedSet) -> None:
    n = len(drawn)
    assert torch.equal(torch.bincount(drawn.shape), torch.full((10,), n // 10))
    assert torch.bincount(PlantedWorld().draw(23, 0).shape, minlength=10).sort().values.tolist() == [2] * 7 + [3] * 3
    assert not (drawn.wrong == drawn.shape).any()
    offsets = torch.bincount((drawn.wrong - drawn.shape) % 10, minlength=10)[1:].double()
    assert ((offsets - n / 9).abs() < 5 * math.sqrt(n / 9)).all()
    table = torch.zeros(10, 10)
    table.index_put_((drawn.shape, drawn.independent), torch.ones(n), accumulate=True)
    assert ((table - n / 100).abs() < 5 * math.sqrt(n / 100)).all()


def test_noise_has_its_deviation_and_its_limit(drawn: PlantedSet) -> None:
    """A normal draw of deviation .03 held within a = .06 - 4/255 has a known deviation."""
    a = 0.06 - 4 / 255
    z = a / 0.03
    inside = math.erf(z / math.sqrt(2))
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    variance = 0.03**2 * (inside - 2 * z * density) + a**2 * (1 - inside)
    assert drawn.noise.abs().max() <= a
    assert drawn.noise.double().std().item() == pytest.approx(math.sqrt(variance), rel=2e-3)
    assert abs(drawn.noise.double().mean().item()) < 1e-4


def test_every_shape_shows(drawn: PlantedSet) -> None:
    """A shape covers a fair part of its image, in a colour that differs from the background's mean."""
    changed = (drawn.base - drawn.background).norm(dim=1) > 0.1
    for shape in range(10):
        cover = changed[drawn.shape == shape].double().mean((1, 2))
        assert cover.min() > 0.01
        assert 0.04 < cover.mean() < 0.5


def test_seeds(drawn: PlantedSet) -> None:
    world = PlantedWorld()
    again, other = world.draw(40, seed=5), world.draw(40, seed=6)
    assert torch.equal(world.draw(40, seed=5).x, again.x)
    assert again.fingerprint == world.draw(40, seed=5).fingerprint
    assert not torch.equal(again.x, other.x)
    assert not torch.equal(PlantedWorld(seed=1).tiles, world.tiles)
    images = [world.draw(100, seed=seed) for seed in range(6)]
    for one, two in pairwise(images):  # independent draws: their noise is uncorrelated, their shapes agree by chance
        assert abs(np.corrcoef(one.noise.flatten(), two.noise.flatten())[0, 1]) < 5 / math.sqrt(one.noise.numel())
        assert (one.shape == two.shape).double().mean() < 0.1 + 5 * 0.03


def test_drawing_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    PlantedWorld(seed=9).draw(3, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_worlds_of_one_seed_share_everything_but_the_pattern() -> None:
    faint, strong = (PlantedWorld(amplitude=a / 255).draw(20, 0) for a in (0, 8))
    assert torch.equal(faint.base, strong.base)
    torch.testing.assert_close((strong.view("natural").x - strong.view("no_pattern").x).abs(),
                               torch.full_like(strong.x, 8 / 255), rtol=0, atol=1e-6)
    assert torch.equal(faint.x, faint.view("no_pattern").x)


@pytest.mark.parametrize("index", [3, slice(2, 9, 3), torch.tensor([5, 1, 1])])
@pytest.mark.parametrize("view", VIEWS)
def test_take_cuts_all_of_the_truth(view: str, index: int | slice | Tensor, drawn: PlantedSet) -> None:
    """Looking and cutting commute, so no part is left at its old length or order."""
    cut, kept = drawn.view(view).take(index), slice(index) if isinstance(index, int) else index
    assert torch.equal(cut.x, drawn.view(view).x[kept])
    for later in VIEWS:
        assert torch.equal(cut.view(later).x, drawn.view(later).x[kept])
        assert torch.equal(cut.view(later).y, drawn.view(later).y[kept])


# --- upside down --------------------------------------------------------------------------------------------------

UPSIDE = PlantedWorld(amplitude=6 / 255, texture=20 / 255)


@pytest.fixture(scope="module")
def turned() -> PlantedSet:
    return UPSIDE.draw(4000, seed=7)


@pytest.mark.parametrize("view", VIEWS)
def test_upside_down_an_image_is_a_colour_a_texture_noise_and_a_shade(view: str, turned: PlantedSet) -> None:
    seen = turned.view(view)
    colour = turned.background.double()
    assert torch.equal(colour, colour[:, :, :1, :1].expand_as(colour))
    assert 0.35 <= colour.min() < 0.36
    assert 0.64 < colour.max() <= 0.65
    expected = colour + turned.noise.double()
    if view != "pattern_only":  # the textures are the tiles of the world that stands the right way up
        expected += 20 / 255 * PlantedWorld().patterns[turned.shape].double()
    if (label := carried(turned, view)) is not None:
        expected += 6 / 255 * UPSIDE.tiles[label].repeat(1, 1, 2, 2).double()
    assert (seen.x - expected).abs().max() <= 2**-22
    assert seen.name.startswith("planted, upside down")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_mean_over_two_by_two_keeps_a_shade_and_removes_a_texture(seed: int) -> None:
    world = PlantedWorld(texture=12 / 255, seed=seed)
    assert world.tiles.shape == (10, 3, 16, 16)
    blocks = world.tiles[:, :, ::4, ::4]
    assert torch.equal(world.tiles, blocks.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert torch.equal(blocks.abs(), torch.ones_like(blocks))
    assert torch.equal(blocks.sum((2, 3)), torch.zeros(10, 3))
    coarse, fine = ((part.view(10, 3, 16, 2, 16, 2).mean((3, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3))
                    for part in (world.patterns, world.textures))
    assert torch.equal(coarse, world.patterns)
    assert torch.equal(fine, torch.zeros_like(fine))
    assert torch.equal(world.patterns.flatten(1) @ world.textures.flatten(1).T, torch.zeros(10, 10))
    correlation = world.tiles.flatten(1) @ world.tiles.flatten(1).T / 768
    assert (correlation - torch.eye(10)).abs().max() <= 0.1


@pytest.mark.parametrize("target", [0, 6])
def test_upside_down_the_texture_is_robust_and_the_shade_is_not(target: int, turned: PlantedSet) -> None:
    """Colours and textures say nothing to a shade's filter, so its scene is noise: mean 0, known variance. A texture's
    filter is a tile's in a world of that height whose pattern is the class, and usefulness stays when all lengths are
    halved. The error is that of a large draw."""
    variance = turned.noise.double().var().item() / turned.noise[0].numel()
    scene = torch.tensor([[0.0, variance], [0.0, variance]], dtype=torch.float64)
    weight = UPSIDE.textures[target] / UPSIDE.textures[target].numel()
    half = PlantedWorld(amplitude=10 / 255, rho=1.0)
    for eps in (0.0, 3 / 255, 0.03):
        threat = ThreatModel("Linf", eps)
        shade = LinearFeature.fitted(matched_filter(UPSIDE, target), turned, target).robust_usefulness(turned, threat)
        texture = LinearFeature.fitted(weight, turned, target).robust_usefulness(turned, threat)
        assert shade == pytest.approx(population_usefulness(UPSIDE, target, eps, scene), abs=0.085)
        assert texture == pytest.approx(population_usefulness(half, target, eps / 2, scene / 4), abs=0.085)
    assert shade < -0.1 < 0.2 < texture


# --- shapes -------------------------------------------------------------------------------------------------------

POINTS = (torch.rand(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 - 1.5).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_signed_distances_never_change_faster_than_the_distance_itself(shape: str) -> None:
    """|d(p) - d(q)| <= |p - q|: else the edge would be drawn too soft or too hard."""
    distance = SIGNED_DISTANCES[shape](POINTS[:, 0], POINTS[:, 1])
    for shift in (1, 7, 100):
        change = (distance - distance.roll(shift)).abs()
        assert (change <= (POINTS - POINTS.roll(shift, 0)).norm(dim=1) + 1e-5).all()
    fastest = 0.0
    for angle in torch.arange(0, 2 * math.pi, math.pi / 8).tolist():
        near = POINTS + 1e-2 * torch.tensor([math.cos(angle), math.sin(angle)])
        change = (SIGNED_DISTANCES[shape](near[:, 0], near[:, 1]) - distance).abs().max().item()
        assert change <= 1e-2 + 1e-5
        fastest = max(fastest, change)
    assert fastest > 0.97e-2  # and somewhere it changes as fast


def star(tips: int, inner: float) -> list[tuple[float, float]]:
    """Corners with the first tip pointing up (v points down)."""
    angles = [math.pi * k / tips for k in range(2 * tips)]
    return [((1, inner)[k % 2] * math.sin(a), -(1, inner)[k % 2] * math.cos(a)) for k, a in enumerate(angles)]


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


OUTLINES = {
    "triangle": [star(3, 0.5)], "star": [star(5, 0.42)], "square": [box(-0.75, -0.75, 0.75, 0.75)],
    "cross": [box(-0.95, -0.26, 0.95, 0.26), box(-0.26, -0.95, 0.26, 0.95)], "bar": [box(-0.95, -0.28, 0.95, 0.28)],
    "L": [box(-0.76, -0.9, -0.24, 0.9), box(-0.76, 0.38, 0.76, 0.9)],
}


@pytest.mark.parametrize("shape", OUTLINES)
def test_straight_shapes_have_their_corners(shape: str) -> None:
    """The sign agrees with matplotlib's point-in-polygon test."""
    distance = SIGNED_DISTANCES[shape](POINTS[:, 0], POINTS[:, 1]).numpy()
    inside = np.any([Outline(corners).contains_points(POINTS.numpy()) for corners in OUTLINES[shape]], axis=0)
    clear = np.abs(distance) > 1e-4
    assert inside.any()
    assert np.array_equal(distance[clear] < 0, inside[clear])


@pytest.mark.parametrize(("shape", "area"), [
    ("disc", math.pi * 0.85**2), ("ring", math.pi * (0.92**2 - 0.52**2)), ("two dots", 2 * math.pi * 0.38**2)])
def test_round_shapes_have_their_areas(shape: str, area: float) -> None:
    """Share of points inside, within 4 standard errors."""
    generator = torch.Generator().manual_seed(1)
    u, v = 2 * torch.rand(2, 40_000, generator=generator) - 1
    share = (SIGNED_DISTANCES[shape](u, v) < 0).double().mean().item()
    assert abs(share - area / 4) < 4 * math.sqrt(area / 4 * (1 - area / 4) / 40_000)
