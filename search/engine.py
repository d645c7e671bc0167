"""Questions asked of a library.

from pathlib import Path
from vfindex.search.engine import SearchEngine

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

from vfindex.search.calibration.labels import META_KEY, Judge
from vfindex.search.query.ast import Combination, Moment, Query
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.filters import filtered, unmatched_globs
from vfindex.search.query.hints import hints
from vfindex.search.query.image import Pictures
from vfindex.search.query.like import Like, clip_at, stored_picture
from vfindex.search.query.parser import parse
from vfindex.search.rank.candidates import Ranking
from vfindex.search.rank.delta import View
from vfindex.search.rank.group import Answer, Group, gather, merge_neighbours
from vfindex.search.rank.lexical import WordEvidence, find_words
from vfindex.search.rank.prefilter import allowed
from vfindex.search.rank.query_vectors import Asked, combined, with_pictures
from vfindex.search.rank.score import Scored, score_clips
from vfindex.search.rank.temporal import best_pairs
from vfindex.search.results import Hit, Hits, Match, Place, Span
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.errors import IndexUnusable, QueryError, UsageError
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library, again_if_changed, estimated_spec, reading_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import COARSE, MODALITIES, FloatArray, Modality, Setup

logger = logging.getLogger(__name__)

# Candidates from the joint index for one hit wanted: the rerank by best frame and words moves clips by some places, and
# a long video may hold many of the first.
CANDIDATES_PER_HIT = 20
MIN_CANDIDATES = 200
# What is looked at in the end, where many candidates are of one video, or stand far from their other moment. Scoring so
# many takes some 0.1 s; pairs of which neither clip is among the first of its moment are not found.
MAX_CANDIDATES = 3200
# So many times as deep is looked where the candidates do not do; for a pair from the start, whose moments' first 200
# are hardly ever of one video in a large library: to look at 200 in vain takes as long as to look at 800 once.
DEEPER = 4
# Characters of transcript shown with a hit whose words were not matched.
SNIPPET_CHARS = 160


class SearchEngine:
    """A library opened for questions; it follows new generations and editions. Not for several threads at once."""

    def __init__(self, library: Library, setup: Setup, fusion: Fusion | None = None) -> None:
        self._library = library
        self._setup = setup
        self._fusion = fusion
        self._encoder = QueryEncoder(library, setup)
        self.pictures = Pictures(library, setup)
        self._loaded: tuple[int, JointIndex] | None = None
        self._fault = self._told = ""  # why an index could not be used, and the last time that this was logged
        self._tried: JointSpec | None = None

    @classmethod
    @again_if_changed
    def open(cls, folder: Path, fusion: Fusion | None = None) -> SearchEngine:
        """Open the library in `folder`. Raises LibraryNotFound, LibraryVersion, LibraryDamaged.

        fusion: to be tried in place of the library's own, by a scan of all its clips; nothing is stored.
        """
        library = Library.open(folder)
        with library.snapshot() as snapshot:
            setup = LibraryMeta(snapshot).setup
        if setup is None:
            raise QueryError(f"the library {folder} holds no videos yet; add some with: vfindex ingest VIDEOS")
        return cls(library, setup, fusion)

    @property
    def setup(self) -> Setup:
        """What the library was made with."""
        return self._setup

    @again_if_changed
    def search(  # noqa: PLR0913  every option of a question has its name; no record to import for one of them
        self,
        text: str | Query = "",
        *,
        images: Sequence[Path | Like] = (),
        top_k: int = 10,
        per_video: int = 1,
        weights: Mapping[Modality, float] | None = None,
        combine: Combination = "convex",
        exact: bool = False,
    ) -> Hits:
        """Return the best `top_k` hits for the question, at most `per_video` of one video.

        text: as docs/query.md describes; `Query.plain` makes a question of text in which nothing is syntax.
        images: picture files, and clips of the library, whose like is asked for; text may then be empty.
        weights: replaces the default weight of the modalities named; 0 leaves one out. combine: `rrf` fuses ranks;
        such hits have no confidence, which is measured of scores. exact: scan every clip of library.db, without the
        joint index: slow in a large library. Raises QueryError, ModelError, LibraryDamaged.
        """
        self._follow()
        query = parse(text, wordless=bool(images)) if isinstance(text, str) else text
        checked = _check_weights(weights or {})
        if top_k < 1 or per_video < 1:
            raise QueryError(f"at least one hit must be asked for, not {min(top_k, per_video)}")
        asked = self._encoded(query, images)
        # A generation's file may be superseded between reading its pointer and opening it: the pointer is read once
        # more. A file that is gone for good is done without, by an exact scan.
        how = (checked, combine, exact)
        with self._library.snapshot() as snapshot:
            view = self._view(snapshot, *how)
            if view.is_whole:
                return self._answer(view, asked, (top_k, per_video))
        with self._library.snapshot() as snapshot:
            view = self._view(snapshot, *how)
            if not view.is_whole and self._fault != self._told:
                logger.warning("%s", self._fault)
                self._told = self._fault
            return self._answer(view, asked, (top_k, per_video))

    def _encoded(self, query: Query, images: Sequence[Path | Like]) -> Question:
        if images and query.order is not None:
            told = "pictures ask for one moment, and this question has two; ask without then, near and within"
            raise QueryError(told, query.moments[1].terms[0].position)
        words = [[self._encoder.encode(part) for part in moment.parts()] for moment in query.moments]
        pictures = [self.pictures.encode(Path(image)) for image in images if not isinstance(image, Like)]
        return Question(query, words, pictures, [image for image in images if isinstance(image, Like)])

    def _follow(self) -> None:
        """Go over to the edition in use, where an upgrade or the way back has changed it since the last question."""
        if not self._library.is_in_use():
            now = SearchEngine.open(self._library.root, self._fusion)
            self._library, self._setup = now._library, now._setup
            self._encoder, self.pictures = now._encoder, now.pictures
            self._loaded, self._tried = None, None

    def _answer(self, view: View, question: Question, wanted: tuple[int, int]) -> Hits:
        answers = _choose(view, question, wanted)
        shown = {id_ for a in answers for id_ in (a.video_id, *(place.video_id for place in a.also))}
        clips = [each.clip.id for answer in answers for each in answer.moments]
        snapshot = view.snapshot
        told = Told(snapshot.paths_of(list(shown)), snapshot.said(clips), snapshot.coverage_of(clips))
        stored = view.snapshot.get(META_KEY) if view.ranks is None and not question.has_pictures else None
        judge = Judge.of(stored, question.query, view.spec)
        hits = [self._hit(rank, answer, told) for rank, answer in enumerate(answers, start=1)]
        hinted = hints(question.query, unmatched_globs(snapshot, question.query.filters))
        return Hits((replace(hit, confidence=judge.label(hit.modalities)) for hit in hits), hinted)

    def _view(self, snapshot: Snapshot, weights: Mapping[Modality, float], combine: Combination, exact: bool) -> View:
        spec, generation = self._spec(snapshot)
        if weights and not spec.weights_are_open:
            raise UsageError(
                f"this library's vectors are fused as {spec.fusion}, with fixed weights: a question cannot have "
                "its own; for that run: vfindex rebuild --fusion concat"
            )
        spec = spec.with_weights(weights)
        index = None if generation is None or exact else self._index(snapshot, generation)
        watermark = 0 if generation is None else generation.watermark
        whole = generation is None or exact or index is not None
        lists = {m: part.weight for m, part in spec.parts.items() if part.weight > 0}
        ranks = lists if combine == "rrf" else None
        return View(snapshot, spec, self._setup, index, watermark, is_whole=whole, ranks=ranks)

    def _spec(self, snapshot: Snapshot) -> tuple[JointSpec, Generation | None]:
        if self._fusion is None:
            return reading_spec(snapshot)
        if self._tried is None:
            self._tried = estimated_spec(snapshot, self._fusion)
        return self._tried, None

    def _index(self, snapshot: Snapshot, generation: Generation) -> JointIndex | None:
        """Return the index of a generation, None for one that cannot be used: not tried again until a commit."""
        if self._loaded is None or self._loaded[0] != generation.id:
            found = snapshot.remembered(("index", generation.id), lambda: self._opened(generation))
            if isinstance(found, IndexUnusable):
                self._fault = str(found)
                return None
            self._loaded = (generation.id, found)
        return self._loaded[1]

    def _opened(self, generation: Generation) -> JointIndex | IndexUnusable:
        try:
            return self._library.open_index(generation)
        except IndexUnusable as exc:
            return exc

    def _hit(self, rank: int, answer: Answer, told: Told) -> Hit:
        best = max(answer.moments, key=lambda each: each.score)
        first, *copies = _existing_first(told.paths[answer.video_id])
        also = [Place(path, answer.start_s, answer.end_s) for path in copies if path is not None]
        also += [Place(_existing_first(told.paths[p.video_id])[0], p.start_s, p.end_s) for p in answer.also]
        modalities = {m: _added(each.contributions.get(m) for each in answer.moments) for m in MODALITIES}
        return Hit(
            rank=rank,
            video=first,
            start_s=answer.start_s,
            end_s=answer.end_s,
            frame_s=best.frame_s,
            score=answer.score,
            modalities=modalities,
            words=tuple(dict.fromkeys(word for each in answer.moments for word in each.words)),
            snippet=best.snippet or told.said.get(best.clip.id, "")[:SNIPPET_CHARS] or None,
            coarse=COARSE in told.coverage.get(best.clip.id, ()),
            thumbnail=self._library.thumbnail(best.clip.thumbnail),
            moments=tuple(
                Span(each.clip.start_s, each.clip.end_s, each.frame_s, each.score) for each in answer.moments
            ),
            also=tuple(also),
            matches=_matches(answer),
            missing={m: _why(m, best, told) for m in MODALITIES if modalities[m] is None},
        )


@dataclass(frozen=True, slots=True)
class Told:
    """What the library tells of the clips found. paths: by video id. said, coverage: by clip id."""

    paths: Mapping[int, Sequence[bytes]]
    said: Mapping[int, str]
    coverage: Mapping[int, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its vectors.

    words: for each moment, for each of its parts, modality -> (dim,). pictures: (dim,) each. likes: clips whose like
    is asked for.
    """

    query: Query
    words: Sequence[Sequence[Mapping[Modality, FloatArray]]]
    pictures: Sequence[FloatArray]
    likes: Sequence[Like]

    @property
    def has_pictures(self) -> bool:
        return bool(self.pictures or self.likes)


def _choose(view: View, question: Question, wanted: tuple[int, int]) -> list[Answer]:
    """Return the best answers: candidates from index, tail and words, reranked; wanted: (top_k, per_video)."""
    top_k, per_video = wanted
    query = question.query
    videos = filtered(view.snapshot, query.filters)
    asked = [combined(moment.parts(), w, view.spec) for moment, w in zip(query.moments, question.words, strict=True)]
    asked[0], named = _with_pictures(view, asked[0], question)
    rankings = [_ranking(view, *each, videos) for each in zip(query.moments, asked, strict=True)]
    merge, lasts_s = partial(merge_neighbours, view.snapshot, rankings[0]), cache(view.snapshot.lasts_s)
    first = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * top_k * per_video)
    deepest = max(first, MAX_CANDIDATES)
    depth = first if query.order is None else min(DEEPER * first, deepest)
    while True:
        groups, bound = _groups(view, query, rankings, (depth, first))
        # With one hit a video, the spans of all grow together at the end: one question to the library each round.
        settle = (lambda new, before: merge([new], before)) if per_video > 1 else lambda *_: None
        answers = gather(groups, wanted, lasts_s, settle, named)
        complete = len(answers) == top_k and answers[-1].score >= bound
        if complete or depth == deepest or all(ranking.is_exhausted(depth) for ranking in rankings):
            if per_video == 1:
                merge(answers, named)
            return answers
        depth = min(DEEPER * depth, deepest)  # one long video fills the candidates: look further down


def _groups(
    view: View, query: Query, rankings: Sequence[Ranking], depths: tuple[int, int]
) -> tuple[list[Group], float]:
    """Return the candidates, best first, and a bound: what is not among them scores no more.

    depths: how many clips to look at for each moment, and how many pairs of them to read.
    """
    depth, pairs_read = depths
    if query.order is None:
        return [(each,) for each in rankings[0].best(depth)], -math.inf
    when = (query.order, query.within_s)
    pairs, bound = best_pairs(view.snapshot, (rankings[0], rankings[1]), when, depth, pairs_read)
    return [(pair.first, pair.second) for pair in pairs], bound


def _matches(answer: Answer) -> tuple[Match, ...]:
    """Return the lines that hold words of the question, each once, those with the most words first."""
    found = {each.match.document_id: each for scored in answer.moments for each in scored.found}
    ordered = sorted(found.values(), key=lambda each: (-len(each.needles), each.match.start_s or 0.0))
    return tuple(
        Match(
            tuple(dict.fromkeys(needle.text for needle in each.needles)),
            each.match.text,
            each.match.kind,
            each.match.start_s,
            each.match.end_s,
            each.match.source,
        )
        for each in ordered
    )


def _why(modality: Modality, scored: Scored, told: Told) -> str:
    """Return why a modality adds nothing to a hit."""
    if modality in scored.vectors.embeddings:
        return "not asked for"
    covered = told.coverage.get(scored.clip.id, {}).get(modality)
    return f"nothing in this clip ({covered})" if covered else "nothing in this clip"


def _existing_first(paths: Sequence[bytes]) -> list[bytes | None]:
    """Return paths, those that exist first; None for nowhere."""
    return [*sorted(paths, key=lambda path: not os.path.exists(path))] or [None]


def _with_pictures(view: View, asked: Asked, question: Question) -> tuple[Asked, list[Answer]]:
    """Return the question with its pictures, and the clips that it names."""
    if not question.has_pictures:
        return asked, []
    clips = [(like, clip_at(view.snapshot, like)) for like in question.likes]
    stored = [stored_picture(view.snapshot, clip, like) for like, clip in clips]
    asked = with_pictures(asked, [*question.pictures, *stored], view)
    named = score_clips(view, [clip.id for _, clip in clips], asked, WordEvidence())
    return asked, [Answer.of((each,)) for each in named]


def _ranking(view: View, moment: Moment, asked: Asked, videos: frozenset[int] | None) -> Ranking:
    evidence = find_words(view.snapshot, moment.needles(), videos)
    among = allowed(view.snapshot, moment, evidence, videos)
    return Ranking(view, asked, evidence, among)


def _added(values: Iterable[float | None]) -> float | None:
    """Return the sum of what is there, None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _check_weights(weights: Mapping[Modality, float]) -> Mapping[Modality, float]:
    for modality, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise QueryError(f"the weight of {modality} must be 0 or more, not {weight:g}")
    if len(weights) == len(MODALITIES) and not any(weights.values()):
        raise QueryError("with every weight at 0 nothing can be found; leave one modality above 0")
    return weights
