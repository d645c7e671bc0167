"""SubRip and WebVTT: exact text, and read back by FFmpeg."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from excerpts import selection, source

from vfindex.indexer.speech.subtitle_formats import read_cues
from vfindex.indexer.speech.subtitles import read_sidecar
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
        "WEBVTT\nLanguage: en\n\n00:00:01.000 --> 00:00:02.500\nHello, &lt;you&gt; &amp; me\n\n"
        "01:01:01.001 --> 01:01:02.000\nOne\n2 --&gt; 3\nmore\n"
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


@pytest.mark.parametrize("text", ["a --> b", "a ---> b", "a ------>> b", "-->", "--\u200b>", "-\x00->"])
def test_no_text_is_an_arrow_of_subrip(text: str) -> None:
    made = write_srt(selection((WHOLE, 0, 4000), words=(Segment(1.0, 2.0, text, "sidecar"),)), None, 0.0).decode()
    assert made.splitlines()[1] == "00:00:01,000 --> 00:00:02,000" and "-->" not in "".join(made.splitlines()[2:])


def test_a_text_of_control_characters_is_no_cue() -> None:
    words = (Segment(1.0, 2.0, "\x00\x01", "sidecar"), *WORDS[:1])
    assert write_srt(selection((WHOLE, 0, 4000), words=words), None, 0.0).decode().count("-->") == 1


def test_a_cue_lasts() -> None:
    at = Segment(1.0, 1.0, "x", "asr")
    assert b"00:00:01,000 --> 00:00:01,001" in write_srt(selection((WHOLE, 0, 4000), words=(at,)), None, 0.0)


SAID = (
    Segment(1.0, 2.5, "Hello, <you> & <v Bob> me", "sidecar", "de", speakers=("Ann & <Co>",)),
    Segment(3.0, 4.0, "Together --> now", "sidecar", "de", speakers=("Ann", "Bob")),
    Segment(5.0, 6.125, "42", "sidecar", "de"),
    Segment(3661.001, 3662.0, "{not a tag}", "sidecar", "de", speakers=("Bob > all",)),
)


def test_speakers_are_voices_of_webvtt() -> None:
    made = write_vtt(selection((WHOLE, 0, 4000), words=SAID), None, 0.0).decode()
    assert [line for line in made.splitlines() if line.startswith("<v ")] == [
        "<v Ann &amp; &lt;Co&gt;>Hello, &lt;you&gt; &amp; &lt;v Bob&gt; me",
        "<v Ann><v Bob>Together --&gt; now</v></v>",
        "<v Bob &gt; all>{not a tag}",
    ]


def test_subrip_says_what_is_said_and_no_names() -> None:
    """A name in the text would be read back, and found, as a word that is spoken."""
    assert b"Ann" not in write_srt(selection((WHOLE, 0, 4000), words=SAID[1:]), None, 0.0)


@pytest.mark.parametrize("suffix", ["vtt", "srt"])
def test_a_file_next_to_its_video_gives_the_same_segments(suffix: str, tmp_path: Path) -> None:
    """Of SubRip, all but names and language, which it cannot have, and brackets, which it cannot escape."""
    write = {"vtt": write_vtt, "srt": write_srt}[suffix]
    words = SAID if suffix == "vtt" else tuple(replace(each, speakers=()) for each in SAID[2:])
    path = tmp_path / f"film.de.{suffix}"
    path.write_bytes(write(selection((WHOLE, 0, 4000), words=words), None, 0.0))
    assert read_sidecar(bytes(path), "" if suffix == "vtt" else "de").segments == words


def test_ffmpeg_reads_voices_as_text_without_tags(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="the extra index brings FFmpeg")
    path = tmp_path / "a.vtt"
    path.write_bytes(write_vtt(selection((WHOLE, 0, 4000), words=SAID), None, 0.0))
    with av.open(str(path)) as file:
        shown = [bytes(part.ass).decode().split(",", 8)[-1] for p in file.demux() for part in p.decode()]
    assert shown == ["Hello, <you> & <v Bob> me", "Together --> now", "42", r"\{{}not a tag}"]


CHAPTERS = (Segment(0.0, 60.0, "Intro\n<begin>", "chapter", track="text"),)


def test_chapters_are_titles_on_one_line_and_no_speech(tmp_path: Path) -> None:
    made = write_vtt(replace(selection((WHOLE, 0, 4000), words=CHAPTERS), tracks=("text",)), None, 0.0)
    assert made.decode() == "WEBVTT\nKind: chapters\n\n00:00:00.000 --> 00:01:00.000\nIntro &lt;begin&gt;\n"
    assert [each.text for each in read_cues(made.decode()).cues] == ["Intro <begin>"]
    path = tmp_path / "film.vtt"
    path.write_bytes(made)
    assert read_sidecar(bytes(path)).oddities == (("kind", "it holds chapters, no speech"),)
    path.write_bytes(b"WEBVTT\n\nNOTE\nKind: chapters\n\n00:00.000 --> 00:01.000\nsaid\n")
    assert [each.text for each in read_sidecar(bytes(path)).segments] == ["said"], "not in the header"


def test_a_track_without_text_says_which() -> None:
    with pytest.raises(QueryError, match="no text of the track screen"):
        write_srt(replace(selection((WHOLE, 0, 10)), tracks=("screen",)), None, 0.0)
