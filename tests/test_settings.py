"""Settings are checked by their annotations, whatever the class."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import numpy as np
import pytest
import torch

from nbutils import networks
from nbutils.features import NRF, Bottleneck, PictureSearch
from nbutils.hashing import content_hash
from nbutils.images import PlantedWorld, load
from nbutils.paradigms import DDPM, MAE, Augmentation, Masked, Noised, PredictDifference, Reconstruct, SimCLR
from nbutils.robustness import CW, FAB, PGD, AutoAttack, Noise, ThreatModel
from nbutils.settings import Settings, one_of
from nbutils.training import MART, Adversarial, Schedule, trades
from tests.helpers import assert_one_line

BALL = ThreatModel("Linf", 8 / 255)
SOUND = [PGD(BALL), Noise(BALL), AutoAttack(BALL), FAB(), CW(), NRF(at="block4.bn1"), Bottleneck(), PictureSearch(),
         PlantedWorld(), Schedule(1), Adversarial(PGD(BALL)), trades(BALL, 2), MART(PGD(BALL)), MAE(), Masked(),
         Reconstruct(), DDPM(), Noised(), PredictDifference(), Augmentation(), SimCLR()]
EACH = [pytest.param(sound, field.name, id=f"{type(sound).__name__}.{field.name}")
        for sound in SOUND for field in fields(sound)]


@pytest.mark.parametrize(("sound", "name"), EACH)
@pytest.mark.parametrize("value", [object(), [1], torch.ones(2), math.nan, "yes", b"1"], ids=lambda v: type(v).__name__)
def test_a_value_of_another_type_is_refused_in_one_line(sound: Any, name: str, value: object) -> None:
    if isinstance(value, str) and type(getattr(sound, name)) is str and name in ("name", "at"):
        pytest.skip("any text will do")
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the line is looked at)
        replace(sound, **{name: value})
    line = str(caught.value)
    assert line.startswith(f"{name} = ")
    assert "expected" in line
    assert "\n" not in line


def test_every_class_of_settings_is_tried_above() -> None:
    def below(kind: type) -> set[type]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    ours = {kind for kind in below(Settings) if kind.__module__.startswith("nbutils.")}
    assert ours - {Settings} == set(map(type, SOUND))


def test_numbers_become_pythons_own_so_that_equal_settings_are_one_recipe() -> None:
    given = Schedule(1, peak_rate=np.float32(0.5), weight_decay=1)  # type: ignore[arg-type]
    assert [type(getattr(given, field.name)) for field in fields(given)] == [int, int, float, float, float, str]
    assert content_hash(given) == content_hash(Schedule(1, peak_rate=0.5, weight_decay=1.0))
    with pytest.raises(ValueError, match=r"^epochs = np.int64\(2\): expected a whole number >= 1, as Python.s int up"):
        Schedule(np.int64(2))  # type: ignore[arg-type]


def test_a_readers_own_attack_is_checked_by_what_it_inherits_and_by_what_it_adds() -> None:
    @dataclass(frozen=True, repr=False)
    class Slow(PGD):
        order: Annotated[str, one_of(("rising", "falling"))] = "rising"

    assert Slow(BALL, 3).order == "rising"
    with pytest.raises(ValueError, match="^steps = 0: expected a whole number >= 1, as Python.s int .*, such as 10"):
        Slow(BALL, 0)
    with pytest.raises(ValueError, match="^order = 'raising': expected 'rising' or 'falling'; did you mean 'rising'"):
        Slow(BALL, order="raising")


@pytest.mark.parametrize("name", ["a.b", "rising\n", "risingfalling", "", "RISING"])
def test_one_of_takes_whole_names_only(name: str) -> None:
    @dataclass(frozen=True)
    class Ordered(Settings):
        order: Annotated[str, one_of(("rising", "falling", "a+b"))]

    assert Ordered("a+b").order == "a+b"
    with pytest.raises(ValueError, match="^order = .*: expected 'rising' or 'falling' or 'a[+]b'"):
        Ordered(name)


@pytest.mark.parametrize(("make", "setting"), [
    (lambda: load("planted", "test", 2, seed=2**64), "seed = 18446744073709551616"),
    (lambda: load("digits", "test", 2, seed=10**15 + 1), "seed = 1000000000000001"),
    (lambda: PlantedWorld(seed=2**70), "seed = 1180591620717411303424"),
    (lambda: PlantedWorld().draw(2, 2**64), "seed = 18446744073709551616"),
    (lambda: PlantedWorld().draw(2, 1.5),  # type: ignore[arg-type]
     "seed = 1.5"),
    (lambda: PlantedWorld().draw("2", 0),  # type: ignore[arg-type]
     "n = '2'"),
    (lambda: PlantedWorld().draw(0, 0), "n = 0"),
    (lambda: Bottleneck(seed=2**70), "seed = 1180591620717411303424"),
    (lambda: networks.build("small", 2, seed=2**64), "seed = 18446744073709551616"),
])
def test_counts_and_seeds_have_an_end(make: Callable[[], object], setting: str) -> None:
    assert_one_line(make, [f"{setting}: expected a whole number >= ", "as Python's int up to 10**15"])


def test_the_largest_seeds_are_seeds() -> None:
    drawn = PlantedWorld(seed=10**15).draw(2, 10**15)
    assert drawn.fingerprint != PlantedWorld(seed=10**15).draw(2, 10**15 - 1).fingerprint
