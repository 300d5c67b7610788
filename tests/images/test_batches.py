"""Batches cover every image once; augmentation only shifts and mirrors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nbutils.images import ImageSet, augment, batches
from nbutils.images.batches import batch_count


@pytest.fixture
def images() -> ImageSet:
    """Twenty-one images, each told by its first pixel."""
    x = torch.rand(21, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, 0, 0, 0] = torch.arange(21) / 32
    return ImageSet(x, torch.arange(21) % 3, ("a", "b", "c"), "numbered")


@pytest.mark.parametrize(("batch_size", "sizes"), [(7, [7, 7, 7]), (8, [8, 8, 5]), (19, [19, 2]), (64, [21])])
def test_every_image_comes_once_with_its_label(batch_size: int, sizes: list[int], images: ImageSet,
                                               generator: torch.Generator) -> None:
    found = list(batches(images, batch_size, generator))
    assert [len(y) for _, y in found] == sizes
    x, y = torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])
    number = (x[:, 0, 0, 0] * 32).round().long()
    assert sorted(number.tolist()) == list(range(21))
    assert torch.equal(y, images.y[number])
    assert torch.equal(x, images.x[number])
    assert number.tolist() != list(range(21))  # shuffled


@pytest.mark.parametrize("batch_size", [4, 5, 10, 20])
def test_a_last_batch_of_one_image_is_left_out(batch_size: int, images: ImageSet, generator: torch.Generator) -> None:
    sizes = [len(y) for _, y in batches(images, batch_size, generator)]
    assert sizes == [batch_size] * (20 // batch_size)
    assert batch_count(21, batch_size) == len(sizes)


def test_a_single_image_is_a_batch(images: ImageSet, generator: torch.Generator) -> None:
    assert [len(y) for _, y in batches(images.take(1), 8, generator)] == [1]
    assert batch_count(1, 8) == 1


@pytest.mark.parametrize("n", range(1, 22))
def test_batches_are_counted_beforehand(n: int, images: ImageSet, generator: torch.Generator) -> None:
    assert batch_count(n, 5) == len(list(batches(images.take(n), 5, generator)))


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop+flip"])
def test_a_generator_decides_everything(augmentation: str, images: ImageSet) -> None:
    images = replace(images, augmentation=augmentation)
    before = torch.get_rng_state()
    first, again, other = ([x for x, _ in batches(images, 8, torch.Generator().manual_seed(s))] for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_passes_differ_in_order(images: ImageSet, generator: torch.Generator) -> None:
    first, second = (torch.cat([x for x, _ in batches(images, 8, generator)]) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(32, 32), (16, 24), (8, 8)])
@pytest.mark.parametrize("augmentation", ["crop", "crop+flip"])
def test_augmented_images_are_windows_of_the_padded_image(augmentation: str, shape: tuple[int, int],
                                                          generator: torch.Generator) -> None:
    """Every output is one of the (2 pad + 1)^2 windows of the reflected image, mirrored or not; all of them occur."""
    height, width = shape
    pad = height // 8
    x = torch.rand(1, 3, height, width, generator=generator).expand(400 * (2 * pad + 1), -1, -1, -1)
    found = augment(x, augmentation, generator)
    padded = np.pad(x[0].numpy(), ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
    windows = {}
    for row in range(2 * pad + 1):
        for column in range(2 * pad + 1):
            window = padded[:, row:row + height, column:column + width]
            windows[window.tobytes()] = (row, column, False)
            if augmentation == "crop+flip":
                windows[np.ascontiguousarray(window[:, :, ::-1]).tobytes()] = (row, column, True)
    drawn = [windows[image.contiguous().numpy().tobytes()] for image in found]  # KeyError: not a window
    n, places = len(drawn), (2 * pad + 1) ** 2
    counts = np.bincount([row * (2 * pad + 1) + column for row, column, _ in drawn], minlength=places)
    assert counts.min() > 0
    assert np.abs(counts - n / places).max() < 5 * (n / places) ** 0.5
    mirrored = sum(flip for _, _, flip in drawn)
    assert abs(mirrored - n / 2) < 5 * (n / 4) ** 0.5 if augmentation == "crop+flip" else mirrored == 0


def test_no_augmentation_returns_the_images(generator: torch.Generator) -> None:
    x = torch.rand(4, 3, 8, 8, generator=generator)
    state = generator.get_state()
    assert torch.equal(augment(x, "none", generator), x)
    assert torch.equal(generator.get_state(), state)
