"""Slides: what a chapter shows is on them, what it says is in the notes, and nothing of them needs a network."""

import re

import pytest

from book.press import slides
from book.press.chapters import Chapter, every, read


@pytest.mark.parametrize("chapter", every("")[:3], ids=lambda chapter: chapter.name)
def test_slides_show_headings_formulas_and_figures_and_say_the_rest(chapter: Chapter) -> None:
    page = slides.deck(chapter, slides.RUNS / chapter.source.name)
    cells = read(chapter.source).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    heads = re.findall(r"^## (.+)", text, re.MULTILINE)
    shown = re.findall(r"<h2>(.*?)</h2>", page)
    assert [head for head in shown if head != "Predict first"] == [
        slides._inline(head) for head in heads if head not in slides.PASSED_OVER]
    assert shown.count("Predict first") == 1
    assert page.count("<p>$$") == len(re.findall(r"^```\{math\}", text, re.MULTILINE))
    assert page.count('<figure class="picture') >= 2
    heads_of_slides = re.findall(r"<section><h[12]>.*?</h[12]>(.*?)<aside", page, re.DOTALL)
    assert len(heads_of_slides) == len(shown) + 1
    assert all(len(under) > 20 for under in heads_of_slides)  # no slide is a heading alone
    takeaways = text.partition("## Takeaways\n")[2].partition("\n## ")[0].strip().splitlines()
    assert len(takeaways) == len(re.findall("<li>", page.partition("<h2>Takeaways</h2>")[2].partition("<aside")[0])) > 2
    assert page.count("<section>") == page.count("</section>")
    notes = re.findall(r'<aside class="notes">(.*?)</aside>', page, re.DOTALL)
    assert len(" ".join(notes).split()) > 300
    assert not re.search(r"\{[a-z:]+\}`|^:class:", " ".join(notes), re.MULTILINE)
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert "BEGIN SOLUTION" not in page


def test_what_stands_behind_a_list_leaves_it_a_list() -> None:
    (chapter,) = (one for one in every("") if one.name == "06_feature_visualization")
    page = slides.deck(chapter, slides.RUNS / chapter.source.name)
    assert page.partition("<h2>Takeaways</h2>")[2].startswith("<ul><li><em>A matched picture")


def test_words_stand_for_directives_and_roles() -> None:
    chapter = "01_known_features"
    text = ("(label)=\n```{literalinclude} x.py\n:pyobject: f\n```\n````{admonition} A box\n:class: note\nSee "
            "{eq}`a` in {doc}`reading`{cite:p}`b`: {result}`known.tile.usefulness`.\n````\n"
            "of equation {eq}`a`\n### {cite:t}`goh2019leakage`")
    said = slides.words(text, chapter)
    assert re.fullmatch(r"See the formula in reading: 0\.\d+.*\.\n+of the formula\n+Goh \(2019\)", said)
