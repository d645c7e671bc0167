"""Calibrates the scores of a library: known items against background queries; `labels` has the rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.search.calibration.known_items import KnownItem, known_items
from vfindex.search.calibration.labels import META_KEY, MIN_ITEMS, P_HIGH, P_MEDIUM, Calibration, ModalityCalibration
from vfindex.search.query.ast import Query, content_words
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.rank.candidates import Candidates
from vfindex.search.rank.delta import View
from vfindex.search.rank.lexical import match_keywords
from vfindex.search.rank.query_vectors import combine_parts
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import IndexUnusable, LibraryDamaged
from vfindex.storage.ids import spread
from vfindex.storage.index.reader import VectorIndex
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library, reading_spec
from vfindex.storage.modalities import ModalityName, get_modality, modality_names
from vfindex.storage.settings_backup import setup_of
from vfindex.storage.writer import writing

# Content words that a query made of a transcript keeps. Verbatim segments are found too easily: over real recordings
# three words score like the queries of people (medians 2.8 and 2.6, verbatim 4.4).
# See docs/decisions/evaluation.md.
QUERY_WORDS = 3
# Candidates scored to find the best clip in one modality; they come in the order of its vectors.
DEPTH = 20
# A library that has grown or shrunk by less keeps its calibration: the best of n scores grows only with log n.
MAX_CHANGE = 0.2
# Share of the background scores below chance level, and of the known items above it.
_QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class TopScore:
    """The best score of a modality for a known item, and whether its clip is in the item's video."""

    score: float
    right: bool


def calibrate_if_changed(
    folder: Path, background: Sequence[str], say: Callable[[str], None], *, anew: bool = False
) -> None:
    """Calibrate the library in `folder` and store the result, unless it has hardly changed since the last time.

    Only for the fusion `concat`; scores of others have no labels. background: queries that are not about the library.
    say: called before work that takes seconds. anew: also if it has not changed. Raises LibraryError, ModelError.
    """
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        clips, stored = snapshot.counts()["clip"], snapshot.get(META_KEY)
        before = None
        with suppress(LibraryDamaged):  # another takes its place
            before = Calibration.from_json(stored)
        spec, _ = reading_spec(snapshot)
    if clips and spec.fusion == "concat" and (anew or before is None or _has_changed(before, clips, spec)):
        calibration = measure(library, background, say)
        with writing(folder) as writer:
            writer.catalog.put(META_KEY, calibration.to_json())


def _has_changed(before: Calibration, clips: int, spec: JointSpec) -> bool:
    weights = {m: spec.alone_weight(m) for m in spec.parts}
    reweighted = any(each.weight != weights.get(m) for m, each in before.modalities.items() if each.background)
    return reweighted or abs(clips - before.clips) > MAX_CHANGE * before.clips


def measure(library: Library, background: Sequence[str], say: Callable[[str], None]) -> Calibration:
    """Return the calibration of each modality that the library's clips have."""
    with library.snapshot() as snapshot:
        present = [m for m in modality_names() if snapshot.modality_counts().get(m)]
        items = known_items(snapshot)
        by_modality = {m: items_for(m, items) for m in present}
        enough = [m for m in present if len(by_modality[m]) >= MIN_ITEMS]
        calibrations = {m: ModalityCalibration(0.5, len(by_modality[m]), 0, 0.0) for m in present}
        if enough:
            say("calibrating the confidence of scores")
            scorer = _ModalityScorer(library, snapshot)
            nulls = [scorer.best(text, enough) for text in background]
            calibrations |= {m: _calibrate(scorer, m, by_modality[m], nulls) for m in enough}
        return Calibration(snapshot.counts()["clip"], calibrations)


def _calibrate(
    scorer: _ModalityScorer, modality: ModalityName, items: Sequence[KnownItem], nulls: Sequence[TopClips]
) -> ModalityCalibration:
    known = []
    for item in items:
        top = scorer.best(shortened(item.text), [modality]).get(modality)
        if top is not None:
            known.append(TopScore(top[0], top[1] == item.fingerprint))
    null = [top[modality][0] for top in nulls if modality in top]
    return fit(known, null, scorer.weight(modality))


def shortened(text: str) -> str:
    """Return QUERY_WORDS content words of a text, evenly spaced, in their order."""
    words = [word for word in content_words(text) if not word.isdigit()] or list(content_words(text))
    return " ".join(spread(words, QUERY_WORDS))


def items_for(modality: ModalityName, items: Sequence[KnownItem]) -> list[KnownItem]:
    """Return the known items for a modality: texts of its own track; titles for one without words, as images.

    Neither what is said nor text read from frames says what a picture shows or what sounds: against background queries,
    which are about sights, segments of speech had an AUC of 0.15 to 0.20 among images.
    """
    if get_modality(modality).has_words:
        return [item for item in items if item.modality == modality]
    return [item for item in items if item.is_title]


# Modality -> the best score and the fingerprint of its video.
TopClips = Mapping[ModalityName, tuple[float, str]]


class _ModalityScorer:
    """Searches with one modality at a time, at the default weights, or at the weight of one that is asked by name."""

    def __init__(self, library: Library, snapshot: Snapshot) -> None:
        setup = setup_of(snapshot, library.folder)
        self._encoder = QueryEncoder(library, setup)
        spec, generation = reading_spec(snapshot)
        opened = library.load_index(generation) if generation is not None else None
        index: VectorIndex | None = None
        if opened is not None and generation is not None:
            with suppress(IndexUnusable):
                index = opened.within(snapshot, generation.spec)
        watermark = 0 if generation is None else generation.watermark
        self._view = View(snapshot, spec, setup, index, watermark)
        self._prints = {video.id: video.fingerprint for video in snapshot.videos()}

    def weight(self, modality: ModalityName) -> float:
        """Return the weight of a modality in these searches."""
        return self._view.spec.alone_weight(modality)

    def best(self, text: str, modalities: Sequence[ModalityName]) -> TopClips:
        """Return the best clip of each modality; a modality without scored clips is missing."""
        [moment] = Query.plain(text).moments
        parts = moment.parts()
        vectors = [self._encoder.encode(part) for part in parts]
        keywords = match_keywords(self._view.snapshot, moment.keywords())
        top: dict[ModalityName, tuple[float, str]] = {}
        for modality in modalities:
            view = replace(self._view, spec=_alone(self._view.spec, modality))
            ranked = Candidates(view, combine_parts(parts, vectors, view.spec), keywords, None).best(DEPTH)
            if ranked and modality in ranked[0].modalities:
                best = ranked[0]
                top[modality] = (best.modalities[modality], self._prints[best.clip.video_id])
        return top


def _alone(spec: JointSpec, modality: ModalityName) -> JointSpec:
    return spec.with_weights({m: spec.alone_weight(m) if m == modality else 0.0 for m in spec.order})


# --- from scores to thresholds --------------------------------------------------------------------------------------


def fit(known: Sequence[TopScore], background: Sequence[float], weight: float = 1.0) -> ModalityCalibration:
    """Return the AUC of known items against background queries, and the lowest score of each label.

    weight: of the modality in these scores.
    """
    if not known or not len(background):
        return ModalityCalibration(0.5, len(known), len(background), weight)
    own = np.array([best.score for best in known])
    right = np.array([best.right for best in known])
    null = np.asarray(background, dtype=np.float64)
    unlabelled = ModalityCalibration(auc(own, null), len(known), len(background), weight)
    slope, offset = _logistic(own, right, null)
    if slope <= 0 or not right.any():
        return unlabelled
    # Known items that may be lost; the order statistic is the conservative one (at most 5 % expected).
    lost = int((len(own) + 1) * (1 - _QUANTILE))
    least = np.sort(own)[lost - 1] if lost else own.min()
    low = float(min(np.quantile(null, _QUANTILE), least))
    medium = max(low, (_logit(P_MEDIUM) - offset) / slope)
    high = max(medium, (_logit(P_HIGH) - offset) / slope)
    high = _precise(own, right, null, high)
    return replace(unlabelled, low=low, medium=medium, high=high, slope=slope, offset=offset)


def auc(above: NDArray[np.float64], below: NDArray[np.float64]) -> float:
    """Return the probability that a value of `above` exceeds one of `below`, ties counted half."""
    ordered = np.sort(below)
    under = np.searchsorted(ordered, above, side="left") + np.searchsorted(ordered, above, side="right")
    return float(under.mean() / (2 * len(below)))


def _logistic(own: NDArray[np.float64], right: NDArray[np.bool_], null: NDArray[np.float64]) -> tuple[float, float]:
    """Return (slope, offset) of the log odds that the best hit at a score is right; both kinds have the same weight.

    Newton's method on standardised scores, with a weak ridge penalty on the slope, which keeps it finite if the two
    kinds do not overlap.
    """
    scores = np.concatenate([own, null])
    centre, spread = scores.mean(), max(float(scores.std()), 1e-12)
    rows = np.stack([(scores - centre) / spread, np.ones_like(scores)], axis=1)  # (n, 2)
    target = np.concatenate([right, np.zeros(len(null))])
    weight = np.concatenate([np.full(len(own), 1 / len(own)), np.full(len(null), 1 / len(null))]) * len(scores) / 2
    theta = np.zeros(2)
    pull = np.diag([0.1, 1e-6])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-rows @ theta))
        gradient = rows.T @ (weight * (target - chance)) - pull @ theta
        step = np.linalg.solve((rows * (weight * chance * (1 - chance))[:, None]).T @ rows + pull, gradient)
        theta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    slope = float(theta[0] / spread)
    return slope, float(theta[1] - slope * centre)


def _precise(own: NDArray[np.float64], right: NDArray[np.bool_], null: NDArray[np.float64], start: float) -> float:
    """Return the lowest score from `start` on above which P_HIGH of the samples are right; infinite if there is none.

    Both kinds have the same total weight.
    """
    scores = np.concatenate([own, null])
    hits = np.concatenate([right / len(own), np.zeros(len(null))])
    shares = np.concatenate([np.full(len(own), 1 / len(own)), np.full(len(null), 1 / len(null))])
    order = np.argsort(-scores, kind="stable")
    precision = np.cumsum(hits[order]) / np.cumsum(shares[order])
    above = int(np.sum(scores >= start))
    good = np.nonzero(precision[:above] >= P_HIGH)[0]
    if not above or (len(good) and good[-1] == above - 1):
        return start
    return float(scores[order][good[-1]]) if len(good) else float("inf")


def _logit(chance: float) -> float:
    return float(np.log(chance / (1 - chance)))
