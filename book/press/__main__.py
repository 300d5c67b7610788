"""The one command line of the press: `python -m book.press COMMAND ...`, from the repository's root.

It ends with exit status 1 where a run fails or numbers differ, 2 where something cannot be used, 130 where it was
stopped. Whatever ends a command is told in one line.
"""

import argparse
import io
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

try:
    from book.press import compare, editions, execute, files, grade, make, pool, release, stages, teach
except KeyboardInterrupt:  # they take most of a second
    sys.exit(130)


def keep(edition: str) -> int:
    paths, faults = editions.keep(edition)
    print("\n".join(f"{path.relative_to(editions.ROOT)}  {path.stat().st_size / 1000:.0f} kB" for path in paths))
    print("".join(f"{line}\n" for line in faults), end="", file=sys.stderr)
    return int(bool(faults))


def beside_ours(run: Path, every: bool) -> int:
    comparison = compare.beside_ours(run)
    files.show(comparison.text(every))
    return int(comparison.differs)


def parser() -> argparse.ArgumentParser:
    """All commands with what they take; the function of each is under "command", and returns an exit status or None."""
    whole = argparse.ArgumentParser(prog="python -m book.press", description="From notebooks to pages.")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., int | None], words: str) -> Callable[..., argparse.Action]:
        part = commands.add_parser(name, help=words, description=words)
        part.set_defaults(command=command)
        return part.add_argument

    add("book", make.book, "run what is not up to date and render the book; settings are the variables of make")
    add("read", make.read, "render our recorded runs; nothing is run")
    add("release", release.release, "make the folder and the zip that are given away")
    add("sweep", make.swept, "run a chapter at many settings; settings are the variables of make")
    add("serve", make.serve, "show the book on this machine")
    add("render", make.render, "render the book")("--strict", action="store_true", help="warnings are errors")
    argument = add("execute", execute.execute, "run one chapter strictly")
    argument("source", type=Path, help="notebook without outputs")
    argument("output", type=Path, help="where the executed notebook goes")
    argument("-p", dest="settings", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
             help="set a parameter")
    argument("--once", action="store_true", help="not if the output is there already")
    argument = add("stage", stages.stage, "list an edition's stages, or run one")
    argument("edition", help="for example planted")
    argument("number", nargs="?", help="of the stage")
    argument("--tiny", action="store_true", help="at the sizes of profile smoke")
    add("keep", keep, "keep the last runs as an edition")("edition", help="for example planted")
    argument = add("compare", beside_ours, "your run against ours")
    argument("run", type=Path, help="executed notebook, or a record of an edition")
    argument("--all", dest="every", action="store_true", help="list every number, not only those outside")
    argument = add("teach", teach.make, "make a course kit")
    argument("course", type=Path, help="folder with the file students.txt")
    argument("--book", default="", help="where the book's pages are: a folder, or https://...; "
                                        "without it, those rendered here")
    argument = add("grade", grade.grade, "grade an assignment")
    argument("course", type=Path, help="folder of the course")
    argument("assignment", help="for example 01_useful_features")
    argument("--due", default="", help="when it was due, for example '2026-12-01 12:00'")
    argument("--limit", type=int, default=300, help="seconds that a cell may run")
    argument = add("pool", pool.pooled, "runs with different seeds as one, and the verdicts over all of them")
    argument("runs", type=Path, nargs="+", metavar="run",
             help="executed notebook, or a record; one alone goes with ours")
    argument("-o", dest="output", type=Path, help="where the pooled record goes, a new file or an older pooled record")
    return whole


def main(words: Sequence[str] | None = None) -> int:
    """Do what these words say; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign shows another one
    given = vars(parser().parse_args(words))
    for end in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(end) == signal.SIG_DFL:  # not what nohup has set
            signal.signal(end, signal.default_int_handler)  # as Ctrl-C: the chapter under way ends
    try:
        return given.pop("command")(**given) or 0
    except KeyboardInterrupt:
        print("stopped; the next run goes on from here", file=sys.stderr)
        return 130
    except execute.ChapterFailed as error:
        print(error, file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
