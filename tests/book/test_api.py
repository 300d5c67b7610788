"""The engine, name by name: read off the code where there is no torch, without a warning."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from book.press.pages import api
from nbutils.machine import ROOT
from nbutils.versions import SOURCES
from tests.helpers import WITHOUT_TORCH

PAGES = sorted((ROOT / "book" / "api").glob("*.md"))
CONF = f"""{WITHOUT_TORCH}
sys.path.append({str(ROOT)!r})
extensions = ["myst_parser", "book.press.pages.api"]
html_theme = "basic"
nitpick_ignore_regex = [["py:.*", ".*"]]
"""
CODE = '''
class Threat:
    """A ball.

    Attributes (beside those of `Ball`):
        eps: its radius, |x_0| <= eps*.
    """

    norm: str
    eps: float = 0.5

    @property
    def half(self) -> float:
        """Half of `eps`."""

    @classmethod
    def of(cls, eps: float, /, *others: int) -> "Threat":
        """Made.

        Raises:
            ValueError: eps below 0.
        """

    def _own(self) -> None:
        """Not shown."""


class Made:
    """Made otherwise."""

    def __init__(self, x: int) -> None:
        self.x = x
'''


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    (folder / "conf.py").write_text(CONF)
    shutil.copytree(ROOT / "book" / "api", folder / "api")
    (folder / "index.md").write_text("# Book\n\n```{toctree}\n:glob:\napi/*\n```\n")
    return folder


def made(book: Path, builder: str) -> Path:
    done = subprocess.run([sys.executable, "-m", "sphinx", "-nWqb", builder, "--keep-going", "-d", str(book / builder),
                           str(book), str(book / "made" / builder)], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return book / "made" / builder


def test_the_pages_have_every_name_of_the_wings_and_no_warning(book: Path) -> None:
    folder = made(book, "html") / "api"
    pages = {path.stem: (folder / f"{path.stem}.html").read_text() for path in PAGES}
    for module in ("images", "robustness", "features", "paradigms"):
        tree = ast.parse(SOURCES[f"nbutils.{module}"])
        names = {alias.name for line in tree.body if isinstance(line, ast.ImportFrom) for alias in line.names}
        shown = set(re.findall(rf'id="nbutils\.{module}\.(\w+)"', pages[module]))
        assert names - shown <= {"LOSSES", "VIEWS"}, module
    assert 'id="nbutils.training.Schedule.rate"' in pages["training"]
    assert "and built again" in pages["store"]
    assert "_write" not in pages["store"]


def test_a_print_goes_without(book: Path) -> None:
    whole = (made(book, "singlehtml") / "index.html").read_text()
    assert whole.count("Left out of the print") == len(PAGES)
    assert "nbutils.training.fit" not in whole


def test_a_class_has_its_fields_and_public_methods() -> None:
    threat, other = map(api.described, api.offered(ast.parse(CODE).body))
    assert threat.startswith(".. py:class:: Threat(norm: str, eps: float = 0.5)\n\n   A ball.\n")
    assert "   Attributes, beside those of ``Ball``:\n\n   :ivar eps: its radius, \\|x\\_0\\| <= eps\\*.\n" in threat
    assert "   .. py:property:: half\n\n      Half of ``eps``.\n" in threat
    assert "   .. py:method:: of(eps: float, /, *others: int) -> 'Threat'\n" in threat
    assert "      :raises ValueError: eps below 0.\n" in threat
    assert "_own" not in threat
    assert other.startswith(".. py:class:: Made(x: int)\n")


def test_every_page_is_in_the_book() -> None:
    listed = re.findall(r"file: (book/api/\w+)", (ROOT / "_toc.yml").read_text())
    assert sorted(listed) == [f"book/api/{path.stem}" for path in PAGES]
    front = (ROOT / "book" / "api.md").read_text()
    assert all(f"<api/{path.stem}>" in front for path in PAGES)
