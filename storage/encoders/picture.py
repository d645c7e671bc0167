"""Picture files to pixels: formats, limits, orientation and transparency, as for queries."""

from __future__ import annotations

import struct
import warnings
import zlib
from typing import IO, TYPE_CHECKING

import numpy as np

from vfindex.storage.encoders.pixels import Pixels, frame_shape
from vfindex.storage.errors import QueryError

if TYPE_CHECKING:
    from PIL import Image

# Formats that Pillow decodes itself. For PostScript it would call Ghostscript; its rare formats are hardly tested.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# More than any camera has; 450 MB as RGB. A few bytes of PNG can claim any size.
MAX_PIXELS = 150_000_000
# Colour behind transparent pixels: the mean input of image encoders, which carries no information.
BACKDROP = (127, 127, 127)
# What Pillow's decoders raise on damaged files.
_DAMAGED = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def decode_picture(opened: IO[bytes], name: str, size_px: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return (height, width, 3) uint8 RGB, upright, the short side `size_px`, like decoded video frames.

    The first frame of an animation; transparent pixels become BACKDROP. name: of the picture in errors. Raises
    QueryError.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked below, and harmless flaws
            with Image.open(opened, formats=FORMATS) as file:
                width_px, height_px = file.size
                if width_px * height_px > max_pixels:
                    size = f"{width_px} x {height_px} pixels, and the limit is {max_pixels // 1_000_000} million"
                    raise QueryError(f"the picture {name} is too large: {size}; make it smaller")
                picture = _upright(file)
            shape = frame_shape(*picture.size, size_px)
            return np.asarray(picture.resize(shape, Image.Resampling.BICUBIC), np.uint8)
    except UnidentifiedImageError as exc:
        raise QueryError(f"{name} is not a picture in a supported format ({', '.join(FORMATS)})") from exc
    except Image.DecompressionBombError as exc:
        raise QueryError(f"the picture {name} is too large; make it smaller") from exc
    except _DAMAGED as exc:
        raise QueryError(f"the picture {name} is damaged ({exc}); save it again, or use another one") from exc


def _upright(file: Image.Image) -> Image.Image:
    """Return a picture as RGB, rotated by its EXIF orientation."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith("I"):  # 16-bit grey, of which Pillow would keep the low byte
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKDROP, 255)), layer).convert("RGB")
