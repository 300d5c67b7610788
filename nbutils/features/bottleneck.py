"""Robust and non-robust channels by an information bottleneck (Kim et al. 2021, sections 2.1 and 2.2).

At a cut of the network, Gaussian noise is added to each channel of one image's features. How loud the noise may become
while the network still predicts a given label says whether the channel is called robust (loud) or non-robust (quiet).

A mask knows the label that it was made for. Made for the true label, the robust part of an *untrained* network already
predicts the truth; so an accuracy of robust parts means nothing without the controls that `random_masks`,
`closed_form_masks`, `global_mask`, `wrong_labels`, `another_of_class`, `own_answers` and `loud_half` make.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils import networks
from nbutils.images.imageset import ImageSet, as_pixels
from nbutils.messages import check_choice, check_counts, check_kind
from nbutils.networks import GlobalAveragePool, SplitClassifier, check_pixels, in_batches, on_device, seeded, suited
from nbutils.robustness.attacks import check_finite
from nbutils.settings import Count, Positive, Settings, Weight, Whole

OVER: dict[str, tuple[int, ...]] = {"image": (1,), "batch": (0, 1), "channel": ()}  # axes of a threshold's maximum
Gradient = Callable[[Tensor], Tensor]  # shift of the channels (B, C) -> gradient of the cross-entropy in it


@dataclass(frozen=True)
class Bottleneck(Settings):
    """How masks are made; the defaults are Kim et al.'s, but for a threshold that is each image's own.

    Each image has its own random generator, seeded by its pixels: its noise does not depend on the other images. Noise
    is one number per channel and step, shared by all positions.

    Attributes:
        beta: weight of the KL term (equation 4).
        iterations, rate: steps of Adam on lambda, where sigma = softplus(lambda) starts at softplus(0) = log 2.
        kl: "mean" over channels, which gives the range of beta in Fig. 5, or "sum", as equation 4 is printed.
        threshold: over what the maximum T of the variances is taken: the channels of an "image"; of all images of a
            "batch", as released, where a channel's class depends on the company; or "channel", which has its own.
        seed: of the noise.

    Raises:
        ValueError: a setting out of range, an unknown choice.
    """

    beta: Weight = 0.3
    iterations: Count = 200
    rate: Positive = 0.1
    kl: Literal["mean", "sum"] = "mean"
    threshold: Literal["image", "batch", "channel"] = "image"
    seed: Whole = 0


@dataclass(frozen=True, eq=False)
class Distilled:
    """What the bottleneck found for N images at a cut with C channels, on the CPU.

    Attributes:
        sigma: (N, C) noise scale per channel, in units of the features.
        variance: (N, C) variance of each channel over its positions.
        robust: (N, C) bool, sigma^2 > T (equation 5).
        labels: (N,) the labels that the masks were made for, or (N, K) probabilities.
        at: the cut. settings: how it was made.
    """

    sigma: Tensor
    variance: Tensor
    robust: Tensor
    labels: Tensor
    at: str
    settings: Bottleneck

    def __len__(self) -> int:
        return len(self.sigma)


def last_cut(model: SplitClassifier) -> str:
    """Where Kim et al. cut: the BatchNorm stage after which only ReLU, pooling and one linear layer come.

    Raises:
        ValueError: the network has no such stage.
    """
    head = (nn.ReLU, nn.MaxPool2d, GlobalAveragePool, nn.Linear)
    body = [(name, stage) for name, stage in zip(model.cuts, model.stages, strict=True) if not isinstance(stage, head)]
    if not body or not isinstance(body[-1][1], nn.BatchNorm2d):
        raise ValueError(f"network {model.name!r}: before its head stands no BatchNorm2d of its own; expected one, or "
                         f"choose a cut among {', '.join(model.cuts)}")
    return body[-1][0]


def distill(model: SplitClassifier, images: ImageSet | Tensor, labels: Tensor, at: str,
            settings: Bottleneck = Bottleneck(), *, batch_size: int = 100) -> Distilled:
    """The noise scales of equation 4 and the masks of equation 5, for each image by itself.

    Adam minimises CE(f_{l+}(z + sigma eps), label) + beta KL over sigma, where per channel
    KL = (variance / sigma^2 + log(sigma^2 / variance) - 1) / 2. The variance is the unbiased one: the positions, four
    at the last cut of VGG-16, are a sample, and dividing by their number would lower it by a quarter.

    Where the rest of the network is BatchNorm, ReLU, max-pool, mean and one linear layer, the pooled features and the
    gradient are known in closed form as functions of one shift per channel, and nothing is differentiated; all other
    cuts run forward and backward through the rest of the network, once per step.

    Args:
        model: left as it was; it says on which device and in which precision to work.
        images: an image set (its own labels play no part), or pixels (N, 3, H, W) in [0, 1].
        labels: (N,) int64. What they are decides what the masks mean: the true ones (`images.y`, as in Table 1),
            `robustness.predict(model, x)`, or `wrong_labels(...)`. Or (N, K) probabilities, such as `own_answers(...)`.
        at: name of a cut with maps of at least two positions.
        batch_size: images at work at once. It bounds memory (noise: iterations x C x 4 bytes per image) and
            does not change the result by more than float rounding, unless the threshold says "batch".

    Raises:
        ValueError: no images; an unknown cut, or one without maps; labels that do not fit; results that are not finite.
    """
    check_counts(batch_size=batch_size)
    check_kind("labels", labels, Tensor, "a torch.Tensor")
    if len(images) == 0 or labels.shape[:1] != (len(images),):
        raise ValueError(f"labels {tuple(labels.shape)} for {len(images)} images: expected one each, and at least one "
                         "image")

    def scales(x: Tensor, y: Tensor) -> Tensor:
        z = _maps(model, x, at)
        _check_labels(labels, model.logits_from(z[:1], at).shape[1])
        wanted = y.to(z) if y.is_floating_point() else y
        return torch.stack(_optimise(model, z, wanted, at, settings, image_seeds(x, settings.seed)), 1)

    sigma, variance = in_batches(scales, model, images, labels, batch_size=batch_size).unbind(1)
    if not torch.isfinite(sigma).all():
        raise ValueError(f"bottleneck at {at}: sigma is not finite; expected finite features and logits, and "
                         f"iterations x rate < 80 where channels are constant")
    companies = zip(sigma.split(batch_size), variance.split(batch_size), strict=True)
    robust = torch.cat([robust_channels(*company, settings.threshold) for company in companies])
    return Distilled(sigma, variance, robust, labels.cpu(), at, settings)


def robust_channels(sigma: Tensor, variance: Tensor, threshold: str = "image") -> Tensor:
    """(B, C) bool: sigma^2 > T (Kim et al. 2021, equation 5), for sigma and variance (B, C) of one batch.

    T = max(variance) per "image", over the "batch", or per "channel", which is the variance itself. Raises ValueError:
    another threshold.
    """
    over = OVER[check_choice("threshold", threshold, OVER)]
    return sigma**2 > (variance.amax(over, keepdim=True) if over else variance)


def parts(z: Tensor, robust: Tensor) -> tuple[Tensor, Tensor]:
    """Zr and Znr with Zr + Znr = Z exactly, for features z (N, C, H, W) and a mask (N, C) or (C,) of robust channels.
    Raises ValueError: the mask does not fit."""
    mask = _fitting(robust, z)
    return z * mask, z * ~mask


def masked_logits(model: SplitClassifier, images: ImageSet | Tensor, mask: Tensor, at: str) -> Tensor:
    """(N, K) logits, on the CPU, from the features at the cut with the channels outside the mask set to zero.

    Masks need not come from the same images: Table 1 puts masks of clean images on attacked ones.

    Args:
        images: an image set or pixels (N, 3, H, W) in [0, 1].
        mask: (N, C) bool, or (C,) for one mask that serves all; `~robust` keeps the non-robust part.

    Raises:
        ValueError: unknown cut, a mask that does not fit, logits that are not finite; as `in_batches`.
    """
    masks = mask.expand(len(images), -1) if mask.ndim == 1 else mask

    def answer(x: Tensor, kept: Tensor) -> Tensor:
        z = model.features(x, at)
        return model.logits_from(z * _fitting(kept, z), at)

    logits = in_batches(answer, model, images, masks)
    check_finite(logits, f"masked features at {at}: the logits are not finite")
    return logits


def masked_predictions(model: SplitClassifier, images: ImageSet | Tensor, mask: Tensor, at: str) -> Tensor:
    """(N,) classes predicted from masked features. Args and Raises: those of `masked_logits`."""
    return masked_logits(model, images, mask, at).argmax(1)


def masked(mask: Tensor, at: str) -> Callable[[SplitClassifier, Tensor], Tensor]:
    """Reads an answer off masked features, for `evaluate(read=...)`; of a mask per image the first ones serve fewer."""
    return lambda model, x: masked_predictions(model, x, mask[: len(x)] if mask.ndim == 2 else mask, at)


# --- controls: other labels, other masks ------------------------------------------------------------------------------

def own_answers(model: SplitClassifier, images: ImageSet | Tensor) -> Tensor:
    """(N, K) the probabilities that the network gives to the classes of each image, on the CPU.

    Told these, `distill` gets no label: cross-entropy against p is, but for a constant, KL(p || p of the noisy
    features), so noise may be loud where the whole prediction stays what it was.
    """
    return in_batches(lambda x: model(x).softmax(1), model, images)


def wrong_labels(y: Tensor, num_classes: int, seed: int = 0) -> Tensor:
    """(N,) classes other than y, uniform.

    Raises:
        ValueError: fewer than two classes, what are no labels.
    """
    check_counts(2, num_classes=num_classes)
    _check_labels(y, num_classes)
    steps = torch.randint(1, num_classes, y.shape, generator=seeded(seed))
    return (y + steps.to(y)) % num_classes


def another_of_class(y: Tensor, seed: int = 0) -> Tensor:
    """(N,) for each image the index of another one with the same label: `robust[another_of_class(y)]` are its masks.

    Raises:
        ValueError: a class with one image only.
    """
    generator, other = seeded(seed), torch.empty_like(y)
    for label in y.unique().tolist():
        members = (y == label).nonzero()[:, 0]
        if len(members) < 2:
            raise ValueError(f"class {label}: one image; expected another one to take the mask from")
        ring = members[torch.randperm(len(members), generator=generator)]
        other[ring] = ring.roll(1)
    return other


def random_masks(robust: Tensor, images: ImageSet | Tensor, seed: int = 0, energy: Tensor | None = None) -> Tensor:
    """(N, C) random masks with, per image, as many channels as `robust` (N, C), or as much energy.

    Args:
        images: an image set or its pixels, which seed the draws: they do not depend on the order of the images.
        energy: (N, C) from `channel_energy`. Channels are then added in random order, and the mask is the first ones
            whose sum comes nearest to that of the robust ones.

    Raises:
        ValueError: shapes that do not fit, masks that are no bool, images that are no pixels, energy below 0.
    """
    x = images.held if isinstance(images, ImageSet) else images
    check_pixels(x)
    _check_bool(robust)
    if len(x) != len(robust) or (energy is not None and energy.shape != robust.shape):
        raise ValueError(f"masks {tuple(robust.shape)} for {len(x)} images, energy "
                         f"{None if energy is None else tuple(energy.shape)}: expected one row each, of one length")
    if energy is not None and not (energy >= 0).all():  # also for NaN
        raise ValueError(f"energy from {energy.min():.3g}: expected numbers >= 0")
    order = torch.stack([torch.randperm(robust.shape[1], generator=torch.Generator().manual_seed(own))
                         for own in image_seeds(x, seed)]).to(robust.device)
    size = robust.sum(1, keepdim=True)
    if energy is not None:
        sums = F.pad(energy.double().gather(1, order).cumsum(1), (1, 0))
        size = (sums - (energy * robust).double().sum(1, keepdim=True)).abs().argmin(1, keepdim=True)
    return order.argsort(1) < size


def untrained(network: str, images: ImageSet, seed: int = 0, device: torch.device | str = "cpu", passes: int = 3,
              batch_size: int = 100) -> SplitClassifier:
    """A network that has learned nothing, in evaluation mode, whose BatchNorm statistics are those of the images.

    Left as they are built, the statistics do not fit: features lose their scale from layer to layer, and the last bias
    decides every prediction.

    Args:
        passes: how many batches of the images it is shown.

    Raises:
        ValueError: as `networks.as_built`.
    """
    model = networks.build(network, images.num_classes, seed, images.held.shape[-1])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average, not a moving one
    model.train()
    with torch.no_grad():
        for x in images.held.split(batch_size)[:passes]:
            model(suited(as_pixels(x), model))
    model.name = f"{network}, untrained"
    return on_device(model, device).eval()


def features_at(model: SplitClassifier, images: ImageSet | Tensor, at: str) -> Tensor:
    """Features f_l(x) of all images at the cut, on the CPU. At "pool", and times a mask, what the last layer reads.

    Raises:
        ValueError: an unknown cut; as `in_batches`.
    """
    return in_batches(lambda x: model.features(x, at), model, images)


def channel_energy(model: SplitClassifier, images: ImageSet | Tensor, at: str) -> Tensor:
    """(N, C) sum of squares over the positions of each channel at the cut, on the CPU.

    Raises:
        ValueError: an unknown cut, or one without maps.
    """
    return in_batches(lambda x: _maps(model, x, at).square().sum((2, 3)), model, images)


def closed_form_masks(model: SplitClassifier, images: ImageSet | Tensor, labels: Tensor, at: str,
                      sizes: Tensor) -> Tensor:
    """(N, C) masks without any optimisation: the channels whose pooled value favours the label most.

    W_y - p W, with the last layer's weight W (K, C) and the prediction p (K,) for the image, is minus the gradient of
    the cross-entropy in the pooled features; the mask is its largest entries. If bottleneck masks agree with these,
    they show which weights favour the label, not how features stand noise.

    Args:
        labels: as for `distill`. sizes: (N,) channels per mask, such as `robust.sum(1)`.

    Raises:
        ValueError: labels that do not fit, sizes below 0; a cut after which more comes than ReLU, pooling and one
            linear layer.
    """
    if len(sizes) and not (sizes >= 0).all():  # also for NaN
        raise ValueError(f"sizes from {sizes.min():.3g}: expected numbers of channels, such as robust.sum(1)")

    def chosen(x: Tensor, y: Tensor, size: Tensor) -> Tensor:
        z = _maps(model, x, at)
        pooled = _pooled(model, z, at)
        if pooled is None:
            raise ValueError(f"closed form at {at}: expected a cut after which only ReLU, pooling and one linear layer "
                             f"come; did you mean {model.cuts[-4]!r}?")
        _, scale, last = pooled
        logits = model.logits_from(z, at)
        _check_labels(labels, logits.shape[1])
        favour = _favour(logits, y, last) * scale
        return favour.argsort(1, descending=True).argsort(1) < size[:, None]

    return in_batches(chosen, model, images, labels, sizes)


def _favour(logits: Tensor, y: Tensor, last: nn.Linear) -> Tensor:
    """(B, C) W_y - p W: minus the gradient of the cross-entropy in the pooled features."""
    return (_probabilities(y, logits.shape[1]).to(logits) - logits.softmax(1)) @ last.weight


def global_mask(robust: Tensor, size: int) -> Tensor:
    """(C,) bool: as many channels as `size`, those that are robust most often in the masks (N, C), such as those of
    training images. It cannot carry the label of the image that it is put on.

    Raises:
        ValueError: a size that is no number of channels, masks that are no bool.
    """
    check_counts(0, size=size)
    _check_bool(robust)
    often = robust.double().mean(0)
    if size > len(often):
        raise ValueError(f"size = {size!r}: expected 0 to {len(often)} channels")
    return often.argsort(descending=True, stable=True).argsort() < size


def loud_half(found: Distilled) -> Tensor:
    """(C,) bool: one mask for all images, of the half of the channels that is most often among the louder half.

    For masks that were told no label: they have hardly a channel above T, but an order of channels all the same.
    """
    half = found.sigma.shape[1] // 2
    quieter = found.sigma.argsort(1).argsort(1)
    return global_mask(quieter >= found.sigma.shape[1] - half, half)


# --- the optimisation -------------------------------------------------------------------------------------------------

def image_seeds(x: Tensor, seed: int = 0) -> list[int]:
    """One seed per image (N, 3, H, W), from its pixels in float32: the same wherever and in whatever company it is."""
    check_counts(0, seed=seed)
    pixels = (image for part in x.split(256) for image in as_pixels(part.detach().cpu()).float().contiguous().numpy())
    return [int.from_bytes(hashlib.blake2b(image.data, digest_size=7, salt=seed.to_bytes(8, signed=True)).digest())
            for image in pixels]


def _optimise(model: SplitClassifier, z: Tensor, y: Tensor, at: str, settings: Bottleneck,
              seeds: list[int]) -> tuple[Tensor, Tensor]:
    """sigma and variance (B, C) for features z (B, C, H, W) of images with these seeds of their noise."""
    variance = z.var((2, 3))
    pull = settings.beta / (z.shape[1] if settings.kl == "mean" else 1)
    shape = settings.iterations, z.shape[1]
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(z)
    pooled = _pooled(model, z, at)
    if pooled is None:
        gradient = _by_autograd(model, z, y, at)
    else:
        levels, scale, last = pooled
        noise, gradient = noise.mul_(scale), _in_closed_form(levels, last, y)
    lambda_ = torch.zeros_like(variance)
    lambda_.grad = torch.empty_like(variance)
    optimizer = torch.optim.Adam([lambda_], lr=settings.rate, fused=True)
    for epsilon in noise.unbind(1):
        by_sigma = _loss_slope(F.softplus(lambda_), epsilon, variance, gradient, pull)
        torch.mul(by_sigma, lambda_.sigmoid(), out=lambda_.grad)
        optimizer.step()
    return F.softplus(lambda_), variance


def _loss_slope(sigma: Tensor, epsilon: Tensor, variance: Tensor, gradient: Gradient, beta: float) -> Tensor:
    """Derivative in sigma (B, C) of CE(f_{l+}(z + sigma epsilon), y) + beta KL (Kim et al. 2021, equation 4), for noise
    epsilon (B, C)."""
    by_sigma = gradient(sigma * epsilon).mul_(epsilon)
    return by_sigma.add_(_kl_slope(sigma, variance), alpha=beta)


def _kl_slope(sigma: Tensor, variance: Tensor) -> Tensor:
    """(1 - variance / sigma^2) / sigma, the derivative in sigma of the divergence of equation 4, both (B, C); finite
    where the variance is 0."""
    inverse = sigma.reciprocal()
    return (variance * inverse).mul_(inverse).neg_().add_(1).mul_(inverse)


def _by_autograd(model: SplitClassifier, z: Tensor, y: Tensor, at: str) -> Gradient:
    def gradient(shift: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = shift.requires_grad_()
            return torch.autograd.grad(_noisy_cross_entropy(model, z, leaf, y, at), leaf)[0]

    return gradient


def _noisy_cross_entropy(model: SplitClassifier, z: Tensor, shift: Tensor, y: Tensor, at: str) -> Tensor:
    """CE(f_{l+}(z + shift), y), summed over the images, for shifts sigma epsilon (B, C); equation 3."""
    return F.cross_entropy(model.logits_from(z + shift[..., None, None], at), y, reduction="sum")


def _in_closed_form(levels: Tensor, last: nn.Linear, y: Tensor) -> Gradient:
    """The gradient where a shift t of a channel makes its pooled value mean_p max(levels_p + t, 0), levels (P, B, C),
    or levels + t without ReLU, levels (B, C). The slope is the share of positive terms.
    """
    wanted = _probabilities(y, last.out_features).T.to(levels)
    bias = 0 if last.bias is None else last.bias[:, None]

    def gradient(shift: Tensor) -> Tensor:
        slope: Tensor | float = 1.0
        value = levels + shift
        if levels.ndim == 3:
            rectified = value.clamp_min_(0)
            value, slope = rectified.mean(0), rectified.sign_().mean(0)
        logits = last.weight @ value.T + bias  # (K, B): a softmax over few classes is faster this way
        return ((logits.softmax(0) - wanted).T @ last.weight).mul_(slope)

    return gradient


def _pooled(model: SplitClassifier, z: Tensor, at: str) -> tuple[Tensor, Tensor, nn.Linear] | None:
    """What the rest of the network does to maps z (B, C, H, W) whose channels are shifted, if pooling commutes with it.

    ReLU and max-pool both commute with adding the same number to a whole channel, and with each other; BatchNorm in
    evaluation mode scales the shift. So the pooled value is a function of levels (P, B, C), or (B, C) without ReLU, as
    `_in_closed_form` says, of a shift times scale (C,); the last layer follows. None for all other networks.
    """
    stages = list(model.stages)[model.cuts.index(at) + 1:]
    if len(stages) < 2 or not isinstance(stages[-2], GlobalAveragePool) or not isinstance(stages[-1], nn.Linear):
        return None
    scale, rectified = z.new_ones(z.shape[1]), False
    for stage in stages[:-2]:
        if isinstance(stage, nn.ReLU):
            rectified = True
        elif isinstance(stage, nn.MaxPool2d):
            z = stage(z)
        elif isinstance(stage, nn.BatchNorm2d) and not rectified and stage.running_var is not None:
            z = stage(z)
            weight = 1 if stage.weight is None else stage.weight
            scale = scale * weight / (stage.running_var + stage.eps).sqrt()
        else:
            return None
    levels = z.flatten(2).permute(2, 0, 1).contiguous()
    return levels if rectified else levels.mean(0), scale, stages[-1]


# --- checks -----------------------------------------------------------------------------------------------------------

def _maps(model: SplitClassifier, x: Tensor, at: str) -> Tensor:
    """Features of the images at the cut, which must be maps (B, C, H, W) of at least two positions."""
    z = model.features(x, at)
    if z.ndim != 4 or z.shape[2:].numel() < 2:
        raise ValueError(f"cut = {at!r}: features {tuple(z.shape[1:])} of an image have no variance over positions; "
                         "expected maps (C, H, W) of at least two positions, from an earlier cut or larger images")
    return z


def _check_bool(masks: Tensor) -> None:
    if masks.dtype != torch.bool:
        raise ValueError(f"masks {masks.dtype} {tuple(masks.shape)}: expected bool, such as `Distilled.robust`")


def _fitting(mask: Tensor, z: Tensor) -> Tensor:
    if mask.dtype != torch.bool or mask.shape not in (z.shape[:2], z.shape[1:2]):
        raise ValueError(f"mask {mask.dtype} {tuple(mask.shape)} for features {tuple(z.shape)}: expected bool "
                         f"{tuple(z.shape[:2])} or ({z.shape[1]},)")
    return mask.to(z.device).view(*mask.shape, *[1] * (z.ndim - 2))


def _probabilities(y: Tensor, num_classes: int) -> Tensor:
    """(B, K) what the network should say, for labels (B,), or for probabilities (B, K), which it is already."""
    return y if y.ndim == 2 else F.one_hot(y, num_classes)


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if labels.ndim == 2:
        sums = labels.double().sum(1)
        if labels.shape[1] != num_classes or labels.min() < 0 or not ((sums - 1).abs() < 1e-3).all():
            raise ValueError(f"labels {labels.dtype} {tuple(labels.shape)}, the least {labels.min():.3g}, sums from "
                             f"{sums.min():.3g} to {sums.max():.3g}: expected ({len(labels)}, {num_classes}) "
                             "probabilities, each row with sum 1")
    elif labels.dtype != torch.int64 or (len(labels) and (labels.min() < 0 or labels.max() >= num_classes)):
        raise ValueError(f"labels {labels.dtype} from {labels.min()} to {labels.max()}: expected int64 from 0 to "
                         f"{num_classes - 1}")
