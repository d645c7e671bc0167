"""vfindex repair"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vfindex.cli.extras import require
from vfindex.cli.options import (
    AddressOption,
    GpuShareOption,
    JsonOption,
    LibraryOption,
    PathMapOption,
    RunnerOption,
    WorkersOption,
    cache_folder,
    library_folder,
    runner_choice,
)
from vfindex.cli.output import plain, print_json, say
from vfindex.cli.run import finish, print_report, watching
from vfindex.storage.errors import counted

if TYPE_CHECKING:
    from vfindex.indexer.runs.repair import RepairReport

NAME = "repair"
EXAMPLE = "vfindex repair --library /srv/videos/library"

_COUNTABLE = 2**40


def command(
    workers: WorkersOption = None,
    runner: RunnerOption = "auto",
    ray_address: AddressOption = None,
    path_map: PathMapOption = None,
    gpu_share: GpuShareOption = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Repair a damaged library.

    Fixes what `vfindex verify` finds: readable data is kept, the rest is indexed again from the videos.
    """
    require("index")
    from vfindex.indexer.runs.execute import RunSettings
    from vfindex.indexer.runs.repair import repair

    choice = runner_choice(runner, ray_address, path_map, gpu_share)
    folder = library_folder(library)
    with watching() as callbacks:
        report = repair(folder, RunSettings(cache_folder(), workers=workers, runner=choice), callbacks)
    if json:
        print_json(report.to_dict(os.fsdecode))
    else:
        _print(report)
    for problem in report.left:
        say(f"not repaired: {plain(problem)}")
    failed = bool(report.run.failed or report.run.not_published or report.left)
    finish(report.run, folder, calibrate=report.run.has_changed(), failed=failed)


def _print(report: RepairReport) -> None:
    if report.saved is not None:
        print(plain(_of_database(report)))
    if report.user is not None:
        print(plain(f"user.db is rebuilt, the damaged one kept as {report.user.kept}: {report.user.sentence()}"))
    done = ["settings and sources"] if report.settings and report.saved is None else []
    done += [f"{counted(report.damaged, 'video')} with damaged rows"] if report.damaged else []
    done += ["the full-text index"] if report.words else []
    done += ["the joint index"] if report.index else []
    done += [f"the query encoder {plain(name)}" for name in report.encoders]
    done += [counted(report.thumbnails, "thumbnail")] if report.thumbnails else []
    done += [f"{counted(report.strays, 'stray thumbnail')} deleted"] if report.strays else []
    rebuilt = report.saved is not None or report.user
    print(f"repaired: {', '.join(done)}" if done else "nothing else to repair" if rebuilt else "nothing to repair")
    if report.run.found:
        print_report(report.run)


def _of_database(report: RepairReport) -> str:
    """Return what became of a library.db that was replaced."""
    if report.kept is None:
        return "library.db was missing or empty, and is rebuilt from library.json"
    if not report.saved:
        return (
            f"library.db is rebuilt from library.json, the damaged one kept as {report.kept}: no row of it was readable"
        )
    # A lost range of keys without an end, as of a whole table, counts up to SQLite's largest keys.
    counts = {name: f"{n}" if n < _COUNTABLE else "unknown" for name, n in report.unreadable.items()}
    lost = ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
    return f"library.db is rebuilt, the damaged one kept as {report.kept}; keys not read: {lost}"
