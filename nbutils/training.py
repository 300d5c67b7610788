"""One training loop. What is learned is decided by the objective that is passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils import networks
from nbutils.images.batches import batches
from nbutils.images.imageset import ImageSet
from nbutils.lab import store
from nbutils.lab.console import progress
from nbutils.networks import SplitClassifier
from nbutils.robustness.attacks import FGSM, PGD
from nbutils.robustness.threat import ThreatModel

Objective = Callable[[SplitClassifier, Tensor, Tensor, torch.Generator], Tensor]
"""(model, x (B, 3, H, W) in [0, 1], y (B,), CPU generator) -> scalar loss to be minimised."""


@dataclass(frozen=True)
class Standard:
    """Cross-entropy on the images as they are."""

    def __call__(self, model: SplitClassifier, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(x), y)


@dataclass(frozen=True)
class Adversarial:
    """Cross-entropy on images that `attack` has just made (Madry et al. 2018, equation 2.1).

    The attack sees the model in evaluation mode, the loss sees it in training mode.
    """

    attack: PGD

    def __call__(self, model: SplitClassifier, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(self.attack(model, x, y, generator)), y)


def fast_adversarial(threat: ThreatModel) -> Adversarial:
    """Adversarial training with one step of 1.25 eps from a random start (Wong et al. 2020)."""
    return Adversarial(FGSM(threat, random_start=True, step_size=1.25 * threat.eps))


def pgd_adversarial(threat: ThreatModel, steps: int) -> Adversarial:
    """Adversarial training with the last iterate of PGD, step size 2.5 eps / steps (Madry et al. 2018)."""
    return Adversarial(PGD(threat, steps, keep_best=False))


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn: SGD with Nesterov momentum, the rate rising and then falling in straight lines.

    Attributes:
        epochs: passes over the images. batch_size: images per step. peak_rate: largest learning rate, reached after
            a fifth of the steps. momentum, weight_decay: of SGD.

    Raises:
        ValueError: epochs below 1, batch_size below 2 (BatchNorm needs two), or a rate that is not positive.
    """

    epochs: int
    batch_size: int = 64
    peak_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        for setting, value, least in (("epochs", self.epochs, 1), ("batch_size", self.batch_size, 2)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{setting} = {value}: expected a whole number >= {least}")
        if not self.peak_rate > 0:
            raise ValueError(f"peak_rate = {self.peak_rate}: expected a positive learning rate, such as 0.2")

    def rate(self, step: int, total: int) -> float:
        """Learning rate at `step` of `total`."""
        return self.peak_rate * min((step + 1) / (0.2 * total + 1), (total - step) / (0.8 * total))


def fit(model: SplitClassifier, images: ImageSet, objective: Objective, schedule: Schedule, seed: int = 0,
        label: str = "training") -> list[float]:
    """Train `model` in place, on the device where it is, and leave it in evaluation mode.

    Args:
        images: training images; batches are shuffled and augmented as the set says.
        objective: maps (model, x, y, generator) to a loss.
        seed: of data order, augmentation and attack starts.
        label: shown with the progress bar.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: no images. FloatingPointError: the loss is no longer finite.
    """
    if len(images) == 0:
        raise ValueError(f"{label}: the image set is empty; expected at least one image")
    device = next(model.parameters()).device
    model.train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=schedule.peak_rate, momentum=schedule.momentum,
                                weight_decay=schedule.weight_decay, nesterov=schedule.momentum > 0)
    steps_per_epoch = -(-len(images) // schedule.batch_size)
    total, step, history = schedule.epochs * steps_per_epoch, 0, []
    for epoch in progress(range(schedule.epochs), label):
        losses = []
        for x, y in batches(images, schedule.batch_size, generator, device):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step, total)
            loss = objective(model, x.contiguous(memory_format=torch.channels_last), y, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step += 1
        history.append(torch.stack(losses).mean().item())
        if not torch.isfinite(torch.tensor(history[-1])):
            raise FloatingPointError(f"{label}: the loss is {history[-1]} in epoch {epoch + 1}; "
                                     f"expected a finite number, try a peak_rate below {schedule.peak_rate}")
    model.eval()
    return history


def trained(network: str, images: ImageSet, objective: Objective, schedule: Schedule, seed: int = 0,
            device: torch.device | str = "cpu", name: str = "") -> SplitClassifier:
    """The network that this recipe gives, in evaluation mode: built once, then read from the store.

    Args:
        network: a name that `networks.build` knows. seed: of initialisation, data order and attack starts.
        name: how tables call the model; by default the network's name.

    Raises:
        ValueError: unknown network. FloatingPointError: training diverged.
    """
    recipe = {"network": network, "images": images.fingerprint, "objective": objective, "schedule": schedule,
              "seed": seed}
    model = networks.build(network, images.num_classes, seed, images.x.shape[-1])

    def train() -> dict[str, Tensor]:
        fit(model.to(device), images, objective, schedule, seed, name or network)
        return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}

    artifact = store.load_or_build("model", recipe, train)
    model.load_state_dict(artifact.tensors)
    model.name, model.key = name or network, artifact.key
    return model.to(device).eval()
