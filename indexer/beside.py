"""The files that lie beside a video and tell of it, subtitles and descriptions: whether they have changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

SIDECAR_EXTENSIONS = (b".srt", b".vtt", b".ass", b".ssa", b".info.json")
_CHARS = 16  # of a hash: enough to tell two states of one folder apart


def signature(path: bytes, candidates: Sequence[bytes]) -> str:
    """Return a text that changes when a file beside the video at `path` comes, goes or changes; "" without any.

    candidates: names in its folder that begin with its stem and a dot, in order. The stem itself does not count, so
    that a video renamed together with them is as it was.
    """
    folder, name = os.path.split(path)
    stem = len(os.path.splitext(name)[0])
    rows = []
    for candidate in candidates:
        try:
            found = os.lstat(os.path.join(folder, candidate))
        except OSError:
            continue  # gone since the folder was listed
        rows.append(b"%s/%d/%d" % (candidate[stem:], found.st_size, found.st_mtime_ns))
    return hashlib.sha256(b"\0".join(rows)).hexdigest()[:_CHARS] if rows else ""
