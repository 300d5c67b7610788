"""No measured or published number is typed into the text: see "No numbers typed by hand" in CONTRIBUTING.md."""

import re

import pandas as pd
import pytest

from nbutils.lab import claims
from nbutils.lab.results import published
from nbutils.machine import ROOT
from tests.helpers import pages

PAGES = pages()
# What is not prose, or no number that could be measured. Each is replaced, in this order.
LEFT_OUT = (
    r"(?ms)^(`{3,})(?:\w+|\{math\}|\{code-cell\}.*?)\n.*?^\1\s*$",  # blocks of code and formulas
    r"(?m)^[`:]{3,}.*$",  # the fences of boxes, whose content is prose
    r"`[^`]*`",  # code, and what a role is given
    r"(?s)\$\$.*?\$\$|\$[^$]+\$",  # formulas, and numbers that are marked as given
    r"\]\([^)]*\)|<[^>]*>",  # addresses of links
    r"\b(?:[Ss]ections?|Python) [\d.]*\d(?:(?: to| and|,) [\d.]*\d)*",
    r"\b95 % interval",
)
NUMBER = r"(?<![\w.,/])[\d.,]*\d\s*(?:%|per ?cent|points?\b)|(?<![\w.])\d*\.\d+"


def typed(text: str) -> list[str]:
    """Percentages, points and decimals in the prose of a text, with the words around; "…" is what was left out."""
    for left_out in LEFT_OUT:
        text = re.sub(left_out, " … ", text)
    text = " ".join(text.split())
    return [text[max(0, found.start() - 40) : found.end() + 40] for found in re.finditer(NUMBER, text)]


@pytest.mark.parametrize("page", PAGES)
def test_no_number_is_typed_into_the_text(page: str) -> None:
    found = typed(PAGES[page])
    assert not found, (
        f"{page} has typed numbers: {found}. A measured one comes from {{result}}`id`, a published one from "
        "{published}`paper; Table 1; ...`. One that is neither (a radius, a definition, an example) stands in $ $."
    )


@pytest.mark.parametrize("text", [
    "It is right on 75.3 % of the images.", "about 75% of them", "a gap of 3 points", "3 percent", "1,234.5 points",
    "a usefulness of .94", "between 0.94\nand one", "(0.672)", "| 48 % | x |", "```{note}\nright on 12 %\n```",
    "```bash\nmake\n```\n\n12 % of $x$", "{result}`a.b` and 12 %", "-2.99", "section 3 found 12.5 of them",
])
def test_a_typed_number_is_found(text: str) -> None:
    assert len(typed(text)) == 1


@pytest.mark.parametrize("text", [
    "{result}`a.PGD(L2 0.5)` of them", "{published}`kim2021; Table 1` under PGD", "radius $.25$, $95.5\\,\\%$ of them",
    "$$\nx = .5\n$$", "```{math}\n:label: eq\nx = 0.5\n```", "````python\nx = 0.5\n````", "`eps=0.5`", "<b a='.5'>",
    "[text](http://a.b/0.5)", "sections 3.1 and 3.2", "Python 3.11 to 3.13", "its 95 % interval", "3,000 images",
    "8/255, in 2021", "six points in two groups", "one in ten",
])
def test_other_numbers_are_left_alone(text: str) -> None:
    assert typed(text) == []


def test_published_numbers_of_the_text_are_found_before_the_book_is_built() -> None:
    named = [found for text in PAGES.values() for found in re.findall(r"\{published\}`([^`]+)`", text)]
    assert named
    for words in named:
        published(*words.split("; "))


def test_percentages_quoted_in_claims_were_published() -> None:
    """Rounded as the claim rounds them. What users report is no published number, and is introduced by "others"."""
    values = {path.stem: pd.read_csv(path)["value"] for path in (ROOT / "book" / "published").glob("*.csv")}
    seen = 0
    for claim in claims.load().values():
        papers = {claim.paper, "kim2021"} if "Kim et al." in claim.published else {claim.paper}
        printed = [value for paper in papers & set(values) for value in values[paper]]
        for number, decimals in re.findall(r"(\d+(?:\.(\d+))?) %", re.sub("others .*", "", claim.published)):
            assert float(number) in {round(value, len(decimals)) for value in printed}, f"{claim.id}: {number} %"
            seen += 1
    assert seen
