"""Files that are written whole or not at all, zips, and locks for who may write."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def write(files: Mapping[Path, str]) -> None:
    """Write texts that belong together: none is replaced before all are on the disk.

    Raises:
        OSError: a folder cannot be written.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path].write_text(text, encoding="utf-8")
        for path in files:
            temporary[path].replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # nobody knows the temporary one
    finally:
        for left in temporary.values():
            left.unlink(missing_ok=True)


def show(text: str) -> None:
    """Print, last of all that a command does: where nothing can be written any more, this alone is lost.

    Raises:
        OSError: standard output is full, or nobody reads it any more; it is named.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more at its end
        raise OSError(error.errno, error.strerror, "standard output") from None


def packed(contents: Mapping[str, bytes]) -> bytes:
    """A zip of these files, by their paths in it, that is the same whenever it is made."""
    packet = io.BytesIO()
    with zipfile.ZipFile(packet, "w") as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return packet.getvalue()


@contextmanager
def alone(path: Path, others: str) -> Iterator[None]:
    """Hold the lock at `path`; where somebody else does, wait for their end. others: who that may be, as printed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{others}: waiting for its end", flush=True)
        lock.acquire()
    with lock:
        yield
