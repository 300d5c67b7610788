"""The laboratory: parameters and seeds of a run, results with intervals, claims, figures."""

from typing import Any

from nbutils.console import progress
from nbutils.lab import figures
from nbutils.lab.results import published
from nbutils.messages import counted


def __getattr__(name: str) -> Any:
    """`start` is imported once a chapter asks for it: it takes torch, which nobody needs who only reads results."""
    if name != "start":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nbutils.lab.runs import start

    return start
