"""File names as people type them, compared whatever their Unicode composition.

macOS stores accents decomposed (NFD), most others composed (NFC); file systems keep either form.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate

from vfindex.storage.errors import UsageError

# Ambiguous names shown.
_SHOWN = 3


def composed(text: str) -> str:
    """Return a name with every accent composed with its letter (NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def glob_pattern(glob: str) -> str:
    """Return the regular expression of a glob; to be matched with a composed name.

    `*` matches any characters, also `/`, `?` one, `[ab]` a choice. The literal name is matched as well: square brackets
    are common in names and then match literally.
    """
    glob = composed(glob)
    ways = dict.fromkeys((glob, glob.replace("[", "[[]")))  # translate ends each with \\Z, or \\z
    return f"(?:{'|'.join(translate(way)[:-2] for way in ways)})"


def resolve(
    typed: Sequence[bytes], is_known: Callable[[bytes], bool], known: Callable[[], Iterable[bytes]]
) -> bytes | None:
    """Return the known path, of a file or folder, that `typed` names; None if there is none.

    typed: absolute paths, the likeliest first. Exact bytes come first, then paths with the same composed form. Raises
    UsageError if several known paths match. is_known: whether something is known at or below a path. known: all paths.
    """
    for path in typed:
        if is_known(path):
            return path
    for path in typed:
        found = sorted(_alike(path, known()))
        if len(found) > 1:
            listed = ", ".join(ascii(os.fsdecode(each))[1:-1] for each in found[:_SHOWN])
            raise UsageError(
                f"{os.fsdecode(path)} may be any of {len(found)} paths in this library that look alike and differ in "
                f"how accents are composed ({listed}); name one exactly, as the shell completes it"
            )
        if found:
            return found[0]
    return None


def _alike(path: bytes, known: Iterable[bytes]) -> set[bytes]:
    """Return the known paths, and folders of known paths, with the same composed form as `path`."""
    name, parts = composed(os.fsdecode(path)), path.rstrip(b"/").count(b"/") + 1
    found = set()
    for each in known:
        if not each.isascii():
            place = b"/".join(each.split(b"/")[:parts])
            if place != path and composed(os.fsdecode(place)) == name:
                found.add(place)
    return found
