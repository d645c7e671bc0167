"""Verification of a library, without opening a video: `vfindex verify`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import DBAPIError

from vfindex.storage.db.engine import RUN_VERIFY, Unchanged, check_integrity, connect, opening
from vfindex.storage.db.integrity import broken_settings, shown_paths
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import (
    DimensionError,
    IndexUnusable,
    LibraryChanged,
    LibraryDamaged,
    LibraryVersion,
    counted,
)
from vfindex.storage.files.permissions import BACKUP, is_allowed
from vfindex.storage.ids import evenly_spaced, in_sorted
from vfindex.storage.index.gate import SAMPLED_CLIPS, wrong_rows
from vfindex.storage.index.reader import SEGMENT_SUFFIX
from vfindex.storage.index.tuning import FLOOR, recall_at_10
from vfindex.storage.library import Library, again_if_changed
from vfindex.storage.maintenance.assets import head_faults, is_whole, query_faults, stray_thumbnails
from vfindex.storage.maintenance.damage import damaged_videos, false_words, lost_schema
from vfindex.storage.maintenance.salvage import survey
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.qdrant.index import OpenIndex, QdrantGeneration
from vfindex.storage.settings_backup import lost_setup, own_backup, read_backup
from vfindex.storage.user.repair import user_faults

_RESTORE = "; put back library.db from a backup, or run: vfindex repair"


@dataclass(slots=True)
class Verification:
    """The result. notes: not faults. redo: paths of videos that must be indexed again."""

    videos: int = 0
    clips: int = 0
    embeddings: int = 0
    segments: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recall_at_10: float | None = None
    redo: list[bytes] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.problems


@again_if_changed
def verify(library: Library) -> Verification:
    """Run SQLite's check, the row checks, a comparison of the index with library.db, a recall test; check user.db.

    Reads every file of the query encoders and the header and end of each thumbnail. Raises LibraryError for what this
    user may not read, which is not a fault of the library.
    """
    with Unchanged(opening(library.folder / "library.db")):
        return _verification(library)


def _verification(library: Library) -> Verification:
    result = Verification()
    database = library.folder / "library.db"
    try:
        result.problems += user_faults(library.root)
    except LibraryVersion as exc:
        result.notes.append(f"marks and saved questions were not checked: {exc}")
    lost, torn = _check_database(database, result)
    redo: set[bytes] = set()
    try:
        with library.snapshot() as snapshot:
            _count(snapshot, result)
            with snapshot.any_text():
                result.problems += broken_settings(snapshot.stream)
            redo.update(_check_rows(snapshot, result))
            _check_loss(library, snapshot, result)
            result.problems += query_faults(library, snapshot).values()
            result.problems += head_faults(library, snapshot)
            _check_thumbnails(library, snapshot, result)
            known = len(result.problems)
            _check_generation(library, snapshot, result)
            if len(result.problems) > known and _newest(library) != _id_of(snapshot):
                raise LibraryChanged("its joint index has been replaced meanwhile; run the same command again")
    except (LibraryDamaged, DimensionError, DBAPIError, ValueError) as exc:
        # A damaged page can raise any of these; SQLite's check above has usually reported it already.
        result.problems += [] if lost else [str(exc).removesuffix(RUN_VERIFY)]
    if lost or torn:
        redo.update(_survey(database, result))
    _tell_redo(sorted(redo), result)
    return result


def _check_database(database: Path, result: Verification) -> tuple[bool, bool]:
    """Return whether parts of the schema are lost, and whether SQLite finds the database damaged; add the faults."""
    engine = connect(database, write=False)
    try:
        torn, lost = check_integrity(engine), lost_schema(engine)
        result.problems += lost or ([_damaged(torn)] if torn else false_words(engine))
    finally:
        engine.dispose()
    return bool(lost), bool(torn)


def _damaged(faults: list[str]) -> str:
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    return f"library.db is damaged; run: vfindex repair (SQLite's check found: {faults[0]}{more})"


def _survey(database: Path, result: Verification) -> list[bytes]:
    """Return the paths of the videos that cannot be read out of a damaged database."""
    try:
        return survey(database)
    except (LibraryDamaged, LibraryVersion) as exc:
        result.problems.append(str(exc))
        return []


def _tell_redo(paths: list[bytes], result: Verification) -> None:
    result.redo = paths
    if paths:
        what = counted(len(paths), "video")
        result.problems.append(f"{what} must be indexed again: {shown_paths(paths)}; run: vfindex repair")


def _count(snapshot: Snapshot, result: Verification) -> None:
    counts = snapshot.counts()
    result.clips, result.segments = counts["clip"], counts["segment"]
    result.videos = counts.get("indexed", 0) + counts.get("partial", 0)
    result.embeddings = sum(snapshot.modality_counts().values())
    if counts.get("indexing"):
        begun = counted(counts["indexing"], "video")
        result.notes.append(f"{begun} begun and not finished; the next `vfindex ingest` goes on there")


def _check_rows(snapshot: Snapshot, result: Verification) -> Iterator[bytes]:
    """Yield the paths of the videos with damaged rows."""
    for video in damaged_videos(snapshot):
        name = shown_paths(video.paths, 1) if video.paths else f"video {video.id}, which lies nowhere"
        more = f", and {len(video.reasons) - 1} more of its rows" if len(video.reasons) > 1 else ""
        result.problems.append(f"{name}: {video.reasons[0]}{more}")
        yield from video.paths


def _check_thumbnails(library: Library, snapshot: Snapshot, result: Verification) -> None:
    if library.thumbs.is_dir() and not is_allowed(library.thumbs, os.R_OK | os.X_OK):
        result.notes.append(f"no permission to read {library.thumbs}; the thumbnails were not checked")
        return
    torn = sum(not is_whole(library.thumbnail(name)) for name in snapshot.thumbnails())
    if torn:
        result.notes.append(f"{counted(torn, 'thumbnail')} missing or damaged; `vfindex repair` makes what is missing")
    strays = sum(1 for _ in stray_thumbnails(library, snapshot))
    if strays:
        result.notes.append(f"{counted(strays, 'thumbnail')} of no clip; `vfindex repair` deletes what is of no use")


def _check_loss(library: Library, snapshot: Snapshot, result: Verification) -> None:
    """Add a problem if the database lacks commits from before the last publication."""
    spare = own_backup(snapshot.connection, library.folder)
    fault = None if snapshot.get("setup") else lost_setup(snapshot, library.folder)
    if fault is not None:
        result.problems.append(str(fault))
    elif spare is None and read_backup(library.folder) is not None:
        result.problems.append(f"{BACKUP} is of another library; run: vfindex repair")
    generation = snapshot.generation()
    newest = 0 if generation is None else generation.id
    if spare is not None and newest < spare.generation:
        result.problems.append(
            f"the database has lost what was committed last: it had {counted(spare.clips, 'clip')} at index generation "
            f"{spare.generation} and is at {newest}{_RESTORE}"
        )
    elif spare is None and newest == 0 and not result.clips and any(library.index.glob(f"*{SEGMENT_SUFFIX}")):
        result.problems.append(f"the database is empty, and there is a joint index of its clips{_RESTORE}")


def _check_generation(library: Library, snapshot: Snapshot, result: Verification) -> None:
    generation = snapshot.generation()
    if generation is None:
        if result.clips:
            result.notes.append("no joint index is published yet; searches scan the clips exactly")
        return
    try:
        opened = library.open_index(generation, thorough=True)
        opened.within(snapshot, generation.spec)
        if isinstance(opened, QdrantGeneration):
            _check_points(opened, snapshot, result)
    except IndexUnusable as exc:
        result.problems.append(str(exc))
        return
    change = snapshot.get("changed")
    indexed, stored = opened.ids(), np.array(snapshot.clip_ids(searchable=False), np.int64)
    lacking = int(np.count_nonzero(~in_sorted(stored[stored <= generation.watermark], indexed)))
    idle = int(np.count_nonzero(~in_sorted(indexed, stored)))
    name = f"index/{generation.file}"
    if lacking:
        result.problems.append(f"{name} lacks {counted(lacking, 'clip')} that it should hold")
    if idle and change != "stale":
        result.problems.append(f"{name} holds {counted(idle, 'vector')} of clips that are gone")
    if change:
        result.notes.append("the joint index is older than the clips; the next `vfindex ingest` publishes a new one")
    same = np.setdiff1d(indexed[in_sorted(indexed, stored)], snapshot.changed(generation.watermark))
    _check_vectors(snapshot, opened, same, result)


def _newest(library: Library) -> int:
    with library.snapshot() as snapshot:
        return _id_of(snapshot)


def _id_of(snapshot: Snapshot) -> int:
    generation = snapshot.generation()
    return 0 if generation is None else generation.id


def _check_vectors(snapshot: Snapshot, opened: OpenIndex, same: NDArray[np.int64], result: Verification) -> None:
    """Compare vectors of clips that have not changed, and what a few questions find, with library.db."""
    generation = snapshot.generation()
    if generation is None:
        return
    index, name = opened.within(snapshot, generation.spec), f"index/{generation.file}"
    if isinstance(opened, QdrantGeneration):  # all would take hours over a network
        same = same[evenly_spaced(len(same), SAMPLED_CLIPS)]
    wrong = wrong_rows(snapshot, index, generation.spec, same)
    if wrong:
        fault = f"has other vectors than library.db for {wrong} of {counted(len(same), 'clip')}"
        result.problems.append(f"{name} {fault}; run: vfindex rebuild")
    elif len(index) and snapshot.get("changed") != "stale":
        priors = LibraryMeta(snapshot).priors
        result.recall_at_10 = min(recall_at_10(snapshot, index, generation.spec, priors), default=1.0)
        if result.recall_at_10 < FLOOR:
            result.problems.append(f"{name} finds {result.recall_at_10:.2f} of what an exact scan finds")


def _check_points(generation: QdrantGeneration, snapshot: Snapshot, result: Verification) -> None:
    """Compare the points in Qdrant with what the generation's file says. Raises IndexUnusable."""
    collection = generation.collection()
    points, held = collection.ids(), generation.ids()
    lost = np.setdiff1d(held, points)
    lost = lost[~in_sorted(lost, snapshot.changed(generation.facts.last))]
    if len(lost):
        result.problems.append(f"{collection.place} lacks {counted(len(lost), 'clip')}; run: vfindex rebuild")
    strays = int(np.count_nonzero(~in_sorted(points, held)))
    if strays:
        text = f"{collection.place} holds {counted(strays, 'clip')} of an interrupted run"
        result.notes.append(f"{text}; the next `vfindex ingest` deletes them")
