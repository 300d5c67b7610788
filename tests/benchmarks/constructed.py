"""`python -m tests.benchmarks.constructed`: what a constructed image costs, as ratios to what its steps cost alone.

Each ratio compares calls that take turns in one run, on the same images and model; the median over repetitions is
printed with the smallest and the largest. Constructions include the store: each repetition has a seed of its own in a
folder that is thrown away.
"""

import ctypes
import os
import platform
import tempfile
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils import networks
from nbutils.features import D_NR, D_det
from nbutils.images import ImageSet, PlantedWorld
from nbutils.networks import SplitClassifier
from nbutils.robustness import ThreatModel
from nbutils.robustness.attacks import frozen

BATCH = 100
Call = Callable[[int], object]  # takes the number of the repetition


def bare(model: SplitClassifier, images: ImageSet, steps: int, to_label: bool) -> Call:
    """Steps times (forward to the cut, or to the loss; backward to the pixels) and nothing else."""

    def call(repetition: int) -> None:
        with frozen(model):
            for x, y in zip(images.x.split(BATCH), images.y.split(BATCH), strict=True):
                x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
                wanted = torch.zeros(())
                for _ in range(steps):
                    if to_label:
                        loss = F.cross_entropy(model(x), y, reduction="sum")
                    else:
                        loss = (model.features(x, "pool") - wanted).flatten(1).norm(dim=1).sum()
                    torch.autograd.grad(loss, x)

    return call


def two_forwards(model: SplitClassifier, images: ImageSet, steps: int) -> Call:
    """D_NR with one pass for the value of the loss and another for its gradient, for nothing that is kept."""
    unit = ThreatModel("L2", 1)

    def call(repetition: int) -> Tensor:
        made = []
        with frozen(model):
            for x in images.x.split(BATCH):
                x = x.contiguous(memory_format=torch.channels_last)
                with torch.no_grad():
                    wanted = model.features(x, "pool")
                x = x.flip(0)
                for _ in range(steps):
                    with torch.no_grad():
                        (model.features(x, "pool") - wanted).norm(dim=1)
                    x = x.requires_grad_()
                    (gradient,) = torch.autograd.grad((model.features(x, "pool") - wanted).norm(dim=1).sum(), x)
                    x = (x.detach() - 0.1 * unit.ascent_direction(gradient)).clamp(0, 1)
                made.append(x)
        return torch.cat(made)

    return call


def times(repetitions: int, **calls: Call) -> dict[str, list[float]]:
    """Seconds per call and repetition. The calls take turns, so that other work on the machine meets them all."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(-1, repetitions):  # the first one warms up
        for name in list(calls)[:: 1 if repetition % 2 else -1]:
            began = time.perf_counter()
            calls[name](repetition)
            if repetition >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def report(what: str, asked: str, upper: list[float], lower: list[float]) -> None:
    ratios = sorted(a / b for a, b in zip(upper, lower, strict=True))
    print(f"{what} | asked {asked} | {median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} | "
          f"{len(ratios)} repetitions, {torch.get_num_threads()} threads", flush=True)


def measure(network: str, n: int, steps: int, repetitions: int) -> None:
    model, images = networks.build(network).eval(), PlantedWorld().draw(n, seed=0)
    setting = f"{network}, {n} images, {steps} steps"
    seconds = times(repetitions, bare=bare(model, images, steps, to_label=False),
                    ours=lambda repetition: D_NR(images, model, steps=steps, seed=repetition + 1),
                    twice=two_forwards(model, images, steps),
                    bare_loss=bare(model, images, steps, to_label=True),
                    det=lambda repetition: D_det(images, model, steps=steps, seed=repetition + 1))
    report(f"D_NR / its passes alone | {setting}", "<= 1.1", seconds["ours"], seconds["bare"])
    report(f"two forwards per step / D_NR | {setting}", ">= 1.3", seconds["twice"], seconds["ours"])
    report(f"D_det / its passes alone | {setting}", "<= 1.1", seconds["det"], seconds["bare_loss"])


def main() -> None:
    if platform.libc_ver()[0] == "glibc":  # keep freed memory: page faults would cost up to a third, on either side
        for option in (-1, -3):  # trim threshold, mmap threshold
            ctypes.CDLL(None).mallopt(option, 2**30)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBUTILS_BUILD"] = folder
        measure("small", n=200, steps=100, repetitions=9)
        measure("vgg16", n=32, steps=20, repetitions=5)


if __name__ == "__main__":
    main()
