"""Claims: their schema, the logic of a criterion at its bound, and the book's own file."""

import math
import re
from dataclasses import replace
from datetime import date
from html import unescape
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from book.press.chapters import Chapter, code_cells, read
from nbutils.lab import claims
from nbutils.lab.claims import Claim, Criterion, judge
from nbutils.lab.results import Result
from nbutils.machine import ROOT

ENTRY = {"id": "a-claim", "chapter": "01_known_features", "paper": "ilyas2019", "place": "Section 2",
         "paraphrase": "A pattern can be a useful feature.", "published": "none", "statistic": "known.tile",
         "measures": "usefulness of a tile", "criterion": {"above": 0.5}, "least_n": 100, "least_seeds": 3,
         "seen": "no", "fixed": date(2026, 11, 21)}
PLANTED = {"dataset": "planted"}


def result(values: list[float], low: float | None = None, high: float | None = None, n: int = 100,
           data: str = "planted", threat: str = "none") -> Result:
    return Result("known.tile", "usefulness", "number", sum(values) / len(values), low, high, "this method",
                  tuple(values), n, data=data, threat=threat)


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
])
def test_a_criterion_at_its_bound(criterion: dict[str, float], low: float, high: float, held: str) -> None:
    assert Criterion(**criterion).judge(low, high) == held
    claim = Claim(**{**ENTRY, "criterion": criterion})  # type: ignore[arg-type]
    assert judge(claim, result([0, 0, 0], low, high), {}).held == held


@given(bound=st.floats(-1, 1), ends=st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_above_and_below_mirror_each_other(bound: float, ends: tuple[float, float]) -> None:
    low, high = sorted(ends)
    assert Criterion(above=bound).judge(low, high) == Criterion(below=-bound).judge(-high, -low)


@pytest.mark.parametrize(("measured", "reason"), [
    (result([0.9, 0.9], 0.8, 1.0), "2 seeds, the claim asks for 3"),
    (result([0.9], 0.8, 1.0), "1 seed, the claim asks for 3"),
    (result([0.9] * 3, 0.8, 1.0, n=99), "n = 99, the claim asks for 100"),
    (result([0.9] * 3), "the result has no interval"),
    (result([math.nan] * 3, math.nan, math.nan), "the result is undefined"),
])
def test_too_little_is_not_comparable(measured: Result, reason: str) -> None:
    verdict = judge(Claim(**ENTRY), measured, {})  # type: ignore[arg-type]
    assert verdict.held == "not comparable"
    assert verdict.words == f"not comparable ({reason})"


def test_a_bound_that_rests_on_guessing_is_for_its_number_of_classes() -> None:
    claim, half = Claim(**{**ENTRY, "classes": 10}), result([0.6] * 3, 0.55, 0.65)  # type: ignore[arg-type]
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
    assert judge(claim, result([0.9] * 3, 0.8, 1.0, threat="L_inf 8/255"), {}).held == "held"
    verdict = judge(claim, result([0.9] * 3, 0.8, 1.0, threat="L_inf 1/255"), {})
    assert verdict.words == "not comparable (measured under L_inf 1/255, the claim is about L_inf 8/255)"


@pytest.mark.parametrize(("lows", "words"), [
    ((0.06, 0.051), "held in the planted world"),
    ((0.06, 0.05), "not comparable (the encoder has not learned: DM)"),  # the bound itself is not above the bound
    ((-0.2, 0.0), "not comparable (the encoder has not learned: CL, DM)"),
    ((0.06, None), "not comparable (the encoder has not learned: DM)"),  # one seed has no interval
    ((0.06,), "not comparable (the encoder has not learned: DM)"),  # a run that did not measure it
])
def test_no_verdict_rests_on_an_encoder_that_has_not_learned(lows: tuple[float | None, ...], words: str) -> None:
    claim = Claim(**{**ENTRY, "needs": ["known.learned.CL", "known.learned.DM"]})  # type: ignore[arg-type]
    beside = [replace(result([0.3] * 3, low, 0.9), id=id) for id, low in zip(claim.needs, lows, strict=False)]
    assert judge(claim, result([0.9] * 3, 0.8, 1.0), PLANTED, beside).words == words
    few = judge(claim, result([0.9] * 2, 0.8, 1.0), {}, beside)
    assert few.words == "not comparable (2 seeds, the claim asks for 3)"


def test_an_upper_bound_can_refute_and_never_show() -> None:
    claim = Claim(**{**ENTRY, "bound": "upper", "planted": True})  # type: ignore[arg-type]
    assert judge(claim, result([0.9] * 3, 0.8, 1.0), {}).words.startswith("not refuted")
    assert judge(claim, result([0.1] * 3, 0.0, 0.2), PLANTED).words == "recovers the known truth: no"


def test_a_planted_world_can_only_recover_what_is_known() -> None:
    claim = Claim(**{**ENTRY, "planted": True})  # type: ignore[arg-type]
    high, low, undecided = (result([0.5] * 3, *ends) for ends in ((0.8, 1.0), (0.0, 0.2), (0.4, 0.6)))
    assert judge(claim, high, PLANTED).words == "recovers the known truth: yes"
    assert judge(claim, low, PLANTED).words == "recovers the known truth: no"
    assert judge(claim, undecided, PLANTED).words == "recovers the known truth: undecided"
    assert judge(Claim(**ENTRY), high, PLANTED).words == "held in the planted world"  # type: ignore[arg-type]
    for dataset in ("folder:planted", "planted_photographs", "cifar10"):
        assert judge(claim, high, {"dataset": dataset}).words == "direction held"
        assert judge(claim, low, {"dataset": dataset}).words == "direction not held"


# --- the paper's own setting ----------------------------------------------------------------------------------------

SETTING = {"dataset": "cifar10", "network": "resnet50", "train_size": 50_000}
NUMBER = {"table": "README of the authors' constructed data sets", "quantity": "accuracy"}
D_NR, D_RAND = ({**NUMBER, "method": f"standard training on {name}"} for name in ("D_NR", "D_rand"))  # 88 and 63 %
OWN = {key: value for key, value in ENTRY.items() if key != "published"} | {"setting": SETTING, "value": (D_NR,)}


@pytest.mark.parametrize(("low", "high", "words"), [
    (0.87, 0.89, "reproduced"),
    (0.85, 0.91, "reproduced"),  # the tolerance itself is inside
    (0.849, 0.91, "partly reproduced"),
    (0.85, 0.911, "partly reproduced"),
    (0.51, 1.0, "partly reproduced"),  # holds the value, but is too wide to show it
    (0.6, 0.7, "partly reproduced"),
    (0.2, 0.5, "not reproduced"),
    (0.2, 0.51, "undecided"),
])
def test_in_the_papers_own_setting_its_value_counts_too(low: float, high: float, words: str) -> None:
    claim = Claim(**OWN)  # type: ignore[arg-type]
    verdict = judge(claim, result([0.88] * 3, low, high, data="CIFAR-10"), SETTING)
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
    verdict = judge(claim, result([0.88] * 3, 0.87, 0.89), parameters)
    assert verdict.words == ("reproduced" if fits else "not comparable (measured outside the paper's setting)")
    assert not claim.fits({})
    assert Claim(**ENTRY).fits(parameters)  # type: ignore[arg-type]


def test_a_setting_without_a_published_value_has_a_direction() -> None:
    claim = Claim(**{**ENTRY, "setting": SETTING})  # type: ignore[arg-type]
    assert judge(claim, result([0.9] * 3, 0.8, 1.0, data="CIFAR-10"), SETTING).words == "direction held"


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
    shown = judge(Claim(**ENTRY), result([0.9] * 3, 0.8, 1.0), {})._repr_html_()  # type: ignore[arg-type]
    for words in ("a-claim", "A pattern can be a useful feature.", "0.900 [0.800, 1.000]", "3 seeds, n = 100 each",
                  "the whole 95 % interval lies above 0.5", "2026-11-21"):
        assert words in shown


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


def test_the_books_claims_load_from_its_own_file() -> None:
    assert len(BOOK) >= 10
    assert claims.find(next(iter(BOOK))) == BOOK[next(iter(BOOK))]


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
        assert claim.statistic in {other.statistic for other in judged if other.chapter == claim.chapter}
    else:  # the chapter judges what it promised
        assert claim in judged
    code = "\n".join(cell.source for cell in code_cells(read(chapter.source)))
    named = rf"(?<![\w.]){re.escape(claim.statistic)}(?!\.?\w)"  # in a string or, where names make the id, a comment
    assert re.search(named, code), f"a search for {claim.statistic} in {claim.chapter} finds nothing"
    for id in claim.needs:
        assert re.fullmatch(r"[a-z]+\.learned\.(SL|CL|MIM|DM)", id)
    for change in claim.history:
        assert set(change.was) <= set(Claim.model_fields)
        now = claim.model_dump(mode="json")
        assert any(str(now[field]) != value for field, value in change.was.items())
        assert change.until <= claim.fixed
