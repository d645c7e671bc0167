"""Exports of a service: hits, marks and videos, and what is read from the file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from excerpts import selection, source
from library_maker import add_video, axis, clip, install, video

from vfindex.search import SearchService
from vfindex.search.export.formats import FORMATS, Settings, export
from vfindex.search.export.selection import source_of
from vfindex.search.export.timecode import Timebase
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.errors import Problem, QueryError, UsageError, VideoError
from vfindex.storage.records import ClipKey, EncodedFrame, FileFacts, Segment
from vfindex.storage.writer import writing

WORDS = [
    Segment(1, 2, "hello", "asr", "en"),
    Segment(6, 7, "bye", "asr", "en"),
    Segment(1, 9, "EXIT", "frames", track="screen"),
    Segment(0, 4, "Intro", "chapter", track="text"),
]


@dataclass
class Files:
    """Files that say when they begin and how fast they are."""

    facts: dict[bytes, FileFacts] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)

    def read_frames(self, path: bytes, times_s: Sequence[float], size_px: int) -> Sequence[EncodedFrame]:
        raise AssertionError("no export needs frames")

    def read_facts(self, path: bytes) -> FileFacts:
        self.asked.append(path)
        if path not in self.facts:
            raise VideoError(Problem(path, "open", "missing", "it is not there", "put it back"))
        return self.facts[path]


@pytest.fixture
def files() -> Files:
    return Files({b"/videos/old": FileFacts(0.5, "30000/1001", "01:00:00;00")})


@pytest.fixture
def service(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[SearchService]:
    """Return a library of videos of 10 s: 25 frames a second, an unknown rate, a variable rate, and without words."""
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: {m: axis(1) for m in ("visual", "speech", "text")})
    with writing(tmp_path / "library") as writer:
        install(writer)
        both = [clip(0, 5, visual=axis(1)), clip(5, 10, visual=axis(2))]
        add_video(writer, "steady", both, WORDS, fps="25/1", start_timecode="10:00:00:00")
        add_video(writer, "old", both, start_s=1.5, frames=None)
        add_video(writer, "varies", both, fps="30/1", frames=100)
        add_video(writer, "mute", both, fps="25/1")
        writer.publish()
    with SearchService(tmp_path / "library", frames=files) as opened:
        yield opened


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_hits_are_rows_in_their_order(service: SearchService, files: Files) -> None:
    hits = service.search("dogs", min_confidence="none")
    made = service.export(hits, "csv")
    assert (made.name, made.media_type, made.notes) == ("dogs.csv", "text/csv; charset=utf-8", ())
    found = rows(made.data)
    assert [row["video"] for row in found] == [str(hit.video, "ascii") for hit in hits if hit.video]
    by_name = {row["fingerprint"]: row for row in found}
    assert by_name["steady"]["start_timecode"] == "10:00:00:00" and by_name["steady"]["text"] == "hello"
    assert by_name["old"]["frame_rate"] == "29.97" and by_name["varies"]["frame_rate"] == "variable"
    assert files.asked == [b"/videos/old"], "files are opened where the library does not know their times"


def test_marks_are_excerpts_with_their_notes(service: SearchService) -> None:
    service.mark(ClipKey("steady", 5000), list_="goals", note="the second")
    service.mark(ClipKey("mute", 0), list_="goals")
    service.mark(ClipKey("mute", 5000), list_="goals", question="a goal", grade=0)
    made = service.export(service.marks(list_="goals"), "csv")
    assert [(row["fingerprint"], row["start_s"], row["note"]) for row in rows(made.data)] == [
        ("steady", "5.000", "the second"),
        ("mute", "0.000", ""),
    ]
    assert made.name == "goals.csv" and made.notes == ("1 mark of grade 0 left out",)


def test_a_mark_whose_video_has_left_is_named(service: SearchService) -> None:
    service.mark(ClipKey("mute", 0))
    service.mark(ClipKey("steady", 0))
    with writing(service.folder) as writer:
        writer.catalog.remove(b"/videos/mute")
    made = service.export(service.marks(), "csv")
    assert made.notes == ("1 mark left out: the library knows no file of it",)
    assert [row["fingerprint"] for row in rows(made.data)] == ["steady"]


def test_a_video_is_one_excerpt_and_its_words(service: SearchService) -> None:
    steady = service.video("/videos/steady")
    assert service.export(steady, "srt").data.decode().count("-->") == 2
    part = service.export(steady, "srt", span=(0.5, 3)).data.decode()
    assert part == "1\n00:00:00,500 --> 00:00:01,500\nhello\n"
    assert json.loads(service.export(steady, "json").data) == steady.to_dict()
    assert b" 10:00:02:00 10:00:03:00 01:00:00:00 01:00:01:00\r\n" in service.export(steady, "edl", span=(2, 3)).data


def test_other_text_is_a_track_of_its_own(service: SearchService) -> None:
    steady = service.video("/videos/steady")
    assert service.export(steady, "srt", track="speech").data == service.export(steady, "srt").data
    written = service.export(steady, "srt", track="screen").data.decode()
    assert written == "1\n00:00:01,000 --> 00:00:09,000\nEXIT\n"
    chapters = service.export(steady, "vtt", track="text").data.decode()
    assert chapters == "WEBVTT\nKind: chapters\n\n00:00:00.000 --> 00:00:04.000\nIntro\n"
    for format_, track, said in (
        ("csv", "screen", "csv has no text of a track; a track is for srt, vtt"),
        ("srt", "visual", "track must be one of speech, screen, text, not 'visual'"),
    ):
        with pytest.raises(UsageError, match=said):
            service.export(steady, format_, track=track)


def test_times_of_players_and_time_codes_come_from_the_file(service: SearchService, files: Files) -> None:
    old = service.video("/videos/old")
    assert b"start-time=1.000\n#EXTVLCOPT:stop-time=9.500" in service.export(old, "m3u8").data
    assert b" 01:00:00;00 01:00:08;15 01:00:00;00 " in service.export(old, "edl").data
    files.facts.clear()
    made = service.export(old, "m3u8")
    assert made.notes == ("/videos/old: it is not there; its times in a player may be off by 1.500 s",)
    with pytest.raises(UsageError, match="frame rate of old is not known"):
        service.export(old, "edl")
    assert service.export(old, "edl", settings=Settings(Timebase(Fraction(25)))).data


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("json", "csv", "m3u8")])
def test_every_timeline_takes_a_rate_and_an_offset(service: SearchService, name: str) -> None:
    settings = Settings(Timebase(Fraction(50)), 7200.0)
    moved = service.export(service.video("/videos/steady"), name, span=(0, 3), settings=settings)
    assert moved.data != service.export(service.video("/videos/steady"), name, span=(0, 3)).data
    assert moved.name == f"steady.{name}"


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("json", "edl")])
def test_a_thousand_moments_are_a_thousand_entries(name: str) -> None:
    words = (Segment(0, 1, "said", "asr", "en"),)
    many = selection(*((source(f"{n}.mp4"), 0.0, 2.0) for n in range(1000)), words=words)
    text = export(many, name).data.decode()
    entry = {"srt": " --> ", "vtt": " --> ", "csv": ".mp4,0.000,", "m3u8": "#EXTINF:", "fcpxml": "<asset-clip "}
    assert text.count(entry.get(name, '"Clip.1"')) == (2000 if name == "otio" else 1000)
    assert name in ("csv", "m3u8", "otio") or {"fcpxml": 'duration="2000s"'}.get(name, "00:33:19") in text


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("avi", {}, "there is no format 'avi'; export to one of srt, vtt"),
        ("srt", {"span": (8, 3)}, "the span is empty"),
        ("srt", {"span": (11, 12)}, "the span is empty: the video runs from 0 s to 10 s"),
        ("srt", {"span": ("1", 3)}, "two numbers of seconds"),
        ("srt", {"span": (3, 5)}, "nothing is said"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(
    service: SearchService, name: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(QueryError, match=said):
        service.export(service.video("/videos/steady"), name, **more)


def test_wrong_uses_are_sentences(service: SearchService) -> None:
    hits = service.search("dogs", min_confidence="none")
    with pytest.raises(QueryError, match="a span is of one video"):
        service.export(hits, "edl", span=(0, 1))
    with pytest.raises(UsageError, match="csv has no timeline"):
        service.export(hits, "csv", settings=Settings(start_s=1.0))
    with pytest.raises(UsageError, match="between 0 and 24 hours"):
        Settings(start_s=86_400.0)
    with pytest.raises(QueryError, match="nothing to export"):
        service.export(service.marks(), "edl")
    with pytest.raises(UsageError, match=r"several \(25, 29.97, 30\)"):
        service.export(hits, "edl")


@pytest.mark.parametrize(
    ("fps", "frames", "rate", "varies"),
    [
        ("25/1", 250, 25, False),
        ("25/1", 249, 25, False),
        ("25/1", 113, 25, True),
        ("2997/100", None, Fraction(30000, 1001), False),
        ("10/1", 100, 10, False),
        ("1000/1", None, 60, True),
        ("100/1", 30, 50, True),
        (None, 250, None, False),
    ],
)
def test_rates_are_those_of_the_frames(fps: str | None, frames: int, rate: Fraction | None, varies: bool) -> None:
    found = source_of(replace(video("a"), fps=fps, frames=frames), b"/a", None)
    assert (found.rate, found.varies) == (rate, varies)
