"""Size and fetch time of tables for vectors and frames: python tests/bench/vector_layout.py FOLDER [--clips N]

Each layout is a database of clips with random vectors (seed 0) at the width of a preset. Sizes are scaled to 60,000
clips. A fetch reads all vectors and frames of 100 random clips, as a search does; the median of 40, in processor time.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SCALE, FETCHED, FETCHES = 60_000, 100, 40
CRC = 3 << 30
PAGES = (4096, 8192, 16384)
KEYED = (
    "CREATE TABLE embedding (clip_id INTEGER NOT NULL, modality TEXT NOT NULL, vector BLOB NOT NULL,"
    " crc32 INTEGER NOT NULL, PRIMARY KEY (clip_id, modality)) WITHOUT ROWID"
)
NUMBERED = (
    "CREATE TABLE embedding (id INTEGER PRIMARY KEY, clip_id INTEGER NOT NULL, modality TEXT NOT NULL,"
    " vector BLOB NOT NULL, crc32 INTEGER NOT NULL, UNIQUE (clip_id, modality))"
)
CLIP = "CREATE TABLE frame (clip_id INTEGER PRIMARY KEY, times BLOB NOT NULL, vectors BLOB NOT NULL, crc32 INTEGER)"
EACH = (
    "CREATE TABLE frame (clip_id INTEGER, number INTEGER, time_s REAL, vector BLOB, crc32 INTEGER,"
    " PRIMARY KEY (clip_id, number)) WITHOUT ROWID"
)
# Name -> the tables. Before this layout was chosen, the first one was the library's.
LAYOUTS = {
    "keyed, frames beside the vector": (KEYED.replace(" crc32", " frames BLOB, crc32"),),
    "keyed, a row of frames a clip": (KEYED, CLIP),
    "row ids, a row of frames a clip": (NUMBERED, CLIP),
    "keyed, a row a frame": (KEYED, EACH),
    "row ids, a row a frame": (NUMBERED, EACH),
}


@dataclass(frozen=True)
class Width:
    """Dimensions of the visual and of the other vectors, how many others a clip has, and its least and most frames."""

    visual: int
    other: int
    others: int
    frames: tuple[int, int]

    def __str__(self) -> str:
        least, most = self.frames
        frames = str(most) if least == most else f"{least} to {most}"
        return f"{self.visual} + {self.others} x {self.other}, {frames} frames"


WIDTHS = (
    Width(384, 384, 1, (6, 6)),
    Width(384, 384, 2, (6, 6)),
    Width(384, 384, 2, (1, 20)),
    Width(768, 512, 2, (6, 6)),
    Width(1024, 1024, 2, (6, 6)),
)


def clips(width: Width, count: int) -> Iterator[tuple[int, dict[str, bytes], list[bytes]]]:
    """Yield (id, modality -> vector, frame vectors)."""
    pool = np.random.default_rng(0).standard_normal((1000, width.visual)).astype("<f2")
    chance = random.Random(0)
    for clip in range(1, count + 1):
        own = {"visual": pool[clip % 900].tobytes()}
        own |= {f"other {n}": pool[clip % 900 + n, : width.other].tobytes() for n in range(width.others)}
        yield clip, own, [row.tobytes() for row in pool[clip % 900 :][: chance.randint(*width.frames)]]


def fill(connection: sqlite3.Connection, tables: tuple[str, ...], width: Width, count: int) -> int:
    """Write the clips; return the bytes of their vectors and times."""
    beside = "frames" in tables[0]
    size = 0
    for clip, vectors, frames in clips(width, count):
        times, blob = bytes(8 * len(frames)), b"".join(frames)
        size += len(times) + len(blob) + sum(map(len, vectors.values()))
        for modality, vector in vectors.items():
            row: dict[str, Any] = {"clip_id": clip, "modality": modality, "vector": vector, "crc32": CRC}
            if beside:
                row["frames"] = bytes(4) + times + blob if modality == "visual" else None
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO embedding ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
        if tables[-1] == CLIP:
            connection.execute("INSERT INTO frame VALUES (?, ?, ?, ?)", (clip, times, blob, CRC))
        elif not beside:
            rows = [(clip, number, 0.04 + number, vector, CRC) for number, vector in enumerate(frames)]
            connection.executemany("INSERT INTO frame VALUES (?, ?, ?, ?, ?)", rows)
    connection.commit()
    return size


def measure(path: Path, tables: tuple[str, ...], width: Width, page_bytes: int, count: int) -> tuple[float, float]:
    """Return (size in MB for SCALE clips, milliseconds of a fetch)."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        for pragma in (f"page_size={page_bytes}", "journal_mode=OFF", "synchronous=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        for table in tables:
            connection.execute(table)
        fill(connection, tables, width, count)
    size_mb = path.stat().st_size * SCALE / count / 1e6
    chance, times_s = random.Random(0), []
    names = ["embedding", "frame"][: len(tables)]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA cache_size=-8000")
        for _ in range(FETCHES):
            ids = json.dumps(chance.sample(range(1, count + 1), FETCHED))
            start = time.process_time()
            for name in names:
                query = f"SELECT * FROM {name} WHERE clip_id IN (SELECT value FROM json_each(?))"
                connection.execute(query, (ids,)).fetchall()
            times_s.append(time.process_time() - start)
    path.unlink()
    return size_mb, 1000 * statistics.median(times_s)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure tables for vectors and frames.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=3000, help="how many (default: 3000)")
    arguments = parser.parse_args()
    for width in WIDTHS:
        for page_bytes in PAGES:
            print(f"{width}, pages of {page_bytes}")
            for name, tables in LAYOUTS.items():
                size_mb, fetch_ms = measure(arguments.folder / "layout.db", tables, width, page_bytes, arguments.clips)
                print(f"  {name:34}{size_mb:7.0f} MB {fetch_ms:6.2f} ms", flush=True)


if __name__ == "__main__":
    main()
