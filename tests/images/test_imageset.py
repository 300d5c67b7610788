"""The form in which images travel: what it takes, how it is cut, and when two sets are the same data."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nbutils.images import ImageSet
from tests.helpers import assert_one_line


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


@pytest.mark.parametrize(("change", "words"), [
    ({"classes": None}, "classes None: expected names, each once, such as"),
    ({"classes": "ab"}, "classes 'ab'"),
    ({"classes": (0, 1)}, "classes (0, 1)"),
    ({"classes": ("a", "a")}, "classes ('a', 'a')"),
    ({"classes": (name for name in "ab")}, "classes <generator"),
    ({"name": None}, "name = None: expected the words for this set"),
    ({"augmentation": "flip"}, "augmentation = 'flip': expected one of none, crop, crop+flip; did you mean"),
    ({"augmentation": None}, "augmentation = None"),
    ({"x": torch.zeros(5, 3, 0, 0)}, "images torch.float32 (5, 3, 0, 0): expected"),
    ({"x": torch.zeros(5, 3, 4, 4).to_sparse()}, "images torch.sparse_coo torch.float32 (5, 3, 4, 4)"),
    ({"x": torch.zeros(5, 3, 4, 4, device="meta")}, "images meta torch.float32"),
])
def test_what_is_no_set_of_images_is_said_when_it_is_made(change: dict[str, object], words: str,
                                                          images: ImageSet) -> None:
    assert_one_line(lambda: replace(images, **change), [words])  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [np.int64(3), -2, True, 2.0, None])
def test_a_number_of_images_is_a_whole_number(index: Any, images: ImageSet) -> None:
    assert_one_line(lambda: images.take(index), [f"n = {index!r}: expected a whole number >= 0, as Python's int"])


def test_images_with_gradients_have_the_fingerprint_of_their_pixels(images: ImageSet) -> None:
    assert replace(images, x=images.x.clone().requires_grad_()).fingerprint == images.fingerprint
