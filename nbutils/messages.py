"""Words and checks that error messages share."""

import csv
import difflib
import io
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

Kind = TypeVar("Kind")
MOST = 10**15  # of counts and seeds, beyond the 2**48 of a student's world and below the 2**64 of generators
DECIMAL = r"(?:[0-9]{1,12}(?:\.[0-9]{1,20})?|\.[0-9]{1,20})"  # as people write it, and short enough to compute with


class _Loader(yaml.BaseLoader):
    """Every value is text as it stands there, for who knows its type: 010 is no octal number, and no is no truth value.
    A name stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found, names = super().construct_mapping(node, deep), set()
        for name, _ in node.value:
            if name.value in names:
                raise yaml.MarkedYAMLError(problem=f"{name.value!r} stands twice", problem_mark=name.start_mark)
            names.add(name.value)
        return found


def read_text(path: Path) -> str:
    """The text of a file of this project.

    Raises:
        ValueError: there is none that can be read, or it is not UTF-8; in one line.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows may mark a file at its beginning
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def read_project_file(path: Path, kind: type[Kind]) -> Kind:
    """What a YAML file or a CSV file (a list of rows) of this project holds, as the type that is wanted.

    Raises:
        ValueError: the file cannot be read, is not well formed, holds nothing or what is not of this type; in one line
            that names the line, or the entry, counted from 1.
    """
    text = read_text(path)
    try:
        found = _rows(text) if path.suffix == ".csv" else yaml.load(text, _Loader)
        if not found:
            raise ValueError("expected entries, found nothing")
        return TypeAdapter(kind).validate_python(found)
    except ValidationError as error:
        raise ValueError(f"{path}: {first_fault(error)}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = ", ".join(filter(None, [error.context, error.problem]))
        raise ValueError(f"{path}{line}: {problem}") from None
    except (ValueError, csv.Error, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def _rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file, as column -> cell; raises csv.Error or ValueError where it is no table."""
    head, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    for name in head:
        if not name or head.count(name) > 1:
            raise ValueError(f"line 1: column {name!r}; expected a name for each, and each once")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(head):
            raise ValueError(f"entry {number}: {len(row)} cells; expected {len(head)}, as the first line has")
    return [dict(zip(head, row, strict=True)) for row in rows]


def first_fault(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, in one line: where it stands, and what is wrong with it."""
    first = error.errors()[0]
    place = ".".join(f"entry {part + 1}" if isinstance(part, int) else str(part) for part in first["loc"])
    found = "" if first["type"] in ("missing", "value_error") else f"; found {short_repr(first['input'])}"
    words = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return " ".join(f"{place}: {words}{found}".removeprefix(": ").split())


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known word nearest to `value`, "" where none is near."""
    words = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(value).lower(), list(words), n=1, cutoff=0.4)
    return f"; did you mean {words[near[0]]!r}?" if near else ""


def check_choice(setting: str, value: str, choices: Collection[str], error: type[ValueError] = ValueError) -> str:
    """Return the value if it is one of the choices; else raise an error that names it, them and the nearest one."""
    if not isinstance(value, str) or value not in choices:
        raise error(f"{setting} = {short_repr(value)}: expected one of {', '.join(choices)}"
                    f"{did_you_mean(value, choices)}")
    return value


def counted(number: int, noun: str) -> str:
    """"1 seed", "3 seeds"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def check_counts(least: int = 1, /, **settings: object) -> None:
    """Raise a ValueError that names the first setting that is not an `int` >= `least` and at most MOST; NumPy's would
    be no plain value in a recipe."""
    for setting, value in settings.items():
        if type(value) is not int or not least <= value <= MOST:
            raise ValueError(f"{setting} = {short_repr(value)}: expected {whole(least)}")


def whole(least: int) -> str:
    """The words for a count or a seed."""
    return f"a whole number >= {least}, as Python's int up to 10**15"


def check_kind(setting: str, value: object, kind: Any, expected: str) -> None:
    """Raise a ValueError that names a value of another kind, a class among them, and what was expected."""
    if isinstance(value, type) or not isinstance(value, kind):
        raise ValueError(f"{setting} = {short_repr(value)}: expected {expected}")


def short_repr(value: object) -> str:
    """`repr` of a value, cut so that it fits on a line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 80 else f"{text[:77]}..."
