"""Look at every page of the rendered book in Chromium, light and dark, wide and narrow: what `make pages` does.

It ends with a table of how long the chapters are; `python -m tests.pages length` makes that alone.

axe-core and playwright-core come from npm into the build folder, once; Chromium is the system's, or that of CHROMIUM.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from book.press.environment import take
from book.press.pdf import chromium
from nbutils.machine import ROOT, build_dir

PACKAGES = ("playwright-core@1.65.1", "axe-core@4.14.1")


def check(book: Path, modules: Path, *pages: str, script: str = "check.mjs") -> tuple[int, list[dict[str, object]]]:
    """The exit status of a script beside this file, and what it says of each page."""
    words = ["node", str(Path(__file__).with_name(script)), str(book), *pages]
    environment = {**os.environ, "NODE_PATH": str(modules), "CHROMIUM": chromium()}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def main(*pages: str) -> int:
    book, peers = build_dir() / "_build" / "html", build_dir() / "pages"
    if edition := os.environ.get("EDITION"):
        book = build_dir() / "editions" / edition / "_build" / "html"
    if not (book / "index.html").is_file():
        raise ValueError("There is no book yet: run 'make book' first.")
    if not chromium() or not shutil.which("npm"):
        raise ValueError("expected Chromium and npm; on Debian: apt install chromium npm")
    take(build_dir())
    modules = peers / "node_modules"
    if not (modules / "axe-core").is_dir() or not (modules / "playwright-core").is_dir():
        npm = ["npm", "install", "--silent", "--no-save", "--prefix", str(peers), *PACKAGES]
        if status := subprocess.call(npm, env={**os.environ, "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1"}):
            return status
    status, only = 0, pages[:1] == ("length",)
    if not only:
        status, found = check(book, modules, *pages)
        for one in found:
            faults = [fault for kind in ("axe", "cut", "links") for fault in one[kind]]  # type: ignore[attr-defined]
            print(f"{one['page']}, {one['theme']}, {one['width']} px: {len(faults) or 'no'} faults")
            print("".join(f"    {fault}\n" for fault in faults), end="")
    ended, found = check(book, modules, *pages[only:], script="length.mjs")
    print(f"{'in screens of 900 px':34}  long  figure  verdict")
    for one in found:
        print(f"{one['page']:34}  {one['screens']:4}  {one['figure'] or '-':6}  {one['verdict'] or '-':7}")
    return status or ended


if __name__ == "__main__":
    try:
        os.chdir(ROOT)
        sys.exit(main(*sys.argv[1:]))
    except (ValueError, KeyboardInterrupt) as error:
        sys.exit(str(error) or "stopped by the user")
