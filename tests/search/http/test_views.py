"""What pages show of questions, hits and videos."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from library_maker import TEXTS, add_video, axis, clip, install
from markupsafe import Markup

from vfindex.search.http import views
from vfindex.search.http.views import TIMELINE, cards_of, chips_of, marked, texts_of, timeline_of, within_video
from vfindex.search.query.parser import parse
from vfindex.search.results import Hit, Match, VideoInfo
from vfindex.search.service import SearchService
from vfindex.storage.files.names import glob_pattern
from vfindex.storage.records import Chapter, ClipKey
from vfindex.storage.writer import writing


def hit(key: ClipKey, video: bytes | None = b"/films/a.mp4", **more: Any) -> Hit:
    """Return a hit of 5 s with this key."""
    start_s = key.start_ms / 1000
    values = {"score": 1.0, "words": (), "snippet": None, "matches": (), **more}
    return Hit(
        rank=1,
        library=Path("/library"),
        video=video,
        video_id=1,
        clip_id=1,
        key=key,
        start_s=start_s,
        end_s=start_s + 5,
        frame_s=start_s,
        share=None,
        confidence=None,
        coarse=False,
        modalities={},
        moments=(),
        also=(),
        missing={},
        thumbnail=None,
        **values,
    )


@pytest.fixture
def video(tmp_path: Path) -> VideoInfo:
    """Return a video of 10 s, with text of every kind, two clips and chapters."""
    library = tmp_path / "library"
    clips = [clip(0.0, 5.0, visual=axis(0)), clip(5.0, 10.0, visual=axis(1), speech=axis(2))]
    chapters = (Chapter("First", 0.0, 4.0), Chapter("Second", 4.0), Chapter("of the whole"))
    with writing(library) as writer:
        install(writer)
        add_video(writer, "v", clips, [*TEXTS], chapters=chapters)
    with SearchService(library) as service:
        return service.video("v")


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time_s", "shown"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599.6, "1:00:00"), (36_000, "10:00:00"), (-1, "0:00")],
)
def test_times_are_a_clock(time_s: float, shown: str) -> None:
    assert views.clock(time_s) == shown


@pytest.mark.parametrize(("size", "shown"), [(0, "0 kB"), (12_400, "12 kB"), (3.44e6, "3.4 MB"), (5.6e9, "5.6 GB")])
def test_sizes_have_a_unit(size: float, shown: str) -> None:
    assert views.size(size) == shown


def test_names_and_keys_are_text() -> None:
    assert views.file_name(b"/films/caf\xe9.mp4") == "caf\udce9.mp4"
    assert (views.file_name(None), views.path(None), views.path(b"/a")) == ("", "", "/a")
    assert views.key_text(ClipKey("ab", 1500)) == "ab:1500"
    assert views.clip_ms(1.4999) == 1500


# --- hits -----------------------------------------------------------------------------------------------------------


def test_a_video_has_one_card_where_its_best_hit_is() -> None:
    keys = [ClipKey(name, start) for name, start in (("a", 0), ("b", 0), ("a", 5000), ("c", 0), ("b", 5000))]
    cards = cards_of([hit(key, None if key.fingerprint == "c" else b"/films/x.mp4") for key in keys])
    assert [[each.key for each in card.hits] for card in cards] == [keys[0:3:2], keys[1:5:3], keys[3:4]]
    assert [(card.fingerprint, card.name, card.folder) for card in cards] == [
        *(("a", "x.mp4", "/films"), ("b", "x.mp4", "/films"), ("c", "", "")),
    ]


@pytest.mark.parametrize(
    ("text", "words", "shown"),
    [
        ("A dog runs.", ["dog"], "A <mark>dog</mark> runs."),
        ("He jumps home", ["jumping"], "He <mark>jumps</mark> home"),
        ("Ein CAFÉ, zwei", ["cafe"], "Ein <mark>CAFÉ</mark>, zwei"),
        ("category cat", ["cat"], "category <mark>cat</mark>"),
        ("a rocket", ["rocket launch"], "a <mark>rocket</mark>"),
        ("<b>dog</b> & cat", ["dog"], "&lt;b&gt;<mark>dog</mark>&lt;/b&gt; &amp; cat"),
        ("<mark>", ["mark"], "&lt;<mark>mark</mark>&gt;"),
        ("nothing", [], "nothing"),
    ],
)
def test_words_are_marked_and_all_else_is_escaped(text: str, words: list[str], shown: str) -> None:
    assert marked(text, words) == Markup(shown)


# --- the question ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "chips"),
    [
        ("plain words", {}),
        ("dog -cat", {"-cat": "dog"}),
        ("dog said:rocket", {"said:rocket": "dog"}),
        ("door opens then -dog barks within 9s", {"-dog": "door opens then barks within 9s"}),
        ("said:door then dog within 9s", {"said:door": "dog"}),
        ("dog in:a in:b lang:en", {"in:a": "dog in:b lang:en", "in:b": "dog in:a lang:en", "lang:en": "dog in:a in:b"}),
        ("dog longer:60s after:2026-01-31", {"longer:1m": "dog after:2026-01-31", "after:2026-01-31": "dog longer:1m"}),
        ('dog speaker:"Ann Lee"', {'speaker:"Ann Lee"': "dog"}),
    ],
)
def test_each_part_of_a_question_can_be_taken_away(query: str, chips: dict[str, str]) -> None:
    found = {chip.text: chip.without for chip in chips_of(parse(query))}
    assert {text: parse(rest) for text, rest in found.items()} == {text: parse(rest) for text, rest in chips.items()}


def test_a_question_about_one_video_keeps_its_words(video: VideoInfo) -> None:
    inside = within_video(parse("dog in:elsewhere longer:1s"), video)
    assert inside == parse("dog in:/videos/v longer:1s")
    nowhere = within_video(parse("dog in:elsewhere"), replace(video, locations=()))
    assert nowhere == parse("dog in:elsewhere")


# --- a library ------------------------------------------------------------------------------------------------------


def test_the_disk_use_of_a_library_is_by_its_parts(tmp_path: Path) -> None:
    library = tmp_path / "library"
    (library / "thumbs" / "aa").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"x" * 900)
    (library / "thumbs" / "aa" / "1.webp").write_bytes(b"x" * 30)
    (library / "thumbs" / "2.webp").write_bytes(b"x" * 20)
    (library / "library.db").write_bytes(b"x" * 500)
    (library / "link").symlink_to(tmp_path)
    found = views.disk_use(library)
    assert (found["library.db"], found["thumbs"]) == (500, 50)
    assert 550 <= found["total"] < 900, "a link counts as itself"
    assert next(iter(found)) == "library.db"
    assert views.disk_use(tmp_path / "nothing") == {"total": 0}
    for name in ("library.db-wal", "library.db-shm", "user.db-journal"):
        (library / name).write_bytes(b"x" * 1000)
    found = views.disk_use(library)
    assert (found["library.db"], found["user.db"]) == (2500, 1000), "a database with its journals"


def test_the_disk_use_leaves_out_what_this_user_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").write_bytes(b"x" * 7)
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refusing(folder: Any) -> Any:
        if os.fspath(folder).endswith("closed"):
            raise PermissionError
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    assert views.disk_use(tmp_path) == {"open": 7, "closed": 0, "total": 7}


def test_a_folder_is_a_filter_whatever_its_name() -> None:
    name = '/films/the "best" [2024] of'
    [found] = parse(f"x {views.inside(name)}").filters.inside
    assert re.fullmatch(glob_pattern(found), name)


# --- a video --------------------------------------------------------------------------------------------------------


def test_each_text_but_the_chapters_has_a_heading(video: VideoInfo) -> None:
    said, shown = texts_of(video, None)
    assert (said.title, [each.text for each in said.segments]) == ("Transcript", ["hello there"])
    assert (shown.title, [each.text for each in shown.segments]) == ("Text on the picture", ["EXIT"])
    assert not shown.matches
    match = Match(("exit",), "EXIT", "screen", "screen", 2, 4, "frames", (0.1, 0.1, 0.2, 0.2), None, ())
    assert texts_of(video, hit(ClipKey("v", 0), matches=(match,)))[1].matches
    silent = replace(video, transcript=(), other_text=())
    assert [(each.title, each.segments) for each in texts_of(silent, None)] == [("Transcript", ())]


def test_the_timeline_has_what_each_modality_covers(video: VideoInfo) -> None:
    line = timeline_of(video, [hit(ClipKey("v", 5000))])
    assert [(name, [(bar.x, bar.width) for bar in bars], seconds) for name, bars, seconds in line.rows] == [
        ("visual", [(0.0, 500.0), (500.0, 500.0)], 10.0),
        ("speech", [(500.0, 500.0)], 5.0),
    ]
    assert [(bar.x, bar.width, bar.label) for bar in line.chapters] == [(0, 400, "First"), (400, 600, "Second")]
    assert [(bar.x, bar.width, bar.start_s) for bar in line.hits] == [(500.0, 500.0, 5.0)]


def test_the_timeline_ends_where_the_last_clip_is_heard(video: VideoInfo) -> None:
    *clips, last = video.clips
    heard = replace(video, clips=(*clips, replace(last, end_s=20.0)))
    line = timeline_of(heard, [])
    assert [[(bar.x, bar.width) for bar in bars] for _, bars, _ in line.rows] == [
        [(0.0, 250.0), (250.0, 750.0)],
        [(250.0, 750.0)],
    ]
    assert line.chapters[-1].x + line.chapters[-1].width == TIMELINE


def test_bars_stay_on_the_timeline(video: VideoInfo) -> None:
    bars = timeline_of(video, [hit(ClipKey("v", start_ms)) for start_ms in (-3000, 9_999, 60_000)]).hits
    assert all(0 <= bar.x <= bar.x + bar.width <= TIMELINE for bar in bars)
    assert timeline_of(replace(video, duration_s=0.0, clips=()), []).rows == ()
