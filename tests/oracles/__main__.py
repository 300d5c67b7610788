"""Compare the learning paradigms with their peers: what `make oracles` does.

The peers lie where only this run sees them, since the book pins an old kornia.
"""

import os
import subprocess
import sys

from book.press.environment import take
from nbutils.machine import ROOT, build_dir


def main() -> int:
    peers, wanted = build_dir() / "oracles", ROOT / "tests" / "oracles" / "requirements.txt"
    take(build_dir())
    whole = peers / "complete"
    if not whole.exists() or whole.stat().st_mtime < wanted.stat().st_mtime:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--upgrade", "--target", str(peers), "-r", str(wanted)]
        if status := subprocess.call(pip, cwd=ROOT):
            return status
        whole.touch()
    tests = [sys.executable, "-m", "pytest", "-W", "default", "tests/oracles"]
    return subprocess.call(tests, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(peers)})


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, KeyboardInterrupt) as error:
        sys.exit(str(error) or "stopped by the user")
