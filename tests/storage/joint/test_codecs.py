"""Formats of vectors in blobs."""

import numpy as np
import pytest

from vfindex.storage.joint.codecs import as_float32

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = HALVES[np.isfinite(HALVES)]


@pytest.mark.parametrize(
    "halves",
    [
        pytest.param(FINITE, id="all finite numbers"),
        pytest.param(FINITE.astype(">f2"), id="another byte order"),
        pytest.param(HALVES, id="infinite ones and none"),
        pytest.param(np.array([np.inf], np.float16), id="infinite"),
        pytest.param(np.array([-np.inf, 1], np.float16), id="below all numbers"),
        pytest.param(np.array([np.nan, 1], np.float16), id="no number"),
        pytest.param(FINITE[:1200].reshape(30, 40)[::2, 3:9], id="a part of a matrix"),
        pytest.param(np.zeros((0, 5), np.float16), id="none at all"),
    ],
)
def test_float16_becomes_float32_as_numpy_makes_it(halves: np.ndarray) -> None:
    before = halves.copy()
    found, wanted = as_float32(halves), halves.astype(np.float32)
    assert found.dtype == np.float32 and found.shape == halves.shape
    assert found.tobytes() == wanted.tobytes()
    assert halves.tobytes() == before.tobytes()


def test_float32_stays() -> None:
    numbers = np.linspace(-1e9, 1e9, 11, dtype=np.float32)
    assert as_float32(numbers) is numbers
