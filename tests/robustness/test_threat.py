"""Threat models: projections are nearest points, directions are steepest, random starts follow their law."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from nbutils.robustness import ThreatModel, parse_eps
from nbutils.robustness.threat import format_eps

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@st.composite
def projections(draw: st.DrawFn, saturated: bool) -> tuple[ThreatModel, Tensor, Tensor]:
    """A threat model, clean images and arbitrary points to be projected."""
    norm = draw(st.sampled_from(["Linf", "L2"]))
    eps = draw(st.sampled_from([0.0, 1e-3, 8 / 255, 0.3, 1.0] if saturated else [0.0, 1e-3, 8 / 255, 0.3]))
    shape = draw(st.sampled_from([(1, 1), (2, 3), (1, 3, 4, 4), (3, 3, 8, 5), (0, 3, 4, 4)]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    x = torch.rand(shape, generator=generator, dtype=dtype)
    x = (2 * x - 0.5).clamp(0, 1) if saturated else 0.35 + 0.3 * x  # half of the pixels are 0 or 1, or none near
    size = draw(st.sampled_from([0.0, 1e-6, 0.1, 10.0]))
    return ThreatModel(norm, eps), x, x + size * torch.randn(shape, generator=generator, dtype=dtype)


def norms(delta: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(delta.flatten(1), math.inf if norm == "Linf" else 2, dim=1) if len(delta) else \
        delta.new_zeros(0)


@given(projections(saturated=True))
def test_projection_lies_in_ball_and_box(case: tuple[ThreatModel, Tensor, Tensor]) -> None:
    threat, x, perturbed = case
    projected = threat.project(perturbed, x)
    assert projected.shape == x.shape
    assert projected.dtype == x.dtype
    assert ((projected >= 0) & (projected <= 1)).all()
    assert (norms(projected - x, threat.norm) <= threat.eps + TOLERANCE[x.dtype]).all()


@given(projections(saturated=True))
def test_projection_is_idempotent(case: tuple[ThreatModel, Tensor, Tensor]) -> None:
    threat, x, perturbed = case
    once = threat.project(perturbed, x)
    torch.testing.assert_close(threat.project(once, x), once, rtol=0, atol=TOLERANCE[x.dtype])


@given(projections(saturated=True))
def test_projection_keeps_admissible_points(case: tuple[ThreatModel, Tensor, Tensor]) -> None:
    threat, x, perturbed = case
    inside = x + (perturbed - x).clamp(-1, 1) * threat.eps / (2 * max(x[:1].numel(), 1)) ** 0.5
    inside = inside.clamp(0, 1)
    torch.testing.assert_close(threat.project(inside, x), inside, rtol=0, atol=TOLERANCE[x.dtype])


def check_nearest(threat: ThreatModel, x: Tensor, perturbed: Tensor) -> None:
    """p is the point of a convex set nearest to u exactly if <u - p, z - p> <= 0 for every z of the set."""
    projected = threat.project(perturbed, x)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        if threat.norm == "Linf":
            other = (x + threat.eps * direction.sign()).clamp(0, 1)
        else:
            length = norms(direction, "L2").view(-1, *[1] * (x.ndim - 1))
            other = x + threat.eps * direction / length
        inner = ((perturbed - projected) * (other - projected)).flatten(1).double().sum(1)
        assert (inner <= 1e2 * TOLERANCE[x.dtype]).all()


@given(projections(saturated=False))
def test_projection_is_the_nearest_point_of_the_ball(case: tuple[ThreatModel, Tensor, Tensor]) -> None:
    check_nearest(*case)


@given(projections(saturated=True))
def test_linf_projection_is_the_nearest_point_of_ball_and_box(case: tuple[ThreatModel, Tensor, Tensor]) -> None:
    threat, x, perturbed = case
    check_nearest(ThreatModel("Linf", threat.eps), x, perturbed)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_radius_projects_onto_the_image(norm: str, dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ThreatModel(norm, 0).project(torch.randn(x.shape, dtype=dtype), x), x)


def test_linf_radius_one_is_only_the_box() -> None:
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    perturbed = 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ThreatModel("Linf", 1).project(perturbed, x), perturbed.clamp(0, 1), rtol=0, atol=0)


def test_distance_on_known_perturbations() -> None:
    delta = torch.tensor([[[[0.3, -0.4]]], [[[0.0, 0.0]]]])
    torch.testing.assert_close(ThreatModel("L2", 1).distance(delta), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(ThreatModel("Linf", 1).distance(delta), torch.tensor([0.4, 0.0]))


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_ascent_direction_attains_the_dual_norm(norm: str, dual: int, scale: float, generator: torch.Generator) -> None:
    """Hoelder: <g, d> <= ||g||_dual for every d of norm 1, and the steepest direction attains it."""
    unscaled = torch.randn(5, 3, 6, 6, generator=generator)
    direction = ThreatModel(norm, 1).ascent_direction(unscaled * scale)
    torch.testing.assert_close(norms(direction, norm), torch.ones(5), rtol=0, atol=1e-6)
    inner = (unscaled * direction).flatten(1).sum(1)
    torch.testing.assert_close(inner, torch.linalg.vector_norm(unscaled.flatten(1), dual, dim=1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_zero_gradient_gives_zero_step_for_its_own_image_only(norm: str) -> None:
    gradient = torch.zeros(2, 3, 4, 4)
    gradient[1, 0, 0, 0] = -1e-42  # subnormal in float32
    direction = ThreatModel(norm, 1).ascent_direction(gradient)
    assert torch.equal(direction[0], torch.zeros(3, 4, 4))
    assert direction[1, 0, 0, 0] == -1
    assert direction[1].abs().sum() == 1


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_ascent_direction_of_no_images(norm: str) -> None:
    assert ThreatModel(norm, 1).ascent_direction(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_l2_random_start_is_uniform_in_the_ball(generator: torch.Generator) -> None:
    """The volume inside radius r grows as r^d, so (r / eps)^d is uniform on [0, 1]; directions average out."""
    n, d, eps = 4000, 12, 0.2
    x = torch.full((n, 3, 2, 2), 0.5, dtype=torch.float64)
    delta = (ThreatModel("L2", eps).random_start(x, generator) - x).flatten(1)
    volume = (delta.norm(dim=1) / eps) ** d
    assert abs(volume.mean().item() - 0.5) < 4 / math.sqrt(12 * n)
    assert stats.kstest(volume.numpy(), "uniform").pvalue > 1e-3
    unit = delta / delta.norm(dim=1, keepdim=True)
    covariance = unit.T @ unit / n
    assert unit.mean(0).abs().max() < 5 / math.sqrt(d * n)
    torch.testing.assert_close(covariance, torch.eye(d, dtype=torch.float64) / d, rtol=0, atol=0.01)


def test_linf_random_start_is_uniform_in_the_cube(generator: torch.Generator) -> None:
    x = torch.full((500, 3, 2, 2), 0.5, dtype=torch.float64)
    delta = ThreatModel("Linf", 0.1).random_start(x, generator) - x
    assert stats.kstest(delta.flatten().numpy(), stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_start_is_admissible_seeded_and_leaves_the_global_generator(norm: str, dtype: torch.dtype) -> None:
    threat = ThreatModel(norm, 0.5)
    x = torch.rand(6, 3, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(3)).round()  # only 0 and 1
    before = torch.get_rng_state()
    first, again, other = (threat.random_start(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.dtype == dtype
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert ((first >= 0) & (first <= 1)).all()
    assert (norms(first - x, norm) <= 0.5 + TOLERANCE[dtype]).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_random_start_of_no_images(norm: str) -> None:
    assert ThreatModel(norm, 0.5).random_start(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.03", 0.03), (0.03, 0.03),
                                             (0, 0.0), (1, 1.0), ("1e-3", 1e-3), ("0/255", 0.0)])
def test_parse_eps_reads_numbers_and_fractions(text: str | float, value: float) -> None:
    assert parse_eps(text) == pytest.approx(value, rel=1e-15)
    assert ThreatModel("Linf", text).eps == pytest.approx(value, rel=1e-15)  # type: ignore[arg-type]


@pytest.mark.parametrize("eps", [0, 1e-9, 1e-4, 1 / 255, 8 / 255, 0.03, 0.25, 0.5, 128 / 255, 1, 2, 10])
def test_written_eps_reads_back(eps: float) -> None:
    assert parse_eps(format_eps(eps)) == pytest.approx(eps, rel=1e-3)


@pytest.mark.parametrize(("threat", "words"), [
    (ThreatModel("Linf", 8 / 255), "L_inf 8/255"), (ThreatModel("L2", 0.25), "L2 0.25"), (ThreatModel("L2", 1), "L2 1"),
    (ThreatModel("Linf", 0.03), "L_inf 0.03")])
def test_threat_models_in_words(threat: ThreatModel, words: str) -> None:
    assert str(threat) == words
