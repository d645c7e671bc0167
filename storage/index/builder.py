"""Builds joint indexes: from nothing, or from the one before if little has changed.

Memory stays bounded: clips come from library.db in batches, vectors go to the file as they come and are read from
there, mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.reader import Snapshot
from vfindex.storage.ids import evenly_spaced
from vfindex.storage.index import reader
from vfindex.storage.index.file_format import IndexWriter, writing_index
from vfindex.storage.index.flat import joint_batches
from vfindex.storage.index.ivf_pq import (
    ROWS_A_LIST,
    TRAINING_ROWS,
    IvfPq,
    Lists,
    cluster,
    encode,
    grown,
    number_of_lists,
    segments_of,
    train,
)
from vfindex.storage.index.reader import JointIndex, code_name, facts_of
from vfindex.storage.index.tuning import CLIPS_A_QUESTION, QUESTIONS, questions, tuned_params
from vfindex.storage.joint.vector import JointSpec, ModalityPrior
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray

# Lists are built again, with a JointSpec of their own, when so many of the clips they were made of are gone or have
# other vectors, as a share; when so many have been added, which keeps the work of a library that grows from nothing
# within twice that of the last; and when the centre of all clips has moved so far, in spreads of the scores of
# unrelated ones.
MOST_GONE, MOST_ADDED, MOST_DRIFT = 0.1, 1.0, 0.1
# Clips from which it is estimated how far the centre has moved.
DRIFT_CLIPS = 4096
# Rows copied from one file to the next at a time.
_COPIED = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What an index is built from. ids: of all clips, increasing."""

    snapshot: Snapshot
    spec: JointSpec
    priors: dict[ModalityName, ModalityPrior]
    ids: Sequence[int]

    def rows(self, ids: Sequence[int] | NDArray[np.int64]) -> Iterator[FloatArray]:
        """Yield the joint vectors of clips in bounded batches, at least an empty one."""
        yield np.zeros((0, self.spec.dim), np.float32)
        yield from (rows for _, rows in joint_batches(self.snapshot, self.spec, ids))


def build(source: Source, path: Path) -> tuple[int, str]:
    """Build the index of all clips of the source; return (bytes, SHA-256) as `JointIndex.load` takes them."""
    ids = np.asarray(source.ids, np.int64)
    with writing_index(path) as file:
        file.put("ids", "<i8", [ids])
        file.put("dead", "<i8", [np.zeros(0, np.int64)])
        if len(ids) <= reader.EXACT_CLIPS:
            file.put("rows", "<f4", source.rows(source.ids))
            return file.end(facts_of(len(ids)))
        file.put("rows", "<f2", source.rows(source.ids))
        rows, slices = file.written("rows"), tuple(source.spec.slices().values())
        sample = _some(rows, max(TRAINING_ROWS, ROWS_A_LIST * number_of_lists(len(ids))))
        codebook = train(sample, segments_of(slices, source.spec.dim))
        codes = _coded(file, slices, cluster(sample, rows, source.spec.corners()[0]), codebook)
        asked = questions(source.spec, source.priors, _some(rows, CLIPS_A_QUESTION * QUESTIONS))
        return file.end(facts_of(len(ids), tuned_params(codes, rows, asked, slices)))


def extend(before: JointIndex, source: Source, changed: NDArray[np.int64], path: Path) -> tuple[int, str] | None:
    """Make the index of all clips of the source from the one before, whose JointSpec the source has.

    changed: clips with other vectors than in the one before, increasing. Vectors of deleted clips are zeroed. Returns
    None, and writes nothing, if it has no lists or too much has changed since they were trained.
    """
    ids = np.asarray(source.ids, np.int64)
    old, codes = before.all_ids(), before.codes
    new, gone = np.setdiff1d(ids, old), np.flatnonzero(~np.isin(old, ids))
    if codes is None or before.tuned is None or (len(new) and new[0] <= old[-1]):
        return None
    moved = np.setdiff1d(before.places_of(changed), gone)
    replaced = before.replaced + len(moved)
    added = ids[ids > old[before.built - 1]]
    if len(gone) + replaced > MOST_GONE * before.built or len(added) > MOST_ADDED * before.built:
        return None
    if drift(source, added.tolist(), before) > MOST_DRIFT:
        return None
    with writing_index(path) as file:
        file.put("ids", "<i8", [old, new])
        file.put("dead", "<i8", [gone])
        file.put("rows", "<f2", chain(_renewed(before, source, moved, gone), source.rows(new)))
        lists = grown(codes.lists, file.written("rows"), source.spec.corners()[0], moved, gone)
        _coded(file, before.tuned.slices, lists, codes.codebook)
        return file.end(facts_of(before.built, before.tuned, replaced))


def drift(source: Source, added: Sequence[int], before: JointIndex) -> float:
    """Return the drift: how far the clips added since the lists were trained have moved the mean vector.

    As the root mean square, over the background questions, of the difference that it makes to the score of the centre.
    Unrelated clips have scores with a spread of about 1 for each modality. The old centre scores 0 with a JointSpec of
    the library's own, and anything with a shared one.
    """
    rows = np.concatenate(list(source.rows(added[evenly_spaced(len(added), DRIFT_CLIPS)])))
    if not len(rows):
        return 0.0
    old = _some(before.rows[: before.built], DRIFT_CLIPS)
    old = old[np.any(old, axis=1)]  # without deleted clips
    moved = len(added) / len(source.ids) * (rows.mean(axis=0) - old.mean(axis=0))
    asked = [background for _, background in questions(source.spec, source.priors, rows[:0])]
    return float(max((np.sqrt(np.mean((each @ moved) ** 2)) for each in asked if len(each)), default=0.0))


def _some(rows: NDArray[Any], count: int) -> FloatArray:
    """Return `count` of the rows (n, dim), taken evenly."""
    return np.asarray(rows[evenly_spaced(len(rows), count)], np.float32)


def _renewed(
    before: JointIndex, source: Source, moved: NDArray[np.int64], gone: NDArray[np.int64]
) -> Iterator[NDArray[Any]]:
    """Yield the rows of an index: of the places `moved` those of the source, of `gone` zeros, others as they are."""
    ids = before.all_ids()
    for first in range(0, len(ids), _COPIED):
        rows = np.array(before.rows[first : first + _COPIED])
        rows[_within(gone, first) - first] = 0
        places = _within(moved, first)
        rows[places - first] = np.concatenate(list(source.rows(ids[places])))
        yield rows


def _within(places: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Return those of increasing places that stand in the piece copied from `first` on."""
    return places[slice(*np.searchsorted(places, (first, first + _COPIED)))]


def _coded(file: IndexWriter, slices: Sequence[slice], lists: Lists, codebook: FloatArray) -> IvfPq:
    """Write the lists and the codes of the vectors written."""
    rows = file.written("rows")
    segments = segments_of(slices, rows.shape[1])
    file.put("members", "<i4", [lists.members])
    file.put("ends", "<i8", [lists.ends])
    file.put("centroids", "<f4", [lists.centroids])
    file.put("codebook", "<f4", [codebook])
    for number in range(len(segments)):
        file.put(code_name(number), "|u1", encode(rows, lists, segments, codebook, number))
    return IvfPq(segments, lists, codebook, [file.written(code_name(number)) for number in range(len(segments))])
