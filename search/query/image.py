"""Picture files as questions: read with care, and encoded by the model of pictures that made the library."""

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
from typing import TYPE_CHECKING

import numpy as np

from vfindex.storage.encoders.pixels import Pixels, frame_shape
from vfindex.storage.errors import ModelError, QueryError
from vfindex.storage.files.regular import regular
from vfindex.storage.records import FloatArray, Setup

if TYPE_CHECKING:
    from PIL import Image

    from vfindex.storage.encoders.image import PictureEncoder
    from vfindex.storage.library import Library

# What Pillow decodes by itself. It would call Ghostscript for PostScript, and knows rare formats that nobody tests.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# More than any camera's; as RGB 450 MB. A few bytes of PNG can claim any size.
MAX_PIXELS = 150_000_000
# What shows through: the mean of what models see, which tells them nothing.
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
    """The model of pictures of a library, opened at its first use."""

    def __init__(self, library: Library, setup: Setup) -> None:
        # Named by what decides the meaning of the vectors, so that no other model can stand there.
        name = re.sub(r"[^\w.]+", "-", setup.models["visual"]).strip("-.")
        self._kept = library.folder / "query" / f"{name}-image"
        self._folder = self._kept
        self._open: PictureEncoder | None = None

    @property
    def are_readable(self) -> bool:
        """Whether the model is at hand: carried by the library, or given."""
        return self._folder.is_dir()

    def take(self, folder: Path) -> None:
        """Use the model in a folder; keep a copy in the library where that can be written."""
        self._folder = self._kept if _carried(folder, self._kept) else folder

    def encode(self, path: Path) -> FloatArray:
        """Return the vector (dim,) of a picture, of length 1. Raises QueryError, ModelError."""
        if self._open is None:
            if not self.are_readable:
                raise ModelError(
                    "this library does not carry its model of pictures yet; where its models are, run once: "
                    "vfindex search --image FILE"
                )
            from vfindex.storage.encoders.image import open_image_encoder  # of no use to a search for words

            self._open = open_image_encoder(self._folder)
        vector: FloatArray = self._open.encode_images([read_picture(path, self._open.size_px)])[0]
        return vector


def read_picture(path: Path, size_px: int) -> Pixels:
    """Return (height, width, 3) uint8 RGB, upright, the short side `size_px`, as frames of a video are made.

    Of a moving picture the first frame; BACKDROP where it is transparent. Raises QueryError.
    """
    from PIL import Image, UnidentifiedImageError

    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that are refused below, and of harmless flaws
            with open(path, "rb", opener=regular) as opened, Image.open(opened, formats=FORMATS) as file:
                width_px, height_px = file.size
                if width_px * height_px > MAX_PIXELS:
                    told = f"it has {width_px} x {height_px} pixels, and at most {MAX_PIXELS // 1_000_000} million"
                    raise QueryError(f"the picture {path} is too large: {told} are read; make it smaller")
                picture = _upright(file)
            shape = frame_shape(*picture.size, size_px)
            return np.asarray(picture.resize(shape, Image.Resampling.BICUBIC), np.uint8)
    except UnidentifiedImageError as exc:
        raise QueryError(f"{path} is no picture of a kind that is read ({', '.join(FORMATS)})") from exc
    except Image.DecompressionBombError as exc:
        raise QueryError(f"the picture {path} is too large; make it smaller") from exc
    except _DAMAGED as exc:
        raise QueryError(f"the picture {path} is damaged ({exc}); save it anew, or take another one") from exc


def check_file(path: Path) -> None:
    """Raise QueryError unless a path is a file that holds something; a pipe would be waited for."""
    try:
        found = path.stat()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise QueryError(f"the picture {path} cannot be read ({reason}); name another file") from exc
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        raise QueryError(f"{path} is {'an empty' if stat.S_ISREG(found.st_mode) else 'no'} file; name a picture")


def _upright(file: Image.Image) -> Image.Image:
    """Return a picture as RGB, turned as its camera was held."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith("I"):  # 16 bits of grey, of which Pillow would keep the lower half
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKDROP, 255)), layer).convert("RGB")


def _carried(source: Path, target: Path) -> bool:
    """Copy a model's folder into the library, whole or not at all; return whether it stands there."""
    if target.is_dir():
        return True
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError:
        return False  # a library that one may only read
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
