"""The course of a run: what is recorded of one that an error ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from library_maker import install

from vfindex.indexer.runs.execute import Command, RunSettings, execute
from vfindex.indexer.runs.report import Progress
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.scan.walk import Discovered
from vfindex.storage.db.runs import StoredRun, last_run
from vfindex.storage.errors import ClusterError
from vfindex.storage.library import Library
from vfindex.storage.settings_backup import setup_of
from vfindex.storage.writer import writing

REASON = "Ray cannot be reached at head:6379 (no route to host); see docs/cluster.md"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    with writing(tmp_path / "library") as writer:
        install(writer)
    return tmp_path / "library"


def ended_by(error: BaseException, library: Path) -> StoredRun:
    """Return the record of a run that an error has ended."""

    def scan(run: Run) -> Iterator[Discovered]:
        raise error
        yield

    command = Command("ingest", lambda writer: setup_of(writer.catalog, library), scan)
    with pytest.raises(type(error)):
        execute(library, command, RunSettings(library / "cache"))
    with Library.open(library).snapshot() as snapshot:
        run = last_run(snapshot)
    assert run is not None
    return run


@pytest.mark.parametrize(
    ("error", "reason", "interrupted"),
    [
        (ClusterError(REASON), REASON, False),
        (TypeError("a bug"), "TypeError: a bug", False),
        (KeyboardInterrupt(), "", True),
    ],
)
def test_a_run_that_an_error_ends_is_recorded_with_its_reason(
    library: Path, error: BaseException, reason: str, interrupted: bool
) -> None:
    run = ended_by(error, library)
    assert run.finished_at is not None and run.report is not None
    assert (run.report.get("error"), run.report["interrupted"]) == (reason, interrupted)


def test_those_who_watch_the_library_see_how_far_a_run_is(library: Path) -> None:
    seen: list[StoredRun | None] = []

    def scan(run: Run) -> Iterator[Discovered]:
        for done in (1, 2):
            run.callbacks.progress(Progress(done, 3, 10.0 * done, 30.0))
            with Library.open(library).snapshot() as snapshot:
                seen.append(last_run(snapshot))
        yield from ()

    told: list[Progress] = []
    command = Command("ingest", lambda writer: setup_of(writer.catalog, library), scan)
    execute(library, command, RunSettings(library / "cache"), Callbacks(progress=told.append))
    first, second = seen
    assert first is not None and first.progress is not None
    assert (first.finished_at, first.report) == (None, None)
    assert (first.progress.done_files, first.progress.total_files) == (1, 3)
    assert (first.progress.done_s, first.progress.total_s) == (10.0, 30.0)
    assert second is not None and second.progress is not None
    assert [each.done_files for each in told] == [1, 2]
    with Library.open(library).snapshot() as snapshot:
        ended = last_run(snapshot)
    assert ended is not None and ended.report is not None
    assert (ended.progress, ended.report["found"]) == (None, 0)
