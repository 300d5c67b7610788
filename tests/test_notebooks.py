"""Every chapter runs from its first cell to its last, at the profile made for tests."""

import re
from pathlib import Path

import pytest

from nbutils.lab import results
from nbutils.lab.chapters import Chapter, every
from nbutils.lab.execute import execute
from tests.helpers import pages


@pytest.mark.parametrize("chapter", every("smoke"), ids=lambda chapter: chapter.name)
def test_chapter_runs_at_profile_smoke(chapter: Chapter, own_build: Path) -> None:
    execute(chapter.source, chapter.twin, {"profile": "smoke"})
    assert chapter.state().status == "ok"
    _, recorded = results.read(own_build / "results" / "smoke" / f"{chapter.name}.json")
    assert named_in_the_text(chapter.name) <= {result.id for result in recorded}


def named_in_the_text(chapter: str) -> set[str]:
    """Ids of this chapter's results that a page shows."""
    own = re.findall(r"\{result\}`(?!\d\d_\w+:)([^`]+)`", pages()[f"notebooks/{chapter}"])
    others = re.findall(rf"\{{result\}}`{chapter}:([^`]+)`", "\n".join(pages().values()))
    return {*own, *others}
