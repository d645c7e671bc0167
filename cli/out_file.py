"""Files that a command writes on request: never over a file of another kind, never inside a library."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from mimetypes import MimeTypes
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from vfindex.storage.errors import UsageError
from vfindex.storage.files.regular import regular

PNG, HTML, XML = b"\x89PNG\r\n\x1a\n", b"<!doctype html>", b"<?xml "
# First bytes -> the type and suffix of a file; others have no check of the name.
_TYPES = {PNG: ("image/png", ".png"), HTML: ("text/html", ".html")}
# What a library's folder contains; after an upgrade its own library.db may be gone.
_OF_A_LIBRARY = ("library.db", "current", "editions")
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file of another kind.")]


def check_out_file(path: Path, option: str, begins: bytes, *, force: bool) -> None:
    """Raise UsageError if `path` is inside a library, is a link, or is of another kind by its content or suffix.

    begins: the first bytes of the kind that is written; files of other kinds are written only with `force`.
    """
    _check_place(path, option)
    first = _first_bytes(path, option, len(begins)) if path.exists() else b""
    if first and first != begins and not force:
        raise UsageError(f"{path} exists and is of another kind; name another file for {option}, or add --force")
    kind, suffix = _TYPES.get(begins, (None, ""))
    named = MimeTypes().guess_type(path.name, strict=False)[0]  # without the system's tables
    if kind and named not in (None, kind) and not force:
        raise UsageError(f"{option} writes {kind}, not {named}; name a file that ends in {suffix}, or add --force")


def check_new_file(path: Path, option: str, *, force: bool) -> None:
    """Raise UsageError if `path` is inside a library, is a link or no file, or is there and not `force`."""
    _check_place(path, option)
    if path.exists() and (_first_bytes(path, option, 1) and not force):
        raise UsageError(f"{path} exists; name another file for {option}, or add --force")


def _check_place(path: Path, option: str) -> None:
    folder = Path(os.path.realpath(path.parent))
    for place in (folder, *folder.parents):
        if (place / _OF_A_LIBRARY[0]).exists() or all((place / name).exists() for name in _OF_A_LIBRARY[1:]):
            raise UsageError(f"{path} is inside the library {place}; name a file elsewhere for {option}")
    if path.is_symlink():
        raise UsageError(f"{path} is a symbolic link; name the file itself for {option}")


def _first_bytes(path: Path, option: str, count: int) -> bytes:
    try:
        with open(path, "rb", opener=regular) as file:
            return file.read(count)
    except OSError as exc:
        raise UsageError(f"{path} cannot be replaced ({exc.strerror}); name another file for {option}") from exc


def write_out_file(path: Path, option: str, data: bytes) -> None:
    """Write a file atomically. Raises UsageError if it cannot be written."""
    with out_file(path, option) as file:
        file.write(data)


@contextmanager
def out_file(path: Path, option: str) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` at the end, unless the block raises. Raises UsageError."""
    try:
        handle, part = tempfile.mkstemp(prefix=f".{path.name[:32]}.", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                yield file
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(part, 0o666 & ~mask)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as exc:
        raise UsageError(f"{path} cannot be written ({exc.strerror}); name another file for {option}") from exc
