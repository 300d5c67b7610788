"""Where images come from: real digits, folders of PNG files, and torchvision's sets without a network."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from nbutils.datasets import CIFAR10
from nbutils.images import DataError, load, sources
from nbutils.images.sources import class_names
from nbutils.torchvision import torchvision

Pixels = dict[str, dict[str, list[np.ndarray]]]


def write_folder(root: Path, counts: dict[str, int], size: int = 32, suffix: str = ".png") -> Pixels:
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
    Image.fromarray(np.full((32, 32), 51, dtype=np.uint8)).save(tmp_path / "train" / "a" / "grey.PNG")
    Image.fromarray(np.full((32, 32, 4), 102, dtype=np.uint8)).save(tmp_path / "train" / "b" / "rgba.png")
    train = load(f"folder:{tmp_path}", "train")
    assert len(train) == 6
    for value in (0.2, 118 / 255):  # .4 at an opacity of .4 on mid-grey
        assert ((train.x - value).abs().amax((1, 2, 3)) < 1e-6).sum() == 1


def test_the_jpeg_copy_of_cifar10_is_told_from_the_original(tmp_path: Path) -> None:
    write_folder(tmp_path / "copy", dict.fromkeys(CIFAR10, 2), size=32, suffix=".jpg")
    write_folder(tmp_path / "original", dict.fromkeys(CIFAR10, 2), size=32)
    assert load(f"folder:{tmp_path / 'copy'}", "test").name == "CIFAR-10 (JPEG copy)"
    assert load(f"folder:{tmp_path / 'original'}", "test").name == "original"


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


@pytest.mark.parametrize(("given", "place"), [("", "{home}/.cache/nbutils"), ("~/here", "{home}/here"),
                                              ("~nosuch", "~nosuch"), ("{home}/a b", "{home}/a b")])
def test_no_download_goes_into_the_current_folder_unasked(given: str, place: str, monkeypatch: pytest.MonkeyPatch,
                                                          tmp_path: Path) -> None:
    seen: list[Path] = []

    class Spy(FakeCIFAR10):
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            super().__init__(root, train, download)
            seen.append(root)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Spy)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NBUTILS_DATA", given.format(home=tmp_path))
    load("cifar10", "test", 10)
    assert seen == [Path(place.format(home=tmp_path)) / "cifar10"]


# --- Tiny ImageNet, from a miniature archive ----------------------------------------------------------------------

IDS = ("n03", "n01", "n04", "n02")  # as in wnids.txt, unsorted; the k-th in order is drawn in shade 60 k
WORDS = """n00	entity
n01	goldfish, Carassius auratus
n02	crane
n03	lady's slipper, moccasin flower
n04	crane, lift
"""
PER_CLASS = {"train": 4, "test": 2}


def jpeg(shade: int, number: int, mode: str = "RGB") -> bytes:
    """An even image, so that JPEG keeps it; `number` tells the images of a class apart."""
    data = BytesIO()
    Image.new(mode, (64, 64), (shade + number,) * 3 if mode == "RGB" else shade + number).save(data, "JPEG")
    return data.getvalue()


def write_tiny_imagenet(path: Path, left_out: str = "", changed: dict[str, bytes] | None = None) -> None:
    files, rows = {"wnids.txt": "\n".join(IDS).encode(), "words.txt": WORDS.encode()}, []
    for label, id in enumerate(sorted(IDS)):
        files[f"train/{id}/{id}_boxes.txt"] = b"0 0 63 63"
        for number in range(PER_CLASS["train"]):
            mode = "L" if number == 1 else "RGB"
            files[f"train/{id}/images/{id}_{number}.JPEG"] = jpeg(60 * label, number, mode)
        for number in range(PER_CLASS["test"]):
            name = f"val_{len(IDS) * number + label}.JPEG"
            files[f"val/images/{name}"] = jpeg(60 * label, 10 + number, "L" if number else "RGB")
            rows.append(f"{name}\t{id}\t0\t0\t63\t63\n")
    files["val/val_annotations.txt"] = "".join(reversed(rows)).encode()
    files["test/images/test_0.JPEG"] = jpeg(200, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for name, data in (files | (changed or {})).items():
            if name != left_out:
                archive.writestr(f"tiny-imagenet-200/{name}", data)


class Miniature:
    """The archive where its readers look for it, and a server that has it or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: Path, served: Path) -> None:
        self.monkeypatch, self.served = monkeypatch, served / "tiny-imagenet-200.zip"
        self.path = data / "tiny-imagenet" / self.served.name
        self.requests: list[str] = []

    def make(self, **options: Any) -> None:
        write_tiny_imagenet(self.served, **options)
        self.expect(self.served.read_bytes())

    def expect(self, content: bytes) -> None:
        self.monkeypatch.setattr(sources, "TINY_IMAGENET_MD5", hashlib.md5(content).hexdigest())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Miniature]:
    made = Miniature(monkeypatch, tmp_path / "data", tmp_path / "served")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            made.requests.append(self.path)

    made.make()
    with HTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "served")) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(sources, "TINY_IMAGENET", f"http://127.0.0.1:{server.server_port}/{made.served.name}")
        monkeypatch.setattr(sources, "TINY_IMAGENET_PER_CLASS", PER_CLASS)
        yield made
        server.shutdown()
        thread.join()


def test_the_official_address_and_checksum_stand() -> None:
    assert sources.TINY_IMAGENET == "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    assert sources.TINY_IMAGENET_MD5 == "90528d7ca1a48142e341f4ef8d21d0de"
    assert sources.TINY_IMAGENET_PER_CLASS == {"train": 500, "test": 50}


@pytest.mark.parametrize(("split", "first"), [("train", 0), ("test", 10)])
def test_tiny_imagenet_pairs_images_and_labels(split: str, first: int, tiny: Miniature) -> None:
    images = load("tiny-imagenet", split)
    assert (images.name, images.augmentation) == ("Tiny ImageNet", "crop+flip")
    assert images.classes == ("goldfish", "crane (n02)", "lady's slipper", "crane (n04)")
    assert images.x.shape == (4 * PER_CLASS[split], 3, 64, 64)
    assert (images.x.amax((1, 2, 3)) - images.x.amin((1, 2, 3))).max() == 0  # also the grey ones: three channels alike
    shades = (images.x[:, 0, 0, 0] * 255).round().long()
    expected = [60 * label + first + number for label in range(4) for number in range(PER_CLASS[split])]
    assert shades.sort().values.tolist() == expected
    assert torch.equal(shades // 60, images.y)
    assert (images.y[1:] < images.y[:-1]).any()  # not sorted by class


def test_a_subset_of_tiny_imagenet_is_balanced_and_only_it_is_decoded(tiny: Miniature,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []

    def spy(file: object, **options: Any) -> Image.Image:
        decoded.append(file)
        return real(file, **options)  # type: ignore[arg-type]

    real = Image.open
    monkeypatch.setattr(Image, "open", spy)
    subset = load("tiny-imagenet", "train", 8, seed=3)
    assert len(decoded) == 8
    assert torch.bincount(subset.y).tolist() == [2] * 4
    assert load("tiny-imagenet", "train", 8, seed=3).fingerprint == subset.fingerprint
    assert load("tiny-imagenet", "train", 8, seed=4).fingerprint != subset.fingerprint
    with pytest.raises(DataError, match="n = 9: tiny-imagenet test holds 8 images"):
        load("tiny-imagenet", "test", 9)


def test_tiny_imagenet_is_downloaded_once_and_stays_one_file(tiny: Miniature) -> None:
    assert class_names("tiny-imagenet") == load("tiny-imagenet", "test", 4).classes
    before = len(tiny.requests)
    assert before
    load("tiny-imagenet", "train")
    assert len(tiny.requests) == before
    assert list(tiny.path.parent.rglob("*")) == [tiny.path]


def test_a_half_downloaded_archive_is_fetched_again(tiny: Miniature) -> None:
    tiny.path.parent.mkdir(parents=True)
    tiny.path.write_bytes(tiny.served.read_bytes()[:-1000])
    assert len(load("tiny-imagenet", "test")) == 8
    assert tiny.path.read_bytes() == tiny.served.read_bytes()


def refused(*words: str) -> None:
    for call in (lambda: load("tiny-imagenet", "train", 4), lambda: class_names("tiny-imagenet")):
        with pytest.raises(DataError) as caught:
            call()
        assert "\n" not in str(caught.value)
        for word in ("tiny-imagenet: could not be downloaded or read in", *words):
            assert word in str(caught.value)


@pytest.mark.parametrize("left", [0, 1000], ids=["nothing", "a damaged archive"])
def test_without_a_network_one_line_says_what_to_do(left: int, tiny: Miniature,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://127.0.0.1:1/tiny-imagenet-200.zip"  # nobody answers there
    monkeypatch.setattr(sources, "TINY_IMAGENET", address)
    if left:
        tiny.path.parent.mkdir(parents=True)
        tiny.path.write_bytes(tiny.served.read_bytes()[:left])
    refused("refused", f"{tiny.path.parent} (", f"a copy of {address} can be put there by hand")
    shutil.copy(tiny.served, tiny.path.parent)
    assert len(load("tiny-imagenet", "test")) == 8  # as the line said


def test_another_checksum_is_refused(tiny: Miniature) -> None:
    tiny.expect(b"something else")
    refused("corrupted", "can be put there by hand")


def test_an_archive_that_is_none_is_refused(tiny: Miniature) -> None:
    tiny.served.write_bytes(b"<html>moved</html>")
    tiny.expect(tiny.served.read_bytes())
    refused("not a zip file")


def test_images_missing_from_the_archive_are_noticed(tiny: Miniature) -> None:
    tiny.make(left_out="train/n02/images/n02_3.JPEG")
    with pytest.raises(DataError, match="tiny-imagenet train: 3 to 4 images per class; expected 4 of each"):
        load("tiny-imagenet", "train", 4)
    assert len(load("tiny-imagenet", "test")) == 8


def test_an_unreadable_image_of_the_archive_is_named(tiny: Miniature) -> None:
    tiny.make(changed={"train/n02/images/n02_3.JPEG": b"no image"})
    with pytest.raises(DataError, match="tiny-imagenet-200/train/n02/images/n02_3.JPEG: not a readable image"):
        load("tiny-imagenet", "train")
