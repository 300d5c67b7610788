"""`python -m tests.benchmarks.bottleneck`: what distilling masks costs, as ratios to a plain transcription.

Both sides take turns in one run, on the same features, and draw one normal number per image, channel and iteration. The
median over repetitions is printed with the smallest and the largest ratio, of CPU time. Before that, both are given
the same noise, and the masks that differ are counted.

What was asked was set before the plain form had been timed. Drawing the noise, one softplus and one step of Adam, which
every form needs, take about a tenth to a sixth of the plain form's time where the rest of the network is cheap; where
convolutions follow the cut, these are nearly all of the time on both sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils import networks
from nbutils.features import Bottleneck, bottleneck, distill, robust_channels
from nbutils.images import PlantedWorld
from nbutils.networks import SplitClassifier
from nbutils.robustness.attacks import frozen
from tests.benchmarks.measures import keep_freed_memory


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


def report(what: str, asked: str, repetitions: int, plain: Callable[[], object], ours: Callable[[], object]) -> None:
    ratios = []
    for repetition in range(-1, repetitions):  # the first one warms up
        seconds = {}
        for call in (plain, ours)[:: 1 if repetition % 2 else -1]:
            began = time.process_time()
            call()
            seconds[call] = time.process_time() - began
        if repetition >= 0:
            ratios.append(seconds[plain] / seconds[ours])
    print(f"{what} | asked {asked} | {median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} | "
          f"{repetitions} repetitions, {torch.get_num_threads()} threads", flush=True)


def measure(network: str, at: str, n: int, iterations: int, repetitions: int, asked: str, image_size: int = 32) -> None:
    """n images in batches of 100; fewer iterations than the usual 200 are for what takes minutes."""
    model = networks.build(network, image_size=image_size).eval()
    settings = Bottleneck(iterations=iterations)
    x, y = PlantedWorld().draw(n, seed=0).x, torch.arange(n) % 10
    x = F.interpolate(x, size=image_size)
    with frozen(model), torch.no_grad():
        features = [model.features(part.contiguous(memory_format=torch.channels_last), at) for part in x.split(100)]
    labels, seeds = y.split(100), [bottleneck.image_seeds(part) for part in x.split(100)]
    channels, generator = features[0].shape[1], torch.Generator().manual_seed(0)

    def plain() -> None:
        with frozen(model):
            for z, label in zip(features, labels, strict=True):
                plain_sigma(model, z, label, (torch.randn(z.shape[:2], generator=generator)
                                              for _ in range(iterations)), at)

    def ours() -> None:
        with frozen(model), torch.no_grad():
            for z, label, own in zip(features, labels, seeds, strict=True):
                bottleneck._optimise(model, z, label, at, settings, own, generator)

    found = distill(model, x, y, at, settings)
    different = 0
    with frozen(model):
        for batch, (z, label, own) in enumerate(zip(features, labels, seeds, strict=True)):
            draws = torch.stack([torch.randn(iterations, 1, channels, generator=torch.Generator().manual_seed(seed))
                                 for seed in own], 1)[:, :, 0]
            rows = slice(100 * batch, 100 * batch + len(z))
            sigma = plain_sigma(model, z, label, draws, at)
            different += int((robust_channels(sigma, found.variance[rows]) != found.robust[rows]).sum())
    maps = " x ".join(map(str, features[0].shape[1:]))
    what = f"{network} at {at} ({maps}), {n} images, {iterations} iterations"
    print(f"{what}: {different} of {n * channels} mask entries differ under the same noise", flush=True)
    report(f"plain / ours | {what}", asked, repetitions, plain, ours)


def main() -> None:
    keep_freed_memory()
    measure("small", "block4.bn", 500, 200, 5, ">= 30")
    measure("vgg_small", "block4.bn1", 500, 200, 5, ">= 30")
    measure("vgg16", "block5.bn3", 100, 200, 5, ">= 30")
    measure("wrn_small", "bn", 300, 200, 3, ">= 30")
    measure("wrn_small", "bn", 200, 200, 3, ">= 30", image_size=64)
    measure("small", "block3.bn", 100, 50, 3, ">= 8")
    measure("vgg16", "block5.bn1", 20, 20, 3, ">= 8")


if __name__ == "__main__":
    main()
