"""Claims: their schema, the logic of a criterion at its bound, and the book's own file."""

import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nbutils.lab import claims
from nbutils.lab.claims import Claim, Criterion, judge
from nbutils.lab.results import Result
from nbutils.lab.store import ROOT

ENTRY = {"id": "a-claim", "chapter": "01_known_features", "paper": "ilyas2019", "place": "Section 2",
         "paraphrase": "A pattern can be a useful feature.", "published": "none", "statistic": "known.tile",
         "measures": "usefulness of a tile", "criterion": {"above": 0.5}, "least_n": 100, "least_seeds": 3,
         "seen": "no", "fixed": date(2026, 11, 21)}


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
    assert judge(claim, result([0, 0, 0], low, high)).held == held


@given(bound=st.floats(-1, 1), ends=st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_above_and_below_mirror_each_other(bound: float, ends: tuple[float, float]) -> None:
    low, high = sorted(ends)
    assert Criterion(above=bound).judge(low, high) == Criterion(below=-bound).judge(-high, -low)


@pytest.mark.parametrize(("measured", "reason"), [
    (result([0.9, 0.9], 0.8, 1.0), "2 seeds, the claim asks for 3"),
    (result([0.9], 0.8, 1.0), "1 seed, the claim asks for 3"),
    (result([0.9] * 3, 0.8, 1.0, n=99), "n = 99, the claim asks for 100"),
    (result([0.9] * 3), "the result has no interval"),
])
def test_too_little_is_not_comparable(measured: Result, reason: str) -> None:
    verdict = judge(Claim(**ENTRY), measured)  # type: ignore[arg-type]
    assert verdict.held == "not comparable"
    assert verdict.words == f"not comparable ({reason})"


def test_another_threat_model_is_not_comparable() -> None:
    claim = Claim(**{**ENTRY, "threat": "L_inf 8/255"})  # type: ignore[arg-type]
    assert judge(claim, result([0.9] * 3, 0.8, 1.0, threat="L_inf 8/255")).held == "held"
    verdict = judge(claim, result([0.9] * 3, 0.8, 1.0, threat="L_inf 1/255"))
    assert verdict.words == "not comparable (measured under L_inf 1/255, the claim is about L_inf 8/255)"


def test_an_upper_bound_can_refute_and_never_show() -> None:
    claim = Claim(**{**ENTRY, "bound": "upper", "planted": True})  # type: ignore[arg-type]
    assert judge(claim, result([0.9] * 3, 0.8, 1.0)).words.startswith("not refuted")
    assert judge(claim, result([0.1] * 3, 0.0, 0.2)).words == "recovers the known truth: no"


def test_a_planted_world_can_only_recover_what_is_known() -> None:
    claim = Claim(**{**ENTRY, "planted": True})  # type: ignore[arg-type]
    high, low = result([0.9] * 3, 0.8, 1.0), result([0.1] * 3, 0.0, 0.2)
    assert judge(claim, high).words == "recovers the known truth: yes"
    assert judge(claim, low).words == "recovers the known truth: no"
    assert judge(Claim(**ENTRY), high).words == "held in the planted world"  # type: ignore[arg-type]
    photographs = result([0.9] * 3, 0.8, 1.0, data="planted_photographs")
    assert judge(claim, photographs).words == "direction held"
    assert judge(claim, result([0.9] * 3, 0.8, 1.0, data="CIFAR-10")).words == "direction held"
    assert judge(claim, result([0.1] * 3, 0.0, 0.2, data="CIFAR-10")).words == "direction not held"


def test_a_verdict_shows_claim_measure_and_criterion() -> None:
    shown = judge(Claim(**ENTRY), result([0.9] * 3, 0.8, 1.0))._repr_html_()  # type: ignore[arg-type]
    for words in ("a-claim", "A pattern can be a useful feature.", "0.900 [0.800, 1.000]", "3 seeds, n = 100 each",
                  "the whole 95 % interval lies above 0.5", "2026-11-21"):
        assert words in shown


def load_entries(path: Path, *entries: object) -> dict[str, Claim]:
    path.write_text(yaml.safe_dump(list(entries)))
    return claims.load(path)


def test_a_file_of_claims_is_read_by_id(tmp_path: Path) -> None:
    found = load_entries(tmp_path / "claims.yml", ENTRY, {**ENTRY, "id": "another", "history": [
        {"until": date(2026, 11, 20), "reason": "the bound was mistyped", "was": {"criterion": {"above": 5}}}]})
    assert list(found) == ["a-claim", "another"]
    assert found["another"].history[0].was == {"criterion": {"above": 5}}


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
    source = (ROOT / "notebooks" / f"{claim.chapter}.ipynb").read_text()
    assert claim.id in source  # the chapter judges what it promised
    for change in claim.history:
        assert set(change.was) <= set(Claim.model_fields)
        now = claim.model_dump(mode="json")
        assert any(now[field] != value for field, value in change.was.items())
        assert change.until <= claim.fixed
