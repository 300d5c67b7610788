"""Where images come from: `load("planted", "train", 3000, seed=0)` and its kin."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nbutils.images.imageset import DataError, ImageSet
from nbutils.images.planted import SHAPES, PlantedWorld
from nbutils.messages import did_you_mean

DATASETS = ("planted", "digits", "cifar10", "svhn")
SPLITS = ("train", "test")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
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
    """The classes of a data source, without loading an image.

    Raises:
        DataError: as `check_dataset`.
    """
    check_dataset(dataset)
    if dataset.startswith("folder:"):
        return _folder_classes(_folder(dataset))
    return {"planted": SHAPES, "cifar10": CIFAR10}.get(dataset, tuple("0123456789"))


def load(dataset: str, split: str, n: int | None = None, seed: int = 0, **world: Any) -> ImageSet:
    """n images of one split, as an `ImageSet` on the CPU.

    Args:
        dataset: "planted" (drawn, nothing to download), "digits" (real, in scikit-learn; 8 x 8 grey enlarged to
            32 x 32 x 3), "cifar10" or "svhn" (downloaded by torchvision into $NBUTILS_DATA, default ~/.cache/nbutils),
            or "folder:PATH", a tree PATH/{train,test}/<class>/<image>.
        split: "train" or "test"; the two never share an image.
        n: how many images; None takes all (planted: 6,000 train, 1,000 test). Real data give a
            class-balanced random subset, as even as the data allow.
        seed: draws the planted images, or the subset and its order. Different seeds give different draws.
        world: options of `PlantedWorld`, for "planted" only.

    Raises:
        DataError: unknown dataset or split, more images asked for than there are, a missing or empty folder,
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
        x = _read_images([files[i][0] for i in index])
        _check_other_split(root, split, classes, x)
        lossy_cifar = classes == CIFAR10 and x.shape[2:] == (32, 32) and files[0][0].suffix.lower() in LOSSY
        name = "CIFAR-10 (JPEG copy)" if lossy_cifar else root.name  # its numbers are not those of CIFAR-10
        return ImageSet(x, labels[index], classes, name, "crop+flip", provenance)
    x, y = _digits(split) if dataset == "digits" else _torchvision(dataset, split)
    index = _balanced(y, n, seed, f"{dataset} {split}")
    augmentation = {"digits": "none", "cifar10": "crop+flip", "svhn": "crop"}[dataset]
    name = {"digits": "digits", "cifar10": "CIFAR-10", "svhn": "SVHN"}[dataset]
    return ImageSet(_to_pixels(x[index]), y[index], class_names(dataset), name, augmentation, provenance)


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


def _to_pixels(images: Tensor) -> Tensor:
    return images.float() / 255


def _digits(split: str) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    keep = torch.arange(len(labels)) % 5 == 0
    keep = keep if split == "test" else ~keep
    grey = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[keep] * (255 / 16)
    return grey.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1), torch.tensor(labels)[keep]


def _torchvision(dataset: str, split: str) -> tuple[Tensor, Tensor]:
    from nbutils.vision import torchvision

    root = Path(os.environ.get("NBUTILS_DATA", "~/.cache/nbutils")).expanduser() / dataset
    try:
        if dataset == "cifar10":
            data = torchvision.datasets.CIFAR10(root, train=split == "train", download=True)
            return torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)
        data = torchvision.datasets.SVHN(root, split=split, download=True)
        return torch.from_numpy(data.data), torch.from_numpy(data.labels).long()
    except (OSError, RuntimeError) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{dataset}: could not be downloaded or read in {root} ({cause}); "
                        "a copy on disk can be used as folder:PATH") from error


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
    height, width = _read_images(_image_files(other / classes[0])[:1]).shape[2:]
    if (height, width) != x.shape[2:]:
        raise DataError(f"{other}: {width} x {height} pixels, and {root / split}: {x.shape[3]} x {x.shape[2]}; "
                        "expected one size in both")


def _read_images(files: Sequence[Path]) -> Tensor:
    def read(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise DataError(f"{path}: not a readable image ({error})") from error

    with ThreadPoolExecutor() as pool:
        images = list(pool.map(read, files))
    usual = Counter(image.shape for image in images).most_common(1)[0][0]
    for path, image in zip(files, images, strict=True):
        if image.shape != usual:
            size, expected = image.shape[1::-1], usual[1::-1]
            raise DataError(f"{path}: {size[0]} x {size[1]} pixels; the others have {expected[0]} x {expected[1]}")
    return _to_pixels(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
