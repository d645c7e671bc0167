"""Thumbnails: one frame per clip, chosen by contrast, stored as WebP."""

from __future__ import annotations

import io
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, WebPImagePlugin  # noqa: F401  loaded now: Pillow would pass over a plugin that cannot be

LONG_SIDE_PX = 320
WEBP_QUALITY = 70
# One candidate is kept per interval of this length: clips are rarely shorter, and a unit of 10 minutes keeps 300
# candidates of at most 307 kB.
STRETCH_S = 2.0
# Last frames that wait uncompressed, 10 MB of them: compressing one takes 2 ms, and few are ever shown.
RAW_LAST = 32
# Standard deviation of the luma below which a frame is black, white or a fade.
MIN_CONTRAST = 12.0


@dataclass(frozen=True, slots=True)
class _Candidate:
    contrast: float
    time_s: float
    picture: NDArray[np.uint8] | bytes

    def compressed(self) -> _Candidate:
        return replace(self, picture=_webp(self.picture))


class ThumbnailPicker:
    """Keeps the frame with most contrast of every STRETCH_S of a unit, and the last one, as WebP but for RAW_LAST.

    A clip of which all frames lie in one stretch has the last of it, where the other belongs to the clip before.
    """

    def __init__(self) -> None:
        # By the number of their stretch.
        self._best: dict[int, _Candidate] = {}
        self._last: dict[int, _Candidate] = {}
        self._raw: deque[int] = deque()  # stretches whose last frame is not compressed
        self._stretch = -1

    def offer(self, time_s: float, pixels: NDArray[np.uint8]) -> None:
        """Consider a frame, (height, width, 3) uint8 RGB."""
        contrast = float(pixels[::8, ::8].mean(axis=2).std())
        step = -(-max(pixels.shape[:2]) // (2 * LONG_SIDE_PX))
        stretch = int(time_s // STRETCH_S)
        if stretch != self._stretch and self._stretch in self._last:
            self._compress_after(self._stretch)
        self._stretch = stretch
        candidate = _Candidate(contrast, time_s, np.ascontiguousarray(pixels[::step, ::step]))
        self._last[stretch] = candidate
        if stretch not in self._best or contrast > self._best[stretch].contrast:
            self._best[stretch] = candidate
            del self._last[stretch]

    def _compress_after(self, stretch: int) -> None:
        """Let the last frame of a stretch wait, and compress the one that has waited longest if there are too many."""
        self._raw.append(stretch)
        if len(self._raw) > RAW_LAST:
            oldest = self._raw.popleft()
            self._last[oldest] = self._last[oldest].compressed()

    def pick(self, start_s: float, end_s: float, middle_s: float) -> bytes | None:
        """Return the WebP of the frame in [start_s, end_s) with enough contrast that is nearest to `middle_s`.

        None if no frame was offered between.
        """
        inside = [each for each in self._best.values() if start_s <= each.time_s < end_s]
        inside = inside or [each for each in self._last.values() if start_s <= each.time_s < end_s]
        if not inside:
            return None
        telling = [each for each in inside if each.contrast >= MIN_CONTRAST]
        if telling:
            best = min(telling, key=lambda each: (abs(each.time_s - middle_s), each.time_s))
        else:
            best = max(inside, key=lambda each: (each.contrast, -each.time_s))
        return _webp(best.picture)


def _webp(picture: NDArray[np.uint8] | bytes) -> bytes:
    return picture if isinstance(picture, bytes) else to_webp(picture)


def to_webp(pixels: NDArray[np.uint8], long_side_px: int = LONG_SIDE_PX) -> bytes:
    """Return an image, (height, width, 3) uint8 RGB, as WebP of at most `long_side_px`."""
    image = Image.fromarray(pixels)
    image.thumbnail((long_side_px, long_side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=2)
    return buffer.getvalue()
