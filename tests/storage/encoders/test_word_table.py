"""Blocks of 4 bits as numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vfindex.storage.encoders.word_table import BLOCK_BYTES, WORDS, WordTable


def block(scale: float, weights: list[int]) -> bytes:
    """Return a block: a float16 scale, then byte j with weight j below and weight j + 16 above."""
    return np.float16(scale).tobytes() + bytes(
        low | high << 4 for low, high in zip(weights[:16], weights[16:], strict=True)
    )


def test_rows_are_scale_times_weight_less_eight(tmp_path: Path) -> None:
    first, second = [n % 16 for n in range(32)], [15 - n % 16 for n in range(32)]
    blocks = np.frombuffer(block(0.5, first) + block(-2, second), np.uint8).reshape(2, 1, BLOCK_BYTES)
    np.save(tmp_path / WORDS, blocks)
    rows = WordTable.open(tmp_path).rows(np.array([[1, 0]]))
    assert rows.shape == (1, 2, 32) and rows.dtype == np.float32
    assert rows[0, 1].tolist() == [0.5 * (weight - 8) for weight in first]
    assert rows[0, 0].tolist() == [-2.0 * (weight - 8) for weight in second]


def test_another_form_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / WORDS, np.zeros((2, 1, BLOCK_BYTES - 1), np.uint8))
    with pytest.raises(ValueError, match=r"words\.npy has the form"):
        WordTable.open(tmp_path)
