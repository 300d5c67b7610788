"""What several test files check in the same way."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from book.press.chapters import every, read
from nbutils.lab.results import Record, Result
from nbutils.machine import ROOT

# Code after which `import torch` raises, and so does that of all else that only running chapters needs.
WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "scipy", "sklearn", "pandas", "matplotlib", "papermill", "snakemake"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, NoTorch())
"""

CLAIM = """
- id: a-claim
  chapter: 01_known_features
  role: paper
  paper: ilyas2019
  place: Section 2
  paraphrase: A pattern can be a useful feature.
  published: none
  statistic: known.tile
  measures: usefulness of a tile
  criterion: {above: 0.5}
  least_n: 100
  least_seeds: 3
  seen: "no"
  fixed: 2026-11-21
"""


class Scores(nn.Module):
    """Linear logits of any number of classes and precision, for images (B, 3, 4, 4)."""

    def __init__(self, classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(classes)
        self.weight = nn.Parameter(torch.randn(classes, 48, generator=generator, dtype=torch.float64).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


def record(results: Iterable[Result] = (), **changes: Any) -> Record:
    """The record of a run that found these; all else is the same everywhere, but for what is changed."""
    usual = {"chapter": "01_known_features", "parameters": {"profile": "quick", "dataset": "planted"},
             "device": "cpu, 2 threads", "minutes": 1.5, "peak_memory_gib": 1.0,
             "finished": "2030-01-02T03:04:05+00:00", "version": "0", "commit": "abc", "python": "3", "torch": "2",
             "results": list(results), "verdicts": []}
    return Record.model_validate(usual | changes)


def assert_one_line(call: Callable[[], object], words: Iterable[str]) -> None:
    """The call raises a ValueError whose message is one line that holds the words."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the words are checked below)
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def pages() -> dict[str, str]:
    """Name -> text of each page of the book; of a chapter, the cells of text."""
    found = {f"book/{path.stem}": path.read_text() for path in sorted((ROOT / "book").glob("*.md"))}
    for chapter in every("smoke"):
        cells = read(chapter.source).cells
        found[f"notebooks/{chapter.name}"] = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    return found
