"""What the chapters train: sizes that say what they mean, and the paper's sizes build and learn."""

from dataclasses import replace

import pytest
import torch

from nbutils.images import ImageSet, load
from nbutils.paradigms import DDPM, MAE, recipes, untrained
from nbutils.training import fit

X = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IMAGES = ImageSet(X, torch.arange(8) % 2, ("a", "b"), "noise")
PARAMETERS = {"CL": 11_563_840, "MIM": 6_284_976, "DM": 15_591_811}  # counted once, to notice a changed size


def test_small_is_the_size_when_none_is_named() -> None:
    assert recipes("small", 8) == recipes("small", 8, "small") != recipes("small", 8, "paper")


@pytest.mark.parametrize(("size", "epochs", "expected"), [
    ("small", 10, (10, 5, 5)), ("small", 1, (1, 1, 1)), ("paper", 2000, (2000, 2000, 1000)), ("paper", 1, (1, 1, 1)),
])
def test_each_paradigm_makes_its_share_of_the_passes(size: str, epochs: int, expected: tuple[int, ...]) -> None:
    _, schedules = recipes("small", epochs, size)
    assert tuple(schedules[kind].epochs for kind in ("CL", "MIM", "DM")) == expected


def test_the_papers_batches_are_the_papers() -> None:
    _, schedules = recipes("resnet18", 2000, "paper")
    assert {kind: one.batch_size for kind, one in schedules.items()} == {"CL": 512, "MIM": 512, "DM": 128}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_an_encoder_of_the_papers_size_takes_a_step(kind: str) -> None:
    paradigm, schedule = (found[kind] for found in recipes("resnet18", 1, "paper"))
    torch.manual_seed(0)
    encoder = paradigm.encoder(32)
    assert sum(weight.numel() for weight in encoder.parameters()) == PARAMETERS[kind]
    before = {name: weight.detach().clone() for name, weight in encoder.named_parameters()}
    losses = fit(encoder, IMAGES, paradigm, replace(schedule, batch_size=8))  # type: ignore[arg-type]
    assert len(losses) == 1  # and finite, or `fit` would have raised
    assert any(not torch.equal(weight, before[name]) for name, weight in encoder.named_parameters())
    with torch.no_grad():
        assert encoder.eval().features(X).shape == (8, encoder.width)


@pytest.mark.parametrize(("kind", "tiny", "factor"), [
    ("MIM", MAE(width=32, depth=1, decoder_width=32), 0.45), ("DM", DDPM(16, (1,)), 0.55),
])
def test_the_recipes_teach_to_complete_and_to_denoise(kind: str, tiny: MAE | DDPM, factor: float) -> None:
    """On images that were not seen, by the stated factor; a tiny encoder, few images. DM by SGD: factor .77."""
    model, unseen = untrained(tiny), load("planted", "test", 100)

    def error() -> float:
        with torch.no_grad():
            return tiny(model, unseen.x, unseen.y, torch.Generator().manual_seed(0)).item()  # type: ignore[arg-type]

    before = error()
    schedule = replace(recipes("small", 1)[1][kind], epochs=6)
    history = fit(model, load("planted", "train", 400), tiny, schedule)  # type: ignore[arg-type]
    assert error() < factor * before, (before, error())
    assert history[-1] < history[0]
