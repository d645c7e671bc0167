"""Pictures decoded in a child process: the same pixels as in this one, and a sentence for whatever is hostile."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vfindex.indexer import pictures
from vfindex.indexer.pictures import PictureDecoder
from vfindex.search.query.image import read_picture
from vfindex.storage.errors import QueryError


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG that claims a size, whatever its rows hold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode, kind", [("RGB", "JPEG"), ("RGBA", "PNG"), ("L", "WEBP"), ("P", "GIF")])
def test_a_child_sees_what_this_process_sees(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / "picture"
    ramp = np.linspace(0, 255, 60 * 90 * 3).astype(np.uint8).reshape(60, 90, 3)
    Image.fromarray(ramp).convert(mode).save(path, kind)
    pixels = PictureDecoder().read_picture(path.read_bytes(), "picture", 32)
    assert pixels.shape == (32, 48, 3)
    assert np.array_equal(pixels, read_picture(path, 32))


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "not a picture in a supported format"),
        (b"GIF89a no picture", "not a picture in a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture in a supported format"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture in a supported format"),
        (png(20_000, 20_000, b"\0"), "too large"),
        (png(100, 100, b"\0" * 50), "damaged"),
    ],
    ids=["empty", "cut", "postscript", "svg", "bomb", "short"],
)
def test_what_is_no_picture_is_refused_in_a_sentence(data: bytes, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        PictureDecoder().read_picture(data, "picture 1", 32)


def test_a_child_that_exceeds_its_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "WALL_S", 0.01)
    picture = io.BytesIO()
    Image.new("RGB", (10, 10)).save(picture, "PNG")
    with pytest.raises(QueryError, match="too much time or memory"):
        PictureDecoder().read_picture(picture.getvalue(), "picture 1", 32)
