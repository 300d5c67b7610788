"""Attacks without a radius: they look for the nearest adversarial image and report how far it is.

Their `threat` is None and tables call them "unbounded". An accuracy under such an attack cannot stand beside an
accuracy inside a ball; the distances can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils.networks import frozen
from nbutils.robustness.attacks import check_classes, checked, margin, scored
from nbutils.robustness.threat import ThreatModel
from nbutils.settings import Count, Positive, Settings, Weight

Penalty = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images (B, 3, H, W), c (B,)) -> what is minimised beside the distance (B,), and whether each is adversarial (B,)."""

INSIDE = 1 - 1e-6  # tanh never reaches the pixels 0 and 1, so they are moved this little inwards


def to_tanh_space(x: Tensor) -> Tensor:
    """w with (tanh(w) + 1) / 2 = x, for pixels x in [0, 1]; finite also at 0 and 1."""
    return torch.atanh(INSIDE * (2 * x - 1))


def from_tanh_space(w: Tensor) -> Tensor:
    """Pixels in [0, 1] for any w."""
    return (torch.tanh(w) + 1) / 2


@dataclass(frozen=True, repr=False)
class CW(Settings):
    """The attack of Carlini and Wagner (2017, section VI.A): the L2-nearest image that is misclassified.

    Adam on w minimises ||x_adv - x||_2^2 + c max(f_y - max_{i != y} f_i + confidence, 0) with
    x_adv = (tanh w + 1) / 2, and the nearest adversarial image met on the way is returned. All is per image, so the
    result does not depend on the batch. Kim et al. (2021) take c = .1, rate = .1, 200 steps and no search.

    Attributes:
        c: weight of the margin against the squared distance, at first.
        steps: Adam steps per value of c. rate: of Adam, in tanh space.
        searches: values of c tried per image: ten times larger until one succeeds, then by bisection.
        confidence: margin in logits that the adversarial image must have.
        targeted: the labels given are classes to be reached.

    Raises:
        ValueError: steps or searches below 1; c or rate not positive; a negative confidence.
    """

    c: Positive = 0.1
    steps: Count = 200
    rate: Positive = 0.1
    searches: Count = 1
    confidence: Weight = 0.0
    targeted: bool = False

    @property
    def threat(self) -> ThreatModel | None:
        """None: it takes no radius."""
        return None

    def __repr__(self) -> str:
        return f"CW({', '.join(['unbounded L2', *self._settings()])})"

    def _settings(self) -> list[str]:
        parts = [f"{self.steps} steps of Adam {self.rate:g}"]
        parts.append(f"{self.searches} values of c from {self.c:g}" if self.searches > 1 else f"c = {self.c:g}")
        return parts + [f"confidence {self.confidence:g}"] * (self.confidence > 0) + ["targeted"] * self.targeted

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The nearest adversarial images found for x (B, 3, H, W), pixels in [0, 1], and labels y (B,); x itself
        where none was found or none is needed. Nothing is random; the model is left untouched.

        Raises:
            ValueError: see `checked` and `scored`.
        """
        x, y = checked(x, y, generator)
        best, nearest = x.clone(), x.new_full((len(x),), torch.inf)
        if len(x) == 0:
            return best
        low, high = torch.zeros_like(nearest), torch.full_like(nearest, torch.inf)
        c = torch.full_like(nearest, self.c)
        with frozen(model):
            with torch.no_grad():
                logits = scored(model, x, type(self).__name__)
                check_classes(y, logits)
                nearest[self.gap(logits, y)[1]] = 0
            penalty = self.penalty(model, x, y)
            for _ in range(self.searches):
                found, distance = self._descend(x, c, penalty)
                closer = distance < nearest
                best[closer], nearest[closer] = found[closer], distance[closer]
                success = distance < torch.inf
                low, high = torch.where(success, low, c), torch.where(success, c, high)
                c = torch.where(high < torch.inf, (low + high) / 2, 10 * c)
        return best

    def _descend(self, x: Tensor, c: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
        """Adam with one c (B,) per image: the nearest adversarial images and their L2 distances, infinite for none."""
        best, nearest = x.clone(), torch.full_like(c, torch.inf)
        w = to_tanh_space(x).requires_grad_()
        origin = from_tanh_space(w.detach())  # so that the distance and its gradient start at exactly zero
        optimizer = torch.optim.Adam([w], lr=self.rate)
        for _ in range(self.steps):
            with torch.enable_grad():
                x_adv = self.image(w, x)
                weighted, fooled = penalty(x_adv, c)
                objective = self.objective(x_adv, origin, weighted).sum()
            (w.grad,) = torch.autograd.grad(objective, w)
            optimizer.step()
            distance = (x_adv.detach() - x).flatten(1).norm(dim=1)
            closer = fooled & (distance < nearest)
            best[closer], nearest[closer] = x_adv.detach()[closer], distance[closer]
        return best, nearest

    @staticmethod
    def objective(x_adv: Tensor, x: Tensor, weighted: Tensor) -> Tensor:
        """(B,) what Adam minimises: the squared distance plus the weighted gap, by default c times `gap`."""
        return (x_adv - x).flatten(1).square().sum(1) + weighted

    def image(self, w: Tensor, x: Tensor) -> Tensor:
        """The images (B, 3, H, W) that w stands for; x are the clean ones."""
        return from_tanh_space(w)

    def penalty(self, model: nn.Module, x: Tensor, y: Tensor) -> Penalty:
        """What is minimised beside the distance; what depends on the clean x alone can be computed here, once."""

        def penalty(x_adv: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            gap, fooled = self.gap(scored(model, x_adv, type(self).__name__), y)
            return c * gap, fooled

        return penalty

    def gap(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) max(f_y - max_{i != y} f_i + confidence, 0) (Carlini and Wagner 2017, section VI.A), and whether the
        images count as adversarial (B,)."""
        gap = margin(logits, y) * (-1 if self.targeted else 1)
        raised = logits.detach() + self.confidence * (-1 if self.targeted else 1) * F.one_hot(y, logits.shape[1])
        return F.relu(self.confidence - gap), (raised.argmax(1) == y) == self.targeted
