"""Where things are on this machine. It uses the standard library only."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
INSTALLED = (_PACKAGE / "book").is_dir()  # a wheel carries the files of book/ that the engine reads
ROOT = _PACKAGE if INSTALLED else _PACKAGE.parent  # of the repository, or of what stands for it


def build_dir() -> Path:
    """Where everything generated goes: $NBUTILS_BUILD, or build/ in the repository; in the present folder where there
    is none."""
    usual = (Path.cwd() if INSTALLED else ROOT) / "build"
    return Path(os.path.realpath(os.path.expanduser(os.environ.get("NBUTILS_BUILD") or str(usual))))


def stores() -> list[Path]:
    """Where artifacts are looked for: the store of the build folder, where new ones go, and then the folder that
    $NBUTILS_WEIGHTS names, if it is set, which is only read.

    Raises:
        ValueError: no such folder, or one without networks.
    """
    given = os.environ.get("NBUTILS_WEIGHTS")
    shipped = [Path(os.path.realpath(os.path.expanduser(given)))] if given else []
    if shipped and not (shipped[0] / "model").is_dir():
        raise ValueError(f"NBUTILS_WEIGHTS = {given!r}: holds no folder 'model'; expected the weights of a release, "
                         "unpacked, or the store of a build folder")
    return [build_dir() / "store", *shipped]
