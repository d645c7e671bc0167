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
    of_pair: list[int] = []  # a pair -> another of its group, or itself
    known: dict[int, dict[Member, int]] = {}  # video -> its spans, each with a pair that has it
    listed = list(pairs)
    for number, (first, second, _) in enumerate(listed):
        of_pair.append(number)
        for member in (first, second):
            spans = known.setdefault(member.video, {})
            for pair in [pair for span, pair in spans.items() if member.is_same(span)]:
                of_pair[_group_of(of_pair, pair)] = _group_of(of_pair, number)
            spans[member] = number
    groups: dict[int, tuple[list[Member], list[Run]]] = {}
    for number, (first, second, run) in enumerate(listed):
        members, runs = groups.setdefault(_group_of(of_pair, number), ([], []))
        members += [first, second]
        runs.append(run)
    return [(_longest(members), runs) for members, runs in groups.values()]


def _group_of(of_pair: list[int], pair: int) -> int:
    """Return the pair that stands for a pair's group, and shorten the way to it."""
    while of_pair[pair] != pair:
        of_pair[pair] = of_pair[of_pair[pair]]
        pair = of_pair[pair]
    return pair


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
