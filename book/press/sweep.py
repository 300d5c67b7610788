"""A sweep: one chapter, or all, at each combination of some settings, and a pooled record over the seeds of each.

    make sweep CHAPTER=01 PROFILE=quick SWEEP="first_seed=0,3,6 network=small,vgg_small"

Jobs and records stand in ``sweep/<profile>/<settings>/`` of the build folder. The Snakefile makes them, here or on a
cluster; what is there is not run again.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from book.press.chapters import Chapter, aligned, assignments, resolved, select
from nbutils.lab.parameters import ParameterError, Parameters
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
        ParameterError: see `chapters.select`; a name in both, a value twice, however it is written, or a seed in two
            runs that would be pooled; in one line.
    """
    values = {name: words.split(",") for name, words in assignments(swept, "SWEEP").items()}
    for name, words in values.items():
        if len(set(words)) < len(words):
            raise ParameterError(f"SWEEP = {name}={','.join(words)}: a value stands twice; expected each once")
        if "" in words:
            raise ParameterError(f"SWEEP = {name}={','.join(words)}: expected a value before and behind each comma")
        if name in assignments(settings):
            raise ParameterError(f"SWEEP = {name!r}: SET has it too; expected it in one of them")
    found: dict[tuple[str, Parameters], Job] = {}
    for combination in itertools.product(*values.values()):
        given = shlex.join(f"{name}={value}" for name, value in zip(values, combination, strict=True))
        for chapter, own in select(profile, wanted, settings, given).items():
            job = Job(chapter, own, _folder(own) / f"{chapter.name}.ipynb")
            same = found.setdefault((chapter.name, resolved(chapter, own)), job)
            if same != job:  # where they are equal, the chapter lacks what differs
                twice = [f"{name}={same.settings[name]},{value}" for name, value in own.items()
                         if same.settings[name] != value]
                raise ParameterError(f"SWEEP = {' '.join(twice)}: a value stands twice; expected each once")
    for group in pools(list(found.values())).values():
        _check_seeds(group)
    return list(found.values())


def _check_seeds(group: list[Job]) -> None:
    """Raise a ParameterError where two runs that would be pooled have a seed in common."""
    runs = sorted(((job, resolved(job.chapter, job.settings)) for job in group), key=lambda run: run[1].first_seed)
    for (one, first), (other, second) in itertools.pairwise(runs):
        if second.first_seed < (free := first.first_seed + first.seeds):
            both = ",".join(job.settings["first_seed"] for job in (one, other))
            raise ParameterError(f"SWEEP = first_seed={both}: with seeds = {first.seeds} both runs have "
                                 f"seed {second.first_seed}; expected each once, "
                                 f"such as first_seed={first.first_seed},{free}")


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
    """The folder of runs with these settings; where their words cannot name one, a hash stands behind what can."""
    given = {name: value for name, value in settings.items() if name != "profile"}
    words = "+".join(name + "=" + re.sub(r"[^\w.,-]", "_", value) for name, value in given.items())[:100]
    if words != "+".join(f"{name}={value}" for name, value in given.items()):
        words += f"-{hashlib.sha256(repr(sorted(given.items())).encode()).hexdigest()[:8]}"
    return build_dir() / "sweep" / settings["profile"] / (words or "as it is")
