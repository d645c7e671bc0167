"""An index whose vectors are copied to several devices. There is no GPU here: the devices are on the processor."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from library_maker import DIM, prior
from numpy.typing import NDArray

from vfindex.storage.index import flat, reader, segment, tuning
from vfindex.storage.index.builder import Draft, Recipe
from vfindex.storage.index.flat import gpu_devices, half_flat
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.vector import JointSpec, ModalitySpec
from vfindex.storage.records import FloatArray

ZERO = np.zeros(DIM, np.float32)
RECIPE = Recipe(
    JointSpec({m: ModalitySpec(ZERO, ZERO, 1.0, w) for m, w in (("visual", 1.0), ("speech", 0.5))}),
    {"visual": prior(), "speech": prior(weight=0.5)},
)
CLIPS = 400


def vectors(random: np.random.Generator, count: int) -> FloatArray:
    return random.standard_normal((count, RECIPE.spec.dim)).astype(np.float32)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> JointIndex:
    """Return an index of four segments, one of them with codes, of CLIPS clips without those that were deleted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "EXACT_CLIPS", 80)
        patch.setattr(tuning, "QUESTIONS", 16)
        return made(tmp_path_factory.mktemp("index"))


@pytest.fixture
def index(stored: JointIndex, monkeypatch: pytest.MonkeyPatch) -> JointIndex:
    monkeypatch.setattr(reader, "BLOCK", 64)
    return JointIndex(stored.segments)


def made(folder: Path) -> JointIndex:
    random = np.random.default_rng(1)
    draft = Draft(folder, 1, RECIPE)
    draft.put(np.arange(1, 301), [vectors(random, 300)])
    draft.put(np.arange(301, 361), [vectors(random, 60)])
    draft.put(np.arange(295, 310), [vectors(random, 15)])
    draft.put(np.arange(361, 401), [vectors(random, 40)])
    draft.drop(np.arange(10, 30))
    index = JointIndex.load(folder, draft.finish())
    assert any(each.codes is not None for each in index.segments) and any(len(each.dead) for each in index.segments)
    return index


def scanned(
    index: JointIndex, query: FloatArray, top_k: int, among: Any = None, without: Any = None
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return what a scan of all segments on the processor gives."""
    held = index.ids()
    held = held if among is None else held[np.isin(held, among)]
    held = held if without is None else held[~np.isin(held, without)]
    scores = index.vectors(held)[1] @ query
    best = np.lexsort((held, -scores))[:top_k]
    return scores[best], held[best]


def counting(index: JointIndex, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the depth of each question to the shards."""
    asked: list[int] = []
    assert index.shards is not None
    plain = index.shards.nearest
    monkeypatch.setattr(index.shards, "nearest", lambda query, top_k: asked.append(top_k) or plain(query, top_k))
    return asked


@pytest.mark.parametrize("devices", [1, 2, 3, 20])
def test_shards_answer_as_a_scan_does(index: JointIndex, devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    index.copy_to([half_flat] * devices)
    asked, random = counting(index, monkeypatch), np.random.default_rng(2)
    assert index.is_exact
    for query in vectors(random, 20):
        for top_k in (1, 10, 500):
            expected = scanned(index, query, top_k)
            scores, ids = index.nearest(query[None], top_k)
            assert ids[0].tolist() == expected[1].tolist()
            np.testing.assert_allclose(scores[0], expected[0], rtol=1e-5)
    assert len(asked) == 60


@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
def test_filters_and_outdated_clips_are_left_out(
    index: JointIndex, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.copy_to([half_flat] * 2)
    asked, random = counting(index, monkeypatch), np.random.default_rng(3)
    for query in vectors(random, 20):
        among = np.flatnonzero(random.random(CLIPS + 50) < share)
        without = np.sort(random.choice(CLIPS, 30, replace=False))
        expected = scanned(index, query, 10, among, without)
        _, ids = index.nearest(query[None], 10, among, without)
        assert ids[0].tolist() == expected[1].tolist()
    assert asked or share < 0.1, "of a choice of few all are scored by the processor"


def test_a_filter_that_leaves_too_few_is_answered_by_the_processor(
    index: JointIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SHARDS_TOP_K", 100)
    monkeypatch.setattr(reader, "SPARE_CANDIDATES", 0)
    index.copy_to([half_flat] * 2)
    asked, [query] = counting(index, monkeypatch), vectors(np.random.default_rng(4), 1)
    worst = np.sort(scanned(index, query, CLIPS)[1][-200:])
    assert index.nearest(query[None], 10, worst)[1][0].tolist() == scanned(index, query, 10, worst)[1].tolist()
    assert len(asked) == 1, "20 were fetched, and none of them was wanted"
    few = np.arange(100, 110)
    assert index.nearest(query[None], 10, few)[1][0].tolist() == scanned(index, query, 10, few)[1].tolist()
    assert len(asked) == 1, "a choice of few is never asked for"


def test_scores_are_those_of_the_index_whatever_a_device_rounds(index: JointIndex) -> None:
    class Rounding:
        """A device that rounds its scores, and so their order."""

        def __init__(self, plain: Any) -> None:
            self.plain = plain

        def nearest(self, query: FloatArray, top_k: int) -> NDArray[np.int64]:
            ids: NDArray[np.int64] = self.plain.nearest(query, top_k)
            return np.concatenate([ids[:20][::-1], ids[20:]])

    index.copy_to([half_flat])
    index.shards = Rounding(index.shards)  # type: ignore[assignment]
    [query] = vectors(np.random.default_rng(5), 1)
    assert index.nearest(query[None], 10)[1][0].tolist() == scanned(index, query, 10)[1].tolist()


def test_a_device_that_fails_is_reported_once_and_not_used(index: JointIndex, caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def nearest(self, *_: Any) -> None:
            raise RuntimeError("CUDA error 700")

    index.shards = Failing()  # type: ignore[assignment]
    queries = vectors(np.random.default_rng(6), 3)
    with caplog.at_level(logging.WARNING):
        assert index.nearest(queries, 5)[1].shape == (3, 5)
    assert [record.message for record in caplog.records] == [
        "the joint index is searched on the processor from now on: a GPU failed (CUDA error 700)"
    ]
    assert index.shards is None


# --- GPUs: there is none here, what is asked of them is real ---------------------------------------------------------


def test_each_gpu_needs_the_memory_of_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_devices(10**9) == [] or faiss.get_num_gpus()
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(flat, "_free_bytes", lambda device: (4 - 2 * device) * 10**9)
    monkeypatch.setattr(flat, "_resources", lambda: None)
    assert len(gpu_devices(10**9)) == 2
    with pytest.raises(RuntimeError, match=r"GPU 1 has 2\.0 GB free, and it takes 2\.3 GB"):
        gpu_devices(2 * 10**9)


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="for a machine without a GPU")
def test_without_a_gpu_its_memory_is_not_known() -> None:
    with pytest.raises(RuntimeError, match="GPU 0"):
        flat._free_bytes(0)


def test_vectors_of_a_gpu_are_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(faiss, "GpuIndexFlatConfig"):
        pytest.skip("this FAISS knows no GPUs")
    made: list[Any] = []
    monkeypatch.setattr(faiss, "GpuIndexFlatIP", lambda *arguments: made.append(arguments))
    flat._gpu_flat(3, None, 24)
    [(_, dim, config)] = made
    assert (dim, config.device, config.useFloat16) == (24, 3, True)
