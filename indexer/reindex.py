"""The nightly run: every path that was ever ingested, looked at again. What is new goes the way of `ingest`.

Nothing heavy is imported until there is something to index: most nights find most libraries unchanged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vfindex.indexer.discover import Discovered, Found, discover
from vfindex.indexer.media import Options, Sampling
from vfindex.indexer.report import Report
from vfindex.indexer.triage import Triage, Watcher
from vfindex.indexer.vanished import bury, is_missing
from vfindex.storage.errors import LibraryError
from vfindex.storage.library import Library
from vfindex.storage.roots import Root, roots
from vfindex.storage.writer import writing


@dataclass(frozen=True, slots=True)
class ReindexSettings:
    """What the user asked for.

    cache: where models are kept. workers: units read at once, None: the default. allow_missing: believe that what is
    not there is gone, however much it is.
    """

    cache: Path
    workers: int | None = None
    allow_missing: bool = False


def reindex(folder: Path, settings: ReindexSettings, watcher: Watcher | None = None) -> Report:
    """Bring the library in `folder` up to date with its roots, and return what became of every file.

    Raises LibraryNotFound, LibraryLocked, LibraryVersion, LibraryError (no root is known), ModelError.
    """
    watcher = watcher or Watcher()
    began = time.monotonic()
    Library.open(folder)
    with writing(folder) as writer:
        setup = writer.setup()
        given = roots(writer.catalog)
        if setup is None or not given:
            raise LibraryError(
                f"the library {folder} does not know which folders it was made of; name them once more: "
                "vfindex ingest VIDEOS"
            )
        options = Options(Sampling.parse(setup.sampling), writer.catalog.get("asr") != "0")
        run = Triage(writer, options, watcher)
        run.report.run_id = writer.catalog.begin_run("reindex")
        run.sort(_scan(run, [root for root in given if not is_missing(root.path)], folder))
        if not run.report.interrupted:
            bury(run, given, allow_missing=settings.allow_missing)
        if run.todo:
            from vfindex.indexer.ingest import IngestSettings, work  # models, decoder and all

            work(run, setup, IngestSettings(settings.cache, workers=settings.workers))
        run.end(began, thorough=False)  # a search sees damage and does without
    return run.report


def _scan(run: Triage, given: Sequence[Root], folder: Path) -> Iterator[Discovered]:
    """Yield what has changed at the roots, each file once.

    None counts as named: what failed stays failed until it changes.
    """
    by_globs: dict[tuple[str, ...], list[bytes]] = {}
    for root in given:
        by_globs.setdefault(root.exclude, []).append(root.path)
    told: set[bytes] = set()
    for exclude, paths in by_globs.items():
        for each in discover(paths, exclude=exclude, avoid=[os.fsencode(folder)], is_known=run.is_unchanged):
            path = each.location.path if isinstance(each, Found) else each.problem.path
            if path not in told:
                told.add(path)
                yield replace(each, named=False) if isinstance(each, Found) and each.named else each
