"""Weights and heads learned from questions with known answers, and whether they win where they were not learned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.search.evaluation.contrastive import learn_heads
from vfindex.search.evaluation.datasets import Question
from vfindex.search.evaluation.evaluate import Answers, Configuration, ask, differences, judge, locate
from vfindex.search.evaluation.metrics import Difference, Figure
from vfindex.search.evaluation.training import Trials, gather
from vfindex.storage.errors import UsageError
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.library import Library, estimated_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import MODALITIES, FusionName, Modality

# What is learned must be ahead with this probability on questions and videos that it was not learned from.
WINS = 0.9
MEASURE = "nDCG@10"
# A paired difference that spreads by 0.3 from question to question is known to within 0.13 (95 %) over so many.
MIN_HELD = 20
FOLDS = 5
# Steps of a weight, and the neighbours whose mean is what a weight is worth, so that a plateau wins over a peak.
GRID = (0.0, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8, 1.0, 1.4, 2.0, 2.8, 4.0)
_AROUND = (0.8, 1.0, 1.25)
_MAX_ROUNDS = 10
_SEED = 0


@dataclass(frozen=True, slots=True)
class Fold:
    """Questions to learn from and questions to judge by, which share no video."""

    train: Sequence[Question]
    held: Sequence[Question]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was learned, from all questions, and what learning it won on those held out. questions: all there were.

    held: questions held out, each once. before, after: nDCG@10 of them, difference: of the two.
    """

    before_fusion: Fusion
    fusion: Fusion
    questions: int
    held: int
    before: Figure
    after: Figure
    difference: Difference

    @property
    def wins(self) -> bool:
        """Whether it is worth storing."""
        return self.difference.p_gain >= WINS


def tune(
    folder: Path,
    questions: Sequence[Question],
    form: FusionName,
    folds: int = FOLDS,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Return weights (`concat`, `weighted`) or heads (`learned`) for the library in `folder`; nothing is stored.

    Cross-validation: each fold's parameters are learned without its questions and videos, and judged by searches for
    its questions, against the library's own fusion; what is returned is learned from all. The same questions give the
    same result. Raises UsageError for questions too few to judge by, LibraryError, ModelError, QueryError.
    """
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        own = LibraryMeta(snapshot).fusion
        places = {place.path: video.id for video in snapshot.videos() for place in video.locations}
        defaults = {m: part.weight for m, part in estimated_spec(snapshot, Fusion()).parts.items()}
    known = locate(list(dict.fromkeys(each.video for question in questions for each in question.relevant)), places)
    answered = [
        question for question in questions if question.text and any(e.video in known for e in question.relevant)
    ]
    parts = split(answered, folds)
    learner = Learner(form, defaults | dict(own.weights))
    say(f"asking {len(answered)} questions")
    trials = gather(library, answered, known, learner.start)
    answers: list[tuple[Answers, Answers]] = []
    for number, part in enumerate(parts, start=1):
        say(f"fold {number} of {len(parts)}: learning from {len(part.train)} questions, judging by {len(part.held)}")
        learned = learner.learn(trials, part.train)
        pair = [Configuration(name, folder, fusion=each) for name, each in (("before", own), ("after", learned))]
        before, after = ask(pair, part.held)
        answers.append((before, after))
    held = [question for part in parts for question in part.held]
    first, second = (judge(held, _joined(side), "video") for side in zip(*answers, strict=True))
    if first is None or second is None:
        raise UsageError("none of the questions held out has an answer in the library")
    return Tuned(
        own,
        learner.learn(trials, answered),
        len(questions),
        len(held),
        first.figures()["all"][MEASURE],
        second.figures()["all"][MEASURE],
        differences(first, second)[MEASURE],
    )


def _joined(answers: Iterable[Answers]) -> Answers:
    parts = list(answers)
    found = {question: hits for part in parts for question, hits in part.found.items()}
    return Answers(found, max(part.depth for part in parts))


# --- who is held out ------------------------------------------------------------------------------------------------


def split(questions: Sequence[Question], count: int) -> list[Fold]:
    """Return `count` folds; in none of them a video is both learned from and judged by.

    Videos that one question asks for stay together where a fold has room for them; a question whose videos lie in
    several folds is never held out, and teaches only the folds that hold out none of them. Raises UsageError if fewer
    than MIN_HELD questions can be held out.
    """
    if count < 2:
        raise UsageError(f"at least 2 folds are needed, not {count}")
    fold = _fold_of_videos(questions, count)
    where = [(question, {fold[each.video] for each in question.relevant}) for question in questions]
    parts = [Fold([q for q, at in where if n not in at], [q for q, at in where if at == {n}]) for n in range(count)]
    folds = [part for part in parts if part.train and part.held]
    held = sum(len(part.held) for part in folds)
    if held < MIN_HELD:
        raise UsageError(
            f"only {held} questions could be held out, too few to tell a gain from luck; {MIN_HELD} are needed, about "
            "videos of the library, at best about one video each"
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


# --- what is learned ------------------------------------------------------------------------------------------------


class Learner:
    """Learns one form. start: what its trials are scored by; weights: those to start from."""

    def __init__(self, form: FusionName, weights: Mapping[Modality, float]) -> None:
        if form == "mean":
            raise UsageError("a mean has nothing to learn; take concat, weighted or learned")
        self._form = form
        self._weights = dict(weights)
        self.start = Fusion("weighted" if form == "weighted" else "concat", self._weights)

    def learn(self, trials: Trials, questions: Sequence[Question]) -> Fusion:
        """Return the form with what these questions teach."""
        if self._form != "learned":
            return Fusion(self._form, learn_weights(trials.of(questions), self._weights, self._form))
        inner = max(_folds_or_none(questions), key=lambda part: len(part.held), default=Fold(questions, ()))
        heads = learn_heads(trials.of(inner.train), trials.of(inner.held), self._weights, _SEED)
        return Fusion("learned", self._weights, heads)


def _folds_or_none(questions: Sequence[Question]) -> list[Fold]:
    try:
        return split(questions, FOLDS)
    except UsageError:
        return []


def learn_weights(trials: Trials, start: Mapping[Modality, float], form: FusionName) -> dict[Modality, float]:
    """Return weights of GRID with a good mean nDCG@10, found one modality at a time from `start`.

    A weight moves to the best one if that gains more than its standard error, question by question (the rule of one
    standard error: Breiman et al. 1984, chapter 3). A modality that no clip has keeps its weight. Those of a sum
    stay above 0, for its question is a mean of all.
    """
    weights = np.array([start.get(m, 0.0) for m in MODALITIES])
    present = [at for at in range(len(MODALITIES)) if any(trial.similar[:, at].any() for trial in trials.each)]
    allowed = [value for value in GRID if value or form != "weighted"]
    worth = _worth(trials, weights)
    for _ in range(_MAX_ROUNDS):
        before = weights.copy()
        for at in present:
            tried = [np.where(np.arange(len(weights)) == at, value, weights) for value in allowed]
            tried = [each for each in tried if each.any()]
            values = [_worth(trials, each) for each in tried]
            best = max(range(len(tried)), key=lambda number: float(values[number].mean()))
            gains = values[best] - worth
            if gains.mean() > gains.std() / np.sqrt(len(gains)):
                weights, worth = tried[best], values[best]
        if np.array_equal(before, weights):
            break
    return {m: float(weights[at]) for at, m in enumerate(MODALITIES) if m in start}


def _worth(trials: Trials, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each trial's mean nDCG@10 at these weights and beside them, one modality at a time."""
    around = {tuple(np.where(np.arange(len(weights)) == at, f * weights, weights)) for at in range(3) for f in _AROUND}
    rows = [np.array(each) for each in sorted(around)]
    return np.array([np.mean([trial.ndcg(trial.scores(row)) for row in rows]) for trial in trials.each])
