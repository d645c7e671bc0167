"""Which frame a clip shows: of enough contrast, near its middle, and always one of its own."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vfindex.indexer.extractors import thumbnails
from vfindex.indexer.extractors.thumbnails import ThumbnailPicker


def frame(grey: int, contrast: int) -> NDArray[np.uint8]:
    """Return a picture whose halves are `contrast` brighter and darker than `grey`."""
    pixels = np.full((64, 64, 3), grey, np.uint8)
    pixels[:, :32] += np.uint8(contrast)
    pixels[:, 32:] -= np.uint8(contrast)
    return pixels


def picker(*frames: tuple[float, int, int]) -> ThumbnailPicker:
    """frames: time_s, grey and contrast of each."""
    made = ThumbnailPicker()
    for time_s, grey, contrast in frames:
        made.offer(time_s, frame(grey, contrast))
    return made


def shown(made: ThumbnailPicker, start_s: float, end_s: float) -> int | None:
    """Return the mean grey of the picture of a clip, to tens; None without one."""
    data = made.pick(start_s, end_s, (start_s + end_s) / 2)
    return None if data is None else round(float(np.asarray(Image.open(io.BytesIO(data))).mean()), -1)


@pytest.mark.parametrize("raw", [0, thumbnails.RAW_LAST])
def test_a_clip_of_one_frame_has_a_picture_beside_one_of_more_contrast(
    raw: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "RAW_LAST", raw)
    made = picker((8.0, 60, 40), (10.5, 80, 50), (11.8, 120, 20), (15.7, 200, 30))
    assert [shown(made, *span) for span in ((8.0, 11.8), (11.8, 15.7), (15.7, 20.0))] == [80, 120, 200]


def test_last_frames_are_compressed_once_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressing takes 2 ms, and few of them are ever shown."""
    seconds = [(float(second), 100, 50 - second % 2) for second in range(200)]
    made, compressed = picker(*seconds[: 2 * thumbnails.RAW_LAST]), picker(*seconds)

    def waiting(made: ThumbnailPicker) -> list[bool]:
        return [isinstance(each.picture, bytes) for each in made._last.values()]

    assert not any(waiting(made))
    assert waiting(compressed) == [True] * (99 - thumbnails.RAW_LAST) + [False] * (thumbnails.RAW_LAST + 1)
    monkeypatch.setattr(thumbnails, "RAW_LAST", 0)
    at_once = picker(*seconds)
    assert all(made.pick(n + 1, n + 2, n + 1) == at_once.pick(n + 1, n + 2, n + 1) for n in range(0, 60, 2))


def test_a_frame_of_contrast_near_the_middle_is_chosen() -> None:
    made = picker((0.0, 100, 0), (2.0, 100, 50), (4.0, 140, 40), (6.0, 180, 60))
    assert shown(made, 0.0, 8.0) == 140
    assert shown(picker((0.0, 30, 0), (2.0, 70, 2)), 0.0, 4.0) == 70  # the most contrast, where none has enough
    assert shown(made, 8.0, 9.0) is None
