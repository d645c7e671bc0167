"""Sidecars: the subtitle and description files that belong to a video, and a signature of their state."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

TEXT_SUFFIXES = (b".srt", b".vtt", b".ass", b".ssa")  # in order of preference: plainer formats first
# Unsupported subtitles: images (.sub with .idx, .sup), lyrics, and formats that hardly any tool writes today.
UNREAD_SUFFIXES = tuple(
    b"." + suffix for suffix in b"sub idx sup smi sami ttml dfxp sbv lrc stl scc mcc usf mpl mks".split()
)
INFO_SUFFIX = b".info.json"
SIDECAR_SUFFIXES = (*TEXT_SUFFIXES, *UNREAD_SUFFIXES, INFO_SUFFIX)
SUBTITLE_FOLDERS = frozenset({"subs", "sub", "subtitles", "subtitle"})  # in any case
_CHARS = 16  # of a hash: enough to distinguish two states of one folder


def name_key(name: bytes) -> str:
    """Return a file name in Unicode's composed form: disks and archives store "é" as one character or as two."""
    return unicodedata.normalize("NFC", os.fsdecode(name))


def _caseless(name: str) -> str:
    """Return a name case-folded without changing its length, for disks and tools that ignore case."""
    return "".join(lower if len(lower := char.lower()) == 1 else char for char in name)


def sidecar_suffix(name: bytes) -> bytes:
    """Return the suffix of a sidecar in lower case, b"" for any other file."""
    lower = name.lower()
    if not lower.endswith(SIDECAR_SUFFIXES):
        return b""
    return next(suffix for suffix in SIDECAR_SUFFIXES if lower.endswith(suffix))


def mark_text(video: bytes, sidecar: bytes) -> str | None:
    """Return the part between a video's name and a sidecar's suffix: for `talk.mp4`, "" in `talk.srt`,
    ".en" in `talk.en.srt`, `TALK.en.srt` and `talk.mp4.en.srt`. None if the sidecar is not named like the video, as in
    `Subs/`.
    """
    base = os.path.basename(sidecar)
    text = name_key(base[: len(base) - len(sidecar_suffix(base))])
    for own in (name_key(video), name_key(os.path.splitext(video)[0])):
        if _caseless(text[: len(own)]) == _caseless(own) and not text[len(own) : len(own) + 1].isalnum():
            return text[len(own) :]
    return None


class FolderSidecars:
    """The sidecars of one folder, by video.

    A sidecar belongs to the video whose name, with or without extension, its own name begins with; the longest such
    name wins, and what follows must not begin with a letter or digit. Case matters only if the names of two videos
    differ in nothing else. Files in a subtitle folder (`Subs/`) belong to the video whose name they or their own folder
    have, or to the only video there is.
    """

    def __init__(self, videos: Iterable[bytes], sidecars: Iterable[bytes]) -> None:
        """videos: base names. sidecars: base names, or paths in a subtitle folder, relative to the folder."""
        self._by_name: dict[str, list[bytes]] = {}
        ordered = sorted(sidecars)
        if not ordered:
            return  # most folders: nothing to compute
        own = list(videos)
        stems = {name_key(os.path.splitext(video)[0]) for video in own}
        spellings: dict[str, set[str]] = {}
        for name in stems.union(map(name_key, own)):
            spellings.setdefault(_caseless(name), set()).add(name)
        for sidecar in ordered:
            folder, base = os.path.split(sidecar)
            text = name_key(base[: len(base) - len(sidecar_suffix(base))])
            found = _spelled(text, _longest(_caseless(text), spellings), spellings)
            if not found and folder:
                inner = name_key(os.path.basename(folder))
                found = _spelled(inner, _caseless(inner), spellings) or (stems if len(stems) == 1 else set())
            for name in found:
                self._by_name.setdefault(name, []).append(sidecar)

    def of(self, video: bytes) -> tuple[bytes, ...]:
        """Return the sidecars of a video, sorted by bytes."""
        if not self._by_name:
            return ()
        keys = dict.fromkeys((name_key(os.path.splitext(video)[0]), name_key(video)))
        return tuple(sorted(found for key in keys for found in self._by_name.get(key, ())))


def _spelled(text: str, name: str | None, spellings: Mapping[str, set[str]]) -> set[str]:
    """Return the name whose spelling the text begins with, else all names that differ from it in case only."""
    found = spellings.get(name, set()) if name is not None else set()
    return {spelling for spelling in found if text.startswith(spelling)} or found


def _longest(text: str, names: Container[str]) -> str | None:
    """Return the longest of `names` that equals the text or its beginning up to a separator."""
    if text in names:
        return text
    for end in range(len(text) - 1, 0, -1):
        if not text[end].isalnum() and text[:end] in names:
            return text[:end]
    return None


def subtitle_folder_files(folder: bytes, names: Iterable[bytes]) -> list[bytes]:
    """Return the sidecars in the subtitle folders of a folder and one level below, as relative paths.

    names: the folders in it. Links are not followed; a folder that cannot be listed has none.
    """
    found: list[bytes] = []
    pending = [name for name in names if os.fsdecode(name).lower() in SUBTITLE_FOLDERS]
    while pending:
        inner = pending.pop()
        try:
            with os.scandir(os.path.join(folder, inner)) as entries:
                for entry in entries:
                    path = os.path.join(inner, entry.name)
                    if entry.is_file(follow_symlinks=False) and sidecar_suffix(entry.name) not in (b"", INFO_SUFFIX):
                        found.append(path)
                    elif b"/" not in inner and entry.is_dir(follow_symlinks=False):
                        pending.append(path)
        except OSError:
            continue  # the walk enters this folder too and reports it
    return found


def list_sidecars(folder: bytes, is_video: Callable[[bytes], bool], *videos: bytes) -> FolderSidecars:
    """Return the sidecars of a folder's videos. videos: base names that count as videos whatever their extension.

    Raises OSError where the folder cannot be listed.
    """
    files: list[bytes] = []
    folders: list[bytes] = []
    with os.scandir(folder or b".") as entries:
        for entry in entries:
            (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
    sidecars = [name for name in files if sidecar_suffix(name)]
    return FolderSidecars({*videos, *filter(is_video, files)}, [*sidecars, *subtitle_folder_files(folder, folders)])


def signature(path: bytes, candidates: Sequence[bytes]) -> str:
    """Return a string that changes with the sidecars of the video at `path`; "" if there are none.

    candidates: paths relative to its folder, in order. The video's stem is ignored, so the signature stays the same
    when video and sidecars are renamed together.
    """
    if not candidates:
        return ""
    folder, name = os.path.split(path)
    stem = name_key(os.path.splitext(name)[0])
    rows = []
    for candidate in candidates:
        try:
            found = os.lstat(os.path.join(folder, candidate))
        except OSError:
            continue  # deleted since the folder was listed
        inner, base = os.path.split(candidate)
        text = name_key(base)
        mark = os.fsencode(text[len(stem) :] if _caseless(text).startswith(_caseless(stem)) else text)
        rows.append(b"%s/%d/%d" % (inner.split(b"/")[0] + mark, found.st_size, found.st_mtime_ns))
    return hashlib.sha256(b"\0".join(rows)).hexdigest()[:_CHARS] if rows else ""
