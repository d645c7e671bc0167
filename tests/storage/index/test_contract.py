"""Put, drop and nearest, as every index of joint vectors must do them: a flat one, one of many segments, and Qdrant.

`Exact` is the oracle: a dictionary, and library.db for what Qdrant leaves to it. Qdrant is its local mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, prior
from numpy.typing import NDArray

from vfindex.storage.index import codes, segment, tuning
from vfindex.storage.index.builder import Draft, Recipe
from vfindex.storage.index.ivf_pq import IvfPq
from vfindex.storage.index.merging import due_merges
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.vector import JointSpec, ModalitySpec
from vfindex.storage.qdrant import collection as qdrant
from vfindex.storage.qdrant import index as remote
from vfindex.storage.qdrant.draft import QdrantDraft
from vfindex.storage.qdrant.index import QdrantGeneration, Source, Target
from vfindex.storage.records import FloatArray

# What the local mode of the client says of settings that it lacks.
pytestmark = pytest.mark.filterwarnings("ignore:.*(Payload indexes|Local mode)")
Ids = NDArray[np.int64]
ZERO = np.zeros(DIM, np.float32)
RECIPE = Recipe(
    JointSpec({m: ModalitySpec(ZERO, ZERO, 1.0, w) for m, w in (("visual", 1.0), ("speech", 0.5))}),
    # Background queries like those that are asked: what is tuned for others has no known recall.
    {
        "visual": replace(prior(), background=np.random.default_rng(6).standard_normal((64, DIM)).astype(np.float32)),
        "speech": replace(
            prior(weight=0.5), background=np.random.default_rng(7).standard_normal((64, DIM)).astype(np.float32)
        ),
    },
)
WIDTH = RECIPE.spec.dim


class Exact:
    """What an index must answer."""

    def __init__(self) -> None:
        self.rows: dict[int, FloatArray] = {}

    def put(self, ids: Ids, rows: FloatArray) -> None:
        self.rows.update(zip(ids.tolist(), rows, strict=True))

    def drop(self, ids: Ids) -> None:
        for id_ in ids.tolist():
            self.rows.pop(id_, None)

    def scores(self, query: FloatArray, among: Ids | None = None) -> dict[int, float]:
        allowed = None if among is None else set(among.tolist())
        return {id_: float(row @ query) for id_, row in self.rows.items() if allowed is None or id_ in allowed}


class Index:
    """An index in files: every change is a generation, opened again before it is asked."""

    def __init__(self, folder: Path, *, merges: bool) -> None:
        self.folder, self.merges, self.number = folder, merges, 0
        self.index: JointIndex | None = None

    def put(self, ids: Ids, rows: FloatArray) -> None:
        draft = self._draft()
        draft.put(ids, [rows[: len(rows) // 2], rows[len(rows) // 2 :]])
        self._publish(draft)

    def drop(self, ids: Ids) -> None:
        draft = self._draft()
        draft.drop(ids)
        self._publish(draft)

    def nearest(self, queries: FloatArray, top_k: int, among: Ids | None = None) -> tuple[FloatArray, Ids]:
        assert self.index is not None
        return self.index.nearest(queries, top_k, among)

    def _draft(self) -> Draft:
        self.number += 1
        return Draft(self.folder, self.number, RECIPE, self.index.segments if self.index else ())

    def _publish(self, draft: Draft) -> None:
        self.index = JointIndex.load(self.folder, draft.finish(), thorough=True, known=self.index)
        while self.merges and (due := due_merges(self.index.segments)):
            draft = self._draft()
            draft.merge(due[0])
            self.index = JointIndex.load(self.folder, draft.finish(), known=self.index)


class InQdrant(Index):
    """An index in a collection of Qdrant, extended by every change, as `Index` is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, merges=False)
        self.library, self.generation = Exact(), None
        self.source = Source(self._rows, lambda ids: ids // 4)

    def put(self, ids: Ids, rows: FloatArray) -> None:
        self.library.put(ids, rows)
        super().put(ids, rows)

    def drop(self, ids: Ids) -> None:
        self.library.drop(ids)
        super().drop(ids)

    def _rows(self, ids: Ids) -> Iterator[tuple[Ids, FloatArray]]:
        for part in np.array_split(ids, 3):
            yield part, np.array([self.library.rows[id_] for id_ in part.tolist()], np.float32).reshape(-1, WIDTH)

    def _draft(self) -> Any:
        self.number += 1
        where = (self.folder, self.number)
        return QdrantDraft(where, RECIPE, Target("http://localhost:6333", "abc"), self.source, self.generation)

    def _publish(self, draft: Any) -> None:
        stored = draft.finish()
        draft.settle()
        self.generation = QdrantGeneration.load(self.folder, stored)
        changes: Any = SimpleNamespace(changed=lambda _: [])
        self.generation.within(changes, RECIPE.spec)
        self.index = remote.QdrantIndex(self.generation, self.source)  # type: ignore[assignment]


@pytest.fixture(params=["flat", "segments", "merged", "Qdrant", "Qdrant, few named"])
def index(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    if request.param.startswith("Qdrant"):
        from qdrant_client import QdrantClient

        client = QdrantClient(":memory:")
        monkeypatch.setattr(qdrant, "connect", lambda *_: client)
        monkeypatch.setattr(remote, "SCANNED_HERE", 0)
        if request.param != "Qdrant":
            monkeypatch.setattr(remote, "MOST_NAMED", 55)
            monkeypatch.setattr(remote, "WIDE_SHARE", 0.5)
        yield InQdrant(tmp_path)
        client.close()
        return
    if request.param != "flat":
        monkeypatch.setattr(segment, "EXACT_CLIPS", 80)
        monkeypatch.setattr(IvfPq, "cost", lambda *_: 0.0)
        monkeypatch.setattr(tuning, "QUESTIONS", 32)
        monkeypatch.setattr(tuning, "REQUIRED", ((1.0, 0.0), (1.0, 0.0)))  # one miss of twelve queries is 0.008
        monkeypatch.setattr(codes, "DIMS", 2)  # of 8 in all: one code would be half of a vector
    yield Index(tmp_path, merges=request.param == "merged")


def vectors(random: np.random.Generator, count: int) -> FloatArray:
    """Return joint vectors whose numbers are exact in float16; every third has no speech."""
    rows = np.round(random.standard_normal((count, WIDTH)) * 64).astype(np.float32) / 64
    rows[::3, DIM:] = 0
    return rows


def assert_alike(index: Index, exact: Exact, random: np.random.Generator, among: Ids | None = None) -> None:
    queries, shares = vectors(random, 12), []
    queries[::4, DIM:] = 0
    for query in queries:
        expected = exact.scores(query, among)
        scores, ids = index.nearest(query[None], 10, among)
        assert len(ids[0]) == min(10, len(expected)) == len(set(ids[0].tolist()))
        assert np.allclose(scores[0], [expected[id_] for id_ in ids[0].tolist()], atol=1e-3), "of the newest vectors"
        assert np.all(np.diff(scores[0]) <= 0)
        best = sorted(expected.values(), reverse=True)[:10]
        shares.append(np.mean(scores[0] >= best[-1] - 1e-3) if best else 1.0)
    assert np.mean(shares) >= 0.98


def test_the_last_put_counts_and_what_is_dropped_is_gone(index: Index) -> None:
    random, exact = np.random.default_rng(3), Exact()
    known: Ids = np.arange(1, 201)
    for each in (index, exact):
        each.put(known, vectors(np.random.default_rng(1), 200))
    for turn in range(12):
        new = np.arange(201 + 25 * turn, 226 + 25 * turn)
        changed = np.sort(random.choice(known, 15, replace=False))
        ids, rows = np.union1d(new, changed), vectors(random, 40)
        gone = np.sort(random.choice(np.setdiff1d(known, changed), 5 + 10 * (turn == 6), replace=False))
        for each in (index, exact):
            each.put(ids, rows)
            each.drop(np.append(gone, 10_000))
        known = np.setdiff1d(np.union1d(known, new), gone)
        assert_alike(index, exact, random)
        assert index.index is not None and index.index.ids().tolist() == known.tolist() == sorted(exact.rows)
        assert_alike(index, exact, random, among=np.sort(random.choice(known, 60, replace=False)))
    held, rows = index.index.vectors(np.array([10_000, *known[:50].tolist()]))
    assert held.tolist() == [False] + 50 * [True]
    assert np.allclose(rows, [exact.rows[id_] for id_ in known[:50].tolist()], atol=1e-3)


def test_nothing_is_left_when_all_is_dropped(index: Index) -> None:
    index.put(np.arange(1, 101), vectors(np.random.default_rng(2), 100))
    index.drop(np.arange(1, 101))
    assert index.nearest(np.ones((2, WIDTH), np.float32), 5)[1].shape == (2, 0)
    index.put(np.array([7]), vectors(np.random.default_rng(2), 1) + 1)
    assert index.nearest(np.ones((1, WIDTH), np.float32), 5)[1].tolist() == [[7]]


def test_among_no_clip_nothing_is_found(index: Index) -> None:
    index.put(np.arange(1, 101), vectors(np.random.default_rng(2), 100))
    for among in (np.zeros(0, np.int64), np.array([0, 101, 500])):
        assert index.nearest(np.ones((1, WIDTH), np.float32), 5, among)[1].shape == (1, 0)


def test_equal_scores_are_in_order_of_id(index: Index) -> None:
    for ids in ([2, 5, 9], [1, 6], [3, 4, 10]):
        index.put(np.array(ids), np.ones((len(ids), WIDTH), np.float32))
    assert index.nearest(np.ones((1, WIDTH), np.float32), 6)[1].tolist() == [[1, 2, 3, 4, 5, 6]]


def test_few_segments_stay(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(index, InQdrant):
        pytest.skip("Qdrant has segments of its own")
    random = np.random.default_rng(5)
    for turn in range(30):
        index.put(np.arange(20 * turn, 20 * turn + 20), vectors(random, 20))
    assert index.index is not None
    count = len(index.index.segments)
    assert count <= 6 if index.merges else count == 30
    some: Any = {path.name for path in index.folder.iterdir() if path.suffix == ".part"}
    assert not some
