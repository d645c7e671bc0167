"""Parts of the old version that an upgrade reuses: clips, frame vectors, thumbnails and transcripts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from vfindex.indexer.extractors import text
from vfindex.indexer.extractors.base import Known
from vfindex.indexer.models.base import PassageEncoder
from vfindex.indexer.models.presets import models_of
from vfindex.indexer.pipeline.prepare import embedded
from vfindex.indexer.pipeline.stages import ReusableUnit, counted_once, stored_track, with_embeddings
from vfindex.storage.db.units import StoredUnit, committed_plans, stored_unit
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import Problem
from vfindex.storage.library import Library
from vfindex.storage.modalities import (
    Modality,
    ModalityName,
    Origin,
    frame_modality,
    get_modality,
    modality_names,
    switches,
)
from vfindex.storage.records import Clip, Setup, UnitPlan, UnitResult
from vfindex.storage.writer import Writer


@dataclass(frozen=True, slots=True)
class Reuse:
    """The modalities of a new setup that the videos of a library have already.

    modalities: of the new setup. stored: those that the library has at all. tracks: those of them extracted alike.
    vectors: those of them embedded alike, so that embeddings stay valid unless they are extracted again.
    """

    modalities: tuple[ModalityName, ...]
    stored: frozenset[ModalityName]
    tracks: frozenset[ModalityName]
    vectors: frozenset[ModalityName]

    @classmethod
    def between(cls, old: Setup, new: Setup) -> Reuse:
        """Return the modalities of a library made with `old` that stay valid under `new`."""
        modalities = tuple(m for m in modality_names() if m in new.models)
        stored = frozenset(m for m in modalities if m in old.models)
        tracks = frozenset(m for m in stored if _is_extracted_alike(get_modality(m), old, new))
        if frame_modality() not in tracks:  # new clips need vectors of their own, and windows of sound are not stored
            tracks = frozenset(m for m in tracks if get_modality(m).has_words)
        return cls(modalities, stored, tracks, frozenset(m for m in stored if old.models[m] == new.models[m]))

    @property
    def keeps_clips(self) -> bool:
        return frame_modality() in self.tracks

    @property
    def embeds_nothing(self) -> bool:
        """Whether every stored text has its vectors."""
        return self.vectors.issuperset(self.modalities)

    def held(self, idle: Collection[ModalityName], unread: Collection[ModalityName]) -> frozenset[ModalityName]:
        """Return the modalities that need not be extracted again of a video.

        idle: those that are not extracted from it, so that what is stored is kept; where nothing is, its coverage says
        so, see `left_out`. unread: those that were not extracted from it before.
        """
        kept = {m for m in self.tracks if m not in unread}
        return frozenset(m for m in self.modalities if m in kept or (m in idle and (m in self.stored or left_out(m))))

    def lacks(self, held: frozenset[ModalityName], origin: Origin) -> bool:
        """Return whether a modality of this origin must be extracted, beyond those that a video has."""
        return any(get_modality(m).origin == origin for m in self.modalities if m not in held)


def left_out(modality: ModalityName) -> str:
    """Return the coverage of units that lack a modality because runs leave it out, "" if its extractor says it."""
    return switches()[modality].coverage if modality in switches() else ""


def _is_extracted_alike(modality: Modality, old: Setup, new: Setup) -> bool:
    if modality.origin == "frames" and old.sampling != new.sampling:
        return False
    if modality.recogniser is not None and models_of(old).get(modality.recogniser) != models_of(new).get(
        modality.recogniser
    ):
        return False
    return modality.has_words or old.models[modality.name] == new.models[modality.name]


class VideoCopier:
    """Copies videos from one version into another without opening their files, and resumes interrupted ones.

    encoder: the new model version's text model; None: the vectors of all text stay valid.
    """

    def __init__(self, old: Library, writer: Writer, reuse: Reuse, encoder: PassageEncoder | None) -> None:
        self._old = old
        self._writer = writer
        self._reuse = reuse
        self._encoder = encoder

    def copy(self, video: StoredVideo, *, recognised: bool) -> bool:
        """Copy a searchable video with all its locations, unit by unit; return False if it has just been removed."""
        catalog, paths = self._writer.catalog, [place.path for place in video.locations]
        known = text.text_of(paths, video.tags, video.chapters)
        known = embedded(known, self._encoder) if self._encoder else known
        new = [get_modality(m) for m in self._reuse.modalities if m not in self._reuse.stored and left_out(m)]
        idle = {each.name: left_out(each.name) for each in new if video.has_audio or each.origin != "audio"}
        with self._old.snapshot() as snapshot:
            plans = committed_plans(snapshot, video.id)
            if not plans:
                return False
            video_id = self._begun(video, plans, recognised)
            for unit_id, plan in catalog.pending_units(video_id):
                unit = stored_unit(snapshot, video.id, plan)
                self._writer.link_thumbnails(self._old, filter(None, unit.thumbnails))
                result = self._renewed(unit.result, known, plan)
                result = replace(result, coverage={**idle, **result.coverage})
                catalog.commit_unit(video_id, unit_id, result, unit.thumbnails)
        catalog.finish_video(video_id, video.locations[0], known.documents, problem=stored_problem(video))
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
        return catalog.begin_video(video, plans, recognised=recognised, path=path, added_run=video.added_run)

    def _renewed(self, unit: UnitResult, known: Known, plan: UnitPlan) -> UnitResult:
        """Return a unit with the modalities of the new model version, text embedded anew where the model is another."""
        modalities = self._reuse.modalities
        tracks = {
            m: text.text_track(known, plan) if get_modality(m).origin == "metadata" else stored_track(unit, m)
            for m in modalities
        }
        clips = with_embeddings(unit.clips, counted_once(tracks), self._encoder, self._reuse.vectors)
        segments = tuple(segment for segment in unit.segments if segment.track in modalities)
        return replace(unit, clips=clips, segments=segments)


class StoredVideos:
    """Videos of the old version that are indexed again, and the valid parts of their units.

    decoded, heard, kept: fingerprints of the videos whose frames are decoded, of those of which only audio is decoded,
    and of the decoded ones that keep recognised text.
    """

    def __init__(
        self, old: Library, videos: Mapping[str, StoredVideo], held: Mapping[str, frozenset[ModalityName]], reuse: Reuse
    ) -> None:
        """videos: by fingerprint, those with a valid part. held: by fingerprint, their modalities that stay valid."""
        self._old = old
        self._videos = videos
        self._held = held
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
        held = self._held[fingerprint] if reusable is not None else frozenset()
        if self._reuse.lacks(held, "frames"):
            self.decoded.add(fingerprint)
            if any(get_modality(m).recogniser is not None for m in held):
                self.kept.add(fingerprint)
        elif self._reuse.lacks(held, "audio"):
            self.heard.add(fingerprint)
        return reusable

    def _reusable(self, video: StoredVideo, plan: UnitPlan) -> ReusableUnit | None:
        """Return the parts that stay valid; None for a unit with another span, or cut anew after a loss."""
        with self._old.snapshot() as snapshot:
            if plan not in committed_plans(snapshot, video.id):
                return None
            found = stored_unit(snapshot, video.id, plan)
        held = self._held[video.fingerprint] & self._reuse.stored
        tracks = frozenset(m for m in held if get_modality(m).origin != "metadata")
        if self._reuse.keeps_clips:
            stored = replace(found.result, clips=self._with_thumbnails(found))
            return ReusableUnit(stored, tracks, tracks & self._reuse.vectors)
        if found.result.error:
            return None
        return ReusableUnit(replace(found.result, clips=()), tracks, frozenset())

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
