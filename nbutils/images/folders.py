"""A reader's own images, PATH/{train,test}/<class>/<image>: what is there, and whether the book can use it."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from nbutils import store
from nbutils.console import warn
from nbutils.images.imageset import DataError, printable

SPLITS = ("train", "test")
LOSSY = {".jpg", ".jpeg", ".jfif", ".webp"}
SUFFIXES = LOSSY | {".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")  # no others: a PostScript file would start Ghostscript
PHOTOMETRIC = 262  # the TIFF tag that says whether 0 is black or white
SIDES = (25, 224)  # what all networks and encoders of the book can read, once padded
MULTIPLE = 8  # the U-Net's: blocks of 2 pixels and two halvings; patches of 4 divide it


@dataclass(frozen=True)
class Tree:
    """What a folder holds.

    Attributes:
        classes: names in the order of the labels, in composed form (NFC), so that all systems spell them alike.
        files: split -> (file, label) of each image. left_out: the other files and folders that it holds, beside
            hidden ones.
    """

    root: Path
    classes: tuple[str, ...]
    files: dict[str, list[tuple[Path, int]]]
    left_out: tuple[Path, ...]


def tree(dataset: str) -> Tree:
    """List "folder:PATH", without opening a file. Names that begin with a dot are passed over.

    Raises:
        DataError: a folder that is missing, is closed, cannot be listed or holds fewer than two classes, classes that
            differ between train and test, without images, or with names that look alike or cannot be printed, an image
            that is no regular file.
    """
    given = dataset.removeprefix("folder:")
    root = Path(os.path.expanduser(given))  # not Path.expanduser, which stops at a user that nobody knows
    for folder in (root, *(root / split for split in SPLITS)):
        _check_open(folder.parent)
        if not given or not os.path.isdir(folder):  # not Path.is_dir, which stops at a name that is too long
            raise DataError(f"{dataset}: no folder {folder if given else 'is named'}; expected "
                            f"{root}/train/<class>/ and {root}/test/<class>/")
    entries = {split: _entries(root / split) for split in SPLITS}
    train, test = found = [_classes(root / split, entries[split]) for split in SPLITS]
    if train.keys() != test.keys():
        only = "; ".join(f"only in {split}: {', '.join(sorted(names)[:5])}{', ...' * (len(names) > 5)}" for split, names
                         in (("train", train.keys() - test.keys()), ("test", test.keys() - train.keys())) if names)
        raise DataError(f"{root}: train and test hold different class folders ({only})")
    if len(train) < 2:
        raise DataError(f"{root / 'train'}: {len(train)} class folders; expected at least two")
    classes = tuple(sorted(train))
    left_out = [path for split in SPLITS for path in entries[split] if not os.path.isdir(path)]
    files: dict[str, list[tuple[Path, int]]] = {split: [] for split in SPLITS}
    for split, folders in zip(SPLITS, found, strict=True):
        for label, name in enumerate(classes):
            images, others = _images(folders[name])
            files[split] += [(path, label) for path in images]
            left_out += others
    return Tree(root, classes, files, tuple(left_out))


def check(dataset: str) -> None:
    """What can be told in moments: the tree, and one image of each class in train and in test.

    Raises:
        DataError: as `tree` and `decoded`.
    """
    first: dict[Path, Path] = {}
    for files in tree(dataset).files.values():
        for path, _ in files:
            first.setdefault(path.parent, path)
    _same_size(first.values(), [_decoded(path, path)[0].shape for path in first.values()])


def levels(found: Tree) -> Mapping[str, Tensor]:
    """split -> (N, 3, H, W) uint8, grey levels of all images as `decoded` gives them: decoded once, then read from the
    store while the files stay as they are. Notes go to standard error, once in a process.

    Raises:
        DataError: as `decoded`; images of train among those of test, or of one class among those of another; a file
            that has gone since it was listed.
    """
    paths = [path for split in SPLITS for path, _ in found.files[split]]
    try:
        # The last two tell a file that has taken the place of another one of the same size and time.
        files = tuple((str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
                      for path, status in zip(paths, map(os.stat, paths), strict=True))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); expected images that stay where they "
                        "are during a run") from error
    return _levels(found.root, found.left_out, len(found.files["train"]), files)


@lru_cache(maxsize=1)
def _levels(root: Path, left_out: tuple[Path, ...], trained: int,
            files: tuple[tuple[str | int, ...], ...]) -> Mapping[str, Tensor]:
    paths = [Path(str(file)) for file, *_ in files]

    def decode() -> dict[str, Tensor]:
        images, transparent = decoded(paths, paths)
        first: dict[bytes, Path] = {}
        pairs = [(path, first.setdefault(hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest(), path))
                 for path, image in zip(paths, images, strict=True)]
        seen = [(path, other) for path, other in pairs if path.parent.parent != other.parent.parent]
        twice = [(path, other) for path, other in pairs if path.parent != other.parent]
        for same, words, expected in (
                (seen, f"of {len(paths) - trained} test images are in train too", "test images in no training set"),
                (twice, f"of {len(paths)} images are in another class too", "each image in one class")):
            if same:
                raise DataError(f"{root}: {len(same)} {words}, such as {same[0][0].relative_to(root)}, the same as "
                                f"{same[0][1].relative_to(root)}; expected {expected}")
        copies = torch.tensor(len(pairs) - len(first))
        return {"train": images[:trained], "test": images[trained:], "copies": copies,
                "transparent": torch.tensor(transparent)}

    digest = hashlib.sha256(repr(files).encode()).hexdigest()
    kept = store.load_or_build("images", {"files": digest, "trained": trained}, decode).tensors
    if left_out:
        warn(printable(f"{root}: {len(left_out)} entries are no images and were left out, such as "
                       f"{left_out[0].relative_to(root)}; images end in {', '.join(sorted(SUFFIXES))}"))
    if kept["copies"]:
        warn(f"{root}: {kept['copies'].item()} images are copies of others in their class; each counts as one more")
    if kept["transparent"]:
        warn(f"{root}: {kept['transparent'].item()} images have transparent parts; these are mid-grey here")
    return kept


def decoded(names: Sequence[Path | str], files: Sequence[Path | BytesIO]) -> tuple[Tensor, int]:
    """(N, 3, H, W) uint8 of files on disk or in memory, and how many have transparent parts; `names` are for messages.

    An image is what a viewer shows: turned as its EXIF data say, palettes, CMYK and grey as RGB, 16 bits of grey as 8,
    of a phone's JPEG with several pictures the first, transparent parts on mid-grey, where neither black nor white
    shapes vanish.

    Raises:
        DataError: an image that is unreadable, in motion, not square, too small or too large, of numbers whose range is
            unknown, or of another size than the others; each is named.
    """
    first = _decoded(names[0], files[0])
    height, width, _ = first[0].shape
    images = np.empty((len(names), 3, height, width), np.uint8)  # filled in place, so that none is held twice

    def place(index: int) -> tuple[tuple[int, ...], bool]:
        image, transparent = _decoded(names[index], files[index]) if index else first
        if image.shape[:2] == (height, width):  # others are refused below
            images[index] = image.transpose(2, 0, 1)
        return image.shape, transparent

    with ThreadPoolExecutor() as pool:
        shapes, transparent = zip(*pool.map(place, range(len(names))), strict=True)
    _same_size(names, shapes)
    return torch.from_numpy(images), sum(transparent)


def padded(levels: Tensor) -> Tensor:
    """(N, 3, H, W) levels, whose sides that are no multiple of 8 are padded to the next one by repeating the pixels at
    the edge: 28 x 28 becomes 32 x 32."""
    missing = -levels.shape[-1] % MULTIPLE
    return F.pad(levels, [missing // 2, missing - missing // 2] * 2, "replicate") if missing else levels


def check_size(name: object, width: int, height: int) -> None:
    """Raise a DataError unless all chapters can use images of this size."""
    low, high = SIDES
    if width != height or not low <= width <= high:
        near = MULTIPLE * round(min(max(32, min(width, height)), high) / MULTIPLE)
        raise DataError(f"{name}: {width} x {height} pixels; expected square images of {low} to {high} pixels a side "
                        f"(padded to a multiple of {MULTIPLE}), such as {near} x {near}")


def _decoded(name: Path | str, file: Path | BytesIO) -> tuple[np.ndarray, bool]:
    """(H, W, 3) uint8, and whether parts are transparent."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            check_size(name, *opened.size)  # before decoding: a small file can hold a huge image
            frames = getattr(opened, "n_frames", 1)
            if frames > 1 and opened.format != "MPO":  # a JPEG with a preview or a map of depths after it
                raise DataError(f"{name}: {frames} frames; expected an image that stands still")
            image: Image.Image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16") or (image.mode == "I" and opened.format == "PPM"):  # convert would cut off
                values, clear = np.asarray(image), image.info.get("transparency")
                if getattr(opened, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # white is 0
                    values = 65535 - values
                image = Image.fromarray((values / 257).round().astype(np.uint8))
                if clear is not None:
                    image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
            if image.mode in ("I", "F"):
                raise DataError(f"{name}: numbers of unknown range (mode {image.mode}); expected 8 or 16 bits in PNG")
            transparent = image.has_transparency_data
            if transparent:
                image = image.convert("RGBA")
                transparent = bool(np.asarray(image)[:, :, 3].min() < 255)
                image = Image.alpha_composite(Image.new("RGBA", image.size, (128, 128, 128)), image)
            return np.asarray(image.convert("RGB")), transparent
    except DataError:
        raise
    except Exception as error:  # a decoder lets through whatever its parser meets in damaged data
        raise DataError(f"{name}: not a readable image ({error}); expected {', '.join(FORMATS)}") from error


def _same_size(names: Iterable[Path | str], shapes: Sequence[tuple[int, ...]]) -> None:
    usual = Counter(shapes).most_common(1)[0][0]
    for name, shape in zip(names, shapes, strict=True):
        if shape != usual:
            raise DataError(f"{name}: {shape[1]} x {shape[0]} pixels; most others have {usual[1]} x {usual[0]}; "
                            "expected one size in train and test")


def _check_open(folder: Path) -> None:
    """Raise a DataError where a folder lets nobody look at what is in it: nothing would seem to be there."""
    if os.path.isdir(folder) and not os.access(folder, os.X_OK):
        raise DataError(f"{folder}: closed to you; expected permission to enter it, such as by chmod u+rx")


def _entries(folder: Path) -> list[Path]:
    _check_open(folder)
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); expected a folder that can be read") from error


def _classes(folder: Path, entries: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in filter(os.path.isdir, entries):
        name = unicodedata.normalize("NFC", path.name)
        if not name.isprintable():
            raise DataError(f"{path}: expected a class name of printable characters")
        if name in found:
            raise DataError(f"{folder}: the names of two class folders look alike, {path.name!a} and "
                            f"{found[name].name!a}; expected one folder for each class")
        found[name] = path
    return found


def _images(folder: Path) -> tuple[list[Path], list[Path]]:
    """The image files, and the entries that are none."""
    entries = _entries(folder)
    files = [path for path in entries if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{folder}: no images; expected files ending in {', '.join(sorted(SUFFIXES))}")
    for path in files:
        if not os.path.isfile(path):  # opening a pipe would wait for ever
            raise DataError(f"{path}: not a regular file; expected an image")
    return files, [path for path in entries if path.suffix.lower() not in SUFFIXES]
