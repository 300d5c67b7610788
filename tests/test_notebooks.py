"""Every chapter runs from its first cell to its last, at the profile made for tests."""

import re

import pytest

from book.press.chapters import Chapter, every, recorded
from book.press.execute import execute
from tests.helpers import pages


@pytest.mark.parametrize("chapter", every("smoke"), ids=lambda chapter: chapter.name)
def test_chapter_runs_at_profile_smoke(chapter: Chapter) -> None:
    execute(chapter.source, chapter.twin, {"profile": "smoke"})
    assert chapter.state().status == "ok"
    assert named_in_the_text(chapter.name) <= {result.id for result in recorded(chapter.twin)[1]}


def named_in_the_text(chapter: str) -> set[str]:
    """Ids of this chapter's results that a page shows."""
    own = re.findall(r"\{result\}`(?!\d\d_\w+:)([^`]+)`", pages()[f"notebooks/{chapter}"])
    others = re.findall(rf"\{{result\}}`{chapter}:([^`]+)`", "\n".join(pages().values()))
    return {*own, *others}
