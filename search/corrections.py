"""Corrections as records: whether their lines are there today, and the line that a new one corrects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from vfindex.search.results import Record
from vfindex.storage.db.locations import paths_by_fingerprint
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import UsageError
from vfindex.storage.modalities import MODALITIES, ModalityName
from vfindex.storage.records import Line, Segment
from vfindex.storage.user.records import Correction

# applied: its line is shown as corrected. taken_up: the video's own text says the same, as from an exported sidecar.
# stale: the video has no such line any more. absent: the library has no such video.
CorrectionState = Literal["applied", "taken_up", "stale", "absent"]


@dataclass(frozen=True, slots=True)
class CorrectionInfo(Record):
    """A correction of a line, and whether transcripts show it.

    video: first path of its video now, None if its files are missing or the library has no such video. fingerprint,
    track, start_s, end_s, original: the key of the line, as it was when it was corrected.
    """

    id: int
    video: bytes | None
    fingerprint: str
    track: ModalityName
    start_s: float
    end_s: float
    original: str
    text: str
    state: CorrectionState
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class CorrectionList(Record):
    """Corrections, in order of video and time."""

    corrections: tuple[CorrectionInfo, ...]


def correctable_tracks() -> tuple[ModalityName, ...]:
    """Return the modalities whose segments can be corrected. Chapters are titles, which belong to the file."""
    return tuple(each.name for each in MODALITIES if each.has_segments and not each.has_documents)


def line_of(segments: Iterable[Segment], wanted: Line) -> Line:
    """Return the line of a video as its segments have it. Raises UsageError if there is none, or none of that text."""
    if wanted.track not in correctable_tracks():
        raise UsageError(f"track must be one of {', '.join(correctable_tracks())}, not {wanted.track!r}")
    if wanted in (Line.of(wanted.fingerprint, segment) for segment in segments):
        return wanted
    raise UsageError(
        f"the video has no line of {wanted.track} from {wanted.start_ms / 1000:.3f} s to {wanted.end_ms / 1000:.3f} s "
        "with this text any more; read its transcript again"
    )


def corrections_with_states(snapshot: Snapshot, corrections: Sequence[Correction]) -> CorrectionList:
    """Return corrections with the state that each has now, in the same order."""
    paths = paths_by_fingerprint(snapshot, {each.line.fingerprint for each in corrections})
    lines = {name: _lines_of(snapshot, name) for name in paths}
    return CorrectionList(
        tuple(
            CorrectionInfo(
                id=each.id,
                video=paths.get(each.line.fingerprint),
                fingerprint=each.line.fingerprint,
                track=each.line.track,
                start_s=each.line.start_ms / 1000,
                end_s=each.line.end_ms / 1000,
                original=each.line.text,
                text=each.text,
                state=_state(each, lines.get(each.line.fingerprint)),
                by=each.by,
                at=each.at,
            )
            for each in corrections
        )
    )


def _lines_of(snapshot: Snapshot, fingerprint: str) -> set[Line]:
    video = snapshot.video_with(fingerprint)
    segments = () if video is None else snapshot.segments(video.id)
    return {Line.of(fingerprint, segment) for segment in segments}


def _state(correction: Correction, lines: set[Line] | None) -> CorrectionState:
    if lines is None:
        return "absent"
    if correction.line in lines:
        return "applied"
    places = {each._replace(text="") for each in lines}
    is_there = correction.line._replace(text=correction.text) in (lines if correction.text else places)
    return "taken_up" if is_there == bool(correction.text) else "stale"
