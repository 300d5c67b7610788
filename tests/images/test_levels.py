"""Images of 8 bits stay 8 bits in memory, and every number is that of the pixels that they stand for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nbutils import features, networks, store, training
from nbutils.features import D_NR, D_rand
from nbutils.images import DataError, ImageSet, batches, jpeg
from nbutils.images.imageset import as_pixels
from nbutils.networks import SplitClassifier
from nbutils.robustness import FGSM, PGD, ThreatModel, attacked, evaluate, predict
from nbutils.robustness.evaluate import attacked_once

THREAT = ThreatModel("Linf", 8 / 255)
SIDE, COUNT = 16, 300  # more than one batch of 256


def pair(count: int = COUNT) -> tuple[ImageSet, ImageSet]:
    """The same images as levels and as pixels."""
    levels = torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    held = ImageSet(levels, torch.arange(count) % 4, tuple("abcd"), "noise", "crop+flip")
    return held, replace(held, x=torch.from_numpy(levels.numpy().astype(np.float32) / np.float32(255)))


@pytest.fixture(scope="module")
def model() -> SplitClassifier:
    return networks.build("small", 4, seed=1, image_size=SIDE).eval()


def same(one: object, other: object) -> bool:
    """The same values, to the last bit."""
    match one, other:
        case torch.Tensor(), torch.Tensor():
            return one.dtype == other.dtype and torch.equal(one, other)
        case ImageSet(), ImageSet():
            return same(one.x, other.x) and torch.equal(one.y, other.y) and one.fingerprint == other.fingerprint
        case (list() | tuple()), (list() | tuple()):
            return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_all_256_levels_are_the_quotients_of_ieee_arithmetic() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_pixels(levels).double(), (levels.double() / 255).float().double())


def test_levels_are_held_and_pixels_are_read() -> None:
    held, pixels = pair()
    for part in (held, held.take(7), held.take(torch.arange(9, 2, -1)), replace(held, x=held.held, name="renamed")):
        assert (part.held.dtype, part.x.dtype) == (torch.uint8, torch.float32)
    assert pixels.x is pixels.held
    assert same(held, pixels)
    assert same(held.take(slice(3, 290, 2)), pixels.take(slice(3, 290, 2)))
    assert same(replace(held, y=held.y.flip(0)), replace(pixels, y=held.y.flip(0)))
    assert same(held.take(0), pixels.take(0))


def test_labels_and_shapes_are_checked_as_ever() -> None:
    held, _ = pair(4)
    x = held.held
    for change, words in (({"y": held.y + 1}, "labels from 1 to 4"), ({"x": x[:2]}, r"\(2,\)"),
                          ({"x": x[:, :1]}, "torch.float32 or torch.uint8"),
                          ({"x": x.permute(0, 2, 3, 1)}, "did you mean")):
        with pytest.raises(DataError, match=words):
            replace(held, **change)


USES: dict[str, Callable[[ImageSet, SplitClassifier], object]] = {
    "batches": lambda data, _: list(batches(data, 64, torch.Generator().manual_seed(0))),
    "jpeg": lambda data, _: jpeg(data.take(20), 60),
    "predict": lambda data, model: predict(model, data.held),
    "features": lambda data, model: features.features_at(model, data, "block2.bn"),
    "own answers": lambda data, model: features.own_answers(model, data),
    "random masks": lambda data, _: features.random_masks(torch.eye(COUNT, 8).bool(), data),
    "untrained": lambda data, _: store.fingerprint(features.untrained("small", data)),
    "attacked": lambda data, model: attacked(model, data, FGSM(THREAT, random_start=True, step_size=THREAT.eps)),
    "attacked once": lambda data, model: attacked_once(model, data.take(8), PGD(THREAT, 2)),
    "evaluate": lambda data, model: scores(evaluate(model, data)),
    "under PGD": lambda data, model: scores(evaluate(model, data, PGD(THREAT, 3))),
    "read otherwise": lambda data, model: scores(evaluate(model, data, read=lambda _, x: x.flatten(1).argmax(1) % 4)),
    "trained": lambda data, _: store.fingerprint(training.trained("small", data, training.Standard(),
                                                                  training.Schedule(1, 50))),
    "D_NR": lambda data, model: D_NR(data.take(9), model, steps=3, batch_size=4),
    "from noise": lambda data, model: D_NR(data.take(9), model, steps=3, batch_size=4, start="noise"),
    "D_rand": lambda data, model: D_rand(data.take(9), model, steps=3, batch_size=4),
}


def scores(outcome: Any) -> list[object]:
    return [outcome.correct, outcome.prediction, outcome.l2, outcome.linf, outcome.inputs]


@pytest.mark.parametrize("use", USES)
def test_numbers_and_keys_are_those_of_the_pixels(use: str, model: SplitClassifier, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a store of its own, so that nothing is read that the other has made."""
    found, keys = [], []
    for data in pair():
        monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path / str(data.held.dtype)))
        store.given.clear()
        found.append(USES[use](data, model))
        keys.append(list(store.given))
    assert same(*found)
    assert keys[0] == keys[1]
    assert bool(keys[0]) == (use in ("attacked once", "trained", "D_NR", "from noise", "D_rand"))
