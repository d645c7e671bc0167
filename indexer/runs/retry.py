"""Takes up again what could not be indexed: files that failed, and on request those that broke their decoders."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vfindex.indexer.models.presets import options_of
from vfindex.indexer.runners.base import RunnerChoice
from vfindex.indexer.runs.ingest import IngestSettings, work
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.retry_policy import FINAL
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.scan.walk import discover
from vfindex.storage.db.sources import known_files
from vfindex.storage.errors import BUG, LibraryNotFound
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import KnownFile
from vfindex.storage.writer import writing


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """What the user asked for.

    cache: where models are kept. workers: units read at once. quarantined: these too. runner: who does the work.
    """

    cache: Path
    workers: int | None = None
    quarantined: bool = False
    runner: RunnerChoice = field(default_factory=RunnerChoice)


def retry(folder: Path, paths: Sequence[bytes], settings: RetrySettings, callbacks: Callbacks | None = None) -> Report:
    """Try again what failed at and below `paths`, everywhere if there are none; return what became of each file.

    Raises LibraryNotFound, LibraryLocked, LibraryVersion, LibraryError, ModelError, UsageError (a path may be any
    of several).
    """
    callbacks = callbacks or Callbacks()
    began = time.monotonic()
    Library.open(folder)
    with writing(folder) as writer:
        setup = writer.setup()
        if setup is None:
            raise LibraryNotFound(f"the library {folder} is empty; name videos: vfindex ingest VIDEOS")
        known = known_files(writer.catalog)
        named = [writer.catalog.path_of([path]) or path for path in paths]
        files = chosen(known, named, quarantined=settings.quarantined)
        for path in files:
            if known[path].state == "partial":
                writer.catalog.mark_preview(known[path].video_id)  # it stays in search until it is read anew
        run = Run(writer, options_of(setup, asr=LibraryMeta(writer.catalog).recognises_speech), callbacks)
        run.report.run_id = writer.catalog.begin_run("retry")
        run.sort(discover(files, stop=callbacks.stop))
        if run.has_work():
            work(run, setup, IngestSettings(settings.cache, workers=settings.workers, runner=settings.runner))
        run.end(began)
    return run.report


def chosen(known: Mapping[bytes, KnownFile], paths: Iterable[bytes], *, quarantined: bool) -> list[bytes]:
    """Return the files to be tried again, in order of bytes.

    A file that is named is tried whatever kept it out, or kept a part of it out. Of all others, those stay away of
    which the same would be said again (`ladder.FINAL`), and those in quarantine unless they are asked for. What a bug
    of vfindex kept out, or a part of it, is always tried.
    """
    named = set(paths)
    states = ("failed", "quarantined") if quarantined else ("failed",)
    found = []
    for path, file in known.items():
        code = file.problem.get("code") if file.problem else None
        if path in named:
            found += [path] if file.state in ("failed", "quarantined", "partial") else []
        elif named and not any(path.startswith(root.rstrip(b"/") + b"/") for root in named):
            continue
        elif (file.state == "partial" and code == BUG) or (file.state in states and code not in FINAL):
            found.append(path)
    return sorted(found)
