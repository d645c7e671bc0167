"""Frames that are not sampled are not decoded, where no other frame refers to them: the same frames, less work."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from media import Shot, make_video, media_folder, overwrite

from vfindex.indexer.media import frames
from vfindex.indexer.media.protocol import FrameTap
from vfindex.indexer.media.sampling import Sampler
from vfindex.indexer.options import Mode, Sampling

TAP = FrameTap(64)
SAMPLINGS = (Sampling("fps", 1.0), Sampling("fps", 0.3), Sampling("fps", 50.0), Sampling("auto"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of one group of pictures; no other frame refers to two of three of them."""
    shots = [Shot("red", 5, to="blue"), Shot("green", 4, to="white")]
    path = tmp_path_factory.mktemp("videos") / "long.mp4"
    plain = {"x264-params": "b-pyramid=none:b-adapt=0"}
    return make_video(path, shots=shots, keyframe_s=1000, b_frames=2, codec="libx264", codec_options=plain)


@pytest.fixture
def came(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that gets the time of each frame that comes out of the decoder."""
    times: list[float] = []
    real = frames.FrameReader._frame

    def frame(self: frames.FrameReader, decoded: Any) -> None:
        times.append(decoded.pts)
        real(self, decoded)

    monkeypatch.setattr(frames.FrameReader, "_frame", frame)
    return times


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[frames.PacketWithParameters]:
    """Return a list that gets each packet that is sent to the decoder."""
    packets: list[frames.PacketWithParameters] = []
    real = frames.FrameReader._decode

    def decode(self: frames.FrameReader, entry: frames.PacketWithParameters | None, **options: bool) -> None:
        if entry is not None:
            packets.append(entry)
        real(self, entry, **options)

    monkeypatch.setattr(frames.FrameReader, "_decode", decode)
    return packets


Read = tuple[list[tuple[float, bytes]], dict[str, Any]]


def read(path: Path, sampling: Sampling, interval: tuple[float | None, float | None] = (None, None)) -> Read:
    """Return (time_s, pixels) of the frames, and the summary."""
    found: list[tuple[float, bytes]] = []

    def send(header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
        found.append((header["time_s"], bytes(payload)))

    request = frames.ReadRequest(sampling.mode, sampling.fps, (TAP,), (), None, *interval)
    return found, frames.read(bytes(path), request, send, lambda: None)


def all_decoded(
    monkeypatch: pytest.MonkeyPatch, path: Path, sampling: Sampling, interval: tuple[float | None, float | None]
) -> Read:
    """Return what `read` does if every frame is decoded."""
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "may_take", lambda *_, **__: True)
        return read(path, sampling, interval)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("interval", [(None, None), (2.4, 7.1)], ids=str)
def test_frames_and_counts_are_those_of_decoding_all(
    video: Path, monkeypatch: pytest.MonkeyPatch, sampling: Sampling, interval: tuple[float | None, float | None]
) -> None:
    expected = all_decoded(monkeypatch, video, sampling, interval)
    assert len(expected[0]) > 1
    assert read(video, sampling, interval) == expected


def test_most_unused_frames_are_not_decoded(video: Path, came: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    all_decoded(monkeypatch, video, Sampling("fps", 1.0), (None, None))
    every = len(came)
    came.clear()
    read(video, Sampling("fps", 1.0))
    assert every == 225
    assert len(came) < 0.6 * every


CODECS = ("libx264", "libx265", "libvpx", "libvpx-vp9")
# Groups of 1.6 s, 40 frames: 0 and 1 s are sampled from the first, 2 and 3 s from the second, 4 s from the third.
GROUP_S, LENGTH_S, NEEDED = 1.6, 4.8, 26 + 36 + 21


def grouped(folder: Path, codec: str, **options: Any) -> Path:
    """Return a video without frames that no other refers to."""
    name = f"v.{'webm' if codec.startswith('libvpx') else 'mp4'}"
    return make_video(
        folder / name, shots=[Shot("red", LENGTH_S, to="blue")], keyframe_s=GROUP_S, codec=codec, **options
    )


@pytest.mark.parametrize("codec", CODECS)
def test_a_group_is_decoded_up_to_its_last_sampled_frame(
    tmp_path: Path, codec: str, sent: list[frames.PacketWithParameters], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "libx264": {"x264-params": "scenecut=0"},
        "libx265": {"x265-params": "scenecut=0:open-gop=0:bframes=0:log-level=none"},
    }
    path = grouped(tmp_path, codec, codec_options=options.get(codec, {"lag-in-frames": "0", "auto-alt-ref": "0"}))
    expected = all_decoded(monkeypatch, path, Sampling("fps", 1.0), (None, None))
    assert len(sent) == 120 and len(expected[0]) == 5
    sent.clear()
    assert read(path, Sampling("fps", 1.0)) == expected
    assert NEEDED <= len(sent) <= NEEDED + 3 * 4, "of each group, some before the sampled one has come out"


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
@pytest.mark.parametrize("fps", [1.0, 1 / 1.52, 2.5])
def test_frames_that_refer_back_over_a_keyframe_are_kept(
    tmp_path: Path, codec: str, fps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 1 / 1.52, that of 1.52 s is sampled: it comes after the keyframe of 1.6 s, and refers to the group before."""
    options = {
        "libx264": {"x264-params": "open-gop=1:b-adapt=0:scenecut=0"},
        "libx265": {"x265-params": "open-gop=1:b-adapt=0:scenecut=0:log-level=none"},
    }
    path = grouped(tmp_path, codec, b_frames=3, codec_options=options.get(codec, {}))
    sampling = Sampling("fps", fps)
    assert read(path, sampling) == all_decoded(monkeypatch, path, sampling, (None, None))


def test_what_is_held_back_is_bounded(
    tmp_path: Path, sent: list[frames.PacketWithParameters], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = grouped(tmp_path, "libx264", codec_options={"x264-params": "scenecut=0"})
    expected = read(path, Sampling("fps", 1.0))
    sent.clear()
    monkeypatch.setattr(frames, "MAX_PENDING_BYTES", 0)
    assert read(path, Sampling("fps", 1.0)) == expected
    assert len(sent) == 120, "nothing was held back"


def test_damage_changes_no_choice_of_frames(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(data: bytearray) -> None:
        middle = len(data) // 2
        data[middle : middle + 200] = bytes(200)

    damaged = overwrite(video, tmp_path / "damaged.mp4", damage)
    expected = all_decoded(monkeypatch, damaged, Sampling("fps", 1.0), (None, None))
    found = read(damaged, Sampling("fps", 1.0))
    assert [time_s for time_s, _ in found[0]] == [time_s for time_s, _ in expected[0]]
    assert found[0][:4] == expected[0][:4], (
        "until the damage; there, a decoder conceals it by the last frame it decoded"
    )


@pytest.mark.parametrize("name", ["v002.mp4", "v026.mp4", "v027.avi", "v106.mp4"])
@pytest.mark.parametrize("sampling", [Sampling("fps", 1.0), Sampling("auto")], ids=str)
def test_real_videos_give_the_frames_of_decoding_all(
    name: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = media_folder("public") / "videos" / name
    assert read(path, sampling) == all_decoded(monkeypatch, path, sampling, (None, None))


def timelines() -> Iterator[list[tuple[float, bool]]]:
    """Yield (time_s, key) of the frames of videos, at rates that change."""
    chance = random.Random(0)
    for _ in range(50):
        times, now_s = [], chance.choice((0.0, 0.2, 7.9))
        for _ in range(60):
            now_s += chance.choice((0.04, 0.1, 0.3, 1.1))
            times.append((round(now_s, 6), chance.random() < 0.1))
        yield times


@pytest.mark.parametrize("mode", ["fps", "auto"])
def test_a_frame_that_may_not_be_taken_never_is(mode: Mode) -> None:
    chance = random.Random(mode)
    refused = 0
    for times in timelines():
        sampler: Sampler[None] = Sampler(mode, 1.0, opening_s=times[0][0])
        for n, (time_s, key) in enumerate(times):
            ahead = times[n : n + chance.randint(1, 4)]  # their packets were read before this frame came out
            unused = [each for each in ahead if not sampler.may_take(each[0], key=each[1])]
            refused += len(unused)
            taken = sampler.takes(time_s, key=key)
            assert not (taken and (time_s, key) in unused)
            for each in unused:
                assert not sampler.may_take(each[0], key=each[1]) or each[0] <= time_s, "the answer no holds"
    assert refused > 100
