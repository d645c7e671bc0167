"""What publications write: python tests/bench/nights.py FOLDER --clips N --nights K --cache DIR

Makes a library of N synthetic clips in FOLDER (synthetic.py, the widths of `lite`), builds its index anew, adds 1 % of
N clips, removes one video, and prints the seconds and bytes of each, and their ratio to those of building anew. Then K
nights: every night 0.5 % of N clips come, 0.25 % are removed and 0.25 % renamed, and the run publishes and merges.
Prints the recall afterwards, the size of the index beside a fresh one, and all bytes written. Seconds are those of the
processor: other work hardly disturbs them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import synthetic

from vfindex.storage.index import file_format
from vfindex.storage.index.tuning import recall_at_10
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.writer import Writer, writing


@dataclass
class Cost:
    """Processor seconds, wall seconds and bytes written below `index/` by one step."""

    name: str
    cpu_s: float = 0.0
    wall_s: float = 0.0
    bytes: int = 0

    def line(self, whole: Cost) -> str:
        share = f"{self.cpu_s / whole.cpu_s:.4f} of the seconds, {self.bytes / whole.bytes:.4f} of the bytes"
        return f"{self.name}: {self.cpu_s:.2f} s ({self.wall_s:.1f} s wall), {self.bytes / 1e6:.2f} MB; {share}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what publications write.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=60_000)
    parser.add_argument("--nights", type=int, default=20)
    parser.add_argument("--cache", type=Path, required=True, help="where the models of `lite` are, or will be")
    arguments = parser.parse_args()
    if not (arguments.folder / "library.db").exists():
        synthetic.make(arguments.folder, arguments.clips, arguments.cache)
    with writing(arguments.folder) as writer:
        _measure(writer, arguments)


def _measure(writer: Writer, arguments: argparse.Namespace) -> None:
    material, rng = synthetic.load_material(arguments.cache), np.random.default_rng(7)
    percent = max(1, arguments.clips // synthetic.CLIPS_PER_VIDEO // 100)  # in videos
    with _measured(writer, "building anew") as whole:
        writer.publish(LibraryMeta(writer.catalog).own_fusion)
    fresh = _size(writer)
    print(whole.line(whole))
    _add(writer, material, rng, percent)
    with _measured(writer, f"adding {percent * synthetic.CLIPS_PER_VIDEO} clips") as added:
        writer.publish()
    print(added.line(whole))
    writer.catalog.remove(_path(writer, 1))
    with _measured(writer, "removing one video") as removed:
        writer.publish()
        writer.publisher.erase_deleted()
    print(removed.line(whole))
    total = 0
    for night in range(arguments.nights):
        _add(writer, material, rng, max(1, percent // 2))
        for number in range(max(1, percent // 4)):
            writer.catalog.remove(_path(writer, 2 + night * percent + number))
            title = material.sentences[rng.integers(len(material.sentences))]
            writer.catalog.retitle(_last(writer) - 1 - number - night * percent, "new", (), title)
        with _measured(writer, "a night") as cost:
            writer.publish()
            writer.publisher.erase_deleted()
            while writer.merge(lambda: None):
                pass
        total += cost.bytes
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
        assert generation is not None
        index = writer.library.open_index(generation)
        recall = min(recall_at_10(snapshot, index, generation.spec, LibraryMeta(snapshot).priors))
        per_clip = fresh / arguments.clips
        print(
            f"{arguments.nights} nights: recall@10 {recall:.3f}, {len(index.segments)} segments, "
            f"{_size(writer) / (per_clip * len(index)):.2f} times a fresh index, {total / 1e6:.0f} MB written, "
            f"{arguments.nights * whole.bytes / 1e6:.0f} MB by building anew each night"
        )
    print(f"{arguments.clips} clips of {index.dim} dimensions; load {os.getloadavg()[0]:.1f}")


def _add(writer: Writer, material: synthetic.Material, rng: np.random.Generator, videos: int) -> None:
    first = _last(writer) + 1
    with writer.catalog.transaction() as connection:
        synthetic.add_videos(connection, range(first, first + videos), material, rng)


def _last(writer: Writer) -> int:
    with writer.catalog.transaction() as connection:
        return int(connection.exec_driver_sql("SELECT max(id) FROM video").scalar_one())


def _path(writer: Writer, video: int) -> bytes:
    with writer.catalog.transaction() as connection:
        query = "SELECT path FROM location WHERE video_id >= ? ORDER BY video_id LIMIT 1"
        return bytes(connection.exec_driver_sql(query, (video,)).scalar_one())


def _size(writer: Writer) -> int:
    """Return the bytes of the files of the current generation."""
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
        assert generation is not None
        return sum({each.name: each.size_bytes for each in writer.library.index_files(generation.stored)}.values())


@contextmanager
def _measured(writer: Writer, name: str) -> Iterator[Cost]:
    cost, written = Cost(name), _watched(writer)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    yield cost
    cost.cpu_s, cost.wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    cost.bytes = written()


def _watched(writer: Writer) -> Callable[[], int]:
    """Return a function that returns the bytes written below `index/` since, those written over in place included."""
    total, end, write = [0], file_format.IndexWriter.end, file_format.IndexFile.overwriting

    def ended(self: file_format.IndexWriter, facts: object) -> object:
        stored = end(self, facts)  # type: ignore[arg-type]
        total[0] += stored.size_bytes
        return stored

    @contextmanager
    def overwriting(self: file_format.IndexFile) -> Iterator[object]:
        with write(self) as inner:

            def counted(name: str, rows: object, values: np.ndarray) -> None:
                total[0] += values.nbytes
                inner(name, rows, values)  # type: ignore[arg-type]

            yield counted

    file_format.IndexWriter.end = ended  # type: ignore[method-assign,assignment]
    file_format.IndexFile.overwriting = overwriting  # type: ignore[method-assign,assignment]

    def stop() -> int:
        file_format.IndexWriter.end = end  # type: ignore[method-assign]
        file_format.IndexFile.overwriting = write  # type: ignore[method-assign]
        return total[0]

    return stop


if __name__ == "__main__":
    main()
