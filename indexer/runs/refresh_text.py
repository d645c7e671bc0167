"""Updates title, transcript and text vectors of videos of which only the sidecars have changed.

No frame is decoded. Speech is recognised where a subtitle was removed; recognised segments are kept where no new
subtitle covers them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from vfindex.indexer.boundary import BUG_STEP, one_file
from vfindex.indexer.extractors.metadata_text import describe, documents_of
from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.models.base import Encoders, PassageEncoder, Texts
from vfindex.indexer.pipeline.prepare import Prepared, on_clock, prepare, text_vector
from vfindex.indexer.pipeline.reuse import recognise
from vfindex.indexer.pipeline.stages import audio_index, begins_in, speech_coverage, speech_vectors, with_sidecars
from vfindex.indexer.runs.report import Progress
from vfindex.indexer.runs.run import Run
from vfindex.indexer.scan.walk import Found
from vfindex.indexer.speech.audio_tracks import lost_audio
from vfindex.indexer.speech.subtitles import sidecar_transcript
from vfindex.indexer.speech.transcribe import COVERED_SHARE, Transcript, covered_spans, overlap_s
from vfindex.storage.db.catalog import now
from vfindex.storage.db.documents import TranscriptUpdate, UnitTranscript
from vfindex.storage.db.units import IndexedUnit, indexed_units
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import BUG, Problem, VfindexError, VideoError, counted
from vfindex.storage.records import Attempt, Segment, UnitPlan
from vfindex.storage.writer import Writer

ROUNDING_S = 1e-3  # subtitle times are in milliseconds
Spans = Sequence[tuple[float, float]]


def refresh(run: Run, encoders: Encoders | Texts) -> None:
    """Update the text of all videos in `run.new_text`, one after the other, until the run is to stop."""
    total = len(run.new_text)
    if not total or run.report.interrupted:
        return
    with Decoder() as decoder:
        work = _Refresh(run, encoders, decoder)
        while run.new_text:
            if run.callbacks.stop():
                run.report.interrupted = True
                return
            try:
                work.file(run.new_text[0])
            except _Stopped:
                return
            run.new_text.popleft()
            run.callbacks.progress(Progress(total - len(run.new_text), total, 0.0, 0.0))


class _Stopped(VfindexError):
    """The run is to stop between two units of a video."""


class _Refresh:
    """Updates the text of one video after another."""

    def __init__(self, run: Run, encoders: Encoders | Texts, decoder: Decoder) -> None:
        self._run = run
        self._catalog = run.writer.catalog
        self._text = encoders.text
        self._speech = encoders.speech if isinstance(encoders, Encoders) else None
        self._encoders = encoders
        self._decoder = decoder

    def file(self, found: Found) -> None:
        """Update one video's text, and count it."""
        try:
            with one_file(found.location.path, "transcribe"):
                self._redo(found)
        except VideoError as exc:
            if exc.problem.code == BUG:
                self._store_failure(found, exc.problem)
            self._run.end_file("failed", exc.problem)

    def _store_failure(self, found: Found, problem: Problem) -> None:
        """Store the failure of a video whose update met a bug, so that later runs do not try it."""
        with self._run.writer.library.snapshot() as snapshot:
            video = snapshot.video_at(found.location.path)
        if video is not None:
            attempt = Attempt(None, "usual", problem.code, problem.reason, now())
            self._catalog.fail_video(video.fingerprint, found.location, problem, attempts=[attempt])

    def _redo(self, found: Found) -> None:
        with self._run.writer.library.snapshot() as snapshot:
            video = snapshot.video_at(found.location.path)
            units = indexed_units(snapshot, video.id) if video else []
        if video is None:
            return self._run.end_file("unchanged")  # removed meanwhile
        prepared = self._prepared(found, video)
        uncovered = _uncovered(prepared, units) if audio_index(prepared, self._run.options) is not None else []
        if uncovered and self._speech is None:  # this process has no speech model, so the whole unit is indexed again
            self._catalog.mark_preview(video.id)
            return self._run.previewed.append(found)
        said, problems = self._said(prepared, units, uncovered)
        words = self._words(prepared, video, said, problems)
        has_changed = not _is_unchanged(words, video, units)
        self._catalog.update_transcript(video.id, found.location, words if has_changed else None)
        self._run.report.notes += prepared.notes
        if has_changed:
            self._run.delta_clips += sum(len(unit.clips) for unit in units)
            self._run.publish_many()
        if words.problem is not None and _reason(video) != words.problem.reason:
            self._run.end_file("partial", words.problem)
        elif has_changed:
            self._run.end_file("reworded")
        else:
            self._run.end_file("moved" if found.location.path in self._run.moved_paths else "unchanged")

    def _prepared(self, found: Found, video: StoredVideo) -> Prepared:
        """Return the prepared file, with the sidecars of a copy if it has none of its own."""
        prepared = prepare(found, video.fingerprint, self._run.options, self._decoder, self._encoders)
        if any(segment.source == "sidecar" for segment in prepared.subtitles):
            return prepared
        for place in video.locations:
            if place.sidecar_state and place.path != found.location.path:
                other = sidecar_transcript(place.path, None, prepared.video.end_s - prepared.clock_s)
                if other.segments:
                    on_time = on_clock(other.segments, prepared.clock_s)
                    return replace(prepared, subtitles=on_time, sidecars=other.words)
        return prepared

    def _said(
        self, prepared: Prepared, units: Sequence[IndexedUnit], uncovered: Spans
    ) -> tuple[list[UnitTranscript], list[str]]:
        """Return the new transcript of each unit, and recognition errors."""
        now = covered_spans([(s.start_s, s.end_s) for s in prepared.subtitles])
        found: list[UnitTranscript] = []
        problems: list[str] = []
        for unit in units:
            if self._run.has_stopped():
                raise _Stopped
            heard = None
            if any(_meets(unit.plan, span) for span in uncovered):
                end, heard = recognise(prepared, unit.plan, self._run.options, self._decoder, self._speech)
                problems += filter(None, [lost_audio(end.audio_packets, end.damaged_audio)])
            recognised = heard.segments if heard else [s for s in unit.segments if _is_kept(s, now)]
            problems += heard.problems if heard else []
            begun = [s for s in prepared.subtitles if begins_in(s, unit.plan)]
            found.append(self._said_in(unit, [*begun, *recognised], heard, prepared))
        return found, problems

    def _said_in(
        self, unit: IndexedUnit, segments: Sequence[Segment], heard: Transcript | None, prepared: Prepared
    ) -> UnitTranscript:
        said = sorted(segments, key=lambda s: (s.start_s, s.end_s))
        vectors = speech_vectors([clip[1:] for clip in unit.clips], said, self._text)
        asr = self._run.options.asr
        kept = 0 if heard else sum(segment.source == "asr" for segment in said)
        sentences = [speech_coverage(prepared.no_asr_reason, asr or bool(kept), said, heard)]
        sentences += [f"{counted(kept, 'segment')} recognised before"] if kept else []
        by_clip = {clip[0]: vector for clip, vector in zip(unit.clips, vectors, strict=True) if vector is not None}
        coverage = with_sidecars("; ".join(filter(None, sentences)), prepared, unit.plan)
        return UnitTranscript(unit.id, tuple(said), by_clip, coverage)

    def _words(
        self, prepared: Prepared, video: StoredVideo, said: Sequence[UnitTranscript], problems: Sequence[str]
    ) -> TranscriptUpdate:
        paths = sorted({place.path for place in video.locations})
        tags, chapters = prepared.video.tags, prepared.video.chapters
        description = describe(paths[0], tags, chapters)
        problem = partial_problem(self._run.writer, video.id, prepared)
        if problem is None and problems:
            name = prepared.found.location.path
            problem = Problem(name, "transcribe", "damaged", "; ".join(dict.fromkeys(problems)), "copy the file again")
        return TranscriptUpdate(
            title=description.title,
            tags=tags,
            chapters=chapters,
            documents=documents_of(paths, tags, chapters),
            text=text_vector(description.text, self._text),
            said=tuple(said),
            problem=problem,
        )


def partial_problem(writer: Writer, video_id: int, prepared: Prepared) -> Problem | None:
    """Return why a video is partial, None if it is complete."""
    path = prepared.found.location.path
    lost = writer.catalog.unit_errors(video_id)
    if lost:
        words = "; ".join(dict.fromkeys(lost))
        if any(attempt.code == BUG for attempt in writer.catalog.attempts(video_id)):
            return Problem(path, "decode", BUG, words, f"what could be read is searchable; {BUG_STEP}")
        step = "what could be read is searchable; copy the file again if you have a better one"
        return Problem(path, "decode", "damaged", words, step)
    if prepared.problems:
        first = prepared.problems[0]
        name = os.fsdecode(os.path.basename(first.path))
        return replace(first, path=path, reason=f"{name}: {first.reason}")
    return None


def retitle(writer: Writer, video_id: int, encoder: PassageEncoder) -> int:
    """Take a video's title, documents and text vector from all its paths, the title from the first in order of bytes.

    Returns the number of clips whose vectors have changed.
    """
    paths, tags, chapters = writer.catalog.names(video_id)
    description = describe(paths[0], tags, chapters)
    vector = text_vector(description.text, encoder)
    return writer.catalog.retitle(video_id, description.title, documents_of(paths, tags, chapters), vector)


def _uncovered(prepared: Prepared, units: Sequence[IndexedUnit]) -> list[tuple[float, float]]:
    """Return the spans that subtitles covered, and no longer cover in full."""
    before = covered_spans([(s.start_s, s.end_s) for unit in units for s in unit.segments if s.source != "asr"])
    now = covered_spans([(s.start_s, s.end_s) for s in prepared.subtitles])
    return [span for span in before if overlap_s(now, *span) < span[1] - span[0] - ROUNDING_S]


def _is_unchanged(words: TranscriptUpdate, video: StoredVideo, units: Sequence[IndexedUnit]) -> bool:
    read = (words.title, dict(words.tags), tuple(words.chapters), words.problem.reason if words.problem else "")
    if read != (video.title, dict(video.tags), tuple(video.chapters), _reason(video)):
        return False
    return all(said.segments == unit.segments for said, unit in zip(words.said, units, strict=True))


def _reason(video: StoredVideo) -> str:
    return video.problem["reason"] if video.problem else ""


def _meets(plan: UnitPlan, span: tuple[float, float]) -> bool:
    """Return whether a span overlaps a unit."""
    begins_before_its_end = plan.end_s is None or span[0] < plan.end_s
    return begins_before_its_end and (plan.start_s is None or span[1] >= plan.start_s)


def _is_kept(segment: Segment, covered: Spans) -> bool:
    """Return whether a recognised segment is kept: subtitles cover less than COVERED_SHARE of it."""
    if segment.source != "asr":
        return False
    length_s = segment.end_s - segment.start_s
    return overlap_s(covered, segment.start_s, segment.end_s) < COVERED_SHARE * length_s or not length_s
