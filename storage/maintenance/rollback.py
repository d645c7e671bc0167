"""Return to the models used before, and delete those not in use. Needs no model, so no extra either."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from vfindex.storage.db.catalog import Catalog
from vfindex.storage.index import model_versions
from vfindex.storage.library import Library
from vfindex.storage.writer import locked


def roll_back(folder: Path) -> Path:
    """Return to the model version used before this one; return its folder. Raises LibraryError if there is none."""
    Library.open(folder)
    with locked(folder):
        place = model_versions.version_folder(folder, model_versions.roll_back(folder))
        Catalog.open(place / "library.db").close()  # brings a model version of an older vfindex up to date
        return place


def discard(folder: Path) -> tuple[list[int], int]:
    """Delete the model versions that are not in use; return their numbers and the bytes freed.

    Raises LibraryLocked while an upgrade is building one, LibraryError.
    """
    Library.open(folder)
    with ExitStack() as held:
        held.enter_context(locked(folder))
        numbers = model_versions.unused(folder)
        for number in numbers:
            if number:
                held.enter_context(locked(model_versions.version_folder(folder, number)))
        return numbers, model_versions.discard(folder, numbers)
