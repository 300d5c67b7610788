"""Usefulness and robustness across learning paradigms (Li et al. 2023, equations 7 to 14).

U_P(phi) is the accuracy on natural test images of a probe whose encoder and head were trained on a set that holds the
feature phi; R_P(phi) the same under attack (equations 7 and 8). Both are accuracies of an `Outcome`. The measures here
are taken per seed, before any mean over seeds. Even so, the minimum of noisy values is biased low: the more paradigms
and the fewer images, the lower.

What has no value is NaN, never 0 or infinite; `shown` prints it as "undefined".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

UNDEFINED = math.nan


def relative(value: float, natural: float) -> float:
    """U~ = U(phi) / U(all features), or R~ likewise (equations 11 and 12); undefined if the natural value is 0."""
    return value / natural if natural > 0 else UNDEFINED


def above_chance(value: float, natural: float, num_classes: int) -> float:
    """(U - 1/C) / (U_natural - 1/C): 0 for guessing, 1 for all that natural images give; undefined if these do not beat
    guessing."""
    chance = 1 / num_classes
    return relative(value - chance, natural - chance)


def cross_paradigm(values: Mapping[str, Sequence[float]]) -> list[float]:
    """The minimum over paradigms, one per seed (equations 9, 10, 13 and 14).

    Args:
        values: paradigm -> one value per seed, in the same order of seeds. If one is undefined, so is the minimum.

    Raises:
        ValueError: no paradigm, or paradigms with different numbers of seeds.
    """
    counts = {name: len(row) for name, row in values.items()}
    if not counts or len(set(counts.values())) > 1:
        raise ValueError(f"values per paradigm {counts}: expected the same seeds for each, and at least one paradigm")
    return [UNDEFINED if any(map(math.isnan, row)) else min(row) for row in zip(*values.values(), strict=True)]


def cross_paradigm_relative(values: Mapping[str, Sequence[float]],
                            natural: Mapping[str, Sequence[float]]) -> list[float]:
    """min_P U~_P, one per seed: ratios first, then the minimum (equations 13 and 14).

    Raises:
        ValueError: as `cross_paradigm`; other paradigms or seeds in `natural`.
    """
    if {name: len(row) for name, row in values.items()} != {name: len(row) for name, row in natural.items()}:
        raise ValueError(f"{', '.join(values)} against {', '.join(natural)}: expected the same paradigms and seeds")
    return cross_paradigm({name: [relative(*pair) for pair in zip(row, natural[name], strict=True)]
                           for name, row in values.items()})


def shown(value: float, digits: int = 3) -> str:
    """The value as text, "undefined" where it has none."""
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"
