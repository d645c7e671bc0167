"""The joint vector: one inner product is the weighted late fusion, and small libraries rank."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from library_maker import DIM, axis, prior

from vfindex.storage.errors import DimensionError, LibraryDamaged, UsageError
from vfindex.storage.joint.fusion import Fusion, Heads
from vfindex.storage.joint.vector import JointSpec, ModalityPrior, directions, estimate_spec, fuse, fuse_query
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FUSIONS, FloatArray, FusionName

ORDER: tuple[ModalityName, ...] = ("visual", "speech", "text")


def random_units(seed: int, n: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def spec_of(rows: dict[ModalityName, FloatArray], fusion: Fusion | None = None) -> JointSpec:
    return estimate_spec({m: prior() for m in ORDER}, [rows], fusion or Fusion())


def random_fusion(form: FusionName, seed: int = 0) -> Fusion:
    """Return a fusion with uneven weights, and heads of a space of 3 dimensions where the form has some."""
    generator = np.random.default_rng(seed)
    clip, query = ({m: generator.normal(size=(3, DIM)).astype(np.float32) for m in ORDER} for _ in range(2))
    heads = Heads(clip, query) if form == "learned" else None
    return Fusion(form, {"visual": 1.0, "speech": 0.25, "text": 0.5}, heads)


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
    rows: dict[ModalityName, FloatArray] = {"visual": random_units(1, 3), "speech": np.zeros((3, DIM), np.float32)}
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
    with pytest.raises(LibraryDamaged, match="vfindex rebuild"):
        JointSpec.from_json('{"visual": {"mean": 3}}')


def test_wrong_dimensions_are_refused() -> None:
    spec = spec_of({})
    with pytest.raises(DimensionError):
        fuse({"visual": np.ones((2, DIM + 1), np.float32)}, spec)
    with pytest.raises(DimensionError):
        fuse({"visual": random_units(1, 2), "text": random_units(1, 3)}, spec)
    with pytest.raises(DimensionError):
        fuse_query({"visual": np.ones(DIM + 1, np.float32)}, spec)


def test_the_dimension_of_a_prior_is_used() -> None:
    odd = ModalityPrior(np.zeros(4, np.float32), np.zeros(4, np.float32), 1.0, np.eye(4, dtype=np.float32), 1.0)
    assert estimate_spec({"visual": odd, "text": prior()}, []).dim == 4 + DIM


@pytest.mark.parametrize("form", FUSIONS)
def test_in_every_form_a_score_is_the_sum_over_the_modalities(form: FusionName) -> None:
    rows = {m: random_units(i, 12) for i, m in enumerate(ORDER)}
    rows["speech"][::2] = 0
    spec = spec_of(rows, random_fusion(form))
    query = {m: random_units(20 + i, 1)[0] for i, m in enumerate(ORDER)}
    asked = directions(query, spec)
    for number, score in enumerate(fuse(rows, spec) @ fuse_query(query, spec)):
        present = [m for m in ORDER if rows[m][number].any()]
        added = 0.0
        for m in present:
            centred = spec.parts[m].centre(rows[m][number])
            shared = asked[m].shared
            added += spec.shares([present])[0] * float(asked[m].own @ centred)
            added += 0.0 if shared is None else float(shared @ centred)
        assert score == pytest.approx(added, abs=1e-4)


def test_mean_is_the_mean_of_the_present_modalities() -> None:
    rows = {m: random_units(i, 2) for i, m in enumerate(ORDER)}
    rows["text"][1] = 0
    spec = spec_of(rows, Fusion("mean"))
    centred = {m: spec.parts[m].centre(rows[m]) for m in ORDER}
    joint = fuse(rows, spec)
    assert joint.shape == (2, DIM)
    assert np.allclose(joint[0], (centred["visual"][0] + centred["speech"][0] + centred["text"][0]) / 3, atol=1e-6)
    assert np.allclose(joint[1], (centred["visual"][1] + centred["speech"][1]) / 2, atol=1e-6)


def test_weighted_is_the_sum_at_the_weights_it_was_built_with() -> None:
    rows = {m: random_units(i, 2) for i, m in enumerate(ORDER)}
    spec = spec_of(rows, random_fusion("weighted"))
    centred = {m: spec.parts[m].centre(rows[m]) for m in ORDER}
    expected = centred["visual"] + 0.25 * centred["speech"] + 0.5 * centred["text"]
    assert np.allclose(fuse(rows, spec), expected, atol=1e-6)
    assert np.allclose(fuse_query({"speech": axis(1)}, spec), axis(1))


def test_learned_is_concat_and_a_space_that_all_share() -> None:
    rows = {m: random_units(i, 2) for i, m in enumerate(ORDER)}
    fusion = random_fusion("learned")
    spec, plain = spec_of(rows, fusion), spec_of(rows, Fusion("concat", fusion.weights))
    assert spec.dim == plain.dim + 3
    assert np.array_equal(fuse(rows, spec)[:, : plain.dim], fuse(rows, plain))
    assert fusion.heads is not None
    shared = sum(plain.parts[m].centre(rows[m]) @ fusion.heads.clip[m].T for m in ORDER)
    assert np.allclose(fuse(rows, spec)[:, plain.dim :], shared, atol=1e-5)


@pytest.mark.parametrize("form", FUSIONS)
def test_corners_have_the_length_of_the_joint_vector(form: FusionName) -> None:
    spec = spec_of({}, random_fusion(form))
    assert {corner.shape for corner in spec.corners()} == {(spec.dim,)}
    assert len(spec.corners()) == (1 if spec.adds_up else 4)


@pytest.mark.parametrize("form", FUSIONS)
def test_every_form_survives_its_text(form: FusionName) -> None:
    rows = {m: random_units(i, 4) for i, m in enumerate(ORDER)}
    spec = spec_of(rows, Fusion.from_json(random_fusion(form).to_json()))
    again = JointSpec.from_json(spec.to_json())
    assert again.fusion == form
    assert np.array_equal(fuse(rows, again), fuse(rows, spec))
    assert {m: part.weight for m, part in again.parts.items()} == {m: part.weight for m, part in spec.parts.items()}


def test_a_spec_from_before_there_were_forms_is_concat() -> None:
    spec = spec_of({"visual": random_units(8, 9)})
    again = JointSpec.from_json(json.dumps(json.loads(spec.to_json())["parts"]))
    assert again.fusion == "concat"
    assert np.array_equal(again.parts["visual"].mean, spec.parts["visual"].mean)


def test_the_scale_of_a_sum_equalizes_its_queries() -> None:
    rows = {m: random_units(30 + i, 20_000) for i, m in enumerate(ORDER)}
    spec = spec_of(rows, Fusion("mean"))
    for m in ORDER:
        part = spec.parts[m]
        spread = ((rows[m] - part.mean) @ prior().background.T).std()
        assert part.scale == pytest.approx(1 / max(spread, 0.5), rel=0.02)


@pytest.mark.parametrize("form", ["mean", "weighted"])
def test_vectors_of_other_lengths_cannot_be_added(form: FusionName) -> None:
    odd = ModalityPrior(np.zeros(4, np.float32), np.zeros(4, np.float32), 1.0, np.eye(4, dtype=np.float32), 1.0)
    with pytest.raises(UsageError, match=f"{form} adds .*visual 4, text 8.* concat or learned"):
        estimate_spec({"visual": odd, "text": prior()}, [], Fusion(form))


def test_heads_of_other_models_are_refused() -> None:
    odd = ModalityPrior(np.zeros(4, np.float32), np.zeros(4, np.float32), 1.0, np.eye(4, dtype=np.float32), 1.0)
    with pytest.raises(UsageError, match="other models"):
        estimate_spec({"visual": odd, "text": prior()}, [], random_fusion("learned"))


@pytest.mark.parametrize("text", ["", "[]", '{"form": "sum", "weights": {}, "heads": null}', '{"form": "learned"}'])
def test_a_damaged_fusion_is_a_sentence(text: str) -> None:
    with pytest.raises(LibraryDamaged, match="vfindex rebuild --fusion concat"):
        Fusion.from_json(text)
