"""The bookkeeping of one file takes as many SQLite steps in a large library as in a small one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from many_videos import BOOKKEEPING, fill
from sqlalchemy import event, select, text

from vfindex.storage.db import schema
from vfindex.storage.db.locations import below, mark_missing, restore_missing
from vfindex.storage.writer import Writer, writing

SMALL, LARGE = 100, 3000
# A tree of keys is a level deeper in the larger library; a scan of one table would be 30 times as much.
MOST = 1.4
# Steps of SQLite's virtual machine between two counts.
EVERY = 5
TABLES = ("video", "location", "tombstone", "unit", "attempt", "clip", "embedding", "frame", "segment", "document")


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Writer, Writer]]:
    """Yield the writers of a small and a large library."""
    with ExitStack() as stack:
        pair = [stack.enter_context(writing(tmp_path_factory.mktemp(str(size)))) for size in (SMALL, LARGE)]
        for writer, size in zip(pair, (SMALL, LARGE), strict=True):
            fill(writer, size)
        yield pair[0], pair[1]


@contextmanager
def counting(writer: Writer) -> Iterator[list[int]]:
    """Count the steps of SQLite, cascades, triggers and full text included."""
    steps = [0]

    def tick() -> int:
        steps[0] += EVERY
        return 0

    with writer.catalog.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        connection.rollback()
    driver.set_progress_handler(tick, EVERY)
    try:
        yield steps
    finally:
        driver.set_progress_handler(None, EVERY)


@pytest.mark.parametrize("name", BOOKKEEPING)
def test_the_work_for_one_file_does_not_grow_with_the_library(writers: tuple[Writer, Writer], name: str) -> None:
    taken = []
    for writer in writers:
        BOOKKEEPING[name](writer, 0)  # the first time makes what is kept, as temporary tables
        with counting(writer) as steps:
            for number in (1, 2, 3):
                BOOKKEEPING[name](writer, number)
        taken.append(steps[0])
    small, large = taken
    assert small > 50, "something was counted"
    assert large <= MOST * small, f"{small} steps at {SMALL} videos, {large} at {LARGE}"


@pytest.mark.parametrize("name", BOOKKEEPING)
def test_no_statement_scans_a_table_that_grows(writers: tuple[Writer, Writer], name: str) -> None:
    writer, sent = writers[1], []
    note = lambda c, cursor, statement, parameters, *_: sent.append((statement, parameters))  # noqa: E731  an event
    event.listen(writer.catalog.engine, "before_cursor_execute", note)
    try:
        BOOKKEEPING[name](writer, 5)
    finally:
        event.remove(writer.catalog.engine, "before_cursor_execute", note)
    with writer.catalog.transaction() as connection:
        for statement, parameters in sent:
            if statement.split()[0] in ("SELECT", "UPDATE", "DELETE"):
                plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
                assert not [line for line in plan for table in TABLES if line.startswith(f"SCAN {table}")], statement


def test_many_files_go_missing_and_return_in_a_few_statements(writers: tuple[Writer, Writer]) -> None:
    writer, sent = writers[1], []
    paths = [f"/videos/old{number}".encode() for number in range(8, LARGE, 10)] + [b"/never/was", b"/not-\xff-utf8"]
    note = lambda c, cursor, statement, *_: sent.append(statement)  # noqa: E731  an event
    with writer.catalog.transaction() as connection:
        event.listen(connection, "before_cursor_execute", note)
        before = connection.execute(text("SELECT id, state FROM video ORDER BY id")).all()
        mark_missing(connection, paths, "2026-01-01")
        gone = connection.scalar(text("SELECT count(*) FROM video WHERE state = 'vanished' AND id % 10 = 8"))
        assert gone == LARGE // 10
        restore_missing(connection, paths)
        assert connection.execute(text("SELECT id, state FROM video ORDER BY id")).all() == before
    assert len(sent) < 25


def test_a_folder_is_a_range_of_paths(writers: tuple[Writer, Writer]) -> None:
    path = schema.location.c.path
    paths = [b"/", b"/a", b"/a-", b"/a./b", b"/a/", b"/a/b", b"/a/b/c", b"/a/\xff", b"/a0", b"/ab", b"/\xff"]
    with writers[0].catalog.transaction() as connection:
        values = {"video_id": 9, "size_bytes": 1, "mtime_ns": 1, "inode": 1}
        connection.execute(schema.location.insert(), [{"path": each, **values} for each in paths])
        for folder in (b"/a", b"/a/", b"/a/b", b"/", b"/none"):
            prefix = folder.rstrip(b"/") + b"/"
            found = connection.scalars(select(path).where(below(path, folder), schema.location.c.inode == 1)).all()
            expected = [each for each in paths if each == folder or each.startswith(prefix)]
            assert sorted(each for each in found if each in paths) == expected
        connection.rollback()
