"""Picture files as queries: decoded with limits, and encoded by the image encoder of the library."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import tempfile
import warnings
import zlib
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from vfindex.storage.encoders.pixels import Pixels, frame_shape
from vfindex.storage.errors import ModelError, QueryError
from vfindex.storage.files.regular import regular
from vfindex.storage.modalities import frame_modality
from vfindex.storage.records import FloatArray, Setup

if TYPE_CHECKING:
    from PIL import Image

    from vfindex.storage.encoders.image import PictureEncoder
    from vfindex.storage.library import Library

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


class Pictures:
    """The image encoder of a library, opened at its first use, for all threads."""

    def __init__(self, library: Library, setup: Setup) -> None:
        # Named after the model that made the vectors, so that the encoder of another model is never used.
        name = re.sub(r"[^\w.]+", "-", setup.models.get(frame_modality(), "none")).strip("-.")
        self._missing = None if frame_modality() in setup.models else "vfindex upgrade"
        self._kept = library.folder / "query" / f"{name}-image"
        self._folder = self._kept
        self._open: PictureEncoder | None = None
        self._opening = Lock()

    @property
    def are_readable(self) -> bool:
        """Whether the encoder is available: stored in the library, or given to `take`."""
        return self._folder.is_dir()

    def take(self, folder: Path) -> None:
        """Use the encoder in a folder; store a copy in the library if that is writable."""
        self._folder = self._kept if _copied(folder, self._kept) else folder

    def encode(self, path: Path) -> FloatArray:
        """Return the vector (dim,) of a picture file, of length 1. Raises QueryError, ModelError."""
        encoder = self._encoder()
        vector: FloatArray = encoder.encode_images([read_picture(path, encoder.size_px)])[0]
        return vector

    def _encoder(self) -> PictureEncoder:
        if self._missing:
            raise QueryError(f"this library has no images to compare pictures with; to add them: {self._missing}")
        with self._opening:
            if self._open is None:
                if not self.are_readable:
                    raise ModelError(
                        "this library has no image encoder yet; on a machine with its models, run once: "
                        "vfindex search --image FILE"
                    )
                from vfindex.storage.encoders.image import open_image_encoder  # not needed for text queries

                self._open = open_image_encoder(self._folder)
            return self._open


def read_picture(path: Path, size_px: int) -> Pixels:
    """Return (height, width, 3) uint8 RGB, upright, the short side `size_px`, like decoded video frames.

    The first frame of an animation; transparent pixels become BACKDROP. Raises QueryError.
    """
    from PIL import Image, UnidentifiedImageError

    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked below, and harmless flaws
            with open(path, "rb", opener=regular) as opened, Image.open(opened, formats=FORMATS) as file:
                width_px, height_px = file.size
                if width_px * height_px > MAX_PIXELS:
                    size = f"{width_px} x {height_px} pixels, and the limit is {MAX_PIXELS // 1_000_000} million"
                    raise QueryError(f"the picture {path} is too large: {size}; make it smaller")
                picture = _upright(file)
            shape = frame_shape(*picture.size, size_px)
            return np.asarray(picture.resize(shape, Image.Resampling.BICUBIC), np.uint8)
    except UnidentifiedImageError as exc:
        raise QueryError(f"{path} is not a picture in a supported format ({', '.join(FORMATS)})") from exc
    except Image.DecompressionBombError as exc:
        raise QueryError(f"the picture {path} is too large; make it smaller") from exc
    except _DAMAGED as exc:
        raise QueryError(f"the picture {path} is damaged ({exc}); save it again, or use another one") from exc


def check_file(path: Path) -> None:
    """Raise QueryError unless a path is a regular file that is not empty: opening a pipe would block."""
    try:
        stats = path.stat()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise QueryError(f"the picture {path} cannot be read ({reason}); name another file") from exc
    if not stat.S_ISREG(stats.st_mode) or not stats.st_size:
        raise QueryError(f"{path} is {'an empty' if stat.S_ISREG(stats.st_mode) else 'no'} file; name a picture")


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


def _copied(source: Path, target: Path) -> bool:
    """Copy an encoder's folder into the library atomically; return whether it is there."""
    if target.is_dir():
        return True
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError:
        return False  # a read-only library
    try:
        for path in source.iterdir():
            shutil.copyfile(path, work / path.name)
        work.chmod(0o755)
        os.rename(work, target)
    except OSError:
        return target.is_dir()  # another search was faster, or the disk is full
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True
