"""Training data for fusion: the similarities of every candidate clip in each modality, for judged questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfindex.search.evaluation.datasets import Question, Relevant
from vfindex.search.query.ast import Query
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.filters import filtered
from vfindex.search.query.parser import parse
from vfindex.search.rank.candidates import Candidates
from vfindex.search.rank.delta import View
from vfindex.search.rank.lexical import match_keywords
from vfindex.search.rank.prefilter import build_prefilter
from vfindex.search.rank.query_vectors import QueryVectors, combine_parts
from vfindex.search.rank.score import ScoredClip, score_clips
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import QueryError
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.vector import NAMED_WEIGHT, JointSpec
from vfindex.storage.library import Library, estimated_spec
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray
from vfindex.storage.settings_backup import setup_of

# Candidates per weighting: the default one, and each modality alone.
DEPTH = 100
# A clip is relevant if it overlaps a judged span by this share of the shorter of the two.
_HALF = 0.5
# Discounts of the first ten ranks.
_DISCOUNTS = 1 / np.log2(np.arange(2, 12))


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A question and its n candidates, grouped by video.

    clips, videos: (n,) ids. firsts: the first row of each video. similar: (n, n_modalities) similarity at weight 1, in
    the order of the library's JointSpec, 0 for a missing one. words: (n, n_modalities) keyword bonus. right: (n,)
    whether the clip is relevant.
    grades: grade of each video, 0 if not relevant. ideal: grades of all relevant videos, best first. query: modality ->
    centred query vector (dim,). named: (n_modalities,) whether the question names the modality.
    """

    question: Question
    clips: NDArray[np.int64]
    videos: NDArray[np.int64]
    firsts: NDArray[np.int64]
    similar: NDArray[np.float64]
    words: NDArray[np.float64]
    right: NDArray[np.bool_]
    grades: NDArray[np.float64]
    ideal: NDArray[np.float64]
    query: Mapping[ModalityName, FloatArray]
    named: NDArray[np.bool_]

    def scores(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores (n,) of the clips at weights (n_modalities,).

        Keywords of a modality of weight 0 do not count. A modality that is named counts at any weight.
        """
        weights = np.where(self.named & (weights == 0), NAMED_WEIGHT, weights)
        return np.asarray(self.similar @ weights + self.words @ (weights > 0))

    def restricted(self, videos: NDArray[np.int64]) -> Trial:
        """Return the trial with only the candidates of these videos."""
        kept = np.isin(self.videos, videos)
        grades = self.grades[kept[self.firsts]]
        firsts = np.unique(self.videos[kept], return_index=True)[1]
        chosen = {name: getattr(self, name)[kept] for name in ("clips", "videos", "similar", "words", "right")}
        return replace(self, firsts=firsts, grades=grades, **chosen)

    def ndcg(self, scores: NDArray[np.float64]) -> float:
        """Return nDCG@10 of the videos by their best clips, as in `metrics`."""
        best = np.maximum.reduceat(scores, self.firsts) if len(scores) else scores
        return _dcg(self.grades[np.argsort(-best, kind="stable")]) / _dcg(self.ideal)


def _dcg(gains: NDArray[np.float64]) -> float:
    top = gains[: len(_DISCOUNTS)]
    return float(top @ _DISCOUNTS[: len(top)])


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Trials over one library. vectors: modality -> (n_clips, dim), centred, 0 if missing.

    rows: clip id -> row of `vectors`.
    """

    each: Sequence[Trial]
    spec: JointSpec
    vectors: Mapping[ModalityName, FloatArray]
    rows: Mapping[int, int]

    def of(self, questions: Sequence[Question]) -> Trials:
        """Return the trials of these questions."""
        wanted = {question.id for question in questions}
        return replace(self, each=[trial for trial in self.each if trial.question.id in wanted])

    def restricted_to_answers(self) -> Trials:
        """Return the trials with only the candidates whose videos are relevant for any of them."""
        answers = [trial.videos[trial.firsts][trial.grades > 0] for trial in self.each]
        videos = np.concatenate([np.zeros(0, np.int64), *answers])
        return replace(self, each=[trial.restricted(videos) for trial in self.each])


def collect_trials(library: Library, questions: Sequence[Question], known: Mapping[str, int], fusion: Fusion) -> Trials:
    """Return the trials of the questions with one moment; others are left out.

    known: video name -> id. fusion: the form that clips are scored by. Raises LibraryError, ModelError.
    """
    with library.snapshot() as snapshot:
        setup = setup_of(snapshot, library.folder)
        spec = estimated_spec(snapshot, fusion)
        view = View(snapshot, spec, setup, None, 0)
        encoder = QueryEncoder(library, setup)
        trials = (_trial(view, encoder, question, known) for question in questions)
        each = [trial for trial in trials if trial is not None]
        ids = sorted({id_ for trial in each for id_ in trial.clips.tolist()})
        return Trials(each, spec, _centred(snapshot, spec, ids), {id_: row for row, id_ in enumerate(ids)})


def _trial(view: View, encoder: QueryEncoder, question: Question, known: Mapping[str, int]) -> Trial | None:
    try:
        query = Query.plain(question.text) if question.is_caption else parse(question.text)
    except QueryError:
        return None
    if len(query.moments) > 1:
        return None
    [moment] = query.moments
    videos = filtered(view.snapshot, query.filters)
    keywords = match_keywords(view.snapshot, moment.keywords(), videos)
    prefilter = build_prefilter(view.snapshot, moment, keywords, videos)
    vectors = [encoder.encode(part) for part in moment.parts()]
    query_vectors = combine_parts(moment.parts(), vectors, view.spec)
    ids: set[int] = set()
    for weights in ({}, *(_alone(view.spec, m) for m in view.spec.order)):
        tried = replace(view, spec=view.spec.with_weights(weights))
        ids |= {scored.clip.id for scored in Candidates(tried, query_vectors, keywords, prefilter).best(DEPTH)}
    even = replace(view, spec=view.spec.with_weights(dict.fromkeys(view.spec.order, 1.0)))
    scored = sorted(
        score_clips(even, sorted(ids), query_vectors, keywords), key=lambda each: (each.clip.video_id, each.clip.id)
    )
    trial = _numbers(question, scored, _centred_query(query_vectors, view.spec), (view.spec.order, known))
    return replace(trial, named=np.array([m in query.named for m in view.spec.order]))


def _alone(spec: JointSpec, modality: ModalityName) -> dict[ModalityName, float]:
    return {m: float(m == modality) for m in spec.order}


def _centred_query(query: QueryVectors, spec: JointSpec) -> dict[ModalityName, FloatArray]:
    return {m: vector - spec.parts[m].query_mean for m, vector in query.vectors.items()}


def _numbers(
    question: Question,
    scored: Sequence[ScoredClip],
    query: Mapping[ModalityName, FloatArray],
    library: tuple[Sequence[ModalityName], Mapping[str, int]],
) -> Trial:
    """library: its modalities, and video name -> id."""
    order, known = library
    relevant = {known[each.video]: each for each in question.relevant if each.video in known}
    videos = [each.clip.video_id for each in scored]
    firsts = [at for at, video in enumerate(videos) if not at or videos[at - 1] != video]
    words = [[each.bonus.get(m, 0.0) for m in order] for each in scored]
    totals = [[each.modalities.get(m, 0.0) for m in order] for each in scored]
    grades = [relevant[videos[at]].grade if videos[at] in relevant else 0 for at in firsts]
    return Trial(
        question,
        clips=np.array([each.clip.id for each in scored], np.int64),
        videos=np.array(videos, np.int64),
        firsts=np.array(firsts, np.int64),
        similar=np.array(totals).reshape(-1, len(order)) - np.array(words).reshape(-1, len(order)),
        words=np.array(words).reshape(-1, len(order)),
        right=_right([each.clip for each in scored], relevant),
        grades=np.array(grades, np.float64),
        ideal=np.sort(np.array([each.grade for each in question.relevant], np.float64))[::-1],
        query=query,
        named=np.zeros(len(order), np.bool_),
    )


def _right(clips: Sequence[StoredClip], relevant: Mapping[int, Relevant]) -> NDArray[np.bool_]:
    """Return which clips are relevant: those that overlap judged spans, else all clips of the video."""
    right = np.zeros(len(clips), np.bool_)
    for video_id, answer in relevant.items():
        own = [at for at, clip in enumerate(clips) if clip.video_id == video_id]
        fitting = [at for at in own if any(_fits(clips[at], span) for span in answer.spans)]
        right[fitting or own] = True
    return right


def _fits(clip: StoredClip, span: tuple[float, float]) -> bool:
    shared = min(clip.end_s, span[1]) - max(clip.start_s, span[0])
    return shared > 0 and shared >= _HALF * min(clip.end_s - clip.start_s, span[1] - span[0])


def _centred(snapshot: Snapshot, spec: JointSpec, ids: Sequence[int]) -> dict[ModalityName, FloatArray]:
    dims = {m: part.dim for m, part in spec.parts.items()}
    batches = [rows for _, rows in snapshot.batches(ids, dims)]
    result: dict[ModalityName, FloatArray] = {}
    for modality, part in spec.parts.items():
        rows = np.concatenate([batch[modality] for batch in batches] or [np.zeros((0, part.dim), np.float32)])
        result[modality] = part.centre(rows) * np.any(rows, axis=1)[:, None]
    return result
