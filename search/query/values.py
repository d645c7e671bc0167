"""Values as programs give them: numbers, and names of files."""

from __future__ import annotations

import math
import os
from numbers import Real
from typing import TypeGuard

from vfindex.storage.errors import UsageError


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number that a float can hold; True and False are none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def path_text(path: object, what: str) -> str:
    """Return a path as text. Raises UsageError for what no file can have as its name. what: how the error begins."""
    if not isinstance(path, str | bytes | os.PathLike):
        raise UsageError(f"{what} must be a path, not {path!r}")
    try:
        text = os.fsdecode(path)
        os.fsencode(text)
    except UnicodeError as exc:
        raise UsageError(f"{what} {os.fspath(path)!r} is not valid text") from exc
    if "\0" in text:
        raise UsageError(f"{what} {text!r} has a NUL character")
    return text
