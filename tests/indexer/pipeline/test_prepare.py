"""What is known of a video before its units are decoded."""

from __future__ import annotations

from vfindex.indexer.pipeline.prepare import ended
from vfindex.storage.records import Chapter


def test_a_chapter_without_length_lasts_until_the_next_one() -> None:
    """Some programs write marks: they are moments, and not words of the whole video."""
    marks = [Chapter("two", 5.0, 5.0), Chapter("one", 0.0, 0.0), Chapter("same", 5.0, 5.0), Chapter("three", 9.0, 9.0)]
    others = [Chapter("long", 1.0, 30.0), Chapter("untimed"), Chapter("past", 20.0, 20.0)]
    assert list(ended([*marks, *others], 12.0)) == [
        Chapter("two", 5.0, 9.0),
        Chapter("one", 0.0, 1.0),
        Chapter("same", 5.0, 9.0),
        Chapter("three", 9.0, 12.0),
        Chapter("long", 1.0, 30.0),
        Chapter("untimed"),
        Chapter("past", 20.0, 20.0),
    ]
    assert list(ended([], 12.0)) == []
