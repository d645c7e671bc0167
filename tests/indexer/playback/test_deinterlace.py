"""Interlaced video: cuts and streams show whole frames, as many as before and at their times."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import Shot, make_video
from numpy.typing import NDArray

from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.playback.deinterlace import Deinterlacer
from vfindex.indexer.playback.player import MediaPlayer
from vfindex.storage.records import CutPart

COUNT, FPS = 50, 25
# How an encoder is told that its frames are two fields.
INTERLACED: dict[str, dict[str, Any]] = {
    "avc.mp4": {"codec": "libx264", "codec_options": {"x264-params": "tff=1:interlaced=1"}},
    "bottom_first.mkv": {"codec": "libx264", "codec_options": {"x264-params": "bff=1:interlaced=1"}},
    "dvd.ts": {"codec": "mpeg2video", "codec_options": {"flags": "+ildct+ilme"}},
}
# Of the pictures here: interlaced they have 10, whole ones below 1.
COMBED = 3.0


def moving(number: int, *, bottom_first: bool = False) -> Shot:
    """Return a bar that moves between the two fields of a frame."""
    picture = np.full((96, 160, 3), 20, np.uint8)
    for field in (0, 1):
        at = 2 * (2 * number + (1 - field if bottom_first else field)) % 120
        picture[field::2, at : at + 20] = 230
    return Shot(picture=picture, length_s=1e-6)


def combing(image: NDArray[np.uint8]) -> float:
    """Return how much rows differ from both of their neighbours."""
    rows = image.astype(float)
    return float(np.abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean())


def frames_in(data: bytes | Path) -> tuple[list[float], list[float]]:
    """Return the times, and the combing, of all frames."""
    with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data)) as container:
        frames = list(container.decode(video=0))
    return [float(each.time or 0.0) for each in frames], [combing(each.to_ndarray(format="gray")) for each in frames]


@pytest.fixture(scope="module")
def player() -> Iterator[MediaPlayer]:
    with MediaPlayer() as player:
        yield player


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interlaced")
    for name, options in INTERLACED.items():
        shots = [moving(number, bottom_first=name.startswith("bottom")) for number in range(COUNT)]
        make_video(folder / name, shots=shots, fps=FPS, **options)
        assert min(frames_in(folder / name)[1]) > COMBED
    return folder


@pytest.mark.parametrize("name", INTERLACED)
def test_an_exact_cut_has_whole_frames_at_their_times(player: MediaPlayer, sources: Path, name: str) -> None:
    file = io.BytesIO()

    def write(at: int, data: bytes) -> None:
        file.seek(at)
        file.write(data)

    path = sources / name
    first_s = begins_s(path)
    end = player.cut([CutPart(bytes(path), first_s + 0.4, first_s + 1.2)], write, exact=True)
    times_s, combed = frames_in(file.getvalue())
    assert times_s == pytest.approx([number / FPS for number in range(20)], abs=0.002)
    assert max(combed) < COMBED
    assert end.duration_s == pytest.approx(0.8)


@pytest.mark.parametrize("name", INTERLACED)
def test_a_stream_that_is_encoded_has_whole_frames(player: MediaPlayer, sources: Path, name: str) -> None:
    first_s = begins_s(sources / name)
    with player.stream(bytes(sources / name), first_s + 0.4, first_s + 60.0, "transcode") as stream:
        times_s, combed = frames_in(b"".join(stream))
    assert times_s == pytest.approx([number / FPS for number in range(COUNT - 10)], abs=0.002), "the last ones too"
    assert max(combed) < COMBED


def begins_s(path: Path) -> float:
    with Decoder() as decoder:
        return decoder.probe(bytes(path)).start_s


def test_frames_of_both_kinds_and_of_another_size_come_in_order(sources: Path, tmp_path: Path) -> None:
    plain = make_video(tmp_path / "plain.mp4", shots=[Shot("red", 0.2)], fps=FPS)
    large = make_video(tmp_path / "large.mp4", shots=[Shot("red", 0.2)], fps=FPS, width=320, height=192)
    frames = [frame for path in (plain, sources / "avc.mp4", plain, large) for frame in decoded(path)]
    fields = Deinterlacer()
    made = [item for number, frame in enumerate(frames) for item in fields.add(frame, float(number))]
    made += fields.finish()
    assert [time_s for _, time_s in made] == [float(number) for number in range(len(frames))]
    assert [frame.width for frame, _ in made] == [160] * (COUNT + 10) + [320] * 5
    assert max(combing(frame.to_ndarray(format="gray")) for frame, _ in made) < COMBED
    assert fields.finish() == []


def test_a_frame_too_small_for_the_filter_stays_as_it_is(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", shots=[Shot("red", 0.2)], width=4, height=4, **INTERLACED["avc.mp4"])
    frame = decoded(path)[0]
    assert frame.interlaced_frame
    assert Deinterlacer().add(frame, 1.0) == [(frame, 1.0)]


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))
