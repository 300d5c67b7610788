"""A small world whose robust and non-robust features are known.

Each 32 x 32 image shows one of ten shapes (the robust feature) and carries a faint repeated tile (the
non-robust feature). With probability rho the tile is the one that belongs to the shape's class. Because
the parts are kept, every image can be shown again without its pattern, or with the pattern of another
class, and what a model relies on becomes a number.

The world is built on the hypothesis of Ilyas et al. (2019), so it tests methods, not nature. Its robust feature is
coarse and its brittle one is fine. Upside down it is the other way round: a strong fine texture stands in the place
of the shape, a faint coarse shade in the place of the tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from nbutils.datasets import SHAPES
from nbutils.images.imageset import DataError, ImageSet
from nbutils.messages import check_choice, check_counts
from nbutils.settings import Settings, Share, Weight, Whole

VIEWS = ("natural", "no_pattern", "swapped", "independent", "pattern_only")
SIZE = 32
BASE_RANGE = (0.06, 0.94)
COLOURS = (0.35, 0.65)  # of a background in the world upside down
BLOCK = 4  # side in pixels of the blocks of a shade, of which it repeats BLOCK x BLOCK


def _box(u: Tensor, v: Tensor, half_width: float, half_height: float) -> Tensor:
    du, dv = u.abs() - half_width, v.abs() - half_height
    return torch.hypot(du.clamp_min(0), dv.clamp_min(0)) + torch.maximum(du, dv).clamp_max(0)


def _disc(u: Tensor, v: Tensor, radius: float) -> Tensor:
    return torch.hypot(u, v) - radius


def _polygon(u: Tensor, v: Tensor, corners: int, inner: float) -> Tensor:
    """Regular star of `corners` tips, tip radius 1; inner = cos(pi / corners) gives the convex polygon."""
    half = torch.pi / corners
    angle = torch.remainder(torch.atan2(u, -v) + half, 2 * half) - half
    radius = torch.hypot(u, v)
    px, py = radius * torch.cos(angle), radius * torch.sin(angle).abs()
    tip = torch.tensor([1.0, 0.0])
    dent = inner * torch.tensor([torch.cos(torch.tensor(half)), torch.sin(torch.tensor(half))])
    edge = dent - tip
    normal = torch.stack([edge[1], -edge[0]]) / edge.norm()
    return (px - tip[0]) * normal[0] + (py - tip[1]) * normal[1]


# Signed distances in units of the half-size: negative inside. u points right, v points down.
SIGNED_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": lambda u, v: _disc(u, v, 0.85),
    "ring": lambda u, v: _disc(u, v, 0.72).abs() - 0.2,
    "square": lambda u, v: _box(u, v, 0.75, 0.75),
    "triangle": lambda u, v: _polygon(u, v, 3, 0.5),
    "cross": lambda u, v: torch.minimum(_box(u, v, 0.95, 0.26), _box(u, v, 0.26, 0.95)),
    "star": lambda u, v: _polygon(u, v, 5, 0.42),
    "crescent": lambda u, v: torch.maximum(_disc(u, v, 0.9), -_disc(u - 0.45, v, 0.72)),
    "bar": lambda u, v: _box(u, v, 0.95, 0.28),
    "two dots": lambda u, v: torch.minimum(_disc(u - 0.52, v, 0.38), _disc(u + 0.52, v, 0.38)),
    "L": lambda u, v: torch.minimum(_box(u + 0.5, v, 0.26, 0.9), _box(u, v - 0.64, 0.76, 0.26)),
}


INSIDE = "which keeps images in [0, 1], such as"
Amplitude = Annotated[float, Field(ge=0, le=BASE_RANGE[0] - 5e-5, description=f"0 <= amplitude < 0.06, {INSIDE} 4/255")]
Texture = Annotated[float, Field(ge=0, le=COLOURS[0] - BASE_RANGE[0],
                                 description=f"0 <= texture <= 0.29, {INSIDE} 12/255")]


@dataclass(frozen=True)
class PlantedWorld(Settings):
    """The law from which planted images are drawn.

    Attributes:
        amplitude: height of the pattern, in pixel units; every pixel moves by exactly + or - this much.
        rho: probability that the pattern is the one of the shape's class; otherwise it is uniform over all classes.
        period: side of the tile in pixels, an even divisor of 32.
        noise: standard deviation of the pixel noise before it is cut off (below).
        seed: draws the tiles. Images have seeds of their own, see `draw`.
        texture: if above 0 the world stands upside down: no shape is drawn on a background of one random colour; the
            shape's class is shown by a fine tile that moves every pixel by + or - this much, and the pattern is a
            coarse shade, see `tiles`.

    The noise is a normal draw cut off at + or - (0.06 - amplitude). The base lies in [0.06, 0.94], so
    base + noise + pattern never leaves [0, 1] and nothing is ever clipped: the closed forms of chapter 1 are exact.

    Raises:
        DataError: a value outside its range.
    """

    amplitude: Amplitude = 4 / 255
    rho: Share = 0.95
    period: Literal[4, 8, 16, 32] = 4
    noise: Weight = 0.03
    seed: Whole = 0
    texture: Texture = 0.0
    fault: ClassVar[type[ValueError]] = DataError

    @cached_property
    def tiles(self) -> Tensor:
        """(10, 3, side, side) of + and - 1: one tile per class; side is the period, or 16 for shades.

        Fine tiles hold two + and two - in each aligned 2 x 2 block of each channel, so a 2 x 2 mean removes them
        altogether. Shades, of the world upside down, hold one sign in each block of 4 x 4, + in half of a channel's
        blocks, so a 2 x 2 mean leaves them as they are, and they are orthogonal to every colour and fine tile.
        """
        generator = torch.Generator().manual_seed(self.seed)
        return _chosen(_shades(generator) if self.texture else _fine_tiles(self.period, generator))

    @property
    def patterns(self) -> Tensor:
        """(10, 3, 32, 32) of + and - 1: each tile repeated over the whole image."""
        return _repeated(self.tiles)

    @cached_property
    def textures(self) -> Tensor:
        """(10, 3, 32, 32) of + and - 1: the fine tiles that show the class in the world upside down, repeated."""
        return _repeated(_chosen(_fine_tiles(self.period, torch.Generator().manual_seed(self.seed))))

    @property
    def name(self) -> str:
        """What images of this world are called."""
        return "planted, upside down" if self.texture else "planted"

    def draw(self, n: int, seed: int) -> PlantedSet:
        """n images, every shape as often as n allows, in random order; different seeds give independent sets.

        Raises:
            ValueError: no number of images, or no seed.
        """
        check_counts(n=n)
        check_counts(0, seed=seed)
        generator = torch.Generator().manual_seed((1_000_003 * (seed + 1) + self.seed) % 2**63)
        uniform = torch.rand(n, 8, generator=generator)
        shape = torch.randperm(n, generator=generator) % len(SHAPES)
        if self.texture:
            colour = COLOURS[0] + (COLOURS[1] - COLOURS[0]) * uniform[:, :3]
            background = colour[:, :, None, None].repeat(1, 1, SIZE, SIZE)
            base = background + self.texture * self.textures[shape]
        else:
            background = _backgrounds(n, generator)
            base = _paint(background, shape, uniform, generator)
        limit = BASE_RANGE[0] - self.amplitude - 1e-6  # a hair inside, so that rounding cannot leave [0, 1]
        noise = (self.noise * torch.randn(n, 3, SIZE, SIZE, generator=generator)).clamp(-limit, limit)
        independent = torch.randint(len(SHAPES), (n,), generator=generator)
        wrong = (shape + torch.randint(1, len(SHAPES), (n,), generator=generator)) % len(SHAPES)
        pattern = torch.where(uniform[:, 7] < self.rho, shape, independent)
        plain = PlantedSet(
            x=base, y=shape, classes=SHAPES, name=self.name, world=self, base=base,
            background=background, noise=noise, shape=shape, pattern=pattern,
            wrong=wrong, independent=independent,
        )
        return plain.view("natural")


@dataclass(frozen=True, eq=False, kw_only=True)
class PlantedSet(ImageSet):
    """Planted images together with the truth about them.

    Attributes (beside those of `ImageSet`):
        base: (N, 3, 32, 32) shape on background, without noise or pattern.
        background: (N, 3, 32, 32) the same without the shape.
        noise: (N, 3, 32, 32).
        shape: (N,) the shape's class. pattern: (N,) the class whose tile `natural` images carry.
        wrong: (N,) a class other than the shape's, uniform. independent: (N,) uniform over all classes.
        seen_as: the view that `x` and `y` show.
    """

    PER_IMAGE = ("y", "base", "background", "noise", "shape", "pattern", "wrong", "independent")

    world: PlantedWorld
    base: Tensor
    background: Tensor
    noise: Tensor
    shape: Tensor
    pattern: Tensor
    wrong: Tensor
    independent: Tensor
    seen_as: str = "natural"

    def view(self, view: str) -> Self:
        """The same images seen another way; `y` is the shape, except for pattern_only, where it is the pattern.

        natural: as drawn. no_pattern: the pattern left out (the ideal D_R). swapped: the pattern of a wrong
        class (the ideal D_rand, seen from the shape's side). independent: a pattern that says nothing
        about the shape. pattern_only: the natural pattern on the background, with no shape.

        Raises:
            DataError: unknown view.
        """
        check_choice("view", view, VIEWS, DataError)
        scene = (self.background if view == "pattern_only" else self.base) + self.noise
        label = self.view_pattern(view)
        if label is not None:
            scene = scene + self.world.amplitude * self.world.patterns[label]
        target = self.pattern if view == "pattern_only" else self.shape
        name = f"{self.world.name}{'' if view == 'natural' else ', ' + view.replace('_', ' ')}"
        return replace(self, x=scene, y=target, name=name, seen_as=view)

    def with_tiles(self, seed: int) -> Self:
        """The same scenes, noise and pattern classes, with the tiles of a world of that seed."""
        return replace(self, world=replace(self.world, seed=seed)).view(self.seen_as)

    def one_feature_each(self) -> ImageSet:
        """The first half of the images with a shape and no pattern, the rest with a pattern and no shape."""
        half = len(self) // 2
        shape, pattern = self.take(half).view("no_pattern"), self.take(slice(half, None)).view("pattern_only")
        return ImageSet(torch.cat([shape.x, pattern.x]), torch.cat([shape.y, pattern.y]), self.classes,
                        f"{self.world.name}, one feature each")

    def by_pattern(self) -> Self:
        """The same images with the class of their pattern as label: accuracy is then how often the pattern is followed.

        Raises:
            DataError: the images carry no pattern.
        """
        label = self.view_pattern(self.seen_as)
        if label is None:
            raise DataError(f"{self.name}: these images carry no pattern to be scored by")
        return replace(self, y=label, name=f"{self.name}, scored by pattern")

    def view_pattern(self, view: str) -> Tensor | None:
        """(N,) the class whose tile the images of `view` carry; None where there is no tile."""
        return {"natural": self.pattern, "pattern_only": self.pattern, "swapped": self.wrong,
                "independent": self.independent, "no_pattern": None}[view]


def views(sets: list[PlantedSet]) -> dict[str, list[PlantedSet]]:
    """What a column of a table is called -> these sets seen so. Together they tell which feature answers go by."""
    swapped = [data.view("swapped") for data in sets]
    return {"natural": sets, "no pattern": [data.view("no_pattern") for data in sets],
            "wrong pattern: shape's class": swapped,
            "wrong pattern: pattern's class": [data.by_pattern() for data in swapped]}


def _fine_tiles(period: int, generator: torch.Generator) -> Tensor:
    """(2000, 3, period, period) of + and - 1: random ones that a 2 x 2 mean removes."""
    blocks = period // 2
    order = torch.rand(2000, 3, blocks, blocks, 4, generator=generator).argsort(-1)
    signs = torch.where(order < 2, 1.0, -1.0).view(-1, 3, blocks, blocks, 2, 2)
    return signs.permute(0, 1, 2, 4, 3, 5).reshape(-1, 3, period, period)


def _shades(generator: torch.Generator) -> Tensor:
    """(2000, 3, 16, 16) of + and - 1: random ones that are constant in each block, + in half of a channel's blocks."""
    order = torch.rand(2000, 3, BLOCK * BLOCK, generator=generator).argsort(-1)
    signs = torch.where(order < BLOCK * BLOCK // 2, 1.0, -1.0).view(-1, 3, BLOCK, BLOCK)
    return signs.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)


def _chosen(drawn: Tensor) -> Tensor:
    """Ten of these tiles, picked one by one for low mutual correlation."""
    flat = F.normalize(drawn.flatten(1))
    chosen = [0]
    for _ in SHAPES[1:]:
        chosen.append(int((flat @ flat[chosen].T).abs().amax(1).argmin()))
    return drawn[chosen]


def _repeated(tiles: Tensor) -> Tensor:
    """(10, 3, 32, 32): each tile (10, 3, side, side) repeated over the whole image."""
    repeats = SIZE // tiles.shape[-1]
    return tiles.repeat(1, 1, repeats, repeats)


def _backgrounds(n: int, generator: torch.Generator) -> Tensor:
    """Smooth colour fields around mid-grey: 4 x 4 random colours enlarged (bicubic), with three faint blobs each."""
    field = 0.35 + 0.3 * torch.rand(n, 3, 4, 4, generator=generator)
    smooth = F.interpolate(field, size=SIZE, mode="bicubic", align_corners=False)
    grid = (torch.arange(SIZE) + 0.5) / SIZE
    blobs = torch.rand(n, 3, 6, generator=generator)  # (image, blob, [x, y, width, red, green, blue])
    gap_x, gap_y = grid - blobs[..., 0:1], grid - blobs[..., 1:2]
    width = 2 * (0.05 + 0.1 * blobs[..., 2:3]) ** 2
    bump_x, bump_y = torch.exp(-(gap_x**2) / width), torch.exp(-(gap_y**2) / width)
    faint = 0.16 * (blobs[..., 3:] - 0.5)
    return (smooth + torch.einsum("nby,nbx,nbc->ncyx", bump_y, bump_x, faint)).clamp(*BASE_RANGE)


def _paint(background: Tensor, shape: Tensor, uniform: Tensor, generator: torch.Generator) -> Tensor:
    """Paint one anti-aliased shape on each background: rotation up to 26 degrees, half-size 0.55 to 0.85 of 16 px."""
    n = len(background)
    half_size = 16 * (0.55 + 0.3 * uniform[:, 0])
    angle = torch.deg2rad(52 * uniform[:, 1] - 26)
    centre = 16 + (2 * uniform[:, 2:4] - 1) * (16 - half_size[:, None])
    colours = torch.rand(n, 64, 3, generator=generator)
    far = (colours - background.mean((2, 3))[:, None]).norm(dim=-1) >= 0.35
    colour = colours[torch.arange(n), far.int().argmax(1)]  # the first candidate that stands out
    pixel = torch.arange(SIZE) + 0.5
    dx = (pixel[None, None, :] - centre[:, 0, None, None]) / half_size[:, None, None]
    dy = (pixel[None, :, None] - centre[:, 1, None, None]) / half_size[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    distance = torch.empty(n, SIZE, SIZE)
    for index, name in enumerate(SHAPES):
        members = shape == index
        distance[members] = SIGNED_DISTANCES[name](u[members], v[members])
    coverage = (0.5 - distance * half_size[:, None, None]).clamp(0, 1)[:, None]
    return (coverage * colour[:, :, None, None] + (1 - coverage) * background).clamp(*BASE_RANGE)
