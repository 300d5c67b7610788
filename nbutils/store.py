"""Artifacts that are expensive to make (models, constructed sets, features) are made once and kept.

An artifact's key is a hash of its recipe, of the code in it and of the code that makes it. A finished artifact appears
all at once or not at all, one process at a time makes it, and it is checked whenever it is read. What other runs have
made, the networks of a release for example, is a second store, see `nbutils.machine.stores`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nbutils.console import warn
from nbutils.hashing import code_hash, content_hash
from nbutils.machine import stores
from nbutils.messages import short_repr
from nbutils.versions import sha256

given: dict[str, None] = {}
"""Keys of what this process has been given, in the order of use."""


@dataclasses.dataclass(frozen=True)
class Artifact:
    """Named tensors on the CPU, with the key, recipe and seconds of the run that made them."""

    key: str
    tensors: dict[str, Tensor]
    recipe: Mapping[str, Any]
    seconds: float


def load_or_build(kind: str, recipe: Mapping[str, Any], build: Callable[..., dict[str, Tensor]],
                  resumable: bool = False) -> Artifact:
    """The artifact of this recipe: read if it is there and sound, else built and kept.

    Args:
        kind: folder and first part of the key, for example "model".
        recipe: everything that decides the result: plain values, functions, and dataclasses of them.
        build: makes the named tensors. Its code is part of the key, and so is that of everything in the recipe, see
            `nbutils.hashing`: a changed comment is not a change, a changed line is.
        resumable: build is given the path of a file, in which it may `keep` how far it got and find that again when it
            was stopped; the file is gone once the artifact is there.

    A damaged artifact is not used, which is said, and built again. When the disk is full the result is returned all the
    same, with a warning.

    Raises:
        PermissionError: the artifact is not there and the store cannot be written (names the folder and NBUTILS_BUILD).
        ValueError: NBUTILS_WEIGHTS names no store; build makes something else than named tensors.
        TypeError: a recipe of other values, or code that uses what cannot be read.
    """
    if not re.fullmatch(r"[\w-]+", kind):
        raise ValueError(f"kind = {kind!r}: expected a word, such as 'model', which names a folder of the store")
    plain = json.loads(json.dumps(recipe, default=_plain))
    key = f"{kind}-{content_hash([dict(sorted(recipe.items())), code_hash(build)])}"
    folder = stores()[0] / kind / key
    given[key] = None
    unfinished = folder.with_suffix(".unfinished")

    def made() -> Artifact:
        start = time.monotonic()
        tensors = _as_read(build(unfinished) if resumable else build(), key)
        return Artifact(key, tensors, plain, time.monotonic() - start)

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder.with_suffix(".lock")).acquire()
    except OSError as error:
        if kept := _kept(kind, key):  # somebody else's store: what is there can be read, for it appeared all at once
            return kept
        if isinstance(error, (PermissionError, FileExistsError, NotADirectoryError)):
            raise PermissionError(f"{folder.parent}: cannot be written ({error.strerror}); expected a folder that can "
                                  "be, set NBUTILS_BUILD to one") from error
        warn(f"{key} cannot be stored ({error.strerror}); going on without the store")
        return made()
    with held:
        for leftover in folder.parent.glob(f".{key}.*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        if kept := _kept(kind, key):
            return kept
        with suppress(OSError):  # also where a file or a link took its place
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        artifact = made()
        try:
            _write(folder, artifact)
        except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own way
            cause = getattr(error, "strerror", None) or error
            warn(f"{key} could not be stored ({cause}); it is lost when this run ends")
        unfinished.unlink(missing_ok=True)
        return _kept(kind, key) or artifact  # mapped from the file, it takes no memory of its own


def _as_read(built: Any, key: str) -> dict[str, Tensor]:
    """The tensors that were built, each in one piece and with memory of its own, as they will be read from a file."""
    if not isinstance(built, Mapping) or not all(isinstance(tensor, Tensor) for tensor in built.values()):
        raise ValueError(f"{key}: build returned {short_repr(built)}; expected name -> tensor")
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in built.values())
    return {name: (tensor.clone() if owners[tensor.untyped_storage().data_ptr()] > 1 else tensor).contiguous()
            for name, tensor in built.items()}


def keep(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file, all at once or not at all; a disk that is full leaves what was there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        _sync(temporary)
        temporary.replace(path)
    except (OSError, SafetensorError):
        temporary.unlink(missing_ok=True)


def kept(path: Path) -> dict[str, Tensor]:
    """The tensors that `keep` wrote; none where there is no sound file."""
    try:
        return {} if _odd(path) else load_file(path)
    except (OSError, SafetensorError):
        return {}


def _odd(path: Path) -> bool:
    """Whether something is there that is no regular file: reading a pipe would wait for ever."""
    return path.exists() and not path.is_file()


def _write(folder: Path, artifact: Artifact) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir()
        data = temporary / "tensors.safetensors"
        save_file(artifact.tensors, data)
        record = {"key": artifact.key, "recipe": artifact.recipe, "seconds": artifact.seconds, "sha256": sha256(data),
                  "torch": torch.__version__}
        (temporary / "record.json").write_text(json.dumps(record, indent=1))
        for path in (data, temporary / "record.json", temporary):
            _sync(path)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _kept(kind: str, key: str) -> Artifact | None:
    """The artifact of this key, if one is there and sound; it is said where it is damaged."""
    for folder in (store / kind / key for store in stores()):
        try:
            if folder.exists():
                return _read(folder, key)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            warn(f"{key} is damaged ({error}); not used")
    return None


def _read(folder: Path, key: str) -> Artifact:
    about, data = folder / "record.json", folder / "tensors.safetensors"
    for path in filter(_odd, (about, data)):
        raise ValueError(f"{path.name} is no regular file")
    record = json.loads(about.read_text())
    if record["key"] != key:
        raise ValueError(f"its record is of {record['key']}")
    if sha256(data) != record["sha256"]:
        raise ValueError("its checksum differs")
    return Artifact(key, load_file(data), record["recipe"], record["seconds"])


def _sync(path: Path) -> None:
    """Have the disk hold `path` before the rename that publishes it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    """What of a recipe is no plain value, for who reads its JSON; dataclasses carry their class name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **fields}
    if callable(value):
        return {"function": getattr(value, "__qualname__", type(value).__qualname__)}
    raise TypeError(f"recipe holds a {type(value).__name__}: expected plain values, functions or dataclasses of them")


def fingerprint(model: nn.Module) -> str:
    """Hash of structure, code, settings, hooks and weights: a model's name in a recipe.

    A key from the store would not do: a model can be trained on.

    Raises:
        TypeError: an attribute that cannot be read, see `hashing`.
    """
    return content_hash(model)
