"""`vfindex label`: what it deletes, and the sentences for what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asking import labelled


@pytest.fixture
def folder(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a library with labels of the set `genres`, chosen by the environment, from an empty working folder."""
    labelled(library, "genres", 1)
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_a_stored_set_is_deleted_by_its_name_without_its_file(run: Any, folder: Path) -> None:
    ran = run("label", "genre", "--remove")
    assert (ran.code, ran.out) == (1, "genre: 0 labels deleted\n")
    assert ran.err == "no labels of a set genre are stored; there are those of: genres\n"
    ran = run("label", "genres", "--remove")
    assert (ran.code, ran.out, ran.err) == (0, "genres: 2 labels deleted\n", "")
    assert run("label", "genres", "--remove").err == "no labels of a set genres are stored; there are none at all\n"


def test_a_file_names_its_set(run: Any, folder: Path) -> None:
    (folder / "classes.json").write_text('{"name": "genres", "classes": ["a", "b"]}')
    assert run("label", "classes.json", "--remove").out == "genres: 2 labels deleted\n"


def test_a_file_of_classes_that_is_missing_is_a_sentence(run: Any, folder: Path) -> None:
    ran = run("label", "genres")
    assert ran.code == 2 and "genres cannot be read (No such file or directory)" in ran.err


def test_a_library_that_cannot_be_written_is_explained(run: Any, folder: Path, library: Path) -> None:
    (library / "lock").unlink()
    (library / "lock").mkdir()  # as root may write everything
    ran = run("label", "genres", "--remove")
    assert ran.code == 1 and ran.err.endswith(f"cannot be written (Is a directory); move {library / 'lock'} away\n")


def test_a_table_is_a_csv(run: Any, folder: Path) -> None:
    (folder / "classes.txt").write_text("a\nb\n")
    ran = run("label", "classes.txt", "--csv", "table.txt")
    assert (ran.code, ran.err) == (2, "vfindex: the table is a .csv; name such a file for --csv, not table.txt\n")
