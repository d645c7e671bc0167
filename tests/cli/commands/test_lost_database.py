"""A library whose library.db is missing, empty or no database: commands name the repair, which restores it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from vfindex.search.engine import check_comparable
from vfindex.search.service import SearchService
from vfindex.storage.db.sources import Root, exclusions, remember, roots
from vfindex.storage.errors import DatabaseLost, LibraryDamaged
from vfindex.storage.index.model_versions import put_in_use, version_folder
from vfindex.storage.maintenance.shared_spec import exported, use_spec, used_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.writer import writing

READERS = ("search x", "status", "verify", "list", "show /videos/a.mp4", "backup copy")
WRITERS = ("ingest .", "reindex", "retry", "remove /videos/a.mp4", "rebuild", "upgrade --preset lite")
ADVICE = "; put back the file from a backup, or run: vfindex repair\n"


def delete(database: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def empty(database: Path) -> None:
    delete(database)
    database.touch()


def zero_first_page(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(bytes(4096))


HARMS = {
    delete: " is missing" + ADVICE,
    empty: " has lost all that it held" + ADVICE,
    zero_first_page: " is no database any more" + ADVICE,
}


@pytest.fixture
def library(run: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a library with a source, a removed path and a shared spec, chosen for all commands."""
    with writing(library) as writer:
        remember(writer.catalog, [Root(b"/videos", ("*.part",))])
    assert run("remove", "/videos/b.mp4", "--library", library).code == 0
    (tmp_path / "spec.json").write_text(exported([library]).to_json())
    use_spec(library, tmp_path / "spec.json")
    with writing(library) as writer:
        writer.checkpoint()
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    monkeypatch.chdir(tmp_path)
    return library


def kept(library: Path) -> dict[str, Any]:
    """Return what only library.json can restore."""
    with writing(library) as writer:
        meta = LibraryMeta(writer.catalog)
        return {
            "setup": meta.setup,
            "shared": meta.shared_spec and meta.shared_spec.hash,
            "roots": [(root.path, root.exclude) for root in roots(writer.catalog)],
            "removed": exclusions(writer.catalog),
        }


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_commands_name_the_repair_and_it_restores(run: Any, library: Path, harm: Callable[[Path], None]) -> None:
    before, backup = kept(library), (library / "library.json").read_bytes()
    assert before["removed"] and before["shared"] and before["roots"]
    harm(library / "library.db")
    files = sorted(library.rglob("*"))
    for command in (*READERS, *WRITERS):
        ran = run(*command.split())
        told = ran.err.splitlines(keepends=True)[-1]
        assert (command, ran.code, told.endswith(HARMS[harm]) or "lost its settings" + ADVICE in told) == (
            command,
            1,
            True,
        )
        assert (library / "library.json").read_bytes() == backup, command
    if harm is delete:
        assert {path.name for path in set(library.rglob("*")) - set(files)} <= {"lock"}
    assert run("repair").code == 0
    assert kept(library) == before
    assert run("verify").code == 0


def lose_setup(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "library.db")) as database, database:
        database.execute("DELETE FROM meta WHERE key = 'setup'")


ASKING = ("search x", "ask x", "label colours.json", "duplicates", "unusual", "rebuild", "spec use --own", *WRITERS)


@pytest.mark.parametrize("edition", [0, 1])
def test_a_lost_setup_is_named_where_a_library_would_seem_empty(run: Any, library: Path, edition: int) -> None:
    place = version_folder(library, edition)
    if edition:
        shutil.copytree(library, place)
        put_in_use(library, edition)
    before = kept(library)
    lose_setup(place)
    Path("colours.json").write_text(json.dumps({"name": "colours", "classes": ["red", "blue"]}))
    fault = f"{place / 'library.db'} has lost its settings" + ADVICE
    for command in ASKING:
        if command.startswith("remove"):
            continue
        ran = run(*command.split())
        assert (ran.code, ran.err.endswith(fault)) == (1, True), (command, ran.err)
    assert f"preset      {fault}" in run("status").out and "\nspec " not in run("status").out
    assert json.loads(run("status", "--json").out)["setup_problem"] + "\n" == fault
    assert fault in run("verify").err
    examined = run("doctor")
    assert examined.code == 1 and "lost its settings;" in " ".join(examined.out.split())
    assert run("remove", "/videos/a.mp4").code == 0
    assert fault in run("status").out, "also without videos"
    assert run("repair").out.startswith("repaired: settings and sources")
    assert kept(library)["setup"] == before["setup"] and kept(library)["shared"] == before["shared"]


def test_a_lost_setup_without_a_copy_is_not_chosen_anew(run: Any, library: Path) -> None:
    """Another preset's queries would be compared with the vectors that there are."""
    lose_setup(library)
    (library / "library.json").unlink()
    fault = f"{library / 'library.db'} has lost its settings, and library.json has no copy of them; put back library.db"
    for command in ("search x", "ingest .", "reindex", "rebuild", "repair"):
        ran = run(*command.split())
        assert (ran.code, fault in ran.err) == (1, True), (command, ran.err)
    assert fault in run("status").out and fault in run("verify").err
    with SearchService(library) as service, pytest.raises(LibraryDamaged, match="has lost its settings"):
        service.check()


def test_a_setup_that_is_lost_under_open_libraries_is_named(library: Path, tmp_path: Path) -> None:
    other = shutil.copytree(library, tmp_path / "other")
    fault = re.escape(f"{other / 'library.db'} has lost its settings{ADVICE.strip()}")
    with SearchService([library, other]) as service:
        service.check()
        with service.opened() as (libraries, snapshots):
            check_comparable(libraries, snapshots)
        lose_setup(other)
        with service.opened() as (libraries, snapshots), pytest.raises(DatabaseLost, match=fault):
            check_comparable(libraries, snapshots)
    with pytest.raises(DatabaseLost, match=fault):
        used_spec(other)


@pytest.mark.parametrize("stored", [None, "{}", "x", '{"visual": {}}'])
def test_lost_priors_are_named(run: Any, library: Path, stored: str | None) -> None:
    """Empty ones ended `verify`, `label` and `unusual` as a bug."""
    with closing(sqlite3.connect(library / "library.db")) as database, database:
        # Without a checksum, as in a library of before it.
        database.execute("UPDATE meta SET value = '', seal = NULL WHERE key = 'shared_spec'")
        database.execute("UPDATE meta SET value = ?, seal = NULL WHERE key = 'priors'", (stored or "",))
        if stored is None:
            database.execute("DELETE FROM meta WHERE key = 'priors'")
    Path("colours.json").write_text(json.dumps({"name": "colours", "classes": ["red", "blue"]}))
    for command in ("label colours.json", "unusual", "rebuild", "verify"):
        ran = run(*command.split())
        assert ran.code == 1 and "library.db" in ran.err and "Traceback" not in ran.err, (command, ran.err)
        assert "vfindex verify" not in ran.err and ("run: vfindex repair" in ran.err) == (stored is None), ran.err
        assert "(priors)" in ran.err or (command == "rebuild" and "has lost 1 setting;" in ran.err), ran.err
    if stored is None:
        assert run("repair").code == 0
        assert run("verify").code == 0


def test_a_damaged_list_of_query_encoders_is_named(run: Any, library: Path) -> None:
    with closing(sqlite3.connect(library / "library.db")) as database, database:
        database.execute("UPDATE meta SET value = 'x', seal = NULL WHERE key = 'query_models'")
    assert "library.db is damaged: the library's list of query encoders (query_models) cannot" in run("verify").err


def test_repair_says_that_nothing_was_left(run: Any, library: Path) -> None:
    delete(library / "library.db")
    ran = run("repair")
    assert ran.out.startswith(
        "library.db was missing or empty, and is rebuilt from library.json\nnothing else to repair\n"
    )
    assert "library.db was missing or empty; settings and folders are restored from library.json" in ran.err
    assert list(library.glob("library.damaged-*")) == []


def test_repair_does_not_say_that_rows_were_saved_where_none_were(run: Any, library: Path) -> None:
    zero_first_page(library / "library.db")
    ran = run("repair", "--json")
    [old] = library.glob("library.damaged-*")
    found = json.loads(ran.out)
    assert (found["saved"], found["kept"], "was saved" in ran.err) == (0, str(old), False)
    zero_first_page(library / "library.db")
    assert ": no row of it was readable\n" in run("repair").out


def test_restored_files_keep_the_mode_of_the_library(run: Any, library: Path) -> None:
    for path in (library / "library.db", library / "library.json"):
        path.chmod(0o660)
    delete(library / "library.db")
    assert run("repair").code == 0
    assert (library / "library.db").stat().st_mode & 0o777 == 0o660


def test_a_lost_database_of_a_later_version_is_restored(run: Any, library: Path) -> None:
    place = version_folder(library, 1)
    shutil.copytree(library, place)
    put_in_use(library, 1)
    before = kept(library)
    delete(place / "library.db")
    assert str(place / "library.db") + HARMS[delete] in run("status").err
    assert run("repair").code == 0
    assert kept(library) == before


def newer(backup: dict[str, Any]) -> bytes:
    held = json.dumps(json.loads(backup["held"]) | {"of_a_newer_vfindex": 1})
    return json.dumps({"held": held, "crc32": zlib.crc32(held.encode())}).encode()


@pytest.mark.parametrize("spoil", [lambda _: b"{}", newer], ids=["damaged", "newer"])
@pytest.mark.parametrize("harm", [delete, empty], ids=lambda harm: harm.__name__)
def test_an_unreadable_backup_is_never_overwritten(
    run: Any, library: Path, harm: Callable[[Path], None], spoil: Callable[[dict[str, Any]], bytes]
) -> None:
    backup = library / "library.json"
    backup.write_bytes(spoil(json.loads(backup.read_bytes())))
    before = backup.read_bytes()
    harm(library / "library.db")
    for command in ("search x", "ingest .", "repair"):
        ran = run(*command.split())
        assert ran.code == 1 and ran.err.count("\n") == 1
        assert "; put back library.db from a backup, or move " in ran.err
        assert backup.read_bytes() == before


def test_a_backup_keeps_the_setup_that_the_database_has_lost(run: Any, library: Path) -> None:
    before = kept(library)
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key = 'setup'")
    assert run("remove", "/videos/a.mp4").code == 0
    assert run("repair").code == 0
    assert kept(library)["setup"] == before["setup"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_backup_without_access_is_a_sentence(run: Any, library: Path) -> None:
    delete(library / "library.db")
    (library / "library.json").chmod(0)
    ran = run("status")
    assert (ran.code, ran.err.count("\n")) == (1, 1) and "no permission to read" in ran.err


def test_a_library_whose_making_was_interrupted_is_made_again(run: Any, tmp_path: Path) -> None:
    """The database has no setup, and there is no library.json yet."""
    folder = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt), writing(folder):
        raise KeyboardInterrupt
    folder.mkdir(exist_ok=True)
    with writing(folder) as writer:
        assert writer.setup() is None
    (tmp_path / "empty").mkdir()
    assert run("ingest", tmp_path / "empty", "--library", folder).code == 0
    assert (folder / "library.json").exists()
