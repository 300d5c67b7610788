"""The laboratory: parameters and seeds of a run, results with intervals, claims, figures."""

import importlib
from typing import Any

from nbutils.console import progress
from nbutils.lab.results import kim, published
from nbutils.messages import counted


def __getattr__(name: str) -> Any:
    """`start` and `figures` are imported once a chapter asks for them: they take torch and matplotlib, which
    nobody needs who only reads results."""
    if name not in ("start", "figures"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("nbutils.lab.runs" if name == "start" else "nbutils.lab.figures")
    return module.start if name == "start" else module
