"""Where images come from: `load("planted", "train", 3000, seed=0)` and its kin."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from tarfile import TarError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from nbutils.datasets import CIFAR10, DATASETS
from nbutils.images import folders
from nbutils.images.folders import LOSSY, SPLITS
from nbutils.images.imageset import DataError, ImageSet, printable
from nbutils.images.planted import PlantedWorld
from nbutils.messages import check_choice, check_counts, did_you_mean, short_repr

Choice = Callable[[Tensor], Tensor]  # labels (N,) of a whole split -> indices (n,) of the images that are taken
TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
TINY_IMAGENET_PER_CLASS = {"train": 500, "test": 50}


def check_dataset(dataset: str) -> str:
    """Return `dataset` if `load` knows it.

    Raises:
        DataError: unknown name (the nearest known one is suggested), or a folder that the chapters could not use (see
            `folders.check`).
    """
    if dataset.startswith("folder:"):
        folders.check(dataset)
    elif dataset not in DATASETS:
        is_folder = dataset and os.path.isdir(os.path.expanduser(dataset))
        hint = f"; did you mean 'folder:{dataset}'?" if is_folder else did_you_mean(dataset, DATASETS)
        raise DataError(f"dataset = {dataset!r}: expected one of {', '.join(DATASETS)} or folder:PATH{hint}")
    return dataset


def class_names(dataset: str) -> tuple[str, ...]:
    """The classes of a data source, without loading an image; those of "tiny-imagenet" stand in its archive, which
    is downloaded if need be.

    Raises:
        DataError: as `check_dataset`, or the archive cannot be downloaded or read.
    """
    if dataset.startswith("folder:"):
        return folders.tree(dataset).classes
    if classes := DATASETS[check_dataset(dataset)].classes:
        return classes
    with _tiny_imagenet_archive() as archive:
        return tuple(_tiny_imagenet_classes(archive).values())


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
            (the line says what to do), a folder whose tree or images cannot be used (see `folders`), or that has
            test images among those of train.
    """
    dataset = str(dataset)  # a path is then told how to be written
    is_folder = dataset.startswith("folder:")  # looked at below, whole
    if not is_folder:
        check_dataset(dataset)
    check_choice("split", split, SPLITS, DataError)
    if n is not None and (type(n) is not int or n < 1):
        raise DataError(f"n = {short_repr(n)}: expected a whole number, at least one image")
    check_counts(0, seed=seed)
    if dataset == "planted":
        count = n or {"train": 6000, "test": 1000}[split]
        return PlantedWorld(**world).draw(count, seed=2 * seed + SPLITS.index(split))
    if world:
        raise DataError(f"{', '.join(world)}: only the planted world takes these; the dataset is {dataset!r}")
    if is_folder:
        return _folder(dataset, split, n, seed)
    x, y = LOADERS[dataset](split, partial(_balanced, n, seed, f"{dataset} {split}"))
    return ImageSet(x, y, class_names(dataset), DATASETS[dataset].title, DATASETS[dataset].augmentation)


def _folder(dataset: str, split: str, n: int | None, seed: int) -> ImageSet:
    found = folders.tree(dataset)
    paths, labels = zip(*found.files[split], strict=True)
    y = torch.tensor(labels)
    index = _balanced(n, seed, f"{found.root / split}", y)
    x = folders.padded(folders.levels(found)[split][index])
    lossy_cifar = found.classes == CIFAR10 and x.shape[2:] == (32, 32) and paths[0].suffix.lower() in LOSSY
    name = "CIFAR-10 (JPEG copy)" if lossy_cifar else printable(Path(os.path.abspath(found.root)).name)
    titles = "|".join(known.title for known in DATASETS.values())
    if not lossy_cifar and re.match(rf"planted|({titles})(?![\w-])", name):  # its numbers would pass for that set's
        name = f"folder {name}"
    return ImageSet(x, y[index], found.classes, name, "crop+flip")  # numbers of the copy are not those of CIFAR-10


def _balanced(n: int | None, seed: int, where: str, labels: Tensor) -> Tensor:
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


def _digits(split: str, choose: Choice) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    keep = torch.arange(len(labels)) % 5 == 0
    keep = keep if split == "test" else ~keep
    grey = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[keep] / 16
    return _taken(grey.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1),
                  torch.tensor(labels)[keep], choose)


def _taken(x: Tensor, labels: Tensor, choose: Choice) -> tuple[Tensor, Tensor]:
    """The images that are taken, out of x (N, 3, H, W), and their labels."""
    index = choose(labels)
    return x[index], labels[index]


@contextmanager
def _downloads(dataset: str, instead: str) -> Iterator[Path]:
    """The folder of a downloaded data set. What goes wrong in there becomes one line that says what to do instead."""
    root = Path(os.path.expanduser(os.environ.get("NBUTILS_DATA") or "~/.cache/nbutils")) / dataset
    try:
        yield root
    except (OSError, RuntimeError, HTTPException, BadZipFile, TarError, EOFError, KeyError) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{dataset}: could not be downloaded or read in {root} ({cause}); {instead}") from error


FOLDER_INSTEAD = "a copy on disk can be used as folder:PATH"


def _cifar10(split: str, choose: Choice) -> tuple[Tensor, Tensor]:
    from nbutils.torchvision import torchvision

    with _downloads("cifar10", FOLDER_INSTEAD) as root:
        data = torchvision.datasets.CIFAR10(root, train=split == "train", download=True)
        return _taken(torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets), choose)


def _svhn(split: str, choose: Choice) -> tuple[Tensor, Tensor]:
    from nbutils.torchvision import torchvision

    with _downloads("svhn", FOLDER_INSTEAD) as root:
        data = torchvision.datasets.SVHN(root, split=split, download=True)
        return _taken(torch.from_numpy(data.data), torch.from_numpy(data.labels).long(), choose)


@contextmanager
def _tiny_imagenet_archive() -> Iterator[ZipFile]:
    """Tiny ImageNet as it is downloaded: read as it is, it need not become 120,000 small files."""
    from nbutils.torchvision import torchvision

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


def _tiny_imagenet(split: str, choose: Choice) -> tuple[Tensor, Tensor]:
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
        index = choose(labels)
        names = [found[i][0] for i in index]
        contents = [BytesIO(archive.read(name)) for name in names]  # one by one: threads cannot share the archive
    images, _ = folders.decoded(names, contents)
    return folders.padded(images).to(memory_format=torch.channels_last), labels[index]


LOADERS = {"digits": _digits, "cifar10": _cifar10, "svhn": _svhn, "tiny-imagenet": _tiny_imagenet}
