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
from vfindex.storage.maintenance.repair import restore_settings, salvage_database
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.settings_backup import IDENTITY, read_backup
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


def others_encoders(library: Path, other: Path) -> None:
    """Put the copy of a library with other query encoders there, from before libraries had an identity."""
    for name in ("by-hand", "more"):
        (library / "query" / name).mkdir()
        (library / "query" / name / "meta.json").touch()
    held = read_backup(other)
    assert held is not None
    setup = json.loads(held.settings["setup"])
    for model in setup["query"].values():
        model["folder"] = "another"
    shutil.copy(other / "library.json", library)
    kept = {key: value for key, value in held.settings.items() if key != IDENTITY}
    change(library, settings={**kept, "setup": json.dumps(setup)})


@pytest.mark.parametrize("lost", ["key = 'setup'", "1"])
def test_the_copy_of_another_library_restores_nothing(library: Path, other: Path, lost: str) -> None:
    """Its models are others than those of the vectors."""
    others_encoders(library, other)
    if lost == "key = 'setup'":  # the identity is left
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
    others_encoders(library, other)
    assert problems(library) == [OTHERS]
    shutil.copy(other / "library.json", library)
    held = read_backup(other)
    assert held is not None
    change(library, settings={key: value for key, value in held.settings.items() if key != IDENTITY})
    assert problems(library) == []


def test_no_encoder_tells_whose_copy_it_is_where_the_database_is_lost(library: Path, other: Path) -> None:
    others_encoders(library, other)
    harm(library, "DELETE FROM meta WHERE key = 'setup'", "DELETE FROM video")
    with writing(library) as writer:
        assert restore_settings(writer.catalog, library) and writer.setup() is not None


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


def test_a_database_put_back_is_known_as_the_library(library: Path, tmp_path: Path) -> None:
    """Its generations have numbers of others of before. What it has lost is still restored."""
    with writing(library) as writer:
        writer.checkpoint()
    shutil.copytree(library, tmp_path / "earlier")
    for name in ("library.db", "library.db-wal", "library.db-shm"):
        (library / name).unlink(missing_ok=True)
    salvage_database(library)
    for number in (3, 4):
        with writing(library) as writer:
            add_video(writer, f"{number}", [clip(visual=axis(number))])
            remember(writer.catalog, [Root(b"/videos/%d" % number)])
            writer.publish()
    for name in ("library.db", "index"):
        path = library / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        source = tmp_path / "earlier" / name
        shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    assert not any(OTHERS in each for each in problems(library))
    harm(library, "DELETE FROM meta WHERE key = 'setup'")
    with writing(library) as writer:
        assert restore_settings(writer.catalog, library) and writer.setup() is not None
        assert Root(b"/videos/4") in roots(writer.catalog)


def test_a_library_of_before_identities_gets_one_with_its_next_copy(library: Path) -> None:
    harm(library, f"DELETE FROM meta WHERE key IN ('{IDENTITY}', 'rows of meta')")
    held = read_backup(library)
    assert held is not None and held.settings[IDENTITY]
    with writing(library) as writer:
        writer.write_backup()
    assert settings(library)[IDENTITY] == held.settings[IDENTITY], "a killed command had written the copy alone"
    (library / "library.json").unlink()
    harm(library, f"DELETE FROM meta WHERE key IN ('{IDENTITY}', 'rows of meta')")
    with writing(library) as writer:
        writer.write_backup()
    new = read_backup(library)
    assert new is not None and new.settings[IDENTITY] == settings(library)[IDENTITY] != held.settings[IDENTITY]


def test_hashes_of_files_are_not_counted_and_new_settings_are(library: Path) -> None:
    """An older vfindex deletes the ones, and adds others without counting them."""
    harm(library, "INSERT INTO meta (key, value) VALUES ('sha256 a', '1')")
    with writing(library):
        pass
    harm(library, "DELETE FROM meta WHERE key = 'sha256 a'", "INSERT INTO meta (key, value) VALUES ('ocr', '1')")
    assert problems(library) == []
    with writing(library):
        pass
    harm(library, "DELETE FROM meta WHERE key = 'ocr'")
    assert problems(library) == [LOST]


@pytest.mark.parametrize("held", [{"settings": None}, {"generation": "many"}, {"clips": []}, {"settings": [1]}])
def test_a_copy_of_another_shape_is_damaged(library: Path, held: dict[str, Any]) -> None:
    change(library, **held)
    assert read_backup(library) is None


def test_a_repair_without_a_copy_of_the_setup_changes_nothing(library: Path) -> None:
    before = settings(library)["setup"]
    harm(library, "UPDATE meta SET seal = seal + 1 WHERE key = 'setup'")
    (library / "library.json").unlink()
    with writing(library) as writer, pytest.raises(LibraryDamaged, match="has no copy of them"):
        restore_settings(writer.catalog, library)
    assert settings(library)["setup"] == before
