"""Editions: the runs that the book keeps, in ``book/editions/<profile>``, one record for each chapter.

    python -m nbutils.lab.editions quick       keep the last runs at profile quick, those of `make book`

An edition is what other runs are compared with: see `nbutils.compare`.
"""

import argparse
import sys
from pathlib import Path

from nbutils.lab import results
from nbutils.lab.chapters import every, read, recorded
from nbutils.lab.store import ROOT

EDITIONS = ROOT / "book" / "editions"


def find(edition: str, chapter: str) -> results.Record:
    """The record of a chapter in an edition.

    Raises:
        ValueError: the edition does not have the chapter (what it has is named).
    """
    path = EDITIONS / edition / f"{chapter}.json"
    if not path.exists():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.json")))
        raise ValueError(f"{chapter}: not recorded in edition {edition!r}; it has {known or 'no chapter'}")
    return results.read(path)


def keep(profile: str) -> list[Path]:
    """Make the last runs at a profile its edition; chapters that never ran at it are left as they are.

    Returns:
        The files, each written whole or not at all, and none before every run has been checked.

    Raises:
        ValueError: no chapter has run, or one has not run to its end as it stands, from a commit and with the
            profile's own parameters.
    """
    found = {}
    for chapter in every(profile):
        state = chapter.state()
        if state.status == "not run":
            continue
        if state.status != "ok":
            raise ValueError(f"{chapter.name}: {state}; an edition holds whole runs only, run the chapter again")
        changed = sorted(set(read(chapter.twin).metadata.papermill.parameters) - {"profile"})
        if changed:
            raise ValueError(f"{chapter.name}: ran with {', '.join(changed)} changed; an edition keeps to its profile")
        found[chapter.name] = header, _ = recorded(chapter.twin)
        if header["commit"] == "unknown" or header["commit"].endswith("-dirty"):
            raise ValueError(f"{chapter.name}: ran from commit {header['commit']}; commit first, then run it again")
    if not found:
        raise ValueError(f"no chapter has run at profile {profile!r}; run `make book PROFILE={profile}` first")
    paths = []
    for name, (header, measured) in found.items():
        paths.append(EDITIONS / profile / f"{name}.json")
        results.save(paths[-1], header, measured, header["verdicts"])
    return paths


def main(words: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nbutils.lab.editions", description="Keep the last runs as an edition.")
    parser.add_argument("profile", help="for example quick")
    try:
        paths = keep(parser.parse_args(words).profile)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB" for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
