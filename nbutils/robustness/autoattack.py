"""AutoAttack and FAB by Croce and Hein (2020), through the package of their code, in this book's calling convention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, SkipValidation
from torch import Tensor, nn

from nbutils.networks import frozen
from nbutils.robustness.attacks import check_classes, checked, scored
from nbutils.robustness.threat import Threat, ThreatModel
from nbutils.settings import Count, Settings, one_of

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "apgd": ("apgd-ce", "apgd-t"),
    "apgd-ce": ("apgd-ce",),
}
NEEDS = {"apgd-dlr": 3, "apgd-t": 4}  # classes: their losses take the third and the fourth largest logit


@contextmanager
def _as_the_library_wants_it(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None,
                             what: str) -> Iterator[tuple[Callable[[Tensor], Tensor], int, int]]:
    """The model as a function of float32 images, its number of classes, and a seed for the library, which seeds
    torch's global generators: they are left as they were."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with frozen(model), torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        with torch.no_grad():
            logits = scored(model, x, what)
        check_classes(y, logits)
        yield lambda images: scored(lambda given: model(given.to(x.dtype)), images, what).float(), logits.shape[1], seed


@dataclass(frozen=True, repr=False)
class AutoAttack(Settings):
    """Several attacks without free settings, one after the other on the images that are still right.

    It makes about 9,000 forward passes for each image that stays right ("standard").

    Attributes:
        threat: the perturbations allowed.
        version: "standard" (APGD-CE, APGD-T, FAB-T and Square, as in the paper) or "rand" (APGD-CE and APGD-DLR on the
            mean of 20 passes, for networks that draw random numbers). Cheaper and weaker: "apgd" (APGD-CE and APGD-T
            on the three likeliest wrong classes) and "apgd-ce".
        steps: of each APGD and FAB.
        classes: of the model; attacks that need more are left out, and the label says so. None: enough for all.

    Raises:
        ValueError: no threat model, an unknown version, steps below 1 or classes below 2.
    """

    threat: Threat
    version: Annotated[str, one_of(VERSIONS)] = "standard"
    steps: Count = 100
    classes: Annotated[int | None, Field(ge=2, description="a whole number >= 2, or None")] = None

    @property
    def attacks(self) -> list[str]:
        """The attacks that are made."""
        return [attack for attack in VERSIONS[self.version]
                if self.classes is None or NEEDS.get(attack, 2) <= self.classes]

    def __repr__(self) -> str:
        left_out = "".join(f", {attack.upper()} left out: needs {NEEDS[attack]} classes, here are {self.classes}"
                           for attack in VERSIONS[self.version] if attack not in self.attacks)
        return f"{self._name()[:-1]}{left_out})"

    def _name(self) -> str:
        steps = f", {self.steps} steps" * (self.steps != 100 or self.version not in ("standard", "rand"))
        if self.version == "apgd":
            return f"APGD-CE + APGD-T({self.threat}{steps}, 3 targets)"
        if self.version == "apgd-ce":
            return f"APGD-CE({self.threat}{steps})"
        return f"AutoAttack({self.threat}, {self.version}{steps})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Adversarial images for x (B, 3, H, W), pixels in [0, 1], and labels y (B,); x itself where all attacks
        failed. The model is left untouched.

        Raises:
            ValueError: see `checked` and `scored`; a model with fewer classes than one of the attacks needs.
        """
        import pyautoattack

        x, y = checked(x, y, generator)
        if len(x) == 0 or self.threat.eps == 0:
            return x.clone()
        with _as_the_library_wants_it(model, x, y, generator, "AutoAttack") as (classify, classes, seed):
            least = max(NEEDS.get(attack, 2) for attack in self.attacks)
            if classes < least:
                raise ValueError(f"AutoAttack, version {self.version!r}: the model has {classes} classes; expected "
                                 f"at least {least}, give classes = {classes} or take version 'apgd-ce'")
            library = pyautoattack.AutoAttack(
                classify, norm=self.threat.norm, eps=self.threat.eps, seed=seed, device=x.device,
                version=self.version if self.version in ("standard", "rand") else "custom")
            library.attacks_to_run = self.attacks  # "standard" and "rand" have set all of theirs
            for part in (library.apgd, library.apgd_targeted, library.fab):
                part.n_iter, part.n_restarts = self.steps, 1
            targets = min(3 if self.version == "apgd" else 9, classes - 1)
            library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
            x_adv, _ = library.run_standard_evaluation(x.float().contiguous(), y, batch_size=len(x))
        return self.threat.project(x_adv.to(x.dtype), x)  # FAB may overstep the radius by a rounding error


@dataclass(frozen=True, repr=False)
class FAB(Settings):
    """The minimum-norm attack of Croce and Hein (2020, "Minimally distorted adversarial examples"), untargeted.

    Attributes:
        norm: "Linf" or "L2", the distance that is made small.
        eps: radius in pixel units beyond which an adversarial image does not count; None takes any.
        steps: per restart. restarts: the first starts at the image, later ones at random within eps.

    Raises:
        ValueError: unknown norm, a radius that is not one, steps or restarts below 1, restarts without eps.
    """

    norm: str = "Linf"
    eps: Annotated[float | None, SkipValidation] = None
    steps: Count = 100
    restarts: Count = 1

    def __post_init__(self) -> None:
        ThreatModel(self.norm, 0 if self.eps is None else self.eps)  # names a bad norm or radius
        super().__post_init__()
        if self.eps is None and self.restarts > 1:
            raise ValueError(f"restarts = {self.restarts}: without eps there is no ball to start in; expected 1")

    @property
    def threat(self) -> ThreatModel | None:
        """The ball, or None where any distance counts."""
        return None if self.eps is None else ThreatModel(self.norm, self.eps)

    def __repr__(self) -> str:
        where = self.threat or f"unbounded {self.norm.replace('Linf', 'L_inf')}"
        return f"FAB({where}, {self.steps} steps, {self.restarts} restart{'s' * (self.restarts > 1)})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The nearest adversarial images found for x (B, 3, H, W), pixels in [0, 1], and labels y (B,); x itself
        where none was found. The model is left untouched.

        Raises:
            ValueError: see `checked` and `scored`.
        """
        from pyautoattack.fab_pt import FABAttack_PT

        x, y = checked(x, y, generator)
        if len(x) == 0 or self.eps == 0:
            return x.clone()
        with _as_the_library_wants_it(model, x, y, generator, "FAB") as (classify, _, seed):
            library = FABAttack_PT(classify, norm=self.norm, eps=torch.inf if self.threat is None else self.threat.eps,
                                   n_iter=self.steps, n_restarts=self.restarts, seed=seed, device=x.device)
            x_adv = library.perturb(x.float().contiguous(), y).detach().to(x.dtype)
        return x_adv if self.threat is None else self.threat.project(x_adv, x)
