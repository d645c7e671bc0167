"""Measures of rankings by ir_measures, their means with bootstrap intervals, and paired comparisons.

The only file that imports ir_measures; a search never does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from numpy.typing import NDArray

# A span of a video, [start_s, end_s).
Span = tuple[float, float]

# Cutoffs of a ranking, whatever its depth.
CUTOFFS = (1, 5, 10)
MEDIAN_RANK = "median rank"
_RECIPROCAL_RANK = "MRR"
RESAMPLES = 10_000
# Values drawn at once: 2 million float64 and as many indices are 32 MB, however many questions there are.
_BLOCK_VALUES = 2_000_000


@dataclass(frozen=True, slots=True)
class Figure:
    """A statistic over questions and its 95 % bootstrap interval; infinite for a rank beyond the ranking's depth."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean difference of a second ranking to a first over the same questions.

    low, high: 95 % interval. p_gain: share of resamples in which the second is better, ties counted half. p_value:
    two-sided.
    """

    value: float
    low: float
    high: float
    p_gain: float
    p_value: float


def temporal_iou(one: Span, other: Span) -> float:
    """Return intersection over union of two spans, 0 to 1; 0 if both are empty."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    union = (one[1] - one[0]) + (other[1] - other[0]) - shared
    return shared / union if union > 0 else 0.0


def measures(depth: int) -> dict[str, ir_measures.Measure]:
    """Return name -> measure for rankings of `depth`: success@k is any relevant in k, recall@k their share.

    nDCG has gain = grade and discount log2(rank + 1) (Järvelin and Kekäläinen 2002, as in trec_eval).
    """
    ir = ir_measures
    chosen = {"nDCG@10": ir.nDCG @ 10}
    chosen |= {f"success@{k}": ir.Success @ k for k in CUTOFFS}
    chosen |= {f"recall@{k}": ir.R @ k for k in sorted({5, 10, max(10, depth)})}
    return chosen | {_RECIPROCAL_RANK: ir.RR, "MAP": ir.AP}


def score(
    judged: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]], depth: int
) -> dict[str, dict[str, float]]:
    """Return measure -> question -> value, for all questions of `judged`.

    judged: question -> document -> grade, at least one above 0. run: question -> distinct documents, best first. A
    question without documents has 0 in all measures.
    """
    chosen = measures(depth)
    values = {name: dict.fromkeys(judged, 0.0) for name in chosen}
    # Numbers in place of names: nothing in a file name can disturb the measurement, and no tie is broken by name.
    questions = {str(number): question for number, question in enumerate(judged)}
    qrels: dict[str, dict[str, int]] = {}
    answers: dict[str, dict[str, float]] = {}
    for number, question in questions.items():
        places = {document: str(place) for place, document in enumerate(run.get(question, ())[:depth])}
        if not places:
            continue
        grades = judged[question]
        missed = [document for document in grades if document not in places]
        names = places | {document: f"missed {i}" for i, document in enumerate(missed)}
        qrels[number] = {names[document]: grade for document, grade in grades.items()}
        answers[number] = {place: -float(place) for place in places.values()}
    if answers:
        by_measure = {measure: name for name, measure in chosen.items()}
        for metric in ir_measures.iter_calc(list(chosen.values()), qrels, answers):
            values[by_measure[metric.measure]][questions[metric.query_id]] = float(metric.value)
    return values


def summarise(values: Mapping[str, Mapping[str, float]], questions: Sequence[str]) -> dict[str, Figure]:
    """Return the mean of every measure over one or more questions, and the median rank, with intervals.

    The interval is the percentile bootstrap over questions (Efron and Tibshirani 1993, chapter 13). The rank of a
    question is that of its first relevant document, infinite if beyond the ranking's depth.
    """
    table = np.array([[values[name][q] for q in questions] for name in values])  # (n_measures, n_questions)
    reciprocal = np.array([values[_RECIPROCAL_RANK][q] for q in questions])
    with np.errstate(divide="ignore"):
        ranks = np.where(reciprocal > 0, np.round(1.0 / reciprocal), np.inf)[None]
    figures = dict(zip(values, _intervals(table, _mean), strict=True))
    [figures[MEDIAN_RANK]] = _intervals(ranks, _median)
    return figures


def compare(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return the difference of the second to the first, both in the same order of questions.

    Paired bootstrap over questions: p_gain and the interval from the resampled mean differences, p_value from the same
    shifted to a mean of 0 (Efron and Tibshirani 1993, section 16.4; Sakai 2006, SIGIR).
    """
    gains = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    mean = float(gains.mean())
    drawn = np.concatenate(list(_resampled(gains[None], _mean)))[:, 0]
    ahead = float(np.mean(drawn > 0) + 0.5 * np.mean(drawn == 0))
    # Sums in another order differ in the last digits, which the factor ignores.
    as_large = int(np.sum(np.abs(drawn - mean) >= abs(mean) * (1 - 1e-9)))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(mean, float(low), float(high), ahead, (as_large + 1) / (RESAMPLES + 1))


Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values.mean(axis=-1))


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.median(values, axis=-1))


def _intervals(table: NDArray[np.float64], statistic: Statistic) -> list[Figure]:
    """Return a figure per row of `table` (n_rows, n_questions)."""
    drawn = np.concatenate(list(_resampled(table, statistic)))  # (RESAMPLES, n_rows)
    # No interpolation: between a rank and an infinite one there is no value.
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0, method="inverted_cdf")
    rows = zip(statistic(table), low, high, strict=True)
    return [Figure(float(value), float(a), float(b)) for value, a, b in rows]


def _resampled(table: NDArray[np.float64], statistic: Statistic) -> Iterator[NDArray[np.float64]]:
    """Yield blocks (n, n_rows) of the statistic over questions drawn with replacement, the same ones for every row."""
    generator = np.random.default_rng(0)
    questions = table.shape[1]
    step = max(1, _BLOCK_VALUES // questions)
    for first in range(0, RESAMPLES, step):
        draws = generator.integers(0, questions, (min(step, RESAMPLES - first), questions))
        yield np.stack([statistic(row[draws]) for row in table], axis=1)
