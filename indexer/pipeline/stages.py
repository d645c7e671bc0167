"""The stages of the pipeline: a unit is decoded once for all modalities, and their tracks are mapped onto its clips.

A runner calls `prepare` once per video and `index_unit` once per unit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from vfindex.indexer.extractors.base import Extraction, Track
from vfindex.indexer.extractors.chunks import overlapping, unrepeated, windows
from vfindex.indexer.extractors.frame_record import FrameRecord
from vfindex.indexer.extractors.registry import Extractors
from vfindex.indexer.media.decoder import AudioTap, Decoder, FrameTap, ReadEnd, Tap
from vfindex.indexer.models.base import PassageEncoder
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.prepare import Prepared
from vfindex.indexer.pipeline.shots import cut_clips, unit
from vfindex.indexer.pipeline.unit_reader import UnitRequest, decode_unit
from vfindex.storage.modalities import ModalityName, get_modality
from vfindex.storage.records import COARSE, Clip, FloatArray, Segment, UnitPlan, UnitResult, Video

# Bit rate of ordinary video, 3.2 Mbit/s: a unit of ten minutes has time for 240 MB at least.
RATE_BYTES_S = 400_000
NOTHING_READ = ReadEnd(0, None, None, 0, 0, "")
_NO_FRAMES: FloatArray = np.zeros((0, 0), np.float32)
Bounds = Sequence[tuple[float, float]]  # (start_s, end_s) of clips, in order of time


@dataclass(frozen=True, slots=True)
class Indexed:
    """One unit's result and the summary of its read. lost: a description of the unreadable parts, or ""."""

    result: UnitResult
    end: ReadEnd
    lost: str


@dataclass(frozen=True, slots=True)
class ReusableUnit:
    """A stored unit and what of it stays valid. Plain data, so it can be sent to any worker.

    tracks: modalities that need not be extracted again. vectors: those of them whose embeddings stay valid too. The
    stored clips are kept if the modality of the frames is among `tracks`; else `stored` needs no clips.
    """

    stored: UnitResult
    tracks: frozenset[ModalityName]
    vectors: frozenset[ModalityName]

    @property
    def keeps_clips(self) -> bool:
        return any(get_modality(modality).has_frames for modality in self.tracks)


_NOTHING_STORED = ReusableUnit(UnitResult((), ()), frozenset(), frozenset())


def index_unit(
    prepared: Prepared,
    plan: UnitPlan,
    options: Options,
    decoder: Decoder,
    extractors: Extractors,
    reusable: ReusableUnit | None = None,
) -> Indexed:
    """Return everything that one unit adds to the library: its clips and its text with times.

    The result depends only on the file and the models, never on the runner, the order or the number of workers. The
    file is decoded once, for the modalities that are not reusable, and not at all if they need neither frames nor
    audio. Raises VideoError if no frame can be read.
    """
    kept = reusable or _NOTHING_STORED
    begun = {
        modality: extractor.begin(prepared.unit(plan, options, modality))
        for modality, extractor in extractors.by_modality.items()
        if modality not in kept.tracks
    }
    end = decode(prepared, plan, options, decoder, begun.values())
    tracks = {
        modality: begun[modality].finish(end) if modality in begun else stored_track(kept.stored, modality)
        for modality in extractors.by_modality
    }
    has_frames = any(isinstance(tap, FrameTap) for extraction in begun.values() for tap in extraction.taps)
    return assemble(prepared, plan, options, Read(end, has_frames, tracks), kept, extractors.text)


@dataclass(frozen=True, slots=True)
class Read:
    """What a unit's read gave: its summary, whether frames were decoded, and the track of every modality."""

    end: ReadEnd
    has_frames: bool
    tracks: Mapping[ModalityName, Track]


def assemble(
    prepared: Prepared, plan: UnitPlan, options: Options, read: Read, kept: ReusableUnit, encoder: PassageEncoder
) -> Indexed:
    """Return a unit's result: its clips with an embedding of every track, its text with times, and what was lost."""
    tracks = counted_once(read.tracks)
    clips = _clips(prepared, plan, read, kept)
    clips = with_embeddings(clips, tracks, encoder, _valid_vectors(kept, tracks))
    segments = sorted((s for track in tracks.values() for s in track.segments), key=lambda s: (s.start_s, s.end_s))
    reasons = [kept.stored.error if kept.keeps_clips else "", _damage(read.end) if read.has_frames else ""]
    reasons += [problem for track in tracks.values() for problem in track.problems]
    lost = "; ".join(dict.fromkeys(filter(None, reasons)))
    coverage = {modality: track.coverage for modality, track in tracks.items()}
    if options.sampling.mode == "sparse":
        coverage[COARSE] = "preview only, without audio"
    return Indexed(UnitResult(clips, tuple(segments), coverage, lost), read.end, lost)


def decode(
    prepared: Prepared, plan: UnitPlan, options: Options, decoder: Decoder, extractions: Collection[Extraction]
) -> ReadEnd:
    """Give every extraction the frames and audio of its taps, decoded once; return the summary of the read.

    Without taps the file is not opened. Raises VideoError.
    """
    fed: dict[Tap, list[Extraction]] = {}
    for extraction in extractions:
        for tap in extraction.taps:
            fed.setdefault(tap, []).append(extraction)
    if not fed:
        return NOTHING_READ
    hears = any(isinstance(tap, AudioTap) for tap in fed)
    audio = prepared.audio.index if prepared.audio is not None and hears else None
    request = UnitRequest(tuple(fed), options.sampling, audio, time_share(prepared, plan))
    with closing(decode_unit(prepared.found.location.path, plan, request, decoder, may_be_empty=True)) as items:
        for item in items:
            if isinstance(item, ReadEnd):
                return item
            for extraction in fed[item.tap]:
                extraction.feed(item)
    raise RuntimeError("a read without an end")


def time_share(prepared: Prepared, plan: UnitPlan) -> float:
    """Return a unit's share of the processor time that its file may take, up to 1.

    Twice its share of the duration, as bit rates vary, and at least what a video of RATE_BYTES_S would need: a file
    with an endless duration has time for the units that it really has.
    """
    length_s, whole_s = plan.length_s(prepared.video), UnitPlan(0).length_s(prepared.video)
    if length_s >= whole_s or length_s <= 0:
        return 1.0
    return min(1.0, length_s * max(2 / whole_s, RATE_BYTES_S / max(1, prepared.video.size_bytes)))


def _damage(end: ReadEnd) -> str:
    """Return a description of the frames that could not be read, or ""."""
    if end.error or not end.damaged:
        return end.error
    if end.damaged > 1:
        return f"{end.damaged} damaged packets or frames were left out"
    return "a damaged packet or frame was left out"


# --- clips ----------------------------------------------------------------------------------------------------------


def _clips(prepared: Prepared, plan: UnitPlan, read: Read, kept: ReusableUnit) -> tuple[Clip, ...]:
    """Return a unit's clips: the stored ones, or those cut by the track with frames, without embeddings."""
    for track in read.tracks.values():
        if track.frames is not None:
            return _cut(prepared.video, plan, track.frames, track.vectors, read)
    return kept.stored.clips


def _cut(video: Video, plan: UnitPlan, record: FrameRecord, stored: FloatArray | None, read: Read) -> tuple[Clip, ...]:
    """stored: (n, dim), the vectors of the frames, stored with the clips; None without an image model."""
    if not record.times_s:
        return ()  # a part of a video without frames
    # The cosine of square roots of histograms is their Bhattacharyya coefficient (Kailath 1967).
    vectors = np.sqrt(record.histograms) if stored is None else stored
    times_s = np.asarray(record.times_s)
    start_s = plan.start_s if plan.start_s is not None else min(video.start_s, record.times_s[0])
    end_s = plan.end_s if plan.end_s is not None else _end_s(video, record, read)
    clips = []
    for span in cut_clips(vectors, record.histograms, times_s, start_s=start_s, end_s=end_s):
        frames = vectors[span.first : span.last]
        middle_s = float(times_s[span.first + int(np.argmax(frames @ unit(frames.mean(axis=0))))])
        clip = Clip(
            start_s=span.start_s,
            end_s=span.end_s,
            start_uncertainty_s=span.start_uncertainty_s,
            embeddings={},
            frame_vectors=frames if stored is not None else _NO_FRAMES,
            frame_times_s=times_s[span.first : span.last] if stored is not None else np.zeros(0),
            thumbnail=record.thumbnails.pick(span.start_s, span.end_s, middle_s),
        )
        clips.append(clip)
    return tuple(clips)


def _end_s(video: Video, record: FrameRecord, read: Read) -> float:
    """Return the end of the video: from its header, unless reading stopped early, or of what is heard after it."""
    last_s = max(read.end.last_s if read.end.last_s is not None else 0.0, record.times_s[-1])
    heard_s = [s.end_s for track in read.tracks.values() for s in track.segments if s.source == "asr"]
    return max(last_s if read.end.error else max(video.end_s, last_s), *heard_s, 0.0)


def counted_once(tracks: Mapping[ModalityName, Track]) -> dict[ModalityName, Track]:
    """Return the tracks, text on the picture without the windows that repeat what is said."""
    said = [s for m, track in tracks.items() if get_modality(m).origin == "audio" for s in track.segments]
    return {
        m: replace(track, windows=tuple(windows(unrepeated(track.segments, said))))
        if said and any(segment.box for segment in track.segments)
        else track
        for m, track in tracks.items()
    }


def _valid_vectors(kept: ReusableUnit, tracks: Mapping[ModalityName, Track]) -> frozenset[ModalityName]:
    """Return the modalities whose stored embeddings are of the same text as their tracks."""
    if not kept.keeps_clips:
        return frozenset()
    before = counted_once({modality: stored_track(kept.stored, modality) for modality in tracks})
    return frozenset(m for m, track in tracks.items() if m in kept.vectors and track.windows == before[m].windows)


# --- tracks to clips ------------------------------------------------------------------------------------------------


def stored_track(stored: UnitResult, modality: ModalityName) -> Track:
    """Return the track of a stored unit's text with times; of frames there is none, they lie in its clips."""
    segments = segments_of(stored.segments, modality)
    return Track(stored.coverage.get(modality, ""), segments, tuple(windows(segments)))


def segments_of(segments: Sequence[Segment], modality: ModalityName) -> tuple[Segment, ...]:
    """Return the segments of one modality."""
    return tuple(segment for segment in segments if segment.track == modality)


def with_embeddings(
    clips: Sequence[Clip],
    tracks: Mapping[ModalityName, Track],
    encoder: PassageEncoder | None,
    vectors: Collection[ModalityName] = (),
) -> tuple[Clip, ...]:
    """Return the clips with an embedding of every track that has one for them.

    vectors: modalities whose embeddings the clips have already. encoder: None if there is no text to be embedded.
    """
    bounds = [(clip.start_s, clip.end_s) for clip in clips]
    found = {m: clip_vectors(track, bounds, encoder) for m, track in tracks.items() if m not in vectors}
    result = []
    for n, clip in enumerate(clips):
        given = {m: found[m][n] if m in found else clip.embeddings.get(m) for m in tracks}
        result.append(replace(clip, embeddings={m: vector for m, vector in given.items() if vector is not None}))
    return tuple(result)


def clip_vectors(track: Track, clips: Bounds, encoder: PassageEncoder | None) -> list[FloatArray | None]:
    """Return for each clip the vector (dim,) of length 1 of a track; None where it has none.

    It is the mean of the vectors of frames, sounds or windows of text that describe the clip, see `overlapping`. What
    holds for the whole video counts as much as that mean.
    """
    vectors, spans = track.vectors, [(float(start_s), float(end_s)) for start_s, end_s in track.spans_s]
    if track.windows and encoder is not None:
        rows_of = {text: row for row, text in enumerate(dict.fromkeys(window.text for window in track.windows))}
        vectors = encoder.encode_passages(list(rows_of))[[rows_of[window.text] for window in track.windows]]
        spans = [(window.start_s, window.end_s) for window in track.windows]
    timed: list[FloatArray | None] = [None] * len(clips)
    if vectors is not None:
        timed = [unit(vectors[rows].mean(axis=0)) if rows else None for rows in overlapping(clips, spans)]
    if track.whole is None:
        return timed
    return [track.whole if vector is None else unit(np.asarray(track.whole + vector, np.float32)) for vector in timed]
