"""The square crops that models read: which part of a frame, squeezed or cropped, and refused frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfindex.storage.encoders.pixels import LONG_SIDE, Pixels, crops, frame_shape, square


def ramp(height: int, width: int) -> Pixels:
    """Return a frame whose red is the row and whose green is the column."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 400))
def test_the_short_side_is_the_model_s_and_the_long_one_bounded(width: int, height: int, size: int) -> None:
    shape = frame_shape(width, height, size)
    assert min(shape) == size and max(shape) <= LONG_SIDE * size
    assert (shape[0] >= shape[1]) == (width >= height) or shape[0] == shape[1]


def test_a_long_side_is_cut_in_the_middle() -> None:
    wide, tall = square(ramp(8, 20), 8, "shortest", "bicubic"), square(ramp(20, 8), 8, "shortest", "bicubic")
    assert wide.shape == tall.shape == (8, 8, 3)
    assert wide[0, :, 1].tolist() == list(range(6, 14)) and tall[:, 0, 0].tolist() == list(range(6, 14))


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_or_squeezed(name: str) -> None:
    squeezed = square(ramp(8, 80), 8, "squash", name)
    assert squeezed.shape == (8, 8, 3)
    assert squeezed[0, 0, 1] < 10 and squeezed[0, -1, 1] > 70, "both ends are there"
    whole = ramp(8, 8)
    assert np.array_equal(square(whole, 8, "squash", name), whole)


@pytest.mark.parametrize("frame", [ramp(9, 20), ramp(8, 20).astype(np.float32), ramp(8, 20)[..., :2], ramp(8, 20)[0]])
def test_another_frame_is_refused(frame: Pixels) -> None:
    with pytest.raises(ValueError, match="short side must be 8"):
        square(frame, 8, "shortest", "bicubic")
    with pytest.raises(ValueError, match="short side must be 8"):
        crops(frame, 8)
