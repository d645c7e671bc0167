"""Average precision of `vfindex unusual` for 10 odd clips planted among 500 of road cameras, against chance.

    vfindex ingest ROADS... --no-asr --no-ocr --no-sounds --sampling 6 --library CAMERAS
    vfindex ingest MEDIA/public/videos --library PUBLIC
    python tests/bench/unusual.py CAMERAS PUBLIC [DRAWS]

ROADS are v017, v025, v031, v044, v048 and v050 of the public videos: cars and bicycles on roads, of six cameras.
Each sampled frame is a clip. In each draw, 500 of these are joined by 10 frames of 10 other public videos; the same 500
alone are a library without anything odd. An odd frame is a video of its own; those of a camera are videos of SEGMENT
frames in a row, as recorders write them, or one video with SEGMENT=0 in the environment. The control ranks all clips by
chance; its value is the mean of 1,000 shuffles. Draws share videos, so the interval is over draws, not over other
cameras. The method that is better on the first half of the draws is the default; the second half measures it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from library_maker import add_video

from vfindex.search.evaluation.metrics import compare
from vfindex.search.service import SearchService
from vfindex.search.understanding.unusual import METHODS
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import writing

ROADS = ("v017", "v025", "v031", "v044", "v048", "v050")
# Other public videos in which a road is seen are neither usual nor odd.
LEFT_OUT = ("v024", "v011", "v101", "v032", "v010", "v026")
USUAL, ODD, DRAWS = 500, 10, 40
SEGMENT = int(os.environ.get("SEGMENT", "12"))


def frames(folder: Path) -> dict[str, FloatArray]:
    """Return name -> (n, dim) frame vectors of the videos of a library."""
    found: dict[str, list[FloatArray]] = {}
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        for video in snapshot.videos():
            if not video.locations:
                continue
            ids = [clip.id for clip in snapshot.clips_of(video.id)]
            name = Path(video.locations[0].path.decode()).stem
            found[name] = [vectors.frames for vectors in snapshot.vectors(ids).values() if len(vectors.frames)]
    return {name: np.concatenate(parts) for name, parts in found.items() if parts}


def make(folder: Path, like: Path, videos: Mapping[str, FloatArray]) -> None:
    """Make a library with the setup of another in which every frame is a clip."""
    library = Library.open(like)
    with library.snapshot() as snapshot:
        setup, priors = LibraryMeta(snapshot).existing_setup(), LibraryMeta(snapshot).priors
    with writing(folder) as writer:
        writer.install(setup, {"visual": priors["visual"]}, {})
        for name, rows in videos.items():
            clips = [
                Clip(1.0 * i, i + 1.0, 0.0, {"visual": row}, row[None], np.array([1.0 * i]))
                for i, row in enumerate(rows)
            ]
            add_video(writer, name, clips)
        writer.publish()


def average_precision(relevant: Sequence[bool]) -> float:
    """Return the mean, over the relevant ones, of the precision at their rank; all are ranked."""
    hits = np.flatnonzero(relevant)
    return float(np.mean((np.arange(len(hits)) + 1) / (hits + 1))) if len(hits) else 0.0


def interval(values: Sequence[float]) -> str:
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


def main(cameras: Path, public: Path, draws: int) -> None:
    road = {name: rows for name, rows in frames(cameras).items() if name in ROADS}
    other = {
        name: rows for name, rows in frames(public).items() if name.startswith("v") and name not in (*ROADS, *LEFT_OUT)
    }
    print(f"{sum(map(len, road.values()))} road frames of {len(road)} videos, odd ones of {len(other)}")
    random = np.random.default_rng(0)
    rows: dict[str, list[float]] = {name: [] for name in (*METHODS, "chance")}
    flagged: dict[str, list[tuple[int, int, bool]]] = {method: [] for method in METHODS}
    for _ in range(draws):
        places = [(name, i) for name, vectors in road.items() for i in range(len(vectors))]
        kept = [places[i] for i in random.choice(len(places), min(USUAL, len(places)), replace=False)]
        videos: dict[str, FloatArray] = {}
        for name, i in sorted(kept):
            segment = f"{name} {i // SEGMENT if SEGMENT else 0}"
            videos[segment] = np.concatenate([videos.get(segment, road[name][:0]), road[name][i : i + 1]])
        odd = {
            f"odd {name}": other[name][[random.integers(len(other[name]))]]
            for name in random.choice(list(other), ODD, replace=False)
        }
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "a", cameras, videos | odd)
            make(Path(folder) / "b", cameras, videos)
            with SearchService(Path(folder) / "a") as planted, SearchService(Path(folder) / "b") as alone:
                for method in METHODS:
                    found = planted.unusual(method=method, top_k=1000, per_video=1000)
                    relevant = [b"odd" in (each.video or b"") for each in found.clips]
                    out = [b"odd" in (each.video or b"") for each in found.outstanding]
                    rows[method].append(average_precision(relevant))
                    nothing = not alone.unusual(method=method, top_k=1).outstanding
                    flagged[method].append((sum(out), len(out), nothing))
        shuffles = [average_precision(random.permutation(len(relevant)) < ODD) for _ in range(1000)]
        rows["chance"].append(float(np.mean(shuffles)))
    half = draws // 2
    for name, values in rows.items():
        print(f"{name}: AP first half {interval(values[:half])}, second half {interval(values[half:])}")
    for method in METHODS:
        gain = compare(rows["chance"][half:], rows[method][half:])
        found_, shown, nothing_ = (np.array(each[half:], float) for each in zip(*flagged[method], strict=True))
        print(f"{method} - chance, second half: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
        print(
            f"  stands out: {np.sum(found_):.0f} of {ODD * half} odd, {np.sum(shown - found_):.0f} others; "
            f"nothing in {np.sum(nothing_):.0f} of {half} libraries without odd clips"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else DRAWS)
