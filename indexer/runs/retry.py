"""`vfindex retry`: index failed files again, and on request those in quarantine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vfindex.indexer.runs.execute import Command, RunSettings, execute
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.retry_policy import FINAL
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.scan.walk import discover
from vfindex.storage.db.sources import known_files
from vfindex.storage.errors import BUG
from vfindex.storage.library import Library
from vfindex.storage.records import KnownFile, Setup
from vfindex.storage.writer import Writer


def retry(folder: Path, paths: Sequence[bytes], settings: RunSettings, callbacks: Callbacks | None = None) -> Report:
    """Index failed files at and below `paths` again, everywhere if there are none; return what became of each.

    Raises LibraryNotFound, and as `execute` does; UsageError if a path may be any of several.
    """
    Library.open(folder)
    files: list[bytes] = []

    def setup(writer: Writer) -> Setup:
        found = writer.existing_setup()
        known = known_files(writer.catalog)
        named = [writer.catalog.path_of([path]) or path for path in paths]
        files.extend(chosen(known, named, quarantined=settings.quarantined))
        for path in files:
            if known[path].state == "partial":
                writer.catalog.mark_preview(known[path].video_id)  # it stays searchable until it is indexed again
        return found

    command = Command("retry", setup, lambda run: discover(files, stop=run.callbacks.stop))
    return execute(folder, command, settings, callbacks)


def chosen(known: Mapping[bytes, KnownFile], paths: Iterable[bytes], *, quarantined: bool) -> list[bytes]:
    """Return the files to index again, in order of bytes.

    A named file is retried whatever its error, or the error of a part of it. Other files are not if their error is
    final (`retry_policy.FINAL`), or if they are in quarantine and `quarantined` is False. Files that failed by a bug of
    vfindex, fully or in part, always are.
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
