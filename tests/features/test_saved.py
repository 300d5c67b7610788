"""Constructed sets on disk: exact in one file, within half a grey level as images, refused when altered."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nbutils import images, networks
from nbutils.features import ConstructedSet, D_det, export, read
from nbutils.images import DataError, ImageSet, PlantedSet, PlantedWorld


@pytest.fixture(scope="module")
def source() -> PlantedSet:
    return PlantedWorld().draw(30, seed=5)


@pytest.fixture
def made(source: PlantedSet) -> ConstructedSet:
    return D_det(source, networks.build("small").eval(), steps=2)


@pytest.fixture
def file(made: ConstructedSet, tmp_path: Path) -> Path:
    return export(made, tmp_path / "sets" / "det.npz")


def test_a_file_is_exact(made: ConstructedSet, file: Path) -> None:
    again = read(file)
    for field in ("x", "y", "source_y", "start", "l2", "residual"):
        assert torch.equal(getattr(again, field), getattr(made, field))
        assert getattr(again, field).dtype == getattr(made, field).dtype
    assert (again.classes, again.name, again.augmentation) == (made.classes, made.name, made.augmentation)
    assert again.fingerprint == made.fingerprint
    assert again.provenance == json.loads(json.dumps(made.provenance))
    assert [path.name for path in file.parent.iterdir()] == ["det.npz"]


def test_others_need_nothing_but_numpy(made: ConstructedSet, file: Path) -> None:
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["x"].dtype == np.float32
        assert arrays["x"].shape == (30, 3, 32, 32)
        assert arrays["classes"].tolist() == list(made.classes)
        assert json.loads(str(arrays["provenance"]))["construction"] == "D_det"


def rewritten(path: Path, **changes: Any) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    np.savez(path, **arrays)


def one_pixel(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[3, 0, 5, 5] += np.float32(1e-6)
    return x


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "a flipped bit": lambda path: path.write_bytes(bytes(
        byte ^ (i == 50_000) for i, byte in enumerate(path.read_bytes()))),
    "a changed pixel": lambda path: rewritten(path, x=one_pixel),
    "a changed label": lambda path: rewritten(path, y=lambda y: (y + 1) % 10),
    "a changed provenance": lambda path: rewritten(path, provenance=lambda text: np.array(f"{text} ")),
    "a swapped class name": lambda path: rewritten(path, classes=lambda names: names[::-1]),
    "no archive": lambda path: path.write_text("not an archive"),
    "empty": lambda path: path.write_bytes(b""),
    "another archive": lambda path: np.savez(path, x=np.zeros(3)),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_an_altered_file_is_refused_in_one_line(damage: Any, file: Path) -> None:
    damage(file)
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: missing, damaged or not a set that export wrote (")
    assert "\n" not in str(caught.value)


def by_name(part: ImageSet) -> list[list[str]]:
    """Images in an order that does not depend on how they were numbered: class name, then pixels."""
    return sorted([part.classes[label], image.flatten().mul(255).round().byte().numpy().tobytes().hex()]
                  for image, label in zip(part.x, part.y.tolist(), strict=True))


def test_a_folder_is_loaded_as_a_data_source(made: ConstructedSet, tmp_path: Path) -> None:
    test = PlantedWorld().draw(20, seed=6)
    folder = export(made, tmp_path / "D_det", test)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "build") == ["D_det"]
    train = images.load(f"folder:{folder}", "train")
    assert train.classes == tuple(sorted(made.classes))
    assert by_name(train) == by_name(made)
    assert by_name(images.load(f"folder:{folder}", "test")) == by_name(test)
    assert json.loads((folder / "provenance.json").read_text())["construction"] == "D_det"


def test_eight_bits_move_a_pixel_by_half_a_grey_level_at_most(made: ConstructedSet, tmp_path: Path) -> None:
    folder = export(made, tmp_path / "D_det", made)
    loaded = torch.empty_like(made.x)
    for path in (folder / "train").glob("*/*.png"):
        assert path.parent.name == made.classes[made.y[int(path.stem)]]
        loaded[int(path.stem)] = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
    error = (loaded - made.x).abs()
    assert error.max() <= 1 / 510 + 1e-7
    assert error.max() > 0.9 / 510  # the bound is met: pixels of these images lie between grey levels
    l2 = error.flatten(1).norm(dim=1)
    assert l2.max() <= 0.1087  # sqrt(3 * 32 * 32) / 510
    assert l2.mean().item() == pytest.approx(3072**0.5 / 255 / 12**0.5, rel=0.03)  # uniform error: .0627


def test_a_failure_leaves_nothing_behind(made: ConstructedSet, file: Path, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    before = file.read_bytes()
    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        export(made, file)
    with pytest.raises(OSError, match="disk full"):
        export(made, tmp_path / "sets" / "D_det", made)
    assert [path.name for path in file.parent.iterdir()] == ["det.npz"]
    assert file.read_bytes() == before  # the older one is still whole
    monkeypatch.undo()
    monkeypatch.setattr(Path, "replace", fail)  # the last thing that is done
    with pytest.raises(OSError, match="disk full"):
        export(made.take(3), file)
    assert file.read_bytes() == before


def test_bad_input_is_one_clear_line(made: ConstructedSet, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    small = ImageSet(torch.zeros(10, 3, 8, 8), torch.arange(10), made.classes, "small images")
    renamed = {name: replace(made, classes=(name, *made.classes[1:])) for name in
               ("", ".", "..", ".hidden", "disc/ring", "two\nlines", 128 * "é")}
    tiny = replace(made, x=made.x[:, :, :8, :8])
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: export(made, tmp_path / "set.zip"), DataError, "unknown ending '.zip'; expected '.npz', or none"),
        (lambda: read(tmp_path / "set.pt"), DataError, "unknown ending '.pt'; expected a file '.npz'"),
        (lambda: export(made, folder), DataError, "a folder holds test images too; expected test="),
        (lambda: export(made, folder, small), DataError, "small images: expected test images of the classes and size"),
        (lambda: export(made.take(made.y != 3), folder, made), DataError, "no images of 'triangle'"),
        *((lambda other=other: export(other, folder, other), DataError, f"class {name!r}"[:40])
          for name, other in renamed.items()),
        (lambda: export(tiny, folder, tiny), DataError, "D_det of planted: 8 x 8 pixels; expected square images of 25"),
        (lambda: export(made, tmp_path, made), FileExistsError, "is there already; expected the name of a new folder"),
    ]
    for call, error, message in cases:
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not folder.exists()
