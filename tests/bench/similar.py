"""`vfindex similar` on parts of public videos: is the same source first, and how many sources does a list have?

    python tests/bench/similar.py LIBRARY

LIBRARY has the public videos. Each video with 16 frames or more is cut into four parts of as many frames, each a video
of two clips. Asked for a part, the first hit should be another part of the same video; the control is a random part.
Lists of balance 0.7 and 1 are compared in the number of sources among ten hits. Intervals are over videos.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from library_maker import add_video
from unusual import frames, interval

from vfindex.search.evaluation.metrics import compare
from vfindex.search.results import Hits
from vfindex.search.service import SearchService
from vfindex.search.understanding.diversity import BALANCE
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import writing

PARTS, LEAST_FRAMES = 4, 16


def clips(rows: FloatArray) -> list[Clip]:
    """Return the frames of a part as two clips, whose visual vectors are the means."""
    found, half = [], len(rows) // 2
    for at, part in ((0, rows[:half]), (half, rows[half:])):
        mean = part.mean(axis=0)
        vectors = {"visual": mean / np.linalg.norm(mean)}
        found.append(Clip(1.0 * at, 1.0 * (at + len(part)), 0.0, vectors, part, at + np.arange(len(part), dtype=float)))
    return found


def make(folder: Path, like: Path) -> list[str]:
    """Make the library of parts; return the sources."""
    with Library.open(like).snapshot() as snapshot:
        setup, priors = LibraryMeta(snapshot).existing_setup(), LibraryMeta(snapshot).priors
    sources = {n: rows for n, rows in frames(like).items() if n.startswith("v") and len(rows) >= LEAST_FRAMES}
    with writing(folder) as writer:
        writer.install(setup, {"visual": priors["visual"]}, {})
        for name, rows in sources.items():
            for number, part in enumerate(np.array_split(rows, PARTS)):
                add_video(writer, f"{name}-{number}", clips(part))
        writer.publish()
    return list(sources)


def sources_of(hits: Hits) -> list[str]:
    return [Path(hit.video.decode()).name.split("-")[0] for hit in hits if hit.video]


def first(found: Sequence[str], source: str) -> float:
    return float(bool(found) and found[0] == source)


def main(like: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sources = make(Path(folder), like)
        rows: dict[str, list[float]] = {name: [] for name in ("plain", "diverse", "chance", "many", "many diverse")}
        with SearchService(Path(folder)) as service:
            for source in sources:
                plain = sources_of(service.similar(f"/videos/{source}-0"))
                diverse = sources_of(service.similar(f"/videos/{source}-0", balance=BALANCE))
                rows["plain"].append(first(plain, source))
                rows["diverse"].append(first(diverse, source))
                rows["chance"].append((PARTS - 1) / (PARTS * len(sources) - 1))
                rows["many"].append(len(set(plain)))
                rows["many diverse"].append(len(set(diverse)))
    print(f"{len(sources)} videos")
    for name, values in rows.items():
        print(f"{name}: {interval(values)}")
    for one, other in (("chance", "plain"), ("chance", "diverse"), ("plain", "diverse"), ("many", "many diverse")):
        gain = compare(rows[one], rows[other])
        print(f"{other} - {one}: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
