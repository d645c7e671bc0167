"""Parts of the old version that an upgrade reuses: clips, frame vectors, thumbnails and transcripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vfindex.indexer.extractors.metadata_text import describe, documents_of
from vfindex.indexer.models.base import PassageEncoder
from vfindex.indexer.models.presets import models_of
from vfindex.indexer.pipeline.prepare import text_vector
from vfindex.indexer.pipeline.reuse import ReusableUnit, with_words
from vfindex.indexer.pipeline.stages import begins_in, speech_vectors
from vfindex.storage.db.units import StoredUnit, committed_plans, stored_unit
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import Problem
from vfindex.storage.library import Library
from vfindex.storage.records import Clip, FloatArray, Setup, UnitPlan, UnitResult
from vfindex.storage.writer import Writer


@dataclass(frozen=True, slots=True)
class Reuse:
    """The parts of a library that stay valid under a new setup.

    pictures: clips, frame vectors and thumbnails. transcript: recognised segments. sentences: speech and text vectors.
    """

    pictures: bool
    transcript: bool
    sentences: bool

    @classmethod
    def between(cls, old: Setup, new: Setup) -> Reuse:
        """Return the parts of a library made with `old` that stay valid under `new`."""
        return cls(
            pictures=old.sampling == new.sampling and old.models["visual"] == new.models["visual"],
            transcript=models_of(old)["speech"] == models_of(new)["speech"],
            sentences=all(old.models[m] == new.models[m] for m in ("speech", "text")),
        )


class VideoCopier:
    """Copies videos from one version into another without opening their files, and resumes interrupted ones.

    text: the new version's text model; None: the speech and text vectors stay valid.
    """

    def __init__(self, old: Library, writer: Writer, text: PassageEncoder | None) -> None:
        self._old = old
        self._writer = writer
        self._text = text

    def copy(self, video: StoredVideo, *, recognised: bool) -> bool:
        """Copy a searchable video with all its locations, unit by unit; return False if it has just been removed."""
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
        """Return the id of the video in the new version, resumed or new."""
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
        return with_words(unit.clips, spoken, words)


class StoredVideos:
    """Videos of the old version that are indexed again, and the valid parts of their units.

    decoded, heard, kept: fingerprints of the videos whose frames are decoded, of those of which only audio is decoded,
    and of the decoded ones that keep their transcript.
    """

    def __init__(self, old: Library, videos: Mapping[str, StoredVideo], reuse: Reuse) -> None:
        """videos: by fingerprint, those with a valid part."""
        self._old = old
        self._videos = videos
        self._reuse = reuse
        self.decoded: set[str] = set()
        self.heard: set[str] = set()
        self.kept: set[str] = set()

    def plans(self, fingerprint: str) -> tuple[UnitPlan, ...]:
        """Return the units that a video was cut into, by the rule of its time; () for a video without parts to keep."""
        video = self._videos.get(fingerprint)
        if video is None:
            return ()
        with self._old.snapshot() as snapshot:
            return committed_plans(snapshot, video.id)

    def unit(self, fingerprint: str, plan: UnitPlan) -> ReusableUnit | None:
        """Return the valid part of a unit, None if all of it must be computed."""
        video = self._videos.get(fingerprint)
        reusable = self._reusable(video, plan) if video else None
        if reusable is not None and reusable.keeps == "frames":
            self.heard.add(fingerprint)
            return reusable
        self.decoded.add(fingerprint)
        if reusable is not None:
            self.kept.add(fingerprint)
        return reusable

    def _reusable(self, video: StoredVideo, plan: UnitPlan) -> ReusableUnit | None:
        """Return None for a unit with another span, or with an incomplete transcript."""
        with self._old.snapshot() as snapshot:
            if plan not in committed_plans(snapshot, video.id):
                return None
            found = stored_unit(snapshot, video.id, plan)
            said = [s for s in snapshot.segments(video.id) if begins_in(s, plan)]
        if self._reuse.pictures:
            return ReusableUnit(replace(found.result, clips=self._with_thumbnails(found)), "frames")
        if found.result.error:
            return None
        return ReusableUnit(UnitResult((), tuple(said), found.result.coverage), "transcript")

    def _with_thumbnails(self, unit: StoredUnit) -> tuple[Clip, ...]:
        paths = [self._old.thumbnail(name) for name in unit.thumbnails]
        pairs = zip(unit.result.clips, paths, strict=True)
        return tuple(replace(clip, thumbnail=path.read_bytes() if path else None) for clip, path in pairs)


def stored_problem(video: StoredVideo) -> Problem | None:
    """Return why a stored video failed or is partial; None if it is complete."""
    if video.problem is None or not video.locations:
        return None
    stored = video.problem
    return Problem(video.locations[0].path, stored["stage"], stored["code"], stored["reason"], stored["next"])  # type: ignore[arg-type]
