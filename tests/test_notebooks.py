"""Every chapter runs from its first cell to its last, at the profile made for tests."""

import pytest

from nbutils.lab.chapters import Chapter, every
from nbutils.lab.execute import execute


@pytest.mark.parametrize("chapter", every("smoke"), ids=lambda chapter: chapter.name)
def test_chapter_runs_at_profile_smoke(chapter: Chapter) -> None:
    execute(chapter.source, chapter.twin, {"profile": "smoke"})
    assert chapter.state().status == "ok"
