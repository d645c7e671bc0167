"""The report of a run in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vfindex.cli.output import clock
from vfindex.storage.errors import counted

if TYPE_CHECKING:
    from vfindex.search.status import RunInfo
    from vfindex.storage.records import RunProgress

# Fields of a report, in the order shown: numbers, and lists of files with a reason each.
COUNTS = (
    "found", "indexed", "unchanged", "moved", "reworded", "coarse", "vanished", "left", "videos", "taken_over", "clips",
)  # fmt: skip
LISTS = ("failed", "partial", "left_alone", "skipped", "lost", "notes")
# Names of counts as people read them, where the field of the report has another.
LABELS = {"reworded": "sidecars changed", "coarse": "preview only", "vanished": "missing or excluded"}


def label(name: str) -> str:
    """Return a field of a report in words."""
    return LABELS.get(name, name.replace("_", " "))


def endings(report: Mapping[str, Any]) -> list[str]:
    """Return why a run ended early, in words; an empty list if it completed."""
    words = {"interrupted": "interrupted", "out_of_time": "out of time"}
    found = [text for name, text in words.items() if report.get(name)]
    found += [f"ended early: {report['error']}"] if report.get("error") else []
    return [*found, *filter(None, [report.get("not_published")])]


def run_line(run: RunInfo) -> str:
    """Return what a run did in a line."""
    report = run.report
    if report is None:
        done = "" if run.progress is None else f" after {files_done(run.progress)}, at {run.progress.at}"
        return f"not finished: in progress, or killed{done}"
    if "found" not in report:
        parts = [counted(report.get("videos", 0), "video"), *endings(report)]
        return f"{', '.join(parts)}, {clock(report.get('wall_s', 0.0))}"
    parts = [f"{report.get('indexed', 0)} indexed", f"{len(report.get('failed', ()))} failed"]
    parts += [
        f"{report[name]} {label(name)}"
        for name in ("moved", "reworded", "coarse", "vanished", "left")
        if report.get(name)
    ]
    parts += [*endings(report), *(["roots left alone"] if report.get("left_alone") else [])]
    return f"{report['found']} found: {', '.join(parts)}, {clock(report.get('wall_s', 0.0))}"


def files_done(progress: RunProgress) -> str:
    """Return how many files of a run are done."""
    return f"{progress.done_files} of {counted(progress.total_files, 'file')}"
