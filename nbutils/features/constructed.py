"""The constructed training sets of Ilyas et al. (2019), sections 3.1 and 3.2 and appendix C.

D_R and D_NR are matched: each image is changed until a robust (D_R) or a standard (D_NR) network represents it as it
represents a training image, whose label it takes. D_rand and D_det are relabelled: each image is changed a little,
until a standard network sees another class, whose label it takes.

A set is made in batches that the store keeps, so an interrupted construction goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nbutils import store
from nbutils.console import progress
from nbutils.images.imageset import DataError, ImageSet
from nbutils.messages import check_choice, check_counts
from nbutils.networks import SplitClassifier, frozen, seeded, suited
from nbutils.precision import mixed_precision
from nbutils.robustness.attacks import PGD
from nbutils.robustness.threat import ThreatModel

Distance = Callable[[Tensor], Tensor]  # x' (B, 3, H, W) -> (B,) from the representation that is to be matched
Matching = Callable[[Any, Tensor, torch.Generator], Distance]
"""(model, images x (B, 3, H, W) to be matched, CPU generator) -> the distance to be minimised over x'.

What depends on x alone is computed once, in the call; a distance with masks or noise draws them from the generator. It
is a frozen dataclass, because its fields belong to the recipe of the set."""

STARTS = ("image", "noise")
TARGETS = ("uniform", "next")
SHORTEST = 1e-18  # a shorter gradient gives a shorter step: its squares would underflow


@dataclass(frozen=True)
class FeatureDistance:
    """||g(x') - g(x)||_2, where g is what a `SplitClassifier` returns at one of its cuts, or the features of an encoder
    (Li et al. 2023, equation 16).

    Attributes:
        at: name of the cut; by default that before the last layer, as in the paper.
    """

    at: str = ""

    def __call__(self, model: Any, x: Tensor, generator: torch.Generator) -> Distance:
        """Raises ValueError: unknown cut, or a cut of a model that has none."""
        g = self.representation(model)
        wanted = g(x)
        return lambda x_adv: (g(x_adv) - wanted).flatten(1).norm(dim=1)

    def representation(self, model: Any) -> Callable[[Tensor], Tensor]:
        if isinstance(model, SplitClassifier):
            return partial(model.features, at=self.at or model.cuts[-2])
        if self.at or not hasattr(model, "features"):
            raise ValueError(f"{self}: expected another objective, for a {type(model).__name__} has no "
                             f"{'cuts' if self.at else 'features'}")
        return model.features


@dataclass(frozen=True, eq=False, kw_only=True)
class ConstructedSet(ImageSet):
    """Images made from those of a source set, in its order, with the labels to be learned as `y`.

    Attributes (beside those of `ImageSet`):
        start: (N,) int64, index in the source of the image that each began as, -1 for noise.
        residual: (N,) float32, what the construction left to do. Matched: loss(x') / loss(x0), 0 if the representations
            agree, 1 if nothing was gained; steps that are too long can leave more. Relabelled: 0 if the teacher sees
            the new label, 1 if not.
    """

    PER_IMAGE = ("y", "start", "residual")

    start: Tensor
    residual: Tensor


def D_R(images: ImageSet, model: SplitClassifier, seed: int = 0, precision: str = "float32",
        **options: Any) -> ConstructedSet:
    """`matched` with a robust teacher: images that hold what it represents, the robust features (section 3.1).

    Args and Raises: those of `matched`, as for the other three.
    """
    return matched(images, model, "D_R", seed=seed, precision=precision, **options)


def D_NR(images: ImageSet, model: SplitClassifier, seed: int = 0, precision: str = "float32",
         **options: Any) -> ConstructedSet:
    """`matched` with a standard teacher, the control for D_R: non-robust features count too (section 3.1)."""
    return matched(images, model, "D_NR", seed=seed, precision=precision, **options)


def D_rand(images: ImageSet, model: SplitClassifier, seed: int = 0, precision: str = "float32",
           **options: Any) -> ConstructedSet:
    """`relabelled` with uniform classes: only the perturbation tells the label (section 3.2)."""
    return relabelled(images, model, "D_rand", "uniform", seed=seed, precision=precision, **options)


def D_det(images: ImageSet, model: SplitClassifier, seed: int = 0, precision: str = "float32",
          **options: Any) -> ConstructedSet:
    """`relabelled` with t = y + 1 mod C: what the image shows tells the wrong label (section 3.2)."""
    return relabelled(images, model, "D_det", "next", seed=seed, precision=precision, **options)


def matched(images: ImageSet, model: nn.Module, name: str, objective: Matching = FeatureDistance(), *,
            steps: int = 1000, step_size: float = 0.1, start: str = "image", seed: int = 0,
            batch_size: int = 100, precision: str = "float32") -> ConstructedSet:
    """For each image x an image x' that the model represents alike, with the label of x (Ilyas et al. 2019, section 3.1
    and appendix C).

    Normalised gradient descent in L2 from x0, pixels clipped to [0, 1] after each step, no bound on the distance; the
    last iterate. The defaults are the CIFAR-10 setting.

    Args:
        images: N >= 2 source images. model: the teacher g, left exactly as it was; it says on which device to work.
        name: first word of the set's name.
        objective: the distance to be minimised, a frozen dataclass that is called like `Matching`.
        steps, step_size: number and L2 length (pixel units) of the steps.
        start: "image": x0 is uniform over all other source images, of whatever class; "noise": each pixel is uniform
            in [0, 1].
        seed: draws the x0, for the whole set at once: D_R and D_NR of one seed have the same ones.
        batch_size: images that the model sees at once and the store keeps as one piece. It changes the result by no
            more than float rounding, unless the objective draws random numbers.
        precision: of the model, see `nbutils.precision`; the images and steps are float32.

    Raises:
        DataError: fewer than two images; a teacher with another number of classes, or that cannot read the images.
        ValueError: a setting out of range, unknown start, precision or cut, a loss that is not finite, or an objective
            that does not fit the model.
    """
    check_choice("start", start, STARTS)
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size = {step_size}: expected a positive length in pixel units, such as 0.1")
    check_counts(steps=steps, batch_size=batch_size)
    _check_teacher(model, images, classifier=False)
    generator, n = seeded(seed), len(images)
    others = (torch.arange(n) + torch.randint(1, n, (n,), generator=generator)) % n
    seeds = torch.randint(2**62, (n,), generator=generator).tolist()  # one each, so that no image depends on another

    def noise(row: int) -> Tensor:
        return torch.rand(images.held.shape[1:], generator=torch.Generator().manual_seed(seeds[row]))

    def change(rows: Tensor) -> tuple[Tensor, Tensor]:
        x0 = images.take(others[rows]).x if start == "image" else torch.stack([noise(row) for row in rows.tolist()])
        with torch.no_grad():
            loss = objective(model, suited(images.take(rows).x, model), torch.Generator().manual_seed(seeds[rows[0]]))
        x_adv, first, last = _descend(loss, suited(x0, model), steps, step_size)
        if not torch.isfinite(first + last).all():
            raise ValueError(f"{name}: the loss went from {first.max():g} to {last.max():g}; expected finite numbers")
        return x_adv, last / first.clamp_min(torch.finfo(first.dtype).tiny)  # 0 / 0: nothing was left to do

    settings = {"objective": objective, "steps": steps, "step_size": step_size, "start": start, "seed": seed,
                "precision": precision}
    made = _in_batches(images, model, name, settings, batch_size, change)
    return replace(made, start=others if start == "image" else torch.full_like(others, -1))


def relabelled(images: ImageSet, model: SplitClassifier, name: str, target: str, *, eps: float = 0.5, steps: int = 100,
               step_size: float = 0.1, seed: int = 0, batch_size: int = 100,
               precision: str = "float32") -> ConstructedSet:
    """Each image changed towards a class t that becomes its label (Ilyas et al. 2019, section 3.2 and
    appendix C).

    Targeted PGD on the cross-entropy from the image itself, L2, last iterate. The defaults are the CIFAR-10 setting.

    Args:
        images, model, name, batch_size, precision: as for `matched`.
        target: "uniform": t is uniform over all classes and may be the true one, as in the paper; "next": t = y + 1
            mod C.
        eps, step_size: L2 lengths, pixel units. steps: number of steps.
        seed: draws t where it is random, for the whole set at once.

    Raises:
        DataError, ValueError: as `matched`; unknown target; eps, steps or step_size out of range.
    """
    check_choice("target", target, TARGETS)
    attack = _towards_class(eps, steps, step_size)
    check_counts(batch_size=batch_size)
    _check_teacher(model, images, classifier=True)
    t = _new_labels(images, target, seed)

    def change(rows: Tensor) -> tuple[Tensor, Tensor]:
        x, label = suited(images.take(rows).x, model), t[rows].to(next(model.parameters()).device)
        x_adv = attack(model, x, label)
        with torch.no_grad(), mixed_precision(x.device, "float32"):
            return x_adv, model(x_adv).argmax(1) != label

    settings = {"attack": attack, "target": target, "seed": seed, "precision": precision}
    return replace(_in_batches(images, model, name, settings, batch_size, change), y=t)


def _towards_class(eps: float, steps: int, step_size: float) -> PGD:
    """Down the loss of class t from x itself, with ||x' - x||_2 <= eps (Ilyas et al. 2019, section 3.2)."""
    return PGD(ThreatModel("L2", eps), steps, step_size, targeted=True, random_start=False, keep_best=False)


def _new_labels(images: ImageSet, target: str, seed: int) -> Tensor:
    """(N,) t: "uniform", for D_rand, or the "next" class, for D_det (Ilyas et al. 2019, section 3.2)."""
    if target == "next":
        return (images.y + 1) % images.num_classes
    return torch.randint(images.num_classes, images.y.shape, generator=seeded(seed))


def residuals(images: ImageSet, model: nn.Module, settings: Iterable[tuple[int, float]] = ((200, 0.5), (1000, 0.1)),
              n: int = 200, **options: Any) -> dict[str, Tensor]:
    """What a cheaper setting leaves of the distance, beside the usual one: {"200 x 0.5": (n,) residuals, ...}.

    All settings match the same first n images from the same starts.

    Args:
        settings: pairs of steps and step_size. options: others of `matched`.

    Raises:
        DataError, ValueError: as `matched`.
    """
    check_counts(n=n)
    sample = images.take(n)
    return {f"{steps} x {step_size:g}": matched(sample, model, f"{steps} x {step_size:g}", steps=steps,
                                                step_size=step_size, **options).residual
            for steps, step_size in settings}


def _descend(loss: Distance, x: Tensor, steps: int, step_size: float) -> tuple[Tensor, Tensor, Tensor]:
    """The last iterate and the losses (B,) of the first and the last: one forward and one backward pass per step."""
    losses = []
    for _ in range(steps):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            losses.append(loss(x))
            (gradient,) = torch.autograd.grad(losses[-1].sum(), x)
        losses[-1] = losses[-1].detach()
        # Not ThreatModel's, which takes five passes over the pixels: on a small network they would cost a twentieth.
        length = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True).clamp_min(SHORTEST)
        x = torch.addcdiv(x.detach(), gradient, length, value=-step_size).clamp_(0, 1)
    with torch.no_grad():
        return x, losses[0], loss(x)


def _in_batches(images: ImageSet, model: nn.Module, name: str, settings: Mapping[str, Any], batch_size: int,
                change: Callable[[Tensor], tuple[Tensor, Tensor]]) -> ConstructedSet:
    """The set that `change` makes: rows of the source -> images and residuals of a batch."""
    recipe = {"source": images.fingerprint, "teacher": store.fingerprint(model), **settings, "batch_size": batch_size}

    def batch(number: int, rows: Tensor) -> dict[str, Tensor]:
        def build() -> dict[str, Tensor]:
            with frozen(model), mixed_precision(next(model.parameters()).device, settings["precision"]):
                x, residual = (part.float().cpu().contiguous() for part in change(rows))
            return {"x": x, "residual": residual}

        return store.load_or_build("constructed", {**recipe, "batch": number}, build).tensors

    all_rows = torch.arange(len(images))
    made = [batch(*part) for part in enumerate(progress(all_rows.split(batch_size), f"{name} of {images.name}"))]
    x, residual = (torch.cat([part[key] for part in made]) for key in ("x", "residual"))
    return ConstructedSet(x=x, y=images.y, classes=images.classes, name=f"{name} of {images.name}",
                          augmentation=images.augmentation, start=all_rows, residual=residual)


def _check_teacher(model: nn.Module, images: ImageSet, classifier: bool) -> None:
    """Two images tell whether a classifier fits the data; the objective of another model must see to it itself."""
    if len(images) < 2:
        raise DataError(f"{images.name}: {len(images)} images; expected at least two")
    if not isinstance(model, SplitClassifier) and not classifier:
        return
    name = getattr(model, "name", type(model).__name__)
    size = f"{images.held.shape[3]} x {images.held.shape[2]} pixels"
    try:
        with frozen(model), torch.no_grad():
            classes = model(suited(images.take(2).x, model)).shape[1]
    except RuntimeError as error:
        cause = str(error).partition("\n")[0]
        raise DataError(f"{name}: cannot read images of {size} ({cause}); expected a teacher for "
                        f"{images.name}") from error
    if classes != images.num_classes:
        raise DataError(f"{name}: {classes} classes, and {images.name} has {images.num_classes}; expected a "
                        "teacher of the same classes")
