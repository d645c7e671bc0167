"""New joint indexes out of what a library holds: made from nothing, or from the one before where little has changed.

Memory stays bounded: clips come from library.db in batches, vectors go to the file as they come, and what is held is a
graph's byte a dimension and its links (for 1,000,000 clips of 1,152 dimensions 1.4 GB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage import vectors
from vfindex.storage.graph import TRAINING_ROWS, Graph
from vfindex.storage.index_file import IndexWriter, writing_index
from vfindex.storage.joint import JointSpec, ModalityPrior
from vfindex.storage.library import joint_batches
from vfindex.storage.recall import CLIPS_A_QUESTION, QUESTIONS, efforts, questions
from vfindex.storage.records import FloatArray, Modality
from vfindex.storage.snapshot import Snapshot
from vfindex.storage.vectors import JointIndex, facts_of

# A graph is made anew, with a JointSpec of its own, when so many of the clips it was made of are gone, as a share; when
# so many have been added, which keeps the work of a library that grows from nothing within twice that of the last; and
# when the centre of all clips has moved so far, in spreads of the scores of unrelated ones.
MOST_GONE, MOST_ADDED, MOST_DRIFT = 0.1, 1.0, 0.1
# Clips from which it is estimated how far the centre has moved.
DRIFT_CLIPS = 4096
# Rows copied from one file to the next at a time.
_COPIED = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a generation is made of. ids: of all clips, increasing."""

    snapshot: Snapshot
    spec: JointSpec
    priors: dict[Modality, ModalityPrior]
    ids: Sequence[int]

    def rows(self, ids: Sequence[int]) -> Iterator[FloatArray]:
        """Yield the joint vectors of clips in bounded batches, at least an empty one."""
        yield np.zeros((0, self.spec.dim), np.float32)
        yield from (rows for _, rows in joint_batches(self.snapshot, self.spec, ids))

    def sample(self, count: int, ids: Sequence[int] | None = None) -> FloatArray:
        """Return the joint vectors of `count` clips, taken evenly from `ids` or from all."""
        every = self.ids if ids is None else ids
        return np.concatenate(list(self.rows(every[:: max(1, len(every) // count)][:count])))


def build(source: Source, path: Path) -> tuple[int, str]:
    """Make the index of all clips of the source; return (bytes, SHA-256) as `JointIndex.load` wants them."""
    ids = np.asarray(source.ids, np.int64)
    with writing_index(path) as file:
        file.put("ids", "<i8", [ids])
        file.put("dead", "<i8", [np.zeros(0, np.int64)])
        if len(ids) <= vectors.GRAPH_CLIPS:
            file.put("rows", "<f4", source.rows(source.ids))
            return file.end(facts_of(None, (), (), len(ids)))
        graph = Graph.trained(source.sample(TRAINING_ROWS))
        file.put("rows", "<f2", _added(graph, source.rows(source.ids)))
        slices = list(source.spec.slices().values())
        asked = questions(source.spec, source.priors, source.sample(CLIPS_A_QUESTION * QUESTIONS))
        measured = efforts(graph, file.written("rows"), asked, slices)
        if not measured[0].first:  # no walk finds enough at the default weights: all are scored
            return file.end(facts_of(None, (), (), len(ids)))
        _put_graph(file, graph)
        return file.end(facts_of(graph.entry, slices, measured, len(ids)))


def extend(before: JointIndex, source: Source, path: Path) -> tuple[int, str] | None:
    """Make the index of all clips of the source from the one before, whose JointSpec the source has.

    Return None, and make none, where it has no graph or too much has changed since that was made.
    """
    ids = np.asarray(source.ids, np.int64)
    held, graph = before.all_ids(), before.graph
    new, gone = np.setdiff1d(ids, held), np.flatnonzero(~np.isin(held, ids))
    if graph is None or (len(new) and new[0] <= held[-1]) or len(gone) > MOST_GONE * before.built:
        return None
    added = ids[ids > held[before.built - 1]]
    if len(added) > MOST_ADDED * before.built or drift(source, added.tolist()) > MOST_DRIFT:
        return None
    grown = graph.thawed()
    with writing_index(path) as file:
        file.put("ids", "<i8", [held, new])
        file.put("dead", "<i8", [gone])
        file.put("rows", "<f2", _followed(before.rows, _added(grown, source.rows(new.tolist()))))
        _put_graph(file, grown)
        return file.end(facts_of(grown.entry, before.slices, before.efforts, before.built))


def drift(source: Source, added: Sequence[int]) -> float:
    """Return how far clips that a JointSpec does not know have moved the centre of all.

    As the root mean square, over the background questions, of the score of the new centre, which is 0 for the old one.
    Unrelated clips have scores with a spread of about 1 for each modality.
    """
    rows = source.sample(DRIFT_CLIPS, added)
    if not len(rows):
        return 0.0
    moved = len(added) / len(source.ids) * rows.mean(axis=0)
    asked = [background for _, background in questions(source.spec, source.priors, rows[:0])]
    return float(max((np.sqrt(np.mean((each @ moved) ** 2)) for each in asked if len(each)), default=0.0))


def _added(graph: Graph, batches: Iterator[FloatArray]) -> Iterator[FloatArray]:
    """Yield the batches, each added to the graph."""
    for rows in batches:
        graph.add(rows)
        yield rows


def _followed(held: NDArray[Any], batches: Iterator[FloatArray]) -> Iterator[NDArray[Any]]:
    """Yield the rows held, then the batches."""
    for first in range(0, len(held), _COPIED):
        yield held[first : first + _COPIED]
    yield from batches


def _put_graph(file: IndexWriter, graph: Graph) -> None:
    for name, dtype, array in graph.arrays():
        file.put(name, dtype, [array])
