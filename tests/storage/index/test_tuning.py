"""Search parameters of a large index, tuned by the recall of sample queries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.index import tuning
from vfindex.storage.index.search_params import SearchParams
from vfindex.storage.joint.vector import JointSpec, ModalityPrior, ModalitySpec


class Trial:
    """Questions of which some find a part of the ten best only among more candidates, in whatever lists."""

    codes: Any = SimpleNamespace(cost=lambda candidates, share: 5000 * share + candidates)

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


def test_lists_that_cost_more_than_sufficient_ones_are_not_tried() -> None:
    trial = Trial(np.zeros((8, 10), bool))
    assert tuning._weighting_params(trial).first == SearchParams(32, tuning.SHARES[0])  # type: ignore[arg-type]
    assert trial.shares == list(tuning.SHARES[:1])


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
    trial.found_at[missed] = tuning.MOST
    effort = tuning._weighting_params(trial)  # type: ignore[arg-type]
    assert effort.first.candidates == 0 and effort.recall == 0.8 and trial.shares == list(tuning.SHARES)


def test_clips_with_all_modalities_are_the_first_queries() -> None:
    zero, random = np.zeros(2, np.float32), np.random.default_rng(1)
    spec = JointSpec({m: ModalitySpec(zero, zero, 1.0, 0.5) for m in ("visual", "speech")})
    bank = random.standard_normal((3, 2)).astype(np.float32)
    priors = {m: ModalityPrior(zero, zero, 1.0, bank, 0.5) for m in spec.order}
    clips = np.array([[1, 1, 0, 0], [0, 0, 2, 2], [3, 3, 3, 3], [0, 0, 0, 0]], np.float32)
    asked = tuning.questions(spec, priors, clips, 2)
    assert [own.tolist() for own, _ in asked] == [
        [[1.5, 1.5, 1.5, 1.5], [0.5, 0.5, 0.0, 0.0]],
        [[1.0, 1.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]],
        [[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 3.0, 3.0]],
    ]
    assert [len(unlike) for _, unlike in asked] == [2, 2, 2]
