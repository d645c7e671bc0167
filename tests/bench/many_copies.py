"""Time of `vfindex duplicates` in a large library, and what it finds there: python tests/bench/many_copies.py PUBLIC N

PUBLIC: an ingested library of the public videos. Makes a library of N videos of 20 s in a folder of its own: each is a
random walk that begins at the mean of three frames of the public videos, one frame a second, in clips of 10 s. One in
twenty is a copy of the video before it: with noise as of a re-encode, beginning 5 s later, or with the first 10 s
alone in common. Prints the pairs tried, precision and recall by kind, seconds and memory; with --all also of the pairs
that one vote would try.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
from synthetic import _add_rows, _locations, _unit, _videos
from unusual import frames

from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Query
from vfindex.search.query.request import Request
from vfindex.search.understanding import candidates, duplicates
from vfindex.storage.joint.codecs import checksum, pack_frames
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing

SECONDS, CLIP_S, BATCH = 20, 10, 500
COPY_EVERY = 20
KINDS = ("re-encode", "later", "intro")


def kind_of(number: int) -> str:
    """Return how a video shares footage with the one before it, "" if it does not."""
    return KINDS[number // COPY_EVERY % len(KINDS)] if number % COPY_EVERY == COPY_EVERY - 1 else ""


def walk(base: FloatArray, rng: np.random.Generator, seconds: int = SECONDS + 5) -> FloatArray:
    """Return frames (seconds, dim): steps are a tenth of the length of the first frame, as of a slow pan."""
    first = base[rng.integers(len(base), size=3)].mean(axis=0)
    step = 0.1 * np.linalg.norm(first) / np.sqrt(base.shape[1])
    return np.asarray(first + step * np.cumsum(rng.normal(size=(seconds, base.shape[1])), axis=0), np.float32)


def make(folder: Path, public: Path, videos: int) -> None:
    base, rng = np.concatenate(list(frames(public).values())), np.random.default_rng(0)
    with Library.open(public).snapshot() as snapshot:
        setup, priors = LibraryMeta(snapshot).existing_setup(), LibraryMeta(snapshot).priors
    before = walk(base, rng)
    with writing(folder) as writer:
        writer.install(setup, {"visual": priors["visual"]}, {})
        for first in range(0, videos, BATCH):
            numbers = range(first + 1, min(first + BATCH, videos) + 1)
            clips, vectors, framed = [], [], []
            for id_ in numbers:
                own, kind = walk(base, rng), kind_of(id_ - 1)
                if kind:
                    noise = 0.2 * np.linalg.norm(before[0]) / np.sqrt(base.shape[1]) * rng.normal(size=before.shape)
                    copy = (before + noise).astype(np.float32)
                    at = 5 if kind == "later" else 0
                    own = np.concatenate([copy[:CLIP_S], own[CLIP_S:]]) if kind == "intro" else copy[at:]
                before = own if len(own) == SECONDS + 5 else before
                rows = _unit(own[:SECONDS])
                for number in range(SECONDS // CLIP_S):
                    clip_id, start_s = (id_ - 1) * (SECONDS // CLIP_S) + number + 1, float(number * CLIP_S)
                    part = rows[number * CLIP_S : (number + 1) * CLIP_S]
                    crc = checksum(round(1000 * start_s), start_s, start_s + CLIP_S)
                    clips.append((clip_id, id_, id_, round(1000 * start_s), start_s, start_s + CLIP_S, 0.0, None, crc))
                    blobs = pack_frames(part, start_s + np.arange(CLIP_S, dtype=np.float64))
                    framed.append((clip_id, *blobs, checksum(*blobs)))
                    blob = _unit(part.mean(axis=0)).astype("<f2").tobytes()
                    vectors.append((clip_id, "visual", blob, checksum(blob)))
            with writer.catalog.transaction() as connection:
                lasts_s = np.full((len(numbers), 1), float(SECONDS))
                titles, tags = [f"v{each}" for each in numbers], ["{}"] * len(numbers)
                _add_rows(connection, "video", _videos(numbers, titles, tags, lasts_s, rng))
                _add_rows(connection, "location", _locations(numbers, rng))
                units = ((id_, id_, 0, None, None, "done", 1, None, "{}") for id_ in numbers)
                _add_rows(connection, "unit", units)
                for table, made in (("clip", clips), ("embedding", vectors), ("frame", framed)):
                    _add_rows(connection, table, made)
        writer.publish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("public", type=Path)
    parser.add_argument("videos", type=int)
    parser.add_argument("--all", action="store_true", help="also with one vote")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), args.public, args.videos)
        for votes in (candidates.LEAST_VOTES, *([1] if args.all else [])):
            candidates.LEAST_VOTES = votes
            measure(Path(folder), args.videos)


def measure(folder: Path, videos: int) -> None:
    right = {(id_ - 1, id_): kind_of(id_ - 1) for id_ in range(1, videos + 1) if kind_of(id_ - 1)}
    tried = [0, 0]
    kept = duplicates.candidates

    def counting(*arguments: object) -> object:
        found, considered = kept(*arguments)  # type: ignore[arg-type]
        tried[:] = len(found), considered
        return found, considered

    duplicates.candidates = counting  # type: ignore[assignment]
    start_s, begun = time.perf_counter(), time.process_time()
    marks: list[tuple[float, int]] = [(0.0, 0)]
    with ExitStack() as opened:
        _, view = SearchEngine(folder).open_view(Request(""), Query(()), opened, None)
        pairs = duplicates.find_pairs(
            view,
            view.snapshot.video_ids(),
            duplicates.FrameCache(view),
            lambda done, of: marks.append((time.perf_counter() - start_s, done)),
        )
    took_s, cpu_s = time.perf_counter() - start_s, time.process_time() - begun
    duplicates.candidates = kept
    found = {(each.first, each.second) for each in pairs}
    silent_s = max(b[0] - a[0] for a, b in pairwise([*marks, (took_s, 0)]))
    print(f"{videos} videos, {candidates.LEAST_VOTES} votes: {took_s:.0f} s, {cpu_s:.0f} s of processor,", end=" ")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB at most, silent for {silent_s:.1f} s")
    print(f"  {tried[0]} pairs tried of {tried[1]} with a vote; found {len(found)}, right {len(found & right.keys())}")
    for kind in KINDS:
        own = {pair for pair, each in right.items() if each == kind}
        print(f"  {kind}: {len(own & found)} of {len(own)}")


if __name__ == "__main__":
    main()
