"""Relevance feedback: judged clips move a question in each modality (Rocchio 1971).

    q' = q + BETA * mean(relevant) - GAMMA * mean(not relevant)

in the centred space of the joint vectors, where unrelated clips score 0. The weights are those of Salton and Buckley
(1990, "Improving retrieval performance by relevance feedback", JASIS 41), for vectors of one length. A text and a clip
differ in how far their similarities to unrelated clips spread; so each vector is divided by that spread before the
sum, and the result is brought back to the spread of the question. Matched words are not touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.request import Judged
from vfindex.search.rank.delta import View
from vfindex.search.rank.query_vectors import PRIOR_CLIPS, SAMPLE_CLIPS, QueryVectors
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray

BETA, GAMMA = 0.75, 0.15
# Judgements that count, the newest: what a person marks in one question.
MOST_JUDGED = 200


@dataclass(frozen=True, slots=True)
class Moved:
    """A question that was moved. used: how many judgements have a clip here. cosines: modality -> to the question."""

    query: QueryVectors
    used: int
    cosines: Mapping[ModalityName, float]


def moved(view: View, query: QueryVectors, judged: Sequence[Judged]) -> Moved:
    """Return a question moved by judged clips of the library; a modality that none of them has stays as it is.

    A clip that the library does not have is left out.
    """
    ids = _clip_ids(view, judged[-MOST_JUDGED:])
    read = view.snapshot.with_vectors(list(ids))
    vectors, cosines = dict(query.vectors), {}
    for modality, vector in query.vectors.items():
        part = view.spec.parts[modality]
        rows = {id_: of.embeddings[modality] for id_, (_, of) in read.items() if modality in of.embeddings}
        spread = query.spread.get(modality, 0.0)
        if not rows or not spread:
            continue
        sample = _sample(view, modality)
        examples = part.centre(np.stack(list(rows.values())))  # (n, dim)
        examples /= _spreads(sample, examples)[:, None]
        grades = np.array([ids[id_] for id_ in rows], np.float64)
        own = (vector - part.query_mean) / spread
        total = own + BETA * _mean(examples, grades) - GAMMA * _mean(examples, (grades == 0).astype(np.float64))
        total *= spread / _spreads(sample, total[None])[0]
        cosines[modality] = float(own @ total / max(float(np.linalg.norm(own) * np.linalg.norm(total)), 1e-12))
        vectors[modality] = np.asarray(part.query_mean + total, np.float32)
    return Moved(replace(query, vectors=vectors), len(ids), cosines)


def _clip_ids(view: View, judged: Sequence[Judged]) -> dict[int, int]:
    """Return clip id -> grade, of a clip that was judged twice the newest."""
    found: dict[int, int] = {}
    ids: dict[str, dict[int, int]] = {}  # fingerprint -> start_ms -> clip id; thousands of a long video
    for each in judged:
        name = each.key.fingerprint
        if name not in ids:
            video = view.snapshot.video_with(name)
            clips = [] if video is None else view.snapshot.clips_of(video.id)
            ids[name] = {clip.start_ms: clip.id for clip in clips}
        if each.key.start_ms in ids[name]:
            found[ids[name][each.key.start_ms]] = each.grade
    return found


def _sample(view: View, modality: ModalityName) -> FloatArray:
    """Return centred vectors (n, dim) of clips spread over the library, at most SAMPLE_CLIPS."""
    part, snapshot = view.spec.parts[modality], view.snapshot
    last = max(snapshot.clip_ids(), default=0) if not view.watermark else view.watermark
    ids = np.unique(np.linspace(min(1, last), last, SAMPLE_CLIPS).astype(np.int64)).tolist()
    batches = [batch[modality] for _, batch in snapshot.batches(ids, {modality: part.dim})]
    rows = np.concatenate([np.zeros((0, part.dim), np.float32), *batches])
    return part.centre(rows[np.any(rows, axis=1)])


def _spreads(sample: FloatArray, vectors: FloatArray) -> FloatArray:
    """Return (n,) the standard deviation of the similarities of sampled clips to vectors (n, dim); 1 by the prior."""
    squares = np.sum(np.square(sample @ vectors.T, dtype=np.float64), axis=0)
    return np.asarray(np.sqrt((squares + PRIOR_CLIPS) / (len(sample) + PRIOR_CLIPS)), np.float32)


def _mean(rows: FloatArray, weights: NDArray[np.float64]) -> FloatArray:
    """Return the weighted mean (dim,) of rows, zeros where no row has a weight."""
    total = float(np.sum(weights))
    return np.asarray(weights @ rows / total if total > 0 else np.zeros(rows.shape[1]), np.float32)
