"""Diffusion: a denoising model (DDPM; Ho et al. 2020). A small U-Net predicts the noise that was added to an image."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nbutils.features.constructed import Distance
from nbutils.messages import check_choice, check_counts
from nbutils.paradigms.encoder import Encoder, squared
from nbutils.precision import Float32Conv2d
from nbutils.settings import Count, Settings

STEPS = 1000  # T
IN_SCHEDULE = Field(ge=0, lt=STEPS, description=f"a whole number from 0 to {STEPS - 1}, such as 11")


@cache
def noise_schedule() -> tuple[Tensor, Tensor]:
    """beta (T,), a straight line from 1e-4 to .02, and alpha_bar (T,), product of all 1 - beta so far (float64)."""
    beta = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    return beta, (1 - beta).cumprod(0)


def check_timestep(t: int) -> int:
    """Return t if it lies in the schedule.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(t, int) or not 0 <= t < STEPS:
        raise ValueError(f"timestep = {t!r}: expected a whole number from 0 to {STEPS - 1}, such as 11")
    return t


def q_sample(x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise: t + 1 noising steps at once (Ho et al. 2020, equation 4).

    Args:
        x0: (B, C, H, W), in [-1, 1]. t: (B,) timesteps from 0. noise: like x0, standard normal.
    """
    alpha_bar = noise_schedule()[1][t.cpu()].to(x0).view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def time_embedding(t: Tensor, width: int) -> Tensor:
    """(B, width) cosines and sines of the timesteps t (B,), at rates from 1 down to 1e-4."""
    rate = torch.exp(-math.log(10000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], 1)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3 x 3 convolution, twice, added to a shortcut; the time enters in between, per channel."""

    def __init__(self, width_in: int, width: int, time_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width_in), nn.GroupNorm(8, width)
        self.conv1, self.conv2 = (nn.Conv2d(before, width, 3, padding=1) for before in (width_in, width))
        self.time = nn.Linear(time_width, width)
        self.shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        change = self.conv1(F.silu(self.norm1(z))) + self.time(F.silu(time))[:, :, None, None]
        return self.shortcut(z) + self.conv2(F.silu(self.norm2(change)))


class DiffusionEncoder(Encoder):
    """A U-Net; its feature is the spatial mean of a layer of the way up, for an image noised to a timestep. Images are
    `squared` so that each level halves them.

    Settings (see `reading`): layer, "up1" to "upK" for K levels, deepest first, by default the last; timestep, from 0,
    by default 11; seed, of the one noise for all images; passes, by default None: over how many new draws for each
    image the features are a mean, taken from torch's global generator.
    """

    settings = ("layer", "timestep", "seed", "passes")
    passes: int | None = None

    def __init__(self, config: DDPM) -> None:
        super().__init__()
        self.block = config.space_to_depth
        widths = [config.width * factor for factor in config.factors]
        channels, time = 3 * self.block**2, 4 * config.width
        self.time_width = config.width
        self.time = nn.Sequential(nn.Linear(config.width, time), nn.SiLU(), nn.Linear(time, time))
        self.stem = Float32Conv2d(channels, widths[0], 3, padding=1)
        steps = list(zip([widths[0], *widths], widths, strict=False))
        self.down = nn.ModuleList(ResidualBlock(before, after, time) for before, after in steps)
        self.shrink = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for width in widths[:-1])
        self.middle = ResidualBlock(widths[-1], widths[-1], time)
        below = [widths[-1], *widths[:0:-1]]
        self.up = nn.ModuleList(ResidualBlock(2 * width if level == 0 else before + width, width, time)
                                for level, (before, width) in enumerate(zip(below, widths[::-1], strict=True)))
        self.grow = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths[:0:-1])
        answer = Float32Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(answer.weight)  # at first the predicted noise is about 0
        self.last = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU(), answer)
        self.widths = {f"up{level}": width for level, width in enumerate(widths[::-1], start=1)}
        self.layer, self.timestep, self.seed = f"up{len(widths)}", 11, 0

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.widths[self.layer]

    def reading(self, **settings: Any) -> Self:
        """The same weights, shared, read in another way.

        Raises:
            ValueError: no such setting; an unknown layer; a timestep outside the schedule; passes below 1.
        """
        other = copy.copy(self)
        for setting, value in settings.items():
            setattr(other, check_choice("setting", setting, self.settings), value)
        check_timestep(other.timestep)
        check_choice("layer", other.layer, self.widths)
        if other.passes is not None:
            check_counts(passes=other.passes)
        return other

    def extra_repr(self) -> str:
        return ", ".join(f"{setting}={getattr(self, setting)!r}" for setting in self.settings)

    def as_seen(self, x: Tensor) -> Tensor:
        """(B, 3 b^2, S / b, S / b) in [-1, 1] for pixels x (B, 3, H, W) in [0, 1]: each b x b block of pixels becomes
        channels, so that every layer works on b^2 times fewer positions."""
        return F.pixel_unshuffle(2 * squared(x, self.block * 2 ** len(self.shrink)) - 1, self.block)

    def layers(self, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """All maps on the way up by name, and the predicted noise as "noise", for noised x_t and timesteps t (B,)."""
        time = self.time(time_embedding(t, self.time_width).to(x_t.dtype))
        z, kept, found = self.stem(x_t), [], {}
        for level, block in enumerate(self.down):
            z = block(z, time)
            kept.append(z)
            if level < len(self.shrink):
                z = self.shrink[level](z)
        z = self.middle(z, time)
        for level, block in enumerate(self.up):
            z = found[f"up{level + 1}"] = block(torch.cat([z, kept.pop()], 1), time)
            if level < len(self.grow):
                z = self.grow[level](F.interpolate(z, scale_factor=2))
        return {**found, "noise": self.last(z)}

    def features(self, x: Tensor) -> Tensor:
        x0, t = self.as_seen(x), torch.full((len(x),), self.timestep, device=x.device)

        def features(noise: Tensor) -> Tensor:
            return self.layers(q_sample(x0, t, noise.to(x0)), t)[self.layer].mean((2, 3))

        if self.passes is None:
            return features(torch.randn(1, *x0.shape[1:], generator=torch.Generator().manual_seed(self.seed)))
        return torch.stack([features(torch.randn(x0.shape)) for _ in range(self.passes)]).mean(0)


@dataclass(frozen=True)
class DDPM(Settings):
    """The diffusion paradigm: mean squared error of the predicted noise, at timesteps drawn uniformly.

    Attributes:
        width: channels of the first level. factors: channels of each level in units of the width; a level halves
            the side of the one before.
        space_to_depth: side of the blocks of pixels that become channels; 2 makes it about four times cheaper.

    Raises:
        ValueError: a count below 1, or a width that the 8 groups of GroupNorm do not divide.
    """

    width: Annotated[int, Field(ge=8, multiple_of=8, description="a multiple of 8")] = 32
    factors: Annotated[tuple[Count, ...], Field(min_length=1, description="whole numbers >= 1, as a tuple")] = (1, 2, 2)
    space_to_depth: Count = 2

    def encoder(self, image_size: int) -> DiffusionEncoder:
        return DiffusionEncoder(self)

    def __call__(self, model: DiffusionEncoder, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        x0 = model.as_seen(x)
        t = torch.randint(STEPS, (len(x),), generator=generator).to(x.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        return F.mse_loss(model.layers(q_sample(x0, t, noise), t)["noise"], noise)


@dataclass(frozen=True)
class Noised(Settings):
    """A view for `Labelled`: noised images, brought back to about [0, 1] and not cut off.

    Attributes:
        timestep: 11 is where an encoder is read; None draws one for each image, as the training of `DDPM` does.

    Raises:
        ValueError: a timestep outside the schedule.
    """

    timestep: Annotated[int | None, IN_SCHEDULE] = 11

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator).to(x)
        t = (torch.randint(STEPS, (len(x),), generator=generator) if self.timestep is None
             else torch.full((len(x),), self.timestep))
        return (q_sample(2 * x - 1, t, noise) + 1) / 2


@dataclass(frozen=True)
class PredictDifference(Settings):
    """How far the noise predicted for a noised x' is from a difference to x, for `features.matched` (equation 18): the
    root of the mean square. Noise is drawn anew at each step.

    Attributes:
        timestep: "the same as the one used in turning the DM into classifiers".
        of: "images": x' - x, in units of [-1, 1], as the paper puts it. "noised": (x'_t - sqrt(alpha_bar) x) / sqrt(1 -
            alpha_bar), the noise that would have made x'_t of x, so that denoising x'_t gives x.

    Raises:
        ValueError: a timestep outside the schedule, or an unknown difference.
    """

    timestep: Annotated[int, IN_SCHEDULE] = 11
    of: Literal["images", "noised"] = "images"

    def __call__(self, model: DiffusionEncoder, x: Tensor, generator: torch.Generator) -> Distance:
        clean = model.as_seen(x)
        t = torch.full((len(x),), self.timestep, device=x.device)
        alpha_bar = noise_schedule()[1][self.timestep].item()

        def loss(x_adv: Tensor) -> Tensor:
            x0 = model.as_seen(x_adv)
            x_t = q_sample(x0, t, torch.randn(x0.shape, generator=generator).to(x0))
            wanted = x0 - clean
            if self.of == "noised":
                wanted = (x_t - math.sqrt(alpha_bar) * clean) / math.sqrt(1 - alpha_bar)
            return (model.layers(x_t, t)["noise"] - wanted).square().mean((1, 2, 3)).sqrt()

        return loss
