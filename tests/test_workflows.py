"""What runs elsewhere: actions pinned by hash, least permissions, and only commands that the Makefile has."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import nbutils
from nbutils.machine import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAY_WRITE = {("pages", "deploy"): {"pages", "id-token"}, ("weekly", "report"): {"issues"}}


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_pinned_and_may_do_little(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used)
    assert yaml.safe_load(path.read_text())["permissions"] == {}
    for name, job in jobs(path).items():
        writes = {right for right, kind in job["permissions"].items() if kind == "write"}
        assert writes == MAY_WRITE.get((path.stem, name), set())
        assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_asks_of_make_it_has(path: Path) -> None:
    (goals,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    runs = [step.get("run", "") for job in jobs(path).values() for step in job["steps"]]
    asked = re.findall(r"^make (\w+)", "\n".join(runs), re.MULTILINE)
    assert set(asked) <= set(goals.split())


@pytest.mark.parametrize(("said", "status"), [("expected Linux or macOS; run this in WSL", 0), ("a traceback", 1)])
def test_the_refusal_of_windows_is_what_passes(said: str, status: int, tmp_path: Path) -> None:
    """As GitHub runs it, with a Python that refuses."""
    (tmp_path / "python").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    (line,) = (step["run"] for step in jobs(ROOT / ".github/workflows/weekly.yml")["windows"]["steps"] if "run" in step)
    done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", line], capture_output=True,
                          env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode == status


def test_every_python_that_we_name_is_tested() -> None:
    (wanted,) = re.findall(r'requires-python = "(.+)"', (ROOT / "pyproject.toml").read_text())
    assert wanted == ">=3.11,<3.14"
    tested = jobs(ROOT / ".github" / "workflows" / "tests.yml")["test"]["strategy"]["matrix"]["python"]
    assert tested == ["3.11", "3.12", "3.13"]


def test_one_version_everywhere() -> None:
    places = {"pyproject.toml": r'^version = "(.+)"', "CITATION.cff": r"^version: (.+)",
              "CHANGELOG.md": r"^## ([\d.]+)"}
    found = {name: re.search(pattern, (ROOT / name).read_text(), re.MULTILINE) for name, pattern in places.items()}
    assert {name: match and match[1] for name, match in found.items()} == dict.fromkeys(places, nbutils.__version__)


def test_the_container_makes_the_environment() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make .venv/complete"
