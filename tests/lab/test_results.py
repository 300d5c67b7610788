"""Intervals against their formulas, the rules of a Result, records and tables."""

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nbutils.lab.results import (
    Result,
    Table,
    counting,
    detectable,
    dumps,
    kim,
    loads,
    mcnemar,
    published,
    rank_correlation,
    student_t,
    wilson,
)
from nbutils.machine import ROOT
from nbutils.robustness import Outcome
from tests.helpers import assert_one_line, record

PGD_LABEL = "PGD(L_inf 8/255, 10 steps of 2/255, 1 restart)"
FGSM_LABEL = "FGSM(L_inf 8/255, 1 step of 8/255, no random start)"


def outcome(k: int, n: int, attack: str = PGD_LABEL, **changes: object) -> Outcome:
    """k of n images right."""
    correct = torch.arange(n) < k
    made = Outcome(correct, torch.zeros(n, dtype=torch.int64), torch.zeros(n), torch.zeros(n), attack, "L_inf 8/255",
                   "standard", "planted", (f"model-{k}",), 1.5)
    return replace(made, **changes)  # type: ignore[arg-type]


# --- intervals ----------------------------------------------------------------------------------------------------

@given(n=st.integers(1, 10_000), share=st.floats(0, 1), confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_is_its_formula(n: int, share: float, confidence: float) -> None:
    """Centre (p + z^2 / 2n) / (1 + z^2 / n), half-width z / (1 + z^2 / n) sqrt(p (1 - p) / n + z^2 / 4n^2)."""
    k = round(share * n)
    p, z = k / n, stats.norm.ppf(0.5 + confidence / 2)
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = wilson(k, n, confidence)
    assert low == pytest.approx(max(centre - half, 0), abs=1e-9)
    assert high == pytest.approx(min(centre + half, 1), abs=1e-9)
    assert 0 <= low <= p <= high <= 1


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.sampled_from([0.8, 0.95]))
def test_student_t_is_scipys(values: list[float], confidence: float) -> None:
    if np.std(values) < 1e-6:
        values = [*values, values[0] + 1]
    expected = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert student_t(values, confidence) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_student_t_of_two_values_by_hand() -> None:
    """t_{.975, 1} = tan(.475 pi) = 12.706, times half the distance."""
    assert student_t([0.4, 0.6]) == pytest.approx((0.5 - 0.1 * math.tan(0.475 * math.pi),
                                                   0.5 + 0.1 * math.tan(0.475 * math.pi)), rel=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_exact_binomial(pairs: list[tuple[bool, bool]]) -> None:
    """Among the pairs that disagree each side is right with probability 1/2: twice the smaller tail."""
    a, b = (torch.tensor(column) for column in zip(*pairs, strict=True))
    one, two = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    tail = sum(math.comb(one + two, i) for i in range(min(one, two) + 1)) / 2 ** (one + two)
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert mcnemar(a, b) == mcnemar(b, a)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6))
def test_rank_correlation_is_spearmans_with_an_exact_permutation_test(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert rank_correlation(a, b) == (0.0, 1.0)
        return
    found, p = rank_correlation(a, b)
    assert found == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    exact = stats.permutation_test((a,), lambda order: stats.spearmanr(order, b).statistic, vectorized=False,
                                   permutation_type="pairings", alternative="greater", n_resamples=np.inf)
    assert p == pytest.approx(exact.pvalue, abs=1e-12)


def test_a_perfect_order_has_the_smallest_p_there_is() -> None:
    assert rank_correlation(range(8), [k**3 for k in range(8)]) == (pytest.approx(1), 1 / math.factorial(8))
    assert rank_correlation(range(5), range(5, 0, -1)) == (pytest.approx(-1), 1)


def test_families_of_networks_are_ranked_each_by_itself() -> None:
    """Two families that are far apart, in each of which the order is the other way round."""
    a, b = [1, 2, 3, 11, 12, 13], [3, 2, 1, 33, 32, 31]
    assert rank_correlation(a, b)[0] > 0
    assert rank_correlation(a, b, groups="xxxyyy") == (pytest.approx(-1), 1)
    found, p = rank_correlation([1, 2, 3, 1, 2, 3, 1, 2], [1, 2, 3, 1, 2, 3, 1, 2], groups="aaabbbcc")
    assert (found, p) == (pytest.approx(1), pytest.approx(1 / (6 * 6 * 2)))  # orders within families alone
    # ranks less their mean (-1, 0, 1), (-.5, .5) against (0, -1, 1), (-.5, .5): 1.5 / 2.5
    assert rank_correlation([1, 2, 3, 7, 9], [2, 1, 3, 0, 5], groups="aaabb")[0] == pytest.approx(0.6)
    assert rank_correlation([1, 2, 5], [3, 2, 1], groups=range(3)) == (0.0, 1.0)  # nothing to rank


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6))
def test_one_family_is_no_family(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    assert rank_correlation(a, b, groups=["all"] * len(a)) == rank_correlation(a, b)


def test_counting_gives_nothing_and_everything_a_width() -> None:
    """Agresti and Coull: (0 + 2) / (300 + 4) = .0066 right, z sqrt(.0066 .9934 / 300); in the middle z / (2 sqrt n)."""
    z = stats.norm.ppf(0.975)
    assert counting(0, 300) == pytest.approx(0.009148, abs=1e-6)
    assert counting(1, 300) == pytest.approx(counting(0, 300))
    assert counting(0.5, 300) == pytest.approx(z / (2 * math.sqrt(300)))
    assert counting(-0.5, 300) == counting(0.5, 300)  # a difference counts by its size
    assert counting(0.3, 10_000) == pytest.approx(z * math.sqrt(0.3 * 0.7 / 10_000), rel=1e-3)
    assert counting(0.3, 0) == 0


@pytest.mark.parametrize(("seeds", "deviations"), [(3, 3.264), (5, 1.682), (10, 0.996)])
def test_the_detectable_gap_is_found_four_times_in_five(seeds: int, deviations: float) -> None:
    half = stats.t.ppf(0.975, seeds - 1) / math.sqrt(seeds)  # of the interval, in standard deviations
    assert detectable(seeds) * half == pytest.approx(deviations, abs=5e-4)
    drawn = np.random.default_rng(0).normal(deviations, 1, (2000, seeds))
    found = stats.ttest_1samp(drawn, 0, axis=1)
    assert ((found.pvalue < 0.05) & (found.statistic > 0)).mean() == pytest.approx(0.8, abs=0.03)


# --- the rules of a Result ----------------------------------------------------------------------------------------

def test_one_outcome_is_this_model() -> None:
    result = Result.of("a.b", "accuracy", [outcome(60, 80)])
    assert (result.value, result.k, result.n, result.values) == (0.75, 60, 80, (0.75,))
    assert result.limits() == wilson(60, 80)
    assert result.interval == "this model"
    assert (result.model, result.data, result.threat) == ("standard", "planted", "L_inf 8/255")
    assert result.inputs == ("model-60",)


def test_several_outcomes_are_this_method_and_never_pooled() -> None:
    """30/40, 80/80 pooled would be .917; the mean over seeds is .875, with a spread over two seeds."""
    result = Result.of("a.b", "accuracy", [outcome(30, 40), outcome(80, 80)])
    assert result.value == pytest.approx(0.875)
    assert result.values == (0.75, 1.0)
    assert result.k is None
    assert result.n == 40
    assert result.interval == "this method"
    assert result.limits() == (0.0, 1.0)  # t with one degree of freedom, cut to what a share can be
    assert result.inputs == ("model-30", "model-80")
    assert result.seconds == 3.0


def test_bare_values() -> None:
    one = Result.of("a.b", "gap", [0.3], unit="number", n=50)
    assert (one.limits(), one.interval, one.n) == (None, "none", 50)
    several = Result.of("a.b", "gap", [0.1, 0.2, 0.4], unit="points", model="standard")
    assert several.limits() == pytest.approx(student_t([0.1, 0.2, 0.4]))
    assert several.model == "standard"


@pytest.mark.parametrize(("unit", "cut"), [("share", True), ("points", False), ("number", False)])
def test_only_shares_are_cut_to_their_range(unit: str, cut: bool) -> None:
    result = Result.of("a.b", "x", [0.02, 0.5, 0.98], unit=unit)
    low, high = student_t([0.02, 0.5, 0.98])
    assert low < 0
    assert high > 1
    assert result.limits() == ((0.0, 1.0) if cut else pytest.approx((low, high)))


DRAWN, SHARED = ("a", "b", "c", "model-1"), ("a", "model-1", "model-2")  # fingerprints of images have no dash


def test_seeds_that_agree_by_luck_still_have_counted_their_images() -> None:
    """Three seeds on 100 images of their own are 300 images; a difference has the width on both sides."""
    share = Result.of("a.b", "x", [0.0, 0.0, 0.0], n=100, inputs=DRAWN)
    assert share.limits() == pytest.approx((0, 0.009148), abs=1e-6)
    points = Result.of("a.b", "x", [0.0] * 5, unit="points", n=100)
    assert points.limits() == pytest.approx((-0.005511, 0.005511), abs=1e-6)
    number = Result.of("a.b", "x", [0.25] * 3, unit="number", n=100)
    assert number.limits() == (0.25, 0.25)  # of which nothing is counted
    values = [0.2, 0.3, 0.4]  # whose spread is wider than counting
    assert Result.of("a.b", "x", values, n=100, inputs=DRAWN).limits() == pytest.approx(student_t(values))


def test_images_that_all_seeds_share_add_their_own_variance() -> None:
    values = [0.2, 0.25, 0.3]
    low, high = student_t(values)
    found = Result.of("a.b", "x", values, n=100, inputs=SHARED).limits()
    assert found is not None
    assert ((found[1] - found[0]) / 2) ** 2 == pytest.approx(((high - low) / 2) ** 2 + counting(0.25, 100) ** 2)


def test_correlations_have_intervals_by_fishers_z() -> None:
    """z = .5493, .6931, .8673: mean .7033, t interval [.3077, 1.0988] up to rounding, and its tanh."""
    found = Result.of("a.b", "r", [0.5, 0.6, 0.7], unit="correlation", n=9)
    assert found.limits() == pytest.approx((0.298327, 0.800075), abs=1e-6)
    assert Result.of("a.b", "r", [-0.5, -0.6, -0.7], unit="correlation").limits() == pytest.approx(
        (-0.800075, -0.298327), abs=1e-6)
    assert Result.of("a.b", "r", [0.4] * 3, unit="correlation").limits() == pytest.approx((0.4, 0.4))
    low, high = Result.of("a.b", "r", [1.0, 0.9, 0.2], unit="correlation").limits() or (0, 0)
    assert -1 < low < high < 1
    assert str(found) == "0.600 [0.298, 0.800]"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.sampled_from(["share", "points", "correlation", "number"]),
       st.sampled_from([DRAWN, SHARED, ()]))
def test_less_confidence_needs_less_room(values: list[float], unit: str, inputs: tuple[str, ...]) -> None:
    result = Result.of("a.b", "x", values, unit=unit, n=50, inputs=inputs)
    (a, b), (c, d), (e, f) = (result.limits(confidence) or (0, 0) for confidence in (0.95, 0.9, 0))
    assert a <= c <= e + 1e-12
    assert f - 1e-12 <= d <= b
    assert e == pytest.approx(f)


def test_numbers_of_other_libraries_are_values() -> None:
    expected = Result.of("a.b", "x", [0.25, 0.5])
    assert Result.of("a.b", "x", list(np.array([0.25, 0.5]))) == expected
    assert Result.of("a.b", "x", list(np.array([0.25, 0.5], dtype=np.float32))) == expected


@pytest.mark.parametrize(("result", "text"), [
    (Result.of("a", "w", [outcome(1, 2)]), "50.0 % [9.5, 90.5]"),
    (Result.of("a", "w", [-0.25], unit="points"), "−25.0 points"),
    (Result.of("a", "w", [-1.5, -0.5], unit="number"), "−1.000 [−7.353, 5.353]"),
    (Result.of("a", "w", [0.5, float("nan")]), "undefined"),  # a share of no images
    (Result.of("a", "w", [outcome(0, 0)]), "undefined"),  # the same, of one seed
])
def test_results_in_words(result: Result, text: str) -> None:
    assert str(result) == text


def test_a_share_of_no_images_has_no_interval() -> None:
    empty = Result.of("a", "w", [outcome(0, 0)])
    assert (empty.limits(), empty.interval) == (None, "none")


# --- norms of unbounded attacks -----------------------------------------------------------------------------------

def unbounded(correct: list[bool], l2: list[float], **changes: object) -> Outcome:
    made = Outcome(torch.tensor(correct), torch.zeros(len(l2), dtype=torch.int64), torch.tensor(l2),
                   torch.tensor(l2) / 10, "CW(unbounded L2)", "unbounded", "standard", "planted")
    return replace(made, **changes)  # type: ignore[arg-type]


def test_norms_are_medians_over_the_images_that_were_moved_and_broken() -> None:
    """.3 was moved in vain, 0 was wrong already: of .1, .5 and .9 the median is .5 (of all five it would be .3)."""
    result = Result.of("a.b", "w", [unbounded([False, True, False, False, False], [0.1, 0.3, 0.0, 0.5, 0.9])])
    assert result.norms == pytest.approx((0.5, 0.05))
    assert result.value == 0.2


def test_l2_and_linf_medians_are_taken_apart() -> None:
    outcome = unbounded([False] * 3, [0.1, 0.2, 0.3], linf=torch.tensor([0.3, 0.01, 0.02]))
    assert Result.of("a.b", "w", [outcome]).norms == pytest.approx((0.2, 0.02))


def test_norms_are_means_over_seeds_and_seeds_without_a_broken_image_do_not_count() -> None:
    """Medians .2, .6 and none: pooled, the median of .2, .6, .6, .6 would be .6."""
    outcomes = [unbounded([False, True, True], [0.2, 0.0, 0.0]), unbounded([False] * 3, [0.6] * 3),
                unbounded([True, False, True], [0.9, 0.0, 0.0])]
    assert Result.of("a.b", "w", outcomes).norms == pytest.approx((0.4, 0.04))
    assert Result.of("a.b", "w", outcomes[2:]).norms == (0.0, 0.0)


@pytest.mark.parametrize("threat", ["none", "L_inf 8/255", "L2 0.5"])
def test_only_unbounded_attacks_report_norms(threat: str) -> None:
    assert Result.of("a.b", "w", [unbounded([False], [0.5], threat=threat)]).norms is None
    assert Result.of("a.b", "w", [0.5]).norms is None


def test_norms_stand_beside_the_accuracy() -> None:
    """An accuracy under an attack that may go as far as it likes is never shown alone."""
    result = Result.of("a.b", "w", [unbounded([False, True], [1.25, 0.0])])
    assert str(result) == "50.0 % [9.5, 90.5] median L2 1.25 median L_inf 0.125"
    table = Table({"standard": {"CW": result}}, "Accuracy")
    assert ('<a data-result="a.b">50.0 %</a><br><small>[9.5, 90.5]</small><br><small>median L2 1.25</small><br>'
            "<small>median L_inf 0.125</small>") in table._repr_html_()
    assert "median L2 1.25" in repr(table)
    assert "median" not in str(Result.of("a.b", "w", [outcome(1, 2)]))


# --- records ------------------------------------------------------------------------------------------------------

def test_a_record_reads_back_as_it_was(tmp_path: Path) -> None:
    results = [Result.of("a.one", "accuracy", [outcome(60, 80)], profile="smoke", device="cpu"),
               Result.of("a.two", "accuracy", [outcome(6, 80), outcome(7, 80)]),
               Result.of("a.three", "ratio", [1 / 3], unit="number"),
               Result.of("a.four", "accuracy", [unbounded([False, True], [1 / 3, 0.0])])]
    path = tmp_path / "01.json"
    written = record(results, chapter="01", verdicts=[{"claim": "c", "held": "held"}])
    path.write_text(dumps(written))
    found = loads(path.read_text(), path)
    assert found == written
    assert found.results == results
    assert found.by_id["a.two"] == results[1]
    assert [result.norms is None for result in found.results] == [True, True, True, False]
    assert isinstance(found.results[3].norms, tuple)
    assert (found.profile, found.dataset) == (found.parameters["profile"], found.parameters["dataset"])
    assert found.finished == datetime.fromisoformat("2030-01-02T03:04:05+00:00")
    assert json.loads(path.read_text())["finished"] == "2030-01-02T03:04:05+00:00"
    assert [file.name for file in path.parent.iterdir()] == ["01.json"]


def test_a_record_names_only_what_changes_from_result_to_result() -> None:
    found = [Result.of("a", "w", [0.5, math.nan], n=8, model="m"), Result.of("b", "w", [0.5, 0.7], n=9, model="m"),
             Result.of("c", "w", [0.5, 0.7], n=9)]
    text = dumps(record(found))
    rows = json.loads(text)["results"]
    assert rows[0].keys() == asdict(found[0]).keys()
    assert rows[1].keys() == {"id", "value", "values", "n"}
    assert rows[2] == {"id": "c", "model": "none"}
    assert repr(loads(text, "here").results) == repr(found)  # not ==, for NaN differs from itself


def test_a_record_that_names_everything_reads_as_well() -> None:
    found = [Result.of("a", "w", [0.5, 0.6], n=8), Result.of("b", "w", [0.5, 0.7], n=8)]
    whole = {**json.loads(dumps(record(found))), "results": [asdict(result) for result in found]}
    assert loads(json.dumps(whole), "here").results == found


def test_older_records_have_intervals_by_the_rule_of_today() -> None:
    """They hold the ends of intervals that knew the spread over seeds alone."""
    now = Result.of("a", "w", [0.0, 0.0, 0.0], n=100)
    content = json.loads(dumps(record([now])))
    content["results"][0] |= {"low": 0.0, "high": 0.0, "interval": "this method"}
    del content["check"]
    (found,) = loads(json.dumps(content), "here").results
    assert found == now
    assert found.limits() == pytest.approx((0, 0.009148), abs=1e-6)


def test_older_records_say_nothing_of_their_check_and_classes() -> None:
    content = json.loads(dumps(record(classes=10)))
    del content["check"], content["classes"]
    assert loads(json.dumps(content), "here") == record()


@given(st.data())
def test_a_record_changed_by_hand_is_refused(data: st.DataObject) -> None:
    """Any number or word of it, but for the place of the images, which is taken out of what is published."""
    found = [Result.of("a", "w", [0.5, 0.25], n=8, data="planted"), Result.of("b", "w", [0.5, 0.75], n=9, seconds=2)]
    content = json.loads(dumps(record(found, parameters={"profile": "x", "dataset": "folder:/home/me/x", "eps": 0.5},
                                      verdicts=[{"claim": "c", "held": "held"}])))
    content["parameters"]["dataset"] = "folder:x"
    assert loads(json.dumps(content), "here").results == found
    places = [(content, "device"), (content["parameters"], "eps"), (content["verdicts"][0], "held"),
              *((row, name) for row in content["results"] for name in row if name not in ("data", "norms", "k"))]
    row, name = data.draw(st.sampled_from(places))
    old = row[name]
    changes = {str: lambda old: old + "x", list: lambda old: [*old, 0.5], tuple: lambda old: [*old, 0.5]}
    row[name] = changes.get(type(old), lambda old: (old or 0) + 1)(old) if name != "inputs" else ["x"]
    with pytest.raises(ValueError, match="^here: (its record was changed by hand; run|not a record of results)"):
        loads(json.dumps(content), "here")


# --- published numbers --------------------------------------------------------------------------------------------

def test_the_number_in_kims_first_table() -> None:
    found = published("kim2021", table="Table 1", dataset="CIFAR-10", model="VGG-16", method="ADV", attack="PGD",
                      quantity="accuracy, all features")
    assert (found.value, found.unit, found.table, found.certainty) == (44.71, "percent", "Table 1", "certain")
    assert str(found) == "44.71 % (Table 1)"
    assert kim("Table 1", "VGG-16", "ADV", "PGD") == found


def test_kims_numbers_are_found_by_the_names_of_the_chapters() -> None:
    assert kim("Table 3", "VGG-16", "TRADES-K", "clean").value == 78.2
    assert kim("Table 1", "VGG-16", "ADV", "clean", "accuracy, robust features").value == 99.87


@pytest.mark.parametrize("path", sorted((ROOT / "book" / "published").glob("*.csv")), ids=lambda path: path.stem)
def test_every_published_number_is_complete_and_can_be_asked_for(path: Path) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 10
    for row in rows:
        assert None not in row, f"too many fields: {row}"
        assert all(value is not None for value in row.values()), f"too few fields: {row}"
        where = {key: value for key, value in row.items() if key not in ("value", "unit", "certainty")}
        found = published(path.stem, **where)
        assert math.isfinite(found.value)
        assert found.value == float(row["value"])
        assert found.certainty in ("certain", "inferred", "unknown")
        if found.unit == "percent":
            assert -100 <= found.value <= 100


# --- tables -------------------------------------------------------------------------------------------------------

@pytest.fixture
def table() -> Table:
    pgd = [outcome(30, 40), outcome(31, 40), outcome(29, 40)]
    fgsm = [outcome(50, 80, attack=FGSM_LABEL)]
    return Table({"standard <a>": {"FGSM": Result.of("a", "w", fgsm), "PGD": Result.of("b", "w", pgd)},
                  "published": {"PGD": published("kim2021", table="Table 1", dataset="CIFAR-10", model="VGG-16",
                                                 method="ADV", attack="PGD", quantity="accuracy, all features"),
                                "note": "n/a"}}, "Accuracy & more", "profile smoke, cpu, 2 threads")


def test_notes_say_what_the_numbers_need(table: Table) -> None:
    notes = "\n".join(table.notes())
    for words in (PGD_LABEL, FGSM_LABEL, "n = 40 images",
                  "n = 80 images", "3 seeds", "Student t", "Wilson", "profile smoke, cpu, 2 threads"):
        assert words in notes
    assert "without width" not in notes


def test_notes_name_every_number_of_seeds_and_of_images() -> None:
    rows = {"a": {"x": Result.of("a", "w", [0.25, 0.5], n=100), "y": Result.of("b", "w", [0.25, 0.5, 0.75], n=40)},
            "b": {"x": Result.of("c", "w", [outcome(1, 7)]), "y": Result.of("d", "w", [0.5], n=40)}}
    assert Table(rows, "t").notes()[:3] == [
        "mean over 2/3 seeds, 95 % Student t interval (this method); n = 40/100 images per seed",
        "one model; 95 % Wilson interval over its images (this model); n = 7 images per seed",
        "one model, without an interval; n = 40 images per seed"]


def test_notes_name_attacks_by_row_where_only_rows_keep_to_one(table: Table) -> None:
    assert f"PGD: {PGD_LABEL}, n = 40" in table.notes()
    turned = Table({label: {"standard": table.rows["standard <a>"][label]} for label in ("FGSM", "PGD")}, "Accuracy")
    assert f"FGSM: {FGSM_LABEL}, n = 80" in turned.notes()
    assert not any(note.startswith("standard") for note in turned.notes())


def test_a_table_without_rows_says_so() -> None:
    empty = Table({}, "caption", "stamp")
    assert empty.notes() == ["no row: there is nothing here that could be shown", "stamp"]
    assert "no row" in repr(empty)


def test_a_table_shows_every_cell_and_escapes(table: Table) -> None:
    assert table.columns == ("FGSM", "PGD", "note")
    assert table.frame.loc["published", "PGD"] == "44.71 % (Table 1)"
    assert table.frame.loc["published", "FGSM"] == ""
    html = table._repr_html_()
    assert "Accuracy &amp; more" in html
    assert "standard &lt;a&gt;" in html
    assert "<a>" not in html
    for note in table.notes():
        assert note in html
        assert note in repr(table)


# --- what was edited by hand --------------------------------------------------------------------------------------

QUICK = ROOT / "book" / "editions" / "quick" / "01_known_features.json"


def of_first(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["results"][0].update(changes)


def of_parameters(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["parameters"].update(changes)


@pytest.mark.parametrize(("edit", "words"), [
    (of_first(values=[5, 5, 5], value=5, unit="share"), "known.tile, theory.L_inf 0: 5; expected a share from 0 to 1"),
    (of_first(value=0.123), "value 0.123; expected the mean of its values"),
    (of_first(unit="percent"), "unit = 'percent': expected one of share, points, correlation, number"),
    (of_first(n=-3), "k = None, n = -3; expected 0 <= k <= n"),
    (of_first(k=10**6, n=500), "k = 1000000, n = 500; expected 0 <= k <= n"),
    (of_first(k=-1, n=500), "k = -1, n = 500"),
    (of_parameters(seeds="three"), "seeds = 'three': expected a whole number from 1 to 100000"),
    (of_parameters(seeds=10**9), "seeds = 1000000000: expected"), (of_parameters(seeds=0), "seeds = 0: expected"),
    (of_parameters(first_seed=None), "first_seed = None"), (of_parameters(first_seed="0"), "first_seed = '0'"),
    (lambda content: content["verdicts"][0].update(held="held!"), "verdicts.entry 1.held: expected 'held', 'not held'"),
    (lambda content: content["verdicts"][0].update(result="no.such"), "no result 'no.such'"),
    (lambda content: content["results"][1].update(id=content["results"][0]["id"]), "expected another id for each"),
    (lambda content: content.update(finished="2026-01-01T00:00:00"), "finished: Input should have timezone info"),
    (lambda content: content.update(minutes=-1), "minutes: expected greater than or equal to 0"),
    (lambda content: content.update(classes=0), "classes: expected greater"),
])
def test_a_record_that_no_run_could_have_made_is_refused_even_without_a_check(
        edit: Callable[[dict[str, Any]], object], words: str) -> None:
    content = json.loads(QUICK.read_text())
    content.pop("check")
    assert loads(json.dumps(content), "x").parameters["seeds"] == 3
    edit(content)
    assert_one_line(lambda: loads(json.dumps(content), "x"), ["x: not a record of results", words])


@pytest.mark.parametrize("edit", [lambda content: content.update(results=[], verdicts=[]),
                                  of_first(value=math.nan, values=[math.nan] * 3), of_first(n=600),
                                  lambda content: content.pop("check")])
def test_the_check_tells_what_could_have_been(edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(QUICK.read_text())
    edit(content)
    assert_one_line(lambda: loads(json.dumps(content), "x", older=False), ["x: its record was changed by hand"])


def test_rounding_and_what_is_undefined_are_no_faults() -> None:
    for value in (1 + 1e-7, -1e-7, math.nan):
        assert Result.of("a", "w", [value], unit="share")
    assert Result.of("a", "w", [math.inf, 1.0], unit="number").value == math.inf
    assert Result.of("a", "w", [-1.5], unit="points")


@pytest.mark.parametrize(("ask", "words"), [
    (lambda: rank_correlation([1, math.nan, 3], [1, 2, 3]), "value nan: expected finite numbers"),
    (lambda: rank_correlation([1, 2, 3], [1, math.inf, 3]), "value inf: expected finite numbers"),
    (lambda: rank_correlation(["1", "10", "9"], [1, 2, 3]), "value '1': expected finite numbers"),  # type: ignore[list-item]
    (lambda: mcnemar(torch.tensor([3, 4]), torch.tensor([3, 5])), "expected bool, right or wrong"),
    (lambda: wilson(3, 4, 95), "such as 0.95"),
    (lambda: student_t([0.1, 0.2], 95), "confidence = 95"),
    (lambda: detectable(1), "0 degrees of freedom"),
])
def test_what_has_no_statistic_gets_one_line(ask: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as told:
        ask()
    assert "\n" not in str(told.value)
