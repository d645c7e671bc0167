"""The next joint index of a library: several ways to make it, of which the first that the gate accepts is taken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.collections import Collections
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.errors import IndexUnusable, LibraryDamaged, LibraryError, NotPublished
from vfindex.storage.files.writes import not_written
from vfindex.storage.ids import in_sorted
from vfindex.storage.index import segment
from vfindex.storage.index.builder import Draft, Recipe, drift
from vfindex.storage.index.flat import joint_batches
from vfindex.storage.index.gate import View, refusal
from vfindex.storage.index.merging import due_merges, expected_s
from vfindex.storage.index.reader import JointIndex, VectorIndex
from vfindex.storage.index.segment import IndexSegment
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import SharedSpec, spec_hash
from vfindex.storage.joint.vector import JointSpec, estimate_spec
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.qdrant.collection import QDRANT
from vfindex.storage.qdrant.draft import QdrantDraft
from vfindex.storage.qdrant.index import OpenIndex, QdrantGeneration, Source, open_index
from vfindex.storage.records import FloatArray, StoredFile

logger = logging.getLogger(__name__)

# The statistics of a JointSpec are estimated again when the mean of all clips has moved so far, in spreads of the
# scores of unrelated ones.
MOST_DRIFT = 0.1
# The published generation and its index, None where that cannot be used; None before the first is published.
_Before = tuple[Generation, OpenIndex | None] | None
AnyDraft = Draft | QdrantDraft
# Returns the seconds left, None without a limit.
LeftS = Callable[[], float | None]
# Makes the next index, or None if it cannot.
Maker = Callable[[], AnyDraft | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a generation is to be.

    fusion: the library's own. shared: takes its place, with a JointSpec; None: no. server: of Qdrant, that holds it;
    "" for files of the library.
    """

    fusion: Fusion
    shared: SharedSpec | None
    server: str = ""

    def keeps(self, spec: JointSpec) -> bool:
        """Return whether an index with this JointSpec may be extended."""
        return self.shared is None or spec_hash(self.shared.setup, spec) == self.shared.hash


class Stopped(Exception):
    """A merge, or a measurement, has run out of time."""


def check_time(left_s: LeftS) -> None:
    """Raise Stopped if no time is left."""
    left = left_s()
    if left is not None and left <= 0:
        raise Stopped("the time is up")


class NextIndex:
    """One publication: what it reads, and the ways to make its index.

    ids: of all clips, increasing. compares: the gate compares with the generation before.
    """

    def __init__(self, owner: tuple[Library, Collections], snapshot: Snapshot, plan: Plan, *, compares: bool) -> None:
        self.plan, self.ids = plan, np.array(snapshot.clip_ids(searchable=False), np.int64)
        self._snapshot = snapshot
        self._library, self._collections = owner
        self._priors = LibraryMeta(snapshot).priors
        newest = snapshot.generation()
        self._number = (newest.id if newest else 0) + 1
        self._before = None if newest is None or not compares else (newest, self._library.load_index(newest))

    def accepted(self, makers: Sequence[Maker]) -> tuple[AnyDraft, StoredFile]:
        """Return the first index that passes the gate, and its file. Raises as `Publisher.publish` does."""
        published = None if self._before is None else self._view(*self._before)
        reason, advice = "", "run: vfindex verify"
        for make in makers:
            draft = None
            try:
                draft = make()
                if draft is None:
                    continue
                try:
                    return draft, self._finished(draft, published)
                except NotPublished as exc:
                    reason, advice = str(exc), "run: vfindex verify"
                    logger.info("a new joint index was not published: %s", reason)
                    draft.discard()
            except IndexUnusable as exc:  # of Qdrant; what it has by now is deleted later
                reason = str(exc)
                advice = f"once it can be used, run: vfindex rebuild --index {QDRANT}{self.plan.server}"
                if make == self.extended:
                    continue
                break
            except (OSError, RuntimeError, MemoryError) as exc:
                if isinstance(draft, Draft):  # what was sealed must not fill a full disk
                    draft.discard()
                if isinstance(exc, OSError):
                    raise not_written("the joint index", exc) from exc
                raise LibraryError(
                    f"the joint index could not be written ({exc}); free some space and run the same command again: "
                    "searches go on with the index in use"
                ) from exc
        raise NotPublished(
            f"the new joint index was not published: {reason}; searches stay correct: they use the one before, and "
            f"scan the clips that are not in it; {advice}"
        )

    def _finished(self, draft: AnyDraft, published: View | None) -> StoredFile:
        """Return the file of a draft that passes the gate. Raises NotPublished, IndexUnusable."""
        file, folder = draft.finish(), self._library.query_folder
        index = open_index(self._library.index, file).within(self._snapshot, draft.spec)
        refused = refusal(self._snapshot, draft.spec, index, published, folder, sealed=draft.has_sealed)
        if refused is not None:
            raise NotPublished(refused)
        return file

    def _view(self, generation: Generation, index: OpenIndex | None) -> View:
        """Return what readers search now."""
        usable: VectorIndex | None = None
        with suppress(IndexUnusable):
            usable = None if index is None else index.within(self._snapshot, generation.spec)
        return View.published(self._snapshot, generation, usable)

    # --- the ways to make it ------------------------------------------------------------------------------------

    def extended(self) -> AnyDraft | None:
        """Return the index before, with what is new as one more segment; None for a small library, or without one."""
        generation, index = self._before or (None, None)
        if generation is None or index is None or len(self.ids) <= segment.EXACT_CLIPS:
            return None
        if not self.plan.keeps(generation.spec) or not self._is_in_place(index, generation.spec):
            return None
        indexed, changed = index.ids(), self._snapshot.changed(generation.watermark)
        draft = self._draft(generation.spec, index)
        draft.drop(np.union1d(indexed[~in_sorted(indexed, self.ids)], changed))
        new = self.ids[~in_sorted(self.ids, draft.ids())]
        if len(new):
            self._put(draft, new)
        return draft

    def _is_in_place(self, index: OpenIndex, spec: JointSpec) -> bool:
        """Return whether an index is where the next one is to be, and as it should be there."""
        if isinstance(index, JointIndex):
            return not self.plan.server
        if self.plan.server != index.facts.url or not self._collections.owns(index):
            return False
        with suppress(IndexUnusable):
            index.within(self._snapshot, spec)
            return True
        return False

    def built(self) -> AnyDraft:
        """Return an index of one segment, with the shared JointSpec, or a new one."""
        if self.plan.shared is not None:
            spec = self.plan.shared.spec
        else:
            dims = {m: len(p.mean) for m, p in self._priors.items()}
            batches = (rows for _, rows in self._snapshot.batches(self.ids, dims))
            spec = estimate_spec(self._priors, batches, self.plan.fusion)
        return self._put(self._draft(spec), self.ids)

    def rebuilt(self) -> AnyDraft | None:
        """Return an index of one segment with the JointSpec of the one before; None if there is none, or no other."""
        if self._before is None or self.plan.shared is not None:
            return None
        return self._put(self._draft(self._before[0].spec), self.ids)

    def due(self, left_s: LeftS) -> tuple[int, list[Maker]] | None:
        """Return the largest rewriting that is due and fits into the time left: its clips, and how it is made."""
        generation, index = self._before or (None, None)
        if generation is None or not isinstance(index, JointIndex):
            return None
        left, parts = left_s(), index.segments

        def fits(clips: int) -> bool:
            return left is None or expected_s(parts, clips) < left

        is_own = self.plan.shared is None and len(index) > segment.EXACT_CLIPS
        if is_own and fits(len(index)) and drift(index, Recipe(generation.spec, self._priors)) > MOST_DRIFT:
            return len(index), [self.built]
        for merge in due_merges(parts):
            clips = sum(map(len, merge))
            if fits(clips):
                return clips, [partial(self._merged, merge, (generation, index), left_s)]
        return None

    def _merged(self, chosen: Sequence[IndexSegment], before: tuple[Generation, JointIndex], left_s: LeftS) -> Draft:
        generation, index = before
        draft = Draft(self._library.index, self._number, Recipe(generation.spec, self._priors), index.segments)
        try:
            draft.merge(chosen, lambda: check_time(left_s))
        except (FileNotFoundError, LibraryDamaged) as exc:
            logger.info("the vectors are read from library.db: %s", exc)
            ids = np.sort(np.concatenate([each.living() for each in chosen]))
            self._put(draft, ids[in_sorted(ids, self.ids)], left_s)
        return draft

    def _draft(self, spec: JointSpec, index: OpenIndex | None = None) -> AnyDraft:
        recipe = Recipe(spec, self._priors)
        if not self.plan.server:
            parts = index.segments if isinstance(index, JointIndex) else ()
            return Draft(self._library.index, self._number, recipe, parts)
        before = None if self._before is None else self._before[1]
        before = before if isinstance(before, QdrantGeneration) else None
        target = self._collections.target(self.plan.server, before)
        source = Source.of(self._snapshot, spec)
        own = index if isinstance(index, QdrantGeneration) else None
        return QdrantDraft((self._library.index, self._number), recipe, target, source, own)

    def _put(self, draft: AnyDraft, ids: NDArray[np.int64], left_s: LeftS = lambda: None) -> AnyDraft:
        def batches() -> Iterator[FloatArray]:
            for _, rows in joint_batches(self._snapshot, draft.spec, ids):
                check_time(left_s)
                yield rows

        draft.put(ids, batches())
        return draft
