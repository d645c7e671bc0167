"""Search by image on frames of the library's own videos: python tests/bench/pictures.py --library DIR [--frames N]

Takes frames of every video of a library, each as far from the sampled ones as possible (at most half a second at one
frame per second), writes them as JPEG files, whole and altered as people keep them, and searches with each. success@1:
the first hit is that video or the same footage; "moment": its span covers the frame's time. At last the clips
themselves with `Like`: the share whose first hit is another moment of the same video.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import av
import numpy as np
from PIL import Image

from vfindex.cli.options import cache_folder
from vfindex.indexer.models.factory import LibraryModels
from vfindex.search.engine import SearchEngine
from vfindex.search.query.like import Like
from vfindex.search.results import Hit
from vfindex.storage.library import Library


def small(picture: Image.Image) -> Image.Image:
    """Return a thumbnail, as stored by chats and search pages."""
    picture.thumbnail((240, 240))
    return picture


def cut(picture: Image.Image) -> Image.Image:
    """Return the middle of an image: 4/5 of either side."""
    width, height = picture.size
    return picture.crop((width // 10, height // 10, width - width // 10, height - height // 10))


def dim(picture: Image.Image) -> Image.Image:
    """Return a darker image with less contrast."""
    return picture.point(lambda value: int(20 + 0.55 * value))


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "whole": lambda picture: picture,
    "240 px": small,
    "middle": cut,
    "dim": dim,
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def between(library: Library, frames: int) -> dict[Path, list[float]]:
    """Return the path of each video and the times furthest from its sampled frames, spread over its duration."""
    found: dict[Path, list[float]] = {}
    with library.snapshot() as snapshot:
        for video in snapshot.videos():
            ids = [clip.id for clip in snapshot.clips_of(video.id)]
            sampled = [vectors.frame_times_s for vectors in snapshot.vectors(ids).values()]
            times = np.unique(np.concatenate([*sampled, [video.start_s, video.end_s]]))
            middles = (times[1:] + times[:-1]) / 2
            chosen = np.unique(np.linspace(0, len(middles) - 1, frames + 2)[1:-1].round().astype(int))
            found[Path(os.fsdecode(video.locations[0].path))] = middles[chosen].tolist()
    return found


def pictures(path: Path, times_s: list[float]) -> Iterator[tuple[float, Image.Image]]:
    """Yield the first frame at or after each time, with its own time."""
    left = sorted(times_s)
    with av.open(path) as file:
        for frame in file.decode(video=0):
            if left and frame.time is not None and frame.time >= left[0]:
                yield frame.time, frame.to_image()
                left = [time_s for time_s in left if time_s > frame.time]


def is_of(hit: Hit, path: Path) -> bool:
    return os.fsencode(path) in (hit.video, *(place.video for place in hit.also))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, required=True, help="an ingested library whose videos are still there")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="exported models")
    parser.add_argument("--frames", type=int, default=3, help="frames of each video")
    arguments = parser.parse_args()
    library, engine = Library.open(arguments.library), SearchEngine.open(arguments.library)
    if not engine.pictures.are_readable:
        engine.pictures.take(LibraryModels(engine.setup, arguments.cache, say=print).image_folder())
    right = {name: [0, 0, 0] for name in WAYS}
    seconds, asked, kin = [], 0, [0, 0]
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "frame.jpg"
        for path, times_s in between(library, arguments.frames).items():
            for time_s, picture in pictures(path, times_s):
                asked += 1
                for name, way in WAYS.items():
                    way(picture.copy()).save(file, quality=85)
                    start = time.perf_counter()
                    hits = engine.search(images=[file])
                    seconds.append(time.perf_counter() - start)
                    first = bool(hits) and is_of(hits[0], path)
                    right[name][0] += first
                    right[name][1] += any(is_of(hit, path) for hit in hits[:5])
                    right[name][2] += first and hits[0].start_s <= time_s <= hits[0].end_s
    with library.snapshot() as snapshot:
        several = [video for video in snapshot.videos() if len(snapshot.clips_of(video.id)) > 1]
        for video in several:
            path = Path(os.fsdecode(video.locations[0].path))
            for clip in snapshot.clips_of(video.id):
                hits = engine.search(images=[Like(path, (clip.start_s + clip.end_s) / 2)])
                kin[0] += bool(hits) and is_of(hits[0], path)
                kin[1] += 1
    print(f"{asked} frames between the sampled ones; a picture took {1000 * median(seconds):.0f} ms")
    print(f"{'':>10} {'success@1':>10} {'success@5':>10} {'moment':>8}")
    for name, counts in right.items():
        print(f"{name:>10} {counts[0] / asked:>10.3f} {counts[1] / asked:>10.3f} {counts[2] / asked:>8.3f}")
    print(f"clips of videos of several: {kin[0]} of {kin[1]} find another moment of their video first")


if __name__ == "__main__":
    main()
