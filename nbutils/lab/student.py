"""Student's t distribution and a root of a function, from their formulas: who only reads the book has no scipy, which
is as large as all else that pages need."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist

import numpy as np


def root(f: Callable[[float], float], low: float, high: float) -> float:
    """Where f, which rises from below 0 at low to above 0 at high, crosses 0: by halving, to the last digit."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if f(middle) < 0 else (low, middle)
    return middle


def within(angle: float, freedom: int) -> float:
    """The probability that |t| is below sqrt(freedom) tan(angle) (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    odd, sine, cosine = freedom % 2, math.sin(angle), math.cos(angle)
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def probability(setting: str, value: float) -> float:
    """Return the value; raise a ValueError unless it is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{setting} = {value}: expected a number in [0, 1), such as 0.95")
    return value


@cache
def half_width(confidence: float, freedom: int) -> float:
    """The t whose interval from -t to t holds this probability, with so many degrees of freedom.

    Raises:
        ValueError: a confidence outside of [0, 1), no degree of freedom.
    """
    probability("confidence", confidence)
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom: expected at least 1, as of two seeds")
    return math.sqrt(freedom) * math.tan(root(lambda angle: within(angle, freedom) - confidence, 0, math.pi / 2))


def normal(confidence: float) -> float:
    """The z whose interval from -z to z holds this probability. Raises ValueError: it is outside of [0, 1)."""
    return NormalDist().inv_cdf(0.5 + probability("confidence", confidence) / 2)


def power(t: float, shift: float, freedom: int) -> float:
    """The probability of more than t where the mean lies `shift` standard errors off: noncentral t (Johnson and Welch
    1940), over the spread s that so many degrees of freedom may show."""
    s, step = np.linspace(0, 8, 801, retstep=True)
    log_density = (freedom - 1) * np.log(np.maximum(s, 1e-300)) - freedom * s**2 / 2
    log_scale = freedom / 2 * math.log(freedom / 2) + math.log(2) - math.lgamma(freedom / 2)
    beyond = np.array([math.erfc((t * one - shift) / math.sqrt(2)) / 2 for one in s])
    f = np.exp(log_density + log_scale) * beyond
    return float(f[0] + f[-1] + 4 * f[1::2].sum() + 2 * f[2:-1:2].sum()) * step / 3  # Simpson's rule
