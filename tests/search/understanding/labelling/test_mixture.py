"""Probabilities from scores: the parameters that made them are found, and the shares are calibrated."""

from __future__ import annotations

import numpy as np
import pytest

from vfindex.search.understanding.labelling import mixture
from vfindex.search.understanding.labelling.mixture import (
    NEVER,
    PRIOR_SEPARATION,
    Mixture,
    empirical_null,
    fit_mixture,
    fit_separation,
    standardised,
)


def sample(n: int, classes: int, separation: float, none: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (n, C) as the model says, and the class (n,), C for none."""
    generator = np.random.default_rng(seed)
    truth = np.where(generator.random(n) < none, classes, generator.integers(0, classes, n))
    scores = generator.standard_normal((n, classes))
    of_a_class = np.flatnonzero(truth < classes)
    scores[of_a_class, truth[of_a_class]] += separation
    return scores.astype(np.float32), truth


@pytest.mark.parametrize(("classes", "separation", "none"), [(3, 2.0, 0.3), (8, 3.0, 0.6), (2, 4.0, 0.1)])
def test_it_finds_what_made_the_scores(classes: int, separation: float, none: float) -> None:
    found = fit_mixture(sample(20_000, classes, separation, none)[0])
    assert found.separation == pytest.approx(separation, abs=0.15)
    assert found.none_share == pytest.approx(none, abs=0.05)


def test_many_classes_are_fitted_by_fewer_items(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = sample(3000, 4, 3.0, 0.3)[0]
    whole, third = fit_mixture(scores), fit_mixture(scores[::3])
    monkeypatch.setattr(mixture, "MOST_SCORES", 5000)
    assert fit_mixture(scores) == third != whole
    assert third.separation == pytest.approx(3.0, abs=0.2)


def test_probabilities_are_shares_of_the_right() -> None:
    scores, truth = sample(50_000, 4, 2.5, 0.4)
    shares = fit_mixture(scores).probabilities(scores)
    assert shares.sum(axis=1) == pytest.approx(1)
    best, right = shares.max(axis=1), shares.argmax(axis=1) == truth
    for low in (0.5, 0.7, 0.9):
        chosen = (best >= low) & (best < low + 0.1)
        assert right[chosen].mean() == pytest.approx(best[chosen].mean(), abs=0.03)


def test_few_items_hardly_move_the_prior() -> None:
    assert fit_mixture(np.zeros((0, 3), np.float32)) == Mixture(PRIOR_SEPARATION, 0.5)
    assert fit_mixture(np.full((1, 3), 50.0, np.float32)).separation < 5


def test_scores_are_standardised_by_their_own_row_and_nothing_is_zero() -> None:
    scores = np.array([[3.0], [3.0], [0.0]], np.float32)
    null = np.array([[1.0, -1.0], [2.0, 4.0], [0.0, 0.0]], np.float32)
    assert standardised(scores, null)[:, 0].tolist() == [3.0, 0.0, 0.0]


def test_the_null_is_of_items_that_another_class_fits_better() -> None:
    scores = np.array([[9, 0], [8, 1], [1, 5], [3, 6], [2, 7]], np.float32)
    centre, spread = empirical_null(scores)
    assert centre.tolist() == [2.0, 0.5] and spread.tolist() == pytest.approx([np.sqrt(2 / 3), 0.5])
    centre, spread = empirical_null(np.array([[1, 0]], np.float32))  # nothing to tell the first class by
    assert (centre[0], spread[0]) == (0.0, 1.0)


@pytest.mark.parametrize("separation", [0.4, 1.5, 4.0])
def test_the_separation_of_held_out_items_is_found(separation: float) -> None:
    generator = np.random.default_rng(1)
    scores = generator.standard_normal((20_000, 5))
    odds = np.exp(separation * scores)
    shares = odds / odds.sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(5, p=row) for row in shares])
    assert fit_separation(scores.astype(np.float32), labels) == pytest.approx(separation, rel=0.05)


def test_few_items_that_are_all_right_are_not_certain() -> None:
    scores = np.where(np.eye(4, dtype=bool), 3.0, 0.0).astype(np.float32)
    found = fit_separation(scores, np.arange(4))
    share = np.exp(3 * found) / (np.exp(3 * found) + 3)
    assert share == pytest.approx(5 / 6, abs=0.001)  # of four items, (4 + 1) / (4 + 2)
    five = np.concatenate([scores, [[NEVER, 0.0, 1.0, 0.0]]]).astype(np.float32)  # a class that no probe could choose
    assert fit_separation(five, np.array([0, 1, 2, 3, 0])) == found
    assert fit_separation(np.full((2, 2), NEVER, np.float32), np.array([0, 1])) == PRIOR_SEPARATION


def test_items_of_known_classes_count_as_such() -> None:
    far = np.full((1, 3), -50.0, np.float32)  # of none
    assert fit_mixture(far, known=[4.0] * 20).separation == pytest.approx((4.0 + PRIOR_SEPARATION) / 2)
    scores = sample(500, 3, 3.0, 0.5)[0]
    assert fit_mixture(scores, known=[5.0] * 50).separation > fit_mixture(scores).separation + 0.2


def test_choices_say_of_which_class_an_item_is() -> None:
    scores, choices = np.array([[3.0, 0.0]], np.float32), np.array([[0.0, 2.0]], np.float32)
    [shares] = Mixture(2.0, 0.5, 1.0).probabilities(scores, choices)
    [by_scores] = Mixture(2.0, 0.5, 1.0).probabilities(scores)
    assert shares[-1] == by_scores[-1] and shares[1] / shares[0] == pytest.approx(np.exp(2.0))


def test_classes_share_by_held_out_items_what_is_not_none() -> None:
    scores = sample(500, 4, 3.0, 0.3)[0]
    plain, held_out = fit_mixture(scores), fit_mixture(scores, 0.5)
    assert (held_out.separation, held_out.none_share) == (plain.separation, plain.none_share)
    one, other = plain.probabilities(scores), held_out.probabilities(scores)
    assert np.allclose(one[:, -1], other[:, -1]) and other.sum(axis=1) == pytest.approx(1)
    assert (other[:, :-1].max(axis=1) < one[:, :-1].max(axis=1)).mean() > 0.9
    assert np.allclose(np.log(other[:, 0] / other[:, 1]), 0.5 * (scores[:, 0] - scores[:, 1]), atol=1e-4)
