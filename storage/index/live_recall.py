"""Recall of the joint index for questions that people asked, against an exact scan, and its record of some weeks.

Recall@10 by score, as in `tuning`: of what the index returned at the depth, the weights and the filters of the
question. A question is measured once. The interval is that of Wilson (1927) for as many trials as questions: the ten
clips of one question are found or missed together, and no share of ten varies more than a single yes or no.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.index.reader import JointIndex
from vfindex.storage.index.search_params import FIRST
from vfindex.storage.index.segment import IndexSegment
from vfindex.storage.index.tuning import found_share, raised_params
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray
from vfindex.storage.user.questions import AskedQuestion

# The setting of the library that holds the record.
META_KEY = "live_recall"
# Recall below which the search parameters are raised, and how far back it is reported.
LEAST_LIVE, PERIOD = 0.97, timedelta(days=28)
# Of fewer questions, one that misses some clips would say nothing; then only an interval below LEAST_LIVE counts.
ENOUGH = 30
# More questions than anybody asks in the period.
_MOST = 10**9
# Standard errors of the interval: 95 %.
Z = 1.96
# Questions answered in one pass over the vectors, so that a file is read once. Each filter takes a byte a clip.
TOGETHER = 16
# Vectors that all questions scan before the next are read: of 1,536 dimensions, 50 MB.
_ROWS = 1 << 14
# Weightings that are no modality's name.
DEFAULT, OTHER = "default", "other"
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tally:
    """Questions of one day at one weighting. found: the sum of their recall. filtered: whether filters chose clips."""

    day: str
    weighting: str
    filtered: bool
    questions: int
    found: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Mean recall of questions, and its interval."""

    questions: int
    recall: float
    low: float
    high: float

    @classmethod
    def of(cls, tallies: Iterable[Tally]) -> Measured | None:
        """Return the recall of all their questions, None of no question."""
        each = list(tallies)
        n = sum(tally.questions for tally in each)
        if not n:
            return None
        p = min(1.0, sum(tally.found for tally in each) / n)
        centre, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        scale = 1 + Z * Z / n
        return cls(n, p, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))

    @property
    def is_low(self) -> bool:
        """Whether the index finds too little, and not by chance of few questions."""
        return self.high < LEAST_LIVE or (self.questions >= ENOUGH and self.recall < LEAST_LIVE)


@dataclass(frozen=True, slots=True)
class LiveRecall:
    """The record. raised: the day on which the search parameters were raised last; earlier questions do not count."""

    tallies: tuple[Tally, ...] = ()
    raised: str | None = None

    @classmethod
    def from_json(cls, stored: str | None) -> Self:
        """Parse the JSON of `to_json`. One of another form counts as none: it is made again from later questions."""
        try:
            data = json.loads(stored or "{}")
            tallies = tuple(
                Tally(str(e["day"]), str(e["weighting"]), bool(e["filtered"]), int(e["questions"]), float(e["found"]))
                for e in data.get("tallies", ())
            )
            raised = data.get("raised")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            return cls()
        is_whole = all(0 <= each.found <= each.questions <= _MOST for each in tallies)
        return cls(tallies, raised) if is_whole and isinstance(raised, str | None) else cls()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def since(self, day: date) -> Self:
        """Return the record of the PERIOD up to a day."""
        first = (day - PERIOD).isoformat()
        return replace(self, tallies=tuple(each for each in self.tallies if each.day > first))

    def with_answers(self, day: date, answers: Sequence[Answer]) -> Self:
        """Return the record with the questions of a day."""
        found: dict[tuple[str, bool], list[float]] = {}
        for each in answers:
            found.setdefault(each.group, []).append(each.recall)
        new = [Tally(day.isoformat(), *group, len(each), round(sum(each), 4)) for group, each in found.items()]
        return replace(self.since(day), tallies=(*self.since(day).tallies, *new))

    def by_weighting(self) -> dict[tuple[str, bool], Measured]:
        """Return (weighting, whether filters chose clips) -> recall, in the order in which they were asked first."""
        groups = dict.fromkeys((each.weighting, each.filtered) for each in self.tallies)
        found = {
            group: Measured.of(each for each in self.tallies if (each.weighting, each.filtered) == group)
            for group in groups
        }
        return {group: each for group, each in found.items() if each is not None}

    @property
    def is_low(self) -> bool:
        """Whether the recall of all questions, or of those at one weighting, is too low."""
        every = Measured.of(self.tallies)
        return (every is not None and every.is_low) or any(each.is_low for each in self.by_weighting().values())

    def low_answers(self, found: Sequence[Answer]) -> list[Answer]:
        """Return those at weightings whose recall is too low; all if only the recall of all together is."""
        low = {group for group, each in self.by_weighting().items() if each.is_low}
        return [each for each in found if self.is_low and (not low or each.group in low)]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A question that was answered twice. corner: of `JointSpec.corners()`, None between them."""

    question: AskedQuestion
    recall: float
    weighting: str
    corner: int | None

    @property
    def group(self) -> tuple[str, bool]:
        """The weighting, and whether filters chose clips."""
        return self.weighting, self.question.among is not None


def answers(
    index: JointIndex,
    order: Sequence[ModalityName],
    asked: Sequence[AskedQuestion],
    without: Ids,
    check: Callable[[], None],
) -> list[Answer]:
    """Return what the index finds of the best clips of each question; those whose filters select no clip are left out.

    order: of the modalities. without: clips that searches pass over. check: called often; may raise.
    """
    among = [each.clips(index.ids()) if each.among is not None else None for each in asked]
    bars = _best_scores(index, np.stack([each.query for each in asked]), among, without, check)
    result = []
    for question, clips, best in zip(asked, among, bars, strict=True):
        if not len(best):
            continue
        scores, _ = index.nearest(question.query[None], max(FIRST, question.top_k), clips, without)
        corner = _corner(index, question.query)
        weighting = OTHER if corner is None else order[corner - 1] if corner else DEFAULT
        result.append(Answer(question, found_share(scores[0, :FIRST], best), weighting, corner))
    return result


def _best_scores(
    index: JointIndex,
    queries: FloatArray,
    among: Sequence[Ids | None],
    without: Ids,
    check: Callable[[], None],
) -> list[FloatArray]:
    """Return for each query the best scores (<= FIRST,) of an exact scan, in any order."""
    best = np.full((len(queries), FIRST), -np.inf, np.float32)
    for part in index.segments:
        unfiltered = part.kept(None, without)
        kept = [unfiltered if clips is None else part.kept(clips, without) for clips in among]
        for first in range(0, len(part.ids), _ROWS):
            check()
            span = slice(first, first + _ROWS)
            flat = IndexSegment(part.ids[span], part.rows[span])
            for row, mask in enumerate(kept):
                of = flat if mask is None else flat.with_dead(np.flatnonzero(~mask[span]))
                scores, _ = of.nearest(queries[row], FIRST, None, None)
                best[row] = np.sort(np.append(best[row], scores))[-FIRST:]
    return [each[np.isfinite(each)] for each in best]


def _corner(index: JointIndex, query: FloatArray) -> int | None:
    """Return whose search parameters a query uses: 0: the default weights', n: the n-th modality's, None: neither."""
    for part in index.segments:
        if part.tuned is not None:
            chosen = part.tuned.choose(query)
            return next((at for at, each in enumerate(part.tuned.corners) if each is chosen), None)
    return None


def raised(part: IndexSegment, found: Sequence[Answer]) -> IndexSegment:
    """Return a segment with search parameters that find enough for these questions too; one without codes as it is.

    Questions between the corners raise the default weights, which those between them use as well.
    """
    if part.codes is None or part.tuned is None:
        return part
    nothing = np.zeros((0, part.dim), np.float32)
    asked = [
        np.concatenate([nothing, *(each.question.query[None] for each in found if (each.corner or 0) == corner)])
        for corner in range(len(part.tuned.corners))
    ]
    return part.with_params(raised_params(part.tuned, part.codes, part.rows, asked))
