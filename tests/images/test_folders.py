"""A reader's own images: what is shown is what a viewer shows, and what cannot be used is named before any work."""

import os
import shutil
import socket
import unicodedata
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from nbutils import networks
from nbutils.images import DataError, folders, load
from nbutils.images.sources import check_dataset, class_names
from nbutils.lab.parameters import Parameters, resolve
from nbutils.paradigms.encoder import untrained
from nbutils.paradigms.recipes import SIZES, recipes

WHITE = np.full((32, 32), 255, np.uint8)


def picture(seed: int, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, two training images and one test image each, all different."""
    return make(tmp_path / "pets")


def make(root: Path, side: int = 32, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for number, name in enumerate(classes):
        for split, shots in (("train", 2), ("test", 1)):
            (root / split / name).mkdir(parents=True)
            for shot in range(shots):
                picture(10 * number + 5 * (split == "test") + shot, side).save(root / split / name / f"{shot}.png")
    return root


def test_no_folder_passes_for_a_set_that_the_book_knows(tmp_path: Path) -> None:
    for name, shown in (("planted", "folder planted"), ("planted, 2026", "folder planted, 2026"), ("pets", "pets"),
                        ("CIFAR-10", "folder CIFAR-10"), ("CIFAR-10 (JPEG copy)", "folder CIFAR-10 (JPEG copy)"),
                        ("digits", "folder digits"), ("cifar10", "cifar10"), ("digits-mine", "digits-mine")):
        assert load(f"folder:{make(tmp_path / name)}", "test").name == shown


def refused(root: Path, *words: str, load_only: bool = False) -> None:
    """One line, from the check of the parameters where it can be told there."""
    dataset = f"folder:{root}"
    calls: list[Callable[[], object]] = [lambda: load(dataset, "train"), lambda: load(dataset, "test")]
    for call in calls if load_only else [lambda: check_dataset(dataset), *calls]:
        with pytest.raises(DataError) as caught:
            call()
        message = str(caught.value)
        assert message.isprintable()
        for word in words:
            assert word in message


def shown(root: Path, image: Image.Image, name: str = "new.png", **options: Any) -> torch.Tensor:
    """The pixels (3, H, W) that the book sees of an image, in grey levels."""
    image.save(root / "train" / "cat" / name, **options)
    return seen(root)


def seen(root: Path) -> torch.Tensor:
    old = {tuple(np.asarray(picture(seed)).ravel()) for seed in (0, 1, 10, 11)}
    levels = (255 * load(f"folder:{root}", "train").x).round().byte()
    (found,) = [image for image in levels if tuple(image.permute(1, 2, 0).ravel().tolist()) not in old]
    return found


# --- sizes --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [32, 40, 224])
def test_all_networks_and_encoders_read_every_size_that_the_rule_admits(size: int) -> None:
    """Sides from 32 to 224 in steps of 8 are what padding leaves: the ends, and one that 16 does not divide."""
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    cheap = ("small", "vgg_small", "vgg16", "wrn_small", "resnet18", "inception_v3") if size == 32 else ("vgg_small",)
    with torch.no_grad():
        for name in cheap:
            assert networks.build(name, 3, image_size=size).eval()(x[:1]).shape == (1, 3)
        for kind in SIZES if size == 40 else ("small",):
            for paradigm in recipes("small", 1, kind)[0].values():
                model = untrained(paradigm, size)
                assert torch.isfinite(model.features(x)).all()
                assert torch.isfinite(paradigm(model, x, torch.tensor([0, 1]), torch.Generator().manual_seed(0)))


@given(st.integers(1, 300), st.integers(1, 300))
@example(28, 28)
@example(25, 25)
@example(224, 224)
@example(225, 225)
@example(24, 24)
@example(48, 64)
@example(8, 8)
@example(1, 1)
def test_a_size_is_admitted_or_refused_with_the_nearest_right_one(width: int, height: int) -> None:
    if width == height and 25 <= width <= 224:
        folders.check_size("x.png", width, height)
        return
    with pytest.raises(DataError, match=f"^x.png: {width} x {height} pixels; expected square images of 25 to 224 pixels"
                                        ) as caught:
        folders.check_size("x.png", width, height)
    near = int(str(caught.value).rpartition(" ")[2])
    assert near in range(32, 225, 8)
    assert abs(near - min(width, height)) <= max(4, 32 - min(width, height), min(width, height) - 224)


@pytest.mark.parametrize(("side", "padded"), [(25, 32), (28, 32), (32, 32), (33, 40)])
def test_a_side_is_padded_to_a_multiple_of_eight(side: int, padded: int, tmp_path: Path) -> None:
    x = load(f"folder:{make(tmp_path / 'pets', side)}", "test").x
    assert x.shape == (2, 3, padded, padded)
    before = (padded - side) // 2
    inside = {image[:, before:before + side, before:before + side].mul(255).round().byte().permute(1, 2, 0).contiguous()
              .numpy().tobytes() for image in x}
    assert inside == {picture(seed, side).tobytes() for seed in (5, 15)}
    index = (torch.arange(padded) - before).clamp(0, side - 1) + before
    assert torch.equal(x, x[:, :, index][:, :, :, index])  # the edge is repeated


@pytest.mark.parametrize("size", [(8, 8), (48, 64), (1, 1), (240, 240)])
def test_a_folder_of_another_size_is_refused_when_parameters_are_checked(size: tuple[int, int], root: Path) -> None:
    for path in root.rglob("*.png"):
        picture(len(str(path)), 256).resize(size).save(path)
    refused(root, f"{size[0]} x {size[1]} pixels; expected square images of 25 to 224 pixels a side")
    with pytest.raises(ValueError, match="expected square images"):
        resolve({"profile": "smoke", "dataset": f"folder:{root}"}, tuple(Parameters.model_fields))


def test_one_image_of_another_size_is_named(root: Path) -> None:
    picture(9, 40).save(root / "train" / "dog" / "large.png")
    refused(root, "train/dog/large.png: 40 x 40 pixels; most others have 32 x 32; expected one size", load_only=True)


def test_train_and_test_of_different_sizes_are_refused(root: Path) -> None:
    for path in (root / "test").rglob("*.png"):
        picture(len(str(path)), 40).save(path)
    refused(root, "one size in train and test")


# --- pixels -------------------------------------------------------------------------------------------------------

def test_sixteen_bits_of_grey_are_scaled(root: Path) -> None:
    ramp = np.linspace(0, 65535, 1024).round().astype(np.uint16).reshape(32, 32)
    for name in ("new.png", "new.tif", "new.ppm"):
        found = shown(root, Image.fromarray(ramp).convert("I") if name == "new.ppm" else Image.fromarray(ramp), name)
        (root / "train" / "cat" / name).unlink()
        assert torch.equal(found[0], found[2])
        assert np.abs(found[0].numpy() - ramp / 257).max() <= 0.5
        assert found.float().mean().item() / 255 == pytest.approx(0.5, abs=1e-3)


def test_sixteen_bits_of_colour_are_scaled(root: Path) -> None:
    (root / "train" / "cat" / "new.ppm").write_bytes(b"P6 32 32 65535\n"
                                                        + np.array([65535, 32896, 257] * 1024, ">u2").tobytes())
    assert seen(root)[:, 3, 4].tolist() == [255, 128, 1]


def test_sixteen_bits_of_grey_may_count_from_white(root: Path) -> None:
    found = shown(root, Image.fromarray(np.full((32, 32), 10_000, np.uint16)), "new.tif", tiffinfo={262: 0})
    assert (found == 216).all()


def test_a_transparent_level_of_sixteen_bits_is_grey(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    levels = np.full((32, 32), 40_000, np.uint16)
    levels[:, :16] = 40_001
    (root / "train" / "cat" / "new.png").write_bytes(with_transparent_level(levels, 40_000))
    assert seen(root)[0, 5, [0, 31]].tolist() == [156, 128]
    assert "1 images have transparent parts" in capfd.readouterr().err


def with_transparent_level(levels: np.ndarray, clear: int) -> bytes:
    """A PNG of 16-bit grey with the chunk tRNS, which Pillow does not write for it."""
    file = BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    data = b"tRNS" + clear.to_bytes(2)
    chunk = (2).to_bytes(4) + data + zlib.crc32(data).to_bytes(4)
    return file.getvalue()[:33] + chunk + file.getvalue()[33:]


def test_a_picture_of_a_phone_is_the_first_that_its_file_holds(root: Path) -> None:
    first, preview = Image.new("RGB", (32, 32), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 200))
    first.save(root / "train" / "cat" / "new.jpg", "MPO", save_all=True, append_images=[preview])
    red, _, blue = seen(root)[:, 5, 5].tolist()
    assert red > 190
    assert blue < 10


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_of_unknown_range_are_refused(mode: str, root: Path) -> None:
    Image.new(mode, (32, 32)).save(root / "train" / "dog" / "0.tif")
    refused(root, f"train/dog/0.tif: numbers of unknown range (mode {mode}); expected 8 or 16 bits", load_only=True)


@pytest.mark.parametrize("shade", [0, 255])
def test_a_shape_in_the_alpha_channel_is_seen_on_grey(shade: int, root: Path,
                                                      capfd: pytest.CaptureFixture[str]) -> None:
    alpha = np.tri(32, dtype=np.uint8) * 255
    colour = np.full((32, 32), shade, np.uint8)
    found = shown(root, Image.fromarray(np.stack([colour, colour, colour, alpha], 2)))
    assert np.array_equal(found[1].numpy(), np.where(alpha, shade, 128))
    assert "1 images have transparent parts; these are mid-grey here" in capfd.readouterr().err
    (root / "train" / "cat" / "new.png").unlink()
    opaque = np.stack([colour, colour, colour, WHITE], 2)
    assert (shown(root, Image.fromarray(opaque)) == shade).all()
    assert "transparent" not in capfd.readouterr().err


def test_a_transparent_palette_entry_is_grey(root: Path) -> None:
    image = Image.new("P", (32, 32))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (0, 0, 16, 32))
    found = shown(root, image, transparency=0)
    assert found[:, 0, 0].tolist() == [0, 0, 200]
    assert found[:, 0, 31].tolist() == [128, 128, 128]


def test_one_bit_and_cmyk_are_shown_as_they_look(root: Path) -> None:
    bits = np.tri(32).astype(bool)
    assert np.array_equal(shown(root, Image.fromarray(bits))[0].numpy(), bits * 255)
    (root / "train" / "cat" / "new.png").unlink()
    found = shown(root, Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "new.tif")
    assert found[:, 5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("orientation", "turned"), [(3, 2), (6, -1), (8, 1)])
def test_orientation_is_honoured(orientation: int, turned: int, root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = shown(root, picture(77), exif=exif)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.rot90(np.asarray(picture(77)), turned))


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jfif", "jpeg", "JPG", "ppm", "tif", "TIFF", "webp"])
def test_other_formats_are_read(suffix: str, root: Path) -> None:
    assert (shown(root, Image.new("RGB", (32, 32), (0, 0, 0)), f"new.{suffix}") <= 2).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_a_moving_image_is_refused(suffix: str, root: Path) -> None:
    (root / "train" / "dog" / "0.png").unlink()
    path = root / "train" / "dog" / f"0.{suffix}"
    picture(50).save(path, save_all=True, append_images=[picture(51)])
    refused(root, f"{path}: 2 frames; expected an image that stands still")


def test_equal_pixels_are_an_image(root: Path) -> None:
    for shade, path in enumerate(sorted(root.rglob("*.png"))):
        Image.new("L", (32, 32), shade).save(path)
    assert load(f"folder:{root}", "train").x.amax() <= 5 / 255


# --- files --------------------------------------------------------------------------------------------------------

def postscript(path: Path) -> None:
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n")


def listening(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # the whole path would be too long for a socket
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.fchdir(here)
    os.close(here)


def claims_to_be_huge(path: Path) -> None:
    picture(0).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    path.write_bytes(data)


REPLACED: dict[str, tuple[Callable[[Path], object], str]] = {
    "PostScript": (postscript, "not a readable image"),
    "text": (lambda path: path.write_text("hello"), "not a readable image"),
    "nothing": (lambda path: path.write_bytes(b""), "not a readable image"),
    "cut short": (lambda path: (picture(0).save(path), path.write_bytes(path.read_bytes()[:200])), "not a readable"),
    "a pipe": (os.mkfifo, "not a regular file; expected an image"),
    "a socket": (listening, "not a regular file; expected an image"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file; expected an image"),
    "a loop": (lambda path: path.symlink_to(path), "not a regular file; expected an image"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere.png"), "not a regular file; expected an image"),
    "a folder": (Path.mkdir, "not a regular file; expected an image"),
    "huge by its header": (claims_to_be_huge, ""),
    "large": (lambda path: Image.new("1", (5000, 5000)).save(path), "5000 x 5000 pixels; expected square images"),
}


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("split", ["train", "test"])
def test_what_is_no_image_is_named_at_once(name: str, split: str, root: Path) -> None:
    path = root / split / "dog" / "0.png"
    path.unlink()
    replace, words = REPLACED[name]
    replace(path)
    refused(root, str(path), words)


@pytest.mark.parametrize("error", [ValueError("bad\nchunk"), KeyError(3), MemoryError(), SyntaxError()])
def test_whatever_a_decoder_raises_names_the_file(error: Exception, root: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    refused(root, "train/cat/0.png: not a readable image")


def encoded(format: str) -> bytes:
    data = BytesIO()
    picture(3).save(data, format)
    return data.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(st.sampled_from(folders.FORMATS), st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), max_size=5),
       st.integers(0, 4000))
def test_damage_gives_an_image_or_one_line(format: str, changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(encoded(format)[:length])
    for place, byte in changes:
        data[place:place + 1] = bytes([byte])
    line = ""
    try:
        assert folders.decoded(["damaged.png"], [BytesIO(data)])[0].shape[2] <= 224
    except DataError as error:
        line = str(error)
    assert line.isprintable()
    assert not line or line.startswith("damaged.png: ")


def test_an_image_that_is_damaged_is_named_also_where_it_is_not_drawn(root: Path) -> None:
    (root / "train" / "dog" / "1.png").write_text("hello")
    with pytest.raises(DataError, match=r"dog/1\.png: not a readable image"):
        load(f"folder:{root}", "test", 1)


def test_hidden_names_are_passed_over_and_others_counted(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = load(f"folder:{root}", "train")
    assert capfd.readouterr().err == ""
    for split in ("train", "test"):
        (root / split / ".ipynb_checkpoints").mkdir()
        (root / split / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
        (root / split / ".DS_Store").write_bytes(b"")
    assert load(f"folder:{root}", "train").fingerprint == before.fingerprint
    assert capfd.readouterr().err == ""
    (root / "train" / "cat" / "photo.heic").write_bytes(b"")
    (root / "train" / "cat" / "more").mkdir()
    (root / "test" / "loose.png").write_bytes(b"")
    for _ in range(2):  # said once
        assert load(f"folder:{root}", "train").fingerprint == before.fingerprint
    assert capfd.readouterr().err.count("3 entries are no images and were left out, such as test/loose.png; ") == 1


def test_a_class_that_is_a_link_to_itself_is_named(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "train" / "owl").symlink_to("owl")
    assert len(load(f"folder:{root}", "train").classes) == 2
    assert "1 entries are no images and were left out, such as train/owl; " in capfd.readouterr().err


def test_a_folder_that_cannot_be_listed_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", fail)
    refused(root, f"{root / 'train'}: cannot be listed (Permission denied)")


@pytest.mark.parametrize("closed", ["", "train", "test", "train/dog"])
def test_a_folder_that_cannot_be_entered_is_named(closed: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may enter all, so what the system would say is put in its place."""
    real, shut = (os.access, os.path.isdir), root / closed
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shut and real[0](path, mode))
    monkeypatch.setattr(os.path, "isdir", lambda path: shut not in Path(path).parents and real[1](path))
    refused(root, f"{shut}: closed to you; expected permission to enter it")


def test_an_image_that_goes_away_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, path = folders.tree(f"folder:{root}"), root / "train" / "dog" / "1.png"
    path.unlink()
    monkeypatch.setattr(folders, "tree", lambda _: found)
    with pytest.raises(DataError, match=r"dog/1\.png: cannot be read \(No such file or directory\); expected images"):
        load(f"folder:{root}", "train")


# --- train and test ------------------------------------------------------------------------------------------------

def test_the_same_files_in_train_and_test_are_refused(root: Path) -> None:
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    refused(root, "4 of 4 test images are in train too, such as test/cat/0.png, the same as train/cat/0.png",
            load_only=True)


def test_one_image_in_both_is_found_by_its_pixels(root: Path) -> None:
    picture(11).save(root / "test" / "cat" / "renamed.bmp")  # train/dog/1.png
    refused(root, "1 of 3 test images are in train too, such as test/cat/renamed.bmp, the same as train/dog/1.png",
            load_only=True)


def test_one_image_in_two_classes_is_refused(root: Path) -> None:
    shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "dog" / "9.png")
    refused(root, "1 of 7 images are in another class too, such as train/dog/9.png, the same as train/cat/0.png; "
                  "expected each image in one class", load_only=True)
    for split in ("train", "test"):
        shutil.rmtree(root / split / "dog")
        (root / split / "puma").symlink_to("cat")
    refused(root, "3 of 6 images are in another class too, such as train/puma/0.png, the same as train/cat/0.png",
            load_only=True)


def test_copies_in_a_class_are_counted(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("7.png", "8.png"):
        shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "cat" / name)
    for _ in range(2):  # said once
        assert load(f"folder:{root}", "train").y.bincount().tolist() == [4, 2]
    assert capfd.readouterr().err.count("2 images are copies of others in their class; each counts") == 1


def test_images_are_looked_at_once_while_they_stay_as_they_are(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(f"folder:{root}", "train")
    looked: list[object] = []
    real = folders._decoded
    monkeypatch.setattr(folders, "_decoded", lambda *files: looked.append(files[0]) or real(*files))
    for restarted in (False, True):
        if restarted:
            folders._levels.cache_clear()
        assert torch.equal(load(f"folder:{root}", "train").x, first.x)
        assert len(load(f"folder:{root}", "test", 1)) == 1
    assert not looked
    picture(11).save(root / "test" / "cat" / "0.png")
    with pytest.raises(DataError, match="1 of 2 test images are in train too"):
        load(f"folder:{root}", "train", 2)


def test_a_picture_that_was_replaced_with_its_size_and_time_kept_is_seen(root: Path) -> None:
    """As rsync, tar and unzip do; a bitmap of one size always has the same number of bytes."""
    path, new = root / "train" / "cat" / "0.bmp", root / "new.bmp"
    for place, seed in ((path, 50), (new, 51)):
        picture(seed).save(place)
    before, status = load(f"folder:{root}", "train"), path.stat()
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert load(f"folder:{root}", "train").fingerprint != before.fingerprint


def test_a_class_of_one_image_is_a_class(root: Path) -> None:
    (root / "train" / "dog" / "1.png").unlink()
    assert load(f"folder:{root}", "train").y.bincount().tolist() == [2, 1]


# --- names --------------------------------------------------------------------------------------------------------

NAMES = (r"$\foo$", "cost $1 and $2", "_other", "<b>bold", "a'b\"c", "C#", "x y", "ありがとう", "a" * 255, "%d{x}")


@pytest.mark.parametrize("name", NAMES)
def test_any_printable_name_is_a_class(name: str, tmp_path: Path) -> None:
    root = make(tmp_path / "my #1 pets", classes=(name, "dog"))
    assert set(load(f"folder:{root}/", "train").classes) == {name, "dog"} == set(class_names(f"folder:{root}"))


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", "b\udcffyte", "\N{RIGHT-TO-LEFT OVERRIDE}gnp"])
def test_a_name_that_cannot_be_printed_is_refused(name: str, tmp_path: Path) -> None:
    refused(make(tmp_path / "pets", classes=(name, "dog")), "expected a class name of printable characters")


def test_names_that_only_look_alike(tmp_path: Path) -> None:
    composed, separate = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    root = make(tmp_path / "pets", classes=(composed, "dog"))
    (root / "test" / composed).rename(root / "test" / separate)
    assert load(f"folder:{root}", "test").classes == ("dog", composed)  # one class, spelt in two ways
    shutil.copytree(root / "test" / separate, root / "train" / separate)
    refused(root, r"the names of two class folders look alike, '\xe9' and 'e\u0301'")


def test_classes_that_differ_are_listed_up_to_five(tmp_path: Path) -> None:
    root = make(tmp_path / "pets", classes=("cat", "dog", *"abcdefgh"))
    for name in "abcdefgh":
        shutil.rmtree(root / "test" / name)
    refused(root, "(only in train: a, b, c, d, e, ...)")


def test_relative_paths_and_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.chdir(root)
    for path in (".", "../pets", "../pets/", "~/pets", "~/pets/../pets"):
        assert load(f"folder:{path}", "train").name == "pets"
