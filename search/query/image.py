"""Picture files as queries: decoded with limits, and encoded by the image encoder of the library."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from vfindex.storage.encoders.picture import decode_picture
from vfindex.storage.encoders.pixels import Pixels
from vfindex.storage.errors import ModelError, QueryError
from vfindex.storage.files.regular import regular
from vfindex.storage.modalities import frame_modality
from vfindex.storage.records import FloatArray, Setup

if TYPE_CHECKING:
    from vfindex.storage.encoders.image import PictureEncoder
    from vfindex.storage.library import Library


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture, or the frames of a clip, as a query. name: in the answer.

    frames: of the form that `Pictures.size_px` asks for.
    """

    name: str
    frames: tuple[Pixels, ...]

    def __str__(self) -> str:
        return self.name


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

    @property
    def size_px(self) -> int:
        """The short side of pictures that the encoder reads. Raises ModelError without an encoder."""
        return self._encoder().size_px

    def encode(self, picture: Path | Picture) -> FloatArray:
        """Return the vector (dim,) of a picture, of length 1; of a clip the mean of its frames, as in the index.

        Raises QueryError, ModelError.
        """
        encoder = self._encoder()
        if isinstance(picture, Path):
            frames: tuple[Pixels, ...] = (read_picture(picture, encoder.size_px),)
        elif all(min(pixels.shape[:2]) == encoder.size_px for pixels in picture.frames):
            frames = picture.frames
        else:
            raise QueryError(f"the library has another image encoder since {picture} was decoded; ask once more")
        vectors = encoder.encode_images(frames)
        if len(vectors) == 1:
            return np.asarray(vectors[0])
        mean = vectors.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)

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
    check_file(path)
    try:
        with open(path, "rb", opener=regular) as opened:
            return decode_picture(opened, str(path), size_px)
    except OSError as exc:
        raise QueryError(f"the picture {path} cannot be read ({exc.strerror}); name another file") from exc


def check_file(path: Path) -> None:
    """Raise QueryError unless a path is a regular file that is not empty: opening a pipe would block."""
    try:
        stats = path.stat()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise QueryError(f"the picture {path} cannot be read ({reason}); name another file") from exc
    if not stat.S_ISREG(stats.st_mode) or not stats.st_size:
        raise QueryError(f"{path} is {'an empty' if stat.S_ISREG(stats.st_mode) else 'no'} file; name a picture")


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
