"""Runs of one chapter that differ in their seeds, pooled: which seeds came from whom, and the verdicts over them all.

    python -m book.press pool mine.ipynb                     with ours of the same profile
    python -m book.press pool mine.ipynb hers.ipynb -o all.json

Runs are executed notebooks, records of an edition, and pooled records. A parameter of every chapter, `first_seed`,
makes runs with seeds that nobody has: with first_seed = 3 and seeds = 2 they are 3 and 4.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from book.press.chapters import aligned, named, recorded
from book.press.editions import ours
from book.press.files import show, write
from nbutils.lab import claims
from nbutils.lab.parameters import BLOCK, OF_MACHINE, OF_SEEDS, STUDENTS, short
from nbutils.lab.results import Record, RecordedVerdict, Result, dumps
from nbutils.messages import counted

SHARED = ("unit", "model", "data", "threat", "attack")  # what numbers of one address have in common


@dataclass(frozen=True)
class Pool:
    """Records by the words for where each was found, and the one record that they make. left_out: addresses of numbers
    that are not in all of them, or are of different models, data or attacks."""

    runs: Mapping[str, Record]
    record: Record
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, runs: Mapping[str, Record]) -> Pool:
        """Pool these runs.

        Raises:
            ValueError: runs of different chapters or parameters, or one seed in two of them; in one line.
        """
        runs = dict(sorted(runs.items(), key=lambda item: min(item[1].all_seeds)))
        for name, run in runs.items():
            _check_alike(*next(iter(runs.items())), name, run)
        sources = _sources(runs)
        first, *others = (run.by_id for run in runs.values())
        found = {id: [result, *(other[id] for other in others if id in other)] for id, result in first.items()}
        pooled = [_joined(parts) for parts in found.values() if len(parts) == len(runs) and _alike(parts)]
        kept = {result.id for result in pooled}
        left_out = dict.fromkeys(id for run in runs.values() for id in run.by_id if id not in kept)
        return cls(runs, _record(list(runs.values()), sources, pooled), tuple(left_out))

    def text(self) -> str:
        """Whose seeds, the verdicts over all of them beside those of each run, and what was left out."""
        record, seeds = self.record, sum(map(len, self.record.sources.values()))
        runs = [("seeds", "from", "device", "precision", "commit", "finished")]
        runs += [("; ".join(spans(run.all_seeds)), name, run.device, run.precision, run.commit,
                  str(run.finished.date())) for name, run in self.runs.items()]
        rows = [("claim", "all seeds", "each run", "number over all seeds")]
        for verdict in record.verdicts:
            each = [next((own.held for own in run.verdicts if own.claim == verdict.claim), "not judged")
                    for run in self.runs.values()]
            rows.append((verdict.claim, verdict.held, ", ".join(each), str(record.by_id[verdict.result])))
        lines = [f"{record.chapter}: {counted(seeds, 'seed')} from {counted(len(self.runs), 'run')}", "",
                 aligned(runs), "", aligned(rows), "", f"{counted(len(record.results), 'number')} pooled."]
        if len(places := {run.dataset for run in self.runs.values()}) > 1:
            lines.append(f"Note: the images are of folders of one name in {len(places)} places, "
                         f"{' and '.join(sorted(places))}; expected the same images.")
        if self.left_out:
            lines.append(f"Left out, since not all runs have them alike: {', '.join(self.left_out)}.")
        return "\n".join(lines)


def pooled(runs: Sequence[Path], output: Path | None = None) -> None:
    """Keep and print what the runs in these files are when pooled; one alone is pooled with ours of its profile.

    Args:
        output: where the pooled record goes, if it is to be kept: a new file, or one that holds a pooled record.

    Raises:
        ValueError: see `Pool.of`, a file without a run that can be used, or an output that is an input or anything else
            that would be lost; in one line.
    """
    places = [os.path.realpath(path) for path in runs]
    if twice := [path for path, place in zip(runs, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"{twice[-1]}: stands twice; expected each run once")
    if output is not None and os.path.realpath(output) in places:
        raise ValueError(f"-o {output}: one of the runs, which would be lost; expected a new file, such as all.json")
    if output is not None and output.exists() and not _is_pool(output):
        raise ValueError(f"-o {output}: is there and holds no pooled record; expected a new file, such as all.json")
    found = _with_ours({str(path): recorded(path) for path in runs})
    if output is not None:
        write({Path(os.path.realpath(output)): dumps(found.record)})  # where a link leads, which stays
    show(found.text())


def _is_pool(path: Path) -> bool:
    try:
        return bool(recorded(path).sources)
    except ValueError:
        return False


def _with_ours(runs: dict[str, Record]) -> Pool:
    if len(runs) == 1:
        [(path, yours)] = runs.items()
        kept = ours(yours, path)
        runs[f"edition {kept.profile}"] = kept
    return Pool.of(runs)


def spans(seeds: Sequence[int]) -> list[str]:
    """Seeds in words: 0, 1, 2 and 7 are "0 to 2" and "7"."""
    found: list[list[int]] = []
    for seed in sorted(seeds):
        if found and seed == found[-1][-1] + 1:
            found[-1].append(seed)
        else:
            found.append([seed])
    return [f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in found]


def _check_alike(first: str, reference: Record, name: str, run: Record) -> None:
    """Raise a ValueError unless two runs differ in nothing that matters but their seeds."""
    if run.chapter != reference.chapter:
        raise ValueError(f"{name}: chapter {run.chapter}, {first} has {reference.chapter}; expected one chapter")
    chapter = named(run.chapter, f"{name}: of chapter {run.chapter!r}, which this book does not have")
    pairs = {parameter: [_comparable(parameter, each.parameters) for each in (run, reference)]
             for parameter in chapter.parameters if parameter not in {"profile", *OF_MACHINE, *OF_SEEDS}}
    if None not in (run.classes, reference.classes):  # older records do not say it
        pairs["classes"] = [run.classes, reference.classes]
    for setting, (a, b) in pairs.items():
        if a != b:
            raise ValueError(f"{name}: {setting} = {short(a)}, {first} has {short(b)}; expected runs that differ in "
                             "their seeds alone")
    for seed in run.all_seeds:
        if seed % BLOCK >= STUDENTS:
            raise ValueError(f"{name}: seed {seed} is one of a run's students; expected the first {STUDENTS} of a "
                             f"block of {BLOCK}, such as a run with first_seed = {BLOCK}")


def _comparable(parameter: str, parameters: Mapping[str, Any]) -> Any:
    """A parameter's value; of a folder of images, of which an edition hides the path, its name."""
    value = parameters.get(parameter)
    is_folder = parameter == "dataset" and str(value).startswith("folder:")
    return Path(str(value).removeprefix("folder:")).name if is_folder else value


def _sources(runs: Mapping[str, Record]) -> dict[str, tuple[int, ...]]:
    """Words for a run -> its seeds; raises ValueError where a seed is in two of them."""
    found, taken = dict[str, tuple[int, ...]](), dict[int, str]()
    for name, run in runs.items():
        for source, seeds in (run.sources or {name: run.all_seeds}).items():
            if twice := sorted(taken.keys() & {*seeds}):
                free = 1 + max(seed for each in runs.values() for seed in each.all_seeds)
                raise ValueError(f"{name}: seed {twice[0]} is in {taken[twice[0]]} too; expected each seed once, such "
                                 f"as a run with first_seed = {free}")
            taken |= dict.fromkeys(seeds, name)
            found[f"{source} in {name}" if source in found else source] = tuple(seeds)
    return found


def _alike(parts: Sequence[Result]) -> bool:
    return all(len({getattr(part, name) for part in parts}) == 1 for name in SHARED)


def _joined(parts: Sequence[Result]) -> Result:
    """One result of what several runs measured at one address."""
    values = tuple(value for part in parts for value in part.values)
    norms = None
    if all(part.norms is not None for part in parts):
        sides = np.average([part.norms for part in parts if part.norms], axis=0, weights=[len(p.values) for p in parts])
        norms = (float(sides[0]), float(sides[1]))
    return replace(parts[0], value=float(np.mean(values)), values=values, n=min(part.n for part in parts), k=None,
                   norms=norms, inputs=tuple(dict.fromkeys(key for part in parts for key in part.inputs)),
                   seconds=sum(part.seconds for part in parts), device=_all(part.device for part in parts))


def _record(runs: Sequence[Record], sources: Mapping[str, tuple[int, ...]], found: list[Result]) -> Record:
    """The record of all runs together, with its verdicts."""
    seeds = [seed for each in sources.values() for seed in each]
    parameters = runs[0].parameters | {"seeds": len(seeds), "first_seed": min(seeds)}
    classes = next((run.classes for run in runs if run.classes is not None), None)
    by_id, judged = {result.id: result for result in found}, []
    for id in dict.fromkeys(verdict.claim for run in runs for verdict in run.verdicts):
        claim = claims.load().get(id)  # an older record may have one that is no more
        if claim and claim.statistic in by_id:
            verdict = claims.judge(claim, by_id[claim.statistic], parameters, found, classes)
            judged.append(RecordedVerdict(claim=id, held=verdict.held, words=verdict.words, result=claim.statistic))
    joined = {name: _all(getattr(run, name) for run in runs)
              for name in ("device", "precision", "version", "commit", "python", "torch")}
    return Record.model_validate({
        "chapter": runs[0].chapter, "parameters": parameters, "classes": classes, **joined,
        "minutes": sum(run.minutes for run in runs), "peak_memory_gib": max(run.peak_memory_gib for run in runs),
        "finished": max(run.finished for run in runs), "sources": dict(sources), "results": found, "verdicts": judged})


def _all(words: Any) -> str:
    return "; ".join(dict.fromkeys(words))
