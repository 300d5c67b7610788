"""Replay inputs that once failed, against a scratch clone of this repository, and print what became of each.

    python -m tests.faults                    all of them; about half an hour on two cores
    python -m tests.faults --only folder      those with this word in their group or name

Each case ends as "works", "one line" (it was refused, in one line that names what it must) or "FAILED". The exit status
is 1 if one failed. It takes minutes, so `make test` leaves it out; run it before a release, and weekly.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.book import Book
from tests.faults.cases import CASES


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults", description="Replay inputs that once failed.")
    parser.add_argument("--only", default="", help="a word in the group or name of a case")
    chosen = [case for case in CASES if parser.parse_args().only in f"{case.group}: {case.name}"]
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for number, case in enumerate(chosen):
            began = time.monotonic()
            outcome, words = case.tried(Book(Path(folder) / f"book {number}"))
            counts[case.group, outcome] += 1
            print(f"{outcome:8}  {time.monotonic() - began:5.1f} s  {case.group}: {case.name}   {words}", flush=True)
    print(f"\n{'kind':32} {'tried':>6} {'one line':>9} {'works':>6} {'failed':>7}")
    groups = list(dict.fromkeys(case.group for case in chosen))
    rows = {group: [counts[group, outcome] for outcome in ("one line", "works", "FAILED")] for group in groups}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)] if rows else [0, 0, 0]
    for group, row in rows.items():
        print(f"{group:32} {sum(row):6} {row[0]:9} {row[1]:6} {row[2]:7}")
    return 1 if rows["all"][2] else 0


if __name__ == "__main__":
    sys.exit(main())
