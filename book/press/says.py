"""Statements of the text that are held against a record: about a claim's verdict, or one number beside another.

    d-det-generalises is not held               the verdict, in one of the ledger's words
    constructed.d_r.robust above 0.1            the whole 95 % interval lies above (or below) the number
    constructed.d_r.robust above constructed.natural.robust     so does that of the difference, above 0
    constructed.d_r.robust not told from 50 %   the interval holds the number; this is no proof of equality
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from book.press.ledger import STATES
from nbutils.lab.results import Result, newcombe
from nbutils.messages import DECIMAL, did_you_mean

SIDES = ("above", "below", "not told from")
FORM = ("expected a claim, 'is' and its verdict, or a result, one of 'above', 'below' and 'not told from', and another "
        "result or a number")
NUMBER = re.compile(rf"(-?{DECIMAL}) ?(%|points?)?")


@dataclass(frozen=True)
class Statement:
    """That a subject, an id, is said to be so: `relation` is "is" or one of SIDES, `object` a verdict or what it is
    compared with."""

    subject: str
    relation: str
    object: str

    @classmethod
    def of(cls, text: str) -> Statement:
        """Read one; raises ValueError, in one line, where it is of no known form."""
        found = re.fullmatch(rf"(\S.*?) (is|{'|'.join(SIDES)}) (.*\S)", text)
        if not found:
            raise ValueError(FORM)
        statement = cls(*found.groups())
        if statement.relation == "is" and statement.object not in STATES:
            raise ValueError(f"verdict {statement.object!r}: expected one of {', '.join(STATES)}"
                             f"{did_you_mean(statement.object, STATES)}")
        return statement

    @property
    def number(self) -> float | None:
        """The object, where it is a number: ".1", "10 %" and "10 points" are the same one."""
        found = NUMBER.fullmatch(self.object)
        return float(found[1]) / (100 if found[2] else 1) if found else None


def side(first: Result, second: Result | float) -> str:
    """Which of SIDES is true of two results of one run, or of one and a number; "undefined" where one is NaN.

    Raises:
        ValueError: results of different units.
    """
    limits = difference(first, second)
    if limits is None:
        return "without an interval"
    low, high = limits
    if math.isnan(low + high):
        return "undefined"
    return "above" if low > 0 else "below" if high < 0 else "not told from"


def difference(first: Result, second: Result | float) -> tuple[float, float] | None:
    """The 95 % interval of first - second; None where one of the two has none.

    Results over the same seeds are subtracted seed by seed, as `Run.difference` does it. Otherwise the two are taken as
    independent, see `newcombe`.

    Raises:
        ValueError: results of different units.
    """
    if not isinstance(second, Result):
        limits = first.limits()
        return limits and (limits[0] - second, limits[1] - second)
    kinds = ["points" if each.unit in ("share", "points") else "number" for each in (first, second)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"units {first.unit} and {second.unit}; expected two of one kind")
    if len(first.values) == len(second.values) > 1:
        values = tuple(float(value) for value in np.subtract(first.values, second.values))
        inputs = tuple(dict.fromkeys([*first.inputs, *second.inputs]))
        return replace(first, unit=kinds[0], value=float(np.mean(values)), values=values, inputs=inputs, k=None,
                       n=min(first.n, second.n)).limits()
    value, reach = first.value - second.value, newcombe(first, second)
    return reach and (value - reach[0], value + reach[1])
