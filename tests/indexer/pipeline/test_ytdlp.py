"""yt-dlp's sidecars, valid and hostile."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfindex.indexer.extractors.metadata_text import describe
from vfindex.indexer.pipeline.ytdlp import MAX_FIELD_CHARS, MAX_INFO_BYTES, Info, _chapters, _tags, read_info
from vfindex.search.query.filters import recorded_on
from vfindex.storage.records import Chapter


def beside(folder: Path, data: bytes) -> Info:
    (folder / "talk.info.json").write_bytes(data)
    return read_info(os.fsencode(folder / "talk.mp4"))


def test_title_description_tags_chapters_and_day(tmp_path: Path) -> None:
    document = {
        "title": "Rocket engines",
        "description": "How a turbopump works.",
        "tags": ["space", "fuel"],
        "chapters": [{"title": "The pump", "start_time": 0}, {"start_time": 5}],
        "upload_date": "20240229",
    }
    info = beside(tmp_path, json.dumps(document).encode())
    assert info.problem is None
    assert info.chapters == (Chapter("The pump", 0.0, 5.0),)
    description = describe(b"/x/talk.mp4", info.tags, info.chapters)
    assert description.title == "Rocket engines"
    for words in ("How a turbopump works", "space, fuel"):
        assert words in description.text
    assert recorded_on(info.tags, []) == date(2024, 2, 29)


def test_there_need_not_be_any(tmp_path: Path) -> None:
    assert read_info(os.fsencode(tmp_path / "talk.mp4")) == Info()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 100_000, b"[1]", b"\xff\xfe\x00", b"9" * 10_000, b" " * (MAX_INFO_BYTES + 1)],
    ids=["empty", "cut", "deep", "list", "bytes", "number", "large"],
)
def test_unusable_sidecars_are_reported(tmp_path: Path, data: bytes) -> None:
    info = beside(tmp_path, data)
    assert info.problem is not None and info.problem.code == "info_json"
    assert (dict(info.tags), info.chapters) == ({}, ())


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"title": "secret"}')
    (tmp_path / "talk.info.json").symlink_to(tmp_path / "secret")
    assert read_info(os.fsencode(tmp_path / "talk.mp4")).problem is not None
    (tmp_path / "talk.info.json").unlink()
    os.mkfifo(tmp_path / "talk.info.json")
    assert read_info(os.fsencode(tmp_path / "talk.mp4")).problem is not None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["title", "tags", "chapters", "x"]), inner),
)


@given(st.dictionaries(st.sampled_from(["title", "description", "tags", "upload_date", "chapters"]), ANYTHING))
def test_any_document_gives_bounded_text(document: dict[str, object]) -> None:
    for text in _tags(document).values():
        assert 0 < len(text.encode()) <= 4 * MAX_FIELD_CHARS


@given(ANYTHING, st.floats(0, 1e6))
def test_any_chapters_give_spans_inside_the_video(chapters: object, end_s: float) -> None:
    for chapter in _chapters(chapters, end_s):
        assert chapter.title
        if chapter.start_s is not None and chapter.end_s is not None:
            assert 0 <= chapter.start_s < chapter.end_s <= end_s


def test_chapters_end_where_they_say_or_the_next_begins() -> None:
    written = [
        {"title": "one", "start_time": 0, "end_time": 4.5},
        {"title": "two", "start_time": 5},
        {"title": "mark", "start_time": 7, "end_time": 7},
        {"title": "three", "start_time": 9, "end_time": 99},
        {"title": "four", "start_time": True},
        {"title": "five", "start_time": 30},
    ]
    assert list(_chapters(written, 12.0)) == [
        Chapter("one", 0.0, 4.5),
        Chapter("two", 5.0, 7.0),
        Chapter("mark", 7.0, 9.0),
        Chapter("three", 9.0, 12.0),
        Chapter("four"),
    ]
