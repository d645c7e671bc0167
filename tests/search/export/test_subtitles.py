"""SubRip and WebVTT: exact text, and read back by FFmpeg."""

from __future__ import annotations

from pathlib import Path

import pytest
from excerpts import selection, source

from vfindex.search.export.selection import words_in
from vfindex.search.export.subtitles import write_srt, write_vtt
from vfindex.storage.errors import QueryError
from vfindex.storage.records import Segment

WORDS = (
    Segment(1.0, 2.5, "Hello, <you> & me", "asr", "en"),
    Segment(3661.001, 3662.0, "One\n\n2 --> 3\nmore", "sidecar", "en"),
)
WHOLE = source(end_s=4000.0)


def read(data: bytes, name: str, tmp_path: Path) -> list[tuple[float, float, str]]:
    """Return (start_s, end_s, text) of each cue, as FFmpeg reads it."""
    av = pytest.importorskip("av", reason="the extra index brings FFmpeg")
    path = tmp_path / name
    path.write_bytes(data)
    with av.open(str(path)) as file:
        [stream] = file.streams
        return [
            (float(p.pts * p.time_base), float((p.pts + p.duration) * p.time_base), bytes(p).decode())
            for p in file.demux(stream)
            if p.size
        ]


def test_a_whole_video_has_its_own_times() -> None:
    assert write_srt(selection((WHOLE, 0, 4000), words=WORDS), None, 0.0).decode() == (
        "1\n00:00:01,000 --> 00:00:02,500\nHello, <you> & me\n\n2\n01:01:01,001 --> 01:01:02,000\nOne\n2 -> 3\nmore\n"
    )
    assert write_vtt(selection((WHOLE, 0, 4000), words=WORDS), None, 0.0).decode() == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\nHello, &lt;you&gt; &amp; me\n\n"
        "01:01:01.001 --> 01:01:02.000\nOne\n2 -&gt; 3\nmore\n"
    )


@pytest.mark.parametrize(("name", "write"), [("a.srt", write_srt), ("a.vtt", write_vtt)])
def test_ffmpeg_reads_them_back(name: str, write: object, tmp_path: Path) -> None:
    cues = read(write(selection((WHOLE, 0, 4000), words=WORDS), None, 0.0), name, tmp_path)  # type: ignore[operator]
    assert [(start_s, end_s) for start_s, end_s, _ in cues] == [(1.0, 2.5), (3661.001, 3662.0)]
    assert "more" in cues[1][2] and "Hello" in cues[0][2]


def test_times_are_those_of_a_player() -> None:
    late = source(start_s=1.5, clock_s=0.5, end_s=4000.0)
    assert b"00:00:00,500 --> 00:00:02,000" in write_srt(selection((late, 1.5, 4000), words=WORDS), None, 0.0)


def test_a_span_begins_where_its_cut_begins() -> None:
    words = words_in(WORDS, ("speech",), 2.0, 10.0)
    assert b"00:00:00,000 --> 00:00:00,500" in write_srt(selection((WHOLE, 2, 10), words=words), None, 0.0)
    assert b"01:00:00,000 --> 01:00:00,500" in write_srt(selection((WHOLE, 2, 10), words=words), None, 3600.0)


@pytest.mark.parametrize("rate", [25, None])
def test_moments_follow_each_other_as_on_the_timeline(rate: int | None) -> None:
    first, second = source("a.mp4", rate), source("b.mp4", rate)
    few = selection((first, 0.5, 3.5), (second, 0.0, 3.0), words=WORDS[:1])
    assert [line for line in write_srt(few, None, 0.0).decode().splitlines() if "-->" in line] == [
        "00:00:00,500 --> 00:00:02,000",
        "00:00:04,000 --> 00:00:05,500",
    ]


def test_only_what_is_said_within_the_span_and_never_nothing() -> None:
    written = Segment(1.0, 2.0, "EXIT", "frames", track="screen")
    assert words_in((written, *WORDS), ("speech",), 0.0, 5.0) == (WORDS[0],)
    with pytest.raises(QueryError, match="nothing is said"):
        write_srt(selection((WHOLE, 0, 10)), None, 0.0)


def test_a_text_of_control_characters_is_no_cue() -> None:
    words = (Segment(1.0, 2.0, "\x00\x01", "sidecar"), *WORDS[:1])
    assert write_srt(selection((WHOLE, 0, 4000), words=words), None, 0.0).decode().count("-->") == 1


def test_a_cue_lasts() -> None:
    at = Segment(1.0, 1.0, "x", "asr")
    assert b"00:00:01,000 --> 00:00:01,001" in write_srt(selection((WHOLE, 0, 4000), words=(at,)), None, 0.0)
