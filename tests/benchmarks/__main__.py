"""`python -m tests.benchmarks`: measure, print, and keep the table that the book shows."""

import argparse
import csv
from dataclasses import astuple
from pathlib import Path

from tests.benchmarks.measures import MEASURES, Row, keep_freed_memory, measure

RECORDED = Path(__file__).with_name("recorded.csv")
COLUMNS = ("measure", "against", "asked", "measured ratio", "range", "setting", "device")


def main(words: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Our speed as ratios to peers.")
    parser.add_argument("--only", metavar="NAME", choices=MEASURES, help=f"one of {', '.join(MEASURES)}")
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}, which the book shows")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, so small that the figures mean nothing")
    options = parser.parse_args(words)
    if options.record and (options.only or options.tiny):
        parser.error("--record: the table is one whole run; expected it without --only and --tiny")
    keep_freed_memory()
    rows = []
    for name in [options.only] if options.only else MEASURES:
        for row in measure(name, options.tiny):
            print(" | ".join(text or "-" for text in astuple(row)), flush=True)
            rows.append(row)
    if options.record:
        with RECORDED.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *map(astuple, rows)])
    return rows


if __name__ == "__main__":
    main()
