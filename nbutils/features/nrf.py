"""The attack on non-robust features (NRF) of Kim et al. (2021), section 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nbutils.features.bottleneck import Bottleneck, distill, random_masks
from nbutils.networks import SplitClassifier
from nbutils.robustness.attacks import scored
from nbutils.robustness.minimum_norm import CW, INSIDE, Penalty, from_tanh_space, to_tanh_space
from nbutils.robustness.threat import A_THREAT_MODEL, ThreatModel


@dataclass(frozen=True, repr=False, kw_only=True)
class NRF(CW):
    """CW that also changes the length of the gradient in some channels (equations 7 and 8).

    With z = f_l(x_adv) and G = mask * dL/dz, where L = c max(f_y - max_{i != y} f_i, 0) is CW's loss without its
    distance term (the paper prints L with the opposite sign: zero where y is still right), the objective of CW gets
    one term more. It comes in two forms:

    second_order = True: minus ||G|| as equation 8 is printed, differentiated through the gradient. In a network of
    ReLU, max-pool and affine layers G is constant in pieces, so the term has no gradient almost everywhere, and the
    attack is CW itself. The form says something only where a layer after the cut is curved.

    second_order = False: the released form, a distance from z to the constant target z - G. Its value is ||G|| too,
    but its gradient in z is the unit vector G / ||G||: the features are pulled along the steepest descent of L in the
    masked channels, with a force of 1 that depends neither on c nor on the length of G. It is added where the
    magnitude is "up", against the minus of equation 8: this sign makes the attack stronger than CW, and the opposite
    one protects y. The sign is inferred from the order of up and down in Table 4, where "down" beats CW all the same.

    Attributes (beside those of `CW`):
        at: the cut l; must have maps of at least two positions.
        channels: those in the mask: "non-robust" or "robust" ones, as `distill` finds them on the clean images with the
            labels given; "random" ones, as many as non-robust, or "random-as-robust"; "all"; or "none", which is CW.
        magnitude: of the gradient: "up" or "down". With the channels this gives the four variants of Table 4.
        second_order: see above.
        norm_over: the length of the gradient of each "image", or one of the whole "batch", as released.
        within: None, or a threat model into which the search is projected at every step.
        bottleneck: how masks are made; its seed also draws the random ones.

    Raises:
        ValueError: as `CW`; an unknown choice.
    """

    at: str
    channels: Literal["none", "all", "random", "random-as-robust", "robust", "non-robust"] = "non-robust"
    magnitude: Literal["up", "down"] = "up"
    second_order: bool = False
    norm_over: Literal["image", "batch"] = "image"
    within: Annotated[ThreatModel | None, Field(description=A_THREAT_MODEL)] = None
    bottleneck: Bottleneck = Bottleneck()  # noqa: RUF009  (it is frozen)

    @property
    def threat(self) -> ThreatModel | None:
        """The ball that the search stays in, or None."""
        return self.within

    def __repr__(self) -> str:
        parts = [str(self.within) if self.within else "unbounded L2", *self._settings(),
                 f"{self.channels} channels at {self.at}", f"gradient {self.magnitude}"]
        parts += ["second order"] * self.second_order + ["norm over batch"] * (self.norm_over == "batch")
        if self.channels not in ("none", "all") and self.bottleneck != Bottleneck():
            parts.append(repr(self.bottleneck))
        return f"NRF({', '.join(parts)})"

    def image(self, w: Tensor, x: Tensor) -> Tensor:
        if self.within is None:
            return super().image(w, x)
        with torch.no_grad():  # w itself moves into the ball: otherwise Adam would walk away behind the projection
            free = from_tanh_space(w)
            inside = self.within.project(free, x)
            w.copy_(torch.where((inside - free).abs() > 1 - INSIDE, to_tanh_space(inside), w))
        free = from_tanh_space(w)
        return free + (self.within.project(free, x) - free).detach()  # tanh space is exact to 5e-7 only

    def mask(self, model: SplitClassifier, x: Tensor, y: Tensor) -> Tensor:
        """(B, C) or (1, 1) bool: the channels whose gradient is changed, made on the clean images x with labels y.

        Raises:
            ValueError: as `distill`.
        """
        if self.channels in ("none", "all"):
            return torch.full((1, 1), self.channels == "all", device=x.device)
        robust = distill(model, x, y, self.at, self.bottleneck, batch_size=len(x)).robust
        chosen = robust if self.channels in ("robust", "random-as-robust") else ~robust
        mask = random_masks(chosen, x, self.bottleneck.seed) if self.channels.startswith("random") else chosen
        return mask.to(x.device)

    def penalty(self, model: nn.Module, x: Tensor, y: Tensor) -> Penalty:
        if not isinstance(model, SplitClassifier):
            raise ValueError(f"model = {type(model).__name__}: expected a SplitClassifier, which can be cut")
        mask = self.mask(model, x, y)

        def penalty(x_adv: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            z = model.features(x_adv, self.at)
            gap, fooled = self.gap(scored(lambda _: model.logits_from(z, self.at), x_adv, "NRF"), y)
            gradient, masked = self.gradients(c * gap, z, mask)
            if self.second_order:
                return self.as_printed(c * gap, masked), fooled
            return (self.as_released(gradient, masked) * z).flatten(1).sum(1), fooled

        return penalty

    def gradients(self, base: Tensor, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """dL/dz for the loss L = base (B,), and G = mask dL/dz (Kim et al. 2021, equation 7), both (B, C, ...)."""
        (gradient,) = torch.autograd.grad(base.sum(), z, create_graph=self.second_order)
        return gradient, gradient * mask.view(*mask.shape, *[1] * (z.ndim - 2))

    def as_printed(self, base: Tensor, masked: Tensor) -> Tensor:
        """(B,) L - ||G|| (Kim et al. 2021, equation 8), or L + ||G|| where the magnitude is "down"."""
        length = self._length(masked) / (len(masked) if self.norm_over == "batch" else 1)
        return base - self._sign * length

    def as_released(self, gradient: Tensor, masked: Tensor) -> Tensor:
        """dL/dz + G / ||G||, the objective's gradient in z, which is all that a step needs of it."""
        length = self._length(masked).clamp_min(torch.finfo(masked.dtype).tiny)
        return gradient + self._sign * masked / length.view(-1, *[1] * (masked.ndim - 1))

    def _length(self, masked: Tensor) -> Tensor:
        """(B,) ||G|| of each image, or B times that of the batch."""
        return masked.norm().expand(len(masked)) if self.norm_over == "batch" else masked.flatten(1).norm(dim=1)

    @property
    def _sign(self) -> int:
        return 1 if self.magnitude == "up" else -1
