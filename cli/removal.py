"""What `remove` and `purge` share: the file of their report, and what they say of places that could not be cleaned."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfindex.cli.options import cache_folder
from vfindex.cli.output import plain, say
from vfindex.storage.errors import UsageError

if TYPE_CHECKING:
    from vfindex.storage.maintenance.removal import Forgotten, RemovalSettings
    from vfindex.storage.records import Document

_KEY = "vfindex"


def removal_settings(report: Path | None) -> RemovalSettings:
    """Return how a removal is done: every place is looked at where a report is wanted."""
    from vfindex.storage.maintenance.removal import RemovalSettings

    return RemovalSettings(_describe, cache_folder() if report is not None else None)


def _describe(
    paths: Sequence[bytes], tags: Mapping[str, str], chapters: Sequence[str]
) -> tuple[str, Sequence[Document]]:
    from vfindex.indexer.pipeline.metadata_text import describe, documents_of

    return describe(paths[0], tags, chapters).title, documents_of(paths, tags, chapters)


def checked_report(report: Path | None, folder: Path) -> None:
    """Raise UsageError before anything is removed if `report` cannot be written, or would replace another file."""
    if report is None:
        return
    real = report.resolve()
    if real.is_relative_to(folder.resolve()):
        raise UsageError(f"{report} lies inside the library; name a file elsewhere for --report")
    if not real.parent.is_dir() or not os.access(real.parent, os.W_OK):
        raise UsageError(f"{real.parent} is no folder that can be written to; name another file for --report")
    if real.exists() and not _is_report(real):
        raise UsageError(f"{report} exists and is no report of a removal; name another file for --report")


def write_report(report: Path | None, command: str, document: Mapping[str, Any]) -> None:
    """Write the report of a removal to the file that was asked for."""
    if report is None:
        return
    try:
        report.write_text(json.dumps({_KEY: command, **document}, indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{report} could not be written ({exc.strerror}), but the removal is complete") from exc


def tell(found: Forgotten) -> None:
    """Say in a line each where something of what was removed is left, and why."""
    for edition, place in found.left():
        where = place.place if edition in (".", "library") else f"{place.place} of {edition}"
        say(plain(f"left: {where}: {place.note or place.looked_at}"))


def _is_report(path: Path) -> bool:
    try:
        told = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and _KEY in told
