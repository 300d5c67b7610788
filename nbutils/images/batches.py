"""Batches and augmentation as tensor work on whole batches, on whatever device the images are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils.images.imageset import AUGMENTATIONS, DataError, ImageSet, as_pixels
from nbutils.messages import check_choice


def augment(x: Tensor, augmentation: str, generator: torch.Generator) -> Tensor:
    """Vary images at random: "crop" pads by an eighth and crops back, "crop+flip" also mirrors half of them.

    Args:
        x: (B, 3, H, W), pixels in [0, 1].
        augmentation: "none", "crop" or "crop+flip".
        generator: a CPU generator; the draw does not depend on the device of `x`.

    Raises:
        DataError: unknown augmentation.
    """
    if check_choice("augmentation", augmentation, AUGMENTATIONS, DataError) == "none":
        return x
    batch, _, height, width = x.shape
    pad = height // 8
    offsets = torch.randint(2 * pad + 1, (2, batch, 1), generator=generator)
    rows = (offsets[0] + torch.arange(height)).to(x.device)
    columns = (offsets[1] + torch.arange(width)).to(x.device)
    if augmentation == "crop+flip":
        mirrored = (torch.rand(batch, 1, generator=generator) < 0.5).to(x.device)
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(x, (pad, pad, pad, pad), mode="reflect").permute(0, 2, 3, 1)
    image = torch.arange(batch, device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def batch_count(n: int, batch_size: int) -> int:
    """How many batches one pass over n images has."""
    return n // batch_size + (n % batch_size > 1) or 1


def batches(images: ImageSet, batch_size: int, generator: torch.Generator,
            device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled, augmented pass over `images`: yields x (B, 3, H, W) in [0, 1] and y (B,) on `device`.

    The last batch is short when `batch_size` does not divide the number of images; a last batch of a single
    image is left out, because BatchNorm cannot train on it.
    """
    order = torch.randperm(len(images), generator=generator)
    for chosen in order.split(batch_size):
        if len(chosen) > 1 or len(images) == 1:
            x = augment(as_pixels(images.held[chosen]).to(device), images.augmentation, generator)
            yield x, images.y[chosen].to(device)
