"""Bad input to the paradigms raises one line that names the value, what was expected, and the nearest right one."""

from collections.abc import Callable

import pytest
import torch

from nbutils import networks
from nbutils.images import ImageSet
from nbutils.paradigms import (
    DDPM,
    MAE,
    Augmentation,
    Backbone,
    Masked,
    Noised,
    PredictDifference,
    SimCLR,
    extract,
    linear_probe,
    randomised,
    recipes,
    untrained,
)
from nbutils.robustness import PGD, ThreatModel
from tests.helpers import assert_one_line

X = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IMAGES = ImageSet(X, torch.arange(12) % 3, ("a", "b", "c"), "noise")
ODD = ImageSet(X[:, :, :30, :30].contiguous(), IMAGES.y, IMAGES.classes, "odd")
SMALL = Backbone(networks.build("small_narrow")).eval()
WIDE = Backbone(networks.build("small")).eval()
TINY = DDPM(width=8, factors=(1, 2), space_to_depth=4)
LINF = ThreatModel("Linf", 8 / 255)

CASES: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    # SimCLR
    "network": (lambda: SimCLR("smal"), ("'smal'", "did you mean 'small'")),
    "projector": (lambda: SimCLR(projector=()), ("projector = ()", "(512, 256)")),
    "temperature": (lambda: SimCLR(temperature=0), ("temperature = 0", "> 0")),
    "attack that keeps its best": (lambda: SimCLR(attack=PGD(LINF, 2)), ("PGD(", "keep_best=False")),
    "attack with restarts": (lambda: SimCLR(attack=PGD(LINF, 2, restarts=2, keep_best=False)), ("one restart",)),
    "scale in percent": (lambda: Augmentation(scale=(20, 100)), ("scale = (20.0, 100.0)", "(0.2, 1.0)")),
    "scale upside down": (lambda: Augmentation(scale=(1, 0.2)), ("scale = (1.0, 0.2)", "low <= high")),
    "brightness": (lambda: Augmentation(brightness=1.5), ("brightness = 1.5", "[0, 1]")),
    "hue": (lambda: Augmentation(hue=0.6), ("hue = 0.6", "[0, 0.5]")),
    "grey": (lambda: Augmentation(grey=-0.2), ("grey = -0.2", "[0, 1]")),
    # MAE
    "patch of a view": (lambda: Masked(0), ("patch = 0", ">= 1")),
    "no patch": (lambda: MAE(patch=0), ("patch = 0", ">= 1")),
    "half a layer": (lambda: MAE(depth=1.5), ("depth = 1.5", "whole number")),  # type: ignore[arg-type]
    "width and heads": (lambda: MAE(width=66), ("width = 66", "multiple of 4", "4 heads")),
    "width of the decoder": (lambda: MAE(width=12, decoder_width=30, heads=3), ("decoder_width = 30", "of 12")),
    "mask in percent": (lambda: MAE(mask=75), ("mask = 75", "0.75")),
    "no mask": (lambda: MAE(mask=0), ("mask = 0", "(0, 1)")),
    "misspelt setting": (lambda: untrained(TINY).reading(timestp=5), ("setting = 'timestp'", "layer, timestep, seed",
                                                                      "did you mean 'timestep'")),
    # DDPM
    "width of groups": (lambda: DDPM(width=12), ("width = 12", "multiple of 8")),
    "no levels": (lambda: DDPM(factors=()), ("factors = ()", ">= 1")),
    "factor": (lambda: DDPM(factors=(1, 0)), ("factors = (1, 0)", ">= 1")),
    "timestep": (lambda: untrained(TINY).reading(timestep=1000), ("timestep = 1000", "0 to 999")),
    "negative timestep": (lambda: untrained(TINY).reading(timestep=-1), ("timestep = -1", "0 to 999")),
    "broken timestep": (lambda: Noised(1.5), ("timestep = 1.5", "whole number")),  # type: ignore[arg-type]
    "timestep of a set": (lambda: PredictDifference(2000), ("timestep = 2000", "0 to 999")),
    "difference": (lambda: PredictDifference(of="noise"), ("of = 'noise'", "did you mean 'noised'")),
    "layer": (lambda: untrained(TINY).reading(layer="up3"), ("layer = 'up3'", "up1, up2", "did you mean")),
    "size of recipes": (lambda: recipes("small", 1, "papers"), ("size = 'papers'", "small, paper", "mean 'paper'")),
    "network of recipes": (lambda: recipes("resnet", 1, "paper"), ("network = 'resnet'", "did you mean 'resnet")),
    # probes
    "penalty": (lambda: linear_probe(SMALL, IMAGES, penalty=0), ("penalty = 0", "> 0")),
    "no images": (lambda: extract(SMALL, IMAGES.take(0)), ("images = 0", ">= 1")),
    "random version of none": (lambda: randomised(linear_probe(SMALL, IMAGES)), ("a Backbone", "diffusion")),
    "random version of a network": (lambda: randomised(networks.build("small")), ("small", "Normalize", "diffusion")),
    "no passes": (lambda: randomised(linear_probe(untrained(TINY), IMAGES), 0), ("passes = 0", ">= 1")),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_clear_line(name: str) -> None:
    call, words = CASES[name]
    assert_one_line(call, words)


def test_features_that_are_not_finite_are_said() -> None:
    broken = Backbone(networks.build("small_narrow")).eval()
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    assert_one_line(lambda: extract(broken, IMAGES), ("all finite: False", "(12, 48)"))
