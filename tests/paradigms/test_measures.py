"""Usefulness across paradigms in closed form, and what has no value."""

import math

import pytest
import torch
from sklearn.linear_model import Ridge

from nbutils.paradigms import above_chance, cross_paradigm, readable, relative, shown
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


def test_ratios_come_before_the_minimum() -> None:
    """Another paradigm has the smallest ratio than has the smallest value."""
    values, natural = (0.8, 0.6), (1.0, 0.6)
    assert cross_paradigm(*values) == 0.6
    assert cross_paradigm(*map(relative, values, natural)) == pytest.approx(0.8)


@pytest.mark.parametrize("values", [(UNDEFINED, 0.1), (0.1, UNDEFINED), (relative(0.3, 0.0), 0.8)])
def test_the_minimum_with_an_undefined_value_is_undefined(values: tuple[float, ...]) -> None:
    assert shown(cross_paradigm(*values)) == "undefined"


def test_table_1_of_the_paper_is_not_the_minimum_of_its_rows() -> None:
    """CIFAR-10's published cross-paradigm values are; Tiny-ImageNet's (.672 and .134) are not."""
    rows = {"robust": [0.896, 0.791, 0.831, 0.880], "non-robust": [0.307, 0.433, 0.512, 0.914],
            "tiny robust": [0.691, 0.775, 0.861, 0.880], "tiny non-robust": [0.134, 0.074, 0.141, 0.645]}
    found = {name: cross_paradigm(*row) for name, row in rows.items()}
    assert found == {"robust": 0.791, "non-robust": 0.307, "tiny robust": 0.691, "tiny non-robust": 0.074}


def test_values_are_shown_as_text() -> None:
    assert (shown(0.12345), shown(0.5, 1)) == ("0.123", "0.5")


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_is_linear_in_the_features_is_read_perfectly() -> None:
    z, z_test, weights = draw(50, 6, seed=0), draw(30, 6, seed=1), 10 * draw(6, 3, seed=2)
    found = readable(z, z @ weights + 5, z_test, z_test @ weights + 5, penalty=1e-9)
    torch.testing.assert_close(found, torch.ones(3, dtype=torch.float64))


def test_reading_agrees_with_scikit_learn() -> None:
    z, z_test, weights = 4 * draw(80, 5, seed=0) + 2, 4 * draw(40, 5, seed=1) + 2, draw(5, 1, seed=2)
    values, values_test = z @ weights + draw(80, 1, seed=3), z_test @ weights + draw(40, 1, seed=4)
    x, x_test = ((part - z.mean(0)) / z.std(0, correction=0) for part in (z, z_test))
    expected = Ridge(alpha=80 * 0.1).fit(x, values[:, 0]).score(x_test, values_test[:, 0])
    assert readable(z, values, z_test, values_test, penalty=0.1).item() == pytest.approx(expected, abs=1e-5)


def test_what_the_features_do_not_hold_cannot_be_read() -> None:
    found = readable(draw(400, 3, seed=0), draw(400, 2, seed=1), draw(200, 3, seed=2), draw(200, 2, seed=3))
    assert (found < 0.05).all()


def test_a_constant_number_has_no_reading() -> None:
    z, values = draw(20, 3, seed=0), torch.stack([torch.ones(20), torch.arange(20.0)], 1)
    assert readable(z, values, z, values).isfinite().tolist() == [False, True]
    assert readable(z, values, z, torch.ones(20, 2)).isnan().all()
    assert readable(z, torch.ones(20, 2), z, torch.rand(20, 2)).isnan().all()


@pytest.mark.parametrize(("rows", "penalty", "message"), [
    (4, 1e-3, r"^features and numbers \(5, 2\), \(4, 1\), \(5, 2\), \(4, 1\): expected \(N, D\)"),
    (5, 0.0, "^penalty = 0.0: expected a finite number > 0, such as 1e-3")])
def test_reading_refuses_what_does_not_fit(rows: int, penalty: float, message: str) -> None:
    z, values = torch.rand(5, 2), torch.rand(rows, 1)
    with pytest.raises(ValueError, match=message):
        readable(z, values, z, values, penalty)
