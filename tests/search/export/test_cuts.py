"""Time codes of cuts."""

from __future__ import annotations

from fractions import Fraction

import pytest
from excerpts import selection, source

from vfindex.search.export.cuts import start_timecode

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("start_s", "timecode"),
    [
        (2 / NTSC, "00:01:00;02"),  # the first number after 00:00:59;29 that there is
        (Fraction(67, 1000), "00:01:00;02"),  # 0.3 ms after its beginning
        (Fraction(66, 1000), "00:01:00;02"),  # 0.7 ms before it
        (Fraction(99, 1000), "00:01:00;02"),  # 1.1 ms before the end of it, and shown
        (0, "00:00:59;28"),
        (60 + 2 / NTSC, "00:02:00;02"),
    ],
)
def test_a_cut_has_the_time_code_of_the_frame_that_is_shown_at_its_start(start_s: Fraction, timecode: str) -> None:
    of = source(rate=NTSC, start_timecode="00:00:59;28")
    assert start_timecode(selection((of, float(start_s), 90)).excerpts, exact=True) == timecode


def test_a_cut_at_the_end_has_the_time_code_of_the_last_frame() -> None:
    of = source(start_timecode="23:59:59:24", end_s=100.0)
    assert start_timecode(selection((of, 99.9999, 100)).excerpts, exact=True) == "00:01:39:23"
