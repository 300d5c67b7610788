"""Stages: the runs that make an edition, one by one, in the order of what the book gains.

    python -m nbutils.lab.stages planted             what each stage gives, and which are done
    python -m nbutils.lab.stages planted 3           run one; with --tiny at the sizes of profile smoke, as a proof

A stage is a run of one chapter. Those that set parameters make it shorter: one seed, one network. What they train stays
in the store, so the stages after them find it there, and so does a stage that was killed and is started again.
The tables stand in ``book/editions/<edition>/stages.yml``. An edition without one has a stage for each chapter.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import dataclass, replace
from typing import Any

import yaml
from filelock import FileLock, Timeout

from nbutils.lab import execute
from nbutils.lab.chapters import Chapter, every, parse, select
from nbutils.lab.runs import ROOT, resolve

EDITIONS = ROOT / "book" / "editions"


@dataclass(frozen=True)
class Stage:
    """One run of one chapter.

    Attributes:
        chapter: its name. minutes: what the run takes, by arithmetic. gives: what the book has after it.
        set: parameters that differ from the profile's, as in ``make book SET=...``.
        keep: whether the edition shows this run; the others only fill the store.
    """

    chapter: str
    gives: str = "the whole chapter"
    minutes: int | None = None
    set: str = ""
    keep: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """Name -> value of what it sets."""
        pairs = (word.partition("=") for word in shlex.split(self.set))
        return {name: parse(value) for name, _, value in pairs}

    def tiny(self) -> Stage:
        """The same with no number above that of profile smoke."""
        smoke = resolve({"profile": "smoke"}, ["profile"]).model_dump()
        least = {name: min(value, smoke[name]) if isinstance(value, int) else value
                 for name, value in self.given.items()}
        return replace(self, set=" ".join(f"{name}={value}" for name, value in least.items()))

    def of(self, chapter: Chapter) -> Chapter:
        """The chapter, with this stage's own place for its executed notebook."""
        return replace(chapter, profile=f"{chapter.profile}/{self.set}") if self.set else chapter


def stages(edition: str) -> list[Stage]:
    """The table of an edition."""
    path = EDITIONS / edition / "stages.yml"
    if not path.exists():
        return [Stage(chapter.name, keep=True) for chapter in every(edition)]
    return [Stage(**row) for row in yaml.safe_load(path.read_text())]


def run(edition: str, number: int, tiny: bool = False) -> int:
    """Run one stage, if it is not done; returns the exit status.

    The variable SET changes parameters of every stage, for example the place of the images.

    Raises:
        ValueError: no such stage, one that is running already, or parameters that its chapter refuses.
    """
    table = stages(edition)
    if not 1 <= number <= len(table):
        raise ValueError(f"STAGE = {number}: edition {edition!r} has stages 1 to {len(table)}")
    stage = table[number - 1].tiny() if tiny else table[number - 1]
    chosen = select("smoke" if tiny else edition, stage.chapter, f"{stage.set} {os.environ.get('SET', '')}")
    [(chapter, words)] = ((stage.of(chapter), words) for chapter, words in chosen.items())
    chapter.twin.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(chapter.twin.with_suffix(".stage.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"stage {number} of edition {edition!r} is running already; wait for its end") from None
    with lock:
        if chapter.state().status == "ok":
            print(f"stage {number} of edition {edition!r} is done")
            return 0
        return execute.main([str(chapter.source), str(chapter.twin), *words])


def table(edition: str) -> str:
    """Number, chapter, parameters, minutes and state of each stage, and what it gives, as plain text."""
    chapters = {chapter.name: next(iter(select(edition, chapter.name))) for chapter in every(edition)}
    rows = [("stage", "chapter", "set", "minutes", "kept", "state", "gives")]
    for number, stage in enumerate(stages(edition), start=1):
        state = stage.of(chapters[stage.chapter]).state().status
        rows.append((str(number), stage.chapter, stage.set, str(stage.minutes or ""), "yes" * stage.keep, state,
                     stage.gives))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def main(words: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nbutils.lab.stages", description="List an edition's stages, or run one.")
    parser.add_argument("edition", help="for example planted")
    parser.add_argument("stage", nargs="?", type=int, help="its number")
    parser.add_argument("--tiny", action="store_true", help="at the sizes of profile smoke")
    arguments = parser.parse_args(words)
    try:
        if arguments.stage is not None:
            return run(arguments.edition, arguments.stage, arguments.tiny)
        print(table(arguments.edition))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
