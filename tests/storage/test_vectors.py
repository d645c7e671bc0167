"""The joint index where FAISS finds GPUs. There is none here: the copy is on the processor, the way to it is real."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from vfindex.storage import vectors
from vfindex.storage.vectors import ClipSet, JointIndex

DIM = 8


class Copy:
    """What index_cpu_to_all_gpus returns, counting its questions."""

    def __init__(self, index: Any) -> None:
        self.index = faiss.clone_index(index)
        self.asked = 0

    def search(self, rows: NDArray[np.float32], top_k: int) -> Any:
        self.asked += 1
        return self.index.search(rows, top_k)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, int, str]:
    rng = np.random.default_rng(0)
    index = JointIndex.build(DIM)
    index.add(np.arange(50, 1, -1), rng.standard_normal((49, DIM)).astype(np.float32))
    return (path := tmp_path / "a.faiss"), *index.save(path)


def load(stored: tuple[Path, int, str]) -> JointIndex:
    path, size_bytes, sha256 = stored
    return JointIndex.load(path, size_bytes=size_bytes, sha256=sha256)


def test_gpus_answer_as_the_processor_does(stored: tuple[Path, int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    questions = np.random.default_rng(1).standard_normal((3, DIM)).astype(np.float32)
    plain = load(stored).search(questions, 5)
    copies: list[Copy] = []
    monkeypatch.setattr(vectors, "GPU_CLIPS", 49)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: copies.append(Copy(index)) or copies[-1])
    index = load(stored)
    for found, expected in zip(index.search(questions, 5), plain, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert copies[0].asked == 1
    only = ClipSet(np.asarray([3, 30]))
    assert set(index.search(questions, 5, only)[1][0].tolist()) == {3, 30}
    assert copies[0].asked == 1, "a choice of clips is looked at on the processor"


def test_small_indexes_stay_on_the_processor(stored: tuple[Path, int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: pytest.fail("no device is opened for so few"))
    assert len(load(stored)) == 49


def test_a_full_gpu_is_told_of_and_done_without(
    stored: tuple[Path, int, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(vectors, "GPU_CLIPS", 1)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", refuse)
    with caplog.at_level(logging.WARNING):
        index = load(stored)
    assert "stays on the processor" in caplog.text and "out of memory" in caplog.text
    assert len(index.search(np.ones((1, DIM), np.float32), 5)[1][0]) == 5
