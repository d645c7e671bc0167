"""Sparse sampling seeks between keyframes, and yields the frames that reading every packet yields."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from media import Shot, make_video, media_folder, truncate
from reading import TAP

from vfindex.indexer.media import frames as frames_module
from vfindex.indexer.media import sampling, seeking

SHOTS = tuple(Shot(colour, 7) for colour in ("red", "green", "blue", "white", "black") * 2)
LENGTH_S = 70


def read(path: Path, start_s: float | None = None, end_s: float | None = None) -> tuple[list[Any], dict[str, Any]]:
    """Return (time, hash of the pixels) of the sparsely sampled frames, and the ReadEnd."""
    order = frames_module.ReadRequest("sparse", 0.0, (TAP,), (), None, start_s, end_s)
    frames: list[tuple[float, str]] = []

    def send(header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
        frames.append((header["time_s"], hashlib.sha256(payload).hexdigest()))

    return frames, frames_module.read(os.fsencode(path), order, send, lambda: None)


def step_by_step(path: Path, *stretch: float | None) -> tuple[list[Any], dict[str, Any]]:
    """Return what `read` does if no packet is skipped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames_module, "sparse_packets", lambda source, feed, *_: feed)
        return read(path, *stretch)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of 70 s with a keyframe every 1.5 s and reordered frames, its index in front."""
    front = {"movflags": "faststart"}
    path = tmp_path_factory.mktemp("sparse") / "video.mp4"
    return make_video(path, shots=SHOTS, fps=10, keyframe_s=1.5, b_frames=2, container_options=front)


@pytest.mark.parametrize("stretch", [(None, None), (12.0, 47.0), (31.0, None)])
def test_the_frames_are_those_of_every_packet(video: Path, stretch: tuple[float | None, float | None]) -> None:
    (frames, end), (all_frames, all_end) = read(video, *stretch), step_by_step(video, *stretch)
    assert frames == all_frames and len(frames) >= 3
    assert end["frames"] < all_end["frames"] / 3, "it leapt"
    if stretch[1] is None:
        assert (end["last_s"], end["error"]) == (all_end["last_s"], "")


def test_a_truncated_file_is_read_to_its_end(video: Path, tmp_path: Path) -> None:
    torn = truncate(video, tmp_path / "torn.mp4", 0.7)
    (frames, end), (all_frames, all_end) = read(torn), step_by_step(torn)
    assert frames == all_frames
    assert (end["last_s"], end["error"]) == (all_end["last_s"], all_end["error"])
    assert "cut off" in end["error"] and end["last_s"] < LENGTH_S - 10


@pytest.mark.parametrize("name", ["video.avi", "video.mkv", "video.mp4"])
def test_other_containers_give_the_same(tmp_path: Path, name: str) -> None:
    fragments = {"movflags": "frag_keyframe+empty_moov"} if name.endswith("mp4") else {}
    path = make_video(tmp_path / name, shots=SHOTS[:4], fps=10, keyframe_s=1.5, container_options=fragments)
    assert read(path)[0] == step_by_step(path)[0]


def test_a_seek_that_lands_elsewhere_is_undone(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = seeking._jump_to
    tried: list[int] = []

    def astray(source: Any, target: int, beat: Any) -> Any:
        tried.append(target)
        return real(source, target, beat) if len(tried) < 3 else None

    monkeypatch.setattr(seeking, "_jump_to", astray)
    assert read(video)[0] == step_by_step(video)[0]
    assert len(tried) == 3, "no leap was tried again"


@pytest.mark.parametrize("kind", ["edge", "public/videos"])
def test_real_files_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SPARSE_FPS", 1.0)  # they are short
    leapt = 0
    for path in sorted((media_folder(kind.split("/")[0]) / kind.partition("/")[2]).iterdir())[::3]:
        try:
            (frames, end), (all_frames, all_end) = read(path), step_by_step(path)
        except frames_module.Refusal:
            continue
        assert frames == all_frames, path
        assert (end["last_s"], end["error"]) == (all_end["last_s"], all_end["error"]), path
        leapt += end["frames"] < all_end["frames"]
    assert leapt
