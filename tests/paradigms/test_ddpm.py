"""Diffusion: the schedule in closed form, the moments of a noised image, the loss, the U-Net's features."""

import math

import pytest
import torch
import torch.nn.functional as F

from nbutils import training
from nbutils.images import ImageSet, load
from nbutils.paradigms import DDPM, Noised, PredictDifference, untrained
from nbutils.paradigms.ddpm import STEPS, DiffusionEncoder, noise_schedule, q_sample, time_embedding

TINY = DDPM(width=8, factors=(1, 2), space_to_depth=4)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load("planted", "train", 40)


@pytest.fixture
def model() -> DiffusionEncoder:
    """Tiny, with random weights in its last layer too, so that its predictions are not all zero."""
    model = untrained(TINY)
    assert isinstance(model, DiffusionEncoder)
    last = list(model.last.parameters())[-2]
    with torch.no_grad():
        last.copy_(0.1 * torch.randn(last.shape, generator=seeded()))
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the schedule -------------------------------------------------------------------------------------------------

def test_the_schedule_has_a_closed_form() -> None:
    beta, alpha_bar = noise_schedule()
    assert len(beta) == len(alpha_bar) == STEPS == 1000
    product = 1.0
    for t in range(STEPS):
        assert beta[t].item() == pytest.approx(1e-4 + t * (0.02 - 1e-4) / 999, rel=1e-12)
        product *= 1 - beta[t].item()
        assert alpha_bar[t].item() == pytest.approx(product, rel=1e-10)
    assert alpha_bar[0].item() == pytest.approx(0.9999)
    assert alpha_bar[-1].item() == pytest.approx(4.04e-5, rel=0.01)


@pytest.mark.parametrize("t", [0, 11, 250, 999])
def test_a_noised_image_has_the_moments_of_the_schedule(t: int, generator: torch.Generator) -> None:
    n = 200_000
    x0 = torch.full((n, 1, 1, 1), 0.8, dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    x_t = q_sample(x0, torch.full((n,), t), noise)
    alpha_bar = noise_schedule()[1][t].item()
    spread = math.sqrt(1 - alpha_bar)
    assert x_t.mean().item() == pytest.approx(math.sqrt(alpha_bar) * 0.8, abs=5 * spread / math.sqrt(n))
    assert x_t.std().item() == pytest.approx(spread, rel=0.01)


def test_noising_at_once_is_noising_step_by_step() -> None:
    """Mean and variance factors of t + 1 steps x <- sqrt(1 - beta) x + sqrt(beta) noise."""
    mean, variance, t = 1.0, 0.0, 40
    for beta in noise_schedule()[0][:t + 1].tolist():
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    assert q_sample(one, torch.tensor([t]), zero).item() == pytest.approx(mean, rel=1e-10)
    assert q_sample(zero, torch.tensor([t]), one).item() == pytest.approx(math.sqrt(variance), rel=1e-10)


def test_each_image_has_its_own_timestep(generator: torch.Generator) -> None:
    x0, noise = torch.randn(2, 3, 3, 4, 4, generator=generator)
    t = torch.tensor([0, 500, 999])
    together = q_sample(x0, t, noise)
    for i in range(3):
        assert torch.equal(together[i:i + 1], q_sample(x0[i:i + 1], t[i:i + 1], noise[i:i + 1]))


def test_time_embeddings_are_cosines_and_sines() -> None:
    found = time_embedding(torch.tensor([0, 3]), 8)
    assert found[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    rates = [1, 0.1, 0.01, 0.001]
    wanted = [math.cos(3 * rate) for rate in rates] + [math.sin(3 * rate) for rate in rates]
    assert found[1].tolist() == pytest.approx(wanted, rel=1e-5)


# --- the loss -----------------------------------------------------------------------------------------------------

def test_the_loss_is_the_mean_square_of_the_noise(model: DiffusionEncoder, images: ImageSet) -> None:
    x, generator = images.x[:6], seeded(3)
    x0 = F.pixel_unshuffle(2 * x - 1, 4)
    t = torch.randint(1000, (6,), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    predicted = model.layers(q_sample(x0, t, noise), t)["noise"]
    torch.testing.assert_close(TINY(model, x, images.y[:6], seeded(3)), (predicted - noise).square().mean())


def test_an_untrained_model_has_loss_one(images: ImageSet) -> None:
    """It predicts no noise, whose mean square is 1."""
    big = ImageSet(images.x.repeat(20, 1, 1, 1), images.y.repeat(20), images.classes, "many")
    assert DDPM()(untrained(DDPM()), big.x, big.y, seeded()).item() == pytest.approx(1, abs=0.02)  # type: ignore


def test_denoising_lowers_its_loss(images: ImageSet) -> None:
    paradigm = DDPM(width=16)
    history = training.fit(untrained(paradigm), images, paradigm,  # type: ignore[arg-type]
                           training.Schedule(15, batch_size=5, peak_rate=0.1))
    assert history[-1] < 0.8 * history[0], history


# --- the network --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("block", [1, 2, 4])
def test_space_to_depth_keeps_all_pixels(block: int, images: ImageSet) -> None:
    model = untrained(DDPM(width=8, factors=(1, 2), space_to_depth=block))
    assert isinstance(model, DiffusionEncoder)
    seen = model.as_seen(images.x)
    assert seen.shape == (40, 3 * block**2, 32 // block, 32 // block)
    torch.testing.assert_close((F.pixel_shuffle(seen, block) + 1) / 2, images.x)
    maps = model.layers(seen, torch.zeros(40, dtype=torch.int64))
    assert maps["noise"].shape == seen.shape
    assert [maps[layer].shape[1:] for layer in ("up1", "up2")] == [(16, 16 // block, 16 // block),
                                                                   (8, 32 // block, 32 // block)]


@pytest.mark.parametrize("factors", [(1,), (1, 2), (1, 2, 2), (1, 2, 3, 4)])
def test_levels_have_their_widths(factors: tuple[int, ...], images: ImageSet) -> None:
    model = untrained(DDPM(width=8, factors=factors, space_to_depth=1))
    assert isinstance(model, DiffusionEncoder)
    for level, factor in enumerate(reversed(factors), start=1):
        reading = model.reading(layer=f"up{level}")
        assert reading.width == 8 * factor
        assert reading.features(images.x[:2]).shape == (2, 8 * factor)


def test_features_are_the_pooled_layer_at_a_timestep(model: DiffusionEncoder, images: ImageSet) -> None:
    reading = model.reading(layer="up1", timestep=200, seed=5)
    x0 = model.as_seen(images.x[:3])
    noise = torch.randn(1, *x0.shape[1:], generator=seeded(5)).expand(3, -1, -1, -1)
    t = torch.full((3,), 200)
    wanted = model.layers(q_sample(x0, t, noise), t)["up1"].mean((2, 3))
    torch.testing.assert_close(reading.features(images.x[:3]), wanted)
    assert (model.layer, model.timestep, model.seed) == ("up2", 11, 0)


def test_the_time_and_the_way_down_reach_the_way_up(model: DiffusionEncoder, images: ImageSet) -> None:
    """No layer is the same at another time; with nothing from the layer below, the last one still sees the image."""
    x_t, t = model.as_seen(images.x[:2]), torch.full((2,), 10)
    early, late = model.layers(x_t, t), model.layers(x_t, t + 500)
    for layer in model.widths:
        assert (early[layer] - late[layer]).abs().max() > 1e-3
    with torch.no_grad():
        for parameter in model.grow.parameters():
            parameter.zero_()
    one, two = model.layers(x_t, t)["up2"]
    assert (one - two).abs().max() > 1e-3


def test_features_are_deterministic_unless_drawn(model: DiffusionEncoder, images: ImageSet) -> None:
    x = images.x[:1].expand(6, -1, -1, -1)
    z = model.features(x)
    torch.testing.assert_close(z, z[:1].expand(6, -1))
    assert torch.equal(z, model.features(x))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        drawn = model.reading(passes=2).features(x)
    assert len(torch.unique(drawn, dim=0)) == 6
    x0, t, generator = model.as_seen(x), torch.full((6,), 11), seeded(4)
    noises = [torch.randn(x0.shape, generator=generator) for _ in range(2)]
    one, two = (model.layers(q_sample(x0, t, noise), t)["up2"].mean((2, 3)) for noise in noises)
    torch.testing.assert_close(drawn, (one + two) / 2)


def test_the_noised_view_has_its_moments(images: ImageSet) -> None:
    x = torch.full((400, 3, 8, 8), 0.75)
    view = Noised(300)(x, seeded())
    alpha_bar = noise_schedule()[1][300].item()
    assert view.mean().item() == pytest.approx((0.5 * math.sqrt(alpha_bar) + 1) / 2, abs=0.01)
    assert view.std().item() == pytest.approx(math.sqrt(1 - alpha_bar) / 2, rel=0.02)


def test_the_noised_view_of_all_strengths_draws_every_timestep_alike() -> None:
    """Grey images show their noise alone, whose deviation names the timestep."""
    view = Noised(timestep=None)(torch.full((2000, 3, 16, 16), 0.5), seeded())
    deviations = (1 - noise_schedule()[1]).sqrt() / 2
    t = torch.searchsorted(deviations, view.flatten(1).std(1)).clamp_max(999)
    early = t[t < 500]  # later steps are nearly all noise, and cannot be told apart
    assert len(early) / 2000 == pytest.approx(0.5, abs=0.04)
    assert early.float().mean().item() == pytest.approx(250, abs=15)


# --- sets made by this paradigm -----------------------------------------------------------------------------------

@pytest.mark.parametrize("of", ["images", "noised"])
def test_predict_difference_is_its_formula(of: str, model: DiffusionEncoder, images: ImageSet) -> None:
    x, other = images.x[:4], images.x[4:8]
    found = PredictDifference(50, of)(model, x, seeded(5))(other)
    clean, moved, t = model.as_seen(x), model.as_seen(other), torch.full((4,), 50)
    x_t = q_sample(moved, t, torch.randn(moved.shape, generator=seeded(5)))
    alpha_bar = noise_schedule()[1][50].item()
    wanted = moved - clean if of == "images" else (x_t - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5
    error = (model.layers(x_t, t)["noise"] - wanted).flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(found, error)


def test_the_noised_difference_is_the_noise_where_nothing_has_moved(model: DiffusionEncoder, images: ImageSet) -> None:
    """For x' = x the model is asked for exactly the noise that was drawn: its training loss."""
    x = images.x[:4]
    found = PredictDifference(50, "noised")(model, x, seeded(5))(x)
    x0, t = model.as_seen(x), torch.full((4,), 50)
    noise = torch.randn(x0.shape, generator=seeded(5))
    wanted = (model.layers(q_sample(x0, t, noise), t)["noise"] - noise).flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
