"""Our speed as ratios to peers that are timed in the same run: nothing here says how fast one machine is."""

from __future__ import annotations

import copy
import ctypes
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from nbutils import networks, robustness, training
from nbutils.features import (
    D_NR,
    Bottleneck,
    D_det,
    PictureSearch,
    activation_maximum,
    bottleneck,
    distill,
    invert,
    last_cut,
    robust_channels,
)
from nbutils.images import ImageSet, load
from nbutils.networks import SplitClassifier
from nbutils.paradigms import DDPM, MAE, Augmentation, Encoder, InfoNCE, SimCLR, linear_probe, untrained
from nbutils.precision import PRECISIONS, fastest, mixed_precision
from nbutils.robustness import PGD, ThreatModel, attacked, evaluate, predict
from tests.benchmarks import peers

THREAT = ThreatModel("Linf", 8 / 255)


@dataclass(frozen=True)
class Row:
    """One line of the table, as text; `asked` is empty where no bound was set in advance."""

    measure: str
    against: str
    asked: str
    measured: str
    range: str
    setting: str
    device: str


@dataclass(frozen=True)
class Scale:
    """How large the work is and where it runs. Tiny proves that everything runs; its figures mean nothing."""

    device: str = "cpu"
    tiny: bool = False

    def __call__(self, cpu: int, cuda: int, tiny: int) -> int:
        return tiny if self.tiny else cuda if self.device == "cuda" else cpu

    def network(self, name: str) -> SplitClassifier:
        """The network in evaluation mode, or its small relative."""
        relatives = {"vgg16": "vgg_small", "wrn28_10": "wrn_small"} if self.tiny else {}
        return networks.build(relatives.get(name, name)).to(self.device).eval()

    def batch(self, n: int) -> tuple[Tensor, Tensor]:
        """Planted x (n, 3, 32, 32) and y (n,); channels_last, as `training.fit` hands them on."""
        drawn = load("planted", "test", n)
        return drawn.x.to(self.device).contiguous(memory_format=torch.channels_last), drawn.y.to(self.device)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def times(self, repetitions: int, clock: Callable[[], float] = time.perf_counter,
              **calls: Callable[[], object]) -> dict[str, list[float]]:
        """Seconds per call and repetition. The calls take turns, so that other work on the machine meets them all."""
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for repetition in range(-1, repetitions):  # the first one warms up
            for name in list(calls)[:: 1 if repetition % 2 else -1]:
                self.wait()
                began = clock()
                calls[name]()
                self.wait()
                if repetition >= 0:
                    seconds[name].append(clock() - began)
        return seconds

    def row(self, measure: str, against: str, asked: str, upper: list[float], lower: list[float], setting: str) -> Row:
        """The median over repetitions of upper / lower, with the smallest and the largest."""
        ratios = sorted(a / b for a, b in zip(upper, lower, strict=True))
        return Row(measure, against, asked, f"{median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
                   f"{setting}; {len(ratios)} repetitions", self.hardware())

    def hardware(self) -> str:
        if self.device == "cuda":
            return torch.cuda.get_device_name()
        return f"CPU ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"


def keep_freed_memory() -> None:
    """Let glibc keep what is freed. By default it hands large blocks back at times that depend on what ran before, and
    the page faults that follow cost a good part of a small network's time, on either side of a ratio."""
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        for option in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(option, 2**30)


def contiguous(model: peers.Network) -> peers.Network:
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)


def pgd(scale: Scale) -> Iterator[Row]:
    """PGD against the gradients alone."""
    yield from _pgd(scale, "vgg16", 32, "≤ 1.05", repetitions=8)
    yield from _pgd(scale, "small", 256, "≤ 1.15", repetitions=30)
    yield from _pgd(scale, "small", 64, "≤ 1.15", repetitions=60)


def _pgd(scale: Scale, name: str, n: int, asked: str, repetitions: int) -> Iterator[Row]:
    steps, repetitions = scale(10, 10, 2), scale(repetitions, repetitions, 1)
    model, (x, y) = scale.network(name).requires_grad_(False), scale.batch(scale(n, 16 * n, 4))
    other, x_other = contiguous(model), x.contiguous()
    last, best = PGD(THREAT, steps, keep_best=False), PGD(THREAT, steps)
    seconds = scale.times(
        repetitions, last=lambda: last(model, x, y), best=lambda: best(model, x, y),
        channels_last=lambda: peers.bare_gradients(model, x, y, steps),
        contiguous=lambda: peers.bare_gradients(other, x_other, y, steps))
    layout = min("channels_last", "contiguous", key=lambda layout: median(seconds[layout]))
    against, setting = f"{steps} x (forward + input backward), bare, {layout}", f"batch {len(x)}"
    yield scale.row(f"time of PGD-{steps}, {name}", against, asked, seconds["last"], seconds[layout], setting)
    yield scale.row(f"time of PGD-{steps} with keep_best, {name}", against, "", seconds["best"], seconds[layout],
                    f"{setting}, one forward more")


def foolbox(scale: Scale) -> Iterator[Row]:
    """PGD on VGG-16 against foolbox; both also score the images that they return."""
    steps = scale(10, 10, 2)
    model, (x, y) = scale.network("vgg16"), scale.batch(scale(32, 512, 4))
    attack = PGD(THREAT, steps)

    def bfloat16() -> None:
        with mixed_precision(scale.device, "bfloat16"):
            x_adv = attack(model, x, y)
        predict(model, x_adv, len(x_adv))

    on_cuda = {"bfloat16": bfloat16} if scale.device == "cuda" else {}
    seconds = scale.times(scale(8, 20, 1), float32=lambda: attack(model, x, y), **on_cuda,
                          peer=peers.foolbox_pgd(contiguous(model), x.contiguous(), y, THREAT.eps, steps))
    for dtype, asked in {"float32": "≥ 1.5" if on_cuda else "≥ 1.4", **dict.fromkeys(on_cuda, "≥ 3")}.items():
        scored = ", scored in float32" * (dtype == "bfloat16")
        yield scale.row(f"speed of PGD-{steps}, vgg16, {dtype}{scored}", "foolbox LinfPGD, contiguous, float32", asked,
                        seconds["peer"], seconds[dtype], f"batch {len(x)}")


def training_epoch(scale: Scale) -> Iterator[Row]:
    """An epoch of adversarial training against a plain script."""
    for name, n in (("vgg16", 64), ("vgg_small", 256), ("small", 1024)):
        yield from _training_epoch(scale, name, scale(n, 5000, 8))


def _training_epoch(scale: Scale, name: str, n: int) -> Iterator[Row]:
    steps, size, workers = scale(10, 10, 2), scale(64, 128, 8), scale(0, 4, 0)
    images = replace(load("planted", "train", n), augmentation="crop+flip")
    photographs = peers.Photographs((255 * images.x).round().byte().permute(0, 2, 3, 1).numpy(), images.y.numpy())
    precision = fastest(scale.device)
    model, schedule = scale.network(name), training.Schedule(1, size, peak_rate=0.01)
    other = contiguous(model)

    def plain(backward: bool) -> None:
        peers.plain_training_epoch(other, photographs, THREAT.eps, steps, size, backward, workers)

    seconds = scale.times(scale(5, 5, 1), **{"loss.backward()": lambda: plain(True),
                                            "autograd.grad": lambda: plain(False)},
                          ours=lambda: training.fit(model, images, training.pgd_adversarial(THREAT, steps), schedule,
                                                      precision=precision))
    for way in ("loss.backward()", "autograd.grad"):
        yield scale.row(f"speed of an epoch, PGD-{steps} training, {name}", f"plain script in float32, PGD by {way}",
                        "≥ 4" if scale.device == "cuda" else "≥ 1.5", seconds[way], seconds["ours"],
                        f"ours in {precision}; {n} images, batch {size}")


def precisions(scale: Scale) -> Iterator[Row]:
    """An epoch of standard training in bfloat16 against float32, by the one loop."""
    for name, n, asked in (("resnet9", 256, "≥ 1.7"), ("vgg16", 128, "≥ 1.2")):
        model, images, size = scale.network(name), load("planted", "train", scale(n, 16 * n, 8)), scale(64, 512, 4)
        schedule = training.Schedule(1, size, peak_rate=0.01)
        seconds = scale.times(scale(5, 20, 1), **{
            kind: partial(training.fit, model, images, training.Standard(), schedule, precision=kind)
            for kind in PRECISIONS})
        yield scale.row(f"speed of an epoch in bfloat16, standard training, {name}", "ours in float32", asked,
                        seconds["float32"], seconds["bfloat16"], f"{len(images)} images, batch {size}")


def peak(scale: Scale) -> Iterator[Row]:
    """WRN-28-10 PGD: the share of the machine's own matrix-product peak, and where the rest goes."""
    steps = scale(2, 10, 1)
    model, (x, y) = scale.network("wrn28_10"), scale.batch(scale(16, 256, 2))
    attack = PGD(THREAT, steps, keep_best=False)
    model.requires_grad_(False)  # as the attack does, so that the input's backward is all that is counted
    with FlopCounterMode(display=False) as counter:
        model(x.clone().requires_grad_()).sum().backward()
    side = scale(4096, 16384, 64)
    seconds = scale.times(scale(5, 20, 1), attack=lambda: attack(model, x, y),
                          **peers.matrix_products(side, scale.device))
    rates = [steps * counter.get_total_flops() / elapsed for elapsed in seconds["attack"]]
    peaks = [2 * side**3 / min(pair) for pair in zip(seconds["product"], seconds["convolution"], strict=True)]
    yield scale.row(f"arithmetic of PGD-{steps}, wrn28_10", "float32 matrix product", "", rates, peaks,
                    f"batch {len(x)}, {counter.get_total_flops() / len(x) / 1e9:.1f} GFLOP per image and step; "
                    f"time: {breakdown(scale, lambda: attack(model, x, y))}")


GROUPS = {"convolution": ("conv",), "BatchNorm": ("batch_norm",), "ReLU and other elementwise":
          ("relu", "clamp", "threshold", "add", "sub", "mul", "div", "sign", "uniform", "fill")}


def breakdown(scale: Scale, call: Callable[[], object]) -> str:
    """Share of the operators' own time by group, in words."""
    with profile(acc_events=True) as profiled:
        call()
        scale.wait()
    spent = dict.fromkeys((*GROUPS, "rest"), 0.0)
    for event in profiled.key_averages():
        if event.key.startswith("aten::") and "addmm" not in event.key:
            group = next((group for group, parts in GROUPS.items() if any(part in event.key for part in parts)), "rest")
            spent[group] += event.self_device_time_total if scale.device == "cuda" else event.self_cpu_time_total
    return ", ".join(f"{group} {value / sum(spent.values()):.0%}" for group, value in spent.items())


def linear(scale: Scale) -> Iterator[Row]:
    """Time when the work doubles. No image is ever fooled, so that every restart searches them all."""
    n, steps = scale(256, 4096, 8), scale(10, 10, 2)
    model, images = scale.network("small"), load("planted", "test", 2 * n)
    images, threat = replace(images, y=predict(model, images.x)), ThreatModel("Linf", 1e-7)
    seconds = scale.times(
        scale(20, 20, 1), once=lambda: attacked(model, images.take(n), PGD(threat, steps)),
        images=lambda: attacked(model, images, PGD(threat, steps)),
        steps=lambda: attacked(model, images.take(n), PGD(threat, 2 * steps)),
        restarts=lambda: attacked(model, images.take(n), PGD(threat, steps, restarts=2)))
    for what in ("images", "steps", "restarts"):
        yield scale.row(f"time of `attacked`, twice the {what}", "once, small", "2", seconds[what], seconds["once"],
                        f"{n} images, {steps} steps, 1 restart")


MEMORY = """
import re, sys, torch
from nbutils import networks
from nbutils.images import ImageSet
from nbutils.robustness import PGD, ThreatModel, attacked
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
n, steps = map(int, sys.argv[1:])
model, x = networks.build("small").eval(), torch.rand(n, 3, 32, 32)
images = ImageSet(x, torch.zeros(n, dtype=torch.int64), ("a", "b"), "noise")
open("/proc/self/clear_refs", "w").write("5")  # Linux: the peak is from now on
before = peak()
found = attacked(model, images, PGD(ThreatModel("Linf", 8 / 255), steps))
print(peak() - before - found.x.nbytes / 2**20)
"""


def memory(scale: Scale) -> Iterator[Row]:
    """Peak memory of `attacked` beyond the images it takes and gives, for n and 4 n, each in a process of its own."""
    n, steps = scale(2048, 2048, 256), scale(2, 2, 1)
    grown: dict[int, list[float]] = {n: [], 4 * n: []}
    for _ in range(scale(5, 5, 1)):
        for count, mebibytes in grown.items():
            words = [sys.executable, "-c", MEMORY, str(count), str(steps)]
            mebibytes.append(float(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    used = ", ".join(f"{count} images: {median(mebibytes):.0f} MiB" for count, mebibytes in grown.items())
    yield scale.row("memory of `attacked`, four times the images", "once, small", "1", grown[4 * n], grown[n], used)


LEVELS = """
import re, sys, torch
from nbutils import networks
from nbutils.images import ImageSet
from nbutils.images.imageset import as_pixels
from nbutils.robustness import evaluate
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
kind, n, side = sys.argv[1], *map(int, sys.argv[2:])
model, before = networks.build("small", 2, image_size=side).eval(), peak()
x = torch.randint(256, (n, 3, side, side), dtype=torch.uint8)
images = ImageSet(x if kind == "uint8" else as_pixels(x), torch.arange(n) % 2, ("a", "b"), "noise")
del x
images.fingerprint
evaluate(model, images)
print(peak() - before)
"""


def levels(scale: Scale) -> Iterator[Row]:
    """Images of 8 bits as levels against the same as pixels: peak memory of the set, its fingerprint and its scores,
    each in a process of its own, and the time of an epoch and of scores."""
    n, side = scale(2000, 2000, 300), scale(128, 128, 16)
    used: dict[str, list[float]] = {"uint8": [], "float32": []}
    for _ in range(scale(3, 3, 1)):
        for kind, mebibytes in used.items():
            words = [sys.executable, "-c", LEVELS, kind, str(n), str(side)]
            mebibytes.append(float(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    figures = ", ".join(f"{kind}: {median(mebibytes):.0f} MiB" for kind, mebibytes in used.items())
    yield scale.row("memory of a set and `evaluate`, 8-bit images as uint8", "as float32", "", used["uint8"],
                    used["float32"], f"{n} images of {side} x {side}, small, {figures}")
    x = torch.randint(256, (scale(2048, 8192, 8), 3, 32, 32), dtype=torch.uint8)
    held = ImageSet(x, torch.arange(len(x)) % 10, tuple("abcdefghij"), "noise", "crop+flip")
    model, sets = scale.network("small"), {"uint8": held, "float32": replace(held, x=held.x)}
    for what, call in (("`evaluate`", lambda data: evaluate(model, data)),
                       ("an epoch", lambda data: training.fit(model, data, training.Standard(), training.Schedule(1)))):
        seconds = scale.times(scale(20, 20, 1), **{kind: partial(call, data) for kind, data in sets.items()})
        yield scale.row(f"time of {what}, 8-bit images as uint8, small", "as float32", "≤ 1.05", seconds["uint8"],
                        seconds["float32"], f"{len(x)} images of 32 x 32")


def constructed(scale: Scale) -> Iterator[Row]:
    """Constructed sets against what their steps cost alone; the store is part of the work."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, NBUTILS_BUILD=folder):
        yield from _constructed(scale, "small", 200, 100, 9)
        yield from _constructed(scale, "vgg16", 32, 20, 5)


def _constructed(scale: Scale, name: str, n: int, steps: int, repetitions: int) -> Iterator[Row]:
    n, steps, repetitions = scale(n, 10 * n, 4), scale(steps, steps, 2), scale(repetitions, repetitions, 1)
    model, (x, y), images = scale.network(name).requires_grad_(False), scale.batch(n), load("planted", "test", n)
    seed = itertools.count()
    seconds = scale.times(
        repetitions, matching=lambda: peers.bare_matching(model, x, steps),
        matched=lambda: D_NR(images, model, steps=steps, seed=next(seed), batch_size=n),
        twice=lambda: peers.matching_with_two_forwards(model, x, steps),
        targeted=lambda: peers.bare_gradients(model, x, y, steps),
        relabelled=lambda: D_det(images, model, steps=steps, seed=next(seed), batch_size=n))
    setting = f"{n} images, {steps} steps"
    yield scale.row(f"time of D_NR, {name}", "forward to the cut and input backward, bare", "≤ 1.1",
                    seconds["matched"], seconds["matching"], setting)
    yield scale.row(f"speed of D_NR, {name}", "two forwards per step", "≥ 1.3", seconds["twice"], seconds["matched"],
                    setting)
    yield scale.row(f"time of D_det, {name}", "forward and input backward, bare", "≤ 1.1", seconds["relabelled"],
                    seconds["targeted"], setting)


def masks(scale: Scale) -> Iterator[Row]:
    """Masks of the bottleneck against equations 3 and 4 line by line, in CPU time, and whether they are the same.

    Fewer iterations than the usual 200 are for cuts that convolutions follow. These are then nearly all of the time on
    both sides.
    """
    yield _masks(scale, "small", 500, 200, 5, "≥ 30")
    yield _masks(scale, "vgg_small", 500, 200, 5, "≥ 30")
    yield _masks(scale, "vgg16", 100, 200, 5, "≥ 30")
    yield _masks(scale, "wrn_small", 300, 200, 3, "≥ 30")
    yield _masks(scale, "wrn_small", 200, 200, 3, "≥ 30", side=64)
    yield _masks(scale, "small", 100, 50, 3, "≥ 8", back=1)
    yield _masks(scale, "vgg16", 20, 20, 3, "≥ 8", back=2)


def _masks(scale: Scale, name: str, n: int, iterations: int, repetitions: int, asked: str, back: int = 0,
           side: int = 32) -> Row:
    """The cut is the BatchNorm that is `back` before the last one. Images have `side` pixels a side."""
    n, iterations, repetitions = scale(n, n, 4), scale(iterations, iterations, 2), scale(repetitions, repetitions, 1)
    model, (x, y) = scale.network(name).requires_grad_(False), scale.batch(n)
    at = [cut for cut, stage in zip(model.cuts, model.stages, strict=True) if isinstance(stage, nn.BatchNorm2d)][~back]
    x, settings = F.interpolate(x, size=side), Bottleneck(iterations=iterations)
    shared = torch.Generator().manual_seed(0)
    with torch.no_grad():
        batches = [(model.features(pixels, at), labels, bottleneck.image_seeds(pixels))
                   for pixels, labels in zip(x.split(100), y.split(100), strict=True)]
    channels, *positions = batches[0][0].shape[1:]

    def plain() -> None:
        for z, labels, _ in batches:
            noise = (torch.randn(len(z), channels, generator=shared) for _ in range(iterations))
            peers.plain_sigma(model, z, labels, noise, at)

    def ours() -> None:
        with torch.no_grad():
            for z, labels, seeds in batches:
                bottleneck._optimise(model, z, labels, at, settings, seeds)

    seconds = scale.times(repetitions, time.process_time, plain=plain, ours=ours)
    found, sigmas = distill(model, x, y, at, settings), []
    for z, labels, seeds in batches:
        own = [torch.randn(iterations, channels, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        sigmas.append(peers.plain_sigma(model, z, labels, torch.stack(own, 1), at))
    differ = (robust_channels(torch.cat(sigmas), found.variance) != found.robust).sum()
    return scale.row(f"speed of masks in CPU time, {name} at {at}, {channels} x {' x '.join(map(str, positions))}",
                     "equations 3 and 4 line by line", asked, seconds["plain"], seconds["ours"],
                     f"{n} images, {iterations} iterations; under the same noise {differ} of {n * channels} mask "
                     "entries differ")


def pictures(scale: Scale) -> Iterator[Row]:
    """Pictures of features in one batch against one call for each."""
    n, settings = scale(16, 256, 2), PictureSearch(steps=scale(20, 20, 2))
    for name in ("vgg_small", "wrn_small"):
        model, (x, _) = scale.network(name), scale.batch(n)
        at = last_cut(model)
        with torch.no_grad():
            z = model.features(x, at)
        channels = torch.eye(z.shape[1], dtype=torch.bool)[:n]
        makers: dict[str, Callable[[slice], object]] = {
            "inversion": lambda rows, z=z, model=model, at=at: invert(model, z[rows], at, settings=settings),
            "activation maximisation": lambda rows, channels=channels, model=model, at=at: activation_maximum(
                model, at, channels[rows], settings=settings)}
        for maker, make in makers.items():
            seconds = scale.times(
                scale(7, 7, 1), together=lambda make=make: make(slice(None)),
                alone=lambda make=make: [make(slice(row, row + 1)) for row in range(n)])
            yield scale.row(f"speed of {maker} in one batch, {name}", "one call for each picture", "≥ 3",
                            seconds["alone"], seconds["together"], f"{n} pictures, {settings.steps} steps")


VIEW = Augmentation(scale=(0.5, 1.0))  # the book's
CONTRASTIVE = SimCLR("vgg_small", temperature=peers.TEMPERATURE, view=VIEW)


def pretraining(scale: Scale) -> Iterator[Row]:
    """An epoch of each learning paradigm against a plain loop, and what the loop would take if nothing were loaded."""
    yield from _pretraining(scale, "of pre-training, SimCLR, vgg_small", untrained(CONTRASTIVE), CONTRASTIVE,
                            peers.contrastive_loss, peers.TwoViews(VIEW, 32))
    yield from _pretraining(scale, "of pre-training, MAE", untrained(MAE()), MAE(), peers.masked_loss)
    yield from _pretraining(scale, "of pre-training, DDPM", untrained(DDPM()), DDPM(), peers.denoising_loss)
    yield from _pretraining(scale, "of an epoch, standard training, vgg_small", scale.network("vgg_small"),
                            training.Standard(), peers.supervised_loss)


def _pretraining(scale: Scale, name: str, model: Any, objective: Any, loss: Callable[..., Tensor],
                 transform: peers.TwoViews | None = None) -> Iterator[Row]:
    n, size = scale(1024, 5000, 8), scale(64, 128, 4)
    drawn, schedule = load("planted", "train", n), training.Schedule(1, size, peak_rate=0.01)
    images = drawn if transform else replace(drawn, augmentation="crop+flip")
    photographs = peers.Photographs((255 * drawn.x).round().byte().permute(0, 2, 3, 1).numpy(), drawn.y.numpy(),
                                    transform)
    alone, helped = (DataLoader(photographs, size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
                     for workers in (0, scale(2, 4, 0)))
    other, (x, y) = contiguous(model), next(iter(alone))

    def passes() -> None:
        for _ in alone.batch_sampler:
            loss(other, x, y).backward()

    seconds = scale.times(scale(5, 5, 1), alone=lambda: peers.plain_epoch(other, alone, loss),
                          helped=lambda: peers.plain_epoch(other, helped, loss), passes=passes,
                          ours=lambda: training.fit(model, images, objective, schedule))
    share = median(a / b for a, b in zip(seconds["passes"], seconds["ours"], strict=True))
    for way, loader in {"alone": alone, "helped": helped}.items():
        yield scale.row(f"speed {name}",
                        f"plain loop, torchvision's transforms, DataLoader with {loader.num_workers} workers", "≥ 1.3",
                        seconds[way], seconds["ours"],
                        f"{n} images, batch {size}; the loop's forward and backward passes alone take {share:.2f} "
                        "of our time")


def probe(scale: Scale) -> Iterator[Row]:
    """A linear probe, the extraction of its features included, against one that runs the encoder in every epoch."""
    yield _probe(scale, "SimCLR, vgg_small", untrained(CONTRASTIVE), 1000)
    yield _probe(scale, "MAE", untrained(MAE()), 250)
    yield _probe(scale, "DDPM", untrained(DDPM()), 250)


def _probe(scale: Scale, name: str, encoder: Encoder, n: int) -> Row:
    penalty, epochs, images = 1e-3, scale(90, 90, 2), load("planted", "train", scale(n, n, 16))
    loader, other = DataLoader(TensorDataset(images.x, images.y), 64, shuffle=True), contiguous(encoder)

    found: dict[str, nn.Module] = {}

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, NBUTILS_BUILD=folder):
            found["ours"] = linear_probe(encoder, images, penalty)

    def plain() -> None:
        found["plain"] = peers.plain_probe(other, loader, images.num_classes, epochs, penalty)

    seconds = scale.times(scale(3, 3, 1), ours=ours, plain=plain)
    right = {way: (predict(probe, images.x) == images.y).double().mean() for way, probe in found.items()}
    return scale.row(f"speed of a linear probe, {name}", f"the encoder run in each of {epochs} epochs of SGD", "≥ 10",
                     seconds["plain"], seconds["ours"],
                     f"{len(images)} images, ours with the extraction of features; right on these images: "
                     f"{right['ours']:.1%} and {right['plain']:.1%}")


def augmented(scale: Scale) -> Iterator[Row]:
    """PGD on InfoNCE through the augmentation against the same attack without."""
    steps, n = scale(10, 10, 2), scale(128, 512, 4)
    model, (x, _) = untrained(CONTRASTIVE), scale.batch(n)
    attack, itself = PGD(THREAT, steps, keep_best=False), torch.arange(n)
    losses = [InfoNCE(model, x, temperature=CONTRASTIVE.temperature, view=view) for view in (VIEW, None)]
    through, without = (lambda loss=loss: attack(loss, x, itself) for loss in losses)
    seconds = scale.times(scale(15, 20, 1), through=through, without=without)
    yield scale.row(f"time of PGD-{steps} on InfoNCE, a new view per step, vgg_small", "the same without views", "",
                    seconds["through"], seconds["without"], f"batch {n}")


@dataclass
class BestCheckpoint:
    """An objective that also keeps the weights which did best on held-out images, looked at after every epoch."""

    objective: training.Objective
    held_out: ImageSet
    attack: PGD
    steps_per_epoch: int
    step: int = 0
    accuracy: float = -1.0
    weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def __call__(self, model: SplitClassifier, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if self.step and self.step % self.steps_per_epoch == 0:
            self.look(model)
        self.step += 1
        return self.objective(model, x, y, generator)

    def look(self, model: SplitClassifier) -> None:
        accuracy = evaluate(model, self.held_out, self.attack).accuracy
        if accuracy > self.accuracy:
            self.accuracy, self.seconds = accuracy, time.monotonic() - self.began
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}


def published(scale: Scale) -> Iterator[Row]:
    """Time to the published robust accuracy on CIFAR-10. On the CPU only when tiny, with planted images."""
    if scale.device == "cuda" or scale.tiny:
        yield _published(scale, "vgg16", 44.7)
        yield _published(scale, "wrn28_10", 51.6)


def _published(scale: Scale, name: str, target: float) -> Row:
    threat, source = ThreatModel("Linf", 0.03), "planted" if scale.tiny else "cifar10"
    steps, size, held = scale(10, 10, 2), scale(128, 128, 8), scale(1000, 1000, 8)
    attack, model = PGD(threat, steps), scale.network(name)
    images = replace(load(source, "train", scale(50_000, 50_000, 24)), augmentation="crop+flip")
    rest, test = images.take(slice(held, None)), load(source, "test", scale(1000, 1000, 8))
    best = BestCheckpoint(training.pgd_adversarial(threat, steps), images.take(held), attack, -(-len(rest) // size))
    training.fit(model, rest, best, training.Schedule(scale(30, 30, 2), size, peak_rate=0.1))
    best.look(model)
    model.load_state_dict(best.weights)
    pgd, strong = (100 * evaluate(model, test, judge).accuracy for judge in (attack, robustness.AutoAttack(threat)))
    ratio = f"{pgd / target:.2f}" if abs(pgd - strong) <= 8 else "void: PGD and AutoAttack differ by over 8 points"
    return Row(f"robust accuracy, {images.name}, {name}", f"published {target} %, PGD-10, {threat}", "≥ 1", ratio, "",
               f"PGD-{steps} {pgd:.1f} %, AutoAttack {strong:.1f} % of {len(test)} test images; checkpoint chosen on "
               f"{held} held-out ones after {best.seconds / 60:.1f} minutes", scale.hardware())


MEASURES: dict[str, Callable[[Scale], Iterator[Row]]] = {
    "pgd": pgd, "foolbox": foolbox, "training": training_epoch, "precisions": precisions, "peak": peak,
    "linear": linear, "memory": memory, "levels": levels, "constructed": constructed, "masks": masks,
    "pictures": pictures, "pretraining": pretraining, "probe": probe, "augmented": augmented, "published": published}
ON_CUDA = {  # the measures that a CUDA GPU repeats, and what is asked of it
    "foolbox": ("speed of PGD-10, vgg16", "foolbox LinfPGD, contiguous, float32", "≥ 1.5; bfloat16 ≥ 3"),
    "training": ("speed of an epoch, PGD-10 training", "plain script", "≥ 4"),
    "peak": ("arithmetic of PGD-10, wrn28_10", "float32 matrix product", ""),
    "published": ("robust accuracy, CIFAR-10, vgg16 and wrn28_10", "published 44.7 % and 51.6 %, PGD-10", "≥ 1"),
}


def measure(name: str, tiny: bool = False) -> Iterator[Row]:
    """The rows of one measure, on the CPU and, unless tiny, on a CUDA GPU; without one, a row names the command."""
    yield from MEASURES[name](Scale("cpu", tiny))
    if name in ON_CUDA and not tiny:
        if torch.cuda.is_available():
            yield from MEASURES[name](Scale("cuda"))
        else:
            yield Row(*ON_CUDA[name], "not measured", "", f"`python -m tests.benchmarks --only {name}`", "a CUDA GPU")
