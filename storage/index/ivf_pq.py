"""IVF-PQ candidates of a large library: 4-bit codes, one for every two dimensions, in inverted lists.

An inverted file with product quantisation (Jégou, Douze and Schmid 2011, IEEE TPAMI 33(1), sections 3 and 4) whose
distance tables stay in registers (André, Kermarrec and Le Scouarnec 2017, ICMR), by FAISS. A query reads the nearest
lists, a sixteenth of the bytes of float32; candidates are re-ranked from the vectors, see reader.py. Every modality has
its own codes: a query reads only those that it uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import evenly_spaced, in_sorted
from vfindex.storage.index.file_format import IndexFile, IndexWriter
from vfindex.storage.index.flat import one_thread
from vfindex.storage.records import FloatArray

# Codes per two dimensions, and vectors per block in FAISS's layout, processed together in registers.
CODES, BLOCK = 16, 32
# Vectors that codebook and lists are trained on; for the lists, this many per list.
TRAINING_ROWS, ROWS_A_LIST = 32_768, 64
# Iterations of k-means; later ones change little.
_ROUNDS = 10
# Vectors encoded or assigned to lists at a time.
_TOGETHER = 1 << 15
# Codes that are scanned in the time of re-ranking one vector from the file.
_SCANNED_FOR_ONE = 50
# Subsets of modalities whose codes are cached.
_READY = 4
# The arrays of `write_codes` that are always checked completely: they lead to memory.
STEERING = ("members", "ends", "centroids", "codebook")


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Inverted lists. members: rows (n,), those of the first list first; ends: the end of each list in it.

    centroids: (n_lists, dim), the mean of each list.
    """

    members: NDArray[np.int32]
    ends: NDArray[np.int64]
    centroids: FloatArray

    def __post_init__(self) -> None:
        """Raise ValueError for lists that would make a scan read outside its memory."""
        if self.centroids.ndim != 2 or self.ends.shape != (len(self.centroids),) or self.members.ndim != 1:
            raise ValueError("the lists do not fit together")
        steps = np.diff(self.ends, prepend=0)
        if not len(steps) or steps.min() < 0 or int(self.ends[-1]) != len(self.members):
            raise ValueError("the lists are not those of the vectors")
        if len(self.members) and not 0 <= int(self.members.min()) <= int(self.members.max()) < len(self.members):
            raise ValueError("the lists name vectors that are not there")

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.ends, prepend=0)

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Where the blocks of each list end: a block belongs to one list."""
        return np.cumsum(-(-self.sizes // BLOCK))

    def blocks_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the blocks that hold some rows, increasing. rows: increasing."""
        at = np.flatnonzero(in_sorted(self.members.astype(np.int64), rows))
        numbers = np.searchsorted(self.ends, at, side="right")
        firsts, starts = self.blocks - -(-self.sizes // BLOCK), self.ends - self.sizes
        return np.unique(firsts[numbers] + (at - starts[numbers]) // BLOCK)

    def emptied_by(self, dead: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the lists all of whose rows are dead, increasing: the mean of one vector is that vector."""
        at = np.flatnonzero(in_sorted(self.members.astype(np.int64), dead))
        gone = np.bincount(np.searchsorted(self.ends, at, side="right"), minlength=len(self.ends))
        return np.flatnonzero((gone == self.sizes) & (gone > 0))


class IvfPq:
    """Approximate search by inner product over rows 0..n-1; the candidates nearly always contain the best rows."""

    def __init__(
        self, segments: Sequence[slice], lists: Lists, codebook: FloatArray, codes: Sequence[NDArray[np.uint8]]
    ) -> None:
        """segments: as `segments_of` returns them. codebook: see `train`. codes: of each segment, see `encode`.

        Raises ValueError if they do not fit together. Any bytes are valid codes: none can make a scan read outside its
        memory.
        """
        pairs = [_pairs(where) for where in segments]
        if codebook.shape != (sum(pairs), 2 * CODES) or len(codes) != len(segments):
            raise ValueError("the codes are of other vectors")
        for of_segment, each in zip(codes, pairs, strict=True):
            if of_segment.shape != (int(lists.blocks[-1]), each * BLOCK // 2):
                raise ValueError("the codes do not fill the lists")
        self.segments, self.lists, self.codebook = tuple(segments), lists, codebook
        self._books = np.split(codebook, np.cumsum(pairs)[:-1])
        self._codes = list(codes)
        self._ready: dict[tuple[int, ...], Any] = {}
        self._filling = Lock()

    def __len__(self) -> int:
        return len(self.lists.members)

    def nearest(self, query: FloatArray, candidates: int, share: float = 1.0) -> NDArray[np.int64]:
        """Return about the best `candidates` rows, best first. share: of the lists to scan, nearest first."""
        with one_thread():
            places = self.nearest_of(query[None], candidates, share)[0]
        found: NDArray[np.int64] = places[places >= 0]
        return found

    def nearest_of(self, queries: FloatArray, candidates: int, share: float) -> NDArray[np.int64]:
        """Return the same for queries (n, dim), as (n, <= candidates), filled up with -1."""
        import faiss

        asked = tuple(at for at, where in enumerate(self.segments) if np.any(queries[:, where]))
        candidates = min(candidates, len(self))
        if not asked:
            return np.tile(np.arange(candidates), (len(queries), 1))
        questions = np.concatenate([_padded(queries[:, self.segments[at]]) for at in asked], axis=1)
        parameters: Any = faiss.SearchParametersIVF()
        parameters.nprobe = max(1, round(share * len(self.lists.ends)))
        places: NDArray[np.int64] = self._index(asked).search(questions, candidates, params=parameters)[1]
        if share == 1:
            # FAISS drops rows with the lowest possible score: all of them, in a library without the queried modality.
            for row in np.flatnonzero(places[:, -1] < 0):
                found = places[row][places[row] >= 0]
                places[row, len(found) :] = np.delete(np.arange(len(self)), found)[: candidates - len(found)]
        return places

    def cost(self, candidates: int, share: float) -> float:
        """Return the cost of a search, in exactly scored vectors."""
        return share * len(self) / _SCANNED_FOR_ONE + candidates

    def touched(self, dead: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield the arrays of `write_codes`, and their rows, that tell of vectors. dead: their rows, increasing."""
        blocks = self.lists.blocks_of(dead)
        yield from ((code_name(number), blocks) for number in range(len(self.segments)))
        yield "centroids", self.lists.emptied_by(dead)

    def renewed(self, rows: NDArray[Any], dead: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield new values of what `touched` yields, which tell nothing of these vectors. rows: (n, dim), of all."""
        for number, codes in enumerate(self._codes):
            parts = encode(rows, self.lists, self.segments, self.codebook, number, dead)
            yield np.concatenate([codes[:0], *parts])
        yield np.zeros((len(self.lists.emptied_by(dead)), self.lists.centroids.shape[1]), np.float32)

    def _index(self, asked: tuple[int, ...]) -> Any:
        """Return FAISS's index of some segments; its blocks are those of the segments side by side."""
        with self._filling:
            return self._filled(asked)

    def _filled(self, asked: tuple[int, ...]) -> Any:
        if asked not in self._ready:
            centroids = np.concatenate([_padded(self.lists.centroids[:, self.segments[at]]) for at in asked], axis=1)
            index = _empty(centroids)
            _learned(index, np.concatenate([self._books[at] for at in asked]))
            self._fill(index, [self._codes[at] for at in asked])
            while len(self._ready) >= _READY:
                self._ready.pop(next(iter(self._ready)))
            self._ready[asked] = index
        return self._ready[asked]

    def _fill(self, index: Any, codes: Sequence[NDArray[np.uint8]]) -> None:
        """Put members and codes into FAISS's lists."""
        import faiss

        into: Any = faiss.downcast_InvertedLists(index.invlists)
        blocks, ends = self.lists.blocks.tolist(), self.lists.ends.tolist()
        starts = zip([0, *blocks[:-1]], blocks, [0, *ends[:-1]], ends, strict=True)
        for number, (first_block, end_block, first, end) in enumerate(starts):
            if first == end:
                continue
            members = self.lists.members[first:end].astype(np.int64)
            part = np.concatenate([each[first_block:end_block] for each in codes], axis=1)
            into.resize(number, end - first)
            faiss.memcpy(into.get_ids(number), faiss.swig_ptr(members), members.nbytes)
            faiss.memcpy(into.get_codes(number), faiss.swig_ptr(part), part.nbytes)
        index.ntotal = len(self)


def write_codes(file: IndexWriter, slices: Sequence[slice], factors: FloatArray) -> IvfPq:
    """Write lists and codes of the vectors that the file has as "rows", and return them.

    slices: of the modalities. factors: see `cluster`.
    """
    rows = file.written("rows")
    segments = segments_of(slices, rows.shape[1])
    count = max(TRAINING_ROWS, ROWS_A_LIST * number_of_lists(len(rows)))
    sample = np.asarray(rows[evenly_spaced(len(rows), count)], np.float32)
    lists, codebook = cluster(sample, rows, factors), train(sample, segments)
    file.put("members", "<i4", [lists.members])
    file.put("ends", "<i8", [lists.ends])
    file.put("centroids", "<f4", [lists.centroids])
    file.put("codebook", "<f4", [codebook])
    for number in range(len(segments)):
        file.put(code_name(number), "|u1", encode(rows, lists, segments, codebook, number))
    return IvfPq(segments, lists, codebook, [file.written(code_name(number)) for number in range(len(segments))])


def read_codes(file: IndexFile, slices: Sequence[slice]) -> IvfPq:
    """Return what `write_codes` has written. Raises KeyError, TypeError or ValueError for other content."""
    rows = file.array("rows")
    segments = segments_of(slices, rows.shape[1])
    lists = Lists(file.array("members"), file.array("ends"), file.array("centroids"))
    if lists.centroids.shape[1] != rows.shape[1] or len(lists.members) != len(rows):
        raise ValueError("the lists are of other vectors")
    codes = [file.array(code_name(number)) for number in range(len(segments))]
    return IvfPq(segments, lists, file.array("codebook"), codes)


def code_name(number: int) -> str:
    """Return the name of the array with the codes of one segment."""
    return f"codes of segment {number}"


def segments_of(slices: Sequence[slice], dim: int) -> list[slice]:
    """Return the slices, and the rest after the last of them in a vector of `dim` dimensions."""
    end = slices[-1].stop if slices else 0
    return [*slices, *([slice(end, dim)] if end < dim else [])]


def train(sample: FloatArray, segments: Sequence[slice]) -> FloatArray:
    """Return a codebook (pairs of all segments, 2 * CODES), trained on a sample (n, dim)."""
    import faiss

    books = []
    for where in segments:
        quantizer: Any = faiss.ProductQuantizer(2 * _pairs(where), _pairs(where), 4)
        rounds = quantizer.cp
        rounds.niter, rounds.min_points_per_centroid, rounds.max_points_per_centroid = _ROUNDS, 1, TRAINING_ROWS
        with one_thread():  # two dimensions each, too few for more
            quantizer.train(_padded(sample[:, where]))
        books.append(faiss.vector_to_array(quantizer.centroids).reshape(-1, 2 * CODES))
    return np.concatenate(books)


def cluster(sample: FloatArray, rows: NDArray[Any], factors: FloatArray) -> Lists:
    """Return inverted lists of rows (n, dim), by k-means over a sample (n, dim) of them.

    factors: (dim,), the default weights of a query. Vectors are scaled by their square roots, so the distance between
    two vectors corresponds to their score for a query.
    """
    import faiss

    roots = np.sqrt(factors)
    means: Any = faiss.Kmeans(
        rows.shape[1], number_of_lists(len(rows)), niter=_ROUNDS, seed=1, min_points_per_centroid=1
    )
    means.train(np.ascontiguousarray(sample * roots, np.float32))
    return lists_of(_assigned(rows, means.centroids, roots), rows, len(means.centroids))


def number_of_lists(count: int) -> int:
    """Return the number of lists for a number of vectors."""
    return max(1, round(2 * math.sqrt(count)))


def lists_of(belongs: NDArray[np.int64], rows: NDArray[Any], count: int) -> Lists:
    """Return `count` lists. belongs: the list of each row (n,)."""
    members = np.argsort(belongs, kind="stable").astype(np.int32)
    sizes = np.bincount(belongs, minlength=count)
    sums = np.zeros((count, rows.shape[1]), np.float32)
    for first in range(0, len(rows), _TOGETHER):
        part = belongs[first : first + _TOGETHER]
        order = np.argsort(part, kind="stable")
        numbers, starts = np.unique(part[order], return_index=True)
        sums[numbers] += np.add.reduceat(np.asarray(rows[first + order], np.float32), starts, axis=0)
    return Lists(members, np.cumsum(sizes), sums / np.maximum(1, sizes).astype(np.float32)[:, None])


def encode(
    rows: NDArray[Any],
    lists: Lists,
    segments: Sequence[slice],
    codebook: FloatArray,
    number: int,
    dead: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the codes of one segment of all vectors, (n_blocks, bytes of a block) at a time. rows: (n, dim).

    dead: increasing; only the blocks with these rows, which are encoded as 0. None: all blocks.
    """
    import faiss

    pairs = [_pairs(where) for where in segments]
    index: Any = faiss.IndexPQFastScan(2 * pairs[number], pairs[number], 4, faiss.METRIC_INNER_PRODUCT)
    _learned(index, np.split(codebook, np.cumsum(pairs)[:-1])[number])
    for places in _by_blocks(lists, None if dead is None else lists.blocks_of(dead)):
        part = _padded(rows[np.maximum(places, 0), segments[number]])
        part[places < 0] = 0
        if dead is not None:
            part[in_sorted(places, dead)] = 0
        index.add(part)
        codes: NDArray[np.uint8] = faiss.rev_swig_ptr(index.codes.get(), index.codes.size())
        yield codes.reshape(-1, pairs[number] * BLOCK // 2).copy()
        index.reset()


def _by_blocks(lists: Lists, blocks: NDArray[np.int64] | None) -> Iterator[NDArray[np.int64]]:
    """Yield the places of all lists in block order, whole blocks at a time; -1 fills incomplete blocks.

    blocks: only these; None for all.
    """
    places = np.full(int(lists.blocks[-1]) * BLOCK, -1)
    starts = BLOCK * np.concatenate([[0], lists.blocks[:-1]]) - np.concatenate([[0], lists.ends[:-1]])
    places[np.arange(len(lists.members)) + np.repeat(starts, lists.sizes)] = lists.members
    if blocks is not None:
        places = places.reshape(-1, BLOCK)[blocks].reshape(-1)
    for first in range(0, len(places), _TOGETHER):
        yield places[first : first + _TOGETHER]


def _assigned(rows: NDArray[Any], centroids: FloatArray, roots: FloatArray) -> NDArray[np.int64]:
    """Return the nearest of some centroids for each row (n, dim), scaled by the square roots of the factors."""
    import faiss

    belongs = np.zeros(len(rows), np.int64)
    centroids = np.ascontiguousarray(centroids, np.float32)
    for first in range(0, len(rows), _TOGETHER):
        part = np.ascontiguousarray(rows[first : first + _TOGETHER] * roots, np.float32)
        belongs[first : first + _TOGETHER] = faiss.knn(part, centroids, 1)[1][:, 0]
    return belongs


def _pairs(where: slice) -> int:
    """Return how many pairs of dimensions a segment has; FAISS requires an even number."""
    return 2 * -(-len(range(where.start, where.stop)) // 4)


def _padded(rows: NDArray[Any]) -> FloatArray:
    """Return the rows (n, dim) of one segment as float32, of as many dimensions as its pairs have."""
    return np.pad(np.asarray(rows, np.float32), ((0, 0), (0, -rows.shape[1] % 4)))


def _empty(centroids: FloatArray) -> Any:
    """Return FAISS's index without vectors. centroids: of the lists (n_lists, dim)."""
    import faiss

    count, dim = centroids.shape
    quantizer: Any = faiss.IndexFlatIP(dim)
    quantizer.add(np.ascontiguousarray(centroids))
    index: Any = faiss.IndexIVFPQFastScan(quantizer, dim, count, dim // 2, 4, faiss.METRIC_INNER_PRODUCT)
    index.by_residual = False
    return index


def _learned(index: Any, codebook: FloatArray) -> None:
    import faiss

    faiss.copy_array_to_vector(np.ascontiguousarray(codebook, np.float32).reshape(-1), index.pq.centroids)
    index.is_trained = True
