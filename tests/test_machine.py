"""The machine a book runs on: pins, the environment, the build folder, git's variables, and the variables of make."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from book.press import chapters, environment, make
from book.press.__main__ import main
from book.press.environment import MARKER
from nbutils import machine
from nbutils.lab import claims, history, runs
from nbutils.machine import ROOT
from tests.helpers import assert_one_line

HOSTILE = ['"; touch x; "', "'; touch x; '", "`touch x`", "$(touch x)", "$$(touch x)", "$(shell touch x)",
           "; touch x #"]
VARIABLES = ["PROFILE", "CHAPTER", "SET", "EDITION", "STAGE", "COURSE", "PORT", "NBUTILS_BUILD", "PYTHON"]


def test_every_pin_serves_the_oldest_and_the_newest_python_we_name() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest, newest = re.fullmatch(r">=(3\.\d+),<3\.(\d+)", wanted).groups()  # type: ignore[union-attr]
    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    here = {canonicalize_name(d.name): d for d in metadata.distributions()}
    read = 0
    for name, version in pins:
        found = here.get(canonicalize_name(name))
        if found is None or found.version.split("+")[0] != version:
            continue  # an optional part of another pin, or an environment older than the pins
        read += 1
        allowed = SpecifierSet(found.metadata.get("Requires-Python") or "")
        assert f"{oldest}.2" in allowed, f"{name} {version} needs Python {allowed}"
        assert f"3.{int(newest) - 1}.0" in allowed, f"{name} {version} needs Python {allowed}"
    assert read > 0.8 * len(pins)


def test_the_pinned_soupsieve_serves_debian() -> None:
    """4.0 and later need 3.11.5; Debian 12 has 3.11.2."""
    (version,) = re.findall(r"^soupsieve==(\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert int(version) < 4


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `make` needs, where .venv/bin/python and pip only note that they were called."""
    folder = tmp_path / "a $book's"
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "nbutils/__init__.py", "nbutils/machine.py",
                 "book/press/__init__.py", "book/press/environment.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def whole(checkout: Path) -> Path:
    """The same, with an environment whose Python prints its arguments and the variables it got."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = checkout / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nenv\n')
    python.chmod(0o755)
    (checkout / ".venv" / "complete").touch()
    return checkout


def call(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", *words], cwd=folder, env={**kept, **variables}, capture_output=True, text=True,
                          timeout=60)


@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize("text", HOSTILE)
def test_make_runs_nothing_of_what_its_variables_hold(whole: Path, text: str, how: str) -> None:
    settings = dict.fromkeys(VARIABLES, text)
    for goal in ("book", "stage", "serve", "oracles", "clean"):
        given = [f"{name}={value}" for name, value in settings.items()] if how == "argument" else []
        done = call(whole, goal, *given, **({} if given else settings))
        if goal == "book":
            assert [f"{name}={text}" in done.stdout for name in VARIABLES] == [True] * len(VARIABLES)
    assert not list(whole.rglob("x"))


@pytest.mark.parametrize(("name", "goal"), [(".venv", "make"), (".venv-read", "read")])
def test_makes_at_once_make_one_environment(checkout: Path, name: str, goal: str) -> None:
    """A Python whose venv takes a while: all end well, and it is asked for one venv and one pip."""
    python = checkout / "slow"
    python.write_text(f'''#!{sys.executable}
import os, sys
if sys.argv[2:] == ["book.press.environment", "{goal}"]:
    sys.path.insert(0, "")
    from book.press import environment
    environment.sys.executable = os.path.abspath("slow")
    environment.make("{name}")
else:
    import shutil, time
    open("calls", "a").write(" ".join(sys.argv[1:3]) + "\\n")
    time.sleep(0.5)
    if sys.argv[2] == "venv":
        os.makedirs("{name}/bin")
        shutil.copy("slow", "{name}/bin/python")
''')
    python.chmod(0o755)
    words = ["make", f"{name}/complete", "PYTHON=./slow"]
    running = [subprocess.Popen(words, cwd=checkout, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert (checkout / "calls").read_text().splitlines() == ["-m venv", "-m pip"]
    assert sum("Making the environment" in text for text in said) == 1


def test_windows_and_old_pythons_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(environment.sys, "version_info", (3, 9, 2))
        assert_one_line(environment.make, ["Python 3.9", "3.11 to 3.13"])
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(ImportError, match="^Windows: .*run this in WSL$"):
        runpy.run_path(runs.__file__)


def test_clean_deletes_only_what_is_marked(own_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "CACHES", ())
    (own_build / "results").mkdir(parents=True)
    (own_build / "results" / "thesis.txt").write_text("mine")
    assert_one_line(environment.clean, [str(own_build), MARKER, "nothing is deleted"])
    environment.take(own_build)  # a folder that looks like ours may be used, but not marked
    assert_one_line(environment.clean, [str(own_build)])
    assert (own_build / "results" / "thesis.txt").read_text() == "mine"
    for name in ("_build", "sweep", "home"):  # made by the book in such a folder, which the audit may have begun
        (own_build / name).mkdir()
    environment.take(own_build)
    (own_build / "notes.txt").touch()
    assert_one_line(lambda: environment.take(own_build), ["'notes.txt'", MARKER])
    shutil.rmtree(own_build)
    environment.take(own_build)
    (own_build / "notes.txt").touch()
    environment.take(own_build)
    environment.clean()
    assert [path.name for path in own_build.iterdir()] == ["notes.txt"]


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("b", lambda path: path.touch(), ["cannot be written", "NBUTILS_BUILD"]),
        ("b", loop, ["cannot be written", "NBUTILS_BUILD"]),
        ("b/{x}", lambda path: None, ["without braces"]),
        ("b", lambda path: (path.mkdir(), (path / "store").touch()), ["store", "cannot be written"]),
        ("b", lambda path: (path.mkdir(), (path / "executed").touch()), ["executed", "cannot be written"]),
    ],
)
def test_a_build_folder_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[[Path], object], words: list[str]
) -> None:
    spoil(tmp_path / name)
    monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path / name))
    assert_one_line(lambda: environment.take(machine.build_dir()), words)


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NBUTILS_BUILD", "~/x")
    assert machine.build_dir() == tmp_path / "x"


@pytest.mark.parametrize("port", ["", "0", "x", "65536", "80;ls", "٨٠٨٠", "-1"])
def test_a_port_that_cannot_be(own_build: Path, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    import socket

    (own_build / "_build" / "html").mkdir(parents=True)
    (own_build / "_build" / "html" / "index.html").touch()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        monkeypatch.setenv("PORT", port or str(busy.getsockname()[1]))
        assert_one_line(make.serve, ["PORT = ", "expected"])


def test_git_knows_this_repository_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "course"
    inside = other / "book"
    inside.mkdir(parents=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "course"]):
        subprocess.run(["git", *identity, *words], cwd=other, check=True)
    assert history.git("rev-parse", "--show-toplevel", folder=other).stdout.strip() == str(other.resolve())
    for name, value in {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}.items():
        monkeypatch.setenv(name, value)
    found = history.git("rev-parse", "--show-toplevel", folder=ROOT).stdout.strip()
    assert found in ("", str(ROOT.resolve()))
    monkeypatch.setattr(history, "ROOT", inside)
    assert history.present_commit() == "unknown"
    monkeypatch.setattr(history, "ROOT", other)
    assert re.fullmatch("[0-9a-f]{7,}", history.present_commit())


def test_tests_see_no_variables_of_gits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    runpy.run_path(str(ROOT / "tests" / "conftest.py"))
    assert not [name for name in os.environ if name.startswith("GIT_")]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables of `make book PROFILE=smoke`, and no others."""
    for name in VARIABLES[1:-2]:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PROFILE", "smoke")
    return monkeypatch


@pytest.mark.parametrize("variables", [{"EDITION": "quick", "CHAPTER": "01"}, {"EDITION": "quick", "SET": "steps=7"}])
def test_an_edition_takes_no_choices(plain: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        plain.setenv(name, value)
    assert_one_line(make.book, ["EDITION shows whole recorded runs"])


def test_no_such_edition_is_one_line(plain: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain.setenv("EDITION", "../x")
    assert main(["book"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "EDITION = '../x'" in said


def test_what_ends_the_plan_is_one_line(plain: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The Snakefile's own line passes through the engine, whatever profile of the engine's the user has."""
    plain.setenv("SET", "steps")
    plain.setenv("SNAKEMAKE_PROFILE", "/nowhere")
    assert main(["book"]) == 2
    assert capsys.readouterr().err == "SET = 'steps': expected name=value, such as eps=8/255\n"


def test_the_cause_of_the_engine_is_shown(plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The engine's own words, in one line, for a file that is not there and for damaged notes on earlier runs."""
    plain.setattr(make, "ROOT", tmp_path)
    (tmp_path / "Snakefile").write_text("rule all:\n    input: 'book/x.md'\n")
    assert_one_line(lambda: make._graph("all"), ["snakemake: Missing input files for rule all", "book/x.md"])
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "x.md").touch()
    before = signal.getsignal(signal.SIGTERM)
    assert make._to_make("all") == []
    assert signal.getsignal(signal.SIGTERM) == before  # the engine takes it, and who stops us would wait
    shutil.rmtree(tmp_path / ".snakemake")
    (tmp_path / ".snakemake").touch()
    assert_one_line(lambda: make._graph("all"), ["snakemake: ", ".snakemake'", "remove .snakemake, the notes on"])


@pytest.mark.parametrize("home", ["/proc", "{there}", "{there}/no"], ids=["not even by root", "writable", "not there"])
def test_a_home_that_cannot_be_written_is_replaced(home: str, plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain.setattr(make, "_to_make", lambda target: [])
    plain.setenv("HOME", home.format(there=tmp_path))
    plain.setattr(os, "environ", dict(os.environ))
    make.build_dir().mkdir(parents=True)
    assert make._graph("all") == 0
    assert os.environ["HOME"] == (str(tmp_path) if home == "{there}" else str(make.build_dir() / "home"))


@pytest.mark.parametrize(("change", "words"), [
    ({"chapter": "01_knwn"}, "no chapter '01_knwn'; did you mean '01_known_features'?"),
    ({"paper": "kim2012"}, "paper 'kim2012': not in book/references.bib; did you mean 'kim2021'?")])
def test_a_damaged_file_is_told_before_minutes_are_spent(plain: pytest.MonkeyPatch, change: dict[str, str],
                                                         words: str) -> None:
    found = claims.load()
    name = next(iter(found))
    plain.setattr(claims, "load", lambda: {name: found[name].model_copy(update=change)})
    plain.setattr(make, "_graph", lambda target: pytest.fail("something was run"))
    assert_one_line(make.book, [words])


def test_a_page_that_is_no_text_is_told_before_minutes_are_spent(plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("editions", "__pycache__"))
    (tmp_path / "book" / ".#intro.md").symlink_to("nowhere")  # an editor's
    (tmp_path / "book" / "reading.md").write_bytes("# Größe".encode("latin-1"))
    for name in ("_config.yml", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    plain.setattr(make, "ROOT", tmp_path)
    plain.setattr(make, "_graph", lambda target: pytest.fail("something was run"))
    assert_one_line(make.book, ["book/reading.md: not UTF-8 text (byte 4)"])


@pytest.mark.parametrize(("strict", "status"), [(False, 0), (True, 1)])
def test_of_what_the_renderer_says_the_fault_is_shown(tmp_path: Path, own_build: Path, strict: bool,
                                                      status: int) -> None:
    """A warning, then a folder that cannot be written, as on a full disk: a line each, no colours and no frames."""
    code = (f"from pathlib import Path; from book.press import make, __main__; make.ROOT = Path({str(tmp_path)!r}); "
            f"raise SystemExit(__main__.main({['render', *['--strict'] * strict]!r}))")

    (tmp_path / "_config.yml").write_text("sphinx: {config: {extensions: [myst_nb, sphinx_external_toc]}}")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (tmp_path / "index.md").write_text("# Book\n\n{nosuch}`x`\n")
    for spoil in (False, True):
        if spoil:
            shutil.rmtree(own_build / "_build" / ".doctrees")
            (own_build / "_build" / ".doctrees").touch()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        said = done.stderr.splitlines()
        assert done.returncode == (2 if spoil else status)
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stderr
        if not spoil:
            fault = f'{tmp_path}/index.md:3: WARNING: Unknown interpreted text role "nosuch". [myst.role_unknown]'
            assert said.count(fault) == 1
            assert (said[-1] == "The book was not rendered: see above.") == strict
    assert said[-1] == f"[Errno 17] File exists: '{own_build}/_build/.doctrees'"


@pytest.mark.parametrize("words", [["quick", "x"], ["quick", "99"], ["nosuch"], ["--", "-x"]])
def test_a_stage_that_is_none_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_replaced_images_are_new_inputs(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    image = tmp_path / "train" / "a" / "1.png"
    image.write_bytes(b"1")
    given = {"profile": "smoke", "dataset": f"folder:{tmp_path}"}
    first = chapters.images(given)
    assert first == chapters.images(given)
    image.write_bytes(b"22")
    assert chapters.images(given) != first
    assert chapters.images({"profile": "smoke"}) == []
