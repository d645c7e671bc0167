"""A search as one record, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path

from vfindex.search.query.ast import COMBINATIONS, Combination, Query
from vfindex.search.query.like import Like
from vfindex.storage.errors import QueryError
from vfindex.storage.modalities import ModalityName, modality_names
from vfindex.storage.records import ClipKey

# A picture file, or a clip of the library.
Example = Path | Like | ClipKey


@dataclass(frozen=True, slots=True)
class Request:
    """What `SearchEngine.search` is called with. Raises QueryError for a value of a wrong type or out of range."""

    text: str | Query
    images: Sequence[Example] = ()
    top_k: int = 10
    per_video: int = 1
    weights: Mapping[ModalityName, float] = field(default_factory=dict)
    combine: Combination = "convex"
    exact: bool = False
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str | Query):
            raise QueryError(f"the query must be a text or a Query, not {self.text!r}")
        _check_images(self.images)
        for name in ("top_k", "per_video"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise QueryError(f"{name} must be a whole number of 1 or more, not {value!r}")
        _check_weights(self.weights)
        if self.combine not in COMBINATIONS:
            raise QueryError(f"combine must be one of {', '.join(COMBINATIONS)}, not {self.combine!r}")
        if not isinstance(self.exact, bool):
            raise QueryError(f"exact must be True or False, not {self.exact!r}")
        if self.timeout_s is not None and not (_is_number(self.timeout_s) and self.timeout_s > 0):
            raise QueryError(f"timeout_s must be a number of seconds above 0, or None, not {self.timeout_s!r}")


def _check_images(images: object) -> None:
    if isinstance(images, str | bytes | Path | Like | ClipKey) or not isinstance(images, Sequence):
        raise QueryError(f"images must be a list of paths, Likes and ClipKeys, not {images!r}")
    for image in images:
        if not isinstance(image, str | Path | Like | ClipKey):
            raise QueryError(f"an image must be a Path, a Like or a ClipKey, not {image!r}")


def _check_weights(weights: object) -> None:
    if not isinstance(weights, Mapping):
        raise QueryError(f"weights must map modalities ({', '.join(modality_names())}) to numbers, not {weights!r}")
    for modality, weight in weights.items():
        if modality not in modality_names():
            raise QueryError(f"there is no modality {modality!r}; weights are for {', '.join(modality_names())}")
        if not _is_number(weight) or weight < 0:
            raise QueryError(f"the weight of {modality} must be a number of 0 or more, not {weight!r}")
    if len(weights) == len(modality_names()) and not any(weights.values()):
        raise QueryError("all weights are 0; leave one modality above 0")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
