"""A chapter's page leads to its notebook, and to Colab and Binder where the book has a place on the web."""

from types import SimpleNamespace
from typing import Any

import pytest
from docutils import nodes

from book.press.pages import takeaway

PAGE = "notebooks/02_adversarial_training"


def offered(page: str) -> list[str]:
    context: dict[str, Any] = {"header_buttons": [{"url": "theme"}]}
    takeaway.buttons(Any, page, "page.html", context, nodes.document(None, None))
    return [button["url"] for button in context["header_buttons"]]


def test_a_chapter_leads_to_its_notebook_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOOK_REPOSITORY", raising=False)
    assert offered(PAGE) == ["02_adversarial_training.ipynb", "theme"]
    assert offered("book/intro") == ["theme"]


def test_with_a_repository_it_leads_to_where_a_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOK_REPOSITORY", "owner/name")
    assert offered(PAGE)[1:3] == [
        "https://colab.research.google.com/github/owner/name/blob/readers/notebooks/02_adversarial_training.ipynb",
        "https://mybinder.org/v2/gh/owner/name/readers?urlpath=lab/tree/notebooks/02_adversarial_training.ipynb"]


def test_a_link_to_a_page_shows_its_answer() -> None:
    page = nodes.document(SimpleNamespace(), None)
    page += [nodes.paragraph("", "Shown: a run."), nodes.paragraph("", 'In short. A change of $\\epsilon$ says "no".')]
    context = {"title": "1. <em>Known</em>", "metatags": ""}
    takeaway.card(Any, PAGE, "page.html", context, page)
    assert '<meta property="og:title" content="1. Known">' in context["metatags"]
    assert '<meta property="og:description" content="A change of says &quot;no&quot;.">' in context["metatags"]
