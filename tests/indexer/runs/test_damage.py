"""A library damaged in any way is refused in one sentence, or repaired."""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from library_maker import add_video, axis, clip, install

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.repair import repair
from vfindex.storage.db.runs import last_run
from vfindex.storage.db.sources import Root, remember
from vfindex.storage.errors import VfindexError
from vfindex.storage.index.flat import exact_scan
from vfindex.storage.library import Library, reading_spec
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import Document, Segment
from vfindex.storage.writer import writing

PAGE_BYTES = 4096
SETTINGS = ("setup", "priors", "query_models", "fusion", "min_reader", "fold", "asr", "changed")
# Of all kinds of nonsense, so many are put into each column: a choice by seed.
VALUES_A_COLUMN = int(os.environ.get("VFINDEX_TEST_DAMAGE", "1"))
NONSENSE = ("NULL", "'garbage'", "''", "-1", "1e308", "9e999", "x'ff00fe'", "CAST(x'ff80' AS TEXT)", "'[NaN]'", "2")
# What each table has that a search or a report trusts.
COLUMNS = {
    "video": ("fingerprint", "state", "start_s", "end_s", "last_s", "title", "tags", "chapters", "problem", "coarse"),
    "location": ("path", "video_id", "size_bytes", "mtime_ns"),
    "unit": ("number", "state", "coverage", "video_id"),
    "clip": ("start_s", "end_s", "start_ms", "thumbnail", "unit_id", "video_id"),
    "embedding": ("vector", "modality", "crc32"),
    "frame": ("times", "vectors", "crc32"),
    "segment": ("start_s", "end_s", "text", "language", "track", "source", "video_id"),
    "document": ("text", "kind", "video_id", "segment_id"),
    "generation": ("file", "sha256", "spec", "watermark", "clips", "size_bytes"),
    "run": ("command", "started_at", "report"),
    "root": ("path", "exclude"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library of several videos, each with all kinds of rows; tests damage copies of it."""
    folder = tmp_path_factory.mktemp("damage") / "library"
    with writing(folder) as writer:
        install(writer)
        remember(writer.catalog, [Root(b"/videos", ("*.part",))])
        writer.catalog.put("asr", "1")
        run = writer.catalog.begin_run("ingest")
        for number in range(12):
            clips = [clip(5.0 * n, 5.0 * n + 5, visual=axis(number % 8), speech=axis(n)) for n in range(2)]
            said = [Segment(1.0, 2.0, f"word{number} is said " * 20, "sidecar")]
            add_video(writer, f"video {number}", clips, said, [Document("title", f"title {number}")])
        writer.publish()
        writer.catalog.end_run(run, {"found": 12})
    assert verify(Library.open(folder)).clean
    return folder


def read(folder: Path) -> list[float]:
    """Read what a search and the reports read; return the numbers of it."""
    with Library.open(folder).snapshot() as snapshot:
        LibraryMeta(snapshot).existing_setup()
        spec, generation = reading_spec(snapshot)
        if generation is not None:
            Library.open(folder).load_index(generation)
        ids = snapshot.clip_ids()
        scores = [score for _, score in exact_scan(snapshot, spec, np.ones(spec.dim, np.float32), ids)]
        clips = [clip for clip, _ in snapshot.with_vectors(ids).values()]
        snapshot.words.match(["word3"], 5)
        snapshot.said(ids), snapshot.coverage_of(ids), snapshot.searchable_videos(), last_run(snapshot)
        videos = snapshot.videos()
        lengths = [video.end_s - video.start_s for video in videos]
        return [*scores, *lengths, *(time for each in clips for time in (each.start_s, each.end_s))]


def check(folder: Path, cache: Path, sound: list[float]) -> None:
    """Read, verify, repair, verify and read a damaged library: sentences are allowed, false numbers are not."""
    try:
        numbers = read(folder)
        assert all(map(math.isfinite, numbers))
        is_right = sorted(numbers) == sorted(sound)
    except VfindexError:
        is_right = False
    with suppress(VfindexError):
        assert is_right or not verify(Library.open(folder)).clean, "damage was not seen"
    try:
        left = repair(folder, RunSettings(cache)).left
    except VfindexError:
        return  # it says that it cannot
    if not left:
        assert verify(Library.open(folder)).clean
        assert all(map(math.isfinite, read(folder)))


@pytest.mark.parametrize("key", SETTINGS)
def test_a_damaged_setting(sound: Path, tmp_path: Path, key: str) -> None:
    expected = read(sound)
    for value in random.Random(key).sample(NONSENSE, VALUES_A_COLUMN):
        folder = shutil.copytree(sound, tmp_path / "library", dirs_exist_ok=True)
        with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
            try:
                connection.execute(f"UPDATE meta SET value = {value} WHERE key = '{key}'")
            except sqlite3.IntegrityError:
                connection.execute("DELETE FROM meta WHERE key = ?", (key,))
        check(folder, tmp_path / "cache", expected)
        shutil.rmtree(folder)


@pytest.mark.parametrize(("table", "column"), [(t, c) for t, columns in COLUMNS.items() for c in columns])
def test_a_damaged_column(sound: Path, tmp_path: Path, table: str, column: str) -> None:
    expected = read(sound)
    for value in random.Random(f"{table} {column}").sample(NONSENSE, VALUES_A_COLUMN):
        folder = shutil.copytree(sound, tmp_path / "library", dirs_exist_ok=True)
        with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints=ON")
            where = f"rowid = (SELECT max(rowid) FROM {table})"
            try:
                connection.execute(f"UPDATE {table} SET {column} = {value} WHERE {where}")
            except sqlite3.IntegrityError:
                continue
        check(folder, tmp_path / "cache", expected)
        shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(int(os.environ.get("VFINDEX_TEST_DAMAGE", "1")) * 12))
def test_damaged_bytes(sound: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = shutil.copytree(sound, tmp_path / "library")
    expected = read(sound)
    data = bytearray((folder / "library.db").read_bytes())
    chance.choice(WAYS)(data, chance)
    (folder / "library.db").write_bytes(data)
    check(folder, tmp_path / "cache", expected)


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 20))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _zero(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) // PAGE_BYTES) * PAGE_BYTES
    data[start : start + PAGE_BYTES] = bytes(PAGE_BYTES)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _copy_page(data: bytearray, chance: random.Random) -> None:
    pages = len(data) // PAGE_BYTES
    one, other = (chance.randrange(pages) * PAGE_BYTES for _ in range(2))
    data[one : one + PAGE_BYTES] = data[other : other + PAGE_BYTES]


WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (_flip, _zero, _cut, _copy_page)


@pytest.mark.parametrize("table", ["location", "tombstone"])
def test_a_video_without_location_is_reported_and_deleted(sound: Path, tmp_path: Path, table: str) -> None:
    folder = shutil.copytree(sound, tmp_path / "library")
    with writing(folder) as writer:
        if table == "tombstone":
            writer.catalog.mark_missing([b"/videos/video 3"])
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        connection.execute(f"DELETE FROM {table} WHERE path = CAST('/videos/video 3' AS BLOB)")
    assert "the row of its" in verify(Library.open(folder)).problems[0]
    assert repair(folder, RunSettings(tmp_path / "cache")).left == []
    assert verify(Library.open(folder)).videos == 11


def test_a_rebuilt_joint_index_is_reported(sound: Path, tmp_path: Path) -> None:
    for harm in (Path.unlink, _flip_last_byte):
        folder = shutil.copytree(sound, tmp_path / "library")
        for path in (folder / "index").iterdir():
            harm(path)
        assert not verify(Library.open(folder)).clean
        done = repair(folder, RunSettings(tmp_path / "cache"))
        assert (done.index, done.left, done.to_dict(os.fsdecode)["index"]) == (True, [], True)
        assert not repair(folder, RunSettings(tmp_path / "cache")).index
        shutil.rmtree(folder)


def _flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)


def test_damage_found_by_sqlite_is_one_plain_sentence(sound: Path, tmp_path: Path) -> None:
    """SQLite reports the faults of a page map as many lines below a heading."""
    folder = shutil.copytree(sound, tmp_path / "library")
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (folder / "library.db").open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    first = verify(Library.open(folder)).problems[0]
    assert first.startswith("library.db is damaged; run: vfindex repair (SQLite's check found: ")
    assert "\n" not in first and "***" not in first
