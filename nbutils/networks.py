"""Classifiers as a chain of named stages that can be cut anywhere."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Pixels in [0, 1] to about [-2, 2]: part of the model, so that attacks see pixels. Mean .5 and standard
    deviation .25 per channel, as in Kim et al. (2021)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class SplitClassifier(nn.Module):
    """A classifier f = f_{l+} o f_l that can be cut after any named stage l.

    `model.logits_from(model.features(x, at), at)` equals `model(x)` at every cut, because all three run the
    same stages (Kim et al. 2021, section 2).

    Args:
        stages: name -> module, in order; the last one returns logits (B, num_classes).
        name: the words that tables use for this architecture.
    """

    def __init__(self, stages: Mapping[str, nn.Module], name: str) -> None:
        super().__init__()
        self.cuts = tuple(stages)
        self.name = name
        self.key = ""  # of the artifact that holds the weights, once they are trained
        self.stages = nn.ModuleList(stages.values())

    def _after(self, at: str) -> int:
        if at not in self.cuts:
            near = difflib.get_close_matches(at, self.cuts, n=1, cutoff=0)[0]
            raise ValueError(f"cut = {at!r}: expected one of {', '.join(self.cuts)}; did you mean {near!r}?")
        return self.cuts.index(at) + 1

    def features(self, x: Tensor, at: str) -> Tensor:
        """z = f_l(x): the output of stage `at` for pixels x (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: unknown cut.
        """
        for stage in self.stages[: self._after(at)]:
            x = stage(x)
        return x

    def logits_from(self, z: Tensor, at: str) -> Tensor:
        """f_{l+}(z): logits (B, num_classes) from the output z of stage `at`.

        Raises:
            ValueError: unknown cut.
        """
        for stage in self.stages[self._after(at):]:
            z = stage(z)
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) for pixels x (B, 3, H, W) in [0, 1]."""
        return self.logits_from(self.features(x, self.cuts[0]), self.cuts[0])


class GlobalAveragePool(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.mean((2, 3))


def _small(num_classes: int) -> Iterator[tuple[str, nn.Module]]:
    """Four stride-2 convolutions, 137 thousand parameters for ten classes."""
    yield "normalize", Normalize()
    width_in = 3
    for block, width in enumerate((24, 48, 96, 96), start=1):
        yield f"block{block}.conv", nn.Conv2d(width_in, width, 3, stride=2, padding=1, bias=False)
        yield f"block{block}.bn", nn.BatchNorm2d(width)
        yield f"block{block}.relu", nn.ReLU()
        width_in = width
    yield "pool", GlobalAveragePool()
    yield "linear", nn.Linear(width_in, num_classes)


NETWORKS: dict[str, Callable[[int], Iterator[tuple[str, nn.Module]]]] = {"small": _small}


def check_network(name: str) -> str:
    """Return `name` if `build` knows it.

    Raises:
        ValueError: unknown network.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"network = {name!r}: expected one of {', '.join(NETWORKS)}{hint}")
    return name


def build(name: str, num_classes: int = 10, seed: int = 0) -> SplitClassifier:
    """A fresh network whose weights depend only on `seed`; the global random state is left as it was.

    Args:
        name: "small".
        num_classes: at least 2.
        seed: of the initialisation.

    Raises:
        ValueError: unknown network, or fewer than two classes.
    """
    check_network(name)
    if num_classes < 2:
        raise ValueError(f"num_classes = {num_classes}: expected at least 2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SplitClassifier(OrderedDict(NETWORKS[name](num_classes)), name)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run faster
