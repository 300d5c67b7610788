"""Split networks: every cut is exact, and a seed is all that decides the weights."""

import pytest
import torch

from nbutils import networks
from nbutils.networks import Normalize

X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("at", networks.build("small").cuts)
@pytest.mark.parametrize("training", [False, True])
def test_cutting_anywhere_changes_nothing(at: str, training: bool) -> None:
    model = networks.build("small", 10, seed=1).train(training)
    with torch.no_grad():
        assert torch.equal(model.logits_from(model.features(X, at), at), model(X))


def test_the_last_cut_is_the_logits_and_the_first_the_normalised_pixels() -> None:
    model = networks.build("small", 10, seed=1).eval()
    with torch.no_grad():
        assert torch.equal(model.features(X, "linear"), model(X))
        torch.testing.assert_close(model.features(X, "normalize"), 4 * X - 2)
        shapes = {at: tuple(model.features(X, at).shape[1:]) for at in model.cuts}
    assert shapes["block1.conv"] == (24, 16, 16)
    assert shapes["block4.bn"] == (96, 2, 2)
    assert shapes["pool"] == (96,)
    assert shapes["linear"] == (10,)


def test_pixels_are_normalised_inside() -> None:
    torch.testing.assert_close(Normalize()(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-2.0, 0.0, 2.0]))


@pytest.mark.parametrize(("classes", "expected"), [(10, 136_930), (2, 136_930 - 8 * 97), (200, 136_930 + 190 * 97)])
def test_parameter_count(classes: int, expected: int) -> None:
    """27*24 + 9*24*48 + 9*48*96 + 9*96*96 for the convolutions, 2*(24+48+96+96) for BatchNorm, 97 per class."""
    assert expected == 648 + 10_368 + 41_472 + 82_944 + 528 + 97 * classes
    assert sum(parameter.numel() for parameter in networks.build("small", classes).parameters()) == expected


def test_a_seed_decides_the_weights_and_the_global_generator_is_left() -> None:
    before = torch.get_rng_state()
    first, again, other = (networks.build("small", 10, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.stages[1].weight, other.stages[1].weight)  # type: ignore[arg-type]
    torch.manual_seed(5)
    assert torch.equal(networks.build("small", 10, 0).stages[1].weight, first.stages[1].weight)  # type: ignore[arg-type]


def test_any_image_size_gives_logits() -> None:
    model = networks.build("small", 7).eval()
    for size in (16, 32, 64):
        assert model(torch.rand(2, 3, size, size)).shape == (2, 7)
