"""The paths that a library was ever given, so that it can be brought up to date without naming them again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog, now


@dataclass(frozen=True, slots=True)
class Root:
    """A folder or a file as `ingest` was given it: absolute, links resolved. exclude: globs, see `discover`."""

    path: bytes
    exclude: tuple[str, ...] = ()


def roots(catalog: Catalog) -> list[Root]:
    """Return every path that was ingested, in order of bytes."""
    r = schema.root.c
    with catalog.transaction() as connection:
        rows = connection.execute(select(r.path, r.exclude).order_by(r.path)).all()
    return [Root(row.path, tuple(json.loads(row.exclude))) for row in rows]


def remember(catalog: Catalog, given: Iterable[Root]) -> None:
    """Add paths to the roots; of one that is known already, the globs given last count."""
    with catalog.transaction() as connection:
        for root in given:
            exclude = json.dumps(list(root.exclude))
            statement = upsert(schema.root).values(path=root.path, exclude=exclude, added_at=now())
            connection.execute(statement.on_conflict_do_update(index_elements=["path"], set_={"exclude": exclude}))
