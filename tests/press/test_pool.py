"""Runs with different seeds as one: whose seeds, the numbers and verdicts over all of them, and what is refused."""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from book.press import editions, pool
from book.press.__main__ import main
from book.press.compare import Comparison
from book.press.files import write
from book.press.pool import Pool, spans
from nbutils.lab import claims
from nbutils.lab.results import Record, Result, dumps, loads, student_t
from tests import helpers

NAME = "01_known_features"
PARAMETERS: dict[str, Any] = {"profile": "quick", "dataset": "planted", "epochs": 12, "eps": 8 / 255, "device": "auto"}


def number(*values: float, id: str = "known.tile", **context: Any) -> Result:
    return Result.of(id, "w", values, **{"unit": "number", "n": 500, **context})


def run(first: int, *values: float, found: Iterable[Result] = (), **changes: Any) -> Record:
    """A run with a seed for each value of the one result, from the first on."""
    parameters = {**PARAMETERS, "seeds": len(values), "first_seed": first, **changes.pop("parameters", {})}
    return helpers.record([number(*values), *found], parameters=parameters, **changes,
                          verdicts=[{"claim": "a-claim", "held": "not comparable"}])


@pytest.fixture(autouse=True)
def one_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Criterion: above 0.5, over at least three seeds."""
    (tmp_path / "claims.yml").write_text(helpers.CLAIM)
    known = claims.load(tmp_path / "claims.yml")
    monkeypatch.setattr(claims, "load", lambda: known)


def test_values_are_those_of_all_seeds_and_the_verdict_is_over_them() -> None:
    """Two seeds each are too few for the claim; four are enough, and the order of the runs plays no part."""
    mine, yours = run(2, 0.8, 0.9), run(0, 0.7, 0.75)
    for runs in ({"mine": mine, "yours": yours}, {"yours": yours, "mine": mine}):
        found = Pool.of(runs).record
        result = found.by_id["known.tile"]
        assert result.values == (0.7, 0.75, 0.8, 0.9)
        assert result.value == pytest.approx(0.7875)
        assert result.limits() == pytest.approx(student_t([0.7, 0.75, 0.8, 0.9]))
        assert found.sources == {"yours": (0, 1), "mine": (2, 3)}
        assert (found.parameters["seeds"], found.parameters["first_seed"]) == (4, 0)
        assert [(verdict.claim, verdict.held) for verdict in found.verdicts] == [("a-claim", "held")]


def test_the_text_says_whose_seeds_and_how_each_run_was_judged() -> None:
    said = Pool.of({"mine": run(7, 0.8, device="A GPU"), "yours": run(0, 0.7, 0.75, 0.8, commit="def")}).text()
    assert "4 seeds from 2 runs" in said
    lines = [line.split() for line in said.splitlines()]
    assert ["0", "to", "2", "yours", "cpu,", "2", "threads", "float32", "def", "2030-01-02"] in lines
    assert ["7", "mine", "A", "GPU", "float32", "abc", "2030-01-02"] in lines
    assert any(line[:6] == ["a-claim", "held", "not", "comparable,", "not", "comparable"] for line in lines)


def test_a_pooled_record_can_be_kept_and_pooled_with_more() -> None:
    first = Pool.of({"a": run(0, 0.7), "b": run(1, 0.8)}).record
    again = loads(dumps(first), "x")
    assert again == first
    more = Pool.of({"both": again, "c": run(5, 0.9)}).record
    assert more.sources == {"a": (0,), "b": (1,), "c": (5,)}
    assert more.by_id["known.tile"].values == (0.7, 0.8, 0.9)
    with pytest.raises(ValueError, match="^c: seed 1 is in both too; expected each seed once, such as a run with "
                                         "first_seed = 3$"):
        Pool.of({"both": again, "c": run(1, 0.9, 0.9)})


def test_older_records_have_the_seeds_from_0_on() -> None:
    older = helpers.record([number(1, 2)], parameters={**PARAMETERS, "seeds": 2})
    assert Pool.of({"a": older, "b": run(2, 3)}).record.sources == {"a": (0, 1), "b": (2,)}
    with pytest.raises(ValueError, match="seed 1 is in a too"):
        Pool.of({"a": older, "b": run(1, 3)})


@pytest.mark.parametrize(("changes", "words"), [
    ({"parameters": {"epochs": 3}}, "b: epochs = 3, a has 12; expected runs that differ in their seeds alone"),
    ({"parameters": {"eps": 4 / 255}}, "b: eps = 0.01569, a has 0.03137"),
    ({"chapter": "02_adversarial_training"}, "b: chapter 02_adversarial_training, a has 01_known_features"),
])
def test_runs_that_differ_in_more_than_seeds_are_refused(changes: dict[str, Any], words: str) -> None:
    helpers.assert_one_line(lambda: Pool.of({"a": run(0, 1), "b": run(1, 1, **changes)}), [words])


@pytest.mark.parametrize("name", ["device", "precision", "profile", "unused"])
def test_what_is_the_machines_or_of_no_use_to_the_chapter_may_differ(name: str) -> None:
    assert Pool.of({"a": run(0, 1), "b": run(1, 2, parameters={name: "x"})}).record.by_id["known.tile"].values == (1, 2)


def test_an_edition_hides_where_a_folder_of_images_was() -> None:
    a, b = ({"parameters": {"dataset": f"folder:{path}"}, "chapter": "02_adversarial_training"}
            for path in ("/data/cifar10", "cifar10"))
    assert len(Pool.of({"a": run(0, 1, **a), "b": run(1, 2, **b)}).record.sources) == 2


def test_numbers_that_are_not_alike_are_left_out_and_named() -> None:
    a = run(0, 1, found=[number(1, id="only.a"), number(1, id="threat", threat="L_inf 8/255")])
    b = run(1, 1, found=[number(1, id="only.b"), number(1, id="threat", threat="L_inf 4/255")])
    found = Pool.of({"a": a, "b": b})
    assert [result.id for result in found.record.results] == ["known.tile"]
    assert found.left_out == ("only.a", "threat", "only.b")
    assert "have them alike: only.a, threat, only.b." in found.text()


def test_two_single_models_are_a_method_and_norms_are_means_over_seeds() -> None:
    single = replace(number(0.5, unit="share", norms=(1.0, 0.1), inputs=("model-1", "cafe")), k=250)
    several = number(0.25, 0.75, unit="share", norms=(4.0, 0.4), inputs=("model-2", "cafe"))
    parts = [helpers.record([each], parameters={**PARAMETERS, "seeds": len(each.values), "first_seed": first})
             for first, each in ((0, single), (5, several))]
    found = Pool.of({"a": parts[0], "b": parts[1]}).record.results[0]
    assert (found.k, found.interval) == (None, "this method")
    assert found.norms == pytest.approx((3.0, 0.3))
    assert found.inputs == ("model-1", "cafe", "model-2")


def test_pooled_intervals_hold_the_truth_95_times_in_100(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 pools of 3 and 2 seeds, generator 0; three standard errors of the share are .021."""
    monkeypatch.setattr(pool, "named", cache(pool.named))  # one chapter: its files are read once
    draws = np.random.default_rng(0).normal(0, 1, (1000, 5))
    inside = 0
    for row in draws:
        low, high = Pool.of({"a": run(0, *row[:3]), "b": run(3, *row[3:])}).record.results[0].limits() or (0, 0)
        inside += low < 0 < high
    assert inside / 1000 == pytest.approx(0.95, abs=0.021)


def test_seeds_in_words() -> None:
    assert spans([2, 0, 1, 7, 9, 10]) == ["0 to 2", "7", "9 to 10"]
    assert Comparison.of(run(3, 1, 2), run(0, 1, 2)).settings == ["seeds: 3 to 4, ours 0 to 1"]


# --- the command --------------------------------------------------------------------------------------------------

@pytest.fixture
def edition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, seeds 0 to 2."""
    monkeypatch.setattr(editions, "EDITIONS", tmp_path / "editions")
    write({tmp_path / "editions" / "quick" / f"{NAME}.json": dumps(run(0, 0.7, 0.75, 0.8))})


def test_one_run_alone_is_pooled_with_ours(edition: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, out = tmp_path / "mine.json", tmp_path / "new" / "all.json"
    mine.write_text(dumps(run(3, 0.9)))
    assert main(["pool", str(mine), "-o", str(out)]) == 0
    assert "edition quick" in capsys.readouterr().out
    kept = loads(out.read_text(), out)
    assert kept.sources == {"edition quick": (0, 1, 2), str(mine): (3,)}
    assert main(["compare", str(out)]) == 2
    assert "a pooled record with seed 0, which is ours too" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "twice", "words"), [
    (dumps(run(2, 0.9)), False, "mine.json: seed 2 is in edition quick too; expected each seed once, such as a run "
                                "with first_seed = 3"),
    (dumps(run(3, 0.9)), True, "mine.json: stands twice; expected each run once"),
    (json.dumps({"cells": 1}), False, "neither an executed notebook nor a record"),
    (dumps(run(3, 0.9, chapter="01_known")), False, "which this book does not have"),
])
def test_what_cannot_be_pooled_gets_one_line(edition: None, tmp_path: Path, content: str, twice: bool, words: str,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.json").write_text(content)
    assert main(["pool", *[str(tmp_path / "mine.json")] * (1 + twice)]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("\n") == 1
    assert words in said.err


def test_the_edition_quick_can_be_pooled_with_new_seeds() -> None:
    ours = pool.recorded(editions.EDITIONS / "quick" / f"{NAME}.json")
    new = ours.model_copy(update={"parameters": {**ours.parameters, "first_seed": ours.parameters["seeds"]}})
    found = Pool.of({"ours": ours, "new": new}).record
    assert len(found.results) == len(ours.results)
    assert all(len(result.values) == 2 * len(ours.by_id[result.id].values) for result in found.results)


def test_an_output_never_takes_the_place_of_what_is_no_pooled_record(edition: None, tmp_path: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    mine, notebook, out = (tmp_path / name for name in ("mine.json", "run.ipynb", "all.json"))
    mine.write_text(dumps(run(3, 0.9)))
    notebook.write_text("{}")
    (tmp_path / "link.json").symlink_to(mine)
    for path, words in ((mine, "one of the runs, which would be lost"), (tmp_path / "link.json", "one of the runs"),
                        (notebook, "holds no pooled record; expected a new file"), (tmp_path, "holds no pooled"),
                        (Path(), "-o .: is there and holds no"), (Path("/proc/x.json"), "'/proc/x.json'")):
        before = [path.read_text() for path in (mine, notebook)]
        assert main(["pool", str(mine), "-o", str(path)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
        assert [path.read_text() for path in (mine, notebook)] == before
    assert [main(["pool", str(mine), "-o", str(out)]) for _ in range(2)] == [0, 0]  # an older pooled record goes


@pytest.mark.parametrize("shown", ["", "/dev/full"])
def test_what_is_to_be_kept_is_kept_before_it_is_shown(shown: str, edition: None, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal without the sign for minus, and where nothing can be shown at all."""
    mine, out = tmp_path / "mine.json", tmp_path / "all.json"
    mine.write_text(dumps(run(3, -0.9, 0.1)))
    path = shown or tmp_path / "shown"
    with open(path, "w", encoding="ascii") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        assert main(["pool", str(mine), "-o", str(out)]) == (2 if shown else 0)
    assert loads(out.read_text(), out).sources
    assert capsys.readouterr().err == "[Errno 28] No space left on device: 'standard output'\n" * bool(shown)
    if not shown:
        assert " [?" in path.read_text()


def test_compare_shows_what_a_narrow_terminal_can(edition: None, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.json").write_text(dumps(run(3, -0.9, 0.1)))
    with (tmp_path / "shown").open("w", encoding="ascii") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        assert main(["compare", str(tmp_path / "mine.json"), "--all"]) in (0, 1)
    assert "?0.4" in (tmp_path / "shown").read_text()


@pytest.mark.parametrize(("changes", "words"), [
    ({"parameters": {"epochs": None}}, "b: epochs = None, a has 12; expected runs that differ in their seeds alone"),
    ({"classes": 2}, "b: classes = 2, a has 10; expected runs that differ in their seeds alone"),
    ({"parameters": {"first_seed": 150}}, "b: seed 150 is one of a run's students; expected the first 100 of a block"),
])
def test_runs_of_other_images_or_unknown_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    helpers.assert_one_line(lambda: Pool.of({"a": run(0, 1, classes=10), "b": run(1, 1, **{"classes": 10} | changes)}),
                            [words])


def test_older_records_do_not_say_how_many_classes_they_have() -> None:
    assert Pool.of({"a": run(0, 1), "b": run(1, 1, classes=10)}).record.classes == 10


def test_folders_of_one_name_in_two_places_are_told() -> None:
    runs = {name: run(seed, 1, parameters={"dataset": f"folder:/{name}/pets"}, chapter="02_adversarial_training")
            for seed, name in enumerate("ab")}
    words = "Note: the images are of folders of one name in 2 places, folder:/a/pets and folder:/b/pets; expected the"
    assert words in Pool.of(runs).text()
    assert "Note" not in Pool.of({"a": runs["a"], "b": run(1, 1, parameters=runs["a"].parameters | {"first_seed": 1},
                                                           chapter="02_adversarial_training")}).text()


def test_the_file_that_has_a_seed_too_is_named() -> None:
    part = run(3, 1)
    both = Pool.of({"b.json": part, "c.json": run(4, 1)}).record
    with pytest.raises(ValueError, match=r"^b.json: seed 3 is in all.json too"):
        Pool.of({"all.json": both, "b.json": part})
    twice = Pool.of({"all.json": both, "b.json": run(7, 1)}).record  # another file of that name
    assert twice.sources == {"b.json": (3,), "c.json": (4,), "b.json in b.json": (7,)}


def test_a_link_still_leads_to_where_the_pool_is_kept(edition: None, tmp_path: Path) -> None:
    mine, kept, link = (tmp_path / name for name in ("mine.json", "kept.json", "all.json"))
    mine.write_text(dumps(run(3, 0.9)))
    link.symlink_to(kept.name)
    for _ in range(2):
        assert main(["pool", str(mine), "-o", str(link)]) == 0
        assert link.is_symlink()
        assert loads(kept.read_text(), kept).sources


def test_a_record_may_begin_with_the_mark_of_windows(edition: None, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(dumps(run(3, 0.9)), encoding="utf-8-sig")
    assert main(["pool", str(tmp_path / "mine.json")]) == 0
