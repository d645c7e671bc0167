"""The same footage in several files: whole copies, re-encodes, excerpts, shared intros, and what could be deleted.

The nearest clips of other videos vote for pairs and offsets in time (candidates.py); these are examined frame by frame
(alignment.py). Nothing is ever deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from vfindex.search.live import LiveLibrary, require_videos
from vfindex.search.query.ast import Filters, Query
from vfindex.search.query.filters import filtered, path_passes
from vfindex.search.query.request import Request
from vfindex.search.rank.delta import View
from vfindex.search.results import Record
from vfindex.search.understanding.alignment import STEP_S, TOLERANCE_S, Frames, Run, align, least_evidence
from vfindex.search.understanding.candidates import (
    CLIPS_A_VIDEO,
    MOST_OFFSETS,
    Votes,
    asked_rows,
    candidates,
    clips_of,
    neighbours,
)
from vfindex.search.understanding.copies import Member, Speech, joined, same_speech
from vfindex.search.understanding.vectors import check_modality, comparison_vectors
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import QueryError
from vfindex.storage.ids import spread
from vfindex.storage.modalities import ModalityName, frame_modality, spoken_modalities
from vfindex.storage.records import FloatArray

# Videos whose frames give the similarity that 90 % of unrelated frames do not reach, and frames of each.
SAMPLE_VIDEOS, SAMPLE_FRAMES, USUAL_SHARE = 200, 8, 0.9
# Frame vectors kept in memory: 50 films of two hours at one frame a second, of 384 dimensions, or 10,000 short videos.
KEPT_BYTES = 1 << 29
# A span that leaves out less of a video is the whole of it.
WHOLE_SHARE = 0.9
GroupKind = Literal["file", "whole", "part", "shared"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Copy(Record):
    """A place of the footage. share: how much of the video it is. could_go: whether a better place has all of it.

    bytes: of the file, 0 for another link to a file of the group. why_not: why it should stay though it is whole.
    """

    rounded: ClassVar[frozenset[str]] = frozenset({"start_s", "end_s"})

    video: bytes | None
    fingerprint: str
    start_s: float
    end_s: float
    share: float
    width_px: int
    height_px: int
    bytes: int
    could_go: bool
    why_not: str


@dataclass(frozen=True, slots=True)
class DuplicateGroup(Record):
    """Places of the same footage, the best first.

    kind: `file` for the same bytes, `whole` for whole videos, `part` where a longer video has all of a shorter one,
    `shared` for a common part, as an intro. evidence: of the weakest pair, see `alignment.Run`; infinite is null.
    """

    kind: GroupKind
    similarity: float
    evidence: float | None
    copies: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class DuplicateList(Record):
    """Groups, those that free the most first. videos: how many were compared. could_free: bytes that could go."""

    videos: int
    could_free: int
    groups: tuple[DuplicateGroup, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A run of two videos, by id."""

    first: int
    second: int
    run: Run


@dataclass(frozen=True, slots=True)
class Scope:
    """The videos that filters choose; ids: None for all."""

    filters: Filters
    ids: frozenset[int] | None

    def has(self, video: StoredVideo) -> bool:
        """Return whether filters choose a video with all its files. What they do not choose is kept first."""
        is_chosen = self.ids is None or video.id in self.ids
        return is_chosen and all(path_passes(self.filters, location.path) for location in video.locations)


def duplicates(
    engine: LiveLibrary,
    filters: Filters | None = None,
    progress: Progress = lambda done, of: None,
) -> DuplicateList:
    """Return the footage that is in several files; one video of each pair passes the filters.

    Raises QueryError where no video has frames, UsageError, LibraryError.
    """
    with ExitStack() as opened:
        _, view = engine.open_view(Request(""), Query(()), opened, None)
        snapshot, modality = view.snapshot, frame_modality()
        require_videos(snapshot, engine.folder)
        check_modality(view.spec, modality)
        scope = Scope(filters or Filters(), filtered(snapshot, filters or Filters()))
        ids = [id_ for id_ in snapshot.video_ids() if scope.ids is None or id_ in scope.ids]
        if not ids:
            raise QueryError("no video passes the filters; choose others, or see vfindex list")
        cache = FrameCache(view)
        pairs = find_pairs(view, ids, cache, progress)
        of_pairs = _groups(view, pairs, cache, scope, lambda: progress(2 * len(ids), 2 * len(ids)))
        groups = [*_same_files(snapshot, ids, scope), *of_pairs]
    groups.sort(key=lambda group: (-_freed(group), group.kind, str(group.copies[0].video)))
    return DuplicateList(len(ids), sum(map(_freed, groups)), tuple(groups))


def _freed(group: DuplicateGroup) -> int:
    return sum(each.bytes for each in group.copies if each.could_go)


# --- pairs of videos --------------------------------------------------------------------------------------------------


def find_pairs(view: View, video_ids: Sequence[int], cache: FrameCache, progress: Progress) -> list[Pair]:
    """Return the pairs of videos with a run, each once.

    progress: half of it for the neighbours of clips, half for the pairs that they vote for.
    """
    modality = frame_modality()
    clips, vectors = clips_of(view, modality, lambda: progress(0, 2 * len(video_ids)))
    rows = asked_rows(clips, video_ids)
    sources, matches, looked_up = [rows[:0]], [rows[:0]], set[int]()
    for source, match in neighbours(view, clips, vectors, rows, modality):
        sources.append(source)
        matches.append(match)
        looked_up.update(clips.videos[source].tolist())
        progress(len(looked_up), 2 * len(video_ids))
    del vectors
    is_asked = np.isin(np.arange(len(clips.ids)), rows)
    found, considered = candidates(Votes.of(np.concatenate(sources), np.concatenate(matches), is_asked), clips)
    pairs: list[Pair] = []
    for done, each in enumerate(found, start=1):
        run = align(cache.frames(each.first), cache.frames(each.second), each.offsets_s, cache.usual)
        if run is not None:
            pairs.append(Pair(each.first, each.second, run))
        progress(len(video_ids) + done * len(video_ids) // len(found), 2 * len(video_ids))
    tried = sum(len(each.offsets_s) for each in found)
    ids = sorted({video for pair in pairs for video in (pair.first, pair.second)})
    videos = {video.id: video for video in view.snapshot.videos(ids)}
    return [pair for pair in pairs if pair.run.evidence >= _limit(pair, videos, considered, tried)]


def _limit(pair: Pair, videos: Mapping[int, StoredVideo], pairs: int, offsets: int) -> float:
    """Return the evidence from which on a pair counts, of so many pairs at so many offsets together.

    The whole of a video can only lie at one offset of a pair; a common part of two may lie at any, and by chance as
    many more of them do.
    """
    sides = (pair.first, pair.run.first_s), (pair.second, pair.run.second_s)
    is_whole = any(_share(videos[video], Member(video, span_s)) >= WHOLE_SHARE for video, span_s in sides)
    return least_evidence(pairs if is_whole else max(pairs, offsets))


class FrameCache:
    """Frame vectors of videos; the last ones asked for are kept, up to KEPT_BYTES."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._kept: dict[int, Frames] = {}
        self._kept_bytes = 0

    def frames(self, video_id: int) -> Frames:
        frames = self._kept.pop(video_id, None)
        if frames is None:
            frames = self._read(video_id)
            self._kept_bytes += frames.vectors.nbytes
        self._kept[video_id] = frames
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.pop(next(iter(self._kept))).vectors.nbytes
        return frames

    @cached_property
    def usual(self) -> float:
        """The similarity that 90 % of the frames of different videos do not reach, by a sample."""
        parts, groups = [], []
        for video_id in spread(self._view.snapshot.video_ids(), SAMPLE_VIDEOS):
            vectors = np.asarray(spread(list(self.frames(video_id).vectors), SAMPLE_FRAMES), np.float32)
            parts += list(vectors)
            groups += [video_id] * len(vectors)
        if len(set(groups)) < 2:
            return 0.0
        table, owner = np.stack(parts), np.array(groups)
        return float(np.quantile((table @ table.T)[owner[:, None] != owner[None]], USUAL_SHARE))

    def _read(self, video_id: int) -> Frames:
        snapshot, spec, modality = self._view.snapshot, self._view.spec, frame_modality()
        stored = list(snapshot.vectors([clip.id for clip in snapshot.clips_of(video_id)]).values())
        with_frames = [each for each in stored if len(each.frames)]
        rows = np.concatenate([np.zeros((0, spec.parts[modality].dim), np.float32), *(e.frames for e in with_frames)])
        times_s = np.concatenate([np.zeros(0), *(each.frame_times_s for each in with_frames)])
        order = np.argsort(times_s, kind="stable")
        return Frames(times_s[order], comparison_vectors({modality: rows[order]}, spec, modality))


# --- groups -----------------------------------------------------------------------------------------------------------


def _groups(
    view: View, pairs: Sequence[Pair], cache: FrameCache, scope: Scope, check: Callable[[], None]
) -> list[DuplicateGroup]:
    """Return the groups that pairs form. check: called before each."""
    snapshot = view.snapshot
    videos = {video.id: video for video in snapshot.videos(sorted({v for p in pairs for v in (p.first, p.second)}))}
    groups = []
    run_of = {(p.first, p.second): p.run for p in pairs}
    for members, runs in joined(
        (Member(p.first, p.run.first_s), Member(p.second, p.run.second_s), p.run) for p in pairs
    ):
        check()
        speech = {each.video: _speech(view, each.video) for each in members}
        ordered = sorted(members, key=lambda each: _quality(videos[each.video], each, scope), reverse=True)
        best = ordered[0]
        lacking = {each.video for each in ordered[1:] if not _has_all(videos[each.video], each, best, run_of, cache)}
        copies = tuple(_copy(videos, each, best, speech, lacking) for each in ordered)
        whole = [each.share >= WHOLE_SHARE for each in copies]
        kind: GroupKind = "whole" if all(whole) else "part" if any(whole) else "shared"
        evidence = min(run.evidence for run in runs)
        groups.append(DuplicateGroup(kind, min(run.similarity for run in runs), evidence, copies))
    return groups


def _has_all(
    video: StoredVideo, member: Member, best: Member, run_of: Mapping[tuple[int, int], Run], cache: FrameCache
) -> bool:
    """Return whether the best has all of a member, which other members may have joined to it.

    Videos that overlap in a row are alike from one to the next, the first and the last not at all.
    """
    if _share(video, member) < WHOLE_SHARE:
        return False
    span_s: tuple[float, float] | None
    if (run := run_of.get((member.video, best.video))) is not None:
        span_s = run.first_s
    elif (run := run_of.get((best.video, member.video))) is not None:
        span_s = run.second_s
    else:
        middle_s = best.span_s[0] - member.span_s[0]
        offsets_s = [middle_s + STEP_S * step for step in range(-MOST_OFFSETS // 2, MOST_OFFSETS // 2 + 1)]
        run = align(cache.frames(member.video), cache.frames(best.video), offsets_s, cache.usual)
        span_s = None if run is None else run.first_s
    return span_s is not None and _share(video, Member(member.video, span_s)) >= WHOLE_SHARE


def _share(video: StoredVideo, member: Member) -> float:
    """Return how much of a video a span is; the first and the last frame stand for what is around them."""
    length_s = member.span_s[1] - member.span_s[0] + 2 * TOLERANCE_S
    return min(1.0, length_s / max(video.end_s - video.start_s, length_s))


def _quality(video: StoredVideo, member: Member, scope: Scope) -> tuple[bool, bool, int, bool, int]:
    """Return what is compared to keep the best: more footage, sound, more pixels, not chosen by filters, more bytes."""
    size = max((location.size_bytes for location in video.locations), default=0)
    return _share(video, member) < WHOLE_SHARE, video.has_audio, _pixels(video), not scope.has(video), size


def _pixels(video: StoredVideo) -> int:
    return video.width_px * video.height_px


def _copy(
    videos: Mapping[int, StoredVideo], member: Member, best: Member, speech: Mapping[int, Speech], lacking: set[int]
) -> Copy:
    """lacking: the videos of which the best has not all."""
    video, share = videos[member.video], _share(videos[member.video], member)
    why_not = ""
    if member is not best and share >= WHOLE_SHARE:
        if member.video in lacking:
            why_not = "the best lacks a part of it"
        elif video.has_audio and not videos[best.video].has_audio:
            why_not = "the best has no sound"
        elif _pixels(video) > _pixels(videos[best.video]):
            why_not = "the best has a smaller picture"
        elif not same_speech(speech[member.video], speech[best.video]):
            why_not = "something else is said in it"
    first = video.locations[0] if video.locations else None
    return Copy(
        video=None if first is None else first.path,
        fingerprint=video.fingerprint,
        start_s=member.span_s[0],
        end_s=member.span_s[1],
        share=share,
        width_px=video.width_px,
        height_px=video.height_px,
        bytes=0 if first is None else first.size_bytes,
        could_go=member is not best and share >= WHOLE_SHARE and not why_not,
        why_not=why_not,
    )


def _speech(view: View, video_id: int) -> Speech:
    """Return spoken modality -> the mean of a video's centred vectors (dim,); without those it lacks."""
    snapshot, found = view.snapshot, dict[ModalityName, FloatArray]()
    dims = {m: view.spec.parts[m].dim for m in spoken_modalities() if m in view.spec.parts}
    ids = [clip.id for clip in snapshot.clips_of(video_id)]
    for _, rows in snapshot.batches(ids[:CLIPS_A_VIDEO], dims):
        for modality, vectors in rows.items():
            if np.any(vectors):
                found[modality] = np.sum(comparison_vectors({modality: vectors}, view.spec, modality), axis=0)
    return found


def _same_files(snapshot: Snapshot, video_ids: Sequence[int], scope: Scope) -> list[DuplicateGroup]:
    """Return the videos whose file is there several times. Links to one file free nothing."""
    groups = []
    for first in range(0, len(video_ids), 1000):
        for video in snapshot.videos(video_ids[first : first + 1000]):
            if len(video.locations) < 2:
                continue
            seen: set[int] = set()
            copies = []
            for location in sorted(video.locations, key=lambda each: path_passes(scope.filters, each.path)):
                size = 0 if location.inode in seen else location.size_bytes
                copies.append(
                    Copy(
                        *(location.path, video.fingerprint, video.start_s, video.end_s, 1.0),
                        *(video.width_px, video.height_px, size, bool(seen), ""),
                    )
                )
                seen.add(location.inode)
            groups.append(DuplicateGroup("file", 1.0, None, tuple(copies)))
    return groups
