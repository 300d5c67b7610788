"""A scratch clone of the repository in which a case may damage whatever it likes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
TRACEBACK = "Traceback (most recent call last)"
FEW = {"02": "table_networks=vgg_small"}


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    status: int
    output: str

    def line(self, *words: str) -> bool:
        """Whether the command was refused in one line that holds all the words."""
        lines = [line for line in self.output.splitlines() if all(word.lower() in line.lower() for word in words)]
        return self.status != 0 and TRACEBACK not in self.output and any(len(line) < 500 for line in lines)


class Book:
    """A clone without environment of its own: it borrows that of the repository."""

    def __init__(self, root: Path) -> None:
        self.root, self.build, self.home = root, root / "build", root.with_name(root.name + " home")

    def made(self) -> "Book":
        self.home.mkdir(parents=True)
        subprocess.run(["git", "clone", "--quiet", ROOT, self.root], check=True, env=self.environment())
        (self.root / ".venv").symlink_to(ROOT / ".venv")
        os.utime(ROOT / ".venv" / "complete")  # newer than the clone's list of packages
        return self

    def removed(self) -> None:
        for folder in (self.root, self.home):
            shutil.rmtree(folder, ignore_errors=True)

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "NBUTILS_", "SNAKEMAKE_"))
        }
        return kept | {"OMP_NUM_THREADS": "2", "PROFILE": "smoke", "CI": "true"} | changes

    def start(self, *words: str, **changes: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            words,
            cwd=self.root,
            env=self.environment(**changes),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def end(self, process: "subprocess.Popen[str]", seconds: float = 600) -> Run:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Run(-1, f"{output}\n{TRACEBACK}: it hung for {seconds} seconds")
        return Run(process.returncode, output)

    def run(self, *words: str, seconds: float = 600, **changes: str) -> Run:
        return self.end(self.start(*words, **changes), seconds)

    def make(self, *words: str, seconds: float = 600, **changes: str) -> Run:
        return self.run("make", *words, seconds=seconds, **changes)

    def set(self, settings: str, chapter: str = "01") -> Run:
        """`make book` of one chapter with these settings."""
        return self.make("book", f"CHAPTER={chapter}", SET=settings)

    def folder(self, chapter: str = "02") -> Run:
        """The same on the images of the folder "mine", as little as there can be of it."""
        return self.set(f"'dataset=folder:{self.root / 'mine'}' seeds=1 {FEW.get(chapter, '')}", chapter)

    def chapter(self, chapter: str) -> Run:
        """The same without a page: the notebook alone is run."""
        source, output = next((self.root / "notebooks").glob(f"{chapter}_*.ipynb")), self.executed(chapter)
        words = ["profile=smoke", f"dataset=folder:{self.root / 'mine'}", "seeds=1", *FEW.get(chapter, "").split()]
        given = [part for word in words for part in ("-p", *word.split("=", 1))]
        return self.run(sys.executable, "-m", "book.press", "execute", str(source), str(output), *given)

    def python(self, code: str, **changes: str) -> Run:
        return self.run(sys.executable, "-c", code, **changes)

    def write(self, path: str, content: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text, f"{path} has no {old!r}"
        self.write(path, text.replace(old, new))

    def cell(self, chapter: str, old: str, new: str) -> None:
        """Change the code of a chapter."""
        path = next((self.root / "notebooks").glob(f"{chapter}_*.ipynb"))
        notebook, found = json.loads(path.read_text()), 0
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and old in source:
                cell["source"], found = source.replace(old, new), found + 1
        assert found, f"{path.name} has no {old!r}"
        path.write_text(json.dumps(notebook))

    def executed(self, chapter: str, ending: str = ".ipynb") -> Path:
        name = next((self.root / "notebooks").glob(f"{chapter}_*.ipynb")).stem
        path = self.build / "executed" / "smoke" / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def images(
        self,
        classes: tuple[str, ...] = ("cat", "dog", "frog", "owl"),
        size: tuple[int, int] = (32, 32),
        each: int = 0,
        name: str = "mine",
        mode: str = "RGB",
    ) -> Path:
        """A folder of noisy images, train and test, in which each class has a brightness of its own."""
        noise = np.random.default_rng(0)
        for split in ("train", "test"):
            for c, word in enumerate(classes):
                place = self.root / name / split / word
                place.mkdir(parents=True)
                for k in range(each or 240 // len(classes)):
                    pixels = noise.normal(40 + 170 * c / len(classes), 20, (size[1], size[0], 3)).clip(0, 255)
                    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(place / f"{k:03}.png")
        return self.root / name


@dataclass(frozen=True)
class Case:
    """Something that somebody tried.

    Attributes:
        group: its kind. name: what was tried. attempt: does it, and gives how it ended: "works", "one line", or
            what went wrong.
    """

    group: str
    name: str
    attempt: Callable[[Book], str]

    def tried(self, book: Book) -> tuple[str, str]:
        """("works", "one line" or "FAILED", what was seen)."""
        try:
            ended = self.attempt(book.made())
        except Exception as error:
            ended = f"{type(error).__name__}: {error}"
        finally:
            book.removed()
        return (ended, "") if ended in ("works", "one line") else ("FAILED", " ".join(ended.split())[-300:])


def refused(run: Run, *words: str) -> str:
    """ "one line" if the command was refused with these words, else what it printed."""
    return "one line" if run.line(*words) else f"exit {run.status}, expected a line with {words}: {run.output}"


def works(run: Run, *words: str) -> str:
    """ "works" if the command ended well and printed these words, else what it printed."""
    good = run.status == 0 and TRACEBACK not in run.output and all(word in run.output for word in words)
    return "works" if good else f"exit {run.status}, expected success and {words}: {run.output}"


def either(run: Run, *words: str) -> str:
    """ "works" or "one line", whichever it was."""
    return works(run) if run.status == 0 else refused(run, *words)
