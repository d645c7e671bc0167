"""Pictures with text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIZE = (640, 360)
Picture = NDArray[np.uint8]


def font(size_px: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font of this machine, else Pillow's own."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size_px)
    except OSError:
        return ImageFont.load_default(size_px)


def picture(
    *lines: tuple[str, int, int], size: tuple[int, int] = SIZE, size_px: float = 32, ground: int = 20
) -> Picture:
    """Return a picture, (height, width, 3), with lines of text at (x, y)."""
    image = Image.new("RGB", size, (ground, ground, ground + 20))
    for text, x, y in lines:
        ImageDraw.Draw(image).text((x, y), text, fill=(240, 240, 240), font=font(size_px))
    return np.array(image)
