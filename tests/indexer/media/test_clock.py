"""Time stamps that wrap, restart, jump, repeat or start anywhere: one rising clock, and no report of damage."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import Shot, make_video, overwrite, shot_frames, truncate
from reading import read

from vfindex.indexer.media.decoder import AudioTap, Decoder, Frame
from vfindex.indexer.media.sniff import announced_end, matroska_end
from vfindex.indexer.options import Sampling

WRAP_S = 2**33 / 90_000
SHOTS = [Shot("red", 4.0), Shot("blue", 4.0)]


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def transport(path: Path, start_s: float, **options: object) -> Path:
    return make_video(path, shots=SHOTS, fps=12.0, codec="mpeg2video", start_s=start_s, **options)


def check(decoder: Decoder, path: Path, frames: int, end_s: float) -> list[Frame]:
    """Read a file at every sampling; its frames rise from 0 s to its end, and nothing is damaged."""
    probe = decoder.probe(os.fsencode(path))
    assert probe.start_s == pytest.approx(0.0, abs=0.1)
    assert probe.end_s == pytest.approx(end_s, abs=0.5)
    for sampling in ("auto", "keyframes", "12"):
        found, end = read(decoder, path, sampling)
        times_s = [frame.time_s for frame in found]
        assert times_s == sorted(set(times_s)) and times_s[0] >= 0
        assert (end.frames, end.damaged, end.error) == (frames, 0, "")
        assert end.last_s == pytest.approx(end_s - 1 / 12, abs=0.5)
    return found


@pytest.mark.parametrize("start_s", [1.4, 40_000.0, WRAP_S - 4.0, 90_000.0])
def test_a_container_counts_from_its_start(decoder: Decoder, tmp_path: Path, start_s: float) -> None:
    check(decoder, transport(tmp_path / "late.ts", start_s), 96, 8.0)


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4", "late.flv"])
def test_other_containers_count_from_their_start(decoder: Decoder, tmp_path: Path, name: str) -> None:
    codec = "flv1" if name.endswith("flv") else "mpeg4"
    path = make_video(tmp_path / name, shots=SHOTS, fps=12.0, codec=codec, start_s=40_000.0)
    check(decoder, path, 96, 8.0)


@pytest.mark.parametrize(("first_s", "second_s"), [(1.4, 1.4), (1.4, 30.0), (50_000.0, 1.4), (1.4, 50_000.0)])
def test_recordings_joined_go_on_on_one_clock(
    decoder: Decoder, tmp_path: Path, first_s: float, second_s: float
) -> None:
    first, second = transport(tmp_path / "a.ts", first_s), transport(tmp_path / "b.ts", second_s)
    gap_s = max(0.0, second_s - first_s - 8.0) if second_s - first_s < 60 else 0.0
    check(decoder, joined(tmp_path / "joined.ts", first, second), 192, 16.0 + gap_s)


def test_audio_changes_to_the_new_clock_with_the_video(decoder: Decoder, tmp_path: Path) -> None:
    parts = [transport(tmp_path / f"{n}.ts", 1.4, tone_hz=440) for n in range(2)]
    path = joined(tmp_path / "joined.ts", *parts)
    (track,) = decoder.probe(os.fsencode(path)).audio
    blocks = list(decoder.read(os.fsencode(path), taps=[AudioTap()], sampling=Sampling(), audio=track.index))[:-1]
    times_s = [block.time_s for block in blocks]
    assert times_s == sorted(times_s)
    assert sum(len(block.samples) for block in blocks) / 16_000 == pytest.approx(16.0, abs=0.5)
    assert times_s[-1] == pytest.approx(16.0, abs=1.2)


def test_a_part_of_joined_recordings_is_found_again(decoder: Decoder, tmp_path: Path) -> None:
    parts = [transport(tmp_path / f"{n}.ts", 1.4) for n in range(2)]
    path = joined(tmp_path / "joined.ts", *parts)
    every, _ = read(decoder, path, "12")
    part, end = read(decoder, path, "12", start_s=9.0, end_s=12.0)
    assert (end.damaged, end.error) == (0, "")
    assert [frame.time_s for frame in part] == [f.time_s for f in every if 9.0 <= f.time_s < 12.0]
    assert decoder.keyframes_before(os.fsencode(path), [9.0]) == [9.0]


def test_an_empty_span_is_not_damage(decoder: Decoder, tmp_path: Path) -> None:
    times_s = [n / 12 + (30.0 if n >= 48 else 0.0) for n in range(96)]
    for name in ("gap.mkv", "gap.mp4", "gap.ts"):
        codec = "mpeg2video" if name.endswith("ts") else "mpeg4"
        path = make_video(tmp_path / name, shots=SHOTS, fps=12.0, codec=codec, times_s=times_s)
        found, end = read(decoder, path, "auto")
        assert (end.frames, end.damaged, end.error, end.note) == (96, 0, "", "")
        assert found[-1].time_s - found[0].time_s > 30


@pytest.mark.parametrize("name", ["pause.ts", "pause.mpg"])
def test_no_frame_is_lost_where_decoding_times_jump_after_the_frames(
    decoder: Decoder, tmp_path: Path, name: str
) -> None:
    times_s = [n / 12 + (200.0 if n >= 48 else 0.0) for n in range(96)]
    path = make_video(tmp_path / name, shots=SHOTS, fps=12.0, codec="mpeg2video", times_s=times_s)
    found, end = read(decoder, path, "12")
    assert (end.frames, end.damaged, end.error, end.note) == (96, 0, "", "")
    assert found[-1].time_s == pytest.approx(8.0, abs=0.7), "a leap of a minute is a new clock"


@pytest.mark.parametrize("start_s", [5.0, 100.0])
@pytest.mark.parametrize("name", ["late.wmv", "late.nut", "late.mkv", "late.mov"])
def test_a_late_start_is_counted_once(decoder: Decoder, tmp_path: Path, name: str, start_s: float) -> None:
    codec = "wmv2" if name.endswith("wmv") else "mpeg4"
    path = make_video(tmp_path / name, shots=SHOTS, fps=12.0, codec=codec, start_s=start_s)
    end_s = 8.0 + (start_s if start_s <= 10 else 0.0)
    assert decoder.probe(os.fsencode(path)).end_s == pytest.approx(end_s, abs=0.3)
    end = read(decoder, path, "12")[1]
    assert (end.frames, end.error, end.note) == (96, "", "")


@pytest.mark.parametrize("name", ["stays.mp4", "stays.mkv"])
def test_a_last_frame_that_stays_is_not_damage(decoder: Decoder, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=12)
        video.width, video.height, video.pix_fmt, video.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        packets = []
        for time_s, image in shot_frames(SHOTS, 12, 64, 48):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode(None)
        packets[-1].duration = round(20 / packets[-1].time_base)
        container.mux(packets)
    _, end = read(decoder, path, "auto")
    assert (end.frames, end.damaged, end.error) == (96, 0, "")
    cut = truncate(path, tmp_path / f"cut.{name[-3:]}", 0.6)
    if name.endswith("mkv"):
        assert "cut off" in read(decoder, cut, "auto")[1].error


@pytest.mark.parametrize("tone_hz", [None, 440])
@pytest.mark.parametrize("start_s", [0.0, 3.0])
@pytest.mark.parametrize("name", ["cut.avi", "cut.wmv", "cut.flv", "cut.mkv"])
def test_a_file_shorter_than_its_header_is_truncated(
    decoder: Decoder, tmp_path: Path, name: str, start_s: float, tone_hz: int | None
) -> None:
    if name.endswith("flv") and tone_hz:
        pytest.skip("FLV takes sound at few rates")
    codec = {"wmv": "wmv2", "flv": "flv1"}.get(name[-3:], "mpeg4")
    whole = make_video(tmp_path / f"whole-{name}", shots=SHOTS, codec=codec, start_s=start_s, tone_hz=tone_hz)
    assert read(decoder, whole, "auto")[1].error == ""
    assert "cut off" in read(decoder, truncate(whole, tmp_path / name, 0.6), "auto")[1].error
    longer = tmp_path / f"longer-{name}"
    longer.write_bytes(whole.read_bytes() + bytes(1000))
    assert "cut off" not in read(decoder, longer, "auto")[1].error


@pytest.mark.parametrize("b_frames", [0, 2])
def test_avi_shows_reordered_frames_in_order(decoder: Decoder, tmp_path: Path, b_frames: int) -> None:
    path = make_video(tmp_path / "b.avi", shots=SHOTS, fps=12.0, b_frames=b_frames, keyframe_s=2.0)
    found, end = read(decoder, path, "12")
    assert (end.frames, end.damaged, end.error) == (96, 0, "")
    times_s = [frame.time_s for frame in found]
    assert np.diff(times_s).min() > 0.08
    reds = [frame.pixels[..., 0].mean() > 150 for frame in found]
    assert reds == sorted(reds, reverse=True), "red before blue"


def test_an_unsupported_matroska_duration_is_reported(decoder: Decoder, tmp_path: Path) -> None:
    path = make_video(tmp_path / "long.mkv", shots=SHOTS, fps=12.0)

    def claim(length: float) -> None:
        def change(data: bytearray) -> None:
            at = data.index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes, in milliseconds
            data[at : at + 8] = np.array(length, ">f8").tobytes()

        overwrite(path, path, change)

    for length in (1e12, 1e300, float("inf"), float("nan"), -5.0):
        claim(length)
        assert decoder.probe(os.fsencode(path)).end_s == pytest.approx(8.0, abs=0.2)
        end = read(decoder, path, "auto")[1]
        assert (end.frames, end.damaged, end.error) == (96, 0, "")


def test_where_a_matroska_file_ends(tmp_path: Path) -> None:
    data = make_video(tmp_path / "a.mkv", shots=[Shot("red", 1.0)]).read_bytes()
    assert matroska_end(data[:4096]) == len(data)
    assert (
        matroska_end(b"RIFF") is None
        and matroska_end(data[:10]) is None
        and matroska_end(b"\x1a\x45\xdf\xa3\x00") is None
    )


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.wmv", "wmv2"), ("a.flv", "flv1")])
def test_the_announced_end_of_other_files(tmp_path: Path, name: str, codec: str) -> None:
    data = make_video(tmp_path / name, shots=[Shot("red", 1.0)], codec=codec).read_bytes()
    assert announced_end(data[:4096]) == len(data)
    for length in (0, 3, 8, 12, 30, 70, 90, 200):
        announced_end(data[:length])
