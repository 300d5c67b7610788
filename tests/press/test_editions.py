"""An edition holds whole, clean runs at its profile, all or none, and shows what it holds if nothing has changed."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest

from book.press import chapters, editions, stages
from book.press.__main__ import main
from nbutils.lab import history, results
from nbutils.lab.parameters import resolve
from nbutils.lab.results import Result
from tests.helpers import assert_one_line, record

NAMES = ("01_x", "02_y", "03_z")
FOUND = [Result.of("a", "w", [0.1, 0.2])]
CODE = 'profile: str = "quick"\neps: str = "0.03"\nsteps: int | None = None\nrun.card()'


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of three chapters, the first two of which have run; returns the folder of its editions."""
    sources = [tmp_path / f"{name}.ipynb" for name in NAMES]
    for source in sources:
        nbformat.write(nbformat.v4.new_notebook(cells=[cell()]), source)
    monkeypatch.setattr(chapters, "every", lambda profile: [chapters.Chapter(source, profile) for source in sources])
    monkeypatch.setattr(stages, "changed_since", lambda commit: False)
    for module in (editions, stages):
        monkeypatch.setattr(module, "every", chapters.every)
        monkeypatch.setattr(module, "EDITIONS", tmp_path / "editions")
    monkeypatch.setattr(editions, "ROOT", tmp_path)
    for name in NAMES[:2]:
        run(name)
    return tmp_path / "editions"


def cell(code: str = CODE, **more: Any) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(code, id="card", metadata={"tags": ["parameters"]}, **more)


def run(name: str, commit: str = "abc", code: str = CODE, error: bool = False, stage: str = "", pad: int = 0,
        profile: str = "quick", **given: Any) -> None:
    """Leave an executed notebook."""
    parameters = resolve({"profile": profile, "eps": 0.03}, ["profile", "eps"]).model_dump() | given
    card = results.dumps(record(FOUND, chapter=name, commit=commit, device="cpu, 1 thread", parameters=parameters,
                                verdicts=[{"claim": "c", "held": "held"}]))
    outputs = [nbformat.v4.new_output("stream", name="stderr", text="50%|####"),
               nbformat.v4.new_output("stream", text=f"in {chapters.build_dir()}" + "." * pad),
               nbformat.v4.new_output("display_data", {results.MIME: card, "text/html": "the card"})]
    if error:
        outputs.append(nbformat.v4.new_output("error", ename="KeyError", evalue="x", traceback=[]))
    ran = cell(code, outputs=outputs)
    ran.metadata |= {"papermill": {"duration": 1.0}, "execution": {"iopub.execute_input": "2030"}}
    metadata = {"papermill": {"duration": 1.0, "parameters": {"profile": profile, **given}}}
    twin = place(name, profile + f"/{stage}" * bool(stage)).twin
    twin.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("old words"), ran], metadata=metadata),
                   twin)


def show(name: str) -> None:
    """Lay out an edition, and take its folder for the build folder, as the Makefile does."""
    editions.show(name)
    os.environ["NBUTILS_BUILD"] = str(chapters.build_dir() / "editions" / name)


def place(name: str, profile: str = "quick") -> chapters.Chapter:
    return next(chapter for chapter in chapters.every(profile) if chapter.name == name)


def test_an_edition_reads_back_as_the_runs_were(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keep", "quick"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "editions/quick/01_x.json", "editions/quick/01_x.ipynb",
        "editions/quick/02_y.json", "editions/quick/02_y.ipynb"]
    kept = editions.find("quick", "02_y")
    assert (kept.chapter, kept.commit, kept.results) == ("02_y", "abc", FOUND)
    assert [(verdict.claim, verdict.held) for verdict in kept.verdicts] == [("c", "held")]
    with pytest.raises(ValueError, match="03_z: not recorded in edition 'quick'; it has 01_x, 02_y"):
        editions.find("quick", "03_z")
    with pytest.raises(ValueError, match="01_x: not recorded in edition 'paper'; it has no chapter"):
        editions.find("paper", "01_x")


def test_chapters_that_did_not_run_again_stay_in_the_edition(book: Path) -> None:
    editions.keep("quick")
    for chapter in chapters.every("quick"):
        chapter.twin.unlink(missing_ok=True)
    run("03_z")
    assert [path.stem for path in editions.keep("quick")[0]] == ["03_z", "03_z"]
    assert sorted(path.stem for path in book.glob("quick/*.ipynb")) == list(NAMES)


@pytest.mark.parametrize(("changes", "words"), [
    ({"commit": "abc-dirty"}, "02_y: ran from commit abc-dirty; commit first, then run it again"),
    ({"commit": "unknown"}, "02_y: ran from commit unknown"),
    ({"error": True}, "02_y: failed in cell 1 of 1: KeyError: x; an edition holds whole runs only"),
    ({"code": "other"}, "02_y: stale since its code was edited; an edition holds whole runs only"),
    ({"eps": 0.1, "steps": 2}, "02_y: ran with eps = 0.1 where it is 0.03, steps = 2 where it is 20; an edition "
                               "keeps to its profile"),
    ({"pad": 3_000_000}, "02_y: 3.0 MB; expected at most 2.0 MB, make its pictures smaller"),
])
def test_a_run_that_does_not_count_is_named_and_left_out(book: Path, changes: dict[str, Any], words: str,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    editions.keep("quick")
    before = {path: path.read_text() for path in book.glob("quick/02_y.*")}
    run("01_x", steps=20, device="another")
    run("02_y", **changes)
    assert main(["keep", "quick"]) == 1
    found = capsys.readouterr().err
    assert found.startswith(words)
    assert found.endswith("; left as it was\n")
    assert found.count("\n") == 1
    assert {path: path.read_text() for path in book.glob("quick/02_y.*")} == before
    assert editions.find("quick", "01_x").parameters["device"] == "another"  # each chapter by itself


def test_a_run_under_way_does_not_stop_the_others(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chapter = place("02_y", "quick")
    chapter.twin.rename(chapter.partial)
    assert main(["keep", "quick"]) == 1
    assert sorted(path.name for path in book.glob("quick/*")) == ["01_x.ipynb", "01_x.json"]
    assert capsys.readouterr().err == "02_y: stopped between two cells, or under way; left as it was\n"


def test_a_run_is_kept_only_with_the_code_and_criteria_that_made_it(book: Path, monkeypatch: pytest.MonkeyPatch,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stages, "changed_since", lambda commit: commit == "abc")
    run("02_y", commit="def")
    assert main(["keep", "quick"]) == 1
    assert capsys.readouterr().err == ("01_x: ran from commit abc, since when claims or code changed; keep it from "
                                       "there, or run it again; left as it was\n")
    assert [path.stem for path in book.glob("quick/*.json")] == ["02_y"]


def test_what_counts_as_changed_since_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    for name in ("nbutils/x.py", "nbutils/store.py", "nbutils/lab/y.py", "book/claims.yml", "book/intro.md",
                 "book/press/z.py", "book/editions/z.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(history, "ROOT", tmp_path)
    commit = history.present_commit()
    assert git("rev-parse", "HEAD").startswith(commit)
    (tmp_path / "book/editions/z.json").write_text("2")
    assert history.present_commit() == commit  # keeping an edition does not spoil the next run
    for name, changed in (("nbutils/lab/y.py", False), ("nbutils/store.py", False), ("book/press/z.py", False),
                          ("book/intro.md", False), ("nbutils/x.py", True), ("book/claims.yml", True)):
        (tmp_path / name).write_text("2")
        assert history.present_commit() == f"{commit}-dirty"
        assert stages.changed_since(commit) is changed
        (tmp_path / name).write_text("1")
    assert stages.changed_since("0000000")  # git does not know it


def test_a_full_disk_leaves_the_kept_pair_as_it_was(book: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    editions.keep("quick")
    before = {path: path.read_text() for path in book.glob("quick/*")}
    run("01_x", pad=5)
    write, calls = Path.write_text, []

    def full(path: Path, *words: Any, **more: Any) -> int:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(path))
        return write(path, *words, **more)

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["keep", "quick"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert {path: path.read_text() for path in book.glob("quick/*")} == before


def test_a_profile_without_runs_is_refused(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keep", "quik"]) == 2
    assert capsys.readouterr().err.startswith("EDITION = 'quik': expected one of cifar-cpu, cifar10, gpu,")
    assert main(["keep", "planted"]) == 2
    assert capsys.readouterr().err == "no chapter has run at profile 'planted'; run `make book PROFILE=planted` first\n"


def test_a_kept_notebook_is_code_and_outputs_alone(book: Path) -> None:
    editions.keep("quick")
    text = (book / "quick" / "01_x.ipynb").read_text()
    for trace in ("old words", "####", "papermill", "execution\"", "duration", results.MIME, str(chapters.build_dir())):
        assert trace not in text
    [kept] = chapters.read(book / "quick" / "01_x.ipynb").cells
    assert [output.get("text") or output["data"] for output in kept.outputs] == ["in build", {"text/html": "the card"}]


def test_an_edition_is_laid_out_as_if_it_had_just_run(book: Path) -> None:
    editions.keep("quick")
    shutil.rmtree(chapters.build_dir())
    show("quick")
    state = place("02_y").state()
    assert (state.status, state.minutes, state.when, state.device) == ("ok", 1.5, "2030-01-02 03:04", "cpu, 1 thread")
    assert place("03_z").state().status == "not run"
    assert chapters.recorded(place("02_y").twin) == editions.find("quick", "02_y")


def test_the_best_edition_of_each_chapter_is_shown(book: Path) -> None:
    (book / "planted").mkdir(parents=True)
    (book / "order.yml").write_text("- planted\n- quick\n")
    editions.keep("quick")
    run("02_y", profile="planted", **resolve({"profile": "planted"}, ["profile"]).model_dump(include={"steps"}))
    editions.keep("planted")
    show("best")
    shown = {name: place(name, "best").record for name in NAMES}
    assert [shown[name].profile for name in NAMES[:2]] == ["quick", "planted"]
    assert not shown["03_z"]
    stamp = chapters.read(place("02_y", "best").twin).metadata.edition
    assert editions.banner(place("02_y", "best"), stamp) == (
        "Edition **planted**, recorded on 2030-01-02 on cpu, 1 thread, from commit abc. "
        "Nothing was run for this page.")
    default = editions.banner(place("01_x", "best"), chapters.read(place("01_x", "best").twin).metadata.edition)
    assert default.endswith("Nothing was run for this page.")
    engine = editions.banner(place("02_y", "best"), {**stamp, "engine": "older"})
    assert engine.endswith("Since then the code of `nbutils` behind it changed.")


def change_output(path: Path) -> None:
    path.write_text(path.read_text().replace("the card", "a better card"))


def change_stamp(path: Path) -> None:
    path.write_text(path.read_text().replace('"set": ""', '"set": "seeds=9"'))


def change_number(path: Path) -> None:
    path.with_suffix(".json").write_text(path.with_suffix(".json").read_text().replace("0.15", "0.99"))


@pytest.mark.parametrize("edit", [
    change_output, change_number, change_stamp, lambda path: path.with_suffix(".json").unlink(),
    lambda path: path.write_text("{}"), lambda path: path.write_text("<<<<<<< ours")])
def test_an_edition_edited_by_hand_is_not_shown(book: Path, edit: Any) -> None:
    editions.keep("quick")
    edit(book / "quick" / "02_y.ipynb")
    assert_one_line(lambda: editions.show("quick"), ["quick/02_y.ipynb: changed by hand since it was recorded; restore "
                                                     "it with git checkout, or run its stage again and keep it"])


def test_what_is_not_shown_is_checked_too(book: Path) -> None:
    """Its numbers stand in sentences and beside those of other editions."""
    (book / "quick").mkdir(parents=True)
    (book / "order.yml").write_text("- planted\n- quick\n")
    editions.keep("quick")
    assert {name: list(found) for name, found in editions.kept().items()} == {"quick": ["01_x", "02_y"], "planted": []}
    change_number(book / "quick" / "02_y.ipynb")
    with pytest.raises(ValueError, match=r"quick/02_y.ipynb: changed by hand since it was recorded; restore it"):
        editions.kept()
    editions.keep("quick")
    (book / "quick" / "01_x.ipynb").unlink()  # a record that nothing vouches for
    with pytest.raises(ValueError, match=r"quick/01_x.ipynb: changed by hand"):
        editions.kept()


def test_a_record_alone_is_checked_too(book: Path) -> None:
    editions.keep("quick")
    (book / "order.yml").write_text("- quick\n")
    for path in book.glob("quick/*.ipynb"):
        path.unlink()
    path = book / "quick" / "02_y.json"
    text = path.read_text()
    for changed in (text.replace("0.15", "0.99"), re.sub(',"check":"[0-9a-f]*"', "", text)):
        assert changed != text
        path.write_text(changed)
        for use in (editions.kept, lambda: editions.find("quick", "02_y")):
            assert_one_line(use, ["02_y.json"])
    path.write_text(text)
    path.rename(path.with_name("03_z.json"))
    assert_one_line(editions.kept, ["03_z.json: of chapter '02_y'; expected the one that it is"])


def test_an_edition_may_hold_records_alone(book: Path) -> None:
    editions.keep("quick")
    (book / "order.yml").write_text("- quick\n")
    for path in book.glob("quick/*.ipynb"):
        path.unlink()
    assert list(editions.kept()["quick"]) == ["01_x", "02_y"]
    assert_one_line(lambda: editions.show("quick"),
                    ["edition 'quick' holds records alone; `make book PROFILE=quick` makes its pages"])


@pytest.mark.parametrize("build", ["jos\N{LATIN SMALL LETTER E WITH ACUTE}", "plain"])
@pytest.mark.parametrize("folder", ["{}/cifar10", "{}//cifar10", "{}/./cifar10/"])
def test_no_path_of_the_machine_is_kept(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str,
                                        folder: str) -> None:
    monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path / build))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell("dataset: str | None = None\n" + CODE)]), place("02_y").source)
    parameters = resolve({"profile": "cifar-cpu", "eps": 0.03}, ["profile", "eps"]).model_dump()
    run("02_y", code="dataset: str | None = None\n" + CODE,
        **parameters | {"dataset": "folder:" + folder.format(tmp_path)})
    assert editions.keep("cifar-cpu")[1] == []
    for path in book.glob("cifar-cpu/*"):
        assert str(tmp_path) not in path.read_text()
    assert editions.find("cifar-cpu", "02_y").parameters["dataset"] == "folder:cifar10"


def change_code(source: Path, patch: pytest.MonkeyPatch) -> None:
    nbformat.write(nbformat.v4.new_notebook(cells=[cell(CODE + "\nmore")]), source)


def change_profile(source: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stages, "resolve", lambda given, allowed: resolve({**given, "steps": 60}, [*allowed, "steps"]))


def change_criterion(source: Path, patch: pytest.MonkeyPatch) -> None:
    claim = next(claim for claim in editions.claims.load().values() if not claim.setting)
    patch.setattr(editions.claims, "load", lambda: {"c": claim.model_copy(update={"chapter": source.stem})})


@pytest.mark.parametrize(("change", "words"), [
    (change_code, "The chapter's code has changed since; shown is the code that ran."),
    (change_profile, "Its parameters have changed since: it ran with steps = 20 where it is 60 now."),
    (change_criterion, "Criteria of its claims have changed since; its verdicts are by those of today.")])
def test_what_has_changed_since_is_said_on_the_page(book: Path, tmp_path: Path, change: Any, words: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    editions.keep("quick")
    show("quick")
    chapter = place("02_y")
    stamp = chapters.read(chapter.twin).metadata.edition
    assert editions.banner(chapter, stamp).endswith("Nothing was run for this page.")
    change(tmp_path / "02_y.ipynb", monkeypatch)
    editions.show("quick")
    assert chapter.state().status == "ok"
    assert editions.banner(chapter, stamp).endswith(f"Nothing was run for this page. {words}")
    head = editions.older_claims(chapter, stamp)
    assert head.startswith({change_code: "Tables are as the run printed them", change_profile: "",
                            change_criterion: "Criteria have changed since this run; a box says where"}[change])
    assert bool(head) == (change != change_profile)


def test_new_words_make_no_edition_stale(book: Path, tmp_path: Path) -> None:
    editions.keep("quick")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# New"), cell()]),
                   tmp_path / "02_y.ipynb")
    show("quick")
    assert place("02_y").state().status == "ok"


def test_an_unknown_edition_is_named_with_the_nearest(book: Path) -> None:
    for name in ("planted", "quick"):
        (book / name).mkdir(parents=True)
    assert_one_line(lambda: editions.show("plantd"),
                    ["EDITION = 'plantd': expected one of best, planted, quick; did you mean 'planted'?"])


def test_a_copy_of_the_images_is_named_without_its_place(book: Path, tmp_path: Path) -> None:
    source = place("02_y").source
    nbformat.write(nbformat.v4.new_notebook(cells=[cell("dataset: str | None = None\n" + CODE)]), source)
    dataset = f"folder:{tmp_path}/cifar10"
    parameters = resolve({"profile": "cifar-cpu", "eps": 0.03}, ["profile", "eps"]).model_dump() | {"dataset": dataset}
    run("02_y", code="dataset: str | None = None\n" + CODE, **parameters)
    editions.keep("cifar-cpu")
    assert editions.find("cifar-cpu", "02_y").parameters["dataset"] == "folder:cifar10"
    assert str(tmp_path) not in (book / "cifar-cpu" / "02_y.json").read_text()
    show("cifar-cpu")
    stamp = chapters.read(place("02_y", "cifar-cpu").twin).metadata.edition
    assert ", images from `folder:cifar10`, recorded" in editions.banner(place("02_y", "cifar-cpu"), stamp)
    run("02_y", code="dataset: str | None = None\n" + CODE, dataset=dataset)
    assert re.match("02_y: ran with dataset = folder:.* where it is planted", editions.keep("quick")[1][0])


def test_the_last_finished_stage_of_a_chapter_is_kept(book: Path, own_build: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"chapter": "02_y", "set": "steps=4"}, {"chapter": "02_y", "set": "steps=5", "keep": True},
            {"chapter": "02_y", "keep": True}]
    (book / "quick").mkdir(parents=True)
    (book / "quick" / "stages.yml").write_text(json.dumps(rows))
    place("02_y").twin.unlink()
    run("02_y", stage="steps=4", steps=4)
    with pytest.raises(ValueError, match="no chapter has run"):
        editions.keep("quick")
    run("02_y", stage="steps=5", steps=5)
    run("02_y", error=True)
    editions.keep("quick")
    assert editions.find("quick", "02_y").parameters["steps"] == 5
    show("quick")
    stamp = chapters.read(place("02_y").twin).metadata.edition
    assert editions.banner(place("02_y"), stamp).startswith("Edition **quick**, set to `steps=5`, recorded on")
    monkeypatch.setenv("NBUTILS_BUILD", str(own_build))
    run("02_y")
    editions.keep("quick")
    assert editions.find("quick", "02_y").parameters["steps"] == 20


def test_a_small_edition_from_its_first_stage_to_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stages, "present_commit", lambda: "abc")  # whatever the state of the repository
    monkeypatch.setattr(stages, "changed_since", lambda commit: False)
    monkeypatch.setattr(stages, "recorded", clean := lambda path: recorded_as(path, "abc"))
    monkeypatch.setattr(editions, "recorded", clean)
    monkeypatch.setattr(editions, "EDITIONS", tmp_path / "editions")
    monkeypatch.setattr(editions, "ROOT", tmp_path)
    assert main(["stage", "smoke", "1"]) == 0
    assert main(["stage", "smoke", "1"]) == 0
    assert "stage 1 of edition 'smoke' is done" in capsys.readouterr().out
    [chapter] = (chapter for chapter in chapters.every("smoke") if chapter.name == "01_known_features")
    found = chapters.recorded(chapter.twin).results
    assert main(["keep", "smoke"]) == 0
    shutil.rmtree(chapters.build_dir())
    show("smoke")
    assert chapter.state().status == "ok"
    assert chapters.recorded(chapter.twin).results == found == editions.find("smoke", chapter.name).results


def recorded_as(path: Path, commit: str) -> results.Record:
    return chapters.recorded(path).model_copy(update={"commit": commit})


def test_text_stands_for_itself_in_the_book() -> None:
    assert editions.literal("cpu, 2 threads\n| a") == r"cpu, 2 threads \| a"
    assert editions.literal("<b>$x$ [a](b) `c` {d}") == r"\<b\>\$x\$ \[a\](b) \`c\` \{d\}"
    assert editions.literal_code("a `b`\nc") == "`a 'b' c`"
