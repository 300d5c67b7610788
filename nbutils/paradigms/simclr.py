"""Contrastive learning: SimCLR (Chen et al. 2020). Two random views of an image must find each other in a batch.

The augmentation is written so that gradients pass through it from the views to the image, so an attack can go through
it as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nbutils import networks
from nbutils.architectures import NETWORKS
from nbutils.networks import frozen
from nbutils.paradigms.encoder import Backbone, Encoder
from nbutils.precision import mixed_precision
from nbutils.robustness.attacks import PGD
from nbutils.settings import Count, Positive, Settings, Share, one_of

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue in a grey level (ITU-R BT.601)
TRIES = 10  # crops that may be drawn before the whole image is taken, as in torchvision


def grey(x: Tensor) -> Tensor:
    """(B, 1, H, W) grey levels of x (B, 3, H, W)."""
    return torch.einsum("bchw,c->bhw", x, x.new_tensor(GREY))[:, None]


def blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor x + (1 - factor) other, cut to [0, 1]. Other is black for brightness, the mean grey level for contrast and
    the grey levels for saturation."""
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def rotate_hue(x: Tensor, turn: Tensor) -> Tensor:
    """The colours of x (B, 3, H, W) with their hue moved by `turn` of the colour circle; grey stays grey.

    Each channel is V - C clamp(min(k, 4 - k), 0, 1), where V is the largest channel, C the largest minus the smallest,
    and k = n + hue in sixths of the circle mod 6, with n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = x.unbind(1)
    value, chroma = x.amax(1), x.amax(1) - x.amin(1)
    safe = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(value == red, (green - blue) / safe,
                         torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4))
    k = torch.stack([(n + sixths + 6 * turn.view(-1, 1, 1)) % 6 for n in (5, 3, 1)], 1)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def crop_boxes(batch: int, height: int, width: int, scale: tuple[float, float],
               generator: torch.Generator) -> Tensor:
    """(4, B) whole numbers top, left, height, width of random crops, in pixels.

    Share of the area uniform in `scale`, width / height log-uniform in [3/4, 4/3], place uniform; of `TRIES` draws
    the first that fits is taken, and the whole image if none does.
    """
    area, shape, top, left = torch.rand(4, batch, TRIES, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    ratio = torch.exp(math.log(4 / 3) * (2 * shape - 1))
    boxes = torch.stack([torch.round(torch.sqrt(area / ratio)), torch.round(torch.sqrt(area * ratio))])
    fits = ((boxes > 0) & (boxes <= boxes.new_tensor([height, width])[:, None, None])).all(0)
    whole = boxes.new_tensor([height, width])[:, None]
    first = fits.int().argmax(1)
    image = torch.arange(batch)
    size = torch.where(fits.any(1), boxes[:, image, first], whole)
    free = torch.stack([top[image, first], left[image, first]]) * (whole - size + 1)
    return torch.cat([free.floor(), size])


def resize_weights(start: Tensor, length: Tensor, size: int, mirrored: Tensor) -> Tensor:
    """(B, size, size) weights of bilinear interpolation along one side: row i says which pixels make pixel i, when
    the pixels start, ..., start + length - 1 are stretched to `size`."""
    position = (torch.arange(size) + 0.5) * (length / size)[:, None] - 0.5
    position = start[:, None] + position.clamp_min(0).minimum(length[:, None] - 1)
    position = torch.where(mirrored[:, None], position.flip(1), position)
    return (1 - (position[:, :, None] - torch.arange(size)).abs()).clamp_min(0)


@dataclass(frozen=True)
class Augmentation(Settings):
    """SimCLR's augmentation for small images, which leaves their size and [0, 1] and is differentiable in x.

    Random resized crop, horizontal flip, colour jitter, grey. All is drawn for each image, but for the order of the
    four changes of colour, which a batch shares.

    Attributes:
        scale: smallest and largest share of the area that a crop keeps. flip: probability of a mirror image.
        brightness, contrast, saturation: factors are uniform in [1 - a, 1 + a]. hue: turn uniform in [-a, a] circles.
        jitter: probability that an image's colours change at all. grey: probability that it loses them.

    Raises:
        ValueError: a setting out of its range.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    flip: Share = 0.5
    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5, description="a number in [0, 0.5]")] = 0.1
    jitter: Share = 0.8
    grey: Share = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale = {self.scale!r}: expected two shares of the area, 0 < low <= high <= 1, "
                             "such as (0.2, 1.0)")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """One view of each image x (B, 3, H, W), pixels in [0, 1]; the draw does not depend on the device of x."""
        batch, _, height, width = x.shape
        top, left, rows, columns = crop_boxes(batch, height, width, self.scale, generator)
        flipped, jittered, greyed = torch.rand(3, batch, generator=generator)
        strengths = torch.rand(4, batch, generator=generator)
        order = torch.randperm(4, generator=generator).tolist()
        mirrored = flipped < self.flip
        down = resize_weights(top, rows, height, torch.zeros_like(mirrored)).to(x)
        across = resize_weights(left, columns, width, mirrored).to(x)
        x = down[:, None] @ x @ across.mT[:, None]
        if self.jitter:
            changed = x
            for change in order:
                changed = self._change(changed, change, strengths[change].to(x))
            x = torch.where((jittered < self.jitter).to(x.device).view(-1, 1, 1, 1), changed, x)
        if self.grey:
            x = torch.where((greyed < self.grey).to(x.device).view(-1, 1, 1, 1), grey(x), x)
        return x

    def _change(self, x: Tensor, change: int, uniform: Tensor) -> Tensor:
        most = (self.brightness, self.contrast, self.saturation, self.hue)[change]
        shift = most * (2 * uniform.view(-1, 1, 1, 1) - 1)
        if change == 3:
            return rotate_hue(x, shift)
        levels = 0 * x if change == 0 else grey(x)
        return blend(x, levels.mean((2, 3), keepdim=True) if change == 1 else levels, 1 + shift)


def similarities(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """NT-Xent seen as classification: logits (2B, 2B), the cosines between all views over the temperature and -inf for
    a view with itself, and the labels (2B,), each view's partner.

    Args:
        z: (2B, D), first views, then second views in the same order.
    """
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    with mixed_precision(z.device, "float32"):  # in bfloat16 cosines near 1 differ by 1/256 at least
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)))
        return (z @ z.T / temperature).masked_fill(itself, -torch.inf), partner


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of z (2B, D), mean over all 2B views (Chen et al. 2020,
    equation 1)."""
    return F.cross_entropy(*similarities(z, temperature))


class ContrastiveEncoder(Encoder):
    """An encoder and a projector that only the loss uses.

    Args:
        backbone: its features are those of this encoder. projector: widths of the layers.
        fixed: only the projector is trained; the backbone stays in evaluation mode, without gradients for its weights.
    """

    def __init__(self, backbone: Encoder, projector: tuple[int, ...], fixed: bool = False) -> None:
        super().__init__()
        self.backbone, self.width, self.fixed = backbone.requires_grad_(not fixed), backbone.width, fixed
        layers: list[nn.Module] = []
        for before, after in zip((self.width, *projector), projector, strict=False):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        self.projector = nn.Sequential(*layers[:-2])  # the last layer is linear

    def features(self, x: Tensor) -> Tensor:
        return self.backbone.features(x)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.train(mode and not self.fixed)
        return self

    def project(self, x: Tensor) -> Tensor:
        """(B, projector[-1]) what the loss compares, for pixels x (B, 3, H, W)."""
        return self.projector(self.features(x))


class _Views(nn.Module):
    """The logits of NT-Xent for 2B images that are views already: what `PGD` attacks."""

    def __init__(self, model: ContrastiveEncoder, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor) -> Tensor:
        return similarities(self.model.project(x), self.temperature)[0]


@dataclass(frozen=True)
class SimCLR(Settings):
    """The contrastive paradigm: NT-Xent between two views of each image.

    Attributes:
        network: the backbone, one of `architectures.NETWORKS`.
        projector: widths of its layers; on the 512 features of ResNet-18 this makes 512-512-256 (Li et al. 2023).
        temperature: usually .07 to .5; Li et al.'s appendix gives none and their code .007.
        view: what makes the two views.
        attack: changes both views before the loss, seeing the model in evaluation mode: adversarial contrastive
            learning (Kim et al. 2020; Jiang et al. 2020), a robust teacher without labels. It keeps its last iterate.

    Raises:
        ValueError: unknown network, no projector, a temperature that is not positive, an attack that keeps its best
            iterate or restarts (a view's loss depends on all others, so no image has a best iterate of its own).
    """

    network: Annotated[str, one_of(NETWORKS)] = "small"
    projector: Annotated[tuple[Count, ...], Field(min_length=1, description="widths >= 1, as a tuple")] = (512, 256)
    temperature: Positive = 0.5
    view: Augmentation = field(default_factory=Augmentation)
    attack: PGD | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack is not None and (self.attack.keep_best or self.attack.restarts > 1):
            raise ValueError(f"attack = {self.attack!r}: expected keep_best=False and one restart")

    def encoder(self, image_size: int) -> ContrastiveEncoder:
        seed = int(torch.randint(2**31, ()))  # networks.build leaves the global state as it was
        return ContrastiveEncoder(Backbone(networks.build(self.network, 10, seed, image_size)), self.projector)

    def __call__(self, model: ContrastiveEncoder, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        views = torch.cat([self.view(x, generator), self.view(x, generator)])
        if self.attack is not None:
            partner = torch.arange(len(views), device=x.device).roll(len(x))
            views = self.attack(_Views(model, self.temperature), views, partner, generator)
        return nt_xent(model.project(views), self.temperature)


class InfoNCE(nn.Module):
    """The contrastive loss against fixed partners as a classifier of B classes, for attacks on images one by one.

    Logit j of image i is the cosine of x'_i (mean over `passes` views) and partner j, over the temperature; its label
    is i. So cross-entropy on these logits is InfoNCE, and no image depends on another one.

    Args:
        model: left as it is. x: (B, 3, H, W) clean images, of which one view each makes the partners.
        view: augmentation, drawn anew in each pass (expectation over transformation); None leaves it out.
        projector: whether the loss compares projections or features.
        seed: of all views. passes: views per image and call.
    """

    def __init__(self, model: ContrastiveEncoder, x: Tensor, *, temperature: float = 0.5,
                 view: Augmentation | None = None, projector: bool = True, passes: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.model, self.temperature, self.view, self.passes = model, temperature, view, passes
        self.embed = model.project if projector else model.features
        self.generator = torch.Generator().manual_seed(seed)
        with frozen(model), torch.no_grad():
            self.partners = self._seen(x)

    def _seen(self, x: Tensor) -> Tensor:
        return F.normalize(self.embed(x if self.view is None else self.view(x, self.generator)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, B) logits for the images x (B, 3, H, W)."""
        seen = [self._seen(x) for _ in range(self.passes if self.view else 1)]
        return torch.stack(seen).mean(0) @ self.partners.T / self.temperature


class Alignment(nn.Module):
    """The distance ||h(x') - h(x)||_2 to the clean images as logits (-distance, 0), for attacks that only move the
    features (Li et al. 2023, equation 15): with labels 0 the "margin" loss is the distance.

    Args:
        model: any encoder, left as it is. x: (B, 3, H, W) clean images.
    """

    def __init__(self, model: Encoder, x: Tensor) -> None:
        super().__init__()
        self.model = model
        with frozen(model), torch.no_grad():
            self.clean = model.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2) for the images x (B, 3, H, W)."""
        distance = (self.model.features(x) - self.clean).norm(dim=1)
        return torch.stack([-distance, torch.zeros_like(distance)], 1)
