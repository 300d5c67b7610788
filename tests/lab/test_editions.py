"""An edition holds whole, clean runs at its profile, and is written only when all of them are."""

from pathlib import Path
from typing import Any

import nbformat
import pytest

from nbutils.lab import chapters, editions, results
from nbutils.lab.results import Result

NAMES = ("01_x", "02_y", "03_z")
FOUND = [Result.of("a", "w", [0.1, 0.2])]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of three chapters, the first two of which have run; returns the folder of its editions."""
    sources = [tmp_path / f"{name}.ipynb" for name in NAMES]
    for source in sources:
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("run.card()", id="card")]), source)
    monkeypatch.setattr(chapters, "every", lambda profile: [chapters.Chapter(source, profile) for source in sources])
    monkeypatch.setattr(editions, "every", chapters.every)
    monkeypatch.setattr(editions, "EDITIONS", tmp_path / "editions")
    monkeypatch.setattr(editions, "ROOT", tmp_path)
    for name in NAMES[:2]:
        run(name)
    return tmp_path / "editions"


def run(name: str, commit: str = "abc", code: str = "run.card()", error: bool = False, **given: Any) -> None:
    """Leave an executed notebook."""
    card = results.dumps({"chapter": name, "commit": commit}, FOUND, [{"claim": "c", "held": "held"}])
    outputs = [nbformat.v4.new_output("display_data", {results.MIME: card})]
    if error:
        outputs.append(nbformat.v4.new_output("error", ename="KeyError", evalue="x", traceback=[]))
    cell = nbformat.v4.new_code_cell(code, outputs=outputs, id="card")
    metadata = {"papermill": {"duration": 1.0, "parameters": {"profile": "quick", **given}}}
    twin = next(chapter for chapter in chapters.every("quick") if chapter.name == name).twin
    twin.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), twin)


def test_an_edition_reads_back_as_the_runs_were(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert editions.main(["quick"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "editions/quick/01_x.json", "editions/quick/02_y.json"]
    header, found = editions.find("quick", "02_y")
    assert (header["chapter"], header["commit"], found) == ("02_y", "abc", FOUND)
    assert header["verdicts"] == [{"claim": "c", "held": "held"}]
    with pytest.raises(ValueError, match="03_z: not recorded in edition 'quick'; it has 01_x, 02_y"):
        editions.find("quick", "03_z")
    with pytest.raises(ValueError, match="01_x: not recorded in edition 'paper'; it has no chapter"):
        editions.find("paper", "01_x")


def test_chapters_that_did_not_run_again_stay_in_the_edition(book: Path) -> None:
    editions.keep("quick")
    for chapter in chapters.every("quick"):
        chapter.twin.unlink(missing_ok=True)
    run("03_z")
    assert [path.stem for path in editions.keep("quick")] == ["03_z"]
    assert sorted(path.stem for path in book.glob("quick/*")) == list(NAMES)


@pytest.mark.parametrize(("changes", "words"), [
    ({"commit": "abc-dirty"}, "02_y: ran from commit abc-dirty; commit first, then run it again"),
    ({"commit": "unknown"}, "02_y: ran from commit unknown"),
    ({"error": True}, "02_y: failed in cell 1: KeyError: x; an edition holds whole runs only"),
    ({"code": "other"}, "02_y: stale since its code was edited; an edition holds whole runs only"),
    ({"eps": 1, "steps": 2}, "02_y: ran with eps, steps changed; an edition keeps to its profile"),
])
def test_a_run_that_does_not_count_stops_the_edition(book: Path, changes: dict[str, Any], words: str,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    run("02_y", **changes)
    assert editions.main(["quick"]) == 2
    found = capsys.readouterr().err
    assert found.startswith(words)
    assert found.count("\n") == 1
    assert not book.exists()  # nothing of the first chapter either


def test_a_profile_without_runs_is_refused(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert editions.main(["quik"]) == 2
    assert capsys.readouterr().err == ("no chapter has run at profile 'quik'; run `make book PROFILE=quik` first\n")
