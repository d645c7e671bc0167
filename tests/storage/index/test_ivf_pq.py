"""Codes in inverted lists find the best vectors, whatever the modalities, filters and threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, pairwise
from threading import Event, get_ident
from typing import Any

import numpy as np
import pytest

from vfindex.storage.index import ivf_pq
from vfindex.storage.index.codes import BLOCK, Coder, Lists, cluster, encode, train
from vfindex.storage.index.ivf_pq import ALL_CODES, IvfPq, code_name
from vfindex.storage.index.search_params import SearchParams, TunedParams, WeightingParams
from vfindex.storage.records import FloatArray


def codes_of(rows: FloatArray, segments: list[slice]) -> IvfPq:
    lists = cluster(rows, rows, np.ones(rows.shape[1], np.float32))
    coder = train(rows - lists.centroids[lists.of_rows()], segments)
    codes = {code_name(at): np.concatenate(list(encode(rows, lists, coder, at))) for at in range(len(segments))}
    return IvfPq(coder, lists, codes)


def test_the_effort_follows_the_weights_of_a_question() -> None:
    both, one, other = (
        WeightingParams(SearchParams(first, 0.1), SearchParams(many, 0.2), 1.0)
        for first, many in ((10, 300), (40, 200), (80, 100))
    )
    slices = (slice(0, 2), slice(2, 4))
    tuned = TunedParams((both, one, other), slices, (0.7, 0.3))

    def reach(first: float, second: float, top_k: int = 10) -> tuple[int, float]:
        chosen = tuned.choose(np.array([first, 0, 0, second], np.float32)).of(top_k)
        return chosen.candidates, chosen.share

    for weights in ((0.7, 0.3), (0.8, 0.2), (0.5, 0.5)):
        assert reach(*weights) == (10, 0.1)
    assert reach(1, 0) == (40, 0.1) and reach(0, 1, 50) == (100, 0.2)
    assert reach(0.7, 0.3, 200) == (300, 0.2) and reach(0.7, 0.3, 400) == (600, 0.2)
    assert reach(0.9, 0.1) == (80, 1.0) and reach(0.2, 0.8, 200) == (300, 1.0), "between them the most careful is taken"
    assert TunedParams.from_dict(json.loads(json.dumps(tuned.to_dict()))) == tuned
    tuned = TunedParams(
        (both, one, WeightingParams(SearchParams(0, 1.0), SearchParams(4096, 1.0), 0.5)), slices, (0.7, 0.3)
    )
    assert reach(0, 1)[0] == 0 and reach(0.9, 0.1)[0] == 0 and reach(0.7, 0.3)[0] == 10


@pytest.mark.parametrize("dims", [(8, 4), (5, 3), (2, 7, 1)])
def test_codes_of_every_choice_of_modalities_find_their_best(dims: tuple[int, ...]) -> None:
    ends = np.cumsum([0, *dims]).tolist()
    segments = [slice(*each) for each in pairwise(ends)]
    random = np.random.default_rng(2)
    rows = random.standard_normal((1003, ends[-1])).astype(np.float32)
    codes = codes_of(rows, segments)
    for asked in (c for n in range(1, 1 + len(dims)) for c in combinations(range(len(dims)), n)):
        query = np.zeros(ends[-1], np.float32)
        for at in asked:
            query[segments[at]] = random.standard_normal(dims[at])
        best = np.argsort(-(rows @ query))[:10]
        assert np.isin(best, codes.nearest(query, 300)).mean() >= 0.9
        few = codes.nearest(query, 1003, 0.25)
        assert 0 < len(few) < 700 and len(set(few.tolist())) == len(few)
    assert codes.nearest(np.zeros(ends[-1], np.float32), 7).tolist() == list(range(7))
    nothing = codes_of(np.zeros((40, ends[-1]), np.float32), segments)
    assert sorted(nothing.nearest(query, 40).tolist()) == list(range(40))


def some_codes() -> tuple[FloatArray, IvfPq]:
    rows = np.random.default_rng(3).standard_normal((1000, 16)).astype(np.float32)
    return rows, codes_of(rows, [slice(0, 10), slice(10, 16)])


def test_a_query_copies_only_the_lists_that_it_reads() -> None:
    rows, codes = some_codes()
    count = len(codes.lists.ends)
    found = codes.nearest(rows[0], 100, 3 / count)
    [scanner] = codes._scanners.values()
    copied = [number for number in range(count) if scanner._into.lists.list_size(number)]
    assert len(copied) == 3 and set(found.tolist()) <= set(
        np.flatnonzero(np.isin(codes.lists.of_rows(), copied)).tolist()
    )
    codes.nearest(rows[1], 100)
    assert codes.nearest(rows[0], 100, 3 / count).tolist() == found.tolist()
    assert [scanner._into.lists.list_size(number) for number in range(count)] == codes.lists.sizes.tolist()


def test_codes_of_all_modalities_are_read_in_place() -> None:
    rows, apart = some_codes()
    whole = np.concatenate(apart._codes, axis=1)
    together = IvfPq(apart.coder, apart.lists, {ALL_CODES: whole})
    first, second = np.arange(16) < 10, np.arange(16) >= 10
    for query in (rows[5], rows[5] * first, rows[5] * second):
        assert together.nearest(query, 100, 0.3).tolist() == apart.nearest(query, 100, 0.3).tolist()
    lists = together._scanners[0, 1]._into.lists
    begins = apart.lists.blocks - -(-apart.lists.sizes // BLOCK)
    for number in np.flatnonzero(apart.lists.sizes).tolist():
        assert int(lists.get_codes(number)) == whole.ctypes.data + begins[number] * whole.shape[1]
    copied = [number for number in range(len(apart.lists.ends)) if together._scanners[1,]._into.lists.list_size(number)]
    assert 0 < len(copied) < len(apart.lists.ends)


def test_threads_share_the_lists_that_they_copy() -> None:
    rows, codes = some_codes()
    alone = [codes.nearest(row, 50, 0.2).tolist() for row in rows[:64]]
    _, together = some_codes()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: together.nearest(row, 50, 0.2).tolist(), rows[:64])) == alone


def test_a_filter_is_kept_to_in_the_scan() -> None:
    rows, codes = some_codes()
    random = np.random.default_rng(4)
    for share in (0.01, 0.1, 0.5):
        kept = random.random(len(rows)) < share
        every = codes.nearest(rows[7], len(rows))
        wanted = every[kept[every]]
        few = codes.nearest(rows[7], 5, 1.0, kept)
        assert set(few.tolist()) <= set(wanted.tolist()) and len(few) == min(5, len(wanted))
        assert sorted(codes.nearest(rows[7], len(rows), 1.0, kept).tolist()) == np.flatnonzero(kept).tolist()
        half = codes.nearest(rows[7], len(rows), 0.5, kept)
        assert kept[half].all() and np.count_nonzero(kept) / 2 <= len(half)
    far = codes.lists.of_rows() == codes._scanner((0, 1)).lists_of(rows[7:8], len(codes.lists.ends))[1][0, -1]
    assert sorted(codes.nearest(rows[7], 1000, 0.01, far).tolist()) == np.flatnonzero(far).tolist()
    assert codes.nearest(rows[7], 10, 1.0, np.zeros(len(rows), bool)).tolist() == []


@pytest.mark.parametrize(("parts", "limit"), [(2, "_ROWS_A_CALL"), (4, "_BYTES_A_CALL"), (1024, "_ROWS_A_CALL")])
def test_a_scan_in_parts_finds_what_a_whole_one_finds(monkeypatch: pytest.MonkeyPatch, parts: int, limit: str) -> None:
    rows, codes = some_codes()
    kept = np.random.default_rng(4).random(len(rows)) < 0.1
    asked = [(10, 1.0, None), (10, 0.5, None), (len(rows), 1.0, None), (10, 1.0, kept), (len(rows), 0.5, kept)]
    asked.append((80, 1.0, kept))  # no list has so many
    alone = [codes.nearest(rows[7], *each) for each in asked]
    size = len(rows) * (sum(codes.coder.counts) // 2 if limit == "_BYTES_A_CALL" else 1)
    monkeypatch.setattr(ivf_pq, limit, -(-size // parts))
    scans, scan = set[int](), ivf_pq._Scanner._scan

    def noted(self: ivf_pq._Scanner, *given: Any) -> Any:
        scans.add(given[3].shape[1])
        return scan(self, *given)

    monkeypatch.setattr(ivf_pq._Scanner, "_scan", noted)
    assert codes.nearest(rows[7], 10).tolist() == alone[0].tolist()
    assert max(scans) == -(-len(codes.lists.ends) // min(parts, len(codes.lists.ends)))
    for each, wanted in zip(asked, alone, strict=True):
        assert sorted(codes.nearest(rows[7], *each).tolist()) == sorted(wanted.tolist())


def test_rows_that_are_missing_in_one_part_displace_none_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS gives them the lowest score of the lists of that part."""
    random = np.random.default_rng(0)
    topic = np.zeros(16, np.float32)
    topic[0] = 20
    rows = np.concatenate([random.standard_normal((500, 16)) + sign * topic for sign in (1, -1)]).astype(np.float32)
    codes = codes_of(rows, [slice(0, 16)])
    of_rows = codes.lists.of_rows()
    kept = of_rows == np.bincount(of_rows[500:]).argmax()
    kept[np.flatnonzero(of_rows == np.bincount(of_rows[:500]).argmax())[0]] = True
    alone = codes.nearest(topic / 20, 6, 1.0, kept)
    monkeypatch.setattr(ivf_pq, "_ROWS_A_CALL", 1)
    assert codes.nearest(topic / 20, 6, 1.0, kept).tolist() == alone.tolist()


def test_a_scan_that_fails_in_another_thread_fails_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, codes = some_codes()
    monkeypatch.setattr(ivf_pq, "_ROWS_A_CALL", 1)
    first, scan = get_ident(), ivf_pq._Scanner._scan

    def fails_elsewhere(self: ivf_pq._Scanner, *given: Any) -> Any:
        if get_ident() != first:
            raise MemoryError("no room for candidates")
        Event().wait(0.5)  # for the other thread to begin
        return scan(self, *given)

    monkeypatch.setattr(ivf_pq._Scanner, "_scan", fails_elsewhere)
    with pytest.raises(MemoryError, match="no room"):
        codes.nearest(rows[7], 10)


@pytest.mark.parametrize("harm", ["nowhere", "before", "backwards", "short", "none", "codes", "book", "turn"])
def test_lists_that_would_lead_out_of_memory_are_refused(harm: str) -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float32)
    whole = codes_of(rows, [slice(0, 8)])
    members, ends, centroids = whole.lists.members.copy(), whole.lists.ends.copy(), whole.lists.centroids
    codes, book, turns = next(encode(rows, whole.lists, whole.coder, 0)), whole.coder.codebook, whole.coder.turns
    match harm:
        case "nowhere":
            members[123] = 2000
        case "before":
            members[123] = -1
        case "backwards":
            ends[[3, 7]] = ends[[7, 3]]
        case "short":
            members = members[:-1]
        case "none":
            ends, centroids = ends[:0], centroids[:0]
        case "codes":
            codes = codes[:-1]
        case "book":
            book = book[:-1]
        case "turn":
            turns = (turns[0][:, 1:],)
    with pytest.raises(ValueError, match=r"lists|codes"):
        IvfPq(Coder((slice(0, 8),), book, turns), Lists(members, ends, centroids), {ALL_CODES: codes})
