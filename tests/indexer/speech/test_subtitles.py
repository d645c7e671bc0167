"""Subtitles: which files are read, how their text is cleaned, and hostile contents."""

from __future__ import annotations

import os
import time
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfindex.indexer.media.decoder import SubtitleTrack
from vfindex.indexer.scan.sidecar_names import marks_of, sort_sidecars
from vfindex.indexer.scan.walk import sidecars_of
from vfindex.indexer.speech import subtitles
from vfindex.indexer.speech.subtitle_formats import read_cues, read_packets
from vfindex.storage.errors import VideoError

HEAD = "[Script Info]\nTitle: x\n[V4+ Styles]\nStyle: D,Arial,nonsense\n[Events]\n"


def texts(source: str) -> list[str]:
    return [c.text for c in read_cues(source).cues]


def test_sidecars_in_order_of_preference() -> None:
    names = [b"talk.de.srt", b"talk.ass", b"talk.en.forced.srt", b"talk.EN.vtt", b"talk.SRT", b"talk.mp4.srt"]
    others = [b"talk2.srt", b"talk.txt", b"talk.part1.srt", b"talk.mp4", b"talk.a.b.c.d.srt", b"alk.srt"]
    found, _ = sort_sidecars(b"talk.mp4", [*others, *names])
    ordered = [b"talk.EN.vtt", b"talk.SRT", b"talk.mp4.srt", b"talk.ass", b"talk.de.srt", b"talk.en.forced.srt"]
    assert found == ordered


@pytest.mark.parametrize(
    ("name", "language"),
    [(b"a.eng.srt", "en"), (b"a.pt_BR.srt", "pt-br"), (b"a.srt", ""), (b"a.und.srt", ""), (b"a.forced.fr.srt", "fr")],
)
def test_language_from_the_name(name: bytes, language: str) -> None:
    assert marks_of(b"a.mp4", name).language == language


def test_names_that_are_not_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    path = os.path.join(folder, b"\xff\xfe.srt")
    with open(path, "wb") as file:
        file.write(b"1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    assert sidecars_of(os.path.join(folder, b"\xff\xfe.mp4")) == (b"\xff\xfe.srt",)
    found = subtitles.sidecar_transcript(os.path.join(folder, b"\xff\xfe.mp4"), None)
    assert [s.text for s in found.segments] == ["hello"]
    assert found.problems == found.notes == ()


def test_subrip_as_people_write_it() -> None:
    source = (
        '1\r\n00:00:01,500 --> 00:00:03,000 X1:1\r\n<i>One</i> {\\an8}two &amp; <font color="red">three</font>\r\n'
        "and a < b\r\n\r\n2\r\n0:00:04.25 --> 0:00:05\r\nDots\r\n00:06,000 --> 00:07,000\r\nno number\r\n"
        "\r\n4\r\n00:00:09,000 --> 00:00:08,000\r\nbackward\r\n\r\n5\r\nnonsense --> 00:00:09,000\r\nmalformed\r\n"
        "\r\n6\r\n00:00:10,000 --> 00:00:11,000\r\n\u266a \u266a\r\n\r\n7\r\n00:00:12,000 --> 00:00:13,000\r\n\r\n"
        "8\r\n00:00:14,000 --> 99:00:00,000\r\nwatermark\r\n\r\n9\r\n00:00:15,000 --> 00:00:16,000\r\nLast\x1b[31m\x00"
    )
    cues = [(c.start_s, c.end_s, c.text) for c in read_cues(source).cues]
    assert cues == [
        (1.5, 3.0, "One two & three and a < b"),
        (4.25, 5.0, "Dots"),
        (6.0, 7.0, "no number"),
        (9.0, 10.0, "backward"),
        (14.0, 15.0, "watermark"),
        (15.0, 16.0, "Last [31m"),
    ]


def test_webvtt_blocks_are_not_speech() -> None:
    source = (
        "\ufeffWEBVTT - title\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE a secret\n\nintro\n"
        "00:01.000 --> 00:02.000 align:start position:0%\n<v Ann Lee>Hello <c.x>there</c>, <00:01.500>friend\n\n"
        "REGION\nid:a\n\n01:00:01.000 --> 01:00:02.000\n&lt;late&gt;\n\nNOTE end"
    )
    assert [(c.start_s, c.text) for c in read_cues(source).cues] == [(1.0, "Hello there, friend"), (3601.0, "<late>")]


@pytest.mark.parametrize(
    ("line", "text", "speakers"),
    [
        ("<v Ann Lee>Hello", "Hello", ("Ann Lee",)),
        ("<v.loud.first Ann>Hello</v>", "Hello", ("Ann",)),
        ("<v Ann>Hello</v>\n<v.x Bob &amp; Co>Hi, <i>you</i>", "Hello Hi, you", ("Ann", "Bob & Co")),
        ("<v Ann>Hello <v Bob>Hi <v Ann>Bye", "Hello Hi Bye", ("Ann", "Bob")),
        ("<v\tAnn  Lee >Hello", "Hello", ("Ann Lee",)),
        ("<v Ann>Hello</v><v Bob>Hi</v>", "Hello Hi", ("Ann", "Bob")),
        ("<v Ann><v Bob>Hello</v></v>", "Hello", ("Ann", "Bob")),
        ("<v Ann>\n<v Bob>Hello\n<v Cid>Hi", "Hello Hi", ("Ann", "Bob", "Cid")),
        ("<v Ann <3>Hello", "Hello", ("Ann <3",)),
        ("<v R2 <2020>Hello", "Hello", ("R2 <2020",)),
        ("<v Tom &lt;&#51; &gt; <i>Hi</i>", "Hi", ("Tom <3 > <i",)),
        ("<v &lt;Ann&gt;>Hello <00:01.500>you", "Hello you", ("<Ann>",)),
        ("<v Ann>Hello\nthere <v Bob>Hi", "Hello there Hi", ("Ann", "Bob")),
        ("<v>Hello", "Hello", ()),
        ("<v ->Hello", "Hello", ()),
        ("<video Ann>Hello", "Hello", ()),
        (f"<v {'A' * 81}>Hello", "Hello", ()),
        ("Ann: Hello", "Ann: Hello", ()),  # a name that is not marked up is text
    ],
)
def test_speakers_of_voice_tags(line: str, text: str, speakers: tuple[str, ...]) -> None:
    [cue] = read_cues(f"WEBVTT\n\n00:01.000 --> 00:02.000\n{line}\n").cues
    assert (cue.text, cue.speakers) == (text, speakers)


@pytest.mark.parametrize(
    ("cues", "said"),
    [
        (["<v Ann>Hello", "<v Ann>Hello\n<v Bob>Hi"], [("Hello", ("Ann",)), ("Hi", ("Bob",))]),
        (["<v Ann>Hello", "<v Ann>Hello\nthere"], [("Hello", ("Ann",)), ("there", ("Ann",))]),
        (["<v Ann>Hello</v>", "<v Ann>Hello</v>\nthere"], [("Hello", ("Ann",)), ("there", ())]),
        (
            ["<v Ann>Hello", "Hello\n<v Bob>Hi", "<v Bob>Hi\n<v Ann>So"],
            [("Hello", ("Ann",)), ("Hi", ("Bob",)), ("So", ("Ann",))],
        ),
        (["<v Ann>Hello", "<v Ann>Hello you\n<v Bob>Hi"], [("Hello", ("Ann",)), ("you Hi", ("Ann", "Bob"))]),
        (["<v Ann>Hello", "<v Bob>hello"], [("Hello", ("Ann", "Bob"))]),
    ],
)
def test_a_repeated_line_takes_its_speaker_along(cues: list[str], said: list[tuple[str, tuple[str, ...]]]) -> None:
    blocks = (f"00:0{n}.000 --> 00:0{n + 1}.000\n{cue}\n\n" for n, cue in enumerate(cues, start=1))
    found = [(each.text, each.speakers) for each in read_cues("WEBVTT\n\n" + "".join(blocks)).cues]
    assert found == said


def test_webvtt_times_its_words(tmp_path: Path) -> None:
    """Roll-up captions as they are downloaded: the first line repeats, and is no part of the cue."""
    path = tmp_path / "a.vtt"
    path.write_text(
        "WEBVTT\n\n00:01.000 --> 00:04.000\nso <00:01.500><c>it</c> <00:02.250><c> be&amp;gan</c>\n\n"
        "00:04.000 --> 00:06.000\nso it be&amp;gan\nand<00:04.500><c> it</c><00:99.000><c> ended</c>\n\n"
        "00:08.000 --> 00:09.000\nno times\n"
    )
    found = subtitles.read_sidecar(os.fsencode(path)).segments
    assert [(s.text, s.word_times) for s in found] == [
        ("so it be&gan", ((0, 0.0), (3, 0.5), (6, 1.25))),
        ("and it ended", ((0, 0.0), (4, 0.5))),
        ("no times", ()),
    ]


@pytest.mark.parametrize(
    ("before", "line", "text", "times"),
    [
        ("the", "the<00:02.500> cat<00:03.000> saw<00:04.000> the<00:05.000> dog", "cat saw the dog", (0.5, 1, 2, 3)),
        ("the cat", "the<00:02.000> cat\ncat<00:02.500> saw<00:04.000> the cat", "cat saw the cat", (0, 0.5, 2)),
        ("the end", "the end\nthe<00:02.500> dog<00:03.000> ran", "the dog ran", (0, 0.5, 1)),
    ],
)
def test_words_keep_their_times_where_captions_grow(
    tmp_path: Path, before: str, line: str, text: str, times: tuple[float, ...]
) -> None:
    path = tmp_path / "a.vtt"
    path.write_text(f"WEBVTT\n\n00:01.000 --> 00:02.000\n{before}\n\n00:02.000 --> 00:06.000\n{line}\n")
    _, said = subtitles.read_sidecar(os.fsencode(path)).segments
    assert (said.text, tuple(time_s for _, time_s in said.word_times)) == (text, times)


def test_speakers_of_substation_names() -> None:
    own = "Format: Start, End, Name, Text\nDialogue: 0:00:01.00,0:00:02.50,Ann Lee,Well, yes\n"
    default = "Dialogue: 0,0:00:03.00,0:00:04.00,D,Bob,0,0,0,,a, b\nDialogue: 0,0:00:05.00,0:00:06.00,D,,0,0,0,,c\n"
    assert [(c.text, c.speakers) for c in read_cues(HEAD + own).cues] == [("Well, yes", ("Ann Lee",))]
    assert [(c.text, c.speakers) for c in read_cues(HEAD + default).cues] == [("a, b", ("Bob",)), ("c", ())]
    packets = [(1.0, 2.0, "3,0,Default,Ann,0,0,0,,{\\i1}Hi{\\i0}, you")]
    packets += [(3.0, 4.0, "Dialogue: 0,0:00:00.00,0:00:01.00,Default,Bob,0,0,0,,old, style")]
    assert [c.speakers for c in read_packets(packets, "ass").cues] == [("Ann",), ("Bob",)]
    assert [c.speakers for c in read_packets([(1.0, 2.0, "<v Bob>Hi")], "webvtt").cues] == [("Bob",)]


def test_layers_of_a_line_have_all_its_speakers(tmp_path: Path) -> None:
    cues = "".join(f"00:01.000 --> 00:02.000\n<v {name}>Together!\n\n" for name in ("Ann", "Bob", "Ann"))
    path = tmp_path / "a.vtt"
    path.write_text(f"WEBVTT\n\n{cues}")
    [segment] = subtitles.read_sidecar(os.fsencode(path)).segments
    assert (segment.text, segment.speakers) == ("Together!", ("Ann", "Bob"))


def test_substation_columns_overrides_and_drawings() -> None:
    own = (
        "Format: Start, End, Layer, Text\nDialogue: 0:00:01.00,0:00:02.50,0,{\\b1}Well{\\b0}, yes\\Nindeed\n"
        "Comment: 0:00:03.00,0:00:04.00,0,hidden\nDialogue: 0:00:05.00,0:00:06.00,0,{\\p1}m 0 0 l 9 9{\\p0} shown\n"
        "Dialogue: broken\nDialogue: -0:00:01.00,0:00:09.00,0,early\n"
    )
    assert [(c.start_s, c.end_s, c.text) for c in read_cues(HEAD + own).cues] == [
        (0.0, 9.0, "early"),
        (1.0, 2.5, "Well , yes indeed".replace(" ,", ",")),
        (5.0, 6.0, "shown"),
    ]
    assert texts(HEAD + "Dialogue: Marked=0,0:00:01.00,0:00:02.00,D,,0,0,0,,a, b\n") == ["a, b"]


def test_repetitions_are_kept_once() -> None:
    def cue(start: int, end: int, text: str) -> str:
        return f"00:00:{start:02},000 --> 00:00:{end:02},000\n{text}\n\n"

    roll_up = cue(1, 3, "first line") + cue(3, 5, "first line\nsecond line") + cue(5, 7, "second line\nthird")
    assert texts(roll_up) == ["first line", "second line", "third"]
    karaoke = cue(1, 3, "sing") + cue(1, 3, "other") + cue(1, 3, "sing") + cue(2, 5, "Sing")
    assert [(c.end_s, c.text) for c in read_cues(karaoke).cues] == [(3, "other"), (5, "sing")]
    assert texts(cue(1, 2, "I") + cue(2, 3, "I have") + cue(3, 4, "I have a dream")) == ["I", "have", "a dream"]
    assert texts(cue(1, 2, "no") + cue(8, 9, "no")) == ["no", "no"]


@pytest.mark.parametrize(
    ("codec", "raw", "text"),
    [
        ("ass", "3,0,Default,,0,0,0,,{\\i1}Hi{\\i0}, you\\Nthere", "Hi, you there"),
        ("ass", "Dialogue: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,old, style", "old, style"),
        ("subrip", "<b>Hi</b>\nyou", "Hi you"),
        ("webvtt", "<v Bob>Hi &amp; you", "Hi & you"),
        ("mov_text", "\x00\x05Hi yo\x00\x00\x00\x16styl\x00\x01junk", "Hi yo"),
        ("mov_text", "\x00\ufffdHi yo", "Hi yo"),
        ("mov_text", "Hi yo", "Hi yo"),
    ],
)
def test_packets(codec: str, raw: str, text: str) -> None:
    (segment,) = subtitles.from_packets([(1.0, 2.0, raw)], SubtitleTrack(2, "eng", codec)).segments
    assert (segment.text, segment.language, segment.source) == (text, "en", "embedded")


@pytest.mark.parametrize("packets", [[], [(-2.0, -1.0, "before")], [(1.0, 2.0, " ")], [(0.0, 0.0, "")]])
def test_a_track_without_a_usable_cue_has_none(packets: list[tuple[float, float, str]]) -> None:
    assert subtitles.from_packets(packets, SubtitleTrack(2, "eng", "subrip")).segments == ()


def test_packets_without_an_end_last_until_the_next() -> None:
    found = read_packets([(1.0, 1.0, "one"), (3.0, 0.0, "two"), (60.0, 60.0, "three")], "subrip")
    assert [(c.start_s, c.end_s) for c in found.cues] == [(1.0, 3.0), (3.0, 8.0), (60.0, 65.0)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("déjà vu".encode("utf-8-sig"), "déjà vu"),
        ("déjà vu".encode(), "déjà vu"),
        ("déjà vu".encode("cp1252"), "déjà vu"),
        ("déjà vu".encode("utf-16"), "déjà vu"),
        ("déjà vu".encode("utf-16-be"), "déjà vu"),
        ("déjà vu".encode("utf-32"), "déjà vu"),
        (b"a\x81b", "a\ufffdb"),
    ],
)
def test_encodings(tmp_path: Path, data: bytes, text: str) -> None:
    wide = {b"\xff\xfe\x64\x00": "utf-16-le", b"\x00d\x00\xe9": "utf-16-be", b"\xff\xfe\x00\x00": "utf-32-le"}
    encoding = wide.get(data[:4], "ascii")
    mark = 4 if encoding == "utf-32-le" else 2 if encoding == "utf-16-le" else 3 if data[:1] == b"\xef" else 0
    path = tmp_path / "a.srt"
    path.write_bytes(data[:mark] + "1\n00:00:01,000 --> 00:00:02,000\n".encode(encoding) + data[mark:])
    (segment,) = subtitles.read_sidecar(os.fsencode(path), "fr").segments
    assert (segment.text, segment.language, segment.source, segment.confidence) == (text, "fr", "sidecar", None)


def test_unreadable_sidecars_are_recorded_and_the_next_is_tried(tmp_path: Path) -> None:
    cue = "1\n00:00:01,000 --> 00:00:02,000\nhello\n"
    (tmp_path / "a.en.srt").write_text(cue + "x" * subtitles.MAX_SIDECAR_BYTES)
    os.mkfifo(tmp_path / "a.en.vtt")
    (tmp_path / "real").write_text(cue)
    (tmp_path / "a.srt").symlink_to(tmp_path / "real")
    (tmp_path / "a.ass").write_text("no cue in here")
    (tmp_path / "a.de.srt").write_text(cue)
    found = subtitles.sidecar_transcript(os.fsencode(tmp_path / "a.mp4"), None)
    problems = found.problems
    assert [(s.text, s.language) for s in found.segments] == [("hello", "de")]
    assert [p.code for p in problems] == ["too_large", "not_regular", "not_regular", "no_text"]
    assert all(p.stage == "transcribe" and p.next for p in problems)
    with pytest.raises(VideoError):
        subtitles.read_sidecar(os.fsencode(tmp_path / "missing.srt"))


def test_preferred_tracks() -> None:
    plain = [SubtitleTrack(n, language, "subrip") for n, language in enumerate(["ger", "und", "eng", ""])]
    assert subtitles.track_order(plain) == [[2], [1, 3], [0]]
    english = SubtitleTrack(2, "eng", "subrip")
    marked = [
        replace(english, forced=True),
        replace(english, comment=True),
        replace(english, title="Signs & Songs"),
        replace(english, hearing_impaired=True),
        replace(english, title="English (SDH)"),
        replace(english, title="Commentary by the director"),
        english,
        replace(english, default=True),
        replace(english, language="", title="Deutsch"),
    ]
    assert subtitles.track_order(marked) == [[7, 6, 3, 4], [8], [0, 1, 2, 5]]


MARKUP = st.lists(
    st.sampled_from(
        ["<a", ">", "{\\p1", "}", "\n", "\n\n", "00:00:01,000 --> 00:00:02.5", "-->", "WEBVTT\n\n", "[Script Info]\n",
         "[Events]\n", "Format: Start, End, Text\n", "Dialogue: 0:00:01.00,0:00:02.00,x", "&#9999999;", "&amp;", "\\N",
         "1", "٣", "\ud800", "\x00", "word ", "♪"]
    )
    | st.text(max_size=8),
    max_size=40,
).map("".join)  # fmt: skip


@given(MARKUP, st.sampled_from(["ass", "subrip", "mov_text", "webvtt"]))
def test_any_text_gives_valid_segments(text: str, codec: str) -> None:
    for found in (read_cues(text).cues, read_packets([(0.0, 1.0, text)], codec).cues):
        assert list(found) == sorted(found, key=lambda c: c.start_s)
        for cue in found:
            assert 0 <= cue.start_s < cue.end_s
            assert not {unicodedata.category(c) for c in cue.text} & {"Cc", "Cs", "Zl", "Zp"}
            cue.text.encode()


@given(st.binary(max_size=400) | MARKUP.map(lambda t: t.encode("utf-16", "replace")))
def test_any_bytes_give_segments(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "a.srt"
    path.write_bytes(data)
    for segment in subtitles.read_sidecar(os.fsencode(path)).segments:
        assert segment.text.strip()


@pytest.mark.parametrize(
    "filler",
    [
        "<a",
        "<0",
        "<00:01>",
        "<v ",
        "<v. ",
        "<v.a",
        "<v A>",
        "{\\",
        "&#",
        "\n",
        " ",
        "1\n",
        "00:",
        "-->\n",
        "{\\p1}",
        "&" + "9" * 50,
        "\\N",
    ],
)
def test_time_is_linear_in_the_size(filler: str) -> None:
    body = filler * (500_000 // len(filler))
    began = time.process_time()
    read_cues("00:00:01,000 --> 00:00:02,000\n" + body)
    read_cues("WEBVTT\n\n00:01.000 --> 00:02.000\n" + body)
    read_cues(HEAD + "Dialogue: 0,0:00:01.00,0:00:02.00,D,,0,0,0,," + body)
    assert time.process_time() - began < 10  # quadratic would be minutes
