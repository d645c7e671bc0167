"""One question to several libraries of equal setups and one shared JointSpec: their hits, merged by score."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from vfindex.search.engine import SearchEngine
from vfindex.search.query.request import Request
from vfindex.search.results import Hit, Hits, Place
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import UsageError
from vfindex.storage.joint.shared import Comparable
from vfindex.storage.library import reading_hash
from vfindex.storage.meta import LibraryMeta


def search_several(engines: Sequence[SearchEngine], request: Request) -> Hits:
    """Return the best hits of all libraries, with one rank and one limit, as one library of them would have.

    Raises UsageError if scores of two of them cannot be compared, and what `SearchEngine.search` raises.
    """
    if request.combine == "rrf":
        raise UsageError("rrf fuses ranks, which are of one library; search several with --combine convex")
    until_s = None if request.timeout_s is None else time.monotonic() + request.timeout_s
    with ExitStack() as opened:
        libraries = [engine.searcher().library for engine in engines]
        snapshots = [opened.enter_context(library.snapshot(until_s)) for library in libraries]
        check_comparable([library.root for library in libraries], snapshots)
        encoded, found = engines[0].encode(request), []
        for number, engine in enumerate(engines):
            others = [snapshot for other, snapshot in enumerate(snapshots) if other != number]
            left_s = None if until_s is None else max(until_s - time.monotonic(), 1e-3)
            found.append(engine.answer(replace(request, timeout_s=left_s), others, encoded))
    return merged(found, request.top_k, request.per_video)


def check_comparable(folders: Sequence[Path], snapshots: Sequence[Snapshot]) -> None:
    """Raise UsageError, with the command that cures it, unless all libraries have equal setups and one JointSpec."""
    first = Comparable.of(LibraryMeta(snapshots[0]).existing_setup())
    for folder, snapshot in zip(folders[1:], snapshots[1:], strict=True):
        different = Comparable.of(LibraryMeta(snapshot).existing_setup()).difference(first)
        if different:
            raise UsageError(
                f"the library {folder} has another setup than {folders[0]} ({different}), so their scores cannot be "
                f"compared; change one of them with: vfindex upgrade --library {shlex.quote(str(folder))}"
            )
    if len({reading_hash(snapshot) for snapshot in snapshots}) > 1:
        named = " ".join(f"--library {shlex.quote(str(folder))}" for folder in folders)
        raise UsageError(
            "the libraries have different specs, so their scores cannot be compared; run: "
            f"vfindex spec export spec.json {named}, and for each of them: vfindex spec use spec.json --library DIR"
        )


def merged(found: Sequence[Hits], top_k: int, per_video: int) -> Hits:
    """Return the best `top_k` hits of several libraries, at most `per_video` of one content, best first.

    The same footage of one content is one hit, of the first library that has it; the others' places are in `also`.
    """
    ordered = sorted((hit for hits in found for hit in hits), key=lambda hit: -hit.score)  # stable: in libraries' order
    taken: list[Hit] = []
    for hit in ordered:
        of_content = [place for place, each in enumerate(taken) if each.key.fingerprint == hit.key.fingerprint]
        same = next((place for place in of_content if _overlap(taken[place], hit)), None)
        if same is not None:
            also = (*taken[same].also, Place(hit.video, hit.start_s, hit.end_s), *hit.also)
            known = {taken[same].video}
            unique = {place.video: place for place in also if place.video not in known}
            taken[same] = replace(taken[same], also=tuple(unique.values()))
        elif len(of_content) < per_video and len(taken) < top_k:
            taken.append(hit)
    first = found[0]
    hints = tuple(hint for hint in first.hints if all(hint in hits.hints for hits in found))
    ranked = [replace(hit, rank=rank) for rank, hit in enumerate(taken, start=1)]
    return Hits(ranked, hints, query=first.query, images=first.images, like=first.like)


def _overlap(first: Hit, second: Hit) -> bool:
    return first.library != second.library and first.start_s < second.end_s and second.start_s < first.end_s
