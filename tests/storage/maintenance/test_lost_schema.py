"""Tables, columns, indexes and triggers that a library of any version has lost, and a lost list of its migrations."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install
from old_libraries import BEFORE_FRAMES, BEFORE_TRACKS, FIRST, stored
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from vfindex.storage.db import migrations, schema
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.engine import connect
from vfindex.storage.db.migrations import BY_COPY, MIGRATIONS
from vfindex.storage.errors import LibraryDamaged, LibraryVersion
from vfindex.storage.library import Library
from vfindex.storage.maintenance.damage import lost_schema
from vfindex.storage.maintenance.repair import salvage_database
from vfindex.storage.maintenance.salvage import salvage, survey
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Document
from vfindex.storage.writer import writing

LOST_LIST = "library.db has lost the rows of its table migration; run: vfindex repair"
# What takes the later migrations back, newest first.
UNDO = {
    "store_labels": [*(f"DROP TRIGGER label_{event}" for event in ("insert", "update", "delete")), "DROP TABLE label"],
    "index_languages": ["DROP INDEX segment_by_language"],
    "give_segments_speakers": ["DROP INDEX segment_by_speakers", "ALTER TABLE segment DROP COLUMN speakers"],
    "give_segments_word_times": ["ALTER TABLE segment DROP COLUMN word_times"],
    "give_segments_a_box": ["ALTER TABLE segment DROP COLUMN box"],
}


def change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def found_lost(folder: Path) -> list[str]:
    engine = connect(folder / "library.db", write=False)
    try:
        return lost_schema(engine)
    finally:
        engine.dispose()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a published library of two videos."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        for number, name in enumerate(("a", "b")):
            add_video(writer, name, [clip(visual=axis(number))], documents=[Document("title", name)])
        writer.publish()
    return folder


def rows(database: Path) -> Iterator[tuple[object, ...]]:
    """Yield what the library is made of, without times of its making."""
    with closing(sqlite3.connect(database)) as connection:
        for query in (
            "SELECT id, fingerprint, state, state_before, staged, held FROM video",
            "SELECT path, video_id FROM location",
            "SELECT path, video_id FROM tombstone",
            "SELECT video_id, number, state FROM unit",
            "SELECT id, video_id, start_ms, thumbnail FROM clip",
            "SELECT clip_id, modality, vector, crc32 FROM embedding ORDER BY 1, 2",
            "SELECT clip_id, times, vectors, crc32 FROM frame ORDER BY 1",
            "SELECT id, video_id, text, track FROM segment",
            "SELECT name FROM migration ORDER BY 1",
        ):
            yield from connection.execute(query)


@pytest.mark.parametrize("version", [FIRST, BEFORE_TRACKS, BEFORE_FRAMES])
def test_an_older_library_has_lost_nothing(version: str, tmp_path: Path) -> None:
    """Not at any step of its migration either."""
    folder = stored(version, tmp_path)
    assert found_lost(folder) == []
    catalog = Catalog(connect(folder / "library.db", write=True))
    for name in list(MIGRATIONS)[: list(MIGRATIONS).index(BY_COPY)]:
        with catalog.transaction() as connection:
            if name not in migrations.applied_migrations(connection):
                migrations._apply(connection, [name])
                migrations._record(connection, [name])
        assert found_lost(folder) == [], name
    catalog.close()
    with writing(folder):
        pass
    assert found_lost(folder) == []


def test_what_later_migrations_make_is_lost_only_where_they_were_made(library: Path) -> None:
    for name, statements in UNDO.items():
        change(library, *statements)
        assert len(found_lost(library)) == 1, name
        change(library, f"DELETE FROM migration WHERE name = '{name}'")
        assert found_lost(library) == [], name
    with writing(library):
        pass
    assert found_lost(library) == []


def test_a_library_of_a_newer_version_may_lack_what_this_one_has(library: Path) -> None:
    change(library, "INSERT INTO migration VALUES ('drop_labels', '2031')", "DROP INDEX label_by_name")
    assert found_lost(library) == []
    assert salvage_database(library) is None


@pytest.mark.parametrize("version", [FIRST, BEFORE_TRACKS, BEFORE_FRAMES])
@pytest.mark.parametrize("harm", ["DELETE FROM migration", "DROP TABLE migration"])
def test_an_older_library_without_its_list_is_not_taken_for_one_of_today(
    version: str, harm: str, tmp_path: Path
) -> None:
    """A writer would take its tables for those of today; a salvage sees which columns they have."""
    sound, old = stored(version, tmp_path / "sound"), stored(version, tmp_path / "old")
    with writing(sound):
        pass
    change(old, harm)
    before = (old / "library.db").read_bytes()
    with pytest.raises(LibraryDamaged, match=LOST_LIST), writing(old):
        pass
    assert verify(Library.open(old)).problems[0] == LOST_LIST
    assert (old / "library.db").read_bytes() == before
    found = salvage_database(old)
    assert found is not None and found[0].videos == set()
    assert list(rows(old / "library.db")) == list(rows(sound / "library.db"))


def test_a_library_of_before_the_last_migrations_is_not_taken_for_one_of_today(library: Path) -> None:
    before = list(rows(library / "library.db"))
    for statements in UNDO.values():
        change(library, *statements)
    change(library, "DELETE FROM migration")
    with pytest.raises(LibraryDamaged, match=LOST_LIST):
        Catalog.open(library / "library.db")
    assert salvage_database(library) is not None
    assert found_lost(library) == []
    assert list(rows(library / "library.db")) == before


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE migration SET name = 'fold_Xords' WHERE name = 'fold_words'",
        "UPDATE migration SET name = CAST(x'ff80' AS TEXT) WHERE name = 'fold_words'",
        "ALTER TABLE migration RENAME COLUMN name TO title",
    ],
)
def test_a_damaged_list_of_migrations_is_that_of_no_newer_library(harm: str, library: Path) -> None:
    """A newer one has had all of today's migrations."""
    before = list(rows(library / "library.db"))
    change(library, harm)
    with pytest.raises(LibraryDamaged), writing(library):
        pass
    assert verify(Library.open(library)).problems[0] == LOST_LIST
    assert salvage_database(library) is not None
    assert found_lost(library) == []
    assert list(rows(library / "library.db")) == before


@pytest.mark.parametrize(
    "newer",
    [
        "ALTER TABLE clip ADD COLUMN hologram BLOB",
        "UPDATE meta SET value = '99', seal = NULL WHERE key = 'min_reader'",
    ],
)
def test_a_newer_library_without_its_list_is_refused(newer: str, library: Path, tmp_path: Path) -> None:
    change(library, newer, "DELETE FROM migration")
    before = (library / "library.db").read_bytes()
    with pytest.raises(LibraryVersion, match=r"written by a newer vfindex; upgrade with: .* then run: vfindex repair"):
        salvage_database(library)
    assert any("written by a newer vfindex" in problem for problem in verify(Library.open(library)).problems)
    assert (library / "library.db").read_bytes() == before
    assert not list(library.glob("library.d*.db"))


def test_a_salvage_would_lose_what_a_newer_version_added(library: Path, tmp_path: Path) -> None:
    change(library, "INSERT INTO migration VALUES ('add_hologram', '2031')", "DELETE FROM unit")
    with pytest.raises(LibraryVersion, match="add_hologram"):
        salvage(library / "library.db", tmp_path / "new.db")


def test_titles_of_a_lost_table_are_missed(library: Path, tmp_path: Path) -> None:
    """No count has them, so that only the name of the table says so."""
    change(library, "DROP TABLE document")
    assert salvage(library / "library.db", tmp_path / "new.db").lost.keys() == {"document"}


@pytest.mark.parametrize("table", ["embedding", "frame", "clip", "unit"])
def test_videos_of_a_lost_table_are_named(table: str, library: Path, tmp_path: Path) -> None:
    change(library, f"DROP TABLE {table}")
    assert survey(library / "library.db") == [b"/videos/a", b"/videos/b"]


def test_an_index_is_not_trusted_where_changes_were_not_recorded(library: Path, tmp_path: Path) -> None:
    change(library, "DROP TRIGGER index_change_update")
    salvage(library / "library.db", tmp_path / "new.db")
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        assert connection.execute("SELECT count(*) FROM generation").fetchone() == (0,)


def rewrite(folder: Path, table: str, sql: str) -> None:
    """Change the statement of a table, without its rows."""
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, table))
        [version] = connection.execute("PRAGMA schema_version").fetchone()
        connection.execute(f"PRAGMA schema_version={version + 1}")


@pytest.mark.parametrize(
    ("table", "column"),
    [("clip", "id"), ("video", "tags"), ("document", "id"), ("document", "kind"), ("document", "text")],
)
def test_a_table_that_lost_a_column_is_salvaged(table: str, column: str, library: Path) -> None:
    """As after damage to the list of tables: the values of a row are in other columns then."""
    statement = str(CreateTable(schema.metadata.tables[table]).compile(dialect=sqlite.dialect())).strip()
    rewrite(library, table, re.sub(rf"\n\t{column} [^\n]*", "", statement))
    assert (
        verify(Library.open(library)).problems[0]
        == f"library.db has lost: column {table}.{column}; run: vfindex repair"
    )
    found = salvage_database(library)
    assert found is not None
    assert found_lost(library) == []
    assert ("document" in found[0].lost, len(found[0].videos)) == ((True, 0) if table == "document" else (False, 2))


def test_a_list_of_migrations_without_its_columns_is_no_newer_library(library: Path) -> None:
    rewrite(library, "migration", "CREATE TABLE migration (a, b)")
    assert salvage_database(library) is not None
    assert found_lost(library) == []
