"""The store: built once, checked at every reading, whole or not there."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import nbutils
from nbutils import store, versions
from nbutils.machine import ROOT
from nbutils.robustness import BIM, PGD, ThreatModel
from nbutils.store import Artifact, load_or_build
from nbutils.versions import code_version

RECIPE = {"name": "x", "threat": ThreatModel("Linf", 0.5), "sizes": [1, 2], "nothing": None}


class Builder:
    """Makes the same tensors each time and counts how often."""

    def __init__(self) -> None:
        self.times = 0
        self.tensors = {"a": torch.arange(1000.0).view(10, 100), "b": torch.tensor(7), "c": torch.zeros(0, 3)}

    def __call__(self) -> dict[str, Tensor]:
        self.times += 1
        return self.tensors

    def check(self, artifact: Artifact, times: int) -> None:
        """The artifact is right and was built `times` times so far."""
        assert self.times == times
        assert artifact.tensors.keys() == self.tensors.keys()
        for name, tensor in self.tensors.items():
            assert artifact.tensors[name].dtype == tensor.dtype
            assert torch.equal(artifact.tensors[name], tensor)


@pytest.fixture
def build() -> Builder:
    return Builder()


def folder_of(build: Path, artifact: Artifact) -> Path:
    return build / "store" / "model" / artifact.key


def test_the_second_call_reads(build: Builder, own_build: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = load_or_build("model", RECIPE, build)
    second = load_or_build("model", RECIPE, build)
    build.check(first, 1)
    build.check(second, 1)
    assert first.key == second.key
    assert first.recipe == second.recipe == {"name": "x", "sizes": [1, 2], "nothing": None,
                                             "threat": {"class": "ThreatModel", "norm": "Linf", "eps": 0.5}}
    assert first.seconds == second.seconds
    assert sorted(path.name for path in folder_of(own_build, first).iterdir()) == ["record.json", "tensors.safetensors"]
    assert capfd.readouterr() == ("", "")


def test_tensors_may_lie_in_memory_as_they_like(own_build: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As images do that were read from files; what is made now and what is read later are the same to the last bit."""
    images = torch.arange(96.0).view(2, 4, 4, 3).permute(0, 3, 1, 2)
    found = [load_or_build("model", RECIPE, lambda: {"x": images, "part": images[:, :1]}) for _ in range(2)]
    assert not capfd.readouterr().err
    for artifact in found:
        assert torch.equal(artifact.tensors["x"], images)
        assert all(tensor.is_contiguous() for tensor in artifact.tensors.values())


def test_no_pickle_is_ever_read(build: Builder, own_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_or_build("model", RECIPE, build)
    monkeypatch.setattr("pickle.load", None)
    monkeypatch.setattr("pickle.Unpickler", None)
    monkeypatch.setattr("torch.load", None)
    build.check(load_or_build("model", RECIPE, build), 1)


@dataclass(frozen=True)
class Left:
    value: int = 1


@dataclass(frozen=True)
class Right:
    value: int = 1


def test_different_recipes_have_different_keys(build: Builder) -> None:
    threat = ThreatModel("Linf", 0.5)
    recipes = [RECIPE, {**RECIPE, "name": "y"}, {**RECIPE, "sizes": [2, 1]}, {**RECIPE, "nothing": 0}, {"o": Left()},
               {"o": Right()}, {"o": Left(2)}, {"o": BIM(threat, 3, 0.1)}, {"o": PGD(threat, 3, 0.1)},
               {"o": 1}, {"o": 1.0}, {"o": True}, {"o": "1"}, {"o": [1]}, {"o": {"value": 1}}]
    keys = {load_or_build("model", recipe, build).key for recipe in recipes}
    assert len(keys) == len(recipes)
    assert load_or_build("features", RECIPE, build).key not in keys


# --- damage -------------------------------------------------------------------------------------------------------

def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_object(path: Path) -> None:
    path.write_text("[]")


def without_key(path: Path) -> None:
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(record))


def other_key(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": "model-0"}))


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(("file", "damage"), [
    *[("tensors.safetensors", damage) for damage in (flip_a_byte, cut_short, empty, Path.unlink, a_pipe)],
    *[("record.json", damage) for damage in (cut_short, empty, Path.unlink, no_object, without_key, other_key, nested,
                                             a_pipe)],
])
def test_a_damaged_artifact_is_built_again_and_said(file: str, damage: Callable[[Path], None], build: Builder,
                                                    own_build: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = load_or_build("model", RECIPE, build)
    damage(folder_of(own_build, first) / file)
    build.check(load_or_build("model", RECIPE, build), 2)
    note = capfd.readouterr().err
    assert note.startswith(f"note: {first.key} is damaged (")
    assert note.count("\n") == 1
    build.check(load_or_build("model", RECIPE, build), 2)
    assert capfd.readouterr().err == ""


def test_a_pipe_holds_no_unfinished_work(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.unfinished")
    assert store.kept(tmp_path / "model.unfinished") == {}


# --- disks --------------------------------------------------------------------------------------------------------

def full_disk(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_nothing(build: Builder, own_build: Path, monkeypatch: pytest.MonkeyPatch,
                                   capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(store, "save_file", full_disk)
    artifact = load_or_build("model", RECIPE, build)
    build.check(artifact, 1)
    assert capfd.readouterr().err == (f"note: {artifact.key} could not be stored (No space left on device); "
                                      "it is lost when this run ends\n")
    assert not folder_of(own_build, artifact).exists()
    assert not [path for path in own_build.rglob("*") if path.is_file() and path.suffix != ".lock"]
    monkeypatch.undo()


def test_a_disk_too_full_for_the_lock_loses_nothing(build: Builder, monkeypatch: pytest.MonkeyPatch,
                                                    capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Path, "mkdir", full_disk)
    build.check(load_or_build("model", RECIPE, build), 1)
    assert "going on without the store" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    """The real thing: the library that writes tensors reports a failed write in its own way."""
    done = subprocess.run([sys.executable, "-c", """
import resource, torch
from nbutils.store import load_or_build
def build():
    return {"x": torch.ones(10_000)}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
print(load_or_build("model", {"n": 1}, build).tensors["x"].sum().item())
"""], capture_output=True, text=True, env=environment(), check=False)
    assert done.stdout == "10000.0\n", done.stderr
    assert done.stderr.startswith("note: model-")
    assert done.stderr.count("\n") == 1


def test_a_build_that_failed_can_be_tried_again_while_its_traceback_is_kept(own_build: Path) -> None:
    """As in a notebook, which keeps the last traceback and so all that stands in it."""
    def fail() -> dict[str, torch.Tensor]:
        raise ZeroDivisionError

    failures = []
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            load_or_build("model", RECIPE, fail)
        failures.append(caught)


def test_a_build_folder_that_is_a_file(build: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match=r"file/store/model: cannot be written .*NBUTILS_BUILD"):
        load_or_build("model", RECIPE, build)
    assert build.times == 0  # said before the expensive part


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_build_folder_without_permission(build: Builder, own_build: Path) -> None:
    own_build.mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"cannot be written .*NBUTILS_BUILD"):
        load_or_build("model", RECIPE, build)
    assert build.times == 0


def no_entry(*arguments: object, **options: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def read_only(*arguments: object, **options: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("refuse", [no_entry, read_only])
def test_somebody_elses_store_gives_what_is_finished(refuse: Callable[..., None], build: Builder, own_build: Path,
                                                     monkeypatch: pytest.MonkeyPatch,
                                                     capfd: pytest.CaptureFixture[str]) -> None:
    """It can be read and not written: neither the lock nor anything else is needed."""
    first = load_or_build("model", RECIPE, build)
    with monkeypatch.context() as patch:
        patch.setattr(store.FileLock, "acquire", refuse)
        patch.setattr(store, "_write", lambda *inputs: pytest.fail("it is not to be written"))
        build.check(load_or_build("model", RECIPE, build), 1)
    assert capfd.readouterr().err == ""
    cut_short(folder_of(own_build, first) / "tensors.safetensors")
    monkeypatch.setattr(store.FileLock, "acquire", refuse)
    if refuse is no_entry:
        with pytest.raises(PermissionError, match=r"store/model: cannot be written \(Permission denied\)"):
            load_or_build("model", RECIPE, build)
    else:
        build.check(load_or_build("model", RECIPE, build), 2)
        assert "going on without the store" in capfd.readouterr().err


# --- several processes --------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, time
import torch
from nbutils import store

def build():
    with open(os.environ["COUNT"], "a") as file:
        file.write("built\\n")
    if os.environ.get("STOP") == "building":
        print("stopped", flush=True)
        time.sleep(60)
    time.sleep(0.3)
    return {"x": torch.ones(1000)}

if os.environ.get("STOP") == "writing":
    def save_half(tensors, path):
        path.write_bytes(b"half a file")
        print("stopped", flush=True)
        time.sleep(60)
    store.save_file = save_half

artifact = store.load_or_build("model", {"n": 1}, build)
print(artifact.key, artifact.tensors["x"].sum().item())
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the script above in a process of its own."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)

    def start(**more: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, str(path)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=environment(COUNT=str(tmp_path / "count"), **more))

    return start


def test_two_processes_build_once(script: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    both = [script(), script()]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0] == outputs[1]
    assert outputs[0][0].endswith(" 1000.0\n")
    assert (tmp_path / "count").read_text() == "built\n"


@pytest.mark.parametrize("stage", ["building", "writing"])
def test_a_killed_process_leaves_no_artifact_and_no_obstacle(
        stage: str, script: Callable[..., subprocess.Popen[str]], tmp_path: Path, own_build: Path) -> None:
    with script(STOP=stage) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert not list(own_build.glob("store/model/model-*/"))
    output, errors = script().communicate(timeout=60)
    assert output.endswith(" 1000.0\n"), errors
    assert errors == ""
    assert (tmp_path / "count").read_text() == "built\nbuilt\n"
    assert len(list(own_build.glob("store/model/model-*/record.json"))) == 1


# --- the version of the code --------------------------------------------------------------------------------------

OUTER = '''"""What it is."""
from nbutils.{name}.inner import helper
from nbutils import console  # not part of the result


def make(n):
    """Make n."""
    return helper(n) + 1  # one more


class Thing:
    """A thing."""

    def method(self):
        """Only words."""
'''
INNER = "def helper(n):\n    return 2 * n\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Writes a package with the given outer and inner module inside nbutils, and gives the version of the outer."""
    monkeypatch.setattr(nbutils, "__path__", [*nbutils.__path__, str(tmp_path)])

    def version(outer: str, inner: str) -> str:
        folder = tmp_path / "trial"
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text("")
        (folder / "outer.py").write_text(outer.replace("{name}", "trial"))
        (folder / "inner.py").write_text(inner)
        for path in folder.glob("*.py"):
            monkeypatch.setitem(versions.SOURCES, f"nbutils.trial.{path.stem}", path.read_text())
        importlib.invalidate_caches()
        code_version.cache_clear()
        return code_version("nbutils.trial.outer")

    yield version
    code_version.cache_clear()
    for name in [name for name in sys.modules if name.startswith("nbutils.trial")]:
        del sys.modules[name]


def test_words_do_not_change_the_version(package: Callable[[str, str], str]) -> None:
    before = package(OUTER, INNER)
    for old, new in (("What it is.", "What it was."), ("Make n.", "Make\n\n    n at once."), ("one more", "another"),
                     ("A thing.", "Some thing."), ("Only words.", "Words only."), ("\n\n\n", "\n\n\n\n# a comment\n"),
                     ("helper(n) + 1", "(helper(n)\n            + 1)")):
        assert old in OUTER
        assert package(OUTER.replace(old, new), INNER) == before, new
    assert package(OUTER, "# of numbers\n" + INNER) == before


def test_code_changes_the_version(package: Callable[[str, str], str]) -> None:
    versions = [package(OUTER, INNER), package(OUTER, INNER.replace("2", "3")),
                package(OUTER.replace("+ 1", "+ 2"), INNER),
                package(OUTER.replace("def method(self)", "def method(self, x)"), INNER),
                package(OUTER.replace("import helper", "import helper as helper"), INNER + "\nlimit = 5\n")]
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize("statement", ["from nbutils.trial import inner", "import nbutils.trial.inner",
                                       "def f():\n    from nbutils.trial.inner import helper"])
def test_every_way_to_import_is_followed(statement: str, package: Callable[[str, str], str]) -> None:
    assert package(statement, INNER) != package(statement, INNER.replace("2", "3"))


BUILDER = """
from nbutils import store
import torch


def made(n):
    def build():
        x = 1.0
        return {"x": torch.ones(n) * x}
    return store.load_or_build("model", {"n": n}, build)
"""


def test_a_changed_line_of_the_module_that_builds_makes_another_artifact(package: Callable[[str, str], str]) -> None:
    found = {}
    for line in ("1.0", "1.0  # one", "2.0"):
        package(BUILDER.replace("1.0", line), INNER)
        sys.modules.pop("nbutils.trial.outer", None)
        found[line] = importlib.import_module("nbutils.trial.outer").made(3)
    assert found["1.0"].key == found["1.0  # one"].key != found["2.0"].key
    assert found["2.0"].tensors["x"].tolist() == [2.0] * 3


def test_an_edit_during_a_run_does_not_lend_its_key_to_the_code_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    code_version.cache_clear()
    before = code_version("nbutils.training")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "an edit = 1")
    code_version.cache_clear()
    assert code_version("nbutils.training") == before
    assert set(versions.SOURCES) >= {"nbutils", "nbutils.training", "nbutils.images", "nbutils.images.planted"}


def test_training_depends_on_attacks_and_not_on_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    source = dict(versions.SOURCES)

    def found(changed: str) -> tuple[str, str]:
        monkeypatch.setattr(versions, "SOURCES", {name: text + "\nextra = 1\n" * (name == changed)
                                                  for name, text in source.items()})
        code_version.cache_clear()
        return code_version("nbutils.training"), code_version("nbutils.images.planted")

    plain = found("none")
    attacks, figures, imageset = (found(f"nbutils.{name}") for name in (
        "robustness.attacks", "lab.figures", "images.imageset"))
    code_version.cache_clear()
    assert attacks[0] != plain[0]
    assert attacks[1] == plain[1]  # drawing images does not need attacks
    assert figures == plain
    assert imageset[0] != plain[0]
    assert imageset[1] != plain[1]


def test_tensors_that_share_memory_are_kept(own_build: Path) -> None:
    whole = torch.arange(6.0).view(2, 3)
    for _ in range(2):
        artifact = load_or_build("model", RECIPE, lambda: {"a": whole, "b": whole, "row": whole[1], "turned": whole.T})
        assert (folder_of(own_build, artifact) / "record.json").is_file()
        for name, tensor in {"a": whole, "b": whole, "row": whole[1], "turned": whole.T}.items():
            assert torch.equal(artifact.tensors[name], tensor)


@pytest.mark.parametrize("what", ["a file", "a loop", "a link elsewhere"])
def test_what_took_the_place_of_an_artifact_is_replaced(what: str, build: Builder, own_build: Path,
                                                        tmp_path: Path) -> None:
    folder = folder_of(own_build, load_or_build("model", RECIPE, build))
    elsewhere = folder.rename(tmp_path / "elsewhere")
    (elsewhere / "record.json").write_text("{}")
    if what == "a file":
        folder.write_text("")
    else:
        folder.symlink_to(folder if what == "a loop" else elsewhere)
    build.check(load_or_build("model", RECIPE, build), 2)
    build.check(load_or_build("model", RECIPE, build), 2)
    assert (elsewhere / "record.json").read_text() == "{}"
