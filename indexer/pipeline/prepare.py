"""A video before its units are decoded: probe, metadata text, subtitles, audio track, and the plan of its units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from vfindex.indexer.boundary import NO_RESOURCES
from vfindex.indexer.extractors.metadata_text import describe, documents_of
from vfindex.indexer.media.answers import AudioTrack, Probe
from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.models.base import Encoders, PassageEncoder, Texts
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.ytdlp import read_info
from vfindex.indexer.scan.walk import Found
from vfindex.indexer.speech.audio_tracks import choose_track, no_asr_reason
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
from vfindex.storage.errors import Problem, VideoError
from vfindex.storage.records import Document, FloatArray, Segment, UnitPlan, Video

# A longer video is cut into units: a crash then costs minutes, and a unit bounds memory. 10 minutes at 1 frame/s are
# 600 vectors, and 52 MB of thumbnails.
UNIT_S = 600.0
# A last unit shorter than half a unit joins the one before it.
MIN_LAST_UNIT_S = UNIT_S / 2
# Subtitle tracks of one language that are compared by amount of text; films have two or three.
MAX_TRACKS_COMPARED = 4
# A week of video. A longer one, or a file with a wrong length, has a longer last unit.
MAX_CUTS = 1000


@dataclass(frozen=True, slots=True)
class Prepared:
    """A video before its units are decoded: metadata, subtitles and the plan of its units.

    text_vector: (dim,) of the text modality, or None. problems: sidecars that could not be read. notes: other remarks
    on sidecars and subtitle tracks for the report. sidecars: which are used, and why others are not, for `show`.
    clock_s: when the container starts, as in Probe. track: the audio track for speech, None if none can be decoded.
    no_asr_reason: why its speech is not recognised, or "".
    """

    found: Found
    video: Video
    units: tuple[UnitPlan, ...]
    subtitles: tuple[Segment, ...]
    documents: tuple[Document, ...]
    text_vector: FloatArray | None
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()
    sidecars: str = ""
    clock_s: float = 0.0
    track: AudioTrack | None = None
    no_asr_reason: str = ""


def prepare(found: Found, fingerprint: str, options: Options, decoder: Decoder, encoders: Encoders | Texts) -> Prepared:
    """Return the metadata, subtitles and plan of a file; no frame is decoded. Raises VideoError."""
    path = found.location.path
    probe = decoder.probe(path)
    info = read_info(path, found.sidecar_candidates, probe.end_s - probe.clock_s)
    tags = {**info.tags, **{name: text for name, text in probe.tags.items() if name.lower() not in info.tags}}
    chapters = probe.chapters or info.chapters
    description = describe(path, tags, chapters)
    subtitles = _subtitles(found, replace(probe, subtitles=()) if options.safe else probe, decoder)
    track = choose_track(probe.audio, options.languages)
    video = Video(
        fingerprint=fingerprint,
        size_bytes=found.location.size_bytes,
        container=probe.container,
        codec=probe.codec,
        width_px=probe.width_px,
        height_px=probe.height_px,
        rotation_deg=probe.rotation_deg,
        start_s=probe.start_s,
        last_s=probe.end_s,
        end_s=probe.end_s,
        frames=probe.frames,
        has_audio=probe.has_audio,
        title=description.title,
        tags=tags,
        chapters=chapters,
    )
    return Prepared(
        found=found,
        video=video,
        units=plan_units(probe.start_s, probe.end_s, list if options.safe else partial(decoder.keyframes_before, path)),
        subtitles=subtitles.segments,
        documents=documents_of([found.location.path], tags, chapters),
        text_vector=text_vector(description.text, encoders.text),
        problems=(*subtitles.problems, *([info.problem] if info.problem else [])),
        notes=subtitles.notes,
        sidecars=subtitles.words,
        clock_s=probe.clock_s,
        track=track,
        no_asr_reason=no_asr_reason(track, probe.audio, options.languages),
    )


def plan_units(start_s: float, end_s: float, keyframes: Callable[[list[float]], list[float]]) -> tuple[UnitPlan, ...]:
    """Return the units of a video, cut near multiples of UNIT_S if it is longer than one and a half.

    keyframes: times -> the keyframes at or before them, where a unit can begin without decoding what precedes it. A
    keyframe more than half a unit away is not used: the cut stays at the multiple.
    """
    first = math.floor(start_s / UNIT_S + 1e-9) + 1
    last = min(math.ceil(end_s / UNIT_S), first + MAX_CUTS)
    cuts = [n * UNIT_S for n in range(first, last) if end_s - n * UNIT_S >= MIN_LAST_UNIT_S]
    if cuts:
        found = zip(keyframes(cuts), cuts, strict=True)
        cuts = [key_s if key_s > max(start_s, cut_s - UNIT_S / 2) else cut_s for key_s, cut_s in found]
    edges: list[float | None] = [None, *cuts, None]
    return tuple(UnitPlan(n, a, b) for n, (a, b) in enumerate(pairwise(edges)))


def text_vector(text: str, encoder: PassageEncoder) -> FloatArray | None:
    """Return the vector of the text modality, (dim,), None without text."""
    return encoder.encode_passages([text])[0] if text else None


def _subtitles(found: Found, probe: Probe, decoder: Decoder) -> Sidecars:
    """Return a video's subtitles: those of its sidecars, else of the best embedded track with text."""
    path = found.location.path
    chosen = sidecar_transcript(path, found.sidecar_candidates, probe.end_s - probe.clock_s)
    if chosen.segments:
        return replace(chosen, segments=on_clock(chosen.segments, probe.clock_s))
    problems, notes, words = list(chosen.problems), list(chosen.notes), [chosen.words]
    for group in track_order(probe.subtitles):
        texts: list[SubtitleText] = []
        for position in group[:MAX_TRACKS_COMPARED]:
            track = probe.subtitles[position]
            try:
                text = from_packets(decoder.subtitles(path, track.index), track, probe.end_s)
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
