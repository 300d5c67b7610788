"""Threat models: which perturbations an adversary may make. How hard it searches belongs to the attack."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from nbutils.messages import DECIMAL, check_choice, check_kind, short_repr

NORMS = {"Linf": "L_inf", "L2": "L2"}


def parse_eps(value: str | float, setting: str = "eps", most: float = math.inf) -> float:
    """A length in pixel units from a number or a fraction written as text: 0.03, "0.03", "8/255".

    Raises:
        ValueError: neither a number nor a fraction, negative, not finite, or above `most`; it names the setting.
    """
    try:
        form = rf" *-?{DECIMAL}(e-?[0-9]{{1,2}}| */ *{DECIMAL})? *"
        if isinstance(value, (bool, bytes, bytearray)) or (isinstance(value, str) and not re.fullmatch(form, value)):
            raise ValueError
        parts = [Fraction(part.strip()) for part in value.split("/")] if isinstance(value, str) else [value]
        eps = float(parts[0] / parts[1]) if len(parts) > 1 else float(parts[0])
    except (ValueError, ArithmeticError, TypeError):
        raise ValueError(f"{setting} = {short_repr(value)}: expected a number or a fraction such as 8/255") from None
    if not math.isfinite(eps) or eps < 0:
        raise ValueError(f"{setting} = {value}: expected a finite length >= 0, such as 8/255")
    if eps > most:
        meant = f"; did you mean {format_eps(eps / 255)}?" if eps <= 255 else ""
        raise ValueError(f"{setting} = {value}: pixels are in [0, 1]{meant}")
    return eps


def format_eps(eps: float) -> str:
    """As people write it: "8/255" for a small whole number of grey levels, else decimal."""
    levels = round(eps * 255)
    if 1 <= levels <= 32 and math.isclose(eps * 255, levels, rel_tol=1e-6):
        return f"{levels}/255"
    return f"{eps:.4g}"


def _all_but_batch(images: Tensor) -> tuple[int, ...]:
    return tuple(range(1, images.ndim))


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class ThreatModel:
    """All perturbations delta with ||delta|| <= eps that keep pixels in [0, 1].

    Attributes:
        norm: "Linf" or "L2", over all pixels and channels of one image.
        eps: radius in pixel units, where black is 0 and white is 1. Text such as "8/255" is accepted.

    Raises:
        ValueError: unknown norm, negative eps, or L_inf eps above 1.
    """

    norm: str
    eps: float

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, NORMS)
        object.__setattr__(self, "eps", parse_eps(self.eps, most=1 if self.norm == "Linf" else math.inf))

    def __str__(self) -> str:
        return f"{NORMS[self.norm]} {format_eps(self.eps)}"

    def distance(self, delta: Tensor) -> Tensor:
        """(B,) norm of each perturbation in delta (B, ...)."""
        return torch.linalg.vector_norm(delta, math.inf if self.norm == "Linf" else 2, dim=_all_but_batch(delta))

    def ascent_direction(self, gradient: Tensor) -> Tensor:
        """The step of norm 1 along which a linear function with this gradient grows fastest, per image.

        Linf: the sign. L2: the gradient over its length; it is scaled by its largest entry first, so that a
        tiny gradient does not underflow. A zero gradient gives a zero step.
        """
        if self.norm == "Linf":
            return gradient.sign()
        pixels = _all_but_batch(gradient)  # not flattened, which would copy a tensor in channels_last
        largest = gradient.abs().amax(pixels, keepdim=True)
        scaled = gradient / torch.where(largest > 0, largest, 1)
        length = torch.linalg.vector_norm(scaled, dim=pixels, keepdim=True)
        return scaled / length.clamp_min(1)  # the largest entry is 1, so only a zero gradient is shorter

    def project(self, perturbed: Tensor, x: Tensor) -> Tensor:
        """An admissible image near `perturbed` (B, ...): into the ball around x (B, ...), clean pixels, then into
        [0, 1]. Where no pixel leaves [0, 1], and for Linf always, it is the nearest one."""
        if self.norm == "Linf":
            return torch.clamp(perturbed, x - self.eps, x + self.eps).clamp_(0, 1)
        delta = perturbed - x
        length = _per_image(self.distance(delta), delta)
        factor = torch.where(length > self.eps, self.eps / length, 1)
        return (x + factor * delta).clamp(0, 1)  # clipping towards x in [0, 1] never lengthens delta

    def random_start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A uniform draw from the ball around each image, clipped to [0, 1].

        Args:
            generator: a CPU generator, so that a seed means the same on every device.
        """
        if self.norm == "Linf":
            noise = (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1) * self.eps
        else:
            direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            radius = torch.rand(len(x), generator=generator, dtype=x.dtype) ** (1 / max(x.shape[1:].numel(), 1))
            noise = direction * _per_image(self.eps * radius / self.distance(direction), direction)
        return self.project(x + noise.to(x.device), x)


A_THREAT_MODEL = "a threat model, such as ThreatModel('Linf', 8/255)"
Threat = Annotated[ThreatModel, Field(description=A_THREAT_MODEL)]  # for settings


def check_threat(threat: ThreatModel, setting: str = "threat") -> ThreatModel:
    """Return the threat model; raise a ValueError if it is none, as where a radius was given."""
    check_kind(setting, threat, ThreatModel, A_THREAT_MODEL)
    return threat
