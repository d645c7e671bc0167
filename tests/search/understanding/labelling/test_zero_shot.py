"""What chance is for zero-shot classes: as many texts, of the classes and the background together."""

from __future__ import annotations

import numpy as np
import pytest

from vfindex.search.understanding.labelling.zero_shot import ZeroShot
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.records import FloatArray

DIM, BACKGROUND = 64, 50


def anywhere(count: int, generator: np.random.Generator) -> FloatArray:
    """Return unit vectors (count, DIM) in any direction."""
    rows = generator.standard_normal((count, DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("count", [5, 50, 200])
def test_unrelated_classes_are_chance_however_many(count: int) -> None:
    found = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        texts = ZeroShot(JointSpec({}), anywhere(count, generator), anywhere(BACKGROUND, generator))
        found.append(texts.chance(anywhere(100, generator)))
    assert sum(each < 0.05 for each in found) <= 3 and 0.25 < np.mean(found) < 0.75


@pytest.mark.parametrize("count", [5, 200])
def test_classes_of_the_items_are_more_than_chance(count: int) -> None:
    generator = np.random.default_rng(0)
    classes = anywhere(count, generator)
    items = np.tile(classes, (100 // count + 1, 1)) + 0.5 * anywhere(count * (100 // count + 1), generator)
    assert ZeroShot(JointSpec({}), classes, anywhere(BACKGROUND, generator)).chance(items) < 0.01
