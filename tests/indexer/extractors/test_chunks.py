"""Speech windows, and which clip each describes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfindex.indexer.extractors.chunks import MAX_GAP_S, overlapping, unrepeated, windows
from vfindex.storage.records import Segment


def numbered(first: int, count: int) -> str:
    return " ".join(f"{n:03}" for n in range(first, first + count))


def test_windows_are_of_equal_length_and_hold_each_word_once() -> None:
    segments = [Segment(10.0, 20.0, numbered(0, 20), "asr"), Segment(20.0, 40.0, numbered(20, 40), "asr")]
    found = windows(segments, 25)
    assert [len(w.text.split()) for w in found] == [20, 20, 20]
    assert " ".join(w.text for w in found) == numbered(0, 60)
    assert [(w.start_s, w.end_s) for w in found] == [(10.0, 20.0), (20.0, 30.0), (30.0, 40.0)]


def test_no_window_spans_a_pause_or_two_sources() -> None:
    parts = [
        Segment(0.0, 2.0, "one two", "asr"),
        Segment(3.0, 4.0, "three", "asr"),
        Segment(4.0 + MAX_GAP_S + 0.1, 20.0, "four", "asr"),
        Segment(20.0, 21.0, "five", "embedded"),
        Segment(21.0, 22.0, "six", "embedded", "fr"),
    ]
    assert [w.text for w in windows(reversed(parts))] == ["one two three", "four", "five", "six"]


def test_lines_on_the_picture_are_one_text_while_they_are_shown_together() -> None:
    def line(start_s: float, end_s: float, text: str, top: float) -> Segment:
        return Segment(start_s, end_s, text, "frames", track="screen", box=(0.1, top, 0.9, top + 0.1))

    shown = [line(0.0, 6.0, numbered(20, 20), 0.4), line(0.0, 6.0, numbered(0, 20), 0.1), line(3.5, 4.5, "EXIT", 0.9)]
    said = [Segment(0.0, 4.0, "one two", "asr")]
    found = windows([*shown, *said])
    assert [(w.start_s, w.end_s, w.text) for w in found if w.text != "one two"] == [
        (0.0, 2.0, numbered(0, 20)),
        (0.0, 2.0, numbered(20, 20)),
        (2.0, 4.0, numbered(0, 20)),
        (2.0, 4.0, f"{numbered(20, 20)} EXIT"),
        (4.0, 6.0, numbered(0, 20)),
        (4.0, 6.0, f"{numbered(20, 20)} EXIT"),
    ]
    spans = [(w.start_s, w.end_s) for w in found]
    assert [{found[n].text[:3] for n in each} for each in overlapping([(0.0, 2.5), (4.0, 6.0)], spans)] == [
        {"000", "020", "one"},
        {"000", "020"},
    ]
    assert [w.text for w in windows([line(2.0, 2.0, "EXIT", 0.5)])] == ["EXIT"]


def test_subtitles_on_the_picture_that_are_said_count_once() -> None:
    box = (0.1, 0.8, 0.9, 0.9)
    said = [Segment(1.0, 4.0, "And then we grow tomatoes", "asr"), Segment(4.0, 6.0, "in the garden.", "asr")]

    def kept(text: str, start_s: float, **place: Any) -> bool:
        return bool(unrepeated([Segment(start_s, start_s + 2, text, "frames", **{"box": box, **place})], said))

    assert not kept("\u2013 We grow tomatoes", 1.0)
    assert not kept("tomatoes in the garden", 4.0)
    assert not kept("we grow potatoes in the garden", 3.0)
    assert kept("we grow tomatoes", 60.0)
    assert kept("garden the in", 1.0)
    assert kept("tomatoes", 1.0)
    assert kept("Chapter one: how we grow tomatoes", 1.0)
    assert kept("we grow tomatoes", 1.0, box=None)


def test_no_words_no_windows() -> None:
    assert windows([]) == []
    assert overlapping([(0.0, 5.0)], []) == [[]]


def test_a_clip_has_the_windows_of_which_it_holds_half_else_the_one_it_shares_most() -> None:
    spans = [(0.0, 4.0), (4.0, 8.0), (20.0, 60.0), (60.0, 70.0)]
    clips = [(0.0, 6.0), (6.0, 9.0), (9.0, 20.0), (30.0, 35.0), (56.0, 63.0), (70.0, 75.0)]
    assert overlapping(clips, spans) == [[0, 1], [1], [], [2], [2], []]


def test_a_frame_describes_the_clip_that_it_lies_in() -> None:
    frames = [(time_s, time_s) for time_s in (0.0, 1.0, 2.0, 2.0, 3.5)]
    assert overlapping([(0.0, 2.0), (2.0, 3.5), (3.5, 4.0), (5.0, 6.0)], frames) == [[0, 1], [2, 3], [4], []]


SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=12).map(
    lambda pairs: sorted((float(start), float(start + length)) for start, length in pairs)
)


@given(SPANS, SPANS)
def test_overlapping_as_defined(clips: list[tuple[float, float]], spans: list[tuple[float, float]]) -> None:
    found = overlapping(clips, spans)
    for (start_s, end_s), positions in zip(clips, found, strict=True):
        shared = [max(0.0, min(end_s, end) - max(start_s, start)) for start, end in spans]
        half = [i for i, (start, end) in enumerate(spans) if shared[i] > 0 and shared[i] >= (end - start) / 2]
        if half:
            assert positions == half
        elif max(shared, default=0.0) > 0:
            assert [shared[i] for i in positions] == [max(shared)]
        else:
            assert positions == []


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 9), st.text("ab ", min_size=1).filter(str.strip)), max_size=8),
    st.integers(1, 9),
)
def test_windows_keep_to_the_time_of_their_segments(parts: list[tuple[float, float, str]], words: int) -> None:
    segments = [Segment(start, start + length, text, "sidecar") for start, length, text in parts]
    found = windows(segments, words)
    assert sum(len(w.text.split()) for w in found) == sum(len(s.text.split()) for s in segments)
    for window in found:
        assert len(window.text.split()) <= words
        assert min(s.start_s for s in segments) <= window.start_s <= window.end_s
        assert window.end_s <= max(s.end_s for s in segments) + 1e-9
    assert [w.start_s for w in found] == sorted(w.start_s for w in found)


@pytest.mark.timeout(20)
def test_many_clips_and_windows_are_matched_in_linear_time() -> None:
    spans = [(float(n), n + 1.5) for n in range(20_000)]
    clips = [(float(n), n + 2.0) for n in range(20_000)]
    assert len(overlapping(clips, spans)) == 20_000
