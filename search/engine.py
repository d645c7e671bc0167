"""The search engine: from a query to hits.

from pathlib import Path
from vfindex.search import SearchEngine

engine = SearchEngine.open(Path("library"))
for hit in engine.search("dog running in park"):
    print(hit.rank, hit.video, hit.start_s, hit.score)
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from vfindex.search.calibration.labels import META_KEY, Labeller
from vfindex.search.query.ast import COMBINATIONS, Combination, Moment, Query
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.filters import filtered, unmatched_globs
from vfindex.search.query.hints import hints
from vfindex.search.query.image import Pictures
from vfindex.search.query.like import Like, clip_at, stored_image
from vfindex.search.query.parser import parse
from vfindex.search.rank.candidates import Candidates
from vfindex.search.rank.delta import View
from vfindex.search.rank.group import Group, Result, merge_neighbours, select_results
from vfindex.search.rank.lexical import KeywordMatches, match_keywords
from vfindex.search.rank.prefilter import build_prefilter
from vfindex.search.rank.query_vectors import QueryVectors, add_images, combine_parts
from vfindex.search.rank.score import ScoredClip, score_clips
from vfindex.search.rank.temporal import best_pairs
from vfindex.search.results import Hit, Hits, Match, Place, Span
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.errors import IndexUnusable, QueryError, UsageError
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library, again_if_changed, estimated_spec, reading_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, modality_names
from vfindex.storage.records import COARSE, FloatArray, Setup

logger = logging.getLogger(__name__)

# Candidates of the joint index per hit: re-ranking by best frame and keywords moves clips by some ranks, and a long
# video may own many of the first ones.
CANDIDATES_PER_HIT = 20
MIN_CANDIDATES = 200
# The deepest look, if many candidates belong to one video, or are far from their other moment. Scoring so many takes
# some 0.1 s. A pair with neither clip among the first of its moment is not found.
MAX_CANDIDATES = 3200
# Factor of the depth from one round to the next. Pairs start one step deeper: in a large library the first 200 of two
# moments hardly ever share a video, and looking at 200 in vain takes as long as looking at 800 once.
DEEPER = 4
# Characters of transcript shown with a hit without matched keywords.
SNIPPET_CHARS = 160


class SearchEngine:
    """An open library. It follows new generations of the index and model upgrades. Not thread-safe."""

    def __init__(self, library: Library, setup: Setup, fusion: Fusion | None = None) -> None:
        self._library = library
        self._setup = setup
        self._fusion = fusion
        self._encoder = QueryEncoder(library, setup)
        self.pictures = Pictures(library, setup)
        self._loaded: tuple[int, JointIndex] | None = None  # generation id and its index
        self._index_problem = self._logged_problem = ""
        self._fusion_spec: JointSpec | None = None

    @classmethod
    @again_if_changed
    def open(cls, folder: Path, fusion: Fusion | None = None) -> SearchEngine:
        """Open the library in `folder`. Raises LibraryNotFound, LibraryVersion, LibraryDamaged, QueryError if empty.

        fusion: replaces the library's own for this engine; searches then scan all clips, and nothing is stored.
        """
        library = Library.open(folder)
        with library.snapshot() as snapshot:
            setup = LibraryMeta(snapshot).setup
        if setup is None:
            raise QueryError(f"the library {folder} holds no videos yet; add some with: vfindex ingest VIDEOS")
        return cls(library, setup, fusion)

    @property
    def setup(self) -> Setup:
        """The preset, models and sampling of the library."""
        return self._setup

    @again_if_changed
    def search(  # noqa: PLR0913  every option of a search has its name; no record to import for one of them
        self,
        text: str | Query = "",
        *,
        images: Sequence[Path | Like] = (),
        top_k: int = 10,
        per_video: int = 1,
        weights: Mapping[ModalityName, float] | None = None,
        combine: Combination = "convex",
        exact: bool = False,
    ) -> Hits:
        """Return the best `top_k` hits, at most `per_video` of one video.

        text: in the query language of docs/query.md; `Query.plain` makes a query without syntax.
        images: picture files and clips of the library to find similar clips for; text may then be empty.
        weights: override the default weights of these modalities; 0 leaves one out. combine: `rrf` fuses ranks; such
        hits have no confidence, which is calibrated on scores. exact: scan every clip of library.db instead of using
        the joint index; slow in a large library. Raises QueryError, UsageError, ModelError, LibraryDamaged.
        """
        self._follow_upgrades()
        query = parse(text, wordless=bool(images)) if isinstance(text, str) else text
        checked = _check_weights(weights or {})
        if combine not in COMBINATIONS:
            raise QueryError(f"combine must be one of {', '.join(COMBINATIONS)}, not {combine!r}")
        if top_k < 1 or per_video < 1:
            raise QueryError(f"top_k and per_video must be 1 or more, not {min(top_k, per_video)}")
        encoded = self._encode(query, images)
        options = (checked, combine, exact)
        with self._library.snapshot() as snapshot:
            view = self._view(snapshot, *options)
            if not self._index_problem:
                return self._hits(view, encoded, (top_k, per_video))
        # The generation may have been superseded between reading its id and opening its file: read the id once more.
        # If the index is still unusable, all clips are scanned.
        with self._library.snapshot() as snapshot:
            view = self._view(snapshot, *options)
            if self._index_problem and self._index_problem != self._logged_problem:
                logger.warning("%s", self._index_problem)
                self._logged_problem = self._index_problem
            return self._hits(view, encoded, (top_k, per_video))

    def _follow_upgrades(self) -> None:
        """Reopen the library if an upgrade, or its rollback, has put another model version in use."""
        if not self._library.is_in_use():
            now = SearchEngine.open(self._library.root, self._fusion)
            self._library, self._setup = now._library, now._setup
            self._encoder, self.pictures = now._encoder, now.pictures
            self._loaded, self._fusion_spec = None, None

    def _encode(self, query: Query, images: Sequence[Path | Like]) -> EncodedQuery:
        if images and query.order is not None:
            raise QueryError(
                "images go with one moment, and this query has two; leave out then, near and within",
                query.moments[1].terms[0].position,
            )
        words = [[self._encoder.encode(part) for part in moment.parts()] for moment in query.moments]
        pictures = [self.pictures.encode(Path(image)) for image in images if not isinstance(image, Like)]
        return EncodedQuery(query, words, pictures, [image for image in images if isinstance(image, Like)])

    def _view(
        self, snapshot: Snapshot, weights: Mapping[ModalityName, float], combine: Combination, exact: bool
    ) -> View:
        """Return what the search reads; `_index_problem` says if the index should be in it and cannot be used."""
        spec, generation = self._spec(snapshot)
        if weights and not spec.weights_are_open:
            raise UsageError(
                f"this library's vectors are fused as {spec.fusion}, with fixed weights: a query cannot have its own; "
                "for that run: vfindex rebuild --fusion concat"
            )
        spec = spec.with_weights(weights)
        self._index_problem = ""
        index = None if generation is None or exact else self._index(snapshot, generation)
        watermark = 0 if generation is None else generation.watermark
        present = {m: part.weight for m, part in spec.parts.items() if part.weight > 0}
        return View(snapshot, spec, self._setup, index, watermark, present if combine == "rrf" else None)

    def _spec(self, snapshot: Snapshot) -> tuple[JointSpec, Generation | None]:
        if self._fusion is None:
            return reading_spec(snapshot)
        if self._fusion_spec is None:
            self._fusion_spec = estimated_spec(snapshot, self._fusion)
        return self._fusion_spec, None

    def _index(self, snapshot: Snapshot, generation: Generation) -> JointIndex | None:
        """Return the index of a generation; None if it cannot be used, which is remembered until the next commit."""
        if self._loaded is None or self._loaded[0] != generation.id:
            opened = snapshot.remembered(("index", generation.id), lambda: self._open_index(generation))
            if isinstance(opened, IndexUnusable):
                self._index_problem = str(opened)
                return None
            self._loaded = (generation.id, opened)
        return self._loaded[1]

    def _open_index(self, generation: Generation) -> JointIndex | IndexUnusable:
        try:
            return self._library.open_index(generation)
        except IndexUnusable as exc:
            return exc

    def _hits(self, view: View, encoded: EncodedQuery, limits: tuple[int, int]) -> Hits:
        results = _results(view, encoded, limits)
        videos = {id_ for each in results for id_ in (each.video_id, *(copy.video_id for copy in each.duplicates))}
        clips = [each.clip.id for result in results for each in result.moments]
        snapshot = view.snapshot
        details = ClipDetails(snapshot.paths_of(list(videos)), snapshot.said(clips), snapshot.coverage_of(clips))
        is_calibrated = view.rank_weights is None and not encoded.has_images
        labeller = Labeller.of(snapshot.get(META_KEY) if is_calibrated else None, encoded.query, view.spec)
        hits = [self._hit(rank, result, details) for rank, result in enumerate(results, start=1)]
        other_readings = hints(encoded.query, unmatched_globs(snapshot, encoded.query.filters))
        return Hits((replace(hit, confidence=labeller.label(hit.modalities)) for hit in hits), other_readings)

    def _hit(self, rank: int, result: Result, details: ClipDetails) -> Hit:
        best = max(result.moments, key=lambda each: each.score)
        first, *copies = _existing_first(details.paths[result.video_id])
        also = [Place(path, result.start_s, result.end_s) for path in copies if path is not None]
        also += [Place(_existing_first(details.paths[d.video_id])[0], d.start_s, d.end_s) for d in result.duplicates]
        modalities = {m: _sum(each.contributions.get(m) for each in result.moments) for m in modality_names()}
        return Hit(
            rank=rank,
            video=first,
            start_s=result.start_s,
            end_s=result.end_s,
            frame_s=best.frame_s,
            score=result.score,
            modalities=modalities,
            words=tuple(dict.fromkeys(word for each in result.moments for word in each.words)),
            snippet=best.snippet or details.said.get(best.clip.id, "")[:SNIPPET_CHARS] or None,
            coarse=COARSE in details.coverage.get(best.clip.id, ()),
            thumbnail=self._library.thumbnail(best.clip.thumbnail),
            moments=tuple(
                Span(each.clip.start_s, each.clip.end_s, each.frame_s, each.score) for each in result.moments
            ),
            also=tuple(also),
            matches=_matches(result),
            missing={m: _why_missing(m, best, details) for m in modality_names() if modalities[m] is None},
        )


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A query with its vectors.

    words: for each moment, for each of its parts, modality -> (dim,). pictures: (dim,) each. likes: clips of the
    library to find similar clips for.
    """

    query: Query
    words: Sequence[Sequence[Mapping[ModalityName, FloatArray]]]
    pictures: Sequence[FloatArray]
    likes: Sequence[Like]

    @property
    def has_images(self) -> bool:
        return bool(self.pictures or self.likes)


@dataclass(frozen=True, slots=True)
class ClipDetails:
    """What hits need beyond scores. paths: by video id. said, coverage: by clip id."""

    paths: Mapping[int, Sequence[bytes]]
    said: Mapping[int, str]
    coverage: Mapping[int, Mapping[str, str]]


def _results(view: View, encoded: EncodedQuery, limits: tuple[int, int]) -> list[Result]:
    """Return the best results of the candidates from index, delta and keywords. limits: (top_k, per_video)."""
    top_k, per_video = limits
    query = encoded.query
    videos = filtered(view.snapshot, query.filters)
    vectors = [combine_parts(m.parts(), w, view.spec) for m, w in zip(query.moments, encoded.words, strict=True)]
    vectors[0], examples = _with_images(view, vectors[0], encoded)
    moments = [_candidates(view, *each, videos) for each in zip(query.moments, vectors, strict=True)]
    merge, duration_s = partial(merge_neighbours, view.snapshot, moments[0]), cache(view.snapshot.duration_s)
    first = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * top_k * per_video)
    deepest = max(first, MAX_CANDIDATES)
    depth = first if query.order is None else min(DEEPER * first, deepest)
    while True:
        groups, bound = _groups(view, query, moments, (depth, first))
        # With one hit per video all spans grow together at the end, with one statement per round.
        expand = (lambda new, before: merge([new], before)) if per_video > 1 else lambda *_: None
        results = select_results(groups, limits, duration_s, expand, examples)
        complete = len(results) == top_k and results[-1].score >= bound
        if complete or depth == deepest or all(each.is_exhausted(depth) for each in moments):
            if per_video == 1:
                merge(results, examples)
            return results
        depth = min(DEEPER * depth, deepest)  # one long video fills the candidates


def _candidates(view: View, moment: Moment, vectors: QueryVectors, videos: frozenset[int] | None) -> Candidates:
    keywords = match_keywords(view.snapshot, moment.keywords(), videos)
    prefilter = build_prefilter(view.snapshot, moment, keywords, videos)
    return Candidates(view, vectors, keywords, prefilter)


def _groups(
    view: View, query: Query, moments: Sequence[Candidates], depths: tuple[int, int]
) -> tuple[list[Group], float]:
    """Return candidate groups, best first, and an upper bound of the score of all others.

    depths: candidates per moment, and pairs that are read.
    """
    depth, pairs_read = depths
    if query.order is None:
        return [(each,) for each in moments[0].best(depth)], -math.inf
    when = (query.order, query.within_s)
    pairs, bound = best_pairs(view.snapshot, (moments[0], moments[1]), when, depth, pairs_read)
    return [(pair.first, pair.second) for pair in pairs], bound


def _with_images(view: View, vectors: QueryVectors, encoded: EncodedQuery) -> tuple[QueryVectors, list[Result]]:
    """Return the query vectors with images, and the clips of the library among these."""
    if not encoded.has_images:
        return vectors, []
    clips = [(like, clip_at(view.snapshot, like)) for like in encoded.likes]
    stored = [stored_image(view.snapshot, clip, like) for like, clip in clips]
    vectors = add_images(vectors, [*encoded.pictures, *stored], view)
    examples = score_clips(view, [clip.id for _, clip in clips], vectors, KeywordMatches())
    return vectors, [Result.of((each,)) for each in examples]


def _matches(result: Result) -> tuple[Match, ...]:
    """Return the texts that contain words of the query, each once, those with the most words first."""
    by_id = {each.document.document_id: each for scored in result.moments for each in scored.matches}
    ordered = sorted(by_id.values(), key=lambda each: (-len(each.keywords), each.document.start_s or 0.0))
    return tuple(
        Match(
            tuple(dict.fromkeys(keyword.text for keyword in each.keywords)),
            each.document.text,
            each.document.kind,
            each.document.start_s,
            each.document.end_s,
            each.document.source,
        )
        for each in ordered
    )


def _why_missing(modality: ModalityName, scored: ScoredClip, details: ClipDetails) -> str:
    if modality in scored.vectors.embeddings:
        return "not asked for"
    covered = details.coverage.get(scored.clip.id, {}).get(modality)
    return f"nothing in this clip ({covered})" if covered else "nothing in this clip"


def _existing_first(paths: Sequence[bytes]) -> list[bytes | None]:
    """Return paths, those that exist first; [None] if there are none."""
    return [*sorted(paths, key=lambda path: not os.path.exists(path))] or [None]


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum of the values that are not None; None if all are."""
    present = [value for value in values if value is not None]
    return sum(present) if present else None


def _check_weights(weights: Mapping[ModalityName, float]) -> Mapping[ModalityName, float]:
    for modality, weight in weights.items():
        if modality not in modality_names():
            raise QueryError(f"there is no modality {modality!r}; weights are for {', '.join(modality_names())}")
        if not math.isfinite(weight) or weight < 0:
            raise QueryError(f"the weight of {modality} must be 0 or more, not {weight:g}")
    if len(weights) == len(modality_names()) and not any(weights.values()):
        raise QueryError("all weights are 0; leave one modality above 0")
    return weights
