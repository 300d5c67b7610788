"""Editions: runs that the book keeps, in ``book/editions/<edition>``, so that nobody has to make them again.

    python -m book.press keep planted          keep the last runs at profile planted
    make book EDITION=planted                  render the book from what is kept; nothing is run

Of each chapter there is a record of results, which other runs are compared with (see `compare`), and a compact executed
notebook: code and outputs, without text, timings and progress bars. The notebook carries a stamp, which tells whether
either file was changed by hand, which stops the build, and whether the chapter's code, parameters or criteria have
changed since, which its page says. How an expensive edition is made, see `stages`.
"""

import ast
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from book.press.chapters import Chapter, code_cells, every, named, read, recorded, written
from book.press.files import write
from book.press.stages import EDITIONS, NOT_RUN, Stage, differing, fault, stages
from nbutils.lab import claims, results
from nbutils.lab.parameters import profiles
from nbutils.machine import ROOT, build_dir
from nbutils.messages import did_you_mean, read_project_file, read_text
from nbutils.versions import code_version, imports

DEFAULT = "quick"  # what runs of other profiles are compared with
BEST = "best"  # of each chapter the first edition in book/editions/order.yml that has it
SILENT = {"engine": "the code of `nbutils`", "published": "the table of published numbers"}  # the page says it, no more
CHANGED = {"code": "The chapter's code has changed since; shown is the code that ran.",
           "criteria": "Criteria of its claims have changed since; its verdicts are by those of today."}
ASKED = {"id", "role", "statistic", "criterion", "gates", "arms", "least_n", "least_seeds", "threat"}  # of a claim
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
    return _read(path)


def _read(path: Path) -> results.Record:
    """The record that an edition keeps in a file; raises ValueError where it is not the one that belongs there."""
    record = results.read(path, older=False)
    if record.chapter != path.stem:
        raise ValueError(f"{path}: of chapter {record.chapter!r}; expected the one that it is named after")
    return record


def ours(yours: results.Record, place: object) -> results.Record:
    """Our record of the same chapter: of the edition of its profile where there is one, or else of DEFAULT.

    Args:
        place: where yours stands, for messages.

    Raises:
        ValueError: a chapter that this book does not have; see also `find`.
    """
    named(yours.chapter, f"{place}: of chapter {yours.chapter!r}, which this book does not have")
    recorded_too = yours.profile and (EDITIONS / yours.profile).is_dir()
    return find(yours.profile if recorded_too else DEFAULT, yours.chapter)


def order() -> list[str]:
    """The editions, the best first; raises ValueError where the list is damaged or names what is none, in one line."""
    path, known = EDITIONS / "order.yml", profiles()
    found = read_project_file(path, list[str])
    for name in found:
        if name not in known:
            raise ValueError(f"{path}: {name!r} is no edition{did_you_mean(name, known)}")
    return found


def of_the_book(chapter: str) -> str | None:
    """The edition whose record of a chapter the book is about: the first of `order` that can show it, or else that has
    its record; None where no edition has the chapter."""
    return next(iter(_having(chapter)), None)


def of_the_controls(chapter: str) -> str | None:
    """The edition that controls with a known truth are taken from: the first of those made on planted images."""
    return next((edition for edition in _having(chapter) if find(edition, chapter).dataset == "planted"), None)


def _having(chapter: str) -> list[str]:
    """The editions that have a chapter, the best first; those that hold its record alone come last."""
    found = [edition for edition in order() if (EDITIONS / edition / f"{chapter}.json").is_file()]
    return sorted(found, key=lambda edition: not (EDITIONS / edition / f"{chapter}.ipynb").is_file())


def kept() -> dict[str, dict[str, results.Record]]:
    """Edition -> chapter -> record, for what is kept; the best edition comes last.

    An edition that anybody makes in minutes may hold records alone.

    Raises:
        ValueError: files changed by hand, one line for each.
    """
    paths = {edition: sorted((EDITIONS / edition).glob("*.json")) for edition in reversed(order())}
    _check(path for found in paths.values() for path in found if list(path.parent.glob("*.ipynb")))
    return {edition: {path.stem: _read(path) for path in found} for edition, found in paths.items()}


def keep(profile: str) -> tuple[list[Path], list[str]]:
    """Make the last runs at a profile its edition, each chapter by itself.

    Of several stages of a chapter it takes the last one that is done and to be kept. A chapter without one stays as it
    was in the edition.

    Returns:
        The files of the chapters that are kept, both of a chapter or none; and a line for each chapter that has run
        and cannot be kept.

    Raises:
        ValueError: no such edition, or none of its chapters has run. OSError: the files cannot be written.
    """
    kept_now: list[Path] = []
    faults: list[str] = []
    table = [stage for stage in stages(profile) if stage.keep]
    for chapter in every(profile):
        try:
            files = _files(chapter, profile, [stage for stage in table if stage.chapter == chapter.name])
        except ValueError as error:
            faults.append(f"{chapter.name}: {error}; left as it was")
            continue
        write(files)
        kept_now += files
    if not kept_now and not faults:
        raise ValueError(f"no chapter has run at profile {profile!r}; run `make book PROFILE={profile}` first")
    return kept_now, faults


def _files(chapter: Chapter, profile: str, wanted: list[Stage]) -> dict[Path, str]:
    """What an edition keeps of a chapter: path -> text of its record and its notebook; empty if no stage has run.

    Raises:
        ValueError: its runs cannot be kept, or its notebook is too large.
    """
    faults = {stage: fault(stage.of(chapter), profile, stage.given) for stage in wanted}
    if set(faults.values()) <= {NOT_RUN}:
        return {}
    good = [stage for stage, why in faults.items() if not why]
    if not good:
        raise ValueError(next(why for why in reversed(faults.values()) if why != NOT_RUN))
    run = good[-1].of(chapter)
    ran = recorded(run.twin)
    hidden = {str(build_dir()): "build"}  # no path of this machine
    if ran.dataset.startswith("folder:"):
        hidden[ran.dataset] = f"folder:{Path(ran.dataset.removeprefix('folder:')).name}"
    record = _replaced(results.dumps(ran), hidden)
    notebook = nbformat.reads(_replaced(nbformat.writes(_compact(read(run.twin))), hidden), as_version=4)
    stamp = {"set": good[-1].set, **_sources(chapter)}
    notebook.metadata.edition = stamp | {"content": _hash([stamp, notebook.cells, record])}
    path, text = EDITIONS / profile / chapter.source.name, nbformat.writes(notebook)
    if (size := len(text.encode())) > LIMIT:
        raise ValueError(f"{size / 1e6:.1f} MB; expected at most {LIMIT / 1e6:.1f} MB, make its pictures smaller")
    return {path.with_suffix(".json"): record, path: text}


def show(name: str) -> None:
    """Lay out an edition in ``editions/<name>`` of the build folder, as if its chapters had run there.

    "best" takes of each chapter the best edition. Where the chapter has changed since, the page shows the code that ran
    and says so, see `banner`.

    Raises:
        ValueError: no such edition, one of records alone, or files changed by hand, one line for each.
    """
    known = [BEST, *sorted(path.name for path in EDITIONS.iterdir() if path.is_dir())]
    if name not in known:
        raise ValueError(f"EDITION = {name!r}: expected one of {', '.join(known)}{did_you_mean(name, known)}")
    folders = [EDITIONS / edition for edition in (order() if name == BEST else [name])]
    paths = ([folder / chapter.source.name for folder in folders] for chapter in every(name))
    shown = [path for wanted in paths if (path := next(filter(Path.exists, wanted), None))]
    if not shown and list((EDITIONS / name).glob("*.json")):
        raise ValueError(f"edition {name!r} holds records alone; `make book PROFILE={name}` makes its pages")
    _check(shown)
    executed = build_dir() / "editions" / name / "executed"
    shutil.rmtree(executed, ignore_errors=True)
    for path in shown:
        notebook, record = read(path), read_text(path.with_suffix(".json"))
        [*_, last] = (output.data for cell in notebook.cells for output in cell.outputs if "data" in output)
        last[results.MIME] = record  # where every executed notebook has it
        write({executed / name / path.name: nbformat.writes(notebook)})
        shutil.copystat(path, executed / name / path.name)  # what has not changed is not rendered again


def banner(chapter: Chapter, stamp: dict[str, Any]) -> str:
    """What a page built from an edition says about it, in one paragraph of MyST."""
    ran, given = chapter.record, f", set to {literal_code(stamp['set'])}" * bool(stamp["set"])
    assert ran is not None  # `show` has put it there
    given += f", images from {literal_code(ran.dataset)}" * ran.dataset.startswith("folder:")
    words = [f"Edition **{literal(ran.profile)}**{given}, recorded on {ran.finished.date()} on "
             f"{literal(ran.device)}, from commit {literal(ran.commit)}. Nothing was run for this page."]
    changed = _changed(chapter, stamp)
    if silent := [what for name, what in SILENT.items() if name in changed]:
        words.append(f"Since then {' and '.join(silent)} behind it changed.")
    words += [sentence for name, sentence in CHANGED.items() if name in changed]
    set_then = {name: value for name, value in Stage("", set=stamp["set"]).given.items() if name in chapter.parameters}
    if differs := differing(chapter, ran.profile, set_then, ran):
        words.append(f"Its parameters have changed since: it ran with {literal(differs)} now.")
    return " ".join(words)


def older_claims(chapter: Chapter, stamp: Mapping[str, Any] | None) -> str:
    """What the head of a page says where criteria or code have changed since its edition was recorded."""
    if not stamp or not (changed := _changed(chapter, stamp) & CHANGED.keys()):
        return ""
    judged = "Criteria have changed since this run; a box says where that changes a verdict. " * ("criteria" in changed)
    return (f"{judged}Tables are as the run printed them: their intervals may ignore the error of testing on few "
            "images. Parts that are newer than the run show no result.")


def _changed(chapter: Chapter, stamp: Mapping[str, Any]) -> set[str]:
    """What of `_sources` is other than when an edition was recorded; of what an older stamp lacks nobody knows."""
    return {name for name, now in _sources(chapter).items() if stamp.get(name, now) != now}


def literal(text: object) -> str:
    """Text that stands in MyST for itself, whatever markup it holds."""
    return re.sub(r"([\\`*_{}\[\]<>|$&])", r"\\\1", " ".join(str(text).split()))


def literal_code(text: object) -> str:
    """The same, set as code."""
    return f"`{' '.join(str(text).replace('`', chr(39)).split())}`"


def _compact(twin: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Code and outputs alone: no text, no progress bars, no timings, and no record, which has its own file."""
    twin.cells = [cell for cell in twin.cells if cell.cell_type == "code"]
    for cell in twin.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            output.get("data", {}).pop(results.MIME, None)
    twin.metadata = nbformat.from_dict({name: twin.metadata[name] for name in ("kernelspec", "language_info")
                                        if name in twin.metadata})
    return twin


def _sources(chapter: Chapter) -> dict[str, str]:
    """Hashes of what a page rests on: the chapter's code, its claims' criteria, the engine, the published numbers."""
    notebook = read(chapter.source)
    criteria = sorted(claim.model_dump_json(include=ASKED) for claim in claims.load().values()
                      if claim.chapter == chapter.name and not claim.setting)
    modules = imports(ast.parse("\n".join(cell.source for cell in code_cells(notebook))))
    published = [read_text(path) for path in sorted((ROOT / "book" / "published").glob("*.csv"))]
    parts = {"code": written(notebook), "criteria": criteria, "published": published,
             "engine": [code_version(module) for module in sorted(modules)]}
    return {name: _hash(part) for name, part in parts.items()}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _replaced(text: str, words: dict[str, str]) -> str:
    """JSON text with some strings replaced, where they are whole or followed by a separator."""
    for old, new in words.items():
        for spelling in {json.dumps(old)[1:-1], json.dumps(old, ensure_ascii=False)[1:-1]}:
            text = re.sub(re.escape(spelling) + r"(?![\w.-])", json.dumps(new)[1:-1].replace("\\", r"\\"), text)
    return text


def _check(paths: Iterable[Path]) -> None:
    """Raise a ValueError that names each kept chapter whose two files are not what was kept, one line for each."""
    harmed = []
    for path in paths:
        try:
            notebook, record = read(path.with_suffix(".ipynb")), read_text(path.with_suffix(".json"))
            stamp = dict(notebook.metadata["edition"])
            whole = stamp.pop("content") == _hash([stamp, notebook.cells, record])
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            harmed.append(f"{path.parent.name}/{path.stem}.ipynb: changed by hand since it was recorded; restore it "
                          "with git checkout, or run its stage again and keep it")
    if harmed:
        raise ValueError("\n".join(harmed))
