"""What a library remembers of how it was asked to be made, beside its setup."""

from __future__ import annotations

from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.reader import Snapshot

_RECOGNISES = "asr"


def recognises(held: Catalog | Snapshot) -> bool:
    """Return whether speech is recognised in what is added; in a new library it is."""
    return held.get(_RECOGNISES) != "0"


def set_recognises(catalog: Catalog, wanted: bool) -> None:
    """Remember whether speech is to be recognised."""
    catalog.put(_RECOGNISES, str(int(wanted)))
