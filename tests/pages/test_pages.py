"""Pages that a keyboard, a finger and a narrow screen can use: small ones, in Chromium, where there is one."""

import shutil
from pathlib import Path

import pytest

from nbutils.lab.results import Result, Table
from nbutils.machine import ROOT, build_dir
from tests.pages.__main__ import check, chromium

MODULES = build_dir() / "pages" / "node_modules"
STATIC = ROOT / "book" / "_static"
TABLE = Table({f"row {i}": {f"a long column {j}": Result.of(f"{i}.{j}", "x", [0.5, 0.25]) for j in range(8)}
               for i in range(2)}, "Wider than a phone.")
PAGE = """<!DOCTYPE html><html lang="en" data-theme="light"><head><title>Page</title><meta name="viewport"
content="width=device-width"><link rel="stylesheet" href="{static}/book.css">{script}</head>
<body><main class="bd-article"><h1>Page</h1>{body}</main></body></html>"""

pytestmark = [
    pytest.mark.skipif(not chromium() or not shutil.which("node"), reason="no Chromium, or no node"),
    pytest.mark.skipif(not (MODULES / "axe-core").is_dir(), reason="no axe-core: `make pages` gets it"),
]


def found(folder: Path, body: str, script: bool = True) -> list[str]:
    """What is wrong with a page, in any theme and at any width."""
    tag = f'<script src="{STATIC}/reach.js"></script>' * script
    (folder / "page.html").write_text(PAGE.format(static=STATIC, script=tag, body=body))
    _, said = check(folder, MODULES)
    return sorted({fault for one in said for fault in (*one["axe"], *one["cut"], *one["links"])})  # type: ignore[misc]


def test_a_wide_table_scrolls_by_key_and_says_so(tmp_path: Path) -> None:
    assert not found(tmp_path, TABLE._repr_html_())
    assert any("scrolls without a tab stop" in fault for fault in found(tmp_path, TABLE._repr_html_(), script=False))


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    assert found(tmp_path, '<p>See <a href="#gone">there</a>, <a href="other.html">there</a>.</p>') == [
        "leads nowhere: other.html", "leads nowhere: page.html#gone"]


def test_what_is_cut_off_is_found(tmp_path: Path) -> None:
    box = '<div style="overflow: hidden; width: 5rem; white-space: nowrap">far too many words for it</div>'
    assert any(fault.startswith("cut by") for fault in found(tmp_path, box))
