"""What git knows about this repository: the commit that a run was made from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from nbutils.machine import ROOT


def present_commit() -> str:
    """The commit of the working tree, "-dirty" behind it where files other than kept editions were changed since.

    A copy without a history of its own, inside another repository, has none.
    """
    try:
        if Path(git("rev-parse", "--show-toplevel").stdout.strip() or "/").resolve() != ROOT.resolve():
            return "unknown"
        name = git("describe", "--always").stdout.strip()
        changed = name and git("diff", "--quiet", "HEAD", "--", ".", ":!book/editions").returncode
    except OSError:
        return "unknown"
    return f"{name}-dirty" if changed else name or "unknown"


def git(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run git in a folder, by default on this repository.

    Raises:
        OSError: there is no git.
    """
    # Within a hook git's own variables name the repository of whoever commits.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(["git", *words], cwd=folder or ROOT, capture_output=True, text=True,
                          env={**environment, "GIT_OPTIONAL_LOCKS": "0"})
