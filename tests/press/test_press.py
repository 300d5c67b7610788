"""The press stands outside the engine, which knows nothing of it, and it works where there is no torch."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from book.press.__main__ import main, parser
from nbutils.machine import ROOT
from tests.helpers import WITHOUT_TORCH, pages

TEXTS = "\n\n".join([*(path.read_text() for path in sorted(ROOT.glob("*.md"))), *pages().values()])
PRESS = sorted(path for path in (ROOT / "book" / "press").rglob("*.py") if path.stem != "__init__")


def imported(path: Path) -> set[str]:
    """Every module that a file imports or may import, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "nbutils").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_engine_imports_nothing_of_the_press(path: Path) -> None:
    assert not [name for name in imported(path) if name.partition(".")[0] in ("book", "sphinx", "docutils")]


def test_the_press_imports_no_torch() -> None:
    """Every module, the choice of chapters with its checks, the claims and their ledger, and the editions."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PRESS]
    assert len(modules) > 10
    code = WITHOUT_TORCH + "".join(f"import {name}\n" for name in modules) + """
from book.press import chapters, editions, ledger
print(chapters.table(chapters.select("quick", settings="eps=4/255 steps=7")))
print(len(ledger.entries("planted", editions.kept())), "claims")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "01_known_features" in done.stdout
    assert " claims" in done.stdout


@pytest.mark.parametrize("words", sorted(set(re.findall(r"python -m book\.press ([^`#\n]*[^`#\s])", TEXTS))))
def test_a_command_that_the_texts_name_is_one(words: str) -> None:
    assert callable(parser().parse_args(shlex.split(words)).command)


@pytest.mark.parametrize("words", sorted(set(re.findall(r"(?:^|`)make ([^`#\n]*[^`#\s])", TEXTS, re.MULTILINE))))
def test_what_the_texts_ask_of_make_it_has(words: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets, variables = (re.findall(rf"^{name} (.+)$", makefile, re.MULTILINE)[0].split()
                          for name in (r"\.PHONY:", "variables :="))
    target, *settings = shlex.split(words)
    assert target in targets
    assert {setting.partition("=")[0] for setting in settings} <= set(variables)


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nosuch"])
    assert ended.value.code == 2
    assert "invalid choice: 'nosuch'" in capsys.readouterr().err


def test_stopped_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("book.press.make.serve", stop)
    assert main(["serve"]) == 130
    assert capsys.readouterr().err == "stopped; the next run goes on from here\n"


def test_what_nohup_ignores_stays_ignored() -> None:
    code = ("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from book.press.__main__ import main; "
            "main(['stage', 'quick']); print(signal.getsignal(signal.SIGHUP).name)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "SET": ""})
    assert done.stdout.splitlines()[-1] == "SIG_IGN"
