"""Heads learned from questions and their relevant clips: a space that all modalities share, besides their own.

InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) over a question's candidates, with several relevant clips as one
positive (MIL-NCE: Miech et al. 2020, arXiv 1912.06430), since often only the video is known. Modalities of clips are
dropped at random (Neverova et al. 2016, arXiv 1501.00102), so that no head relies on one that other clips lack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from vfindex.search.evaluation.training import Trial, Trials
from vfindex.storage.joint.fusion import Heads
from vfindex.storage.modalities import ModalityName

# Dimensions of the shared space, share of modalities dropped, and Adam's own constants (Kingma and Ba 2015).
RANK = 16
DROPPED = 0.3
RATE, DECAY = 0.001, 0.01
# Steps at most, and steps without improvement before training stops early.
STEPS, PATIENCE = 200, 20
_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8

# (side, modality) -> matrix; "A" for clips, "B" for queries.
Matrices = dict[tuple[str, ModalityName], NDArray[np.float64]]


def learn_heads(train: Trials, check: Trials, weights: Mapping[ModalityName, float], seed: int) -> Heads:
    """Return heads learned on `train`, as of the step with the best nDCG on `check`; untrained heads rank as `concat`.

    weights: of the modalities' own similarities. The same trials and seed give the same heads. Negatives are clips
    relevant for other questions, as in a batch: a video relevant for none would only be pushed away.
    """
    train = train.restricted_to_answers()
    own = np.array([weights.get(m, 0.0) for m in train.spec.order])
    generator = np.random.default_rng(seed)
    matrices = _initial(train, generator)
    descent = _Adam(matrices)
    best, best_ndcg, best_step = _copied(matrices), mean_ndcg(check, own, matrices), 0
    for step in range(1, STEPS + 1):
        descent.step(_gradients(train, own, matrices, generator))
        if (ndcg := mean_ndcg(check, own, matrices)) > best_ndcg:
            best, best_ndcg, best_step = _copied(matrices), ndcg, step
        elif step == best_step + PATIENCE:
            break
    clip, query = ({m: np.asarray(best[side, m], np.float32) for m in train.spec.order} for side in "AB")
    return Heads(clip, query)


def _copied(matrices: Matrices) -> Matrices:
    return {key: matrix.copy() for key, matrix in matrices.items()}


def mean_ndcg(trials: Trials, own: NDArray[np.float64], matrices: Matrices) -> float:
    """Return the mean nDCG@10 of the trials at weights (n_modalities,) with the heads; 0 without trials."""
    shared = _shared(trials, matrices)
    values = []
    for trial in trials.each:
        added = _of(trial, trials, shared).sum(axis=1) @ _shared_query(trial, matrices)
        values.append(trial.ndcg(trial.scores(own) + added))
    return float(np.mean(values)) if values else 0.0


def _initial(trials: Trials, generator: np.random.Generator) -> Matrices:
    """Return heads that add nothing yet: those of queries are 0, as in LoRA (Hu et al. 2021, arXiv 2106.09685)."""
    matrices: Matrices = {}
    for modality in trials.spec.order:
        dim = trials.spec.parts[modality].dim
        matrices["A", modality] = generator.normal(scale=dim**-0.5, size=(RANK, dim))
        matrices["B", modality] = np.zeros((RANK, dim))
    return matrices


def _shared(trials: Trials, matrices: Matrices) -> dict[ModalityName, NDArray[np.float64]]:
    """Return the clips in the shared space: modality -> (n_clips, RANK)."""
    return {m: rows @ matrices["A", m].T for m, rows in trials.vectors.items()}


def _of(trial: Trial, trials: Trials, shared: Mapping[ModalityName, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the candidates of one trial in the shared space: (n, n_modalities, RANK)."""
    rows = [trials.rows[id_] for id_ in trial.clips.tolist()]
    none = np.zeros((len(rows), RANK))
    return np.stack([shared[m][rows] if m in shared else none for m in trials.spec.order], axis=1)


def _shared_query(trial: Trial, matrices: Matrices) -> NDArray[np.float64]:
    """Return the query in the shared space: (RANK,)."""
    parts = [matrices["B", m] @ vector for m, vector in trial.query.items()]
    return np.asarray(np.sum(parts or [np.zeros(RANK)], axis=0), np.float64)


def _gradients(
    trials: Trials, own: NDArray[np.float64], matrices: Matrices, generator: np.random.Generator
) -> Matrices:
    """Return the gradient of the mean loss; which modalities are dropped changes with each call."""
    shared = _shared(trials, matrices)
    of_clips = {m: np.zeros((len(rows), RANK)) for m, rows in trials.vectors.items()}
    gradients: Matrices = {key: np.zeros_like(matrix) for key, matrix in matrices.items()}
    usable = [trial for trial in trials.each if trial.right.any() and not trial.right.all()]
    for trial, kept in zip(usable, _kept(usable, generator), strict=True):
        query, positions = _shared_query(trial, matrices), _of(trial, trials, shared) * kept[:, :, None]
        scores = ((trial.similar * own + trial.words * (own > 0)) * kept).sum(axis=1) + positions.sum(axis=1) @ query
        pull = (_softmax(scores) - _softmax(np.where(trial.right, scores, -np.inf))) / len(usable)
        to_query = positions.sum(axis=1).T @ pull
        rows = [trials.rows[id_] for id_ in trial.clips.tolist()]
        for at, modality in enumerate(trials.spec.order):
            if modality in trial.query:
                gradients["B", modality] += np.outer(to_query, trial.query[modality])
            if modality in of_clips:
                of_clips[modality][rows] += (pull * kept[:, at])[:, None] * query
    for modality, rows_of in of_clips.items():
        gradients["A", modality] += rows_of.T @ trials.vectors[modality]
    return gradients


def _kept(trials: list[Trial], generator: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Yield for each trial which modalities of its clips are kept, (n, n_modalities): never none of a clip."""
    for trial in trials:
        kept = generator.random(trial.similar.shape) >= DROPPED
        kept[~kept.any(axis=1)] = True
        yield kept.astype(np.float64)


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum())


class _Adam:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), on matrices in place."""

    def __init__(self, matrices: Matrices) -> None:
        self._matrices = matrices
        self._first = {key: np.zeros_like(matrix) for key, matrix in matrices.items()}
        self._second = {key: np.zeros_like(matrix) for key, matrix in matrices.items()}
        self._steps = 0

    def step(self, gradients: Matrices) -> None:
        self._steps += 1
        for key, gradient in gradients.items():
            self._first[key] = _BETA1 * self._first[key] + (1 - _BETA1) * gradient
            self._second[key] = _BETA2 * self._second[key] + (1 - _BETA2) * gradient**2
            first = self._first[key] / (1 - _BETA1**self._steps)
            second = self._second[key] / (1 - _BETA2**self._steps)
            self._matrices[key] -= RATE * (first / (np.sqrt(second) + _TINY) + DECAY * self._matrices[key])
