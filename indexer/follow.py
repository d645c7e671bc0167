"""`vfindex ingest --follow`: index files as they arrive, until it is stopped.

Each time that files are complete, an ordinary ingest of the folders reads them: one writer, one report, and what holds
for an ingest holds here. Files that are still written are left to a later one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vfindex.indexer.runners.open_models import ModelOwner
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.scan.settling import Settling, told_of_changes
from vfindex.storage.errors import LibraryLocked, UsageError

# A walk without an event: network disks report no changes, and a system that is busy drops events.
WALK_S = 600.0
# Between two looks at the clock and for Ctrl-C, and after another writer held the library.
_LOOK_S, _LOCKED_S = 0.2, 5.0
# Called after each ingest with its report, and path -> seconds from its close to the end of the ingest, of those read.
Ended = Callable[[Report, dict[bytes, float]], None]


def follow(folder: Path, paths: Sequence[bytes], settings: RunSettings, callbacks: Callbacks, ended: Ended) -> None:
    """Index what is at `paths`, then what arrives there, until Ctrl-C. Raises UsageError, and as `ingest`."""
    for path in paths:
        if not os.path.isdir(path):
            raise UsageError(f"{os.fsdecode(path)} is no folder; --follow takes folders, whose files may come later")
    settling = Settling()
    folders = [os.path.realpath(path) for path in paths]
    with told_of_changes(folders, settling), ModelOwner() as models:
        quiet, settings = callbacks, replace(settings, models=models)
        while True:
            arrived, began = settling.take(), time.monotonic()
            try:
                report = ingest(folder, paths, settings, quiet, name="follow", sift=settling.is_settled)
            except LibraryLocked:
                if quiet is callbacks:
                    raise
                if _is_stopped(callbacks, _LOCKED_S):
                    return
                continue
            took_s = time.monotonic() - began
            settling.forget(list(arrived))
            unread = {problem.path for problem in (*report.failed, *report.skipped)}
            ended(report, {path: s + took_s for path, s in arrived.items() if path not in unread})
            if report.interrupted:
                return
            quiet = replace(callbacks, say=lambda _: None)  # of the models, and what is missing here, once
            if _waited(settling, callbacks):
                return


def _waited(settling: Settling, callbacks: Callbacks) -> bool:
    """Wait until a file is complete; return whether the run was stopped."""
    until = time.monotonic() + WALK_S
    while time.monotonic() < until:
        wait_s = settling.wait_s()
        if wait_s == 0.0:
            return False
        if _is_stopped(callbacks, min(_LOOK_S, wait_s or _LOOK_S)):
            return True
    return False


def _is_stopped(callbacks: Callbacks, wait_s: float) -> bool:
    """Wait; return whether Ctrl-C came. There is nothing to lose here, so the first one ends it."""
    try:
        with callbacks.interruptible():
            time.sleep(wait_s)
    except KeyboardInterrupt:
        return True
    return callbacks.stop()
