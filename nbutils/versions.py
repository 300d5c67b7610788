"""The code of `nbutils`, module by module: what imports what, and a hash that changes where a value could change.

All of it is read as text: nothing is imported, so that pages are made where there is no torch."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

NO_PART = ("nbutils.lab", "nbutils.audit", "nbutils.store", "nbutils.hashing", "nbutils.versions", "nbutils.console",
           "nbutils.machine")  # code that changes no artifact


@functools.cache
def code_version(module: str) -> str:
    """Hash of a module and of the `nbutils` modules it imports but NO_PART, without docstrings and comments."""
    digest, seen, queue = hashlib.sha256(), set(), [module]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        tree = ast.parse(SOURCES[name])
        queue += sorted(imports(tree))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(f"{name}\n{ast.unparse(tree)}\n".encode())
    return digest.hexdigest()[:16]


def _sources() -> dict[str, str]:
    """Name of each module of `nbutils` -> its text."""
    root = Path(__file__).parent
    paths = {path.relative_to(root.parent).with_suffix("").parts: path for path in root.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path.read_text(encoding="utf-8")
            for parts, path in paths.items()}


# Read when the engine is imported: an edit in the middle of a run must not lend its key to the code that runs.
SOURCES = _sources()


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def imports(tree: ast.AST) -> set[str]:
    """The `nbutils` modules outside the laboratory that a syntax tree imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                found.add(name if name in SOURCES else node.module)
    return {name for name in found if name.startswith("nbutils.") and not name.startswith(NO_PART)}
