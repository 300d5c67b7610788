"""A run beside ours: intervals for new runs, what counts as a difference, its causes, and runs that cannot be used."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from scipy import stats

from book.press import editions
from book.press.__main__ import main
from book.press.compare import (
    IDENTICAL,
    INSIDE,
    NO_SPREAD,
    NOT_COMPARABLE,
    ONLY_OURS,
    ONLY_YOURS,
    OUTSIDE,
    Comparison,
    Number,
    spread,
)
from book.press.files import write
from nbutils.lab import results
from nbutils.lab.results import Record, Result, dumps, wilson
from tests import helpers

NAME = "01_known_features"
HEADER: dict[str, Any] = {
    "chapter": NAME, "parameters": {"profile": "quick", "dataset": "planted", "epochs": 12, "eps": 8 / 255,
                                     "device": "auto"},
    "device": "cpu, 2 threads", "version": "0.1.0", "commit": "abc", "python": "3.11.7", "torch": "2.13.0",
    "finished": "2030-01-01T00:00:00+00:00", "verdicts": [{"claim": "a-claim", "held": "held"}]}


def number(*values: float, id: str = "a.b", unit: str = "number", **context: Any) -> Result:
    return Result.of(id, "w", values, unit=unit, **context)


def single(k: int, n: int) -> Result:
    return replace(number(k / n, unit="share", n=n), k=k)


def record(found: Iterable[Result], **changes: Any) -> Record:
    return helpers.record(found, **{**HEADER, **changes})


# --- where a new run lies -----------------------------------------------------------------------------------------

def test_the_interval_for_one_new_seed_is_the_textbook_one() -> None:
    """1, 2, 3: mean 2, s = 1, t(.975, 2) = 4.3027; one new value: 2 +- 4.3027 sqrt(1 + 1/3)."""
    found = spread(number(1, 2, 3), number(9))
    assert found == pytest.approx((2 - 4.302653 * math.sqrt(4 / 3), 2 + 4.302653 * math.sqrt(4 / 3)), abs=1e-5)


@pytest.mark.parametrize(("m", "k"), [(2, 1), (3, 3), (5, 2), (4, 10)])
def test_a_mean_of_k_new_seeds_has_the_prediction_interval_of_scipy(m: int, k: int) -> None:
    values = np.random.default_rng(m * k).normal(5, 2, m)
    frozen = stats.t(m - 1, values.mean(), values.std(ddof=1) * math.sqrt(1 / m + 1 / k))
    assert spread(number(*values), number(*range(k))) == pytest.approx(frozen.interval(0.95), rel=1e-12)


def test_with_one_seed_of_ours_the_spread_is_yours() -> None:
    low, high = spread(number(5), number(1, 2, 3)) or (0, 0)
    assert (low + high) / 2 == pytest.approx(5)
    assert high - low == pytest.approx(2 * 4.302653 * math.sqrt(4 / 3), abs=1e-5)


def test_two_single_models_have_newcombes_interval() -> None:
    """His example (1998, table II, method 10): 56/70 and 48/80, difference .2, interval [.0524, .3339]."""
    low, high = spread(single(48, 80), single(56, 70)) or (0, 0)
    assert 0.8 - high == pytest.approx(0.0524, abs=5e-5)
    low, high = spread(single(56, 70), single(48, 80)) or (0, 0)
    assert low - 0.6 == pytest.approx(0.0524, abs=5e-5)
    assert wilson(56, 70)[0] < 0.8  # both intervals are Wilson's


def test_a_share_is_never_narrower_than_counting_allows() -> None:
    """No image of 3 x 250 in ours; (0 + 2) / (750 + 4) stands in for the share."""
    p = 2 / 754
    assert spread(number(0, 0, 0, unit="share", n=250), number(0.004, 0, 0, unit="share", n=250)) == pytest.approx(
        (0, 1.959964 * math.sqrt(p * (1 - p) * 2 / 750)), rel=1e-6)
    assert spread(number(0.5, 0.9, unit="share", n=250), number(0.5, unit="share", n=250)) == (0, 1)


@pytest.mark.parametrize(("ours", "yours"), [
    (number(1, 1, 1), number(2)),
    (number(1), number(2)),
    (number(math.nan, 1, 2), number(1, 2)),
    (single(3, 9), number(0.5, unit="share", n=9)),
])
def test_without_a_spread_nothing_is_judged(ours: Result, yours: Result) -> None:
    assert spread(ours, yours) is None
    assert Number.of(yours, ours).mark == NO_SPREAD


@pytest.mark.parametrize(("m", "k"), [(3, 3), (3, 1), (5, 3)])
def test_runs_like_ours_lie_inside_95_times_in_100(m: int, k: int) -> None:
    """4,000 pairs, generator 0: the standard error of the share is .0034; the tolerance is three of them."""
    draws = np.random.default_rng(0).normal(0, 1, (4000, m + k))
    inside = [Number.of(number(*row[m:]), number(*row[:m])).mark == INSIDE for row in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.0105)


@pytest.mark.parametrize("share", [0.002, 0.05, 0.5, 0.97])
def test_shares_of_runs_like_ours_lie_inside_at_least_95_times_in_100(share: float) -> None:
    """1,000 pairs of 3 seeds on 250 images, generator 0; three standard errors are .021."""
    draws = np.random.default_rng(0).binomial(250, share, (1000, 6)) / 250
    inside = [Number.of(number(*row[3:], unit="share", n=250), number(*row[:3], unit="share", n=250)).mark != OUTSIDE
              for row in draws]
    assert np.mean(inside) > 0.95 - 0.021


# --- a run beside ours --------------------------------------------------------------------------------------------

def runs(count: int, seed: int, shift: float = 0) -> list[Result]:
    """Numbers that three seeds give around 1, 2, 3 ..., moved by some standard deviations."""
    draws = np.random.default_rng(seed).normal(shift, 1, (count, 3))
    return [number(*(row + place), id=f"a.{place}") for place, row in enumerate(draws)]


def test_a_run_like_ours_does_not_differ_and_a_moved_one_does() -> None:
    ours = record(runs(100, seed=0))
    like, moved = (Comparison.of(record(runs(100, seed=1, shift=shift)), ours) for shift in (0, 8))
    judged, p = like.chance
    assert (judged, like.differs) == (100, False)
    assert p == pytest.approx(stats.binom(100, 0.05).sf(like.counts[OUTSIDE] - 1))
    assert moved.counts[OUTSIDE] > 50
    assert moved.differs
    assert "chance puts 5.0:\nmore than chance explains" in moved.text()


def test_the_same_run_again_is_identical() -> None:
    run = record([*runs(5, seed=0), number(math.nan, id="none")])
    found = Comparison.of(run, run)
    assert "All 6 numbers are identical to the last digit." in found.text()
    assert "are as ours" in found.text()
    assert not found.differs


def test_one_changed_number_is_found() -> None:
    ours = runs(40, seed=0)
    wrong = replace(ours[2], value=99.0, values=(98.0, 99.0, 100.0))
    found = Comparison.of(record([*ours[:2], wrong, *ours[3:]]), record(ours))
    assert found.counts == {IDENTICAL: 39, OUTSIDE: 1}
    lines = found.text().splitlines()
    assert [line.split()[:3] for line in lines if line.endswith("outside")] == [["a.2", "99.000", ours[2].parts[0]]]
    assert "39 of 40 numbers lie inside, 39 are identical; 1 outside where chance puts 2.0:\nno more" in found.text()
    assert "a.3" not in found.text()
    assert "a.3" in found.text(every=True)


def test_numbers_that_cannot_be_compared_are_counted_apart() -> None:
    ours = [number(1, 2, id="gone"), number(1, 2, id="threat", threat="L_inf 8/255"), number(1, 1, id="flat")]
    yours = [number(1, 2, id="new"), number(1, 2, id="threat", threat="L_inf 4/255"), number(1, 2, id="flat")]
    found = Comparison.of(record(yours), record(ours))
    assert found.counts == {ONLY_YOURS: 1, ONLY_OURS: 1, NOT_COMPARABLE: 1, NO_SPREAD: 1}
    assert found.chance == (0, 1.0)
    assert "Not judged: 1 no spread known, 1 not comparable, 1 only yours, 1 only ours." in found.text()
    assert all(id in found.text(every=True) for id in ("gone", "new", "threat", "flat"))


@pytest.mark.parametrize(("yours", "ours", "mark"), [
    (number(math.nan, 1), number(1, 2, 3), NO_SPREAD),
    (number(1, 2, unit="points"), number(1, 3), NOT_COMPARABLE),
    (number(1, 2, data="other"), number(1, 3), NOT_COMPARABLE),
])
def test_neither_undefined_nor_of_another_kind_is_outside(yours: Result, ours: Result, mark: str) -> None:
    assert Number.of(yours, ours).mark == mark


def test_an_identical_number_without_a_spread_says_nothing_about_chance() -> None:
    run = record([number(1, id="bare"), number(1, 2, id="spread")])
    assert Comparison.of(run, run).chance == (1, 1.0)


def test_a_claim_that_only_one_run_has_judged_is_no_difference() -> None:
    more, ours = record([], verdicts=[*HEADER["verdicts"], {"claim": "new", "held": "not held"}]), record([])
    assert Comparison.of(more, ours).verdicts == Comparison.of(ours, more).verdicts == {}


@pytest.mark.parametrize("name", ["profile", "dataset"])
@pytest.mark.parametrize(("held", "differs"), [("held", False), ("undecided", False), ("not held", True)])
def test_of_another_profile_or_data_only_the_verdicts_are_compared(name: str, held: str, differs: bool) -> None:
    yours = record(runs(5, seed=0, shift=9), parameters={**HEADER["parameters"], name: "x"},
                   verdicts=[{"claim": "a-claim", "held": held}])
    found = Comparison.of(yours, record(runs(5, seed=0)))
    assert found.numbers == ()
    assert "Not compared number by number" in found.text()
    assert found.differs == differs
    assert (f"Verdict of a-claim: {held}, ours held" in found.text()) == (held != "held")


def test_settings_that_differ_are_named_likeliest_cause_first() -> None:
    yours = record(runs(5, 1, shift=99), version="0.2.0", torch="2.14.0", python="3.12.1", commit="def-dirty",
                   parameters={**HEADER["parameters"], "epochs": 3, "eps": 0.0156862745, "new": 1},
                   device="cpu, 1 threads")
    found = Comparison.of(yours, record(runs(5, 0)))
    assert found.settings == [
        "parameter epochs: 3, ours 12", "parameter eps: 0.01569, ours 0.03137", "threads: 1, ours 2",
        "nbutils: 0.2.0, ours 0.1.0", "torch: 2.14.0, ours 2.13.0", "python: 3.12.1, ours 3.11.7",
        "code, commit: def-dirty, ours abc"]
    assert "Settings that differ, the likeliest cause first:\n  parameter epochs" in found.text()


@pytest.mark.parametrize(("inputs", "settings"), [
    (("model-2", "feed"), ["data: other images of the same name, ours planted"]),
    (("model-2", "feed", "cafe"), []),  # some are the same: attacked ones may differ with the threads
    (("model-2",), []),
])
def test_other_images_of_the_same_name_are_a_cause(inputs: tuple[str, ...], settings: list[str]) -> None:
    ours = record([number(1, 2, inputs=("model-1", "cafe", "beef"))])
    yours = [number(1, 3, inputs=inputs)]
    assert Comparison.of(record(yours), ours).settings == settings
    more = record(yours, parameters={**HEADER["parameters"], "epochs": 3})
    assert Comparison.of(more, ours).settings == ["parameter epochs: 3, ours 12"]


def test_another_profile_stands_for_its_parameters_and_a_gpu_for_its_threads() -> None:
    yours = record([], parameters={"profile": "smoke", "dataset": "digits", "epochs": 1}, device="A GPU")
    assert Comparison.of(yours, record([])).settings == [
        "profile: smoke, ours quick", "data: digits, ours planted", "device: A GPU, ours cpu"]


def test_a_result_that_counts_more_images_than_it_has_is_refused() -> None:
    with pytest.raises(ValueError, match="a.b: k = 3, n = 2; expected 0 <= k <= n"):
        replace(single(1, 2), k=3)


def test_a_difference_without_a_cause_is_said_to_be_one() -> None:
    found = Comparison.of(record(runs(5, 1, shift=99)), record(runs(5, 0)))
    assert found.text().endswith("are as ours. Beyond the spread: none of these differ.")


# --- the command --------------------------------------------------------------------------------------------------

@pytest.fixture
def edition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """Our run, as edition quick."""
    monkeypatch.setattr(editions, "EDITIONS", tmp_path / "editions")
    ours = runs(20, seed=0)
    write({tmp_path / "editions" / "quick" / f"{NAME}.json": dumps(record(ours))})
    return ours


def notebook(card: str | None, *, ran: int = 2, error: bool = False, start: str = "lab.start") -> nbformat.NotebookNode:
    """A chapter of two cells, `ran` of which have run."""
    cells = [nbformat.v4.new_code_cell(f'run = {start}("{NAME}", globals())'), nbformat.v4.new_code_cell("run.card()")]
    for count, cell in enumerate(cells[:ran], start=1):
        cell.execution_count = count
    if card is not None:
        data = {results.MIME: card, "text/html": "<table></table>"}
        cells[1].outputs = [nbformat.v4.new_output("execute_result", data, execution_count=2)]
    if error:
        cells[0].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="two\nlines", traceback=[])]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.mark.parametrize(("shift", "status"), [(0, 0), (99, 1)])
@pytest.mark.parametrize("profile", ["quick", "smoke", ""])
def test_a_notebook_and_its_record_end_alike(edition: list[Result], tmp_path: Path, shift: float, status: int,
                                             profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = dumps(record(runs(20, seed=1, shift=shift), parameters={**HEADER["parameters"], "profile": profile},
                        verdicts=[{"claim": "a-claim", "held": "not held" if shift else "held"}]))
    (tmp_path / "run.json").write_text(text)
    nbformat.write(notebook(text), tmp_path / "run.ipynb")
    said = []
    for name in ("run.json", "run.ipynb"):
        assert main(["compare", str(tmp_path / name)]) == status
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "edition quick" in said[0]


GOOD = dumps(record([]))
OTHER_SCHEMA = json.dumps({**json.loads(GOOD), "schema": 99})


def lacking(*path: str | int) -> str:
    """A record without the part at this path."""
    content = part = json.loads(dumps(record([number(1, 2)])))
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]], content["check"]
    return json.dumps(content)


def other_chapter(name: str) -> str:
    return dumps(record([], chapter=name))


@pytest.mark.parametrize(("content", "words"), [
    (None, ("no such file", "expected an executed notebook or a record")),
    ("nothing", ("neither an executed notebook nor a record",)),
    ("[]", ("not a record of results",)),
    ('{"cells": 3}', ("neither an executed notebook nor a record",)),
    ('{"cells": [], "nbformat": "x"}', ("neither an executed notebook nor a record",)),
    (b"\x93NUMPY\x00", ("neither an executed notebook nor a record",)),
    ("{}", ("not a record of results",)),
    (OTHER_SCHEMA, ("written with schema 99; expected 1, run the chapter again",)),
    (notebook(OTHER_SCHEMA), ("written with schema 99; expected 1",)),
    (notebook(GOOD[:-9]), ("not a record of results",)),
    (notebook(None, ran=0), ("0 of its 2 cells ran; run it to its end",)),
    (notebook(None, ran=1), ("1 of its 2 cells ran; run it to its end",)),
    (notebook(None, ran=1, error=True), ("failed in cell 1 of 2: ValueError: two lines",)),
    (notebook(None), ("its run card holds no results, as in older versions; run it again",)),
    (notebook(None, start="mine.start"), ("not a chapter of this book",)),
    (other_chapter("01_known"), ("'01_known', which this book does not have", "did you mean '01_known_features'")),
    (notebook(other_chapter("zzz")), ("'zzz', which this book does not have",)),
    *((lacking(name), (f"not a record of results ({name}: Field required)",)) for name in (
        "device", "finished", "version", "commit", "python", "torch", "verdicts", "parameters")),
    (lacking("parameters", "profile"), ("not a record of results (parameters.profile: Field required)",)),
    (lacking("parameters", "dataset"), ("not a record of results (parameters.dataset: Field required)",)),
    (lacking("verdicts", 0, "held"), ("not a record of results (verdicts.entry 1.held: Field req",)),
    (dumps(record([number(1)])).replace('"values":[1.0]', '"values":[]'), ("(results.entry 1.values: Tuple should",)),
    (dumps(record([number(1)])).replace('"n":0', '"n":"x"'), ("(results.entry 1.n: expected a valid int",)),
    ('{"cells": [{"cell_type": "code", "id": "a", "metadata": {}, "source": "lab.start()"}], "metadata": {}, '
     '"nbformat": 4, "nbformat_minor": 5}', ("neither an executed notebook",)),
    ('{"cells": [{}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', ("neither an executed notebook",)),
    (other_chapter("02_adversarial_training"), ("02_adversarial_training: not recorded in edition 'quick'",)),
])
def test_what_cannot_be_compared_gets_one_clear_line(edition: list[Result], tmp_path: Path, content: Any,
                                                     words: tuple[str, ...],
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.ipynb"
    write: dict[type, Callable[[Any], object]] = {str: path.write_text, bytes: path.write_bytes,
                                                  nbformat.NotebookNode: lambda made: nbformat.write(made, path)}
    if content is not None:
        write[type(content)](content)
    assert main(["compare", str(path)]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    for word in (*words, "" if "edition" in words[0] else str(path)):
        assert word in found.err


def test_the_book_has_an_edition_and_it_equals_itself() -> None:
    paths = sorted(editions.EDITIONS.glob("*/*.json"))
    assert paths
    for path in paths:
        kept = results.read(path)
        assert (kept.chapter, kept.profile) == (path.stem, path.parent.name)
        assert not kept.commit.endswith("-dirty")
        assert Comparison.of(kept, editions.find(path.parent.name, path.stem)).counts == {IDENTICAL: len(kept.results)}
        assert path.stat().st_size < 200_000
