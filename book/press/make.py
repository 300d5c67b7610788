"""What `make book`, `make serve` and `make oracles` do once there is an environment.

Settings come from the variables of make, through the environment.
"""

import functools
import http.server
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from book.press import chapters, editions
from book.press.files import alone
from nbutils.lab import claims, results
from nbutils.machine import ROOT, build_dir, take
from nbutils.messages import read_project_file

HEADER = re.compile(r"^SNAKEMAKE\n=+\n(?:  .*\n)*", re.MULTILINE)
PREFACE = ("host:", "Assuming ", "Building DAG", "Config", "Workflow defines")
BEGIN = r"^Traceback \(most recent call last\):\n"
CHAINED = rf"(?:(?:(?!{BEGIN}).*\n)*?(?:During handling of|The above exception was) .*:\n\n{BEGIN})*"
AROUND = re.compile(r"^(?:Exception occurred:\n(?:[ \t].*\n)*|(?:RuntimeError: *|=+|There was an error in building .*"
                    r"|The full traceback has .*|Please also report .*|A bug report can .*)\n)", re.MULTILINE)
TRACEBACK = re.compile(rf"{BEGIN}{CHAINED}(?:[ \t].*\n|\n)*", re.MULTILINE)


class Config(BaseModel):
    """What _config.yml must have for a book to be rendered."""

    bibtex_bibfiles: list[str]
    execute: dict[str, str]
    html: dict[str, str]
    parse: dict[str, Any]
    sphinx: dict[str, Any]


def book() -> int:
    """Run what is not up to date, one `make book` at a time, and render; returns the exit status.

    Raises:
        ValueError: settings that cannot be used, in one line.
    """
    build, edition = build_dir(), os.environ.get("EDITION", "")
    take(build)
    if edition and os.environ.get("CHAPTER", "") + os.environ.get("SET", ""):
        raise ValueError("EDITION shows whole recorded runs: leave out CHAPTER and SET.")
    _whole()
    with alone(build / ".lock", "another `make book` is at work in this build folder"):
        if edition:
            editions.show(edition)
            # Its own build folder, so that a run at a profile never takes an edition's notebooks for its own.
            os.environ |= {"PROFILE": edition, "NBUTILS_BUILD": str(build / "editions" / edition)}
        status = _graph("book" if edition else "all")
        if status == 2:
            return status
        if status and not edition and any(c.partial.exists() for c in chapters.every(os.environ["PROFILE"])):
            os.environ["INCOMPLETE"] = "1"
            _graph("book")
        chapters.summary(os.environ["PROFILE"])
    return status


def _whole() -> None:
    """Read what pages show beside the runs; raises ValueError where it is damaged, before minutes are spent."""
    read_project_file(ROOT / "_config.yml", Config)
    read_project_file(ROOT / "tests" / "benchmarks" / "recorded.csv", list)
    for path in (ROOT / "book" / "published").glob("*.csv"):
        results.printed(path.stem)
    known = [chapter.name for chapter in chapters.every("")]
    for claim in claims.load().values():
        claims.paper_name(claim.paper)
        if claim.chapter not in known:
            near = chapters.nearest(claim.chapter, known)
            raise ValueError(f"claims.yml, claim {claim.id!r}: no chapter {claim.chapter!r}{near}")
    editions.kept()


def _graph(target: str) -> int:
    """Bring a target of the Snakefile up to date; returns 0, 1 where a rule failed, or 2 before anything has run."""
    # --nolock: a run killed at any moment leaves no lock behind.
    words = [sys.executable, "-m", "snakemake", "--cores", "all", "--nolock", "--rerun-incomplete", "--keep-going"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SNAKEMAKE_")}
    if not os.access(Path.home(), os.W_OK):
        home = build_dir() / "home"
        home.mkdir(exist_ok=True)
        data = os.environ.get("NBUTILS_DATA") or str(Path.home() / ".cache" / "nbutils")
        kept |= {"HOME": str(home), "NBUTILS_DATA": data}
    plan = subprocess.run([*words, "--dry-run", target], cwd=ROOT, env=kept, capture_output=True, text=True)
    if plan.returncode:
        print(_cause(plan.stdout + plan.stderr), file=sys.stderr)
        return 2
    if "Nothing to be done" in plan.stdout + plan.stderr:
        return 0
    run = subprocess.Popen([*words, "--quiet", "all", "--", target], cwd=ROOT, env=kept, start_new_session=True)
    try:
        return int(run.wait() != 0)
    except KeyboardInterrupt:
        os.killpg(run.pid, signal.SIGTERM)  # snakemake itself would wait for the end of the chapter
        run.wait()
        raise


def _cause(output: str) -> str:
    """Why the graph could not be made, in one line: the Snakefile's own, or the engine's."""
    lines = [line.strip() for line in HEADER.sub("", TRACEBACK.sub("", output)).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(PREFACE)]
    if any("/.snakemake" in line for line in lines):
        lines.append("(remove .snakemake, the notes on earlier runs, and run again)")
    return lines[0] if len(lines) == 1 else chapters.one_line("snakemake", " ".join(lines) or "no message")


def _said(errors: str) -> str:
    """What jupyter-book and Sphinx say: each line once, of a traceback the last one, no colours, frames and advice."""
    plain = TRACEBACK.sub("", re.sub(r"\x1b\[[0-9;]*m", "", errors))
    lines = [line for line in AROUND.sub("", plain).splitlines() if line.strip()]
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def render(strict: bool = False) -> int:
    """Render the book with jupyter-book; what it says is shown, see `_said`.

    strict: warnings are errors, those of missing references too.
    """
    # --all reads every page anew: an incremental build would not repeat the warnings of pages it skips.
    program = "from jupyter_book.cli.main import main; main()"  # its script would name the folder it was made in
    words = [sys.executable, "-c", program, "build", ".", "--path-output", str(build_dir()), "--all", "--keep-going",
             "-q", *["-n", "-W"] * strict]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    print(_said(done.stderr), end="", file=sys.stderr)
    if done.returncode:
        print("The book was not rendered: see above.", file=sys.stderr)
    return done.returncode


def serve() -> int:
    """Show the book on this machine until stopped.

    Raises:
        ValueError: no book, or no such port, in one line.
    """
    edition, port = os.environ.get("EDITION", ""), os.environ.get("PORT", "") or "8000"
    pages = build_dir() / (f"editions/{edition}" if edition else "") / "_build" / "html"
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"PORT = {port!r}: expected a whole number from 1 to 65535, such as 8000")
    if not (pages / "index.html").is_file():
        raise ValueError("There is no book yet: run 'make book' first.")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(pages))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
    except OSError as error:
        near = int(port) % 65000 + 1
        raise ValueError(f"PORT = {port}: {error.strerror}; expected a free one, such as {near}") from None
    with server:
        print(f"http://127.0.0.1:{port}/  (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    return 0


def oracles() -> int:
    """Compare with the peers, which lie where only this run sees them."""
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
