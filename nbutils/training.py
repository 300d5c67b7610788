"""One training loop. What is learned is decided by the objective that is passed in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nbutils import networks, store
from nbutils.console import progress, warn
from nbutils.images.batches import batch_count, batches
from nbutils.images.imageset import ImageSet
from nbutils.messages import check_kind
from nbutils.networks import Model, SplitClassifier, frozen, like, seeded
from nbutils.precision import mixed_precision
from nbutils.robustness.attacks import FGSM, PGD, Attack, Untargeted, check_classes, kl, returned
from nbutils.robustness.threat import ThreatModel, check_threat
from nbutils.settings import Count, Positive, Settings, Weight

Objective = Callable[[SplitClassifier, Tensor, Tensor, torch.Generator], Tensor]
"""(model, x (B, 3, H, W) in [0, 1], y (B,), CPU generator) -> scalar loss to be minimised."""


@dataclass(frozen=True)
class Standard:
    """Cross-entropy on the images as they are."""

    def __call__(self, model: SplitClassifier, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(x), y)


def _attacked(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """What the attack makes of x (B, 3, H, W), which stays as it is: one of a reader's may work in place."""
    return returned(repr(attack), attack(model, x.clone(), y, generator), x.shape)


@dataclass(frozen=True)
class Adversarial(Settings):
    """Cross-entropy on images that `attack` has just made (Madry et al. 2018, equation 2.1).

    The attack sees the model in evaluation mode, the loss sees it in training mode.

    Raises:
        ValueError: what is no attack, or a targeted one; so do `TRADES` and `MART`.
    """

    attack: Untargeted

    def __call__(self, model: SplitClassifier, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(_attacked(self.attack, model, x, y, generator)), y)


def fast_adversarial(threat: ThreatModel) -> Adversarial:
    """Adversarial training with one step of 1.25 eps from a random start (Wong et al. 2020)."""
    return Adversarial(FGSM(threat, random_start=True, step_size=1.25 * check_threat(threat).eps))


def pgd_adversarial(threat: ThreatModel, steps: int) -> Adversarial:
    """Adversarial training with the last iterate of PGD, step size 2.5 eps / steps (Madry et al. 2018); with one step,
    whose best size is another, `fast_adversarial`."""
    return fast_adversarial(threat) if steps == 1 else Adversarial(PGD(threat, steps, keep_best=False))


def robust_teacher(planted: bool, eps: float, steps: int) -> Adversarial:
    """How the chapters train the network that D_R is made with: PGD of so many steps in L2 radius .5, the ball of Ilyas
    et al. (2019). That holds no planted image without its tile, whose L2 length is .87; so on planted images it is one
    step in L_inf radius eps."""
    if planted:
        return fast_adversarial(ThreatModel("Linf", eps))
    return pgd_adversarial(ThreatModel("L2", 0.5), steps)


@dataclass(frozen=True)
class TRADES(Settings):
    """Cross-entropy on the clean images plus beta KL(p(x) || p(x_adv)), where x_adv maximises the same divergence
    (Zhang et al. 2019, algorithm 1).

    Attributes:
        attack: PGD with the loss "kl", started close to x, where that loss has no slope.
        beta: weight of the divergence, 1 / lambda in the paper, which takes 6 for its best results.
        adversarial_labels: take the cross-entropy on x_adv instead, as Kim et al. (2021) did, with beta = .5.

    Raises:
        ValueError: PGD with another loss, which would take the clean logits for labels; a beta below 0.
    """

    attack: Untargeted
    beta: Weight = 6.0
    adversarial_labels: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.attack, PGD) and self.attack.loss != "kl":
            raise ValueError(f"loss = {self.attack.loss!r}: TRADES attacks with 'kl'; use trades(threat, steps)")

    def __call__(self, model: SplitClassifier, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        with frozen(model), torch.no_grad():
            target = model(x)
        x_adv = _attacked(self.attack, model, x, target, generator)
        clean, adversarial = model(x), model(x_adv)
        labelled = adversarial if self.adversarial_labels else clean
        return F.cross_entropy(labelled, y) + self.beta * kl(adversarial, clean).mean()


@dataclass(frozen=True)
class MART(Settings):
    """Boosted cross-entropy on x_adv, plus beta KL(p(x) || p(x_adv)) weighted by how wrong the clean image is
    (Wang et al. 2020).

    Attributes:
        attack: PGD on the cross-entropy. beta: weight of the divergence, lambda in the paper; Kim et al. (2021): .5.

    Raises:
        ValueError: a beta below 0.
    """

    attack: Untargeted
    beta: Weight = 5.0

    def __call__(self, model: SplitClassifier, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        x_adv = _attacked(self.attack, model, x, y, generator)
        clean, adversarial = model(x), model(x_adv)
        # log(1 - p_k) of the likeliest wrong class k, as the log-sum of all other logits: exact where p_k is near 1
        rival = adversarial.detach().scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
        others = adversarial.scatter(1, rival, -torch.inf).logsumexp(1) - adversarial.logsumexp(1)
        doubt = 1 - clean.softmax(1).gather(1, y[:, None])[:, 0]
        return F.cross_entropy(adversarial, y) - others.mean() + self.beta * (kl(adversarial, clean) * doubt).mean()


NEAR = 0.001  # standard deviation of the noise from which TRADES and MART start, in pixel units


def trades(threat: ThreatModel, steps: int, beta: float = 6.0, adversarial_labels: bool = False) -> TRADES:
    """TRADES with PGD of step size 2.5 eps / steps on the divergence."""
    return TRADES(PGD(threat, steps, loss="kl", random_start=NEAR, keep_best=False), beta, adversarial_labels)


def mart(threat: ThreatModel, steps: int, beta: float = 5.0) -> MART:
    """MART with PGD of step size 2.5 eps / steps on the cross-entropy."""
    return MART(PGD(threat, steps, random_start=NEAR, keep_best=False), beta)


@dataclass(frozen=True)
class Schedule(Settings):
    """How long and how fast to learn.

    Attributes:
        epochs: passes over the images. batch_size: images per step. peak_rate: largest learning rate. momentum,
            weight_decay: of the optimizer.
        optimizer: "sgd", with Nesterov momentum, the rate rising for a fifth of the steps and then falling in straight
            lines; or "adamw", with beta_2 = .95 and the rate rising for a tenth of the steps and then falling along
            half a cosine (He et al. 2022).

    Raises:
        ValueError: epochs below 1, batch_size below 2 (BatchNorm needs two), a rate that is not positive, a momentum
            outside [0, 1), a weight decay below 0, or an unknown optimizer.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=2, description="a whole number >= 2, as Python's int")] = 64
    peak_rate: Positive = 0.2
    momentum: Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")] = 0.9
    weight_decay: Weight = 5e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"

    def rate(self, step: int, total: int) -> float:
        """Learning rate at `step` of `total`."""
        if self.optimizer == "sgd":
            return self.peak_rate * min((step + 1) / (0.2 * total + 1), (total - step) / (0.8 * total))
        fallen = max(0, step - 0.1 * total) / (0.9 * total)
        return self.peak_rate * min((step + 1) / (0.1 * total + 1), (1 + math.cos(math.pi * fallen)) / 2)

    def optimizing(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's weights."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(model.parameters(), self.peak_rate, (self.momentum, 0.95),
                                     weight_decay=self.weight_decay)
        return torch.optim.SGD(model.parameters(), self.peak_rate, self.momentum, weight_decay=self.weight_decay,
                               nesterov=self.momentum > 0)


class Watch:
    """A watch for catastrophic overfitting: a network that trains against one step of attack may learn to mislead that
    step, and within an epoch it loses all accuracy under several (Wong et al. 2020, section 5.4).

    Attributes:
        images: a 25th of the training images, at least 64 and at most 256. attack: 5 steps of PGD in the objective's
            threat model. best: the largest accuracy under it so far. sound: the weights of the last sound epoch.
    """

    def __init__(self, images: ImageSet, threat: ThreatModel) -> None:
        self.images = images.take(min(256, max(64, len(images) // 25)))
        self.attack, self.best = PGD(threat, 5, keep_best=False), 0.0
        self.sound: dict[str, Tensor] = {}

    @classmethod
    def of(cls, objective: Objective, images: ImageSet) -> Watch | None:
        """The watch that an objective needs: None unless it attacks with one step."""
        attack = getattr(objective, "attack", None)
        return cls(images, attack.threat) if isinstance(attack, PGD) and attack.steps == 1 else None

    def collapsed(self, model: SplitClassifier) -> bool:
        """Whether accuracy under attack has fallen below a quarter of a best that was more than chance; if not, the
        weights are kept."""
        device, generator = like(model).device, torch.Generator().manual_seed(0)
        x, y = self.images.x.to(device), self.images.y.to(device)
        with frozen(model), torch.no_grad():
            accuracy = (model(self.attack(model, x, y, generator)).argmax(1) == y).double().mean().item()
        if accuracy < self.best / 4 and self.best > max(0.2, 16 / len(self.images)):
            return True
        self.best = max(self.best, accuracy)
        self.sound = {key: value.clone() for key, value in model.state_dict().items()}
        return False


class Unfinished:
    """A training that was stopped between two epochs: all that it needs to go on to the same weights.

    Attributes:
        path: a file of tensors, written at most every `SECONDS` and read again by who trains the same.
    """

    SECONDS = 60.0

    def __init__(self, path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer,
                 generator: torch.Generator, watch: Watch | None) -> None:
        self.path, self.model, self.optimizer, self.generator, self.watch = path, model, optimizer, generator, watch
        self.written = time.monotonic()

    def write(self, history: list[float]) -> None:
        """Keep the state after an epoch, if the last one kept is old enough."""
        if self.path is None or time.monotonic() - self.written < self.SECONDS:
            return
        groups = {"model": self.model.state_dict(), "sound": self.watch.sound if self.watch else {}, "loop": {
            "generator": self.generator.get_state(), "history": torch.tensor(history, dtype=torch.float64),
            "best": torch.tensor(self.watch.best if self.watch else 0.0, dtype=torch.float64)}}
        groups |= {str(index): state for index, state in self.optimizer.state_dict()["state"].items()}
        store.keep(self.path, {f"{group}/{name}": tensor for group, tensors in groups.items()
                               for name, tensor in tensors.items()})
        self.written = time.monotonic()

    def read(self, epochs: int) -> list[float]:
        """Put the kept state back, if there is one; the mean losses of the epochs that it has seen. What is damaged, or
        of another network or more epochs, is said, and training starts anew."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in (store.kept(self.path) if self.path else {}).items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = tensor
        if not groups:
            return []
        sound, loop, weights = (groups.pop(name, {}) for name in ("sound", "loop", "model"))
        own, kept = ({name: tensor.shape for name, tensor in each.items()}
                     for each in (self.model.state_dict(), weights))
        if own != kept or loop.keys() != {"generator", "history", "best"} or len(loop["history"]) > epochs:
            warn(f"{self.path}: not what this training left when it was stopped; it starts anew")
            return []
        self.model.load_state_dict(weights)
        self.generator.set_state(loop["generator"])
        if self.watch:
            self.watch.best, self.watch.sound = loop["best"].item(), sound
        self.optimizer.load_state_dict({"state": {int(index): state for index, state in groups.items()},
                                        "param_groups": self.optimizer.state_dict()["param_groups"]})
        return list(loop["history"].tolist())


def fit(model: SplitClassifier, images: ImageSet, objective: Objective, schedule: Schedule, seed: int = 0,
        precision: str = "float32", label: str = "training", unfinished: Path | None = None) -> list[float]:
    """Train `model` in place, on the device where it is, and leave it in evaluation mode.

    Args:
        images: training images; batches are shuffled and augmented as the set says.
        objective: maps (model, x, y, generator) to a loss.
        seed: of data order, augmentation and attack starts.
        precision: of convolutions and products, see `nbutils.precision`; the weights stay float32.
        label: shown with the progress bar.
        unfinished: a file from which a training that was stopped goes on after its last whole epoch; None: none.

    An objective that attacks with one step is watched for catastrophic overfitting, see `Watch`: at a collapse training
    ends, and the model has the weights of the epoch before.

    Returns:
        The mean loss of each epoch that counts, fewer than the schedule's after a collapse.

    Raises:
        ValueError: no images, no objective or schedule, unknown precision, labels beyond the model's classes, an
            objective that returns no scalar with a gradient. FloatingPointError: the loss is no longer finite.
    """
    _check_training(model, images, objective, schedule, label)
    device = like(model).device
    model.train()
    generator = seeded(seed)
    optimizer = schedule.optimizing(model)
    watch = Watch.of(objective, images)
    stopped = Unfinished(unfinished, model, optimizer, generator, watch)
    history, steps = stopped.read(schedule.epochs), batch_count(len(images), schedule.batch_size)
    total, step = schedule.epochs * steps, len(history) * steps
    for epoch in progress(range(len(history), schedule.epochs), label):
        losses = []
        for x, y in batches(images, schedule.batch_size, generator, device):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step, total)
            losses.append(_step(model, x, y, objective, optimizer, generator, precision))
            step += 1
        if watch and watch.collapsed(model):
            model.load_state_dict(watch.sound)
            break
        history.append(torch.stack(losses).mean().item())
        if not torch.isfinite(torch.tensor(history[-1])):
            raise FloatingPointError(f"{label}: the loss is {history[-1]} in epoch {epoch + 1}; "
                                     f"expected a finite number, try a peak_rate below {schedule.peak_rate}")
        stopped.write(history)
    model.eval()
    return history


def _check_training(model: SplitClassifier, images: ImageSet, objective: Objective, schedule: Schedule,
                    label: str) -> None:
    check_kind("images", images, ImageSet, "an ImageSet")
    check_kind("objective", objective, Callable, "an objective, such as training.Standard()")
    check_kind("schedule", schedule, Schedule, "a training.Schedule, such as Schedule(epochs=5)")
    if len(images) == 0:
        raise ValueError(f"{label}: the image set is empty; expected at least one image")
    if isinstance(model, SplitClassifier) and isinstance(last := model.stages[-1], nn.Linear):
        check_classes(images.y, last.weight.T)  # (D, K), as logits would be


def _step(model: SplitClassifier, x: Tensor, y: Tensor, objective: Objective, optimizer: torch.optim.Optimizer,
          generator: torch.Generator, precision: str) -> Tensor:
    """One step of the optimiser along the gradient of the objective on a batch; the loss before it."""
    with mixed_precision(x.device, precision):
        x = x.contiguous(memory_format=torch.channels_last)
        loss = returned("objective", objective(model, x, y, generator), ())
    if not loss.requires_grad:
        raise ValueError("objective returned a loss without a gradient; expected one that the weights move")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def trained(network: str, images: ImageSet, objective: Objective, schedule: Schedule, seed: int = 0,
            device: torch.device | str = "cpu", name: str = "", precision: str = "float32") -> SplitClassifier:
    """The network that this recipe gives, in evaluation mode: built once, then read from the store.

    Args:
        network: a name that `networks.build` knows. seed: of initialisation, data order and attack starts.
        name: how tables call the model; by default the network's name. precision: see `fit`.

    Raises:
        ValueError: unknown network, device or precision; as `fit`. FloatingPointError: training diverged.
    """
    model = networks.as_built(network, images, seed, device)
    model.name = name or network
    return fitted_once(model, objective, images, schedule, seed, precision)


def fitted_once(model: Model, objective: Any, images: ImageSet, schedule: Schedule, seed: int,
                precision: str = "float32") -> Model:
    """The model, trained in place by `fit` or with the weights and losses that this recipe once gave; in evaluation
    mode."""
    recipe = {"start": store.fingerprint(model), "objective": objective, "images": images.fingerprint,
              "schedule": schedule, "seed": seed, "precision": precision}

    def train(unfinished: Path) -> dict[str, Tensor]:
        losses = fit(model, images, objective, schedule, seed, precision, str(model.name),  # type: ignore[arg-type]
                     unfinished)
        weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        return {**weights, "losses": torch.tensor(losses)}

    artifact = store.load_or_build("model", recipe, train, resumable=True)
    model.losses = artifact.tensors.pop("losses")
    model.load_state_dict(artifact.tensors)
    model.key = artifact.key  # type: ignore[assignment]
    if (kept := len(model.losses)) < schedule.epochs:
        print(f"{model.name}, seed {seed}: in pass {kept + 1} of {schedule.epochs} all accuracy under several steps "
              f"was lost (catastrophic overfitting); these are the weights of pass {kept}")
    return model.eval()


DEFENCES: dict[str, Callable[[ThreatModel, int], Adversarial | TRADES | MART]] = {
    "ADV": pgd_adversarial, "TRADES": trades, "MART": mart,
    "TRADES-K": partial(trades, beta=0.5, adversarial_labels=True), "MART-K": partial(mart, beta=0.5)}
"""Name in the tables of defences -> what makes its objective, of a threat model and a number of PGD steps. Those with a
K are as Kim et al. (2021) trained them, TRADES and MART as their authors did."""
