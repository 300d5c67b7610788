"""Usefulness across paradigms in closed form, and what has no value."""

import math

import pytest

from nbutils.paradigms import above_chance, cross_paradigm, cross_paradigm_relative, relative, shown
from nbutils.paradigms.measures import UNDEFINED


def test_relative_usefulness_is_a_ratio() -> None:
    assert relative(0.6, 0.8) == pytest.approx(0.75)
    assert relative(0.9, 0.6) == pytest.approx(1.5)  # a feature may be more useful than all of them


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
def test_a_ratio_to_nothing_is_undefined(value: float) -> None:
    assert math.isnan(relative(value, 0.0))
    assert shown(relative(value, 0.0)) == "undefined"


def test_above_chance_is_zero_for_guessing_and_one_for_all_that_natural_images_give() -> None:
    assert above_chance(0.1, 0.9, 10) == pytest.approx(0)
    assert above_chance(0.9, 0.9, 10) == pytest.approx(1)
    assert above_chance(0.5, 0.9, 10) == pytest.approx(0.5)
    assert above_chance(0.05, 0.9, 10) < 0
    assert math.isnan(above_chance(0.5, 0.1, 10))
    assert math.isnan(above_chance(0.5, 0.05, 10))


def test_the_minimum_is_taken_per_seed() -> None:
    """The mean of minima, .25, lies below the minimum of means, .3."""
    values = {"SL": [0.9, 0.8], "CL": [0.2, 0.4], "MIM": [0.5, 0.3]}
    assert cross_paradigm(values) == [0.2, 0.3]


def test_ratios_come_before_the_minimum() -> None:
    """Another paradigm has the smallest ratio than has the smallest value."""
    values, natural = {"SL": [0.8], "CL": [0.6]}, {"SL": [1.0], "CL": [0.6]}
    assert cross_paradigm(values) == [0.6]
    assert cross_paradigm_relative(values, natural) == [pytest.approx(0.8)]


def test_the_minimum_with_an_undefined_value_is_undefined() -> None:
    natural = {"SL": [0.0, 0.1], "CL": [0.5, 0.5]}
    found = cross_paradigm_relative({"SL": [0.3, 0.3], "CL": [0.4, 0.4]}, natural)
    assert shown(found[0]) == "undefined"
    assert found[1] == pytest.approx(0.8)
    for order in (("SL", "CL"), ("CL", "SL")):
        values = {"SL": [UNDEFINED], "CL": [0.1]}
        assert math.isnan(cross_paradigm({name: values[name] for name in order})[0])


def test_table_1_of_the_paper_is_not_the_minimum_of_its_rows() -> None:
    """CIFAR-10's published cross-paradigm values are; Tiny-ImageNet's (.672 and .134) are not."""
    rows = {"robust": [0.896, 0.791, 0.831, 0.880], "non-robust": [0.307, 0.433, 0.512, 0.914],
            "tiny robust": [0.691, 0.775, 0.861, 0.880], "tiny non-robust": [0.134, 0.074, 0.141, 0.645]}
    found = {name: cross_paradigm({str(i): [value] for i, value in enumerate(row)})[0] for name, row in rows.items()}
    assert found == {"robust": 0.791, "non-robust": 0.307, "tiny robust": 0.691, "tiny non-robust": 0.074}


def test_values_are_shown_as_text() -> None:
    assert (shown(0.12345), shown(0.5, 1)) == ("0.123", "0.5")
