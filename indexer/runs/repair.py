"""`vfindex repair`: keep the readable part of a damaged library, and rebuild the rest from the videos."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vfindex.indexer.boundary import one_file
from vfindex.indexer.extractors.frame_record import FrameRecord
from vfindex.indexer.extractors.metadata_text import documents_of
from vfindex.indexer.extractors.visual import SHOT_PX
from vfindex.indexer.media.decoder import Decoder, Frame, FrameTap
from vfindex.indexer.models.factory import Opening, open_encoders, query_folders
from vfindex.indexer.options import Sampling
from vfindex.indexer.pipeline.unit_reader import UnitRequest, decode_unit
from vfindex.indexer.runs.execute import Command, RunSettings, execute
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks, Run, is_index_damaged
from vfindex.indexer.scan.missing import is_missing
from vfindex.indexer.scan.walk import Discovered, discover
from vfindex.storage.db.engine import connect
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.sources import exclusions, roots
from vfindex.storage.db.units import committed_plans, stored_unit
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.encoders.text import check_files, read_meta
from vfindex.storage.errors import DatabaseLost, ModelError, VideoError
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.library import Library
from vfindex.storage.machine import usable_cores
from vfindex.storage.maintenance.assets import is_whole, query_faults, stray_thumbnails
from vfindex.storage.maintenance.damage import damaged_videos, false_words
from vfindex.storage.maintenance.repair import (
    UNFINISHED,
    delete_orphans,
    restore_settings,
    rewrite_words,
    salvage_database,
    set_aside,
    waiting,
)
from vfindex.storage.maintenance.salvage import Salvage
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.modalities import frame_modality, switches
from vfindex.storage.records import SEARCHABLE, Clip, Document, Setup
from vfindex.storage.user.repair import UserRepair, repair_user_data
from vfindex.storage.writer import Writer, locked


@dataclass(slots=True)
class RepairReport:
    """One repair. saved: rows saved of library.db; 0: it was restored from library.json alone; None: it was sound.

    kept: where the damaged database is now, None if it was not replaced, or was missing or empty. settings: whether
    settings or sources were restored, or damaged rows of them deleted. unreadable: table -> number of unreadable rows.
    damaged: videos whose rows were deleted. words: whether full text search was rebuilt. index: whether a new joint
    index took the place of a damaged one. encoders: names of the query encoders replaced. thumbnails: rebuilt; strays:
    deleted. user: the repair of user.db, None if it was sound. left: problems that `verify` still finds. run: the
    report of the files that were indexed again.
    """

    saved: int | None = None
    kept: Path | None = None
    settings: bool = False
    unreadable: dict[str, int] = field(default_factory=dict)
    damaged: int = 0
    words: bool = False
    index: bool = False
    encoders: list[str] = field(default_factory=list)
    thumbnails: int = 0
    strays: int = 0
    user: UserRepair | None = None
    left: list[str] = field(default_factory=list)
    run: Report = field(default_factory=Report)

    def to_dict(self, path: Callable[[bytes], str]) -> dict[str, Any]:
        """Return the report for JSON; path: how a path becomes text."""
        return {
            **self.run.to_dict(path),
            "saved": self.saved,
            "kept": None if self.kept is None else str(self.kept),
            "settings": self.settings,
            "unreadable": self.unreadable,
            "damaged": self.damaged,
            "words": self.words,
            "index": self.index,
            "encoders": self.encoders,
            "thumbnails": self.thumbnails,
            "strays": self.strays,
            "user": None if self.user is None else asdict(self.user) | {"kept": str(self.user.kept)},
            "not_repaired": self.left,
        }


def repair(folder: Path, settings: RunSettings, callbacks: Callbacks | None = None) -> RepairReport:
    """Repair the library in `folder` and return what was done.

    An interrupted repair is continued by the next. Videos whose files are missing keep their locations and wait.
    Raises LibraryNotFound, LibraryDamaged (nothing of it can be read), and as `execute` does.
    """
    callbacks = callbacks or Callbacks()
    began = time.monotonic()
    with suppress(DatabaseLost):
        Library.open(folder)
    report = RepairReport()
    with locked(folder):
        report.user = repair_user_data(folder)
        saved = salvage_database(in_use(folder))
    salvage = saved[0] if saved else Salvage()

    def setup(writer: Writer) -> Setup:
        report.settings = restore_settings(writer.catalog, writer.folder)
        found = writer.existing_setup()
        if saved is not None:
            report.saved, report.kept = salvage.rows, saved[1]
            report.unreadable = {name: _keys(ranges) for name, ranges in sorted(salvage.lost.items())}
            callbacks.say(_of_database(report))
        return found

    def prepare(writer: Writer, setup: Setup) -> None:
        report.index = is_index_damaged(writer, thorough=True)
        _repair_rows(writer, salvage, report)
        with callbacks.interruptible():
            _renew_encoders(writer, setup, settings.cache, report, callbacks)

    def finish(run: Run, setup: Setup) -> None:
        report.run, writer = run.report, run.writer
        report.index = report.index and not (report.run.interrupted or report.run.not_published)
        if not report.run.interrupted:
            if writer.catalog.get(UNFINISHED) == "1":
                writer.catalog.put(UNFINISHED, "0")
            _renew_thumbnails(writer, setup, settings.cache, report, callbacks)
        report.run.wall_s = time.monotonic() - began
        writer.write_backup()
        writer.catalog.end_run(report.run.run_id, report.to_dict(os.fsdecode))

    command = Command("repair", setup, lambda run: _scan(run, salvage.paths, folder), prepare, finish=finish)
    execute(folder, command, settings, callbacks)
    if not report.run.interrupted:
        report.left = verify(Library.open(folder)).problems
    return report


def _of_database(report: RepairReport) -> str:
    """Return what became of a library.db that was replaced, as a sentence."""
    kept = "library.db was missing or empty"
    if report.kept is not None:
        kept = f"the damaged database is kept as {report.kept.name}"
    if report.saved:
        return f"{kept}; what could be read of it was saved"
    return f"{kept}; settings and folders are restored from library.json, and all videos are indexed again"


def _scan(run: Run, salvaged: Iterable[bytes], folder: Path) -> Iterator[Discovered]:
    """Yield the files of videos without rows, then, if rows were lost, every file of the roots that is not known."""
    catalog, stop = run.writer.catalog, run.callbacks.stop
    paths = [path for video in waiting(catalog) for path in video.paths]
    yield from discover(list(dict.fromkeys([*paths, *salvaged])), stop=stop)
    if catalog.get(UNFINISHED) != "1":
        return
    avoid, removed = [os.fsencode(folder)], exclusions(catalog)
    for root in roots(catalog):
        if not is_missing(root.path):
            yield from discover(
                [root.path], exclude=root.exclude, avoid=avoid, removed=removed, sift=run.changed, stop=stop
            )


def _keys(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)


# --- rows -----------------------------------------------------------------------------------------------------------


def _repair_rows(writer: Writer, saved: Salvage, report: RepairReport) -> None:
    """Delete the rows of damaged videos, and rebuild full text search where it does not match the rows left."""
    with writer.library.snapshot() as snapshot:
        known = {video.id for video in damaged_videos(snapshot)}
    delete_orphans(writer.catalog)
    known |= saved.videos
    if known:
        set_aside(writer.catalog, known)
    report.damaged = len(known)
    engine = connect(writer.folder / "library.db", write=False)
    try:
        report.words = bool(known) or bool(false_words(engine))
    finally:
        engine.dispose()
    if report.words or "document" in saved.lost:
        report.words = True
        rewrite_words(writer.catalog, _titles(writer))


def _titles(writer: Writer) -> dict[int, tuple[Document, ...]]:
    """Return video id -> its titles and tags, for all videos with a location."""
    with writer.library.snapshot() as snapshot:
        videos = [video for video in snapshot.videos() if video.locations and video.state in SEARCHABLE]
    return {
        video.id: documents_of((place.path for place in video.locations), video.tags, video.chapters)
        for video in videos
    }


# --- query encoders -------------------------------------------------------------------------------------------------


def _renew_encoders(writer: Writer, setup: Setup, cache: Path, report: RepairReport, callbacks: Callbacks) -> None:
    """Replace damaged query encoders by those of the cache, which are exported again where they are damaged too."""
    with writer.library.snapshot() as snapshot:
        faults = query_faults(writer.library, snapshot)
    if not faults:
        return
    folders = query_folders(setup, cache, say=callbacks.say)
    for name in faults:
        try:
            check_files(folders[name], read_meta(folders[name]))
        except ModelError:
            shutil.rmtree(folders[name], ignore_errors=True)  # as links, the two are one file often
            folders = query_folders(setup, cache, say=callbacks.say)
    writer.renew_query_encoders({name: folders[name] for name in faults})
    report.encoders = sorted(faults)


# --- thumbnails -----------------------------------------------------------------------------------------------------


def _renew_thumbnails(writer: Writer, setup: Setup, cache: Path, report: RepairReport, callbacks: Callbacks) -> None:
    """Rebuild missing and torn thumbnails from the videos, and delete those of no clip."""
    with writer.library.snapshot() as snapshot:
        for path in stray_thumbnails(writer.library, snapshot):
            path.unlink(missing_ok=True)
            report.strays += 1
        bare = _without_thumbnails(writer.library, snapshot)
        if not bare:
            return
        with callbacks.interruptible():
            encoders = open_encoders(setup, cache, Opening(usable_cores(), frozenset(switches())), say=callbacks.say)
        size_px = SHOT_PX if encoders.image is None else encoders.image.size_px
        wanted = UnitRequest((FrameTap(size_px),), Sampling.parse(setup.sampling))
        with Decoder() as decoder:
            for video in bare:
                if callbacks.stop():
                    report.run.interrupted = True
                    return
                try:
                    with one_file(video.locations[0].path, "decode"):
                        report.thumbnails += _remake(writer, snapshot, video, wanted, decoder)
                except VideoError as exc:
                    report.run.found += 1
                    report.run.failed.append(exc.problem)


def _without_thumbnails(library: Library, snapshot: Snapshot) -> list[StoredVideo]:
    """Return the searchable videos with a file that lack a thumbnail, or have a torn one."""
    return [
        video
        for video in snapshot.videos()
        if video.state in SEARCHABLE
        and any(os.path.isfile(place.path) for place in video.locations)
        and any(
            clip.thumbnail and not is_whole(library.thumbnail(clip.thumbnail)) for clip in snapshot.clips_of(video.id)
        )
    ]


def _remake(writer: Writer, snapshot: Snapshot, video: StoredVideo, wanted: UnitRequest, decoder: Decoder) -> int:
    """Decode a video's units again, write the thumbnails that are missing or torn, and return how many.

    A video that cannot be decoded stays without; `verify` reports it.
    """
    path = next(place.path for place in video.locations if os.path.isfile(place.path))
    made = 0
    for plan in committed_plans(snapshot, video.id):
        unit = stored_unit(snapshot, video.id, plan)
        pairs = [(c, name) for c, name in zip(unit.result.clips, unit.thumbnails, strict=True) if name]
        lacking = [(c, name) for c, name in pairs if not is_whole(writer.library.thumbnail(name))]
        if not lacking:
            continue
        record = FrameRecord()
        try:
            with closing(decode_unit(path, plan, wanted, decoder)) as items:
                for item in items:
                    if isinstance(item, Frame):
                        record.add(item)
        except VideoError:
            return made
        for clip, name in lacking:
            picture = record.thumbnails.pick(clip.start_s, clip.end_s, _middle_s(clip))
            if picture is not None:
                writer.write_thumbnail(name, picture)
                made += 1
    return made


def _middle_s(clip: Clip) -> float:
    """Return the time of a clip's thumbnail: of the frame nearest to the mean of its vectors; without, the middle."""
    if not len(clip.frame_vectors):
        return (clip.start_s + clip.end_s) / 2
    return float(clip.frame_times_s[int(np.argmax(clip.frame_vectors @ clip.embeddings[frame_modality()]))])
