"""Chapters with times through the life of a library: ingest, new descriptions, older libraries, repair."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from equality import contents
from media import Shot, make_video

from vfindex.indexer.models.presets import Choice
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.reindex import reindex
from vfindex.indexer.runs.repair import repair
from vfindex.indexer.runs.report import Report
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.writer import writing

Told = tuple[str, float, float]
WALRUS, OPERA = ("The walrus", 0.0, 3.0), ("An opera", 3.0, 6.0)


def describe(folder: Path, chapters: Sequence[Told]) -> None:
    """Write what yt-dlp writes."""
    listed = [{"title": title, "start_time": start_s, "end_time": end_s} for title, start_s, end_s in chapters]
    (folder / "v001.info.json").write_text(json.dumps({"title": "Two acts", "chapters": listed}))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    make_video(folder / "v001.mp4", shots=[Shot("red", 3), Shot("blue", 3)])
    describe(folder, [WALRUS, OPERA])
    return folder


@pytest.fixture
def settings(models_cache: Path) -> RunSettings:
    return RunSettings(cache=models_cache, choice=Choice("lite"), workers=1, asr=False, ocr=False)


@pytest.fixture
def library(tmp_path: Path, videos: Path, settings: RunSettings) -> Path:
    assert ingest(tmp_path / "lib", [os.fsencode(videos)], settings).indexed == 1
    return tmp_path / "lib"


def test_chapters_beyond_the_limit_are_in_the_report(tmp_path: Path, videos: Path, settings: RunSettings) -> None:
    describe(videos, [(f"part {n}", n / 1000, (n + 1) / 1000) for n in range(1002)])
    report = ingest(tmp_path / "lib", [os.fsencode(videos)], settings)
    assert [(note.code, note.reason) for note in report.notes] == [
        ("chapters", "2 chapters after the first 1000 left out")
    ]


def again(library: Path, settings: RunSettings) -> Report:
    report = reindex(library, settings)
    assert report.adds_up()
    return report


def chapters_of(library: Path) -> list[Told]:
    """Return the chapters as segments, after a check that search has their words and no others for them."""
    with Library.open(library).snapshot() as snapshot:
        [video] = snapshot.videos()
        found = [(s.text, s.start_s, s.end_s) for s in snapshot.segments(video.id) if s.source == "chapter"]
        assert all(s.track == "text" for s in snapshot.segments(video.id))
        assert [(each.title, each.start_s, each.end_s) for each in video.chapters] == found
    with closing(sqlite3.connect(library / "library.db")) as connection:
        words = connection.execute("SELECT text FROM document WHERE segment_id IS NOT NULL ORDER BY segment_id")
        assert [text for (text,) in words] == [title for title, _, _ in found]
        whole = connection.execute("SELECT text FROM document WHERE segment_id IS NULL").fetchall()
        assert not any("walrus" in text.lower() for (text,) in whole)
    assert verify(Library.open(library)).clean
    return found


def text_vectors(library: Path) -> list[np.ndarray]:
    return [vectors.embeddings["text"] for _, (_, _, vectors) in sorted(contents(library).items())]


def test_each_chapter_describes_its_clips(library: Path) -> None:
    assert chapters_of(library) == [WALRUS, OPERA]
    first, second = text_vectors(library)
    assert 0 < first @ second < 0.95, "half of each is the title of the video"


def test_a_new_description_moves_them(library: Path, videos: Path, settings: RunSettings) -> None:
    before = text_vectors(library)
    assert again(library, settings).unchanged == 1
    moved = [("The walrus", 3.0, 6.0), ("A harbour", 0.0, 3.0)][::-1]
    describe(videos, moved)
    assert again(library, settings).reworded == 1
    assert chapters_of(library) == moved
    after = text_vectors(library)
    assert after[1] @ before[0] > 0.999 and after[0] @ before[0] < 0.95
    (videos / "v001.info.json").unlink()
    assert again(library, settings).reworded == 1
    assert chapters_of(library) == []


def test_a_renamed_video_keeps_them(library: Path, videos: Path, settings: RunSettings) -> None:
    for path in sorted(videos.iterdir()):
        path.rename(path.with_name(path.name.replace("v001", "v002")))
    before = text_vectors(library)
    assert again(library, settings).moved == 1
    assert chapters_of(library) == [WALRUS, OPERA]
    assert all(a @ b > 0.999 for a, b in zip(text_vectors(library), before, strict=True))


def test_titles_of_an_older_library_get_their_times(library: Path, settings: RunSettings) -> None:
    before = text_vectors(library)
    make_older(library, '["The walrus", "An opera"]')
    assert again(library, settings).reworded == 1
    assert chapters_of(library) == [WALRUS, OPERA]
    assert all(a @ b > 0.999 for a, b in zip(text_vectors(library), before, strict=True))
    assert again(library, settings).unchanged == 1, "they are read once"


def test_titles_without_times_are_read_once(library: Path, videos: Path, settings: RunSettings) -> None:
    (videos / "v001.info.json").write_text(json.dumps({"title": "Two acts", "chapters": [{"title": "An opera"}]}))
    assert again(library, settings).reworded == 1
    make_older(library, '["An opera"]')
    assert again(library, settings).reworded == 1
    assert again(library, settings).unchanged == 1


def make_older(library: Path, chapters: str) -> None:
    """Store titles alone, as versions before chapters had times did."""
    with writing(library) as writer, writer.catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE video SET chapters = ?", (chapters,))


def test_damaged_ones_are_repaired_from_the_video(library: Path, settings: RunSettings) -> None:
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute("UPDATE segment SET start_s = 1.5 WHERE text = 'An opera'")
    assert not verify(Library.open(library)).clean
    assert not repair(library, settings).left
    assert chapters_of(library) == [WALRUS, OPERA]
