"""Catalog: the writing side of library.db. Each method is one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, insert, select, true, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from vfindex.storage.db import integrity, locations, runs, schema, units
from vfindex.storage.db.clips import insert_embedding
from vfindex.storage.db.documents import set_documents
from vfindex.storage.db.engine import RUN_VERIFY, check_integrity, connect, translated
from vfindex.storage.db.integrity import inserted, put
from vfindex.storage.db.locations import (
    below,
    exclude_path,
    expired_times,
    is_below,
    latest_time,
    mark_missing,
    move_location,
)
from vfindex.storage.db.migrations import migrate
from vfindex.storage.db.runs import PROGRESS, insert_attempts
from vfindex.storage.db.scrubbing import forget_removed
from vfindex.storage.db.units import insert_units
from vfindex.storage.db.videos import (
    delete_videos,
    discard_replaced,
    discard_staged,
    is_unfinished,
    replace_with_staged,
    thumbnails,
    video_values,
)
from vfindex.storage.errors import LibraryDamaged, Problem, problem_json
from vfindex.storage.joint.codecs import pack_vector
from vfindex.storage.modalities import document_modality
from vfindex.storage.records import Attempt, Chapter, Document, FloatArray, Location, UnitPlan, Video, VideoState

if TYPE_CHECKING:
    from vfindex.storage.db.documents import TranscriptUpdate


P = ParamSpec("P")
R = TypeVar("R")


def _in_transaction(work: Callable[Concatenate[Connection, P], R]) -> Callable[Concatenate[Catalog, P], R]:
    """Return the method that does `work` in a transaction of its own."""

    @wraps(work)
    def method(catalog: Catalog, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with catalog.transaction() as connection:
            return work(connection, *args, **kwargs)

    return method


class Catalog:
    """The writing side of library.db. `Catalog.open(None)` is a catalog in memory, for tests.

    Every change sets the flag that `change` returns; publishing a generation clears it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, path: Path | None) -> Catalog:
        """Open or create the database at `path` and bring it up to date. Raises LibraryVersion, LibraryDamaged."""
        catalog = cls(connect(path, write=True))
        with catalog.transaction() as connection:
            migrate(connection)
        return catalog

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commit all or nothing. Raises LibraryDamaged, or LibraryError when the disk is full."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except IntegrityError as exc:
            if found := check_integrity(self.engine):
                raise LibraryDamaged(f"the library's database is damaged ({found[0]}){RUN_VERIFY}") from exc
            raise
        except (DBAPIError, sqlite3.Error) as exc:
            raise translated(exc) from exc

    # --- settings -----------------------------------------------------------------------------------------------

    get = _in_transaction(integrity.setting)
    put = _in_transaction(integrity.put)
    lost_settings = _in_transaction(integrity.lost_settings)

    def change(self) -> str | None:
        """Return what changed since the last published generation: None, `added`, or `stale` (deleted or changed)."""
        return self.get("changed")

    def unindexed(self) -> int:
        """Return how many clips readers scan exactly: new, changed or deleted since the last published generation."""
        g, c = schema.generation.c, schema.clip.c
        last = select(g.watermark).order_by(g.id.desc()).limit(1)
        with self.transaction() as connection:
            watermark = connection.scalar(last) or 0
            new = connection.scalar(select(func.count()).where(c.id > watermark)) or 0
            return new + (connection.scalar(select(func.count()).select_from(schema.index_change)) or 0)

    # --- files and videos ---------------------------------------------------------------------------------------

    def find(self, fingerprint: str) -> tuple[int, VideoState, bool] | None:
        """Return (video id, state, speech recognised), or None; of a missing video its state before."""
        v = schema.video.c
        query = select(v.id, v.state, v.state_before, v.recognised).where(v.fingerprint == fingerprint)
        with self.transaction() as connection:
            row = connection.execute(query.where(v.staged == 0)).first()
        if row is None:
            return None
        return row.id, row.state_before if row.state == "vanished" else row.state, bool(row.recognised)

    def resumable(self, fingerprint: str, *, recognised: bool, coarse: bool = False) -> tuple[int, int] | None:
        """Return (id, number of committed units) of an unfinished video that can be resumed, or None.

        recognised: speech recognition is on, so a video begun without it is not resumed. coarse: see `begin_video`.
        """
        v, u = schema.video.c, schema.unit.c
        begun = select(v.id).where(is_unfinished(fingerprint), v.recognised >= int(recognised), v.coarse == int(coarse))
        with self.transaction() as connection:
            video_id = connection.scalar(begun)
            if video_id is None:
                return None
            done = select(func.count()).where(u.video_id == video_id, u.state == "done")
            return video_id, int(connection.scalar(done) or 0)

    def problem_at(self, path: bytes) -> Mapping[str, str] | None:
        """Return the problem of the video at `path`, missing or not; None if it was indexed fully."""
        loc, tomb = schema.location.c, schema.tombstone.c
        here = select(loc.video_id).where(loc.path == path).scalar_subquery()
        missing = select(tomb.video_id).where(tomb.path == path).scalar_subquery()
        query = select(schema.video.c.problem).where(schema.video.c.id == func.coalesce(here, missing))
        with self.transaction() as connection:
            problem = connection.scalar(query)
        return json.loads(problem) if problem else None

    def names(self, video_id: int) -> tuple[list[bytes], dict[str, str], list[Chapter]]:
        """Return (paths in order, tags, chapters) of a video, of which its words are made."""
        v, loc = schema.video.c, schema.location.c
        with self.transaction() as connection:
            row = connection.execute(select(v.tags, v.chapters).where(v.id == video_id)).one()
            paths = connection.scalars(select(loc.path).where(loc.video_id == video_id).order_by(loc.path)).all()
        return list(paths), json.loads(row.tags), [Chapter.parse(each) for each in json.loads(row.chapters)]

    unit_errors = _in_transaction(units.unit_errors)
    pending_units = _in_transaction(units.pending_units)

    # --- indexing -----------------------------------------------------------------------------------------------

    def begin_video(
        self,
        video: Video,
        units: Sequence[UnitPlan],
        *,
        recognised: bool,
        coarse: bool = False,
        path: bytes | None = None,
        added_run: int | None = None,
    ) -> int:
        """Insert a video with its pending units and return its id. Searches do not see it yet.

        A video of the same fingerprint is replaced: at once, or if it is searchable, when this one is finished.
        coarse: it is indexed as a preview; a later run indexes it fully. path: of its file, so that `remove` finds the
        video before it is finished. added_run: of a video from another model version, None for the newest run.
        """
        values = video_values(video) | {"state": "indexing", "recognised": int(recognised), "coarse": int(coarse)}
        with self.transaction() as connection:
            values["staged"] = discard_replaced(connection, video.fingerprint)
            values["added_run"] = schema.newest_run if added_run is None else added_run
            video_id = inserted(connection, insert(schema.video).values(**values))
            insert_units(connection, video_id, units)
            if path is not None:
                connection.execute(insert(schema.begun).values(video_id=video_id, path=path))
        return video_id

    commit_unit = _in_transaction(units.insert_result)

    def finish_video(
        self, video_id: int, location: Location, documents: Sequence[Document], *, problem: Problem | None = None
    ) -> list[str]:
        """Make a video whose units are all committed searchable at `location`; return thumbnails no longer needed.

        problem: why it is `partial`. The video that had this path before is deleted unless it has another location.
        """
        state: VideoState = "partial" if problem else "indexed"
        with self.transaction() as connection:
            connection.execute(
                update(schema.video)
                .where(schema.video.c.id == video_id)
                .values(state=state, problem=problem_json(problem))
            )
            connection.execute(delete(schema.begun).where(schema.begun.c.video_id == video_id))
            set_documents(connection, video_id, documents)
            stale = replace_with_staged(connection, video_id)
            return [*stale, *move_location(connection, video_id, location)]

    def measure_video(self, video_id: int, *, start_s: float, last_s: float, end_s: float, frames: int | None) -> None:
        """Replace the times of the container's header by those of the decoded frames."""
        with self.transaction() as connection:
            connection.execute(
                update(schema.video)
                .where(schema.video.c.id == video_id)
                .values(start_s=start_s, last_s=last_s, end_s=end_s, frames=frames)
            )

    note_attempt = _in_transaction(runs.note_attempt)
    attempts = _in_transaction(runs.noted_attempts)
    past_bugs = _in_transaction(runs.past_bugs)

    def fail_video(
        self,
        fingerprint: str,
        location: Location,
        problem: Problem,
        *,
        quarantine: bool = False,
        attempts: Sequence[Attempt] = (),
    ) -> list[str]:
        """Store that this content cannot be indexed, with the problem and the failed attempts.

        An earlier searchable version stays searchable. Returns thumbnails no longer needed.
        """
        values = video_values(
            Video(fingerprint, location.size_bytes, "", "", 0, 0, 0, 0.0, 0.0, 0.0, None, has_audio=False)
        )
        values |= {
            "state": "quarantined" if quarantine else "failed",
            "recognised": 0,
            "problem": problem_json(problem),
            "added_run": schema.newest_run,
        }
        with self.transaction() as connection:
            lost = thumbnails(connection, is_unfinished(fingerprint))
            video_id = discard_staged(connection, fingerprint)
            if video_id is not None:
                changes = {"state": "partial", "problem": problem_json(problem), "coarse": 0, "recognised": 1}
                connection.execute(update(schema.video).where(schema.video.c.id == video_id).values(**changes))
            else:
                delete_videos(connection, schema.video.c.fingerprint == fingerprint)
                video_id = inserted(connection, insert(schema.video).values(**values))
            insert_attempts(connection, video_id, attempts)
            used = set(thumbnails(connection, schema.video.c.id == video_id))
            return [*(name for name in lost if name not in used), *move_location(connection, video_id, location)]

    place = _in_transaction(locations.move_location)

    def mark_preview(self, video_id: int) -> None:
        """Mark a video as a preview, so that the next run indexes it fully."""
        with self.transaction() as connection:
            connection.execute(update(schema.video).where(schema.video.c.id == video_id).values(coarse=1))

    def is_preview(self, video_id: int) -> bool:
        """Return whether a video is indexed as a preview."""
        with self.transaction() as connection:
            return bool(connection.scalar(select(schema.video.c.coarse).where(schema.video.c.id == video_id)))

    def update_transcript(self, video_id: int, location: Location, words: TranscriptUpdate | None) -> None:
        """Replace a video's transcript and text if `words` is given, and store the sidecar state of `location`."""
        from vfindex.storage.db.documents import update_transcript

        with self.transaction() as connection:
            if words is not None:
                update_transcript(connection, video_id, words)
            move_location(connection, video_id, location)

    def retitle(
        self,
        video_id: int,
        title: str,
        documents: Sequence[Document],
        vector: FloatArray | None,
        by_clip: Mapping[int, FloatArray] | None = None,
    ) -> int:
        """Give a renamed video its new title and documents; return the number of its clips.

        vector: (dim,) of the modality with documents, or None. by_clip: clip id -> its vector, where that is another.
        """
        modality, others = document_modality(), by_clip or {}
        clips = select(schema.clip.c.id).where(schema.clip.c.video_id == video_id)
        with self.transaction() as connection:
            connection.execute(update(schema.video).where(schema.video.c.id == video_id).values(title=title))
            connection.execute(
                delete(schema.embedding).where(
                    schema.embedding.c.modality == modality, schema.embedding.c.clip_id.in_(clips)
                )
            )
            clip_ids = connection.scalars(clips).all()
            packed = None if vector is None else pack_vector(vector)
            for clip_id in clip_ids:
                own = pack_vector(others[clip_id]) if clip_id in others else packed
                if own is not None:
                    insert_embedding(connection, clip_id, modality, own)
            set_documents(connection, video_id, documents)
            put(connection, "changed", "stale")
        return len(clip_ids)

    path_of = _in_transaction(locations.known_path)

    def remove(self, path: bytes, *, exclude: bool = False) -> tuple[int, int, list[str]]:
        """Delete the file at `path`, or every file below the folder `path`, and the sources there.

        Returns (locations, videos) deleted and the thumbnails no longer needed. A video that has another location
        stays. exclude: if a folder above `path` is a source, later runs skip `path`.
        """
        with self.transaction() as connection:
            files = 0
            for table in (schema.location, schema.tombstone, schema.root, schema.exclusion):
                count = connection.execute(delete(table).where(below(table.c.path, path))).rowcount
                files += count if table in (schema.location, schema.tombstone) else 0
            if exclude:
                exclude_path(connection, path, now())
            return files, *forget_removed(connection, lambda other: is_below(other, path))

    # --- missing files ------------------------------------------------------------------------------------------

    def mark_missing(self, paths: Collection[bytes]) -> None:
        """Turn locations into tombstones. A video without another location leaves search and keeps its rows.

        They are missing since now, or since the latest recorded time if the clock is behind it.
        """
        with self.transaction() as connection:
            newest = latest_time(connection)
            mark_missing(connection, paths, max(now(), newest.isoformat(timespec="seconds") if newest else ""))

    restore_missing = _in_transaction(locations.restore_missing)
    missing_files = _in_transaction(locations.missing_files)
    former_paths = _in_transaction(locations.former_paths)
    sidecar_states = _in_transaction(locations.sidecar_states)
    fingerprint_at = _in_transaction(locations.fingerprint_at)

    def purge(self, before: str | None) -> tuple[int, int, list[str]]:
        """Delete what is missing since before a time (as `now` writes it), or all; return as `remove` does."""
        tomb = schema.tombstone.c
        with self.transaction() as connection:
            return self._purge(connection, true() if before is None else tomb.gone_at < before)

    def purge_missing(self, age: timedelta, at: datetime) -> tuple[int, int, list[str]]:
        """Delete what has been missing for `age` at the time `at`, see `absence`; return as `remove` does.

        Raises LibraryError if the clock is behind the library.
        """
        tomb = schema.tombstone.c
        with self.transaction() as connection:
            times = json.dumps(expired_times(connection, age, at))
            old = tomb.gone_at.in_(select(func.json_each(times).table_valued("value").c.value))
            return self._purge(connection, old)

    def _purge(self, connection: Connection, old: ColumnElement[bool]) -> tuple[int, int, list[str]]:
        paths = set(connection.scalars(select(schema.tombstone.c.path).where(old)))
        connection.execute(delete(schema.tombstone).where(old))
        return len(paths), *(forget_removed(connection, paths.__contains__) if paths else (0, []))

    # --- runs ---------------------------------------------------------------------------------------------------

    def begin_run(self, command: str) -> int:
        """Insert a run and return its id."""
        with self.transaction() as connection:
            return inserted(connection, insert(schema.run).values(command=command, started_at=now()))

    def note_progress(self, run_id: int, counts: Mapping[str, float]) -> None:
        """Store how far a run is, in the place of its report. counts: the fields of `RunProgress` but the time."""
        values = {"report": json.dumps({PROGRESS: {**counts, "at": now()}})}
        with self.transaction() as connection:
            connection.execute(update(schema.run).where(schema.run.c.id == run_id).values(**values))

    def end_run(self, run_id: int, report: Mapping[str, Any]) -> None:
        """Store the report of a run."""
        with self.transaction() as connection:
            connection.execute(
                update(schema.run).where(schema.run.c.id == run_id).values(finished_at=now(), report=json.dumps(report))
            )


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
