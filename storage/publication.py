"""Publication: writes the files of the next joint index, then commits the row that names them.

Files are on the disk before the row is committed, and those of the last generations stay for readers that have just
read an older row. So whatever a crash interrupts, readers find the last list of segments that was published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, insert, select

from vfindex.storage.collections import Collections
from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog, now
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.db.scrubbing import SCRUB
from vfindex.storage.errors import IndexUnusable, LibraryDamaged, LibraryError, NotPublished, counted
from vfindex.storage.files.writes import on_disk
from vfindex.storage.ids import in_sorted
from vfindex.storage.index import segment
from vfindex.storage.index.builder import Draft, Recipe, drift
from vfindex.storage.index.erasure import erase, is_erased, marked
from vfindex.storage.index.flat import joint_batches
from vfindex.storage.index.gate import View, refusal
from vfindex.storage.index.live_recall import META_KEY, TOGETHER, Answer, LiveRecall, answers, raised
from vfindex.storage.index.merging import due_merges, expected_s
from vfindex.storage.index.reader import LIST_SUFFIX, JointIndex, VectorIndex, write_list
from vfindex.storage.index.segment import IndexSegment
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import SharedSpec, spec_hash
from vfindex.storage.joint.vector import JointSpec, estimate_spec
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta, put_fusion, put_index_server, put_shared_spec
from vfindex.storage.qdrant.collection import QDRANT
from vfindex.storage.qdrant.draft import QdrantDraft
from vfindex.storage.qdrant.index import QDRANT_SUFFIX, OpenIndex, QdrantGeneration, Source, open_index
from vfindex.storage.records import FloatArray, StoredFile
from vfindex.storage.settings_backup import write_backup
from vfindex.storage.user.questions import kept_count, kept_questions

logger = logging.getLogger(__name__)

# Size of the delta (unindexed clips, scanned exactly) at which a run publishes a generation before its end.
MAX_DELTA_CLIPS = 50_000
# The current generation and the one before it: a reader that has just read the pointer still finds its files.
KEPT_GENERATIONS = 2
# The statistics of a JointSpec are estimated again when the mean of all clips has moved so far, in spreads of the
# scores of unrelated ones.
MOST_DRIFT = 0.1
# The published generation and its index, None where that cannot be used; None before the first is published.
_Before = tuple[Generation, OpenIndex | None] | None
_Draft = Draft | QdrantDraft
# Returns the seconds left, None without a limit.
LeftS = Callable[[], float | None]
# Makes the next index, or None if it cannot.
_Maker = Callable[[], _Draft | None]


@dataclass(frozen=True, slots=True)
class _Plan:
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


class _Stopped(Exception):
    """A merge, or a measurement, has run out of time."""


def _check(left_s: LeftS) -> None:
    """Raise _Stopped if no time is left."""
    left = left_s()
    if left is not None and left <= 0:
        raise _Stopped("the time is up")


class Publisher:
    """Makes generations of the joint index. The caller holds the library's lock."""

    def __init__(self, catalog: Catalog, library: Library) -> None:
        self._catalog, self._library = catalog, library
        self._collections = Collections(catalog)

    def publish(self, fusion: Fusion | None = None, server: str | None = None) -> Generation:
        """Publish an index of all committed clips.

        A large index gets what is new as one more segment. If `gate` refuses that, or the library is small, one segment
        is built of all clips, with new statistics; if it refuses these too, with the old ones. fusion: replaces the
        library's; None keeps it. server: of Qdrant, that holds the index from now on; "" for files of the library, None
        keeps the place. Raises UsageError if it does not fit the models, NotPublished if no index passes: the
        old one stays, and readers scan the delta.
        """
        meta = LibraryMeta(self._catalog)
        chosen = meta.own_fusion if fusion is None else fusion
        plan = _Plan(chosen, meta.shared_spec, meta.index_server if server is None else server)
        with self._library.snapshot() as snapshot:
            # A new fusion is a user's choice and may give other hits, so it is not compared with the old one.
            making = self._making(snapshot, plan, compares=fusion is None)
            self._publish(making, [making.extended, making.built, making.rebuilt])
        return self._published()

    def publish_shared(self, shared: SharedSpec | None) -> Generation:
        """Publish with a spec that other libraries share, as all later generations do; None: with one of its own.

        The gate compares a shared spec with the generation in use; a spec of the library's own is taken as it is.
        Raises as `publish` does.
        """
        meta = LibraryMeta(self._catalog)
        plan = _Plan(meta.own_fusion, shared, meta.index_server)
        with self._library.snapshot() as snapshot:
            making = self._making(snapshot, plan, compares=shared is not None)
            self._publish(making, [making.built])
        return self._published()

    def merge(self, left_s: LeftS, say: Callable[[str], None] = lambda _: None) -> bool:
        """Make the largest merge that is due and fits into the time left; return whether one was made.

        Estimates the statistics again instead where they have drifted. left_s: seconds left, None without a limit.
        A refused one changes nothing. Raises LibraryError.
        """
        if self._catalog.change():  # not published: a merge would take it for done
            return False
        with self._library.snapshot() as snapshot:
            newest = snapshot.generation()
        if newest is None or not newest.file.endswith(LIST_SUFFIX):
            return False
        meta = LibraryMeta(self._catalog)
        plan = _Plan(meta.own_fusion, meta.shared_spec, meta.index_server)
        with self._library.snapshot() as snapshot:
            making = self._making(snapshot, plan, compares=True)
            found = making.due(left_s)
            if found is None:
                return False
            clips, makers = found
            say(f"merging segments of the joint index, {counted(clips, 'clip')}")
            try:
                self._publish(making, makers)
            except (_Stopped, NotPublished) as exc:
                logger.info("the segments of the joint index stay as they are: %s", exc)
                return False
        return True

    def erase_deleted(self) -> None:
        """Erase the vectors of deleted clips from the current segments, see `erasure`. Raises LibraryError.

        Those in Qdrant are deleted by publications; here, unused collections are.
        """
        folder = self._library.index
        with self._library.snapshot() as snapshot:
            generation = snapshot.generation()
        self._collections.drop_unused(self._library)
        index = None if generation is None else self._library.load_index(generation)
        if generation is None or index is None:
            return
        if not isinstance(index, JointIndex) or all(map(is_erased, index.segments)):
            self._drop_old_files()  # which a publication that was killed has left
            return
        with on_disk("the joint index"):
            marks = {each: marked(each, folder) for each in index.segments if not is_erased(each)}
            self._list_again(generation, [marks.get(each, each) for each in index.segments])
            for each in marks.values():
                erase(each, folder)

    def measure_recall(self, left_s: LeftS, say: Callable[[str], None] = lambda _: None) -> None:
        """Answer questions that people asked by an exact scan as well, and store what the index finds of them.

        If it finds too little, the search parameters are raised. Each question is then deleted. left_s: as for `merge`;
        what it leaves no time for is kept for the next call. Raises LibraryError.
        """
        with self._library.snapshot() as snapshot, on_disk("a question"):
            generation = snapshot.generation()
            if generation is None or self._catalog.change() or not kept_count(self._library.folder):
                return
            index = self._library.load_index(generation)
            if not isinstance(index, JointIndex):
                return
            kept = list(kept_questions(self._library.folder, index.dim))
            without = snapshot.hidden(generation.watermark)
        today, found = datetime.now(UTC).date(), list[Answer]()
        record = LiveRecall.from_json(self._catalog.get(META_KEY)).since(today)
        if kept and not index.is_exact:
            say(f"answering {counted(len(kept), 'question')} exactly as well, to measure the recall of the joint index")
        with on_disk("the joint index"), suppress(_Stopped):
            for first in range(0, len(kept), TOGETHER):
                batch = kept[first : first + TOGETHER]
                if not index.is_exact:
                    asked = [question for _, question in batch]
                    new = answers(index, generation.spec.order, asked, without, lambda: _check(left_s))
                    record = record.with_answers(today, new)
                    self._catalog.put(META_KEY, record.to_json())
                    found += new
                for path, _ in batch:
                    path.unlink(missing_ok=True)
            missed = record.low_answers(found)
            if missed:
                say("it finds too little, so its search parameters are raised")
                self._list_again(generation, [self._raised(each, missed, left_s) for each in index.segments])
                self._catalog.put(META_KEY, LiveRecall(raised=today.isoformat()).to_json())

    def _raised(self, part: IndexSegment, found: Sequence[Answer], left_s: LeftS) -> IndexSegment:
        _check(left_s)
        return raised(part, found)

    def _list_again(self, generation: Generation, segments: Sequence[IndexSegment]) -> None:
        """Publish the segments of the current generation with other facts in their list. Raises OSError."""
        file = write_list(self._library.index / f"{generation.id + 1:08d}{LIST_SUFFIX}", segments)
        with self._catalog.transaction() as connection:
            values = {"watermark": generation.watermark, "clips": generation.clips}
            _insert(connection, file, generation.spec, values)
        self._drop_old_files()

    def left(self) -> str:
        """Return why the joint index may still hold what was removed, "" if it does not."""
        with self._library.snapshot() as snapshot:
            generation = snapshot.generation()
        if generation is not None and not generation.file.endswith(QDRANT_SUFFIX) and self._catalog.change():
            return "the joint index holds it until the next run publishes another"
        return self._collections.left(self._library)

    def _making(self, snapshot: Snapshot, plan: _Plan, *, compares: bool) -> _Making:
        return _Making((self._library, self._collections), snapshot, plan, compares=compares)

    def _publish(self, making: _Making, makers: Sequence[_Maker]) -> None:
        draft, file = making.accepted(makers)
        self._point_to(draft, file, making)
        if isinstance(draft, QdrantDraft):
            draft.settle()
        self._drop_old_files()
        self._collections.drop_unused(self._library)
        with self._catalog.transaction() as connection, on_disk("the copy of the settings"):
            write_backup(connection, self._library.folder)

    def _published(self) -> Generation:
        with self._library.snapshot() as snapshot:
            generation = snapshot.generation()
        if generation is None:
            raise LibraryDamaged("the generation just published cannot be read back; run: vfindex verify")
        return generation

    def _point_to(self, draft: _Draft, file: StoredFile, making: _Making) -> None:
        """Commit the pointer to a file together with its fusion and shared spec."""
        values = {"watermark": int(making.ids.max(initial=0)), "clips": len(making.ids)}
        with self._catalog.transaction() as connection:
            _insert(connection, file, draft.spec, values)
            put_fusion(connection, making.plan.fusion)
            put_shared_spec(connection, making.plan.shared)
            put_index_server(connection, making.plan.server)
            connection.execute(delete(schema.index_change))
            of_the_one_before = ["changed", *([META_KEY] if draft.is_new else [])]
            connection.execute(schema.meta.delete().where(schema.meta.c.key.in_(of_the_one_before)))

    def _drop_old_files(self) -> None:
        g = schema.generation.c
        # After a removal, no file must keep the removed vectors.
        most = KEPT_GENERATIONS if self._catalog.get(SCRUB) is None else 1
        with self._catalog.transaction() as connection:
            oldest = connection.scalars(select(g.id).order_by(g.id.desc()).limit(most)).all()[-1]
            connection.execute(schema.generation.delete().where(g.id < oldest))
            rows = connection.execute(select(g.file, g.size_bytes, g.sha256)).all()
        kept = {file.name for row in rows for file in self._library.index_files(StoredFile(*row))}
        with on_disk("the joint index"):
            for path in self._library.index.iterdir():
                if path.name not in kept:
                    path.unlink(missing_ok=True)


def _insert(connection: Connection, file: StoredFile, spec: JointSpec, values: Mapping[str, int]) -> None:
    """Make a file that of the current generation. values: watermark and clips."""
    facts = {"file": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256, "created_at": now()}
    connection.execute(insert(schema.generation).values(**facts, **values, spec=spec.to_json()))


class _Making:
    """One publication: what it reads, and the ways to make its index.

    ids: of all clips, increasing. compares: the gate compares with the generation before.
    """

    def __init__(self, owner: tuple[Library, Collections], snapshot: Snapshot, plan: _Plan, *, compares: bool) -> None:
        self.plan, self.ids = plan, np.array(snapshot.clip_ids(searchable=False), np.int64)
        self._snapshot = snapshot
        self._library, self._collections = owner
        self._priors = LibraryMeta(snapshot).priors
        newest = snapshot.generation()
        self._number = (newest.id if newest else 0) + 1
        self._before = None if newest is None or not compares else (newest, self._library.load_index(newest))

    def accepted(self, makers: Sequence[_Maker]) -> tuple[_Draft, StoredFile]:
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
                raise LibraryError(
                    f"the joint index could not be written ({exc}); free some space and run the same command again: "
                    "searches go on with the index before it"
                ) from exc
        raise NotPublished(
            f"the new joint index was not published: {reason}; searches stay correct, and scan the clips that the "
            f"index before it lacks; {advice}"
        )

    def _finished(self, draft: _Draft, published: View | None) -> StoredFile:
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

    def extended(self) -> _Draft | None:
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

    def built(self) -> _Draft:
        """Return an index of one segment, with the shared JointSpec, or a new one."""
        if self.plan.shared is not None:
            spec = self.plan.shared.spec
        else:
            dims = {m: len(p.mean) for m, p in self._priors.items()}
            batches = (rows for _, rows in self._snapshot.batches(self.ids, dims))
            spec = estimate_spec(self._priors, batches, self.plan.fusion)
        return self._put(self._draft(spec), self.ids)

    def rebuilt(self) -> _Draft | None:
        """Return an index of one segment with the JointSpec of the one before; None if there is none, or no other."""
        if self._before is None or self.plan.shared is not None:
            return None
        return self._put(self._draft(self._before[0].spec), self.ids)

    def due(self, left_s: LeftS) -> tuple[int, list[_Maker]] | None:
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
            draft.merge(chosen, lambda: _check(left_s))
        except (FileNotFoundError, LibraryDamaged) as exc:
            logger.info("the vectors are read from library.db: %s", exc)
            ids = np.sort(np.concatenate([each.living() for each in chosen]))
            self._put(draft, ids[in_sorted(ids, self.ids)], left_s)
        return draft

    def _draft(self, spec: JointSpec, index: OpenIndex | None = None) -> _Draft:
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

    def _put(self, draft: _Draft, ids: NDArray[np.int64], left_s: LeftS = lambda: None) -> _Draft:
        def batches() -> Iterator[FloatArray]:
            for _, rows in joint_batches(self._snapshot, draft.spec, ids):
                _check(left_s)
                yield rows

        draft.put(ids, batches())
        return draft
