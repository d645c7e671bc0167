"""Telemetry in subtitles: flight and drive logs that drones, action and dashboard cameras write as SubRip."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Names of measured values in the logs of DJI, Autel, Parrot, GoPro and dashboard cameras, without their separators.
_LABEL_WORDS = """
    iso shutter ss fnum ev ct gps home barometer latitude longitude longtitude lat lon lng long alt altitude relalt
    absalt rel abs speed spd velocity heading hdg yaw pitch roll gimbal gbyaw gbpitch gbroll framecnt srtcnt
    difftime focallen focal len colormd color md dzoom dzoomratio delta default ratio distance dist satellites sats
    sat battery bat voltage bearing course temp temperature accel acc gyro grav mag pressure humidity fix utc
    datetime date time timestamp fpry gpry pry height hs vs dh ae wb awb aperture exposure zoom eis hdop dop rate
    kmh km mph kph knots kn fps ms mm cm deg lux mbar hpa drone flight frame cnt num fov drones north south east
    west
"""
_LABELS = frozenset(_LABEL_WORDS.split())
_TOKEN = re.compile(r"[^\W\d_]+|[-+\u2212]?\d+(?:[.,:/\u00b0'-]\d+)*")
_KEYED = re.compile(r"[^\W\d]{1,20}[.\w ]{0,3}[=:(]\s?[-+\u2212]?\d")
_LABELLED = re.compile(r"[^\W\d]{1,20}[.\w ]{0,3}[=:(/ ]{1,3}[-+\u2212]?\d")
SAMPLE_CUES = 200  # cues sampled: a log repeats itself every second
LOG_SHARE = 0.5  # of the sampled cues; in a log all but a line about the camera
MIN_LABELLED = 3  # named values in one cue: more than in speech


def is_telemetry(text: str) -> bool:
    """Return whether a cue consists of measured values: three or more names with numbers, no other words."""
    words, numbers = _counted(text)
    return numbers >= MIN_LABELLED and not words and len(_LABELLED.findall(text[:2000])) >= MIN_LABELLED


def is_log(texts: Sequence[str]) -> bool:
    """Return whether a file of cues is a log: most are numbers, times and measured values, with few words between."""
    step = max(1, len(texts) // SAMPLE_CUES)
    sample = texts[::step]
    hits = sum(_is_like_a_log(text) for text in sample)
    return bool(sample) and hits > LOG_SHARE * len(sample)


def _is_like_a_log(text: str) -> bool:
    """Return whether a cue has more numbers than words, or more names of values than other words."""
    words, numbers = _counted(text)
    if not numbers:
        return False
    keyed = len(_KEYED.findall(text[:2000]))
    return words == 0 or (numbers >= MIN_LABELLED and (2 * words <= numbers or keyed >= max(MIN_LABELLED, words)))


def _counted(text: str) -> tuple[int, int]:
    """Return the numbers of words in a cue that name no value, without single letters, and of numbers."""
    words = numbers = 0
    for token in _TOKEN.findall(text[:2000]):
        if token[-1].isdigit():
            numbers += 1
        elif (len(token) >= 2 or not token.isascii()) and token.lower() not in _LABELS:
            words += 1
    return words, numbers
