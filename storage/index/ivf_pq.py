"""IVF-PQ candidates of a large library: 4-bit codes, one for every four dimensions, in inverted lists.

An inverted file with product quantisation (Jégou, Douze and Schmid 2011, IEEE TPAMI 33(1), sections 3 and 4) whose
distance tables stay in registers (André, Kermarrec and Le Scouarnec 2017, ICMR), by FAISS. A query reads the nearest
lists, a 32nd of the bytes of float32; candidates are re-ranked from the vectors, see segment.py. Every modality has its
own codes: a query reads only those that it uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import evenly_spaced
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
from vfindex.storage.index.file_format import IndexFile, IndexWriter
from vfindex.storage.index.flat import one_thread
from vfindex.storage.records import FloatArray

# Vectors that are scanned in the time of re-ranking one from the file, for each dimension of a code.
_SCANNED_FOR_ONE = 25
# Subsets of modalities whose scanners are kept.
_SCANNERS = 4
# The arrays of `write_codes` that are always checked completely: they lead to memory.
STEERING = ("members", "ends", "centroids", "codebook")


class IvfPq:
    """Approximate search by inner product over rows 0..n-1; the candidates nearly always contain the best rows."""

    def __init__(self, coder: Coder, lists: Lists, codes: Sequence[NDArray[np.uint8]]) -> None:
        """codes: of each segment, see `encode`.

        Raises ValueError if they do not fit together. Any bytes are valid codes: none can make a scan read outside its
        memory.
        """
        if len(codes) != len(coder.segments):
            raise ValueError("the codes are of other vectors")
        for of_segment, each in zip(codes, coder.counts, strict=True):
            if of_segment.shape != (int(lists.blocks[-1]), each * BLOCK // 2):
                raise ValueError("the codes do not fill the lists")
        self.coder, self.lists = coder, lists
        self._codes = list(codes)
        self._scanners: dict[tuple[int, ...], _Scanner] = {}
        self._choosing = Lock()

    def __len__(self) -> int:
        return len(self.lists.members)

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

    def nearest_with_depth(self, queries: FloatArray, candidates: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return `nearest_of` all lists, and for each row how many lists are nearer than its own, in the same shape."""
        places = self.nearest_of(queries, candidates, 1.0)
        asked = self._asked(queries)
        if not asked:
            return places, np.zeros_like(places)
        _, numbers = self._scanner(asked).lists_of(queries, len(self.lists.ends))
        depth = np.argsort(numbers, axis=1)
        return places, np.take_along_axis(depth, self._list_of_row[places].astype(np.int64), axis=1)

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
        yield from ((code_name(number), blocks) for number in range(len(self._codes)))
        yield "centroids", self.lists.holding(dead)

    def renewed(self, rows: NDArray[Any], dead: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield new values of what `touched` yields, which tell nothing of these vectors. rows: (n, dim), of all."""
        for number, codes in enumerate(self._codes):
            parts = encode(rows, self.lists, self.coder, number, dead)
            yield np.concatenate([codes[:0], *parts])
        # The other codes of these lists are differences from the mean before, which one vector hardly moves.
        yield np.stack(list(self.lists.means(rows, dead)))

    def _scanner(self, asked: tuple[int, ...]) -> _Scanner:
        """Return the scanner of some segments; those used last are kept."""
        with self._choosing:
            scanner = self._scanners.pop(asked, None)
            if scanner is None:
                scanner = _Scanner(self.coder, self.lists, asked, [self._codes[at] for at in asked])
            self._scanners[asked] = scanner
            while len(self._scanners) > _SCANNERS:
                self._scanners.pop(next(iter(self._scanners)))
        return scanner


class _Scanner:
    """FAISS's index of some segments, whose blocks stand side by side in its lists.

    A list is copied from the file when a query first reads it: a single search copies some hundredths of the codes, and
    opening an index none. Thread-safe.
    """

    def __init__(self, coder: Coder, lists: Lists, asked: tuple[int, ...], codes: Sequence[NDArray[np.uint8]]) -> None:
        """codes: of the segments asked."""
        import faiss

        self._coder, self._asked, self._codes = coder, asked, codes
        self._lists, self._sizes, self._block_ends = lists, lists.sizes, lists.blocks
        centroids = self._narrowed(lists.centroids)
        self._means: Any = faiss.IndexFlatIP(centroids.shape[1])
        self._means.add(centroids)
        self._index = _empty(sum(coder.counts[at] for at in asked), coder.dims, len(centroids))
        self._index.by_residual = bool(coder.turns)
        learn(self._index, np.concatenate([coder.book(at) for at in asked]))
        self._index.ntotal = len(lists.members)
        self._into: Any = faiss.downcast_InvertedLists(self._index.invlists)
        self._filled = self._sizes == 0
        self._filling = Lock()

    def lists_of(self, queries: FloatArray, probes: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (distances, numbers), each (n, probes), of the nearest lists of some queries, nearest first."""
        distances, numbers = self._means.search(self._narrowed(queries), probes)
        return distances, numbers

    def _narrowed(self, rows: FloatArray) -> FloatArray:
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
        scores = np.empty((len(queries), candidates), np.float32)
        places = np.empty((len(queries), candidates), np.int64)
        parameters: Any = faiss.SearchParametersIVF()
        parameters.nprobe = numbers.shape[1]
        if kept is not None:
            selector: Any = faiss.IDSelectorBitmap
            parameters.sel = selector(np.packbits(kept, bitorder="little"))
        parts = [self._coder.turned(queries[:, self._coder.segments[at]], at) for at in self._asked]
        turned = np.concatenate(parts, axis=1)
        given = [np.ascontiguousarray(each) for each in (turned, numbers, distances)]
        asked, *arrays = [faiss.swig_ptr(each) for each in (*given, scores, places)]
        self._index.search_preassigned_c(len(queries), asked, candidates, *arrays, False, parameters)
        return places

    def _fill(self, numbers: NDArray[np.int64]) -> None:
        """Put members and codes into FAISS's lists of these numbers, where they are missing."""
        import faiss

        if self._filled[numbers[numbers >= 0]].all():
            return
        with self._filling:
            wanted = np.unique(numbers[numbers >= 0])
            for number in wanted[~self._filled[wanted]].tolist():
                end, end_block, size = self._lists.ends[number], self._block_ends[number], self._sizes[number]
                blocks = slice(end_block - -(-size // BLOCK), end_block)
                members = self._lists.members[end - size : end].astype(np.int64)
                part = np.concatenate([each[blocks] for each in self._codes], axis=1)
                self._into.resize(number, int(size))
                faiss.memcpy(self._into.get_ids(number), faiss.swig_ptr(members), members.nbytes)
                faiss.memcpy(self._into.get_codes(number), faiss.swig_ptr(part), part.nbytes)
                self._filled[number] = True


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
    for number in range(len(segments)):
        file.put(code_name(number), "|u1", encode(rows, lists, coder, number))
    return IvfPq(coder, lists, [file.written(code_name(number)) for number in range(len(segments))])


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
    return IvfPq(coder, lists, [file.array(code_name(number)) for number in numbers])


def code_name(number: int) -> str:
    """Return the name of the array with the codes of one segment."""
    return f"codes of segment {number}"


def turn_name(number: int) -> str:
    """Return the name of the array with the turn of one segment."""
    return f"turn of segment {number}"


def _empty(codes: int, dims: int, count: int) -> Any:
    """Return FAISS's index without vectors, of `count` lists. codes: of a vector. dims: of a code."""
    import faiss

    quantizer: Any = faiss.IndexFlatIP(codes * dims)  # empty: `_Scanner` finds the lists
    return faiss.IndexIVFPQFastScan(quantizer, codes * dims, count, codes, 4, faiss.METRIC_INNER_PRODUCT)
