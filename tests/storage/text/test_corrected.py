"""Words keep their times where a corrected line still has them."""

from __future__ import annotations

import pytest

from vfindex.storage.text.corrected import moved_times

BEFORE = "the whether is fine to day"
TIMES = tuple(zip((0, 4, 12, 15, 20, 23), (0.0, 0.3, 0.9, 1.1, 1.6, 1.8), strict=True))


@pytest.mark.parametrize(
    ("after", "times"),
    [
        (BEFORE, TIMES),
        ("The weather is fine to day.", ((0, 0.0), (4, 0.3), (12, 0.9), (15, 1.1), (20, 1.6), (23, 1.8))),
        ("the whether is fine today", ((0, 0.0), (4, 0.3), (12, 0.9), (15, 1.1))),
        ("and the whether is fine to day", ((4, 0.0), (8, 0.3), (16, 0.9), (19, 1.1), (24, 1.6), (27, 1.8))),
        ("is fine to day", ((0, 0.9), (3, 1.1), (8, 1.6), (11, 1.8))),
        ("six words in place of them", ()),
        ("Then Whether, it's fine to day", ((0, 0.0), (5, 0.3), (14, 0.9), (19, 1.1), (24, 1.6), (27, 1.8))),
        ("something else", ()),
    ],
)
def test_words_that_stay_keep_their_times(after: str, times: object) -> None:
    assert moved_times(BEFORE, after, TIMES) == times


def test_a_word_without_a_time_gets_none() -> None:
    assert moved_times("one two three", "one too three", ((0, 0.1), (8, 0.9))) == ((0, 0.1), (8, 0.9))
    assert moved_times("one two", "one too", ()) == ()
