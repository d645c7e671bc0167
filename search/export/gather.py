"""Hits, marks and videos as a selection, with what the library and the files say of their videos."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace

from vfindex.search.export.selection import Excerpt, Selection, Source, one_line, source_of, words_in
from vfindex.search.outline.records import Digest
from vfindex.search.query.values import is_number
from vfindex.search.results import Hits, MarkList, VideoInfo
from vfindex.search.stills import FrameReader
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import QueryError, VideoError, counted
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FileFacts, Segment

# [start, end) in seconds of a video's own times; None: from its beginning, to its end.
Span = tuple[float | None, float | None]
Chosen = Hits | MarkList | VideoInfo | Digest


def selection_of(
    snapshots: Sequence[Snapshot],
    chosen: Chosen,
    span: Span,
    tracks: tuple[ModalityName, ...],
    reader: FrameReader | None,
) -> Selection:
    """Return hits, marks, a digest or a video as a selection. span: of a video. tracks: whose text each excerpt has.

    reader: of what the library does not know of a file.
    Marks of grade 0, and of videos without a file, are left out. Raises QueryError.
    """
    videos = _Videos(snapshots, tracks, reader)
    if isinstance(chosen, VideoInfo):
        return replace(_of_video(videos, chosen, span), tracks=tracks)
    if span != (None, None):
        raise QueryError("a span is of one video; hits and marks have their own")
    if isinstance(chosen, Digest):
        return replace(_of_digest(videos, chosen), tracks=tracks)
    return replace(_of_hits(videos, chosen) if isinstance(chosen, Hits) else _of_marks(videos, chosen), tracks=tracks)


class _Videos:
    """The videos of a selection, each read once."""

    def __init__(
        self, snapshots: Sequence[Snapshot], tracks: tuple[ModalityName, ...], reader: FrameReader | None
    ) -> None:
        self._snapshots, self._tracks, self._reader = snapshots, tracks, reader
        self._sources: dict[str, Source | None] = {}
        self._segments: dict[str, tuple[Segment, ...]] = {}
        self.notes: dict[str, None] = {}

    def source(self, fingerprint: str, path: bytes | None = None) -> Source | None:
        """Return a video as a source, None if it has left the libraries, or no path of it is known."""
        if fingerprint not in self._sources:
            self._sources[fingerprint] = self._read(fingerprint, path)
        return self._sources[fingerprint]

    def _read(self, fingerprint: str, path: bytes | None) -> Source | None:
        found = self._find(fingerprint)
        if found is None:
            return None
        snapshot, video = found
        paths = sorted((place.path for place in video.locations), key=lambda each: not os.path.exists(each))
        path = path or (paths[0] if paths else None)
        if path is None:
            return None
        if self._tracks:
            self._segments[fingerprint] = tuple(snapshot.segments(video.id))
        return source_of(video, os.path.abspath(path), self._facts(video, path))

    def _find(self, fingerprint: str) -> tuple[Snapshot, StoredVideo] | None:
        for snapshot in self._snapshots:
            video = snapshot.video_with(fingerprint)
            if video is not None:
                return snapshot, video
        return None

    def _facts(self, video: StoredVideo, path: bytes) -> FileFacts | None:
        """Return what the file says of its times, where the library does not know it and it matters."""
        if video.fps is not None and video.start_s <= 0:
            return None
        if self._reader is None:
            reason = "nothing here reads it"
        else:
            try:
                return self._reader.read_facts(path)
            except VideoError as exc:
                reason = exc.problem.reason
        if video.start_s > 0:
            name = one_line(os.fsdecode(path))
            self.notes[f"{name}: {reason}; its times in a player may be off by {video.start_s:.3f} s"] = None
        return None

    def words(self, fingerprint: str, start_s: float, end_s: float) -> tuple[Segment, ...]:
        return words_in(self._segments.get(fingerprint, ()), self._tracks, start_s, end_s)


def _of_hits(videos: _Videos, hits: Hits) -> Selection:
    excerpts = []
    for hit in hits:
        source = videos.source(hit.key.fingerprint, hit.video)
        if source is None:
            continue
        words = videos.words(hit.key.fingerprint, hit.start_s, hit.end_s)
        made = Excerpt(source, hit.rank, hit.start_s, hit.end_s, text=hit.snippet or "", segments=words)
        excerpts.append(replace(made, score=hit.score, confidence=hit.confidence))
    title = " ".join([hits.query, *(f"[{each}]" for each in (*hits.images, *hits.like))]).strip()
    return Selection(title, tuple(excerpts), hits, (*_left(len(hits) - len(excerpts), "hit"), *videos.notes))


def _of_marks(videos: _Videos, marks: MarkList) -> Selection:
    wanted = [mark for mark in marks.marks if mark.grade != 0]
    excerpts: list[Excerpt] = []
    for mark in wanted:
        source = videos.source(mark.fingerprint)
        if source is not None:
            words = videos.words(mark.fingerprint, mark.start_s, mark.end_s)
            made = Excerpt(source, len(excerpts) + 1, mark.start_s, mark.end_s, note=mark.note, list=mark.list)
            excerpts.append(replace(made, by=mark.by, segments=words))
    names = list(dict.fromkeys(mark.list for mark in marks.marks))
    rejected = len(marks.marks) - len(wanted)
    notes = [f"{counted(rejected, 'mark')} of grade 0 left out"] if rejected else []
    notes += [*_left(len(wanted) - len(excerpts), "mark"), *videos.notes]
    return Selection(names[0] if len(names) == 1 else "marks", tuple(excerpts), marks, tuple(notes))


def _of_digest(videos: _Videos, digest: Digest) -> Selection:
    source = videos.source(digest.fingerprint, digest.video)
    excerpts = [
        Excerpt(
            source, n, each.start_s, each.end_s, segments=videos.words(digest.fingerprint, each.start_s, each.end_s)
        )
        for n, each in enumerate(digest.moments, start=1)
        if source is not None
    ]
    left = _left(len(digest.moments) - len(excerpts), "moment")
    return Selection(digest.title, tuple(excerpts), digest, (*left, *videos.notes))


def _of_video(videos: _Videos, video: VideoInfo, span: Span) -> Selection:
    source = videos.source(video.fingerprint, video.video)
    start_s = video.start_s if span[0] is None else max(_seconds(span[0]), video.start_s)
    end_s = video.end_s if span[1] is None else min(_seconds(span[1]), video.end_s)
    if start_s >= end_s:
        raise QueryError(f"the span is empty: the video runs from {video.start_s:g} s to {video.end_s:g} s")
    whole = span == (None, None)
    excerpts: tuple[Excerpt, ...] = ()
    if source is not None:
        # Sound may begin before the picture, and end after it.
        words = videos.words(video.fingerprint, *((-math.inf, math.inf) if whole else (start_s, end_s)))
        excerpts = (Excerpt(source, 1, start_s, end_s, segments=words),)
    name = "" if source is None else source.name
    return Selection(name.rsplit(".", 1)[0], excerpts, video, (*_left(1 - len(excerpts), "video"), *videos.notes))


def _seconds(value: object) -> float:
    if not is_number(value):
        raise QueryError(f"a span is two numbers of seconds, not {value!r}")
    return float(value)


def _left(count: int, noun: str) -> tuple[str, ...]:
    return (f"{counted(count, noun)} left out: the library knows no file of it",) if count else ()
