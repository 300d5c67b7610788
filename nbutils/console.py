"""What a run says while it works: progress bars and one-line warnings, both on standard error.

Where that is full or closed the words are lost, and not the work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class _Aside:
    """Standard error as it is at the moment, None where it was closed at the start; what it refuses is lost."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a disk that is full; a file that was closed
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()

    def flush(self) -> None:
        """Nothing is held back."""


ASIDE = _Aside()


def progress(items: Iterable[Item], label: str) -> Iterable[Item]:
    """Pass `items` on, with a bar on standard error for work that takes more than two seconds."""
    return tqdm(items, desc=label, delay=2, mininterval=1, leave=False, file=ASIDE, ascii=True, ncols=90)


@contextmanager
def counter(label: str, unit: str) -> Iterator[Callable[[int], None]]:
    """A function that counts work whose end nobody knows, shown on standard error after two seconds."""
    with tqdm(desc=label, unit=unit, delay=2, mininterval=1, leave=False, file=ASIDE, ascii=True, ncols=90) as bar:

        def count(done: int) -> None:  # not bar.update itself: what a forward hook returns replaces its input
            bar.update(done)

        yield count


def warn(message: str) -> None:
    """One line for the reader that is not an error."""
    ASIDE.write(f"note: {message}\n")
