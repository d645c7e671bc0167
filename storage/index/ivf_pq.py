"""IVF-PQ candidates of a large library: 4-bit codes, one for every four dimensions, in inverted lists.

An inverted file with product quantisation (Jégou, Douze and Schmid 2011, IEEE TPAMI 33(1), sections 3 and 4) whose
distance tables stay in registers (André, Kermarrec and Le Scouarnec 2017, ICMR), by FAISS. A query reads the nearest
lists, a 32nd of the bytes of float32; candidates are re-ranked from the vectors, see segment.py. Every modality has its
own codes: a query reads only those that it uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import evenly_spaced, ranges
from vfindex.storage.index.codes import (
    BLOCK,
    ROWS_A_LIST,
    TRAINING_ROWS,
    Coder,
    Lists,
    cluster,
    encode,
    learn,
    number_of_lists,
    segments_of,
    train,
)
from vfindex.storage.index.file_format import IndexFile, IndexWriter, map_pages
from vfindex.storage.index.flat import one_thread
from vfindex.storage.records import FloatArray
from vfindex.storage.threads import parts_of, together

# Vectors that are scanned in the time of re-ranking one from the file, for each dimension of a code.
_SCANNED_FOR_ONE = 25
# Vectors, and bytes of codes, that are enough for one call of a scan, 4 to 14 ms; see `parts_of`.
_ROWS_A_CALL, _BYTES_A_CALL = 1 << 20, 1 << 28
# Subsets of modalities whose scanners are kept.
_SCANNERS = 4
# FAISS's record of a list in a file: entries, room for entries, bytes from the beginning of the file.
_RECORD = np.dtype([("size", np.uint64), ("capacity", np.uint64), ("offset", np.uint64)])
# The name of the array with the codes of all segments.
ALL_CODES = "codes"
# The arrays of `write_codes` that are always checked completely: they lead to memory.
STEERING = ("members", "ends", "centroids", "codebook")


class IvfPq:
    """Approximate search by inner product over rows 0..n-1; the candidates nearly always contain the best rows."""

    def __init__(self, coder: Coder, lists: Lists, codes: Mapping[str, NDArray[np.uint8]]) -> None:
        """codes: name in the file -> array. ALL_CODES: those of all segments side by side; else one of each segment.

        Raises ValueError if they do not fit together. Any bytes are valid codes: none can make a scan read outside its
        memory.
        """
        widths = [each * BLOCK // 2 for each in coder.counts]
        self._whole = codes.get(ALL_CODES)
        parts = list(codes.values())
        if self._whole is not None:
            parts = np.split(self._whole, np.cumsum(widths)[:-1], axis=1)
        if [each.shape for each in parts] != [(int(lists.blocks[-1]), width) for width in widths]:
            raise ValueError("the codes do not fill the lists")
        self.coder, self.lists = coder, lists
        self._names, self._codes = tuple(codes), parts
        self._scanners: dict[tuple[int, ...], _Scanner] = {}
        self._choosing = Lock()

    def __len__(self) -> int:
        return len(self.lists.members)

    def prepare(self) -> None:
        """Import FAISS, 70 ms of the first search."""
        import faiss  # noqa: F401

    def nearest(
        self, query: FloatArray, candidates: int, share: float = 1.0, kept: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return about the best `candidates` rows, best first. kept: which may answer (n,), None for all.

        share: of the lists to scan, nearest first; with `kept`, as many as hold this share of the kept rows.
        """
        with one_thread():
            places = self.nearest_of(query[None], candidates, share, kept)[0]
        found: NDArray[np.int64] = places[places >= 0]
        return found

    def nearest_of(
        self, queries: FloatArray, candidates: int, share: float, kept: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return the same for queries (n, dim), as (n, <= candidates), filled up with -1."""
        asked = self._asked(queries)
        candidates = min(candidates, len(self) if kept is None else int(np.count_nonzero(kept)))
        if not asked or not candidates:
            return np.tile(self._rows(kept)[:candidates], (len(queries), 1))
        scanner = self._scanner(asked)
        if kept is None:
            distances, numbers = scanner.lists_of(queries, self.number_of_lists(share))
        else:
            distances, numbers = self._reached(
                *scanner.lists_of(queries, len(self.lists.ends)), self._rows(kept), share
            )
        places = scanner.search(queries, candidates, distances, numbers, kept)
        lacking = np.flatnonzero(places[:, -1:] < 0)
        if share == 1 and len(lacking):
            # FAISS drops rows with the lowest possible score: all of them, in a library without the queried modality.
            first = np.arange(candidates) if kept is None else np.flatnonzero(kept)[:candidates]
            for row in lacking:
                found = places[row][places[row] >= 0]
                places[row, len(found) :] = np.setdiff1d(first, found)[: candidates - len(found)]
        return places

    def nearest_with_depth(self, queries: FloatArray, candidates: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return `nearest_of` all lists, and for each row how many lists are nearer than its own, in the same shape."""
        places = self.nearest_of(queries, candidates, 1.0)
        asked = self._asked(queries)
        if not asked:
            return places, np.zeros_like(places, np.int32)
        _, numbers = self._scanner(asked).lists_of(queries, len(self.lists.ends))
        depth = np.argsort(numbers, axis=1).astype(np.int32)
        return places, np.take_along_axis(depth, self._list_of_row[places], axis=1)

    def _rows(self, kept: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        return np.arange(len(self)) if kept is None else np.flatnonzero(kept)

    def _asked(self, queries: FloatArray) -> tuple[int, ...]:
        """Return the segments that queries (n, dim) use."""
        return tuple(at for at, where in enumerate(self.coder.segments) if np.any(queries[:, where]))

    def number_of_lists(self, share: float) -> int:
        """Return how many lists are a share of them."""
        return max(1, round(share * len(self.lists.ends)))

    def _reached(
        self, distances: FloatArray, numbers: NDArray[np.int64], rows: NDArray[np.int64], share: float
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return the nearest lists that hold a share of some rows, and their distances; -1 for lists without any.

        distances, numbers: of all lists (n_queries, n_lists), nearest first.
        """
        held = np.bincount(self._list_of_row[rows], minlength=len(self.lists.ends))[numbers]
        before = np.cumsum(held, axis=1) - held
        numbers = np.where((before < share * len(rows)) & (held > 0), numbers, -1)
        order = np.argsort(numbers < 0, axis=1, kind="stable")[:, : max(1, int((numbers >= 0).sum(axis=1).max()))]
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(numbers, order, axis=1)

    @cached_property
    def _list_of_row(self) -> NDArray[np.int32]:
        return self.lists.of_rows()

    def cost(self, candidates: int, share: float) -> float:
        """Return the cost of a search, in exactly scored vectors."""
        return share * len(self) / (_SCANNED_FOR_ONE * self.coder.dims) + candidates

    def touched(self, dead: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield the arrays of `write_codes`, and their rows, that depend on vectors. dead: their rows, increasing."""
        blocks = self.lists.blocks_of(dead)
        yield from ((name, blocks) for name in self._names)
        yield "centroids", self.lists.holding(dead)

    def renewed(self, rows: NDArray[Any], dead: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield new values of what `touched` yields, which tell nothing of these vectors. rows: (n, dim), of all."""
        codes = [
            np.concatenate([each[:0], *encode(rows, self.lists, self.coder, number, dead)])
            for number, each in enumerate(self._codes)
        ]
        yield from codes if self._whole is None else [np.concatenate(codes, axis=1)]
        # The other codes of these lists are differences from the mean before, which one vector hardly moves.
        yield np.stack(list(self.lists.means(rows, dead)))

    def _scanner(self, asked: tuple[int, ...]) -> _Scanner:
        """Return the scanner of some segments; those used last are kept."""
        with self._choosing:
            scanner = self._scanners.pop(asked, None)
            if scanner is None:
                codes = [self._codes[at] for at in asked]
                if self._whole is not None and len(asked) == len(self._codes):
                    codes = [self._whole]
                scanner = _Scanner(self.coder, self.lists, asked, codes)
            self._scanners[asked] = scanner
            while len(self._scanners) > _SCANNERS:
                self._scanners.pop(next(iter(self._scanners)))
        return scanner


class _Scanner:
    """FAISS's index of some segments, whose blocks stand side by side in its lists.

    Those of all modalities are read in the file, where it has them in this form. Others are copied, a list when a query
    first reads it. Thread-safe.
    """

    def __init__(self, coder: Coder, lists: Lists, asked: tuple[int, ...], codes: Sequence[NDArray[np.uint8]]) -> None:
        """codes: of the segments asked, or one array of all of them."""
        self._coder, self._asked, self._codes = coder, asked, codes
        self._lists, self._sizes, self._block_ends = lists, lists.sizes, lists.blocks
        self._means = self._narrowed(lists.centroids)
        count = sum(coder.counts[at] for at in asked)
        self._code_bytes = count // 2  # of a vector
        self._index = _empty(count, coder.dims, len(lists.ends))
        self._index.by_residual = bool(coder.turns)
        learn(self._index, np.concatenate([coder.book(at) for at in asked]))
        self._index.ntotal = len(lists.members)
        self._into = _MemoryLists(self._index)
        self._filled = self._sizes == 0
        self._filling = Lock()
        self._is_mapped = not (len(codes) == 1 and codes[0].flags.c_contiguous)
        if not self._is_mapped:
            self._put(np.flatnonzero(self._sizes), codes[0])

    def lists_of(self, queries: FloatArray, probes: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (distances, numbers), each (n, probes), of the nearest lists of some queries, nearest first."""
        import faiss

        asked = np.ascontiguousarray(self._narrowed(queries))
        distances, numbers = faiss.knn(asked, self._means, probes, faiss.METRIC_INNER_PRODUCT)
        return distances, numbers

    def _narrowed(self, rows: FloatArray) -> FloatArray:
        """Return the asked segments of rows (n, dim): rows themselves, without a copy, if those are all."""
        if len(self._asked) == len(self._coder.segments):
            return rows
        return np.concatenate([rows[:, self._coder.segments[at]] for at in self._asked], axis=1)

    def search(
        self,
        queries: FloatArray,
        candidates: int,
        distances: FloatArray,
        numbers: NDArray[np.int64],
        kept: NDArray[np.bool_] | None,
    ) -> NDArray[np.int64]:
        """Return rows (n, candidates), best first, from lists as `lists_of` returns them; -1 where there are no more.

        numbers: -1 is passed over. kept: which rows may answer, None for all.
        """
        import faiss

        self._fill(numbers)
        if not self._is_mapped and kept is None and 2 * numbers.shape[1] > len(self._sizes):
            map_pages(self._codes[0])
            self._is_mapped = True
        selector: Any = faiss.IDSelectorBitmap
        selected = None if kept is None else selector(np.packbits(kept, bitorder="little"))
        parts = [self._coder.turned(queries[:, self._coder.segments[at]], at) for at in self._asked]
        turned = np.concatenate(parts, axis=1)

        count = self._parts_of(numbers)
        if count == 1:
            return self._scan(turned, candidates, distances, numbers, selected)[1]

        def scan(part: int) -> tuple[FloatArray, NDArray[np.int64]]:
            with one_thread():
                return self._scan(turned, candidates, distances[:, part::count], numbers[:, part::count], selected)

        scores, places = (np.concatenate(each, axis=1) for each in zip(*together(scan, count), strict=True))
        scores[places < 0] = -np.inf  # FAISS gives missing rows the lowest score of their lists
        best = np.argsort(-scores, axis=1, kind="stable")[:, :candidates]
        return np.take_along_axis(places, best, axis=1)

    def _parts_of(self, numbers: NDArray[np.int64]) -> int:
        """Return into how many parts the scan of these lists is divided: FAISS divides queries, not the lists of one.

        It does not depend on the cores, on which candidates with equal codes would depend then.
        """
        if len(numbers) > 1:
            return 1
        scanned = int(self._sizes[numbers[numbers >= 0]].sum())
        wanted = max(parts_of(scanned, _ROWS_A_CALL), parts_of(scanned * self._code_bytes, _BYTES_A_CALL))
        return min(int(numbers.shape[1]), wanted)

    def _scan(
        self, turned: FloatArray, candidates: int, distances: FloatArray, numbers: NDArray[np.int64], selected: Any
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, rows), each (n, candidates), best first, of some lists. selected: FAISS's selector."""
        import faiss

        scores = np.empty((len(turned), candidates), np.float32)
        places = np.empty((len(turned), candidates), np.int64)
        parameters: Any = faiss.SearchParametersIVF()
        parameters.nprobe = numbers.shape[1]
        if selected is not None:
            parameters.sel = selected
        given = [np.ascontiguousarray(each) for each in (turned, numbers, distances)]
        asked, *arrays = [faiss.swig_ptr(each) for each in (*given, scores, places)]
        self._index.search_preassigned_c(len(turned), asked, candidates, *arrays, False, parameters)
        return scores, places

    def _fill(self, numbers: NDArray[np.int64]) -> None:
        """Copy the codes and members of the lists of these numbers, where they are missing."""
        if self._filled[numbers[numbers >= 0]].all():
            return
        with self._filling:
            wanted = np.unique(numbers[numbers >= 0])
            wanted = wanted[~self._filled[wanted]]
            blocks = ranges(self._block_ends[wanted], -(-self._sizes[wanted] // BLOCK))
            self._put(wanted, np.concatenate([each[blocks] for each in self._codes], axis=1))

    def _put(self, numbers: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Put codes and members into lists. codes: of all asked segments, of one list after the other."""
        sizes, members = self._sizes[numbers], self._lists.members
        if int(sizes.sum()) < len(members):
            members = members[ranges(self._lists.ends[numbers], sizes)]
        self._into.put(numbers, sizes, codes, members.astype(np.int64))
        self._filled[numbers] = True


class _MemoryLists:
    """The inverted lists of one of FAISS's indexes, in arrays that it reads in place: its own lists are copies.

    To FAISS they are lists of a mapped file that begins at address 0.
    """

    def __init__(self, index: Any) -> None:
        """Become the lists of an index, all of them empty."""
        import faiss

        lists: Any = faiss.OnDiskInvertedLists()
        lists.nlist, lists.code_size, lists.read_only = index.nlist, index.code_size, True
        lists.lists.resize(index.nlist)
        index.replace_invlists(lists, False)
        lists.code_size = 1  # the ids of a list begin this times its capacity behind its codes
        records = (ctypes.c_char * (index.nlist * _RECORD.itemsize)).from_address(int(lists.lists.data().this))
        self.lists, self._records = lists, np.frombuffer(records, _RECORD)
        self._kept: list[NDArray[Any]] = []

    def put(
        self, numbers: NDArray[np.int64], sizes: NDArray[np.int64], codes: NDArray[np.uint8], ids: NDArray[np.int64]
    ) -> None:
        """Fill the lists of some numbers, which stand one after the other in the arrays.

        sizes: of each. codes: (n_blocks, bytes of a block). ids: (n,).
        """
        self._kept += [codes, ids]
        blocks = -(-sizes // BLOCK)
        records = np.empty(len(numbers), _RECORD)
        records["size"] = sizes
        records["offset"] = codes.ctypes.data + (np.cumsum(blocks) - blocks) * codes.shape[1]
        ids_at = (ids.ctypes.data + (np.cumsum(sizes) - sizes) * ids.itemsize).astype(np.uint64)
        records["capacity"] = ids_at - records["offset"]  # below 0 it wraps around, and so does FAISS's sum
        self._records[numbers] = records


def write_codes(file: IndexWriter, slices: Sequence[slice], factors: FloatArray) -> IvfPq:
    """Write lists and codes of the vectors that the file has as "rows", and return them.

    slices: of the modalities. factors: see `cluster`.
    """
    rows = file.written("rows")
    segments = segments_of(slices, rows.shape[1])
    count = max(TRAINING_ROWS, ROWS_A_LIST * number_of_lists(len(rows)))
    chosen = evenly_spaced(len(rows), count)
    sample = np.asarray(rows[chosen], np.float32)
    lists = cluster(sample, rows, factors)
    sample -= lists.centroids[lists.of_rows()[chosen]]
    coder = train(sample, segments)
    file.put("members", "<i4", [lists.members])
    file.put("ends", "<i8", [lists.ends])
    file.put("centroids", "<f4", [lists.centroids])
    file.put("codebook", "<f4", [coder.codebook])
    for number, turn in enumerate(coder.turns):
        file.put(turn_name(number), "<f4", [turn])
    parts = zip(*(encode(rows, lists, coder, number) for number in range(len(segments))), strict=True)
    file.put(ALL_CODES, "|u1", (np.concatenate(each, axis=1) for each in parts))
    return IvfPq(coder, lists, {ALL_CODES: file.written(ALL_CODES)})


def read_codes(file: IndexFile, slices: Sequence[slice]) -> IvfPq:
    """Return what `write_codes` has written. Raises KeyError, TypeError or ValueError for other content."""
    rows = file.array("rows")
    segments = segments_of(slices, rows.shape[1])
    lists = Lists(file.array("members"), file.array("ends"), file.array("centroids"))
    if lists.centroids.shape[1] != rows.shape[1] or len(lists.members) != len(rows):
        raise ValueError("the lists are of other vectors")
    numbers = range(len(segments))
    turns = [file.array(turn_name(number)) for number in numbers if turn_name(number) in file]
    coder = Coder(tuple(segments), file.array("codebook"), tuple(turns))
    names = [ALL_CODES] if ALL_CODES in file else [code_name(number) for number in numbers]
    return IvfPq(coder, lists, {name: file.array(name) for name in names})


def code_name(number: int) -> str:
    """Return the name of the array with the codes of one segment, in indexes of earlier versions."""
    return f"codes of segment {number}"


def turn_name(number: int) -> str:
    """Return the name of the array with the turn of one segment."""
    return f"turn of segment {number}"


def _empty(codes: int, dims: int, count: int) -> Any:
    """Return FAISS's index without vectors, of `count` lists. codes: of a vector. dims: of a code."""
    import faiss

    quantizer: Any = faiss.IndexFlatIP(codes * dims)  # empty: `_Scanner` finds the lists
    return faiss.IndexIVFPQFastScan(quantizer, codes * dims, count, codes, 4, faiss.METRIC_INNER_PRODUCT)
