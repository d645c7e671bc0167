"""The library's own collections in Qdrant: how they are named, and which are to be deleted.

The settings list every collection from before it is made until it is deleted, so a killed publication, or a server that
could not be reached, leaves none behind unknown. A copy of a library has an id and a list of its own, and reads the
collection of the first until that changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from vfindex.storage.db.catalog import Catalog
from vfindex.storage.errors import IndexUnusable, LibraryDamaged
from vfindex.storage.files.permissions import DATABASE
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta, put_collections, put_library_id
from vfindex.storage.qdrant.collection import WRITING_S, Collection
from vfindex.storage.qdrant.index import QDRANT_SUFFIX, QdrantGeneration, Target
from vfindex.storage.settings_backup import INODE

logger = logging.getLogger(__name__)
Named = tuple[str, str]  # the URL of the server, and the name


class Collections:
    """The collections of a library that is being written."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def all(self) -> tuple[Named, ...]:
        """Return those that exist, or may."""
        return LibraryMeta(self._catalog).collections

    def target(self, url: str, before: QdrantGeneration | None) -> Target:
        """Return where the next one is made. before: the generation whose collection's settings it takes over."""
        id_ = LibraryMeta(self._catalog).library_id or put_library_id(self._catalog)
        like = before.facts.collection if before is not None and before.facts.url == url else None
        return Target(url, id_, lambda name: self._put((*self.all(), (url, name))), like)

    def owns(self, generation: QdrantGeneration) -> bool:
        """Return whether the library may change the collection of a generation."""
        return _named(generation) in self.all()

    def drop_unused(self, library: Library) -> None:
        """Delete those that the current generation does not name. What cannot be reached stays listed, see `left`."""
        if not self.all():
            return
        try:
            kept = _named(_current(library))
        except IndexUnusable:  # nobody can say which is in use; the next publication makes another
            return
        prefix = self.target("", None).prefix  # no other's, whatever a library from someone else lists
        for each in self.all():
            if each != kept and each[1].startswith(prefix):
                try:
                    Collection(*each, WRITING_S).drop()
                except IndexUnusable as exc:
                    logger.info("an unused collection stays: %s", exc)
                else:
                    self._put(other for other in self.all() if other != each)

    def left(self, library: Library) -> str:
        """Return why Qdrant may still hold what was removed, "" if it does not."""
        try:
            current = _current(library)
        except IndexUnusable as exc:
            return str(exc)
        if current is not None and self.owns(current) and self._catalog.change():
            return f"{current.facts.collection} of Qdrant at {current.facts.url} holds what the next run deletes"
        left = [f"{name} of Qdrant at {url}" for url, name in self.all() if (url, name) != _named(current)]
        return f"deleted by the next command that writes and reaches Qdrant: {', '.join(left)}" if left else ""

    def _put(self, collections: Iterable[Named]) -> None:
        with self._catalog.transaction() as connection:
            put_collections(connection, collections)


def _named(generation: QdrantGeneration | None) -> Named | None:
    """Return the collection of a generation."""
    return None if generation is None else (generation.facts.url, generation.facts.collection)


def _current(library: Library) -> QdrantGeneration | None:
    """Return the current generation if it is in Qdrant, which is not asked. Raises IndexUnusable for a damaged file."""
    with library.snapshot() as snapshot:
        generation = snapshot.generation()
    if generation is None or not generation.file.endswith(QDRANT_SUFFIX):
        return None
    opened = library.open_index(generation)
    return opened if isinstance(opened, QdrantGeneration) else None


def drop_collections(place: Path) -> None:
    """Delete every collection of a model version that will be deleted, none of a copy. Raises IndexUnusable."""
    try:
        inode = str((place / DATABASE).stat().st_ino)
        with Library(place).snapshot() as snapshot:
            meta = LibraryMeta(snapshot)
            found = meta.collections if meta.library_id and snapshot.get(INODE) == inode else ()
            prefix = Target("", meta.library_id).prefix
    except (FileNotFoundError, LibraryDamaged):  # a kill may leave a version without a database
        return
    for each in found:
        if each[1].startswith(prefix):
            Collection(*each, WRITING_S).drop()
