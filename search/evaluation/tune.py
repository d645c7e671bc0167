"""Weights and heads learned from questions with known answers, and cross-validated against the library's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.search.evaluation.contrastive import learn_heads
from vfindex.search.evaluation.datasets import Question
from vfindex.search.evaluation.evaluate import Configuration, Rankings, differences, judge, locate, run_questions
from vfindex.search.evaluation.metrics import Difference, Figure
from vfindex.search.evaluation.training import Trials, collect_trials
from vfindex.search.live import require_videos
from vfindex.storage.errors import UsageError, counted
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.library import Library, estimated_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FusionName

# The learned fusion must win with this probability on held-out questions and videos.
WINS = 0.9
MEASURE = "nDCG@10"
# With this many questions, a paired difference with standard deviation 0.3 is known to within 0.13 (95 %).
MIN_HELD_OUT = 20
FOLDS = 5
# Values of a weight; and the factors around it whose mean nDCG is its value, so that a plateau wins over a peak.
GRID = (0.0, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8, 1.0, 1.4, 2.0, 2.8, 4.0)
_AROUND = (0.8, 1.0, 1.25)
_MAX_ROUNDS = 10
_SEED = 0


@dataclass(frozen=True, slots=True)
class Fold:
    """Training and held-out questions, which share no video."""

    train: Sequence[Question]
    held_out: Sequence[Question]


@dataclass(frozen=True, slots=True)
class Tuned:
    """The fusion learned from all questions, and the result of the cross-validation. questions: number of all.

    held_out: number of held-out questions. before, after: their nDCG@10. difference: between these.
    """

    before_fusion: Fusion
    fusion: Fusion
    questions: int
    held_out: int
    before: Figure
    after: Figure
    difference: Difference

    @property
    def wins(self) -> bool:
        """Whether the learned fusion should be stored."""
        return self.difference.p_gain >= WINS


def tune(
    folder: Path,
    questions: Sequence[Question],
    form: FusionName,
    folds: int = FOLDS,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Return learned weights (`concat`, `weighted`) or heads (`learned`) for the library in `folder`; store nothing.

    Cross-validation: the parameters of a fold are learned without its questions and videos, and compared with the
    library's own fusion by searches for its questions. The parameters returned are learned from all questions. The
    result is deterministic. Raises UsageError for too few questions, LibraryError, ModelError, QueryError.
    """
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        require_videos(snapshot, folder)
        own = LibraryMeta(snapshot).fusion
        places = {place.path: video.id for video in snapshot.videos() for place in video.locations}
        defaults = {m: part.weight for m, part in estimated_spec(snapshot, Fusion()).parts.items()}
    known = locate(list(dict.fromkeys(each.video for question in questions for each in question.relevant)), places)
    answered = [
        question for question in questions if question.text and any(e.video in known for e in question.relevant)
    ]
    parts = split(answered, folds)
    learner = Learner(form, defaults | dict(own.weights))
    say(f"searching for {counted(len(answered), 'question')}")
    trials = collect_trials(library, answered, known, learner.start)
    rankings: list[tuple[Rankings, Rankings]] = []
    for number, part in enumerate(parts, start=1):
        trained = counted(len(part.train), "question")
        say(f"fold {number} of {len(parts)}: training on {trained}, testing on {len(part.held_out)}")
        learned = learner.learn(trials, part.train)
        pair = [Configuration(name, folder, fusion=each) for name, each in (("before", own), ("after", learned))]
        before, after = run_questions(pair, part.held_out)
        rankings.append((before, after))
    held_out = [question for part in parts for question in part.held_out]
    first, second = (judge(held_out, _joined(side), "video") for side in zip(*rankings, strict=True))
    if first is None or second is None:
        raise UsageError("no held-out question has an answer in the library")
    return Tuned(
        own,
        learner.learn(trials, answered),
        len(questions),
        len(held_out),
        first.figures()["all"][MEASURE],
        second.figures()["all"][MEASURE],
        differences(first, second)[MEASURE],
    )


def _joined(rankings: Iterable[Rankings]) -> Rankings:
    parts = list(rankings)
    hits = {question: ranking for part in parts for question, ranking in part.hits.items()}
    return Rankings(hits, max(part.depth for part in parts))


# --- folds ----------------------------------------------------------------------------------------------------------


def split(questions: Sequence[Question], count: int) -> list[Fold]:
    """Return `count` folds; in each, training and held-out questions share no video.

    The videos of a question stay in one fold if it has room. A question whose videos are in several folds is never held
    out, and trains only the folds that hold out none of them. Raises UsageError if fewer than
    MIN_HELD_OUT questions can be held out.
    """
    if count < 2:
        raise UsageError(f"at least 2 folds are needed, not {count}")
    fold = _fold_of_videos(questions, count)
    where = [(question, {fold[each.video] for each in question.relevant}) for question in questions]
    parts = [Fold([q for q, at in where if n not in at], [q for q, at in where if at == {n}]) for n in range(count)]
    folds = [part for part in parts if part.train and part.held_out]
    held_out = sum(len(part.held_out) for part in folds)
    if held_out < MIN_HELD_OUT:
        raise UsageError(
            f"only {counted(held_out, 'question')} can be held out, too few for a significant gain; {MIN_HELD_OUT} are "
            "needed, about videos of the library, at best about one video each"
        )
    return folds


def _fold_of_videos(questions: Sequence[Question], count: int) -> dict[str, int]:
    videos = sorted({each.video for question in questions for each in question.relevant})
    group = {video: [video] for video in videos}
    for question in sorted(questions, key=lambda q: (len(q.relevant), q.id)):
        own = list({id(group[each.video]): group[each.video] for each in question.relevant}.values())
        if len(own) > 1 and sum(map(len, own)) <= len(videos) // count:
            joined = [video for part in own for video in part]
            group |= dict.fromkeys(joined, joined)
    groups = list({id(part): part for part in group.values()}.values())
    order = np.random.default_rng(_SEED).permutation(len(groups))
    loads = [0] * count
    fold: dict[str, int] = {}
    for part in sorted((groups[at] for at in order), key=len, reverse=True):
        least = loads.index(min(loads))
        loads[least] += len(part)
        fold |= dict.fromkeys(part, least)
    return fold


# --- learning -------------------------------------------------------------------------------------------------------


class Learner:
    """Learns one form of fusion. start: the form that trials are scored by. weights: initial ones."""

    def __init__(self, form: FusionName, weights: Mapping[ModalityName, float]) -> None:
        if form == "mean":
            raise UsageError("a mean has no parameters; choose concat, weighted or learned")
        self._form = form
        self._weights = dict(weights)
        self.start = Fusion("weighted" if form == "weighted" else "concat", self._weights)

    def learn(self, trials: Trials, questions: Sequence[Question]) -> Fusion:
        """Return the form with parameters learned from these questions."""
        if self._form != "learned":
            return Fusion(self._form, learn_weights(trials.of(questions), self._weights, self._form))
        inner = max(_folds_or_none(questions), key=lambda part: len(part.held_out), default=Fold(questions, ()))
        heads = learn_heads(trials.of(inner.train), trials.of(inner.held_out), self._weights, _SEED)
        return Fusion("learned", self._weights, heads)


def _folds_or_none(questions: Sequence[Question]) -> list[Fold]:
    try:
        return split(questions, FOLDS)
    except UsageError:
        return []


def learn_weights(trials: Trials, start: Mapping[ModalityName, float], form: FusionName) -> dict[ModalityName, float]:
    """Return weights of GRID with a good mean nDCG@10, by coordinate ascent from `start`.

    A weight changes only if the gain exceeds its standard error over questions (the one-standard-error rule: Breiman et
    al. 1984, chapter 3). A modality that no clip has keeps its weight. Weights of `weighted` stay above 0, since its
    query vector is a mean of all modalities.
    """
    order = trials.spec.order
    weights = np.array([start.get(m, 0.0) for m in order])
    present = [at for at in range(len(order)) if any(trial.similar[:, at].any() for trial in trials.each)]
    values_of = [value for value in GRID if value or form != "weighted"]
    worth = _worth(trials, weights)
    for _ in range(_MAX_ROUNDS):
        before = weights.copy()
        for at in present:
            tried = [np.where(np.arange(len(weights)) == at, value, weights) for value in values_of]
            tried = [each for each in tried if each.any()]
            values = [_worth(trials, each) for each in tried]
            best = max(range(len(tried)), key=lambda number: float(values[number].mean()))
            gains = values[best] - worth
            if gains.mean() > gains.std() / np.sqrt(len(gains)):
                weights, worth = tried[best], values[best]
        if np.array_equal(before, weights):
            break
    return {m: float(weights[at]) for at, m in enumerate(order) if m in start}


def _worth(trials: Trials, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each trial's mean nDCG@10 at these weights and at each weight times _AROUND."""
    each = np.arange(len(weights))
    around = {tuple(np.where(each == at, f * weights, weights)) for at in each for f in _AROUND}
    rows = [np.array(each) for each in sorted(around)]
    return np.array([np.mean([trial.ndcg(trial.scores(row)) for row in rows]) for trial in trials.each])
