"""Clips decoded again and files hashed again: `vfindex verify --sample` and `--full`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from library_maker import all_clip_ids
from media import Shot, make_video

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.spot_check import SAME_COSINE, spot_check
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.joint.codecs import checksum, pack_vector, unpack_vector
from vfindex.storage.library import Library
from vfindex.storage.maintenance.file_hashes import check_files
from vfindex.storage.records import FloatArray


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Path:
    """Return a library of two videos in `videos` beside it; a test leaves it as it was."""
    base = tmp_path_factory.mktemp("spot_check")
    (base / "videos").mkdir()
    make_video(base / "videos" / "one.mp4", shots=[Shot("red", 2), Shot("blue", 3, to="white")], fps=10)
    make_video(base / "videos" / "two.mp4", shots=[Shot("green", 3, to="black"), Shot("grey", 2)], fps=10)
    settings = RunSettings(cache=models_cache, workers=2, asr=False, ocr=False)
    ingest(base / "library", [os.fsencode(base / "videos")], settings)
    return base / "library"


def test_clips_read_again_are_the_same(library: Path, models_cache: Path) -> None:
    found = spot_check(library, 100, models_cache)
    assert (found.clips, found.problems, found.notes) == (len(all_clip_ids(Library.open(library))), [], [])
    assert found.lowest is not None and found.lowest >= SAME_COSINE


def test_a_wrong_vector_is_reported(library: Path, models_cache: Path) -> None:
    """Its checksum is right: only reading the clip again shows it."""

    def put(vector: bytes) -> None:
        values = (vector, checksum(vector))
        with catalog.transaction() as connection:
            connection.exec_driver_sql(
                "UPDATE embedding SET vector = ?, crc32 = ? WHERE clip_id = 1 AND modality = 'visual'", values
            )

    catalog = Catalog.open(library / "library.db")
    with catalog.transaction() as connection:
        query = "SELECT vector FROM embedding WHERE clip_id = 1 AND modality = 'visual'"
        [(before,)] = connection.exec_driver_sql(query).all()
    other: FloatArray = -unpack_vector(before)
    put(pack_vector(other))
    found = spot_check(library, 100, models_cache)
    put(before)
    catalog.close()
    assert len(found.problems) == 1 and "read again, its vector has a cosine of -1.000" in found.problems[0]


def test_missing_files_are_noted(library: Path, models_cache: Path) -> None:
    video = library.parent / "videos" / "one.mp4"
    away = video.rename(library.parent / "away.mp4")
    found, files = spot_check(library, 100, models_cache), check_files(library)
    away.rename(video)
    assert (found.problems, files.problems) == ([], [])
    assert len(found.notes) == 2 and files.notes == [f"{video} is not there"]


def test_bytes_changed_without_size_and_time_are_reported(library: Path) -> None:
    first = check_files(library)
    assert (first.compared + first.first, first.problems) == (2, [])
    again = check_files(library)
    assert (again.compared, again.first, again.problems) == (2, 0, [])
    video = library.parent / "videos" / "two.mp4"
    before, stat = video.read_bytes(), video.stat()
    video.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    decayed = check_files(library)
    video.write_bytes(before)
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(decayed.problems) == 1 and decayed.problems[0].startswith(f"{video} has other bytes")
    video.touch()
    assert check_files(library).notes == [f"{video} has changed since it was indexed; `vfindex reindex` takes it up"]
