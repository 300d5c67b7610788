"""Where things are on this machine. It uses the standard library only."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository: the package is installed in place


def build_dir() -> Path:
    """Where everything generated goes: $NBUTILS_BUILD, or build/ in the repository."""
    return Path(os.path.realpath(os.path.expanduser(os.environ.get("NBUTILS_BUILD") or str(ROOT / "build"))))
