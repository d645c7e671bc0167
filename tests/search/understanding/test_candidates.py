"""Pairs of videos by votes of their clips: which are examined, at which offsets, and which are dropped."""

from __future__ import annotations

import numpy as np

from vfindex.search.understanding.candidates import Clips, Votes, asked_rows, candidates

# Three videos of two clips of 10 s: rows 0 and 1, 2 and 3, 4 and 5.
CLIPS = Clips(
    np.arange(1, 7),
    np.array([7, 7, 8, 8, 9, 9]),
    np.array([0.0, 10.0] * 3),
    np.array([10.0, 20.0] * 3),
)


def _pairs(*matches: tuple[int, int], asked: tuple[int, ...] = tuple(range(6))) -> list[tuple[int, int]]:
    sources, found = (np.array(each, np.int64) for each in zip(*matches, strict=True))
    is_asked = np.isin(np.arange(6), asked)
    return [(each.first, each.second) for each in candidates(Votes.of(sources, found, is_asked), CLIPS)[0]]


def test_a_pair_needs_two_votes_for_one_offset() -> None:
    assert _pairs((0, 2)) == []
    assert _pairs((0, 2), (2, 0)) == [(7, 8)], "from both sides"
    assert _pairs((0, 2), (1, 3)) == [(7, 8)], "of two clips"


def test_votes_for_offsets_that_contradict_each_other_do_not_add_up() -> None:
    # The first clip of 7 may be the second of 9, 0 to 20 s later, or the other way round, 20 to 0 s earlier.
    apart = Clips(CLIPS.ids, CLIPS.videos, np.array([0.0, 100.0] * 3), np.array([10.0, 110.0] * 3))
    sources, matches = np.array([0, 1]), np.array([5, 4])
    assert candidates(Votes.of(sources, matches, np.ones(6, np.bool_)), apart) == ([], 1)


def test_a_clip_whose_neighbours_were_not_looked_up_counts_twice() -> None:
    assert _pairs((4, 0), asked=(4, 5)) == [(7, 9)]


def test_offsets_are_those_of_the_later_video_to_the_earlier_one() -> None:
    sources, matches = np.array([3, 0]), np.array([0, 3])  # row 3 begins 10 s after row 0
    [pair], considered = candidates(Votes.of(sources, matches, np.ones(6, np.bool_)), CLIPS)
    assert considered == 1 and (pair.first, pair.second) == (7, 8)
    assert (pair.offsets_s[0], pair.offsets_s[-1]) == (0.0, 20.0)


def test_no_votes_are_no_pairs() -> None:
    none = np.zeros(0, np.int64)
    assert candidates(Votes.of(none, none, np.ones(6, np.bool_)), CLIPS) == ([], 0)


def test_clips_of_a_long_video_are_spread() -> None:
    long = Clips(np.arange(100), np.repeat([3, 4], 50), np.tile(np.arange(50.0), 2), np.tile(np.arange(50.0), 2) + 1)
    rows = asked_rows(long, [4])
    assert len(rows) == 16 and rows.min() >= 50 and np.ptp(np.diff(rows)) <= 1
