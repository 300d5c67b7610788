"""Student's t and its power against scipy, and a root where it is known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nbutils.lab.student import half_width, power, root


@given(st.floats(0.001, 0.9999), st.integers(1, 99))
def test_half_widths_are_scipys(confidence: float, freedom: int) -> None:
    assert half_width(confidence, freedom) == pytest.approx(stats.t.ppf(0.5 + confidence / 2, freedom), rel=1e-9)


def test_half_widths_by_hand() -> None:
    """With one degree of freedom t is a tangent; with two, |t| > x has probability 1 - x / sqrt(2 + x^2)."""
    assert half_width(0.5, 1) == pytest.approx(1)
    assert half_width(0.6, 2) == pytest.approx(0.6 * math.sqrt(2 / (1 - 0.36)))


@given(st.floats(0, 12), st.floats(0, 12), st.integers(1, 60))
def test_power_is_scipys(t: float, shift: float, freedom: int) -> None:
    assert power(t, shift, freedom) == pytest.approx(stats.nct.sf(t, freedom, shift), abs=2e-5)


def test_a_root_to_the_last_digit() -> None:
    assert root(lambda x: x**2 - 2, 0, 2) == pytest.approx(math.sqrt(2), rel=1e-15)
