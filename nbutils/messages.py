"""Words that error messages share."""

import difflib
from collections.abc import Iterable


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known word nearest to `value`, "" where none is near."""
    near = difflib.get_close_matches(str(value).lower(), list(known), n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""
