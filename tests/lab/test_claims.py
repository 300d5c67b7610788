"""Claims: their schema, the logic of a criterion at its bound, and the book's own file."""

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from book.press import editions
from book.press.chapters import Chapter, code_cells, read
from nbutils.lab import claims
from nbutils.lab.claims import Claim, Criterion, judge
from nbutils.lab.parameters import Parameters, resolve
from nbutils.lab.results import Record, Result
from nbutils.machine import ROOT
from nbutils.robustness import ThreatModel
from tests import helpers
from tests.helpers import CLAIM, assert_one_line

ENTRY = yaml.safe_load(helpers.CLAIM)[0]
PLANTED = {"dataset": "planted"}


def result(*values: float, unit: str = "number", n: int = 100, **context: Any) -> Result:
    return Result.of("known.tile", "usefulness", values, unit=unit, n=n, **{"data": "planted", **context})


def between(low: float, high: float, **context: Any) -> Result:
    """Three seeds whose 95 % interval has these ends: a gap between them of d gives 4.303 d / sqrt(3) to both sides."""
    value, gap = (low + high) / 2, (high - low) / 2 * math.sqrt(3) / float(stats.t.ppf(0.975, 2))
    return result(value - gap, value, value + gap, **context)


@dataclass
class Ends:
    """What a criterion sees of a result: its interval, of whatever confidence."""

    low: float
    high: float

    def limits(self, confidence: float = 0.95) -> tuple[float, float]:
        return self.low, self.high


HIGH, LOW, MIDDLE = between(0.8, 1.0), between(0.0, 0.2), between(0.4, 0.6)


@pytest.mark.parametrize(("criterion", "low", "high", "held"), [
    ({"above": 0.5}, 0.51, 0.9, "held"),
    ({"above": 0.5}, 0.5, 0.9, "undecided"),  # the bound itself is not above the bound
    ({"above": 0.5}, 0.1, 0.9, "undecided"),
    ({"above": 0.5}, 0.1, 0.5, "not held"),
    ({"above": 0.5}, 0.1, 0.4, "not held"),
    ({"above": 0.5}, 0.5, 0.5, "not held"),
    ({"above": 0}, -1, 0, "not held"),
    ({"below": 0.5}, 0.1, 0.49, "held"),
    ({"below": 0.5}, 0.1, 0.5, "undecided"),
    ({"below": 0.5}, 0.1, 0.9, "undecided"),
    ({"below": 0.5}, 0.5, 0.9, "not held"),
    ({"below": 0}, -2, -0.01, "held"),
    ({"within": 0.5}, -0.4, 0.4, "held"),
    ({"within": 0.5}, 0.4, 0.5, "undecided"),
    ({"within": 0.5}, 0.5, 0.6, "not held"),
    ({"within": 0.5}, -0.6, -0.5, "not held"),
])
def test_a_criterion_at_its_bound(criterion: dict[str, float], low: float, high: float, held: str) -> None:
    assert Criterion(**criterion).judge(Ends(low, high)) == held  # type: ignore[arg-type]


@given(bound=st.floats(-1, 1), ends=st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_above_and_below_mirror_each_other(bound: float, ends: tuple[float, float]) -> None:
    low, high = sorted(ends)
    above, below = Criterion(above=bound), Criterion(below=-bound)
    assert above.judge(Ends(low, high)) == below.judge(Ends(-high, -low))  # type: ignore[arg-type]


@pytest.mark.parametrize(("values", "bound", "held"), [
    ((-0.01, 0.0, 0.01), 0.0169, "held"),  # 90 %: 2.92 * .01 / sqrt(3) = .016859 to both sides
    ((-0.01, 0.0, 0.01), 0.0168, "undecided"),
    ((-0.01, 0.0, 0.01), 0.02, "held"),  # though the 95 % interval, .0248 to both sides, is wider than that
    ((0.1, 0.11, 0.12), 0.05, "not held"),
    ((-0.1, -0.11, -0.12), 0.05, "not held"),
    ((0.06, 0.07, 0.08), 0.05, "undecided"),  # the 95 % interval begins at .045, the 90 % one at .053
])
def test_no_difference_has_to_be_shown_by_two_one_sided_tests(values: tuple[float, ...], bound: float,
                                                              held: str) -> None:
    criterion = Criterion(within=bound)
    assert criterion.judge(result(*values)) == held
    above, below = (stats.ttest_1samp(values, end, alternative=side).pvalue
                    for end, side in ((-bound, "greater"), (bound, "less")))
    assert (held == "held") == (max(above, below) < 0.05)
    assert str(criterion) == f"the whole 90 % interval lies within {bound:g} of 0"


@pytest.mark.parametrize(("measured", "reason"), [
    (result(0.9, 0.9), "2 seeds, the claim asks for 3"),
    (result(0.9), "1 seed, the claim asks for 3"),
    (result(0.9, 0.9, 0.9, n=99), "n = 99, the claim asks for 100"),
    (result(math.nan, math.nan, math.nan), "the result is undefined"),
])
def test_too_little_is_not_comparable(measured: Result, reason: str) -> None:
    verdict = judge(Claim(**ENTRY), measured, {})  # type: ignore[arg-type]
    assert verdict.held == "not comparable"
    assert verdict.words == f"not comparable ({reason})"


def test_a_bound_that_rests_on_guessing_is_for_its_number_of_classes() -> None:
    claim, half = Claim(**{**ENTRY, "classes": 10}), between(0.55, 0.65)  # type: ignore[arg-type]
    assert judge(claim, half, {}, classes=10).held == "held"
    assert judge(claim, half, {}).held == "held"  # older records do not say
    assert judge(claim, half, {}, classes=2).words == "not comparable (2 classes, the bound is for 10)"
    assert judge(Claim(**ENTRY), half, {}, classes=2).held == "held"  # type: ignore[arg-type]


def test_no_bound_that_two_classes_meet_or_miss_by_guessing_is_without_its_number_of_classes() -> None:
    guesses = re.compile("accuracy on natural (test )?images|wrong label|^(relative|smallest relative) usefulness of")
    for claim in claims.load().values():
        bound = claim.criterion.above or claim.criterion.below or 0
        if claim.chapter != "01_known_features" and not claim.setting and guesses.search(claim.measures) and bound > 0:
            assert claim.classes == 10, claim.id


def test_another_threat_model_is_not_comparable() -> None:
    claim = Claim(**{**ENTRY, "threat": "L_inf 8/255"})  # type: ignore[arg-type]
    assert judge(claim, between(0.8, 1.0, threat="L_inf 8/255"), {}).held == "held"
    verdict = judge(claim, between(0.8, 1.0, threat="L_inf 1/255"), {})
    assert verdict.words == "not comparable (measured under L_inf 1/255, the claim is about L_inf 8/255)"


def beside(**results: Result) -> list[Result]:
    """Results of the same run: chapter.<name>."""
    return [replace(found, id=f"known.{name}") for name, found in results.items()]


@pytest.mark.parametrize(("dm", "words"), [
    (between(0.06, 0.1), "held in the planted world"),
    (result(0.05, 0.05, 0.05), "control failed (known.DM: 0.050 [0.050, 0.050], needed: above)"),
    (between(-0.2, 0.9), "control failed (known.DM: 0.350 [\N{MINUS SIGN}0.200, 0.900], needed: above)"),
    (result(0.9), "control failed (known.DM: 0.900, needed: above)"),  # one seed has no interval
    (result(math.nan, math.nan), "control failed (known.DM: undefined, needed: above)"),
])
def test_no_verdict_stands_without_its_controls(dm: Result, words: str) -> None:
    claim = Claim(**{**ENTRY, "gates": {"known.CL": {"above": 0.05}, "known.DM": {"above": 0.05}}})  # type: ignore[arg-type]
    found = judge(claim, HIGH, PLANTED, beside(CL=HIGH, DM=dm))
    assert found.words.replace("the whole 95 % interval lies above 0.05", "above") == words
    assert found.held == words.partition(" (")[0].removesuffix(" in the planted world")
    assert judge(claim, LOW, PLANTED, beside(CL=HIGH, DM=dm)).held != "held"
    few = judge(claim, result(0.9, 0.9), {}, beside(CL=HIGH, DM=dm))
    assert few.words == "not comparable (2 seeds, the claim asks for 3)"


@pytest.mark.parametrize(("criterion", "unit", "decides"), [
    *[({side: 80}, unit, False) for side in ("above", "below", "within")
      for unit in ("share", "points", "correlation")],
    *[({side: 80}, "number", True) for side in ("above", "below", "within")],
    ({"above": 1}, "share", False), ({"below": 0}, "share", False), ({"above": -0.05}, "share", False),
    ({"above": 0}, "share", True), ({"below": 1}, "share", True), ({"above": -0.05}, "points", True),
    ({"within": 0.05}, "points", True), ({"below": -0.2}, "points", True),
])
def test_a_bound_that_no_value_or_every_value_meets_decides_nothing(criterion: dict[str, float], unit: str,
                                                                    decides: bool) -> None:
    measured = result(0.9, 0.91, 0.92, unit=unit)
    claim = Claim(**{**ENTRY, "criterion": criterion})  # type: ignore[arg-type]
    assert (judge(claim, measured, {}).held != "not comparable") is decides
    gated = Claim(**{**ENTRY, "gates": {"known.CL": criterion}})  # type: ignore[arg-type]
    found = judge(gated, HIGH, {}, beside(CL=measured))
    assert (found.held != "not comparable") is decides
    assert decides or f"known.CL is of unit {unit}, so that all or none meet: the whole" in found.words


def test_a_control_that_an_older_run_did_not_measure_takes_the_verdict_away() -> None:
    claim = Claim(**{**ENTRY, "gates": {"known.CL": {"above": 0.05}, "known.DM": {"below": 0.05}}})  # type: ignore[arg-type]
    assert judge(claim, HIGH, PLANTED, beside(CL=HIGH)).words == "not comparable (known.DM: not measured)"
    both = judge(claim, HIGH, PLANTED, beside(CL=MIDDLE, DM=HIGH))
    assert both.words.startswith("control failed (known.DM: 0.900 [0.800, 1.000], needed: the whole 95 % interval")


def of(*values: float, n: int = 100) -> Result:
    return result(*values, unit="share", n=n)


@pytest.mark.parametrize(("first", "second", "end"), [
    (of(0, 0, 0), of(0, 0, 0), "0"),
    (of(0.01, 0, 0), of(0, 0, 0), "0"),  # 1 of 300
    (of(1, 1, 1), of(1, 1, 0.99), "100"),
    (of(0, 0, 0), of(1, 1, 1), None),
    (of(0, 0, 0), of(0.4, 0.4, 0.4), None),
    (of(0.03, 0.03, 0.03), of(0, 0, 0), None),  # 9 of 300
    (of(0.01, 0.01, 0.01, n=10_000), of(0, 0, 0), None),  # a share that is known so well is not at 0
])
def test_where_both_lie_at_the_end_of_the_scale_nothing_is_compared(first: Result, second: Result,
                                                                    end: str | None) -> None:
    claim = Claim(**{**ENTRY, "arms": ["known.a", "known.b"]})  # type: ignore[arg-type]
    for verdict in (judge(claim, LOW, PLANTED, beside(a=first, b=second)),
                    judge(claim, LOW, PLANTED, beside(a=second, b=first))):
        assert verdict.words == (f"at the floor (all that is compared is at {end} %)" if end
                                 else "not held in the planted world")
    failing = {"above": 0.9} if first.value < 0.5 else {"below": 0.9}
    gated = Claim(**{**ENTRY, "arms": ["known.a"], "gates": {"known.a": failing}})  # type: ignore[arg-type]
    assert judge(gated, LOW, {}, beside(a=first)).held == "control failed"  # which says more


def test_older_runs_may_lack_an_arm() -> None:
    claim = Claim(**{**ENTRY, "arms": ["known.a", "known.b"]})  # type: ignore[arg-type]
    assert judge(claim, LOW, PLANTED, []).held == "not held"
    assert judge(claim, LOW, PLANTED, beside(a=of(0, 0, 0))).held == "at the floor"


def test_an_upper_bound_can_refute_and_never_show() -> None:
    claim = Claim(**{**ENTRY, "bound": "upper", "planted": True})  # type: ignore[arg-type]
    assert judge(claim, HIGH, {}).words.startswith("not refuted")
    assert judge(claim, LOW, PLANTED).words == "recovers the known truth: no"


def test_a_planted_world_can_only_recover_what_is_known() -> None:
    claim = Claim(**{**ENTRY, "planted": True})  # type: ignore[arg-type]
    assert judge(claim, HIGH, PLANTED).words == "recovers the known truth: yes"
    assert judge(claim, LOW, PLANTED).words == "recovers the known truth: no"
    assert judge(claim, MIDDLE, PLANTED).words == "recovers the known truth: undecided"
    assert judge(Claim(**ENTRY), HIGH, PLANTED).words == "held in the planted world"  # type: ignore[arg-type]
    for dataset in ("folder:planted", "planted_photographs", "cifar10"):
        assert judge(claim, HIGH, {"dataset": dataset}).words == "direction held"
        assert judge(claim, LOW, {"dataset": dataset}).words == "direction not held"


# --- the paper's own setting ----------------------------------------------------------------------------------------

SETTING = {"dataset": "cifar10", "network": "resnet50", "train_size": 50_000}
NUMBER = {"table": "README of the authors' constructed data sets", "quantity": "accuracy"}
D_NR, D_RAND = ({**NUMBER, "method": f"standard training on {name}"} for name in ("D_NR", "D_rand"))  # 88 and 63 %
OWN = {key: value for key, value in ENTRY.items() if key != "published"} | {"setting": SETTING, "value": (D_NR,)}


@pytest.mark.parametrize(("low", "high", "words"), [
    (0.87, 0.89, "reproduced"),
    (0.84, 0.92, "reproduced"),  # the 90 % interval has 2.92 / 4.303 = .679 of that width: .853 to .907
    (0.83, 0.92, "partly reproduced"),
    (0.84, 0.93, "partly reproduced"),
    (0.51, 1.0, "partly reproduced"),  # holds the value, but is too wide to show it
    (0.6, 0.7, "partly reproduced"),
    (0.2, 0.5, "not reproduced"),
    (0.2, 0.51, "undecided"),
])
def test_in_the_papers_own_setting_its_value_counts_too(low: float, high: float, words: str) -> None:
    claim = Claim(**OWN)  # type: ignore[arg-type]
    verdict = judge(claim, between(low, high, data="CIFAR-10"), SETTING)
    assert verdict.words == words
    for shown in (words, "88 % (README of the authors' constructed data sets)"):
        assert shown in unescape(verdict._repr_html_())


@pytest.mark.parametrize(("change", "fits"), [
    ({}, True), ({"train_size": 50_001}, True), ({"train_size": 49_999}, False), ({"dataset": "svhn"}, False),
    ({"network": "resnet18"}, False), ({"seeds": 3}, True),
])
def test_other_settings_say_nothing_about_the_paper(change: dict[str, object], fits: bool) -> None:
    claim = Claim(**OWN)  # type: ignore[arg-type]
    parameters = {**SETTING, **change}
    assert claim.fits(parameters) is fits
    verdict = judge(claim, between(0.87, 0.89), parameters)
    assert verdict.words == ("reproduced" if fits else "not comparable (measured outside the paper's setting)")
    assert not claim.fits({})
    assert not claim.fits({**parameters, "train_size": None})
    assert Claim(**ENTRY).fits(parameters)  # type: ignore[arg-type]


def test_a_setting_without_a_published_value_has_a_direction() -> None:
    claim = Claim(**{**ENTRY, "setting": SETTING})  # type: ignore[arg-type]
    assert judge(claim, between(0.8, 1.0, data="CIFAR-10"), SETTING).words == "direction held"


def test_a_published_value_is_a_number_or_a_difference() -> None:
    assert Claim(**OWN).published_value == 0.88  # type: ignore[arg-type]
    difference = Claim(**{**OWN, "value": (D_NR, D_RAND)})  # type: ignore[arg-type]
    assert difference.published_value == 0.25
    assert difference.printed.startswith("88 % (README")
    assert " minus 63 % (README" in difference.printed
    ratio = {"table": "Table 1", "dataset": "CIFAR-10", "model": "SL", "method": "trained on D_NR",
             "quantity": "relative usefulness"}
    assert Claim(**{**OWN, "paper": "li2023", "value": (ratio,)}).published_value == 0.914  # type: ignore[arg-type]
    assert Claim(**ENTRY).published_value is None  # type: ignore[arg-type]


def test_a_setting_takes_the_form_in_which_a_run_records_it() -> None:
    claim = Claim(**{**ENTRY, "setting": {"dataset": "svhn", "table_networks": "vgg16,wrn28_10", "eps": "8/255"}})  # type: ignore[arg-type]
    assert claim.setting == {"dataset": "svhn", "table_networks": "vgg16, wrn28_10", "eps": 8 / 255}


def test_a_verdict_shows_claim_measure_and_criterion() -> None:
    shown = judge(Claim(**ENTRY), HIGH, {})._repr_html_()  # type: ignore[arg-type]
    for words in ("a-claim", "A pattern can be a useful feature.", "0.900 [0.800, 1.000]", "3 seeds, n = 100 each",
                  "the whole 95 % interval lies above 0.5", "2026-11-21",
                  "With 3 seeds and this spread a gap of 0.131 would be found with 80 % power."):  # 3.264 SD of .0403
        assert words in shown
    one = judge(Claim(**ENTRY), result(0.9), {})  # type: ignore[arg-type]
    assert one.margin == ""
    share = judge(Claim(**ENTRY), result(0.8, 0.9, 1.0, unit="share"), {})  # type: ignore[arg-type]
    assert "a gap of 32.6 points would be found" in share.margin


def load_entries(path: Path, *entries: object) -> dict[str, Claim]:
    path.write_text(yaml.safe_dump(list(entries)))
    return claims.load(path)


def test_a_file_of_claims_is_read_by_id(tmp_path: Path) -> None:
    found = load_entries(tmp_path / "claims.yml", ENTRY, {**ENTRY, "id": "another", "history": [
        {"until": date(2026, 11, 20), "reason": "the bound was mistyped", "was": {"place": "Section 3"}}]})
    assert list(found) == ["a-claim", "another"]
    assert found["another"].history[0].was == {"place": "Section 3"}


# --- the book's own claims ----------------------------------------------------------------------------------------

BOOK = claims.load()


def test_each_of_the_books_claims_says_whose_it_is() -> None:
    """Changed where a claim is added: whose is it?"""
    assert Counter(claim.role for claim in BOOK.values()) == {"paper": 84, "control": 20, "sanity": 13}
    assert all(claims.find(id) == claim for id, claim in BOOK.items())


@pytest.mark.parametrize("claim", [claim for claim in BOOK.values() if claim.setting], ids=lambda claim: claim.id)
def test_each_setting_can_be_run(claim: Claim) -> None:
    parameters = resolve({"profile": "paper", **claim.setting}, Parameters.model_fields)
    assert claim.fits(parameters.model_dump())
    assert parameters.seeds >= claim.least_seeds


@pytest.mark.parametrize("claim", BOOK.values(), ids=list(BOOK))
def test_each_claim_of_the_book(claim: Claim) -> None:
    chapters = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert claim.chapter in chapters
    references = (ROOT / "book" / "references.bib").read_text()
    assert re.search(rf"@\w+\{{{claim.paper},", references), claim.paper
    chapter = Chapter(ROOT / "notebooks" / f"{claim.chapter}.ipynb", "quick")
    judged = [other for other in BOOK.values() if other.id in chapter.source.read_text()]
    if claim.setting:  # the ledger judges it, by a statistic that every run of the chapter measures
        assert set(claim.setting) <= set(chapter.parameters)
        statistics = {other.statistic for other in judged if other.chapter == claim.chapter}
        assert claim.statistic in statistics | editions.find("quick", claim.chapter).by_id.keys()
    else:  # the chapter judges what it promised
        assert claim in judged
    code = "\n".join(cell.source for cell in code_cells(read(chapter.source)))
    named = rf"(?<![\w.]){re.escape(claim.statistic)}(?!\.?\w)"  # in a string or, where names make the id, a comment
    assert re.search(named, code) or claim.setting, f"a search for {claim.statistic} in {claim.chapter} finds nothing"
    for id, gate in claim.gates.items():
        if ".learned." in id:
            assert re.fullmatch(r"[a-z]+\.learned\.(SL|CL|MIM|DM)", id)
            assert gate == Criterion(above=claims.LEAST_LEARNED)
    for change in claim.history:
        assert set(change.was) <= set(Claim.model_fields)
        now = claim.model_dump(mode="json")
        assert any(str(now[field]) != value for field, value in change.was.items())
        # what is judged did not change after the day that its box names
        assert change.until <= claim.fixed or set(change.was) == {"paraphrase"}


@pytest.mark.parametrize(("old", "new", "words"), [
    ("fixed: 2026-11-21", "threat: Linf 8/255\n  fixed: 2026-11-21", "threat: 'Linf 8/255': expected words"),
    ("fixed: 2026-11-21", "fixed: 20261121", "fixed: '20261121': expected"),
    ("0.5", "1_0", "criterion.above: '1_0': expected a plain decimal number"),
    ("least_n: 100", "least_n: 0500", "least_n: '0500': expected a plain decimal number"),
    ("{above: 0.5}", "{above: 0,8}", "exactly one of 'above', 'below' and 'within', such as {above: 0.8}"),
    ("{above: 0.5}", "{abov: 0.5}", "criterion.abov"),
    *[("fixed: 2026-11-21", f"threat: {word}\n  fixed: 2026-11-21", "expected words in which a run records its threat")
      for word in ("L_inf 40/255", "L2 0.50", "L2 .5", "L_inf 5", "L_inf 0", "L_inf 0.031372", "unbounded, unbounded")],
    ("fixed: 2026-11-21", "fixed: 2999-01-01", "fixed: 2999-01-01: is yet to come"),
    ("known.tile", '""', "statistic: "),
    ("ilyas2019", "ilyas2018", "paper 'ilyas2018': not in book/references.bib; did you mean 'ilyas2019'?"),
    ("01_known_features", "01_known_feature", "chapter = '01_known_feature': expected one of"),
    ("least_seeds: 3", "least_seeds: 1000", "least_seeds: expected less than or equal to 100"),
    ("fixed:", "gates: {known.tile: {above: 0}}\n  fixed:", "gates: known.tile is the statistic itself"),
    ("fixed:", "setting: {dataset: cifar10, device: cuda}\n  fixed:", "parameter 'device': no chapter has it, or"),
    ("fixed:", "history: [{until: 2026-11-20, reason: it was mistyped, was: {plaec: x}}]\n  fixed:",
     "history: was 'plaec': no claim has it; did you mean 'place'?"),
    ("fixed:", "history: [{until: 2999-11-20, reason: it was mistyped, was: {place: x}}]\n  fixed:", "is yet to come"),
])
def test_what_is_written_otherwise_than_it_is_meant_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "claims.yml"
    assert old in CLAIM
    path.write_text(CLAIM.replace(old, new))
    assert_one_line(lambda: claims.load(path), ["claims.yml, claim 'a-claim': ", words])


def test_threats_are_the_engines_words_and_no_day_is_yet_to_come() -> None:
    for claim in BOOK.values():
        assert max([claim.fixed, *(change.until for change in claim.history)]) <= datetime.now(UTC).date()
        for words in claim.threat.split(", "):
            if words not in ("", "unbounded"):
                norm, _, eps = words.partition(" ")
                assert str(ThreatModel(norm.replace("_", ""), eps)) == words


@cache
def kept() -> dict[str, dict[str, Record]]:
    return editions.kept()


@pytest.mark.parametrize("claim", [claim for claim in BOOK.values() if claim.gates or claim.arms], ids=lambda c: c.id)
def test_gates_and_arms_are_measured(claim: Claim) -> None:
    """They are on record, or the chapter's code, which is newer than its records, names what they begin with."""
    code = "\n".join(cell.source for cell in code_cells(read(ROOT / "notebooks" / f"{claim.chapter}.ipynb")))
    records = [found[claim.chapter].by_id for found in kept().values() if claim.chapter in found]
    for id in (*claim.gates, *claim.arms):
        parts = id.split(".")
        begins = any(".".join(parts[:k]) in code for k in range(2, len(parts) + 1))
        assert any(id in found for found in records) or begins, f"{claim.chapter} measures no {id}"
