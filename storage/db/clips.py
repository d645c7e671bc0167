"""Clips: as rows with checksums, as records, and by video, time and index state."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, insert
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage.db import schema
from vfindex.storage.db.integrity import inserted
from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.ids import listed
from vfindex.storage.joint.codecs import checksum, pack_frames, pack_vector
from vfindex.storage.modalities import ModalityName, spoken_modalities
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.text.full_text import DURING

# A time that no video reaches: 30 years.
_MOST_S = 1e9


@dataclass(frozen=True, slots=True)
class StoredClip:
    """A clip as stored. thumbnail: its file name."""

    id: int
    video_id: int
    start_s: float
    end_s: float
    thumbnail: str | None

    @property
    def start_ms(self) -> int:
        """The start in its key."""
        return to_ms(self.start_s)


@dataclass(frozen=True, slots=True, eq=False)
class StoredVectors:
    """A clip's embeddings: modality -> (dim,); frames: (n, dim), frame_times_s: (n,), both empty without any."""

    embeddings: Mapping[ModalityName, FloatArray]
    frames: FloatArray
    frame_times_s: NDArray[np.float64]


def stored_clip(row: Sequence[Any]) -> StoredClip:
    check_times(row[2], row[3])
    return StoredClip(*row)


def check_times(*times_s: float) -> None:
    """Raise LibraryDamaged for a value that is not a time in a video."""
    for time_s in times_s:
        if not isinstance(time_s, float | int) or not abs(time_s) < _MOST_S:
            raise LibraryDamaged("a time in the library is not as it was written; run: vfindex repair")


def to_ms(start_s: float) -> int:
    """Return the start of a clip in milliseconds, as in its key."""
    return round(start_s * 1000)


def no_frames() -> tuple[FloatArray, NDArray[np.float64]]:
    return np.zeros((0, 0), np.float32), np.zeros(0)


def insert_clip(connection: Connection, video_id: int, unit_id: int, item: Clip, thumbnail: str | None) -> None:
    """Insert a clip and its embeddings."""
    start_ms = to_ms(item.start_s)
    clip_id = inserted(
        connection,
        insert(schema.clip).values(
            video_id=video_id,
            unit_id=unit_id,
            start_ms=start_ms,
            start_s=item.start_s,
            end_s=item.end_s,
            start_uncertainty_s=item.start_uncertainty_s,
            thumbnail=thumbnail,
            crc32=checksum(start_ms, item.start_s, item.end_s),
            indexed_run=schema.newest_run,
        ),
    )
    for modality, vector in item.embeddings.items():
        insert_embedding(connection, clip_id, modality, pack_vector(vector))
    if len(item.frame_times_s):
        times, vectors = pack_frames(item.frame_vectors, item.frame_times_s)
        values = {"clip_id": clip_id, "times": times, "vectors": vectors, "crc32": checksum(times, vectors)}
        connection.execute(insert(schema.frame).values(**values))
    connection.execute(upsert(schema.meta).values(key="changed", value="added").on_conflict_do_nothing())


def insert_embedding(connection: Connection, clip_id: int, modality: str, vector: bytes) -> None:
    """Insert a packed vector of a clip."""
    values = {"clip_id": clip_id, "modality": modality, "vector": vector, "crc32": checksum(vector)}
    connection.execute(insert(schema.embedding).values(**values))


# A statement and its parameters -> its rows.
Rows = Callable[[str, tuple[Any, ...]], list[Any]]


def clips_of_few(rows: Rows, videos: Collection[int]) -> NDArray[np.int64]:
    """Return the clip ids of videos in any state, unordered."""
    of_video = "SELECT group_concat(c.id, ' ') FROM json_each(?) j CROSS JOIN clip c ON c.video_id = j.value"
    return listed(rows(of_video, (json.dumps(list(videos)),))[0][0])


def clip_spans(rows: Rows) -> NDArray[np.int64]:
    """Return (4, n): video id, first and last clip id, and number of clips, of searchable videos with clips."""
    found = rows(
        "SELECT v.id, min(c.id), max(c.id), count(*) FROM video v JOIN clip c ON c.video_id = v.id"
        " WHERE v.state IN ('indexed', 'partial') GROUP BY v.id",
        (),
    )
    return np.array(found, np.int64).reshape(-1, 4).T


def expanded(spans: NDArray[np.int64], videos: Collection[int]) -> tuple[NDArray[np.int64], list[int]]:
    """Return (clip ids of the videos whose ids are contiguous, the other videos).

    Ids are contiguous unless units of two videos were committed in turn. spans: of `clip_spans`.
    """
    ids, firsts, lasts, counts = spans[:, np.isin(spans[0], list(videos))]
    whole = lasts - firsts + 1 == counts
    stops = np.cumsum(counts[whole])
    within = np.arange(stops[-1] if len(stops) else 0) - np.repeat(stops - counts[whole], counts[whole])
    return np.repeat(firsts[whole], counts[whole]) + within, [int(id_) for id_ in ids[~whole]]


def clips_near(rows: Rows, ids: Collection[int], within_s: float) -> NDArray[np.float64]:
    """Return (6, n): id, start_s and end_s of each clip and of each clip near it in its video, itself included.

    Near: a gap of at most `within_s` between the end of one and the start of the other.
    """
    found = rows(
        "SELECT k.id, k.start_s, k.end_s, c.id, c.start_s, c.end_s FROM json_each(?1) j"
        " CROSS JOIN clip k ON k.id = j.value CROSS JOIN clip c ON c.video_id = k.video_id"
        " AND c.start_s <= k.end_s + ?2 AND c.end_s >= k.start_s - ?2"
        " AND c.start_ms <= 1000 * (k.end_s + ?2) + 1 AND c.start_ms >= coalesce((SELECT max(b.start_ms) FROM clip b"
        " WHERE b.video_id = k.video_id AND b.start_ms <= 1000 * (k.start_s - ?2) - 1), -9e15)",
        (json.dumps(list(ids)), within_s),
    )
    return np.array(found, np.float64).reshape(-1, 6).T


def first_clips(rows: Rows, videos: Collection[int], limit: int) -> dict[int, list[int]]:
    """Return video id -> the ids of its first `limit` clips, in order of time."""
    found: dict[int, list[int]] = {id_: [] for id_ in videos}
    for video_id, clip_id in rows(
        "SELECT j.value, c.id FROM json_each(?) j JOIN clip c ON c.id IN"
        " (SELECT id FROM clip WHERE video_id = j.value ORDER BY start_ms LIMIT ?) ORDER BY c.start_ms",
        (json.dumps(list(videos)), limit),
    ):
        found[video_id].append(clip_id)
    return found


def hidden_clips(rows: Rows, watermark: int) -> NDArray[np.int64]:
    """Return the clips up to `watermark` whose video is not searchable, increasing."""
    found = rows(
        "SELECT group_concat(c.id, ' ') FROM video v CROSS JOIN clip c ON c.video_id = v.id"
        " WHERE v.state NOT IN ('indexed', 'partial') AND c.id <= ?",
        (watermark,),
    )
    return np.sort(listed(found[0][0]))


def changed_clips(rows: Rows, watermark: int) -> NDArray[np.int64]:
    """Return the clips up to `watermark` whose vectors changed or were deleted since the generation was published."""
    found = rows("SELECT group_concat(clip_id, ' ') FROM index_change WHERE clip_id <= ?", (watermark,))
    return np.sort(listed(found[0][0]))


def unindexed_clips(rows: Rows, watermark: int) -> NDArray[np.int64]:
    """Return the searchable clips above `watermark`, and the changed ones up to it, increasing."""
    searchable = "JOIN video v ON v.id = c.video_id AND v.state IN ('indexed', 'partial')"
    found = rows(
        f"SELECT group_concat(id, ' ') FROM (SELECT c.id FROM clip c {searchable} WHERE c.id > ?1 UNION ALL"
        f" SELECT c.id FROM index_change i CROSS JOIN clip c ON c.id = i.clip_id {searchable} WHERE i.clip_id <= ?1)",
        (watermark,),
    )
    return np.sort(listed(found[0][0]))


def searchable_counts(rows: Rows) -> dict[str, int]:
    """Return the numbers of clips ("clip"), of segments ("segment"), and of clips by modality, of searchable videos."""
    hidden = "SELECT id FROM video WHERE state NOT IN ('indexed', 'partial')"
    return dict(
        rows(
            f"SELECT 'clip', count(*) FROM clip WHERE video_id NOT IN ({hidden})"
            f" UNION ALL SELECT 'segment', count(*) FROM segment WHERE video_id NOT IN ({hidden})"
            " UNION ALL SELECT modality, count(*) FROM embedding WHERE clip_id NOT IN"
            f" (SELECT id FROM clip WHERE video_id IN ({hidden})) GROUP BY modality",
            (),
        )
    )


def clip_counts(rows: Rows, video_ids: Collection[int]) -> dict[int, dict[str, int]]:
    """Return video id -> modality -> how many of its clips have it; "" counts all its clips."""
    chosen = "c.video_id IN (SELECT value FROM json_each(?))"
    counts: dict[int, dict[str, int]] = {}
    for video_id, modality, n in rows(
        f"SELECT c.video_id, '', count(*) FROM clip c WHERE {chosen} GROUP BY c.video_id"
        " UNION ALL SELECT c.video_id, e.modality, count(*) FROM clip c JOIN embedding e ON e.clip_id = c.id"
        f" WHERE {chosen} GROUP BY c.video_id, e.modality",
        (json.dumps(list(video_ids)),) * 2,
    ):
        counts.setdefault(video_id, {})[modality] = n
    return counts


# From one language, track and video to the next, by the index. A library of an earlier vfindex has none.
_LANGUAGES = (
    "WITH RECURSIVE known(language, track, video_id) AS (SELECT '', '', -1 UNION ALL"
    " SELECT s.language, s.track, s.video_id FROM known k CROSS JOIN segment s ON s.id = (SELECT n.id FROM segment n"
    " WHERE (n.language, n.track, n.video_id) >= (k.language, k.track, k.video_id + 1)"
    " ORDER BY n.language, n.track, n.video_id LIMIT 1)) SELECT DISTINCT lower(language), video_id FROM known"
)
_LANGUAGES_UNINDEXED = "SELECT DISTINCT lower(language), video_id FROM segment"


def videos_by_language(rows: Rows) -> dict[str, frozenset[int]]:
    """Return language, in lower case -> the videos with a transcript in it."""
    [(indexed,)] = rows("SELECT count(*) FROM main.sqlite_master WHERE name = 'segment_by_language'", ())
    query = _LANGUAGES if indexed else _LANGUAGES_UNINDEXED
    spoken = " WHERE track IN (SELECT value FROM json_each(?))"
    return _grouped(rows(query + spoken, (json.dumps(spoken_modalities()),)))


def videos_by_speakers(rows: Rows) -> dict[str, frozenset[int]]:
    """Return the names of those who say one segment, a line each -> the videos that have such a segment."""
    return _grouped(rows("SELECT DISTINCT speakers, video_id FROM segment WHERE speakers IS NOT NULL", ()))


def clips_by_speakers(rows: Rows, speakers: Collection[str]) -> NDArray[np.int64]:
    """Return the clips during segments with these speakers, increasing. speakers: keys of `videos_by_speakers`."""
    among = f"json_each(?) j CROSS JOIN segment s ON s.speakers = j.value CROSS JOIN {DURING}"
    found = rows(f"SELECT group_concat(c.id, ' ') FROM {among}", (json.dumps(list(speakers)),))
    return np.unique(listed(found[0][0]))


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for name, video_id in pairs:
        found.setdefault(name, set()).add(video_id)
    return {name: frozenset(videos) for name, videos in found.items()}


def said_during(rows: Rows, clip_ids: Collection[int], corrected: Mapping[int, str]) -> dict[int, str]:
    """Return clip id -> its transcript, segments joined by a space; clips without one are left out.

    corrected: segment id -> what it should read.
    """
    lines: dict[int, list[str]] = {}
    among = "(SELECT value FROM json_each(?))"
    for clip_id, segment_id, line in rows(
        "SELECT c.id, s.id, s.text FROM clip c JOIN segment s"
        " ON s.video_id = c.video_id AND s.start_s < c.end_s AND s.end_s > c.start_s"
        f" WHERE s.track IN {among} AND c.id IN {among} ORDER BY c.id, s.start_s, s.id",
        (json.dumps(spoken_modalities()), json.dumps(list(clip_ids))),
    ):
        if text := corrected.get(segment_id, line):
            lines.setdefault(clip_id, []).append(text)
    return {clip_id: " ".join(texts) for clip_id, texts in lines.items()}


def languages_of(rows: Rows, video_ids: Collection[int]) -> dict[int, list[str]]:
    """Return video id -> the languages of its transcript, in alphabetical order."""
    found: dict[int, list[str]] = {}
    among = "(SELECT value FROM json_each(?))"
    chosen = f"language != '' AND track IN {among} AND video_id IN {among}"
    query = f"SELECT DISTINCT video_id, language FROM segment WHERE {chosen} ORDER BY video_id, language"
    for video_id, language in rows(query, (json.dumps(spoken_modalities()), json.dumps(list(video_ids)))):
        found.setdefault(video_id, []).append(language)
    return found
