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
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from threading import RLock

from vfindex.search.calibration.labels import META_KEY, Labeller
from vfindex.search.query.ast import Combination, Moment, Query
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.filters import filtered, unmatched_globs
from vfindex.search.query.hints import hints
from vfindex.search.query.image import Pictures
from vfindex.search.query.like import Like, clip_among, stored_image
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Example, Request
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
from vfindex.storage.errors import IndexUnusable, LibraryChanged, LibraryError, ModelError, QueryError, UsageError
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library, again_if_changed, closed, estimated_spec, reading_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, modality_names
from vfindex.storage.records import COARSE, ClipKey, FloatArray, Setup

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


@dataclass(frozen=True, slots=True, eq=False)
class Searcher:
    """What all threads that search one model version share. generation: the SHA-256 of the file of `index`."""

    library: Library
    setup: Setup
    encoder: QueryEncoder
    pictures: Pictures
    generation: str = ""
    index: JointIndex | None = None


class SearchEngine:
    """An open library. It follows new generations of the index and model upgrades. Any number of threads may search.

    A thread searches with the `Searcher` that is there when it begins; another replaces it as a whole.
    """

    def __init__(self, folder: Path, fusion: Fusion | None = None) -> None:
        """Open nothing yet. fusion: see `open`."""
        self._folder, self._fusion = folder, fusion
        self._lock, self._is_closed = RLock(), False
        self._library: Library | None = None
        self._searcher: Searcher | None = None
        self._logged_problem = ""

    @classmethod
    def open(cls, folder: Path, fusion: Fusion | None = None) -> SearchEngine:
        """Open the library in `folder`. Raises LibraryNotFound, LibraryVersion, LibraryDamaged, QueryError if empty.

        fusion: replaces the library's own for this engine; searches then scan all clips, and nothing is stored.
        """
        engine = cls(folder, fusion)
        engine.searcher()
        return engine

    def library(self) -> Library:
        """Return the model version in use, open; another one after an upgrade or its rollback. Raises LibraryError."""
        library = self._library
        if library is None or not library.is_in_use():
            with self._lock:
                library = self._library
                if self._is_closed:
                    raise closed(self._folder)
                if library is None or not library.is_in_use():
                    library = self._library = Library.open(self._folder)
        return library

    @again_if_changed
    def searcher(self) -> Searcher:
        """Return what searches read now. Raises LibraryError, and QueryError for a library without videos."""
        library, searcher = self.library(), self._searcher
        if searcher is not None and searcher.library is library:
            return searcher
        with library.snapshot() as snapshot:
            setup = LibraryMeta(snapshot).setup
        if setup is None:
            raise QueryError(f"the library {self._folder} holds no videos yet; add some with: vfindex ingest VIDEOS")
        with self._lock:
            if self._searcher is None or self._searcher.library is not library:
                self._searcher = Searcher(library, setup, QueryEncoder(library, setup), Pictures(library, setup))
            return self._searcher

    def close(self) -> None:
        """Close the library. Searches that still run end with their hits or raise LibraryError, as later ones do."""
        with self._lock:
            library, self._library, self._searcher, self._is_closed = self._library, None, None, True
        if library is not None:
            library.close(permanently=True)

    @property
    def setup(self) -> Setup:
        """The preset, models and sampling of the library."""
        return self.searcher().setup

    @property
    def pictures(self) -> Pictures:
        """The image encoder of the library."""
        return self.searcher().pictures

    def search(  # noqa: PLR0913  every option of a search has its name; no record to import for one of them
        self,
        text: str | Query = "",
        *,
        images: Sequence[Example] = (),
        top_k: int = 10,
        per_video: int = 1,
        weights: Mapping[ModalityName, float] | None = None,
        combine: Combination = "convex",
        exact: bool = False,
        timeout_s: float | None = None,
    ) -> Hits:
        """Return the best `top_k` hits, at most `per_video` of one video, those no better than chance included.

        text: in the query language of docs/query.md; `Query.plain` makes a query without syntax.
        images: picture files and clips of the library to find similar clips for; text may then be empty.
        weights: override the default weights of these modalities; 0 leaves one out. combine: `rrf` fuses ranks; such
        hits have no confidence, which is calibrated on scores. exact: scan every clip of library.db instead of using
        the joint index; slow in a large library. timeout_s: a search that takes longer raises QueryTimeout.
        Raises QueryError, UsageError, ModelError, LibraryDamaged.
        """
        weights = {} if weights is None else weights
        return self.answer(Request(text, images, top_k, per_video, weights, combine, exact, timeout_s))

    def encode(self, request: Request) -> EncodedQuery:
        """Return a request's query with its vectors, for all libraries of an equal setup. Raises as `search` does."""
        return _encode(self.searcher(), request)

    def answer(self, request: Request, others: Sequence[Snapshot] = (), encoded: EncodedQuery | None = None) -> Hits:
        """Return the hits of a request, see `search`. others: see `View`. encoded: by a library of an equal setup."""
        until_s = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        searcher = self.searcher()
        try:
            return self._answer(searcher, request, (others, encoded), until_s)
        except (LibraryError, ModelError) as exc:
            if not isinstance(exc, LibraryChanged) and searcher.library.is_in_use():
                raise
        return self._answer(self.searcher(), request, (others, encoded), until_s)  # changed, or upgraded, meanwhile

    def _answer(
        self,
        searcher: Searcher,
        request: Request,
        given: tuple[Sequence[Snapshot], EncodedQuery | None],
        until_s: float | None,
    ) -> Hits:
        others, encoded = given
        encoded = _encode(searcher, request) if encoded is None else encoded
        with searcher.library.snapshot(until_s) as snapshot:
            view, problem = self._view(searcher, snapshot, request, others)
            if not problem:
                return _hits(searcher.library, view, encoded, request)
        # The generation may have been superseded between reading its id and opening its file: read the id once more.
        # If the index is still unusable, all clips are scanned.
        with searcher.library.snapshot(until_s) as snapshot:
            view, problem = self._view(searcher, snapshot, request, others)
            if problem and problem != self._logged_problem:
                logger.warning("%s", problem)
                self._logged_problem = problem
            return _hits(searcher.library, view, encoded, request)

    def _view(
        self, searcher: Searcher, snapshot: Snapshot, request: Request, others: Sequence[Snapshot]
    ) -> tuple[View, str]:
        """Return what the search reads, and why the index that should be in it cannot be used, else ""."""
        spec, generation = self._spec(snapshot)
        if request.weights and not spec.weights_are_open:
            raise UsageError(
                f"this library's vectors are fused as {spec.fusion}, with fixed weights: a query cannot have its own; "
                "for that run: vfindex rebuild --fusion concat"
            )
        spec = spec.with_weights(request.weights)
        opened = None if generation is None or request.exact else self._index(searcher, snapshot, generation)
        index, problem = (None, str(opened)) if isinstance(opened, IndexUnusable) else (opened, "")
        watermark = 0 if generation is None else generation.watermark
        present = {m: part.weight for m, part in spec.parts.items() if part.weight > 0}
        ranks = present if request.combine == "rrf" else None
        return View(snapshot, spec, searcher.setup, index, watermark, ranks, others), problem

    def _spec(self, snapshot: Snapshot) -> tuple[JointSpec, Generation | None]:
        fusion = self._fusion
        if fusion is None:
            return reading_spec(snapshot)
        return snapshot.remembered(("estimated spec of", id(self)), lambda: estimated_spec(snapshot, fusion)), None

    def _index(self, searcher: Searcher, snapshot: Snapshot, generation: Generation) -> JointIndex | IndexUnusable:
        """Return the index of a generation, opened once for all threads; why it cannot be used, until a commit."""
        now = self._searcher
        for each in (searcher, *([now] if now is not None and now.library is searcher.library else [])):
            if each.index is not None and each.generation == generation.sha256:
                return each.index
        opened = snapshot.remembered(("index", generation.id), lambda: _opened_index(searcher.library, generation))
        if isinstance(opened, JointIndex):
            with self._lock:
                if self._searcher is not None and self._searcher.library is searcher.library:
                    self._searcher = replace(self._searcher, generation=generation.sha256, index=opened)
        return opened


def _opened_index(library: Library, generation: Generation) -> JointIndex | IndexUnusable:
    try:
        return library.open_index(generation)
    except IndexUnusable as exc:
        return exc


def _encode(searcher: Searcher, request: Request) -> EncodedQuery:
    text, images = request.text, request.images
    query = parse(text, wordless=bool(images)) if isinstance(text, str) else text
    if images and query.order is not None:
        raise QueryError(
            "images go with one moment, and this query has two; leave out then, near and within",
            query.moments[1].terms[0].position,
        )
    words = [[searcher.encoder.encode(part) for part in moment.parts()] for moment in query.moments]
    pictures = [searcher.pictures.encode(Path(image)) for image in images if not isinstance(image, Like | ClipKey)]
    return EncodedQuery(query, words, pictures, [image for image in images if isinstance(image, Like | ClipKey)])


def _hits(library: Library, view: View, encoded: EncodedQuery, request: Request) -> Hits:
    results = _results(view, encoded, (request.top_k, request.per_video))
    videos = {id_ for each in results for id_ in (each.video_id, *(copy.video_id for copy in each.duplicates))}
    clips = [each.clip.id for result in results for each in result.moments]
    snapshot = view.snapshot
    details = ClipDetails(library, snapshot.named(list(videos)), snapshot.said(clips), snapshot.coverage_of(clips))
    is_calibrated = view.rank_weights is None and not encoded.has_images
    stored = [each.get(META_KEY) if is_calibrated else None for each in (snapshot, *view.others)]
    labeller = Labeller.of(stored, encoded.query, view.spec)
    other_readings = hints(encoded.query, unmatched_globs(snapshot, encoded.query.filters))
    return Hits(
        [_hit(rank, result, details, labeller) for rank, result in enumerate(results, start=1)],
        other_readings,
        query=str(request.text),
        images=tuple(str(each) for each in request.images if not isinstance(each, Like | ClipKey)),
        like=tuple(str(each) if isinstance(each, Like) else "{}@{}ms".format(*each) for each in encoded.likes),
    )


def _hit(rank: int, result: Result, details: ClipDetails, labeller: Labeller) -> Hit:
    best = max(result.moments, key=lambda each: each.score)
    fingerprint, paths = details.videos[result.video_id]
    first, *copies = _existing_first(paths)
    also = [Place(path, result.start_s, result.end_s) for path in copies if path is not None]
    also += [Place(_existing_first(details.videos[d.video_id][1])[0], d.start_s, d.end_s) for d in result.duplicates]
    modalities = {m: _sum(each.contributions.get(m) for each in result.moments) for m in modality_names()}
    return Hit(
        rank=rank,
        library=details.library.root,
        video=first,
        video_id=result.video_id,
        clip_id=best.clip.id,
        key=ClipKey(fingerprint, best.clip.start_ms),
        start_s=result.start_s,
        end_s=result.end_s,
        frame_s=best.frame_s,
        score=result.score,
        share=labeller.share(modalities),
        confidence=labeller.label(modalities),
        coarse=COARSE in details.coverage.get(best.clip.id, ()),
        modalities=modalities,
        words=tuple(dict.fromkeys(word for each in result.moments for word in each.words)),
        snippet=best.snippet or details.said.get(best.clip.id, "")[:SNIPPET_CHARS] or None,
        moments=tuple(Span(each.clip.start_s, each.clip.end_s, each.frame_s, each.score) for each in result.moments),
        also=tuple(also),
        matches=_matches(result),
        missing={m: _why_missing(m, best, details) for m in modality_names() if modalities[m] is None},
        thumbnail=details.library.thumbnail(best.clip.thumbnail),
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
    likes: Sequence[Like | ClipKey]

    @property
    def has_images(self) -> bool:
        return bool(self.pictures or self.likes)


@dataclass(frozen=True, slots=True)
class ClipDetails:
    """What hits need beyond scores. videos: video id -> fingerprint and paths. said, coverage: by clip id."""

    library: Library
    videos: Mapping[int, tuple[str, Sequence[bytes]]]
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
    keywords = match_keywords(view.snapshot, moment.keywords(), videos, view.others)
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
    found = [clip_among((view.snapshot, *view.others), like) for like in encoded.likes]
    stored = [stored_image(snapshot, clip) for snapshot, clip in found]
    clips = [clip for snapshot, clip in found if snapshot is view.snapshot]
    vectors = add_images(vectors, [*encoded.pictures, *stored], view)
    examples = score_clips(view, [clip.id for clip in clips], vectors, KeywordMatches())
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
            each.modality,
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
