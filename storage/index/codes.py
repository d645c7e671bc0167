"""How vectors become inverted lists and 4-bit codes, one for every four dimensions.

Lists are k-means clusters. What is coded is the difference from the mean of the list, turned so that every code has as
much of the variance (Ge, He, Ke and Sun 2013, CVPR). Codes are in FAISS's layout of blocks, in the order of the
lists. Indexes of earlier versions have a code for every two dimensions, of the vectors as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import in_sorted
from vfindex.storage.index.flat import one_thread
from vfindex.storage.joint.codecs import as_float32
from vfindex.storage.records import FloatArray

# Values of a code, and vectors per block in FAISS's layout, processed together in registers.
CODES, BLOCK = 16, 32
# Dimensions of a code. With 8, the best 200 take three to six times the candidates: docs/decisions/joint-index.md.
DIMS = 4
# Vectors that codebook and lists are trained on; for the lists, this many per list.
TRAINING_ROWS, ROWS_A_LIST = 32_768, 64
# Iterations of k-means; later ones change little.
_ROUNDS = 10
# Vectors encoded or assigned to lists at a time.
_TOGETHER = 1 << 15


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

    def of_rows(self) -> NDArray[np.int32]:
        """Return the list of each row (n,)."""
        result = np.empty(len(self.members), np.int32)
        result[self.members] = np.repeat(np.arange(len(self.ends), dtype=np.int32), self.sizes)
        return result

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

    def holding(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the lists that hold some rows, increasing. rows: increasing."""
        at = np.flatnonzero(in_sorted(self.members.astype(np.int64), rows))
        return np.unique(np.searchsorted(self.ends, at, side="right"))

    def means(self, rows: NDArray[Any], dead: NDArray[np.int64]) -> Iterator[FloatArray]:
        """Yield the mean (dim,) of the other rows of each list that holds dead ones, 0 where there are none.

        rows: (n, dim), of all. dead: increasing.
        """
        for number in self.holding(dead).tolist():
            members = np.sort(self.members[self.ends[number] - self.sizes[number] : self.ends[number]].astype(np.int64))
            living = rows[members[~in_sorted(members, dead)]]
            yield living.sum(axis=0, dtype=np.float32) / np.float32(max(1, len(living)))


@dataclass(frozen=True, slots=True, eq=False)
class Coder:
    """How vectors become codes.

    segments: as `segments_of` returns them. codebook: of all codes (n_codes, dims * CODES). turns: of each segment, see
    `turn_of`, applied to differences from the means of lists; none: vectors are coded as they are.
    """

    segments: tuple[slice, ...]
    codebook: FloatArray
    turns: tuple[FloatArray, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if they do not fit together."""
        if self.codebook.ndim != 2 or not self.dims or self.codebook.shape != (sum(self.counts), self.dims * CODES):
            raise ValueError("the codes are of other vectors")
        shapes = [(_width(where), count * self.dims) for where, count in zip(self.segments, self.counts, strict=True)]
        if self.turns and [each.shape for each in self.turns] != shapes:
            raise ValueError("the codes are of other vectors")

    @property
    def dims(self) -> int:
        """Dimensions of a code."""
        return int(self.codebook.shape[1]) // CODES

    @property
    def counts(self) -> list[int]:
        """How many codes a vector has in each segment."""
        return [_codes_in(_width(where), self.dims) for where in self.segments]

    def book(self, number: int) -> FloatArray:
        """Return the codebook of one segment."""
        end = sum(self.counts[: number + 1])
        return self.codebook[end - self.counts[number] : end]

    def turned(self, part: FloatArray, number: int) -> FloatArray:
        """Return vectors (n, width) of one segment as they are coded: as wide as its codes."""
        if self.turns and len(part) == 1:  # NumPy's product of 700 dimensions or more starts threads that wait actively
            return np.asarray(np.einsum("nd,dk->nk", part, self.turns[number]), np.float32)
        if self.turns:
            return part @ self.turns[number]
        return np.pad(part, ((0, 0), (0, self.counts[number] * self.dims - part.shape[1])))


def segments_of(slices: Sequence[slice], dim: int) -> list[slice]:
    """Return the slices, and the rest after the last of them in a vector of `dim` dimensions."""
    end = slices[-1].stop if slices else 0
    return [*slices, *([slice(end, dim)] if end < dim else [])]


def train(sample: FloatArray, segments: Sequence[slice]) -> Coder:
    """Return what codes a sample (n, dim) of differences from the means of their lists best."""
    import faiss

    books, turns = [], []
    for where in segments:
        turn = turn_of(sample[:, where])
        quantizer: Any = faiss.ProductQuantizer(turn.shape[1], turn.shape[1] // DIMS, 4)
        rounds = quantizer.cp
        rounds.niter, rounds.min_points_per_centroid, rounds.max_points_per_centroid = _ROUNDS, 1, TRAINING_ROWS
        with one_thread():  # a few dimensions each, too few for more
            quantizer.train(np.ascontiguousarray(sample[:TRAINING_ROWS, where] @ turn))
        books.append(faiss.vector_to_array(quantizer.centroids).reshape(-1, DIMS * CODES))
        turns.append(turn)
    return Coder(tuple(segments), np.concatenate(books), tuple(turns))


def turn_of(sample: FloatArray) -> FloatArray:
    """Return a matrix (width, codes * DIMS) with orthonormal rows, which turns vectors of this width before coding.

    The principal directions of the sample (n, width) are dealt out to the codes in order of variance, like cards.
    """
    width = sample.shape[1]
    count = _codes_in(width, DIMS)
    centred = sample - sample.mean(axis=0)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    turn = np.zeros((width, count * DIMS), np.float32)
    numbers = np.arange(width)
    turn[:, numbers % count * DIMS + numbers // count] = directions
    return turn


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
        sums[numbers] += np.add.reduceat(as_float32(rows[first + order]), starts, axis=0)
    return Lists(members, np.cumsum(sizes), sums / np.maximum(1, sizes).astype(np.float32)[:, None])


def encode(
    rows: NDArray[Any], lists: Lists, coder: Coder, number: int, dead: NDArray[np.int64] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield the codes of one segment of all vectors, (n_blocks, bytes of a block) at a time. rows: (n, dim).

    dead: increasing; only the blocks with these rows, which are encoded as 0. None: all blocks.
    """
    import faiss

    count = coder.counts[number]
    index: Any = faiss.IndexPQFastScan(count * coder.dims, count, 4, faiss.METRIC_INNER_PRODUCT)
    learn(index, coder.book(number))
    of_rows = lists.of_rows()
    for places in _by_blocks(lists, None if dead is None else lists.blocks_of(dead)):
        some = np.maximum(places, 0)
        part = as_float32(rows[some, coder.segments[number]])
        if coder.turns:
            part -= lists.centroids[of_rows[some], coder.segments[number]]
        part = coder.turned(part, number)
        part[places < 0] = 0
        if dead is not None:
            part[in_sorted(places, dead)] = 0
        index.add(part)
        codes: NDArray[np.uint8] = faiss.rev_swig_ptr(index.codes.get(), index.codes.size())
        yield codes.reshape(-1, count * BLOCK // 2).copy()
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
        part = np.ascontiguousarray(as_float32(rows[first : first + _TOGETHER]) * roots, np.float32)
        belongs[first : first + _TOGETHER] = faiss.knn(part, centroids, 1)[1][:, 0]
    return belongs


def _width(where: slice) -> int:
    return len(range(where.start, where.stop))


def _codes_in(width: int, dims: int) -> int:
    """Return how many codes of `dims` dimensions cover a segment; FAISS requires an even number."""
    return 2 * -(-width // (2 * dims))


def learn(index: Any, codebook: FloatArray) -> None:
    """Give an index of FAISS a codebook that was trained."""
    import faiss

    faiss.copy_array_to_vector(np.ascontiguousarray(codebook, np.float32).reshape(-1), index.pq.centroids)
    index.is_trained = True
