"""What all tests share: folders of their own and no variables of git's, fixed examples, two small trained networks."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from nbutils import networks, training
from nbutils.images import PlantedSet, PlantedWorld
from nbutils.networks import SplitClassifier

for variable in [name for name in os.environ if name.startswith("GIT_")]:
    del os.environ[variable]  # in a hook they name the repository of whoever commits, whatever the folder

settings.register_profile("fixed", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def own_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the reader's own build folder or downloads."""
    monkeypatch.setenv("NBUTILS_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("NBUTILS_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("NBUTILS_WEIGHTS", raising=False)
    return tmp_path / "build"


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def planted_test() -> PlantedSet:
    return PlantedWorld().draw(100, seed=1)


@pytest.fixture(scope="session")
def network_pair() -> tuple[SplitClassifier, SplitClassifier]:
    """Two standard networks trained apart on the planted world, about 97 % right; tests must not change them."""
    pair = []
    for seed in (0, 1):
        model = networks.build("small", 10, seed)
        images = PlantedWorld().draw(1500, seed=10 + seed)
        training.fit(model, images, training.Standard(), training.Schedule(6), seed)
        pair.append(model)
    return pair[0], pair[1]
