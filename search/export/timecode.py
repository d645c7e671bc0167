"""Frame rates and SMPTE time codes (ST 12-1), drop-frame and non-drop, in exact fractions."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from vfindex.storage.errors import UsageError

_FILM, _NTSC, _HALF_FILM, _HIGH_NTSC = (Fraction(1000 * n, 1001) for n in (24, 30, 48, 60))
# The rates of timelines, each with its name in edit lists.
RATE_NAMES = {
    _FILM: "23.98",
    Fraction(24): "24",
    Fraction(25): "25",
    _NTSC: "29.97",
    Fraction(30): "30",
    _HALF_FILM: "47.95",
    Fraction(48): "48",
    Fraction(50): "50",
    _HIGH_NTSC: "59.94",
    Fraction(60): "60",
}
DROP_RATES = (_NTSC, _HIGH_NTSC)
# Files state rounded rates: 2997/125, 45000/1499. Neighbours in the table differ by 0.1 %.
_NEAR = Fraction(1, 1000)
_RATE = re.compile(r"(?P<number>\d{1,3}(?:\.\d{1,4})?|\d{1,6}/\d{1,6})(?P<mode>df|ndf)?", re.ASCII | re.IGNORECASE)
_TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.,])(\d{2,3})", re.ASCII)
_DAY_S = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Timebase:
    """A frame rate and how its frames are numbered. drop: drop-frame, of 29.97 and 59.94 only (ValueError)."""

    rate: Fraction
    drop: bool = False

    def __post_init__(self) -> None:
        if self.drop and self.rate not in DROP_RATES:
            raise ValueError(f"no drop-frame time code at {self.rate} frames a second")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the timebase of `25`, `23.976`, `30000/1001` or `29.97df`. Raises UsageError."""
        match = _RATE.fullmatch(text)
        rate = nearest_standard(_fraction(match["number"])) if match else None
        if match is None or rate is None:
            names = ", ".join(RATE_NAMES.values())
            raise UsageError(f"a frame rate is one of {names}, or 29.97df and 59.94df with drop-frame, not {text!r}")
        drop = (match["mode"] or "").lower() == "df"
        if drop and rate not in DROP_RATES:
            raise UsageError(f"drop-frame time codes are of 29.97 and 59.94 frames a second, not of {text}")
        return cls(rate, drop)

    @property
    def name(self) -> str:
        """The rate as people write it: 25, 29.97."""
        return RATE_NAMES.get(self.rate) or f"{float(self.rate):.3f}".rstrip("0").rstrip(".")

    @property
    def per_second(self) -> int:
        """Numbers of a second: 30 for 29.97."""
        return max(1, round(self.rate))

    @property
    def _dropped(self) -> int:
        """Numbers left out of each minute but every tenth: 2 of 1,800, so that the code follows the clock."""
        return self.per_second // 15 if self.drop else 0

    def frame_at(self, time_s: float | Fraction) -> int:
        """Return the number of the frame that begins nearest to a time, the later of two."""
        return math.floor(Fraction(time_s) * self.rate + Fraction(1, 2))

    def frame_named(self, clock_s: float) -> int:
        """Return the number of the frame whose time code reads a time: 108,000 for an hour of 29.97, not 107,892."""
        return self.frame_at(clock_s) if self.drop else round(Fraction(clock_s) * self.per_second)

    def time_s(self, frame: int) -> Fraction:
        """Return when a frame begins."""
        return frame / self.rate

    def frame(self, timecode: str) -> int:
        """Return the number of the frame with a time code. Raises ValueError for text that is none of this rate."""
        match = _TIMECODE.fullmatch(timecode)
        if match is None:
            raise ValueError(f"{timecode!r} is no time code")
        hours, minutes, seconds, frames = (int(match[n]) for n in (1, 2, 3, 5))
        if minutes > 59 or seconds > 59 or frames >= self.per_second:
            raise ValueError(f"{timecode!r} is no time code of {self.name} frames a second")
        minutes += 60 * hours
        return (60 * minutes + seconds) * self.per_second + frames - self._dropped * (minutes - minutes // 10)

    def timecode(self, frame: int) -> str:
        """Return the time code of a frame, from 00:00:00:00 again after 24 hours; drop-frame with a semicolon."""
        if self.drop:
            tens, rest = divmod(frame, 600 * self.per_second - 9 * self._dropped)
            minute = 60 * self.per_second - self._dropped
            # The first minute of ten has all its numbers.
            frame += self._dropped * (9 * tens + max(0, rest - self._dropped) // minute)
        seconds, frames = divmod(frame, self.per_second)
        minutes, seconds = divmod(seconds % _DAY_S, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours:02}:{minutes:02}:{seconds:02}{';' if self.drop else ':'}{frames:02}"


def is_drop(timecode: str) -> bool:
    """Return whether a time code says that it is drop-frame: `;` or `.` before its frames, as FFmpeg writes it."""
    match = _TIMECODE.fullmatch(timecode)
    return match is not None and match[4] in ";."


def nearest_standard(rate: Fraction) -> Fraction | None:
    """Return the rate of a timeline that a rounded rate means, None if there is none."""
    nearest = min(RATE_NAMES, key=lambda each: abs(each - rate))
    return nearest if abs(nearest - rate) <= nearest * _NEAR else None


def timeline_rate(rate: Fraction) -> Fraction:
    """Return the rate of the timeline on which to edit material of a rate.

    Its own, else the slowest that shows each of its frames for a whole number of frames, else the nearest.
    """
    own = nearest_standard(rate)
    if own is not None:
        return own
    for each in RATE_NAMES:
        if (each / rate).denominator == 1:
            return each
    slower = next((half for n in range(2, 11) if (half := nearest_standard(rate / n))), None)
    return slower or min(RATE_NAMES, key=lambda each: (abs(round(each) - rate), each.denominator))


def _fraction(text: str) -> Fraction:
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return Fraction(0)
