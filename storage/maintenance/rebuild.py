"""Rebuilds the joint index, with another fusion if asked, and the full text index, from library.db alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.documents import rebuild_index
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryDamaged, UsageError
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta, put_fusion
from vfindex.storage.qdrant.collection import BUILT_IN, QDRANT, server_of
from vfindex.storage.records import FusionName
from vfindex.storage.writer import writing


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The result. dimensions: of a joint vector. documents: titles, tags and segments in the full text index.

    index: where the joint index is, `built-in` or `qdrant:URL`. left: what Qdrant still holds that nothing uses, "" if
    nothing.
    """

    fusion: FusionName
    dimensions: int
    clips: int
    documents: int
    index: str
    left: str


def rebuild(folder: Path, form: FusionName | None = None, place: str | None = None) -> Rebuilt:
    """Rebuild the joint index and the full text index; no video is opened.

    form: the new fusion. place: where the joint index is from now on, see `qdrant.server_of`. None keeps the library's.
    Raises LibraryError, UsageError.
    """
    server = None if place is None else server_of(place)
    Library.open(folder)
    with writing(folder) as writer:
        writer.existing_setup()
        fusion = chosen(writer.catalog, form)
        _drop_unreadable(writer.catalog)
        with writer.catalog.transaction() as connection:
            rebuild_index(connection)
            documents = connection.scalar(select(func.count()).select_from(schema.document)) or 0
        generation = writer.publish(fusion, server)
        server = LibraryMeta(writer.catalog).index_server
        spec, where = generation.spec, f"{QDRANT}{server}" if server else BUILT_IN
        left = writer.publisher.left()
        return Rebuilt(spec.fusion, spec.dim, generation.clips, documents, where, left)


def adopt(folder: Path, fusion: Fusion | None) -> Fusion:
    """Set the library's fusion and return it; None: `concat` with the preset's weights.

    Weights of `concat` are applied to the query; any other change rebuilds the index. Raises LibraryError, UsageError
    for a library with a shared spec, which has a fusion of its own.
    """
    Library.open(folder)
    with writing(folder) as writer:
        refuse_shared(writer.catalog)
        weights = {m: prior.weight for m, prior in LibraryMeta(writer.catalog).priors.items()}
        fusion = fusion or Fusion("concat", weights)
        if fusion.form == "concat" and LibraryMeta(writer.catalog).own_fusion.form == "concat":
            with writer.catalog.transaction() as connection:
                put_fusion(connection, fusion)
        else:
            writer.publish(fusion)
        return fusion


def chosen(catalog: Catalog, form: FusionName | None) -> Fusion:
    """Return the library's fusion, with weights and heads, if it has this form, else a new one.

    Raises UsageError for heads that nobody has learned, and for a library with a shared spec of another form.
    """
    meta = LibraryMeta(catalog)
    if form is not None and meta.shares_spec and meta.fusion.form != form:
        refuse_shared(catalog)
    try:
        stored = meta.own_fusion
    except LibraryDamaged:
        if form is None:
            raise
        stored = Fusion()
    if form is None or meta.shares_spec or stored.form == form:
        return stored
    if form == "learned":
        raise UsageError("this library has no learned heads; learn some with: vfindex tune QUERIES --fusion learned")
    return Fusion(form)


def refuse_shared(source: Catalog | Snapshot) -> None:
    """Raise UsageError if the library uses a shared spec, whose fusion and weights are part of it."""
    shared = LibraryMeta(source).shared_spec
    if shared is not None:
        raise UsageError(
            f"this library uses the shared spec {shared.hash}, whose fusion and weights are the same in all its "
            "libraries; for a spec of its own: vfindex spec use --own"
        )


def _drop_unreadable(catalog: Catalog) -> None:
    """Delete generations whose JointSpec cannot be parsed, and those before them.

    Changes since an earlier generation are no longer recorded, so none of these can be used instead.
    """
    g = schema.generation.c
    with catalog.transaction() as connection:
        for row in connection.execute(select(g.id, g.spec).order_by(g.id)).all():
            try:
                JointSpec.from_json(row.spec)
            except LibraryDamaged:
                connection.execute(schema.generation.delete().where(g.id <= row.id))
