"""The trained networks that the book's records rest on, to give away: a folder that $NBUTILS_WEIGHTS may name.

    model/<key>/tensors.safetensors   the weights
    model/<key>/record.json           the recipe, and the SHA-256 of the weights
    model/<key>/README.md             the model card: data, recipe, accuracies with intervals

They are taken from the stores of this machine, see `nbutils.machine.stores`, to which the recorded runs wrote them.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nbutils.lab.results import Record
from nbutils.versions import sha256

LIMIT = 300_000_000  # bytes of all weights, so that a release stays small enough for the places that keep them
README = """# The networks of the book

Each folder in `model/` holds one trained network: its weights (safetensors), its recipe with their SHA-256, and a card.

To run chapters from them, name this folder, and run from the commit of the chapter's record:

    NBUTILS_WEIGHTS=<this folder> make book PROFILE=<edition>

Networks with the same key are then read, not trained, and the chapter's numbers are those of its record. A key holds
the recipe, the code and the images. A set that is constructed with a network may differ in its last bits on another
kind of processor: what was trained on it has another key there, and is trained again.

| chapter | edition | images | commit | networks |
|---|---|---|---|--:|
"""


def networks(record: Record) -> set[str]:
    """Keys of the networks behind a run; an older record names those alone that a result rests on."""
    named = {key for result in record.results for key in result.inputs} | {*record.networks}
    return {key for key in named if key.startswith("model-")}


def gather(folder: Path, records: Mapping[str, Record], stores: Sequence[Path]) -> None:
    """Put the networks of these chapters into a folder, as far as these stores, of which the first counts most, have
    them and LIMIT allows; it is said what is left out.

    Raises:
        ValueError: a network that is damaged.
    """
    keys = {chapter: networks(record) for chapter, record in records.items()}
    paths = [path for store in reversed(stores) for path in (store / "model").glob("model-*") if path.is_dir()]
    found = {path.name: path for path in paths}
    if not found:
        print("The trained networks are left out; pages and notebooks need none. They are only where the chapters were "
              "run: NBUTILS_WEIGHTS may name the store of that build folder")
        return

    def size(wanted: set[str]) -> int:
        return sum((found[key] / "tensors.safetensors").stat().st_size for key in wanted & found.keys())

    taken, lines = set[str](), ""
    for chapter in sorted(keys, key=lambda chapter: size(keys[chapter])):
        wanted, record = keys[chapter], records[chapter]
        if missing := len(wanted - found.keys()):
            why = f"{missing} are not in the store"
        elif size(wanted | taken) > LIMIT:
            why = f"more than {LIMIT / 1e6:.0f} MB with those of the others"
        else:
            taken |= wanted
            lines += f"| {chapter} | {record.profile} | {record.dataset} | {record.commit} | {len(wanted)} |\n"
            continue
        print(f"The {len(wanted)} networks of {chapter}, edition {record.profile}, are left out: {why}")
    for key in sorted(taken):
        data = found[key] / "tensors.safetensors"
        recorded = json.loads((found[key] / "record.json").read_text(encoding="utf-8"))
        if sha256(data) != recorded["sha256"]:
            raise ValueError(f"{data}: damaged, its checksum differs; remove its folder and run the chapter again")
        shutil.copytree(found[key], folder / "model" / key)
        (folder / "model" / key / "README.md").write_text(card(key, recorded["recipe"], records), encoding="utf-8")
    if taken:
        (folder / "README.md").write_text(README + lines, encoding="utf-8")


def card(key: str, recipe: object, records: Mapping[str, Record]) -> str:
    """The model card of a network: its recipe, and the accuracies that rest on it in these chapters' records."""
    text = f"# {key}\n\nRecipe:\n\n```json\n{json.dumps(recipe, indent=1)}\n```\n"
    for chapter, record in records.items():
        rows = [f"| {result.what} | {result.model} | {result.data} | {result.attack} | {result.n} | {result} "
                f"({result.interval}) |\n" for result in record.results
                if key in result.inputs and result.unit == "share" and result.what.startswith("accuracy")]
        if rows:
            text += (f"\n## {chapter}, edition {record.profile}\n\nImages: {record.dataset}. Seeds: "
                     f"{len(record.all_seeds)}, of which this network is one; values are means over them, with 95 % "
                     f"intervals. Trained in {record.precision} on {record.device}, torch {record.torch}, commit "
                     f"{record.commit}.\n\n| what | network | images | attack | n | value |\n"
                     f"|---|---|---|---|--:|---|\n{''.join(rows)}")
    return text
