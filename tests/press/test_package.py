"""The wheel holds all that the engine needs, and it works where there is no checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nbutils
from book.press import release
from nbutils.machine import ROOT
from nbutils.versions import sha256

USES = """
import importlib
import sys
from pathlib import Path
from nbutils import lab, machine
from nbutils.lab import claims, parameters

for path in sorted(Path(machine.__file__).parent.rglob("*.py")):
    importlib.import_module(".".join(path.relative_to(machine.ROOT.parent).with_suffix("").parts))
assert machine.INSTALLED and str(machine.ROOT).startswith(str(Path.cwd()))
assert machine.build_dir() == Path.cwd().resolve() / "build"
print(len(claims.load()), parameters.profiles(), lab.published("kim2021", "Table 2", "CIFAR-10", "VGG-16", "PGD"))
profile, dataset = "smoke", None
run = lab.start("01_known_features", globals())
assert run.parameters.profile == "smoke"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the checkout with the wheel installed into it."""
    folder = tmp_path_factory.mktemp("away").resolve()
    release.wheel(folder / "package")
    (built,) = (folder / "package").glob("*.whl")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target",
                    str(folder / "site"), str(built)], check=True, cwd=folder)
    return folder


def test_the_engine_runs_from_its_wheel(installed: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "NBUTILS_BUILD"}
    done = subprocess.run([sys.executable, "-c", USES], cwd=installed, env={**kept, "PYTHONPATH": "site"},
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert "'quick'" in said[0]
    assert "93.43 %" in said[0]


def test_the_wheel_has_our_name_and_version(installed: Path) -> None:
    (built,) = (installed / "package").glob("*.whl")
    assert built.name == f"robust_features-{nbutils.__version__}-py3-none-any.whl"


def test_what_is_installed_fits_together() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_two_wheels_are_the_same(installed: Path) -> None:
    release.wheel(installed / "again")
    first, second = (sha256(next((installed / name).glob("*.whl"))) for name in ("package", "again"))
    assert first == second


def test_nothing_of_the_press_is_in_it(installed: Path) -> None:
    assert {path.name for path in (installed / "site" / "nbutils" / "book").iterdir()} == {
        "claims.yml", "references.bib", "profiles", "published"}
    assert (installed / "site" / "nbutils" / "book" / "claims.yml").read_text() == (
        ROOT / "book" / "claims.yml").read_text()
