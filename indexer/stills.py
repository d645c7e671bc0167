"""Single frames of files as images, for a search service that shows them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Lock
from types import TracebackType
from typing import Self

from vfindex.indexer.extractors.thumbnails import to_webp
from vfindex.indexer.media.decoder import Decoder, Frame, FrameTap, Limits
from vfindex.indexer.options import MAX_FPS, Sampling
from vfindex.storage.encoders.pixels import Pixels
from vfindex.storage.errors import Problem, UsageError, VideoError
from vfindex.storage.records import EncodedFrame, FileFacts

# How long a frame may be shown: most last a fraction of a second, slides stay. The longest is tried last.
_SHOWN_S = (0.5, 12.0, 600.0)
# A clip as a question: an indexed clip has at most 12 s, and ten frames or so.
MAX_CLIP_S, CLIP_FRAMES = 60.0, 16
# Times of hits have been through JSON, rounded to milliseconds.
_TOUCH_S = 1e-3


class FrameDecoder:
    """Reads frames of files in a child process under limits, one file at a time. Safe for threads.

    `close`, or leaving the `with` block, ends the child.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._decoder, self._lock = Decoder(limits), Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._decoder.close()

    def read_frames(self, path: bytes, times_s: Sequence[float], size_px: int) -> list[EncodedFrame]:
        """Return for each time the frame that is shown then, upright, its longest side at most `size_px`.

        Raises VideoError, also for a time before the first frame.
        """
        tap = FrameTap(size_px, longest=True)
        with self._lock:
            return [_encoded(self._frame_at(path, time_s, tap)) for time_s in times_s]

    def clip_frames(self, path: bytes, start_s: float | None, end_s: float | None, size_px: int) -> list[Pixels]:
        """Return at most CLIP_FRAMES frames of [start_s, end_s), evenly spread, upright, the short side `size_px`.

        None: from the beginning, to the end. Raises VideoError, and UsageError for more than MAX_CLIP_S.
        """
        with self._lock:
            probe = self._decoder.probe(path)
            start_s = probe.start_s if start_s is None else max(start_s, probe.start_s)
            end_s = probe.end_s if end_s is None else min(end_s, probe.end_s)
            if end_s <= start_s:
                extent = f"it runs from {probe.start_s:g} s to {probe.end_s:g} s"
                raise UsageError(f"there is nothing of {os.fsdecode(path)} at these times: {extent}")
            if end_s - start_s > MAX_CLIP_S:
                part = f"{os.fsdecode(os.path.basename(path))}@{start_s:g}-{start_s + 10:g}"
                raise UsageError(
                    f"a clip has at most {MAX_CLIP_S:g} s, this one {end_s - start_s:.0f}; name a part, as in {part}"
                )
            sampling = Sampling("fps", min(MAX_FPS, CLIP_FRAMES / (end_s - start_s)))
            tap = FrameTap(size_px)
            read = self._decoder.read(path, taps=[tap], sampling=sampling, start_s=start_s, end_s=end_s)
            frames = [item.pixels for item in read if isinstance(item, Frame)]
            return frames[:CLIP_FRAMES] or [self._frame_at(path, start_s, tap).pixels]

    def read_facts(self, path: bytes) -> FileFacts:
        """Return what a file says of its times. Raises VideoError."""
        with self._lock:
            probe = self._decoder.probe(path)
        return FileFacts(probe.clock_s, probe.fps, probe.start_timecode)

    def _frame_at(self, path: bytes, time_s: float, tap: FrameTap) -> Frame:
        sampling, end_s = Sampling("fps", MAX_FPS), time_s + _TOUCH_S
        for shown_s in _SHOWN_S:
            last: Frame | None = None
            for item in self._decoder.read(path, taps=[tap], sampling=sampling, start_s=time_s - shown_s, end_s=end_s):
                last = item if isinstance(item, Frame) else last
            if last is not None:
                return last
        raise VideoError(
            Problem(path, "decode", "no_frame", f"no frame is shown at {time_s:g} s", "check that it plays")
        )


def _encoded(frame: Frame) -> EncodedFrame:
    height_px, width_px, _ = frame.pixels.shape
    return EncodedFrame(frame.time_s, width_px, height_px, to_webp(frame.pixels, max(width_px, height_px)))
