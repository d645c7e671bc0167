"""Marks as records: which video they are in today, and the clip that a new one marks."""

from __future__ import annotations

from collections.abc import Sequence

from vfindex.search.results import MarkInfo, MarkList, Presence
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.locations import paths_by_fingerprint
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.records import ClipKey
from vfindex.storage.user.records import Mark, Moment


def marks_with_paths(snapshot: Snapshot, marks: Sequence[Mark]) -> MarkList:
    """Return marks with the paths that their videos have now, in the same order."""
    paths = paths_by_fingerprint(snapshot, {mark.moment.fingerprint for mark in marks})
    clips = {name: _clips_of(snapshot, name) for name, path in paths.items() if path is not None}
    found = []
    for mark in marks:
        fingerprint, start_ms = mark.moment.fingerprint, mark.moment.start_ms
        path = paths.get(fingerprint)
        known: Presence = "missing" if fingerprint in paths else "gone"
        found.append(
            MarkInfo(
                id=mark.id,
                video=path,
                presence=known if path is None else "present",
                fingerprint=fingerprint,
                key=ClipKey(fingerprint, start_ms),
                clip=_clip_now(clips.get(fingerprint, ()), mark.moment),
                start_s=start_ms / 1000,
                end_s=mark.moment.end_ms / 1000,
                list=mark.list,
                note=mark.note,
                question=mark.question,
                grade=mark.grade,
                by=mark.by,
                at=mark.at,
            )
        )
    return MarkList(tuple(found))


def _clips_of(snapshot: Snapshot, fingerprint: str) -> Sequence[StoredClip]:
    video = snapshot.video_with(fingerprint)
    return () if video is None else snapshot.clips_of(video.id)


def _clip_now(clips: Sequence[StoredClip], moment: Moment) -> ClipKey | None:
    """Return the key of the clip that has most of a moment's span, None if none has any of it."""
    start_s, end_s = moment.start_ms / 1000, moment.end_ms / 1000
    shared = [
        (min(clip.end_s, end_s) - max(clip.start_s, start_s), -clip.start_ms)
        for clip in clips  # of a long recording thousands, for each of its marks
        if clip.start_s < end_s and clip.end_s > start_s
    ]
    length_s, start_ms = max(shared, default=(0.0, 0))
    return ClipKey(moment.fingerprint, -start_ms) if length_s > 0 else None


def moment_of(snapshot: Snapshot, clip: StoredClip) -> Moment:
    """Return a clip as a moment."""
    [video] = snapshot.videos([clip.video_id])
    return Moment(video.fingerprint, clip.start_ms, round(1000 * clip.end_s))
