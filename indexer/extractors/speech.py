"""The speech modality: subtitles of sidecars, else of the file, and recognition where there are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from vfindex.indexer.boundary import NO_RESOURCES
from vfindex.indexer.extractors.base import Known, Track, Unit, begins_in
from vfindex.indexer.extractors.chunks import windows
from vfindex.indexer.extractors.source import VideoSource
from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Frame, ReadEnd
from vfindex.indexer.speech.audio_tracks import lost_audio, no_asr_reason
from vfindex.indexer.speech.subtitles import (
    Sidecars,
    SubtitleText,
    from_packets,
    fullest,
    notes_of,
    sidecar_transcript,
    track_order,
    use_of,
)
from vfindex.indexer.speech.transcribe import Transcript
from vfindex.indexer.speech.whisper import Whisper
from vfindex.storage.errors import VideoError, counted
from vfindex.storage.records import Segment

NAME = "speech"
# Subtitle tracks of one language that are compared by amount of text; films have two or three.
MAX_TRACKS_COMPARED = 4


def known_speech(source: VideoSource) -> Known:
    """Return a video's subtitles: of its sidecars, else of the best embedded track with text. Raises VideoError."""
    found = _subtitles(source)
    reason = no_asr_reason(source.audio, source.probe.audio, source.options.languages)
    return Known(
        segments=found.segments,
        problems=found.problems,
        notes=found.notes,
        coverage=found.words,
        no_audio=reason,
    )


def _subtitles(source: VideoSource) -> Sidecars:
    path, probe = source.found.location.path, source.probe
    chosen = sidecar_transcript(path, source.found.sidecar_candidates, probe.end_s - probe.clock_s)
    if chosen.segments:
        return replace(chosen, segments=on_clock(chosen.segments, probe.clock_s))
    problems, notes, words = list(chosen.problems), list(chosen.notes), [chosen.words]
    for group in [] if source.options.safe else track_order(probe.subtitles):
        texts: list[SubtitleText] = []
        for position in group[:MAX_TRACKS_COMPARED]:
            track = probe.subtitles[position]
            try:
                text = from_packets(source.decoder.subtitles(path, track.index), track, probe.end_s)
            except VideoError as exc:
                if exc.quarantine or exc.problem.code in ("killed", NO_RESOURCES):
                    raise
                problems.append(replace(exc.problem, stage="transcribe"))  # frames and audio may be intact
                continue
            notes += notes_of(path, text, f"its subtitle track {track.index}: ")
            words += [f"subtitle track {track.index}: {use_of(text)}"] if text.oddities else []
            texts.append(text)
        if any(text.segments for text in texts):
            chosen = replace(chosen, segments=texts[fullest(texts)].segments)
            break
    return replace(chosen, problems=tuple(problems), notes=tuple(notes), words="; ".join(filter(None, words)))


def on_clock(segments: Sequence[Segment], clock_s: float) -> tuple[Segment, ...]:
    """Return the segments of a sidecar, whose 0 s is the start of the container at `clock_s`, on the video's clock.

    A segment that would begin before 0 s begins there; one that would end before it is left out.
    """
    if not clock_s:
        return tuple(segments)
    return tuple(
        replace(s, start_s=max(0.0, s.start_s + clock_s), end_s=s.end_s + clock_s)
        for s in segments
        if s.end_s + clock_s > 0
    )


class SpeechExtractor:
    """Recognises speech that no subtitles cover; an `Extractor`. speech: None if no speech is recognised."""

    def __init__(self, speech: Whisper | None) -> None:
        self._speech = speech

    def begin(self, unit: Unit) -> SpeechExtraction:
        return SpeechExtraction(unit, self._speech)


class SpeechExtraction:
    """The subtitles and the transcript of one unit. transcript: None until `finish`, and if nothing is recognised."""

    def __init__(self, unit: Unit, speech: Whisper | None) -> None:
        hears = speech is not None and reads_audio(unit)
        covered = [(s.start_s, s.end_s) for s in unit.known.segments]
        self._unit = unit
        self._transcriber = speech.transcriber(covered) if speech is not None and hears else None
        self.taps: Sequence[AudioTap] = (AudioTap(),) if hears else ()
        self.transcript: Transcript | None = None

    def feed(self, item: Frame | AudioBlock) -> None:
        if isinstance(item, AudioBlock) and self._transcriber is not None:
            self._transcriber.feed(item)

    def finish(self, end: ReadEnd) -> Track:
        unit = self._unit
        heard = self.transcript = self._transcriber.finish() if self._transcriber is not None else None
        said = [s for s in unit.known.segments if begins_in(s, unit.plan)]
        segments = sorted([*said, *(heard.segments if heard else [])], key=lambda s: (s.start_s, s.end_s))
        lost = lost_audio(end.audio_packets, end.damaged_audio)
        coverage = "; ".join(filter(None, [speech_coverage(unit, segments, heard), lost]))
        is_mute = unit.options.asr and unit.video.has_audio and unit.audio is None
        return Track(
            coverage=with_sidecars(coverage, unit),
            segments=tuple(segments),
            windows=tuple(windows(segments)),
            problems=(*([unit.known.no_audio] if is_mute else []), lost, *(heard.problems if heard else [])),
        )


def reads_audio(unit: Unit) -> bool:
    """Return whether the speech of a unit is to be recognised."""
    return unit.options.asr and unit.audio is not None and not unit.known.no_audio


def with_sidecars(coverage: str, unit: Unit) -> str:
    """Return the coverage of a unit's speech; the first unit's mentions the video's sidecars."""
    return "; ".join(filter(None, [coverage, "" if unit.plan.number else unit.known.coverage]))


def speech_coverage(unit: Unit, segments: Sequence[Segment], transcript: Transcript | None) -> str:
    """Return a description of the sources of a unit's speech, and why they are not complete."""
    of = Counter(segment.source for segment in segments if segment.source != "asr")
    parts = [f"{counted(of[source], 'segment')} from {source} subtitles" for source in sorted(of)]
    if transcript is not None:
        assumed = [
            f", {counted(n, 'window')} of unsure language taken for {tag}" for tag, n in transcript.assumed.items()
        ]
        parts.append(
            f"{transcript.voiced_s:.0f} s of possible speech, {transcript.recognised_s:.0f} s recognised, "
            f"{transcript.dropped_s:.0f} s dropped as unsure{''.join(assumed)}"
        )
    elif unit.known.no_audio or not unit.options.asr:
        parts.append(unit.known.no_audio or "speech recognition was off")
    return "; ".join(parts)
