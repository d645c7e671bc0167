"""Time codes: published values, and round trips."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfindex.search.export.timecode import RATE_NAMES, Timebase, is_drop, nearest_standard, timeline_rate
from vfindex.storage.errors import UsageError

NTSC, HIGH_NTSC = Fraction(30000, 1001), Fraction(60000, 1001)
DF, HIGH_DF = Timebase(NTSC, drop=True), Timebase(HIGH_NTSC, drop=True)


@pytest.mark.parametrize(
    ("base", "frame", "timecode"),
    [
        (DF, 0, "00:00:00;00"),
        (DF, 1799, "00:00:59;29"),
        (DF, 1800, "00:01:00;02"),
        (DF, 3597, "00:01:59;29"),
        (DF, 3598, "00:02:00;02"),
        (DF, 17_981, "00:09:59;29"),
        (DF, 17_982, "00:10:00;00"),
        (DF, 17_982 + 1800, "00:11:00;02"),
        (DF, 107_892, "01:00:00;00"),
        (HIGH_DF, 3599, "00:00:59;59"),
        (HIGH_DF, 3600, "00:01:00;04"),
        (HIGH_DF, 35_964, "00:10:00;00"),
        (Timebase(NTSC), 1800, "00:01:00:00"),
        (Timebase(NTSC), 108_000, "01:00:00:00"),
        (Timebase(Fraction(24000, 1001)), 86_400, "01:00:00:00"),
        (Timebase(Fraction(25)), 90_024, "01:00:00:24"),
        (Timebase(Fraction(50)), 49, "00:00:00:49"),
        (Timebase(Fraction(60)), 3600, "00:01:00:00"),
    ],
)
def test_known_time_codes(base: Timebase, frame: int, timecode: str) -> None:
    assert base.timecode(frame) == timecode
    assert base.frame(timecode) == frame


@given(st.sampled_from(list(RATE_NAMES)), st.booleans(), st.integers(0, 2_500_000))
def test_every_frame_has_one_time_code(rate: Fraction, drop: bool, frame: int) -> None:
    base = Timebase(rate, drop and rate in (NTSC, HIGH_NTSC))
    frame %= base.frame("23:59:59:00")
    assert base.frame(base.timecode(frame)) == frame
    assert base.timecode(frame) < base.timecode(frame + 1)


@given(st.integers(0, 24 * 3600 - 1))
def test_drop_frame_follows_the_clock(time_s: int) -> None:
    hours, minutes, seconds, frames = (
        int(part) for part in DF.timecode(DF.frame_at(time_s)).replace(";", ":").split(":")
    )
    assert (
        abs(3600 * hours + 60 * minutes + seconds + frames / 29.97 - time_s) < 0.2
    )  # ST 12-1: 2.6 frames a day, and 2 within a minute


@pytest.mark.parametrize("base", [Timebase(rate) for rate in (Fraction(24000, 1001), Fraction(25), NTSC)] + [DF])
def test_a_timeline_begins_with_the_time_code_asked_for(base: Timebase) -> None:
    assert base.timecode(base.frame_named(3600.0)).replace(";", ":") == "01:00:00:00"


def test_a_day_begins_anew() -> None:
    assert Timebase(Fraction(25)).timecode(25 * 86_400 + 3) == "00:00:00:03"
    assert DF.timecode(DF.frame("23:59:59;29") + 1) == "00:00:00;00"


@pytest.mark.parametrize("text", ["", "1:00:00:00", "00:61:00:00", "00:00:60:00", "00:00:00:25", "00:00:00", "x"])
def test_what_is_no_time_code(text: str) -> None:
    with pytest.raises(ValueError, match="time code"):
        Timebase(Fraction(25)).frame(text)


def test_drop_frame_is_of_two_rates() -> None:
    with pytest.raises(ValueError, match="no drop-frame"):
        Timebase(Fraction(25), drop=True)
    assert is_drop("01:00:00;00") and is_drop("01:00:00.00") and not is_drop("01:00:00:00") and not is_drop("x")


@pytest.mark.parametrize(
    ("text", "rate", "drop"),
    [
        ("25", Fraction(25), False),
        ("23.976", Fraction(24000, 1001), False),
        ("23.98", Fraction(24000, 1001), False),
        ("29.97", NTSC, False),
        ("29.97df", NTSC, True),
        ("59.94NDF", HIGH_NTSC, False),
        ("30000/1001", NTSC, False),
    ],
)
def test_rates_as_people_write_them(text: str, rate: Fraction, drop: bool) -> None:
    assert Timebase.parse(text) == Timebase(rate, drop)


@pytest.mark.parametrize("text", ["", "0", "1/0", "25df", "26", "fast", "-25", "29.97dfx"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(UsageError):
        Timebase.parse(text)


@pytest.mark.parametrize(
    ("stated", "rate"),
    [
        (Fraction(2997, 125), Fraction(24000, 1001)),
        (Fraction(2997, 100), NTSC),
        (Fraction(45000, 1499), Fraction(30)),
        (Fraction(25), Fraction(25)),
        (Fraction(10), None),
        (Fraction(179, 6), None),
    ],
)
def test_stated_rates_are_rounded(stated: Fraction, rate: Fraction | None) -> None:
    assert nearest_standard(stated) == rate


@pytest.mark.parametrize(
    ("rate", "timeline"),
    [
        (10, 30),
        (15, 30),
        (Fraction(25, 2), 25),
        (5, 25),
        (100, 50),
        (120, 60),
        (28, 30),
        (Fraction(120000, 1001), HIGH_NTSC),
    ],
)
def test_timelines_of_other_rates(rate: Fraction | int, timeline: Fraction | int) -> None:
    assert timeline_rate(Fraction(rate)) == timeline
