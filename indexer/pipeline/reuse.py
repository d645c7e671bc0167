"""Re-indexing of units with stored parts: the transcript under a new image model, frames under a new speech model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Decoder, ReadEnd
from vfindex.indexer.models.base import Encoders
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.prepare import Prepared
from vfindex.indexer.pipeline.stages import (
    Indexed,
    audio_index,
    embeddings_of,
    index_unit,
    speech_coverage,
    speech_vectors,
    time_share,
    transcriber_of,
    with_sidecars,
)
from vfindex.indexer.pipeline.unit_reader import UnitRequest, decode_ahead
from vfindex.indexer.speech.audio_tracks import lost_audio
from vfindex.indexer.speech.transcribe import Speech, Transcript
from vfindex.storage.records import Clip, FloatArray, UnitPlan, UnitResult


@dataclass(frozen=True, slots=True)
class ReusableUnit:
    """A stored unit and its part that stays valid. Plain data, so it can be sent to any worker.

    keeps: "frames" (clips with frame vectors and thumbnails; speech is recognised again), or "transcript" (the frames
    are decoded and encoded again; `stored` needs no clips then).
    """

    stored: UnitResult
    keeps: Literal["frames", "transcript"]


def index_reusing(
    reusable: ReusableUnit, prepared: Prepared, plan: UnitPlan, options: Options, decoder: Decoder, encoders: Encoders
) -> Indexed:
    """Return one unit's result as `index_unit` does, computing only the invalid parts. Raises VideoError."""
    if reusable.keeps == "frames":
        return _recognise_again(reusable.stored, prepared, plan, options, decoder, encoders)
    known = replace(prepared, subtitles=reusable.stored.segments)
    indexed = index_unit(known, plan, replace(options, asr=False), decoder, encoders)
    coverage = {**indexed.result.coverage, "speech": reusable.stored.coverage.get("speech", "")}
    return replace(indexed, result=replace(indexed.result, coverage=coverage))


def _recognise_again(
    stored: UnitResult, prepared: Prepared, plan: UnitPlan, options: Options, decoder: Decoder, encoders: Encoders
) -> Indexed:
    """Return a unit with a new transcript and its stored frames; none is decoded."""
    end, transcript = recognise(prepared, plan, options, decoder, encoders.speech)
    subtitles = [segment for segment in stored.segments if segment.source != "asr"]
    segments = sorted([*subtitles, *(transcript.segments if transcript else ())], key=lambda s: (s.start_s, s.end_s))
    spoken = speech_vectors([(c.start_s, c.end_s) for c in stored.clips], segments, encoders.text)
    clips = with_words(stored.clips, spoken, prepared.text_vector)
    speech = speech_coverage(prepared.no_asr_reason, options.asr, segments, transcript)
    coverage = {**stored.coverage, "speech": with_sidecars(speech, prepared, plan)}
    reasons = [
        stored.error,
        lost_audio(end.audio_packets, end.damaged_audio),
        *(transcript.problems if transcript else ()),
    ]
    lost = "; ".join(dict.fromkeys(filter(None, reasons)))
    return Indexed(UnitResult(clips, tuple(segments), coverage, lost), end, lost)


def recognise(
    prepared: Prepared, plan: UnitPlan, options: Options, decoder: Decoder, speech: Speech | None
) -> tuple[ReadEnd, Transcript | None]:
    """Return the end of a unit's read, and the transcript where no subtitle covers it. No frame is decoded.

    The transcript is None if no speech is to be recognised. Raises VideoError.
    """
    end = ReadEnd(0, None, None, 0, 0, "")
    transcriber = transcriber_of(prepared, options, speech)
    if transcriber is None:
        return end, None
    request = UnitRequest((AudioTap(),), options.sampling, audio_index(prepared, options), time_share(prepared, plan))
    with closing(decode_ahead(prepared.found.location.path, plan, request, decoder)) as items:
        for item in items:
            if isinstance(item, AudioBlock):
                transcriber.feed(item)
            elif isinstance(item, ReadEnd):
                end = item
    return end, transcriber.finish()


def with_words(clips: Sequence[Clip], speech: Sequence[FloatArray | None], text: FloatArray | None) -> tuple[Clip, ...]:
    """Return clips with new speech vectors, one per clip, and a new text vector for all. None: no vector."""
    pairs = zip(clips, speech, strict=True)
    return tuple(replace(c, embeddings=embeddings_of(c.embeddings["visual"], vector, text)) for c, vector in pairs)
