"""Which rung plays what: the table of docs/playback.md is what the edge collection and the rules of codecs give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from media import Shot, make_video, media_folder

from vfindex.indexer.media.container import Refusal, open_source
from vfindex.indexer.playback.codecs import avc1_name, codec_of
from vfindex.indexer.playback.ladder import choose, stored_container

PAGE = Path(__file__).resolve().parents[3] / "docs" / "playback.md"


def row_of(path: Path) -> tuple[str, str, str, str]:
    """Return (container, video, audio, rung) of a file, as the table has them. Raises Refusal."""
    source = open_source(bytes(path))
    try:
        chosen = choose(source)
        context = source.video.codec_context
        container = stored_container(source) or source.container.format.name.split(",")[0]
        video = " ".join((codec_of(source.video), context.pix_fmt or ""))
        audio = " and ".join(codec_of(stream) for stream in source.container.streams.audio) or "none"
        return container, video, audio, chosen.rung
    finally:
        source.close()


def test_the_table_of_the_page_is_measured() -> None:
    measured = set()
    for path in media_folder("edge").iterdir():
        try:
            measured.add(row_of(path))
        except Refusal:
            continue
    cells = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in PAGE.read_text("utf-8").splitlines()]
    table = {tuple(row) for row in cells if len(row) == 4 and row[3] in ("file", "remux", "transcode")}
    assert sorted(table) == sorted(measured)


@pytest.mark.parametrize(
    ("name", "options", "rung", "reason"),
    [
        ("a.mp4", {"codec": "libx264", "tone_hz": 440}, "file", ""),
        ("a.mov", {"codec": "libx264"}, "remux", "browsers do not open QuickTime / MOV"),
        ("a.mkv", {"codec": "libx264"}, "remux", "browsers do not open Matroska / WebM"),
        ("a.webm", {"codec": "libvpx", "tone_hz": 440}, "file", ""),
        ("a.mkv", {"codec": "libvpx", "tone_hz": 440}, "transcode", "browsers do not play vp8 with this audio"),
        ("a.ts", {"codec": "libx264"}, "remux", "browsers do not open MPEG-TS (MPEG-2 Transport Stream)"),
        ("a.avi", {"codec": "libx264"}, "transcode", "avi stores no presentation times"),
        ("a.mp4", {"codec": "libx264", "pix_fmt": "yuv444p"}, "transcode", "browsers do not play h264 (High 4:4:4"),
        ("a.mp4", {"codec": "libx264", "start_s": 30.0}, "remux", "its times do not begin at 0"),
    ],
)
def test_a_rung_has_its_reason(tmp_path: Path, name: str, options: dict[str, Any], rung: str, reason: str) -> None:
    path = make_video(tmp_path / name, shots=[Shot("red", 1.0)], **options)
    source = open_source(bytes(path))
    chosen = choose(source)
    source.close()
    assert (chosen.rung, chosen.reason.startswith(reason)) == (rung, True), chosen
    assert bool(chosen.reason) == bool(reason)


@pytest.mark.parametrize(
    ("extradata", "name"),
    [
        (b"\x01\x64\x00\x1f\xff\xe1", "avc1.64001f"),
        (b"\0\0\0\1\x67\x42\xc0\x0d\xd9", "avc1.42c00d"),
        (b"\0\0\1\x09\x10\0\0\1\x27\x4d\x40\x28\xff", "avc1.4d4028"),
        (b"\0\0\1\x68\xce\x3c\x80", None),
        (b"\0\0\1\x67\x42", None),
        (b"", None),
    ],
)
def test_the_name_of_h264_is_in_its_parameters(extradata: bytes, name: str | None) -> None:
    assert avc1_name(extradata) == name
