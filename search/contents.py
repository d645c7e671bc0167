"""What a library contains, read from a snapshot as the records of `results`: videos, transcripts, runs, its status."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vfindex.search.calibration.labels import META_KEY as CALIBRATION
from vfindex.search.calibration.labels import Calibration
from vfindex.search.query.filters import recorded_on
from vfindex.search.results import ClipInfo, Transcript, VideoInfo, VideoSummary
from vfindex.search.status import (
    FileProblem,
    IndexInfo,
    IndexSegmentInfo,
    ModalityConfidence,
    RecallInfo,
    RunInfo,
    Status,
    WeightingRecall,
)
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.db.runs import StoredRun, attempt_counts, attempts_of, last_run
from vfindex.storage.db.sources import stored_exclusions, stored_roots
from vfindex.storage.db.units import preview_videos
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import IndexUnusable, LibraryDamaged
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.labels import labels_of, labels_of_videos, probability_by_name
from vfindex.storage.library import Library, reading_hash
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, modality_names, spoken_modalities, usual_modalities
from vfindex.storage.records import SEARCHABLE, ClipKey
from vfindex.storage.settings_backup import lost_setup
from vfindex.storage.user.questions import keeps_questions, kept_count

if TYPE_CHECKING:
    from vfindex.storage.index.segment import IndexSegment
    from vfindex.storage.qdrant.index import OpenIndex

_STATES = ("indexed", "partial", "indexing", "failed", "quarantined", "vanished")
_STATES_WITH_PROBLEMS = ("partial", "failed", "quarantined")
# What follows where the index finds too little.
_NEXT = (
    "the next run raises the search parameters of the index, if it has the time; to build it anew now: vfindex rebuild"
)


def video_info(library: Library, snapshot: Snapshot, video: StoredVideo) -> VideoInfo:
    """Return all that the library knows of a video."""
    clips, segments = snapshot.clips_of(video.id), snapshot.segments(video.id)
    vectors = snapshot.vectors([clip.id for clip in clips])
    labels = labels_of(snapshot, [clip.id for clip in clips])
    return VideoInfo(
        video=_first_path(video),
        locations=tuple(place.path for place in video.locations),
        video_id=video.id,
        fingerprint=video.fingerprint,
        state=video.state,
        coarse=video.fingerprint in preview_videos(snapshot),
        added_run=video.added_run,
        problem=video.problem,
        attempts=tuple(attempts_of(snapshot, video.id)),
        title=video.title,
        tags=video.tags,
        chapters=video.chapters,
        container=video.container,
        codec=video.codec,
        width_px=video.width_px,
        height_px=video.height_px,
        rotation_deg=video.rotation_deg,
        start_s=video.start_s,
        first_pts_s=video.start_s,
        last_pts_s=video.last_s,
        end_s=video.end_s,
        duration_s=video.end_s - video.start_s,
        frames=video.frames,
        fps=video.fps,
        time_base=video.time_base,
        start_timecode=video.start_timecode,
        has_audio=video.has_audio,
        coverage=tuple(snapshot.coverage(video.id)),
        clips=tuple(
            ClipInfo(
                clip_id=clip.id,
                key=ClipKey(video.fingerprint, clip.start_ms),
                start_s=clip.start_s,
                end_s=clip.end_s,
                modalities=tuple(sorted(vectors[clip.id].embeddings)),
                frames=len(vectors[clip.id].frame_times_s),
                thumbnail=library.thumbnail(clip.thumbnail),
                labels=probability_by_name(labels.get(clip.id, {})),
            )
            for clip in clips
        ),
        transcript=tuple(segment for segment in segments if segment.track in spoken_modalities()),
        other_text=tuple(segment for segment in segments if segment.track not in spoken_modalities()),
        labels=probability_by_name(labels_of_videos(snapshot, [video.id]).get(video.id, {})),
    )


def transcript_of(snapshot: Snapshot, video: StoredVideo, tracks: Collection[ModalityName]) -> Transcript:
    """Return the text with times of a video, of these tracks."""
    segments = tuple(segment for segment in snapshot.segments(video.id) if segment.track in tracks)
    return Transcript(_first_path(video), video.id, video.fingerprint, segments)


def _first_path(video: StoredVideo) -> bytes | None:
    return video.locations[0].path if video.locations else None


def summaries(snapshot: Snapshot, ids: Sequence[int]) -> list[VideoSummary]:
    """Return the rows of some videos, in the order of `ids`; videos deleted meanwhile are left out."""
    videos = {video.id: video for video in snapshot.videos(ids)}
    clips, languages = snapshot.clip_counts(ids), snapshot.languages_of(ids)
    labels = labels_of_videos(snapshot, ids)
    rows = []
    for video in (videos[id_] for id_ in ids if id_ in videos):
        day, counts = recorded_on(video.tags, video.locations), clips.get(video.id, {})
        rows.append(
            VideoSummary(
                video=_first_path(video),
                video_id=video.id,
                fingerprint=video.fingerprint,
                copies=len(video.locations),
                title=video.title,
                state=video.state,
                added_run=video.added_run,
                day=day.isoformat() if day else None,
                duration_s=video.end_s - video.start_s,
                languages=tuple(languages.get(video.id, ())),
                clips=counts.get("", 0),
                clips_with={m: counts.get(m, 0) for m in modality_names()},
                labels=probability_by_name(labels.get(video.id, {})),
            )
        )
    return rows


def run_info(run: StoredRun) -> RunInfo:
    return RunInfo(run.id, run.id, run.command, run.started_at, run.finished_at, run.report, run.progress)


def status_of(folder: Path, library: Library, snapshot: Snapshot) -> Status:
    """Return the status of the library in `folder`: counts, models, index, calibration, problems."""
    counts, searchable = snapshot.counts(), snapshot.searchable_counts()
    meta, generation, videos = LibraryMeta(snapshot), snapshot.generation(), snapshot.videos()
    last, setup, form = last_run(snapshot), meta.setup, meta.fusion.form
    index, problem = _index(library, snapshot, generation)
    return Status(
        library=folder,
        preset=setup.preset if setup else None,
        sampling=setup.sampling if setup else None,
        setup_problem=_words(lost_setup(snapshot, library.folder)),
        models=dict(setup.references) if setup else {},
        lacks=tuple(m for m in usual_modalities() if setup and m not in setup.models),
        videos=sum(counts.get(state, 0) for state in SEARCHABLE),
        coarse=len(preview_videos(snapshot)),
        locations=counts["location"],
        states={state: counts.get(state, 0) for state in _STATES},
        clips=searchable["clip"],
        segments=searchable["segment"],
        clips_with={m: searchable.get(m, 0) for m in modality_names()},
        video_seconds=round(sum(v.end_s - v.start_s for v in videos if v.state in SEARCHABLE), 3),
        confidence=_calibration(snapshot.get(CALIBRATION)) if form == "concat" else None,
        fusion=form,
        spec=reading_hash(snapshot, library.folder) if setup else None,
        spec_is_shared=meta.shares_spec,
        generation=generation.id if generation and not problem else None,
        clips_in_generation=generation.clips if generation and not problem else 0,
        index_problem=problem,
        index=None if index is None else _index_info(library, snapshot, index),
        roots=tuple(root.path for root in stored_roots(snapshot)),
        removed=tuple(stored_exclusions(snapshot)),
        problems=_problems(videos, snapshot),
        last_run=None if last is None else run_info(last),
    )


def _words(fault: LibraryDamaged | None) -> str | None:
    return None if fault is None else str(fault)


def _problems(videos: Sequence[StoredVideo], snapshot: Snapshot) -> tuple[FileProblem, ...]:
    attempts = attempt_counts(snapshot)
    wrong = [(video, video.problem or {}) for video in videos if video.state in _STATES_WITH_PROBLEMS]
    return tuple(
        FileProblem(
            path=place.path,
            state=video.state,
            stage=problem.get("stage"),
            code=problem.get("code"),
            reason=problem.get("reason"),
            next=problem.get("next"),
            version=problem.get("version"),
            attempts=attempts.get(video.id, 1),
        )
        for video, problem in wrong
        for place in video.locations
    )


def _index(library: Library, snapshot: Snapshot, generation: Generation | None) -> tuple[OpenIndex | None, str | None]:
    """Return the joint index, None before the first is published; and why searches cannot use it, None if they do."""
    try:
        if generation is None:
            return None, None
        opened = library.open_index(generation)
        opened.within(snapshot, generation.spec)
        return opened, None
    except IndexUnusable as exc:
        return None, str(exc)


def _calibration(stored: str | None) -> dict[ModalityName, ModalityConfidence] | None:
    """Return modality -> its calibration, None before the library is calibrated."""
    calibration = Calibration.from_json(stored)
    if calibration is None:
        return None
    return {
        m: ModalityConfidence(of.is_reliable, of.auc, of.known, of.reason()) for m, of in calibration.modalities.items()
    }


def _index_info(library: Library, snapshot: Snapshot, index: OpenIndex) -> IndexInfo:
    """Return what the index in use consists of. snapshot: of the state that has it."""
    from vfindex.storage.index.merging import due_merges  # what no search needs
    from vfindex.storage.qdrant.collection import BUILT_IN, QDRANT

    generation = snapshot.generation()
    files = [] if generation is None else library.index_files(generation.stored)
    size_bytes = sum(file.size_bytes for file in files)
    if not isinstance(index, JointIndex):
        return IndexInfo(f"{QDRANT}{index.facts.url}", (), len(index), 0, size_bytes, 0, 0, None)
    merges = due_merges(index.segments)
    return IndexInfo(
        place=BUILT_IN,
        segments=tuple(map(_segment, index.segments)),
        clips=len(index),
        deleted=sum(len(each.dead) for each in index.segments),
        bytes=size_bytes,
        pending_merges=len(merges),
        pending_clips=sum(map(len, merges[0])) if merges else 0,
        recall=None if index.is_exact else _recall(library, snapshot),
    )


def _segment(part: IndexSegment) -> IndexSegmentInfo:
    return IndexSegmentInfo(
        clips=len(part),
        deleted=len(part.dead),
        bytes=0 if part.file is None else part.file.size_bytes,
        search="exact" if part.codes is None else "raised" if part.is_raised else "tuned",
    )


def _recall(library: Library, snapshot: Snapshot) -> RecallInfo:
    from vfindex.storage.index.live_recall import LEAST_LIVE, META_KEY, LiveRecall, Measured

    record = LiveRecall.from_json(snapshot.get(META_KEY)).since(datetime.now(UTC).date())
    every, days = Measured.of(record.tallies), [each.day for each in record.tallies]
    return RecallInfo(
        least=LEAST_LIVE,
        questions=0 if every is None else every.questions,
        recall=None if every is None else round(every.recall, 4),
        low=None if every is None else round(every.low, 4),
        high=None if every is None else round(every.high, 4),
        since=min(days, default=None),
        until=max(days, default=None),
        weightings=tuple(
            WeightingRecall(
                weighting=weighting,
                filtered=filtered,
                questions=each.questions,
                recall=round(each.recall, 4),
                low=round(each.low, 4),
                high=round(each.high, 4),
                is_low=each.is_low,
            )
            for (weighting, filtered), each in record.by_weighting().items()
        ),
        raised=record.raised,
        is_low=record.is_low,
        next=_NEXT if record.is_low else None,
        kept=kept_count(library.folder),
        keeps=keeps_questions(library.root),
    )
