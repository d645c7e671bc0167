"""Updates title, transcript and text vectors of videos of which only the sidecars have changed.

No frame is decoded. Speech is recognised where a subtitle was removed; recognised segments are kept where no new
subtitle covers them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from vfindex.indexer.boundary import BUG_STEP, one_file
from vfindex.indexer.extractors import speech, text
from vfindex.indexer.extractors.base import Track, begins_in, overlaps
from vfindex.indexer.extractors.chunks import windows
from vfindex.indexer.extractors.metadata_text import describe
from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.models.base import Encoders, PassageEncoder, Texts
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.prepare import Prepared, embedded, prepare
from vfindex.indexer.pipeline.stages import clip_vectors, counted_once, decode, segments_of
from vfindex.indexer.runs.report import Progress
from vfindex.indexer.runs.run import Run
from vfindex.indexer.scan.walk import Found
from vfindex.indexer.speech.subtitles import sidecar_transcript
from vfindex.indexer.speech.transcribe import COVERED_SHARE, Transcript, covered_spans, overlap_s
from vfindex.indexer.speech.whisper import Whisper
from vfindex.storage.db.catalog import now
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.documents import TranscriptUpdate, UnitTranscript
from vfindex.storage.db.units import IndexedUnit, indexed_units
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import BUG, Problem, VfindexError, VideoError, counted
from vfindex.storage.modalities import ModalityName, timed_text_modalities
from vfindex.storage.records import Attempt, FloatArray, Segment, UnitPlan
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
        hears = speech.reads_audio(prepared.unit(UnitPlan(0), self._run.options, speech.NAME))
        uncovered = _uncovered(prepared, units) if hears else []
        if uncovered and self._speech is None:  # this process has no speech model, so the whole unit is indexed again
            self._catalog.mark_preview(video.id)
            return self._run.previewed.append(found)
        said, problems = self._said(prepared, units, uncovered)
        words = self._words(prepared, video, units, said, problems)
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
        known = prepared.known[speech.NAME]
        if any(segment.source == "sidecar" for segment in known.segments):
            return prepared
        for place in video.locations:
            if place.sidecar_state and place.path != found.location.path:
                other = sidecar_transcript(place.path, None, prepared.video.end_s - prepared.clock_s)
                if other.segments:
                    on_time = speech.on_clock(other.segments, prepared.clock_s)
                    known = replace(known, segments=on_time, coverage=other.words)
                    return replace(prepared, known={**prepared.known, speech.NAME: known})
        return prepared

    def _said(
        self, prepared: Prepared, units: Sequence[IndexedUnit], uncovered: Spans
    ) -> tuple[list[UnitTranscript], list[str]]:
        """Return the new transcript of each unit, and recognition errors."""
        subtitles = prepared.known[speech.NAME].segments
        now = covered_spans([(s.start_s, s.end_s) for s in subtitles])
        found: list[UnitTranscript] = []
        problems: list[str] = []
        for unit in units:
            if self._run.has_stopped():
                raise _Stopped
            heard = None
            if any(overlaps(unit.plan, span) for span in uncovered):
                heard, lost = recognise(prepared, unit.plan, self._run.options, self._decoder, self._speech)
                problems += lost
            recognised = heard.segments if heard else [s for s in unit.segments if _is_kept(s, now)]
            begun = [s for s in subtitles if begins_in(s, unit.plan)]
            found.append(self._said_in(unit, [*begun, *recognised], heard, prepared))
        return found, problems

    def _said_in(
        self, unit: IndexedUnit, segments: Sequence[Segment], heard: Transcript | None, prepared: Prepared
    ) -> UnitTranscript:
        said = sorted(segments, key=lambda s: (s.start_s, s.end_s))
        options = self._run.options
        kept = 0 if heard else sum(segment.source == "asr" for segment in said)
        given = prepared.unit(unit.plan, replace(options, asr=options.asr or bool(kept)), speech.NAME)
        sentences = [speech.speech_coverage(given, said, heard)]
        sentences += [f"{counted(kept, 'segment')} recognised before"] if kept else []
        coverage = speech.with_sidecars("; ".join(filter(None, sentences)), given)
        track = Track(coverage, tuple(said), tuple(windows(said)))
        return _transcript(unit, track, speech.NAME, self._text)

    def _words(
        self,
        prepared: Prepared,
        video: StoredVideo,
        units: Sequence[IndexedUnit],
        said: Sequence[UnitTranscript],
        problems: Sequence[str],
    ) -> TranscriptUpdate:
        paths = sorted({place.path for place in video.locations})
        tags, chapters = prepared.video.tags, prepared.video.chapters
        known = embedded(text.text_of(paths, tags, chapters), self._text)
        written = [_transcript(unit, text.text_track(known, unit.plan), text.NAME, self._text) for unit in units]
        problem = partial_problem(self._run.writer, video.id, prepared)
        if problem is None and problems:
            name = prepared.found.location.path
            problem = Problem(name, "transcribe", "damaged", "; ".join(dict.fromkeys(problems)), "copy the file again")
        return TranscriptUpdate(
            title=describe(paths[0], tags, chapters).title,
            tags=tags,
            chapters=chapters,
            documents=known.documents,
            text=known.vector,
            said=(*said, *written),
            problem=problem,
            others=_others(units, said, self._text),
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
    known = embedded(text.text_of(paths, tags, chapters), encoder)
    track = text.text_track(known, UnitPlan(0))
    clips: Sequence[StoredClip] = ()
    if track.windows:
        with writer.library.snapshot() as snapshot:
            clips = snapshot.clips_of(video_id)
    vectors = clip_vectors(track, [(clip.start_s, clip.end_s) for clip in clips], encoder)
    by_clip = {clip.id: v for clip, v in zip(clips, vectors, strict=True) if v is not None and v is not track.whole}
    title = describe(paths[0], tags, chapters).title
    return writer.catalog.retitle(video_id, title, known.documents, known.vector, by_clip)


def recognise(
    prepared: Prepared, plan: UnitPlan, options: Options, decoder: Decoder, model: Whisper | None
) -> tuple[Transcript | None, list[str]]:
    """Return the transcript of a unit where no subtitle covers it, and what was lost. No frame is decoded.

    The transcript is None if no speech is to be recognised. Raises VideoError.
    """
    extraction = speech.SpeechExtractor(model).begin(prepared.unit(plan, options, speech.NAME))
    end = decode(prepared, plan, options, decoder, [extraction])
    track = extraction.finish(end)
    return extraction.transcript, [problem for problem in track.problems if problem] if extraction.taps else []


def _transcript(unit: IndexedUnit, track: Track, modality: ModalityName, encoder: PassageEncoder) -> UnitTranscript:
    vectors = clip_vectors(track, [clip[1:] for clip in unit.clips], encoder)
    others = (v if v is not track.whole else None for v in vectors)
    by_clip = {clip[0]: vector for clip, vector in zip(unit.clips, others, strict=True) if vector is not None}
    return UnitTranscript(unit.id, track.segments, by_clip, track.coverage, modality)


def _others(
    units: Sequence[IndexedUnit], said: Sequence[UnitTranscript], encoder: PassageEncoder
) -> dict[ModalityName, dict[int, FloatArray | None]]:
    """Return modality -> clip id -> vector, of lines on the picture where the transcript repeats others now."""
    found: dict[ModalityName, dict[int, FloatArray | None]] = {}
    for unit, new in zip(units, said, strict=True):
        stored = {m: _timed_track(segments_of(unit.segments, m)) for m in timed_text_modalities()}
        before, now = counted_once(stored), counted_once({**stored, new.track: _timed_track(new.segments)})
        for modality, track in now.items():
            if modality != new.track and track.windows != before[modality].windows:
                vectors = clip_vectors(track, [clip[1:] for clip in unit.clips], encoder)
                found.setdefault(modality, {}).update(zip((c[0] for c in unit.clips), vectors, strict=True))
    return found


def _timed_track(segments: tuple[Segment, ...]) -> Track:
    return Track("", segments, tuple(windows(segments)))


def _uncovered(prepared: Prepared, units: Sequence[IndexedUnit]) -> list[tuple[float, float]]:
    """Return the spans that subtitles covered, and no longer cover in full."""
    said = [s for unit in units for s in segments_of(unit.segments, speech.NAME)]
    before = covered_spans([(s.start_s, s.end_s) for s in said if s.source != "asr"])
    now = covered_spans([(s.start_s, s.end_s) for s in prepared.known[speech.NAME].segments])
    return [span for span in before if overlap_s(now, *span) < span[1] - span[0] - ROUNDING_S]


def _is_unchanged(words: TranscriptUpdate, video: StoredVideo, units: Sequence[IndexedUnit]) -> bool:
    if any(chapter.start_s is None for chapter in video.chapters):  # maybe titles alone, of an older library
        return False
    read = (words.title, dict(words.tags), tuple(words.chapters), words.problem.reason if words.problem else "")
    if read != (video.title, dict(video.tags), tuple(video.chapters), _reason(video)):
        return False
    stored = {unit.id: unit.segments for unit in units}
    return all(said.segments == segments_of(stored[said.unit_id], said.track) for said in words.said)


def _reason(video: StoredVideo) -> str:
    return video.problem["reason"] if video.problem else ""


def _is_kept(segment: Segment, covered: Spans) -> bool:
    """Return whether a recognised segment is kept: subtitles cover less than COVERED_SHARE of it."""
    if segment.source != "asr":
        return False
    length_s = segment.end_s - segment.start_s
    return overlap_s(covered, segment.start_s, segment.end_s) < COVERED_SHARE * length_s or not length_s
