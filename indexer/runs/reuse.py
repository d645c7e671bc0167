"""What an upgrade need not do again: clips, frame vectors, thumbnails and transcripts of the edition before."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace

from vfindex.indexer.media.audio_tracks import lost_sound
from vfindex.indexer.media.decoder import AudioBlock, Decoder, ReadEnd
from vfindex.indexer.models.base import Encoders, PassageEncoder
from vfindex.indexer.models.factory import references_of
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.metadata_text import describe, documents_of
from vfindex.indexer.pipeline.stages import (
    Indexed,
    Prepared,
    embeddings_of,
    index_unit,
    listener_of,
    prepare,
    sound_track,
    speech_coverage,
    speech_vectors,
    text_vector,
    time_share,
    with_sidecars,
)
from vfindex.indexer.pipeline.unit_reader import Wanted, items_of
from vfindex.indexer.runners.local import LocalRunner
from vfindex.indexer.scan.walk import Found
from vfindex.indexer.speech.transcribe import Speech, Transcript
from vfindex.storage.db.units import StoredUnit, committed_plans, stored_unit
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import Problem
from vfindex.storage.library import Library
from vfindex.storage.records import Clip, FloatArray, Segment, Setup, UnitPlan, UnitResult
from vfindex.storage.writer import Writer


@dataclass(frozen=True, slots=True)
class Reuse:
    """What still holds under a new setup.

    pictures: clips, frame vectors and thumbnails. transcript: what was recognised. sentences: vectors of speech and
    text.
    """

    pictures: bool
    transcript: bool
    sentences: bool

    @classmethod
    def between(cls, old: Setup, new: Setup) -> Reuse:
        """Return what of a library made with `old` holds under `new`."""
        return cls(
            pictures=old.sampling == new.sampling and old.models["visual"] == new.models["visual"],
            transcript=references_of(old)["speech"] == references_of(new)["speech"],
            sentences=all(old.models[m] == new.models[m] for m in ("speech", "text")),
        )


class TakeOver:
    """Takes videos over from one edition into another without opening their files, and carries on where it broke off.

    text: the new edition's model of sentences; None: the old one's vectors of speech and text hold.
    """

    def __init__(self, old: Library, writer: Writer, text: PassageEncoder | None) -> None:
        self._old = old
        self._writer = writer
        self._text = text

    def video(self, video: StoredVideo, *, recognised: bool) -> bool:
        """Take a searchable video over, unit by unit, to all its places; return False if it has just been removed."""
        catalog, paths = self._writer.catalog, [place.path for place in video.locations]
        title = describe(paths[0], video.tags, video.chapters)
        words = text_vector(title.text, self._text) if self._text else None
        with self._old.snapshot() as snapshot:
            plans = committed_plans(snapshot, video.id)
            if not plans:
                return False
            video_id = self._begun(video, plans, recognised)
            for unit_id, plan in catalog.pending_units(video_id):
                unit = stored_unit(snapshot, video.id, plan)
                self._writer.link_thumbnails(self._old, filter(None, unit.thumbnails))
                result = replace(unit.result, clips=self._with_words(unit.result, words))
                catalog.commit_unit(video_id, unit_id, result, unit.thumbnails)
        documents = documents_of(paths, video.tags, video.chapters)
        catalog.finish_video(video_id, video.locations[0], documents, problem=stored_problem(video))
        for place in video.locations[1:]:
            catalog.place(video_id, place)
        return True

    def _begun(self, video: StoredVideo, plans: tuple[UnitPlan, ...], recognised: bool) -> int:
        """Return the id of the video in the new edition, begun earlier or now."""
        catalog = self._writer.catalog
        found = catalog.find(video.fingerprint)
        begun = found is not None and found[1:] == ("indexing", recognised)
        if found is not None and begun and {plan for _, plan in catalog.pending_units(found[0])} <= set(plans):
            return found[0]
        path = next((place.path for place in video.locations), None)
        return catalog.begin_video(video, plans, recognised=recognised, path=path)

    def _with_words(self, unit: UnitResult, words: FloatArray | None) -> tuple[Clip, ...]:
        if self._text is None:
            return unit.clips
        spoken = speech_vectors([(c.start_s, c.end_s) for c in unit.clips], unit.segments, self._text)
        return tuple(_spoken(clip, said, words) for clip, said in zip(unit.clips, spoken, strict=True))


@dataclass(frozen=True, slots=True)
class Stored:
    """Videos of another edition, by fingerprint, and what of each of them holds."""

    old: Library
    videos: Mapping[str, StoredVideo]
    reuse: Reuse

    def unit(self, video: StoredVideo, plan: UnitPlan) -> StoredUnit | None:
        """Return a unit as it was committed; None where it was planned otherwise, or its transcript was not whole."""
        with self.old.snapshot() as snapshot:
            if plan not in committed_plans(snapshot, video.id):
                return None
            found = stored_unit(snapshot, video.id, plan)
        return None if found.result.error and not self.reuse.pictures else found

    def plans(self, video: StoredVideo) -> tuple[UnitPlan, ...]:
        """Return the units that a video was cut into, by whichever rule held then."""
        with self.old.snapshot() as snapshot:
            return committed_plans(snapshot, video.id)

    def transcript(self, video: StoredVideo) -> tuple[Segment, ...]:
        """Return all that is said in a video, by every source."""
        with self.old.snapshot() as snapshot:
            return tuple(snapshot.segments(video.id))


class ReusingRunner(LocalRunner):
    """Indexes videos that another edition has, and does again only what no longer holds.

    decoded, heard, kept: fingerprints of the videos whose frames were read, whose sound alone was, and of those among
    the first that kept a transcript.
    """

    def __init__(self, workers: int, encoders: Encoders, stored: Stored) -> None:
        super().__init__(workers, encoders)
        self._stored = stored
        self.decoded: set[str] = set()
        self.heard: set[str] = set()
        self.kept: set[str] = set()

    def prepare(self, found: Found, fingerprint: str, options: Options) -> Future[Prepared]:
        """Return the future of a file that is cut as it was cut before."""
        return self._threads.submit(lambda decoder: self._prepare(found, fingerprint, options, decoder))

    def _prepare(self, found: Found, fingerprint: str, options: Options, decoder: Decoder) -> Prepared:
        prepared = prepare(found, fingerprint, options, decoder, self._encoders)
        video = self._stored.videos.get(fingerprint)
        plans = self._stored.plans(video) if video else ()
        return replace(prepared, units=plans) if plans else prepared

    def index(self, prepared: Prepared, plan: UnitPlan, options: Options) -> Future[Indexed]:
        """Return the future of one unit's result."""
        return self._threads.submit(lambda decoder: self._index(prepared, plan, options, decoder))

    def _index(self, prepared: Prepared, plan: UnitPlan, options: Options, decoder: Decoder) -> Indexed:
        fingerprint = prepared.video.fingerprint
        video = self._stored.videos.get(fingerprint)
        unit = self._stored.unit(video, plan) if video else None
        if unit is not None and self._stored.reuse.pictures:
            self.heard.add(fingerprint)
            return self._hear(prepared, unit, options, decoder)
        self.decoded.add(fingerprint)
        if video is None or unit is None:
            return index_unit(prepared, plan, options, decoder, self._encoders)
        self.kept.add(fingerprint)
        told = replace(prepared, subtitles=self._stored.transcript(video))
        indexed = index_unit(told, plan, replace(options, asr=False), decoder, self._encoders)
        coverage = {**indexed.result.coverage, "speech": unit.result.coverage.get("speech", "")}
        return replace(indexed, result=replace(indexed.result, coverage=coverage))

    def _hear(self, prepared: Prepared, unit: StoredUnit, options: Options, decoder: Decoder) -> Indexed:
        """Recognise a unit's sound by the new model; its pictures hold, and no frame is decoded."""
        subtitles = [segment for segment in unit.result.segments if segment.source != "asr"]
        end, heard = listen(prepared, unit.plan, options, decoder, self._encoders.speech)
        said = [*subtitles, *(heard.segments if heard else ())]
        segments = sorted(said, key=lambda s: (s.start_s, s.end_s))
        clips = unit.result.clips
        spoken = speech_vectors([(c.start_s, c.end_s) for c in clips], segments, self._encoders.text)
        pictures = [self._stored.old.thumbnail(name) for name in unit.thumbnails]
        new = [
            replace(_spoken(clip, vector, prepared.text_vector), thumbnail=path.read_bytes() if path else None)
            for clip, vector, path in zip(clips, spoken, pictures, strict=True)
        ]
        speech = speech_coverage(prepared.unheard, options.asr, segments, heard)
        coverage = {**unit.result.coverage, "speech": with_sidecars(speech, prepared, unit.plan)}
        told = [unit.result.error, lost_sound(end.audio_packets, end.damaged_audio), *(heard.problems if heard else ())]
        lost = "; ".join(dict.fromkeys(filter(None, told)))
        return Indexed(UnitResult(tuple(new), tuple(segments), coverage, lost), end, lost)


def listen(
    prepared: Prepared, plan: UnitPlan, options: Options, decoder: Decoder, speech: Speech | None
) -> tuple[ReadEnd, Transcript | None]:
    """Return how the reading of a unit's sound ended, and what is said in it where no subtitle covers it.

    No frame is read. None for the second where nothing is to be recognised. Raises VideoError.
    """
    end = ReadEnd(0, None, None, 0, 0, "")
    listener = listener_of(prepared, options, speech)
    if listener is None:
        return end, None
    wanted = Wanted(None, 1, sound_track(prepared, options), share=time_share(prepared, plan))
    with closing(items_of(prepared.found.location.path, plan, wanted, decoder)) as items:
        for item in items:
            if isinstance(item, AudioBlock):
                listener.feed(item)
            elif isinstance(item, ReadEnd):
                end = item
    return end, listener.finish()


def stored_problem(video: StoredVideo) -> Problem | None:
    """Return why a stored video is not indexed, or not wholly; None where it is."""
    if video.problem is None or not video.locations:
        return None
    told = video.problem
    return Problem(video.locations[0].path, told["stage"], told["code"], told["reason"], told["next"])  # type: ignore[arg-type]


def _spoken(clip: Clip, speech: FloatArray | None, text: FloatArray | None) -> Clip:
    """Return a clip with other vectors of speech and text; None: it has none."""
    return replace(clip, embeddings=embeddings_of(clip.embeddings["visual"], speech, text))
