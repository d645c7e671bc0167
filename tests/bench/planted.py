"""Make copies with PyAV: re-encodes, crops, and videos with a shared intro, each of a known video.

    python tests/bench/planted.py MEDIA/public FOLDER

Writes the videos and FOLDER/pairs.json, a list of [name, other name, kind]: every pair that shares footage. Videos of
even place in the list of names are `dev`, the others `test`; kinds begin with that word, so that what is chosen by
looking can be measured on the other half. 24 re-encodes and crops of at most 15 s, 12 videos with 3 intros.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

RATE, MOST_S, INTRO_S, LEAST_S = 15, 15.0, 6.0, 6.0
# A re-encode has half the size; a crop 70 % of each side, off centre.
SCALE, CROP, CORNER = 0.5, 0.7, 0.1
INTROS, VIDEOS_AN_INTRO, COPIES = 3, 4, 12

Picture = NDArray[np.uint8]


def pictures(path: Path, most_s: float, width: int) -> Iterator[Picture]:
    """Yield pictures (height, width, 3) of the first `most_s` at RATE; width: even, the height follows."""
    with av.open(str(path)) as file:
        first, due = None, 0.0
        for frame in file.decode(video=0):
            first = frame.time if first is None else first
            at = (frame.time or 0.0) - (first or 0.0)
            if at >= most_s:
                return
            while due <= at:
                height = 2 * round(frame.height * width / frame.width / 2)
                yield frame.to_ndarray(format="rgb24", width=width, height=height)
                due += 1 / RATE


def write(path: Path, frames: Iterator[Picture], crf: int, size: tuple[int, int] | None = None) -> None:
    """Encode pictures; size: (width, height), that of the first one without."""
    with av.open(str(path), "w") as file:
        stream = None
        for picture in frames:
            if stream is None:
                stream = file.add_stream("libx264", rate=Fraction(RATE), options={"crf": str(crf), "preset": "fast"})
                stream.pix_fmt = "yuv420p"
                stream.width, stream.height = size or (picture.shape[1], picture.shape[0])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            file.mux(stream.encode(frame.reformat(stream.width, stream.height)))
        if stream is not None:
            file.mux(stream.encode())


def cropped(frames: Iterator[Picture]) -> Iterator[Picture]:
    for each in frames:
        height, width = (2 * int(CROP * side / 2) for side in each.shape[:2])
        top, left = (int(CORNER * side) for side in each.shape[:2])
        yield each[top : top + height, left : left + width]


def duration_s(path: Path) -> float:
    with av.open(str(path)) as file:
        return (file.duration or 0) / av.time_base


def main(public: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    videos = sorted(path for path in (public / "videos").iterdir() if duration_s(path) >= LEAST_S)
    pairs: list[tuple[str, str, str]] = []
    for half, own in (("dev", videos[::2]), ("test", videos[1::2])):
        rest = iter(own)
        for kind, count in (("reencode", COPIES // 2), ("crop", COPIES // 2)):
            for path in itertools.islice(rest, count):
                frames = pictures(path, MOST_S, 320 if kind == "reencode" else 480)
                name = f"{kind}-{path.stem}.mp4"
                write(
                    folder / name, frames if kind == "reencode" else cropped(frames), 34 if kind == "reencode" else 28
                )
                pairs.append((path.name, name, f"{half} {kind}"))
        for number in range(INTROS if half == "test" else 1):
            donor, made = next(rest), []
            for path in itertools.islice(rest, VIDEOS_AN_INTRO if half == "test" else 3):
                name = f"intro{number}-{half}-{path.stem}.mp4"
                parts = itertools.chain(pictures(donor, INTRO_S, 480), pictures(path, MOST_S, 480))
                write(folder / name, parts, 28, (480, 270))
                pairs += [(path.name, name, f"{half} body"), (donor.name, name, f"{half} intro")]
                pairs += [(each, name, f"{half} intro") for each in made]
                made.append(name)
    (folder / "pairs.json").write_text(json.dumps(pairs, indent=1), encoding="utf-8")
    print(f"{len(pairs)} pairs in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
