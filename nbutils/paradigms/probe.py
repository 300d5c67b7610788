"""Linear probes: what a linear classifier can read from an encoder that no longer learns.

The encoder runs once over the images, in evaluation mode, so its BatchNorm is frozen; the head is then the optimum of a
convex problem on the cached features. Encoder and head together are a classifier that attacks can be aimed at.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from nbutils import store, training
from nbutils.images.imageset import ImageSet
from nbutils.messages import check_counts
from nbutils.networks import SplitClassifier, in_batches
from nbutils.paradigms.ddpm import DiffusionEncoder
from nbutils.paradigms.encoder import Encoder
from nbutils.paradigms.simclr import ContrastiveEncoder, SimCLR


def extract(encoder: Encoder, images: ImageSet, batch_size: int = 250) -> Tensor:
    """(N, D) float32 features of all images, on the CPU, without augmentation: computed once per encoder, setting and
    image set, then read from the store. The encoder is left as it was.

    Raises:
        ValueError: no images, or features that are not finite or not as many as the encoder says.
    """
    check_counts(images=len(images), batch_size=batch_size)

    def compute() -> dict[str, Tensor]:
        z = in_batches(lambda x: encoder.features(x).float(), encoder, images, batch_size=batch_size)
        if z.shape != (len(images), encoder.width) or not torch.isfinite(z).all():
            raise ValueError(f"{encoder.name}: features {tuple(z.shape)}, all finite: {bool(torch.isfinite(z).all())}; "
                             f"expected finite ({len(images)}, {encoder.width})")
        return {"z": z}

    recipe = {"encoder": store.fingerprint(encoder), "images": images.fingerprint}
    return store.load_or_build("features", recipe, compute).tensors["z"]


class Standardize(nn.Module):
    """Features z (B, D) to mean 0 and variance 1 on those from which `z` (N, D) came; a constant channel becomes 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        z = z.double()
        mean, std = z.mean(0), z.std(0, correction=0)
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", torch.where(std > 1e-6 * (1 + mean.abs()), std, 1).float())

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.mean) / self.std


def linear_probe(encoder: Encoder, images: ImageSet, penalty: float = 1e-4, name: str = "") -> SplitClassifier:
    """The encoder with the best linear head on it, a classifier with the cuts "encoder", "standardize" and "linear".

    The head minimises mean cross-entropy + penalty / 2 times the squared weights (not the biases) on features that are
    first standardised, channel by channel; L-BFGS (SciPy) on all of them at once, from zero, so nothing is random. The
    encoder's weights are shared, not copied; `finetuned` copies.

    Args:
        penalty: > 0, which makes the optimum unique.
        name: how tables call the classifier; by default the encoder's name.

    Raises:
        ValueError: no images, features that are not finite, a penalty that is not positive.
    """
    if not 0 < penalty < math.inf:
        raise ValueError(f"penalty = {penalty!r}: expected a finite number > 0, such as 1e-4")
    z = extract(encoder, images)
    scale, head = Standardize(z), nn.utils.skip_init(nn.Linear, encoder.width, images.num_classes)
    weight, bias = logistic_regression(scale(z), images.y, images.num_classes, penalty)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    like = next(encoder.parameters())
    model = SplitClassifier({"encoder": encoder, "standardize": scale.to(like), "linear": head.to(like)},
                            name or encoder.name)
    model.key = encoder.key
    return model.eval()


def logistic_regression(z: Tensor, y: Tensor, num_classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (K, D) and biases (K,) in float64 for features z (N, D), of about unit scale, and labels y (N,); see
    `linear_probe`."""
    z = z.double()

    def loss_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        head = torch.from_numpy(flat).view(num_classes, -1).requires_grad_()
        loss = _probe_loss(z, y, head[:, :-1], head[:, -1], penalty)
        return loss.item(), torch.autograd.grad(loss, head)[0].numpy().ravel()

    # PyTorch's pool of threads and that of SciPy's BLAS would wait for each other at every step: ten times as slow.
    with torch.enable_grad(), threadpool_limits(1, user_api="blas"):
        best = minimize(loss_and_slope, np.zeros(num_classes * (z.shape[1] + 1)), jac=True, method="L-BFGS-B",
                        options={"maxiter": 500, "maxcor": 20, "gtol": 1e-7, "ftol": 0})
    head = torch.from_numpy(best.x).view(num_classes, -1)
    return head[:, :-1], head[:, -1]


def _probe_loss(z: Tensor, y: Tensor, weight: Tensor, bias: Tensor, penalty: float) -> Tensor:
    """Mean cross-entropy of the linear head on features z (N, D), plus penalty / 2 times the squared weights."""
    return F.cross_entropy(F.linear(z, weight, bias), y) + penalty / 2 * weight.square().sum()


def finetuned(encoder: Encoder, images: ImageSet, schedule: training.Schedule, seed: int = 0,
              name: str = "") -> SplitClassifier:
    """The encoder as the start of supervised training, with a fresh linear head on its features: trained once, then
    read from the store. The encoder itself is left as it was.

    Args:
        seed: of the head, the data order and augmentation.

    Raises:
        FloatingPointError: training diverged.
    """
    check_counts(0, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = nn.Linear(encoder.width, images.num_classes).to(next(encoder.parameters()))
    model = SplitClassifier({"encoder": copy.deepcopy(encoder), "linear": head}, name or f"{encoder.name}, fine-tuned")
    return training.fitted_once(model, training.Standard(), images, schedule, seed)


def with_projector(encoder: Encoder, paradigm: SimCLR, images: ImageSet, schedule: training.Schedule,
                   seed: int = 0) -> ContrastiveEncoder:
    """A projector trained on an encoder that stays as it is, so that the contrastive loss of a supervised encoder
    (`Backbone`) can be measured and attacked (Li et al. 2023, section 5.1). The encoder itself is left as it was.

    Args:
        paradigm: its projector, views and temperature are taken. seed: of the projector, data order and views.

    Raises:
        FloatingPointError: training diverged.
    """
    check_counts(0, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = ContrastiveEncoder(copy.deepcopy(encoder), paradigm.projector, fixed=True)
    model.name = f"{encoder.name}, with projector"
    return training.fitted_once(model.to(next(encoder.parameters())), paradigm, images, schedule, seed)


def randomised(model: SplitClassifier, passes: int = 1) -> SplitClassifier:
    """The probe of a diffusion encoder with new noise for each image in each forward pass, sharing all weights.

    With several passes the features, and so the logits, are their mean: a gradient through it is an expectation over
    transformation (Athalye et al. 2018). AutoAttack's version "rand" averages by itself and takes passes = 1. An attack
    on the deterministic probe knows the draw, one on this classifier does not.

    Raises:
        ValueError: not such a probe; passes below 1.
    """
    encoder = model.stages[0]
    if not isinstance(encoder, DiffusionEncoder):
        raise ValueError(f"{model.name}: begins with a {type(encoder).__name__}; expected the probe of a diffusion "
                         "encoder, for others draw no random numbers")
    stages = {**dict(zip(model.cuts, model.stages, strict=True)), "encoder": encoder.reading(passes=passes)}
    other = SplitClassifier(stages, f"{model.name}, random")
    other.key = model.key
    return other.eval()
