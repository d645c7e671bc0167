"""The same footage in several files: whole copies, re-encodes, excerpts, shared intros, and what could be deleted.

The joint index proposes, for some clips of each video, the nearest clips of other videos; the offsets in time that
these vote for are examined frame by frame (alignment.py). Nothing is ever deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from vfindex.search.live import LiveLibrary
from vfindex.search.query.ast import Filters, Query
from vfindex.search.query.filters import filtered
from vfindex.search.query.request import Request
from vfindex.search.rank.delta import View
from vfindex.search.results import Record
from vfindex.search.understanding.alignment import STEP_S, TOLERANCE_S, Frames, Run, align, least_evidence
from vfindex.search.understanding.copies import Member, Speech, joined, same_speech
from vfindex.search.understanding.vectors import check_modality, comparison_vectors, nearest_clips
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import QueryError
from vfindex.storage.ids import spread
from vfindex.storage.modalities import ModalityName, frame_modality, spoken_modalities
from vfindex.storage.records import FloatArray

# Clips of a video whose neighbours are looked up, and neighbours of each: 16 searches a video, however long it is.
CLIPS_A_VIDEO, NEIGHBOURS = 16, 8
# Offsets in time that are tried of a pair of videos, those with the most votes: two clips of 10 s vote for 80.
MOST_OFFSETS = 320
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
        check_modality(view.spec, modality)
        chosen = filtered(snapshot, filters or Filters())
        ids = [id_ for id_ in snapshot.video_ids() if chosen is None or id_ in chosen]
        if not ids:
            raise QueryError("no video passes the filters; choose others, or see vfindex list")
        cache = FrameCache(view)
        pairs = find_pairs(view, ids, cache, progress)
        groups = [*_same_files(snapshot, ids), *_groups(view, pairs, cache)]
    groups.sort(key=lambda group: (-_freed(group), group.kind, str(group.copies[0].video)))
    return DuplicateList(len(ids), sum(map(_freed, groups)), tuple(groups))


def _freed(group: DuplicateGroup) -> int:
    return sum(each.bytes for each in group.copies if each.could_go)


# --- pairs of videos --------------------------------------------------------------------------------------------------


def find_pairs(view: View, video_ids: Sequence[int], cache: FrameCache, progress: Progress) -> list[Pair]:
    """Return the pairs of videos with a run, each once."""
    tried: set[tuple[int, int]] = set()
    pairs: list[Pair] = []
    for done, video_id in enumerate(video_ids, start=1):
        for other, offsets_s in sorted(_votes(view, video_id).items(), key=lambda item: item[0]):
            pair = (min(video_id, other), max(video_id, other))
            if pair in tried:
                continue
            tried.add(pair)
            most = sorted(offset_s for offset_s, _ in offsets_s.most_common(MOST_OFFSETS))
            run = align(cache.frames(video_id), cache.frames(other), most, cache.usual)
            if run is not None:
                pairs.append(Pair(video_id, other, run))
        progress(done, len(video_ids))
    limit = least_evidence(len(tried))
    return [pair for pair in pairs if pair.run.evidence >= limit]


def _votes(view: View, video_id: int) -> dict[int, Counter[float]]:
    """Return other video -> offset in time -> how many pairs of clips may show the same at it."""
    snapshot, modality = view.snapshot, frame_modality()
    own = snapshot.clips_of(video_id)
    ids = np.array(sorted(clip.id for clip in own), np.int64)
    chosen = {clip.id: clip for clip in spread(own, CLIPS_A_VIDEO)}
    near: list[tuple[StoredClip, list[int]]] = []
    dims = {modality: view.spec.parts[modality].dim}
    for part, rows in snapshot.batches(sorted(chosen), dims):
        for id_, vector in zip(part.tolist(), comparison_vectors(rows, view.spec, modality), strict=True):
            if not vector.any():
                continue
            found, _ = nearest_clips(view, vector, NEIGHBOURS, modality, None, ids)
            near.append((chosen[id_], found.tolist()))
    others = snapshot.clips(sorted({id_ for _, matches in near for id_ in matches}))
    votes: dict[int, Counter[float]] = {}
    for clip, matches in near:
        for other in (others[id_] for id_ in matches if id_ in others):
            votes.setdefault(other.video_id, Counter()).update(_offsets(clip, other))
    return votes


def _offsets(first: StoredClip, second: StoredClip) -> list[float]:
    """Return the offsets at which two clips overlap, in steps."""
    low = np.ceil((second.start_s - first.end_s) / STEP_S)
    high = np.floor((second.end_s - first.start_s) / STEP_S)
    return [STEP_S * step for step in range(int(low), int(high) + 1)]


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


def _groups(view: View, pairs: Sequence[Pair], cache: FrameCache) -> list[DuplicateGroup]:
    snapshot = view.snapshot
    videos = {video.id: video for video in snapshot.videos(sorted({v for p in pairs for v in (p.first, p.second)}))}
    groups = []
    run_of = {(p.first, p.second): p.run for p in pairs}
    for members, runs in joined(
        (Member(p.first, p.run.first_s), Member(p.second, p.run.second_s), p.run) for p in pairs
    ):
        speech = {each.video: _speech(view, each.video) for each in members}
        ordered = sorted(members, key=lambda each: _quality(videos[each.video], each), reverse=True)
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


def _quality(video: StoredVideo, member: Member) -> tuple[bool, bool, int, int]:
    """Return what is compared to keep the best: more footage, with sound, in more pixels, of more bytes."""
    size = max((location.size_bytes for location in video.locations), default=0)
    return _share(video, member) < WHOLE_SHARE, video.has_audio, _pixels(video), size


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


def _same_files(snapshot: Snapshot, video_ids: Sequence[int]) -> list[DuplicateGroup]:
    """Return the videos whose file is there several times. Links to one file free nothing."""
    groups = []
    for first in range(0, len(video_ids), 1000):
        for video in snapshot.videos(video_ids[first : first + 1000]):
            if len(video.locations) < 2:
                continue
            seen: set[int] = set()
            copies = []
            for location in video.locations:
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
