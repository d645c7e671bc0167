"""Records as they come out of SQLite, and what no sound library holds: times and vectors that are no numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.records import FloatArray, Location, Modality, Video, VideoState

# A time that no video reaches: 30 years.
_MOST_S = 1e9


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVideo(Video):
    """A video as stored: its id, how far it got and why no further, and where its copies lie."""

    id: int
    state: VideoState
    problem: Mapping[str, str] | None
    locations: tuple[Location, ...]


def stored_clip(row: Sequence[Any]) -> StoredClip:
    check_times(row[2], row[3])
    return StoredClip(*row)


def check_times(*times_s: float) -> None:
    """Raise LibraryDamaged for what is no time in a video."""
    if not all(isinstance(time_s, float | int) and abs(time_s) < _MOST_S for time_s in times_s):
        raise LibraryDamaged("a time in the library is not as it was written; run: vfindex repair")


def finite(vectors: FloatArray) -> FloatArray:
    """Return vectors as they are. Raises LibraryDamaged for one that is not a number."""
    if not np.isfinite(vectors).all():
        raise LibraryDamaged("a vector in the library is not as it was written; run: vfindex repair")
    return vectors


def no_frames() -> tuple[FloatArray, NDArray[np.float64]]:
    return np.zeros((0, 0), np.float32), np.zeros(0)


def stored_video(row: Any, places: list[Location]) -> StoredVideo:
    check_times(row.start_s, row.last_s, row.end_s)
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
