"""Return to the models used before, and delete those not in use. Needs no model, so no extra either."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from vfindex.storage.collections import drop_collections
from vfindex.storage.db.catalog import Catalog, now
from vfindex.storage.db.sources import replace_exclusions, stored_exclusions
from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.files.writes import on_disk
from vfindex.storage.index import model_versions
from vfindex.storage.library import Library
from vfindex.storage.migration import migrate_by_copy
from vfindex.storage.settings_backup import write_backup
from vfindex.storage.writer import locked


def roll_back(folder: Path) -> Path:
    """Return to the model version used before this one; return its folder. Raises LibraryError if there is none.

    The removed paths go along, so that no run indexes them again.
    """
    left = Library.open(folder)
    with locked(folder):
        place = model_versions.version_folder(folder, model_versions.earlier(folder)[0])
        migrate_by_copy(place / "library.db")
        with closing(Catalog.open(place / "library.db")) as catalog:
            removed = _exclusions(left)
            if removed is not None:
                replace_exclusions(catalog, removed, now())
                with catalog.transaction() as connection, on_disk("the copy of the settings"):
                    write_backup(connection, place)
        model_versions.roll_back(folder)  # last: a killed call is simply repeated
        return place


def _exclusions(left: Library) -> tuple[bytes, ...] | None:
    """Return the removed paths; None if the version is damaged, which must not prevent the return to another one."""
    try:
        with left.snapshot() as snapshot:
            return stored_exclusions(snapshot)
    except LibraryDamaged:
        return None
    finally:
        left.close()


def discard(folder: Path) -> tuple[list[int], int]:
    """Delete the model versions that are not in use; return their numbers and the bytes freed.

    Raises LibraryLocked while an upgrade is building one, LibraryError.
    """
    Library.open(folder)
    with ExitStack() as locks:
        locks.enter_context(locked(folder))
        numbers = model_versions.unused(folder)
        for number in numbers:
            if number:
                locks.enter_context(locked(model_versions.version_folder(folder, number)))
        for number in numbers:
            drop_collections(model_versions.version_folder(folder, number))
        return numbers, model_versions.discard(folder, numbers)
