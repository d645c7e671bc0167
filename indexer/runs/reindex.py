"""`vfindex reindex`: bring a library up to date with every path that was ever ingested."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vfindex.indexer.runs.execute import (
    Command,
    RunSettings,
    execute,
    new_run,
    recogniser_of,
    uncollected,
    video_length_s,
)
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.scan.missing import Missing, Recorded, excluded, find_missing, is_missing
from vfindex.indexer.scan.walk import Discovered, Found, discover
from vfindex.storage.db.runs import measured_speed, stored_runs
from vfindex.storage.db.sources import Root, exclusions, roots
from vfindex.storage.errors import LibraryError, Problem
from vfindex.storage.library import Library
from vfindex.storage.records import Setup
from vfindex.storage.writer import Writer, writing


def reindex(folder: Path, settings: RunSettings, callbacks: Callbacks | None = None) -> Report:
    """Bring the library in `folder` up to date with its roots, and return what became of every file.

    Raises LibraryNotFound, LibraryError (no root is known), and as `execute` does.
    """
    Library.open(folder)

    def scan(run: Run) -> Iterator[Discovered]:
        return _changed(run, roots(run.writer.catalog), folder)

    def scanned(run: Run) -> None:
        if run.report.interrupted:
            return
        given = roots(run.writer.catalog)
        missing = _missing(run, given, settings)
        if missing.gone:
            run.writer.catalog.mark_missing(sorted(missing.gone))
        run.report.vanished = len(missing.gone)
        run.exclude(excluded(run.unseen() - missing.gone, given))

    # A search that meets a damaged index does without it, so its size is all that is checked.
    command = Command("reindex", lambda writer: _setup(folder, writer), scan, scanned=scanned, thorough=False)
    return execute(folder, command, settings, callbacks)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The work of a reindex: numbers of files, bytes to decode, and an estimate of the time.

    reworded: unchanged videos with other sidecars. coarse: previewed videos that are to be indexed fully; they count
    among the bytes. left_alone: as in Report. video_s: length of the bytes, by the average bit rate of the library.
    wall_s: time for them at the speed of earlier runs. None where the library gives no figure.
    """

    new: int
    changed: int
    moved: int
    reworded: int
    coarse: int
    vanished: int
    left_alone: tuple[Problem, ...]
    size_bytes: int
    video_s: float | None
    wall_s: float | None


def estimate(folder: Path, settings: RunSettings, callbacks: Callbacks | None = None) -> Estimate:
    """Return the work that `reindex` would do; nothing is changed.

    Raises as `reindex` does, but for ModelError; LibraryVersion for a library that must be rewritten first.
    """
    Library.open(folder)
    with writing(folder, migrates=False) as writer:
        setup, given = _setup(folder, writer), roots(writer.catalog)
        with uncollected():
            heard = recogniser_of(setup, settings.cache)
            run = new_run(writer, setup, heard, callbacks or Callbacks())
        run.sort(_changed(run, given, folder))
        missing = _missing(run, given, settings)
        gone = missing.gone | excluded(run.unseen() - missing.gone, given)
        read = list(run.todo)[len(missing.moved) :]
        size_bytes = sum(found.location.size_bytes for found in (*read, *run.previewed))
        changed = sum(found.location.path in run.known for found in read)
        with writer.library.snapshot() as snapshot:
            video_s = video_length_s(snapshot, size_bytes)
            speed = measured_speed(stored_runs(snapshot))
    return Estimate(
        new=len(read) - changed,
        changed=changed,
        moved=len(missing.moved),
        reworded=len(run.new_text),
        coarse=len(run.previewed),
        vanished=len(gone),
        left_alone=tuple(run.report.left_alone),
        size_bytes=size_bytes,
        video_s=video_s,
        wall_s=None if video_s is None or speed is None else video_s / speed,
    )


def _setup(folder: Path, writer: Writer) -> Setup:
    setup = writer.setup()
    if setup is None or not roots(writer.catalog):
        raise LibraryError(
            f"the library {folder} does not know which folders it was made of; name them once more: "
            "vfindex ingest VIDEOS"
        )
    return setup


def _missing(run: Run, given: Sequence[Root], settings: RunSettings) -> Missing:
    """Return which files of the library are missing; those that were moved come first in `run.todo`."""
    recorded = Recorded(run.writer.catalog, run.known, run.unseen())
    missing = find_missing(recorded, run.todo, given, allow_missing=settings.allow_missing, stop=run.has_stopped)
    run.report.left_alone += missing.left_alone
    first = {found.location.path: found for found in missing.moved.values()}
    run.todo = deque([*first.values(), *(found for found in run.todo if found.location.path not in first)])
    return missing


def _changed(run: Run, given: Sequence[Root], folder: Path) -> Iterator[Discovered]:
    """Yield the changed files at the roots.

    None counts as named: a failed file is not tried again until it changes.
    """
    by_globs: dict[tuple[str, ...], list[bytes]] = {}
    for root in given:
        if not is_missing(root.path):
            by_globs.setdefault(root.exclude, []).append(root.path)
    removed, avoid = exclusions(run.writer.catalog), [os.fsencode(folder)]
    for exclude, paths in by_globs.items():
        for each in discover(
            paths, exclude=exclude, avoid=avoid, removed=removed, sift=run.changed, stop=run.callbacks.stop
        ):
            yield replace(each, named=False) if isinstance(each, Found) and each.named else each
