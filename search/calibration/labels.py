"""Confidence labels of hits, calibrated per library and modality.

For each modality `fit.measure` takes the best scores of known items (queries made of the library's own transcripts and
titles) and of a fixed bank of background queries that are not about the library. The AUC, the probability that a known
item scores above a background query (Hanley and McNeil 1982), says whether scores separate the two. Below MIN_AUC, or
with fewer than MIN_ITEMS known items, the modality gives no label. Otherwise a score is labelled

    high     P(right) >= 0.95      P by logistic regression on the scores of both kinds (Platt 1999), as if half of all
    medium   P(right) >= 0.5       queries had an answer; `high` is raised until 95 % of the scores above it were right
    low      above chance          above 95 % of the background, or above the lowest 5 % of the known items, whichever
                                   is lower: at most one answerable query in twenty is lost
    none     not above chance

A hit has the best label of its modalities. It is labelled `none` only if every modality of the query is calibrated;
otherwise it has no label, since an uncalibrated modality may have matched.

Its share is P(right) of that modality, the largest of all, kept within the band of the label: 0.95 to 1 for `high`, 0.5
to 0.95 for `medium`, below 0.5 for `low` and `none`. It never falls as the score of a modality rises. A hit without a
label has no share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from vfindex.storage.errors import LibraryDamaged, QueryError, counted
from vfindex.storage.modalities import ModalityName

if TYPE_CHECKING:  # the command line names the labels in its help, which imports no NumPy
    from vfindex.search.query.ast import Query
    from vfindex.storage.joint.vector import JointSpec

Label = Literal["none", "low", "medium", "high"]
LABELS: tuple[Label, ...] = get_args(Label)
# Commonly called a good classifier; below it, precision 0.8 at the label `high` would be luck.
MIN_AUC = 0.8
# With 20 known items and 200 background queries the standard error of an AUC is 0.06: 0.7 passes for 0.8 once in 20.
MIN_ITEMS = 20
# P(right) from which on a hit is labelled `high`, and `medium`.
P_HIGH, P_MEDIUM = 0.95, 0.5
# Shares of each label.
_BANDS: Mapping[Label, tuple[float, float]] = {
    "none": (0.0, math.nextafter(P_MEDIUM, 0)),
    "low": (0.0, math.nextafter(P_MEDIUM, 0)),
    "medium": (P_MEDIUM, math.nextafter(P_HIGH, 0)),
    "high": (P_HIGH, 1.0),
}
# Key of the calibration in the library's `meta` table.
META_KEY = "calibration"
# Version of the scores; raised when rank/score.py changes them, which invalidates stored thresholds.
SCORES = 1


def check_label(least: object) -> None:
    """Raise QueryError unless this is a label, or None."""
    if least is not None and least not in LABELS:
        raise QueryError(f"min_confidence must be one of {', '.join(LABELS)}, or None, not {least!r}")


@dataclass(frozen=True, slots=True)
class ModalityCalibration:
    """The calibration of one modality at its weight of that time. known, background: numbers of queries.

    low, medium, high: the lowest score with that label; infinite if no score has it. slope, offset: of the log odds
    that a hit with a score is right; 0 where they are unknown.
    """

    auc: float
    known: int
    background: int
    weight: float
    low: float = math.inf
    medium: float = math.inf
    high: float = math.inf
    slope: float = 0.0
    offset: float = 0.0

    @property
    def is_reliable(self) -> bool:
        """Whether scores of this modality label hits."""
        return self.auc >= MIN_AUC and self.known >= MIN_ITEMS

    def label(self, score: float) -> Label:
        reached = [name for name in LABELS[1:] if score >= getattr(self, name)]
        return reached[-1] if reached else "none"

    def share(self, score: float) -> float | None:
        """Return P(right) within the band of the label, 0 to 1; None if the calibration does not tell."""
        slope, offset = self._log_odds()
        if not slope:
            return None
        chance = 1 / (1 + math.exp(-max(-700.0, min(700.0, slope * score + offset))))
        low, high = _BANDS[self.label(score)]
        return min(max(chance, low), high)

    def _log_odds(self) -> tuple[float, float]:
        """Return slope and offset; of calibrations that lack them, from the scores of the labels, (0, 0) if unknown."""
        if self.slope or not self.medium < self.high < math.inf:
            return self.slope, self.offset
        slope = math.log(P_HIGH / (1 - P_HIGH)) / (self.high - self.medium)
        return slope, -slope * self.medium

    def reason(self) -> str:
        """Return why the modality labels hits or not, in words."""
        if self.known < MIN_ITEMS:
            return f"no labels ({counted(self.known, 'known item')}; {MIN_ITEMS} are needed)"
        measured = f"AUC {self.auc:.2f} over {counted(self.known, 'known item')}"
        return f"labelled ({measured})" if self.is_reliable else f"no labels ({measured}; {MIN_AUC} is needed)"

    def doubt(self, weight: float) -> str:
        """Return why the modality labels no hit at this weight, in words."""
        moved = self.is_reliable and self.weight != weight
        return "no labels (calibrated at another weight)" if moved else self.reason()


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of a library of `clips` clips; a modality that no clip has is missing."""

    clips: int
    modalities: Mapping[ModalityName, ModalityCalibration]

    def completed_by(self, others: Sequence[Calibration]) -> Calibration:
        """Return this calibration; modalities with too few known items have that of the most among others."""
        most = {
            m: max((each.modalities[m] for each in (self, *others) if m in each.modalities), key=lambda of: of.known)
            for m in self.modalities
        }
        own = self.modalities
        return Calibration(self.clips, {m: own[m] if own[m].known >= MIN_ITEMS else most[m] for m in own})

    def to_json(self) -> str:
        """Return text that `from_json` reads back."""
        modalities = {m: asdict(each) for m, each in self.modalities.items()}
        # Apart from the rest, so that older versions can still read it.
        log_odds = {m: {name: each.pop(name) for name in ("slope", "offset")} for m, each in modalities.items()}
        return json.dumps({"scores": SCORES, "clips": self.clips, "trust": modalities, "log_odds": log_odds})

    @classmethod
    def from_json(cls, text: str | None) -> Calibration | None:
        """Return the calibration in `to_json`'s text; None if there is none, or for another version of the scores.

        Raises LibraryDamaged for any other text.
        """
        if text is None:
            return None
        try:
            data: dict[str, Any] = json.loads(text)
            log_odds = data.get("log_odds", {})
            modalities = {m: ModalityCalibration(**of, **log_odds.get(m, {})) for m, of in data["trust"].items()}
            return cls(int(data["clips"]), modalities) if data["scores"] == SCORES else None
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            raise LibraryDamaged("the calibration of the scores is damaged; run: vfindex ingest again") from exc


def open_weights(spec: JointSpec) -> dict[ModalityName, float]:
    """Return the weight of each modality, none for a fusion whose scores are not calibrated."""
    return {m: part.weight for m, part in spec.parts.items()} if spec.fusion == "concat" else {}


@dataclass(frozen=True, slots=True)
class Labeller:
    """Labels the hits of one query. each: by the calibration of each library that is searched.

    Of several labels a hit has the lowest: it must be better than chance in each library, of which any has other scores
    by chance. It has none if one library cannot tell; one with too few known items is labelled as the others are.
    """

    each: Sequence[LibraryLabeller]

    @classmethod
    def of(cls, stored: Sequence[str | None], query: Query, weights: Mapping[ModalityName, float]) -> Labeller:
        """Return the labeller for a query, see `LibraryLabeller.of`. stored: JSON of each calibration."""
        calibrations = [Calibration.from_json(each) for each in stored]
        measured = [each for each in calibrations if each is not None]
        return cls([LibraryLabeller.of(each and each.completed_by(measured), query, weights) for each in calibrations])

    def label(self, scores: Mapping[ModalityName, float | None]) -> Label | None:
        """Return the label of a hit by its modalities' scores; None if a calibration does not decide."""
        labels = [label for each in self.each if (label := each.label(scores)) is not None]
        return min(labels, key=LABELS.index) if len(labels) == len(self.each) else None

    def share(self, scores: Mapping[ModalityName, float | None]) -> float | None:
        """Return the share of a hit, 0 to 1; None for one without a label."""
        shares = [share for each in self.each if (share := each.share(scores)) is not None]
        return min(shares) if len(shares) == len(self.each) else None


@dataclass(frozen=True, slots=True)
class LibraryLabeller:
    """Labels by one calibration. reliable: calibrated modalities. doubts: why others of the query label no hit."""

    reliable: Mapping[ModalityName, ModalityCalibration]
    doubts: Mapping[ModalityName, str]

    @classmethod
    def of(
        cls, calibration: Calibration | None, query: Query, weights: Mapping[ModalityName, float]
    ) -> LibraryLabeller:
        """Return the labeller for a query. calibration: of the library, None before it is measured.

        weights: of the query, see `open_weights`. Scores are calibrated for plain queries at the default weights of
        `concat`: a modality with another weight is not reliable, and another fusion, or a query with weighted or
        negated terms or two moments, has no labels.
        """
        parts = [part for moment in query.moments for part in moment.parts()]
        if len(parts) != 1 or parts[0].weight != 1.0:
            return cls({}, {})
        used = [m for m in parts[0].modalities if weights.get(m, 0.0) > 0]
        if calibration is None or not weights:
            why = "not calibrated yet" if weights else "only the fusion concat is calibrated"
            return cls({}, dict.fromkeys(used or parts[0].modalities, f"no labels ({why})"))
        measured = {m: calibration.modalities[m] for m in used if m in calibration.modalities}
        if not measured:
            return cls({}, dict.fromkeys(parts[0].modalities, "no labels (no clip has it)"))
        reliable = {m: each for m, each in measured.items() if each.is_reliable and each.weight == weights[m]}
        return cls(reliable, {m: each.doubt(weights[m]) for m, each in measured.items() if m not in reliable})

    @property
    def is_complete(self) -> bool:
        """Whether every modality of the query labels hits."""
        return bool(self.reliable) and not self.doubts

    def label(self, scores: Mapping[ModalityName, float | None]) -> Label | None:
        """Return the label of a hit by its modalities' scores; None if the calibration does not decide."""
        labels = [each.label(score) for m, each in self.reliable.items() if (score := scores.get(m)) is not None]
        best: Label = max(labels, key=LABELS.index, default="none")
        return best if best != "none" or self.is_complete else None

    def share(self, scores: Mapping[ModalityName, float | None]) -> float | None:
        """Return the share of a hit, 0 to 1; None for one without a label."""
        if self.label(scores) is None:
            return None
        shares = [each.share(score) for m, each in self.reliable.items() if (score := scores.get(m)) is not None]
        return None if None in shares else max((each for each in shares if each is not None), default=0.0)
