"""vfindex upgrade"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.extras import require
from vfindex.cli.options import (
    AddressOption,
    AudioOption,
    GpuShareOption,
    JsonOption,
    LibraryOption,
    PathMapOption,
    RunnerOption,
    SpeechOption,
    TextOption,
    VisualOption,
    WorkersOption,
    cache_folder,
    library_folder,
    runner_choice,
)
from vfindex.cli.output import clock, path_text, plain, print_json, say, show
from vfindex.cli.run import EXIT_INTERRUPTED, calibrate_if_due, end_with, watching
from vfindex.storage.errors import UsageError, VfindexError, counted
from vfindex.storage.records import SEARCHABLE

if TYPE_CHECKING:
    from vfindex.indexer.runs.execute import RunSettings
    from vfindex.indexer.runs.report import UpgradeReport
    from vfindex.storage.db.videos import StoredVideo

NAME = "upgrade"
EXAMPLE = "vfindex upgrade --preset base"
# Names of the sources of known-item queries.
_SOURCES = {
    "sidecar": "subtitle files",
    "embedded": "subtitle tracks",
    "asr": "recognised speech",
    "frames": "text on the screen",
    "chapter": "chapters",
    "title": "titles",
}
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def command(
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="New models: lite, lite-multilingual, small, base, ...")
    ] = None,
    visual: VisualOption = None,
    text: TextOption = None,
    speech: SpeechOption = None,
    audio: AudioOption = None,
    sampling: Annotated[str | None, typer.Option(metavar="MODE", help="auto, keyframes, or frames per second.")] = None,
    workers: WorkersOption = None,
    runner: RunnerOption = "auto",
    ray_address: AddressOption = None,
    path_map: PathMapOption = None,
    gpu_share: GpuShareOption = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Switch even if some videos cannot be read again.")
    ] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Return to the previous models.")] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Delete the vectors of unused models.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Switch a library to other models, or add what it lacks.

    Without a choice it gets what its preset has in this version. Searches use the old vectors until the new ones are
    complete. After Ctrl-C, the same command continues.
    """
    folder = library_folder(library)
    models = (preset, visual, text, speech, audio, sampling)
    if rollback + discard + any(models) > 1:
        raise UsageError("--rollback, --discard and a choice of models exclude each other; give one of them")
    if rollback:
        _roll_back(folder, json)
    elif discard:
        _discard(folder, json)
    else:
        require("index")
        from vfindex.indexer.models.presets import Choice
        from vfindex.indexer.options import Sampling
        from vfindex.indexer.runs.execute import RunSettings

        settings = RunSettings(
            cache=cache_folder(),
            choice=Choice(preset, visual, text, speech, audio=audio),
            sampling=Sampling.parse(sampling) if sampling else None,
            workers=workers,
            runner=runner_choice(runner, ray_address, path_map, gpu_share),
            allow_missing=allow_missing,
        )
        _upgrade(folder, settings, json)


def _upgrade(folder: Path, settings: RunSettings, json: bool) -> None:
    from vfindex.indexer.runs.report import bugs
    from vfindex.indexer.runs.upgrade import upgrade

    rows: list[dict[str, Any]] = []

    def compare(old: Path, new: Path) -> None:
        try:
            rows.extend(_known_items(old, new))
        except VfindexError as exc:
            say(f"the old and new models could not be compared: {exc}")
            return
        if not json:
            _print_known_items(rows)

    with watching() as callbacks:
        report = upgrade(folder, settings, callbacks, compare)
    if json:
        print_json(report.to_dict(os.fsdecode) | {"known_items": rows})
    else:
        _print(report, settings.allow_missing)
    if report.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if report.swapped:
        calibrate_if_due(folder)
    end_with(bugs(report.lost), failed=bool(report.lost) and not report.swapped)


def _known_items(old: Path, new: Path) -> list[dict[str, Any]]:
    """Return recall before and after, one row per source of queries; the queries are made from the old version."""
    from vfindex.search.calibration.known_items import known_items
    from vfindex.search.engine import SearchEngine
    from vfindex.search.evaluation.known_items import known_item_ranks, recall_by_source
    from vfindex.storage.library import Library

    with Library.open(old).snapshot() as before, Library.open(new).snapshot() as after:
        items = known_items(before)
        if not items:
            return []
        say(f"comparing the old and new models by {counted(len(items), 'known-item question')}")
        was = recall_by_source(items, known_item_ranks(SearchEngine.open(old), before, items))
        now = recall_by_source(items, known_item_ranks(SearchEngine.open(new), after, items))
    return [
        {
            "source": source,
            "n": recall.n,
            "recall_at_10_before": recall.at_10,
            "recall_at_10_after": now[source].at_10,
            "first_before": recall.at_1,
            "first_after": now[source].at_1,
        }
        for source, recall in was.items()
    ]


def _print_known_items(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("the library has no text to compare by: no transcript, no descriptive title")
        return
    print("known-item questions, before -> after")
    print(f"{'':>18} {'n':>4}  {'recall@10':^16}  {'found first':^16}")
    for row in rows:
        cells = [f"{row[f'{name}_before']:.3f} -> {row[f'{name}_after']:.3f}" for name in ("recall_at_10", "first")]
        print(f"{_SOURCES[row['source']]:>18} {row['n']:>4}  {cells[0]:^16}  {cells[1]:^16}")


def _print(report: UpgradeReport, allow_missing: bool) -> None:
    for problem in report.lost:
        say(plain(f"lost: {path_text(problem.path)}: {problem.reason}; {problem.next}"))
    if not report.version:
        print("nothing to do: the library has these models already")
        return
    before, after = report.before, report.after
    changed = [f"{name} {before.get(name, 'none')} -> {after.get(name, 'none')}" for name in _changed(report)]
    print(plain(", ".join(changed)) or "the same models; what was not read before is read now")
    length = f", {clock(report.decoded_s)} long" if report.decoded else ""
    print(
        f"{counted(report.videos, 'video')}, {counted(report.clips, 'clip')} in {clock(report.wall_s)}: "
        f"{report.taken_over} copied unread, {report.heard} with audio decoded again, "
        f"{report.decoded} decoded again{length}, {report.transcripts_reused} of them with their old transcript"
    )
    for classes in report.dropped_heads:
        again = "to train it again: vfindex tune CLASSES --temporal"
        show(f"without the temporal head of {classes!r}, which reads vectors of the old image model; {again}")
    if report.swapped:
        show("now in use; to return to the old models: vfindex upgrade --rollback; to delete their vectors: --discard")
    elif report.interrupted:
        print("interrupted: the old models stay in use; run the same command again to continue")
    elif not allow_missing:
        print(f"{counted(len(report.lost), 'video')} would be lost: the old models stay in use")


def _changed(report: UpgradeReport) -> list[str]:
    names = dict.fromkeys((*report.before, *report.after))
    return [name for name in names if report.before.get(name) != report.after.get(name)]


def _roll_back(folder: Path, json: bool) -> None:
    from vfindex.storage.library import Library
    from vfindex.storage.maintenance.rollback import roll_back
    from vfindex.storage.settings_backup import setup_of

    left = {video.fingerprint for video in _videos(folder)}
    place = roll_back(folder)
    with Library.open(place).snapshot() as snapshot:
        setup = setup_of(snapshot, place)
    lacking = len(left - {video.fingerprint for video in _videos(folder)})
    if json:
        print_json({"edition": str(place), "preset": setup.preset, "lacking": lacking})
        return
    print(plain(f"the previous models are in use again: preset {setup.preset}, sampling {setup.sampling}"))
    if lacking:
        since = counted(lacking, "video")
        show(f"not included: {since} indexed since then; the next `vfindex ingest` adds them")


def _videos(folder: Path) -> list[StoredVideo]:
    from vfindex.storage.library import Library

    with Library.open(folder).snapshot() as snapshot:
        return [video for video in snapshot.videos() if video.state in SEARCHABLE]


def _discard(folder: Path, json: bool) -> None:
    from vfindex.storage.maintenance.rollback import discard

    numbers, freed = discard(folder)
    if json:
        print_json({"discarded": numbers, "bytes": freed})
    elif numbers or freed:
        print(f"deleted {counted(len(numbers), 'set')} of models and vectors not in use: {_size(freed)} freed")
    else:
        print("nothing to delete: everything in the library is in use")


def _size(count: float) -> str:
    """Return a size in bytes, kB, MB, ... of 1000 each."""
    for unit in _UNITS[:-1]:
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"
