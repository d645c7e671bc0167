"""The joint vector: one inner product is the weighted late fusion, and small libraries rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from library_maker import DIM, axis, prior

from vfindex.storage.errors import DimensionError, LibraryDamaged
from vfindex.storage.joint import JointSpec, ModalityPrior, estimate_spec, fuse, fuse_query
from vfindex.storage.records import FloatArray, Modality

ORDER: tuple[Modality, ...] = ("visual", "speech", "text")


def random_units(seed: int, n: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def spec_of(rows: dict[Modality, FloatArray]) -> JointSpec:
    return estimate_spec({m: prior() for m in ORDER}, [rows])


@given(st.integers(0, 10_000), st.integers(1, 30))
def test_one_inner_product_is_the_sum_of_the_modalities(seed: int, n: int) -> None:
    rows = {m: random_units(seed + i, n) for i, m in enumerate(ORDER)}
    rows["speech"][:: max(1, n // 2)] = 0
    spec = spec_of(rows).with_weights({"visual": 1.0, "speech": 0.3, "text": -0.5})
    query = {m: random_units(seed + 7 + i, 1)[0] for i, m in enumerate(ORDER)}
    expected = np.zeros(n)
    for m in ORDER:
        part = spec.parts[m]
        terms = part.weight * part.scale * ((rows[m] - part.mean) @ (query[m] - part.query_mean))
        expected += np.where(np.any(rows[m], axis=1), terms, 0.0)
    assert np.allclose(fuse(rows, spec) @ fuse_query(query, spec), expected, atol=1e-4)


def test_an_absent_modality_is_neutral() -> None:
    rows: dict[Modality, FloatArray] = {"visual": random_units(1, 3), "speech": np.zeros((3, DIM), np.float32)}
    spec = spec_of(rows)
    assert not fuse(rows, spec)[:, spec.slices()["speech"]].any()


def test_centring_makes_the_average_clip_score_about_zero() -> None:
    common = axis(0) * 3  # what all clips share, which must not favour any
    rows = random_units(3, 2000) + common
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    spec = spec_of({"visual": rows})
    scores = fuse({"visual": rows}, spec) @ fuse_query({"visual": axis(0)}, spec)
    # 200 / 2200 of the common part is left: the prior's share.
    assert abs(scores.mean()) < 0.1 * spec.parts["visual"].scale * (rows @ axis(0)).mean()


@pytest.mark.parametrize("n", [1, 3])
def test_a_small_library_still_ranks(n: int) -> None:
    rows = np.stack([axis(i) for i in range(n)])
    spec = spec_of({"visual": rows})
    for i in range(n):
        scores = fuse({"visual": rows}, spec) @ fuse_query({"visual": axis(i)}, spec)
        assert int(np.argmax(scores)) == i
        assert scores[i] > 0


def test_statistics_do_not_depend_on_the_batches() -> None:
    rows = random_units(5, 50)
    whole = spec_of({"visual": rows})
    parts = estimate_spec({m: prior() for m in ORDER}, [{"visual": rows[:7]}, {"visual": rows[7:]}])
    assert np.allclose(whole.parts["visual"].mean, parts.parts["visual"].mean, atol=1e-6)
    assert whole.parts["visual"].scale == pytest.approx(parts.parts["visual"].scale)


def test_the_scale_is_one_over_the_spread_of_background_scores() -> None:
    rows = random_units(6, 20_000)
    spec = spec_of({"visual": rows})
    part = spec.parts["visual"]
    spread = ((rows - part.mean) @ prior().background.T).std()
    assert part.scale == pytest.approx(1 / max(spread, 0.5), rel=0.02)  # 0.5: bounded by the prior's spread of 1


def test_a_spec_survives_its_text() -> None:
    spec = spec_of({"visual": random_units(8, 9), "text": random_units(9, 9)})
    again = JointSpec.from_json(spec.to_json())
    for m in ORDER:
        assert np.array_equal(again.parts[m].mean, spec.parts[m].mean)
        assert again.parts[m].scale == spec.parts[m].scale


def test_a_damaged_spec_is_a_sentence() -> None:
    with pytest.raises(LibraryDamaged, match="vfindex verify"):
        JointSpec.from_json('{"visual": {"mean": 3}}')


def test_wrong_dimensions_are_refused() -> None:
    spec = spec_of({})
    with pytest.raises(DimensionError):
        fuse({"visual": np.ones((2, DIM + 1), np.float32)}, spec)
    with pytest.raises(DimensionError):
        fuse({"visual": random_units(1, 2), "text": random_units(1, 3)}, spec)
    with pytest.raises(DimensionError):
        fuse_query({"visual": np.ones(DIM + 1, np.float32)}, spec)


def test_the_prior_of_another_size_is_told() -> None:
    odd = ModalityPrior(np.zeros(4, np.float32), np.zeros(4, np.float32), 1.0, np.eye(4, dtype=np.float32), 1.0)
    assert estimate_spec({"visual": odd, "text": prior()}, []).dim == 4 + DIM
