"""A segment of the joint index: one immutable file of joint vectors, and which of its clips are deleted.

A flat segment is scanned exactly: float32 vectors of a library of up to `EXACT_CLIPS` clips, float16 ones of a small
segment of a larger library. Other segments hold float16 vectors and IVF-PQ codes (ivf_pq.py): a scan of the nearest
lists gives candidates, which are re-ranked by their vectors. The search parameters, numbers of lists and candidates,
are tuned for each weighting (tuning.py) and stored in the file; if no number of candidates suffices, all vectors are
scored.

The file is mapped, not read: `IndexSegment.load` says what is checked.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import positions_in, positions_in_runs, runs_of
from vfindex.storage.index import ivf_pq
from vfindex.storage.index.codes import CODES
from vfindex.storage.index.file_format import Blocks, IndexFile, damage
from vfindex.storage.index.flat import HalfVectors, used_span
from vfindex.storage.index.ivf_pq import IvfPq
from vfindex.storage.index.search_params import TunedParams
from vfindex.storage.records import FloatArray, StoredFile
from vfindex.storage.threads import parts_of, together

# Up to this many clips are one flat segment: of 1,152 dimensions, 230 MB, some 13 ms at 17 GB/s. The flat segments of a
# larger library hold up to a quarter of it together: every search scans them beside the others.
EXACT_CLIPS = 50_000
FLAT_SHARE = 0.25
# Ids are looked up one by one if the segment has more than this many times as many clips, or if they are fewer than
# this many for each of its runs of consecutive ids. By runs is faster up to some 100,000 runs of a million ids.
_FEW, _MANY_OF_A_RUN = 32, 4
# Numbers (clips times dimensions) that are enough for one call to gather and score, 1 ms; see `parts_of`.
_NUMBERS_A_CALL = 1 << 21
# With at least this share of the clips selected (all but outdated ones, say), the parameters tuned for all clips hold.
MOSTLY = 0.9
# Up to this size all checksums of a file are compared when it is opened (some 20 ms); of larger files, this many blocks
# of each large array.
CHECKED_BYTES = 1 << 24
CHECKED_BLOCKS = 16
# Arrays that are always checked completely.
STEERING = ("ids", "dead", "centre", *ivf_pq.STEERING)


class IndexSegment:
    """Joint vectors of clips, searched by inner product. file: where they are stored; None in memory."""

    def __init__(
        self,
        ids: NDArray[np.int64],
        rows: NDArray[Any],
        dead: NDArray[np.int64] | None = None,
        file: StoredFile | None = None,
    ) -> None:
        """ids: (n,), increasing. rows: (n, dim) float32 or float16. dead: rows of deleted clips, increasing."""
        self.ids, self.rows, self.file = ids, rows, file
        self.dead = np.zeros(0, np.int64) if dead is None else dead
        self.codes: IvfPq | None = None  # with its search parameters; None: a flat segment
        self.tuned: TunedParams | None = None
        self.is_raised = False  # the parameters are those of the list, no longer those of the file
        self.centre: FloatArray | None = None  # the mean vector (dim,); None: in files of earlier versions
        self.seconds = 0.0  # that building took
        self.unchecked: Blocks = {}  # blocks that a removal has overwritten, whose checksums do not hold

    def __len__(self) -> int:
        return len(self.ids) - len(self.dead)

    @property
    def dim(self) -> int:
        return int(self.rows.shape[1])

    def living(self) -> NDArray[np.int64]:
        """Return the clip ids without deleted ones, increasing."""
        return np.delete(self.ids, self.dead)

    def with_dead(self, dead: NDArray[np.int64]) -> IndexSegment:
        """Return the segment with these rows deleted, and no others; it shares everything else."""
        other = copy(self)
        other.dead = dead
        return other

    def without(self, ids: NDArray[np.int64]) -> IndexSegment:
        """Return the segment with these clips deleted too; those that it lacks are passed over."""
        places = self.places_of(ids)
        return self.with_dead(np.union1d(self.dead, places)) if len(places) else self

    def with_params(self, tuned: TunedParams) -> IndexSegment:
        """Return the segment with other search parameters than its file has; it shares everything else."""
        other = copy(self)
        other.tuned, other.is_raised = tuned, other.is_raised or tuned != self.tuned
        return other

    def places_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of these clips, deleted ones included; clips that are not in the segment are left out."""
        places, known = positions_in(ids, self.ids)
        return places[known]

    # --- searching ----------------------------------------------------------------------------------------------

    def nearest(
        self, query: FloatArray, top_k: int, among: NDArray[np.int64] | None, without: NDArray[np.int64] | None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, ids) of at most `top_k` clips, best first. query: (dim,).

        among: only these clip ids (m,), increasing. without: not these clip ids, increasing.
        """
        scores, places = self._nearest(query, top_k, self.kept(among, without))
        return scores, np.asarray(self.ids)[places]

    def kept(self, among: NDArray[np.int64] | None, without: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
        """Return the mask (n,) of the rows that may be returned, None for all."""
        dropped = self.dead if without is None else np.append(self.dead, self.places_of(self._near(without)))
        if among is None and not len(dropped):
            return None
        kept = np.full(len(self.ids), among is None)
        if among is not None:
            kept[self._places_of_many(self._near(among))] = True
        kept[dropped] = False
        return kept

    def _places_of_many(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return `places_of` increasing ids."""
        if len(ids) * _FEW < len(self.ids) or len(ids) < _MANY_OF_A_RUN * len(self._runs):
            return self.places_of(ids)
        return positions_in_runs(ids, self.ids, self._runs)

    @cached_property
    def _runs(self) -> NDArray[np.int64]:
        """See `runs_of`. Ids have gaps where videos were removed or changed."""
        return runs_of(self.ids)

    def _near(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of increasing ids that lie between the first and the last of the segment."""
        if not len(self.ids):
            return ids[:0]
        return ids[slice(*np.searchsorted(ids, (self.ids[0], self.ids[-1] + 1)))]

    def _nearest(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, places) of at most `top_k`, best first."""
        count = len(self.ids) if kept is None else int(np.count_nonzero(kept))
        top_k = min(top_k, count)
        if not top_k:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        found = self._found_by_codes(query, top_k, kept, count)
        # Clips without the query's modality score 0, many at once: their order among the codes says nothing about the
        # clips that a filter selects.
        if found is not None and len(found[0]) == top_k and (count >= MOSTLY * len(self.ids) or found[0][-1] > 0):
            return found
        return self._scan(query, top_k, kept)

    def _found_by_codes(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None, count: int
    ) -> tuple[FloatArray, NDArray[np.int64]] | None:
        """Return (scores, rows) of the best, or None if scoring all `count` is faster or the only way.

        What a filter selects is looked for in as many lists as hits at its depth among all need. How many candidates
        it needs was not measured: the best must lie in the first half of them, else there are more.
        """
        if self.codes is None or self.tuned is None:
            return None
        params, is_most = self.tuned.choose(query), count >= MOSTLY * len(self.ids)
        reach = params.of(-(-top_k * len(self.ids) // count))
        candidates, share = (reach if is_most else params.of(top_k)).candidates, reach.share
        while candidates and self.codes.cost(candidates, share) < count:
            places = self.codes.nearest(query, candidates, share, kept)
            if len(places) >= top_k:
                scores, best = self._scored(query, places, top_k)
                if is_most or len(places) == count or not np.isin(best, places[len(places) // 2 :]).any():
                    return scores, best
            elif kept is None:
                return None
            candidates, share = 2 * candidates, min(1.0, 2 * share)
        return None

    def _scan(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, rows) of the best, by scoring every selected row."""
        many = kept is None or 4 * np.count_nonzero(kept) > len(kept)
        if many and self.rows.dtype == np.float16:
            return HalfVectors(self.rows).best(query, top_k, kept)
        if kept is None or (many and self.rows.dtype == np.float32):
            scores = self.rows @ query
            if kept is not None:
                scores[~kept] = -np.inf
            places = _largest(scores, np.arange(len(scores)), top_k)
            return scores[places], places
        return self._scored(query, np.flatnonzero(kept), top_k)

    def _scored(self, query: FloatArray, places: NDArray[np.int64], top_k: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, rows) of the best of `places`, scored in the dimensions that the query uses.

        Ties are the same on any number of cores: it changes neither the parts nor their order.
        """
        span = used_span(query[None])
        query = query[span]
        count = min(parts_of(len(places) * len(query), _NUMBERS_A_CALL), len(places))
        parts = np.array_split(places, max(1, count))
        found = together(lambda number: self._best_of(parts[number], query, span, top_k), len(parts))
        scores, rows = (np.concatenate(each) for each in zip(*found, strict=True))
        best = _largest(scores, rows, top_k)
        return scores[best], rows[best]

    def _best_of(
        self, places: NDArray[np.int64], query: FloatArray, span: slice, top_k: int
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, rows) of the best of one part. query: in the dimensions of `span`."""
        rows = self.rows[places, span]
        if rows.dtype == np.float16:
            scores, best = HalfVectors(rows).best(query, top_k)
            return scores, places[best]
        scores = np.einsum("nd,d->n", rows, query)  # NumPy's product starts threads of its own
        best = _largest(scores, places, top_k)
        return scores[best], places[best]

    # --- files --------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls, folder: Path, stored: StoredFile, blocks: int | None = CHECKED_BLOCKS, unchecked: Blocks | None = None
    ) -> IndexSegment:
        """Return the segment in a file, mapped. Raises FileNotFoundError, or LibraryDamaged for another file.

        Checks its size, footer and STEERING arrays, and `blocks` blocks of each large array, None for all, except those
        of `unchecked`: damage in other blocks costs candidates, never memory safety, and a hit's score comes from
        library.db.
        """
        return cls.of(IndexFile.open(folder, stored), blocks, unchecked)

    def check_rows(self, folder: Path) -> None:
        """Compare every block of ids and vectors with its checksum. Raises FileNotFoundError, LibraryDamaged."""
        if self.file is not None:
            IndexFile.open(folder, self.file).check(("ids", "rows"), None, self.unchecked)

    @classmethod
    def of(cls, file: IndexFile, blocks: int | None = CHECKED_BLOCKS, unchecked: Blocks | None = None) -> IndexSegment:
        """Return the segment in an open file, see `load`."""
        passed_over = unchecked or {}
        file.check([name for name in STEERING if name in file], None, passed_over)
        if file.stored.size_bytes <= CHECKED_BYTES:
            blocks = None
        file.check([name for name in file.names if name not in STEERING], blocks, passed_over)
        try:
            segment = cls._of(file)
        except (KeyError, TypeError, ValueError) as exc:
            raise damage(file.path) from exc
        segment.unchecked = passed_over
        return segment

    @classmethod
    def _of(cls, file: IndexFile) -> IndexSegment:
        """Return the segment in a file. Raises KeyError, TypeError or ValueError for another content."""
        ids, rows = file.array("ids"), file.array("rows")
        dead = file.array("dead") if "dead" in file else np.zeros(0, np.int64)  # of earlier versions
        if rows.ndim != 2 or ids.ndim != 1 or len(ids) != len(rows) or np.any(ids[1:] <= ids[:-1]):
            raise ValueError("the clips of the segment are in disorder")
        if len(dead) and not (np.all(dead[1:] > dead[:-1]) and dead[0] >= 0 and dead[-1] < len(ids)):
            raise ValueError("the clips that are gone are in disorder")
        segment = cls(ids, rows, dead, file.stored)
        segment.seconds = float(file.facts.get("seconds", 0.0))
        if "centre" in file:
            segment.centre = np.asarray(file.array("centre"), np.float32).reshape(rows.shape[1])
        if file.facts["efforts"] is not None:
            segment.tuned = TunedParams.from_dict(file.facts["efforts"])
            segment.codes = ivf_pq.read_codes(file, segment.tuned.slices)
        return segment


def flat_clips() -> int:
    """Return how many clips the flat segments of a large library have at most; codes are learned from some."""
    return max(CODES, int(FLAT_SHARE * EXACT_CLIPS))


def facts_of(tuned: TunedParams | None = None, seconds: float = 0.0) -> dict[str, Any]:
    """Return the facts that the footer stores. seconds: that building took."""
    return {"efforts": None if tuned is None else tuned.to_dict(), "seconds": round(seconds, 3)}


def _largest(scores: FloatArray, rows: NDArray[np.int64], top_k: int) -> NDArray[np.int64]:
    """Return the positions of the `top_k` largest scores, largest first. Of equal scores the lowest rows come first."""
    first = max(0, len(scores) - top_k)
    chosen = np.flatnonzero(~(scores < np.partition(scores, first)[first])) if first else np.arange(len(scores))
    order: NDArray[np.int64] = chosen[np.lexsort((rows[chosen], -scores[chosen]))]
    return order[:top_k]
