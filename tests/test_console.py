"""What a run says while it works goes to standard error and changes nothing."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from nbutils import console
from nbutils.console import counter, progress, warn
from nbutils.machine import ROOT


def test_a_warning_is_one_line_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    warn("the disk is full")
    assert capfd.readouterr() == ("", "note: the disk is full\n")


def test_progress_passes_everything_on_and_short_work_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter("abc"), "label")) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


def test_a_short_count_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with counter("label", "pass") as count:
        for _ in range(10):
            count(3)
    assert capfd.readouterr() == ("", "")


def test_a_count_that_is_shown_is_right_and_returns_nothing(capfd: pytest.CaptureFixture[str],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook may return what the count returns, and what a hook returns replaces the input of the model."""

    def at_once(**options: object) -> tqdm:
        return tqdm(**{**options, "delay": 0, "mininterval": 0})

    monkeypatch.setattr(console, "tqdm", functools.wraps(tqdm)(at_once))
    with counter("searching", "pass") as count:
        assert [count(n) for n in (2, 3, 5)] == [None] * 3
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "searching: 10pass" in shown.err


REFUSES = """
import sys, time
from nbutils.console import counter, progress, warn
from nbutils.machine import ROOT
{before}
warn("a note")
with counter("label", "pass") as count:
    count(3)
for _ in progress(range(3), "label"):
    time.sleep(1.2)
print("the work")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(("stream", "before"), [("2>/dev/full", ""), ("2>&-", ""), ("", "sys.stderr.close()")])
def test_standard_error_that_is_full_or_closed_loses_words_and_no_work(stream: str, before: str,
                                                                       tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(REFUSES.format(before=before))
    done = subprocess.run(f"{sys.executable} {tmp_path / 'script.py'} {stream}", shell=True, text=True,
                          capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout == "the work\n", done.stderr
    assert not done.stderr
