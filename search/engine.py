"""Questions asked of a library.

from pathlib import Path
from vfindex.search.engine import SearchEngine

engine = SearchEngine.open(Path("library"))
for hit in engine.search("dog running in park"):
    print(hit.rank, hit.video, hit.start_s, hit.score)
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfindex.search.encoder import QueryEncoder
from vfindex.search.grammar import parse
from vfindex.search.query import Moment
from vfindex.search.ranking import Scored, find_words, score_clips
from vfindex.storage.errors import QueryError
from vfindex.storage.joint import JointSpec, fuse_query
from vfindex.storage.library import Library, exact_scan, reading_spec, setup_from_json
from vfindex.storage.records import MODALITIES, FloatArray, Modality, Setup
from vfindex.storage.snapshot import Generation, Snapshot, StoredVideo
from vfindex.storage.vectors import JointIndex

# Candidates from the joint index for one hit wanted: the rerank by best frame and words moves clips by some places, and
# a long video may hold many of the first.
CANDIDATES_PER_HIT = 20
MIN_CANDIDATES = 200
# Characters of transcript shown with a hit whose words were not matched.
SNIPPET_CHARS = 160


@dataclass(frozen=True, slots=True)
class Hit:
    """A clip found. score: higher is better; the sum of `modalities`, signed contributions, None where absent.

    video: absolute path of a copy that exists, else of one that did. frame_s: presentation time of the best frame.
    words: words of the question that its speech, title or tags hold. snippet: where they stand, or what is said.
    """

    rank: int
    video: bytes | None
    start_s: float
    end_s: float
    frame_s: float | None
    score: float
    modalities: Mapping[Modality, float | None]
    words: tuple[str, ...]
    snippet: str | None
    thumbnail: Path | None


class SearchEngine:
    """A library opened for questions; it follows new generations and editions. Not for several threads at once."""

    def __init__(self, library: Library, setup: Setup) -> None:
        self._library = library
        self._setup = setup
        self._encoder = QueryEncoder(library, setup)
        self._loaded: tuple[int, JointIndex] | None = None

    @classmethod
    def open(cls, folder: Path) -> SearchEngine:
        """Open the library in `folder`. Raises LibraryNotFound, LibraryVersion, LibraryDamaged."""
        library = Library.open(folder)
        with library.snapshot() as snapshot:
            stored = snapshot.get("setup")
        if stored is None:
            raise QueryError(f"the library {folder} holds no videos yet; add some with: vfindex ingest VIDEOS")
        return cls(library, setup_from_json(stored))

    def search(
        self, text: str, *, top_k: int = 10, per_video: int = 1, weights: Mapping[Modality, float] | None = None
    ) -> list[Hit]:
        """Return the best `top_k` clips for the question, at most `per_video` of one video.

        weights: replaces the default weight of the modalities named; 0 leaves one out. Raises QueryError, ModelError,
        LibraryDamaged.
        """
        self._follow()
        query = parse(text).moments[0]
        checked = _check_weights(weights or {})
        if top_k < 1 or per_video < 1:
            raise QueryError(f"at least one hit must be asked for, not {min(top_k, per_video)}")
        vectors = self._encoder.encode(query)
        # A generation's file may be superseded between reading its pointer and opening it: the pointer is read once
        # more. A file that is gone for good is done without, by an exact scan.
        with self._library.snapshot() as snapshot:
            view = self._view(snapshot, checked)
            if view.is_whole:
                return self._answer(view, query, vectors, (top_k, per_video))
        with self._library.snapshot() as snapshot:
            return self._answer(self._view(snapshot, checked), query, vectors, (top_k, per_video))

    def _follow(self) -> None:
        """Go over to the edition in use, where an upgrade or the way back has changed it since the last question."""
        if not self._library.is_in_use():
            now = SearchEngine.open(self._library.root)
            self._library, self._setup, self._encoder = now._library, now._setup, now._encoder
            self._loaded = None

    def _answer(
        self, view: _View, query: Moment, vectors: Mapping[Modality, FloatArray], wanted: tuple[int, int]
    ) -> list[Hit]:
        chosen = _rank(view, self._setup, query, vectors, wanted)
        videos = {video.id: video for video in view.snapshot.videos([each.clip.video_id for each in chosen])}
        said = view.snapshot.said([each.clip.id for each in chosen if not each.snippet])
        return [
            self._hit(rank, each, videos[each.clip.video_id], said.get(each.clip.id))
            for rank, each in enumerate(chosen, start=1)
        ]

    def _view(self, snapshot: Snapshot, weights: Mapping[Modality, float]) -> _View:
        spec, generation = reading_spec(snapshot)
        index = self._index(generation)
        watermark = generation.watermark if generation is not None and index is not None else 0
        whole = generation is None or index is not None
        return _View(snapshot, spec.with_weights(weights), index, watermark, is_whole=whole)

    def _index(self, generation: Generation | None) -> JointIndex | None:
        if generation is None:
            return None
        if self._loaded is None or self._loaded[0] != generation.id:
            index = self._library.load_index(generation)
            if index is None:
                return None
            self._loaded = (generation.id, index)
        return self._loaded[1]

    def _hit(self, rank: int, scored: Scored, video: StoredVideo, said: str | None) -> Hit:
        paths = [place.path for place in video.locations]
        return Hit(
            rank=rank,
            video=next((path for path in paths if os.path.exists(path)), paths[0] if paths else None),
            start_s=scored.clip.start_s,
            end_s=scored.clip.end_s,
            frame_s=scored.frame_s,
            score=scored.score,
            modalities={m: scored.modalities.get(m) for m in MODALITIES},
            words=scored.words,
            snippet=scored.snippet or (said[:SNIPPET_CHARS] if said else None),
            thumbnail=self._library.thumbnail(scored.clip.thumbnail),
        )


@dataclass(frozen=True, slots=True)
class _View:
    """What one search looks at. index: the clips up to `watermark`; None: all clips are scanned exactly."""

    snapshot: Snapshot
    spec: JointSpec
    index: JointIndex | None
    watermark: int
    is_whole: bool


def _rank(
    view: _View, setup: Setup, query: Moment, vectors: Mapping[Modality, FloatArray], wanted: tuple[int, int]
) -> list[Scored]:
    """Return the best clips: candidates from index, tail and words, reranked; wanted: (top_k, per_video)."""
    top_k, per_video = wanted
    joint = fuse_query(vectors, view.spec)
    evidence = find_words(view.snapshot, query.words)
    tail = exact_scan(view.snapshot, view.spec, joint, view.snapshot.clip_ids(after=view.watermark))
    held = len(view.index) if view.index is not None else 0
    depth = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * top_k * per_video)
    while True:
        ids = [id_ for id_, _ in tail[:depth]] + evidence.clip_ids
        if view.index is not None:
            ids += view.index.search(joint[None], depth)[1][0].tolist()
        scored = score_clips(view.snapshot, dict.fromkeys(ids), vectors, view.spec, setup, evidence)
        chosen = _at_most(scored, per_video)[:top_k]
        if len(chosen) == top_k or depth >= max(len(tail), held):
            return chosen
        depth *= 4  # one long video fills the candidates: look further down


def _at_most(scored: Sequence[Scored], per_video: int) -> list[Scored]:
    """Keep the best `per_video` clips of each video."""
    taken: dict[int, int] = {}
    kept = []
    for each in scored:
        taken[each.clip.video_id] = taken.get(each.clip.video_id, 0) + 1
        if taken[each.clip.video_id] <= per_video:
            kept.append(each)
    return kept


def _check_weights(weights: Mapping[Modality, float]) -> Mapping[Modality, float]:
    for modality, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise QueryError(f"the weight of {modality} must be 0 or more, not {weight:g}")
    if len(weights) == len(MODALITIES) and not any(weights.values()):
        raise QueryError("with every weight at 0 nothing can be found; leave one modality above 0")
    return weights
