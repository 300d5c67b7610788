"""Sphinx extension: the engine, name by name. Its modules are read as text, so pages are made where there is no torch.

``{public} nbutils.training ...`` shows the functions and classes of modules that have a docstring, and no underscore
before their name; of a package those, too, that it brings together. Docstrings are Google's, with code in single
backticks.
"""

import ast
import re
from collections.abc import Container, Iterator
from textwrap import indent
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.docutils import SphinxDirective

from nbutils.versions import SOURCES

Named = ast.FunctionDef | ast.ClassDef


def offered(within: list[ast.stmt], names: Container[str] | None = None) -> Iterator[Named]:
    """Functions and classes with a docstring: the public ones, or those of these names."""
    for node in (node for node in within if isinstance(node, Named) and ast.get_docstring(node)):
        if node.name in names if names is not None else not node.name.startswith("_"):
            yield node


def of_module(module: str) -> Iterator[Named]:
    """What a module offers; of a package what it imports from its modules, too."""
    tree = ast.parse(SOURCES[module])
    if any(name.startswith(f"{module}.") for name in SOURCES):
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module in SOURCES:
                yield from offered(ast.parse(SOURCES[node.module]).body, {alias.name for alias in node.names})
    yield from offered(tree.body)


def described(node: Named, kind: str = "function") -> str:
    """A function in reStructuredText, or a class with its methods. kind: what it is, unless it is a class."""
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        taken, methods = f"({re.sub(r'^(self|cls)(, )?', '', ast.unparse(node.args))}){returns}", ""
        if any(ast.unparse(mark).endswith("property") for mark in node.decorator_list):
            kind, taken = "property", ""
    else:
        fields = [ast.unparse(part).partition(" = ")[0] if isinstance(part.value, ast.Call) else ast.unparse(part)
                  for part in node.body if isinstance(part, ast.AnnAssign)]  # a call says how it is checked
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        kind, taken = "class", f"({', '.join(fields)})"
        if made:
            taken = f"({re.sub(r'^self(, )?', '', ast.unparse(made[0].args))})"
        methods = "".join(described(part, "method") for part in offered(node.body))
    return f".. py:{kind}:: {node.name}{taken}\n\n{indent(converted(ast.get_docstring(node) or '') + methods, '   ')}\n"


def converted(docstring: str) -> str:
    """A docstring in reStructuredText."""
    parts = re.sub(r"(?m)^Attributes \((beside .*)\):$", r"Attributes, \1:\n\nAttributes:", docstring).split("`")
    parts[::2] = [re.sub(r"[\\*_|]", r"\\\g<0>", part) for part in parts[::2]]  # which mean themselves
    settings: Any = Config(napoleon_use_ivar=True)  # it asks for Sphinx's own, and reads these alone
    return f"{GoogleDocstring('``'.join(parts), settings)}\n\n"


class Public(SphinxDirective):
    """``{public}``: what some modules offer. A print goes without, which it would make half as long again."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        if self.env.app.builder.name == "singlehtml":
            return self.parse_text_to_nodes("Left out of the print; the pages on the screen have it.")
        text = ""
        for module in self.arguments[0].split():
            about = converted(ast.get_docstring(ast.parse(SOURCES[module])) or "")
            text += f".. py:currentmodule:: {module}\n\n{about}{''.join(map(described, of_module(module)))}"
        return self.parse_text_to_nodes(f"``````{{eval-rst}}\n{text}``````")


def setup(app: Sphinx) -> None:
    app.add_directive("public", Public)
