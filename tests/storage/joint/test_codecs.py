"""Formats of vectors in blobs."""

import numpy as np
import pytest

from vfindex.storage.joint import codecs
from vfindex.storage.joint.codecs import as_float32

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = HALVES[np.isfinite(HALVES)]


@pytest.mark.parametrize(
    "halves",
    [
        pytest.param(FINITE, id="all finite numbers"),
        pytest.param(FINITE.astype(">f2"), id="another byte order"),
        pytest.param(HALVES, id="infinity and NaN"),
        pytest.param(np.append(FINITE, np.float16(np.inf)), id="infinity"),
        pytest.param(np.append(FINITE, np.float16(-np.inf)), id="negative infinity"),
        pytest.param(np.append(FINITE, np.float16(np.nan)), id="NaN"),
        pytest.param(FINITE[:60000].reshape(300, 200)[::2, 3:90], id="a part of a matrix"),
        pytest.param(FINITE[:2000], id="few"),
        pytest.param(np.zeros((0, 5), np.float16), id="empty"),
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


def test_small_numbers_stay_where_subnormal_ones_are_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries built for fast arithmetic do so for the whole thread."""
    monkeypatch.setattr(codecs, "_SMALLEST", np.float32(0))
    monkeypatch.setattr(codecs, "_BIASES", np.float32(0))
    assert as_float32(FINITE).tobytes() == FINITE.astype(np.float32).tobytes()
