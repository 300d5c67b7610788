"""Attacks: how an adversary searches inside a threat model.

An attack is a frozen value that is called like a function, `attack(model, x, y) -> x_adv`, and whose `repr`
is its label in tables. FGSM, BIM and PGD are one loop with different settings. Attacks that look for the nearest
adversarial image are in `minimum_norm`, AutoAttack in `autoattack`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field, SkipValidation
from torch import Tensor, nn

from nbutils.messages import check_kind
from nbutils.networks import check_pixels, frozen
from nbutils.robustness.threat import A_THREAT_MODEL, Threat, ThreatModel, check_threat, format_eps, parse_eps
from nbutils.settings import Count, Settings, one_of

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits (B, K), target) -> (B,), larger is worse for the model


@runtime_checkable
class Attack(Protocol):
    """Anything that turns images into adversarial images."""

    @property
    def threat(self) -> ThreatModel | None:
        """What the images are promised to obey; None for minimum-norm attacks, which take no radius."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Adversarial images (B, 3, H, W) in [0, 1] for clean x (B, 3, H, W) in [0, 1] and labels y (B,)."""


def check_attack(attack: Any) -> Any:
    """Return an attack that is to be given true labels.

    Raises:
        ValueError: it is none, or its threat model is none; it is targeted: it would lead each image to its true class,
            and every network would look robust.
    """
    check_kind("attack", attack, Attack, "an attack, such as PGD(ThreatModel('Linf', 8/255), 10)")
    check_kind("threat", attack.threat, ThreatModel | None, f"{A_THREAT_MODEL}, or None")
    if getattr(attack, "targeted", False):
        raise ValueError(f"attack = {attack!r}: {ON_TRUE_LABELS}")
    return attack


ON_TRUE_LABELS = ("expected an untargeted attack, since it is given the true labels; to reach other classes, call a "
                  "targeted one with these")
Untargeted = Annotated[Attack, AfterValidator(check_attack), Field(description=ON_TRUE_LABELS[9:])]  # for settings


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) cross-entropy per image, not averaged: an average would shrink each gradient with the batch."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) largest other logit minus the true one (Carlini and Wagner 2017): positive iff misclassified."""
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return others - logits.gather(1, y[:, None])[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) difference of logits ratio (Croce and Hein 2020, equation 6): the margin over the gap between the largest
    and the third largest logit, so that it does not change when the logits are shifted or scaled.

    Raises:
        ValueError: fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"loss = 'dlr': {logits.shape[1]} classes, expected at least 3; did you mean 'margin'?")
    largest = logits.topk(3, dim=1).values
    return margin(logits, y) / (largest[:, 0] - largest[:, 2] + 1e-12)


def kl(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """(B,) Kullback-Leibler divergence KL(p(x) || p(x_adv)) from the clean prediction, of which the logits (B, K) are
    given in place of labels (TRADES, Zhang et al. 2019).

    Raises:
        ValueError: labels were given.
    """
    if clean_logits.shape != logits.shape:
        raise ValueError(f"loss = 'kl': targets of shape {tuple(clean_logits.shape)}; expected the clean logits "
                         f"{tuple(logits.shape)}")
    return F.kl_div(logits.log_softmax(1), clean_logits.log_softmax(1), reduction="none", log_target=True).sum(1)


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr, "kl": kl}


def checked(x: Tensor, y: Tensor, generator: torch.Generator | None, soft: bool = False) -> tuple[Tensor, Tensor]:
    """Images x (B, 3, H, W), detached, and labels y (B,) as int64, or, where targets are soft, clean logits (B, K) as
    they are.

    Raises:
        ValueError: images that are no floats (B, 3, H, W) in [0, 1]; labels that are no whole numbers >= 0, or not one
            for each image; what is no generator; `torch.inference_mode`, in which there are no gradients.
    """
    check_kind("images", x, Tensor, "a torch.Tensor")
    check_kind("labels", y, Tensor, "a torch.Tensor")
    check_kind("generator", generator, torch.Generator | None, "a generator, such as torch.Generator().manual_seed(0)")
    if torch.is_inference_mode_enabled():
        raise ValueError("torch.inference_mode is on: attacks need gradients; did you mean torch.no_grad?")
    if not x.is_floating_point():
        raise ValueError(f"images {x.dtype}: expected floats in [0, 1]; divide 8-bit pixels by 255")
    if x.ndim != 4:
        raise ValueError(f"images {tuple(x.shape)}: expected (B, 3, H, W){'; did you mean x[None]?' * (x.ndim == 3)}")
    if y.shape[:1] != x.shape[:1] or (y.ndim > 1 and not soft):
        hint = "; did you mean y[:, 0]?" if y.shape[1:] == (1,) else "; did you mean y.argmax(1)?" * (y.ndim == 2)
        raise ValueError(f"labels {tuple(y.shape)} for {len(x)} images: expected one each, ({len(x)},){hint}")
    check_pixels(x, slack=0)
    if y.ndim > 1:
        return x.detach(), y
    if y.is_floating_point() or (len(y) and y.min() < 0):
        raise ValueError(f"labels {y.dtype} from {y.min().item()}: expected whole numbers >= 0")
    return x.detach(), y.long()


def check_classes(y: Tensor, logits: Tensor) -> None:
    """Raise a ValueError if a label y (B,) is none of the classes of the logits (B, K)."""
    if y.ndim == 1 and len(y) and y.max() >= logits.shape[1]:
        raise ValueError(f"label {y.max().item()}: the model has {logits.shape[1]} classes; expected 0 to "
                         f"{logits.shape[1] - 1}")


class NoGradient(ValueError, RuntimeError):  # torch itself raises a RuntimeError
    """The logits do not depend on the images in a way that a gradient could follow."""


def scored(model: Callable[[Tensor], Tensor], x: Tensor, who: str) -> Tensor:
    """Logits (B, K) of images x (B, 3, H, W). All attacks and verdicts take them here, and with them the gradient in x:
    it is checked when it is computed, since a step along NaN would leave an image as it is, which looks robust.

    Raises:
        ValueError: no finite floats (B, K), K >= 2, or a gradient that is not finite; it says who asked.
        NoGradient: none reaches x.
    """
    logits = model(x)
    fits = isinstance(logits, Tensor) and logits.is_floating_point() and logits.ndim == 2
    if not fits or len(logits) != len(x) or logits.shape[1] < 2:
        raise ValueError(f"{who}: the model returned {_told(logits)}; expected logits, floats ({len(x)}, K), K >= 2")
    check_finite(logits.amax(1), f"{who}: the logits are not finite")  # -inf is no fault: it rules a class out
    if x.requires_grad and torch.is_grad_enabled():
        if not logits.requires_grad:
            raise NoGradient(f"{who}: no gradient reaches the images; expected a model without detach, no_grad or "
                             "rounding on the way")
        x.register_hook(lambda gradient: check_finite(gradient, f"{who}: the gradient is not finite"))
    return logits


def _told(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def returned(who: str, value: object, shape: tuple[int, ...], kind: str = "floats") -> Tensor:
    """The tensor that a reader's code returned. Raises ValueError: it has not this shape and kind, floats or int64."""
    if isinstance(value, Tensor) and tuple(value.shape) == tuple(shape) and (
            value.dtype == torch.int64 if kind == "int64" else value.is_floating_point()):
        return value
    raise ValueError(f"{who} returned {_told(value)}; expected {kind} {tuple(shape)}")


def check_finite(values: Tensor, what: str) -> None:
    """Raise a ValueError that says `what` and names the first value that is not finite."""
    if not torch.isfinite(values.detach().sum()) and not (finite := torch.isfinite(values)).all():
        raise ValueError(f"{what} ({values[~finite][0].item()}); expected finite numbers")


@dataclass(frozen=True, repr=False)
class PGD(Settings):
    """Projected gradient ascent on a loss (Madry et al. 2018; FGSM: Goodfellow et al. 2015; BIM: Kurakin et al. 2017).

    Attributes:
        threat: the perturbations allowed.
        steps: gradient steps per restart.
        step_size: length of a step in the norm of the threat model, also as text such as "2/255"; None means
            2.5 eps / steps, which lets the search cross the ball (Madry et al. 2018, appendix).
        restarts: independent searches; each later one attacks only the images that are still classified right.
        loss: "cross-entropy", "margin" or "dlr", maximised; minimised when targeted. "kl" takes the clean logits
            (B, K) in place of labels.
        targeted: the labels given are classes to be reached, not to be left.
        random_start: start from a uniform draw in the ball (True), from x (False), or from x plus Gaussian noise of
            this standard deviation, in pixel units.
        keep_best: return, per image, the iterate that did the most harm (misclassified first, then the larger
            loss), so that more steps never help the defender; it costs one more forward pass. False returns the last.
        early_exit: leave an image alone once it is fooled. With keep_best, whether it is fooled cannot change; the
            image returned may be less harmful than the best one.
        name: the word before the brackets in `repr`.

    Raises:
        ValueError: no threat model, steps or restarts below 1, a step size or start that is no length (L_inf: above 1
            and five radii), an unknown loss, early_exit without keep_best.
    """

    threat: Threat
    steps: Count = 10
    step_size: Annotated[float | None, SkipValidation] = None
    restarts: Count = 1
    loss: Annotated[str, one_of(LOSSES)] = "cross-entropy"
    random_start: Annotated[bool | float, SkipValidation] = True
    keep_best: bool = True
    targeted: bool = False
    early_exit: bool = False
    name: str = "PGD"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts = {self.restarts}: without a random start all are the same; expected 1")
        size = 2.5 * self.threat.eps / self.steps if self.step_size is None else self.step_size
        most = max(1, 5 * self.threat.eps) if self.threat.norm == "Linf" else torch.inf
        object.__setattr__(self, "step_size", parse_eps(size, "step_size", most))
        if not self.step_size and self.threat.eps:
            raise ValueError(f"step_size = {size!r}: no step would move an image; expected a length such as 2/255")
        if not isinstance(self.random_start, bool):
            object.__setattr__(self, "random_start", parse_eps(self.random_start, "random_start"))
        if self.early_exit and not self.keep_best:
            raise ValueError("early_exit = True: expected keep_best = True, for the last iterate need not fool")

    def __repr__(self) -> str:
        levels = self.threat.norm == "Linf" and format_eps(self.threat.eps).endswith("/255")
        size = f"{255 * (self.step_size or 0):.3g}/255" if levels else format_eps(self.step_size or 0)
        parts = [str(self.threat), f"{self.steps} step{'s' * (self.steps > 1)} of {size}"]
        parts.append(f"{self.restarts} restart{'s' * (self.restarts > 1)}" if self.random_start else "no random start")
        if self.random_start and self.random_start is not True:
            parts[-1] += f" near x (sd {self.random_start:g})"
        if self.loss != "cross-entropy":
            parts.append(self.loss)
        if self.targeted:
            parts.append("targeted")
        if not self.keep_best and self.name != "FGSM":  # which is no search: its one step is what it returns
            parts.append("last iterate")
        return f"{self.name}({', '.join(parts)})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Adversarial images for x (B, 3, H, W), pixels in [0, 1], and labels (targeted: wanted classes) y (B,), or
        clean logits (B, K) for the loss "kl".

        The model's mode, buffers and parameter gradients are left untouched; works under `torch.no_grad`.

        Args:
            generator: a CPU generator for random starts; None uses torch's global one.

        Raises:
            ValueError: see `checked` and `scored`; labels without a class.
        """
        x, y = checked(x, y, generator, soft=self.loss == "kl")
        if len(x) == 0 or self.threat.eps == 0:
            return x.clone()
        with frozen(model), torch.enable_grad():
            best, harm = self._search(model, x, y, generator)
            for _ in range(self.restarts - 1):
                left = (harm[0] == 0).nonzero()[:, 0]
                if len(left) == 0:
                    break
                found, found_harm = self._search(model, x[left], y[left], generator)
                better = _worse_for_model(found_harm, harm[:, left])
                best[left[better]] = found[better]
                harm[:, left[better]] = found_harm[:, better]
        return best

    def step(self, x_adv: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
        """One step up the loss and back into the ball around x (Madry et al. 2018, section 2.1)."""
        moved = x_adv + self.threat.ascent_direction(gradient).mul_(self.step_size or 0)
        return self.threat.project(moved, x)

    def _search(self, model: nn.Module, x: Tensor, y: Tensor,
                generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """One restart: images (B, ...) and their harm (2, B), rows fooled (0 or 1) and loss."""
        x_adv = self._start(x, generator)
        best, harm = x_adv.clone(), torch.full((2, len(x)), -torch.inf, device=x.device, dtype=x.dtype)
        score_last = self.keep_best or self.restarts > 1  # else nobody asks how harmful the last iterate is
        at_work = torch.arange(len(x), device=x.device)
        for step in range(self.steps + score_last):
            stepping = step < self.steps
            x_adv.requires_grad_(stepping)
            with torch.set_grad_enabled(stepping):
                logits = scored(model, x_adv, f"{self.name}, step {step}")
                if step == 0:
                    check_classes(y, logits)
                now, loss = self._harm(logits, y[at_work])
            if self.keep_best:
                better = _worse_for_model(now, harm[:, at_work])
                best[at_work[better]], harm[:, at_work[better]] = x_adv.detach()[better], now[:, better].to(x.dtype)
            else:
                harm = now.to(x.dtype)
            if stepping:
                (gradient,) = torch.autograd.grad(loss.sum(), x_adv)
                x_adv = self.step(x_adv.detach(), gradient, x[at_work] if len(at_work) < len(x) else x)
                if self.early_exit and (now[0] > 0).any():
                    left = now[0] == 0
                    at_work, x_adv = at_work[left], x_adv[left]
                    if len(at_work) == 0:
                        break
        return (best if self.keep_best else x_adv), harm

    def _start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.random_start is True:
            return self.threat.random_start(x, generator)
        if not self.random_start:
            return x.clone()
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        return self.threat.project(x + self.random_start * noise, x)

    def _harm(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Fooled (0 or 1) and loss as rows (2, B), and the loss (B,) with its graph; larger is worse for the model."""
        loss = LOSSES[self.loss](logits, y)
        hit = logits.argmax(1) == (y if y.ndim == 1 else y.argmax(1))
        fooled, loss = (hit, -loss) if self.targeted else (~hit, loss)
        return torch.stack([fooled.to(loss.dtype), loss.detach()]), loss


def _worse_for_model(new: Tensor, old: Tensor) -> Tensor:
    """(B,) whether harm `new` (2, B) exceeds harm `old`: fooled beats not fooled, then the larger loss."""
    return (new[0] > old[0]) | ((new[0] == old[0]) & (new[1] > old[1]))


@dataclass(frozen=True)
class Noise(Settings):
    """The control that every attack must beat: a random corner (Linf) or surface point (L2) of the ball."""

    threat: Threat

    def __repr__(self) -> str:
        return f"Noise({self.threat})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x (B, 3, H, W) plus noise of length eps, clipped to [0, 1]; model and labels play no part.
        Raises ValueError: see `checked`."""
        x, _ = checked(x, y, generator)
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        return self.threat.project(x + self.threat.eps * self.threat.ascent_direction(direction), x)


def FGSM(threat: ThreatModel, random_start: bool = False, step_size: float | None = None) -> PGD:
    """One full step along the sign (Linf) or direction (L2) of the gradient (Goodfellow et al. 2015).

    With `random_start` and step_size 1.25 eps it is the training attack of Wong et al. (2020).
    """
    size = check_threat(threat).eps if step_size is None else step_size
    return PGD(threat, 1, size, random_start=random_start, keep_best=False, name="FGSM")


def kim_pgd(threat: ThreatModel) -> PGD:
    """PGD as Kim et al. (2021) run it: 10 steps of .23 eps, last iterate."""
    return PGD(threat, 10, 0.23 * check_threat(threat).eps, keep_best=False)


def BIM(threat: ThreatModel, steps: int = 10, step_size: float = 1 / 255) -> PGD:
    """PGD from the clean image itself, last iterate (Kurakin et al. 2017, steps of one grey level)."""
    return PGD(threat, steps, step_size, random_start=False, keep_best=False, name="BIM")
