"""`python -m tests.benchmarks.bottleneck`: what distilling a mask costs, as ratios to a plain transcription."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils.networks import SplitClassifier


def plain_sigma(model: SplitClassifier, z: Tensor, y: Tensor, noise: Iterable[Tensor], at: str, beta: float = 0.3,
                rate: float = 0.1) -> Tensor:
    """(B, C) sigma: equations 3 and 4 of Kim et al. (2021) line by line, by autograd through the whole head.

    Written as well as the plain form allows: the variance is computed once, only lambda asks for gradients, and nothing
    is copied. KL is averaged over channels, the loss summed over images.

    Args:
        z: (B, C, H, W) features at the cut. y: (B,) labels. noise: one (B, C) standard normal draw per iteration.
    """
    variance = z.var((2, 3))
    lambda_ = torch.zeros_like(variance, requires_grad=True)
    optimizer = torch.optim.Adam([lambda_], lr=rate)
    for epsilon in noise:
        sigma = F.softplus(lambda_)
        logits = model.logits_from(z + (sigma * epsilon)[:, :, None, None], at)
        kl = 0.5 * (variance / sigma**2 + (sigma**2 / variance).log() - 1)
        loss = F.cross_entropy(logits, y, reduction="sum") + beta * kl.mean(1).sum()
        (lambda_.grad,) = torch.autograd.grad(loss, lambda_)
        optimizer.step()
    return F.softplus(lambda_.detach())
