"""Editions: runs that the book keeps, in ``book/editions/<edition>``, so that nobody has to make them again.

    python -m nbutils.lab.editions quick       keep the last runs at profile quick, those of `make book`
    make book EDITION=quick                    render the book from what is kept; nothing is run

Of each chapter there is a record of results, which other runs are compared with (see `nbutils.compare`), and a compact
executed notebook: code and outputs, without text, timings and progress bars. The notebook carries a stamp, which tells
whether either file was changed by hand, and whether the chapter's code, parameters or criteria have changed since.
How an expensive edition is made, see `nbutils.lab.stages`.
"""

import argparse
import ast
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import yaml

from nbutils.lab import claims, results
from nbutils.lab.chapters import Chapter, every, read, recorded, written
from nbutils.lab.console import warn
from nbutils.lab.runs import resolve, short
from nbutils.lab.stages import EDITIONS, Stage, stages
from nbutils.lab.store import ROOT, build_dir, code_version, imports
from nbutils.messages import did_you_mean

DEFAULT = "quick"  # the run that the text speaks of
BEST = "best"  # of each chapter the first edition in book/editions/order.yml that has it
LIMIT = 2_000_000  # bytes of one notebook; the repository keeps every version of it


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


def order() -> list[str]:
    """The editions, the best first."""
    found: list[str] = yaml.safe_load((EDITIONS / "order.yml").read_text())
    return found


def kept() -> dict[str, dict[str, results.Record]]:
    """Edition -> chapter -> record, for what is kept; the best edition comes last."""
    return {edition: {path.stem: results.read(path) for path in sorted((EDITIONS / edition).glob("*.json"))}
            for edition in reversed(order())}


def keep(profile: str) -> list[Path]:
    """Make the last runs at a profile its edition; chapters without a run, or with one under way, are left as they are.

    Of several stages of a chapter it takes the last one that is done and to be kept.

    Returns:
        The files, each written whole or not at all, and none before every run has been checked.

    Raises:
        ValueError: no chapter has run, or one has not run to its end as it stands, from a commit and with the
            parameters of its profile and stage; a notebook that is too large.
    """
    files = {path: text for chapter in every(profile) for path, text in _files(chapter, profile).items()}
    if not files:
        raise ValueError(f"no chapter has run at profile {profile!r}; run `make book PROFILE={profile}` first")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return list(files)


def _files(chapter: Chapter, profile: str) -> dict[Path, str]:
    """What an edition keeps of a chapter: path -> text of its record and its notebook; empty if it has not run."""
    ran = [(stage, stage.of(chapter)) for stage in stages(profile) if stage.keep and stage.chapter == chapter.name]
    ran = [(stage, run) for stage, run in ran if run.state().status != "not run"]
    for unfinished in [(stage, run) for stage, run in ran if run.state().status == "stopped"]:
        warn(f"{chapter.name}: {unfinished[1].state()}, or under way; left as it was")
        ran.remove(unfinished)
    if not ran:
        return {}
    stage, run = next((one for one in reversed(ran) if one[1].state().status == "ok"), ran[-1])
    if (state := run.state()).status != "ok":
        raise ValueError(f"{chapter.name}: {state}; an edition holds whole runs only, run the chapter again")
    header, measured = recorded(run.twin)
    if differing := _differing(chapter, profile, stage, header):
        raise ValueError(f"{chapter.name}: ran with {differing}; an edition keeps to its profile")
    if header["commit"] == "unknown" or header["commit"].endswith("-dirty"):
        raise ValueError(f"{chapter.name}: ran from commit {header['commit']}; commit first, then run it again")
    dataset = header["parameters"]["dataset"]
    place = Path(dataset.removeprefix("folder:"))
    hidden = {f"folder:{place}": f"folder:{place.name}", str(build_dir()): "build"}  # no path of this machine
    record = _replaced(results.dumps(header, measured, header["verdicts"]), hidden)
    notebook = nbformat.reads(_replaced(nbformat.writes(_compact(read(run.twin))), hidden), as_version=4)
    stamp = {"set": stage.set, **_sources(chapter)}
    notebook.metadata.edition = stamp | {"content": _hash([stamp, notebook.cells, record])}
    path, text = EDITIONS / profile / chapter.source.name, nbformat.writes(notebook)
    if len(text) > LIMIT:
        raise ValueError(f"{chapter.name}: {len(text) / 1e6:.1f} MB; expected at most {LIMIT / 1e6:.1f} MB, make its "
                         "pictures smaller")
    return {path.with_suffix(".json"): record, path: text}


def show(name: str) -> None:
    """Lay out an edition in ``editions/<name>`` of the build folder, as if its chapters had run there.

    "best" takes of each chapter the best edition. Records of all editions come along, since a claim about a paper's
    own setting is judged by any run in it.

    Raises:
        ValueError: no such edition, or notebooks changed by hand or stale, one line for each.
    """
    known = [BEST, *sorted(path.name for path in EDITIONS.iterdir() if path.is_dir())]
    if name not in known:
        raise ValueError(f"EDITION = {name!r}: expected one of {', '.join(known)}{did_you_mean(name, known)}")
    shown: dict[Chapter, Path] = {}
    for chapter in every(name):
        paths = [EDITIONS / edition / chapter.source.name for edition in (order() if name == BEST else [name])]
        if path := next((path for path in paths if path.exists()), None):
            shown[chapter] = path
    if problems := [problem for chapter, path in shown.items() if (problem := _problem(chapter, path))]:
        raise ValueError("\n".join(problems))
    executed, records = (build_dir() / "editions" / name / folder for folder in ("executed", "results"))
    copies = {path: records / path.parent.name for path in EDITIONS.glob("*/*.json") if path.parent.name != name}
    for path in shown.values():
        copies |= {path: executed / name, path.with_suffix(".json"): records / name}
    for folder in (executed, records):
        shutil.rmtree(folder, ignore_errors=True)
    for path, folder in copies.items():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder)  # with its time: what has not changed is not rendered again


def banner(chapter: Chapter, stamp: dict[str, Any]) -> str:
    """What a page built from an edition says about it, in one paragraph of MyST."""
    header, given = chapter.header, f", set to `{stamp['set']}`" * bool(stamp["set"])
    profile, dataset = (str(header["parameters"].get(name, "")) for name in ("profile", "dataset"))
    given += f", images from `{dataset}`" * dataset.startswith("folder:")
    words = [f"Edition **{profile}**{given}, recorded on {header['finished'][:10]} on {header['device']}, from commit "
             f"{header['commit']}. Nothing was run for this page."]
    if profile != DEFAULT:
        words.append("Tables, figures and verdicts are those of this edition. *The default run*, of which the text "
                     f"speaks, is edition `{DEFAULT}`; numbers inside sentences are from there.")
    if stamp["engine"] != _sources(chapter)["engine"]:
        words.append("The code of `nbutils` behind it has changed since.")
    return " ".join(words)


def _compact(twin: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Code and outputs alone: no text, no progress bars, no timings, and no record, which has its own file."""
    cells = []
    for cell in twin.cells:
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in outputs:
                output.get("data", {}).pop(results.MIME, None)
            tags = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
            cells.append(nbformat.v4.new_code_cell(cell.source, id=cell.id, metadata=tags, outputs=outputs,
                                                   execution_count=cell.execution_count))  # fmt: skip
    metadata = {name: twin.metadata[name] for name in ("kernelspec", "language_info") if name in twin.metadata}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def _differing(chapter: Chapter, profile: str, stage: Stage, header: dict[str, Any]) -> str:
    """Parameters whose recorded values are not those of the profile and the stage.

    A folder may stand for images that would have to be downloaded; the run names it.
    """
    now = resolve({**chapter.defaults, "profile": profile, **stage.given}, chapter.parameters).model_dump()
    ran = {name: header["parameters"].get(name) for name in chapter.parameters}
    if now["dataset"] != "planted" and str(ran.get("dataset")).startswith("folder:"):
        del ran["dataset"]
    pairs = (f"{name} = {short(ran[name])} where it is {short(now[name])}" for name in ran if ran[name] != now[name])
    return ", ".join(pairs)


def _sources(chapter: Chapter) -> dict[str, str]:
    """Hashes of what a run depends on: the chapter's code, its claims' criteria, and the engine behind it."""
    code = written(read(chapter.source))
    criteria = [(claim.id, claim.statistic, str(claim.criterion), claim.least_n, claim.least_seeds, claim.threat)
                for claim in claims.load().values() if claim.chapter == chapter.name and not claim.setting]
    modules = imports(ast.parse("\n".join(source for source, _ in code)))
    parts = {"code": code, "criteria": criteria, "engine": [code_version(module) for module in sorted(modules)]}
    return {name: _hash(part) for name, part in parts.items()}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _replaced(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1])
    return text


def _problem(chapter: Chapter, path: Path) -> str:
    """Why a kept notebook may not be shown, in one line, or nothing."""
    where, again = f"{path.parent.name}/{path.name}", "run its stage again and keep it"
    try:
        notebook, record = read(path), path.with_suffix(".json")
        stamp = dict(notebook.metadata["edition"])
        if stamp.pop("content") != _hash([stamp, notebook.cells, record.read_text()]):
            raise ValueError
        header, _ = results.read(record)
    except (ValueError, OSError, KeyError, AttributeError, nbformat.ValidationError):
        return f"{where}: changed by hand since it was recorded; restore it with git checkout, or {again}"
    changed = [f"its {name}" for name, now in _sources(chapter).items() if name != "engine" and stamp[name] != now]
    if not changed and (differing := _differing(chapter, path.parent.name, Stage("", set=stamp["set"]), header)):
        changed = [f"its parameters ({differing})"]
    return f"{where}: stale, {' and '.join(changed)} changed since it was recorded; {again}" if changed else ""


def main(words: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nbutils.lab.editions", description="Keep the last runs as an edition.")
    parser.add_argument("edition", help="for example quick")
    parser.add_argument("--show", action="store_true", help="lay out what is kept, for `make book EDITION=...`")
    arguments = parser.parse_args(words)
    try:
        if arguments.show:
            show(arguments.edition)
            return 0
        paths = keep(arguments.edition)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB" for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
