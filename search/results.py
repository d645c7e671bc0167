"""What a search returns, and the documents (JSON objects) of a hit, of a video and of a library."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfindex.search.calibration.labels import LABELS, META_KEY, Calibration, Label
from vfindex.storage.errors import IndexUnusable
from vfindex.storage.modalities import modality_names
from vfindex.storage.records import SEARCHABLE

if TYPE_CHECKING:
    from vfindex.storage.db.reader import Generation, Snapshot
    from vfindex.storage.db.videos import StoredVideo
    from vfindex.storage.library import Library
    from vfindex.storage.modalities import ModalityName
    from vfindex.storage.records import Hint, Segment, SegmentSource

_STATES = ("indexed", "partial", "indexing", "failed", "quarantined", "vanished")
_STATES_WITH_PROBLEMS = ("partial", "failed", "quarantined")


@dataclass(frozen=True, slots=True)
class Span:
    """The clip that matches one moment of the query. frame_s: presentation time of its best frame."""

    start_s: float
    end_s: float
    frame_s: float | None
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Return the span for JSON."""
        frame_s = None if self.frame_s is None else round(self.frame_s, 3)
        return {**_times(self.start_s, self.end_s), "frame_s": frame_s, "score": self.score}


@dataclass(frozen=True, slots=True)
class Match:
    """A text that contains words of the query: a transcript segment, or a title or tag (no times, no source)."""

    words: tuple[str, ...]
    text: str
    kind: str
    start_s: float | None
    end_s: float | None
    source: SegmentSource | None


@dataclass(frozen=True, slots=True)
class Place:
    """Another place of the same footage: a copy of the file, a re-encode, an intro."""

    video: bytes | None
    start_s: float
    end_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the place for JSON."""
        return {"video": _path(self.video), **_times(self.start_s, self.end_s)}


@dataclass(frozen=True, slots=True)
class Hit:
    """A clip with its rank, from 1, and its score: higher is better.

    video: absolute path of a copy that exists, else of one that did. start_s, end_s: from the first to the last clip
    of `moments`, plus neighbours that match nearly as well. frame_s: presentation time of the best frame.
    modalities: signed contributions that sum to the score; None: the clip lacks the modality, or the query does not
    use it, and `missing` says which. words: query words in the clip's speech or the video's title and tags.
    snippet: the text that contains them, else what is said during the clip. moments: one clip per moment of the query.
    also: other places of the same footage. confidence: None if the library cannot tell. coarse: the video has only
    its preview index so far.
    """

    rank: int
    video: bytes | None
    start_s: float
    end_s: float
    frame_s: float | None
    score: float
    modalities: Mapping[ModalityName, float | None]
    words: tuple[str, ...]
    snippet: str | None
    thumbnail: Path | None
    moments: tuple[Span, ...] = ()
    also: tuple[Place, ...] = ()
    matches: tuple[Match, ...] = ()
    missing: Mapping[ModalityName, str] = field(default_factory=dict)
    confidence: Label | None = None
    coarse: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the hit for JSON: times rounded to a millisecond, paths as text."""
        return {
            "rank": self.rank,
            "video": _path(self.video),
            **_times(self.start_s, self.end_s),
            "frame_s": None if self.frame_s is None else round(self.frame_s, 3),
            "score": self.score,
            "confidence": self.confidence,
            "coarse": self.coarse,
            "modalities": dict(self.modalities),
            "words": list(self.words),
            "snippet": self.snippet,
            "moments": [span.to_dict() for span in self.moments],
            "also": [place.to_dict() for place in self.also],
            "matches": [asdict(match) for match in self.matches],
            "missing": dict(self.missing),
            "thumbnail": None if self.thumbnail is None else str(self.thumbnail),
        }


class Hits(list[Hit]):
    """Hits, best first. hints: other readings of the query; they change no hit."""

    def __init__(self, hits: Iterable[Hit] = (), hints: tuple[Hint, ...] = ()) -> None:
        super().__init__(hits)
        self.hints = hints

    def with_confidence(self, least: Label | None) -> Hits:
        """Return the hits with the label `least` or a better one; None: all but those no better than chance."""
        if least is None:
            return Hits((hit for hit in self if hit.confidence != "none"), self.hints)
        accepted = LABELS[LABELS.index(least) :]
        return Hits((hit for hit in self if least == "none" or hit.confidence in accepted), self.hints)

    @property
    def confident(self) -> bool | None:
        """Whether any hit is better than chance; None if the library cannot tell."""
        labels = {hit.confidence for hit in self}
        if labels - {None, "none"}:
            return True
        return None if None in labels else False

    def to_dict(self) -> dict[str, Any]:
        """Return the hits for JSON."""
        return {
            "match": bool(self),
            "confident": self.confident,
            "hints": [asdict(hint) for hint in self.hints],
            "hits": [hit.to_dict() for hit in self],
        }


def video_to_dict(library: Library, snapshot: Snapshot, video: StoredVideo) -> dict[str, Any]:
    """Return what the library knows of a video, for JSON: file, state, clips, transcript, coverage of each modality."""
    from vfindex.storage.db.runs import attempts_of
    from vfindex.storage.db.units import preview_videos

    clips = snapshot.clips_of(video.id)
    vectors = snapshot.vectors([clip.id for clip in clips])
    thumbnails = [library.thumbnail(clip.thumbnail) for clip in clips]
    return {
        "video": _path(video.locations[0].path),
        "locations": [_path(place.path) for place in video.locations],
        "fingerprint": video.fingerprint,
        "state": video.state,
        "coarse": video.fingerprint in preview_videos(snapshot),
        "problem": video.problem,
        "attempts": [asdict(attempt) for attempt in attempts_of(snapshot, video.id)],
        "title": video.title,
        "tags": dict(video.tags),
        "container": video.container,
        "codec": video.codec,
        "width_px": video.width_px,
        "height_px": video.height_px,
        "rotation_deg": video.rotation_deg,
        "start_s": video.start_s,
        "first_pts_s": video.start_s,
        "last_pts_s": video.last_s,
        "end_s": video.end_s,
        "duration_s": video.end_s - video.start_s,
        "frames": video.frames,
        "has_audio": video.has_audio,
        "coverage": [dict(unit) for unit in snapshot.coverage(video.id)],
        "clips": [
            {
                "start_s": clip.start_s,
                "end_s": clip.end_s,
                "modalities": sorted(vectors[clip.id].embeddings),
                "frames": len(vectors[clip.id].frame_times_s),
                "thumbnail": None if thumbnail is None else str(thumbnail),
            }
            for clip, thumbnail in zip(clips, thumbnails, strict=True)
        ],
        "transcript": [_segment_to_dict(segment) for segment in snapshot.segments(video.id)],
    }


def _segment_to_dict(segment: Segment) -> dict[str, Any]:
    return {
        "start_s": segment.start_s,
        "end_s": segment.end_s,
        "text": segment.text,
        "source": segment.source,
        "language": segment.language,
        "confidence": segment.confidence,
    }


def status_to_dict(folder: Path, library: Library, snapshot: Snapshot) -> dict[str, Any]:
    """Return the status of the library in `folder` for JSON: counts, models, index, calibration, problems."""
    from vfindex.storage.db.runs import attempt_counts, last_run
    from vfindex.storage.db.sources import stored_exclusions
    from vfindex.storage.db.units import preview_videos
    from vfindex.storage.meta import LibraryMeta

    attempts = attempt_counts(snapshot)
    counts, by_modality = snapshot.counts(), snapshot.modality_counts()
    meta, generation, videos = LibraryMeta(snapshot), snapshot.generation(), snapshot.videos()
    last = last_run(snapshot)
    setup, form = meta.setup, meta.fusion.form
    problem = _index_problem(library, generation)
    return {
        "library": str(folder),
        "preset": setup.preset if setup else None,
        "sampling": setup.sampling if setup else None,
        "models": dict(setup.references) if setup else {},
        "lacks": [m for m in modality_names() if setup and m not in setup.models],
        "videos": sum(counts.get(state, 0) for state in SEARCHABLE),
        "coarse": len(preview_videos(snapshot)),
        "locations": counts["location"],
        "states": {state: counts.get(state, 0) for state in _STATES},
        "clips": counts["clip"],
        "segments": counts["segment"],
        "clips_with": {m: by_modality.get(m, 0) for m in modality_names()},
        "video_seconds": round(sum(v.end_s - v.start_s for v in videos if v.state in SEARCHABLE), 3),
        "confidence": _calibration(snapshot.get(META_KEY)) if form == "concat" else None,
        "fusion": form,
        "generation": generation.id if generation and not problem else None,
        "clips_in_generation": generation.clips if generation and not problem else 0,
        "index_problem": problem,
        "removed": [_path(path) for path in stored_exclusions(snapshot)],
        "problems": [
            {
                "path": _path(place.path),
                "state": video.state,
                **(video.problem or {}),
                "attempts": attempts.get(video.id, 1),
            }
            for video in videos
            if video.state in _STATES_WITH_PROBLEMS
            for place in video.locations
        ],
        "last_run": last and last.to_dict(),
    }


def _index_problem(library: Library, generation: Generation | None) -> str | None:
    """Return why searches cannot use the joint index; None if they use it, or none is published yet."""
    try:
        if generation is not None:
            library.open_index(generation)
    except IndexUnusable as exc:
        return str(exc)
    return None


def _calibration(stored: str | None) -> dict[str, Any] | None:
    """Return modality -> its calibration, None before the library is calibrated."""
    calibration = Calibration.from_json(stored)
    if calibration is None:
        return None
    return {
        m: {"labelled": of.is_reliable, "auc": of.auc, "questions": of.known, "reason": of.reason()}
        for m, of in calibration.modalities.items()
    }


def _times(start_s: float, end_s: float) -> dict[str, float]:
    return {"start_s": round(start_s, 3), "end_s": round(end_s, 3)}


def _path(path: bytes | None) -> str | None:
    """Return a path as text; bytes that are not UTF-8 become lone surrogates, which os.fsencode reverses."""
    return None if path is None else os.fsdecode(path)
