"""Sweeps: which runs there are, where they go, which are pooled, and that what is there is not run again."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from book.press import editions, make, sweep
from book.press.__main__ import main
from book.press.chapters import every, resolved
from book.press.sweep import jobs, pools
from nbutils.machine import ROOT


def test_a_sweep_has_each_combination_and_pools_the_seeds(own_build: Path) -> None:
    found = jobs("smoke", "02", "epochs=2", "first_seed=0,2,4 network=small,vgg_small")
    assert len({job.output for job in found}) == len(found) == 6
    assert {job.settings["epochs"] for job in found} == {"2"}
    groups = pools(found)
    folder = own_build / "sweep" / "smoke"
    assert set(groups) == {folder / f"epochs=2+network={name}" / "02_adversarial_training.json"
                           for name in ("small", "vgg_small")}
    for path, group in groups.items():
        assert [job.settings["first_seed"] for job in group] == ["0", "2", "4"]
        assert all(f"network={job.settings['network']}" in str(path) for job in group)


def test_folders_of_runs_are_short_and_never_shared(own_build: Path) -> None:
    settings = [{"dataset": value} for value in ("folder:/sw/a/b", "folder:/sw/a_b", "folder:/sw/a{b}",
                                                 "folder:/sw/a b", f"folder:/{'x' * 400}", f"folder:/{'x' * 400}y")]
    settings += [{}, {"eps": "8/255"}, {"eps": "8_255"}, {"network": "small+epochs=2"}]
    settings += [{"network": "small", "epochs": "2"}]
    names = [sweep._folder({"profile": "smoke", **own}).relative_to(own_build / "sweep" / "smoke") for own in settings]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.,=+ -]{1,120}", str(name)) for name in names)
    assert str(names[-1]) == "network=small+epochs=2"
    assert str(names[7]).startswith("eps=8_255-")


def test_the_sweep_of_the_page_can_start(own_build: Path) -> None:
    """Digits are fewer than profile planted asks for."""
    ((profile, given, swept),) = re.findall(r'make sweep CHAPTER=02 PROFILE=(\w+) SET="(.*?)" SWEEP="(.*?)"',
                                            (ROOT / "book" / "sweep.md").read_text())
    found = jobs(profile, "02", given, swept)
    assert len(found) == 8
    sizes = {job.settings["dataset"]: resolved(job.chapter, job.settings).train_size for job in found}
    assert sizes == {"planted": 6000, "digits": 1437}


def test_a_chapter_without_the_parameter_runs_once(own_build: Path) -> None:
    found = jobs("smoke", "", "", "dataset=planted,digits")
    counts = {name: sum(job.chapter.name.startswith(name) for job in found) for name in ("01", "02")}
    assert counts == {"01": 1, "02": 2}
    assert pools(found) == {}
    assert all(job.state == "not run" for job in found)


@pytest.mark.parametrize(("swept", "given", "words"), [
    ("", "", "SWEEP: not given; expected names with values"),
    ("seeds", "", "SWEEP = 'seeds': expected name=value"),
    ("seeds=2 seeds=3", "", "SWEEP: seeds stands twice"),
    ("first_seed=0,0", "", "SWEEP = first_seed=0,0: a value stands twice"),
    ("seeds=2,3", "seeds=2", "SWEEP = 'seeds': SET has it too"),
    ("seedz=2", "", "seedz"), ("network=small,smal", "", "did you mean 'small'?"),
    ("first_seed=99", "", "first_seed = 99"), ("nosuch=1", "", "SWEEP = 'nosuch'"),
    ("eps=8/255,16/510", "", "SWEEP = eps=8/255,16/510: a value stands twice; expected each once"),
    ("eps=0.1,0.10", "", "a value stands twice"), ("seeds=2,2.0", "", "SWEEP = seeds=2,2.0: a value stands twice"),
    ("first_seed=0,", "", "SWEEP = first_seed=0,: expected a value before and behind each comma"),
    ("first_seed=0,1", "", "SWEEP = first_seed=0,1: with seeds = 2 both runs have seed 1; expected each once, such as "
                           "first_seed=0,2"),
    ("first_seed=0,2", "seeds=3", "with seeds = 3 both runs have seed 2"),
])
def test_a_sweep_that_cannot_be_made_gets_one_line(swept: str, given: str, words: str, own_build: Path,
                                                   monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"PROFILE": "smoke", "CHAPTER": "02", "SET": given, "SWEEP": swept}.items():
        monkeypatch.setenv(name, value)
    assert main(["sweep"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_the_graph_makes_what_is_not_there_and_no_more(own_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROFILE": "smoke", "CHAPTER": "01", "SWEEP": "first_seed=0,2"}.items():
        monkeypatch.setenv(name, value)
    wanted = jobs("smoke", "01", "", "first_seed=0,2")
    (record,) = pools(wanted)
    assert set(make._to_make("sweep")) == {str(record), *(str(job.output) for job in wanted)}
    wanted[0].output.parent.mkdir(parents=True)
    wanted[0].output.write_text("{}")
    wanted[1].output.with_suffix(".partial.ipynb").parent.mkdir(parents=True)
    wanted[1].output.with_suffix(".partial.ipynb").write_text("{}")
    assert set(make._to_make("sweep")) == {str(record), str(wanted[1].output)}
    assert [job.state for job in wanted] == ["ok", "failed or stopped"]
    assert "not made" in sweep.table(wanted).splitlines()[-1]


def test_what_another_process_has_made_is_not_made_again(own_build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a driver that was killed: its last run goes on, and the next driver waits for it."""
    (job,) = jobs("smoke", "01", "", "first_seed=2")
    job.output.parent.mkdir(parents=True)
    job.output.write_text("made")
    words = [word for pair in job.settings.items() for word in ("-p", *pair)]
    assert main(["execute", "--once", str(job.chapter.source), str(job.output), *words]) == 0
    assert "01_known_features is there already" in capsys.readouterr().out
    assert job.output.read_text() == "made"


def test_a_job_that_a_cluster_starts_twice_leaves_what_is_there(own_build: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver of a cluster was killed, the next one queued the job again, and the first has finished since."""
    for name, value in {"PROFILE": "smoke", "CHAPTER": "01", "SWEEP": "first_seed=0,2"}.items():
        monkeypatch.setenv(name, value)
    job, _ = jobs("smoke", "01", "", "first_seed=0,2")
    job.output.parent.mkdir(parents=True)
    job.output.write_text("made")
    words = ["--cores", "1", "--nolock", "--ignore-incomplete", "--force", "--quiet", "all", "--", str(job.output)]
    subprocess.run([sys.executable, "-m", "snakemake", *words], cwd=ROOT, check=True)
    assert job.output.read_text() == "made"


def test_the_page_says_what_the_records_cost() -> None:
    page, kept = (ROOT / "book" / "sweep.md").read_text(), editions.kept()
    took = {edition: {name[:2]: record.minutes / record.parameters["seeds"] for name, record in kept[edition].items()}
            for edition in ("planted", "cifar-cpu")}
    assert "one seed of chapter 03 took eleven times as long" in page
    assert round(took["cifar-cpu"]["03"] / took["planted"]["03"]) == 11
    assert "sooner than chapter 09 does" in page
    assert max(took["planted"], key=lambda chapter: took["planted"][chapter]) == "09"
    spent = {}
    for chapter in every(""):
        runs = 4 ** ("dataset" in chapter.parameters) * 8 ** ("network" in chapter.parameters)
        spent[chapter.name[:2]] = took["planted"][chapter.name[:2]] * runs
    assert "chapters 02, 03, 04, 09 and 10 take four fifths" in page
    assert round(5 * sum(spent[chapter] for chapter in ("02", "03", "04", "09", "10")) / sum(spent.values())) == 4
