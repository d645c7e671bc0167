"""Frames of a video's file as images. What decodes them is not part of a search: it comes in through `FrameReader`."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vfindex.search.query.values import is_number
from vfindex.search.results import Still
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import FileMissing, NoDecoder, QueryError
from vfindex.storage.records import EncodedFrame, FileFacts

# Longest side of the images where none is given: legible on a page, and some 30 kB each.
SIZE_PX = 640
MIN_SIZE_PX, MAX_SIZE_PX = 16, 1280
# Frames of one call: a strip of a page, decoded within seconds.
MAX_FRAMES = 100


class FrameReader(Protocol):
    """Reads frames and times of a file; `indexer.stills.FrameDecoder` does, in a confined child process."""

    def read_frames(self, path: bytes, times_s: Sequence[float], size_px: int) -> Sequence[EncodedFrame]:
        """Return for each time the frame that is shown then, upright, its longest side at most `size_px`.

        Raises VideoError, also for a time before the first frame.
        """

    def read_facts(self, path: bytes) -> FileFacts:
        """Return what a file says of its times. Decodes its first frame alone. Raises VideoError."""


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A file of a video, which has the size that it had when it was indexed. container: as FFmpeg names it."""

    path: bytes
    fingerprint: str
    container: str


def stills_of(reader: FrameReader | None, video: StoredVideo, times_s: Sequence[float], size_px: int) -> list[Still]:
    """Return the frames of a video at some times. Raises NoDecoder, QueryError, LibraryError, VideoError."""
    if reader is None:
        raise NoDecoder("this service decodes no frames; open it with SearchService(folder, frames=FrameDecoder())")
    _check(times_s, size_px)
    path = file_of(video)
    times = [min(max(float(time_s), video.start_s), video.last_s) for time_s in times_s]
    return [
        Still(path, video.id, video.fingerprint, each.time_s, each.width_px, each.height_px, each.image)
        for each in reader.read_frames(path, times, size_px)
    ]


def file_of(video: StoredVideo) -> bytes:
    """Return the path of a copy that is there and has the size of the video. Raises FileMissing."""
    changed: bytes | None = None
    for place in video.locations:
        try:
            found = os.stat(place.path)
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode) or found.st_size == place.size_bytes:
            return place.path
        changed = place.path
    if changed is not None:
        raise FileMissing(
            f"{os.fsdecode(changed)} has changed since it was indexed, so it may be another video; "
            "index it again with: vfindex reindex"
        )
    named = os.fsdecode(video.locations[0].path) if video.locations else video.fingerprint
    raise FileMissing(f"the file of {named} is not there, so it cannot be shown")


def _check(times_s: object, size_px: object) -> None:
    if isinstance(times_s, str | bytes) or not isinstance(times_s, Sequence):
        raise QueryError(f"times_s must be a list of at most {MAX_FRAMES} times, not {times_s!r}")
    if len(times_s) > MAX_FRAMES:
        raise QueryError(f"times_s has {len(times_s):,} times; {MAX_FRAMES} are the most of one call")
    for time_s in times_s:
        if not is_number(time_s):
            raise QueryError(f"a time must be a number of seconds, not {time_s!r}")
    if not isinstance(size_px, int) or isinstance(size_px, bool) or not MIN_SIZE_PX <= size_px <= MAX_SIZE_PX:
        raise QueryError(f"size_px must be a whole number of {MIN_SIZE_PX} to {MAX_SIZE_PX}, not {size_px!r}")
