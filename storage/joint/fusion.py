"""The fusion of a library: its form, and learned weights or heads."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FUSIONS, FloatArray, FusionName


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """Linear maps of every modality into one shared space, one for clips and one for queries.

    clip, query: modality -> (rank, dim) float32, for centred and scaled embeddings, and for centred queries.
    """

    clip: Mapping[ModalityName, FloatArray]
    query: Mapping[ModalityName, FloatArray]

    @property
    def rank(self) -> int:
        """The dimensions of the shared space."""
        return len(next(iter(self.clip.values())))

    def fit(self, dims: Mapping[ModalityName, int]) -> bool:
        """Return whether the heads fit modalities of these dimensions."""
        shapes = {m: (self.rank, dim) for m, dim in dims.items()}
        return all({m: head.shape for m, head in side.items()} == shapes for side in (self.clip, self.query))

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads back: float16 in base64."""
        return {
            "rank": self.rank,
            "clip": {m: _encode(head) for m, head in self.clip.items()},
            "query": {m: _encode(head) for m, head in self.query.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Heads:
        """Return the heads of `to_dict`. Raises KeyError, TypeError or ValueError for something else."""
        rank = int(data["rank"])
        sides = ({m: _decode(text, rank) for m, text in data[name].items()} for name in ("clip", "query"))
        return cls(*sides)


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """The form of a library's joint vectors. weights: of some modalities, in place of the preset's.

    heads: required by `learned`.
    """

    form: FusionName = "concat"
    weights: Mapping[ModalityName, float] = field(default_factory=dict)
    heads: Heads | None = None

    def __post_init__(self) -> None:
        if (self.form == "learned") != (self.heads is not None):
            raise ValueError("heads belong to the learned form, and to no other")

    def to_json(self) -> str:
        """Return text that `from_json` reads back."""
        heads = None if self.heads is None else self.heads.to_dict()
        return json.dumps({"form": self.form, "weights": dict(self.weights), "heads": heads})

    @classmethod
    def from_json(cls, text: str | None) -> Fusion:
        """Return the fusion of `to_json`'s text; None if none was chosen. Raises LibraryDamaged."""
        if text is None:
            return cls()
        try:
            data: dict[str, Any] = json.loads(text)
            [form] = [name for name in FUSIONS if name == data["form"]]
            weights = {m: float(weight) for m, weight in data["weights"].items()}
            return cls(form, weights, None if data["heads"] is None else Heads.from_dict(data["heads"]))
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise LibraryDamaged(
                "how the library fuses its modalities is damaged; choose again: vfindex rebuild --fusion concat"
            ) from exc


def _encode(head: FloatArray) -> str:
    return base64.b64encode(np.asarray(head, dtype="<f2").tobytes()).decode()


def _decode(text: str, rank: int) -> FloatArray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float32).reshape(rank, -1)
