"""A library of the first release becomes one of today, with all that it holds."""

from __future__ import annotations

from pathlib import Path

from library_maker import add_video, axis, clip, install
from sqlalchemy import text
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from vfindex.storage import schema
from vfindex.storage.database import connect
from vfindex.storage.library import Library
from vfindex.storage.migrations import MIGRATIONS
from vfindex.storage.verify import verify
from vfindex.storage.writer import writing

NEW_IN_VIDEO = ("state_before", "coarse")
LATER = ("create_roots", "let_videos_vanish", "create_attempts", "remember_what_lies_beside", "mark_coarse_videos")


def old_video_table() -> str:
    """Return the statement that made `video` in the first release."""
    lines = str(CreateTable(schema.video).compile(dialect=sqlite.dialect())).splitlines()
    kept = (line for line in lines if not any(name in line for name in NEW_IN_VIDEO))
    return "\n".join(kept).replace(", 'vanished')", ")")


def make_old(folder: Path) -> None:
    """Give a library the tables of the first release."""
    engine = connect(folder / "library.db", write=True)
    with engine.connect() as connection:
        connection.connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[attr-defined]
        connection.commit()
        columns = ", ".join(c.name for c in schema.video.columns if c.name not in NEW_IN_VIDEO)
        connection.execute(text("CREATE TABLE today AS SELECT * FROM video"))
        connection.execute(text("DROP TABLE video"))
        connection.execute(text(old_video_table()))
        connection.execute(text(f"INSERT INTO video ({columns}) SELECT {columns} FROM today"))
        for name in ("today", "tombstone", "root", "attempt"):
            connection.execute(text(f"DROP TABLE {name}"))
        connection.execute(text("ALTER TABLE location DROP COLUMN beside"))
        connection.execute(text(f"DELETE FROM migration WHERE name IN {LATER}"))
        connection.commit()
    engine.dispose()


def test_videos_can_vanish_from_an_old_library(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        for number, name in enumerate(("a", "b")):
            add_video(writer, name, [clip(visual=axis(number))])
        writer.publish()
    make_old(tmp_path)
    with writing(tmp_path) as writer, writer.library.snapshot() as before:
        assert len(before.clip_ids()) == 2
        writer.catalog.vanish([b"/videos/a"])
        assert writer.catalog.tombstones()[b"/videos/a"].state == "indexed"
        known = writer.catalog.known(recognised=False).get(b"/videos/b")
        assert known is not None
        assert (known.beside, known.coarse, writer.catalog.attempts(1)) == ("", 0, [])
        writer.catalog.begin_run("x")
    with Library.open(tmp_path).snapshot() as snapshot:
        assert len(snapshot.clip_ids()) == 1
        assert sorted(snapshot.counts().items())[-1] == ("vanished", 1)
    assert verify(Library.open(tmp_path)).clean
    assert len(MIGRATIONS) == len({function.__name__ for function in MIGRATIONS})
