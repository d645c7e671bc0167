"""Search parameters of a large index, tuned by the recall of sample queries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vfindex.storage.index import tuning
from vfindex.storage.index.file_format import writing_index
from vfindex.storage.index.ivf_pq import write_codes
from vfindex.storage.index.search_params import SearchParams, TunedParams, WeightingParams
from vfindex.storage.joint.vector import JointSpec, ModalityPrior, ModalitySpec


class Codes:
    """Codes of 5,000 vectors."""

    def __len__(self) -> int:
        return 5000

    def cost(self, candidates: int, share: float) -> float:
        return 5000 * share + candidates


class Trial:
    """Questions of which some find a part of the ten best only among more candidates, in whatever lists."""

    codes: Any = Codes()

    def __init__(self, missed: NDArray[np.bool_]) -> None:
        self.found_at = np.where(missed, 300, 20)  # (n, 10)
        self.shares: list[float] = []

    def ranks(self, share: float) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        self.shares.append(share)
        return [(self.found_at, self.found_at[:, :1])]


def test_an_effort_is_more_careful_where_the_ten_best_are_missed_together() -> None:
    scattered, together = np.zeros((500, 10), bool), np.zeros((500, 10), bool)
    scattered[:40, 0] = together[:4] = True
    tuned = [tuning._weighting_params(trial) for trial in map(Trial, (scattered, together))]  # type: ignore[arg-type]
    assert scattered.mean() == together.mean() == 0.008
    assert [(each.first.candidates, each.recall) for each in tuned] == [(32, 0.992), (362, 1.0)]


def test_the_cheapest_sufficient_share_is_taken() -> None:
    trial = Trial(np.zeros((8, 10), bool))
    assert tuning._weighting_params(trial).first == SearchParams(32, tuning.SHARES[0])  # type: ignore[arg-type]


def test_the_first_200_hold_999_in_1000() -> None:
    """The ten hits of ten videos lie anywhere among the first 200."""
    ranks = np.tile(np.arange(200), (100, 1))
    ranks[:, 199] = 600  # 0.995 are found before
    trial: Any = SimpleNamespace(codes=Trial.codes)
    found = tuning._least(trial, 1.0, [ranks], tuning.REQUIRED[1])
    assert found.is_enough and found.params.candidates == 724


def test_an_index_that_finds_too_little_is_scanned() -> None:
    missed = np.zeros((100, 10), bool)
    missed[:20] = True
    trial = Trial(missed)
    trial.found_at[missed] = tuning.LEAST_MOST
    effort = tuning._weighting_params(trial)  # type: ignore[arg-type]
    assert effort.first.candidates == 0 and effort.recall == 0.8 and trial.shares == list(tuning.SHARES)


def test_what_is_not_found_is_not_enough_for_parameters_of_a_larger_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have more candidates than are looked at here."""
    trial = Trial(np.ones((10, 10), np.bool_))
    trial.found_at[:] = tuning.LEAST_MOST
    monkeypatch.setattr(tuning, "_trials", lambda *_: [trial])
    params = SearchParams(2 * tuning.LEAST_MOST, 1.0)
    tuned = TunedParams((WeightingParams(params, params, 1.0),), (), ())
    assert not tuning.is_enough(tuned, trial.codes, np.zeros((5000, 1), np.float16), [])


@pytest.mark.parametrize("share", tuning.SHARES)
def test_one_scan_tells_the_ranks_in_every_share_of_the_lists(tmp_path: Path, share: float) -> None:
    """Against a scan of that share, which is scored completely. Every clip is there eight times, and many score 0.

    FAISS rounds distances by the largest of the lists that it reads, which moves a rank by some clips.
    """
    random = np.random.default_rng(5)
    rows = np.repeat(random.standard_normal((100, 8)), 8, axis=0).astype(np.float16)
    rows[::3, :4] = 0
    with writing_index(tmp_path / "codes") as file:
        file.put("rows", "<f2", [rows])
        codes = write_codes(file, [slice(0, 4), slice(4, 8)], np.ones(8, np.float32))
        file.end({})
    queries = random.standard_normal((6, 8)).astype(np.float32)
    queries[3:, 4:] = 0
    for asked in (queries[:3], queries[3:]):
        (trial,) = tuning._trials(codes, rows, [[asked]])
        ((first, many),) = trial.ranks(share)
        for row, query in enumerate(asked):
            every = np.sort(rows.astype(np.float32) @ query)[::-1]
            places = codes.nearest_of(query[None], len(rows), share)[0]
            scores = rows[places[places >= 0]].astype(np.float32) @ query
            for top_k, ranks in ((10, first[row]), (200, many[row])):
                found = np.flatnonzero(scores >= every[top_k - 1] - 0.001 * max(1, abs(every[top_k - 1])))[:top_k]
                assert np.count_nonzero(ranks < tuning.LEAST_MOST) == len(found)
                assert np.abs(ranks[: len(found)] - found).max() <= 16


@pytest.mark.parametrize(
    ("count", "most"), [(100, 8192), (1_000_000, 8192), (3_000_000, 11_585), (10_000_000, 32_768), (10**9, 65_536)]
)
def test_a_larger_index_may_have_more_candidates(count: int, most: int) -> None:
    assert tuning.most_candidates(count) == most


def test_a_third_kind_of_queries_is_about_a_clip_by_half() -> None:
    random = np.random.default_rng(1)
    own, unlike = random.standard_normal((2, 5, 4000)).astype(np.float32) * np.array([[[3]], [[7]]], np.float32)
    partly, about = tuning._partly(own, unlike[:2]), own[[1, 3]]  # clips from all of the library
    cosines = np.sum(partly * about, axis=1) / np.linalg.norm(partly, axis=1) / np.linalg.norm(about, axis=1)
    assert cosines == pytest.approx([0.5] * 2, abs=0.05)
    assert np.linalg.norm(partly, axis=1) == pytest.approx(np.linalg.norm(unlike[:2], axis=1), rel=0.05)
    assert tuning._partly(own, unlike[:0]).shape == (0, 4000)


def test_clips_with_all_modalities_are_the_first_queries() -> None:
    zero, random = np.zeros(2, np.float32), np.random.default_rng(1)
    spec = JointSpec({m: ModalitySpec(zero, zero, 1.0, 0.5) for m in ("visual", "speech")})
    bank = random.standard_normal((3, 2)).astype(np.float32)
    priors = {m: ModalityPrior(zero, zero, 1.0, bank, 0.5) for m in spec.order}
    clips = np.array([[1, 1, 0, 0], [0, 0, 2, 2], [3, 3, 3, 3], [0, 0, 0, 0]], np.float32)
    asked = tuning.questions(spec, priors, clips, 2)
    assert [own.tolist() for own, _ in asked] == [
        [[1.5, 1.5, 1.5, 1.5], [0.0, 0.0, 1.0, 1.0]],
        [[1.0, 1.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]],
        [[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 3.0, 3.0]],
    ]
    assert [len(unlike) for _, unlike in asked] == [2, 2, 2]


@pytest.mark.parametrize(
    ("most", "chosen"), [(2, [3, 7]), (4, [1, 3, 5, 7]), (5, [1, 3, 5, 7, 4]), (9, [1, 3, 5, 7, 0, 2, 4, 6])]
)
def test_clips_are_queries_from_the_whole_library(most: int, chosen: list[int]) -> None:
    """Not from its oldest clips, which come first."""
    zero = np.zeros(1, np.float32)
    spec = JointSpec({m: ModalitySpec(zero, zero, 1.0, 0.5) for m in ("visual", "speech")})
    own = np.array([[number + 1, number % 2] for number in range(8)], np.float32)  # every second one lacks speech
    assert (tuning._most_complete(own, spec, most)[:, 0] - 1).tolist() == chosen
