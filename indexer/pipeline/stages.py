"""The stages of the pipeline: a unit's frames and audio are decoded, encoded, recognised, and cut into clips.

A runner calls `prepare` once per video and `index_unit` once per unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from vfindex.indexer.extractors.chunks import Window, clip_windows, windows
from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Decoder, FrameTap, ReadEnd, Tap
from vfindex.indexer.models.base import Encoders, ImageEncoder, PassageEncoder, Pixels
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.prepare import Prepared
from vfindex.indexer.pipeline.shots import Span, cut_clips, unit
from vfindex.indexer.pipeline.unit_reader import Reading, UnitRequest, decode_unit
from vfindex.indexer.speech.audio_tracks import lost_audio
from vfindex.indexer.speech.transcribe import Speech, Transcriber, Transcript
from vfindex.storage.errors import counted
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import COARSE, Clip, FloatArray, Segment, UnitPlan, UnitResult, Video

# Bit rate of ordinary video, 3.2 Mbit/s: a unit of ten minutes has time for 240 MB at least.
RATE_BYTES_S = 400_000


@dataclass(frozen=True, slots=True)
class Indexed:
    """One unit's result and the summary of its read. lost: a description of the unreadable parts, or ""."""

    result: UnitResult
    end: ReadEnd
    lost: str


def index_unit(prepared: Prepared, plan: UnitPlan, options: Options, decoder: Decoder, encoders: Encoders) -> Indexed:
    """Return everything that one unit adds to the library: clips(shots(frames(video))), and its transcript.

    The result depends only on the file and the models, never on the runner, the order or the number of workers. Frames
    are encoded and audio is recognised while the file is decoded. Raises VideoError if no frame can be read.
    """
    transcriber = transcriber_of(prepared, options, encoders.speech)
    audio = None if transcriber is None else audio_index(prepared, options)
    taps: tuple[Tap, ...] = (FrameTap(encoders.image.size_px), AudioTap())
    request = UnitRequest(taps, options.sampling, audio, time_share(prepared, plan))
    with closing(decode_unit(prepared.found.location.path, plan, request, decoder, may_be_empty=True)) as items:
        reading, vectors = _encode_frames(items, encoders.image, transcriber)
    transcript = transcriber.finish() if transcriber else None
    speech = encode_speech(prepared, plan, transcript, encoders.text)
    return assemble(prepared, plan, options, reading, vectors, speech)


def _encode_frames(
    items: Iterable[Pixels | AudioBlock | Reading], encoder: ImageEncoder, transcriber: Transcriber | None
) -> tuple[Reading, FloatArray]:
    """Return a unit's Reading and the vectors (n, dim) of its encoded frames; its audio goes to the transcriber."""
    reading = Reading()
    batch: list[Pixels] = []
    vectors = [np.zeros((0, encoder.dim), np.float32)]
    for item in items:
        if isinstance(item, Reading):
            reading = item
        elif not isinstance(item, AudioBlock):
            batch.append(item)
        elif transcriber is not None:
            transcriber.feed(item)
        if len(batch) >= encoder.batch_frames or (batch and item is reading):
            vectors.append(encoder.encode_images(batch))
            batch.clear()
    return reading, np.concatenate(vectors)


def time_share(prepared: Prepared, plan: UnitPlan) -> float:
    """Return a unit's share of the processor time that its file may take, up to 1.

    Twice its share of the duration, as bit rates vary, and at least what a video of RATE_BYTES_S would need: a file
    with an endless duration has time for the units that it really has.
    """
    start_s = plan.start_s if plan.start_s is not None else prepared.video.start_s
    end_s = plan.end_s if plan.end_s is not None else prepared.video.end_s
    length_s, whole_s = end_s - start_s, prepared.video.end_s - prepared.video.start_s
    if length_s >= whole_s or length_s <= 0:
        return 1.0
    return min(1.0, length_s * max(2 / whole_s, RATE_BYTES_S / max(1, prepared.video.size_bytes)))


def audio_index(prepared: Prepared, options: Options) -> int | None:
    """Return the index of the audio stream whose speech is to be recognised, or None."""
    return prepared.track.index if options.asr and prepared.track is not None and not prepared.no_asr_reason else None


def transcriber_of(prepared: Prepared, options: Options, speech: Speech | None) -> Transcriber | None:
    """Return a transcriber for one unit, None if no speech is to be recognised."""
    if speech is None or audio_index(prepared, options) is None:
        return None
    return speech.transcriber([(s.start_s, s.end_s) for s in prepared.subtitles])


@dataclass(frozen=True, slots=True)
class Spoken:
    """The speech of a unit: segments of subtitles and of the transcript, in order of time.

    transcript: None if nothing was to be recognised. windows: of the segments; vectors: (n_windows, dim).
    """

    segments: tuple[Segment, ...]
    transcript: Transcript | None
    windows: tuple[Window, ...]
    vectors: FloatArray


def encode_speech(prepared: Prepared, plan: UnitPlan, transcript: Transcript | None, encoder: PassageEncoder) -> Spoken:
    """Return the speech of a unit from its subtitles and its transcript."""
    said = [s for s in prepared.subtitles if begins_in(s, plan)]
    segments = sorted([*said, *(transcript.segments if transcript else [])], key=lambda s: (s.start_s, s.end_s))
    spoken = windows(segments)
    return Spoken(tuple(segments), transcript, tuple(spoken), _encoded(spoken, encoder))


def assemble(
    prepared: Prepared, plan: UnitPlan, options: Options, reading: Reading, vectors: FloatArray, spoken: Spoken
) -> Indexed:
    """Return a unit's result, cut into clips. vectors: (n, dim), of the encoded frames."""
    vectors = vectors[reading.rows]  # (n_frames, dim)
    spans = _spans(prepared.video, plan, reading, vectors)
    said = _speech_of([(span.start_s, span.end_s) for span in spans], spoken.windows, spoken.vectors)
    clips = []
    for span, speech in zip(spans, said, strict=True):
        frames = vectors[span.first : span.last]
        clips.append(_clip(span, reading, frames, speech, prepared.text_vector))
    lost = _lost(prepared, options, reading.end, spoken.transcript)
    coverage = _coverage(prepared, plan, options, reading, spoken)
    return Indexed(UnitResult(tuple(clips), spoken.segments, coverage, lost), reading.end, lost)


def begins_in(segment: Segment, plan: UnitPlan) -> bool:
    """Return whether a segment belongs to a unit, which is the one in which it begins."""
    return (plan.start_s is None or segment.start_s >= plan.start_s) and (
        plan.end_s is None or segment.start_s < plan.end_s
    )


def _spans(video: Video, plan: UnitPlan, reading: Reading, vectors: FloatArray) -> list[Span]:
    if not reading.times_s:
        return []  # a part of a video without frames
    times_s = np.asarray(reading.times_s)
    start_s = plan.start_s if plan.start_s is not None else min(video.start_s, reading.times_s[0])
    end_s = plan.end_s if plan.end_s is not None else _end_s(video, reading)
    return cut_clips(vectors, reading.histograms, times_s, start_s=start_s, end_s=end_s)


def _end_s(video: Video, reading: Reading) -> float:
    """Return the end of the video: from its header, unless reading stopped early."""
    last_s = reading.end.last_s if reading.end.last_s is not None else reading.times_s[-1]
    return max(last_s, reading.times_s[-1]) if reading.end.error else max(video.end_s, last_s)


def speech_vectors(
    clips: Sequence[tuple[float, float]], segments: Sequence[Segment], encoder: PassageEncoder
) -> list[FloatArray | None]:
    """Return for each clip (start_s, end_s) the mean of its windows' vectors, of length 1; None without speech."""
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


def embeddings_of(
    visual: FloatArray, speech: FloatArray | None, text: FloatArray | None
) -> dict[ModalityName, FloatArray]:
    """Return a clip's embeddings; None for a missing modality."""
    given: dict[ModalityName, FloatArray | None] = {"visual": visual, "speech": speech, "text": text}
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


def _lost(prepared: Prepared, options: Options, end: ReadEnd, transcript: Transcript | None) -> str:
    """Return a description of a unit's unreadable parts, or ""."""
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
        parts.append(prepared.no_asr_reason)
    parts.append(lost_audio(end.audio_packets, end.damaged_audio))
    parts += transcript.problems if transcript is not None else []
    return "; ".join(filter(None, parts))


def _coverage(prepared: Prepared, plan: UnitPlan, options: Options, reading: Reading, spoken: Spoken) -> dict[str, str]:
    """Return for each modality a description of its coverage of the unit, and why it is not complete."""
    speech = speech_coverage(prepared.no_asr_reason, options.asr, spoken.segments, spoken.transcript)
    speech = "; ".join(filter(None, [speech, lost_audio(reading.end.audio_packets, reading.end.damaged_audio)]))
    note = f"; {reading.end.note}" if reading.end.note else ""
    has_text = prepared.text_vector is not None
    text = "name, folders and tags" if has_text else "no descriptive words in name or tags"
    sentences = {
        "visual": f"{counted(len(reading.times_s), 'frame')}, sampling {options.sampling}{note}",
        "speech": with_sidecars(speech, prepared, plan),
        "text": text,
    }
    return sentences | ({COARSE: "preview only, without audio"} if options.sampling.mode == "sparse" else {})


def with_sidecars(speech: str, prepared: Prepared, plan: UnitPlan) -> str:
    """Return the coverage of a unit's speech; the first unit's mentions the video's sidecars."""
    return "; ".join(filter(None, [speech, "" if plan.number else prepared.sidecars]))


def speech_coverage(no_asr_reason: str, asr: bool, segments: Sequence[Segment], transcript: Transcript | None) -> str:
    """Return a description of the sources of a unit's speech, and why they are not complete."""
    sources = sorted({segment.source for segment in segments if segment.source != "asr"})
    of = Counter(segment.source for segment in segments)
    parts = [f"{counted(of[source], 'segment')} from {source} subtitles" for source in sources]
    if transcript is not None:
        steady = f", {transcript.steady_s:.0f} s too steady to be talk" if transcript.steady_s else ""
        parts.append(
            f"{transcript.voiced_s:.0f} s of possible speech, {transcript.recognised_s:.0f} s recognised, "
            f"{transcript.dropped_s:.0f} s dropped as unsure{steady}"
        )
    elif no_asr_reason or not asr:
        parts.append(no_asr_reason or "speech recognition was off")
    return "; ".join(parts)
