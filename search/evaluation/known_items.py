"""How well a library answers its own known-item questions, to compare two editions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfindex.search.calibration.known_items import ItemSource, KnownItem
from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Query
from vfindex.storage.db.reader import Snapshot

TOP_K = 10


@dataclass(frozen=True, slots=True)
class Recall:
    """Of n questions: the share whose own video is among the first ten videos found, and whose is the very first."""

    n: int
    at_10: float
    at_1: float


def ask(engine: SearchEngine, places: Snapshot, items: Sequence[KnownItem]) -> list[int | None]:
    """Return the rank from 1 at which each question finds its video, None if not among the first TOP_K.

    A hit stands for all places of its footage; the video may be any of them. places: of the engine's library; it tells
    which content lies at a path.
    """
    prints = {place.path: video.fingerprint for video in places.videos() for place in video.locations}
    ranks: list[int | None] = []
    for item in items:
        hits = engine.search(Query.plain(item.text), top_k=TOP_K)
        places_of = ((hit.rank, path) for hit in hits for path in (hit.video, *(place.video for place in hit.also)))
        found = [rank for rank, path in places_of if path is not None and prints.get(path) == item.fingerprint]
        ranks.append(min(found, default=None))
    return ranks


def recall_by_source(items: Sequence[KnownItem], ranks: Sequence[int | None]) -> dict[ItemSource, Recall]:
    """Return the recall of each source that has questions."""
    by_source: dict[ItemSource, list[int | None]] = {}
    for item, rank in zip(items, ranks, strict=True):
        by_source.setdefault(item.source, []).append(rank)
    return {
        source: Recall(
            n=len(found),
            at_10=sum(rank is not None for rank in found) / len(found),
            at_1=sum(rank == 1 for rank in found) / len(found),
        )
        for source, found in sorted(by_source.items())
    }
