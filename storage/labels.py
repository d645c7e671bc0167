"""Labels of clips and videos in library.db: who has which, written by `label`, read by filters, lists and hits.

A set of classes (`classes`) gives a clip at most one of its names, and a whole video at most one. Labels go with their
clip, and with the vectors that they were given by (`db/migrations.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryChanged
from vfindex.storage.ids import listed
from vfindex.storage.text.tokenizer import plain_words

# Rows inserted by one statement.
BATCH_ROWS = 10_000
_AMONG = "IN (SELECT value FROM json_each(:among))"
# The first of it is what the index of names finds.
_NAMED = (
    "name IN (SELECT json_extract(value, '$[1]') FROM json_each(:named)) AND (classes, name) IN"
    " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:named))"
)
# A label of a clip that was deleted meanwhile is left out; so is one of a video.
_INSERT = (
    "INSERT INTO label (video_id, clip_id, classes, name, probability)"
    " SELECT v.id, ?2, ?3, ?4, ?5 FROM video v WHERE v.id = ?1"
    " AND (?2 IS NULL OR EXISTS (SELECT 1 FROM clip c WHERE c.id = ?2 AND c.video_id = ?1))"
)
_ANY = "SELECT 1 FROM label LIMIT 1"
_STATE = "SELECT max(id), count(finished_at) FROM run"


@dataclass(frozen=True, slots=True)
class StoredLabel:
    """A label of a clip; clip_id: None for the label of a whole video. probability: 0 to 1, of this class."""

    video_id: int
    clip_id: int | None
    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many searchable videos and clips have a label, videos by their own label.

    classes, name: its set and its class. label: as it is shown, and as the filter takes it (`label_names`).
    """

    classes: str
    name: str
    videos: int
    clips: int
    label: str


def library_state(snapshot: Snapshot) -> tuple[int, int]:
    """Return what `put_labels` compares: it differs after every run."""
    [(newest, finished)] = snapshot.stream(text(_STATE))
    return newest or 0, finished


def put_labels(catalog: Catalog, classes: str, labels: Iterable[StoredLabel], state: tuple[int, int]) -> int:
    """Replace the labels of a set of classes; return how many there are now.

    state: of the snapshot that they were made from. Raises LibraryChanged if a run has changed the library since.
    """
    with catalog.transaction() as connection:
        newest, finished = connection.execute(text(_STATE)).one()
        if (newest or 0, finished) != state:
            raise LibraryChanged("a run has changed the library meanwhile; run the same command again")
        _delete(connection, classes)
        rows = ((each.video_id, each.clip_id, classes, each.name, each.probability) for each in labels)
        while part := list(islice(rows, BATCH_ROWS)):
            connection.exec_driver_sql(_INSERT, part)
        count = connection.scalar(text("SELECT count(*) FROM label WHERE classes = :classes"), {"classes": classes})
    return int(count or 0)


def remove_labels(catalog: Catalog, classes: str) -> int:
    """Delete the labels of a set of classes; return how many there were."""
    with catalog.transaction() as connection:
        return _delete(connection, classes)


def _delete(connection: Connection, classes: str) -> int:
    return connection.execute(text("DELETE FROM label WHERE classes = :classes"), {"classes": classes}).rowcount


# --- reading ----------------------------------------------------------------------------------------------------------


# A set of classes, and the name of one of them.
Key = tuple[str, str]


def label_names(snapshot: Snapshot) -> dict[Key, str]:
    """Return the labels that there are -> as they are shown, in alphabetical order, cached until the next commit.

    `cooking`, or `genres/cooking` where several sets have one of this name; case, accents and punctuation do not count.
    """
    return snapshot.remembered("label names", lambda: _label_names(snapshot))


def _label_names(snapshot: Snapshot) -> dict[Key, str]:
    sets = label_sets(snapshot)
    if len(sets) == 1:
        names = snapshot.stream(text("SELECT DISTINCT name FROM label ORDER BY name"))
        return {(sets[0], row.name): row.name for row in names}
    rows = snapshot.stream(text("SELECT DISTINCT name, classes FROM label NOT INDEXED"))
    keys = [(classes, name) for name, classes in sorted((row.name, row.classes) for row in rows)]
    words = Counter(tuple(plain_words(name)) for _, name in keys)
    return {(of, name): f"{of}/{name}" if words[tuple(plain_words(name))] > 1 else name for of, name in keys}


def label_sets(snapshot: Snapshot) -> list[str]:
    """Return the sets of classes that labels are of, in alphabetical order, cached until the next commit.

    Of a million labels it takes 0.07 s, and their names with their sets 0.3 s.
    """
    query = text("SELECT DISTINCT classes FROM label NOT INDEXED")
    return snapshot.remembered("label sets", lambda: sorted(row.classes for row in snapshot.stream(query)))


def _shown(snapshot: Snapshot, classes: str, name: str) -> str:
    return name if len(label_sets(snapshot)) == 1 else label_names(snapshot)[classes, name]


def videos_labelled(snapshot: Snapshot, names: Collection[Key]) -> frozenset[int]:
    """Return the videos with one of these labels, their own or that of a clip."""
    query = text(f"SELECT group_concat(DISTINCT video_id) AS ids FROM label WHERE {_NAMED}")
    [row] = snapshot.stream(query.bindparams(named=json.dumps(list(names))))
    return frozenset(map(int, row.ids.split(","))) if row.ids else frozenset()


def clips_labelled(snapshot: Snapshot, names: Collection[Key]) -> NDArray[np.int64]:
    """Return the clips with one of these labels, increasing."""
    query = text(f"SELECT group_concat(clip_id, ' ') AS ids FROM label WHERE {_NAMED}")
    [row] = snapshot.stream(query.bindparams(named=json.dumps(list(names))))
    return np.unique(listed(row.ids))


def labels_of(snapshot: Snapshot, clip_ids: Collection[int]) -> dict[int, dict[str, float]]:
    """Return clip id -> label as shown -> probability, the most probable first, of the clips that have labels."""
    return _labels(snapshot, "clip_id", f"clip_id {_AMONG}", clip_ids)


def labels_of_videos(snapshot: Snapshot, video_ids: Collection[int]) -> dict[int, dict[str, float]]:
    """Return video id -> label as shown -> probability of its own labels, the most probable first."""
    return _labels(snapshot, "video_id", f"clip_id IS NULL AND video_id {_AMONG}", video_ids)


def _labels(snapshot: Snapshot, id_: str, where: str, among: Collection[int]) -> dict[int, dict[str, float]]:
    if not snapshot.remembered("is labelled", lambda: any(True for _ in snapshot.stream(text(_ANY)))):
        return {}
    columns = f"{id_} AS id, classes, name, probability"
    query = text(f"SELECT {columns} FROM label WHERE {where} ORDER BY probability DESC, name, classes")
    found: dict[int, dict[str, float]] = {}
    for row in list(snapshot.stream(query.bindparams(among=json.dumps(list(among))))):
        found.setdefault(row.id, {})[_shown(snapshot, row.classes, row.name)] = row.probability
    return found


def label_counts(snapshot: Snapshot, videos: Collection[int] | None = None) -> list[LabelCount]:
    """Return the labels that searchable videos have, the most frequent first. videos: count only these; None: all."""
    chosen = "" if videos is None else f" AND v.id {_AMONG}"
    query = text(
        "SELECT l.classes, l.name, sum(l.clip_id IS NULL) AS videos, count(l.clip_id) AS clips FROM label l"
        f" JOIN video v ON v.id = l.video_id AND v.state IN ('indexed', 'partial'){chosen}"
        " GROUP BY l.classes, l.name ORDER BY videos DESC, clips DESC, l.classes, l.name"
    )
    bound = query if videos is None else query.bindparams(among=json.dumps(list(videos)))
    return [
        LabelCount(row.classes, row.name, row.videos, row.clips, _shown(snapshot, row.classes, row.name))
        for row in list(snapshot.stream(bound))
    ]


def clips_by_video(snapshot: Snapshot) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return (ids, video ids, lengths in seconds) of the clips of searchable videos, (n,) each, in order of videos."""
    query = text(
        "SELECT c.id, c.video_id, c.end_s - c.start_s FROM clip c JOIN video v ON v.id = c.video_id"
        " WHERE v.state IN ('indexed', 'partial') ORDER BY c.video_id, c.start_ms"
    )
    kinds = np.dtype([("id", np.int64), ("video", np.int64), ("length", np.float64)])
    rows = np.fromiter((tuple(row) for row in snapshot.stream(query)), kinds)
    return rows["id"].copy(), rows["video"].copy(), rows["length"].copy()


def probability_by_name(labels: Mapping[str, float]) -> dict[str, float]:
    """Return labels as documents have them, probabilities to a thousandth."""
    return {name: round(probability, 3) for name, probability in labels.items()}
