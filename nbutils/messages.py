"""Words and checks that error messages share."""

import csv
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

DECIMAL = r"(?:[0-9]{1,12}(?:\.[0-9]{1,20})?|\.[0-9]{1,20})"  # as people write it, and short enough to compute with


def read_project_file(path: Path, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """What a YAML file (a list or a dictionary) or a CSV file (a list of rows) of this project holds.

    Raises:
        ValueError: the file is missing, empty, not UTF-8, not well formed or of another shape; in one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            rows = list(csv.DictReader(text.splitlines(), strict=True))
            bad = next((n for n, row in enumerate(rows, 2) if None in row or None in row.values()), 0)
            found: Any = rows
            if bad:
                raise ValueError(f"row {bad}: expected as many cells as the first line has")
        else:
            found = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem}") from None
    except (ValueError, csv.Error, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(found, kind) or not found:
        shape = "a list" if kind is list else "lines of 'name: value'"
        raise ValueError(f"{path}: expected {shape}, found {type(found).__name__ if found else 'nothing'}")
    return found


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known word nearest to `value`, "" where none is near."""
    words = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(value).lower(), list(words), n=1, cutoff=0.4)
    return f"; did you mean {words[near[0]]!r}?" if near else ""


def counted(number: int, noun: str) -> str:
    """"1 seed", "3 seeds"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def check_counts(**settings: object) -> None:
    """Raise a ValueError that names the first setting that is not a whole number >= 1."""
    for setting, value in settings.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{setting} = {value!r}: expected a whole number >= 1")


def short_repr(value: object) -> str:
    """`repr` of a value, cut so that it fits on a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
