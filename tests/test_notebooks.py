"""Every chapter runs from its first cell to its last, at the profile made for tests."""

import re

import pytest

from book.press import editions
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
    assert named_in_the_text(chapter.name) <= found.keys() | known(chapter.name)
    for id, n, attack in RESTS_ON.get(chapter.name, ()):
        assert found[id].n == n
        assert found[id].attack.startswith(attack)


def named_in_the_text(chapter: str) -> set[str]:
    """Ids of this chapter's results that a page shows."""
    own = re.findall(r"\{result\}`(?!(?:[\w-]+/)?\d\d_\w+:)([^`]+)`", pages()[f"notebooks/{chapter}"])
    others = re.findall(rf"\{{result\}}`{chapter}:([^`]+)`", "\n".join(pages().values()))
    return {*own, *others}


def known(chapter: str) -> set[str]:
    """Ids of the records that the text is about; those of other sizes and networks no tiny run has."""
    chosen = {edition_of(chapter) for edition_of in (editions.of_the_book, editions.of_the_controls)}
    return {id for edition in chosen if edition for id in editions.find(edition, chapter).by_id}
