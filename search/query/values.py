"""Values as programs give them: numbers, and names of files."""

from __future__ import annotations

import math
import os
import re
from numbers import Real
from typing import TypeGuard

from vfindex.storage.errors import UsageError

_TIME = re.compile(r"(?:(?:(?P<h>\d{1,4}):)?(?P<m>\d{1,6}):)?(?P<s>\d{1,9}(?:\.\d{1,6})?)s?")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number that a float can hold; True and False are none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def seconds_in(text: str) -> float | None:
    """Return the seconds of `12.5`, `1:02` or `1:02:03`, None for other text."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (float(match[name] or 0) for name in ("h", "m", "s"))
    return 3600 * hours + 60 * minutes + seconds


def span_in(text: str) -> tuple[float | None, float | None]:
    """Return [start_s, end_s) of `1:02-1:30`, None for a side that is left out. Raises UsageError."""
    start, dash, end = text.partition("-")
    start_s, end_s = seconds_in(start), seconds_in(end)
    if not dash or (start and start_s is None) or (end and end_s is None) or (start_s is end_s is None):
        raise UsageError(f"a span is two times, as in 12.5-30, 1:02-1:30 or 1:02-, not {text!r}")
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise UsageError(f"the span {text} ends before it begins")
    return start_s, end_s


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
