"""The one form in which images travel through the book: pixels in [0, 1], labels, and where they came from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor


def printable(text: str) -> str:
    """The text with line breaks, control characters and bytes that are no text as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class DataError(ValueError):
    """Images that cannot be used; the message is one line that names the value and what was expected.

    Names of files and folders may hold anything, so what cannot be printed is escaped and a word as long as a file
    name can get is shortened.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"(\S{40})\S{200,}(\S{20})", r"\1...\2", printable(message)))


def _kind(values: object) -> str:
    return str(values.dtype) if isinstance(values, Tensor) else type(values).__name__


def _shape(values: object) -> tuple[int, ...]:
    return tuple(getattr(values, "shape", ()))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images.

    Attributes:
        x: (N, 3, H, W) float32, pixels in [0, 1]. Normalisation belongs to the model.
        y: (N,) int64, class indices into `classes`.
        classes: class names.
        name: the words that tables and figures use for this set, for example "planted".
        augmentation: how `batches` may vary these images in training: "none", "crop" or "crop+flip".

    Raises:
        DataError: shapes, dtypes, pixel range or labels do not fit.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str
    augmentation: str = "none"

    def __post_init__(self) -> None:
        if _kind(self.x) != "torch.float32" or self.x.ndim != 4 or self.x.shape[1] != 3:
            raise DataError(f"images {_kind(self.x)} {_shape(self.x)}: expected torch.float32 (N, 3, H, W)"
                            + "; did you mean x.permute(0, 3, 1, 2)?" * (_shape(self.x)[3:] == (3,)))
        if _kind(self.y) != "torch.int64" or self.y.shape != self.x.shape[:1]:
            raise DataError(f"labels {_kind(self.y)} {_shape(self.y)}: expected torch.int64 ({len(self.x)},)")
        if len(self.x):
            low, high = (value.item() for value in torch.aminmax(self.x))
            if not (low >= 0 and high <= 1):  # also false for NaN
                raise DataError(f"pixels from {low:.3g} to {high:.3g}: expected [0, 1]; divide 8-bit pixels by 255, "
                                "and leave normalisation to the model")
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
