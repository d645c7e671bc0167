"""library.json: whose copy it is, what is kept in it, and what a repair takes from it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.db.integrity import PASSING
from vfindex.storage.db.sources import Root, remember, roots
from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.library import Library
from vfindex.storage.maintenance.rebuild import rebuild
from vfindex.storage.maintenance.repair import restore_settings
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.settings_backup import read_backup
from vfindex.storage.writer import writing

OTHERS = "library.json is of another library; run: vfindex repair"
LOST = "the library has lost 1 setting; run: vfindex repair"


def make(folder: Path, number: int) -> Path:
    with writing(folder) as writer:
        install(writer)
        add_video(writer, f"{number}", [clip(visual=axis(number))])
        remember(writer.catalog, [Root(b"/videos/%d" % number)])
        writer.publish()
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a library of one video, with a fusion of its own."""
    folder = make(tmp_path / "own", 1)
    rebuild(folder, form="weighted")
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return make(tmp_path / "other", 2)


def harm(folder: Path, *statements: str) -> None:
    """Change the database as no writer does."""
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def change(folder: Path, **held: Any) -> None:
    """Change what library.json holds."""
    path = folder / "library.json"
    text = json.dumps(json.loads(json.loads(path.read_bytes())["held"]) | held)
    path.write_text(json.dumps({"crc32": zlib.crc32(text.encode()), "held": text}))


def settings(folder: Path) -> dict[str, str]:
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        return dict(connection.execute("SELECT key, value FROM meta"))


def fusion(folder: Path) -> Fusion:
    with Library.open(folder).snapshot() as snapshot:
        return LibraryMeta(snapshot).own_fusion


def problems(folder: Path) -> list[str]:
    return verify(Library.open(folder)).problems


def test_a_lost_setting_is_named_and_restored(library: Path) -> None:
    before = fusion(library)
    assert before.form == "weighted"
    harm(library, "DELETE FROM meta WHERE key = 'fusion'")
    assert problems(library) == [LOST]
    with writing(library) as writer:
        with pytest.raises(LibraryDamaged, match=LOST):
            writer.setup()
        writer.write_backup()  # as a removal does
        assert restore_settings(writer.catalog, library)
        assert writer.setup() is not None
    assert (fusion(library).form, problems(library)) == (before.form, [])


def test_a_lost_setting_without_a_copy_has_its_default_after_a_repair(library: Path) -> None:
    harm(library, "DELETE FROM meta WHERE key = 'fusion'")
    (library / "library.json").unlink()
    with writing(library) as writer:
        assert restore_settings(writer.catalog, library)
    assert (fusion(library).form, problems(library)) == ("concat", [])


def test_settings_that_come_and_go_are_not_missed(library: Path) -> None:
    """An older vfindex deletes them, and counts no settings."""
    harm(library, *(f"DELETE FROM meta WHERE key = '{key}'" for key in PASSING))
    assert problems(library) == []


@pytest.mark.parametrize("lost", ["setup", "priors", "fusion"])
@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"{}"), lambda path: change(path.parent, new=1)])
def test_a_copy_that_cannot_be_read_stays_while_settings_are_lost(library: Path, spoil: Any, lost: str) -> None:
    spoil(library / "library.json")
    before = (library / "library.json").read_bytes()
    harm(library, f"DELETE FROM meta WHERE key = '{lost}'")
    with writing(library) as writer:
        writer.write_backup()
    assert (library / "library.json").read_bytes() == before


def test_a_copy_that_cannot_be_read_is_replaced_where_nothing_is_lost(library: Path) -> None:
    (library / "library.json").write_text("[" * 300_000)
    assert read_backup(library) is None and problems(library) == []
    with writing(library) as writer:
        writer.write_backup()
    assert read_backup(library) is not None


@pytest.mark.parametrize("lost", ["key = 'setup'", "1"])
def test_the_copy_of_another_library_restores_nothing(library: Path, other: Path, lost: str) -> None:
    """Its models are others than those of the vectors."""
    shutil.copy(other / "library.json", library)
    harm(library, f"DELETE FROM meta WHERE {lost}")
    fault = f"{library / 'library.db'} has lost its settings, and library.json is of another library; put back"
    with writing(library) as writer:
        with pytest.raises(LibraryDamaged) as told:
            restore_settings(writer.catalog, library)
        assert str(told.value).startswith(fault)
        assert roots(writer.catalog) == [Root(b"/videos/1")]
    assert str(told.value) in problems(library) and OTHERS not in problems(library)


def test_the_copy_of_another_library_is_known_by_its_query_encoders(library: Path, other: Path) -> None:
    """One of before November 2026 names no index."""
    (library / "query" / "by-hand").mkdir()
    setup = json.loads(settings(other)["setup"])
    for model in setup["query"].values():
        model["folder"] = "another"
    held = read_backup(other)
    assert held is not None
    shutil.copy(other / "library.json", library)
    change(library, files={}, settings={**held.settings, "setup": json.dumps(setup)})
    assert problems(library) == [OTHERS]
    change(library, settings=dict(held.settings))
    assert problems(library) == []


def test_the_copy_of_another_library_is_replaced_in_a_sound_one(library: Path, other: Path) -> None:
    shutil.copy(other / "library.json", library)
    change(library, generation=9)
    assert problems(library) == [OTHERS]
    with writing(library) as writer:
        assert not restore_settings(writer.catalog, library)
        writer.write_backup()
    assert problems(library) == []
    with writing(library) as writer:
        assert roots(writer.catalog) == [Root(b"/videos/1")]


def test_an_older_copy_of_the_database_is_known_as_the_library(library: Path, tmp_path: Path) -> None:
    """What it has lost is still restored."""
    with writing(library) as writer:
        writer.checkpoint()
    shutil.copy(library / "library.db", tmp_path / "earlier.db")
    for number in (3, 4):
        with writing(library) as writer:
            add_video(writer, f"{number}", [clip(visual=axis(number))])
            writer.publish()
    shutil.copy(tmp_path / "earlier.db", library / "library.db")
    assert not any(OTHERS in each for each in problems(library))
    harm(library, "DELETE FROM meta WHERE key = 'setup'")
    with writing(library) as writer:
        assert restore_settings(writer.catalog, library) and writer.setup() is not None


def test_a_repair_without_a_copy_of_the_setup_changes_nothing(library: Path) -> None:
    before = settings(library)["setup"]
    harm(library, "UPDATE meta SET seal = seal + 1 WHERE key = 'setup'")
    (library / "library.json").unlink()
    with writing(library) as writer, pytest.raises(LibraryDamaged, match="has no copy of them"):
        restore_settings(writer.catalog, library)
    assert settings(library)["setup"] == before
