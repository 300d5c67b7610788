"""What `make book` and `make serve` do once there is an environment.

Settings come from the variables of make, through the environment.
"""

import functools
import http.server
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import nbutils
from book.press import chapters, editions, sweep
from book.press.environment import take
from book.press.files import alone
from nbutils.lab import claims, results
from nbutils.lab.history import present_commit
from nbutils.machine import ROOT, build_dir
from nbutils.messages import did_you_mean, read_project_file, read_text


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
    profile = edition or os.environ.get("PROFILE", "") or "quick"
    take(build)
    if edition and os.environ.get("CHAPTER", "") + os.environ.get("SET", ""):
        raise ValueError("EDITION shows whole recorded runs: leave out CHAPTER and SET.")
    _whole()
    with alone(build / ".lock", "another `make book` is at work in this build folder"):
        if edition:
            _lay_out(edition)
        status = _graph("book" if edition else "all")
        if status and not edition and any(c.partial.exists() for c in chapters.every(profile)):
            os.environ["INCOMPLETE"] = "1"
            _graph("book")
        chapters.summary(profile)
    return status


def read() -> int:
    """Render what is kept of each chapter, in an environment that can run none; returns the exit status.

    Raises:
        ValueError: files that cannot be used, in one line.
    """
    with published():
        status = render()
        chapters.summary(editions.BEST)
    return status


@contextmanager
def published() -> Iterator[Path]:
    """One `make` at a time, have the best of the editions rendered from here on; gives the build folder of theirs.

    Raises:
        ValueError: files that cannot be used, in one line.
    """
    build = build_dir()
    take(build)
    _whole()
    with alone(build / ".lock", "another `make` is at work in this build folder"):
        folder = _lay_out(editions.BEST)
        os.environ |= {"BOOK_PROFILE": editions.BEST, "BOOK_EDITION": editions.BEST, "BOOK_INCOMPLETE": "1"}
        yield folder


def _lay_out(edition: str) -> Path:
    """Lay out an edition in a build folder of its own, which is meant from here on: a run at a profile never takes an
    edition's notebooks for its own."""
    editions.show(edition)
    folder = build_dir() / "editions" / edition
    os.environ["NBUTILS_BUILD"] = str(folder)
    return folder


def swept() -> int:
    """Run what a sweep lacks, see `sweep`, and say what there is; returns the exit status.

    Raises:
        ValueError: settings that cannot be used, in one line.
    """
    build, wanted = build_dir(), sweep.asked()
    if not wanted:
        raise ValueError("SWEEP: not given; expected names with values, such as SWEEP='first_seed=0,3,6'")
    take(build)
    with alone(build / ".lock", "another `make book` is at work in this build folder"):
        status = _graph("sweep")
    print(sweep.table(wanted))
    return status


def _whole() -> None:
    """Read what pages show beside the runs; raises ValueError where it is damaged, before minutes are spent."""
    read_project_file(ROOT / "_config.yml", Config)
    read_project_file(ROOT / "tests" / "benchmarks" / "recorded.csv", list)
    for path in (ROOT / "book").glob("[!.]*.md"):
        read_text(path)
    for path in (ROOT / "book" / "published").glob("*.csv"):
        results.printed(path.stem)
    for claim in claims.load().values():
        where = f"claims.yml, claim {claim.id!r}: "
        if claim.paper not in claims.papers():
            near = did_you_mean(claim.paper, claims.papers())
            raise ValueError(f"{where}paper {claim.paper!r}: not in book/references.bib{near}")
        chapters.named(claim.chapter, f"{where}no chapter {claim.chapter!r}")
    editions.kept()


def _graph(target: str) -> int:
    """Bring a target of the Snakefile up to date; returns 1 where a rule failed.

    Raises:
        ValueError: nothing can be run, in one line.
    """
    try:
        tempfile.TemporaryFile(dir=Path.home()).close()  # permission alone says little: root has it in /proc
    except OSError:
        home = build_dir() / "home"
        home.mkdir(exist_ok=True)
        data = os.environ.get("NBUTILS_DATA") or str(Path.home() / ".cache" / "nbutils")
        os.environ |= {"HOME": str(home), "NBUTILS_DATA": data}
    if not _to_make(target):
        return 0
    # --nolock: a run killed at any moment leaves no lock behind. What a sweep's runs write appears whole or not at all,
    # and a run that fails may have waited for another one that has made it.
    incomplete = ["--ignore-incomplete", "--keep-incomplete"] if target == "sweep" else ["--rerun-incomplete"]
    words = ["--cores", "all", "--nolock", *incomplete, "--keep-going", "--quiet", "all", "--", target]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SNAKEMAKE_")}
    run = subprocess.Popen([sys.executable, "-m", "snakemake", *words], cwd=ROOT, env=kept, start_new_session=True)
    try:
        return int(run.wait() != 0)
    except KeyboardInterrupt:
        os.killpg(run.pid, signal.SIGTERM)  # snakemake itself would wait for the end of the chapter
        run.wait()
        raise


def _to_make(target: str) -> list[str]:
    """The files that are not up to date; raises ValueError where they cannot be made, in one line."""
    from snakemake import api  # here, since it takes a second

    files, said, ends = list[str](), io.StringIO(), signal.getsignal(signal.SIGTERM)
    try:
        with redirect_stdout(said), redirect_stderr(said), api.SnakemakeApi(api.OutputSettings(dryrun=True)) as engine:
            workflow = engine.workflow(api.ResourceSettings(cores=1), snakefile=ROOT / "Snakefile", workdir=ROOT)
            graph = workflow.dag(api.DAGSettings(targets={target}, force_incomplete=target != "sweep"))
            settings = api.ExecutionSettings(lock=False, ignore_incomplete=target == "sweep")
            graph.execute_workflow("dryrun", execution_settings=settings, updated_files=files)
        return files
    except ValueError:  # the Snakefile's own
        raise
    except Exception as error:
        advice = "; remove .snakemake, the notes on earlier runs" * (".snakemake" in str(error))
        raise ValueError(chapters.one_line("snakemake", str(error)) + advice) from None
    finally:
        signal.signal(signal.SIGTERM, ends)  # the engine has taken it, and would wait for the end of a chapter


def render(strict: bool = False, builder: str = "html") -> int:
    """Render the book as jupyter-book does; returns 1 where it has said what is wrong with a page.

    Args:
        strict: warnings are errors, those of missing references too. builder: of Sphinx; each has its own folders,
            since a link is made for one builder when its page is read.

    Raises:
        ValueError: it cannot be rendered, in one line.
    """
    from jupyter_book.config import get_final_config  # here, since these take a second
    from sphinx.application import Sphinx
    from sphinx.errors import SphinxError
    from sphinx.util.console import nocolor
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    about = f"2026, version {nbutils.__version__}, commit {present_commit()}; text: CC BY 4.0, code: MIT"
    given = {"nitpicky": strict, "latex_individualpages": False, "copyright": about}
    config, _ = get_final_config(user_yaml=ROOT / "_config.yml", cli_config=given, sourcedir=ROOT)
    folder = build_dir() / "_build"
    doctrees = folder / f".doctrees{builder.removeprefix('html')}"
    nocolor()
    try:
        with patch_docutils(), docutils_namespace():
            app = Sphinx(ROOT, None, folder / builder, doctrees, builder, config, status=None, warning=sys.stderr,
                         warningiserror=strict, keep_going=True)
            handlers = app.registry.translation_handlers  # some extensions name no builder but "html"
            handlers[builder] = handlers["html"] | handlers.get(builder, {})
            app.build(force_all=True)  # an incremental build would not repeat the warnings of pages it skips
    except SphinxError as error:
        raise ValueError(f"The book was not rendered: {' '.join(str(error).split())}") from None
    if app.statuscode:
        print("The book was not rendered: see above.", file=sys.stderr)
    return int(app.statuscode)


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

