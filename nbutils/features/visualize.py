"""Pictures of features: an image whose features are given ones, and an image that excites given channels.

Feature inversion (Mahendran and Vedaldi 2015) is what the released code of Kim et al. (2021) draws for their Fig. 3,
activation maximisation (Erhan et al. 2009, Olah et al. 2017) is what their section 3.2 describes. Here both search the
pixels in the same way, from the same start, with the same taste for smooth pictures; only what they search for differs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils.console import counter
from nbutils.features.bottleneck import features_at, parts
from nbutils.messages import check_counts
from nbutils.networks import SplitClassifier, frozen
from nbutils.settings import Count, Positive, Settings, Weight, Whole

BLOBS = 8  # side of the coarse noise that a search starts from


@dataclass(frozen=True)
class PictureSearch(Settings):
    """How a picture is searched for: Adam on w, where the pixels are sigmoid(w).

    Every search starts from the same coarse noise and is shifted in the same way, so that pictures differ by what is
    asked of them only, and none depends on the others in its batch. Where a network does not look, the start remains.

    Attributes:
        steps, rate: of Adam.
        smoothness: weight of the total variation, the mean absolute difference between neighbouring pixels.
        shift: before each step the picture moves by up to so many pixels to each side, so that nothing is drawn that
            holds in one exact place only.
        contrast: standard deviation of the start, in w. From flat grey some networks have no gradient.
        seed: of start and shifts.

    Raises:
        ValueError: a setting out of range.
    """

    steps: Count = 100
    rate: Positive = 0.1
    smoothness: Weight = 3.0
    shift: Whole = 1
    contrast: Weight = 1.0
    seed: Whole = 0

    def start(self, n: int, size: int, like: Tensor) -> Tensor:
        """w (n, 3, size, size), n times the same, in the precision and on the device of `like`."""
        blobs = torch.randn(1, 3, BLOBS, BLOBS, generator=torch.Generator().manual_seed(self.seed))
        smooth = F.interpolate(self.contrast * blobs, (size, size), mode="bicubic")
        return smooth.to(like).repeat(n, 1, 1, 1).contiguous(memory_format=torch.channels_last)

    def moves(self) -> Callable[[Tensor], Tensor]:
        """A function that shifts pictures (N, 3, H, W), all in the same way, each time by another amount."""
        generator = torch.Generator().manual_seed(self.seed)

        def move(x: Tensor) -> Tensor:
            up, left = torch.randint(2 * self.shift + 1, (2,), generator=generator).tolist()
            wide = F.pad(x, [self.shift] * 4, "reflect")
            return wide[..., up:up + x.shape[2], left:left + x.shape[3]].contiguous(memory_format=torch.channels_last)

        return move


def total_variation(x: Tensor) -> Tensor:
    """(N,) mean absolute difference between neighbouring pixels of pictures (N, 3, H, W), down plus across."""
    return x.diff(dim=2).abs().flatten(1).mean(1) + x.diff(dim=3).abs().flatten(1).mean(1)


def invert(model: SplitClassifier, targets: Tensor, at: str, mask: Tensor | None = None, *,
           along: bool = False, settings: PictureSearch = PictureSearch(), size: int = 32,
           batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """For each target z the picture x' that minimises ||m (f_l(x') - z)||^2 / ||m z||^2 + smoothness TV(x').

    What the channels outside the mask m do is left open, as in the released code. `invert(model, parts(z, mask)[0],
    at)` asks for zeros there, which is what f_{l+} is given when a part is classified. But no image need have such
    features: where channels move together, the residual then says that there is none.

    The released code does not ask for the features themselves but for as much as possible along them: with
    s = <m f_l(x'), m z> / ||m z||^2, which is 1 for the image itself, it maximises a multiple of s^3. `along=True`
    maximises s.

    Targets that are zero in all these channels ask for nothing, whatever the features of a picture are there.

    Args:
        model: left exactly as it was; it says on which device and in which precision to work.
        targets: (N, C, H, W) features. at: the cut that they come from.
        mask: (N, C) or (C,) bool; None for all channels.
        along: go as far as possible in the direction of m z, instead of to it.
        size: side of the pictures in pixels, as the features ask for.
        batch_size: pictures at work at once; it bounds memory and changes results by no more than float rounding.

    Returns:
        Pictures (N, 3, size, size) in [0, 1], and the residual ||m (f_l(x') - z)|| / ||m z|| of each (N,): 0 if its
        features agree, about 1 if they might as well be zero, NaN if nothing was asked (an empty mask, or zeros). On
        the CPU.

    Raises:
        ValueError: unknown cut, one without maps, targets or a mask that do not fit it, targets that are not finite.
    """
    maps = _maps(model, at, size)
    if targets.shape[1:] != maps or len(targets) == 0 or not torch.isfinite(targets).all():
        raise ValueError(f"targets {tuple(targets.shape)} at {at}: expected finite features (N, "
                         f"{', '.join(map(str, maps))}) of N >= 1 images of {size} x {size} pixels")
    chosen = torch.ones(maps[0], dtype=torch.bool) if mask is None else mask
    parts(targets, chosen)  # a mask that does not fit stops here
    chosen = chosen.expand(len(targets), -1)
    with frozen(model), torch.no_grad(), counter(f"inversion at {at}", "step") as count:
        found = [_inverted(model, z.to(next(model.parameters())), at, channels, along, settings, size, count)
                 for z, channels in zip(targets.split(batch_size), chosen.split(batch_size), strict=True)]
    pictures, residuals = (torch.cat(part) for part in zip(*found, strict=True))
    return pictures, residuals


def _inverted(model: SplitClassifier, z: Tensor, at: str, mask: Tensor, along: bool, settings: PictureSearch,
              size: int, count: Callable[[int], None]) -> tuple[Tensor, Tensor]:
    """What `invert` returns, for one batch."""
    w, move = settings.start(len(z), size, z).requires_grad_(), settings.moves()
    optimizer = torch.optim.Adam([w], settings.rate)
    wanted = parts(z, mask)[0].flatten(1)
    asked = wanted.square().sum(1)
    unit = torch.where(asked > 0, asked, torch.inf)  # where nothing is asked, smoothness alone decides

    def seen(x: Tensor) -> Tensor:
        return parts(model.features(x, at), mask)[0].flatten(1)

    for _ in range(settings.steps):
        with torch.enable_grad():
            x = w.sigmoid()
            loss = _picture_loss(x, seen(move(x)), wanted, unit, settings.smoothness, along)
            (w.grad,) = torch.autograd.grad(loss.sum(), w)
        optimizer.step()
        count(1)
    x = w.sigmoid()
    length = torch.where(asked > 0, wanted.norm(dim=1), torch.nan)
    return x.cpu().contiguous(), ((seen(x) - wanted).norm(dim=1) / length).cpu()


def _picture_loss(x: Tensor, found: Tensor, wanted: Tensor, unit: Tensor, smoothness: float, along: bool) -> Tensor:
    """(N,) ||m (f_l(x') - z)||^2 / ||m z||^2 + smoothness TV(x') (Mahendran and Vedaldi 2015), or the same
    with minus the inner product `along` m z; found and wanted are m f_l(x') and m z, unit is ||m z||^2."""
    loss = -(found * wanted).sum(1) if along else (found - wanted).square().sum(1)
    return loss / unit + smoothness * total_variation(x)


def activation_maximum(model: SplitClassifier, at: str, channels: Tensor, *,
                       settings: PictureSearch = PictureSearch(), size: int = 32) -> Tensor:
    """For each row of channels the picture that excites them most on average over their positions, by lucent.

    All are rendered in one batch.

    Args:
        model: left exactly as it was.
        channels: (N, C) bool, the channels of each picture; `torch.eye(C, dtype=torch.bool)[[3, 7]]` gives two single
            ones.
        at, settings, size: as for `invert`.

    Returns:
        Pictures (N, 3, size, size) in [0, 1], on the CPU.

    Raises:
        ValueError: unknown cut, one without maps, channels that do not fit it, a row without a channel.
    """
    maps = _maps(model, at, size)
    if channels.dtype != torch.bool or channels.ndim != 2 or channels.shape[1] != maps[0] or not channels.any(1).all():
        raise ValueError(f"channels {channels.dtype} {tuple(channels.shape)}: expected bool (N, {maps[0]}) for the "
                         f"channels at {at}, with at least one in each row")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a library that lucent imports
        import nbutils.torchvision  # noqa: F401, I001  (before lucent, which imports torchvision)
        from lucent.optvis import render
    copy = deepcopy(model).eval().requires_grad_(False)  # lucent leaves its hooks behind
    last = model.cuts.index(at)
    copy.stages = copy.stages[:last + 1]  # a stage after the cut might change its features in place
    layer, like, move = f"stages_{last}", next(model.parameters()), settings.moves()
    w = settings.start(len(channels), size, like).requires_grad_()
    excited = _excitement(layer, channels.to(like), settings.smoothness)
    with counter(f"activation maximum at {at}", "step") as count:

        def moved(x: Tensor) -> Tensor:
            count(1)
            return move(x)

        (found,) = render.render_vis(
            copy, excited, lambda: ([w], w.sigmoid), thresholds=(settings.steps,),
            optimizer=lambda weights: torch.optim.Adam(weights, settings.rate), transforms=[moved], preprocess=False,
            fixed_image_size=size, progress=False, show_image=False)
    return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous()


def _excitement(layer: str, channels: Tensor, smoothness: float) -> Any:
    """The mean of each row of channels (N, C) over its picture's positions, minus smoothness TV (Olah et al. 2017)."""
    from lucent.optvis import objectives

    wanted = [objectives.channel_weight(layer, row * len(row) / row.sum().item(), batch=picture)
              for picture, row in enumerate(channels)]
    rough = objectives.Objective(lambda T: smoothness * total_variation(T("input")).sum())
    return objectives.Objective.sum([*wanted, rough])


def _maps(model: SplitClassifier, at: str, size: int) -> torch.Size:
    """(C, H, W) of the features of one picture."""
    check_counts(size=size)
    z = features_at(model, torch.full((1, 3, size, size), 0.5), at)
    if z.ndim != 4:
        raise ValueError(f"cut = {at!r}: features {tuple(z.shape[1:])}; expected maps (C, H, W), from an earlier cut")
    return z.shape[1:]
