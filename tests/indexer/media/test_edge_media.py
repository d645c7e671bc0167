"""The collection of odd and broken files, compared with its measured figures."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from media import media_folder
from reading import sound_of

from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Decoder, Frame, FrameTap, Probe, ReadEnd
from vfindex.indexer.options import Sampling
from vfindex.storage.errors import VideoError

Row = dict[str, str]
SIZE_PX = 48
TIME_SLACK_S = 0.001  # the table rounds to milliseconds


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def rows(*classes: str) -> list[Row]:
    """Return the table's rows of these classes, none where the collection is missing."""
    table = Path(os.environ.get("VFINDEX_TEST_MEDIA", "missing")) / "edge" / "edge.csv"
    if not table.is_file():
        return []
    with table.open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["expected_class"] in classes]


def edge(name: str) -> bytes:
    return os.fsencode(media_folder("edge") / name)


def read(
    decoder: Decoder, path: bytes, sampling: str, *, size_px: int = SIZE_PX, audio: bool = False
) -> tuple[list[Frame], list[AudioBlock], ReadEnd]:
    taps = [FrameTap(size_px), AudioTap()]
    sound = sound_of(decoder, path) if audio else None
    items = list(decoder.read(path, taps=taps, sampling=Sampling.parse(sampling), audio=sound))
    end = items[-1]
    assert isinstance(end, ReadEnd)
    frames = [item for item in items if isinstance(item, Frame)]
    return frames, [item for item in items if isinstance(item, AudioBlock)], end


def check_end(row: Row, end: ReadEnd) -> None:
    assert end.frames == int(row["measured_frames_decoded"])
    assert end.first_s == pytest.approx(float(row["measured_first_pts"]), abs=TIME_SLACK_S)
    assert end.last_s == pytest.approx(float(row["measured_last_pts"]), abs=TIME_SLACK_S)
    assert end.rotation_deg == int(row["measured_rotation"])
    assert (end.damaged, end.error) == (0, "")


def check_probe(row: Row, found: Probe) -> None:
    assert found.has_audio == (row["measured_has_audio"] == "1")
    assert found.rotation_deg == int(row["measured_rotation"])
    assert found.start_s == pytest.approx(float(row["measured_first_pts"]), abs=TIME_SLACK_S)
    assert found.frames in (None, int(row["measured_frames_decoded"]))
    last_s = float(row["measured_last_pts"])
    longest_frame_s = 5.0 if "0.2fps" in row["file"] else 1.0
    assert last_s - TIME_SLACK_S <= found.end_s <= last_s + longest_frame_s + TIME_SLACK_S


@pytest.mark.parametrize("row", rows("decode"), ids=lambda row: row["file"])
def test_decodes_as_measured(decoder: Decoder, row: Row) -> None:
    path = edge(row["file"])
    check_probe(row, decoder.probe(path))
    for sampling in ("auto", "120"):
        frames, blocks, end = read(decoder, path, sampling, audio=sampling == "auto")
        check_end(row, end)
        times_s = [frame.time_s for frame in frames]
        assert times_s and times_s == sorted(set(times_s))
        assert times_s[0] == pytest.approx(float(row["measured_first_pts"]), abs=TIME_SLACK_S)
        assert bool(blocks) == (row["measured_has_audio"] == "1" and sampling == "auto")


@pytest.mark.parametrize("row", rows("reject"), ids=lambda row: row["file"])
def test_refuses_in_words(decoder: Decoder, row: Row) -> None:
    with pytest.raises(VideoError) as caught:
        decoder.probe(edge(row["file"]))
    problem = caught.value.problem
    assert not caught.value.quarantine
    assert problem.stage in ("open", "probe")
    assert len(problem.reason.split()) >= 3 and problem.next
    expected = {"zero_bytes.mp4": "empty", "lfs_pointer.mp4": "lfs_pointer", "text_named.mp4": "text"}
    assert problem.code == expected.get(row["file"], problem.code)
    if row["measured_error"] == "no video stream":
        assert problem.code == "no_video"


@pytest.mark.parametrize("row", rows("decode_or_reject", "partial_or_reject"), ids=lambda row: row["file"])
def test_survives_either_way(decoder: Decoder, row: Row) -> None:
    path = edge(row["file"])
    try:
        decoder.probe(path)
        frames, _, end = read(decoder, path, "auto", audio=True)
    except VideoError as error:
        assert not error.quarantine and error.problem.reason
    else:
        assert frames and end.frames >= len(frames)


def test_the_remaining_part_of_a_truncated_file_is_reported(decoder: Decoder) -> None:
    _, _, end = read(decoder, edge("truncated_tail.mkv"), "auto")
    assert "8.1 s" in end.error and "13.1 s" in end.error
    assert decoder.probe(edge("truncated_tail.mkv")).end_s == pytest.approx(8.1, abs=0.1)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_phone_clips_stand_upright(decoder: Decoder, angle: int) -> None:
    found = decoder.probe(edge(f"video_{angle}.mov"))
    pixels = read(decoder, edge(f"video_{angle}.mov"), "auto")[0][0].pixels
    assert (found.height_px > found.width_px) == (pixels.shape[0] > pixels.shape[1]) == (angle in (90, 270))


def test_honours_pixel_aspect(decoder: Decoder) -> None:
    found = decoder.probe(edge("SAR-2by3.mp4"))
    assert (found.width_px, found.height_px) == (427, 360)
    assert read(decoder, edge("SAR-2by3.mp4"), "auto", size_px=90)[0][0].pixels.shape == (90, 106, 3)


def test_reads_embedded_subtitles(decoder: Decoder) -> None:
    for name, codec in (("mov_text.mp4", "mov_text"), ("webvtt.mkv", "webvtt")):
        track = decoder.probe(edge(name)).subtitles[0]
        assert track.codec == codec
        events = decoder.subtitles(edge(name), track.index)
        assert [text for _, _, text in events] == ["oop", "boop"]
        assert all(start_s < end_s for start_s, end_s, _ in events)


def test_silent_track_is_all_zeros(decoder: Decoder) -> None:
    _, blocks, _ = read(decoder, edge("silent_audio_track.webm"), "auto", audio=True)
    assert blocks and not any(block.samples.any() for block in blocks)
