"""Shared by `remove` and `purge`: confirmation, the report of a removal, and data that could not be deleted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfindex.cli.options import cache_folder
from vfindex.cli.output import path_text, plain, print_json, say
from vfindex.storage.errors import UsageError, VfindexError, counted

if TYPE_CHECKING:
    from vfindex.storage.maintenance.removal import Forgotten, RemovalSettings
    from vfindex.storage.maintenance.removal_preview import RemovalPreview
    from vfindex.storage.records import Chapter, Document

_KEY = "vfindex"
_CONFIRMED = (b"y", b"yes")


def removal_settings(report: Path | None) -> RemovalSettings:
    """Return how a removal is done; with a report, it searches every file for what is left."""
    from vfindex.storage.maintenance.removal import RemovalSettings

    return RemovalSettings(_describe, cache_folder() if report is not None else None)


def _describe(
    paths: Sequence[bytes], tags: Mapping[str, str], chapters: Sequence[Chapter]
) -> tuple[str, Sequence[Document]]:
    from vfindex.indexer.extractors.metadata_text import describe, documents_of

    return describe(paths[0], tags, chapters).title, documents_of(paths, tags, chapters)


def print_preview(preview: RemovalPreview, json: bool) -> None:
    """Print the files that would be removed from the library, and how many there are."""
    if json:
        counts = {"locations": len(preview.paths), "videos": preview.videos, "kept_missing": preview.kept_missing}
        print_json({"dry_run": True, **counts, "files": [path_text(path) for path in preview.paths]})
        return
    for path in preview.paths:
        print(plain(path_text(path) or ""))
    say(f"would remove {_numbers(preview)} from the library; nothing has changed")


def confirm(preview: RemovalPreview, *, yes: bool) -> None:
    """Ask before a removal on a terminal. Raises VfindexError unless confirmed; an interruption passes through.

    Not by typer.confirm, which ends an interruption with exit code 1 and writes a blank to standard output.
    """
    if yes or not preview.paths or not _is_terminal():
        return
    question = f"Remove {_numbers(preview)} from the library? The files themselves are not touched. [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    try:
        answer = sys.stdin.buffer.readline()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        say("nothing has changed")
        raise
    if not answer.endswith(b"\n"):
        print(file=sys.stderr)
    if answer.strip().lower() not in _CONFIRMED:
        raise VfindexError("nothing has changed")


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _numbers(preview: RemovalPreview) -> str:
    return f"{counted(len(preview.paths), 'file')}, {counted(preview.videos, 'video')}"


def checked_report(report: Path | None, folder: Path) -> None:
    """Raise UsageError before anything is removed if `report` cannot be written, or would replace another file."""
    if report is None:
        return
    real = report.resolve()
    if real.is_relative_to(folder.resolve()):
        raise UsageError(f"{report} is inside the library; name a file elsewhere for --report")
    if not real.parent.is_dir() or not os.access(real.parent, os.W_OK):
        raise UsageError(f"{real.parent} is not a folder that you may write to; name another file for --report")
    if real.exists() and not _is_report(real):
        raise UsageError(f"{report} exists and is not a report of a removal; name another file for --report")


def write_report(report: Path | None, command: str, document: Mapping[str, Any]) -> None:
    """Write the report of a removal, if one was requested."""
    if report is None:
        return
    try:
        report.write_text(json.dumps({_KEY: command, **document}, indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{report} could not be written ({exc.strerror}), but the removal is complete") from exc


def print_left(found: Forgotten) -> None:
    """Print a line for each place that still contains something of what was removed, and why."""
    for version, place in found.left():
        where = place.place if version in (".", "library") else f"{place.place} of {version}"
        say(plain(f"left: {where}: {place.note or place.looked_at}"))


def _is_report(path: Path) -> bool:
    try:
        document = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and _KEY in document
