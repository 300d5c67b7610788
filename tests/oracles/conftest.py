"""Peers that stand apart from the book's environment. Where `make oracles` has not put them, tests here are skipped."""

import importlib
import warnings
from collections.abc import Callable
from importlib import metadata
from types import ModuleType

import pytest

LEAST = {"diffusers": "0.30", "kornia": "0.8", "lightly": "1.5", "timm": "1.0"}


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]


@pytest.fixture
def peer() -> Callable[[str], ModuleType]:
    """A module of a peer library by its dotted name, or a skipped test."""

    def load(name: str) -> ModuleType:
        library = name.split(".")[0]
        try:
            found = metadata.version(library)
        except metadata.PackageNotFoundError:
            found = "0.0"
        if numbers(found) < numbers(LEAST[library]):
            pytest.skip(f"{library} >= {LEAST[library]} is not here; make oracles runs this test")
        import nbutils.torchvision  # noqa: F401  (torchvision must import first)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)

    return load
