"""The words that error messages share."""

import pytest

from nbutils.images import DataError
from nbutils.messages import check_choice, counted, did_you_mean


@pytest.mark.parametrize(("value", "hint"), [
    ("cifar-10", "; did you mean 'cifar10'?"),
    ("CIFAR10", "; did you mean 'cifar10'?"),
    ("mixed_5c", "; did you mean 'Mixed_5b'?"),
    ("", ""),
    ("www", ""),
    (None, ""),
    (10, "; did you mean 'cifar10'?"),
])
def test_the_nearest_known_word_is_suggested_if_one_is_near(value: object, hint: str) -> None:
    assert did_you_mean(value, ("planted", "cifar10", "Mixed_5b")) == hint


def test_with_nothing_known_there_is_nothing_to_suggest() -> None:
    assert did_you_mean("x", {}) == ""


def test_a_choice_comes_back_and_anything_else_is_named_with_the_nearest() -> None:
    assert check_choice("split", "test", ("train", "test")) == "test"
    with pytest.raises(ValueError, match=r"^split = 'tset': expected one of train, test; did you mean 'test'\?$"):
        check_choice("split", "tset", ("train", "test"))
    with pytest.raises(DataError, match="^split = 3: expected one of train, test$"):
        check_choice("split", 3, ("train", "test"), DataError)  # type: ignore[arg-type]


def test_one_and_several_are_told_apart() -> None:
    assert [counted(number, "seed") for number in range(3)] == ["0 seeds", "1 seed", "2 seeds"]
