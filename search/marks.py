"""Marks as searches show them: which video they are in today, and the clip that a new one marks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vfindex.search.query.like import Like, clip_of
from vfindex.storage.db.locations import paths_by_fingerprint
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.user.records import Mark, Moment

# present: a search can find the video. missing: its files are not there. gone: the library has no such video.
Presence = Literal["present", "missing", "gone"]


@dataclass(frozen=True, slots=True)
class ShownMark:
    """A mark, and the path of its video; None if the video is missing or gone."""

    mark: Mark
    presence: Presence
    video: bytes | None

    def to_dict(self) -> dict[str, Any]:
        """Return the mark for JSON. A path that is not UTF-8 has lone surrogates."""
        mark, moment = self.mark, self.mark.moment
        return {
            "id": mark.id,
            "video": None if self.video is None else os.fsdecode(self.video),
            "presence": self.presence,
            "fingerprint": moment.fingerprint,
            "start_s": moment.start_ms / 1000,
            "end_s": moment.end_ms / 1000,
            "list": mark.list,
            "note": mark.note,
            "question": mark.question,
            "grade": mark.grade,
            "by": mark.by,
            "at": mark.at,
        }


def shown(snapshot: Snapshot, marks: Sequence[Mark]) -> list[ShownMark]:
    """Return marks with the paths that their videos have now, in the same order."""
    paths = paths_by_fingerprint(snapshot, {mark.moment.fingerprint for mark in marks})
    found = []
    for mark in marks:
        path = paths.get(mark.moment.fingerprint)
        known: Presence = "missing" if mark.moment.fingerprint in paths else "gone"
        found.append(ShownMark(mark, known if path is None else "present", path))
    return found


def moment_at(snapshot: Snapshot, place: Like) -> Moment:
    """Return the clip of a video at a time as a moment. Raises QueryError if the library has none there."""
    clip = clip_of(snapshot, place)
    [video] = snapshot.videos([clip.video_id])
    return Moment(video.fingerprint, clip.start_ms, round(1000 * clip.end_s))
