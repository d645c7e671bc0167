"""Clips least like the others of a library, of a folder or of a period, each with the nearest of the others.

A clip is scored by its distances to the k nearest clips of other videos: their mean (Angiulli and Pizzuti 2002), or its
density by theirs, the local outlier factor (Breunig et al. 2000). Of many clips, a random sample is what all are
compared with (Sugiyama and Borgwardt 2013, NIPS), and the joint index finds the true neighbours of the best.

Vectors are centred on generic clips, not on the library's mean: where all clips are of one kind, that mean is the kind,
and without it they are no nearer to each other than to anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import numpy as np

from vfindex.search.engine import answer
from vfindex.search.live import LiveLibrary, require_videos
from vfindex.search.query.ast import Filters, Query
from vfindex.search.query.filters import filtered
from vfindex.search.query.request import Request, check_filters
from vfindex.search.rank.delta import View
from vfindex.search.results import Record
from vfindex.search.understanding.outliers import (
    LocalDensities,
    deviations,
    distance,
    fence,
    nearest_rows,
    neighbour_distances,
)
from vfindex.search.understanding.vectors import Ids, Rows, check_modality, nearest_clips, vector_batches
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import BATCH_CLIPS, Snapshot
from vfindex.storage.errors import QueryError
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import ClipKey, FloatArray

Method = Literal["knn", "lof"]
METHODS: tuple[Method, ...] = get_args(Method)
# Neighbours of a clip. Breunig et al. 2000 advise 10 to 20: fewer vary by chance, more join clusters.
NEIGHBOURS = 10
# Clips that all are compared with: as float32 of 1,536 dimensions 25 MB, and 10 to the 13th operations for a million.
MOST_COMPARED = 4096
# Of more clips, these times as many as wanted are compared with all, and this many by chance for the usual score.
REFINED, FEWEST_REFINED, USUAL = 10, 100, 100
# The clips that answer a question, at most, and of one video.
ANSWERS, ANSWERS_A_VIDEO = 500, 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class UnusualChoice:
    """What is looked for. filters: the clips that are scored. among: what they are compared with; None: each other.

    against: a question, whose answers they are compared with instead. modality: None for the joint vector.
    """

    filters: Filters = Filters()  # noqa: RUF009  frozen
    among: Filters | None = None
    against: str = ""
    modality: ModalityName | None = None
    method: str = "knn"
    top_k: int = 10
    per_video: int = 1

    def __post_init__(self) -> None:
        for filters in (self.filters, self.among or self.filters):
            check_filters(filters)
        for name in ("top_k", "per_video"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise QueryError(f"{name} must be a whole number of 1 or more, not {value!r}")
        if self.method not in METHODS:
            raise QueryError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if self.among is not None and self.against:
            raise QueryError("clips are compared with those among filters, or with answers; use one of them")


@dataclass(frozen=True, slots=True)
class ClipPlace(Record):
    """A clip of a video. key: as in hits. similarity: to the clip that it is named for, a cosine."""

    rounded: ClassVar[frozenset[str]] = frozenset({"start_s", "end_s"})

    video: bytes | None
    key: ClipKey
    start_s: float
    end_s: float
    similarity: float


@dataclass(frozen=True, slots=True)
class UnusualClip(Record):
    """A clip and how unlike the others it is.

    score: mean distance to the nearest clips of other videos (0 to 2), or the local outlier factor. deviation: robust
    standard deviations above the median score. stands_out: whether chance leaves no deviation like it. nearest: the
    clip of another video that is most like it, None where there is none.
    """

    rounded: ClassVar[frozenset[str]] = frozenset({"start_s", "end_s"})

    rank: int
    video: bytes | None
    key: ClipKey
    start_s: float
    end_s: float
    score: float
    deviation: float
    stands_out: bool
    nearest: ClipPlace | None


@dataclass(frozen=True, slots=True)
class UnusualList(Record):
    """The clips least like the others, the least first.

    scored: how many clips were scored. compared: with how many. fence: the deviation from which on a clip stands out.
    """

    method: str
    modality: ModalityName | None
    against: str
    scored: int
    compared: int
    fence: float
    clips: tuple[UnusualClip, ...]

    @property
    def outstanding(self) -> tuple[UnusualClip, ...]:
        """Those that chance does not explain."""
        return tuple(each for each in self.clips if each.stands_out)


def unusual(engine: LiveLibrary, choice: UnusualChoice, progress: Progress = lambda done, of: None) -> UnusualList:
    """Return the clips of a library that are least like the others.

    Raises QueryError where there is nothing to compare, UsageError for a modality that the library lacks, LibraryError.
    """
    answers = _answers(engine, choice.against) if choice.against else None
    with ExitStack() as opened:
        _, view = engine.open_view(Request(""), Query(()), opened, None)
        snapshot = view.snapshot
        require_videos(snapshot, engine.folder)
        check_modality(view.spec, choice.modality)
        view = replace(view, spec=_generic(view.spec, snapshot))
        scope = _clips(snapshot, choice.filters)
        compared = scope if choice.among is None else _clips(snapshot, choice.among)
        compared = compared if answers is None else answers
        scores = _Scores.of(view, scope, compared, choice, progress)
        chosen = scores.best(choice)
        deviation = deviations(scores.values[chosen], scores.usual)
        limit = fence(len(scores.ids))
        found = _described(snapshot, scores, chosen, (deviation, limit))
    return UnusualList(
        choice.method, choice.modality, choice.against, len(scores.ids), len(compared), limit, tuple(found)
    )


def _generic(spec: JointSpec, snapshot: Snapshot) -> JointSpec:
    """Return a spec that centres on generic clips, as its priors know them."""
    priors = LibraryMeta(snapshot).priors
    return replace(spec, parts={m: replace(part, mean=priors[m].mean) for m, part in spec.parts.items()})


def _answers(engine: LiveLibrary, question: str) -> Ids:
    hits = answer([engine], Request(question, top_k=ANSWERS, per_video=ANSWERS_A_VIDEO)).with_confidence(None)
    if not hits:
        raise QueryError(
            f"no clip answers {question!r} better than chance, so there is nothing to compare with; "
            "vfindex search shows what a question finds"
        )
    return np.array(sorted({hit.clip_id for hit in hits}), np.int64)


def _clips(snapshot: Snapshot, filters: Filters) -> Ids:
    return np.array(snapshot.clip_ids(videos=filtered(snapshot, filters)), np.int64)


@dataclass(slots=True, eq=False)
class _Scores:
    """Scores of clips that have something to compare. ids, videos, values, nearest: (n,). cosines: to `nearest`, (n,).

    usual: scores that the deviation of one is measured by.
    """

    ids: Ids
    videos: Ids
    values: FloatArray
    nearest: Ids
    cosines: FloatArray
    usual: FloatArray

    @classmethod
    def of(cls, view: View, scope: Ids, compared: Ids, choice: UnusualChoice, progress: Progress) -> _Scores:
        """Score each clip of `scope`. Raises QueryError if fewer than three videos can be compared."""
        sample = compared
        if len(compared) > MOST_COMPARED:
            sample = np.sort(np.random.default_rng(0).choice(compared, MOST_COMPARED, replace=False))
        table = Rows.read(view.snapshot, view.spec, sample, choice.modality)
        _check_enough(table, choice)
        densities = _densities(table) if choice.method == "lof" else None
        parts = []
        for first in range(0, max(1, len(scope)), BATCH_CLIPS):
            parts.append(_scored(view, scope[first : first + BATCH_CLIPS], table, densities, choice.modality))
            progress(min(first + BATCH_CLIPS, len(scope)), len(scope))
        ids, videos, values, nearest, cosines = (np.concatenate(each) for each in zip(*parts, strict=True))
        scores = cls(ids, videos, values, nearest, cosines, usual=values)
        if len(sample) < len(compared) and choice.method == "knn":
            scores.refine(view, compared, choice, lambda: progress(len(scope), len(scope)))
        return scores

    def refine(self, view: View, compared: Ids, choice: UnusualChoice, check: Callable[[], None]) -> None:
        """Score the best, and some by chance, by their true neighbours among all clips; leave out the others.

        check: called before each, as thousands of them take minutes.
        """
        count = max(FEWEST_REFINED, REFINED * choice.top_k * choice.per_video)
        best = np.argsort(-self.values, kind="stable")[:count]
        usual = np.random.default_rng(1).choice(len(self.ids), min(USUAL, len(self.ids)), replace=False)
        searchable = view.snapshot.clip_ids() if len(compared) else []
        among = None if len(compared) == len(searchable) else compared

        def true_score(row: int) -> float:
            check()
            return self._true_score(view, row, choice, among)

        self.usual = np.array([true_score(int(row)) for row in usual], np.float32)
        for row in best:
            self.values[row] = true_score(int(row))
        left_out = np.ones(len(self.ids), np.bool_)
        left_out[best] = False
        self.values[left_out] = -np.inf

    def _true_score(self, view: View, row: int, choice: UnusualChoice, among: Ids | None) -> float:
        [(_, vectors)] = vector_batches(view.snapshot, view.spec, self.ids[row : row + 1], choice.modality)
        own = view.snapshot.clips_in([int(self.videos[row])])
        ids, cosines = nearest_clips(view, vectors[0], NEIGHBOURS, choice.modality, among, own)
        if not len(ids):
            return float("inf")
        self.nearest[row], self.cosines[row] = ids[0], cosines[0]
        return float(neighbour_distances(distance(cosines)[None])[0])

    def best(self, choice: UnusualChoice) -> list[int]:
        """Return the rows of the highest scores, the highest first, at most so many of a video.

        A clip that is compared with clips of its own video alone has no score.
        """
        chosen: list[int] = []
        of_video: dict[int, int] = {}
        for row in np.lexsort((self.ids, -self.values)).tolist():
            video = int(self.videos[row])
            if len(chosen) == choice.top_k or self.values[row] == -np.inf:
                break
            if np.isfinite(self.values[row]) and of_video.get(video, 0) < choice.per_video:
                of_video[video] = of_video.get(video, 0) + 1
                chosen.append(row)
        return chosen


def _check_enough(table: Rows, choice: UnusualChoice) -> None:
    videos = len(set(table.videos.tolist()))
    if videos < (1 if choice.against else 3):
        what = f" with {choice.modality}" if choice.modality else ""
        raise QueryError(
            f"there are too few videos{what} to say what is unusual: {videos} of at least 3; choose more with other "
            "filters, or add some with: vfindex ingest VIDEOS"
        )


def _densities(table: Rows) -> LocalDensities:
    parts = [
        nearest_rows(
            table.vectors[at : at + 1024], table.videos[at : at + 1024], table.vectors, table.videos, NEIGHBOURS
        )
        for at in range(0, len(table.ids), 1024)
    ]
    distances, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
    return LocalDensities.of(distances, rows)


def _scored(
    view: View, ids: Ids, table: Rows, densities: LocalDensities | None, modality: ModalityName | None
) -> tuple[Ids, Ids, FloatArray, Ids, FloatArray]:
    """Return the first fields of `_Scores` of those of the clips that have a vector."""
    rows = Rows.read(view.snapshot, view.spec, ids, modality)
    if not len(rows.ids):
        none, nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return none, none, nothing, none, nothing
    distances, places = nearest_rows(rows.vectors, rows.videos, table.vectors, table.videos, NEIGHBOURS)
    values = neighbour_distances(distances) if densities is None else densities.factors(distances, places)
    nearest = np.where(places[:, 0] >= 0, table.ids[places[:, 0]], -1)
    cosines = 1.0 - np.square(np.minimum(distances[:, 0], 2.0)) / 2.0
    return rows.ids, rows.videos, np.asarray(values, np.float32), nearest, cosines.astype(np.float32)


def _described(
    snapshot: Snapshot, scores: _Scores, chosen: list[int], by: tuple[FloatArray, float]
) -> list[UnusualClip]:
    deviation, limit = by
    clips = snapshot.clips([int(id_) for row in chosen for id_ in (scores.ids[row], scores.nearest[row])])
    names = snapshot.named(list({clip.video_id for clip in clips.values()}))
    found = []
    for place, row in enumerate(chosen):
        clip = clips[int(scores.ids[row])]
        other = clips.get(int(scores.nearest[row]))
        own = _place(clip, names, 1.0)
        found.append(
            UnusualClip(
                rank=place + 1,
                video=own.video,
                key=own.key,
                start_s=clip.start_s,
                end_s=clip.end_s,
                score=float(scores.values[row]),
                deviation=float(deviation[place]),
                stands_out=bool(deviation[place] > limit),
                nearest=None if other is None else _place(other, names, float(scores.cosines[row])),
            )
        )
    return found


def _place(clip: StoredClip, names: dict[int, tuple[str, list[bytes]]], similarity: float) -> ClipPlace:
    fingerprint, paths = names[clip.video_id]
    video = paths[0] if paths else None
    return ClipPlace(video, ClipKey(fingerprint, clip.start_ms), clip.start_s, clip.end_s, similarity)
