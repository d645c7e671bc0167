"""What a search service returns: frozen records, each with the JSON document of `to_dict`.

The command line, and every other door, prints these documents and adds nothing to them. docs/api.md describes each
field; a test compares the two.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vfindex.search.calibration.labels import LABELS, Label, check_label

if TYPE_CHECKING:
    from vfindex.storage.labels import LabelCount
    from vfindex.storage.modalities import ModalityName
    from vfindex.storage.records import Attempt, Box, Chapter, ClipKey, Hint, Segment, SegmentSource, VideoState
    from vfindex.storage.user.records import SavedQuery

# present: a search can find the video. missing: its files are not there. gone: the library has no such video.
Presence = Literal["present", "missing", "gone"]


class Record:
    """A frozen dataclass whose JSON document has its fields."""

    __slots__ = ()
    # Fields that JSON has rounded to milliseconds.
    rounded: ClassVar[frozenset[str]] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Return the record for JSON: paths as text, bytes that are not UTF-8 as lone surrogates."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]  # a dataclass
        return {name: _plain(_to_ms(value) if name in self.rounded else value) for name, value in values.items()}


def _to_ms(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value


_TIMES = frozenset({"start_s", "end_s", "frame_s"})


# --- hits -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span(Record):
    """The clip that matches one moment of the query. frame_s: presentation time of its best frame."""

    rounded: ClassVar[frozenset[str]] = _TIMES

    start_s: float
    end_s: float
    frame_s: float | None
    score: float


@dataclass(frozen=True, slots=True)
class Match(Record):
    """A text that contains words of the query: a segment of a track, or a title or tag (no times, no source).

    track: the modality that the text counts for. box: where it stands on the picture, None if it does not. phrase_s:
    when the query's exact phrase in it begins, None without one or if unknown. speakers: names, of subtitles with them.
    """

    rounded: ClassVar[frozenset[str]] = frozenset({"phrase_s"})

    words: tuple[str, ...]
    text: str
    kind: str
    track: ModalityName
    start_s: float | None
    end_s: float | None
    source: SegmentSource | None
    box: Box | None
    phrase_s: float | None
    speakers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place(Record):
    """Another place of the same footage: a copy of the file, a re-encode, an intro. library: see `Hit`."""

    rounded: ClassVar[frozenset[str]] = _TIMES

    video: bytes | None
    start_s: float
    end_s: float
    library: Path | str


@dataclass(frozen=True, slots=True)
class Hit(Record):
    """A clip with its rank, from 1, and its score: higher is better.

    library: its folder, or the address of its server. video: absolute path, on the machine of the library, of a copy
    that exists, else of one that did. video_id, clip_id: until the
    video is indexed again; key: of the best clip, in every library. start_s, end_s: from the first to the last clip of
    `moments`, plus neighbours that match nearly as well; from an exact phrase on, where its time is known. frame_s:
    presentation time of the best frame. modalities: signed contributions that sum to the score; None: the clip lacks
    the modality, or the query does not use it, and `missing` says which. words: query words in the clip's speech or the
    video's title and tags. snippet: the text that contains them, else what is said during the clip. moments: one clip
    per moment of the query. also: other places of the same footage. confidence, share: None if the library cannot tell.
    coarse: the video has only its preview index so far. labels: of the best clip, name -> probability (`label`).
    """

    rounded: ClassVar[frozenset[str]] = _TIMES

    rank: int
    library: Path | str
    video: bytes | None
    video_id: int
    clip_id: int
    key: ClipKey
    start_s: float
    end_s: float
    frame_s: float | None
    score: float
    share: float | None
    confidence: Label | None
    coarse: bool
    modalities: Mapping[ModalityName, float | None]
    words: tuple[str, ...]
    snippet: str | None
    moments: tuple[Span, ...]
    also: tuple[Place, ...]
    matches: tuple[Match, ...]
    missing: Mapping[ModalityName, str]
    thumbnail: Path | None
    labels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Missing(Record):
    """A library on another machine that gave no answer. library: its address. reason: a clause."""

    library: str
    reason: str


@dataclass(frozen=True, slots=True)
class Feedback(Record):
    """How judgements moved a question. judged: how many there are. used: of clips that the library has.

    cosines: modality -> cosine of the moved to the question, in the centred space.
    """

    judged: int
    used: int
    cosines: Mapping[ModalityName, float]


class Hits(list[Hit]):
    """Hits, best first.

    query, images, like: what was searched for. hints: other readings of the query; they change no hit. found: how many
    hits there were before those of low confidence were left out. missing: libraries that are not among them. feedback:
    how judgements moved the question, None without any.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        hints: tuple[Hint, ...] = (),
        *,
        query: str = "",
        images: tuple[str, ...] = (),
        like: tuple[str, ...] = (),
        found: int | None = None,
    ) -> None:
        super().__init__(hits)
        self.hints = hints
        self.query, self.images, self.like = query, images, like
        self.found = len(self) if found is None else found
        self.missing: tuple[Missing, ...] = ()
        self.feedback: Feedback | None = None

    def with_confidence(self, least: Label | None) -> Hits:
        """Return the hits with the label `least` or a better one; None: all but those no better than chance.

        Raises QueryError for another value.
        """
        check_label(least)
        if least is None:
            return self._of(hit for hit in self if hit.confidence != "none")
        accepted = LABELS[LABELS.index(least) :]
        return self._of(hit for hit in self if least == "none" or hit.confidence in accepted)

    def ranked(self, hits: Iterable[Hit]) -> Hits:
        """Return some of the hits in another order, with ranks from 1."""
        return self._of(replace(hit, rank=rank) for rank, hit in enumerate(hits, start=1))

    def _of(self, hits: Iterable[Hit]) -> Hits:
        chosen = Hits(hits, self.hints, query=self.query, images=self.images, like=self.like, found=self.found)
        chosen.missing, chosen.feedback = self.missing, self.feedback
        return chosen

    @property
    def confident(self) -> bool | None:
        """Whether any hit is better than chance; None if the library cannot tell."""
        labels = {hit.confidence for hit in self}
        if labels - {None, "none"}:
            return True
        return None if None in labels else False

    @property
    def labels(self) -> dict[str, int]:
        """How many of the hits have each label, the most frequent first."""
        return dict(Counter(name for hit in self for name in hit.labels).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return the hits for JSON."""
        return {
            "query": self.query,
            "images": list(self.images),
            "like": list(self.like),
            "match": bool(self),
            "confident": self.confident,
            "hints": _plain(self.hints),
            "missing": _plain(self.missing),
            "labels": self.labels,
            **({} if self.feedback is None else {"feedback": self.feedback.to_dict()}),
            "hits": [hit.to_dict() for hit in self],
        }


# --- videos ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClipInfo(Record):
    """A clip of a video. frames: how many were embedded. labels: name -> probability (`label`)."""

    clip_id: int
    key: ClipKey
    start_s: float
    end_s: float
    modalities: tuple[ModalityName, ...]
    frames: int
    thumbnail: Path | None
    labels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VideoInfo(Record):
    """All that a library knows of a video. Its key is its fingerprint.

    video, locations: the first path, and those of all copies. added_run: the run that first indexed the content.
    problem: stage, code, reason and next, if it could not be indexed, or not all of it. fps, time_base, start_timecode:
    see `Video`. coverage: for each unit, modality -> a sentence. added_run, fps, time_base: None where unknown, as in
    libraries from before they were recorded. transcript: what is said. other_text: what else has times, each in order
    of time: text on the screen, chapters. labels: of the whole video, name -> probability.
    """

    video: bytes | None
    locations: tuple[bytes, ...]
    video_id: int
    fingerprint: str
    state: VideoState
    coarse: bool
    added_run: int | None
    problem: Mapping[str, str] | None
    attempts: tuple[Attempt, ...]
    title: str
    tags: Mapping[str, str]
    chapters: tuple[Chapter, ...]
    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_deg: int
    start_s: float
    first_pts_s: float
    last_pts_s: float
    end_s: float
    duration_s: float
    frames: int | None
    fps: str | None
    time_base: str | None
    start_timecode: str | None
    has_audio: bool
    coverage: tuple[Mapping[str, str], ...]
    clips: tuple[ClipInfo, ...]
    transcript: tuple[Segment, ...]
    other_text: tuple[Segment, ...]
    labels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transcript(Record):
    """The text with times of a video, in order of time: what is said, or the text of another track."""

    video: bytes | None
    video_id: int
    fingerprint: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Still(Record):
    """A frame of a video's file. time_s: its presentation time. image: WebP; in JSON base64."""

    video: bytes
    video_id: int
    fingerprint: str
    time_s: float
    width_px: int
    height_px: int
    image: bytes

    def to_dict(self) -> dict[str, Any]:
        import base64  # no command needs it

        return Record.to_dict(self) | {"image": base64.b64encode(self.image).decode("ascii")}


@dataclass(frozen=True, slots=True)
class VideoSummary(Record):
    """A video in a list. day: ISO 8601, as the filters `after:` and `before:` take it. clips_with: by modality.

    added_run: the run that first indexed the content, None where unknown. labels: its own, name -> probability.
    """

    rounded: ClassVar[frozenset[str]] = frozenset({"duration_s"})

    video: bytes | None
    video_id: int
    fingerprint: str
    copies: int
    title: str
    state: VideoState
    added_run: int | None
    day: str | None
    duration_s: float
    languages: tuple[str, ...]
    clips: int
    clips_with: Mapping[ModalityName, int]
    labels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VideoList(Record):
    """A page of the searchable videos that pass the filters, by path. total: those on all pages.

    labels: those of all pages, the most frequent first.
    """

    total: int
    hints: tuple[Hint, ...]
    videos: tuple[VideoSummary, ...]
    labels: tuple[LabelCount, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelList(Record):
    """The labels that searchable videos and their clips have, the most frequent first."""

    labels: tuple[LabelCount, ...]


# --- what people write ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MarkInfo(Record):
    """A mark, and the path that its video has now; `video` is None unless `presence` is `present`.

    key, end_s: of the clip when it was marked. clip: of the one that has most of this span now; another one if the
    video was cut anew, as by an upgrade. question: "" for a mark that is no judgement.
    """

    id: int
    video: bytes | None
    presence: Presence
    fingerprint: str
    key: ClipKey
    clip: ClipKey | None
    start_s: float
    end_s: float
    list: str
    note: str
    question: str
    grade: int | None
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class MarkList(Record):
    """Marks, in the order in which they were made."""

    marks: tuple[MarkInfo, ...]


@dataclass(frozen=True, slots=True)
class ListInfo(Record):
    """A list of marks. marks: how many it has."""

    name: str
    marks: int


@dataclass(frozen=True, slots=True)
class ListList(Record):
    """The lists of marks, by name."""

    lists: tuple[ListInfo, ...]


@dataclass(frozen=True, slots=True)
class SavedList(Record):
    """Saved questions, by name."""

    saved: tuple[SavedQuery, ...]
