"""Vectors in which clips are compared."""

from __future__ import annotations

import numpy as np

from vfindex.search.understanding.vectors import comparison_vectors
from vfindex.storage.joint.vector import JointSpec, ModalitySpec


def _spec(**weights: float) -> JointSpec:
    parts = {m: ModalitySpec(np.zeros(2, np.float32), np.zeros(2, np.float32), 2.0, w) for m, w in weights.items()}
    return JointSpec(parts)  # type: ignore[arg-type]  # names of modalities


def test_joint_cosine_is_the_weighted_mean_of_the_modalities_cosines() -> None:
    spec = _spec(visual=3.0, speech=1.0)
    rows = {
        "visual": np.array([[1, 0], [1, 0]], np.float32),
        "speech": np.array([[1, 0], [0, 1]], np.float32),
    }
    joint = comparison_vectors(rows, spec, None)  # type: ignore[arg-type]  # names of modalities
    np.testing.assert_allclose(joint @ joint.T, [[1, 0.75], [0.75, 1]], atol=1e-6)


def test_a_modality_alone_is_centred_and_of_length_one() -> None:
    part = ModalitySpec(np.array([1, 0], np.float32), np.zeros(2, np.float32), 5.0, 0.0)
    rows = np.array([[1, 3], [0, 0], [0, 1]], np.float32)
    vectors = comparison_vectors({"visual": rows}, JointSpec({"visual": part}), "visual")
    np.testing.assert_allclose(vectors, [[0, 1], [0, 0], [-(0.5**0.5), 0.5**0.5]], atol=1e-6)


def test_a_clip_without_a_modality_that_counts_is_zero() -> None:
    spec = _spec(visual=0.0, speech=1.0)
    rows = {"visual": np.ones((1, 2), np.float32), "speech": np.zeros((1, 2), np.float32)}
    assert not np.any(comparison_vectors(rows, spec, None))  # type: ignore[arg-type]  # names of modalities
