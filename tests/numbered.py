"""Videos whose frames show their own numbers, as black and white stripes, and what is read of such a file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from media import Shot, make_video
from numpy.typing import NDArray

BITS = 8
WIDTH_PX, HEIGHT_PX = 160, 96


def numbered(number: int) -> Shot:
    stripes = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(stripes, np.uint8), WIDTH_PX // BITS)
    return Shot(picture=np.broadcast_to(row[None, :, None], (HEIGHT_PX, WIDTH_PX, 3)), length_s=1e-6)


def number_of(image: NDArray[np.uint8]) -> int:
    """Return the number of an upright frame. Lighter stripes of a frame are at least twice as light as the darker."""
    columns = image.mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
    return sum(int(light > 127) << bit for bit, light in enumerate(columns))


@dataclass(frozen=True)
class Numbered:
    """The frames of a file: numbers and times in order of time; `heard_s`: the end of each audio track."""

    numbers: list[int]
    times_s: list[float]
    heard_s: list[float]
    languages: list[str]
    timecode: str
    size_px: tuple[int, int]


def make_numbered(path: Path, **options: Any) -> Path:
    """Write a video of 4 s, at most 255 frames, that a `media.Spec` of these options describes; return `path`."""
    count = len(options["times_s"]) if "times_s" in options else min(255, round(4 * options["fps"]))
    shots = [numbered(number) for number in range(count)]
    return make_video(path, shots=shots, width=WIDTH_PX, height=HEIGHT_PX, **{"keyframe_s": 1.0, **options})


def read(data: bytes | Path) -> Numbered:
    """Return all frames of a file."""
    with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data)) as container:
        frames: list[tuple[float, int]] = []
        heard = {stream.index: 0.0 for stream in container.streams.audio}
        languages = [str(stream.language or "und") for stream in container.streams.audio]
        streams = [*container.streams.video, *container.streams.audio]
        codes = [stream.metadata.get("timecode", "") for stream in container.streams]
        size_px = (0, 0)
        for packet in container.demux(*streams):
            index = packet.stream_index
            for frame in packet.decode():
                made: Any = frame
                if isinstance(made, av.AudioFrame):
                    heard[index] = float(made.time or 0.0) + made.samples / made.sample_rate
                else:
                    upright = np.rot90(made.to_ndarray(format="rgb24"), round(made.rotation / 90))
                    frames.append((float(made.time or 0.0), number_of(upright)))
                    size_px = (upright.shape[1], upright.shape[0])
        frames.sort()
        ordered = [number for _, number in frames], [time_s for time_s, _ in frames]
        return Numbered(*ordered, list(heard.values()), languages, max(codes), size_px)
