"""Output for people and programs: text that is safe on a terminal, JSON, times."""

from __future__ import annotations

import io
import json
import os
import sys
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from vfindex.cli.suggested import completed

if TYPE_CHECKING:
    from vfindex.storage.records import Hint

# Characters that reorder text or are invisible, so that a name can pretend to be another (Unicode TR 36, 2.4).
# The joiners U+200C and U+200D stay: Persian, Hindi and emoji need them.
_JOINERS = frozenset("\u200c\u200d")
_HIDDEN = frozenset("\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff")


class _Descriptor(io.FileIO):
    """A file descriptor of the process that leads nowhere once the reader of its pipe has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def outliving_reader(stream: TextIO) -> TextIO:
    """Return a standard stream that drops what its reader no longer reads, as in `vfindex list | head -1`.

    So a command ends as it would have ended, however much of its output is read.
    """
    if type(stream) is not io.TextIOWrapper:  # a stream of another program that calls `main`
        return stream
    descriptor = _Descriptor(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        descriptor if stream.write_through else io.BufferedWriter(descriptor),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def plain(text: str) -> str:
    """Return text that is safe on a terminal: control characters, bidirectional ones and stray bytes become escapes.

    File names, titles and transcripts pass through it before they are printed, as plain text without markup.
    """
    return "".join(c if (c.isprintable() and c not in _HIDDEN) or c in _JOINERS else _escape(c) for c in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8, as os.fsdecode carries it
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(char) == "Zs":
        return " "
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def path_text(path: bytes | None) -> str | None:
    """Return a path for JSON: bytes that are not UTF-8 as lone surrogates, which os.fsencode turns back."""
    return None if path is None else os.fsdecode(path)


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document in ASCII, which is safe on any terminal."""
    print(json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False))


def show(line: str) -> None:
    """Print a line for people on standard output, as `say` does on standard error."""
    print(plain(completed(line, sys.argv[1:])))


def say(line: str) -> None:
    """Print a line for people on standard error. A command that it suggests gets the library that the user named."""
    print(plain(completed(line, sys.argv[1:])), file=sys.stderr, flush=True)


def say_hints(hints: Iterable[Hint]) -> None:
    """Print each hint as a line on standard error."""
    for hint in hints:
        say(f"hint: {hint.text}")


def shortened(text: str, chars: int) -> str:
    """Return text of at most `chars` characters, ending in an ellipsis if it is cut."""
    return text if len(text) <= chars else text[: chars - 1] + "\N{HORIZONTAL ELLIPSIS}"


def clock(time_s: float, *, tenths: bool = False) -> str:
    """Return seconds as m:ss or h:mm:ss, optionally with tenths."""
    total = max(0.0, round(time_s, 1) if tenths else float(round(time_s)))
    minutes, seconds = divmod(total, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{seconds:04.1f}" if tenths else f"{int(seconds):02d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"
