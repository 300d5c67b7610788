"""Words and checks that error messages share."""

import difflib
from collections.abc import Iterable


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known word nearest to `value`, "" where none is near."""
    words = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(value).lower(), list(words), n=1, cutoff=0.4)
    return f"; did you mean {words[near[0]]!r}?" if near else ""


def check_counts(**settings: object) -> None:
    """Raise a ValueError that names the first setting that is not a whole number >= 1."""
    for setting, value in settings.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{setting} = {value!r}: expected a whole number >= 1")
