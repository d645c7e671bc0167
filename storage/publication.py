"""Publication: writes the files of the next joint index, then commits the row that names them.

Files are on the disk before the row is committed, and those of the last generations stay for readers that have just
read an older row. So whatever a crash interrupts, readers find the last list of segments that was published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from vfindex.storage.collections import Collections
from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog, now
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.db.scrubbing import SCRUB
from vfindex.storage.errors import LibraryDamaged, NotPublished, counted
from vfindex.storage.files.writes import on_disk
from vfindex.storage.index.erasure import erase, is_erased, marked
from vfindex.storage.index.live_recall import META_KEY, TOGETHER, Answer, LiveRecall, answers, raised
from vfindex.storage.index.reader import LIST_SUFFIX, JointIndex, write_list
from vfindex.storage.index.segment import IndexSegment
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import SharedSpec
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta, put_fusion, put_index_server, put_shared_spec
from vfindex.storage.next_index import AnyDraft, LeftS, Maker, NextIndex, Plan, Stopped, check_time
from vfindex.storage.qdrant.draft import QdrantDraft
from vfindex.storage.qdrant.index import QDRANT_SUFFIX
from vfindex.storage.records import StoredFile
from vfindex.storage.settings_backup import write_backup
from vfindex.storage.user.questions import kept_count, kept_questions

logger = logging.getLogger(__name__)

# Size of the delta (unindexed clips, scanned exactly) at which a run publishes a generation before its end.
MAX_DELTA_CLIPS = 50_000
# The current generation and the one before it: a reader that has just read the pointer still finds its files.
KEPT_GENERATIONS = 2


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
        plan = Plan(chosen, meta.shared_spec, meta.index_server if server is None else server)
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
        plan = Plan(meta.own_fusion, shared, meta.index_server)
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
        plan = Plan(meta.own_fusion, meta.shared_spec, meta.index_server)
        with self._library.snapshot() as snapshot:
            making = self._making(snapshot, plan, compares=True)
            found = making.due(left_s)
            if found is None:
                return False
            clips, makers = found
            say(f"merging segments of the joint index, {counted(clips, 'clip')}")
            try:
                self._publish(making, makers)
            except (Stopped, NotPublished) as exc:
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
            number = counted(len(kept), "question")
            say(f"answering {number} by an exact scan, too, to measure the recall of the joint index")
        with on_disk("the joint index"), suppress(Stopped):
            for first in range(0, len(kept), TOGETHER):
                batch = kept[first : first + TOGETHER]
                if not index.is_exact:
                    asked = [question for _, question in batch]
                    new = answers(index, generation.spec.order, asked, without, lambda: check_time(left_s))
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
        check_time(left_s)
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

    def _making(self, snapshot: Snapshot, plan: Plan, *, compares: bool) -> NextIndex:
        return NextIndex((self._library, self._collections), snapshot, plan, compares=compares)

    def _publish(self, making: NextIndex, makers: Sequence[Maker]) -> None:
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

    def _point_to(self, draft: AnyDraft, file: StoredFile, making: NextIndex) -> None:
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
                if path.name not in kept and not path.is_dir():  # a folder is not ours
                    path.unlink(missing_ok=True)


def _insert(connection: Connection, file: StoredFile, spec: JointSpec, values: Mapping[str, int]) -> None:
    """Make a file that of the current generation. values: watermark and clips."""
    facts = {"file": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256, "created_at": now()}
    connection.execute(insert(schema.generation).values(**facts, **values, spec=spec.to_json()))
