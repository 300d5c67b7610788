"""The one form in which images travel through the book: pixels in [0, 1], labels, and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor


class DataError(ValueError):
    """Images that cannot be used; the message is one line that names the value and what was expected."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images.

    Attributes:
        x: (N, 3, H, W) float32, pixels in [0, 1]. Normalisation belongs to the model.
        y: (N,) int64, class indices into `classes`.
        classes: class names.
        name: the words that tables and figures use for this set, for example "planted".
        augmentation: how `batches` may vary these images in training: "none", "crop" or "crop+flip".
        provenance: everything needed to make the set again.

    Raises:
        DataError: shapes, dtypes, pixel range or labels do not fit.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str
    augmentation: str = "none"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x.ndim != 4 or self.x.shape[1] != 3 or self.x.dtype != torch.float32:
            raise DataError(f"images {self.x.dtype} {tuple(self.x.shape)}: expected float32 (N, 3, H, W)")
        if self.y.shape != self.x.shape[:1] or self.y.dtype != torch.int64:
            raise DataError(f"labels {self.y.dtype} {tuple(self.y.shape)}: expected int64 ({len(self.x)},)")
        if len(self.x):
            low, high = (value.item() for value in torch.aminmax(self.x))
            if not (low >= 0 and high <= 1):  # also false for NaN
                raise DataError(f"pixels from {low:.3g} to {high:.3g}: expected [0, 1]; divide 8-bit pixels by 255")
            if self.y.min() < 0 or self.y.max() >= len(self.classes):
                raise DataError(f"labels from {self.y.min()} to {self.y.max()}: expected 0 to {len(self.classes) - 1}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def take(self, index: int | slice | Tensor) -> Self:
        """The first `index` images, or those a slice or index tensor names."""
        chosen = slice(index) if isinstance(index, int) else index
        return replace(self, x=self.x[chosen], y=self.y[chosen])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels and class names: two sets with the same fingerprint are the same data."""
        digest = hashlib.sha256(repr((tuple(self.x.shape), self.classes, self.augmentation)).encode())
        for tensor in (self.x, self.y):
            digest.update(tensor.contiguous().cpu().numpy().data)
        return digest.hexdigest()[:16]
