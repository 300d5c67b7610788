"""A planted world for each student, and the checks that run in it.

The seed of a world comes from the student's name and a salt that only the teacher has. The student gets images and
labels; the law they were drawn from, and which pattern each image carries, are drawn again when the work is graded.
"""

import hashlib
import hmac
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from book.press.assignments import GRADER, read
from nbutils.images import ImageSet, PlantedSet, PlantedWorld

SIZES = {"train": 1200, "test": 300}


def own_seed(salt: bytes, student: str) -> int:
    """The seed of a student's world, below 2^48: too many to try them all."""
    return int.from_bytes(hmac.digest(salt, student.encode(), hashlib.sha256)[:6])


@dataclass(frozen=True)
class World:
    """A planted world with a law of its own. `train` and `test` hold the truth, `seen` what the student was given."""

    seed: int

    @cached_property
    def law(self) -> PlantedWorld:
        draw = Random(self.seed)
        rho, height = draw.choice((0.75, 0.8, 0.85, 0.9)), draw.choice((4, 5, 6))
        return PlantedWorld(seed=self.seed, rho=rho, amplitude=height / 255)

    @cached_property
    def train(self) -> PlantedSet:
        return self.law.draw(SIZES["train"], seed=0)

    @cached_property
    def test(self) -> PlantedSet:
        return self.law.draw(SIZES["test"], seed=1)

    def levels(self, part: str) -> Tensor:
        """(N, 3, 32, 32) uint8: the pixels of "train" or "test" in whole grey levels, as in any picture."""
        return (getattr(self, part).x * 255).round().to(torch.uint8)

    def seen(self, part: str) -> ImageSet:
        """The images and labels that the student was given."""
        truth = getattr(self, part)
        return ImageSet(self.levels(part).float() / 255, truth.y, truth.classes, f"my world, {part}")

    def file(self) -> bytes:
        """What a student gets of the world: images and labels, and nothing of its law."""
        return save({f"{part}.{name}": value for part in SIZES
                     for name, value in (("x", self.levels(part)), ("y", getattr(self, part).y))})


def check(question: str, answers: dict[str, Any]) -> float:
    """The points that these answers (a notebook's variables) earn for a question, in this student's world.

    It prints a line for each property, and no line of a check: an error in the student's code ends it in one line, too.
    Warnings and progress bars are dropped, since nbgrader gives no points for a cell that writes to stderr.
    """
    told = json.loads(os.environ[GRADER])
    cells = read(Path(told["source"])).cells
    (code,) = (cell.source for cell in cells if (cell.kind, cell.question) == ("check", question))
    names: dict[str, Any] = {}
    exec(code, names)
    with redirect_stderr(io.StringIO()):
        return points(names[question](SimpleNamespace(**answers), World(told["seed"])))


def points(found: Iterator[tuple[float, object, str]]) -> float:
    """The sum of the points of the properties that hold, each of which is (points, whether it holds, words)."""
    total = 0.0
    try:
        for worth, holds, words in found:
            earned = worth if bool(holds) else 0
            total += earned
            print(f"{earned:g} of {worth:g}: {words}")
    except Exception as error:  # student code may raise anything
        missing = re.sub(r"'types.SimpleNamespace' object has no attribute", "there is no", str(error))
        line = f"{type(error).__name__}: {missing}".splitlines()[0]
        print(f"stopped: {line}")
    return total
