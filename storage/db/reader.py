"""Snapshot: all that a search or a report reads from library.db, in one read transaction beside the writer."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, literal_column, select, text
from sqlalchemy.exc import DBAPIError

from vfindex.storage.db import clips, schema
from vfindex.storage.db.clips import StoredClip, StoredVectors, no_frames, stored_clip
from vfindex.storage.db.documents import SEGMENT_COLUMNS
from vfindex.storage.db.engine import Unchanged, any_text, begin_reading, time_limit, translated
from vfindex.storage.db.integrity import diagnosis, is_broken, setting
from vfindex.storage.db.migrations import complete, completing_statements, keep_completed
from vfindex.storage.db.videos import StoredVideo, named, searchable_ids, stored_video
from vfindex.storage.errors import LibraryDamaged, LibraryError, QueryTimeout
from vfindex.storage.files.names import resolve
from vfindex.storage.ids import FEW_VIDEOS, union
from vfindex.storage.joint.codecs import unpack_frames, unpack_vector, unpack_vectors
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import SEARCHABLE, FloatArray, Location, Segment, StoredFile
from vfindex.storage.text.corrected import NO_CORRECTIONS, Corrections
from vfindex.storage.text.full_text import Words

__all__ = ["Generation", "Snapshot", "StoredClip", "StoredVectors", "StoredVideo"]
T = TypeVar("T")
# Raised by values of a wrong type, format or size: a bug, unless a check finds the library damaged.
_NOT_AS_WRITTEN = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
# Clips read by one statement of `batches`: 4,096 x 3 vectors of 384 dimensions are 19 MB.
BATCH_CLIPS = 4096
_AMONG = "(SELECT value FROM json_each(?))"  # the values of a list in JSON


@dataclass(frozen=True, slots=True)
class Generation:
    """A published joint index: its file below `index/`, a segment or a list of them, and the last clip id in it."""

    id: int
    file: str
    size_bytes: int
    sha256: str
    spec: JointSpec
    watermark: int
    clips: int

    @property
    def stored(self) -> StoredFile:
        return StoredFile(self.file, self.size_bytes, self.sha256)


class Snapshot:
    """One read transaction. words: full text search in it.

    Leaving its `with` block raises LibraryChanged if a writer changed the library and this user cannot lock it.

    Raises, on opening, LibraryNotFound for a database without tables, LibraryVersion for one that it cannot read, and
    LibraryDamaged.
    """

    def __init__(self, engine: Engine, until_s: float | None = None, corrections: Corrections = NO_CORRECTIONS) -> None:
        """until_s: time of `time.monotonic` from which on reading raises QueryTimeout.

        corrections: shown in place of the text of their lines.
        """
        self._engine, self._pool = engine, engine.pool
        self._connection, self._cache = begin_reading(engine)
        self._until_s, self._limits = until_s, ExitStack()
        self._limits.enter_context(time_limit(self._connection, until_s))
        self.words = Words(self._fetched, self.remembered, corrections)
        try:
            complete(self._connection, self.remembered("completing", lambda: completing_statements(self._connection)))
        except DBAPIError as exc:
            self.close()
            raise translated(exc) from exc
        except LibraryError:
            self.close()
            raise

    def close(self) -> None:
        self._limits.close()
        self._connection.close()
        if self._engine.pool is not self._pool:  # the engine was closed before the pool had its connection back
            self._pool.dispose()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        try:
            if isinstance(exc, _NOT_AS_WRITTEN):
                with self.any_text():
                    damage = diagnosis(self.stream)
                if damage:
                    raise damage from exc
            elif kind is None:
                keep_completed(self._connection)
        finally:
            self.close()
        Unchanged(None if self._cache is None else self._cache.opened).__exit__(kind, exc, trace)

    def any_text(self) -> AbstractContextManager[None]:
        """Read text that is not UTF-8 inside this block, see `engine.any_text`."""
        return any_text(self._connection)

    @property
    def connection(self) -> Connection:
        """The transaction itself, for what the maintenance room shares between readers and the writer."""
        return self._connection

    def remembered(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return `compute()`, cached for all snapshots of this state: until the next commit by a writer."""
        return compute() if self._cache is None else self._cache.value(key, compute)

    def _check_time(self) -> None:
        if self._until_s is not None and time.monotonic() > self._until_s:
            raise QueryTimeout

    def _rows(self, query: Any, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        self._check_time()
        try:
            return self._connection.execute(query, parameters or {}).all()
        except DBAPIError as exc:
            raise translated(exc) from exc

    def _by_id(self, query: Any, column: Any, ids: Sequence[int]) -> Iterator[Any]:
        """Yield the query's rows whose column is in `ids`: one JSON parameter, so that it is compiled once."""
        among = text(f"{column.table.name}.{column.name} IN (SELECT value FROM json_each(:ids))")
        yield from self._rows(query.where(among), {"ids": json.dumps(list(ids))})

    def stream(self, query: Any) -> Iterator[Any]:
        """Yield a query's rows, fetched 1,000 at a time so that memory stays bounded."""
        try:
            yield from self._connection.execute(query, execution_options={"yield_per": 1000})
        except DBAPIError as exc:
            raise translated(exc) from exc

    def _fetched(self, query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """Return a query's rows as plain tuples, without SQLAlchemy, which takes 0.1 ms for a statement of its own."""
        self._check_time()
        try:
            driver: Any = self._connection.connection.driver_connection
            rows: list[Any] = driver.execute(query, parameters).fetchall()
        except sqlite3.Error as exc:
            raise translated(exc) from exc
        return rows

    def get(self, key: str) -> str | None:
        """Return a setting, or None."""
        return self.remembered(("setting", key), lambda: self._get(key))

    def _get(self, key: str) -> str | None:
        try:
            return setting(self._connection, key)
        except DBAPIError as exc:
            raise translated(exc) from exc

    def generation(self) -> Generation | None:
        """Return the current generation, or None before the first is published."""
        return self.remembered("generation", self._generation)

    def _generation(self) -> Generation | None:
        g = schema.generation.c
        is_whole: Any = literal_column(f"NOT ({is_broken(schema.generation)})").label("is_whole")
        rows = self._rows(select(schema.generation, is_whole).order_by(g.id.desc()).limit(1))
        if not rows:
            return None
        row = rows[0]
        if not row.is_whole:
            raise LibraryDamaged("the row of the joint index is not as it was written; run: vfindex repair")
        return Generation(
            row.id, row.file, row.size_bytes, row.sha256, JointSpec.from_json(row.spec), row.watermark, row.clips
        )

    # --- clips --------------------------------------------------------------------------------------------------

    def clip_ids(self, *, after: int = 0, searchable: bool = True, videos: Collection[int] | None = None) -> list[int]:
        """Return the ids of clips above `after`, increasing. searchable: only of searchable videos.

        videos: only of these.
        """
        query = "SELECT c.id FROM clip c"
        parameters: list[int | str] = [after]
        if searchable:
            query += " JOIN video v ON v.id = c.video_id AND v.state IN ('indexed', 'partial')"
        query += " WHERE c.id > ?"
        if videos is not None:
            query += " AND c.video_id IN (SELECT value FROM json_each(?))"
            parameters.append(json.dumps(list(videos)))
        return [id_ for (id_,) in self._fetched(query + " ORDER BY c.id", tuple(parameters))]

    def hidden(self, watermark: int) -> NDArray[np.int64]:
        """Return the clips up to `watermark` whose video is not searchable, increasing."""
        return self.remembered(("hidden", watermark), lambda: clips.hidden_clips(self._fetched, watermark))

    def changed(self, watermark: int) -> NDArray[np.int64]:
        """Return the clips up to `watermark` whose vectors changed or were deleted since the index was published."""
        return self.remembered(("changed", watermark), lambda: clips.changed_clips(self._fetched, watermark))

    def outdated(self, watermark: int) -> NDArray[np.int64]:
        """Return the clips whose rows in an index up to `watermark` are invalid: `hidden` or `changed`, increasing."""
        return union(self.hidden(watermark), self.changed(watermark))

    def unindexed(self, watermark: int) -> NDArray[np.int64]:
        """Return the searchable clips that an index up to `watermark` lacks or has old vectors of, increasing."""
        return self.remembered(("unindexed", watermark), lambda: clips.unindexed_clips(self._fetched, watermark))

    def clips(self, ids: Sequence[int]) -> dict[int, StoredClip]:
        """Return clip id -> clip for the searchable ones of `ids`."""
        c = schema.clip.c
        query = (
            select(c.id, c.video_id, c.start_s, c.end_s, c.thumbnail)
            .join_from(schema.clip, schema.video)
            .where(schema.video.c.state.in_(SEARCHABLE))
        )
        return {row.id: stored_clip(row) for row in self._by_id(query, c.id, ids)}

    def clips_in(self, videos: Collection[int]) -> NDArray[np.int64]:
        """Return the ids of the clips of `videos`, which are searchable, increasing."""
        if len(videos) <= FEW_VIDEOS:
            return np.sort(clips.clips_of_few(self._fetched, videos))
        ids, others = clips.expanded(self.remembered("spans", lambda: clips.clip_spans(self._fetched)), videos)
        return np.sort(np.concatenate([ids, np.array(self.clip_ids(videos=others) if others else (), np.int64)]))

    def first_clips(self, video_ids: Sequence[int], limit: int) -> dict[int, list[int]]:
        """Return video id -> the ids of its first `limit` clips, in order of time."""
        return clips.first_clips(self._fetched, video_ids, limit)

    def videos_of(self, clip_ids: Sequence[int]) -> dict[int, int]:
        """Return clip id -> its video's id."""
        rows = "SELECT id, video_id FROM clip WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self._fetched(rows, (json.dumps(list(clip_ids)),)))

    def clips_of(self, video_id: int) -> list[StoredClip]:
        """Return a video's clips in order of time."""
        c = schema.clip.c
        query = select(c.id, c.video_id, c.start_s, c.end_s, c.thumbnail).where(c.video_id == video_id)
        return [stored_clip(row) for row in self._rows(query.order_by(c.start_s))]

    def vectors(self, ids: Sequence[int]) -> dict[int, StoredVectors]:
        """Return the embeddings of clips, frame vectors included."""
        e = schema.embedding.c
        found: dict[int, dict[ModalityName, FloatArray]] = {id_: {} for id_ in ids}
        for row in self._by_id(select(e.clip_id, e.modality, e.vector), e.clip_id, ids):
            found[row.clip_id][row.modality] = unpack_vector(row.vector)
        frames = self.frames(ids)
        return {id_: StoredVectors(found[id_], *frames.get(id_, no_frames())) for id_ in ids}

    def frames(self, ids: Sequence[int]) -> dict[int, tuple[FloatArray, NDArray[np.float64]]]:
        """Return clip id -> (frame vectors (n, dim), times (n,)) of the clips that have frames."""
        query = f"SELECT clip_id, times, vectors FROM frame WHERE clip_id IN {_AMONG}"
        rows = self._fetched(query, (json.dumps(list(ids)),))
        unpacked = unpack_frames([(times, vectors) for _, times, vectors in rows])
        return {clip_id: frames for (clip_id, _, _), frames in zip(rows, unpacked, strict=True)}

    def with_vectors(self, ids: Sequence[int]) -> dict[int, tuple[StoredClip, StoredVectors]]:
        """Return clip id -> (clip, its vectors) for the searchable ones of `ids`."""
        among, none = (json.dumps(list(ids)),), no_frames()
        rows = self._fetched(
            "SELECT c.id, c.video_id, c.start_s, c.end_s, c.thumbnail FROM clip c JOIN video v ON v.id = c.video_id"
            f" WHERE c.id IN {_AMONG} AND v.state IN ('indexed', 'partial')",
            among,
        )
        clips = {row[0]: stored_clip(row) for row in rows}
        blobs: dict[ModalityName, dict[int, bytes]] = {}
        query = f"SELECT clip_id, modality, vector FROM embedding WHERE clip_id IN {_AMONG}"
        for id_, modality, blob in self._fetched(query, among):
            blobs.setdefault(modality, {})[id_] = blob
        embeddings: dict[int, dict[ModalityName, FloatArray]] = {id_: {} for id_ in ids}
        for modality, of in blobs.items():
            for id_, vector in zip(of, unpack_vectors(list(of.values())), strict=True):
                embeddings[id_][modality] = vector
        frames = self.frames(ids)
        return {id_: (clip, StoredVectors(embeddings[id_], *frames.get(id_, none))) for id_, clip in clips.items()}

    def batches(
        self, ids: Sequence[int] | NDArray[np.int64], dims: Mapping[ModalityName, int]
    ) -> Iterator[tuple[NDArray[np.int64], dict[ModalityName, FloatArray]]]:
        """Yield (ids (n,), modality -> (n, dim) float32, zero rows where absent) over the clips, in bounded batches."""
        among = "(SELECT value FROM json_each(?))"
        query = f"SELECT clip_id, vector FROM embedding WHERE clip_id IN {among} AND modality = ?"
        for first in range(0, len(ids), BATCH_CLIPS):
            part = np.asarray(ids[first : first + BATCH_CLIPS], np.int64)
            order, part_json = np.argsort(part), json.dumps(part.tolist())
            rows = {m: np.zeros((len(part), dim), np.float32) for m, dim in dims.items()}
            for modality, vectors in rows.items():
                found = self._fetched(query, (part_json, modality))
                clip_ids, blobs = [id_ for id_, _ in found], [blob for _, blob in found]
                values = unpack_vectors(blobs, vectors.shape[1])
                vectors[order[np.searchsorted(part, clip_ids, sorter=order)]] = values
            yield part, rows

    def thumbnails(self) -> Iterator[str]:
        """Yield the file names of all thumbnails."""
        name = schema.clip.c.thumbnail
        yield from (row.thumbnail for row in self.stream(select(name).where(name.is_not(None))))

    def clips_around(self, spans: Sequence[tuple[int, float, float]]) -> list[tuple[int, int]]:
        """Return (index of the span, clip id) of the searchable clips that overlap or touch a span.

        spans: (video id, start_s, end_s).
        """
        return self._fetched(
            "SELECT w.key, c.id FROM json_each(?) w"
            " JOIN clip c ON c.video_id = json_extract(w.value, '$[0]')"
            " AND c.start_s <= json_extract(w.value, '$[2]') AND c.end_s >= json_extract(w.value, '$[1]')"
            # Redundant, but start_ms is indexed: the clips of a video follow each other.
            " AND c.start_ms <= 1000 * json_extract(w.value, '$[2]') + 1 AND c.start_ms >= coalesce("
            "(SELECT max(b.start_ms) FROM clip b WHERE b.video_id = json_extract(w.value, '$[0]')"
            " AND b.start_ms <= 1000 * json_extract(w.value, '$[1]') - 1), -9e15)"
            " JOIN video v ON v.id = c.video_id WHERE v.state IN ('indexed', 'partial') ORDER BY w.key, c.start_s",
            (json.dumps(list(spans)),),
        )

    def clips_near(self, ids: Collection[int], within_s: float) -> NDArray[np.float64]:
        """See `clips.clips_near`."""
        return clips.clips_near(self._fetched, ids, within_s)

    # --- videos -------------------------------------------------------------------------------------------------

    def videos(self, ids: Sequence[int] | None = None) -> list[StoredVideo]:
        """Return videos (all, if `ids` is None) with their locations, in order of id."""
        v, loc = schema.video.c, schema.location.c
        locations: dict[int, list[Location]] = {}
        query = select(loc.video_id, loc.path, loc.size_bytes, loc.mtime_ns, loc.inode, loc.beside)
        chosen = self._rows(query) if ids is None else self._by_id(query, loc.video_id, ids)
        for row in chosen:
            locations.setdefault(row.video_id, []).append(
                Location(row.path, row.size_bytes, row.mtime_ns, row.inode, row.beside)
            )
        query = select(schema.video).order_by(v.id)
        rows = self._rows(query) if ids is None else self._by_id(query, v.id, ids)
        return [stored_video(row, locations.get(row.id, [])) for row in rows]

    def searchable_videos(self) -> tuple[list[tuple[int, float, str]], list[tuple[int, bytes, int]]]:
        """Return (id, duration_s, tags as JSON) of all searchable videos, and (video id, path, mtime_ns) of their
        locations, both in order of id.
        """
        videos = "FROM video v WHERE v.state IN ('indexed', 'partial')"
        locations = f"SELECT video_id, path, mtime_ns FROM location WHERE video_id IN (SELECT v.id {videos})"
        return (
            self._fetched(f"SELECT v.id, v.end_s - v.start_s, v.tags {videos} ORDER BY v.id"),
            self._fetched(locations + " ORDER BY video_id"),
        )

    def named(self, video_ids: Sequence[int]) -> dict[int, tuple[str, list[bytes]]]:
        """Return video id -> (fingerprint, its paths in order of bytes)."""
        return named(self._fetched, video_ids)

    def duration_s(self, video_id: int) -> float:
        """Return the duration of a video, 0 if it is gone."""
        v = schema.video.c
        rows = self._rows(select(v.start_s, v.end_s).where(v.id == video_id))
        return float(rows[0].end_s - rows[0].start_s) if rows else 0.0

    def videos_by_language(self) -> dict[str, frozenset[int]]:
        """Return language, in lower case -> the videos with a transcript in it. Reads all segments."""
        return clips.videos_by_language(self._fetched)

    def videos_by_speakers(self) -> dict[str, frozenset[int]]:
        """See `clips.videos_by_speakers`."""
        return clips.videos_by_speakers(self._fetched)

    def clips_by_speakers(self, speakers: Collection[str]) -> NDArray[np.int64]:
        """See `clips.clips_by_speakers`."""
        return clips.clips_by_speakers(self._fetched, speakers)

    def video_at(self, path: bytes) -> StoredVideo | None:
        """Return the video at `path`, or None."""
        loc = schema.location.c
        rows = self._rows(select(loc.video_id).where(loc.path == path))
        return self.videos([rows[0].video_id])[0] if rows else None

    def video_with(self, fingerprint: str) -> StoredVideo | None:
        """Return the video with this fingerprint, or None."""
        found = select(schema.video.c.id).where(schema.video.c.fingerprint == fingerprint, schema.video.c.staged == 0)
        rows = self._rows(found) if fingerprint.isascii() else ()  # bytes of a path may not even be UTF-8
        return self.videos([rows[0].id])[0] if rows else None

    def path_of(self, typed: Sequence[bytes]) -> bytes | None:
        """Return the path of the video that `typed` names, see `names.resolve`. Raises UsageError."""
        return resolve(typed, lambda path: self.video_at(path) is not None, self.paths)

    def paths(self) -> list[bytes]:
        """Return the paths of all videos and copies."""
        return [path for (path,) in self._fetched("SELECT path FROM location")]

    def segments(self, video_id: int) -> list[Segment]:
        """Return the segments of a video, of all tracks, in order of time."""
        s, corrected = schema.segment.c, self.words.corrected
        query = select(s.id, *SEGMENT_COLUMNS).where(s.video_id == video_id)
        rows = self._rows(query.order_by(s.start_s, s.id))
        return [corrected.segment(id_, Segment(*values)) for id_, *values in rows]

    def said(self, clip_ids: Sequence[int]) -> dict[int, str]:
        """Return clip id -> its transcript, segments joined by a space; clips without one are left out."""
        return clips.said_during(self._fetched, clip_ids, self.words.corrected.segments)

    def coverage(self, video_id: int) -> list[Mapping[str, str]]:
        """Return for each unit, in order, modality -> a sentence on its coverage."""
        u = schema.unit.c
        rows = self._rows(select(u.coverage).where(u.video_id == video_id).order_by(u.number))
        return [json.loads(row.coverage) for row in rows]

    def coverage_of(self, clip_ids: Sequence[int]) -> dict[int, Mapping[str, str]]:
        """Return clip id -> modality -> a sentence on its coverage in the clip's unit."""
        query = "SELECT c.id, u.coverage FROM clip c JOIN unit u ON u.id = c.unit_id WHERE c.id IN"
        rows = self._fetched(f"{query} (SELECT value FROM json_each(?))", (json.dumps(list(clip_ids)),))
        return {clip_id: json.loads(coverage) for clip_id, coverage in rows}

    def counts(self) -> dict[str, int]:
        """Return state -> number of videos, and the numbers of clips, segments and locations."""
        v = schema.video.c
        result = {row.state: row.n for row in self._rows(select(v.state, func.count().label("n")).group_by(v.state))}
        for name in ("clip", "segment", "location"):
            table = schema.metadata.tables[name]
            result[name] = int(self._rows(select(func.count().label("n")).select_from(table))[0].n)
        return result

    def modality_counts(self) -> dict[str, int]:
        """Return how many clips have each modality."""
        e = schema.embedding.c
        rows = self._rows(select(e.modality, func.count().label("n")).group_by(e.modality))
        return {row.modality: row.n for row in rows}

    def searchable_counts(self) -> dict[str, int]:
        """Return the numbers of clips, of segments, and of clips by modality, of searchable videos."""
        return clips.searchable_counts(self._fetched)

    def video_ids(self) -> list[int]:
        """Return the ids of the searchable videos, in order of their first path."""
        return searchable_ids(self._fetched)

    def clip_counts(self, video_ids: Sequence[int]) -> dict[int, dict[str, int]]:
        """Return video id -> modality -> how many of its clips have it; "" counts all its clips."""
        return clips.clip_counts(self._fetched, video_ids)

    def languages_of(self, video_ids: Sequence[int]) -> dict[int, list[str]]:
        """Return video id -> the languages of its transcript, in alphabetical order."""
        return clips.languages_of(self._fetched, video_ids)
