"""The files of a joint index, segments and lists of them: named arrays, mapped, each block with a checksum.

    b"vfjoint1" | arrays, each at a multiple of 4,096 bytes | footer: JSON | its length (8 bytes) | b"vfjoint1"

The footer names the arrays, holds the CRC-32 of every block of them and what else a reader must know. Its SHA-256 is in
library.db, or in a list of segments, so that one short hash vouches for every block, and a reader chooses which of them
it checks and when. Nothing in here can be executed or trusted with memory: bounds are checked before an array is made
of bytes.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.files.file_systems import is_on_shared
from vfindex.storage.files.regular import regular
from vfindex.storage.files.writes import replacing
from vfindex.storage.machine import available_bytes
from vfindex.storage.records import StoredFile

MAGIC = b"vfjoint1"
VERSION = 2
# What one checksum covers: 256 KiB are checked in some 0.2 ms.
BLOCK_BYTES = 1 << 18
# Arrays start at pages, so that each is mapped alone and aligned for every processor.
_PAGE_BYTES = 4096
_MADV_POPULATE_READ = 22  # of Linux, which Python does not name
# A footer is 50 KB for each GB of arrays; a longer one is not ours.
_MAX_FOOTER_BYTES = 1 << 26
# Numbers of blocks, by array.
Blocks = Mapping[str, frozenset[int]]
# Names and kinds of numbers that an array may have.
_TYPES = ("<f4", "<f2", "<i8", "<i4", "|u1")


@dataclass(frozen=True, slots=True)
class _Array:
    """Where an array stands: dtype, shape, offset in bytes, and the CRC-32 of each of its blocks."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    crcs: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    def block(self, number: int) -> slice:
        """Return where a block stands in the file."""
        start = self.offset + number * BLOCK_BYTES
        return slice(start, min(start + BLOCK_BYTES, self.offset + self.size_bytes))


class IndexWriter:
    """A file being written, see `writing_index`."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """name: that the file will have."""
        self._file, self._path, self._name = file, Path(file.name), name
        self._arrays: dict[str, _Array] = {}
        file.write(MAGIC)

    def put(self, name: str, dtype: str, chunks: Iterable[NDArray[Any]]) -> None:
        """Write an array: its rows in chunks of equal width."""
        self._file.write(bytes(-self._file.tell() % _PAGE_BYTES))
        offset, rows, width = self._file.tell(), 0, ()
        crcs: list[int] = []
        filled = BLOCK_BYTES
        for chunk in chunks:
            data = np.ascontiguousarray(chunk, np.dtype(dtype))
            rows, width = rows + len(data), data.shape[1:]
            left = data.reshape(-1).view(np.uint8).data
            self._file.write(left)
            while left:
                if filled == BLOCK_BYTES:
                    crcs.append(0)
                    filled = 0
                piece = left[: BLOCK_BYTES - filled]
                crcs[-1] = zlib.crc32(piece, crcs[-1])
                filled, left = filled + len(piece), left[len(piece) :]
        self._arrays[name] = _Array(dtype, (rows, *width), offset, tuple(crcs))

    def written(self, name: str) -> NDArray[Any]:
        """Return an array that has been written, mapped."""
        self._file.flush()
        array = self._arrays[name]
        return _mapped(self._path, array) if array.size_bytes else np.zeros(array.shape, array.dtype)

    def end(self, facts: Mapping[str, Any]) -> StoredFile:
        """Write the footer, which holds `facts` too; return the file as `IndexFile.open` takes it."""
        arrays = {name: [a.dtype, a.shape, a.offset, a.crcs] for name, a in self._arrays.items()}
        footer = json.dumps({"version": VERSION, "arrays": arrays, "facts": facts}, separators=(",", ":")).encode()
        self._file.write(footer + len(footer).to_bytes(8, "little") + MAGIC)
        return StoredFile(self._name, self._file.tell(), hashlib.sha256(footer).hexdigest())


@contextmanager
def writing_index(path: Path) -> Iterator[IndexWriter]:
    """Make a new index file, on the disk when this returns, or none at all. Raises OSError."""
    with replacing(path) as file:
        yield IndexWriter(file, path.name)


class IndexFile:
    """An index file opened for reading; its arrays stay mapped as long as one of them is in use.

    On a network file system it is read into memory.
    """

    def __init__(self, path: Path, arrays: Mapping[str, _Array], facts: Mapping[str, Any], stored: StoredFile) -> None:
        self.path = path
        self.facts = facts
        self.stored = stored
        self._arrays = arrays
        # A mapped file that another machine deletes ends the process at the next page fault (SIGBUS).
        self._bytes = np.fromfile(path, np.uint8) if is_on_shared(path.parent) else np.memmap(path, np.uint8, mode="r")

    @classmethod
    def open(cls, folder: Path, stored: StoredFile) -> IndexFile:
        """Open the file that was written; nothing but its footer is read.

        Raises FileNotFoundError, or LibraryDamaged if size or footer are not those of `IndexWriter.end`.
        """
        path = folder / stored.name
        damaged = damage(path)
        if path.stat().st_size != stored.size_bytes:
            raise damaged
        with open(path, "rb", opener=regular) as file:
            footer, end = _read_footer(file, stored.size_bytes)
        if footer is None or hashlib.sha256(footer).hexdigest() != stored.sha256:
            raise damaged
        try:
            content = json.loads(footer)
            arrays = {
                name: _Array(dtype, tuple(shape), int(offset), tuple(crcs))
                for name, (dtype, shape, offset, crcs) in content["arrays"].items()
            }
            facts = content["facts"]
            fits = content["version"] == VERSION and all(_fits(array, end) for array in arrays.values())
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise damaged from exc
        if not fits:
            raise damaged
        return cls(path, arrays, facts, stored)

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def array(self, name: str) -> NDArray[Any]:
        """Return an array, mapped and read-only. Raises LibraryDamaged if there is none of this name."""
        where = self._arrays.get(name)
        if where is None:
            raise damage(self.path)
        data = self._bytes[where.offset : where.offset + where.size_bytes]
        return np.asarray(data).view(where.dtype).reshape(where.shape)

    def check(self, names: Sequence[str], most_blocks: int | None = None, passed_over: Blocks | None = None) -> None:
        """Compare blocks of arrays with their checksums; all, or as many of each as `most_blocks`, spread evenly.

        passed_over: blocks that are not compared. Raises LibraryDamaged.
        """
        for name in names:
            array = self._arrays[name]
            count = len(array.crcs)
            step = 1 if most_blocks is None else max(1, -(-count // most_blocks))
            chosen = {*range(0, count, step), count - 1} if count else set()
            for number in chosen - (passed_over or {}).get(name, frozenset()):
                if zlib.crc32(self._bytes[array.block(number)].data) != array.crcs[number]:
                    raise damage(self.path)

    def blocks_of(self, name: str, rows: NDArray[np.int64]) -> frozenset[int]:
        """Return the blocks that hold these rows of an array."""
        width = self._arrays[name].row_bytes
        ends = (rows * width // BLOCK_BYTES, ((rows + 1) * width - 1) // BLOCK_BYTES)
        return frozenset(number for first, last in zip(*ends, strict=True) for number in range(first, last + 1))

    @contextmanager
    def overwriting(self) -> Iterator[Callable[[str, NDArray[np.int64], NDArray[Any]], None]]:
        """Yield a function that writes values (n, ...) into rows (n,) of an array; on the disk when this returns.

        The checksums of their blocks do not hold afterwards. Raises OSError.
        """
        with open(self.path, "r+b", opener=regular) as file:

            def write(name: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
                where = self._arrays[name]
                for row, value in zip(rows.tolist(), np.ascontiguousarray(values, where.dtype), strict=True):
                    file.seek(where.offset + row * where.row_bytes)
                    file.write(value.tobytes())
                file.flush()

            yield write
            os.fsync(file.fileno())

    def check_all(self) -> None:
        """Compare every block with its checksum. Raises LibraryDamaged."""
        self.check(list(self._arrays))


def map_pages(array: NDArray[Any]) -> None:
    """Map all pages of an array of a file at once, on Linux from 5.14 on: as they are read it takes twice as long.

    An array larger than half of the memory that is left is mapped as it is read.
    """
    if sys.platform == "linux" and 2 * array.nbytes < (available_bytes() or 0):
        address, length = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        ctypes.CDLL(None).madvise(address, length, _MADV_POPULATE_READ)  # an older kernel refuses: nothing is lost


def damage(path: Path) -> LibraryDamaged:
    """Return what is raised of a file that is not the one that was written."""
    return LibraryDamaged(f"the joint index {path.name} is damaged; the next `vfindex ingest` builds it again")


def _mapped(path: Path, array: _Array) -> NDArray[Any]:
    return np.memmap(path, np.dtype(array.dtype), mode="r", offset=array.offset, shape=array.shape)


def _read_footer(file: BinaryIO, size_bytes: int) -> tuple[bytes | None, int]:
    """Return the footer and where it begins; None for a file that has none."""
    tail = 8 + len(MAGIC)
    if size_bytes < len(MAGIC) + tail or file.read(len(MAGIC)) != MAGIC:
        return None, 0
    file.seek(size_bytes - tail)
    length = int.from_bytes(file.read(8), "little")
    begin = size_bytes - tail - length
    if file.read() != MAGIC or length > _MAX_FOOTER_BYTES or begin < len(MAGIC):
        return None, 0
    file.seek(begin)
    return file.read(length), begin


def _fits(array: _Array, end: int) -> bool:
    """Return whether an array lies between the head and the footer, whole, aligned, with a checksum for every block."""
    if array.dtype not in _TYPES or not 1 <= len(array.shape) <= 2 or array.offset % _PAGE_BYTES:
        return False
    if any(not isinstance(length, int) or length < 0 for length in array.shape) or array.offset < len(MAGIC):
        return False
    return array.offset + array.size_bytes <= end and len(array.crcs) == -(-array.size_bytes // BLOCK_BYTES)
