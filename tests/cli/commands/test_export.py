"""`vfindex export`: what is exported, where it goes, and what is refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from library_maker import PICTURE, add_video, axis, clip

from vfindex.storage.writer import writing

LIST = ("--list", "goals")


@pytest.fixture(autouse=True)
def chosen(library: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> Path:
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    run("mark", "/videos/a.mp4@3", *LIST, "--note", "the second")
    return library


def test_hits_marks_and_videos_are_exported(run: Any) -> None:
    ran = run("export", "dogs", "--format", "json", "--min-confidence", "none", "-k", 1)
    assert ran.code == 0 and json.loads(ran.out)["hits"][0]["rank"] == 1
    assert json.loads(run("export", *LIST, "--format", "json").out) == json.loads(run("marks", *LIST, "--json").out)
    shown = json.loads(run("show", "/videos/a.mp4", "--json").out)
    assert json.loads(run("export", "--video", "/videos/a.mp4", "--format", "json").out) == shown
    run("save", "dogs", "dogs in the snow")
    assert json.loads(run("export", "--saved", "dogs", "--format", "json").out)["query"] == "dogs in the snow"


def test_the_name_of_the_file_chooses_the_format(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "goals.EDL"
    ran = run("export", *LIST, "-o", path, "--rate", "29.97df")
    assert (ran.code, ran.out, ran.err) == (0, "", f"written: {path}\n")
    assert path.read_bytes().splitlines()[1] == b"FCM: DROP FRAME"
    assert run("export", *LIST, "--format", "m3u8").out.splitlines()[2] == "#EXTINF:5,a.mp4 - the second"


def test_a_span_of_a_video_and_an_offset(run: Any) -> None:
    made = run("export", "--video", "/videos/a.mp4", "--span", "0:01-4", "--offset", "1:00:00", "--format", "srt").out
    assert made.splitlines()[1] == "01:00:00,000 --> 01:00:03,000"


def test_no_file_is_replaced_without_force(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "goals.csv"
    path.write_text("mine")
    ran = run("export", *LIST, "-o", path)
    assert ran.code == 2 and f"{path} exists; name another file for --output, or add --force" in ran.err
    assert path.read_text() == "mine"
    assert run("export", *LIST, "-o", path, "--force").code == 0
    assert path.read_bytes().startswith(b"\xef\xbb\xbfnumber,video,")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "edl"), "name what to export: a query, --list, --saved or --video"),
        (("dogs", *LIST, "--format", "edl"), "one of them"),
        (LIST, "name a format with --format"),
        ((*LIST, "-o", "goals.doc"), "name a format with --format, or a file for --output that ends in one of srt"),
        ((*LIST, "--format", "doc"), "there is no format 'doc'"),
        ((*LIST, "--format", "edl", "--span", "1-2"), "--span is a part of a --video"),
        (("--video", "a.mp4", "--format", "srt", "--span", "2"), "a span is two times"),
        (("--video", "a.mp4", "--format", "srt", "--span", "-"), "a span is two times"),
        (("--video", "a.mp4", "--format", "srt", "--span", "3-2"), "ends before it begins"),
        ((*LIST, "--format", "edl", "--rate", "26"), "a frame rate is one of 23.98"),
        ((*LIST, "--format", "edl", "--offset", "soon"), "--offset takes a time"),
        ((*LIST, "--format", "csv", "--offset", "5"), "csv has no timeline"),
        ((*LIST, "--format", "edl", "--track", "screen"), "edl has no text of a track; a track is for srt, vtt"),
        ((*LIST, "--format", "nfo", "--beside", "--track", "screen"), "nfo has no text of a track"),
        ((*LIST, "--format", "srt", "--track", "visual"), "track must be one of speech, screen, text, not 'visual'"),
        ((*LIST, "--format", "edl", "--beside"), "--beside is for tags"),
        ((*LIST, "--format", "xmp"), "tags go next to each video with --beside, or into the folder --output"),
        ((*LIST, "--format", "xmp", "-o", "nowhere"), "nowhere is no folder"),
        ((*LIST, "--format", "nfo", "--beside", "--rate", "25"), "nfo has no timeline"),
    ],
)
def test_wrong_usage_is_a_sentence(run: Any, arguments: tuple[str, ...], said: str) -> None:
    ran = run("export", *arguments)
    assert (ran.code, ran.out) == (2, "") and ran.err.startswith("vfindex: ") and ran.err.count("\n") == 1
    assert said in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--list", "none", "--format", "edl"), "there is nothing to export: no hits, or no marks in the list"),
        (("--video", "/videos/none.mp4", "--format", "edl"), "is not in this library"),
        (("--saved", "none", "--format", "edl"), "there is no saved question none"),
    ],
)
def test_nothing_to_export_fails(run: Any, arguments: tuple[str, ...], said: str) -> None:
    ran = run("export", *arguments)
    assert ran.code == 1 and ran.out == "" and said in ran.err


def test_nothing_is_written_into_a_library(run: Any, chosen: Path) -> None:
    assert "is inside the library" in run("export", *LIST, "-o", chosen / "goals.csv").err


def test_two_videos_of_one_name_do_not_share_a_sidecar(run: Any, chosen: Path, tmp_path: Path) -> None:
    with writing(chosen) as writer:
        add_video(writer, "a.mkv", [clip(visual=axis(1))])
    run("mark", "/videos/a.mkv@3", *LIST)
    ran = run("export", *LIST, "--format", "nfo", "-o", tmp_path)
    assert ran.code == 1 and "a.nfo has the tags of another video of this name" in ran.err
    assert b"<tag>goals</tag>" in (tmp_path / "a.nfo").read_bytes()


def test_tags_go_next_to_videos_that_are_there(run: Any) -> None:
    ran = run("export", *LIST, "--format", "nfo", "--beside")
    assert ran.code == 1 and "/videos/a.mp4 is not there, so nothing was written next to it" in ran.err


def test_tags_that_cannot_be_written_are_said(run: Any, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.mkstemp", full)
        ran = run("export", *LIST, "--format", "nfo", "-o", tmp_path)
    assert ran.code == 1 and "a.nfo cannot be written (No space left on device)" in ran.err
    assert ran.err.endswith("0 files written\n") and not (tmp_path / "a.nfo").exists()


def full(**_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_tags_replace_own_sidecars_only(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "tags"
    folder.mkdir()
    assert run("export", *LIST, "--format", "xmp", "-o", folder).err == "1 file written\n"
    path = folder / "a.mp4.xmp"
    assert b"<rdf:li>goals</rdf:li>" in path.read_bytes()
    assert run("export", *LIST, "--format", "xmp", "-o", folder).code == 0
    path.write_bytes(PICTURE)
    ran = run("export", *LIST, "--format", "xmp", "-o", folder, "--force")
    assert ran.code == 1 and "a.mp4.xmp was not written by vfindex, so it was left as it is" in ran.err
    assert path.read_bytes() == PICTURE
