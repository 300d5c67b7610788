"""Usefulness and robustness across learning paradigms (Li et al. 2023, equations 7 to 14).

U_P(phi) is the accuracy on natural test images of a probe whose encoder and head were trained on a set that holds the
feature phi; R_P(phi) the same under attack (equations 7 and 8). Both are accuracies of an `Outcome`. The measures here
are taken per seed, before any mean over seeds. Even so, the minimum of noisy values is biased low: the more paradigms
and the fewer images, the lower.

What has no value is NaN, never 0 or infinite; `shown` prints it as "undefined".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nbutils.messages import check_counts
from nbutils.paradigms.probe import Standardize

UNDEFINED = math.nan


def relative(value: float, natural: float) -> float:
    """U~ = U(phi) / U(all features), or R~ likewise (equations 11 and 12); undefined if the natural value is 0."""
    return value / natural if natural > 0 else UNDEFINED


def above_chance(value: float, natural: float, num_classes: int) -> float:
    """(U - 1/C) / (U_natural - 1/C): 0 for guessing, 1 for all that natural images give; undefined if these do not beat
    guessing. Raises ValueError: fewer than two classes."""
    check_counts(2, num_classes=num_classes)
    chance = 1 / num_classes
    return relative(value - chance, natural - chance)


def cross_paradigm(*values: float) -> float:
    """The minimum over paradigms for one seed (equations 9, 10, 13 and 14); undefined if one of them is. Raises
    ValueError: no value."""
    if not values:
        raise ValueError("cross-paradigm: no values; expected one for each paradigm")
    return UNDEFINED if any(map(math.isnan, values)) else min(values)


def readable(z: Tensor, values: Tensor, z_test: Tensor, values_test: Tensor, penalty: float = 1e-3) -> Tensor:
    """(C,) how well each of C numbers can be read linearly from an encoder: R^2 on other images than those fitted to.

    Ridge regression on standardised features and numbers; the loss is the mean squared error plus the penalty times
    the squared weights. 1 is perfect, 0 no better than the mean; below 0 it misleads. Undefined for a number that is
    constant on either images.

    Args:
        z, values: (N, D) features and (N, C) numbers, to fit. z_test, values_test: (M, D) and (M, C), to test.

    Raises:
        ValueError: shapes that do not fit, a penalty that is not positive.
    """
    if not len(z) == len(values) > 0 or not len(z_test) == len(values_test) > 0:
        shapes = ", ".join(str(tuple(part.shape)) for part in (z, values, z_test, values_test))
        raise ValueError(f"features and numbers {shapes}: expected (N, D), (N, C), (M, D), (M, C)")
    if not 0 < penalty < math.inf:
        raise ValueError(f"penalty = {penalty!r}: expected a finite number > 0, such as 1e-3")
    scale, unit = Standardize(z).double(), Standardize(values).double()
    x, x_test, y, y_test = scale(z.double()), scale(z_test.double()), unit(values.double()), unit(values_test.double())
    error = (y_test - x_test @ _ridge(x, y, penalty)).square().mean(0)
    variance = y_test.var(0, correction=0)
    dead = (variance < 1e-12) | (y.var(0, correction=0) < 1e-12)
    return torch.where(dead, torch.nan, 1 - error / variance)


def _ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """(D, C) weights that minimise the mean squared error of x @ weights against y plus the penalty on squares."""
    gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ y / len(x))


def shown(value: float, digits: int = 3) -> str:
    """The value as text, "undefined" where it has none."""
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"
