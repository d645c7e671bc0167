"""Sidecars: owner, name, encoding and times, and what is not taken for speech."""

from __future__ import annotations

import math
import os
import random
import unicodedata
from pathlib import Path

import pytest
from fuzzing import mutated_text

from vfindex.indexer.extractors.metadata_text import describe, without_markup
from vfindex.indexer.extractors.speech import on_clock
from vfindex.indexer.languages import language_tag
from vfindex.indexer.media.decoder import SubtitleTrack
from vfindex.indexer.pipeline.ytdlp import Info, read_info
from vfindex.indexer.scan.sidecar_names import marks_of, read_marks, sort_sidecars
from vfindex.indexer.scan.sidecars import FolderSidecars, signature
from vfindex.indexer.scan.walk import Exclusions, Found, Skipped, discover, is_excluded_below, sidecars_of
from vfindex.indexer.speech.subtitle_formats import BURST_S, CHARS_PER_S, read_cues
from vfindex.indexer.speech.subtitles import (
    MAX_SHOWN,
    MAX_TRIED,
    SubtitleText,
    from_packets,
    fullest,
    read_sidecar,
    sidecar_transcript,
)
from vfindex.indexer.speech.telemetry import is_log, is_telemetry
from vfindex.storage.errors import VideoError
from vfindex.storage.records import Chapter, Segment

CUE = "1\n00:00:01,000 --> 00:00:02,000\nhello there\n"


# --- whose a file is ------------------------------------------------------------------------------------------------


def test_a_sidecar_belongs_to_the_longest_name_that_it_begins_with() -> None:
    videos = [b"talk.mp4", b"talk 2.mp4", b"talk 2.mkv", "Caf\u00e9.mp4".encode(), b"IMG_1.mov"]
    sidecars = [
        *(b"talk.srt", b"talk [x].en-abc.vtt", b"talk_fr.srt", b"talk-de.srt", b"talk.MP4.srt", b"talk2.srt"),
        *(b"talk 2.srt", b"talk 2.mkv.srt", "Cafe\u0301.en.srt".encode(), b"IMG_1.SRT", b"other.srt"),
    ]
    found = FolderSidecars(videos, sidecars)
    assert set(found.of(b"talk.mp4")) == {sidecars[n] for n in (0, 1, 2, 3, 4)}
    assert found.of(b"talk 2.mp4") == (b"talk 2.srt",)
    assert found.of(b"talk 2.mkv") == (b"talk 2.mkv.srt", b"talk 2.srt")
    assert found.of(videos[3]) == (sidecars[8],)
    assert found.of(b"IMG_1.mov") == (b"IMG_1.SRT",)


def test_case_only_matters_where_videos_differ_in_nothing_else(tmp_path: Path) -> None:
    sidecars = [b"TALK.EN.SRT", b"talk.info.json", b"talk.mp4.vtt", b"subs/TALK/3_French.srt"]
    alone = FolderSidecars([b"Talk.MP4"], sidecars)
    assert len(alone.of(b"Talk.MP4")) == 4
    both = FolderSidecars([b"Talk.mp4", b"talk.mkv"], [b"talk.srt", b"Talk.en.srt", b"TALK.de.srt"])
    assert both.of(b"Talk.mp4") == (b"TALK.de.srt", b"Talk.en.srt")
    assert both.of(b"talk.mkv") == (b"TALK.de.srt", b"talk.srt")
    assert marks_of(b"Talk.mp4", b"TALK.DE.SRT").language == "de"
    (tmp_path / "TALK.srt").write_text(CUE)
    [segment] = sidecar_transcript(os.fsencode(tmp_path / "Talk.mp4"), [b"TALK.srt"]).segments
    assert segment.text == "hello there"


def test_subtitle_folders(tmp_path: Path) -> None:
    for name in ("film.mp4", "Subs/2_English.srt", "Subs/film/3_French.srt", "subtitles/film.de.srt", "Subs/x/y/z.srt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CUE)
    path = os.fsencode(tmp_path / "film.mp4")
    assert set(sidecars_of(path)) == {b"Subs/2_English.srt", b"Subs/film/3_French.srt", b"subtitles/film.de.srt"}
    [found] = [found for found in discover([os.fsencode(tmp_path)]) if isinstance(found, Found)]
    assert set(found.sidecar_candidates) == set(sidecars_of(path))
    assert [s.language for s in sidecar_transcript(path, found.sidecar_candidates).segments] == ["en"]
    before = found.location.sidecar_state
    (tmp_path / "Subs/2_English.srt").write_text(CUE + "\n")
    [found] = [found for found in discover([os.fsencode(tmp_path)]) if isinstance(found, Found)]
    assert found.location.sidecar_state != before, "a reindex notices what changes in a subtitle folder"
    (tmp_path / "second.mp4").write_text("x")
    assert set(sidecars_of(path)) == {b"Subs/film/3_French.srt", b"subtitles/film.de.srt"}, (
        "whose 2_English is, is open"
    )


def test_a_signature_is_equal_for_both_forms_of_a_name(tmp_path: Path) -> None:
    sidecar = tmp_path / unicodedata.normalize("NFD", "Caf\u00e9.srt")
    sidecar.write_text(CUE)
    name = os.fsencode(sidecar.name)
    composed = signature(os.fsencode(tmp_path / "Caf\u00e9.mp4"), [name])
    sidecar.rename(tmp_path / "b.srt")
    assert signature(os.fsencode(tmp_path / "b.mp4"), [b"b.srt"]) == composed != ""


@pytest.mark.parametrize(
    ("mark", "language", "partial", "sdh"),
    [
        ("", "", False, False),
        (".EN", "en", False, False),
        (".eng", "en", False, False),
        ("_ger", "de", False, False),
        (".pt_BR", "pt-br", False, False),
        (".zh-Hans", "zh-hans", False, False),
        (".en-eEY6OEpapPo", "en", False, False),
        (".en-orig", "en", False, False),
        (".hi", "hi", False, False),
        (".en.hi", "en", False, True),
        (".en_hi", "en", False, True),
        (".hi.hi", "hi", False, True),
        (".French", "fr", False, False),
        (".fran\u00e7ais", "fr", False, False),
        (".Francais", "fr", False, False),
        (".Deutsch.forced", "de", True, False),
        (" - English (SDH)", "en", False, True),
        (" [English]", "en", False, False),
        (".\u65e5\u672c\u8a9e", "ja", False, False),
        (".en.Signs & Songs", "en", True, False),
        (".1080p.x264.en", "en", False, False),
        (".und", "", False, False),
        (".chs", "zh", False, False),
        (".VOSTFR", "fr", False, False),
        ("_track3_[eng]", "en", False, False),
        (".Track12", "", False, False),
    ],
)
def test_marks(mark: str, language: str, partial: bool, sdh: bool) -> None:
    marks = read_marks(mark)
    assert (marks.language, marks.partial, marks.sdh, marks.foreign) == (language, partial, sdh, "")


@pytest.mark.parametrize("mark", [".part1", " show", ".2", ".Reloaded.en", ".live_chat"])
def test_a_name_that_may_be_another_videos_is_not_used(mark: str) -> None:
    name = f"talk{mark}.srt".encode()
    assert sort_sidecars(b"talk.mp4", [name])[0] == []


@pytest.mark.parametrize(
    ("name", "language"), [("2_English", "en"), ("3_French", "fr"), ("Track 4 - Deutsch", "de"), ("ita", "it")]
)
def test_names_in_a_subtitle_folder(name: str, language: str) -> None:
    assert marks_of(b"film.mp4", f"Subs/{name}.srt".encode()).language == language


@pytest.mark.parametrize(
    ("text", "tag"),
    [("eng", "en"), ("ger", "de"), ("deu", "de"), ("und", ""), ("", ""), ("yue", "yue"), ("nan", "nan"), ("?", "")],
)
def test_tags_of_containers(text: str, tag: str) -> None:
    assert language_tag(text) == tag


def test_unused_sidecars_are_named(tmp_path: Path) -> None:
    for name in ("a.sub", "a.idx", "a.en.srt", "a.de.srt", "a.part2.srt"):
        (tmp_path / name).write_text(CUE)
    path = os.fsencode(tmp_path / "a.mp4")
    found = sidecar_transcript(path, None)
    assert found.problems == found.notes == ()
    assert found.words == (
        "a.en.srt: used as en; a.de.srt: not used, another was preferred; "
        "a.idx: not used, subtitles in the format .idx are not read; "
        "a.part2.srt: not used, 'part2' in its name is no language: it may be another video's; "
        "a.sub: not used, subtitles in the format .sub are not read"
    )
    for name in ("a.en.srt", "a.de.srt"):
        (tmp_path / name).unlink()
    found = sidecar_transcript(path, None)
    assert [(note.code, os.path.basename(note.path)) for note in found.notes] == [
        ("not_read", b"a.idx"),
        ("name", b"a.part2.srt"),
        ("not_read", b"a.sub"),
    ]


def test_of_many_files_without_subtitles_some_are_read(tmp_path: Path) -> None:
    for n in range(30):
        (tmp_path / f"a.en.{n:02}.srt").write_text("")
    found = sidecar_transcript(os.fsencode(tmp_path / "a.mp4"), None)
    assert (len(found.problems), found.words.count("; ")) == (MAX_TRIED, MAX_SHOWN)
    assert found.words.endswith("10 further subtitle files not used")


@pytest.mark.parametrize("length", [246, 250, 251])
def test_a_long_name_is_accepted(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("x" * length + ".mp4")
    path.write_text("x")
    assert read_info(os.fsencode(path)) == Info()
    assert sidecar_transcript(os.fsencode(path), None).problems == ()


# --- what is no speech ----------------------------------------------------------------------------------------------

LOGS = [
    "F/2.8, SS 206.14, ISO 150, EV 0, GPS (0.0000, 0.0000, 15), D 24.20m, H 6.00m, H.S 0.00m/s, V.S 0.00m/s",
    "FrameCnt : 1, DiffTime : 33ms 2023-01-01 12:00:00.123 [iso : 100] [shutter : 1/1000.0] [fnum : 280] [ev : 0] "
    "[ct : 5500] [color_md : default] [focal_len : 240] [latitude: 0.0] [longitude: 0.0] [rel_alt: 1.2 abs_alt: 3.4]",
    "HOME(149.0251,-20.2532) 2017.08.05 14:11:51 GPS(149.0251,-20.2533,16) BAROMETER:1.9 ISO:100 Shutter:60 Fnum:2.2",
    "HOME(W: 122.1234, N: 45.1234) 2020-01-01 12:00:00 GPS(W: 122.1, N: 45.1, 30.5m) F.PRY (1.0, 2.0, 3.0)",
    "Latitude 33.126 Longitude -117.327 Altitude 20.1 m Speed 3.2 m/s",
    "2020/01/01 10:00:00 N:37.123456 E:127.123456 60 km/h",
    "48.858370, 2.294481",
    "00:00:01,000",
    "12345",
]
TALK = [
    "At 10:30 on 24 March 2023, 1,500 people met in Room 101.",
    "10, 9, 8, 7, we have liftoff of Apollo 11",
    "The shutter is at 1/500, ISO 100, aperture f/8: a good start for birds in flight.",
    "The drone flew at 120 m at a speed of 15 m/s over the field.",
    "3 plus 4 is 7",
    "Chapter 1, verse 3 to 5",
    "\u041f\u0440\u0438\u0432\u0435\u0442 2024",
]


@pytest.mark.parametrize("text", LOGS)
def test_logs(text: str) -> None:
    assert is_log([text] * 10)


@pytest.mark.parametrize("text", TALK)
def test_speech_with_numbers_is_not_a_log(text: str) -> None:
    assert not is_log([text] * 10)
    assert not is_telemetry(text)


def test_a_line_of_a_log_amid_speech_is_left_out(tmp_path: Path) -> None:
    lines = ["Good morning.", LOGS[0], "Welcome to the harbour."]
    text = "".join(f"00:00:0{n},000 --> 00:00:0{n + 1},000\n{line}\n\n" for n, line in enumerate(lines))
    (tmp_path / "a.srt").write_text(text)
    found = read_sidecar(os.fsencode(tmp_path / "a.srt"))
    assert [s.text for s in found.segments] == [lines[0], lines[2]]
    assert found.oddities == (("telemetry", "lines of measured values left out: 1"),)


def test_a_flight_log_inside_a_video() -> None:
    packets = [(float(n), n + 1.0, f'<font size="36">{LOGS[1]}</font>') for n in range(9)]
    found = from_packets(packets, SubtitleTrack(2, "eng", "mov_text"), 9.0)
    assert found.segments == () and found.oddities[0][0] == "flight_log"


# --- times ----------------------------------------------------------------------------------------------------------


def cues(text: str, end_s: float = math.inf) -> list[tuple[float, float, str]]:
    return [(cue.start_s, cue.end_s, cue.text) for cue in read_cues(text, end_s).cues]


def test_times_that_cannot_be_are_repaired() -> None:
    text = (
        "00:00:00,500 --> 00:00:02,000\nfine\n\n00:00:03,000 --> 00:00:03,000\nends where it begins\n\n"
        "00:00:05,000 --> 00:00:04,200\nends before\n\n00:07,000 --> 00:08,500\nno hours\n\n"
        "00:00:09,000 --> 01:30:00,000\nends after the film\n\n00:00:10,000 -->\nno end\n"
    )
    assert cues(text, 12.0) == [
        (0.5, 2.0, "fine"),
        (3.0, 5.0, "ends where it begins"),
        (5.0, 7.0, "ends before"),
        (7.0, 8.5, "no hours"),
        (9.0, 10.0, "ends after the film"),
        (10.0, 12.0, "no end"),
    ]


@pytest.mark.parametrize(
    "said", ["10:30 --> 11:45 we train", "from 10:30 --> 11:45", "doors\n10:30 -> 11:45 only, today"]
)
def test_times_in_the_text_are_text(said: str) -> None:
    found = read_cues(f"1\n00:00:01,000 --> 00:00:02,000 X1:1 Y1:2\n{said}\n\n2\n00:00:03,000 --> 00:00:04,000\nend\n")
    assert ([cue.text for cue in found.cues], found.unreadable) == ([said.replace("\n", " "), "end"], 0)


def test_cues_without_numbers_and_empty_lines_are_separated() -> None:
    lines = ["00:01.000 --> 00:02.000", "one", "00:03.000 --> 00:04.000 align:start position:0%", "two", "4", "five"]
    assert [cue.text for cue in read_cues("\n".join(lines)).cues] == ["one", "two 4 five"]


def test_times_with_spaces() -> None:
    found = read_cues("1\n00: 00: 01, 500 -> 00 : 00 : 02,000\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n")
    assert [(cue.start_s, cue.end_s, cue.text) for cue in found.cues] == [(1.5, 2.0, "one"), (3.0, 4.0, "two")]


def test_arrows_in_the_text_are_text() -> None:
    text = (
        "1\n00:00:01,000 --> 00:00:02,000\nfrom A --> B\nat 10:30 --> 11:00\n\n2\n00:00:03,000 -> 00:00:04,000\nlean\n"
    )
    assert cues(text) == [(1.0, 2.0, "from A --> B at 10:30 --> 11:00"), (3.0, 4.0, "lean")]
    assert cues("WEBVTT\n\n00:01.000 --> 00:02.000\na --> b\n") == [(1.0, 2.0, "a --> b")]


def test_times_outside_the_film_do_not_count_and_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_text("".join(f"10:00:{n:02},000 --> 10:00:{n + 1:02},000\nline {n} said\n\n" for n in range(40)))
    found = read_sidecar(os.fsencode(path), "", 12.0)
    assert found.segments == ()
    assert found.oddities == (
        ("clock", "subtitles after the end of the video at 0:00:12: 40 of 40, the first at 10:00:00"),
    )
    path.write_text("-00:00:03,000 --> -00:00:02,000\nbefore\n\n-00:00:01,000 --> 00:00:02,000\nacross\n")
    found = read_sidecar(os.fsencode(path), "", 12.0)
    assert [(s.start_s, s.end_s, s.text) for s in found.segments] == [(0.0, 2.0, "across")]
    assert found.oddities == (("clock", "subtitles before the beginning of the video: 1 of 2"),)


def test_a_sidecar_is_moved_to_the_clock_of_its_video() -> None:
    said = [Segment(0.0, 0.5, "a", "sidecar", "en"), Segment(1.0, 2.0, "b", "sidecar", "en")]
    assert [(s.start_s, s.end_s) for s in on_clock(said, 1.5)] == [(1.5, 2.0), (2.5, 3.5)]
    assert [(s.start_s, s.end_s) for s in on_clock(said, -1.5)] == [(0.0, 0.5)]


def test_out_of_order_and_overlapping_cues_come_in_order() -> None:
    text = "".join(f"00:00:0{n},000 --> 00:00:0{n + 2},000\nnumber {n}\n\n" for n in (5, 1, 3, 2))
    assert [start_s for start_s, _, _ in cues(text)] == [1.0, 2.0, 3.0, 5.0]


@pytest.mark.parametrize("end_s", [2.0, 60.0])
def test_no_more_text_than_can_be_said(end_s: float) -> None:
    text = "".join(f"00:00:0{n % 2},{n % 1000:03} --> 00:00:02,000\nword number {n} is said\n\n" for n in range(20_000))
    found = read_cues(text, end_s)
    said = sum(len(cue.text) for cue in found.cues)
    assert 0 < said <= (2 * BURST_S + 2 + end_s) * CHARS_PER_S
    assert found.crowded > 19_000


def test_talk_at_the_fastest_pace_is_whole() -> None:
    text = "".join(
        f"00:{n // 60:02}:{n % 60:02},000 --> 00:{n // 60:02}:{n % 60:02},990\n{'gibberish ' * 6}{n}\n\n"
        for n in range(600)
    )
    found = read_cues(text, 600.0)
    assert (len(found.cues), found.crowded) == (600, 0)


def test_the_fullest_of_equal_tracks() -> None:
    def text(chars: int) -> SubtitleText:
        return SubtitleText((Segment(0.0, 1.0, "x" * chars, "embedded", "en"),))

    assert fullest([text(100), text(150)]) == 0
    assert fullest([text(20), SubtitleText(()), text(500)]) == 2


# --- descriptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ('<p>a <b>b</b> <a href="https://e.org/?a=1" rel="x">c</a>&nbsp;&amp; d<br/>e</p>', "a b c & d e"),
        ('<a title="1 > 0" href=x>link</a> tail', "link tail"),
        ("<style>p{color:red}</style>Hello<script>var a</script> world", "Hello world"),
        ("I <3 you & a < b, x <y is never closed", "I <3 you & a < b, x <y is never closed"),
        ('<img alt="x', '<img alt="x'),
    ],
)
def test_markup_is_not_indexed(markup: str, words: str) -> None:
    assert " ".join(without_markup(markup).split()) == words


def test_escaped_markup_is_not_indexed() -> None:
    description = describe(b"/x/talk.mp4", {"description": "&lt;p class=&quot;intro&quot;&gt;clay &amp; glaze"}, ())
    assert ("tag", "clay & glaze") in description.documents


def test_a_description_under_the_other_form_of_a_name(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Caf\u00e9") + ".INFO.json"
    (tmp_path / name).write_text('{"title": "Waiters"}')
    path = os.fsencode(tmp_path / "Caf\u00e9.mp4")
    assert read_info(path, sidecars_of(path)).tags == {"title": "Waiters"}


def test_chapters_after_the_end_are_not_the_videos(tmp_path: Path) -> None:
    (tmp_path / "a.info.json").write_text(
        '{"chapters": [{"title": "one", "start_time": 0}, {"title": "two", "start_time": 99}, {"title": "three"}]}'
    )
    assert read_info(os.fsencode(tmp_path / "a.mp4"), (), 12.0).chapters == (Chapter("one", 0, 12), Chapter("three"))


# --- system folders -------------------------------------------------------------------------------------------------


def test_system_folders_are_counted_unless_named(tmp_path: Path) -> None:
    kinds = {
        "recycle bin": ["$RECYCLE.BIN/S-1/a.mp4", ".Trash-1000/files/a.mp4", ".Trashes/501/a.mp4", "#recycle/a.mp4"],
        "preview folder": ["@eaDir/a.mp4/b.mp4", ".@__thumb/a.mp4"],
        "snapshot folder": [".snapshot/a.mp4", "#snapshot/a.mp4", ".snapshots/1/a.mp4"],
        "sync folder": [".stversions/a.mp4", ".dropbox.cache/a.mp4"],
        "system folder": [
            "lost+found/a.mp4",
            "System Volume Information/a.mp4",
            ".Spotlight-V100/a.mp4",
            ".fseventsd/a",
        ],
        "AppleDouble file": ["._keep.mp4"],
    }
    for name in (
        "keep.mp4",
        "recycle.mp4",
        "deep/lost+found.mp4",
        *(name for names in kinds.values() for name in names),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = list(discover([os.fsencode(tmp_path)]))
    assert [os.path.basename(each.location.path) for each in found if isinstance(each, Found)] == [
        *(b"keep.mp4", b"recycle.mp4", b"lost+found.mp4")
    ]
    left_out = [each.system for each in found if isinstance(each, Skipped)]
    assert {kind: left_out.count(kind) for kind in left_out} == {kind: len(names) for kind, names in kinds.items()}
    for name in ("#recycle", "._keep.mp4"):
        [each] = discover([os.fsencode(tmp_path / name)])
        assert isinstance(each, Found)


def test_videos_in_a_system_folder_leave_search() -> None:
    nothing = Exclusions(())
    for path in (b"/disk/#recycle/a.mp4", b"/disk/deep/@eaDir/b/c.mp4", b"/disk/._a.mp4"):
        assert is_excluded_below(b"/disk", nothing, path)
        assert not is_excluded_below(path, nothing, path), "unless it was named itself"
    assert not is_excluded_below(b"/disk/#recycle", nothing, b"/disk/#recycle/a.mp4")
    assert not is_excluded_below(b"/disk", nothing, b"/disk/recycle/a.mp4")


# --- hostile --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_mutated_sidecars(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    bases = [
        "".join(
            f"{n}\n00:00:{n:02},000 --> 00:00:{n + 1:02},500\nsentence number {n} <i>here</i>\n\n" for n in range(9)
        ),
        "WEBVTT\n\n" + "".join(f"00:0{n}.000 --> 00:0{n}.900\nword<00:0{n}.500><c> two</c>\n\n" for n in range(9)),
        "[Script Info]\n[Events]\n"
        + "".join(f"Dialogue: 0,0:00:0{n}.00,0:00:0{n}.90,D,,0,0,0,,a{n}, b\\Nc\n" for n in range(9)),
        "1\n00:00:01,000 --> 00:00:02,000\n\u8001\u7684\u706f\u5854 \u041d\u0430 \u0440\u0430\u0441 d\u00e9j\u00e0\n",
    ]
    path = tmp_path / "a.srt"
    path.write_bytes(mutated_text(chance.choice(bases), chance))
    end_s = chance.choice((0.04, 2.0, 10.0))
    try:
        found = read_sidecar(os.fsencode(path), "", end_s)
    except VideoError:
        return
    assert sum(len(s.text) for s in found.segments) <= (2 * BURST_S + 10 + end_s) * CHARS_PER_S
    for segment in found.segments:
        assert 0 <= segment.start_s < segment.end_s <= end_s
        assert segment.text.strip()
        segment.text.encode()
