"""HTML from the templates beside this file, in which every value is escaped."""

from pathlib import Path
from typing import Any

from docutils import nodes
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sphinx.util.docutils import SphinxDirective

from nbutils.lab import claims, results
from nbutils.messages import counted

_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).with_suffix("")), autoescape=True,
                         undefined=StrictUndefined)


def judged(chapter: str, statistic: str) -> list[str]:
    """The ids of the claims that a chapter judges by this result."""
    return [claim.id for claim in claims.load().values() if (claim.chapter, claim.statistic) == (chapter, statistic)]


_TEMPLATES.globals |= {"anchor": results.anchor, "counted": counted, "judged": judged,
                       "marks": claims.MARKS, "minus": results.MINUS, "paper_name": claims.paper_name, "zip": zip}


def html(template: str, **values: Any) -> str:
    """A template with these values; its first lines say which it takes."""
    return _TEMPLATES.get_template(f"{template}.html").render(values)


class HtmlDirective(SphinxDirective):
    """A directive that shows HTML."""

    def html(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", self.html(), format="html")]
