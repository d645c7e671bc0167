"""Labels of hits, where a library has shown that its scores tell what it holds from what it does not.

The rule. For each modality `calibrate.measure` takes the best score that the library has for questions it can answer
(known items: words of its own transcripts and titles) and for questions of a fixed bank that are not about it. The AUC,
the probability that the first is above the second (Hanley and McNeil 1982), says whether the score tells the two apart.
Below MIN_AUC, or with fewer than MIN_ITEMS known items, the modality gives no label. Else a score has the label

    high     P(right) >= 0.95      P by logistic regression on the scores of both kinds (Platt 1999), as if half of all
    medium   P(right) >= 0.5       questions had an answer; and raised until 95 % of what stands above it was right
    low      above chance          more than 95 % of the bank reach, or as much as 95 % of the known items do,
                                   whichever is less: so that one answerable question in twenty is lost
    none     not above chance

A hit has the best label of its modalities. None of it says that a hit is no better than chance unless every modality
that was asked can tell: what the others hold is not known, and then a hit below has no label at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.records import MODALITIES, Modality

if TYPE_CHECKING:  # the command line names the labels in its help, which imports no NumPy
    from vfindex.search.query.ast import Query
    from vfindex.storage.joint.vector import JointSpec

Label = Literal["none", "low", "medium", "high"]
LABELS: tuple[Label, ...] = get_args(Label)
# From here a classifier is commonly called good, and below it four in five labels "high" would be rare luck.
MIN_AUC = 0.8
# With 20 known items and 200 of the bank, an AUC of 0.7 is taken for 0.8 once in 20 times (its standard error is 0.06).
MIN_ITEMS = 20
# Where a library keeps what was measured.
META_KEY = "calibration"
# Which scores were measured; raised when ranking.py gives others, so that no old threshold judges new scores.
SCORES = 1


@dataclass(frozen=True, slots=True)
class Trust:
    """What was measured of one modality, over `known` items and `background` questions, at the weight it had then.

    low, medium, high: the least score with that label; infinite where no score earns it.
    """

    auc: float
    known: int
    background: int
    weight: float
    low: float = math.inf
    medium: float = math.inf
    high: float = math.inf

    @property
    def earned(self) -> bool:
        """Whether scores of this modality tell enough to label a hit."""
        return self.auc >= MIN_AUC and self.known >= MIN_ITEMS

    def label(self, score: float) -> Label:
        """Return the label of a score."""
        reached = [name for name in LABELS[1:] if score >= getattr(self, name)]
        return reached[-1] if reached else "none"

    def reason(self) -> str:
        """Return why there are labels or none, in words."""
        if self.known < MIN_ITEMS:
            return f"no labels ({self.known} questions of its own to measure by; {MIN_ITEMS} are needed)"
        told = f"AUC {self.auc:.2f} over {self.known} questions of its own"
        return f"labelled ({told})" if self.earned else f"no labels ({told}; {MIN_AUC} is needed)"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of a library that held `clips` clips; a modality that no clip has is missing."""

    clips: int
    trust: Mapping[Modality, Trust]

    def to_json(self) -> str:
        """Return text that `from_json` reads back."""
        trust = {m: asdict(trust) for m, trust in self.trust.items()}
        return json.dumps({"scores": SCORES, "clips": self.clips, "trust": trust})

    @classmethod
    def from_json(cls, text: str | None) -> Calibration | None:
        """Return the calibration of `to_json`'s text, None where there is none of today's scores.

        Raises LibraryDamaged if it is something else.
        """
        if text is None:
            return None
        try:
            data: dict[str, Any] = json.loads(text)
            trust = {m: Trust(**data["trust"][m]) for m in MODALITIES if m in data["trust"]}
            return cls(int(data["clips"]), trust) if data["scores"] == SCORES else None
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise LibraryDamaged("what was measured of the scores is damaged; run: vfindex ingest again") from exc


@dataclass(frozen=True, slots=True)
class Judge:
    """Labels the hits of one question. telling: the modalities whose scores count. all_told: there is no other."""

    telling: Mapping[Modality, Trust]
    all_told: bool

    @classmethod
    def of(cls, stored: str | None, query: Query, spec: JointSpec) -> Judge:
        """Return the judge for a question; stored: the calibration of the library as text, None before it is measured.

        spec: with the question's weights. Scores were measured of plain questions at the default weights of `concat`: a
        modality of another weight does not tell, and another fusion, or a question of weighted or unwanted terms or of
        two moments, has no labels.
        """
        parts = [part for moment in query.moments for part in moment.parts()]
        calibration = Calibration.from_json(stored)
        if calibration is None or spec.fusion != "concat" or len(parts) != 1 or parts[0].weight != 1.0:
            return cls({}, False)
        measured = calibration.trust
        asked = [m for m in parts[0].modalities if m in measured and m in spec.parts and spec.parts[m].weight > 0]
        telling = {m: measured[m] for m in asked if measured[m].earned and measured[m].weight == spec.parts[m].weight}
        return cls(telling, bool(asked) and len(telling) == len(asked))

    def label(self, scores: Mapping[Modality, float | None]) -> Label | None:
        """Return the label of a hit by its modalities' scores; None: that cannot be told."""
        labels = [trust.label(score) for m, trust in self.telling.items() if (score := scores.get(m)) is not None]
        best: Label = max(labels, key=LABELS.index, default="none")
        return best if best != "none" or self.all_told else None
