"""The text modality: which names count as words, in any language, and what is excluded."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfindex.indexer.extractors.metadata_text import MAX_DOCUMENT_CHARS, MAX_TEXT_CHARS, Description, describe
from vfindex.storage.records import Chapter


def named(name: str, folder: str = "/videos") -> Description:
    return describe(os.fsencode(f"{folder}/{name}"), {}, [])


@pytest.mark.parametrize(
    "name",
    [
        "v001.mkv", "IMG_1234.MOV", "VID_20230101_120000.mp4", "GX010123.MP4", "00012.MTS", "MVI_0001.AVI", "S1E1.mp4",
        "PXL_20210101_101010123.mp4", "DJI_0012.MP4", "DSC00042.mp4", "20210304_101112.mp4", "MOV001.mp4", "x.mp4",
        "IMG-20210304-WA0001.mp4", "WhatsApp Video 2021-03-04 at 10.11.12.mp4", "untitled.mov", "final_v2.mp4",
        "Screen Recording 2023-01-01 at 10.00.00.mov", "550e8400-e29b-41d4-a716-446655440000.mp4",
        "d41d8cd98f00b204e9800998ecf8427e.mp4", "1080p.x264.mp4", "dQw4w9WgXcQ.webm", "March 2021.mp4", "xxxxxx.mp4",
        "brrzt.mp4", "it's.mp4",
    ],
)  # fmt: skip
def test_names_without_words_give_no_text(name: str) -> None:
    description = named(name, "/home/anna/Norway trip/DCIM/100CANON")
    stem = os.path.splitext(name)[0]
    assert description.text == ""
    assert description.title == stem
    assert description.documents[0] == ("title", stem)
    assert ("tag", "Norway trip") in description.documents


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DogRunningInPark.mp4", "Dog Running In Park"),
        ("dog_running-in.park.mp4", "dog running in park"),
        ("BigBuckBunny_1080p-x264.mkv", "Big Buck Bunny"),
        ("Planet.Earth.2006.1080p.BluRay.x264.mkv", "Planet Earth 2006"),
        ("sea 1080p60fps 10bit WEB-DL DDP5.1 H.264 1920x1080.mkv", "sea"),
        ("My cat plays [dQw4w9WgXcQ].webm", "My cat plays"),
        ("My cat plays-dQw4w9WgXcQ.webm", "My cat plays"),
        ("[documentary] Sea.mp4", "documentary Sea"),
        ("HTMLParser talk, part 2.mp4", "HTML Parser talk part 2"),
        ("summer2019.mp4", "summer 2019"),
        ("2019-07-04 fireworks 0003.mp4", "2019 fireworks"),
        ("IMG_1234 birthday.mov", "IMG birthday"),
        ("überraschung.mp4", "überraschung"),
        ("e\u0301te\u0301_1.mp4", "été 1"),
        ("映像.mp4", "映像"),
        ("猫.mp4", "猫"),
        ("Привет_мир.mp4", "Привет мир"),
        ("हिन्दी.mp4", "हिन्दी"),
        ("سلام_دنیا.mp4", "سلام دنیا"),
        ("Rhythm.mp4", "Rhythm"),
    ],
)
def test_names_with_words_are_split_and_cleaned(name: str, text: str) -> None:
    description = named(name)
    assert description.text == text
    assert description.title == text
    assert ("title", text) in description.documents


def test_up_to_two_folders_join_a_meaningful_name() -> None:
    assert named("cat.mp4", "/home/anna/Videos/Family/Norway_2019/DCIM").text == "cat. Norway 2019. Family"
    assert named("cat.mp4", "/data/a1/Animals/Family/Pets").text == "cat. Pets. Family"
    assert named("cat.mp4", "/run/media/anna/Downloads").text == "cat"
    assert named("cat.mp4", "/Users/Anna").text == "cat"
    assert named("cat.mp4", "").text == "cat"


def test_allowed_tags_and_chapters_are_read() -> None:
    description = describe(
        b"/videos/v001.mp4",
        {"TITLE": "A dog", "com.apple.quicktime.artist": "Anna", "DESCRIPTION-eng": "By the sea.", "encoder": "Walrus"},
        [Chapter(title) for title in ("Chapter 1", "00:01:00", "The harbour", "At sea")],
    )
    assert description.title == "A dog"
    assert description.text == "A dog. By the sea. Anna. The harbour, At sea"
    assert description.documents == (
        ("title", "v001"),
        ("title", "A dog"),
        ("tag", "By the sea."),
        ("tag", "Anna"),
        ("tag", "The harbour, At sea"),
    )


@pytest.mark.parametrize(
    "value",
    [
        "Lavf58.76.100", "VideoHandler", "SoundHandler", "Core Media Video", "\x1fMainconcept Video Media Handler",
        "isom", "ISO Media file produced by Google Inc.", "Created with HandBrake 1.2", "https://example.org/walrus",
        "vid:v0f044gc0000", "AVC Coding", "Sequence 01", "+59.9-010.7/", "(17)", "000000", "", "\x00",
    ],
)  # fmt: skip
def test_text_of_programs_is_ignored(value: str) -> None:
    tags = {"title": value, "comment": value, "genre": value, "handler_name": value}
    assert describe(b"/videos/v001.mp4", tags, [Chapter(value)]) == Description("v001", "", (("title", "v001"),))


def test_places_in_comments_are_kept() -> None:
    assert describe(b"/v001.mp4", {"comment": "Recorded in Norway"}, []).text == "Recorded in Norway"


def test_the_same_words_are_kept_once() -> None:
    tags = {"title": "big buck bunny", "comment": "BIG BUCK BUNNY"}
    assert describe(b"/videos/BigBuckBunny.mp4", tags, []).text == "big buck bunny"


def test_control_and_direction_characters_are_stripped() -> None:
    description = describe(b"/videos/a\xff\x1b[31mred\n.mp4", {"title": "Sea\x1b[0m and\u202e sky\x00\ud800"}, [])
    assert description.title == "Sea and sky"
    assert ("title", "a red") in description.documents


def test_megabytes_of_tags_stay_bounded() -> None:
    tags = {
        "title": "walrus " * 500_000,
        "description": "ab" * 500_000,
        "comment": "a-" * 500_000,
        "artist": "0aA" * 99_999,
    }
    description = describe(b"/videos/v001.mp4", tags, [Chapter("walrus")] * 10_000)
    assert len(description.text) <= MAX_TEXT_CHARS + 10
    assert all(len(text) <= MAX_DOCUMENT_CHARS * 2 for _, text in description.documents)


@given(st.binary(max_size=60).filter(lambda name: b"\0" not in name), st.text(max_size=60), st.text(max_size=30))
def test_any_name_and_tag_gives_clean_text(name: bytes, tag: str, chapter: str) -> None:
    description = describe(b"/" + name, {"title": tag, "comment": tag}, [Chapter(chapter)])
    assert description.title
    for text in (description.title, description.text, *(text for _, text in description.documents)):
        text.encode()  # raises on a lone surrogate
        assert all(c.isprintable() or c in "\u200c\u200d" for c in text)
    assert all(kind in ("title", "tag") and text for kind, text in description.documents)


def test_chapters_with_times_are_not_words_of_the_whole_video() -> None:
    described = describe(b"/x/kitchen.mp4", {}, [Chapter("The harbour", 0.0, 6.0), Chapter("At sea")])
    assert "harbour" not in described.text and "At sea" in described.text
    assert ("tag", "At sea") in described.documents
