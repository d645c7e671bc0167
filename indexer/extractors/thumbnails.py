"""Thumbnails: one frame per clip, chosen by contrast, stored as WebP."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, WebPImagePlugin  # noqa: F401  loaded now: Pillow would pass over a plugin that cannot be

LONG_SIDE_PX = 320
WEBP_QUALITY = 70
# One candidate is kept per interval of this length: clips are rarely shorter, and a unit of 10 minutes keeps 300
# candidates of at most 307 kB.
STRETCH_S = 2.0
# Standard deviation of the luma below which a frame is black, white or a fade.
MIN_CONTRAST = 12.0


class ThumbnailPicker:
    """Keeps the frame with most contrast of every STRETCH_S of a unit."""

    def __init__(self) -> None:
        # stretch -> contrast, time_s, pixels or WebP
        self._kept: dict[int, tuple[float, float, NDArray[np.uint8] | bytes]] = {}

    def offer(self, time_s: float, pixels: NDArray[np.uint8]) -> None:
        """Consider a frame, (height, width, 3) uint8 RGB."""
        contrast = float(pixels[::8, ::8].mean(axis=2).std())
        stretch = int(time_s // STRETCH_S)
        if stretch not in self._kept or contrast > self._kept[stretch][0]:
            step = -(-max(pixels.shape[:2]) // (2 * LONG_SIDE_PX))
            self._kept[stretch] = (contrast, time_s, np.ascontiguousarray(pixels[::step, ::step]))

    def compress(self) -> None:
        """Compress the candidates before sending them; costs three times the compression in `pick`."""
        for stretch, (contrast, time_s, picture) in self._kept.items():
            self._kept[stretch] = (contrast, time_s, _webp(picture))

    def pick(self, start_s: float, end_s: float, middle_s: float) -> bytes | None:
        """Return the WebP of the frame in [start_s, end_s) with enough contrast that is nearest to `middle_s`.

        None if all candidates of that interval belong to its neighbour.
        """
        inside = [kept for kept in self._kept.values() if start_s <= kept[1] < end_s]
        if not inside:
            return None
        telling = [kept for kept in inside if kept[0] >= MIN_CONTRAST]
        if telling:
            best = min(telling, key=lambda kept: (abs(kept[1] - middle_s), kept[1]))
        else:
            best = max(inside, key=lambda kept: (kept[0], -kept[1]))
        return _webp(best[2])


def _webp(picture: NDArray[np.uint8] | bytes) -> bytes:
    return picture if isinstance(picture, bytes) else to_webp(picture)


def to_webp(pixels: NDArray[np.uint8], long_side_px: int = LONG_SIDE_PX) -> bytes:
    """Return an image, (height, width, 3) uint8 RGB, as WebP of at most `long_side_px`."""
    image = Image.fromarray(pixels)
    image.thumbnail((long_side_px, long_side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=2)
    return buffer.getvalue()
