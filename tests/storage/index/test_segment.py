"""A segment of the joint index equals brute force, however it is built, filtered or damaged."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from library_maker import DIM, add_video, axis, clip, install

from vfindex.storage.db.reader import Generation
from vfindex.storage.errors import DimensionError, LibraryDamaged
from vfindex.storage.index import file_format
from vfindex.storage.index import segment as vectors
from vfindex.storage.index import tuning as recall
from vfindex.storage.index.file_format import BLOCK_BYTES, IndexFile, writing_index
from vfindex.storage.index.ivf_pq import IvfPq
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.index.segment import IndexSegment, facts_of
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Clip, StoredFile
from vfindex.storage.writer import writing

CLIPS = 600


def some_clips(seed: int, count: int) -> list[Clip]:
    """Return clips whose pictures are all over the sphere; every other one speaks."""
    rows = np.random.default_rng(seed).standard_normal((count, 2, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    return [
        clip(5.0 * at, 5.0 * at + 5, visual=seen, **({"speech": said} if at % 2 else {}))
        for at, (seen, said) in enumerate(rows)
    ]


def only(library: Library) -> tuple[Generation, IndexSegment]:
    """Return the generation and the only segment of a library."""
    generation, index = current(library)
    [part] = index.segments
    return generation, part


def current(library: Library) -> tuple[Generation, JointIndex]:
    with library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    index = library.load_index(generation, thorough=True)
    assert index is not None
    return generation, index


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library that is large enough for codes."""
    folder = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch, writing(folder) as writer:
        patch.setattr(vectors, "EXACT_CLIPS", 100)
        install(writer)
        add_video(writer, "a", some_clips(1, CLIPS))
        writer.publish()
    return folder


@pytest.fixture
def coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let codes be asked in libraries so small that scoring all is cheaper."""
    monkeypatch.setattr(vectors, "EXACT_CLIPS", 100)
    monkeypatch.setattr(IvfPq, "cost", lambda *_: 0.0)
    monkeypatch.setattr(recall, "QUESTIONS", 16)


# --- what is found --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 300),
    top_k=st.integers(1, 400),
    kept=st.sampled_from([None, 0.0, 0.01, 0.5, 1.0]),
    gone=st.sampled_from([0.0, 0.3]),
    form=st.tuples(st.sampled_from([np.float16, np.float32]), st.sampled_from([1, 64, 1 << 22])),
)
def test_search_equals_brute_force(
    seed: int, count: int, top_k: int, kept: float | None, gone: float, form: tuple[type[np.floating], int]
) -> None:
    dtype, numbers = form
    random = np.random.default_rng(seed)
    ids = np.sort(random.choice(10_000, count, replace=False)).astype(np.int64)
    # Small whole numbers: sums are exact in any order and either format, ties are many.
    rows = random.integers(-9, 10, (count, 16)).astype(dtype)
    dead = np.flatnonzero(random.random(count) < gone)
    among = None if kept is None else np.append(ids[random.random(count) < kept], 10_001)
    query = random.integers(-9, 10, (1, 16)).astype(np.float32)
    index = JointIndex([IndexSegment(ids, rows, dead)])
    with pytest.MonkeyPatch.context() as divided:
        divided.setattr(vectors, "_NUMBERS_A_CALL", numbers)
        scores, found = index.nearest(query, top_k, among)
    may = ~np.isin(np.arange(count), dead)
    if among is not None:
        may &= np.isin(ids, among)
    exact = dict(zip(ids[may].tolist(), (rows[may].astype(np.float32) @ query[0]).tolist(), strict=True))
    assert scores[0].tolist() == sorted(exact.values(), reverse=True)[:top_k]
    assert [exact[id_] for id_ in found[0].tolist()] == scores[0].tolist()
    assert len(set(found[0].tolist())) == found.shape[1] and len(index) == count - len(dead)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_best_of_equal_clips_do_not_depend_on_the_cores(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    rows = np.zeros((900, 16), dtype)
    rows[::3] = 1  # 300 of them are equal, and the filter leaves 150
    index = JointIndex([IndexSegment(np.arange(900), rows)])
    among = np.arange(0, 900, 6)
    monkeypatch.setattr(vectors, "_NUMBERS_A_CALL", 160)
    found = []
    for threads in (1, 2, 7):
        with ThreadPoolExecutor(threads) as pool:
            monkeypatch.setattr("vfindex.storage.threads._threads", lambda pool=pool: pool)
            found.append(index.nearest(np.ones((1, 16), np.float32), 20, among)[1][0].tolist())
    assert found == [among[:20].tolist()] * 3


def test_vectors_of_another_length_are_refused() -> None:
    index = JointIndex([IndexSegment(np.arange(3), np.ones((3, 4), np.float32))])
    with pytest.raises(DimensionError):
        index.nearest(np.ones((1, 5), np.float32), 1)


def test_a_library_of_one_clip(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", some_clips(0, 1))
        writer.publish()
    _, index = current(Library.open(tmp_path))
    scores, ids = index.nearest(np.ones((2, index.dim), np.float32), 5)
    assert ids.tolist() == [[1], [1]] and scores.shape == (2, 1)


@pytest.mark.usefixtures("coded")
@pytest.mark.parametrize("weights", [None, [1, 0, 0], [0, 1, 0], [1, 0.1, 0]])
def test_codes_find_what_a_scan_finds(large: Path, weights: list[float] | None) -> None:
    generation, index = current(Library.open(large))
    rows = np.asarray(index.segments[0].rows, np.float32)
    factors = generation.spec.corners()[0] if weights is None else np.repeat(weights, DIM)
    shares, filtered = [], []
    for query in (np.random.default_rng(5).standard_normal((20, 3 * DIM)) * factors).astype(np.float32):
        exact = rows @ query
        scores, ids = index.nearest(query[None], 10)
        shares.append(np.mean(scores[0] >= np.sort(exact)[-10] - 1e-3))
        assert np.allclose(exact[np.searchsorted(index.ids(), ids[0])], scores[0], atol=1e-2)
        # The best half of all may not answer: what is left is found behind them.
        left = index.ids()[exact < np.median(exact)]
        scores, _ = index.nearest(query[None], 10, left)
        filtered.append(np.mean(scores[0] >= np.sort(exact[exact < np.median(exact)])[-10] - 1e-3))
    assert np.mean(shares) >= 0.97 and np.mean(filtered) >= 0.97


def test_a_large_library_keeps_its_word(large: Path) -> None:
    _, part = only(Library.open(large))
    assert part.tuned is not None and all(each.first.candidates for each in part.tuned.corners)
    assert all(effort.recall >= 0.99 for effort in part.tuned.corners)
    assert verify(Library.open(large)).problems == []


@pytest.mark.usefixtures("coded")
def test_some_outdated_clips_cost_no_scan(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 600 clips 300 speak: whoever asks for 400 by their speech gets some that score 0."""
    generation, index = current(Library.open(large))
    query = np.zeros((1, index.dim), np.float32)
    query[0, generation.spec.slices()["speech"]] = axis(1)
    outdated = index.ids()[3:30]
    monkeypatch.setattr(IndexSegment, "_scan", lambda *_: pytest.fail("all vectors were scored"))
    found = index.nearest(query, 400, without=outdated)[1][0]
    assert len(found) == 400 and not set(found.tolist()) & set(outdated.tolist())


def test_codes_with_too_little_recall_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "EXACT_CLIPS", 100)
    plain = IvfPq.nearest_of
    monkeypatch.setattr(IvfPq, "nearest_of", lambda *asked: plain(*asked)[:, 20:])
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", some_clips(1, 150))
        writer.publish()
    _, part = only(Library.open(tmp_path))
    assert part.tuned is not None and not part.tuned.corners[0].first.candidates
    assert verify(Library.open(tmp_path)).clean


# --- files ----------------------------------------------------------------------------------------------------------


def stored(path: Path, count: int = 70_000) -> StoredFile:
    """Write a flat segment of 16 dimensions, 18 blocks long; return what loading it takes."""
    rows = np.random.default_rng(0).standard_normal((count, 16)).astype(np.float32)
    with writing_index(path) as file:
        file.put("ids", "<i8", [np.arange(count)])
        file.put("dead", "<i8", [np.zeros(0, np.int64)])
        file.put("rows", "<f4", [rows[:1000], rows[1000:]])
        return file.end(facts_of())


@settings(max_examples=25, deadline=None)
@given(chunks=st.lists(st.integers(0, 300_000), max_size=5), seed=st.integers(0, 99))
def test_arrays_round_trip_and_any_flipped_byte_is_detected(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[int], seed: int
) -> None:
    path = tmp_path_factory.mktemp("file") / "a.joint"
    random = np.random.default_rng(seed)
    parts = [random.integers(0, 256, (length, 1)).astype(np.uint8) for length in [0, *chunks]]
    with writing_index(path) as file:
        file.put("bytes", "|u1", parts)
        file.put("ids", "<i8", [np.arange(9)])
        kept = file.end({"a": 1})
    opened = IndexFile.open(path.parent, kept)
    np.testing.assert_array_equal(opened.array("bytes"), np.concatenate(parts))
    assert opened.array("ids").tolist() == list(range(9)) and opened.facts == {"a": 1}
    opened.check_all()
    whole = sum(chunks)
    if whole:
        data = bytearray(path.read_bytes())
        data[4096 + random.integers(whole)] ^= 1
        path.write_bytes(data)
        with pytest.raises(LibraryDamaged):
            IndexFile.open(path.parent, kept).check_all()


@pytest.mark.parametrize("harm", ["cut", "longer", "zero", "footer", "head", "ids", "rows", "other"])
def test_a_damaged_file_is_not_searched(tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CHECKED_BYTES", 0)  # as a large file, of which only some blocks are checked
    path = tmp_path / "a.joint"
    kept = stored(path)
    data, size_bytes = bytearray(path.read_bytes()), kept.size_bytes
    match harm:
        case "cut":
            del data[size_bytes // 2 :]
        case "longer":
            data += b"more"
        case "zero":
            data[:] = bytes(size_bytes)
        case "footer":
            data[-200] ^= 1
        case "head":
            data[0] ^= 1
        case "ids":
            data[5000] ^= 1
        case "rows":
            data[size_bytes // 2 :][: 2 * BLOCK_BYTES] = bytes(2 * BLOCK_BYTES)
            data[size_bytes // 2 : size_bytes // 2 + 2 * BLOCK_BYTES] = bytes(2 * BLOCK_BYTES)
        case "other":
            kept = replace(kept, sha256="0" * 64)
    path.write_bytes(data)
    with pytest.raises(LibraryDamaged, match=r"a\.joint is damaged"):
        JointIndex.load(tmp_path, kept)


def test_one_bad_block_of_many_is_seen_when_all_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CHECKED_BYTES", 0)
    monkeypatch.setattr(vectors, "CHECKED_BLOCKS", 2)
    path = tmp_path / "a.joint"
    kept = stored(path)
    data = bytearray(path.read_bytes())
    data[len(data) - 2 * BLOCK_BYTES] ^= 1
    path.write_bytes(data)
    index = JointIndex.load(tmp_path, kept)
    assert index.nearest(np.ones((1, 16), np.float32), 3)[1].shape == (1, 3)
    with pytest.raises(LibraryDamaged):
        JointIndex.load(tmp_path, kept, thorough=True)


def test_an_index_of_the_form_before_is_built_again(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", some_clips(1, 3))
        generation = writer.publish()
        (tmp_path / "index" / generation.file).write_bytes(b"IxMp" + bytes(generation.size_bytes - 4))
        assert writer.library.load_index(generation) is None
        writer.publish()
        assert len(current(writer.library)[1]) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone maps all pages at once")
def test_all_pages_of_an_array_are_mapped_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if tuple(map(int, platform.release().split(".")[:2])) < (5, 14):
        pytest.skip("this kernel maps pages as they are read")
    np.zeros(1 << 24, np.uint8).tofile(tmp_path / "codes")
    array = np.memmap(tmp_path / "codes", np.uint8, mode="r")
    monkeypatch.setattr(file_format, "available_bytes", lambda: 1 << 30)
    file_format.map_pages(array)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert int(array[::4096].sum()) == 0
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults <= 20


def test_pages_are_mapped_as_they_are_read_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_format, "available_bytes", lambda: 1 << 20)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("they are mapped at once"))
    file_format.map_pages(np.zeros(1 << 20, np.uint8))
