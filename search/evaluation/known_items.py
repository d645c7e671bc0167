"""Recall of known items, to compare two model versions of one library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfindex.search.calibration.known_items import KnownItem
from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Query
from vfindex.storage.db.reader import Snapshot

TOP_K = 10


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of n known items whose video is among the first TOP_K videos, and at rank 1."""

    n: int
    at_10: float
    at_1: float


def known_item_ranks(engine: SearchEngine, snapshot: Snapshot, items: Sequence[KnownItem]) -> list[int | None]:
    """Return the rank, from 1, of each item's video; None if it is not among the first TOP_K.

    The video may be any place of a hit's footage. snapshot: of the engine's library, for the content of each path.
    """
    prints = {place.path: video.fingerprint for video in snapshot.videos() for place in video.locations}
    ranks: list[int | None] = []
    for item in items:
        hits = engine.search(Query.plain(item.text), top_k=TOP_K)
        places_of = ((hit.rank, path) for hit in hits for path in (hit.video, *(place.video for place in hit.also)))
        found = [rank for rank, path in places_of if path is not None and prints.get(path) == item.fingerprint]
        ranks.append(min(found, default=None))
    return ranks


def recall_by_source(items: Sequence[KnownItem], ranks: Sequence[int | None]) -> dict[str, Recall]:
    """Return the recall of each source that has items."""
    by_source: dict[str, list[int | None]] = {}
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
