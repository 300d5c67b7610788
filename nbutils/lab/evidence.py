"""What a number rests on: how many images, which data, models, threat models, attacks and artifacts. It is read off the
things that the number was computed from, so that nobody types it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import nn

from nbutils.features.bottleneck import Distilled
from nbutils.images.imageset import ImageSet
from nbutils.lab.results import Result
from nbutils.networks import artifacts
from nbutils.robustness.evaluate import Outcome
from nbutils.robustness.threat import ThreatModel

KNOWN = (ImageSet, Outcome, Result, ThreatModel, Distilled)  # which speak for what they hold
NAMED = 4  # models, data sets or attacks that are named; of more the rest is counted


@dataclass(frozen=True)
class Evidence:
    """What was used, each once and in the order of use.

    Attributes:
        counts: numbers of images. models, data, threats, attacks: names. inputs: keys and fingerprints.
        seconds: computing time of outcomes and results. norms: (L2, L_inf) medians of results.
    """

    counts: tuple[int, ...] = ()
    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    threats: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    seconds: float = 0.0
    norms: tuple[tuple[float, float], ...] = ()

    def __add__(self, other: Evidence) -> Evidence:
        def both(part: Callable[[Evidence], tuple[Any, ...]]) -> tuple[Any, ...]:
            return tuple(dict.fromkeys(part(self) + part(other)))

        return Evidence(both(lambda e: e.counts), both(lambda e: e.models), both(lambda e: e.data),
                        both(lambda e: e.threats), both(lambda e: e.attacks), both(lambda e: e.inputs),
                        self.seconds + other.seconds, self.norms + other.norms)

    @property
    def context(self) -> dict[str, Any]:
        """As attributes of a `Result`: of several numbers of images the smallest, of several names a list."""
        threat = _listed(self.threats)
        norms = tuple(sum(side) / len(self.norms) for side in zip(*self.norms, strict=True))
        return {"n": min(self.counts, default=0), "model": _listed(self.models, "; "), "data": _listed(self.data),
                "threat": threat, "attack": _listed(self.attacks, "; "), "inputs": self.inputs,
                "seconds": self.seconds, "norms": norms if norms and threat == "unbounded" else None}


def evidence(*things: object) -> Evidence:
    """What these rest on, each thing once.

    Args:
        things: image sets, features, masks, networks, outcomes, results, attacks and threat models; mappings, lists,
            tuples, sets, dataclasses, partial functions and methods of them. Anything else adds nothing.
    """
    return sum(map(_of, _leaves(things, set())), Evidence())


def _leaves(things: Iterable[object], seen: set[int]) -> Iterator[object]:
    """What is held by these, however deep, each once."""
    for thing in things:
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        match thing:
            case Mapping():
                yield from _leaves(list(thing.values()), seen)
            case list() | tuple() | set() | frozenset():
                yield from _leaves(thing, seen)
            case functools.partial():
                yield from _leaves([thing.func, *thing.args, *thing.keywords.values()], seen)
            case MethodType():
                yield from _leaves([thing.__self__, thing.__func__], seen)
            case _:
                yield thing
                if dataclasses.is_dataclass(thing) and not isinstance(thing, (type, *KNOWN)) and not _is_attack(thing):
                    yield from _leaves([getattr(thing, part.name) for part in dataclasses.fields(thing)], seen)


def _of(thing: Any) -> Evidence:
    match thing:
        case ImageSet():
            return Evidence((len(thing),), data=(thing.name,), inputs=(thing.fingerprint,))
        case Outcome():
            return Evidence((len(thing),), (thing.model,), (thing.data,), _without("none", thing.threat),
                            _without("none", thing.attack), thing.inputs, thing.seconds)
        case Result():
            norms = (thing.norms,) if thing.norms else ()
            return Evidence(_without(0, thing.n), _without("none", thing.model), _without("none", thing.data),
                            _without("none", thing.threat), _without("none", thing.attack), thing.inputs,
                            thing.seconds, norms)
        case ThreatModel():
            return Evidence(threats=(str(thing),))
        case nn.Module():
            return Evidence(models=(getattr(thing, "name", "") or type(thing).__name__,), inputs=artifacts(thing))
        case Distilled():
            return Evidence((len(thing),))
    if _is_attack(thing):
        return Evidence(threats=(str(thing.threat or "unbounded"),), attacks=(repr(thing),))
    return Evidence()


def _is_attack(thing: Any) -> bool:
    return callable(thing) and hasattr(thing, "threat") and not isinstance(thing, type)


def _without(nothing: Any, value: Any) -> tuple[Any, ...]:
    return () if value == nothing else (value,)


def _listed(words: Iterable[str], separator: str = ", ") -> str:
    found = list(words)
    more = f" and {len(found) - NAMED + 1} more" if len(found) > NAMED else ""
    return separator.join(found[: NAMED - 1] if more else found) + more or "none"
