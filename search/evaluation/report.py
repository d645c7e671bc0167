"""An evaluation of configurations as a record, with its JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vfindex.search.evaluation.datasets import Question
from vfindex.search.evaluation.evaluate import LEVELS, Level, Rankings, differences, judge, labelled


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The rankings of questions, and their figures. Both by configuration, the first the one compared with."""

    queries: Path
    questions: Sequence[Question]
    rankings: Mapping[str, Rankings]
    levels: Mapping[str, Mapping[str, Level]]

    @classmethod
    def of(cls, queries: Path, questions: Sequence[Question], rankings: Mapping[str, Rankings]) -> Evaluation:
        """Judge rankings. queries: the file of the questions. Moments are judged only for rankings with times."""
        return cls(queries, questions, rankings, {name: _levels(questions, each) for name, each in rankings.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation for JSON."""
        first, *others = self.rankings
        return {
            "queries": str(self.queries.absolute()),
            "questions": len(self.questions),
            "without_answer": sum(not question.relevant for question in self.questions),
            "configurations": [self._configuration(name) for name in self.rankings],
            "differences": [
                {
                    "from": first,
                    "to": other,
                    "level": level,
                    "measures": {m: asdict(d) for m, d in differences(self.levels[first][level], of).items()},
                }
                for other in others
                for level, of in self.levels[other].items()
                if level in self.levels[first]
            ],
        }

    def _configuration(self, name: str) -> dict[str, Any]:
        rankings = self.rankings[name]
        return {
            "name": name,
            "depth": rankings.depth,
            "latency_ms": {f"p{p}": value for p, value in rankings.latencies_ms().items()} or None,
            "refused": [{"query_id": id_, "reason": why} for id_, why in rankings.refused.items()],
            "absent": list(rankings.absent),
            "labels": {label: asdict(of) for label, of in labelled(self.questions, rankings).items()},
            "levels": {level: _figures(of) for level, of in self.levels[name].items()},
        }


def _levels(questions: Sequence[Question], rankings: Rankings) -> dict[str, Level]:
    """Return level -> figures."""
    timed = any(hit.span[1] > hit.span[0] for hits in rankings.hits.values() for hit in hits)
    judged = {name: judge(questions, rankings, name) for name, iou in LEVELS.items() if iou is None or timed}
    return {name: level for name, level in judged.items() if level is not None}


def _figures(level: Level) -> dict[str, Any]:
    return {
        group: {
            "questions": len(level.groups[group]),
            **{name: {k: _finite(getattr(f, k)) for k in ("value", "low", "high")} for name, f in figures.items()},
        }
        for group, figures in level.figures().items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
