"""The age of missing files by clocks that were never set or jump."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install
from sqlalchemy import text

from vfindex.storage.db.catalog import Catalog
from vfindex.storage.errors import LibraryError
from vfindex.storage.writer import writing

START = datetime(2026, 1, 1, tzinfo=UTC)
AGE = timedelta(days=30)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def missing(tmp_path: Path, runs: list[datetime], gone: datetime = START) -> Path:
    """Return a library of one video that was found to be gone at a time, with `runs` of reindex after it."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(0))])
        writer.catalog.mark_missing([b"/videos/a"])
        with writer.catalog.transaction() as connection:
            times = {"at": gone.isoformat(timespec="seconds")}
            connection.execute(text("UPDATE tombstone SET gone_at = :at"), times)
            connection.execute(text("UPDATE migration SET applied_at = :at"), times)
            connection.execute(text("DELETE FROM run"))
            for at in runs:
                values = {"at": at.isoformat(timespec="seconds")}
                connection.execute(
                    text("INSERT INTO run (command, started_at, finished_at) VALUES ('reindex', :at, :at)"), values
                )
    return folder


@pytest.mark.parametrize(
    ("runs", "now", "files"),
    [
        ([day(n) for n in range(1, 31)], day(30.5), 1),  # every night
        ([day(n) for n in range(1, 29)], day(29.5), 0),
        ([day(10), day(20), day(30)], day(31), 1),
        ([], day(40), 0),  # nobody has looked again
        ([day(1)], day(27_000), 0),  # the clock leaps ahead before the purge
        ([day(1), day(27_000)], day(27_000.1), 0),  # and before the run
        ([day(1), day(27_000), day(27_001), day(27_002)], day(27_003), 0),
        ([day(n) for n in (1, *range(27_000, 27_016))], day(27_016), 1),
        ([day(27_000), *(day(n) for n in range(1, 40))], day(27_000.1), 0),  # it was wrong once, and is again
    ],
)
def test_absence_is_counted_between_runs(tmp_path: Path, runs: list[datetime], now: datetime, files: int) -> None:
    with writing(missing(tmp_path, runs)) as writer:
        assert writer.catalog.purge_missing(AGE, now)[0] == files


@pytest.mark.parametrize("now", [datetime(1970, 1, 1, 0, 5, tzinfo=UTC), day(1.9)])
def test_a_clock_that_is_behind_is_refused(tmp_path: Path, now: datetime) -> None:
    with writing(missing(tmp_path, [day(1), day(2)])) as writer:
        with pytest.raises(LibraryError, match=r"set the clock, or forget all .*: vfindex purge --now"):
            writer.catalog.purge_missing(AGE, now)
        assert len(writer.catalog.missing_files()) == 1
        assert writer.catalog.purge(None)[0] == 1


def test_files_missing_by_a_clock_that_is_behind_are_missing_since_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(missing(tmp_path, [day(1)])) as writer:
        add_video(writer, "b", [clip(visual=axis(0))])
        monkeypatch.setattr("vfindex.storage.db.catalog.now", lambda: "1970-01-01T00:05:00+00:00")
        writer.catalog.mark_missing([b"/videos/b"])
        with writer.catalog.transaction() as connection:
            gone = connection.scalar(text("SELECT gone_at FROM tombstone WHERE path = CAST('/videos/b' AS BLOB)"))
        assert gone == day(1).isoformat(timespec="seconds")


def test_an_empty_library_forgets_nothing() -> None:
    catalog = Catalog.open(None)
    assert catalog.purge_missing(AGE, datetime.now(UTC)) == (0, 0, [])


def test_a_reindex_that_an_error_ended_is_no_proof(tmp_path: Path) -> None:
    folder = missing(tmp_path, [day(n) for n in range(1, 31)])
    with writing(folder) as writer:
        for run_id in range(1, 31):
            with writer.catalog.transaction() as connection:
                values = {"id": run_id, "report": '{"error": "the disk is full"}' if run_id > 1 else "{}"}
                connection.execute(text("UPDATE run SET report = :report WHERE id = :id"), values)
        assert writer.catalog.purge_missing(AGE, day(30.5))[0] == 0
