"""Every chapter runs from its first cell to its last, at the profile made for tests."""

import re

import pytest

from book.press.chapters import Chapter, every, recorded
from book.press.execute import execute
from tests.helpers import pages

# chapter -> a number under an attack that the chapter computes itself, images attacked at smoke, name of the attack
RESTS_ON = {"12_three_definitions": [("notions.ADV.robust_share", 10, "PGD(")]}


@pytest.mark.parametrize("chapter", every("smoke"), ids=lambda chapter: chapter.name)
def test_chapter_runs_at_profile_smoke(chapter: Chapter) -> None:
    execute(chapter.source, chapter.twin, {"profile": "smoke"})
    assert chapter.state().status == "ok"
    found = recorded(chapter.twin).by_id
    assert named_in_the_text(chapter.name) <= found.keys()
    for id, n, attack in RESTS_ON.get(chapter.name, ()):
        assert found[id].n == n
        assert found[id].attack.startswith(attack)


def named_in_the_text(chapter: str) -> set[str]:
    """Ids of this chapter's results that a page shows."""
    own = re.findall(r"\{result\}`(?!\d\d_\w+:)([^`]+)`", pages()[f"notebooks/{chapter}"])
    others = re.findall(rf"\{{result\}}`{chapter}:([^`]+)`", "\n".join(pages().values()))
    return {*own, *others}
