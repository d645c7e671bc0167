"""The stages, as plain Python: units -> decode -> encode frames -> transcribe -> encode text -> a unit's result.

Runners decide where and when; they all call `prepare` once a video, and once a unit either `index_unit` or the stages
it is made of: `decode_unit`, `encode_images`, `listener_of`, `say`, `assemble`. What comes out depends on the file and
the models alone, never on the runner, the order or the number of workers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from vfindex.indexer.boundary import NO_RESOURCES
from vfindex.indexer.media.answers import AudioTrack
from vfindex.indexer.media.decoder import AudioBlock, Decoder, Probe, ReadEnd
from vfindex.indexer.models.base import Encoders, PassageEncoder, Pixels, Texts
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.chunks import Window, clip_windows, windows
from vfindex.indexer.pipeline.metadata_text import describe, documents_of
from vfindex.indexer.pipeline.shots import Span, cut_clips, unit
from vfindex.indexer.pipeline.unit_reader import Reading, Wanted, decode_unit
from vfindex.indexer.pipeline.ytdlp import read_info
from vfindex.indexer.scan.walk import Found
from vfindex.indexer.speech.audio_tracks import choose_track, lost_sound, unheard
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
from vfindex.indexer.speech.transcribe import Listener, Speech, Transcript
from vfindex.storage.errors import Problem, VideoError, counted
from vfindex.storage.records import (
    COARSE,
    Clip,
    Document,
    FloatArray,
    Modality,
    Segment,
    UnitPlan,
    UnitResult,
    Video,
)

# A longer video is cut into units, so that a crash costs minutes and memory is bounded by a unit: 10 minutes of frames
# at 1 a second are 600 vectors, and their thumbnails 52 MB.
UNIT_S = 600.0
# A last unit shorter than half a unit joins the one before it.
MIN_LAST_UNIT_S = UNIT_S / 2
# Subtitle tracks of one language that are read to find the fullest; films have two or three.
MAX_TRACKS_COMPARED = 4
# Bit rate of ordinary video, 3.2 Mbit/s: a unit of ten minutes has time for 240 MB at least.
RATE_BYTES_S = 400_000
# A week of video. A longer one, or a file that lies about its length, has a last unit that is longer.
MAX_CUTS = 1000


@dataclass(frozen=True, slots=True)
class Prepared:
    """A video before its units: what it is, what it is called, what subtitles say, and its plan.

    text_vector: (dim,) of the text modality, or None. problems: sidecars that could not be read. notes: what else the
    report says of sidecars and subtitle tracks. sidecars: which are used, and why others are not, in words for `show`.
    clock_s: when the container starts, as in Probe. track: the sound chosen, None without any that can be decoded.
    unheard: why no speech is recognised in it, or "".
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
    unheard: str = ""


@dataclass(frozen=True, slots=True)
class Indexed:
    """One unit's result and what its reading measured. lost: what could not be read, in words, or ""."""

    result: UnitResult
    end: ReadEnd
    lost: str


def plan_units(start_s: float, end_s: float, keyframes: Callable[[list[float]], list[float]]) -> tuple[UnitPlan, ...]:
    """Return the units of a video, cut near multiples of UNIT_S if it is longer than one and a half.

    keyframes: gives for times the keyframes at or before them, where a unit can be begun without decoding what comes
    before it; one that is further off than half a unit is not worth it, and the cut stays at the multiple.
    """
    first = math.floor(start_s / UNIT_S + 1e-9) + 1
    last = min(math.ceil(end_s / UNIT_S), first + MAX_CUTS)
    cuts = [n * UNIT_S for n in range(first, last) if end_s - n * UNIT_S >= MIN_LAST_UNIT_S]
    if cuts:
        found = zip(keyframes(cuts), cuts, strict=True)
        cuts = [key_s if key_s > max(start_s, cut_s - UNIT_S / 2) else cut_s for key_s, cut_s in found]
    edges: list[float | None] = [None, *cuts, None]
    return tuple(UnitPlan(n, a, b) for n, (a, b) in enumerate(pairwise(edges)))


def prepare(found: Found, fingerprint: str, options: Options, decoder: Decoder, encoders: Encoders | Texts) -> Prepared:
    """Return what a file is, before any frame is decoded. Raises VideoError."""
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
        unheard=unheard(track, probe.audio, options.languages),
    )


def text_vector(text: str, encoder: PassageEncoder) -> FloatArray | None:
    """Return the text modality's vector (dim,), or None for a video whose name says nothing."""
    return encoder.encode_passages([text])[0] if text else None


def _subtitles(found: Found, probe: Probe, decoder: Decoder) -> Sidecars:
    """Return a video's subtitles: those of its sidecars, else of the best embedded tracks that hold any."""
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
                problems.append(replace(exc.problem, stage="transcribe"))  # pictures and sound may be whole
                continue
            notes += notes_of(path, text, f"its subtitle track {track.index}: ")
            words += [f"subtitle track {track.index}: {use_of(text)}"] if text.oddities else []
            texts.append(text)
        if any(text.segments for text in texts):
            chosen = replace(chosen, segments=texts[fullest(texts)].segments)
            break
    return replace(chosen, problems=tuple(problems), notes=tuple(notes), words="; ".join(filter(None, words)))


def on_clock(segments: Sequence[Segment], clock_s: float) -> tuple[Segment, ...]:
    """Return the segments of a sidecar, whose clock is that of players, on the clock of a video that starts at
    `clock_s`; what would begin before 0 s begins there, and what would end before is left out.
    """
    if not clock_s:
        return tuple(segments)
    return tuple(
        replace(s, start_s=max(0.0, s.start_s + clock_s), end_s=s.end_s + clock_s)
        for s in segments
        if s.end_s + clock_s > 0
    )


@dataclass(frozen=True, slots=True)
class Spoken:
    """What is said in a unit, by subtitles and as recognised, in order of time. vectors: (n_windows, dim).

    heard: None where nothing was to be recognised.
    """

    segments: tuple[Segment, ...]
    heard: Transcript | None
    windows: tuple[Window, ...]
    vectors: FloatArray


def index_unit(prepared: Prepared, plan: UnitPlan, options: Options, decoder: Decoder, encoders: Encoders) -> Indexed:
    """Return all that one unit adds to the library: its stages in one process, interleaved, nothing kept whole.

    Raises VideoError if not one frame of it can be read.
    """
    listener = listener_of(prepared, options, encoders.speech)
    audio = None if listener is None else sound_track(prepared, options)
    wanted = Wanted(options.sampling, encoders.image.size_px, audio, share=time_share(prepared, plan))
    reading = Reading()
    batch: list[Pixels] = []
    vectors: list[FloatArray] = []
    with closing(decode_unit(prepared.found.location.path, plan, wanted, decoder, may_be_empty=True)) as items:
        for item in items:
            if isinstance(item, Reading):
                reading = item
            elif not isinstance(item, AudioBlock):
                batch.append(item)
            elif listener is not None:
                listener.feed(item)
            if len(batch) >= encoders.image.batch_frames or (batch and item is reading):
                vectors.append(encoders.image.encode_images(batch))
                batch.clear()
    spoken = say(prepared, plan, listener.finish() if listener else None, encoders.text)
    pictures = np.concatenate(vectors) if vectors else np.zeros((0, encoders.image.dim), np.float32)
    return assemble(prepared, plan, options, reading, pictures, spoken)


def time_share(prepared: Prepared, plan: UnitPlan) -> float:
    """Return the share of the processor time that a file may take which one unit of it may take, up to 1.

    Twice its share of the length, as bit rates vary; but no less than for as long a video of RATE_BYTES_S, so that a
    file that claims to be endless has time for the units that it does hold.
    """
    start_s = plan.start_s if plan.start_s is not None else prepared.video.start_s
    end_s = plan.end_s if plan.end_s is not None else prepared.video.end_s
    length_s, whole_s = end_s - start_s, prepared.video.end_s - prepared.video.start_s
    if length_s >= whole_s or length_s <= 0:
        return 1.0
    return min(1.0, length_s * max(2 / whole_s, RATE_BYTES_S / max(1, prepared.video.size_bytes)))


def sound_track(prepared: Prepared, options: Options) -> int | None:
    """Return the index of the audio stream in which speech is to be recognised, None where there is none."""
    return prepared.track.index if options.asr and prepared.track is not None and not prepared.unheard else None


def listener_of(prepared: Prepared, options: Options, speech: Speech | None) -> Listener | None:
    """Return who takes a unit's sound; None where none is recognised."""
    if speech is None or sound_track(prepared, options) is None:
        return None
    return speech.transcriber([(s.start_s, s.end_s) for s in prepared.subtitles])


def say(prepared: Prepared, plan: UnitPlan, heard: Transcript | None, encoder: PassageEncoder) -> Spoken:
    """Return what is said in a unit, once its sound is recognised."""
    said = [s for s in prepared.subtitles if begins_in(s, plan)]
    segments = sorted([*said, *(heard.segments if heard else [])], key=lambda s: (s.start_s, s.end_s))
    spoken = windows(segments)
    return Spoken(tuple(segments), heard, tuple(spoken), _encoded(spoken, encoder))


def assemble(
    prepared: Prepared, plan: UnitPlan, options: Options, reading: Reading, pictures: FloatArray, spoken: Spoken
) -> Indexed:
    """Return what a unit's stages have found, cut into clips. pictures: (n, dim), of those that were to be encoded."""
    vectors = pictures[reading.rows]  # (n_frames, dim)
    spans = _spans(prepared.video, plan, reading, vectors)
    said = _speech_of([(span.start_s, span.end_s) for span in spans], spoken.windows, spoken.vectors)
    clips = []
    for span, speech in zip(spans, said, strict=True):
        frames = vectors[span.first : span.last]
        clips.append(_clip(span, reading, frames, speech, prepared.text_vector))
    lost = _lost(prepared, options, reading.end, spoken.heard)
    coverage = _coverage(prepared, plan, options, reading, spoken)
    return Indexed(UnitResult(tuple(clips), spoken.segments, coverage, lost), reading.end, lost)


def begins_in(segment: Segment, plan: UnitPlan) -> bool:
    """Return whether a segment is of this unit: it is of the one in which it begins."""
    return (plan.start_s is None or segment.start_s >= plan.start_s) and (
        plan.end_s is None or segment.start_s < plan.end_s
    )


def _spans(video: Video, plan: UnitPlan, reading: Reading, vectors: FloatArray) -> list[Span]:
    if not reading.times_s:
        return []  # nothing is shown in this part of the video
    times_s = np.asarray(reading.times_s)
    start_s = plan.start_s if plan.start_s is not None else min(video.start_s, reading.times_s[0])
    end_s = plan.end_s if plan.end_s is not None else _end_s(video, reading)
    return cut_clips(vectors, reading.histograms, times_s, start_s=start_s, end_s=end_s)


def _end_s(video: Video, reading: Reading) -> float:
    """Return where the pictures end: as the header says, unless reading broke off before."""
    last_s = reading.end.last_s if reading.end.last_s is not None else reading.times_s[-1]
    return max(last_s, reading.times_s[-1]) if reading.end.error else max(video.end_s, last_s)


def speech_vectors(
    clips: Sequence[tuple[float, float]], segments: Sequence[Segment], encoder: PassageEncoder
) -> list[FloatArray | None]:
    """Return for each clip (start_s, end_s) the mean of its windows' vectors, of length 1; None where it is silent."""
    spoken = windows(segments)
    return _speech_of(clips, spoken, _encoded(spoken, encoder))


def _encoded(spoken: Sequence[Window], encoder: PassageEncoder) -> FloatArray:
    if not spoken:
        return np.zeros((0, encoder.dim), dtype=np.float32)
    return encoder.encode_passages([window.text for window in spoken])  # (n_windows, dim)


def _speech_of(
    clips: Sequence[tuple[float, float]], spoken: Sequence[Window], vectors: FloatArray
) -> list[FloatArray | None]:
    return [unit(vectors[rows].mean(axis=0)) if rows else None for rows in clip_windows(clips, spoken)]


def embeddings_of(visual: FloatArray, speech: FloatArray | None, text: FloatArray | None) -> dict[Modality, FloatArray]:
    """Return a clip's embeddings; None: it has none of that modality."""
    given: dict[Modality, FloatArray | None] = {"visual": visual, "speech": speech, "text": text}
    return {modality: vector for modality, vector in given.items() if vector is not None}


def _clip(span: Span, reading: Reading, frames: FloatArray, speech: FloatArray | None, text: FloatArray | None) -> Clip:
    times_s = np.asarray(reading.times_s[span.first : span.last])
    visual = unit(frames.mean(axis=0))
    middle_s = float(times_s[int(np.argmax(frames @ visual))])
    return Clip(
        start_s=span.start_s,
        end_s=span.end_s,
        start_uncertainty_s=span.start_uncertainty_s,
        embeddings=embeddings_of(visual, speech, text),
        frame_vectors=frames,
        frame_times_s=times_s,
        thumbnail=reading.thumbnails.pick(span.start_s, span.end_s, middle_s),
    )


def _lost(prepared: Prepared, options: Options, end: ReadEnd, heard: Transcript | None) -> str:
    """Return what of a unit could not be read, in words, or "" ."""
    parts = []
    if end.error:
        parts.append(end.error)
    elif end.damaged:
        parts.append(
            f"{end.damaged} damaged packets or frames were left out"
            if end.damaged > 1
            else "a damaged packet or frame was left out"
        )
    if options.asr and prepared.video.has_audio and prepared.track is None:
        parts.append(prepared.unheard)
    parts.append(lost_sound(end.audio_packets, end.damaged_audio))
    parts += heard.problems if heard is not None else []
    return "; ".join(filter(None, parts))


def _coverage(prepared: Prepared, plan: UnitPlan, options: Options, reading: Reading, spoken: Spoken) -> dict[str, str]:
    """Return what each modality covers in this unit and why not more, in words."""
    speech = speech_coverage(prepared.unheard, options.asr, spoken.segments, spoken.heard)
    speech = "; ".join(filter(None, [speech, lost_sound(reading.end.audio_packets, reading.end.damaged_audio)]))
    note = f"; {reading.end.note}" if reading.end.note else ""
    told = {
        "visual": f"{counted(len(reading.times_s), 'frame')}, sampling {options.sampling}{note}",
        "speech": with_sidecars(speech, prepared, plan),
        "text": "name, folders and tags" if prepared.text_vector is not None else "name and tags hold no telling words",
    }
    return told | ({COARSE: "looked at in passing, sound not at all"} if options.sampling.mode == "sparse" else {})


def with_sidecars(speech: str, prepared: Prepared, plan: UnitPlan) -> str:
    """Return the words on a unit's speech; of the first unit with those on the video's sidecars."""
    return "; ".join(filter(None, [speech, "" if plan.number else prepared.sidecars]))


def speech_coverage(unheard: str, asr: bool, segments: Sequence[Segment], heard: Transcript | None) -> str:
    """Return what of a unit's sound is told by whom, and why not more, in words."""
    sources = sorted({segment.source for segment in segments if segment.source != "asr"})
    of = Counter(segment.source for segment in segments)
    parts = [f"{counted(of[source], 'segment')} from {source} subtitles" for source in sources]
    if heard is not None:
        steady = f", {heard.skipped_s:.0f} s too steady to be talk" if heard.skipped_s else ""
        parts.append(
            f"{heard.heard_s:.0f} s of possible speech, {heard.recognised_s:.0f} s recognised, "
            f"{heard.dropped_s:.0f} s dropped as unsure{steady}"
        )
    elif unheard or not asr:
        parts.append(unheard or "speech recognition was off")
    return "; ".join(parts)
