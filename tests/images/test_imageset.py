"""The form in which images travel: what it takes, how it is cut, and when two sets are the same data."""

from dataclasses import replace

import pytest
import torch

from nbutils.images import ImageSet


@pytest.fixture
def images() -> ImageSet:
    x = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    return ImageSet(x, torch.tensor([0, 1, 1, 0, 1]), ("a", "b"), "grey")


def test_size_and_classes(images: ImageSet) -> None:
    assert len(images) == 5
    assert images.num_classes == 2


@pytest.mark.parametrize("index", [3, slice(1, 4), slice(None, None, 2), torch.tensor([4, 0]), torch.arange(0)])
def test_take_keeps_pixels_and_labels_together(index: int | slice | torch.Tensor, images: ImageSet) -> None:
    chosen = torch.arange(5)[slice(index) if isinstance(index, int) else index]
    part = images.take(index)
    assert torch.equal(part.x, images.x[chosen])
    assert torch.equal(part.y, images.y[chosen])
    assert part.classes == images.classes


def test_an_empty_set_is_a_set(images: ImageSet) -> None:
    assert len(images.take(0)) == 0
    assert images.take(0).fingerprint != images.fingerprint


def test_extreme_pixels_are_allowed() -> None:
    assert len(ImageSet(torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1, 1), torch.tensor([0]), ("a",), "one")) == 1


def test_fingerprint_tells_data_apart_and_ignores_names_and_memory(images: ImageSet) -> None:
    x = images.x.clone()
    x[2, 1, 0, 0] += 1e-6
    y = images.y.clone()
    y[0] = 1
    different = [replace(images, x=x), replace(images, y=y), replace(images, classes=("a", "c")),
                 replace(images, augmentation="crop"), images.take(4), images.take(torch.tensor([1, 0, 2, 3, 4]))]
    fingerprints = {images.fingerprint, *(other.fingerprint for other in different)}
    assert len(fingerprints) == 1 + len(different)
    same = replace(images, name="another", x=images.x.to(memory_format=torch.channels_last))
    assert same.fingerprint == images.fingerprint


def test_pixels_and_labels_do_not_share_a_fingerprint_by_accident() -> None:
    tall, wide = (ImageSet(torch.zeros(1, 3, *size), torch.tensor([0]), ("a",), "s") for size in ((2, 8), (8, 2)))
    assert tall.fingerprint != wide.fingerprint


def test_a_fingerprint_answers_for_no_other_images(images: ImageSet) -> None:
    """Written in place: pixels, labels, and what a set has been cut from."""
    part = images.take(slice(0, 3))
    for write in (lambda: images.x.mul_(0.5), lambda: images.y.fill_(0), lambda: part.x.add_(0.25)):
        before = [images.fingerprint, part.fingerprint]
        write()
        for data, old in zip((images, part), before, strict=True):
            assert data.fingerprint == data.fingerprint != old
            assert data.fingerprint == replace(data, x=data.x.clone(), y=data.y.clone()).fingerprint


def test_images_made_in_inference_mode_have_a_fingerprint(images: ImageSet) -> None:
    with torch.inference_mode():
        made = replace(images, x=images.x.clone(), y=images.y.clone())
    assert made.fingerprint == images.fingerprint
