"""Files of temporal heads from elsewhere: numbers that no training makes are refused."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.heads import FOLDER, LEAST_SPREAD, TemporalHead, _packed, read_head, shapes_of


def written(folder: Path, chance: Any = 0.0, separation: float = 2.0, **values: float) -> str:
    """Write a head with these values, each of all weights of a name; return its SHA-256."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes_of(8, 2).items()}
    weights["spread"] += 1
    for name, value in values.items():
        weights[name][:] = value
    data = _packed(TemporalHead(("a", "b"), "m", weights, chance, separation))
    (folder / FOLDER).mkdir()
    digest = sha256(data).hexdigest()
    (folder / FOLDER / f"{digest}.safetensors").write_bytes(data)
    return digest


@pytest.mark.parametrize(
    "values",
    [
        {"chance": 10**400},
        {"chance": -1.0},
        {"chance": float("nan")},
        {"separation": 1e300},
        {"separation": 0.0},
        {"spread": 1e-30},
        {"project.weight": 3e38},
        {"classify.bias": float("nan")},
    ],
)
def test_numbers_that_give_no_labels_are_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    digest = written(tmp_path, **values)
    with pytest.raises(LibraryDamaged, match="cannot be used"):
        read_head(tmp_path, digest)


def test_the_least_spread_of_a_training_is_read(tmp_path: Path) -> None:
    digest = written(tmp_path, spread=LEAST_SPREAD)
    assert read_head(tmp_path, digest).weights["spread"] == pytest.approx(LEAST_SPREAD)
