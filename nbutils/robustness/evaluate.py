"""What is left of a classifier under attack: outcomes per image, curves, worst cases, health checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from nbutils import store
from nbutils.console import counter
from nbutils.images.imageset import ImageSet, as_pixels
from nbutils.messages import check_counts, check_kind
from nbutils.networks import SplitClassifier, artifacts, check_pixels, frozen, like, seeded
from nbutils.robustness.attacks import FGSM, PGD, Attack, check_attack, check_classes, returned, scored
from nbutils.robustness.autoattack import FAB, AutoAttack
from nbutils.robustness.minimum_norm import CW
from nbutils.robustness.threat import ThreatModel

SLACK = 1e-6  # rounding allowed when a perturbation is held against its threat model
Reader = Callable[[SplitClassifier, Tensor], Tensor]
COSTLY = (AutoAttack, FAB, CW)  # and NRF, which is a CW: up to minutes for one model, so what they find is kept


@dataclass(frozen=True, eq=False)
class Outcome:
    """What happened to each image of a set under one attack (or none).

    Attributes:
        correct: (N,) bool, classified as its label.
        prediction: (N,) predicted class.
        l2, linf: (N,) norms of the perturbation, in pixel units; PGD stops at the first one that fools, and
            minimum-norm attacks leave an image as it was if it needs no attack or resists.
        attack: label of the attack, "none" for clean images.
        threat: its threat model, "none" for clean images, "unbounded" for minimum-norm attacks.
        model, data: names.
        inputs: keys of the artifacts behind the model, then behind the one that the attack saw, and the fingerprint of
            the images.
        key: keys of the artifacts behind the model alone, or else its fingerprint.
        seconds: computing time.
    """

    correct: Tensor
    prediction: Tensor
    l2: Tensor
    linf: Tensor
    attack: str
    threat: str
    model: str
    data: str
    inputs: tuple[str, ...] = ()
    seconds: float = 0.0
    key: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Share of images classified as their label, in [0, 1]."""
        return self.correct.double().mean().item()

    @property
    def fingerprint(self) -> tuple[str, ...]:
        """That of the images."""
        return tuple(key for key in self.inputs if "-" not in key)  # keys of artifacts have a dash

    def take(self, index: Tensor) -> Outcome:
        """What happened to the images that an index or mask names."""
        per_image = {name: getattr(self, name)[index] for name in ("correct", "prediction", "l2", "linf")}
        return replace(self, **per_image)


def _check(images: ImageSet, attack: Attack | None, seed: int, batch_size: int) -> None:
    """Raises ValueError: no images, what is no attack or a targeted one, a seed or a batch size that is none."""
    check_kind("images", images, ImageSet, "an ImageSet")
    if attack is not None:
        check_attack(attack)
    check_counts(batch_size=batch_size)
    check_counts(0, seed=seed)
    if len(images) == 0:
        raise ValueError("images: the set is empty; expected at least one image")


def attacked(model: nn.Module, images: ImageSet, attack: Attack, seed: int = 0, batch_size: int = 256) -> ImageSet:
    """The images as the attack leaves them, with their true labels, on the CPU. Shows how many passes it has made.

    Args:
        model: what the attack sees, on any device. seed: of the attack's random starts.
        batch_size: images per call of the attack; bounds memory.

    Raises:
        ValueError: no images; what is no attack or a targeted one; an attack that does not return one image for each,
            in [0, 1] and inside its threat model.
    """
    _check(images, check_attack(attack), seed, batch_size)
    device = like(model).device
    generator = seeded(seed)
    x_adv = torch.empty_like(images.held, dtype=torch.float32)  # filled in place: joining needs the memory twice
    with counter(f"{attack!r} on {len(images)} images", "pass") as count:
        hook = model.register_forward_pre_hook(lambda module, inputs: count(len(inputs[0])))
        try:
            for x, y, found in zip(*(part.split(batch_size) for part in (images.held, images.y, x_adv)), strict=True):
                x = as_pixels(x)
                made = attack(model, x.to(device, copy=True), y.to(device, copy=True), generator)  # may work in place
                found.copy_(returned(repr(attack), made, x.shape).detach())
                _check_promise(attack, found, found - x)
        finally:
            hook.remove()
    return replace(images, x=x_adv, name=f"{images.name} under {attack!r}")


def predict(model: nn.Module, x: Tensor, batch_size: int = 256, y: Tensor | None = None) -> Tensor:
    """(N,) predicted classes, on the CPU, for pixels x (N, 3, H, W) in [0, 1], or as a set holds them; the
    model's mode is left as it was.

    Args:
        y: (N,) labels; the model must have their classes.

    Raises:
        ValueError: see `attacks.scored`; what are no pixels; a label without a class.
    """
    check_pixels(x)
    device = like(model).device
    with frozen(model), torch.no_grad():
        logits = torch.cat([scored(model, as_pixels(part).to(device), "predict").cpu() for part in x.split(batch_size)])
    if y is not None:
        check_classes(y, logits)
    return logits.argmax(1)


def evaluate(model: SplitClassifier, images: ImageSet, attack: Attack | None = None, *, source: nn.Module | None = None,
             read: Reader | None = None, seed: int = 0, batch_size: int = 256) -> Outcome:
    """Attack every image once and score the result, all in float32.

    The outcome of a costly attack (AutoAttack, FAB, CW, NRF) is kept in the store, so that a run that was killed does
    not repeat it; `seconds` is then what it took when it was made.

    Args:
        model: the classifier that is scored. images: N images with labels. attack: None scores the clean images.
        source: the model that the attack sees; None means `model` itself (white box), another one makes this a
            transfer attack.
        read: how an answer is read off the model: (model, x (N, 3, H, W) on the CPU) -> (N,) classes; None means the
            largest logit. The attack sees the whole model all the same; its images are kept in the store, since one
            attack is often read in several ways.
        seed, batch_size: see `attacked`.

    Raises:
        ValueError: as `attacked` and `predict`; what `read` returns are no int64 (N,), or none of the images' classes.
    """
    _check(images, attack, seed, batch_size)
    attacker, began = source or model, time.monotonic()
    kept: store.Artifact | None = None
    if attack is None:
        found = _found(model, images, images.held, read)
    elif read is not None:
        kept = _attacked_once(attacker, images, attack, seed, batch_size)
        found = _found(model, images, kept.tensors["x"], read)
    elif isinstance(attack, COSTLY):
        recipe = {**_recipe(attacker, images, attack, seed, batch_size), "judge": store.fingerprint(model)}
        kept = store.load_or_build("outcome", recipe, lambda: _found(
            model, images, attacked(attacker, images, attack, seed, batch_size).x))
        found = kept.tensors
    else:
        if isinstance(attack, PGD) and attack.keep_best and source is None:
            # A verdict needs no more than a first error; a transferred attack cannot know whether it has made one.
            search: Attack = replace(attack, early_exit=True)
        else:
            search = attack
        found = _found(model, images, attacked(attacker, images, search, seed, batch_size).x)
    seconds = kept.seconds if kept else time.monotonic() - began
    return replace(_outcome(model, images, attack, attacker, found), seconds=seconds)


def attacked_once(model: nn.Module, images: ImageSet, attack: Attack | None, seed: int = 0) -> ImageSet:
    """As `attacked`, but kept in the store, where `evaluate(read=...)` looks, too; None leaves images as they are."""
    if attack is None:
        return images
    x_adv = _attacked_once(model, images, attack, seed, 256).tensors["x"]
    return replace(images, x=x_adv, name=f"{images.name} under {attack!r}")


def _attacked_once(model: nn.Module, images: ImageSet, attack: Attack, seed: int, batch_size: int) -> store.Artifact:
    return store.load_or_build("attacked", _recipe(model, images, attack, seed, batch_size), lambda: {
        "x": attacked(model, images, attack, seed, batch_size).x})


def _recipe(model: nn.Module, images: ImageSet, attack: Attack, seed: int, batch_size: int) -> dict[str, object]:
    """What decides the images that an attack makes."""
    return {"attack": attack, "model": store.fingerprint(model), "images": images.fingerprint, "seed": seed,
            "batch_size": batch_size, "device": like(model).device.type}


def _found(model: SplitClassifier, images: ImageSet, x_adv: Tensor, read: Reader | None = None) -> dict[str, Tensor]:
    """What `_outcome` takes, for images x_adv as a set holds them."""
    said = predict(model, x_adv, y=images.y) if read is None else returned(
        "read", read(model, as_pixels(x_adv).clone()), images.y.shape, "int64").cpu()
    if len(said) and not 0 <= said.min() <= said.max() < images.num_classes:
        raise ValueError(f"read returned classes from {said.min()} to {said.max()}; expected 0 to "
                         f"{images.num_classes - 1}")
    deltas = ((as_pixels(after) - as_pixels(before)).detach().flatten(1)
              for after, before in zip(x_adv.split(256), images.held.split(256), strict=True))
    l2, linf = zip(*((delta.norm(dim=1), delta.abs().amax(1)) for delta in deltas), strict=True)
    return {"prediction": said, "l2": torch.cat(l2), "linf": torch.cat(linf)}


def _identity(model: nn.Module) -> tuple[str, ...]:
    """The keys of the artifacts that a model is or holds; of one that is none, its fingerprint, where it has one."""
    keys = artifacts(model)
    with suppress(TypeError):
        keys = keys or (store.fingerprint(model),)
    return keys


def _outcome(model: SplitClassifier, images: ImageSet, attack: Attack | None, source: nn.Module,
             found: dict[str, Tensor]) -> Outcome:
    threat = "none" if attack is None else str(attack.threat or "unbounded")
    label = "none" if attack is None else f"{'transferred ' * (source is not model)}{attack!r}"
    name = getattr(model, "name", type(model).__name__)
    return Outcome(found["prediction"] == images.y, found["prediction"], found["l2"], found["linf"], label, threat,
                   name, images.name, (*artifacts(model, source), images.fingerprint), key=_identity(model))


def transfer_matrix(models: Sequence[SplitClassifier], images: ImageSet, attack: Attack, seed: int = 0,
                    targets: Sequence[SplitClassifier] | None = None) -> list[list[Outcome]]:
    """Row i, column j: images made against model i, scored by target j; where the two are one, a white-box attack.

    Each model is attacked once. The images of row i serve all columns, so no early exit is taken.

    Args:
        targets: by default the models themselves.

    Raises:
        ValueError: as `evaluate`.
    """
    columns = models if targets is None else targets
    rows = []
    for source in models:
        x_adv = attacked(source, images, attack, seed).x
        rows.append([_outcome(model, images, attack, source, _found(model, images, x_adv))
                     for model in columns])
    return rows


def right_before(clean: Outcome, under: Outcome) -> tuple[Outcome, Outcome]:
    """Both outcomes, of the images that the model had right before the attack: those that a transfer rate counts.

    Only these can be broken, so networks of unlike clean accuracy can be compared. None of the papers says which images
    a rate counts: Ilyas et al. (2019, figure 3) plot one without its definition, and Li et al. (2023, figure 3) print
    the accuracy on all attacked images instead, clean errors included, which is `under.accuracy`.

    Args:
        clean, under: outcomes of one model on the same images in the same order, without and with the attack; or
            `under` without one, too, on images that were changed before.

    Raises:
        ValueError: the first is under an attack; different models (by name, and by key where they have one), numbers of
            images, or, under an attack, images.
    """
    if clean.attack != "none":
        raise ValueError(f"transfer rate: the first outcome is under {clean.attack}; expected the clean one")
    _check_one("transfer rate", clean, under, "model", "key", *["fingerprint"] * (under.attack != "none"))
    return clean.take(clean.correct), under.take(clean.correct)


def transfer_rate(clean: Outcome, under: Outcome) -> float:
    """Share, in [0, 1], of the images that were right before an attack which are wrong under it; 0 if none was right.

    Args, Raises: those of `right_before`, which may have been called already.
    """
    _, judged = right_before(clean, under)
    return (~judged.correct).sum().item() / max(1, len(judged))


def mean_transfer_rate(pairs: Iterable[tuple[Outcome, Outcome]]) -> float:
    """Mean of `transfer_rate` over pairs of a source and a target, in [0, 1]."""
    return float(np.mean([transfer_rate(clean, under) for clean, under in pairs]))


def transfer_perturbation(model: SplitClassifier, images: ImageSet, clean: ImageSet,
                          changed: ImageSet) -> tuple[Outcome, Outcome]:
    """Outcomes of the images that the model has right, as they are and with the perturbations that made `changed` of
    `clean` added to them, clipped to [0, 1]: a transfer attack on a network that sees its own kind of image.

    Raises:
        ValueError: sets of different shapes.
    """
    if len(shapes := {tuple(part.held.shape) for part in (images, clean, changed)}) > 1:
        raise ValueError(f"images, clean, changed of shapes {sorted(shapes)}: expected one shape")
    perturbed = replace(images, x=(images.x + (changed.x - clean.x)).clamp(0, 1))
    return right_before(evaluate(model, images), evaluate(model, perturbed))


def accuracy_gap(first: Sequence[Outcome], second: Sequence[Outcome]) -> float:
    """Mean accuracy over the first outcomes minus that over the second, on the first n images, which all have seen.

    Raises:
        ValueError: no outcomes on a side.
    """
    if not first or not second:
        raise ValueError(f"accuracy gap: {len(first)} and {len(second)} outcomes; expected at least one on each side")
    n = min(map(len, (*first, *second)))
    ours, theirs = (np.mean([outcome.correct[:n].double().mean().item() for outcome in outcomes])
                    for outcomes in (first, second))
    return float(ours - theirs)


def _check_promise(attack: Attack, x_adv: Tensor, delta: Tensor) -> None:
    low, high = x_adv.min().item(), x_adv.max().item()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{attack!r} returned pixels from {low:.4g} to {high:.4g}: expected [0, 1]")
    if attack.threat is not None:
        farthest = attack.threat.distance(delta).max().item()
        if farthest > attack.threat.eps + SLACK:
            raise ValueError(f"{attack!r} moved an image by {farthest:.6g}: expected at most {attack.threat.eps:.6g}")


def accuracy_curve(model: SplitClassifier, images: ImageSet, attacks: Iterable[Attack | None],
                   seed: int = 0) -> list[Outcome]:
    """One outcome per attack (None: clean images), on the same images with the same seed.

    Where the threat models are nested (clean first, then growing eps), an image counts as broken from the first
    radius that broke it, because an adversary who is allowed more may always do less; a curve then never rises.

    Raises:
        ValueError: what is no list of attacks; as `evaluate`.
    """
    check_kind("attacks", attacks, Iterable, "a list, such as [None, FGSM(threat)]")
    outcomes: list[Outcome] = []
    before: Attack | None = None
    for attack in attacks:
        outcome = evaluate(model, images, attack, seed=seed)
        if outcomes and _allows_more(attack, before):
            outcome = replace(outcome, correct=outcome.correct & outcomes[-1].correct)
        outcomes.append(outcome)
        before = attack
    return outcomes


def _allows_more(attack: Attack | None, before: Attack | None) -> bool:
    """Whether an attack may do all that the one before may, and more. Without an attack nothing is allowed."""
    if attack is None or before is None:
        return attack is not None
    larger, smaller = attack.threat, before.threat
    return larger is not None and smaller is not None and larger.norm == smaller.norm and smaller.eps < larger.eps


def _check_one(who: str, one: Outcome, other: Outcome, *shared: str) -> None:
    for what in shared:
        if getattr(one, what) != getattr(other, what):
            raise ValueError(f"{who}: {what} {getattr(one, what)!r} and {getattr(other, what)!r}: expected outcomes of "
                             f"one {what}")
    if len(one) != len(other):
        raise ValueError(f"{who}: {len(one)} and {len(other)} images: expected the same images")


def worst_case(outcomes: Sequence[Outcome]) -> Outcome:
    """Per image, whether it survived every attack: never the minimum of averages.

    The norms and prediction are those of the first attack that broke the image, else of the last one. Inputs and
    seconds are those of all.

    Raises:
        ValueError: no outcomes, or outcomes of different models (by name, and by key where they have one), images (by
            name and fingerprint) or threat models.
    """
    if not outcomes:
        raise ValueError("worst_case: no outcomes; expected at least one")
    worst = outcomes[0]
    for other in outcomes[1:]:
        _check_one("worst_case", worst, other, "model", "key", "data", "fingerprint", "threat")
        keep = ~worst.correct
        worst = replace(worst, correct=worst.correct & other.correct, attack=f"{worst.attack} + {other.attack}",
                        inputs=tuple(dict.fromkeys(worst.inputs + other.inputs)), seconds=worst.seconds + other.seconds,
                        prediction=torch.where(keep, worst.prediction, other.prediction),
                        l2=torch.where(keep, worst.l2, other.l2), linf=torch.where(keep, worst.linf, other.linf))
    return worst


@dataclass(frozen=True)
class Check:
    """One health check: a question whose answer is known in advance if the attack works."""

    question: str
    expected: str
    seen: str
    passed: bool


def health_checks(model: SplitClassifier, images: ImageSet, attack: PGD, *,
                  transfer_from: SplitClassifier) -> list[Check]:
    """Signs of a broken or masked attack (Athalye et al. 2018; Carlini et al. 2019), as questions with known answers.

    Args:
        model: the classifier under attack. attack: the one it is judged by.
        transfer_from: an independently trained network, attacked in its place.

    Raises:
        ValueError: no PGD; the norm is L2, for which no eps can be called huge; as `evaluate`.
    """
    check_kind("attack", attack, PGD, "PGD, such as PGD(ThreatModel('Linf', 8/255), 10)")
    threat = attack.threat
    check_kind("transfer_from", transfer_from, nn.Module, "a network")
    if transfer_from is model:
        raise ValueError("transfer_from is the model itself; expected a network that was trained independently")
    if threat.norm != "Linf":
        raise ValueError(f"norm = {threat.norm!r}: health checks are written for 'Linf'")
    counts = sorted({1, max(1, attack.steps // 4), attack.steps})
    by_steps = [evaluate(model, images, replace(attack, steps=count)) for count in counts]
    longest = by_steps[-1]
    single = evaluate(model, images, FGSM(threat))
    harder = PGD(threat, max(40, 2 * attack.steps), threat.eps / 4, loss="margin")
    stronger = evaluate(model, images, harder, seed=1)
    huge = evaluate(model, images, PGD(ThreatModel("Linf", 0.5), 20, 0.1))
    transferred = evaluate(model, images, attack, source=transfer_from)

    def percent(outcome: Outcome) -> str:
        return f"{100 * outcome.accuracy:.1f} %"

    monotone = all(bool((later.correct <= earlier.correct).all()) for earlier, later in pairwise(by_steps))
    seen = ", ".join(f"{count}: {percent(outcome)}" for count, outcome in zip(counts, by_steps, strict=True))
    return [
        Check("Do more steps of one size ever help the defender?", "no, image by image", seen, monotone),
        Check("Does a huge eps (0.5; 20 steps of 0.1) break every image?", "yes: 0 %", percent(huge),
              huge.accuracy == 0),
        Check("Is FGSM weaker than the judging attack?", "yes", f"{percent(single)} against {percent(longest)}",
              single.accuracy >= longest.accuracy),
        Check("Is a transferred attack weaker than a white-box one?", "yes",
              f"{percent(transferred)} against {percent(longest)}", transferred.accuracy >= longest.accuracy),
        Check(f"Does a harder search ({harder.steps} steps of eps / 4, margin) find much more?", "no: within 5 points",
              f"{percent(stronger)} against {percent(longest)}", longest.accuracy - stronger.accuracy <= 0.05),
    ]
