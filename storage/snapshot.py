"""Records out of SQLite: everything a search or a report reads, as of one instant, while a writer may be at work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.exc import DBAPIError

from vfindex.storage import schema
from vfindex.storage.blobs import unpack_frames, unpack_vector
from vfindex.storage.database import damaged
from vfindex.storage.errors import LibraryNotFound, LibraryVersion
from vfindex.storage.joint import JointSpec
from vfindex.storage.migrations import applied_migrations, is_current
from vfindex.storage.records import SEARCHABLE, FloatArray, Location, Modality, Segment, Video, VideoState

# Clips fused at a time when a whole library is read: 4,096 x 3 vectors of 384 dimensions are 19 MB.
BATCH_CLIPS = 4096
# SQLite's limit on the parameters of one statement is 32,766; stay well below it.
_MAX_PARAMETERS = 5000


@dataclass(frozen=True, slots=True)
class Generation:
    """The pointer to a joint index: a file below `index/`, what it must hash to, and the last clip id it holds."""

    id: int
    file: str
    size_bytes: int
    sha256: str
    spec: JointSpec
    watermark: int
    clips: int


@dataclass(frozen=True, slots=True)
class StoredClip:
    """A clip as stored: its id, its video's id, its span and the file name of its thumbnail."""

    id: int
    video_id: int
    start_s: float
    end_s: float
    thumbnail: str | None


@dataclass(frozen=True, slots=True, eq=False)
class StoredVectors:
    """A clip's embeddings: modality -> (dim,); frames: (n, dim), frame_times_s: (n,), both empty where not visual."""

    embeddings: Mapping[Modality, FloatArray]
    frames: FloatArray
    frame_times_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WordMatch:
    """A document that holds words of the question. bm25: Okapi BM25, higher is better. Spans only for speech."""

    document_id: int
    video_id: int
    kind: str
    text: str
    bm25: float
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVideo(Video):
    """A video as stored: its id, how far it got and why no further, and where its copies lie."""

    id: int
    state: VideoState
    problem: Mapping[str, str] | None
    locations: tuple[Location, ...]


class Snapshot:
    """One read transaction.

    Raises, on opening, LibraryNotFound for a database without tables and LibraryVersion for one not of today's form.
    """

    def __init__(self, engine: Engine) -> None:
        self._connection: Connection = engine.connect()
        try:
            applied = applied_migrations(self._connection)
        except DBAPIError as exc:
            self.close()
            raise damaged(exc) from exc
        if not applied:
            self.close()
            raise LibraryNotFound("the library is empty: its making was broken off; run `vfindex ingest` again")
        if not is_current(applied):
            self.close()
            raise LibraryVersion(
                "this library was written by another version of vfindex; "
                "run `vfindex ingest` once with this version, or upgrade: pip install --upgrade vfindex"
            )

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, query: Any, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        try:
            return self._connection.execute(query, parameters or {}).all()
        except DBAPIError as exc:
            raise damaged(exc) from exc

    def _by_id(self, query: Any, column: Any, ids: Sequence[int]) -> Iterator[Any]:
        for first in range(0, len(ids), _MAX_PARAMETERS):
            yield from self._rows(query.where(column.in_(ids[first : first + _MAX_PARAMETERS])))

    def stream(self, query: Any) -> Iterator[Any]:
        """Yield a query's rows a few at a time, so that memory stays bounded."""
        yield from self._connection.execution_options(yield_per=1000).execute(query)

    def get(self, key: str) -> str | None:
        """Return a setting, or None."""
        rows = self._rows(select(schema.meta.c.value).where(schema.meta.c.key == key))
        return None if not rows else str(rows[0].value)

    def generation(self) -> Generation | None:
        """Return the current generation, or None before the first is published."""
        g = schema.generation.c
        rows = self._rows(select(schema.generation).order_by(g.id.desc()).limit(1))
        if not rows:
            return None
        row = rows[0]
        return Generation(
            row.id, row.file, row.size_bytes, row.sha256, JointSpec.from_json(row.spec), row.watermark, row.clips
        )

    # --- clips --------------------------------------------------------------------------------------------------

    def clip_ids(self, *, after: int = 0, searchable: bool = True) -> list[int]:
        """Return the ids of clips above `after`, increasing; searchable: only those of wholly committed videos."""
        c = schema.clip.c
        query = select(c.id).where(c.id > after).order_by(c.id)
        if searchable:
            query = query.join_from(schema.clip, schema.video).where(schema.video.c.state.in_(SEARCHABLE))
        return [row.id for row in self._rows(query)]

    def clips(self, ids: Sequence[int]) -> dict[int, StoredClip]:
        """Return the searchable clips among `ids`; others are left out."""
        c = schema.clip.c
        query = (
            select(c.id, c.video_id, c.start_s, c.end_s, c.thumbnail)
            .join_from(schema.clip, schema.video)
            .where(schema.video.c.state.in_(SEARCHABLE))
        )
        return {row.id: StoredClip(*row) for row in self._by_id(query, c.id, ids)}

    def clips_of(self, video_id: int) -> list[StoredClip]:
        """Return a video's clips in order of time."""
        c = schema.clip.c
        query = select(c.id, c.video_id, c.start_s, c.end_s, c.thumbnail).where(c.video_id == video_id)
        return [StoredClip(*row) for row in self._rows(query.order_by(c.start_s))]

    def vectors(self, ids: Sequence[int]) -> dict[int, StoredVectors]:
        """Return the embeddings of clips, frame vectors included."""
        e = schema.embedding.c
        found: dict[int, dict[Modality, FloatArray]] = {id_: {} for id_ in ids}
        frames: dict[int, tuple[FloatArray, NDArray[np.float64]]] = {}
        for row in self._by_id(select(e.clip_id, e.modality, e.vector, e.frames), e.clip_id, ids):
            found[row.clip_id][row.modality] = unpack_vector(row.vector)
            if row.frames is not None:
                frames[row.clip_id] = unpack_frames(row.frames)
        none = (np.zeros((0, 0), np.float32), np.zeros(0))
        return {id_: StoredVectors(found[id_], *frames.get(id_, none)) for id_ in ids}

    def batches(
        self, ids: Sequence[int], dims: Mapping[Modality, int]
    ) -> Iterator[tuple[NDArray[np.int64], dict[Modality, FloatArray]]]:
        """Yield (ids (n,), modality -> (n, dim) float32, zero rows where absent) over the clips, in bounded batches."""
        e = schema.embedding.c
        for first in range(0, len(ids), BATCH_CLIPS):
            part = ids[first : first + BATCH_CLIPS]
            where = {id_: row for row, id_ in enumerate(part)}
            rows = {m: np.zeros((len(part), dim), np.float32) for m, dim in dims.items()}
            for row in self._by_id(select(e.clip_id, e.modality, e.vector), e.clip_id, part):
                if row.modality in rows:
                    rows[row.modality][where[row.clip_id]] = unpack_vector(row.vector)
            yield np.asarray(part, np.int64), rows

    def clips_without_embedding(self) -> list[int]:
        """Return the ids of clips that have no embedding of any modality."""
        c, e = schema.clip.c, schema.embedding.c
        return [row.id for row in self._rows(select(c.id).where(~select(e.clip_id).where(e.clip_id == c.id).exists()))]

    def thumbnails(self) -> Iterator[str]:
        """Yield the file names of all thumbnails."""
        name = schema.clip.c.thumbnail
        yield from (row.thumbnail for row in self.stream(select(name).where(name.is_not(None))))

    # --- words --------------------------------------------------------------------------------------------------

    def match_words(self, words: Sequence[str], limit: int) -> list[WordMatch]:
        """Return the documents that hold any of `words`, best first by BM25 (Robertson and Zaragoza 2009).

        Every word is quoted, so that no character of a question is syntax.
        """
        expression = " OR ".join(map(quoted, words))
        query = text(
            "SELECT d.id, d.video_id, d.kind, d.text, -bm25(document_fts) AS bm25, s.start_s, s.end_s"
            " FROM document_fts JOIN document d ON d.id = document_fts.rowid"
            " JOIN video v ON v.id = d.video_id LEFT JOIN segment s ON s.id = d.segment_id"
            " WHERE document_fts MATCH :expression AND v.state IN ('indexed', 'partial')"
            " ORDER BY bm25 DESC, d.id LIMIT :limit"
        )
        return [WordMatch(*row) for row in self._rows(query, {"expression": expression, "limit": limit})]

    def documents_with(self, word: str, among: Sequence[int]) -> set[int]:
        """Return which of the documents `among` hold the word, or another form of it."""
        query = text(
            "SELECT rowid FROM document_fts WHERE document_fts MATCH :word"
            " AND rowid IN (SELECT value FROM json_each(:among))"
        )
        return {row.rowid for row in self._rows(query, {"word": quoted(word), "among": json.dumps(list(among))})}

    def document_frequencies(self, words: Sequence[str]) -> tuple[int, list[int]]:
        """Return (documents in all, for each word the number of documents that hold it)."""
        total = int(self._rows(select(func.count().label("n")).select_from(schema.document))[0].n)
        query = text("SELECT count(*) AS n FROM document_fts WHERE document_fts MATCH :word")
        return total, [int(self._rows(query, {"word": quoted(word)})[0].n) for word in words]

    def clips_between(self, video_id: int, start_s: float, end_s: float) -> list[int]:
        """Return the ids of a video's clips that overlap [start_s, end_s]."""
        c = schema.clip.c
        query = select(c.id).where(c.video_id == video_id, c.start_s <= end_s, c.end_s > start_s)
        return [row.id for row in self._rows(query.order_by(c.start_s))]

    # --- videos -------------------------------------------------------------------------------------------------

    def videos(self, ids: Sequence[int] | None = None) -> list[StoredVideo]:
        """Return videos (all, if `ids` is None) with their locations, in order of id."""
        v, loc = schema.video.c, schema.location.c
        places: dict[int, list[Location]] = {}
        query = select(loc.video_id, loc.path, loc.size_bytes, loc.mtime_ns, loc.inode)
        chosen = self._rows(query) if ids is None else self._by_id(query, loc.video_id, ids)
        for row in chosen:
            places.setdefault(row.video_id, []).append(Location(row.path, row.size_bytes, row.mtime_ns, row.inode))
        query = select(schema.video).order_by(v.id)
        rows = self._rows(query) if ids is None else self._by_id(query, v.id, ids)
        return [_stored_video(row, places.get(row.id, [])) for row in rows]

    def video_at(self, path: bytes) -> StoredVideo | None:
        """Return the video that lies at `path`, or None."""
        loc = schema.location.c
        rows = self._rows(select(loc.video_id).where(loc.path == path))
        return self.videos([rows[0].video_id])[0] if rows else None

    def segments(self, video_id: int) -> list[Segment]:
        """Return a video's transcript in order of time."""
        s = schema.segment.c
        query = select(s.start_s, s.end_s, s.text, s.source, s.language, s.confidence).where(s.video_id == video_id)
        return [Segment(*row) for row in self._rows(query.order_by(s.start_s, s.id))]

    def said(self, clip_ids: Sequence[int]) -> dict[int, str]:
        """Return clip id -> what is said during the clip, a space between segments; silent clips are left out."""
        query = text(
            "SELECT c.id, s.text FROM clip c JOIN segment s"
            " ON s.video_id = c.video_id AND s.start_s < c.end_s AND s.end_s > c.start_s"
            " WHERE c.id IN (SELECT value FROM json_each(:clips)) ORDER BY c.id, s.start_s, s.id"
        )
        lines: dict[int, list[str]] = {}
        for row in self._rows(query, {"clips": json.dumps(list(clip_ids))}):
            lines.setdefault(row.id, []).append(row.text)
        return {clip_id: " ".join(texts) for clip_id, texts in lines.items()}

    def coverage(self, video_id: int) -> list[Mapping[str, str]]:
        """Return what each modality covers, a mapping per unit in order."""
        u = schema.unit.c
        rows = self._rows(select(u.coverage).where(u.video_id == video_id).order_by(u.number))
        return [json.loads(row.coverage) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return how many videos there are in each state, and how many clips, segments and locations in all."""
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

    def last_run(self) -> dict[str, Any] | None:
        """Return the newest run: command, started_at, finished_at, report."""
        rows = self._rows(select(schema.run).order_by(schema.run.c.id.desc()).limit(1))
        if not rows:
            return None
        row = rows[0]
        report = json.loads(row.report) if row.report else None
        return {
            "run_id": row.id,
            "command": row.command,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "report": report,
        }


def quoted(word: str) -> str:
    """Return a word as an FTS5 string, in which nothing is syntax."""
    return '"' + word.replace('"', '""').replace("\0", " ") + '"'


def _stored_video(row: Any, places: list[Location]) -> StoredVideo:
    values = {field.name: getattr(row, field.name) for field in fields(Video)}
    values |= {
        "has_audio": bool(row.has_audio),
        "tags": json.loads(row.tags),
        "chapters": tuple(json.loads(row.chapters)),
    }
    return StoredVideo(
        **values,
        id=row.id,
        state=row.state,
        problem=json.loads(row.problem) if row.problem else None,
        locations=tuple(sorted(places, key=lambda place: place.path)),
    )
