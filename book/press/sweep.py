"""A sweep: one chapter, or all, at each combination of some settings, and a pooled record over the seeds of each.

    make sweep CHAPTER=01 PROFILE=quick SWEEP="first_seed=0,3,6 network=small,vgg_small"

Jobs and records stand in ``sweep/<profile>/<settings>/`` of the build folder. The Snakefile makes them, here or on a
cluster; what is there is not run again.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from book.press.chapters import Chapter, aligned, assignments, select
from nbutils.lab.parameters import ParameterError
from nbutils.machine import build_dir


@dataclass(frozen=True)
class Job:
    """One run: a chapter, the parameters that are set (the profile first), and where its executed notebook goes."""

    chapter: Chapter
    settings: Mapping[str, str]
    output: Path

    @property
    def state(self) -> str:
        """How it stands: a partial file is a run under way, or what is left of one."""
        partial = self.output.with_suffix(".partial.ipynb")
        return "ok" if self.output.exists() else "failed or stopped" if partial.exists() else "not run"

    @property
    def pooled(self) -> Path:
        """The record of all runs that differ from this one in their seeds alone."""
        rest = {name: value for name, value in self.settings.items() if name != "first_seed"}
        return _folder(rest) / f"{self.chapter.name}.json"


def jobs(profile: str, wanted: str, settings: str, swept: str) -> list[Job]:
    """All runs of a sweep.

    Args:
        wanted, settings: as for `chapters.select`. swept: "name=value,value ...", quoted as in a shell.

    Raises:
        ParameterError: see `chapters.select`; a name in both, or a value twice; in one line.
    """
    values = {name: words.split(",") for name, words in assignments(swept, "SWEEP").items()}
    for name, words in values.items():
        if len(set(words)) < len(words):
            raise ParameterError(f"SWEEP = {name}={','.join(words)}: a value stands twice; expected each once")
        if name in assignments(settings):
            raise ParameterError(f"SWEEP = {name!r}: SET has it too; expected it in one of them")
    found = []
    for combination in itertools.product(*values.values()):
        given = shlex.join(f"{name}={value}" for name, value in zip(values, combination, strict=True))
        for chapter, own in select(profile, wanted, f"{settings} {given}").items():
            job = Job(chapter, own, _folder(own) / f"{chapter.name}.ipynb")
            if job not in found:  # the chapter lacks what differs
                found.append(job)
    return found


def asked() -> list[Job]:
    """The runs that the variables of make ask for, none without SWEEP; raises ParameterError, see `jobs`."""
    wanted, settings, swept = (os.environ.get(name, "") for name in ("CHAPTER", "SET", "SWEEP"))
    return jobs(os.environ.get("PROFILE", "") or "quick", wanted, settings, swept) if swept else []


def pools(found: list[Job]) -> dict[Path, list[Job]]:
    """Pooled record -> the runs that it is made of, where there are several."""
    groups: dict[Path, list[Job]] = {}
    for job in found:
        groups.setdefault(job.pooled, []).append(job)
    return {path: group for path, group in groups.items() if len(group) > 1}


def table(found: list[Job]) -> str:
    """What there is of a sweep, as plain text."""
    rows = [("file", "state"), *((_shown(job.output), job.state) for job in found)]
    rows += [(_shown(path), "ok" if path.exists() else "not made") for path in pools(found)]
    return aligned(rows)


def _shown(path: Path) -> str:
    return str(path.relative_to(build_dir()))


def _folder(settings: Mapping[str, str]) -> Path:
    words = [f"{name}={value}" for name, value in settings.items() if name != "profile"]
    return build_dir() / "sweep" / settings["profile"] / ("+".join(words).replace("/", "_") or "as it is")
