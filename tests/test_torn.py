"""Files of a library truncated or zeroed by a power cut or a bad disk: verify finds them, repair restores them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from crashing import copy_library
from equality import assert_equal_libraries
from media import Shot, make_video

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.repair import RepairReport, repair
from vfindex.indexer.runs.run import Callbacks
from vfindex.search.engine import SearchEngine
from vfindex.storage.db.sources import Root, remember
from vfindex.storage.errors import LibraryDamaged, ModelError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.repair import UNFINISHED
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.writer import writing

PAGE_BYTES = 4096
Harm = Callable[[Path], None]
_OWNED = ("location", "unit", "clip", "segment", "document", "attempt")
_ALL_OF_VIDEO_1 = [
    "DELETE FROM embedding WHERE clip_id IN (SELECT id FROM clip WHERE video_id = 1)",
    *(f"DELETE FROM {table} WHERE video_id = 1" for table in _OWNED),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Path:
    """Return a folder of videos and the library of them, `library`; tests work on copies."""
    base = tmp_path_factory.mktemp("torn")
    (base / "videos").mkdir()
    for name, colour in (("red door", "red"), ("blue hall", "blue"), ("green hill", "green")):
        path = make_video(base / "videos" / f"{name}.mp4", shots=[Shot(colour, 2), Shot("white", 2)], fps=10)
        text = f"1\n00:00:00,500 --> 00:00:02,500\nThis is the {name} of our xylophone museum.\n"
        path.with_suffix(".srt").write_text(text)
    settings = RunSettings(cache=models_cache, workers=2, asr=False, ocr=False)
    ingest(base / "library", [os.fsencode(base / "videos")], settings)
    return base


@pytest.fixture
def library(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the library, its log written into the database."""
    folder = copy_library(made / "library", tmp_path / "library")
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


def repaired(folder: Path, made: Path, cache: Path) -> RepairReport:
    """Return the report of a repair; fail unless it restores the library fully."""
    report = repair(folder, RunSettings(cache, workers=2))
    result = verify(Library.open(folder))
    assert (result.problems, result.notes) == ([], [])
    assert_equal_libraries(folder, made / "library")
    return report


def cut(path: Path) -> None:
    """Truncate a file to the first half."""
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    """Zero the second half of a file."""
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))


# --- derived files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [cut, zero])
def test_torn_files_are_found_and_restored(library: Path, made: Path, models_cache: Path, harm: Harm) -> None:
    before = {path.name: path.read_bytes() for path in (library / "thumbs").rglob("*.webp")}
    first, second, *_ = sorted((library / "thumbs").rglob("*.webp"))
    [encoder] = (library / "query").iterdir()
    for path in list(encoder.iterdir()):  # copies, not links shared with other libraries
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    for path in [path for path in (library / "index").rglob("*") if path.is_file()]:
        harm(path)
    assert SearchEngine.open(library).search("the xylophone museum"), "an exact scan answers"
    harm(first)
    second.unlink()
    (library / "thumbs" / "stray.webp").write_bytes(b"of a killed command")
    harm(encoder / ("model.onnx.data" if harm is zero else "tokenizer.json"))
    result = verify(Library.open(library))
    assert str(encoder) in result.problems[0] and "the joint index" in result.problems[1]
    assert "2 thumbnails missing or damaged" in result.notes[0] and "1 thumbnail of no clip" in result.notes[1]
    if harm is cut:  # a search checks only the length of the weights
        with pytest.raises(ModelError, match=r"damaged; run: vfindex repair$"):
            SearchEngine.open(library).search("a question")
    report = repaired(library, made, models_cache)
    assert (report.encoders, report.thumbnails, report.strays) == ([encoder.name], 2, 1)
    assert (report.run.found, report.damaged, report.kept) == (0, 0, None), "no video was indexed again"
    assert {path.name: path.read_bytes() for path in (library / "thumbs").rglob("*.webp")} == before


# --- the log --------------------------------------------------------------------------------------------------------


def test_a_truncated_log_costs_at_most_the_last_unit(made: Path, models_cache: Path, tmp_path: Path) -> None:
    """As after a kill: the files are copied while the writer has them open, then the log is truncated."""
    live, copies = tmp_path / "live", []
    settings = RunSettings(cache=models_cache, workers=1, asr=False, ocr=False)

    def copy_it(_: object) -> None:
        copies.append(copy_library(live, tmp_path / f"copy {len(copies)}"))

    ingest(live, [os.fsencode(made / "videos")], settings, Callbacks(progress=copy_it))
    last = copies[-1]
    for copy in copies:
        cut_one = copy_library(copy, copy.with_name(f"cut {copy.name}"))
        log = cut_one / "library.db-wal"
        os.truncate(log, log.stat().st_size - 100)
        assert _finished(cut_one) >= _finished(copy) - 1
        assert verify(Library.open(cut_one)).problems == []
        last = cut_one
    ingest(last, [os.fsencode(made / "videos")], settings)
    assert_equal_libraries(last, made / "library")


def _finished(folder: Path) -> int:
    with Library.open(folder).snapshot() as snapshot:
        return snapshot.counts().get("indexed", 0)


# --- the database ---------------------------------------------------------------------------------------------------


def change(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE embedding SET vector = zeroblob(length(vector)) WHERE clip_id = 1",
        "UPDATE frame SET vectors = zeroblob(length(vectors)) WHERE clip_id = 1",
        "UPDATE frame SET times = zeroblob(length(times)) WHERE clip_id = 1",
        "UPDATE clip SET end_s = end_s + 1 WHERE id = 1",
        "UPDATE segment SET text = 'something else' WHERE id = 1",
        "UPDATE video SET tags = substr(tags, 2) WHERE id = 1",
        "DELETE FROM embedding WHERE clip_id = 1",
    ],
)
def test_damaged_rows_are_reported_with_their_video(library: Path, statement: str) -> None:
    change(library, statement)
    result = verify(Library.open(library))
    assert len(result.redo) == 1
    assert result.problems[-1] == f"1 video must be indexed again: {os.fsdecode(result.redo[0])}; run: vfindex repair"


def test_videos_with_damaged_rows_are_indexed_again(library: Path, made: Path, models_cache: Path) -> None:
    change(library, "UPDATE embedding SET vector = zeroblob(length(vector)) WHERE clip_id = 1")
    change(library, "UPDATE segment SET text = 'something else' WHERE video_id = 3")
    change(library, "DELETE FROM document WHERE kind = 'speech' AND video_id = 2")
    report = repaired(library, made, models_cache)
    assert (report.damaged, report.run.indexed, report.kept, report.words) == (2, 2, None, True)


@pytest.mark.parametrize(
    ("statements", "again"),
    [
        (["DELETE FROM clip WHERE id = 1"], 1),
        (["DELETE FROM clip WHERE video_id = 1"], 1),
        (["DELETE FROM clip WHERE id = 1", "DELETE FROM embedding WHERE clip_id = 1"], 1),
        (["DELETE FROM embedding WHERE clip_id = 1 AND modality = 'speech'"], 1),
        (["DELETE FROM frame WHERE clip_id = 1"], 1),
        (["DELETE FROM unit WHERE video_id = 1"], 1),
        (["DELETE FROM segment WHERE video_id = 1", "DELETE FROM document WHERE video_id = 1"], 1),
        (["DELETE FROM segment WHERE video_id = 1", "DELETE FROM document WHERE segment_id IS NOT NULL"], 1),
        (["DELETE FROM document WHERE kind != 'speech' AND video_id = 1"], 0),
        (["DELETE FROM document"], 0),
        (["DELETE FROM location WHERE video_id = 1"], 1),
        (["DELETE FROM video WHERE id = 1"], 1),
        (["DELETE FROM video WHERE id = 1", *_ALL_OF_VIDEO_1], 1),
        (["DELETE FROM root"], 0),
        (["DELETE FROM root", "DELETE FROM location WHERE video_id = 1"], 1),
    ],
)
def test_lost_rows_are_found_and_restored(
    library: Path, made: Path, models_cache: Path, statements: list[str], again: int
) -> None:
    for statement in statements:
        change(library, statement)
    assert not verify(Library.open(library)).clean
    assert repaired(library, made, models_cache).run.indexed == again
    with closing(sqlite3.connect(library / "library.db")) as connection:
        assert connection.execute("SELECT path FROM root").fetchall() == [(os.fsencode(made / "videos"),)]


@pytest.mark.parametrize("table", ["embedding", "frame", "document_fts_data"])
def test_a_damaged_database_is_salvaged(library: Path, made: Path, models_cache: Path, table: str) -> None:
    reader = SearchEngine.open(library)
    assert len(reader.search("the xylophone museum")) == 3
    with closing(sqlite3.connect(library / "library.db")) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        [(page,)] = connection.execute(query, (table,)).fetchall()
    with (library / "library.db").open("rb+") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(os.urandom(PAGE_BYTES))
    result = verify(Library.open(library))
    assert not result.clean
    assert len(result.redo) == (0 if table == "document_fts_data" else 3)
    report = repaired(library, made, models_cache)
    assert report.kept is not None and report.kept.is_file()
    assert report.run.indexed == len(result.redo)
    assert len(reader.search("the xylophone museum")) == 3, "who had it open goes over to the new one"


def test_an_unreadable_database_is_a_sentence(library: Path, models_cache: Path) -> None:
    with (library / "library.db").open("rb+") as file:
        file.write(bytes(PAGE_BYTES))
    (library / "library.json").unlink()  # with the copy of the settings, everything is indexed again
    before = (library / "library.db").read_bytes()
    with pytest.raises(LibraryDamaged):
        repair(library, RunSettings(models_cache))
    assert (library / "library.db").read_bytes() == before


def test_files_below_two_sources_count_once(library: Path, made: Path, models_cache: Path) -> None:
    """Indexed again or up to date: the folder was ingested, then one of its files by name."""
    named = made / "videos" / "blue hall.mp4"
    with writing(library) as writer:
        remember(writer.catalog, [Root(os.fsencode(named))])
        writer.write_backup()
    (library / "library.db").write_bytes(b"")
    found = repair(library, RunSettings(models_cache, workers=2)).run
    assert (found.found, found.indexed, found.unchanged) == (3, 3, 0)
    with writing(library) as writer:
        writer.catalog.put(UNFINISHED, "1")
    found = repair(library, RunSettings(models_cache, workers=2)).run
    assert (found.found, found.indexed, found.unchanged) == (3, 0, 3)


def test_a_missing_video_waits_for_the_next_repair(made: Path, models_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "videos", tmp_path / "videos")
    library = tmp_path / "library"
    ingest(
        library, [os.fsencode(tmp_path / "videos")], RunSettings(cache=models_cache, workers=2, asr=False, ocr=False)
    )
    change(library, "UPDATE clip SET end_s = end_s + 1 WHERE video_id = 1")
    [path] = verify(Library.open(library)).redo
    away = Path(os.fsdecode(path)).rename(tmp_path / "away.mp4")
    report = repair(library, RunSettings(models_cache, workers=2))
    assert (report.damaged, report.run.indexed, len(report.run.failed)) == (1, 0, 1)
    assert verify(Library.open(library)).problems == []
    away.rename(os.fsdecode(path))
    report = repair(library, RunSettings(models_cache, workers=2))
    assert (report.damaged, report.run.indexed, report.run.failed) == (0, 1, [])
    assert len(SearchEngine.open(library).search("the xylophone museum")) == 3
