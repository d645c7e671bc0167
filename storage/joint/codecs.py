"""Blob formats of vectors and times in SQLite: float16, each row with a CRC-32 that detects a torn or zeroed page.

float16 changes the cosine of unit vectors of 384 dimensions by at most about 1e-4, and halves the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.records import FloatArray

_NUMBER = struct.Struct("<d")
# From float16 to float32: by how many bits exponent and fraction move, which bits are kept then, and the factor between
# the different biases of the exponents. What is `_LEAST_NOT_FINITE` or more then was infinite or not a number.
_MOVED_BITS, _KEPT_BITS, _BIASES = 13, np.int32(0x8FFFE000 - 2**32), np.float32(2**112)
_LEAST_NOT_FINITE = 2.0**16
# The smallest float16, moved: a subnormal float32, which is 0 where a library has had subnormal numbers switched off.
_SMALLEST = np.float32(2**-136)
# Below so many numbers NumPy is faster.
_MANY_NUMBERS = 4096


def as_float32(values: NDArray[Any]) -> FloatArray:
    """Return float16 or float32 numbers as float32, the same bits as NumPy gives; many in a sixth of its time.

    NumPy converts float16 one number at a time.
    """
    if values.dtype != np.float16 or values.size < _MANY_NUMBERS or not _SMALLEST * _BIASES:
        return np.asarray(values, np.float32)
    moved = np.asarray(values, np.float16).view(np.int16).astype(np.int32)  # NumPy's own byte order
    moved <<= _MOVED_BITS
    moved &= _KEPT_BITS
    result = moved.view(np.float32)
    result *= _BIASES
    if result.max(initial=0) >= _LEAST_NOT_FINITE or result.min(initial=0) <= -_LEAST_NOT_FINITE:
        return values.astype(np.float32)
    return result


def pack_vector(vector: FloatArray) -> bytes:
    """Return a vector as little-endian float16 bytes."""
    return np.asarray(vector, dtype="<f2").tobytes()


def unpack_vector(blob: bytes) -> FloatArray:
    """Return the float32 vector of `pack_vector`'s bytes. Raises LibraryDamaged if one of them is no number."""
    return unpack_vectors([blob]).reshape(-1)


def unpack_vectors(blobs: Sequence[bytes], dim: int | None = None) -> FloatArray:
    """Return (n, dim) float32 of `pack_vector`'s bytes. dim: None for that of the first.

    Raises LibraryDamaged if their lengths differ, or are not dim, or if one of them is no number.
    """
    lengths = set(map(len, blobs)) | ({2 * dim} if dim is not None else set())
    if len(lengths) > 1:
        raise LibraryDamaged("vectors of one modality have several lengths; run: vfindex verify")
    _check_finite(values := as_float32(np.frombuffer(b"".join(blobs), dtype="<f2")))
    return values.reshape(len(blobs), dim or -1)


def pack_frames(vectors: FloatArray, times_s: NDArray[np.float64]) -> tuple[bytes, bytes]:
    """Return (times (n,) as little-endian float64 bytes, frame vectors (n, dim) as float16 bytes)."""
    return np.asarray(times_s, dtype="<f8").tobytes(), pack_vector(vectors)


def unpack_frames(blobs: Sequence[tuple[bytes, bytes]]) -> list[tuple[FloatArray, NDArray[np.float64]]]:
    """Return (vectors (n, dim) float32, times (n,) float64) of each pair of `pack_frames`.

    All at once takes a third of the time of single calls. Raises LibraryDamaged if the lengths do not fit, or one of
    them is no number.
    """
    counts = [_frame_count(times, vectors) for times, vectors in blobs]
    _check_finite(values := as_float32(np.frombuffer(b"".join(vectors for _, vectors in blobs), dtype="<f2")))
    _check_finite(times_s := np.frombuffer(b"".join(times for times, _ in blobs), dtype="<f8").astype(np.float64))
    result, stop, last = [], 0, 0
    for (_, vectors), count in zip(blobs, counts, strict=True):
        start, stop = stop, stop + len(vectors) // 2
        first, last = last, last + count
        result.append((values[start:stop].reshape(count, -1), times_s[first:last]))
    return result


def _check_finite(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise LibraryDamaged("a vector in the library is not as it was written; run: vfindex repair")


def _frame_count(times: bytes, vectors: bytes) -> int:
    count, rest = divmod(len(times), 8)
    if count == 0 or rest or not vectors or len(vectors) % (2 * count):
        raise LibraryDamaged("a row of frame vectors has a length that cannot be; run: vfindex verify")
    return count


def checksum(*parts: bytes | str | float | None) -> int:
    """Return the CRC-32 of a row's parts, delimited by their lengths. Numbers count as float64."""
    crc = 0
    for part in parts:
        if isinstance(part, int | float):
            data = _NUMBER.pack(part)
        else:
            data = part if isinstance(part, bytes) else repr(part).encode()
        crc = zlib.crc32(data, zlib.crc32(len(data).to_bytes(8, "little"), crc))
    return crc
