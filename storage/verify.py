"""Whether a library is sound: what `vfindex verify` checks without opening a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from vfindex.storage import schema
from vfindex.storage.blobs import checksum
from vfindex.storage.database import RUN_VERIFY, check_integrity, connect
from vfindex.storage.errors import LibraryError, LibraryNotFound
from vfindex.storage.joint import fuse
from vfindex.storage.library import Library
from vfindex.storage.rows import clip_checksum
from vfindex.storage.snapshot import Generation, Snapshot
from vfindex.storage.vectors import JointIndex

# Clips whose own joint vectors are asked back from the index, at the default weights and at each modality alone.
SAMPLE_QUERIES = 16
TOP_K = 10
# Scores this close may stand in either order: float32 sums differ with the order of addition.
TIE = 1e-4


@dataclass(slots=True)
class Verification:
    """What was checked and what is wrong; `notes` are no faults."""

    videos: int = 0
    clips: int = 0
    embeddings: int = 0
    segments: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recall_at_10: float | None = None

    @property
    def clean(self) -> bool:
        return not self.problems


def verify(library: Library) -> Verification:
    """Return what SQLite's check, the row checksums, the clip-vector bijection and an exact scan find."""
    result = Verification()
    engine = connect(library.folder / "library.db", write=False)
    try:
        result.problems += check_integrity(engine)
    finally:
        engine.dispose()
    try:
        with library.snapshot() as snapshot:
            _count(snapshot, result)
            for table in (schema.clip, schema.embedding, schema.segment):
                result.problems += _check_rows(snapshot, table.name)
            _check_embeddings(snapshot, result)
            _check_thumbnails(library, snapshot, result)
            _check_generation(library, snapshot, result)
    except (LibraryError, DBAPIError, ValueError) as exc:
        # A damaged page shows itself as any of these; SQLite's check above has usually named it already.
        result.problems.append(str(exc).removesuffix(RUN_VERIFY))
        if not isinstance(exc, LibraryNotFound):
            result.notes.append("what cannot be read must come from a copy, or be indexed again into another library")
    return result


def _count(snapshot: Snapshot, result: Verification) -> None:
    counts = snapshot.counts()
    result.clips, result.segments = counts["clip"], counts["segment"]
    result.videos = counts.get("indexed", 0) + counts.get("partial", 0)
    result.embeddings = sum(snapshot.modality_counts().values())
    if counts.get("indexing"):
        result.notes.append(
            f"{counts['indexing']} videos are not finished; the next `vfindex ingest` goes on with them"
        )


def _check_rows(snapshot: Snapshot, name: str) -> Iterator[str]:
    for what, row_id, crc32, found in _checksums(snapshot, name):
        if crc32 != found:
            yield f"{what} {row_id} does not match its checksum; remove its video and ingest it again"


def _checksums(snapshot: Snapshot, name: str) -> Iterator[tuple[str, object, int, int]]:
    """Yield (what, row id, checksum stored, checksum of what is stored)."""
    c, e, s = schema.clip.c, schema.embedding.c, schema.segment.c
    if name == "clip":
        for row in snapshot.stream(select(c.id, c.start_ms, c.start_s, c.end_s, c.crc32)):
            yield "clip", row.id, row.crc32, clip_checksum(row.start_ms, row.start_s, row.end_s)
    elif name == "embedding":
        for row in snapshot.stream(select(e.clip_id, e.modality, e.vector, e.frames, e.crc32)):
            yield f"the {row.modality} vector of clip", row.clip_id, row.crc32, checksum(row.vector, row.frames)
    else:
        for row in snapshot.stream(select(s.id, s.start_s, s.end_s, s.text, s.crc32)):
            yield "segment", row.id, row.crc32, checksum(row.start_s, row.end_s, row.text)


def _check_embeddings(snapshot: Snapshot, result: Verification) -> None:
    bare = snapshot.clips_without_embedding()
    if bare:
        result.problems.append(f"{len(bare)} clips have no vector at all, the first is clip {bare[0]}")


def _check_thumbnails(library: Library, snapshot: Snapshot, result: Verification) -> None:
    missing = sum(library.thumbnail(name) is None for name in snapshot.thumbnails())
    if missing:
        result.notes.append(f"{missing} thumbnails are missing; hits show none in their place")


def _check_generation(library: Library, snapshot: Snapshot, result: Verification) -> None:
    generation = snapshot.generation()
    if generation is None:
        if result.clips:
            result.notes.append("no joint index is published yet; searches scan the clips exactly")
        return
    index = library.load_index(generation)
    if index is None:
        result.problems.append(
            f"index/{generation.file} is missing or damaged; searches scan exactly, the next `vfindex ingest` builds it"
        )
        return
    change = snapshot.get("changed")
    held, stored = set(index.ids().tolist()), set(snapshot.clip_ids(searchable=False))
    below = {id_ for id_ in stored if id_ <= generation.watermark}
    if below - held:
        result.problems.append(f"index/{generation.file} lacks {len(below - held)} clips that it should hold")
    if held - stored and change != "stale":
        result.problems.append(f"index/{generation.file} holds {len(held - stored)} vectors of clips that are gone")
    if change:
        result.notes.append("the joint index is older than the clips; the next `vfindex ingest` publishes a new one")
    if below and change != "stale":
        result.recall_at_10 = _recall(snapshot, generation, index, sorted(below))
        if result.recall_at_10 < 0.99:
            result.problems.append(
                f"index/{generation.file} finds {result.recall_at_10:.2f} of what an exact scan finds"
            )


def _recall(snapshot: Snapshot, generation: Generation, index: JointIndex, ids: list[int]) -> float:
    """Return recall@10 of the index against an exact scan, the lowest over the weightings tried."""
    spec = generation.spec
    dims = {m: part.dim for m, part in spec.parts.items()}
    chosen = ids[:: max(1, len(ids) // SAMPLE_QUERIES)][:SAMPLE_QUERIES]
    sample = np.concatenate([fuse(rows, spec) for _, rows in snapshot.batches(chosen, dims)])
    weightings = spec.corners()
    queries = np.concatenate([sample * weights for weights in weightings])
    queries = queries[np.any(queries, axis=1)]  # (n_queries, dim)
    scores = np.concatenate([fuse(rows, spec) @ queries.T for _, rows in snapshot.batches(ids, dims)])
    rows_of = {id_: row for row, id_ in enumerate(ids)}
    top_k = min(TOP_K, len(ids))
    shares = [1.0]
    for exact, query in zip(scores.T, queries, strict=True):
        bar = np.sort(exact)[-top_k]
        _, found = index.search(query[None], top_k)
        good = [exact[rows_of[id_]] >= bar - TIE * max(1.0, abs(bar)) for id_ in found[0].tolist() if id_ in rows_of]
        shares.append(sum(good) / top_k)
    per_weighting = np.asarray(shares[1:] or [1.0])
    return float(min(part.mean() for part in np.array_split(per_weighting, len(weightings)) if len(part)))
