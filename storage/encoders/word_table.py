"""The 4-bit word table of a text model, mapped from its file: a query reads only the rows of its own tokens.

As float32 inside a graph, 250,037 rows of 384 cost 0.5 s and 784 MB at opening; mapped, no time and their pages.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray

WORDS = "words.npy"
# A block of llama.cpp's type Q4_0: a float16 scale, then 32 weights of 4 bits, of which byte j has j and j + 16.
BLOCK_BYTES = 18
_ZERO = 8


class WordTable:
    """The rows of a table (n_tokens, n_blocks, BLOCK_BYTES) uint8, in a folder's WORDS."""

    def __init__(self, blocks: NDArray[np.uint8]) -> None:
        self._blocks = blocks

    @classmethod
    def open(cls, folder: Path) -> WordTable:
        """Return the table of a folder. Raises ValueError for a file of another form."""
        blocks = np.load(folder / WORDS, mmap_mode="r", allow_pickle=False)
        if blocks.ndim != 3 or blocks.dtype != np.uint8 or blocks.shape[2] != BLOCK_BYTES:
            raise ValueError(f"{WORDS} has the form {blocks.shape} {blocks.dtype}")
        return cls(blocks)

    def rows(self, ids: NDArray[np.int64]) -> FloatArray:
        """Return the vectors (..., dim) float32 of tokens (...)."""
        scales, weights = unpacked(self._blocks[ids])
        return dequantised(scales, weights)


def unpacked(blocks: NDArray[np.uint8]) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Return scales (..., n_blocks) float32 and weights (..., n_blocks, 32), 0 to 15, of blocks (..., BLOCK_BYTES)."""
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float32)
    return scales, np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)


def dequantised(scales: FloatArray, weights: NDArray[np.uint8]) -> FloatArray:
    """Return the numbers (..., 32 * n_blocks) float32 of `unpacked` blocks."""
    values = (weights.astype(np.float32) - _ZERO) * scales[..., None]
    return values.reshape(*values.shape[:-2], -1)
