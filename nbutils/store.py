"""Artifacts that are expensive to make (models, constructed sets, features) are made once and kept.

An artifact's key is a hash of its recipe and of the code that makes it. A finished artifact appears all at once
or not at all, one process at a time makes it, and it is checked whenever it is read.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nbutils.console import warn
from nbutils.machine import build_dir

NO_PART = ("nbutils.lab", "nbutils.store", "nbutils.console", "nbutils.machine")  # code that changes no artifact


@dataclasses.dataclass(frozen=True)
class Artifact:
    """Named tensors on the CPU, with the key, recipe and seconds of the run that made them."""

    key: str
    tensors: dict[str, Tensor]
    recipe: Mapping[str, Any]
    seconds: float


def load_or_build(kind: str, recipe: Mapping[str, Any], build: Callable[[], dict[str, Tensor]]) -> Artifact:
    """The artifact of this recipe: read if it is there and sound, else built and kept.

    Args:
        kind: folder and first part of the key, for example "model".
        recipe: everything that decides the result: plain values and dataclasses of them.
        build: makes the named tensors. The code of its module, and of every `nbutils` module this imports
            (the laboratory and store aside), is part of the key: a changed comment is not a change, a changed line is.

    A damaged artifact is built again, and said so. When the disk is full the result is returned all the same,
    with a warning.

    Raises:
        PermissionError: the store cannot be written (names the folder and NBUTILS_BUILD).
    """
    plain = _plain(recipe)
    text = json.dumps([plain, code_version(build.__module__)], sort_keys=True)
    key = f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder = build_dir() / "store" / kind / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        lock.acquire()
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise PermissionError(f"{folder.parent}: cannot be written ({error.strerror}); expected a folder that can be, "
                              "set NBUTILS_BUILD to one") from error
    except OSError as error:
        warn(f"{key} cannot be stored ({error.strerror}); going on without the store")
        start = time.monotonic()
        return Artifact(key, build(), plain, time.monotonic() - start)
    with lock:
        for leftover in folder.parent.glob(f".{key}.*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        if folder.exists():
            try:
                return _read(folder, key)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                warn(f"{key} is damaged ({error}); building it again")
                shutil.rmtree(folder, ignore_errors=True)
        start = time.monotonic()
        artifact = Artifact(key, build(), plain, time.monotonic() - start)
        try:
            _write(folder, artifact)
        except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own way
            cause = getattr(error, "strerror", None) or error
            warn(f"{key} could not be stored ({cause}); it is lost when this run ends")
        return artifact


def _write(folder: Path, artifact: Artifact) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir()
        data = temporary / "tensors.safetensors"
        save_file(artifact.tensors, data)
        record = {"key": artifact.key, "recipe": artifact.recipe, "seconds": artifact.seconds, "sha256": _sha256(data),
                  "torch": torch.__version__}
        (temporary / "record.json").write_text(json.dumps(record, indent=1))
        for path in (data, temporary / "record.json", temporary):
            _sync(path)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path, key: str) -> Artifact:
    record = json.loads((folder / "record.json").read_text())
    if record["key"] != key:
        raise ValueError(f"its record is of {record['key']}")
    data = folder / "tensors.safetensors"
    if _sha256(data) != record["sha256"]:
        raise ValueError("its checksum differs")
    return Artifact(key, load_file(data), record["recipe"], record["seconds"])


def _sync(path: Path) -> None:
    """Have the disk hold `path` before the rename that publishes it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """A recipe as JSON values; dataclasses carry their class name, so PGD and BIM of equal fields differ."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"recipe holds a {type(value).__name__}: expected plain values or dataclasses of them")


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over structure, code, settings (plain attributes) and weights: a model's name in a recipe.

    A key from the store would not do: a model can be trained on.
    """
    digest = hashlib.sha256(repr(model).encode())
    for part in model.modules():
        code = type(part).__module__
        hooks = (part._forward_pre_hooks, part._forward_hooks)  # their code is not known: such a model is like no other
        settings = {name: _plain(value) for name, value in sorted(vars(part).items()) if _is_plain(value)
                    and not name.startswith("_") and name not in ("training", "key", "name")}  # fmt: skip
        version = "" if code.startswith("torch.") else code_version(code)
        digest.update(repr([version, settings, [list(hook.values()) for hook in hooks]]).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _is_plain(value: Any) -> bool:
    try:
        _plain(value)
    except TypeError:
        return False
    return True


@cache
def code_version(module: str) -> str:
    """Hash of a module and of the `nbutils` modules it imports but NO_PART, without docstrings and comments."""
    digest, seen, queue = hashlib.sha256(), set(), [module]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        tree = ast.parse(_source(name))
        queue += sorted(imports(tree))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(f"{name}\n{ast.unparse(tree)}\n".encode())
    return digest.hexdigest()[:16]


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module) if module != "__main__" else None
    if spec is not None and spec.origin is not None and Path(spec.origin).suffix == ".py":
        return Path(spec.origin).read_text()
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError):  # a cell of a notebook has no file: its recipe alone must tell it apart
        return ""


def imports(tree: ast.AST) -> set[str]:
    """The `nbutils` modules outside the laboratory that a syntax tree imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                found.add(name if _is_module(name) else node.module)
    return {name for name in found if name.startswith("nbutils.") and not name.startswith(NO_PART)}


def _is_module(name: str) -> bool:
    try:
        return name.startswith("nbutils.") and importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a file, so `name` is something inside that file
        return False
