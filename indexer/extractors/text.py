"""The text modality: name, folders and tags of a video, and its chapters with their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vfindex.indexer.extractors.base import Known, Track, Unit, begins_in, overlaps
from vfindex.indexer.extractors.chunks import Window
from vfindex.indexer.extractors.metadata_text import chapter_words, describe, documents_of
from vfindex.indexer.extractors.source import VideoSource
from vfindex.indexer.media.decoder import AudioBlock, Frame, ReadEnd, Tap
from vfindex.storage.errors import counted
from vfindex.storage.records import Chapter, Segment, UnitPlan

NAME = "text"


def known_text(source: VideoSource) -> Known:
    """Return the text of a file's name, tags and chapters."""
    return text_of([source.found.location.path], source.tags, source.chapters)


def text_of(paths: Sequence[bytes], tags: Mapping[str, str], chapters: Sequence[Chapter]) -> Known:
    """Return the text of a video: for its vector by the first path, for full text search by all of them."""
    return Known(
        segments=chapter_segments(chapters),
        text=describe(paths[0], tags, chapters).text,
        documents=documents_of(paths, tags, chapters),
    )


def chapter_segments(chapters: Sequence[Chapter]) -> tuple[Segment, ...]:
    """Return the chapters with times and words as segments, in order of time."""
    found = []
    for chapter in chapters:
        words = chapter_words(chapter)
        if chapter.start_s is not None and chapter.end_s is not None and words:
            found.append(Segment(chapter.start_s, chapter.end_s, words, "chapter", track=NAME))
    return tuple(sorted(found, key=lambda s: (s.start_s, s.end_s)))


class TextExtractor:
    """Takes what is known of the file; an `Extractor`."""

    def begin(self, unit: Unit) -> TextExtraction:
        return TextExtraction(unit)


class TextExtraction:
    """The text of one unit; nothing is decoded for it."""

    taps: Sequence[Tap] = ()

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    def feed(self, item: Frame | AudioBlock) -> None:
        raise NotImplementedError("text has no taps")

    def finish(self, end: ReadEnd) -> Track:
        return text_track(self._unit.known, self._unit.plan)


def text_track(known: Known, plan: UnitPlan) -> Track:
    """Return the text of a unit. A chapter may span several units: it belongs to one, and describes all of them."""
    begun = tuple(segment for segment in known.segments if begins_in(segment, plan))
    parts = ["name, folders and tags" if known.vector is not None else "no descriptive words in name or tags"]
    parts += [counted(len(begun), "chapter")] if begun else []
    shown = [s for s in known.segments if overlaps(plan, (s.start_s, s.end_s))]
    return Track(
        coverage="; ".join(parts),
        segments=begun,
        windows=tuple(Window(segment.start_s, segment.end_s, segment.text) for segment in shown),
        whole=known.vector,
    )
