"""From pairs of spans with the same footage to groups, and whether two videos say the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from vfindex.search.rank.group import SAME_WORDS
from vfindex.search.understanding.alignment import Run
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray

# Spans of one video are the same footage from this intersection over union on.
SAME_SPAN = 0.8
# Spoken modality -> a vector (dim,) of what is said.
Speech = Mapping[ModalityName, FloatArray]


@dataclass(frozen=True, slots=True)
class Member:
    """A span of a video, by id."""

    video: int
    span_s: tuple[float, float]

    def is_same(self, other: Member) -> bool:
        (a, b), (c, d) = self.span_s, other.span_s
        return self.video == other.video and min(b, d) - max(a, c) >= SAME_SPAN * (max(b, d) - min(a, c))


def joined(pairs: Iterable[tuple[Member, Member, Run]]) -> list[tuple[list[Member], list[Run]]]:
    """Return the groups that pairs form: members, each video's longest span, and the runs that join them.

    Pairs are in one group if they share a video with nearly the same span. A video with two such spans that only other
    videos join is in the group with the longer one.
    """
    groups: list[tuple[list[Member], list[Run]]] = []
    for first, second, run in pairs:
        members, runs, others = [first, second], [run], []
        for group in groups:
            if any(each.is_same(known) for each in (first, second) for known in group[0]):
                members, runs = group[0] + members, group[1] + runs
            else:
                others.append(group)
        groups = [*others, (members, runs)]
    return [(_longest(members), runs) for members, runs in groups]


def _longest(members: Iterable[Member]) -> list[Member]:
    best: dict[int, Member] = {}
    for each in members:
        known = best.get(each.video)
        if known is None or each.span_s[1] - each.span_s[0] > known.span_s[1] - known.span_s[0]:
            best[each.video] = each
    return list(best.values())


def same_speech(first: Speech, second: Speech) -> bool:
    """Return whether the second says what the first does, by the measure that folds duplicates in a search."""
    for modality, vector in first.items():
        other = second.get(modality)
        if other is None:
            return False
        lengths = float(np.linalg.norm(vector) * np.linalg.norm(other))
        if lengths and float(vector @ other) < SAME_WORDS * lengths:
            return False
    return True
