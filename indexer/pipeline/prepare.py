"""A video before its units are decoded: probe, what each modality knows of it, and the plan of its units."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from vfindex.indexer.extractors.base import Known, Unit
from vfindex.indexer.extractors.metadata_text import describe
from vfindex.indexer.extractors.registry import EXTRACTORS
from vfindex.indexer.extractors.source import VideoSource
from vfindex.indexer.media.answers import AudioTrack, Probe
from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.media.protocol import MAX_ITEMS
from vfindex.indexer.models.base import Encoders, PassageEncoder, Texts
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.ytdlp import Info, read_info
from vfindex.indexer.scan.walk import Found
from vfindex.indexer.speech.audio_tracks import choose_track
from vfindex.storage.errors import Problem, counted
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import Chapter, Document, UnitPlan, Video

# A longer video is cut into units: a crash then costs minutes, and a unit bounds memory. 10 minutes at 1 frame/s are
# 600 vectors, and 52 MB of thumbnails.
UNIT_S = 600.0
# A last unit shorter than half a unit joins the one before it.
MIN_LAST_UNIT_S = UNIT_S / 2
# A week of video. A longer one, or a file with a wrong length, has a longer last unit.
MAX_CUTS = 1000


@dataclass(frozen=True, slots=True)
class Prepared:
    """A video before its units are decoded: its metadata, what each modality knows of it, and the plan of its units.

    problems: sidecars that could not be read. notes: other remarks on sidecars and subtitle tracks for the report.
    clock_s: when the container starts, as in Probe. audio: the audio track that is read, None if none can be decoded.
    """

    found: Found
    video: Video
    units: tuple[UnitPlan, ...]
    known: Mapping[ModalityName, Known]
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    clock_s: float = 0.0
    audio: AudioTrack | None = None

    @property
    def documents(self) -> tuple[Document, ...]:
        return tuple(document for known in self.known.values() for document in known.documents)

    def unit(self, plan: UnitPlan, options: Options, modality: ModalityName) -> Unit:
        """Return a unit to extract a modality from."""
        return Unit(self.video, plan, options, self.known.get(modality, Known()), self.audio)


def prepare(
    found: Found,
    fingerprint: str,
    options: Options,
    decoder: Decoder,
    encoders: Encoders | Texts,
    header: Probe | None = None,
) -> Prepared:
    """Return what is known of a file, and its plan; no frame is decoded. Raises VideoError.

    header: of the file, if it has been read already.
    """
    path = found.location.path
    probe = header or decoder.probe(path)
    info = read_info(path, found.sidecar_candidates, probe.end_s - probe.clock_s)
    tags = {**info.tags, **{name: text for name, text in probe.tags.items() if name.lower() not in info.tags}}
    chapters = _chapters_of(probe, info)
    audio = choose_track(probe.audio, options.languages)
    source = VideoSource(found, probe, tags, chapters, audio, options, decoder)
    known = {m: embedded(EXTRACTORS[m].known(source), encoders.text) for m in encoders.modalities}
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
        title=describe(path, tags, chapters).title,
        tags=tags,
        chapters=chapters,
        fps=probe.fps,
        time_base=probe.time_base,
        start_timecode=probe.start_timecode,
    )
    problems = [problem for each in known.values() for problem in each.problems]
    return Prepared(
        found=found,
        video=video,
        units=plan_units(probe.start_s, probe.end_s, list if options.safe else partial(decoder.keyframes_before, path)),
        known=known,
        problems=(*problems, *([info.problem] if info.problem else [])),
        notes=(*(note for each in known.values() for note in each.notes), *_chapters_left(path, probe, info)),
        clock_s=probe.clock_s,
        audio=audio,
    )


def embedded(known: Known, encoder: PassageEncoder) -> Known:
    """Return what is known with the vector of its text for the whole video."""
    return replace(known, vector=encoder.encode_passages([known.text])[0]) if known.text else known


def _chapters_of(probe: Probe, info: Info) -> tuple[Chapter, ...]:
    """Return the chapters of a file, else of its `.info.json`; one without a part of the video has no times."""
    if probe.chapters:
        return tuple(_within(chapter, 0.0, probe.end_s) for chapter in ended(probe.chapters, probe.end_s))
    return tuple(_within(chapter, probe.clock_s, probe.end_s) for chapter in info.chapters)


def _chapters_left(path: bytes, probe: Probe, info: Info) -> Iterator[Problem]:
    """Yield a note on the chapters that are left out because there are too many."""
    left = probe.chapters_left if probe.chapters else info.chapters_left
    if left:
        reason = f"{counted(left, 'chapter')} after the first {MAX_ITEMS} left out"
        yield Problem(path, "probe", "chapters", reason, "nothing to do; its other text is found")


def ended(chapters: Sequence[Chapter], end_s: float) -> Iterator[Chapter]:
    """Yield chapters; one without length is a mark, and lasts until the next one begins. end_s: of the video."""
    starts = sorted(chapter.start_s for chapter in chapters if chapter.start_s is not None)
    for chapter in chapters:
        if chapter.start_s is not None and chapter.start_s == chapter.end_s:
            later = starts[bisect_right(starts, chapter.start_s) :]
            yield replace(chapter, end_s=min([*later[:1], max(end_s, chapter.start_s)]))
        else:
            yield chapter


def _within(chapter: Chapter, clock_s: float, end_s: float) -> Chapter:
    if chapter.start_s is None or chapter.end_s is None:
        return chapter
    start_s, stop_s = max(0.0, chapter.start_s + clock_s), min(chapter.end_s + clock_s, end_s)
    return Chapter(chapter.title, start_s, stop_s) if start_s < stop_s else Chapter(chapter.title)


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
