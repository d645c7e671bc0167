"""Changes of a sequence: found where it changes, by least scatter, and not where its order tells nothing."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from vfindex.search.outline.segmentation import _best, _grams, _masses, _scatter, _share_of_orders, find_changes
from vfindex.search.outline.timeline import Timeline, unit

STEP_S = 6.0


def timeline(topics: list[int], noise: float = 0.3, dim: int = 32, absent: tuple[int, ...] = ()) -> Timeline:
    """Return a timeline of steps of 6 s, each near the axis of its topic."""
    rows = np.random.default_rng(1).normal(0, noise / np.sqrt(dim), (len(topics), dim))
    rows[np.arange(len(topics)), topics] += 1
    rows[list(absent)] = 0
    edges_s = np.arange(len(topics) + 1) * STEP_S
    return Timeline(edges_s, {"visual": unit(rows.astype(np.float32))}, {"visual": 1.0}, ())


def test_changes_are_found_where_the_topic_changes() -> None:
    found = find_changes(timeline([0] * 7 + [1] * 5 + [2] * 9), 10.0)
    assert found.steps == (7, 12)
    assert found.p_value == 0.01 and found.better_than_chance


def test_one_topic_has_no_changes() -> None:
    found = find_changes(timeline([0] * 20), 10.0)
    assert (found.steps, found.p_value, found.better_than_chance) == ((), 1.0, False)


def test_topics_in_no_order_are_no_better_than_chance() -> None:
    """By definition one in twenty random orders passes; of ten, three or more would in 1 of 90 cases."""
    orders = [list(np.random.default_rng(seed).integers(0, 3, 30)) for seed in range(10)]
    assert sum(find_changes(timeline(order), 10.0).better_than_chance is True for order in orders) <= 2


def test_a_step_without_a_vector_belongs_to_the_segment_around_it() -> None:
    assert find_changes(timeline([0] * 8 + [1] * 8, absent=(3, 12)), 10.0).steps == (8,)


def test_segments_are_not_shorter_than_the_least() -> None:
    one = timeline([0] * 8 + [1] * 2 + [2] * 8)
    assert find_changes(one, 10.0).steps == (8, 10)
    starts = [0, *find_changes(one, 20.0).steps, 18]
    assert min(b - a for a, b in pairwise(starts)) * STEP_S >= 20.0
    assert find_changes(one, 60.0).steps == ()


@pytest.mark.parametrize("penalty", [0.0, 0.2, 0.8])
def test_the_best_segments_are_those_of_all(penalty: float) -> None:
    """Of every segmentation of nine steps, that of least scatter and penalties."""
    rng = np.random.default_rng(5)
    one = timeline(list(rng.integers(0, 3, 9)), noise=1.0, absent=(4,))
    grams, masses, lengths_s = _grams(one), _masses(one), one.lengths_s
    steps, gain = _best(_scatter(grams, masses, np.arange(9)), lengths_s, penalty, 12.0)

    def cost(starts: tuple[int, ...]) -> float:
        total = penalty * len(starts)
        for a, b in pairwise((0, *starts, 9)):
            rows, mass = one.vectors["visual"][a:b].astype(float), masses[0][a:b, None]
            if mass.sum() > 0:
                total += float((mass * (rows - (mass * rows).sum(0) / mass.sum()) ** 2 * (mass > 0)).sum())
        return total

    every = [
        starts
        for count in range(5)
        for starts in combinations(range(1, 9), count)
        if all((b - a) * STEP_S >= 12.0 for a, b in pairwise((0, *starts, 9)))
    ]
    best = min(every, key=cost)
    assert tuple(steps) == best
    assert gain == pytest.approx(cost(()) - cost(best), abs=1e-5)


def test_progress_counts_the_orders() -> None:
    told: list[tuple[int, int]] = []
    find_changes(timeline([0] * 6 + [1] * 6), 10.0, lambda done, of_all: told.append((done, of_all)))
    assert told == [(number, 99) for number in range(1, 100)]


def test_too_few_steps_have_no_p_value() -> None:
    """Two pairs and three single steps stay together in 480 of 5,040 orders; four pairs in 384 of 40,320."""
    assert _share_of_orders(np.array([1, 2, 1, 2, 1])) == pytest.approx(480 / 5040)
    few = find_changes(timeline([0, 1, 1, 2, 3, 3, 4]), 5.0)
    assert (few.steps, few.p_value, few.better_than_chance) == ((1, 3, 4, 6), None, None)
    assert find_changes(timeline([0, 0, 1, 1, 2, 2, 3, 3]), 5.0).better_than_chance


def test_steps_that_differ_anyway_begin_no_segment() -> None:
    """Within a topic neighbours have cosines of 0.5: the least penalty alone would cut there."""
    found = find_changes(timeline([0] * 20 + [1] * 20 + [2] * 20, noise=1.0, dim=128), 5.0)
    assert found.steps == (20, 40) and found.better_than_chance


@pytest.mark.parametrize("count", [0, 1])
def test_a_sequence_of_one_step_has_no_changes(count: int) -> None:
    assert find_changes(timeline([0] * count), 10.0).p_value == 1.0
