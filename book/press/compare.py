"""Your run against ours: a run beside the recorded spread over seeds, and the likeliest cause of a difference.

    python -m book.press compare out.ipynb      an executed notebook; --all lists every number

It ends with exit status 0 where no more numbers differ than chance explains, 1 where they do, 2 where the file
cannot be compared.
Our run is the edition (see `editions`) of your run's profile, or else the edition of profile quick.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from book.press.chapters import aligned, recorded
from book.press.editions import ours
from book.press.pool import spans
from nbutils.lab import student
from nbutils.lab.parameters import OF_MACHINE, OF_SEEDS, short
from nbutils.lab.results import Record, Result, counting, newcombe

CONFIDENCE = 0.95
INSIDE, OUTSIDE, IDENTICAL, NO_SPREAD = "inside", "outside", "identical", "no spread known"
NOT_COMPARABLE, ONLY_YOURS, ONLY_OURS = "not comparable", "only yours", "only ours"


def spread(ours: Result, yours: Result) -> tuple[float, float] | None:
    """Where the value of a run like ours, with as many seeds and images as yours, lies with probability 95 %.

    With m and k seeds and the standard deviation s over ours this is the prediction interval for a mean of k new
    seeds, ours +- t(m - 1) s sqrt(1/m + 1/k); where we have one seed, s and its degrees of freedom are yours. A share
    gets at least the width that counting images gives it, since a few seeds may agree by luck. For two single models
    it is Newcombe's (1998) interval, from the two Wilson intervals. None where neither side has a spread.
    """
    m, k = len(ours.values), len(yours.values)
    if m == k == 1:
        reach = newcombe(ours, yours)
    else:
        values = ours.values if m > 1 else yours.values
        deviations = student.half_width(CONFIDENCE, len(values) - 1) * math.sqrt(1 / m + 1 / k)
        half = deviations * float(np.std(values, ddof=1))
        if ours.unit == "share" and ours.n and yours.n:
            both = math.sqrt(1 + m * ours.n / (k * yours.n))  # whose variances are those of m n and of k n images
            half = max(half, counting(ours.value, m * ours.n, CONFIDENCE) * both)
        reach = (half, half) if half > 0 else None  # it may be 0 or NaN
    if reach is None:
        return None
    low, high = ours.value - reach[0], ours.value + reach[1]
    return (max(low, 0.0), min(high, 1.0)) if ours.unit == "share" else (low, high)


@dataclass(frozen=True)
class Number:
    """One address with what stands there in either run, and how the two compare."""

    yours: Result | None
    ours: Result | None
    interval: tuple[float, float] | None
    mark: str

    @classmethod
    def of(cls, yours: Result | None, ours: Result | None) -> Number:
        """Compare two results of the same address."""
        if yours is None or ours is None:
            return cls(yours, ours, None, ONLY_OURS if yours is None else ONLY_YOURS)
        if (yours.data, yours.threat, yours.unit) != (ours.data, ours.threat, ours.unit):
            return cls(yours, ours, None, NOT_COMPARABLE)
        interval = spread(ours, yours)
        if np.array_equal(yours.values, ours.values, equal_nan=True):
            return cls(yours, ours, interval, IDENTICAL)
        if interval is None or math.isnan(yours.value):
            return cls(yours, ours, interval, NO_SPREAD)
        return cls(yours, ours, interval, INSIDE if interval[0] <= yours.value <= interval[1] else OUTSIDE)

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        """Address, yours, ours, interval and mark."""
        shown = self.ours or self.yours
        assert shown is not None
        limits = shown.written(*self.interval) if self.interval else ""
        values = [result.parts[0] if result else "" for result in (self.yours, self.ours)]
        return shown.id, values[0], values[1], limits, self.mark


@dataclass(frozen=True)
class Comparison:
    """A run beside ours: records, numbers and what follows from them."""

    yours: Record
    ours: Record
    numbers: tuple[Number, ...]

    @classmethod
    def of(cls, yours: Record, ours: Record) -> Comparison:
        """Compare two records of one chapter.

        Raises:
            ValueError: a result that counts more images than it has.
        """
        a, b = yours.by_id, ours.by_id
        comparable = (yours.profile, yours.dataset) == (ours.profile, ours.dataset)
        numbers = tuple(Number.of(a.get(id), b.get(id)) for id in dict.fromkeys([*b, *a])) if comparable else ()
        return cls(yours, ours, numbers)

    @property
    def counts(self) -> Counter[str]:
        """Mark -> how many numbers have it."""
        return Counter(number.mark for number in self.numbers)

    @property
    def chance(self) -> tuple[int, float]:
        """How many numbers could be judged, and the probability that as many or more of them lie outside by chance.

        The binomial test takes them as independent. Numbers of one chapter share networks and leave together.
        """
        from scipy import stats  # here: who only renders pages does without

        judged = self.counts[INSIDE] + self.counts[OUTSIDE] + sum(n.mark == IDENTICAL and n.interval is not None
                                                                  for n in self.numbers)
        p = stats.binomtest(self.counts[OUTSIDE], judged, 1 - CONFIDENCE, "greater").pvalue if judged else 1.0
        return judged, float(p)

    @property
    def verdicts(self) -> dict[str, tuple[str, str]]:
        """Claim -> your verdict and ours, where they differ."""
        held = [{verdict.claim: verdict.held for verdict in run.verdicts} for run in (self.yours, self.ours)]
        return {claim: (mine, held[1][claim]) for claim, mine in held[0].items() if mine != held[1].get(claim, mine)}

    @property
    def differs(self) -> bool:
        """Whether more numbers lie outside than chance explains; without numbers, whether a verdict turned round."""
        if self.numbers:
            return self.chance[1] < 1 - CONFIDENCE
        return any(set(pair) == {"held", "not held"} for pair in self.verdicts.values())

    @property
    def settings(self) -> list[str]:
        """What the runs were set to differently, the likeliest cause of a difference first."""
        mine, theirs = self.yours, self.ours
        a, b = mine.parameters, theirs.parameters
        kinds, threads = zip(*(run.device.removesuffix(" threads").partition(", ")[::2] for run in (mine, theirs)),
                             strict=True)
        pairs = {"profile": (mine.profile, theirs.profile), "data": (mine.dataset, theirs.dataset)}
        if mine.profile == theirs.profile:  # another profile has other parameters
            pairs |= {f"parameter {name}": (a[name], b[name]) for name in a  # one that is new says nothing of a run
                      if name in b and name not in {"profile", "dataset", *OF_MACHINE, *OF_SEEDS}}
            pairs["seeds"] = (" and ".join(spans(mine.all_seeds)), " and ".join(spans(theirs.all_seeds)))
        if self._other_images() and all(x == y for x, y in pairs.values()):
            pairs["data"] = ("other images of the same name", theirs.dataset)
        pairs |= {"device": kinds} if kinds[0] != kinds[1] else {"threads": threads}
        pairs |= {"precision": (mine.precision, theirs.precision), "nbutils": (mine.version, theirs.version),
                  "torch": (mine.torch, theirs.torch), "python": (mine.python, theirs.python),
                  "code, commit": (mine.commit, theirs.commit)}
        return [f"{name}: {short(x)}, ours {short(y)}" for name, (x, y) in pairs.items() if x != y]

    def _other_images(self) -> bool:
        """Whether no fingerprint of images is the same; keys of artifacts have a dash, fingerprints none."""
        sides = ([number.yours for number in self.numbers], [number.ours for number in self.numbers])
        yours, ours = ({key for result in side if result for key in result.inputs if "-" not in key} for side in sides)
        return bool(yours and ours) and yours.isdisjoint(ours)

    def text(self, every: bool = False) -> str:
        """The comparison in words, with a table of the numbers outside; of every number if asked."""
        lines = [f"{self.yours.chapter}: your run of {self.yours.finished.date()} beside edition {self.ours.profile} "
                 f"of {self.ours.finished.date()}"]
        shown = [number.row for number in self.numbers if every or number.mark == OUTSIDE]
        if shown:
            lines += ["", aligned([("number", "yours", "ours", "95 % of new runs", "mark"), *shown]), ""]
        lines += self._summary() + [f"Verdict of {claim}: {mine}, ours {theirs}"
                                    for claim, (mine, theirs) in self.verdicts.items()]
        if not self.verdicts:
            lines.append("Verdicts: all as ours." if self.yours.verdicts else "Verdicts: none in your run.")
        if self.settings:
            likeliest = ", the likeliest cause first" * self.differs
            return "\n".join([*lines, f"Settings that differ{likeliest}:", *(f"  {line}" for line in self.settings)])
        alike = "Settings: profile, data, parameters, device, threads, precision, versions and commit are as ours."
        beyond = " Beyond the spread: none of these differ." * self.differs
        return "\n".join([*lines, alike + beyond])

    def _summary(self) -> list[str]:
        if not self.numbers:
            return ["Not compared number by number: runs of different profiles or data measure different things."]
        counts, (judged, p) = self.counts, self.chance
        if counts[IDENTICAL] == len(self.numbers):
            return [f"All {len(self.numbers)} numbers are identical to the last digit."]
        words = "more than chance explains" if self.differs else "no more than chance explains"
        single = sum(number.interval is not None and len(number.ours.values) == len(number.yours.values) == 1
                     for number in self.numbers if number.ours and number.yours)
        lines = [f"{judged - counts[OUTSIDE]} of {judged} numbers lie inside, {counts[IDENTICAL]} are identical; "
                 f"{counts[OUTSIDE]} outside where chance puts {judged * (1 - CONFIDENCE):.1f}:",
                 f"{words} (binomial test, p = {p:.2g}).",
                 f"Intervals: prediction for the mean over new seeds (Student t) for {judged - single}, "
                 f"two binomial intervals (Newcombe) for {single} of single models."]
        left = ", ".join(f"{counts[mark]} {mark}" for mark in (NO_SPREAD, NOT_COMPARABLE, ONLY_YOURS, ONLY_OURS)
                         if counts[mark])
        return [*lines, f"Not judged: {left}."] if left else lines


def beside_ours(path: Path) -> Comparison:
    """The run in an executed notebook, or in a record of an edition, beside ours.

    Raises:
        ValueError: no run that can be compared; in one line.
    """
    yours = recorded(path)
    theirs = ours(yours, path)
    if yours.sources and (twice := sorted({*yours.all_seeds} & {*theirs.all_seeds})):
        raise ValueError(f"{path}: a pooled record with seed {twice[0]}, which is ours too; expected seeds that we do "
                         "not have, compare the new runs alone")
    return Comparison.of(yours, theirs)
