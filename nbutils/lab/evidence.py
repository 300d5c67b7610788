"""What a number rests on: how many images, which data, models, threat models, attacks and artifacts. It is read off the
things that the number was computed from, so that nobody types it."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

from torch import nn
from torch.utils.data import TensorDataset

from nbutils.features.bottleneck import Distilled
from nbutils.images.imageset import ImageSet
from nbutils.lab.results import Result
from nbutils.networks import artifacts
from nbutils.robustness.evaluate import Outcome
from nbutils.robustness.threat import ThreatModel

KNOWN = (ImageSet, Outcome, Result, ThreatModel, Distilled)  # which speak for what they hold
NAMED = 4  # models, data sets or attacks that are named; of more the rest is counted


def evidence(*things: object) -> dict[str, Any]:
    """What these rest on, each thing once, as attributes of a `Result`.

    Of several numbers of images n is the smallest; several names are listed, in the order of use; seconds are those of
    outcomes and results together; norms, of results under unbounded attacks alone, their mean.

    Args:
        things: image sets, points, features, masks, networks, outcomes, results, attacks and threat models; mappings,
            lists, tuples, sets, dataclasses, partial functions and methods of them. Anything else adds nothing.
    """
    found = defaultdict[str, list[Any]](list)
    for thing in _leaves(things, set()):
        for part, values in _of(thing).items():
            found[part] += (value for value in values if value is not None)
    threat = _listed(found["threat"])
    norms = tuple(sum(side) / len(side) for side in zip(*found["norms"], strict=True)) if threat == "unbounded" else ()
    return {"n": min(found["n"], default=0), "model": _listed(found["model"], "; "), "data": _listed(found["data"]),
            "threat": threat, "attack": _listed(found["attack"], "; "),
            "inputs": tuple(dict.fromkeys(found["inputs"])), "seconds": sum(found["seconds"], 0.0),
            "norms": norms or None}


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


def _of(thing: Any) -> dict[str, Sequence[Any]]:
    """What one thing says of itself: attribute of a `Result` -> values."""
    match thing:
        case ImageSet():
            return {"n": [len(thing)], "data": [thing.name], "inputs": [thing.fingerprint]}
        case Outcome() | Result():
            n = len(thing) if isinstance(thing, Outcome) else thing.n or None
            norms = thing.norms if isinstance(thing, Result) else None
            return {"n": [n], "model": [thing.model], "data": [thing.data], "threat": [thing.threat],
                    "attack": [thing.attack], "inputs": thing.inputs, "seconds": [thing.seconds], "norms": [norms]}
        case ThreatModel():
            return {"threat": [str(thing)]}
        case nn.Module():
            return {"model": [getattr(thing, "name", "") or type(thing).__name__], "inputs": artifacts(thing)}
        case Distilled() | TensorDataset():
            return {"n": [len(thing)]}
    if _is_attack(thing):
        return {"threat": [str(thing.threat or "unbounded")], "attack": [repr(thing)]}
    return {}


def _is_attack(thing: Any) -> bool:
    return callable(thing) and hasattr(thing, "threat") and not isinstance(thing, type)


def _listed(names: Iterable[str], separator: str = ", ") -> str:
    """Names, each once; of more than NAMED the rest is counted."""
    found = [name for name in dict.fromkeys(names) if name != "none"]
    more = f" and {len(found) - NAMED + 1} more" if len(found) > NAMED else ""
    return separator.join(found[: NAMED - 1] if more else found) + more or "none"
