"""A service that stays copies large indexes to GPUs. There is none here: the devices are on the processor."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, add_video, axis, clip, install

from vfindex.search import live
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.service import SearchService
from vfindex.storage.index.flat import half_flat
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.writer import writing

CLIPS = 60


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(live, "GPU_CLIPS", 50)
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: {"visual": axis(1), "speech": axis(1), "text": axis(1)})
    with writing(tmp_path / "library") as writer:
        install(writer)
        add(writer, 0)
        writer.publish()
    return tmp_path / "library"


def add(writer: Any, number: int) -> None:
    rows = np.random.default_rng(number).standard_normal((CLIPS, DIM)).astype(np.float32)
    clips = [clip(5.0 * at, 5.0 * at + 5, visual=row / np.linalg.norm(row)) for at, row in enumerate(rows)]
    add_video(writer, f"v{number}", clips)


def copied(service: SearchService) -> JointIndex:
    """Return the index in use, once no thread copies it any more."""
    for thread in threading.enumerate():
        if thread.name == "vfindex-gpus":
            thread.join()
    index = service.engine.searcher().index
    assert index is not None
    return index


def found(service: SearchService) -> list[tuple[Any, float]]:
    return [(hit.key, round(hit.score, 5)) for hit in service.search("a dog", top_k=20, per_video=20)]


def test_a_service_answers_by_the_devices_and_follows_generations(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(live, "gpu_devices", lambda size: sizes.append(size) or [half_flat] * 2)
    with SearchService(library) as plain, SearchService(library) as service:
        service.use_gpus()
        before = found(service)
        first = copied(service)
        assert first.shards is not None and sizes == [2 * first.dim * CLIPS]
        assert found(service) == before == found(plain)
        with writing(library) as writer:
            add(writer, 1)
            writer.publish()
        found(service)
        second = copied(service)
        assert second is not first and second.shards is not None and first.shards is None
        assert found(service) == found(plain) != before
        assert plain.engine.searcher().index.shards is None  # type: ignore[union-attr]
    assert second.shards is None, "a closed service leaves the devices"


def test_a_small_library_and_a_search_that_ends_open_no_device(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise AssertionError("a device was opened")

    monkeypatch.setattr(live, "gpu_devices", refuse)
    with SearchService(library) as service:
        found(service)
        assert copied(service).shards is None
    monkeypatch.setattr(live, "GPU_CLIPS", CLIPS + 1)
    with SearchService(library) as service:
        service.use_gpus()
        found(service)
        assert copied(service).shards is None


def test_a_full_device_is_one_line_in_the_log(
    library: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise RuntimeError("GPU 0 has 0.1 GB free, and it takes 2.0 GB")

    monkeypatch.setattr(live, "gpu_devices", full)
    with caplog.at_level(logging.WARNING), SearchService(library) as service:
        service.use_gpus()
        before = found(service)
        assert copied(service).shards is None and found(service) == before
    assert [record.message for record in caplog.records] == [
        "the joint index is searched on the processor: no copy was made on the GPUs "
        "(GPU 0 has 0.1 GB free, and it takes 2.0 GB)"
    ]


def test_closing_does_not_wait_for_a_long_copy(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, closing = Event(), Event()
    blocks: list[int] = []

    def slow(dim: int) -> Any:
        blocks.append(dim)
        began.set()
        assert closing.wait(60)
        return half_flat(dim)

    monkeypatch.setattr(live, "gpu_devices", lambda _: [slow])
    monkeypatch.setattr("vfindex.storage.index.reader.BLOCK", 5)
    service = SearchService(library)
    service.use_gpus()
    found(service)
    assert began.wait(60)
    plain = live._GpuCopies.close

    def close(self: Any) -> None:
        self._newest = None
        closing.set()
        plain(self)

    monkeypatch.setattr(live._GpuCopies, "close", close)
    service.close()
    assert len(blocks) == 1
