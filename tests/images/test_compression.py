"""JPEG against what its definition says it keeps and loses."""

import pytest
import torch

from nbutils.images import ImageSet, jpeg


def images(x: torch.Tensor) -> ImageSet:
    return ImageSet(x, torch.zeros(len(x), dtype=torch.int64), ("a", "b"), "made")


def test_flat_colours_come_back_and_fine_colour_does_not() -> None:
    colours = torch.tensor([[40, 40, 40], [200, 40, 90], [10, 250, 120]]) / 255
    flat = colours[:, :, None, None].expand(-1, 3, 16, 16).contiguous()
    assert (jpeg(images(flat), 95).x - flat).abs().max() <= 3 / 255  # rounding of two changes of colour space
    stripes = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.0, 0.0]])[None, :, None, :].tile(1, 1, 16, 8) * 0.2 + 0.5
    kept = jpeg(images(stripes), 95).x - 0.5
    # Red against green at one cycle in two pixels: 4:2:0 takes the mean of each pair. What is left is their light,
    # (.299 - .587) times the height.
    assert kept.std((2, 3)).max() < 0.45 * 0.2
    light = torch.tensor([1.0, -1.0]).tile(1, 3, 16, 8) * 0.2 + 0.5
    torch.testing.assert_close(jpeg(images(light), 95).x, light, atol=0.02, rtol=0)


def test_a_lower_quality_loses_more_and_everything_else_stays() -> None:
    noise = images(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    lost = [(jpeg(noise, quality).x - noise.x).square().mean().item() for quality in (90, 50, 10)]
    assert lost[0] < lost[1] < lost[2]
    after = jpeg(noise)
    assert after.name == "made, JPEG 75"
    assert torch.equal(after.y, noise.y)
    assert torch.equal((255 * after.x).round() / 255, after.x)
    assert after.classes == noise.classes
    assert len(jpeg(noise.take(0))) == 0


@pytest.mark.parametrize("quality", [0, 96, -5])
def test_a_quality_that_libjpeg_lacks_is_one_line(quality: int) -> None:
    with pytest.raises(ValueError, match=f"quality = {quality}: expected 1 to 95"):
        jpeg(images(torch.rand(1, 3, 16, 16)), quality)
