"""A stage is a run of one chapter: done once, started once at a time, and gone on with from where it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from book.press import chapters, stages
from book.press.__main__ import main
from book.press.chapters import select
from book.press.stages import EDITIONS, Stage
from nbutils.lab.parameters import resolve
from nbutils.machine import build_dir
from tests.helpers import record

TABLES = sorted(path.parent.name for path in EDITIONS.glob("*/stages.yml"))
CODE = """
import os, time
from pathlib import Path
from nbutils.store import load_or_build
import torch

def make(name):
    def build():
        Path(FOLDER, name).open("a").write("made\\n")
        return {"x": torch.zeros(1)}
    return load_or_build("model", {"name": name}, build)

make("first")
while not Path(FOLDER, "go").exists():
    time.sleep(0.05)
make("second")
"""


@pytest.mark.parametrize("edition", TABLES)
def test_every_stage_is_a_run_that_its_chapter_accepts_within_its_minutes(edition: str) -> None:
    for stage in stages.stages(edition):
        for profile, size in ((edition, stage), ("smoke", stage.tiny(edition))):
            [(chapter, given)] = select(profile, stage.chapter, size.set).items()
            assert chapter.name == stage.chapter
            assert given.keys() - {"profile"} == set(size.given)
        assert stage.minutes is not None
        assert 1 <= stage.minutes <= {"gpu": 10, "cifar10": 120}.get(edition, 20)
        assert stage.gives
    kept = [stage for stage in stages.stages(edition) if stage.keep]
    assert len(kept) == len({(stage.chapter, stage.set) for stage in kept})
    for stage in stages.stages(edition):  # what only fills the store does so for a run that comes after it
        assert stage.keep or stage.chapter == "08_nrf_attack" or any(
            later.keep for later in stages.stages(edition) if later.chapter == stage.chapter)


def test_a_tiny_stage_has_its_editions_networks_and_no_number_above_those_of_smoke() -> None:
    stage = Stage("02_adversarial_training", set="attack_size=1000 costly_size=4 table_networks=vgg16 table_epochs=20")
    assert stage.tiny("gpu").set == ("network=resnet18 table_networks=vgg16 attack_size=100 costly_size=4 "
                                     "table_epochs=1")


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of one chapter, which trains twice and waits between for the file "go", in an edition of two stages."""
    source = tmp_path / "01_x.ipynb"
    cells = [nbformat.v4.new_code_cell("profile: str = 'quick'\nsteps: int | None = None"),
             nbformat.v4.new_code_cell(f"FOLDER = {str(tmp_path)!r}\n{CODE}")]
    cells[0].metadata.tags = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), source)
    rows = [{"chapter": "01_x", "set": "steps=5", "minutes": 2}, {"chapter": "01_x", "keep": True}]
    (tmp_path / "editions" / "quick").mkdir(parents=True)
    (tmp_path / "editions" / "quick" / "stages.yml").write_text(json.dumps(rows))
    monkeypatch.setattr(chapters, "every", lambda profile: [chapters.Chapter(source, profile)])
    monkeypatch.setattr(stages, "every", chapters.every)
    monkeypatch.setattr(stages, "EDITIONS", tmp_path / "editions")
    monkeypatch.setattr(stages, "present_commit", lambda: "abc")
    return tmp_path


def in_a_process(folder: Path) -> list[str]:
    """The command that runs stage 1 of this book."""
    code = ("from pathlib import Path; from book.press import __main__, chapters, stages; "
            f"source = Path({str(folder)!r}); "
            "chapters.every = lambda profile: [chapters.Chapter(source / '01_x.ipynb', profile)]; "
            "stages.every = chapters.every; stages.EDITIONS = source / 'editions'; "
            "stages.present_commit = lambda: 'abc'; "
            "raise SystemExit(__main__.main(['stage', 'quick', '1']))")
    return [sys.executable, "-c", code]


def wait_for(there: Callable[[], object], process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not there():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.05)


def test_a_stage_runs_once_at_a_time_and_when_killed_goes_on_from_the_store(book: Path) -> None:
    with subprocess.Popen(in_a_process(book), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: list((build_dir() / "store" / "model").glob("model-*/record.json")), process)
        with subprocess.Popen(in_a_process(book), stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "stage 1 of edition 'quick' is running already: waiting for its end\n"
            second.kill()
        kernels = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
    assert not psutil.wait_procs(kernels, timeout=60)[1]  # they look for their parent once a second
    assert "stopped" in stages.table("quick").splitlines()[1]
    (book / "go").touch()
    assert main(["stage", "quick", "1"]) == 0
    assert ((book / "first").read_text(), (book / "second").read_text()) == ("made\n", "made\n")
    assert stages.table("quick").splitlines()[1].split()[:5] == ["1", "01_x", "steps=5", "2", "ok"]


def test_what_is_done_is_not_done_again(book: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[tuple[str, dict[str, str]]] = []
    changes: dict[str, Any] = {}
    quick = resolve({"profile": "quick"}, ["profile"]).model_dump()
    monkeypatch.setattr(stages, "recorded", lambda path: record(
        parameters=quick | ({"steps": 5} if "steps=5" in str(path) else {}), **changes))
    monkeypatch.setattr(stages, "changed_since", lambda commit: False)
    monkeypatch.setattr(stages, "present_commit", lambda: "abc")

    def leave_a_twin(source: Path, output: Path, given: dict[str, str]) -> None:
        ran.append((output.parent.name, given))
        nbformat.write(chapters.read(source), output)

    monkeypatch.setattr(stages, "execute", leave_a_twin)
    monkeypatch.setenv("SET", "")
    for number in ("1", "1", "2"):
        assert main(["stage", "quick", number]) == 0
    assert ran == [("steps=5", {"profile": "quick", "steps": "5"}), ("quick", {"profile": "quick"})]
    assert "stage 1 of edition 'quick' is done" in capsys.readouterr().out
    changes["commit"] = "abc-dirty"  # a run that cannot be kept is none that is done
    assert main(["stage", "quick", "1"]) == 0
    assert len(ran) == 3
    changes["commit"] = "abc"
    monkeypatch.setenv("SET", "steps=6")  # nor is one with other parameters than those asked for
    assert main(["stage", "quick", "1"]) == 0
    assert ran[-1][1] == {"profile": "quick", "steps": "6"}
    assert main(["stage", "quick", "1", "--tiny"]) == 0
    assert ran[-1][1] == {"profile": "smoke", "steps": "6"}


def test_a_run_that_could_not_be_kept_does_not_start(book: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stages, "present_commit", lambda: "abc-dirty")
    monkeypatch.setattr(stages, "execute", lambda *given: pytest.fail("it runs"))
    assert main(["stage", "quick", "1"]) == 2
    assert capsys.readouterr().err == ("changed files are not committed (commit abc-dirty), so a run could not be "
                                       "kept; commit first\n")


@pytest.mark.parametrize(("words", "message"), [
    (["quick", "3"], "STAGE = '3': edition 'quick' has stages 1 to 2"),
    (["quick", "0"], "STAGE = '0': edition 'quick' has stages 1 to 2"),
    (["plantd"],
     "EDITION = 'plantd': expected one of cifar-cpu, cifar10, gpu, paper, planted, quick, smoke; did you mean"),
    (["plantd", "1"], "EDITION = 'plantd': expected one of"),
    ([""], "EDITION = '': expected one of"),
])
def test_a_bad_choice_is_one_line(book: Path, words: list[str], message: str,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage", *words]) == 2
    found = capsys.readouterr().err
    assert found.startswith(message)
    assert found.count("\n") == 1


def test_an_edition_without_a_table_has_a_stage_for_each_chapter() -> None:
    assert [stage.chapter for stage in stages.stages("quick")] == [chapter.name for chapter in chapters.every("quick")]
    assert all(stage.keep for stage in stages.stages("quick"))
