"""Useful and robustly useful features (Ilyas et al. 2019, equations 1 and 2), measured and in closed form.

A feature f maps an image to a number. Here y is +1 for the images of one class and -1 for all others, the two sides
weigh the same, and f has mean 0 and variance 1. Then f is rho-useful if E[y f(x)] >= rho, at most 1, and
gamma-robustly useful if E[inf y f(x + delta)] >= gamma over the perturbations of a threat model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nbutils import store
from nbutils.console import progress
from nbutils.datasets import SHAPES
from nbutils.features.bottleneck import features_at
from nbutils.images.imageset import ImageSet
from nbutils.images.planted import SIZE, PlantedSet, PlantedWorld
from nbutils.messages import check_counts
from nbutils.networks import SplitClassifier, frozen, seeded
from nbutils.robustness.attacks import PGD, check_attack, margin
from nbutils.robustness.threat import ThreatModel, parse_eps


def class_weights(y: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Signs (N,) of +1 for class `target` and -1 for the rest, and weights (N,) that give each side half.

    Raises:
        ValueError: one of the two sides is empty, a target that is no whole number.
    """
    check_counts(0, target=target)
    member = y == target
    if not member.any() or member.all():
        raise ValueError(f"class {target}: {int(member.sum())} of {len(y)} images; expected some, and some others")
    signs = torch.where(member, 1.0, -1.0)
    weights = torch.where(member, 0.5 / member.sum(), 0.5 / (~member).sum())
    return signs, weights


@dataclass(frozen=True)
class LinearFeature:
    """f(x) = (<weight, x> - mean) / std, with mean and std those of <weight, x> on the images it was fitted to.

    Attributes:
        weight: (3, H, W). mean, std: floats.
        target: the class that counts as +1.
    """

    weight: Tensor
    mean: float
    std: float
    target: int

    @classmethod
    def fitted(cls, weight: Tensor, images: ImageSet, target: int) -> LinearFeature:
        """The feature with this weight, of mean 0 and variance 1 on `images` when both sides weigh the same."""
        _, weights = class_weights(images.y, target)
        raw = images.x.flatten(1).double() @ weight.flatten().double()
        mean = (weights * raw).sum().item()
        return cls(weight, mean, (weights * (raw - mean) ** 2).sum().sqrt().item(), target)

    def __call__(self, x: Tensor) -> Tensor:
        """(N,) values for x (N, 3, H, W), pixels in [0, 1]."""
        return ((x.flatten(1).double() @ self.weight.flatten().double()) - self.mean) / self.std

    def worst_case(self, x: Tensor, signs: Tensor, threat: ThreatModel) -> Tensor:
        """(N,) the infimum of y f(x + delta) over the threat model, without a search.

        Linf: exact, pixels stay in [0, 1]. L2: y f(x) - eps ||weight||_2 / std, exact where no pixel reaches 0 or 1,
        otherwise a lower bound.
        """
        value = signs * self(x)
        if threat.norm == "L2":
            return value - threat.eps * self.weight.double().norm() / self.std
        down = -signs.view(-1, 1, 1, 1) * self.weight.sign()
        room = torch.where(down > 0, 1 - x, x).clamp_max(threat.eps).double()
        return value - (room * self.weight.abs()).flatten(1).sum(1) / self.std

    def robust_usefulness(self, images: ImageSet, threat: ThreatModel) -> float:
        """E[inf y f(x + delta)] over `images`; with eps = 0 the plain usefulness E[y f(x)]."""
        signs, weights = class_weights(images.y, self.target)
        return (weights * self.worst_case(images.x, signs, threat)).sum().item()

    def closed_form(self, images: ImageSet, threat: ThreatModel) -> float:
        """E[y f] - eps ||a||_* / ||a||_Sigma (Goh 2019): the same without the limits of the pixel range."""
        dual = self.weight.double().abs().sum() if threat.norm == "Linf" else self.weight.double().norm()
        return self.robust_usefulness(images, ThreatModel(threat.norm, 0)) - threat.eps * dual.item() / self.std


def matched_filter(world: PlantedWorld, target: int) -> Tensor:
    """(3, 32, 32) weight that measures how much of the target's tile an image holds, in pixel units of amplitude.
    Raises ValueError: a target that is no whole number >= 0."""
    check_counts(0, target=target)
    return world.patterns[target] / (3 * SIZE * SIZE)


def population_usefulness(world: PlantedWorld, target: int, eps: float, scene: Tensor) -> float:
    """What `robust_usefulness` of the matched filter tends to with ever more images, for a Linf radius eps.

    The filter's response is amplitude * <tile, tile of the image> + (response to base and noise). The first part has
    a known law given the class; of the second, which does not depend on the class's pattern, mean and variance by
    side are all that is needed.

    Args:
        eps: pixel units. The tile filter has ||weight||_1 = 1, so eps lowers y times the response by exactly eps.
        scene: (2, 2) mean and variance (columns) of the response to base and noise, for the class and for the rest
            (rows), from images without pattern.
    """
    eps = parse_eps(eps)
    overlap = (world.tiles[target] * world.tiles).mean((1, 2, 3)).double()  # (10,) response per unit of amplitude
    k = len(SHAPES)
    law = (1 - world.rho) / k + world.rho * torch.eye(k, dtype=torch.float64)  # (shape, pattern)
    rest = torch.cat([law[:target], law[target + 1:]]).mean(0)
    means, variances = [], []
    for side, probability in enumerate((law[target], rest)):
        response = world.amplitude * (probability * overlap).sum()
        spread = world.amplitude**2 * (probability * overlap**2).sum() - response**2
        means.append(response + scene[side, 0])
        variances.append(spread + scene[side, 1])
    half_gap = (means[0] - means[1]) / 2
    std = ((variances[0] + variances[1]) / 2 + half_gap**2).sqrt()
    return ((half_gap - eps) / std).item()


def scene_response(images: PlantedSet, target: int) -> Tensor:
    """(2, 2) for `population_usefulness`: mean and variance of the filter's response to images without pattern."""
    plain = images.view("no_pattern")
    response = plain.x.flatten(1).double() @ matched_filter(images.world, target).flatten().double()
    sides = [response[images.shape == target], response[images.shape != target]]
    return torch.stack([torch.stack([side.mean(), side.var(correction=0)]) for side in sides])


class OneFeature(nn.Module):
    """A number f that a classifier computes, as two logits (-f/2, f/2).

    With labels 1 for the class and 0 for the rest the margin loss is -y f, so `PGD(..., loss="margin")` searches for
    inf y f(x + delta).

    Args:
        feature: (model, x (B, 3, H, W), pixels in [0, 1]) -> (B,).
    """

    def __init__(self, model: SplitClassifier, feature: Callable[[SplitClassifier, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.feature = model, feature

    def forward(self, x: Tensor) -> Tensor:
        half = self.feature(self.model, x) / 2
        return torch.stack([-half, half], 1)

    def attacked(self, attack: PGD, x: Tensor, signs: Tensor, seed: int) -> Tensor:
        """Images that lower y f, on the model's device, for images x and signs y (B,).

        Raises:
            ValueError: the attack does not use the margin loss, or is targeted.
        """
        if attack.loss != "margin":
            raise ValueError(f"loss = {attack.loss!r}: expected 'margin', which is -y f for this feature")
        check_attack(attack)
        device = next(self.model.parameters()).device
        return attack(self, x.to(device), (signs > 0).long().to(device), seeded(seed))


def usefulness(model: SplitClassifier, images: ImageSet, target: int, attack: PGD | None = None,
               seed: int = 0) -> float:
    """Usefulness of a network's feature for one class against the rest, f = its logit - the largest other logit,
    standardised on the clean `images`.

    With an attack it is an upper bound on the robust usefulness: the true infimum can only be lower than what a
    search has found.

    Raises:
        ValueError: the attack does not use the margin loss, or is targeted.
    """
    signs, weights = class_weights(images.y, target)
    feature = OneFeature(model, lambda model, x: -margin(model(x), torch.full((len(x),), target, device=x.device)))
    x = images.x.to(next(model.parameters()).device)

    def values(x: Tensor) -> Tensor:
        with frozen(feature), torch.no_grad():
            return feature(x).diff().squeeze(1).cpu().double()

    clean = values(x)
    value = clean if attack is None else values(feature.attacked(attack, x, signs, seed))
    return _standardised(value, clean, signs, weights).item()


def _standardised(value: Tensor, clean: Tensor, signs: Tensor, weights: Tensor) -> Tensor:
    """E[y f] (Ilyas et al. 2019, equation 1) for values (N,) of f, scaled to mean 0 and variance 1 on clean images."""
    mean = (weights * clean).sum()
    std = (weights * (clean - mean) ** 2).sum().sqrt()
    return (weights * signs * (value - mean) / std).sum()


def channel_usefulness(values: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(K, C) usefulness E[y f] of each of C features for each class against the rest, standardised on these images, and
    (K, C) the standard deviation by which they were divided, in which both sides weigh the same.

    Args:
        values: (N, C), such as `features_at(model, images, "pool")`. y: (N,) classes.

    What has no value is NaN: a class without images or without others, a constant feature (a dead channel).
    """
    z, half_gaps, variances = values.double() - values.double().mean(0), [], []
    for target in range(num_classes):
        sides = [z[y == target], z[y != target]]
        own, rest = (side.mean(0) for side in sides)  # NaN where there is none
        half_gaps.append((own - rest) / 2)
        variances.append(sum(side.square().mean(0) for side in sides) / 2 - ((own + rest) / 2) ** 2)
    variance = torch.stack(variances)
    std = torch.where(variance > 1e-12, variance, torch.nan).sqrt()
    return torch.stack(half_gaps) / std, std


def robust_channel_usefulness(model: SplitClassifier, images: ImageSet, few: ImageSet, chosen_on: ImageSet,
                              attack: PGD, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(C,) usefulness and (C,) robust usefulness of each channel at "pool", as a feature for its best class.

    The class, and whether the channel speaks for it or against it, are chosen on other images. Each channel is attacked
    by itself: once, then both are read from the store. What a search finds is not the worst case, so the second is an
    upper bound.

    Args:
        images: on which usefulness and scale are measured.
        few: on which the loss of usefulness under attack is measured; the costly part.
        chosen_on: on which each channel's class is chosen, such as training images.

    Raises:
        ValueError: the attack does not use the margin loss.

    What has no value is NaN: dead channels, and those of whose class one of the sets has no image.
    """
    everywhere, _ = channel_usefulness(features_at(model, chosen_on, "pool"), chosen_on.y, images.num_classes)
    targets = everywhere.abs().nan_to_num(-1).argmax(0)[None]
    speaks = everywhere.gather(0, targets)[0].sign()  # +1 for its class, -1 against it, NaN if dead
    useful, std = (part.gather(0, targets)[0] for part in
                   channel_usefulness(features_at(model, images, "pool"), images.y, images.num_classes))

    def attack_each() -> dict[str, Tensor]:
        rho, gamma = speaks * useful, torch.full_like(useful, torch.nan)
        clean = features_at(model, few, "pool").double()
        for k in progress(rho.isfinite().nonzero()[:, 0].tolist(), f"channels of {model.name}"):
            target = int(targets[0, k])
            if target in few.y and (few.y != target).any():
                signs, weights = class_weights(few.y, target)
                signs = speaks[k] * signs
                feature = OneFeature(model, partial(_channel, k=k))
                x_adv = feature.attacked(attack, few.x, signs, seed)
                fall = clean[:, k] - features_at(model, x_adv, "pool")[:, k]
                gamma[k] = _what_is_left(rho[k], std[k], fall, signs, weights)
        return {"rho": rho, "gamma": gamma}

    recipe = {"model": store.fingerprint(model), "images": [part.fingerprint for part in (images, few, chosen_on)],
              "attack": attack, "seed": seed}
    found = store.load_or_build("channels", recipe, attack_each).tensors
    return found["rho"], found["gamma"]


def _channel(model: SplitClassifier, x: Tensor, k: int) -> Tensor:
    """(B,) what the last layer reads of channel k."""
    return model.features(x, "pool")[:, k]


def _what_is_left(rho: Tensor, std: Tensor, fall: Tensor, signs: Tensor, weights: Tensor) -> Tensor:
    """E[inf y f(x + delta)] (Ilyas et al. 2019, equation 2): rho minus what y f loses, where f falls by (N,) / std."""
    return rho - (weights * signs * fall).sum() / std


def variance_explained(values: Tensor, labels: Tensor) -> Tensor:
    """(C,) share of the variance of each feature (N, C) that lies between the labels (N,) (eta squared).

    By chance it is about (K - 1) / (N - 1) for K labels, not 0. NaN for a constant feature.
    """
    z = values.double() - values.double().mean(0)
    between = torch.stack([(labels == label).sum() * z[labels == label].mean(0) ** 2 for label in labels.unique()])
    total = z.square().sum(0)
    return between.sum(0) / torch.where(total > 1e-12 * len(z), total, torch.nan)


def tile_projections(delta: Tensor, world: PlantedWorld) -> Tensor:
    """(N, 10) how much of each class's tile a perturbation holds, in pixel units of amplitude.

    Args:
        delta: (N, 3, 32, 32), pixel units.
    """
    return delta.flatten(1) @ world.patterns.flatten(1).T / (3 * SIZE * SIZE)
