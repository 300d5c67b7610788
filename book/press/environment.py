"""What `make` does before there is an environment: it makes one, takes a build folder for ours, and cleans up.

    python3 -m book.press.environment make       make .venv, unless it is there and whole
    python3 -m book.press.environment read       make .venv-read, which renders pages and runs no chapter
    python3 -m book.press.environment clean      remove what was generated, but for the environments

It uses the standard library only, and words that every Python 3 reads, so that an old one can say what is missing.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from nbutils.machine import ROOT, build_dir

PYTHONS = "3.11 to 3.13"
MARKER = ".nbutils-build"
GENERATED = ("store", "executed", "results", "editions", "_build", "sweep", "release", "pages", "oracles", "home",
             ".lock", MARKER)
CACHES = (".snakemake", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")


def is_ours(build: Path) -> bool:
    """Whether we made this folder, as its marker says; the one in the repository always is."""
    return (build / MARKER).is_file() or build == ROOT / "build"


def take(build: Path) -> None:
    """Make the build folder ours: it is created or empty, has our marker, or holds nothing but what we make.

    Raises:
        ValueError: the folder cannot be written, cannot be named in the graph, or holds what is not ours; in one line.
    """
    name = f"NBUTILS_BUILD = {str(build)!r}"
    if set("{}\n") & set(str(build)):
        raise ValueError(name + ": expected a folder without braces and line ends in its name")
    folder = build
    try:
        build.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in build.iterdir()} - {MARKER, ".lock"}
        foreign = sorted(found - set(GENERATED))
        if foreign and not is_ours(build):
            raise ValueError(f"{name}: holds {foreign[0]!r}, which is not ours; expected a new folder, an empty one or "
                             f"one with the file {MARKER}")
        if not found or is_ours(build):
            (build / MARKER).touch()
        for folder in (build / "store", build / "executed"):
            folder.mkdir(exist_ok=True)
            if not os.access(str(folder), os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror}); expected a folder that can be, "
                         "set NBUTILS_BUILD to one") from None


def clean() -> None:
    """Remove what was generated; a build folder without our marker is left as it is.

    Raises:
        ValueError: such a folder.
    """
    build = build_dir()
    if build.is_dir() and any(build.iterdir()) and not is_ours(build):
        raise ValueError(f"NBUTILS_BUILD = {str(build)!r}: has no file {MARKER}, so it may not be ours; nothing is "
                         "deleted")
    for path in [build / name for name in GENERATED] + [ROOT / name for name in CACHES]:
        _remove(path)
    with suppress(OSError):  # it is not there, or holds what is not ours
        build.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path))
    elif path.exists() or path.is_symlink():
        path.unlink()


def make(name: str = ".venv") -> None:
    """Make an environment from the pins, or wait for who is making one; a half-made one is made again from nothing.

    Args:
        name: ".venv", for all there is, or ".venv-read", for what pyproject.toml lists under "read" alone.

    Raises:
        ValueError: a Python or a system that cannot; in one line.
        subprocess.CalledProcessError: venv or pip failed, and said why.
    """
    if os.name != "posix":
        raise ValueError("Windows: expected Linux or macOS; run this in WSL, see https://learn.microsoft.com/windows/wsl")
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        here = ".".join(map(str, sys.version_info[:2]))
        raise ValueError(f"Python {here} is here, {PYTHONS} is needed: make PYTHON=python3.12")
    if not (importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv")):
        raise ValueError("Python's venv is missing; on Debian: apt install python3-venv")
    import fcntl  # there is none on Windows
    import tomllib  # and none before 3.11

    pins = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    try:
        project = tomllib.loads(pins[0].read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{pins[0]}: {error}") from None
    venv, whole = ROOT / name, ROOT / name / "complete"
    wanted = ["-e", ".[test]"]
    if name != ".venv":  # without what the engine needs; what is never imported is never compiled
        wanted = ["--no-compile", *project["project"]["optional-dependencies"]["read"]]
    with open(str(pins[0])) as lock:  # what we start holds it too, so that none deletes what an orphan is writing
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("Another make is making the environment: waiting for its end.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if whole.exists() and all(whole.stat().st_mtime >= path.stat().st_mtime for path in pins):
            return
        print("Making the environment " + name + "; this takes " + ("a few minutes" if name == ".venv" else "a minute")
              + " once.", flush=True)
        if not whole.exists():
            _remove(venv)
        else:
            whole.unlink()
        install = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                   "-c", "constraints.txt", *wanted]
        for words in ([sys.executable, "-m", "venv", str(venv)], install):
            subprocess.run(words, cwd=str(ROOT), check=True, pass_fds=[lock.fileno()])
        whole.touch()


if __name__ == "__main__":
    try:
        {"make": make, "read": lambda: make(".venv-read"), "clean": clean}[sys.argv[1]]()
    except KeyboardInterrupt:
        sys.exit("stopped by the user")
    except subprocess.CalledProcessError:
        sys.exit("The environment was not made: see above; the next make starts again")
    except (ValueError, OSError) as failed:
        sys.exit(str(failed))
