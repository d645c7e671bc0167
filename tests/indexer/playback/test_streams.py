"""Spans of files as media: every rung decodes again, shows the right frame first, and leaves nothing behind."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import Shot, make_video, media_folder
from numpy.typing import NDArray
from PIL import Image

from vfindex.indexer.media.decoder import Decoder, Limits
from vfindex.indexer.playback import slots
from vfindex.indexer.playback.player import MediaPlayer
from vfindex.indexer.playback.stream import ChildStream
from vfindex.indexer.stills import FrameDecoder
from vfindex.storage.errors import Overloaded, VideoError
from vfindex.storage.records import Rung

SPAN_S = 1.5
# A copy is the source; frames that were encoded, scaled and, in HDR, reduced to 8 bit differ a little, of 255.
MAX_DIFFERENCE = 12.0
SMALL_PX = 24


@pytest.fixture(scope="module")
def player() -> Iterator[MediaPlayer]:
    with MediaPlayer() as player:
        yield player


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of 20 s that takes far more bytes than a pipe holds, and cannot be copied to MP4."""
    noise = np.random.default_rng(1)
    pictures = [noise.integers(0, 256, (96, 160, 3), np.uint8) for _ in range(50)]
    shots = [Shot(picture=picture, length_s=0.04) for picture in pictures * 10]
    return make_video(tmp_path_factory.mktemp("noisy") / "noisy.avi", shots=shots, fps=25)


def edge_rows() -> list[dict[str, str]]:
    table = Path(os.environ.get("VFINDEX_TEST_MEDIA", "missing")) / "edge" / "edge.csv"
    if not table.is_file():
        return []
    with table.open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["expected_class"] == "decode"]


def small(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with Image.fromarray(pixels) as image:
        return np.asarray(image.resize((SMALL_PX, SMALL_PX), Image.Resampling.BOX), np.float32)


def shown(data: bytes) -> tuple[NDArray[np.uint8], list[float], list[float]]:
    """Return (first frame upright, times of all frames, times of audio frames) of media."""
    with av.open(io.BytesIO(data)) as container:
        first, times_s, heard_s = None, [], []
        for packet in container.demux():
            try:
                frames: list[Any] = packet.decode() if packet.stream.type in ("video", "audio") else []
            except av.FFmpegError:
                continue  # a copy of damaged packets
            for frame in frames:
                if isinstance(frame, av.AudioFrame):
                    heard_s.append(float(frame.time or 0.0))
                else:
                    times_s.append(float(frame.time or 0.0))
                    if first is None:
                        turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                        first = np.ascontiguousarray(turned)
    assert first is not None
    return first, times_s, heard_s


@pytest.fixture(scope="module")
def frames() -> Iterator[FrameDecoder]:
    with FrameDecoder() as frames:
        yield frames


def source_frame(frames: FrameDecoder, path: Path, time_s: float) -> NDArray[np.float32]:
    [frame] = frames.read_frames(bytes(path), [time_s], 640)
    with Image.open(io.BytesIO(frame.image)) as image:
        return small(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("row", edge_rows(), ids=lambda row: row["file"])
def test_every_decodable_file_plays(player: MediaPlayer, frames: FrameDecoder, row: dict[str, str]) -> None:
    path = media_folder("edge") / row["file"]
    found = player.playability(bytes(path))
    assert found.rung in ("file", "remux", "transcode") and bool(found.reason) == (found.rung != "file")
    first_s, last_s = float(row["measured_first_pts"]), float(row["measured_last_pts"])
    start_s = min(max(first_s, first_s + (last_s - first_s) / 3), last_s)
    frame_s = (last_s - first_s) / max(1, int(row["measured_frames_decoded"]) - 1)
    asked: list[Rung | None] = [None] if found.rung == "transcode" else [None, "transcode"]
    for rung in asked:
        with player.stream(bytes(path), start_s, start_s + SPAN_S, rung) as stream:
            assert stream.rung == ("transcode" if rung or found.rung == "transcode" else "remux")
            assert stream.content_type.startswith(("video/mp4; codecs=", "video/webm; codecs="))
            frame, times_s, heard_s = shown(b"".join(stream))
        begun_s = stream.start_s
        assert begun_s == start_s if stream.rung == "transcode" else begun_s <= start_s + 1e-3
        assert min(times_s) == pytest.approx(0.0, abs=0.002), "a player begins at once"
        assert begun_s + max(times_s) >= min(start_s + 1.0, last_s) - max(0.1, frame_s)
        if row["file"] != "bitflips.mp4":  # what is left of a damaged frame depends on where decoding began
            assert min(heard_s, default=0.0) < 0.5
            assert np.abs(small(frame) - source_frame(frames, path, begun_s)).mean() < MAX_DIFFERENCE


def test_a_file_that_is_no_video_is_refused_with_ffmpeg_s_reason(player: MediaPlayer, tmp_path: Path) -> None:
    path = tmp_path / "no.mp4"
    path.write_bytes(bytes(range(256)) * 100)
    found = player.playability(bytes(path))
    assert (found.rung, found.content_type, found.reason) == ("strip", "", "not a video that FFmpeg recognises")
    with pytest.raises(VideoError, match=found.reason):
        player.stream(bytes(path), 0.0, 1.0)
    with pytest.raises(VideoError, match="there is no such file"):
        player.playability(bytes(tmp_path / "gone.mp4"))


def test_a_span_begins_and_ends_where_asked(player: MediaPlayer, tmp_path: Path) -> None:
    """Copied from the keyframe before; encoded from the very frame. Frames keep their times, whatever their rate."""
    times_s = [0.0, 0.5, 0.6, 2.0, 2.04, 2.9, 4.0, 4.5, 5.0, 7.0]
    shots = [Shot("red", 0.04), Shot("blue", 0.04)] * 5
    path = make_video(tmp_path / "a.mkv", shots=shots, times_s=times_s, codec="libx264", keyframe_s=0.12, tone_hz=440)
    with player.stream(bytes(path), 2.5, 4.8) as copied:
        _, copied_s, heard_s = shown(b"".join(copied))
        begun_s = copied.start_s
    assert begun_s in (0.0, 0.5, 0.6, 2.0, 2.04) and copied.rung == "remux"
    assert [round(begun_s + time_s, 2) for time_s in copied_s] == [t for t in times_s if begun_s <= t < 4.8]
    assert heard_s[-1] == pytest.approx(4.8 - begun_s, abs=0.1)
    with player.stream(bytes(path), 2.5, 4.8, "transcode") as encoded:
        _, encoded_s, heard_s = shown(b"".join(encoded))
    assert (encoded.start_s, encoded.rung) == (2.5, "transcode")
    assert [round(time_s, 3) for time_s in encoded_s] == [0.0, 0.4, 1.5, 2.0], "first the frame shown at 2.5 s"
    assert (heard_s[0], heard_s[-1]) == (0.0, pytest.approx(2.3, abs=0.1))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_packets_without_decoding_times_are_copied(player: MediaPlayer, tmp_path: Path, count: int) -> None:
    """Matroska stores none; FFmpeg knows them only once it has seen how far frames are reordered."""
    shots = [
        Shot(colour, 0.04) for colour in ("red", "blue", "green", "white", "black", "red", "blue", "green", "grey")
    ]
    path = make_video(tmp_path / "a.mkv", shots=shots[:count], codec="libx264", b_frames=3)
    with player.stream(bytes(path), 0.0, 1.0) as stream:
        _, times_s, _ = shown(b"".join(stream))
    assert stream.rung == "remux"
    assert sorted(times_s) == pytest.approx([index * 0.04 for index in range(count)], abs=0.001)


def test_large_frames_are_made_small_and_even(player: MediaPlayer, tmp_path: Path) -> None:
    path = make_video(tmp_path / "tall.avi", shots=[Shot("red", 0.2)], width=1502, height=2500)
    with player.stream(bytes(path), 0.0, 1.0) as stream:
        frame, _, _ = shown(b"".join(stream))
    assert frame.shape[:2] == (1198, 720) or frame.shape[:2] == (1200, 720)


def test_a_gap_in_the_audio_is_silence(player: MediaPlayer, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mpg", shots=[Shot("red", 6.0)], codec="mpeg1video", tone_hz=440, tone_gap_s=(1, 5))
    with Decoder() as decoder:
        start_s = decoder.probe(bytes(path)).start_s
    with player.stream(bytes(path), start_s, 10.0) as stream:
        _, _, heard_s = shown(b"".join(stream))
    assert max(b - a for a, b in pairwise(heard_s)) < 0.03
    assert heard_s[-1] == pytest.approx(6.0, abs=0.2)


# --- clients that leave, and many of them -----------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd"))


def child_of(stream: ChildStream) -> int:
    child = stream._decoder._child
    assert child is not None
    return child.pid


def test_streams_that_are_dropped_leave_nothing(noisy: Path) -> None:
    """20 clients: a third leaves at once, a third amid reading, a third is closed by another thread meanwhile."""
    with MediaPlayer(transcodes=20, streams=20) as player:
        player.playability(bytes(noisy))
        gc.collect()
        files, threads = open_files(), threading.active_count()
        streams = [player.stream(bytes(noisy), 0.0, 20.0) for _ in range(20)]
        pids = [child_of(stream) for stream in streams]
        readers = [threading.Thread(target=lambda each: b"".join(each), args=(stream,)) for stream in streams[::3]]
        for stream in streams[1::3]:
            next(stream)
        for reader in readers:
            reader.start()
        for stream in streams:
            stream.close()
            stream.close()
            assert list(stream) == []
        for reader in readers:
            reader.join(30.0)
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert (open_files(), threading.active_count()) == (files, threads)
        with player.stream(bytes(noisy), 0.0, 0.2) as stream:
            assert b"".join(stream)


def test_a_child_waits_for_its_reader(noisy: Path) -> None:
    with MediaPlayer() as player, player.stream(bytes(noisy), 0.0, 20.0) as stream:
        parts = [next(stream)]
        time.sleep(1.0)
        child = stream._decoder._child
        assert child is not None and child.running(), "twenty seconds of noise do not fit into a pipe"
        parts += stream
    _, times_s, _ = shown(b"".join(parts))
    assert max(times_s) == pytest.approx(19.96, abs=0.01)


def test_too_many_conversions_are_refused(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "WAIT_S", 0.2)
    with MediaPlayer(transcodes=1, streams=2) as player:
        first = player.stream(bytes(noisy), 0.0, 20.0)
        with pytest.raises(Overloaded, match="1 videos are being converted already"):
            player.stream(bytes(noisy), 0.0, 20.0)
        first.close()
        with player.stream(bytes(noisy), 0.0, 0.2) as second:
            assert b"".join(second)


def test_a_stream_that_nobody_reads_makes_room(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MediaPlayer(transcodes=1) as player:
        stalled = player.stream(bytes(noisy), 0.0, 20.0)
        next(stalled)
        monkeypatch.setattr(slots, "STALLED_S", -1.0)
        with player.stream(bytes(noisy), 0.0, 0.2) as second:
            assert b"".join(second)
        assert list(stalled) == [], "it ends early"


def test_a_closed_player_ends_its_streams(noisy: Path) -> None:
    player = MediaPlayer()
    stream = player.stream(bytes(noisy), 0.0, 20.0)
    pid = child_of(stream)
    player.close()
    assert list(stream) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises((Overloaded, VideoError)):
        player.stream(bytes(noisy), 0.0, 20.0)


# --- hostile children -------------------------------------------------------------------------------------------------

NONSENSE = """
import json, sys
from vfindex.indexer.media import protocol
protocol.unpack(protocol.read_exactly)
protocol.write_all(1, protocol.pack(json.loads(sys.argv[1]), b"x"))
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "header",
    [
        {"kind": "stream", "rung": "remux", "content_type": "video/mp4\r\nX: y", "start_s": 0.0},
        {"kind": "stream", "rung": "root", "content_type": "video/mp4", "start_s": 0.0},
        {"kind": "stream", "rung": "remux", "content_type": "text/html", "start_s": 0.0},
        {"kind": "stream", "rung": "remux", "content_type": "video/mp4", "start_s": "0"},
        {"kind": "playability", "rung": "file", "content_type": "video/mp4", "reason": ""},
    ],
)
def test_an_impossible_answer_ends_the_child(
    noisy: Path, monkeypatch: pytest.MonkeyPatch, header: dict[str, Any]
) -> None:
    command = [sys.executable, "-c", NONSENSE, json.dumps(header)]
    with MediaPlayer() as player:
        monkeypatch.setattr(player, "_decoder", lambda: Decoder(Limits(), command))
        with pytest.raises(VideoError, match="nonsense"):
            player.stream(bytes(noisy), 0.0, 1.0, "transcode")
