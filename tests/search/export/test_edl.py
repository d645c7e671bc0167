"""Edit lists: read back by a reader that shares nothing with the writer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from fractions import Fraction
from importlib.util import find_spec

import pytest
from excerpts import selection, source

from vfindex.search.export.edl import MAX_EVENTS, write_edl
from vfindex.search.export.timecode import Timebase
from vfindex.storage.errors import UsageError

NTSC = Fraction(30000, 1001)


@dataclass
class Read:
    """An event of an edit list. Times: in frames. drop: the mode that was in force."""

    reel: str
    channels: str
    source: tuple[int, int]
    record: tuple[int, int]
    drop: bool
    comments: list[str] = field(default_factory=list)


def read(data: bytes, fps: int) -> tuple[str, list[Read]]:
    """Return title and events of an edit list, as a reader of fixed columns finds them. fps: numbers of a second."""
    lines = data.decode().split("\r\n")
    assert lines.pop() == "", "every line ends in CR LF"
    assert lines[0].startswith("TITLE: ") and lines[1] in ("FCM: DROP FRAME", "FCM: NON-DROP FRAME")
    drop, events = False, []
    for line in lines[1:]:
        if line.startswith("FCM: "):
            drop = line == "FCM: DROP FRAME"
        elif line.startswith("* "):
            events[-1].comments.append(line[2:])
        elif line:
            number, reel, channels, transition = line[:3], line[5:13], line[14:19], line[20:28]
            assert int(number) == len(events) + 1 and transition == "C       "
            codes = line[29:].split(" ")
            assert len(codes) == 4 and all(len(code) == 11 for code in codes)
            frames = [counted(code, fps) for code in codes]
            events.append(Read(reel.strip(), channels.strip(), (frames[0], frames[1]), (frames[2], frames[3]), drop))
    return lines[0].removeprefix("TITLE: "), events


def counted(code: str, fps: int) -> int:
    """Return the number of a frame by counting up the minutes, not by a formula."""
    match = re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;])(\d\d)", code)
    assert match, code
    hours, minutes, seconds, frames = (int(match[n]) for n in (1, 2, 3, 5))
    total = 0
    for minute in range(60 * hours + minutes):
        total += 60 * fps - ((fps // 15) if match[4] == ";" and (minute + 1) % 10 else 0)
    return total + seconds * fps + frames


def test_an_event_is_a_span_of_a_file() -> None:
    data = write_edl(selection((source(), 10, 12.52), (source("b.mp4"), 0, 1)), None, 3600.0)
    title, [first, second] = read(data, 25)
    assert title == "dogs"
    assert first == Read("BEACH", "AA/V", (250, 313), (90_000, 90_063), False, first.comments)
    assert second.record == (90_063, 90_088)
    assert first.comments == ["FROM CLIP NAME: beach.mp4", "SOURCE FILE: /videos/beach.mp4"]
    assert b"001  BEACH    AA/V  C        00:00:10:00 00:00:12:13 01:00:00:00 01:00:02:13\r\n" in data


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 24, 25, NTSC, 30, 50, Fraction(60000, 1001), 60])
def test_frames_are_those_of_the_file(rate: Fraction | int) -> None:
    rate = Fraction(rate)
    span = (float(1000 / rate), float(1077 / rate))
    [event] = read(write_edl(selection((source(rate=rate), *span)), None, 3600.0), round(rate))[1]
    assert event.source == (1000, 1077)
    assert event.record == (3600 * round(rate), 3600 * round(rate) + 77)  # 01:00:00:00, also of 23.976 and 29.97


def test_the_start_time_code_is_added() -> None:
    start = "10:00:00:12"
    [event] = read(write_edl(selection((source(start_timecode=start), 10, 11)), None, 0.0), 25)[1]
    assert event.source == (36_000 * 25 + 12 + 250, 36_000 * 25 + 12 + 275)


def test_drop_frame_files_make_a_drop_frame_list() -> None:
    of = source(rate=NTSC, start_timecode="00:59:59;28")
    data = write_edl(selection((of, 0, float(60 / NTSC))), None, 3600.0)
    assert b"FCM: DROP FRAME\r\n" in data and b"NON-DROP" not in data
    assert b" 00:59:59;28 01:00:01;28 01:00:00;00 01:00:02;00\r\n" in data
    [event] = read(data, 30)[1]
    assert event.source == (107_890, 107_950) and event.drop


def test_the_mode_changes_with_the_file() -> None:
    drop, plain = (
        source("d.mov", NTSC, start_timecode="01:00:00;00"),
        source("n.mov", NTSC, start_timecode="01:00:00:00"),
    )
    first, second, third = read(write_edl(selection((plain, 0, 1), (drop, 0, 1), (drop, 5, 6)), None, 3600.0), 30)[1]
    assert [each.drop for each in (first, second, third)] == [False, True, True]
    assert first.source[0] == 108_000 and second.source[0] == 107_892
    assert third.record[0] - second.record[0] == 30


def test_variable_rates_are_counted_at_a_steady_one_and_said() -> None:
    [event] = read(write_edl(selection((source(rate=30, varies=True), 1.5, 2.017)), None, 0.0), 30)[1]
    assert event.source == (45, 61)
    assert "VARIABLE FRAME RATE: 1.500 S TO 2.017 S OF THE FILE, COUNTED AS 30" in event.comments


def test_several_rates_need_one_to_be_chosen() -> None:
    mixed = selection((source(), 0, 1), (source("b.mp4", NTSC, start_timecode="02:00:00:15"), 10, 11))
    with pytest.raises(UsageError, match=r"several \(25, 29.97\); choose .* --rate"):
        write_edl(mixed, None, 0.0)
    _, second = read(write_edl(mixed, Timebase(Fraction(25)), 0.0), 25)[1]
    assert second.source == (7200 * 25 + 12 + 250, 7200 * 25 + 12 + 275)
    assert second.comments[2] == "FRAME RATE 29.97: 10.000 S TO 11.000 S OF THE FILE, COUNTED AS 25"


def test_an_unknown_rate_must_be_given() -> None:
    unknown = selection((source(rate=None), 1, 2))
    with pytest.raises(UsageError, match=r"frame rate of beach.mp4 is not known.*--rate"):
        write_edl(unknown, None, 0.0)
    assert read(write_edl(unknown, Timebase(Fraction(25)), 0.0), 25)[1][0].source == (25, 50)


def test_reels_are_short_and_differ() -> None:
    names = ["a long name 1.mp4", "a long name 2.mp4", "映像.mp4", "bl.mp4", "-x.mp4", "a long name 1.mp4"]
    reels = [event.reel for event in read(write_edl(selection(*((source(n), 0, 1) for n in names)), None, 0.0), 25)[1]]
    assert reels[:5] == ["A_LONG_N", "A_LONG_2", "FILE", "BL_2", "_X"]
    assert all(re.fullmatch(r"[A-Z0-9_]{1,8}", reel) for reel in reels)


def test_names_and_words_stay_on_their_line() -> None:
    hostile = selection((source("a\r\n002  X\udcff.mp4"), 0, 1), title="x\nFCM: DROP FRAME")
    hostile = replace(hostile, excerpts=(replace(hostile.excerpts[0], note="one\r\n* two\u2028three"),))
    title, [event] = read(write_edl(hostile, None, 0.0), 25)
    assert title == "x FCM: DROP FRAME" and not event.drop
    assert event.comments[0] == r"FROM CLIP NAME: a 002 X\udcff.mp4"
    assert event.comments[2] == "COMMENT: one * two three"


def test_the_same_moment_is_one_event_and_there_are_at_most_999() -> None:
    twice = selection((source(), 0, 1), (source(), 0, 1))
    assert len(read(write_edl(twice, None, 0.0), 25)[1]) == 1
    with pytest.raises(UsageError, match="at most 999 events, and these are 1,000"):
        write_edl(selection(*((source(), n / 100, n / 100 + 1) for n in range(MAX_EVENTS + 1))), None, 0.0)


def test_frames_lie_within_the_file() -> None:
    [event] = read(write_edl(selection((source(), 99.99, 250)), None, 0.0), 25)[1]
    assert event.source == (2499, 2500)


# Prints name, first frame, length and place of each clip that the reader of OpenTimelineIO finds.
READER = """
import json, sys
import opentimelineio as otio
from otio_cmx3600_adapter import cmx_3600

timeline = cmx_3600.read_from_string(sys.stdin.read(), rate=float(sys.argv[1]))
print(json.dumps({track.kind: [
    (clip.name, clip.source_range.start_time.value, clip.source_range.duration.value,
     clip.range_in_parent().start_time.value) for clip in track if isinstance(clip, otio.schema.Clip)
] for track in timeline.tracks}))
"""


@pytest.mark.skipif(find_spec("otio_cmx3600_adapter") is None, reason="pip install otio-cmx3600-adapter")
def test_opentimelineio_reads_the_same_frames() -> None:
    drop, late = (
        source("d.mov", NTSC, start_timecode="00:59:59;28"),
        source("l.mov", NTSC, start_timecode="01:00:00;00"),
    )
    data = write_edl(selection((drop, 0, float(60 / NTSC)), (late, 5, 6)), None, 3600.0)
    command = [sys.executable, "-c", READER, str(float(NTSC))]
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["Video"] == [["d.mov", 107_890, 60, 0], ["l.mov", 107_892 + 150, 30, 60]] == found["Audio"]
