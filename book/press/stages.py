"""Stages: the runs that make an edition, one by one, in the order of what the book gains.

    python -m book.press stage planted             what each stage gives, and which are done
    python -m book.press stage planted 3           run one; with --tiny at the sizes of smoke, as a proof

A stage is a run of one chapter. Those that set parameters make it shorter: one seed, one network. What they train stays
in the store, so the stages after them find it there, and so does a stage that was killed and is started again.
The tables stand in ``book/editions/<edition>/stages.yml``. An edition without one has a stage for each chapter.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict

from book.press.chapters import Chapter, aligned, assignments, every, named, parse, recorded, select
from book.press.execute import execute
from book.press.files import alone
from nbutils.lab.history import git, present_commit
from nbutils.lab.parameters import profiles, resolve, short
from nbutils.lab.results import Record
from nbutils.machine import ROOT
from nbutils.messages import did_you_mean, read_project_file
from nbutils.versions import NO_PART

EDITIONS = ROOT / "book" / "editions"
NOT_RUN = "not run"


def _settings(words: str) -> str:
    assignments(words)  # which raises what is wrong with them
    return words


def _words(settings: Mapping[str, Any]) -> str:
    return shlex.join(f"{name}={value}" for name, value in settings.items())


@dataclass(frozen=True)
class Stage:
    """One run of one chapter.

    Attributes:
        chapter: its name. minutes: an estimate for two free threads. gives: what the book has after it.
        set: parameters that differ from the profile's, as in ``make book SET=...``.
        keep: whether the edition shows this run; the others only fill the store.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    chapter: Annotated[str, AfterValidator(lambda name: named(name, f"{name!r}: no such chapter").name)]
    gives: str = "the whole chapter"
    minutes: int | None = None
    set: Annotated[str, AfterValidator(_settings)] = ""
    keep: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """Name -> value of what it sets."""
        return {name: parse(value) for name, value in assignments(self.set).items()}

    def tiny(self, edition: str) -> Stage:
        """The same networks at the sizes of profile smoke: no number is above those of smoke."""
        full, smoke = (resolve({"profile": name}, ["profile"]).model_dump() for name in (edition, "smoke"))
        names = next(chapter for chapter in every(edition) if chapter.name == self.chapter).parameters
        networks = {name: full[name].replace(", ", ",") for name in names
                    if name.endswith(("network", "networks")) or name == "encoder_size"}
        least = {name: min(value, smoke[name]) if isinstance(value, int) else value
                 for name, value in (networks | self.given).items()}
        return replace(self, set=_words(least))

    def of(self, chapter: Chapter) -> Chapter:
        """The chapter, with this stage's own place for its executed notebook."""
        return replace(chapter, profile=f"{chapter.profile}/{self.set}") if self.set else chapter


def stages(edition: str) -> list[Stage]:
    """The table of an edition.

    Raises:
        ValueError: no profile has its name, or a damaged table.
    """
    known = profiles()
    if edition not in known:
        raise ValueError(f"EDITION = {edition!r}: expected one of {', '.join(known)}{did_you_mean(edition, known)}")
    path = EDITIONS / edition / "stages.yml"
    if not path.exists():
        return [Stage(chapter.name, keep=True) for chapter in every(edition)]
    return read_project_file(path, list[Stage])


def differing(chapter: Chapter, profile: str, given: Mapping[str, Any], record: Record) -> str:
    """Parameters whose recorded values are not those of the profile and of what is given besides.

    A folder may stand for images that would have to be downloaded; the run names it.
    """
    now = resolve({**chapter.defaults, "profile": profile, **given}, [*chapter.parameters, "profile"]).model_dump()
    known = {"first_seed": 0, **record.parameters}  # older records do not say it
    ran = {name: known.get(name) for name in chapter.parameters}
    if now["dataset"] != "planted" and str(ran.get("dataset")).startswith("folder:"):
        del ran["dataset"]
    pairs = (f"{name} = {short(ran[name])} where it is {short(now[name])}" for name in ran if ran[name] != now[name])
    return ", ".join(pairs)


def fault(chapter: Chapter, profile: str, given: Mapping[str, Any]) -> str:
    """Why a chapter's last run cannot stand in an edition, in one line, or nothing. given: what its stage sets."""
    state = chapter.state()
    if state.status == "not run":
        return NOT_RUN
    if state.status == "stopped":
        return f"{state}, or under way"
    if state.status != "ok":
        return f"{state}; an edition holds whole runs only, run the chapter again"
    record = recorded(chapter.twin)
    if differs := differing(chapter, profile, given, record):
        return f"ran with {differs}; an edition keeps to its profile"
    if (commit := record.commit) == "unknown" or commit.endswith("-dirty"):
        return f"ran from commit {commit}; commit first, then run it again"
    if changed_since(commit):
        return f"ran from commit {commit}, since when claims or code changed; keep it from there, or run it again"
    return ""


def stage(edition: str, number: str | None, tiny: bool = False) -> None:
    """Run one stage, if it is not done; without a number print all of them.

    The variable SET changes parameters of every stage, for example the place of the images.

    Raises:
        ValueError: no such edition or stage, parameters that its chapter refuses, or changed files that are not
            committed, since their run could not be kept.
        execute.ChapterFailed: it did not reach its end.
    """
    if number is None:
        print(table(edition))
        return
    rows = stages(edition)
    if not re.fullmatch("[0-9]{1,4}", number) or not 1 <= int(number) <= len(rows):
        raise ValueError(f"STAGE = {number!r}: edition {edition!r} has stages 1 to {len(rows)}")
    if not tiny and (commit := present_commit()).endswith("-dirty"):
        raise ValueError(f"changed files are not committed (commit {commit}), so a run could not be kept; commit first")
    chosen = rows[int(number) - 1].tiny(edition) if tiny else rows[int(number) - 1]
    changed = replace(chosen, set=_words(assignments(chosen.set) | assignments(os.environ.get("SET", ""))))
    [(chapter, given)] = select("smoke" if tiny else edition, chosen.chapter, changed.set).items()
    chapter, name = chosen.of(chapter), f"stage {number} of edition {edition!r}"
    with alone(chapter.twin.with_suffix(".stage.lock"), f"{name} is running already"):
        if chapter.state().status == "ok" if tiny else not fault(chapter, edition, changed.given):
            print(f"{name} is done")
        else:
            execute(chapter.source, chapter.twin, given)


def changed_since(commit: str) -> bool:
    """Whether claims or code that decides numbers are other than at this commit, or git cannot tell."""
    left_out = [f":!{module.replace('.', '/')}*" for module in NO_PART]
    return git("diff", "--quiet", commit, "--", "book/claims.yml", "book/published", "nbutils",
               *left_out).returncode != 0


def table(edition: str) -> str:
    """Number, chapter, parameters, minutes and state of each stage, and what it gives, as plain text."""
    found, chapters = stages(edition), {chapter.name: chapter for chapter in every(edition)}
    rows = [("stage", "chapter", "set", "minutes", "kept", "state", "gives")]
    for number, stage in enumerate(found, start=1):
        state = stage.of(chapters[stage.chapter]).state().status
        rows.append((str(number), stage.chapter, stage.set, str(stage.minutes or ""), "yes" * stage.keep, state,
                     stage.gives))
    return aligned(rows)
