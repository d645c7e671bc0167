"""Clips of the library as queries: find clips that look like this one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.modalities import frame_modality
from vfindex.storage.records import SEARCHABLE, FloatArray

_LIKE = re.compile(r"(?P<video>.+)@(?:(?:(?P<h>\d{1,4}):)?(?P<m>\d{1,6}):)?(?P<s>\d{1,9}(?:\.\d{1,6})?)s?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Like:
    """The clip of an indexed video at a time. video: its path. time_s: presentation time, as in hits."""

    video: Path
    time_s: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the clip of `VIDEO@12.5`, `VIDEO@1:02` or `VIDEO@1:02:03`. Raises UsageError."""
        match = _LIKE.fullmatch(text)
        if match is None:
            raise UsageError(f"a clip is a video and a time, as in beach.mp4@12.5 or beach.mp4@1:02, not {text!r}")
        hours, minutes, seconds = (float(match[name] or 0) for name in ("h", "m", "s"))
        return cls(Path(match["video"]), 3600 * hours + 60 * minutes + seconds)

    def __str__(self) -> str:
        return f"{self.video}@{self.time_s:g}"


def clip_at(snapshot: Snapshot, like: Like) -> StoredClip:
    """Return the clip of a video at a time. Raises QueryError if the library has none there."""
    typed = os.fsencode(like.video)
    path = snapshot.path_of([os.path.realpath(typed), os.path.abspath(typed)])
    video = None if path is None else snapshot.video_at(path)
    if video is None or video.state not in SEARCHABLE:
        raise QueryError(f"{like.video} is not in this library, or not fully indexed; look it up with: vfindex show")
    clips = snapshot.clips_of(video.id)
    covering = [clip for clip in clips if clip.start_s <= like.time_s <= clip.end_s]
    if not covering:
        extent = f"it runs from {clips[0].start_s:g} s to {clips[-1].end_s:g} s" if clips else "it has no clips"
        raise QueryError(f"no clip of {like.video} covers {like.time_s:g} s: {extent}")
    return covering[-1]


def stored_image(snapshot: Snapshot, clip: StoredClip, like: Like) -> FloatArray:
    """Return the vector (dim,) of a clip that images are compared with. Raises QueryError if it has none."""
    vector = snapshot.vectors([clip.id])[clip.id].embeddings.get(frame_modality())
    if vector is None:
        raise QueryError(f"the clip of {like.video} at {like.time_s:g} s has no frames to compare")
    return vector
