"""Masked image modelling: a masked autoencoder (He et al. 2022) completes an image from a quarter of its patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nbutils.features.constructed import Distance
from nbutils.networks import Normalize
from nbutils.paradigms.encoder import Encoder, squared
from nbutils.precision import Float32Linear, mixed_precision
from nbutils.settings import Count, Settings

Hidden = Annotated[float, Field(gt=0, lt=1, description="a share of the patches in (0, 1)")]


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, L, patch * patch * C) patches of x (B, C, H, W), row by row; within a patch pixel by pixel, channels last."""
    batch, channels, height, width = x.shape
    tiles = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """The square images (B, C, H, W) of which `patchify` made these patches (B, L, patch * patch * C)."""
    batch, count, size = patches.shape
    side, channels = math.isqrt(count), size // patch**2
    tiles = patches.reshape(batch, side, side, patch, patch, channels)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, side * patch, side * patch)


def random_order(batch: int, count: int, generator: torch.Generator) -> Tensor:
    """(batch, count) a random order of the patches for each image; the first ones stay visible."""
    return torch.rand(batch, count, generator=generator).argsort(1)


def visible_patches(count: int, mask: float) -> int:
    """How many of `count` patches stay when the share `mask` of them is hidden, at least one."""
    return max(1, round(count * (1 - mask)))


@cache
def positions(side: int, width: int) -> Tensor:
    """(1, side * side, width) sines and cosines of column and row, half of the width each (He et al. 2022)."""
    rate = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(side, dtype=torch.float64)[:, None] * rate
    line = torch.cat([angle.sin(), angle.cos()], 1)
    grid = torch.cat([line.expand(side, -1, -1), line[:, None].expand(-1, side, -1)], 2)
    return grid.reshape(1, side * side, width).float()


class Block(nn.Module):
    """A transformer layer with LayerNorm first: attention, then two linear layers, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, z: Tensor) -> Tensor:
        batch, count, width = z.shape
        q, k, v = self.qkv(self.norm1(z)).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        z = z + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width))
        return z + self.fc2(F.gelu(self.fc1(self.norm2(z))))


class MaskedEncoder(Encoder):
    """A vision transformer whose CLS token is the feature, and the small decoder that only the loss uses. Images are
    `squared` to whole patches.
    """

    def __init__(self, config: MAE) -> None:
        super().__init__()
        self.patch, self.width = config.patch, config.width
        pixels = 3 * config.patch**2
        self.normalize = Normalize()
        self.embed, self.cls = Float32Linear(pixels, config.width), nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.encoder = nn.Sequential(*[Block(config.width, config.heads) for _ in range(config.depth)],
                                     nn.LayerNorm(config.width))
        self.widen = nn.Linear(config.width, config.decoder_width)
        self.hidden = nn.Parameter(torch.randn(1, 1, config.decoder_width) * 0.02)
        self.decoder = nn.Sequential(*[Block(config.decoder_width, config.heads) for _ in range(config.decoder_depth)],
                                     nn.LayerNorm(config.decoder_width), nn.Linear(config.decoder_width, pixels))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def patches(self, x: Tensor) -> Tensor:
        """(B, L, 3 patch^2) patches of pixels x (B, 3, H, W), normalised: what is masked and reconstructed."""
        return patchify(self.normalize(squared(x, self.patch)), self.patch)

    @staticmethod
    def where(z: Tensor, count: int) -> Tensor:
        """(B, count, D) the positions of all patches of a square image, for tokens z (B, V, D)."""
        return positions(math.isqrt(count), z.shape[2]).to(z).expand(len(z), -1, -1)

    def tokens(self, patches: Tensor, visible: Tensor) -> Tensor:
        """(B, 1 + V, D) the CLS token and those of the patches `visible` (B, V), as the encoder leaves them."""
        z = self.embed(_take(patches, visible))
        z = z + _take(self.where(z, patches.shape[1]), visible)
        return self.encoder(torch.cat([self.cls.expand(len(z), -1, -1), z], 1))

    def features(self, x: Tensor) -> Tensor:
        patches = self.patches(x)
        everything = torch.arange(patches.shape[1], device=x.device).expand(len(x), -1)
        return self.tokens(patches, everything)[:, 0]

    def reconstruct(self, patches: Tensor, order: Tensor, visible: int) -> Tensor:
        """(B, L, 3 patch^2) all patches as predicted from the first `visible` ones of each `order` (B, L)."""
        z = self.widen(self.tokens(patches, order[:, :visible]))
        hidden = self.hidden.expand(len(z), order.shape[1] - visible, -1)
        everywhere = torch.cat([z[:, 1:], hidden], 1)
        z = torch.cat([z[:, :1], _take(everywhere, order.argsort(1)) + self.where(z, order.shape[1])], 1)
        return self.decoder(z)[:, 1:]


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """(B, V, D) the rows of each (L, D) in rows (B, L, D) that index (B, V) names."""
    return rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))


def masked_error(model: MaskedEncoder, x: Tensor, target: Tensor, mask: float, generator: torch.Generator) -> Tensor:
    """(B,) mean squared error on the hidden patches of `target` (B, L, 3 patch^2), predicted from what a random mask
    leaves of the images x (B, 3, H, W)."""
    patches = model.patches(x)
    order = random_order(len(x), patches.shape[1], generator).to(x.device)
    visible = visible_patches(order.shape[1], mask)
    with mixed_precision(x.device, "float32"):  # products as narrow as these are slower in bfloat16 on a CPU
        predicted, hidden = model.reconstruct(patches, order, visible), order[:, visible:]
    return (_take(predicted, hidden) - _take(target, hidden)).square().mean((1, 2))


@dataclass(frozen=True)
class MAE(Settings):
    """The paradigm of masked images: mean squared error on the hidden patches.

    Attributes:
        patch: side of a patch in pixels. width, depth: of the encoder. decoder_width, decoder_depth: of the decoder.
        heads: of attention, in both. mask: share of the patches that is hidden in training.

    Raises:
        ValueError: a count below 1, widths that 4 or the heads do not divide, a mask that hides nothing or all.
    """

    patch: Count = 4
    width: Count = 64
    depth: Count = 3
    decoder_width: Count = 64
    decoder_depth: Count = 1
    heads: Count = 4
    mask: Hidden = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("width", "decoder_width"):
            if getattr(self, setting) % math.lcm(4, self.heads):
                raise ValueError(f"{setting} = {getattr(self, setting)}: expected a multiple of "
                                 f"{math.lcm(4, self.heads)}, for 4 kinds of position and {self.heads} heads")

    def encoder(self, image_size: int) -> MaskedEncoder:
        return MaskedEncoder(self)

    def __call__(self, model: MaskedEncoder, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return masked_error(model, x, model.patches(x), self.mask, generator).mean()


@dataclass(frozen=True)
class Masked(Settings):
    """A view for `Labelled`: all but a quarter of the patches turned mid-grey, drawn for each image.

    Raises:
        ValueError: a patch below 1.
    """

    patch: Count = 4
    mask: Hidden = 0.75

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        patches = patchify(squared(x, self.patch), self.patch)
        order = random_order(len(x), patches.shape[1], generator).to(x.device)
        kept = order.argsort(1) < visible_patches(order.shape[1], self.mask)
        masked = unpatchify(torch.where(kept[:, :, None], patches, 0.5), self.patch)
        return masked[:, :, : x.shape[2], : x.shape[3]]


@dataclass(frozen=True)
class Reconstruct(Settings):
    """The error of recovering x from a masked x', for `features.matched` (equation 17). Masks are drawn anew at each
    step.

    Attributes:
        mask: share of the patches that is hidden; the error is on these.
    """

    mask: Hidden = 0.75

    def __call__(self, model: MaskedEncoder, x: Tensor, generator: torch.Generator) -> Distance:
        target = model.patches(x)
        return lambda x_adv: masked_error(model, x_adv, target, self.mask, generator)
