"""From pairs of spans to groups."""

from __future__ import annotations

import pytest

from vfindex.search.understanding.alignment import Run
from vfindex.search.understanding.copies import Member, joined


def _pair(first: int, second: int, start_s: float = 0.0) -> tuple[Member, Member, Run]:
    spans = (start_s, start_s + 10.0), (0.0, 10.0)
    return Member(first, spans[0]), Member(second, spans[1]), Run(*spans, 1.0, 0.5, 10)


def test_pairs_that_share_a_span_are_one_group_with_each_video_once() -> None:
    groups = joined([_pair(1, 2), _pair(3, 4), _pair(5, 6), _pair(2, 4), _pair(1, 7, 60.0)])
    videos = sorted(sorted(each.video for each in members) for members, _ in groups)
    assert videos == [[1, 2, 3, 4], [1, 7], [5, 6]]
    assert sorted(len(runs) for _, runs in groups) == [1, 1, 3]


def test_pairs_are_compared_only_with_those_that_have_their_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, is_same = [], Member.is_same

    def counting(self: Member, other: Member) -> bool:
        calls.append(other)
        return is_same(self, other)

    monkeypatch.setattr(Member, "is_same", counting)
    assert len(joined(_pair(2 * number, 2 * number + 1) for number in range(50))) == 50
    assert len(calls) <= 50
