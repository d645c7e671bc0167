"""Makes the joint index of the next generation: seals segments, deletes clips, merges segments, writes the list of all.

What readers have open is never changed: every step writes new files, and the next generation names them. Memory stays
bounded: vectors go to the file as they come and are read from there, mapped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import evenly_spaced
from vfindex.storage.index import segment
from vfindex.storage.index.file_format import IndexWriter, writing_index
from vfindex.storage.index.ivf_pq import write_codes
from vfindex.storage.index.merging import level
from vfindex.storage.index.reader import LIST_SUFFIX, SEGMENT_SUFFIX, JointIndex, write_list
from vfindex.storage.index.search_params import TunedParams
from vfindex.storage.index.segment import IndexSegment, facts_of
from vfindex.storage.index.tuning import CLIPS_A_QUESTION, QUESTIONS, is_enough, questions, tuned_params
from vfindex.storage.joint.vector import JointSpec, ModalityPrior
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray, StoredFile

# Vectors copied from older segments at a time.
_COPIED = 1 << 16
# Clips from which the mean of a segment of an earlier version is estimated.
_MEAN_CLIPS = 4096
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What segments are built for. spec: of their vectors. priors: with the background queries for tuning."""

    spec: JointSpec
    priors: Mapping[ModalityName, ModalityPrior]


class Draft:
    """The next joint index: `put` vectors, `drop` clips, `merge` segments, then `finish`. index: as it stands.

    `qdrant.draft.QdrantDraft` does the same elsewhere.
    """

    def __init__(self, folder: Path, number: int, recipe: Recipe, segments: Sequence[IndexSegment] = ()) -> None:
        """folder: of the files. number: of the generation, which names them. segments: of the generation before."""
        self._folder, self._name, self._recipe = folder, f"{number:08d}", recipe
        self._segments, self._former = list(segments), {each.file for each in segments}
        self._new: list[Path] = []

    @property
    def spec(self) -> JointSpec:
        return self._recipe.spec

    @property
    def has_sealed(self) -> bool:
        """Whether a segment was sealed."""
        return any(path.suffix == SEGMENT_SUFFIX for path in self._new)

    @property
    def is_new(self) -> bool:
        """Whether no segment of the generation before is left."""
        return self._former.isdisjoint(each.file for each in self._segments)

    @property
    def index(self) -> JointIndex:
        return JointIndex([each for each in self._segments if len(each)] or self._segments[:1])

    def ids(self) -> Ids:
        """Return the clip ids of the index, as it stands, increasing."""
        return self.index.ids()

    def put(self, ids: Ids, rows: Iterable[FloatArray]) -> None:
        """Seal a segment of clips; older vectors of these are deleted. ids: increasing. rows: in batches (n, dim)."""
        self.drop(ids)
        self._segments.append(self._sealed(ids, rows, self._segments))

    def drop(self, ids: Ids) -> None:
        """Delete clips. ids: increasing; those that are not there are passed over."""
        self._segments = [each.without(ids) for each in self._segments]

    def merge(self, chosen: Sequence[IndexSegment], check: Callable[[], None] = lambda: None) -> None:
        """Replace segments by one with their living clips. check: called often; may raise, which changes nothing.

        Raises LibraryDamaged rather than to give damaged vectors checksums that hold.
        """
        for each in chosen:
            check()
            each.check_rows(self._folder)
        before, others = self._segments, [each for each in self._segments if each not in chosen]
        ids = np.concatenate([each.living() for each in chosen])
        order = np.argsort(ids)
        self._segments = others
        try:
            self._segments = [*others, self._sealed(ids[order], _gathered(chosen, order, check), before)]
        except BaseException:
            self._segments = before
            raise

    def finish(self) -> StoredFile:
        """Return the file of the generation: the only segment, or a list of all. Raises OSError."""
        segments = self.index.segments
        is_whole = len(segments) == 1 and not len(segments[0].dead) and not segments[0].is_raised
        only = segments[0].file if is_whole else None
        if only is not None:
            return only
        self._new.append(self._folder / f"{self._name}{LIST_SUFFIX}")
        return write_list(self._new[-1], segments)

    def discard(self) -> None:
        """Delete the files written."""
        for path in self._new:
            path.unlink(missing_ok=True)

    def _sealed(self, ids: Ids, rows: Iterable[NDArray[Any]], known: Sequence[IndexSegment]) -> IndexSegment:
        """Return a new segment. known: segments whose search parameters may be used again."""
        made = len([path for path in self._new if path.suffix == SEGMENT_SUFFIX])
        path = self._folder / f"{self._name}{f'-{made + 1}' if made else ''}{SEGMENT_SUFFIX}"
        is_only = not any(map(len, self._segments))
        is_flat = len(ids) <= max(segment.flat_clips(), segment.EXACT_CLIPS if is_only else 0)
        began, total = time.monotonic(), np.zeros(self._recipe.spec.dim)
        self._new.append(path)
        with writing_index(path) as file:
            file.put("ids", "<i8", [ids])
            nothing = np.zeros((0, self._recipe.spec.dim), np.float32)
            file.put("rows", "<f4" if is_flat and is_only else "<f2", chain([nothing], _summed(rows, total)))
            # In float16, the mean of so many vectors gives none of them away: see `erasure`.
            file.put("centre", "<f4" if is_flat else "<f2", [total[None] / max(1, len(ids))])
            tuned = None if is_flat else self._coded(file, known)
            stored = file.end(facts_of(tuned, time.monotonic() - began))
        return IndexSegment.load(self._folder, stored)

    def _coded(self, file: IndexWriter, known: Sequence[IndexSegment]) -> TunedParams:
        """Write the codes of the vectors written; return their search parameters.

        Those of a segment of about the same size are kept if they find enough here too.
        """
        recipe, rows = self._recipe, file.written("rows")
        slices = tuple(recipe.spec.slices().values())
        codes = write_codes(file, slices, recipe.spec.corners()[0])
        sample = np.asarray(rows[evenly_spaced(len(rows), CLIPS_A_QUESTION * QUESTIONS)], np.float32)
        alike = [each.tuned for each in known if each.tuned and level(len(each)) == level(len(rows))]
        if alike and is_enough(alike[0], codes, rows, questions(recipe.spec, recipe.priors, sample)):
            return alike[0]
        return tuned_params(codes, rows, questions(recipe.spec, recipe.priors, sample), slices)


def drift(index: JointIndex, recipe: Recipe) -> float:
    """Return how far the mean vector of all clips is from where the JointSpec, estimated from them, has put it: at 0.

    As the root mean square, over the background questions, of the score of that mean; unrelated clips have scores with
    a spread of about 1 for each modality. Of a shared JointSpec it says nothing.
    """
    weights = np.array([len(each) for each in index.segments], np.float64)
    centres = np.stack([_centre(each) for each in index.segments])
    mean = (weights / max(1.0, weights.sum()) @ centres).astype(np.float32)
    nothing = np.zeros((0, index.dim), np.float32)
    asked = [background for _, background in questions(recipe.spec, recipe.priors, nothing)]
    return float(max((np.sqrt(np.mean((each @ mean) ** 2)) for each in asked if len(each)), default=0.0))


def _centre(part: IndexSegment) -> FloatArray:
    """Return the mean vector of a segment; estimated where its file, of an earlier version, does not say."""
    if part.centre is not None:
        return part.centre
    some = np.asarray(part.rows[evenly_spaced(len(part.rows), _MEAN_CLIPS)], np.float32)
    return np.asarray(some.mean(axis=0) if len(some) else np.zeros(part.dim), np.float32)


def _summed(rows: Iterable[NDArray[Any]], total: NDArray[np.float64]) -> Iterator[NDArray[Any]]:
    """Yield the batches, and add them up in `total`."""
    for part in rows:
        total += part.sum(axis=0, dtype=np.float64)
        yield part


def _gathered(chosen: Sequence[IndexSegment], order: Ids, check: Callable[[], None]) -> Iterator[NDArray[Any]]:
    """Yield the living vectors of segments in batches. order: of the living clips of all, one segment after another."""
    places = np.concatenate([np.delete(np.arange(len(each.ids)), each.dead) for each in chosen])
    owners = np.repeat(np.arange(len(chosen)), [len(each) for each in chosen])
    for first in range(0, len(order), _COPIED):
        check()
        part = order[first : first + _COPIED]
        rows = np.empty((len(part), chosen[0].dim), np.float32)
        for owner, each in enumerate(chosen):
            own = owners[part] == owner
            rows[own] = each.rows[places[part[own]]]
        yield rows
