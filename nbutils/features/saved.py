"""Constructed sets in a form that others can load: one exact file, or a folder of images."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image

from nbutils.features.constructed import ConstructedSet
from nbutils.images.folders import check_size
from nbutils.images.imageset import DataError, ImageSet

TENSORS = ("x", "y", "source_y", "start", "l2", "residual")


def export(images: ConstructedSet, path: str | Path, test: ImageSet | None = None) -> Path:
    """Save a set for others to load; it appears whole or not at all. Returns the path.

    "NAME.npz" is exact: arrays x (float32, (N, 3, H, W)), y, source_y, start, l2, residual and classes, and the texts
    name, augmentation, provenance (JSON) and sha256. `read` takes it; an older file is replaced.

    A path without an ending becomes an image folder, train/<class>/<index>.png, with the natural images `test` in
    test/<class>/<index>.png and the provenance in provenance.json. `images.load("folder:PATH", ...)` takes it; it
    numbers classes by the alphabet and augments by crop and flip. Its 8 bits move each pixel by up to 1/510: up to
    sqrt(3 H W) / 510 in L2, which for 32 x 32 is .11, and about .06 in the usual case, against an eps of .5. A
    perturbation of less than half a grey level can vanish.

    Args:
        test: for a folder only, and needed there: images of the same classes and size.

    Raises:
        DataError: another ending; for a folder no test images, other classes or sizes among them, images of a size that
            `images.load` refuses, a class without images or with a name that it would not read. FileExistsError: the
            folder is there already.
    """
    path = Path(path).expanduser()
    if path.suffix not in ("", ".npz"):
        raise DataError(f"{path}: unknown ending {path.suffix!r}; expected '.npz', or none for a folder of images")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        try:
            with temporary.open("wb") as file:
                arrays = _arrays(images)
                arrays["sha256"] = np.array(_checksum(arrays))
                np.savez(file, **arrays)  # type: ignore[arg-type]  # none of them is called allow_pickle
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path
    if test is None:
        raise DataError(f"{path}: a folder holds test images too; expected test=, or a path that ends in '.npz'")
    _check_folder(path, images, test)
    try:
        _write_images(temporary / "train", images)
        _write_images(temporary / "test", test)
        (temporary / "provenance.json").write_text(json.dumps(dict(images.provenance), indent=1))
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def read(path: str | Path) -> ConstructedSet:
    """The set that `export` wrote to "NAME.npz", bit by bit.

    Raises:
        DataError: another ending, or a file that is missing, truncated, altered or of another origin.
    """
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        raise DataError(f"{path}: unknown ending {path.suffix!r}; expected a file '.npz' that export wrote")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if str(arrays.pop("sha256")) != _checksum(arrays):
            raise ValueError("its checksum differs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        cause = str(error).partition("\n")[0]
        raise DataError(f"{path}: missing, damaged or not a set that export wrote ({cause})") from error
    return ConstructedSet(**{name: torch.from_numpy(arrays[name]) for name in TENSORS},
                          classes=tuple(arrays["classes"].tolist()), name=str(arrays["name"]),
                          augmentation=str(arrays["augmentation"]), provenance=json.loads(str(arrays["provenance"])))


def _arrays(images: ConstructedSet) -> dict[str, np.ndarray]:
    texts = {"classes": images.classes, "name": images.name, "augmentation": images.augmentation,
             "provenance": json.dumps(dict(images.provenance))}
    return {**{name: getattr(images, name).numpy() for name in TENSORS},
            **{name: np.array(text) for name, text in texts.items()}}


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _check_folder(path: Path, images: ImageSet, test: ImageSet) -> None:
    """What `images.load` could not read is refused before anything is written."""
    if path.exists():
        raise FileExistsError(f"{path}: is there already; expected the name of a new folder")
    if (test.classes, test.x.shape[1:]) != (images.classes, images.x.shape[1:]):
        raise DataError(f"{test.name}: expected test images of the classes and size of {images.name}")
    for part in (images, test):
        absent = set(range(images.num_classes)) - set(part.y.tolist())
        if absent:
            raise DataError(f"{part.name}: no images of {images.classes[min(absent)]!r}; expected some of each class")
    check_size(images.name, images.x.shape[3], images.x.shape[2])
    for name in images.classes:
        if not name or name[0] == "." or "/" in name or not name.isprintable() or len(name.encode()) > 255:
            raise DataError(f"class {name!r}: cannot be the name of a folder; expected a path that ends in '.npz'")


def _write_images(folder: Path, images: ImageSet) -> None:
    """8-bit PNG files <class>/<index>.png."""
    for name in images.classes:
        (folder / name).mkdir(parents=True)
    pixels = (255 * images.x).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    for index, (image, label) in enumerate(zip(pixels, images.y.tolist(), strict=True)):
        Image.fromarray(image).save(folder / images.classes[label] / f"{index}.png")
