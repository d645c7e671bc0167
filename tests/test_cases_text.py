"""Small files that reproduce bug reports of other systems: subtitles, names, descriptions and folders.

Those about frames, clocks and audio are in `test_cases.py`. All are ingested in one run, without speech recognition.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from cases import Case, case_files, ingest_folder
from media import media_folder

NAMES = (
    "c01b_drone_mini.MP4", "c02a_forced_first.mkv", "c03_talk [dQw4w9WgXcQ].mp4", "c04a_gbk.mp4", "c04b_cp1251.mp4",
    "c07_Caf\u00e9.mp4", "c09a.mp4", "c09b.mp4", "c10_whisper_times.mp4", "c11_movie", "c15_dvb.ts", "c17_disk",
    "c20_odd.mp4", "c23_chapters.mkv", "c24_rolling.mp4",
)  # fmt: skip

EMPTY_TRACKS = ("F1_empty_subtitle_track.mkv", "F1_empty_subtitle_track.mp4")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Case:
    """Return all cases in one library."""
    media_folder("cases")
    folder = tmp_path_factory.mktemp("cases")
    source = folder / "videos"
    source.mkdir()
    for path in dict.fromkeys(path for name in NAMES for path in case_files(name)):
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, source / path.name)
    for name in EMPTY_TRACKS:
        shutil.copyfile(media_folder("fuzz") / name, source / name)
    return ingest_folder(models_cache, source / NAMES[0], source, folder / "library", "--no-asr")


def shown(cases: Case, name: str) -> dict[str, Any]:
    document: dict[str, Any] = cases.vfindex("show", str(cases.path.parent / name), "--json").document()
    return document


def said(cases: Case, name: str) -> list[tuple[float, float, str, str]]:
    """Return (start_s, end_s, language, text) of the segments of a video."""
    rows = shown(cases, name)["transcript"]
    return [(row["start_s"], row["end_s"], row["language"], row["text"]) for row in rows]


def note(cases: Case, name: str) -> dict[str, str]:
    """Return code -> reason of the report's notes on a sidecar."""
    notes = [row for row in cases.report["notes"] if os.path.basename(row["path"]) == name]
    return {row["code"]: row["reason"] for row in notes}


def test_every_case_is_indexed_fully(cases: Case) -> None:
    assert cases.report["partial"] == cases.report["failed"] == []
    assert cases.report["indexed"] == len(NAMES) + len(EMPTY_TRACKS)


@pytest.mark.parametrize("name", EMPTY_TRACKS)
def test_a_track_without_a_usable_cue_gives_no_subtitles(cases: Case, name: str) -> None:
    assert (shown(cases, name)["state"], said(cases, name)) == ("indexed", [])


def test_a_flight_log_is_not_speech(cases: Case) -> None:
    document = shown(cases, "c01b_drone_mini.MP4")
    assert document["transcript"] == []
    assert "c01b_drone_mini.SRT: not used, it holds a flight log" in document["coverage"][0]["speech"]
    assert note(cases, "c01b_drone_mini.SRT") == {
        "flight_log": "it holds a flight log or other measured values, no speech"
    }
    for question in ("shutter", "206.14", "GPS"):
        hits = cases.hits(f"said:{question}")
        assert not [hit for hit in hits if "c01b" in hit["video"] and hit.get("words")]


def test_the_full_track_wins(cases: Case) -> None:
    found = said(cases, "c02a_forced_first.mkv")
    assert len(found) == 5
    assert "lighthouse keeper" in found[0][3]
    assert {language for _, _, language, _ in found} == {"en"}


@pytest.mark.parametrize(
    ("name", "language", "words"),
    [
        ("c03_talk [dQw4w9WgXcQ].mp4", "en", "sourdough"),
        ("c07_Caf\u00e9.mp4", "en", "dropped a tray"),
        ("c09a.mp4", "hi", "\u092a\u094d\u0930\u0915\u093e\u0936\u0938\u094d\u0924\u0902\u092d"),
        ("c09b.mp4", "fr", "gardien du phare"),
        ("c11_movie/c11.mp4", "en", "lighthouse keeper"),
    ],
)
def test_marks_in_names(cases: Case, name: str, language: str, words: str) -> None:
    found = said(cases, name)
    assert {row[2] for row in found} == {language}
    assert words in " ".join(row[3] for row in found)


@pytest.mark.parametrize(
    ("name", "encoding", "language"), [("c04a_gbk", "gb18030", "zh"), ("c04b_cp1251", "cp1251", "ru")]
)
def test_legacy_encodings_are_decoded(cases: Case, name: str, encoding: str, language: str) -> None:
    source = media_folder("cases") / f"{name}.{language}.srt"
    lines = [line for line in source.read_bytes().decode(encoding).splitlines() if line and not line.isascii()]
    found = said(cases, f"{name}.mp4")
    assert [row[2:] for row in found] == [(language, line) for line in lines]
    assert note(cases, source.name) == {}
    word = max(lines[0].split(), key=len).strip(".\u3002")
    [hit] = [hit for hit in cases.hits(f'"{word}"') if name in hit["video"]]
    assert hit["rank"] == 1


def test_cues_that_end_too_early_or_too_late_are_kept(cases: Case) -> None:
    found = [(start_s, end_s, text.split()[0]) for start_s, end_s, _, text in said(cases, "c10_whisper_times.mp4")]
    end_s = shown(cases, "c10_whisper_times.mp4")["end_s"]
    assert found == [
        (0.5, 2.0, "First"),
        (3.0, 5.0, "Second"),
        (5.0, 7.0, "Third"),
        (7.0, 8.5, "Fourth"),
        (9.0, pytest.approx(end_s), "Fifth"),
    ]


def test_system_folders_are_skipped_and_counted(cases: Case) -> None:
    assert cases.report["left_out"] == {
        "AppleDouble file": 1,
        "preview folder": 1,
        "recycle bin": 2,
        "system folder": 1,
    }
    assert shown(cases, "c17_disk/keep.mp4")["state"] == "indexed"


def test_markup_is_not_indexed(cases: Case) -> None:
    for question in ("nofollow", "noopener", "href", "example.org"):
        assert not [hit for hit in cases.hits(f'"{question}"') if "c20" in hit["video"]]
    assert "c20" in cases.hits('"pottery with grandma & friends"')[0]["video"]


def test_rolling_captions_are_kept_once(cases: Case) -> None:
    found = [(start_s, end_s, text) for start_s, end_s, _, text in said(cases, "c24_rolling.mp4")]
    assert found == [
        (0.16, 2.439, "welcome to the harbour"),
        (2.439, 5.759, "today we repair nets"),
        (5.759, 8.51, "with old needles"),
    ]


def test_a_chapter_that_is_named_is_a_moment(cases: Case) -> None:
    [hit] = cases.hits("titled:baking")
    assert os.path.basename(hit["video"]) == "c23_chapters.mkv"
    assert (hit["start_s"], hit["end_s"]) == (pytest.approx(6.0, abs=0.5), pytest.approx(12.0, abs=0.5))
    [match] = hit["matches"]
    assert (match["text"], match["start_s"], match["end_s"], match["source"]) == (
        "Baking the loaf",
        6.0,
        12.0,
        "chapter",
    )
    [hit] = cases.hits("titled:starter")
    assert (hit["start_s"], hit["end_s"]) == (pytest.approx(0.0, abs=0.5), pytest.approx(6.0, abs=0.5))


def test_a_title_still_finds_the_whole_video(cases: Case) -> None:
    hits = [hit for hit in cases.hits("titled:c23", "--per-video", "9") if "c23" in hit["video"]]
    assert min(hit["start_s"] for hit in hits) == 0 and max(hit["end_s"] for hit in hits) >= 11.5
    assert {match["start_s"] for hit in hits for match in hit["matches"]} == {None}


def test_a_chapter_is_no_speech(cases: Case) -> None:
    assert cases.hits("said:baking") == []
