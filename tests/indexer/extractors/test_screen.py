"""Text on the screen: which frames are read, and what becomes of their lines."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from written import SIZE, Picture, picture

from vfindex.indexer.extractors import screen
from vfindex.indexer.extractors.base import Known, Track, Unit
from vfindex.indexer.extractors.ocr import Ocr, Place
from vfindex.indexer.extractors.screen import BURST, READ_S, TAP, FramePicker, ScreenExtractor
from vfindex.indexer.media.decoder import Frame, ReadEnd
from vfindex.indexer.options import Options, Sampling
from vfindex.storage.records import UnitPlan

OPTIONS = Options(Sampling(), asr=False)
END = ReadEnd(0, None, None, 0, 0, "")


def unit(end_s: float = 30.0, plan: UnitPlan | None = None, options: Options = OPTIONS) -> Unit:
    video: Any = SimpleNamespace(end_s=end_s)
    return Unit(video, plan or UnitPlan(0), options, Known(), None)


def extracted(ocr: Any, frames: Sequence[tuple[float, Picture]], **of: Any) -> Track:
    extraction = ScreenExtractor(ocr).begin(unit(**of))
    for time_s, pixels in frames:
        extraction.feed(Frame(time_s, pixels, TAP))
    return extraction.finish(END)


class Written:
    """Instead of OCR: reads what a test gives for each frame that is read, in turn."""

    def __init__(self, *frames: Sequence[tuple[Any, ...]]) -> None:
        self._frames = list(frames)
        self._lines: list[tuple[Any, ...]] = []
        self.read_at = 0

    def find(self, pixels: Picture) -> list[Place]:
        self._lines = list(self._frames[min(self.read_at, len(self._frames) - 1)])
        self.read_at += 1
        places = []
        for number, (_, _, (left, top)) in enumerate(self._lines):
            box = (left, top, left + 0.4, top + 0.1)
            places.append(Place(np.full((4, 2), number, np.float32), box, 36.0, 300))
        return places

    def read(self, pixels: Picture, place: Place) -> tuple[str, float]:
        text, confidence, _ = self._lines[int(place.corners[0, 0])]
        return text, confidence


def noise(seed: int) -> Picture:
    return np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def changing(count: int) -> list[tuple[float, Picture]]:
    """Return frames all of which differ everywhere, READ_S apart."""
    return [(n * READ_S, noise(n)) for n in range(count)]


HERE, THERE = (0.1, 0.8), (0.5, 0.1)


def lines_of(track: Track) -> list[tuple[float, float, str]]:
    return [(s.start_s, s.end_s, s.text) for s in track.segments]


def test_a_line_that_stays_is_one_segment_with_its_best_reading() -> None:
    ocr = Written(
        [("We grow tomatces", 0.93, HERE)], [("We grow tomatoes", 0.99, HERE)], [("We qrow tomatoes", 0.95, HERE)]
    )
    track = extracted(ocr, changing(3))
    [line] = track.segments
    assert (line.start_s, line.end_s, line.text, line.confidence) == (0.0, 30.0, "We grow tomatoes", 0.99)
    assert (line.source, line.track, line.box) == ("frames", "screen", (0.1, 0.8, 0.5, pytest.approx(0.9)))
    assert {window.text for window in track.windows} == {"We grow tomatoes"}


def test_a_line_ends_when_it_is_gone_and_may_be_missed_once() -> None:
    shown: Any = [("EXIT NOW", 0.99, HERE)]
    assert lines_of(extracted(Written(shown, [], shown, [], []), changing(5))) == [(0.0, 9.0, "EXIT NOW")]
    assert lines_of(extracted(Written(shown, [], [], shown), changing(4))) == [
        (0.0, 3.0, "EXIT NOW"),
        (9.0, 30.0, "EXIT NOW"),
    ]


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        ("We grow tomatoes", "They sell potatoes", 2),
        ("took 1.213 seconds", "took 4.875 seconds", 2),
        ("GARDEN", "GARDFN", 1),
    ],
)
def test_another_text_at_the_same_place_is_another_line(first: str, second: str, count: int) -> None:
    track = extracted(Written([(first, 0.99, HERE)], [(second, 0.98, HERE)]), changing(2))
    assert len(track.segments) == count


def test_a_line_that_moves_is_one_line() -> None:
    track = extracted(
        Written([("Directed by Ada Moss", 0.99, HERE)], [("Directed by Ada Mcss", 0.9, THERE)]),
        changing(2),
    )
    assert lines_of(track) == [(0.0, 30.0, "Directed by Ada Moss")]


def test_a_line_that_moved_is_looked_for_where_it_moved_to() -> None:
    """The ground that it leaves behind is still, and is not the line."""
    frames = []
    for n, place in enumerate([HERE, THERE, THERE, None, None]):
        pixels = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
        pixels[: SIZE[1] // 20] = noise(n)[: SIZE[1] // 20]  # something else changes
        if place:
            left, top = round(place[0] * SIZE[0]), round(place[1] * SIZE[1])
            pixels[top : top + SIZE[1] // 10, left : left + SIZE[0] // 3 : 3] = 240
        frames.append((n * READ_S, pixels))
    ocr = Written([("EXIT NOW", 0.99, HERE)], [("EXIT NOW", 0.95, THERE)], [("EXIT NOW", 0.95, THERE)], [], [])
    assert lines_of(extracted(ocr, frames)) == [(0.0, 9.0, "EXIT NOW")]


@pytest.mark.parametrize(("text", "confidence"), [("EXIT NOW", 0.89), ("I", 0.99), ("\u56db", 0.95), ("-- ..", 0.99)])
def test_noise_is_dropped(text: str, confidence: float) -> None:
    assert not extracted(Written([(text, confidence, HERE)]), changing(2)).segments


def test_more_text_than_is_read_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "MAX_COLUMNS", 700)
    monkeypatch.setattr(screen, "COLUMNS_S", 0)
    shown = [(f"line {letter * 5}", 0.99, (0.1, 0.2 * n)) for n, letter in enumerate("abcd")]
    track = extracted(Written(shown), changing(1))
    assert len(track.segments) == 2
    assert "2 lines left out" in track.coverage


def test_a_line_belongs_to_its_unit_and_ends_with_it() -> None:
    frames = [(600.0 + time_s, pixels) for time_s, pixels in changing(2)]
    track = extracted(Written([("EXIT NOW", 0.99, HERE)]), frames, plan=UnitPlan(1, 600.0, 1200.0), end_s=1800.0)
    assert lines_of(track) == [(600.0, 1200.0, "EXIT NOW")]
    extraction = ScreenExtractor(Written([("EXIT NOW", 0.99, HERE)])).begin(unit(end_s=500.0))  # type: ignore[arg-type]
    extraction.feed(Frame(0.0, noise(0), TAP))
    cut_off = extraction.finish(ReadEnd(9, 0.0, 7.5, 0, 0, "it is cut off"))
    assert lines_of(cut_off) == [(0.0, 7.5, "EXIT NOW")]


def test_a_preview_reads_nothing() -> None:
    extraction = ScreenExtractor(Written([])).begin(unit(options=OPTIONS.coarsely()))  # type: ignore[arg-type]
    assert not extraction.taps
    assert not extraction.finish(END).segments


# --- which frames are read ------------------------------------------------------------------------------------------


def taken(frames: Sequence[tuple[float, Picture]]) -> list[float]:
    picker = FramePicker()
    return [time_s for time_s, pixels in frames if picker.takes(Frame(time_s, pixels, TAP))]


def test_a_still_picture_is_read_once() -> None:
    assert taken([(float(n), picture(("Hello", 50, 50))) for n in range(60)]) == [0.0]


def test_a_new_line_of_small_print_is_a_change() -> None:
    before = picture(("first line of code", 10, 10), size=(1280, 720), size_px=16)
    after = picture(("first line of code", 10, 10), ("second line", 10, 40), size=(1280, 720), size_px=16)
    assert taken([(0.0, before), (4.0, after), (8.0, after)]) == [0.0, 4.0]


def test_a_change_is_read_some_seconds_later_and_a_cut_at_once() -> None:
    moving = [(float(n), np.clip(noise(n) // 8 + 100, 0, 255).astype(np.uint8)) for n in range(10)]
    assert taken(moving) == [0.0, 3.0, 6.0, 9.0]
    cut = [(time_s, pixels if time_s < 4 else pixels + 100) for time_s, pixels in moving]
    assert taken(cut) == [0.0, 3.0, 4.0, 7.0]


def test_fast_cuts_are_read_no_more_often_than_the_budget() -> None:
    flashing = [
        (float(n), np.full((36, 64, 3), 40 + 150 * (n % 2), np.uint8) + noise(n)[:36, :64] // 8) for n in range(300)
    ]
    assert len(taken(flashing)) <= BURST + 300 / READ_S


# --- real text ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ocr() -> Ocr:
    pytest.importorskip("rapidocr")
    return Ocr.open(1)


def test_moving_ground_under_a_subtitle_leaves_one_line(ocr: Ocr) -> None:
    frames = [(n * READ_S, picture(("the harvest begins", 150, 300), ground=20 + 25 * n)) for n in range(5)]
    assert lines_of(extracted(ocr, frames)) == [(0.0, 30.0, "the harvest begins")]


def test_a_picture_full_of_text_is_read_within_the_budget(ocr: Ocr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "MAX_COLUMNS", 3_000)
    page = picture(
        *((f"entry {n:03} of a long list", 20 + 430 * (n % 3), 12 + 18 * (n // 3)) for n in range(117)),
        size=(1280, 720),
        size_px=12,
    )
    reads: list[Place] = []
    read = ocr.read
    monkeypatch.setattr(ocr, "read", lambda pixels, place: reads.append(place) or read(pixels, place))
    track = extracted(ocr, [(0.0, page)])
    assert 1 <= sum(place.columns for place in reads) <= 3_000
    assert "left out" in track.coverage
