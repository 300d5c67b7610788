"""Encoders and how they are pre-trained: what the four learning paradigms of Li et al. (2023) have in common.

A paradigm is an encoder h and a loss that needs no labels (equation 5). Here it is one frozen value that makes the
encoder and is the objective of `training.fit`; what was learned is read out by `probe`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils import training
from nbutils.images.imageset import ImageSet
from nbutils.messages import check_counts
from nbutils.networks import SplitClassifier, on_device

View = Callable[[Tensor, torch.Generator], Tensor]  # (x (B, 3, H, W), CPU generator) -> images of the same shape


def squared(x: Tensor, multiple: int) -> Tensor:
    """(B, C, S, S) images x (B, C, H, W) with their last rows and columns repeated until both sides are S, the least
    multiple that holds them; x itself if it fits."""
    height, width = x.shape[2:]
    side = -(-max(height, width) // multiple) * multiple
    return x if height == width == side else F.pad(x, (0, side - width, 0, side - height), mode="replicate")


class Encoder(nn.Module):
    """A network that turns images into features; no image depends on its batch.

    Attributes:
        width: D, numbers per image. name, key: for tables, and of the artifact that holds the weights.
        losses: mean loss of each pass of its training.
    """

    width: int
    name: str = ""
    key: str = ""
    losses: Tensor = torch.empty(0)

    def features(self, x: Tensor) -> Tensor:
        """(B, D) for pixels x (B, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class Backbone(Encoder):
    """A classifier up to the input of its last layer (the pooled features of all `architectures.NETWORKS`)."""

    def __init__(self, classifier: SplitClassifier) -> None:
        super().__init__()
        *stages, head = classifier.stages
        self.stages, self.width = nn.Sequential(*stages), int(head.in_features)  # type: ignore[arg-type]
        self.name, self.key = classifier.name, classifier.key

    def features(self, x: Tensor) -> Tensor:
        return self.stages(x.clone())  # a stage may work in place


class Paradigm(Protocol):
    """A frozen dataclass: its fields are part of the recipe of the encoders that it makes."""

    def encoder(self, image_size: int) -> Encoder:
        """A fresh encoder for images of that many pixels a side."""

    def __call__(self, model: Any, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """The loss, an objective of `training.fit`; the labels y play no part."""


def untrained(paradigm: Paradigm, image_size: int = 32, seed: int = 0,
              device: torch.device | str = "cpu") -> Encoder:
    """An encoder with random weights that depend only on `seed`, in evaluation mode: the first control of a probe."""
    check_counts(0, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = paradigm.encoder(image_size)
    model.name = type(paradigm).__name__
    return on_device(model, device).eval()


def pretrained(paradigm: Paradigm, images: ImageSet, schedule: training.Schedule, seed: int = 0,
               device: torch.device | str = "cpu", name: str = "", precision: str = "float32") -> Encoder:
    """The encoder that this recipe gives, in evaluation mode: trained once by `training.fit`, then read from the store.

    Args:
        images: their labels play no part. seed: of initialisation, data order and all random draws of the loss.
        name: how tables call the encoder; by default the paradigm's name. precision: see `training.fit`.

    Raises:
        ValueError: a setting of the paradigm that does not fit the images. FloatingPointError: training diverged.
    """
    model = untrained(paradigm, images.held.shape[-1], seed, device)
    model.name = name or model.name
    return training.fitted_once(model, paradigm, images, schedule, seed, precision)


@dataclass(frozen=True)
class Labelled:
    """Supervised training through the input pipeline of another paradigm: cross-entropy on what `view` leaves. It is an
    objective of `training.trained`.

    If a paradigm fails where this does as well, its input is to blame and not its loss.

    Attributes:
        view: `simclr.Augmentation`, `mae.Masked` or `ddpm.Noised`.
    """

    view: View

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(self.view(x, generator)), y)
