"""A search as one record, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import get_args

from vfindex.search.query.ast import COMBINATIONS, Combination, Filters, Moment, Order, Query, Term
from vfindex.search.query.image import Picture
from vfindex.search.query.like import Like
from vfindex.search.query.values import is_number, path_text
from vfindex.storage.errors import QueryError
from vfindex.storage.modalities import ModalityName, get_modality, modality_names
from vfindex.storage.records import ClipKey

# A picture, or a clip of the library.
Example = Path | Picture | Like | ClipKey
# Of a modality. Beyond it the sums of a score lose the other modalities, and with 1e200 are no numbers.
MAX_WEIGHT = 1_000


@dataclass(frozen=True, slots=True)
class Judged:
    """A clip that a person judged for a question. grade: 0 for not relevant, higher for more relevant."""

    key: ClipKey
    grade: int


@dataclass(frozen=True, slots=True)
class Request:
    """What `SearchEngine.search` is called with. judged: clips that move the question, see `rank.feedback`.

    Raises QueryError for a value of a wrong type or out of range.
    """

    text: str | Query
    images: Sequence[Example] = ()
    top_k: int = 10
    per_video: int = 1
    weights: Mapping[ModalityName, float] = field(default_factory=dict)
    combine: Combination = "convex"
    exact: bool = False
    timeout_s: float | None = None
    judged: Sequence[Judged] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.text, str | Query):
            raise QueryError(f"the query must be a text or a Query, not {self.text!r}")
        if isinstance(self.text, Query):
            _check_query(self.text)
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
        if self.timeout_s is not None and not (is_number(self.timeout_s) and self.timeout_s > 0):
            raise QueryError(f"timeout_s must be a number of seconds above 0, or None, not {self.timeout_s!r}")


def _check_query(query: Query) -> None:
    """Raise QueryError for a Query that no text gives: programs can make any."""
    count = 1 if query.order is None else 2
    if query.order not in (None, *get_args(Order)) or not _are(query.moments, Moment) or len(query.moments) != count:
        raise QueryError('a Query has one Moment, or two with the order "then" or "near"')
    if not is_number(query.within_s) or query.within_s < 0:
        raise QueryError(f"within_s must be a number of seconds, not {query.within_s!r}")
    for moment in query.moments:
        if not _are(moment.terms, Term):
            raise QueryError(f"the terms of a Moment must be a tuple of Terms, not {moment.terms!r}")
        for term in moment.terms:
            _check_term(term)
    check_filters(query.filters)


def _check_term(term: Term) -> None:
    if not isinstance(term.text, str):
        raise QueryError(f"the text of a Term must be text, not {term.text!r}")
    if term.modality not in (None, *modality_names()):
        raise QueryError(f"there is no modality {term.modality!r}; a Term has one of {', '.join(modality_names())}")
    if not is_number(term.weight) or not 0 < term.weight <= MAX_WEIGHT:
        raise QueryError(f"the weight of a Term must be a number above 0, not {term.weight!r}")


def check_filters(filters: object) -> None:
    """Raise QueryError for Filters that no text gives."""
    if not isinstance(filters, Filters):
        raise QueryError(f"filters must be Filters, not {filters!r}")
    texts = filters.inside, filters.languages, filters.speakers, filters.labels, filters.prints
    if not all(_are(each, str) for each in texts):
        raise QueryError("inside, languages, speakers, labels and prints of Filters must be tuples of texts")
    if not all(day is None or isinstance(day, date) for day in (filters.since, filters.until)):
        raise QueryError("since and until of Filters must be days (datetime.date), or None")
    if not all(length_s is None or is_number(length_s) for length_s in (filters.longer_s, filters.shorter_s)):
        raise QueryError("longer_s and shorter_s of Filters must be numbers of seconds, or None")


def _are(values: object, kind: type) -> bool:
    return isinstance(values, tuple) and all(isinstance(each, kind) for each in values)


def _check_images(images: object) -> None:
    if isinstance(images, str | bytes | Path | Picture | Like | ClipKey) or not isinstance(images, Sequence):
        raise QueryError(f"images must be a list of paths, Likes and ClipKeys, not {images!r}")
    for image in images:
        if not isinstance(image, str | Path | Picture | Like | ClipKey):
            raise QueryError(f"an image must be a Path, a Picture, a Like or a ClipKey, not {image!r}")
        if not isinstance(image, Picture | Like | ClipKey):
            path_text(image, "the image")


def _check_weights(weights: object) -> None:
    if not isinstance(weights, Mapping):
        raise QueryError(f"weights must map modalities ({', '.join(modality_names())}) to numbers, not {weights!r}")
    for modality, weight in weights.items():
        if modality not in modality_names():
            raise QueryError(f"there is no modality {modality!r}; weights are for {', '.join(modality_names())}")
        if not is_number(weight) or not 0 <= weight <= MAX_WEIGHT:
            raise QueryError(f"the weight of {modality} must be a number of 0 to {MAX_WEIGHT:,}, not {weight!r}")
    defaults = {m: get_modality(m).weight for m in modality_names()}
    if not any({**defaults, **weights}.values()):
        raise QueryError("all weights are 0; leave one modality above 0")
