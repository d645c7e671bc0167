"""Untrusted pictures, each decoded in a child process: `python -m vfindex.indexer.pictures` is that child."""

from __future__ import annotations

import io
import os
import sys
from functools import partial

import numpy as np

from vfindex.indexer.media import protocol
from vfindex.indexer.media.child import Child, cannot_start
from vfindex.indexer.media.limits import end_with_parent, limit_cpu, limit_process
from vfindex.storage.encoders.picture import decode_picture
from vfindex.storage.encoders.pixels import LONG_SIDE, Pixels
from vfindex.storage.errors import QueryError

# A camera of 50 megapixels is the largest that people carry.
MAX_PIXELS = 60_000_000
MEMORY_BYTES = 2 << 30
CPU_S, WALL_S = 20, 60.0
_MAX_REASON_CHARS = 500
_TOO_MUCH = "the picture {} takes too much time or memory to decode; save it as JPEG or PNG, or make it smaller"


class PictureDecoder:
    """Decodes pictures, each in a child process under limits, which ends with it. Safe for threads."""

    def read_picture(self, data: bytes, name: str, size_px: int) -> Pixels:
        """Return (height, width, 3) uint8 RGB, upright, the short side `size_px`. Raises QueryError."""
        try:
            with Child([sys.executable, "-P", "-m", "vfindex.indexer.pictures"]) as child:
                child.start_clock(wall_s=WALL_S)
                child.send(protocol.pack({"name": name, "size_px": size_px}, data))
                header, pixels = protocol.unpack(child.read_exactly)
        except (EOFError, TimeoutError, BrokenPipeError, protocol.WireError) as exc:
            raise QueryError(_TOO_MUCH.format(name)) from exc
        except OSError as exc:
            raise QueryError(f"the picture {name} cannot be decoded: {cannot_start(exc)}") from exc
        reason = header.get("error")
        if isinstance(reason, str):
            raise QueryError(reason[:_MAX_REASON_CHARS])
        return _checked(header, pixels, size_px, name)


def _checked(header: dict[str, object], pixels: bytes, size_px: int, name: str) -> Pixels:
    """Return the pixels that a child sent. Raises QueryError if they are not of the size asked for."""
    height, width = header.get("height_px"), header.get("width_px")
    if not isinstance(height, int) or not isinstance(width, int) or len(pixels) != 3 * height * width:
        raise QueryError(_TOO_MUCH.format(name))
    if min(height, width) != size_px or max(height, width) > LONG_SIDE * size_px:
        raise QueryError(_TOO_MUCH.format(name))
    return np.frombuffer(pixels, np.uint8).reshape((height, width, 3))


def main() -> None:
    """Decode the picture on stdin, and write its pixels to stdout."""
    end_with_parent()
    from PIL import Image

    Image.init()  # its plugins are files, which are opened before the limits
    limit_process(MEMORY_BYTES)
    limit_cpu(CPU_S)
    write = partial(protocol.write_all, os.dup(sys.stdout.fileno()))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # printing libraries cannot break the framing
    request, data = protocol.unpack(protocol.read_exactly)
    try:
        pixels = decode_picture(io.BytesIO(data), request["name"], request["size_px"], MAX_PIXELS)
    except QueryError as exc:
        write(protocol.pack({"error": str(exc)}))
        return
    height_px, width_px, _ = pixels.shape
    write(protocol.pack({"height_px": height_px, "width_px": width_px}, pixels.tobytes()))


if __name__ == "__main__":
    main()
