"""The joint index in a collection of Qdrant: which clips it holds, and the nearest of them.

Vectors stay in library.db. Qdrant gives candidates; their scores are computed here, so none of a hit is Qdrant's. A
generation's file in `index/` names the collection:

    array  "held"    bits of the clip ids that it holds, the lowest first
    facts  "qdrant"  see `Facts`

A small library gets a new collection at each publication. In a large one, new clips are put into the collection in use
and deleted ones dropped from it. That changes nothing for readers of the generation before: they scan changed clips
from library.db, and deleted ones are no hits. Until the next generation is committed, the collection's metadata name
both; a collection that does not name a reader's generation is of another state of the library, or of a copy of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.errors import DimensionError, IndexUnusable, LibraryError, counted
from vfindex.storage.ids import in_sorted
from vfindex.storage.index.file_format import IndexFile, damage
from vfindex.storage.index.flat import joint_batches
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.qdrant.collection import Collection, Ids, Narrowing, State
from vfindex.storage.records import FloatArray, StoredFile

QDRANT_SUFFIX = ".qdrant"
# Clips, or videos, that one request names at most: some 80 KB. A filter that selects fewer clips is scanned here.
MOST_NAMED, SCANNED_HERE = 10_000, 500
# From this share of the clips on, a filter is applied to what Qdrant finds among all.
WIDE_SHARE = 0.1
# Candidates that one request asks for at most.
MOST_FETCHED = 10_000
# Clips of a library that are scanned for each question while Qdrant cannot be used; of a larger one, searches fail.
MOST_SCANNED = 200_000
# Seconds for which a collection that was looked at is trusted, and one that failed is not asked again.
TRUSTED_S = 30.0


@dataclass(frozen=True, slots=True)
class Source:
    """Clips of library.db. rows: yields (ids, joint vectors) in batches. videos: of each clip, (n,)."""

    rows: Callable[[Ids], Iterable[tuple[Ids, FloatArray]]]
    videos: Callable[[Ids], Ids]

    @classmethod
    def of(cls, snapshot: Snapshot, spec: JointSpec) -> Source:
        def videos(ids: Ids) -> Ids:
            found = snapshot.videos_of(ids.tolist())
            return np.array([found.get(id_, 0) for id_ in ids.tolist()], np.int64)

        return cls(lambda ids: joint_batches(snapshot, spec, ids), videos)


@dataclass(frozen=True, slots=True)
class Target:
    """Where collections are made. library: its id, in their names. announce: is called with a name before it is made.

    like: the collection whose settings a new one takes over.
    """

    url: str
    library: str
    announce: Callable[[str], None] = lambda _: None
    like: str | None = None

    @property
    def prefix(self) -> str:
        """How the names of the library's collections begin."""
        return f"vfindex-{self.library}-"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a generation's file says. token: names the generation. effort: candidates of the HNSW graph.

    clips: how many it holds. last: the largest of their ids, 0 without any.
    """

    url: str
    collection: str
    token: str
    dim: int
    effort: int
    clips: int
    last: int


class QdrantGeneration:
    """A generation of the joint index in Qdrant, for all threads."""

    def __init__(self, facts: Facts, bits: NDArray[np.uint8]) -> None:
        """bits: of the clip ids that it holds, up to the last, the lowest first; mapped, so that nothing is read."""
        self.facts, self._bits = facts, bits
        self._lock = Lock()
        self._collection: Collection | None = None
        self._until_s, self._fault = 0.0, ""

    @classmethod
    def load(cls, folder: Path, stored: StoredFile) -> QdrantGeneration:
        """Return what a file names; nothing is sent. Raises FileNotFoundError, LibraryDamaged."""
        file = IndexFile.open(folder, stored)
        file.check_all()
        try:
            facts, bits = Facts(**file.facts["qdrant"]), file.array("held")
            if bits.shape != (facts.last // 8 + 1,):
                raise ValueError("the bits are of other clips")
        except (KeyError, TypeError, ValueError) as exc:
            raise damage(file.path) from exc
        return cls(facts, bits)

    def __len__(self) -> int:
        return self.facts.clips

    def ids(self) -> Ids:
        """Return the clip ids of the index, increasing."""
        return np.flatnonzero(np.unpackbits(self._bits, bitorder="little"))

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Return which of these clips it holds (n,)."""
        inside = (ids >= 0) & (ids <= self.facts.last)
        at = np.where(inside, ids, 0)
        is_set = (self._bits[at >> 3] >> (at & 7).astype(np.uint8)) & 1
        return np.asarray(inside & (is_set == 1), np.bool_)

    def collection(self, timeout_s: int | None = None) -> Collection:
        """Return the collection. Raises IndexUnusable, UsageError."""
        if timeout_s is not None:
            return Collection(self.facts.url, self.facts.collection, timeout_s)
        if self._collection is None:
            self._collection = Collection(self.facts.url, self.facts.collection)
        return self._collection

    def within(self, snapshot: Snapshot, spec: JointSpec) -> QdrantIndex:
        """Return the index for the readers of a snapshot. Raises IndexUnusable unless the collection is as it should.

        It must name this generation and hold as many clips as readers need; looked at every TRUSTED_S seconds.
        """
        self.check(len(self) - len(snapshot.changed(self.facts.last)))
        return QdrantIndex(self, Source.of(snapshot, spec))

    def check(self, least: int) -> None:
        """Raise IndexUnusable unless the collection holds this generation, with at least so many clips."""
        with self._lock:
            if time.monotonic() >= self._until_s:
                self._fault = self._faults(least)
                self._until_s = time.monotonic() + TRUSTED_S
            fault = self._fault
        if fault:
            raise IndexUnusable(fault)

    def failed(self, exc: IndexUnusable) -> None:
        """Remember that the collection could not be used, for TRUSTED_S seconds."""
        with self._lock:
            self._fault, self._until_s = str(exc), time.monotonic() + TRUSTED_S

    def is_lost(self) -> bool:
        """Return whether the collection is there no more, or is another one. False while it cannot be asked."""
        try:
            return bool(self._lack(0))
        except IndexUnusable:
            return False

    def _faults(self, least: int) -> str:
        try:
            return self._lack(least)
        except IndexUnusable as exc:
            return str(exc)

    def _lack(self, least: int) -> str:
        state = self.collection().state()
        place, again = self.collection().place, "run: vfindex rebuild"
        if state is None:
            return f"{place} is gone; {again}"
        if self.facts.token not in tokens_of(state):
            return f"{place} is of another state of this library, or of a copy of it; {again}"
        if state.dim != self.facts.dim or state.clips < least:
            return f"{place} has lost {counted(max(0, least - state.clips), 'clip')} of {least}; {again}"
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    """The clips that may answer: of a generation, those `among`, None for all, but those `without`."""

    generation: QdrantGeneration
    among: Ids | None
    without: Ids | None

    def __len__(self) -> int:
        if self.among is not None:
            return len(self.ids())
        return len(self.generation) - (0 if self.without is None else int(self.generation.holds(self.without).sum()))

    def ids(self) -> Ids:
        """Return all of them, increasing."""
        return self.of(self.generation.ids() if self.among is None else self.among)

    def of(self, ids: Ids) -> Ids:
        """Return those of `ids` that are chosen, in their order."""
        passed = self.generation.holds(ids)
        if self.among is not None:
            passed &= in_sorted(ids, self.among)
        if self.without is not None:
            passed &= ~in_sorted(ids, self.without)
        return ids[passed]


@dataclass(frozen=True, slots=True)
class QdrantIndex:
    """The joint index in Qdrant, as `JointIndex` is one, for one search."""

    generation: QdrantGeneration
    source: Source
    _rows: dict[int, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.generation)

    @property
    def dim(self) -> int:
        return self.generation.facts.dim

    @property
    def is_exact(self) -> bool:
        """As `JointIndex.is_exact`."""
        return False

    def ids(self) -> Ids:
        """Return the clip ids of the index, increasing."""
        return self.generation.ids()

    def nearest(
        self, queries: FloatArray, top_k: int, among: Ids | None = None, without: Ids | None = None
    ) -> tuple[FloatArray, Ids]:
        """As `JointIndex.nearest`. Raises IndexUnusable too."""
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DimensionError(f"the index holds vectors of {self.dim} dimensions, not {queries.shape}")
        chosen = _Chosen(self.generation, among, without)
        count = min(top_k, len(chosen))
        only, share = self._narrowing(chosen) if len(chosen) > max(count, SCANNED_HERE) else (None, 1.0)
        found = [self._nearest(query, count, chosen, (only, share)) for query in queries]
        scores = np.array([each for each, _ in found], np.float32).reshape(len(found), count)
        return scores, np.array([each for _, each in found], np.int64).reshape(len(found), count)

    def vectors(self, ids: Ids) -> tuple[NDArray[np.bool_], FloatArray]:
        """As `JointIndex.vectors`, from library.db."""
        held = self.generation.holds(ids)
        rows = self._read(ids[held])
        return held, np.array([rows[id_] for id_ in ids[held].tolist()], np.float32).reshape(-1, self.dim)

    def stored(self, ids: Ids) -> tuple[NDArray[np.bool_], FloatArray]:
        """Return what `vectors` returns, as Qdrant has it. Raises IndexUnusable."""
        found = self._collection().vectors(ids)
        held = np.array([id_ in found for id_ in ids.tolist()], np.bool_)
        return held, np.array([found[id_] for id_ in ids[held].tolist()], np.float32).reshape(-1, self.dim)

    def _nearest(
        self, query: FloatArray, top_k: int, chosen: _Chosen, narrowing: tuple[Narrowing | None, float]
    ) -> tuple[FloatArray, Ids]:
        """Return (scores, ids) of the best `top_k`, best first; ties in order of id. narrowing: see `_narrowing`."""
        only, share = narrowing
        limit = min(int(2 * top_k / share), MOST_FETCHED)
        while only is not None:
            try:
                found = self._collection().nearest(query, limit, self.generation.facts.effort, only)
            except IndexUnusable as exc:
                self.generation.failed(exc)
                raise
            passed = chosen.of(found)
            if len(passed) >= top_k:
                return self._scanned(query, passed, top_k)
            if limit == MOST_FETCHED or len(found) < limit:
                break
            limit = min(4 * limit, MOST_FETCHED)
        return self._scanned(query, chosen.ids(), top_k)  # few clips, or a filter that Qdrant does not serve

    def _narrowing(self, chosen: _Chosen) -> tuple[Narrowing | None, float]:
        """Return which points Qdrant is to look at, and the share of them that is chosen; None to scan here."""
        share = len(chosen) / max(1, len(self))
        if share >= WIDE_SHARE:
            return Narrowing(), share
        if len(chosen) <= MOST_NAMED:
            return Narrowing(clips=chosen.ids()), 1.0
        videos = np.unique(self.source.videos(chosen.ids()))
        return (Narrowing(videos=videos), 0.5) if len(videos) <= MOST_NAMED else (None, share)

    def _scanned(self, query: FloatArray, ids: Ids, top_k: int) -> tuple[FloatArray, Ids]:
        if len(ids) <= MOST_FETCHED:
            ids = np.sort(ids)
            known = self._read(ids)
            scores = np.array([known[id_] for id_ in ids.tolist()], np.float32).reshape(-1, self.dim) @ query
        else:
            parts = [(part, rows @ query) for part, rows in self.source.rows(ids)]
            ids = np.concatenate([part for part, _ in parts])
            scores = np.concatenate([each for _, each in parts])
        best = np.lexsort((ids, -scores))[:top_k]
        return scores[best], ids[best]

    def _read(self, ids: Ids) -> dict[int, FloatArray]:
        """Return clip id -> joint vector from library.db; read once for each search."""
        new = np.array([id_ for id_ in ids.tolist() if id_ not in self._rows], np.int64)
        for part, rows in self.source.rows(new) if len(new) else ():
            self._rows.update(zip(part.tolist(), rows, strict=True))
        return self._rows

    def _collection(self) -> Collection:
        return self.generation.collection()


def without_index(problem: str, generation: Generation | None) -> str:
    """Return what is said of a search without an index.

    generation: the one in use, None without any. Raises LibraryError if the index is in Qdrant and a scan would take
    minutes: what is down comes back.
    """
    if generation is None or not generation.file.endswith(QDRANT_SUFFIX):
        return problem
    if generation.clips <= MOST_SCANNED:
        return f"{problem}; meanwhile searches scan every clip"
    raise LibraryError(
        f"{problem}; {counted(generation.clips, 'clip')} are too many to scan for a question: try again later, scan "
        "them all the same with --exact, or run: vfindex rebuild --index built-in"
    )


def tokens_of(state: State) -> list[str]:
    """Return the generations that a collection names: one, or two while the second is not committed."""
    return state.metadata.get("tokens", "").split()


def open_index(
    folder: Path, stored: StoredFile, *, thorough: bool = False, known: OpenIndex | None = None
) -> OpenIndex:
    """Return the index whose file is `stored`, here or in Qdrant. Raises as `JointIndex.load`."""
    if stored.name.endswith(QDRANT_SUFFIX):
        return QdrantGeneration.load(folder, stored)
    return JointIndex.load(folder, stored, thorough=thorough, known=known if isinstance(known, JointIndex) else None)


OpenIndex = JointIndex | QdrantGeneration
