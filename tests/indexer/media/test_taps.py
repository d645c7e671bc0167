"""Several taps of one decode: each is what a read of its own gives, and a tap nobody asks for costs nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from media import Shot, make_video
from reading import sound_of

from vfindex.indexer.media import answers
from vfindex.indexer.media.answers import Fields, InvalidField
from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Decoder, Frame, FrameTap, ReadEnd, Tap
from vfindex.indexer.media.protocol import MAX_LONG_PX, SOUND_RATE_HZ
from vfindex.indexer.options import Sampling
from vfindex.storage.encoders.pixels import within

SMALL, LARGE = FrameTap(32), FrameTap(100, longest=True, fps=0.5)
SPEECH, SOUND = AudioTap(), AudioTap(SOUND_RATE_HZ)
Item = Frame | AudioBlock | ReadEnd


@pytest.fixture
def path(tmp_path: Path) -> bytes:
    shots = [Shot(colour, 3) for colour in ("red", "green", "blue", "white")]
    return os.fsencode(make_video(tmp_path / "taps.mp4", shots=shots, keyframe_s=2.0, tone_hz=440.0))


def read(
    decoder: Decoder, path: bytes, taps: Sequence[Tap], sampling: str = "2", *span: float | None
) -> tuple[list[Item], ReadEnd]:
    start_s, end_s = span or (None, None)
    how, audio = Sampling.parse(sampling), sound_of(decoder, path)
    *items, end = decoder.read(path, taps=taps, sampling=how, audio=audio, start_s=start_s, end_s=end_s)
    assert isinstance(end, ReadEnd)
    return items, end


def values(items: Sequence[Item], tap: Tap) -> list[tuple[float, bytes]]:
    return [
        (item.time_s, item.pixels.tobytes() if isinstance(item, Frame) else item.samples.tobytes())
        for item in items
        if not isinstance(item, ReadEnd) and item.tap == tap
    ]


def sound(items: Sequence[Item], tap: Tap) -> tuple[float, np.ndarray]:
    """Return when a tap's audio begins, and its samples as int64."""
    blocks = [item for item in items if isinstance(item, AudioBlock) and item.tap == tap]
    return blocks[0].time_s, np.concatenate([block.samples for block in blocks]).astype(np.int64)


@pytest.mark.parametrize("sampling", ["auto", "keyframes", "2"])
@pytest.mark.parametrize("span", [(None, None), (3.3, 9.1)])
def test_one_pass_gives_what_a_pass_a_tap_gives(
    decoder: Decoder, path: bytes, sampling: str, span: tuple[float | None, float | None]
) -> None:
    taps = [SMALL, SPEECH, LARGE, SOUND]
    together, _ = read(decoder, path, taps, sampling, *span)
    for tap in taps:
        alone, _ = read(decoder, path, [tap], sampling, *span)
        assert len(values(alone, tap)) == len(alone) != 0
        if isinstance(tap, FrameTap):
            assert values(together, tap) == values(alone, tap)
        else:  # the resampler may begin at another sample
            ours, theirs = sound(together, tap), sound(alone, tap)
            assert ours[0] == pytest.approx(theirs[0], abs=1e-3)
            assert len(ours[1]) == pytest.approx(len(theirs[1]), abs=1)
            length = min(len(ours[1]), len(theirs[1]))
            assert np.abs(ours[1][:length] - theirs[1][:length]).mean() < 30 + np.abs(np.diff(ours[1])).mean()


def test_large_frames_come_at_their_own_rate_and_keep_the_shape(decoder: Decoder, path: bytes) -> None:
    items, _ = read(decoder, path, [SMALL, LARGE])
    small, large = ([item for item in items if isinstance(item, Frame) and item.tap == tap] for tap in (SMALL, LARGE))
    assert [frame.time_s for frame in large] == pytest.approx([0, 2, 4, 6, 8, 10])
    assert {frame.time_s for frame in large} < {frame.time_s for frame in small}
    assert {max(frame.pixels.shape) for frame in large} == {100}


@pytest.mark.parametrize("sampling", ["auto", "keyframes", "2"])
def test_an_interval_has_the_large_frames_of_the_whole_file(decoder: Decoder, path: bytes, sampling: str) -> None:
    whole = values(read(decoder, path, [LARGE], sampling)[0], LARGE)
    parts = [values(read(decoder, path, [LARGE], sampling, *span)[0], LARGE) for span in ((None, 5.1), (5.1, None))]
    assert parts[0] + parts[1] == whole


def test_sound_has_three_samples_for_each_of_speech(decoder: Decoder, path: bytes) -> None:
    items, end = read(decoder, path, [SPEECH, SOUND])
    counts = [
        sum(len(i.samples) for i in items if isinstance(i, AudioBlock) and i.tap == tap) for tap in (SPEECH, SOUND)
    ]
    assert counts[1] == pytest.approx(3 * counts[0], abs=200) and counts[0] == pytest.approx(12 * 16_000, abs=2_500)
    assert end.frames == 0, "no frame is decoded for audio alone"


def test_small_pictures_are_not_enlarged() -> None:
    assert within(640, 360, 1280) == (640, 360)
    assert within(3840, 2160, 1280) == (1280, 720)
    assert within(1, 32_768, 1280) == (1, 1280)


@pytest.mark.parametrize("size", [(0, False), (MAX_LONG_PX + 1, True), (4096, False)])
def test_sizes_beyond_the_limits_are_refused(size: tuple[int, bool]) -> None:
    with pytest.raises(ValueError, match="px"):
        FrameTap(*size)
    with pytest.raises(ValueError, match="rates"):
        AudioTap(44_100)


def test_a_tap_asked_for_twice_is_refused(decoder: Decoder, path: bytes) -> None:
    with pytest.raises(ValueError, match="once"):
        read(decoder, path, [SMALL, FrameTap(32)])


@pytest.mark.parametrize(
    "header",
    [
        {"tap": 2, "height": 10, "width": 10},
        {"tap": -1, "height": 10, "width": 10},
        {"tap": 1, "height": 101, "width": 10},
        {"tap": 0, "height": 10, "width": 97},
        {"height": 10, "width": 10},
    ],
)
def test_an_answer_beyond_its_tap_is_refused(header: dict[str, int]) -> None:
    payload = np.zeros(3 * header["height"] * header["width"], np.uint8).tobytes()
    with pytest.raises(InvalidField):
        answers.frame(Fields({**header, "time_s": 0.0}), payload, [SMALL, LARGE])
