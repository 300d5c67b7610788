"""The one form in which images travel through the book: pixels in [0, 1], labels, and where they came from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from nbutils.messages import check_choice, check_counts, check_kind, short_repr

AUGMENTATIONS = ("none", "crop", "crop+flip")


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
    if not isinstance(values, Tensor):
        return type(values).__name__
    plain = values.layout == torch.strided and not values.is_meta
    return str(values.dtype) if plain else f"{'meta' if values.is_meta else values.layout} {values.dtype}"


def _shape(values: object) -> tuple[int, ...]:
    return tuple(getattr(values, "shape", ()))


def as_pixels(held: Tensor) -> Tensor:
    """Pixels in [0, 1], float32, of images as a set holds them: `levels / 255`, or what are pixels already.

    Call it on the CPU, since a GPU rounds the quotient in its own way.
    """
    return held.float().div_(255) if held.dtype == torch.uint8 else held


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images.

    Images of 8 bits may be given as their grey levels, uint8 from 0 to 255. They stay so and take a quarter of the
    memory; all numbers are those of `levels / 255`. `x` then makes the pixels anew each time, of all images at once, so
    what walks over a set makes those of a batch: `as_pixels(images.held[index])` or `images.take(index).x`. What is
    written into the `x` of such a set is therefore lost; a changed set is `replace(images, x=changed)`.

    Attributes:
        x: (N, 3, H, W) float32, pixels in [0, 1]. Normalisation belongs to the model.
        y: (N,) int64, class indices into `classes`.
        classes: class names.
        name: the words that tables and figures use for this set, for example "planted".
        augmentation: how `batches` may vary these images in training: "none", "crop" or "crop+flip".

    Raises:
        DataError: shapes, dtypes, pixel range, labels or class names do not fit, or an unknown augmentation.
        ValueError: a name that is no text.
    """

    PER_IMAGE: ClassVar[tuple[str, ...]] = ("y",)  # attributes beside x that have one entry for each image

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str
    augmentation: str = "none"

    def __post_init__(self) -> None:
        kind, shape = _kind(self.held), _shape(self.held)
        if kind not in ("torch.float32", "torch.uint8") or len(shape) != 4 or shape[1] != 3 or 0 in shape[2:]:
            raise DataError(f"images {kind} {shape}: expected torch.float32 or torch.uint8 (N, 3, H, W)"
                            + "; did you mean x.permute(0, 3, 1, 2)?" * (shape[3:] == (3,)))
        if _kind(self.y) != "torch.int64" or self.y.shape != shape[:1]:
            raise DataError(f"labels {_kind(self.y)} {_shape(self.y)}: expected torch.int64 ({shape[0]},)")
        names = self.classes if isinstance(self.classes, (tuple, list)) else ()
        if not all(isinstance(name, str) for name in names) or not 0 < len(names) == len({*names}):
            raise DataError(f"classes {short_repr(self.classes)}: expected names, each once, such as ('cat', 'dog')")
        check_kind("name", self.name, str, "the words for this set, such as 'planted'")
        check_choice("augmentation", self.augmentation, AUGMENTATIONS, DataError)
        if len(self):
            low, high = (as_pixels(value).item() for value in torch.aminmax(self.held))
            if not (low >= 0 and high <= 1):  # also false for NaN
                raise DataError(f"pixels from {low:.3g} to {high:.3g}: expected [0, 1]; divide 8-bit pixels by 255, "
                                "and leave normalisation to the model")
            if self.y.min() < 0 or self.y.max() >= len(self.classes):
                raise DataError(f"labels from {self.y.min()} to {self.y.max()}: expected 0 to {len(self.classes) - 1}")

    def __len__(self) -> int:
        return len(self.held)

    @property
    def held(self) -> Tensor:
        """(N, 3, H, W) the images as they were given: float32 pixels, or uint8 levels."""
        held: Tensor = vars(self)["x"]
        return held

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def take(self, index: int | slice | Tensor) -> Self:
        """The first `index` images, or those a slice or index tensor names; a ValueError where it is none of these."""
        if not isinstance(index, (slice, Tensor, list)):
            check_counts(0, n=index)
        chosen = slice(index) if isinstance(index, int) else index
        return replace(self, x=self.held[chosen], **{part: getattr(self, part)[chosen] for part in self.PER_IMAGE})

    @property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels and class names: two sets with the same fingerprint are the same data.

        It is computed anew once torch has written to pixels or labels in place; what is written through a NumPy array
        that shares their memory, through `.data` or in inference mode is not noticed.
        """
        parts = (self.held, self.y)
        state = [0 if part.is_inference() else part._version for part in parts]  # writes to those are not counted
        if vars(self).get("_hashed", ("",))[0] != state:
            vars(self)["_hashed"] = state, self._hash()
        found: str = vars(self)["_hashed"][1]
        return found

    def _hash(self) -> str:
        digest = hashlib.sha256(repr((tuple(self.held.shape), self.classes, self.augmentation)).encode())
        for part in (*self.held.split(256), self.y):
            digest.update(as_pixels(part).detach().contiguous().cpu().numpy().data)
        return digest.hexdigest()[:16]


def _read(images: ImageSet) -> Tensor:
    return as_pixels(images.held)


def _hold(images: ImageSet, x: Tensor) -> None:
    vars(images)["x"] = x


# However images are held, `x` reads as pixels. Not in the class, where `dataclass` would take it for a default of `x`.
ImageSet.x = property(_read, _hold)  # type: ignore[assignment]
