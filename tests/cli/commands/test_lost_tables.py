"""A library.db that has lost a table, or another part of its schema: `verify` names it, and `repair` restores it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.sources import Root, exclusions, remember, roots
from vfindex.storage.writer import writing

READERS = ("search x", "ask x", "status", "list", "show /videos/a.mp4", "backup copy", "duplicates", "unusual")
WRITERS = ("ingest .", "reindex", "retry", "remove /videos/a.mp4", "rebuild", "upgrade --preset lite")
LOST_LIST = "library.db has lost the rows of its table migration; run: vfindex repair"
# Without these tables nothing is left of a video but its paths, if these: it is indexed again from its file.
INDEXED_AGAIN = {"video", "unit", "clip", "segment", "embedding", "frame"}


def every_part() -> list[str]:
    """Return all tables, and an index and triggers, as KIND NAME."""
    catalog = Catalog.open(None)
    with catalog.transaction() as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        tables = [f"table {row.name}" for row in connection.exec_driver_sql(query)]
    catalog.close()
    return [*tables, "index segment_by_video", "trigger index_change_insert", "trigger label_delete"]


@pytest.fixture
def library(run: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a library with a source and a removed path, chosen for all commands."""
    (tmp_path / "videos").mkdir()
    with writing(library) as writer:
        remember(writer.catalog, [Root(bytes(tmp_path / "videos"), ("*.part",))])
    assert run("remove", "/videos/b.mp4", "--library", library).code == 0
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    monkeypatch.chdir(tmp_path)
    return library


def harm(library: Path, statement: str) -> None:
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute(statement)


def contents(run: Any, library: Path) -> dict[str, Any]:
    """Return what is found, what is listed, and what only library.json can restore."""
    found, listed = (json.loads(run(*command.split(), "--json").out) for command in ("search x", "list"))
    with writing(library) as writer:
        return {
            "hits": found["hits"],
            "listed": listed["videos"],
            "roots": [(root.path, root.exclude) for root in roots(writer.catalog)],
            "removed": exclusions(writer.catalog),
        }


@pytest.mark.parametrize("part", every_part())
def test_a_lost_part_is_named_and_repaired(run: Any, library: Path, part: str) -> None:
    before, table = contents(run, library), part.split()[1]
    harm(library, f"DROP {part}")
    found = run("verify")
    assert found.code == 1
    assert f"library.db has lost: {part}" in found.err or (table == "migration" and LOST_LIST in found.err)
    assert found.err.splitlines()[0].endswith("; run: vfindex repair") and "no such table" not in found.err
    done = run("repair")
    assert done.code == (1 if table in INDEXED_AGAIN else 0), done
    assert done.err.count("there is no such file") == (1 if table in INDEXED_AGAIN else 0)
    [kept] = library.glob("library.damaged-*.db")
    assert str(kept) in done.out
    assert run("verify").code == 0
    after = contents(run, library) if done.code == 0 and table != "location" else before
    assert after == before
    assert run("repair").out.startswith("nothing to repair\n")
    assert [*library.glob("library.damaged-*.db")] == [kept]


@pytest.mark.parametrize("backup", [True, False])
def test_a_lost_list_of_migrations_is_no_empty_library(run: Any, library: Path, backup: bool) -> None:
    before = contents(run, library)
    harm(library, "DELETE FROM migration")
    if not backup:
        (library / "library.json").unlink()
    for command in (*READERS, *WRITERS):
        ran = run(*command.split())
        assert (command, ran.code, ran.err) == (command, 1, f"vfindex: {LOST_LIST}\n")
    assert run("verify").err == f"problem: {LOST_LIST}\n"
    assert run("repair").code == 0
    assert run("verify").code == 0
    assert contents(run, library) == before


@pytest.mark.parametrize("backup", [None, "[]"])
def test_lost_settings_without_a_copy_are_a_sentence(run: Any, library: Path, backup: str | None) -> None:
    harm(library, "DROP TABLE meta")
    (library / "library.json").unlink()
    if backup is not None:
        (library / "library.json").write_text(backup)
    before = (library / "library.db").read_bytes()
    done = run("repair")
    assert (done.code, done.err.count("\n")) == (1, 1) and "put back library.db from a backup" in done.err
    assert run("verify").err.splitlines()[-1] == done.err.replace("vfindex", "problem", 1).strip()
    assert (library / "library.db").read_bytes() == before
