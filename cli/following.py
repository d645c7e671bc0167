"""`vfindex ingest --follow` at the command line: a report of each batch of files, a clean end at Ctrl-C."""

from __future__ import annotations

import json as json_text
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vfindex.cli.output import plain, say
from vfindex.cli.run import EXIT_INTERRUPTED, calibrate_if_due, print_report, watching
from vfindex.storage.errors import Problem, counted

if TYPE_CHECKING:
    from vfindex.indexer.runs.execute import RunSettings
    from vfindex.indexer.runs.report import Report


def follow_folders(folder: Path, paths: list[bytes], settings: RunSettings, *, json: bool) -> None:
    """Index folders and what arrives in them, until Ctrl-C. json: one document a line for each batch.

    The first batch is reported as `ingest` does, later ones if a file was read, or failed as in no batch before. Raises
    what `follow` raises.
    """
    from vfindex.indexer.follow import follow

    batches: list[Report] = []
    known: set[Problem] = set()

    def ended(report: Report, latency_s: dict[bytes, float]) -> None:
        first = not batches
        batches.append(report)
        shown = first or report.has_changed() or not known.issuperset(report.failed)
        if report.has_changed() and not report.interrupted:
            calibrate_if_due(folder)
        if json and shown:
            seconds = {os.fsdecode(path): round(each, 3) for path, each in latency_s.items()}
            print(json_text.dumps({**report.to_dict(os.fsdecode), "latency_s": seconds}), flush=True)
        elif shown:
            print_report(report, known)
            for path, each in sorted(({} if first else latency_s).items(), key=lambda pair: pair[1]):
                say(plain(f"{os.fsdecode(path)}: searchable {each:.1f} s after it was complete"))
        if first and not json:
            say(f"following {counted(len(paths), 'folder')}; press Ctrl-C to stop")
        known.update(report.failed, report.partial, report.skipped, report.left_alone, report.notes)

    with watching("stopped; the same command follows again") as callbacks:
        follow(folder, paths, settings, callbacks, ended)
    if batches and batches[-1].interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
