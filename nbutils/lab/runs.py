"""A run of a chapter: its validated parameters, its seeds and device, and the record of what it found."""

from __future__ import annotations

import inspect
import operator
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

import torch
from IPython.core.getipython import get_ipython
from torch import Tensor

import nbutils
from nbutils import store
from nbutils.console import progress
from nbutils.images.imageset import ImageSet
from nbutils.images.sources import class_names
from nbutils.lab import claims
from nbutils.lab.claims import Verdict, Verdicts
from nbutils.lab.evidence import evidence
from nbutils.lab.history import present_commit
from nbutils.lab.parameters import (
    IN_PROFILES,
    NEEDS_TRUTH,
    OF_MACHINE,
    ParameterError,
    Parameters,
    assigned,
    committed,
    resolve,
    short,
)
from nbutils.lab.results import Published, Record, RecordedVerdict, Result, Table
from nbutils.machine import stores
from nbutils.messages import counted, did_you_mean
from nbutils.precision import fastest
from nbutils.robustness.attacks import Attack
from nbutils.robustness.evaluate import Outcome, accuracy_curve, evaluate

try:
    import resource
except ImportError:
    raise ImportError("Windows: expected Linux or macOS; run this in WSL") from None

SKIPPED = ("Skipped on these images, about which nobody knows the truth: the book's page shows this part from the "
           "planted world.")


def _set_by_papermill(namespace: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Names that papermill set, and those that cannot be parameters of this chapter: of papermill's those that no
    other cell sets, and of the parameters cell, as it last ran, those that no chapter has.

    Papermill runs an unknown name without a word, so we look at the cell that it added.
    """
    names: dict[bool, set[str]] = {True: set(), False: set()}
    typed: set[str] = set()
    for cell in namespace.get("In", ()):
        try:
            found = assigned(cell)
        except SyntaxError:  # a cell that never ran
            continue
        by_papermill = cell.startswith("# Parameters\n")
        names[by_papermill] |= found.keys()
        if next(iter(found), "") == "profile" and not by_papermill:
            typed = set(found)
    return names[True], names[True] - names[False] | typed - Parameters.model_fields.keys()


def choose_device(wanted: str = "auto") -> torch.device:
    """The device to compute on; "auto" takes the first there is of cuda, mps and cpu.

    Raises:
        ParameterError: the device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    kind, _, index = wanted.partition(":")
    if not there[kind]:
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise ParameterError(f"device = {wanted!r}: this machine has {found}; did you mean 'auto'?")
    if index and int(index) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ParameterError(f"device = {wanted!r}: this machine has cuda:0{f' to cuda:{last}' * (last > 0)}")
    return torch.device(wanted)


def _skipped(lines: list[str]) -> list[str]:
    """What IPython runs of a cell on images about which no truth is known."""
    return [f"print({SKIPPED!r})\n"] if lines and lines[0].strip() == NEEDS_TRUTH else lines


def start(chapter: str, namespace: Mapping[str, Any]) -> Run:
    """Begin a chapter: validate its parameters and choose its device.

    On other images than the planted ones, cells that begin with NEEDS_TRUTH are skipped from here on.

    Args:
        chapter: the notebook's name without ending. namespace: `globals()` of the notebook.

    Raises:
        ParameterError: see `resolve`; also for names that papermill was given and the notebook does not have, for
            names in the parameters cell that are none, and where that cell has not run. ValueError: see
            `machine.stores`.
    """
    stores()  # one that is not there is told before anything is made
    if "profile" not in namespace:
        raise ParameterError("profile: not set; run the cell tagged 'parameters' first, without an error")
    injected, unknown = _set_by_papermill(namespace)
    allowed = set(Parameters.model_fields) & set(namespace) - unknown
    parameters = resolve({name: namespace.get(name) for name in allowed | injected | unknown}, allowed, chapter)
    # Profiles leave eps to the chapters; any other value in a parameters cell is a change.
    own = {name: value for name, value in committed(chapter).items() if name in allowed - IN_PROFILES}
    usual = resolve({**own, "profile": parameters.profile}, allowed | {"profile"})
    changed = sorted(name for name in allowed - {"profile"} - OF_MACHINE
                     if getattr(parameters, name) != getattr(usual, name))
    for name in IN_PROFILES.intersection(changed):
        if namespace.get(name) is None:
            print(f"{name} = {getattr(parameters, name)}: {parameters.dataset} has no more images")
    device = choose_device(parameters.device)
    if shell := get_ipython():
        cleanup = shell.input_transformers_cleanup
        cleanup[:] = [step for step in cleanup if step is not _skipped] + [_skipped] * (parameters.dataset != "planted")
    return Run(chapter, parameters, device, tuple(changed), len(class_names(parameters.dataset)))


@dataclass
class Run:
    """One execution of one chapter. What it found is recorded in the executed notebook, by the run card at its end."""

    chapter: str
    parameters: Parameters
    device: torch.device
    changed: tuple[str, ...] = ()
    classes: int = 10
    found: dict[str, Result] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    commit: str = field(default_factory=lambda: present_commit())  # not that of the end: code may change in between

    @property
    def seeds(self) -> range:
        """One seed for each independent repetition."""
        return range(self.parameters.first_seed, self.parameters.first_seed + self.parameters.seeds)

    @property
    def device_name(self) -> str:
        """For example "cpu, 2 threads" or the name of a GPU."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {counted(torch.get_num_threads(), 'thread')}"

    @property
    def precision(self) -> str:
        """In which networks are trained and sets are built; "auto" is the faster one on this machine."""
        wanted = self.parameters.precision
        return fastest(self.device) if wanted == "auto" else wanted

    @property
    def stamp(self) -> str:
        """Profile, what was changed in it, and device, for the face of figures and tables."""
        values = self.parameters.model_dump()
        changes = ", ".join(f"{name} = {short(values[name])}" for name in self.changed)
        return f"profile {self.parameters.profile}{' with ' * bool(changes)}{changes}, {self.device_name}"

    def each(self, f: Callable[..., Any], *inputs: Any, first_seed: int = 0, **settings: Any) -> Any:
        """What `f` gives for each seed, in a list, with progress.

        Args:
            inputs, settings: arguments of f; a list has one entry per seed, of a `Result` f gets the value of each
                seed, and anything else, a tuple for example, is the same for all seeds. Where f has an argument
                `seed`, `device` or `precision` that is not among them, it gets those of this run.
                A mapping, of networks' names for example, adds a level to what is returned; in all others of them
                the same name is looked up.
            first_seed: added to the run's seeds, 100 for example, so that students share nothing with their teachers.

        Raises:
            ValueError: lists of different lengths.
        """
        if (rows := _by_name(*inputs, *settings.values())) is not None:
            return {name: self.each(f, *row[: len(inputs)], first_seed=first_seed,
                                    **dict(zip(settings, row[len(inputs):], strict=True)))
                    for name, row in rows.items()}
        of_f = inspect.signature(f)
        missing = of_f.parameters.keys() - of_f.bind_partial(*inputs, **settings).arguments.keys()
        missing -= getattr(f, "keywords", {}).keys()  # what a partial has set already
        found = []
        seeds = _by_seed(getattr(f, "__name__", repr(f)), [*inputs, *settings.values()], len(self.seeds))
        for seed, row in enumerate(progress(seeds, "seeds"), start=self.seeds.start + first_seed):
            named = dict(zip(settings, row[len(inputs):], strict=True))
            context = {"seed": seed, "device": self.device, "precision": self.precision}
            named |= {name: value for name, value in context.items() if name in missing}
            found.append(f(*row[: len(inputs)], **named))
        return found

    def accuracies(self, id: str, models: Any, images: Any, attacks: Any = None, **settings: Any) -> Any:
        """Record accuracies: of each model, on each kind of images, under each attack that there is.

        Args:
            id: of the result; every mapping below adds a level to it, and to what is returned, in this order.
            models, images, attacks: a list with one entry per seed (one attack, or None for clean images, serves all
                seeds), or a mapping of names to such. A mapping of images or of both has the columns of a table; with
                both, images are looked up by the attack's name.
            settings: `source`, `read` and the others of `evaluate`; in a mapping the model's name is looked up.

        Returns:
            A `Result`, or mappings of them: name of the model -> name of the column -> Result, as `table` takes them.
            Their outcomes, one per seed, are kept in `outcomes` under their ids.
        """
        if isinstance(models, Mapping):
            return {name: self.accuracies(f"{id}.{dotted(name)}", members, images, attacks,
                                          **dict(zip(settings, own, strict=True)))
                    for name, (members, *own) in _by_name(models, *settings.values()).items()}
        if (columns := _by_name(attacks, images)) is not None:
            return {name: self.accuracies(f"{id}.{dotted(name)}", models, shown, attack, **settings)
                    for name, (attack, shown) in columns.items()}
        found = self.each(evaluate, models, images[: len(models)], attacks, **settings)
        what = id.rpartition(".")[2] if attacks is None else found[0].attack
        return self.measure(id, f"accuracy, {what}", found)

    def curve(self, id: str, models: Any, images: Sequence[ImageSet], attacks: Iterable[Attack | None]) -> Any:
        """Record one accuracy for each attack, see `robustness.accuracy_curve`, under "<id>.<attack>", in a list.

        A mapping of models adds a level to the id and to what is returned, as in `accuracies`.
        """
        attacks = tuple(attacks)
        if isinstance(models, Mapping):
            return {name: self.curve(f"{id}.{dotted(name)}", members, images, attacks)
                    for name, members in models.items()}
        rows = self.each(accuracy_curve, models, images[: len(models)], attacks)
        return [self.measure(f"{id}.{attack!r}", "accuracy", outcomes)
                for attack, outcomes in zip(attacks, zip(*rows, strict=True), strict=True)]

    def measure(self, id: str, what: str, outcomes: Sequence[Outcome]) -> Result:
        """Record the accuracy of one outcome per seed, with all that the outcomes say of themselves.

        Raises:
            ValueError: none, or outcomes of different attacks, threat models, models or data.
        """
        self.outcomes[id] = list(outcomes)
        return self._record(Result.of(id, what, outcomes))

    def number(self, id: str, what: str, f: Callable[..., float | Tensor], *inputs: Any, unit: str = "number") -> Any:
        """Record what `f` makes of its inputs, once for each seed.

        What the number rests on (n, data, model, threat model, attack, artifacts, seconds) is read off the inputs, see
        `nbutils.lab.evidence`; so everything that decides the number belongs among them.

        Args:
            f: takes one entry of each input and gives one number.
            inputs: a list has one entry per seed; of a `Result` f gets the value of each seed; anything else, a tuple
                for example, is the same for all seeds. A mapping adds a level to the id and to what is returned; in
                all others of them the same name is looked up.
            unit: "share" (in [0, 1]), "points" (a difference of shares), "correlation" (in [-1, 1]) or "number".

        Raises:
            ValueError: an input with an entry for another number of seeds; nothing that depends on seeds; an unknown
                unit, or a number outside of its limits.
        """
        if (rows := _by_name(*inputs)) is not None:
            return {name: self.number(f"{id}.{dotted(name)}", what, f, *row, unit=unit) for name, row in rows.items()}
        began = time.monotonic()
        values = [float(f(*row)) for row in _by_seed(id, inputs)]
        context = evidence(*inputs)
        context["seconds"] += time.monotonic() - began
        return self._record(Result.of(id, what, values, unit=unit, **context))

    def difference(self, id: str, what: str, first: Any, second: Any) -> Any:
        """Record first - second, taken per seed first because the two were measured on the same images.

        Args:
            first, second: results, or mappings of names to results, see `number`. Of shares, and of points, the
                difference is in points; all others have a number.

        Raises:
            ValueError: the two have different numbers of seeds, or a number and a share are to be subtracted.
        """
        if (rows := _by_name(first, second)) is not None:
            return {name: self.difference(f"{id}.{dotted(name)}", what, *row) for name, row in rows.items()}
        units = {"points" if each.unit in ("share", "points") else "number" for each in (first, second)}
        if len(units) > 1:
            raise ValueError(f"{id}: units {first.unit} and {second.unit}; expected two of one kind")
        return self.number(id, what, operator.sub, first, second, unit=units.pop())

    def mean(self, id: str, what: str, results: Iterable[Result]) -> Result:
        """Record the mean of some results, of architectures for example, taken per seed first. Raises ValueError: no
        results, or of different units."""
        parts = list(results)
        if len(units := {part.unit for part in parts}) != 1:
            raise ValueError(f"{id}: {len(parts)} results in {sorted(units)}; expected at least one, all in one unit")
        return self.number(id, what, lambda *values: fmean(values), *parts, unit=parts[0].unit)

    def learned(self, id: str, trained: Mapping[str, Result],
                untrained: Mapping[str, Result]) -> dict[str, Mapping[str, Result | str]]:
        """Record what training adds to an encoder, under "<id>.<kind>"; claims need it by that id.

        Args:
            trained, untrained: kind of encoder -> accuracy of probes on natural images, on encoders that learned from
                these images and on the same before training. Kinds without `untrained` are left out.

        Returns:
            Rows for `table`: both, their difference, and whether the encoder has learned.
        """
        what = "accuracy of a probe on natural images, trained minus untrained encoder"
        trained = {kind: trained[kind] for kind in untrained}
        gained = self.difference(id, what, trained, untrained)
        return {"trained": trained, "untrained": untrained, "trained minus untrained": gained,
                "the encoder has learned": {kind: "yes" if claims.has_learned(gain) else "no"
                                            for kind, gain in gained.items()}}

    def _record(self, result: Result) -> Result:
        if len(result.values) not in (1, len(self.seeds)):
            raise ValueError(f"{result.id}: {counted(len(result.values), 'value')}; expected one for each of "
                             f"{counted(len(self.seeds), 'seed')}, or one in all")
        result = replace(result, profile=self.parameters.profile, device=self.device_name)
        self.found[result.id] = result
        return result

    def judge(self, *ids: str) -> Verdicts:
        """Hold the recorded results that these claims name against the claims' criteria.

        Raises:
            ValueError: unknown claim, or its statistic, or what its gates and arms name, has not been measured in this
                run.
        """
        for id in ids:
            claim = claims.find(id)
            for needed in (claim.statistic, *claim.gates, *claim.arms):
                if needed not in self.found:
                    raise ValueError(f"claim {id!r}: {needed!r} has not been measured"
                                     f"{did_you_mean(needed, self.found)}")
            self.verdicts[id] = claims.judge(claim, self.found[claim.statistic], self.parameters.model_dump(),
                                             self.found.values(), self.classes)
        return Verdicts(tuple(self.verdicts[id] for id in ids))

    def table(self, rows: Mapping[str, Mapping[str, Result | Published | str]], caption: str) -> Table:
        """A table of results with this run's stamp."""
        return Table(rows, caption, self.stamp)

    def card(self) -> Record:
        """The record of this run so far. A chapter ends with it, so that the executed notebook holds it."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        verdicts = [RecordedVerdict(claim=claim, held=verdict.held, words=verdict.words, result=verdict.result.id)
                    for claim, verdict in self.verdicts.items()]
        return Record.model_validate({
            "chapter": self.chapter,
            "parameters": self.parameters.model_dump(),
            "classes": self.classes,
            "device": self.device_name,
            "precision": self.precision,
            "minutes": round((time.monotonic() - self.began) / 60, 2),
            "peak_memory_gib": round(peak / 2**30, 2),
            "finished": datetime.now(UTC).replace(microsecond=0),
            "version": nbutils.__version__,
            "commit": self.commit,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "results": list(self.found.values()),
            "verdicts": verdicts,
            "networks": tuple(key for key in store.given if key.startswith("model-")),
        })


def _by_seed(what: str, inputs: Sequence[Any], *seeds: int) -> list[list[Any]]:
    """The inputs for each seed: of a list its entry, of a result its value; anything else is the same for all.

    Raises:
        ValueError: lists of different lengths, or none where nothing says how many seeds there are.
    """
    lists = [list(each.values) if isinstance(each, Result) else each for each in inputs]
    counts = {len(each) for each in lists if isinstance(each, list)} or set(seeds)
    if len(counts) != 1:
        found = ", ".join(map(str, sorted(counts))) or "no"
        raise ValueError(f"{what}: inputs of {found} seeds; expected lists or results of one number of seeds")
    return [[each[k] if isinstance(each, list) else each for each in lists] for k in range(counts.pop())]


def _by_name(*inputs: Any) -> Any:
    """The inputs for each name of the first mapping among them; without one, None."""
    names = next((each for each in inputs if isinstance(each, Mapping)), None)
    if names is None:
        return None
    return {name: [each[name] if isinstance(each, Mapping) else each for each in inputs] for name in names}


def dotted(name: Any) -> str:
    """The key of a table's row as part of an id; of a tuple its parts."""
    return ".".join(map(str, name)) if isinstance(name, tuple) else str(name)
