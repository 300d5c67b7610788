"""In which precision to compute: bfloat16 for training and for building sets, where the machine gains from it, else
float32. What judges a network computes in float32."""

from __future__ import annotations

import functools
import itertools
import platform
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from nbutils import store
from nbutils.messages import check_choice

PRECISIONS = ("float32", "bfloat16")
torch.backends.cudnn.allow_tf32 = False  # float32 means float32: TF32 would round pixels to about 1/4096
WORTH_IT = 1.2  # times as fast; below that the rounding costs more than it brings


def mixed_precision(device: torch.device | str, precision: str) -> torch.autocast:
    """A context in which convolutions and products run in `precision`: "float32" (plain) or "bfloat16". Weights stay
    float32, and so do the layers of this module wherever they stand.

    Raises:
        ValueError: another precision.
    """
    check_choice("precision", precision, PRECISIONS)
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


class _Float32(nn.Module):
    weight: Tensor

    def forward(self, z: Tensor) -> Tensor:
        with mixed_precision(z.device, "float32"):
            return super().forward(z.to(self.weight.dtype))


class Float32Conv2d(_Float32, nn.Conv2d):
    """For pixels, which bfloat16 would round to 1/256 near 1, the size of a perturbation."""


class Float32Linear(_Float32, nn.Linear):
    """For pixels, and for logits, whose small differences make a loss."""


@functools.cache
def fastest(device: torch.device | str) -> str:
    """The precision in which this machine trains convolutions, "bfloat16" where that is at least `WORTH_IT` times as
    fast. It is measured once for a build folder, in a second."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    recipe = {"device": device.type, "name": name, "torch": torch.__version__}
    gain = store.load_or_build("precision", recipe, lambda: {"gain": torch.tensor(_gain(device))}).tensors["gain"]
    return "bfloat16" if gain >= WORTH_IT else "float32"


def _cpu() -> str:
    """The model of this machine's processor, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _gain(device: torch.device) -> float:
    """How many times as fast a forward and a backward pass of six convolutions is in bfloat16; on a CPU, of this thread
    alone, whatever else the machine does."""
    cuda = device.type == "cuda"
    widths = (3, 32, *(5 * [128 if cuda else 64]))
    with torch.random.fork_rng(devices=[]):
        body = nn.Sequential(*(nn.Sequential(nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
                               for before, width in itertools.pairwise(widths)))
        x = torch.rand(256, 3, 32, 32) if cuda else torch.rand(32, 3, 16, 16)  # enough work for either
    body = body.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = x.to(device).contiguous(memory_format=torch.channels_last)

    def seconds(precision: str) -> float:
        began = time.thread_time() if device.type == "cpu" else time.perf_counter()
        with mixed_precision(device, precision):
            out = body(x)
        out.float().mean().backward()
        if device.type == "cpu":
            return time.thread_time() - began
        torch.zeros(1, device=device).item()  # waits for the device
        return time.perf_counter() - began

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        rounds = [[seconds(precision) for precision in PRECISIONS] for _ in range(9)]
    except RuntimeError as error:
        if "bfloat16" not in str(error).lower():
            raise
        return 0.0  # the device does not know it
    finally:
        torch.set_num_threads(threads)
    return median(plain / mixed for plain, mixed in rounds[2:])
