"""Extractors: what turns a unit of a video into the track of one modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from vfindex.indexer.extractors.chunks import Window
from vfindex.indexer.media.decoder import AudioBlock, AudioTrack, Frame, ReadEnd, Tap
from vfindex.indexer.options import Options
from vfindex.storage.errors import Problem
from vfindex.storage.records import Document, FloatArray, Segment, UnitPlan, Video

if TYPE_CHECKING:
    from vfindex.indexer.extractors.frame_record import FrameRecord


@dataclass(frozen=True, slots=True)
class Known:
    """What a modality has of a video before its units are decoded. Plain data.

    segments: text with times, of the whole video. text: that holds for the whole video, "" without; vector: (dim,) of
    it. documents: for full text search. problems, notes: for the report. coverage: for the first unit's sentence.
    no_audio: why its audio is not read, "" if it is.
    """

    segments: tuple[Segment, ...] = ()
    text: str = ""
    vector: FloatArray | None = None
    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    coverage: str = ""
    no_audio: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit to extract a modality from. known: of this modality. audio: the audio track, None if none is decoded."""

    video: Video
    plan: UnitPlan
    options: Options
    known: Known
    audio: AudioTrack | None


@dataclass(frozen=True, slots=True)
class Track:
    """One modality of a unit: vectors with times, text with times, or one vector for all of it.

    coverage: a sentence on what was extracted, and why it is not complete. segments: those stored with the unit.
    windows: the pieces of text to be embedded. spans_s: (n, 2) start and end of each row of vectors (n, dim); equal for
    a frame. whole: (dim,), holds for every clip. problems: sentences on what was lost. frames: the record of the frames
    by which clips are cut, of a modality that has frames.
    """

    coverage: str = ""
    segments: tuple[Segment, ...] = ()
    windows: tuple[Window, ...] = ()
    spans_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    vectors: FloatArray | None = None
    whole: FloatArray | None = None
    problems: tuple[str, ...] = ()
    frames: FrameRecord | None = None


class Extraction(Protocol):
    """The extraction of one unit: feed the frames and audio of its taps in order of time, then finish."""

    @property
    def taps(self) -> Sequence[Tap]:
        """What must be decoded; nothing is if this is empty."""
        ...

    def feed(self, item: Frame | AudioBlock) -> None:
        """Take the next frame or block of one of the taps; may wait."""
        ...

    def finish(self, end: ReadEnd) -> Track:
        """Return the track. end: the summary of the read."""
        ...


class Extractor(Protocol):
    """Makes the tracks of one modality. Shared by the running units, so it is thread-safe."""

    def begin(self, unit: Unit) -> Extraction:
        """Return the extraction of a unit."""
        ...


def begins_in(segment: Segment, plan: UnitPlan) -> bool:
    """Return whether a segment belongs to a unit, which is the one in which it begins."""
    return (plan.start_s is None or segment.start_s >= plan.start_s) and (
        plan.end_s is None or segment.start_s < plan.end_s
    )


def overlaps(plan: UnitPlan, span: tuple[float, float]) -> bool:
    """Return whether a span overlaps a unit."""
    begins_before_its_end = plan.end_s is None or span[0] < plan.end_s
    return begins_before_its_end and (plan.start_s is None or span[1] >= plan.start_s)
