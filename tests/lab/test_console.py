"""What a run says while it works goes to standard error and changes nothing."""

import pytest

from nbutils.lab.console import progress, warn


def test_a_warning_is_one_line_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    warn("the disk is full")
    assert capfd.readouterr() == ("", "note: the disk is full\n")


def test_progress_passes_everything_on_and_short_work_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter("abc"), "label")) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")
