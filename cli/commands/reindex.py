"""vfindex reindex"""

from __future__ import annotations

import gc
import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.extras import require
from vfindex.cli.options import (
    AddressOption,
    GpuShareOption,
    JsonOption,
    LibraryOption,
    PathMapOption,
    ProgressiveOption,
    RunnerOption,
    WorkersOption,
    cache_folder,
    library_folder,
    runner_choice,
)
from vfindex.cli.output import clock, path_text, plain, print_json, say
from vfindex.cli.run import finish, interrupt_reported, print_run, watching
from vfindex.cli.watches import ask_watches
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.indexer.runs.reindex import Estimate

NAME = "reindex"
_EMPTY = (
    "no videos found: the ingested folders hold none, or --exclude leaves them all out; "
    "`vfindex ingest FOLDER` without it takes them again"
)
EXAMPLE = "vfindex reindex --until 06:00 --nice 10"


def command(
    until: Annotated[str | None, typer.Option(metavar="HH:MM", help="Start no video after this time of day.")] = None,
    max_hours: Annotated[
        float | None, typer.Option(min=0, metavar="H", help="Start no video after this many hours.")
    ] = None,
    nice: Annotated[
        int | None, typer.Option(min=0, max=19, metavar="N", help="Lower the priority, as nice(1) does.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what there is to do, and change nothing.")] = False,
    progressive: ProgressiveOption = False,
    workers: WorkersOption = None,
    runner: RunnerOption = "auto",
    ray_address: AddressOption = None,
    path_map: PathMapOption = None,
    gpu_share: GpuShareOption = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Treat missing folders as deleted, not as unmounted.")
    ] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Update the index of everything ingested so far.

    New and changed files are indexed, moved ones recognised. Missing files leave search until they return. Watched
    questions are asked of what is new (`vfindex watch`).
    """
    require("index")
    from vfindex.indexer.runs.execute import RunSettings
    from vfindex.indexer.runs.reindex import estimate, reindex

    gc.freeze()
    gc.enable()
    end_at = None if until is None else next_time(until, datetime.now())
    max_s = None if max_hours is None else max_hours * 3600
    choice = runner_choice(runner, ray_address, path_map, gpu_share)
    settings = RunSettings(
        cache_folder(),
        workers=workers,
        progressive=progressive or None,
        runner=choice,
        allow_missing=allow_missing,
        end_at=end_at,
        max_s=max_s,
    )
    folder = library_folder(library)
    if nice:
        os.nice(nice)
    if dry_run:
        _print_estimate(estimate(folder, settings), json)
        return
    with interrupt_reported(json=json), watching("stopping") as callbacks:
        report = reindex(folder, settings, callbacks)
    print_run(report, json=json, empty=_EMPTY)
    failed = bool(report.failed or report.left_alone or report.not_published)
    changed = report.has_changed() and not report.out_of_time
    finish(report, folder, calibrate=changed, failed=failed, then=lambda: ask_watches(folder))


def next_time(until: str, now: datetime) -> datetime:
    """Return the next instant, in UTC, at which the local time is `until` (HH:MM). Raises UsageError.

    now: local, naive in the system's time zone or with its zone. A time that a clock change skips is taken by the old
    clock; of one that occurs twice, the next.
    """
    match = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", until)
    if match is None:
        raise UsageError(f"--until takes a time of the day, as in 06:00 or 23:30, not {until!r}")
    today = now.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
    # More than one day ahead: a zone that crosses the date line skips a day.
    walls = (today + timedelta(days=days) for days in (-1, 0, 1, 2))
    instants = (_instant(wall, fold) for wall in walls for fold in (0, 1) if _counts(wall, fold))
    return min(instant for instant in instants if instant > _instant(now, now.fold))


def _instant(wall: datetime, fold: int) -> datetime:
    # Not `astimezone`, which swaps the folds of a skipped time in the system's zone (CPython 3.11).
    return datetime.fromtimestamp(wall.replace(fold=fold).timestamp(), UTC)


def _counts(wall: datetime, fold: int) -> bool:
    """Return whether a local time counts: its first occurrence, or the second where the clock shows it twice."""
    back = _instant(wall, fold).astimezone(wall.tzinfo).replace(tzinfo=wall.tzinfo, fold=0)
    return fold == 0 or back.replace(tzinfo=None) == wall.replace(tzinfo=None, fold=0)


def _print_estimate(found: Estimate, json: bool) -> None:
    if json:
        left_alone = [{"path": path_text(p.path), "code": p.code, "reason": p.reason} for p in found.left_alone]
        names = ("new", "changed", "moved", "reworded", "coarse", "vanished")
        counts = {name: getattr(found, name) for name in names}
        lengths = {"bytes": found.size_bytes, "video_seconds": found.video_s, "wall_s": found.wall_s}
        print_json(counts | {"left_alone": left_alone} | lengths)
        return
    for problem in found.left_alone:
        say(f"left alone: {path_text(problem.path)}: {problem.reason}; {problem.next}")
    files = counted(found.new, "new file")
    line = f"{files}, {found.changed} changed, {found.moved} moved, {found.vanished} missing or excluded"
    line += f", {found.reworded} with changed sidecars" if found.reworded else ""
    print(f"{line}, {found.coarse} with a preview to be indexed fully" if found.coarse else line)
    if found.size_bytes:
        length = "of unknown length" if found.video_s is None else f"about {clock(found.video_s)} of video"
        took = "no earlier run to estimate the time from"
        if found.wall_s is not None:
            took = f"about {clock(found.wall_s)} at the speed of earlier runs"
        unit, scale = ("GB", 1e9) if found.size_bytes >= 1e9 else ("MB", 1e6)
        print(plain(f"{found.size_bytes / scale:.1f} {unit} to read, {length}; {took}"))
