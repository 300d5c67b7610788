"""Shares of energy against waves whose share is known, and against sums over pixels."""

import math

import pytest
import torch

from nbutils.features import energy_shares


def wave(cycles: float, colour: tuple[float, float, float]) -> torch.Tensor:
    """(1, 3, 32, 32): a cosine along the rows, this many cycles per pixel, in one colour."""
    row = torch.cos(2 * math.pi * cycles * torch.arange(32, dtype=torch.float64))
    return torch.tensor(colour, dtype=torch.float64)[None, :, None, None] * row.expand(1, 3, 32, 32)


@pytest.mark.parametrize(("cycles", "colour", "expected"), [
    (1 / 8, (1, 1, 1), (0, 0, 0)),
    (1 / 4, (1, 1, 1), (0, 1, 0)),
    (1 / 2, (1, -1, 0), (1, 1, 1)),
    (1 / 8, (1, -1, 0), (1, 0, 0)),
    (1 / 4, (1, 0, 0), (2 / 3, 1, 2 / 3)),
])
def test_shares_of_waves(cycles: float, colour: tuple[float, float, float], expected: tuple[float, ...]) -> None:
    found = energy_shares(0.5 + 0.1 * wave(cycles, colour))
    assert [value.item() for value in found.values()] == pytest.approx(expected, abs=1e-12)
    turned = energy_shares(0.5 + 0.1 * wave(cycles, colour).transpose(2, 3))
    assert [value.item() for value in turned.values()] == pytest.approx(expected, abs=1e-12)


def test_waves_of_different_frequency_add_up_and_an_offset_counts_nothing() -> None:
    both = 3 * wave(1 / 16, (1, 1, 1)) + 4 * wave(3 / 8, (1, -1, 0)) + 7
    found = energy_shares(both)
    of_light, of_colour = 9 * 3, 16 * 2  # squared amplitude times squared length of the colour
    assert found["colour"].item() == pytest.approx(of_colour / (of_light + of_colour), abs=1e-12)
    assert found["fine colour"].item() == pytest.approx(of_colour / (of_light + of_colour), abs=1e-12)


def test_colour_is_what_is_left_of_the_pixels_without_their_grey() -> None:
    x = torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    centred = (x - x.mean((2, 3), keepdim=True)).double()
    grey = centred.mean(1, keepdim=True)
    expected = (centred - grey).square().sum((1, 2, 3)) / centred.square().sum((1, 2, 3))
    torch.testing.assert_close(energy_shares(x)["colour"], expected)
    assert energy_shares(torch.full((1, 3, 4, 4), 0.5))["fine"].isnan().all()
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\): expected \(N, 3, H, W\)"):
        energy_shares(torch.rand(2, 1, 8, 8))
