"""Where images come from: `load("planted", "train", 3000, seed=0)` and its kin."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nbutils.images.imageset import DataError, ImageSet
from nbutils.images.planted import SHAPES, PlantedWorld
from nbutils.messages import did_you_mean

DATASETS = ("planted", "digits", "cifar10", "svhn", "tiny-imagenet")
SPLITS = ("train", "test")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
TINY_IMAGENET_PER_CLASS = {"train": 500, "test": 50}
LOSSY = {".jpg", ".jpeg", ".webp"}
SUFFIXES = LOSSY | {".png", ".bmp", ".ppm"}


def check_dataset(dataset: str) -> str:
    """Return `dataset` if `load` knows it.

    Raises:
        DataError: unknown name (the nearest known one is suggested), or a folder that is missing.
    """
    if dataset.startswith("folder:"):
        _folder(dataset)
    elif dataset not in DATASETS:
        is_folder = Path(dataset).expanduser().is_dir()
        hint = f"; did you mean 'folder:{dataset}'?" if is_folder else did_you_mean(dataset, DATASETS)
        raise DataError(f"dataset = {dataset!r}: expected one of {', '.join(DATASETS)} or folder:PATH{hint}")
    return dataset


def class_names(dataset: str) -> tuple[str, ...]:
    """The classes of a data source, without loading an image; those of "tiny-imagenet" stand in its archive, which
    is downloaded if need be.

    Raises:
        DataError: as `check_dataset`, or the archive cannot be downloaded or read.
    """
    check_dataset(dataset)
    if dataset.startswith("folder:"):
        return _folder_classes(_folder(dataset))
    if dataset == "tiny-imagenet":
        with _tiny_imagenet_archive() as archive:
            return tuple(_tiny_imagenet_classes(archive).values())
    return {"planted": SHAPES, "cifar10": CIFAR10}.get(dataset, tuple("0123456789"))


def load(dataset: str, split: str, n: int | None = None, seed: int = 0, **world: Any) -> ImageSet:
    """n images of one split, as an `ImageSet` on the CPU.

    Args:
        dataset: "planted" (drawn, nothing to download), "digits" (real, in scikit-learn; 8 x 8 grey enlarged to
            32 x 32 x 3), "cifar10" or "svhn" (32 x 32 x 3) or "tiny-imagenet" (200 classes, 64 x 64 x 3), downloaded
            by torchvision into $NBUTILS_DATA, default ~/.cache/nbutils, or "folder:PATH", a tree
            PATH/{train,test}/<class>/<image>.
        split: "train" or "test"; the two never share an image. The test images of "tiny-imagenet" are its official
            validation split, because the labels of its official test split are not public.
        n: how many images; None takes all (planted: 6,000 train, 1,000 test). Real data give a
            class-balanced random subset, as even as the data allow.
        seed: draws the planted images, or the subset and its order. Different seeds give different draws.
        world: options of `PlantedWorld`, for "planted" only.

    Raises:
        DataError: unknown dataset or split, more images asked for than there are, a download that fails or is damaged
            (the line says what to do), a missing or empty folder,
            classes or image sizes that differ between train and test, an unreadable image or one of another size
            (named).
    """
    check_dataset(dataset)
    if split not in SPLITS:
        raise DataError(f"split = {split!r}: expected 'train' or 'test'")
    if n is not None and n < 1:
        raise DataError(f"n = {n}: expected at least one image")
    if dataset == "planted":
        count = n or {"train": 6000, "test": 1000}[split]
        return PlantedWorld(**world).draw(count, seed=2 * seed + SPLITS.index(split))
    if world:
        raise DataError(f"{', '.join(world)}: only the planted world takes these; the dataset is {dataset!r}")
    provenance = {"dataset": dataset, "split": split, "n": n, "seed": seed}
    if dataset.startswith("folder:"):
        root = _folder(dataset)
        classes = _folder_classes(root)
        files = [(path, label) for label, name in enumerate(classes) for path in _image_files(root / split / name)]
        labels = torch.tensor([label for _, label in files])
        index = _balanced(labels, n, seed, f"{root / split}")
        paths = [files[i][0] for i in index]
        x = _read_images(paths, paths)
        _check_other_split(root, split, classes, x)
        lossy_cifar = classes == CIFAR10 and x.shape[2:] == (32, 32) and files[0][0].suffix.lower() in LOSSY
        name = "CIFAR-10 (JPEG copy)" if lossy_cifar else root.name  # its numbers are not those of CIFAR-10
        return ImageSet(x, labels[index], classes, name, "crop+flip", provenance)
    if dataset == "tiny-imagenet":
        return ImageSet(*_tiny_imagenet(split, n, seed), "Tiny ImageNet", "crop+flip", provenance)
    x, y = _digits(split) if dataset == "digits" else _torchvision(dataset, split)
    index = _balanced(y, n, seed, f"{dataset} {split}")
    augmentation = {"digits": "none", "cifar10": "crop+flip", "svhn": "crop"}[dataset]
    name = {"digits": "digits", "cifar10": "CIFAR-10", "svhn": "SVHN"}[dataset]
    return ImageSet(x[index].float() / 255, y[index], class_names(dataset), name, augmentation, provenance)


def _balanced(labels: Tensor, n: int | None, seed: int, where: str) -> Tensor:
    """Indices of a random subset that takes classes in turn, in random order."""
    if n is not None and n > len(labels):
        raise DataError(f"n = {n}: {where} holds {len(labels)} images")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    if n is None:
        return order
    rank = torch.empty(len(labels), dtype=torch.int64)  # how many of its class come before it
    for label in labels.unique():
        members = order[labels[order] == label]
        rank[members] = torch.arange(len(members))
    chosen = order[rank[order].argsort(stable=True)[:n]]
    return chosen[torch.randperm(n, generator=generator)]


def _digits(split: str) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    keep = torch.arange(len(labels)) % 5 == 0
    keep = keep if split == "test" else ~keep
    grey = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[keep] * (255 / 16)
    return grey.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1), torch.tensor(labels)[keep]


@contextmanager
def _downloads(dataset: str, instead: str) -> Iterator[Path]:
    """The folder of a downloaded data set. What goes wrong in there becomes one line that says what to do instead."""
    root = Path(os.environ.get("NBUTILS_DATA", "~/.cache/nbutils")).expanduser() / dataset
    try:
        yield root
    except (OSError, RuntimeError, BadZipFile) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{dataset}: could not be downloaded or read in {root} ({cause}); {instead}") from error


def _torchvision(dataset: str, split: str) -> tuple[Tensor, Tensor]:
    from nbutils.vision import torchvision

    with _downloads(dataset, "a copy on disk can be used as folder:PATH") as root:
        if dataset == "cifar10":
            data = torchvision.datasets.CIFAR10(root, train=split == "train", download=True)
            return torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)
        data = torchvision.datasets.SVHN(root, split=split, download=True)
        return torch.from_numpy(data.data), torch.from_numpy(data.labels).long()


@contextmanager
def _tiny_imagenet_archive() -> Iterator[ZipFile]:
    """Tiny ImageNet as it is downloaded: read as it is, it need not become 120,000 small files."""
    from nbutils.vision import torchvision

    with _downloads("tiny-imagenet", f"a copy of {TINY_IMAGENET} can be put there by hand") as root:
        torchvision.datasets.utils.download_url(TINY_IMAGENET, root, md5=TINY_IMAGENET_MD5)
        with ZipFile(root / Path(TINY_IMAGENET).name) as archive:
            yield archive


def _tiny_imagenet_classes(archive: ZipFile) -> dict[str, str]:
    """WordNet id -> class name, in the order of the labels. A name that two classes share keeps its id."""
    ids, words = (archive.read(f"tiny-imagenet-200/{name}.txt").decode() for name in ("wnids", "words"))
    known = dict(line.partition("\t")[::2] for line in words.splitlines())
    names = {id: known.get(id, id).partition(",")[0] for id in sorted(ids.split())}
    shared = Counter(names.values())
    return {id: name if shared[name] == 1 else f"{name} ({id})" for id, name in names.items()}


def _tiny_imagenet(split: str, n: int | None, seed: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    with _tiny_imagenet_archive() as archive:
        classes = _tiny_imagenet_classes(archive)
        if split == "train":  # tiny-imagenet-200/train/<id>/images/<image>.JPEG
            found = [(name, name.split("/")[2]) for name in sorted(archive.namelist())
                     if "/train/" in name and name.endswith(".JPEG")]
        else:  # a line for each image: its file, its class, a box
            rows = archive.read("tiny-imagenet-200/val/val_annotations.txt").decode().splitlines()
            found = [(f"tiny-imagenet-200/val/images/{row.split()[0]}", row.split()[1]) for row in rows]
        number = {id: label for label, id in enumerate(classes)}
        labels = torch.tensor([number[id] for _, id in found])
        counts, each = labels.bincount(minlength=len(classes)), TINY_IMAGENET_PER_CLASS[split]
        if (counts != each).any():
            seen = f"{counts.min()} to {counts.max()}"
            raise DataError(f"tiny-imagenet {split}: {seen} images per class; expected {each} of each")
        index = _balanced(labels, n, seed, f"tiny-imagenet {split}")
        names = [found[i][0] for i in index]
        contents = [BytesIO(archive.read(name)) for name in names]  # one by one: threads cannot share the archive
    return _read_images(names, contents), labels[index], tuple(classes.values())


def _folder(dataset: str) -> Path:
    root = Path(dataset.removeprefix("folder:")).expanduser()
    for folder in (root, root / "train", root / "test"):
        if not folder.is_dir():
            raise DataError(f"{dataset}: no folder {folder}; expected {root}/train/<class>/ and {root}/test/<class>/")
    return root


def _folder_classes(root: Path) -> tuple[str, ...]:
    train, test = ({path.name for path in (root / split).iterdir() if path.is_dir()} for split in SPLITS)
    if train != test:
        only = "; ".join(f"only in {split}: {', '.join(sorted(names))}"
                         for split, names in (("train", train - test), ("test", test - train)) if names)
        raise DataError(f"{root}: train and test hold different class folders ({only})")
    if len(train) < 2:
        raise DataError(f"{root / 'train'}: {len(train)} class folders; expected at least two")
    return tuple(sorted(train))


def _image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: no images; expected files ending in {', '.join(sorted(SUFFIXES))}")
    return files


def _check_other_split(root: Path, split: str, classes: Sequence[str], x: Tensor) -> None:
    """Look at one image of the other split: sizes that differ would come to light only after the training."""
    other = root / SPLITS[1 - SPLITS.index(split)]
    first = _image_files(other / classes[0])[:1]
    height, width = _read_images(first, first).shape[2:]
    if (height, width) != x.shape[2:]:
        raise DataError(f"{other}: {width} x {height} pixels, and {root / split}: {x.shape[3]} x {x.shape[2]}; "
                        "expected one size in both")


def _read_images(names: Sequence[Path | str], files: Sequence[Path | BytesIO]) -> Tensor:
    """(N, 3, H, W), pixels in [0, 1], of files on disk or in memory; `names` are for messages."""
    def read(name: Path | str, file: Path | BytesIO) -> np.ndarray:
        try:
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise DataError(f"{name}: not a readable image ({error})") from error

    with ThreadPoolExecutor() as pool:
        images = list(pool.map(read, names, files))
    usual = Counter(image.shape for image in images).most_common(1)[0][0]
    for name, image in zip(names, images, strict=True):
        if image.shape != usual:
            size, expected = image.shape[1::-1], usual[1::-1]
            raise DataError(f"{name}: {size[0]} x {size[1]} pixels; the others have {expected[0]} x {expected[1]}")
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return pixels.div_(255)  # in place: one more copy of all of Tiny ImageNet would take 5 GB
