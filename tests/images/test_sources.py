"""Where images come from: real digits, folders of PNG files, and torchvision's sets without a network."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from nbutils.images import DataError, load
from nbutils.images.sources import CIFAR10, class_names
from nbutils.vision import torchvision

Pixels = dict[str, dict[str, list[np.ndarray]]]


def write_folder(root: Path, counts: dict[str, int], size: int = 8, suffix: str = ".png") -> Pixels:
    """A tree of random images: counts per class in train, half as many in test."""
    rng = np.random.default_rng(0)
    pixels: Pixels = {"train": {}, "test": {}}
    for split, share in (("train", 1), ("test", 2)):
        for name, count in counts.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            images = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count // share)]
            pixels[split][name] = images
            for index, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{index:03d}{suffix}")
    return pixels


# --- planted and digits -------------------------------------------------------------------------------------------

def test_planted_train_and_test_are_independent_draws() -> None:
    train, test = load("planted", "train", 50, seed=3), load("planted", "test", 50, seed=3)
    assert len(train) == len(test) == 50
    assert not torch.equal(train.x, test.x)
    sets = [load("planted", split, 20, seed=seed) for seed in range(4) for split in ("train", "test")]
    assert len({images.fingerprint for images in sets}) == 8
    assert torch.equal(load("planted", "train", 50, seed=3).x, train.x)
    assert load("planted", "train", 20, amplitude=0.0).fingerprint != load("planted", "train", 20).fingerprint
    assert class_names("planted") == train.classes


def test_digits_are_the_real_ones_enlarged_and_split_for_good() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.x.shape[1:] == (3, 32, 32)
    everything = {image.numpy().tobytes() for part in (train, test) for image in part.x}
    assert len(everything) == 1797  # all different, so train and test share none
    known = load_digits()
    small = np.concatenate([train.x[:, :, ::4, ::4].numpy(), test.x[:, :, ::4, ::4].numpy()])
    labels = torch.cat([train.y, test.y]).numpy()
    found = {(np.round(16 * image[0]).astype(int).tobytes(), int(label))
             for image, label in zip(small, labels, strict=True)}
    assert found == {(image.astype(int).tobytes(), int(label))
                     for image, label in zip(known.images, known.target, strict=True)}
    blocks = test.x.view(-1, 3, 8, 4, 8, 4)
    assert torch.equal(blocks, blocks[:, :1, :, :1, :, :1].expand_as(blocks))
    assert test.x.max() == 1.0


def test_a_subset_is_balanced_seeded_and_shuffled() -> None:
    subsets = [load("digits", "train", 105, seed=seed) for seed in range(3)]
    for subset in subsets:
        counts = torch.bincount(subset.y, minlength=10)
        assert len(subset) == 105
        assert counts.min() == 10
        assert counts.max() == 11
        assert (subset.y[1:] < subset.y[:-1]).sum() > 20  # not sorted by class
        assert len({image.numpy().tobytes() for image in subset.x}) == 105
    assert len({subset.fingerprint for subset in subsets}) == 3
    assert load("digits", "train", 105, seed=1).fingerprint == subsets[1].fingerprint


# --- folders ------------------------------------------------------------------------------------------------------

def test_folder_round_trip_is_exact(tmp_path: Path) -> None:
    pixels = write_folder(tmp_path / "pets", {"cat": 6, "dog": 4, "axolotl": 2})
    train = load(f"folder:{tmp_path / 'pets'}", "train")
    assert train.classes == ("axolotl", "cat", "dog") == class_names(f"folder:{tmp_path / 'pets'}")
    assert train.name == "pets"
    assert len(train) == 12
    found = {(train.classes[label], (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy().tobytes())
             for image, label in zip(train.x, train.y, strict=True)}
    assert found == {(name, image.tobytes()) for name, images in pixels["train"].items() for image in images}
    assert torch.equal((train.x * 255).round() / 255, train.x)  # multiples of 1/255 and nothing between
    assert len(load(f"folder:{tmp_path / 'pets'}", "test")) == 6


def test_folder_subset_takes_classes_in_turn(tmp_path: Path) -> None:
    write_folder(tmp_path, {"few": 2, "many": 10, "some": 6})
    counts = torch.bincount(load(f"folder:{tmp_path}", "train", 9, seed=4).y)
    assert counts.tolist() == [2, 4, 3] or counts.tolist() == [2, 3, 4]


def test_a_folder_may_hold_other_files_and_grey_or_transparent_images(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    Image.fromarray(np.full((8, 8), 51, dtype=np.uint8)).save(tmp_path / "train" / "a" / "grey.PNG")
    Image.fromarray(np.full((8, 8, 4), 102, dtype=np.uint8)).save(tmp_path / "train" / "b" / "rgba.png")
    train = load(f"folder:{tmp_path}", "train")
    assert len(train) == 6
    for value in (0.2, 0.4):
        assert ((train.x - value).abs().amax((1, 2, 3)) < 1e-6).sum() == 1


def test_the_jpeg_copy_of_cifar10_is_told_from_the_original(tmp_path: Path) -> None:
    write_folder(tmp_path / "copy", dict.fromkeys(CIFAR10, 2), size=32, suffix=".jpg")
    write_folder(tmp_path / "original", dict.fromkeys(CIFAR10, 2), size=32)
    assert load(f"folder:{tmp_path / 'copy'}", "test").name == "CIFAR-10 (JPEG copy)"
    assert load(f"folder:{tmp_path / 'original'}", "test").name == "original"


def test_the_odd_sized_image_is_named_whatever_the_order(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 4, "b": 4})
    Image.new("RGB", (9, 7)).save(tmp_path / "train" / "b" / "odd.png")
    for seed in range(12):
        with pytest.raises(DataError, match=r"odd\.png: 9 x 7 pixels.* 8 x 8"):
            load(f"folder:{tmp_path}", "train", seed=seed)


def test_train_and_test_of_different_sizes_are_refused_from_either_side(tmp_path: Path) -> None:
    write_folder(tmp_path / "wide", {"a": 4, "b": 4}, size=12)
    write_folder(tmp_path / "pets", {"a": 4, "b": 4})
    shutil.rmtree(tmp_path / "pets" / "test")
    shutil.move(tmp_path / "wide" / "test", tmp_path / "pets" / "test")
    train, test = tmp_path / "pets" / "train", tmp_path / "pets" / "test"
    for split, line in (("train", f"{test}: 12 x 12 pixels, and {train}: 8 x 8"),
                        ("test", f"{train}: 8 x 8 pixels, and {test}: 12 x 12")):
        with pytest.raises(DataError, match=re.escape(f"{line}; expected one size in both")):
            load(f"folder:{tmp_path / 'pets'}", split, 2)


def test_the_other_split_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, {"a": 4, "b": 4})
    opened: list[Path] = []

    def spy(path: Path) -> Image.Image:
        opened.append(path)
        return real(path)

    real = Image.open
    monkeypatch.setattr(Image, "open", spy)
    assert len(load(f"folder:{tmp_path}", "train", 6)) == 6
    assert sorted(path.parts[-3] for path in opened) == ["test"] + ["train"] * 6


# --- torchvision, with its classes replaced -----------------------------------------------------------------------

class FakeCIFAR10:
    def __init__(self, root: Path, train: bool, download: bool) -> None:
        rng = np.random.default_rng(int(train))
        self.data = rng.integers(0, 256, (40 if train else 20, 32, 32, 3), dtype=np.uint8)
        self.targets = [index % 10 for index in range(len(self.data))]
        self.root, self.download = root, download


class FakeSVHN:
    def __init__(self, root: Path, split: str, download: bool) -> None:
        rng = np.random.default_rng(len(split))
        self.data = rng.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)
        self.labels = np.arange(30) % 10
        assert split in ("train", "test")


def test_cifar10_comes_as_pixels_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR10)
    raw = FakeCIFAR10(Path(), True, False)
    train = load("cifar10", "train")
    assert (train.name, train.classes, train.augmentation) == ("CIFAR-10", CIFAR10, "crop+flip")
    found = {((image.permute(1, 2, 0) * 255).round().byte().contiguous().numpy().tobytes(), int(label))
             for image, label in zip(train.x, train.y, strict=True)}
    assert found == {(image.tobytes(), label) for image, label in zip(raw.data, raw.targets, strict=True)}
    assert len(load("cifar10", "test")) == 20
    assert torch.bincount(load("cifar10", "train", 20, seed=1).y).tolist() == [2] * 10


def test_svhn_comes_as_pixels_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "SVHN", FakeSVHN)
    raw = FakeSVHN(Path(), "test", False)
    test = load("svhn", "test")
    assert (test.name, test.classes, test.augmentation) == ("SVHN", tuple("0123456789"), "crop")
    found = {((image * 255).round().byte().contiguous().numpy().tobytes(), int(label))
             for image, label in zip(test.x, test.y, strict=True)}
    assert found == {(image.tobytes(), int(label)) for image, label in zip(raw.data, raw.labels, strict=True)}


def test_downloads_go_where_the_reader_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Spy(FakeCIFAR10):
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            super().__init__(root, train, download)
            seen.update(root=root, download=download)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Spy)
    load("cifar10", "test", 10)
    assert seen == {"root": tmp_path / "data" / "cifar10", "download": True}
