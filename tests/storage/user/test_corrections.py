"""Corrections of transcripts are kept as they were written, and readers see each at once."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from vfindex.storage.errors import EditConflict, UsageError
from vfindex.storage.records import Line, Segment
from vfindex.storage.user import corrections
from vfindex.storage.user.corrections import CorrectionReader
from vfindex.storage.user.data import MAX_LINE_CHARS, UserData
from vfindex.storage.user.records import Moment, NewMark
from vfindex.storage.user.repair import repair_user_data, user_faults

LINE = Line("f00d", "speech", 1500, 4250, "the whether is fine")


@pytest.fixture
def data(tmp_path: Path) -> UserData:
    return UserData.open(tmp_path)


def test_a_line_is_a_segment_to_the_millisecond() -> None:
    segment = Segment(1.5000004, 4.25, "the weather is fine", "asr", "en", original="the whether is fine")
    assert Line.of("f00d", segment) == LINE
    assert Line.of("f00d", Segment(1.5, 4.25, "hello", "asr")).text == "hello"


def test_a_correction_is_kept_and_replaced(data: UserData) -> None:
    first = data.correct(LINE, "the  weather\nis fine ", by="ana")
    assert (first.id, first.line, first.text, first.by) == (1, LINE, "the weather is fine", "ana")
    other = data.correct(LINE._replace(start_ms=0), "the weather was fine", by="ana")
    assert data.corrections() == [other, first], "in order of time"
    second = data.correct(LINE, "The weather is fine.", by="ben")
    assert (second.id, data.corrections()) == (1, [other, second])
    assert data.remove_corrections([1]) == [second]
    assert data.correct(LINE, "again").id == 3, "ids are never used again"
    assert user_faults(data.folder) == []


def test_nobody_replaces_a_correction_that_they_have_not_seen(data: UserData) -> None:
    assert data.correct(LINE, "one", by="ana", shown="the  whether is fine").text == "one"
    for shown in (LINE.text, "won"):
        with pytest.raises(EditConflict, match="ana corrected this line meanwhile, it reads: one; save again"):
            data.correct(LINE, "two", by="ben", shown=shown)
    assert data.correct(LINE, "two", by="ben", shown="one").text == "two"
    data.remove_corrections([1])
    with pytest.raises(EditConflict, match="the correction of this line was undone meanwhile, it reads: the whether"):
        data.correct(LINE, "three", shown="two")
    assert data.correct(LINE, "three").text == "three"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x" * (MAX_LINE_CHARS + 1), "2,001 characters"),
        ("bell \x07", "control characters"),
        ("nul \0", "control characters"),
        ("caf\udce9", "UTF-8"),
        ("the  whether is fine", "the line says that already"),
        (None, "must be text"),
        (7, "must be text"),
    ],
)
def test_what_is_no_line_of_text_is_refused(data: UserData, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        data.correct(LINE, text)
    assert not (data.folder / "user.db").exists()


def test_text_that_looks_like_markup_is_text(data: UserData) -> None:
    written = "<script>alert('1')</script> & \N{RIGHT-TO-LEFT MARK}\N{SOCCER BALL}"
    data.correct(LINE, written)
    assert data.corrections()[0].text == written


def test_a_removed_correction_is_no_longer_in_the_file(data: UserData) -> None:
    data.correct(LINE, "unmistakable")
    data.remove_corrections([1])
    content = (data.folder / "user.db").read_bytes()
    assert b"unmistakable" not in content and b"whether" not in content


def made_by_version_1(data: UserData) -> None:
    """Give `user.db` the tables of the version before corrections."""
    data.add_mark(NewMark(Moment("f", 0, 1), note="old"))
    with closing(sqlite3.connect(data.folder / "user.db")) as connection, connection:
        connection.execute("DROP TABLE correction")
        connection.execute("DELETE FROM meta WHERE key = 'rows of correction'")
        connection.execute("PRAGMA user_version=1")


def test_a_file_of_the_version_before_is_read_and_gets_the_table_with_the_next_write(data: UserData) -> None:
    made_by_version_1(data)
    before = (data.folder / "user.db").read_bytes()
    assert (data.corrections(), user_faults(data.folder), repair_user_data(data.folder)) == ([], [], None)
    assert (data.folder / "user.db").read_bytes() == before
    made = data.correct(LINE, "the weather is fine")
    assert data.corrections() == [made]
    assert [mark.note for mark in data.marks()] == ["old"]
    assert user_faults(data.folder) == []


def test_a_damaged_file_of_the_version_before_is_repaired(data: UserData) -> None:
    made_by_version_1(data)
    path = data.folder / "user.db"
    path.write_bytes(path.read_bytes().replace(b"old", b"OLD"))
    done = repair_user_data(data.folder)
    assert done is not None and (done.rows, done.lost) == ({"mark": 0, "saved_query": 0}, {"mark": 1, "saved_query": 0})
    assert user_faults(data.folder) == []


def test_a_reader_sees_each_correction_at_once(data: UserData) -> None:
    reader = CorrectionReader(data.folder)
    assert reader.read().lines == {} and reader.read().version == ""
    versions = set()
    for number in range(50):
        made = data.correct(LINE, f"text {number % 10}")
        now = reader.read()
        assert now.lines == {LINE: made.text}
        versions.add(now.version)
    assert len(versions) == 10, "equal corrections have equal versions"
    data.remove_corrections([made.id])
    assert (reader.read().lines, reader.read().version) == ({}, "")


def test_a_reader_reads_an_old_file_once(data: UserData, monkeypatch: pytest.MonkeyPatch) -> None:
    data.correct(LINE, "the weather is fine")
    reader, reads = CorrectionReader(data.folder), []
    monkeypatch.setattr(UserData, "corrections", lambda self: reads.append(1) or [])
    monkeypatch.setattr(corrections.time, "time", lambda: os.stat(data.folder / "user.db").st_ctime + 60)
    for _ in range(3):
        reader.read()
    assert len(reads) == 1
    data.add_mark(NewMark(Moment("f", 0, 1)))
    reader.read()
    assert len(reads) == 2


def test_a_mark_changes_no_version(data: UserData) -> None:
    data.correct(LINE, "the weather is fine")
    before = CorrectionReader(data.folder).read()
    data.add_mark(NewMark(Moment("f", 0, 1)))
    assert CorrectionReader(data.folder).read() == before


def test_a_damaged_file_is_a_warning_and_no_correction(data: UserData, caplog: pytest.LogCaptureFixture) -> None:
    data.correct(LINE, "the weather is fine")
    reader = CorrectionReader(data.folder)
    (data.folder / "user.db").write_bytes(b"no database" * 1000)
    with caplog.at_level(logging.WARNING):
        assert [reader.read().lines for _ in range(3)] == [{}, {}, {}]
    [record] = caplog.records
    assert "without people's corrections" in record.message and "run: vfindex repair" in record.message


def test_readers_in_threads_never_break_the_lock_of_a_writer(data: UserData) -> None:
    reader, done = CorrectionReader(data.folder), threading.Event()
    data.correct(LINE, "text")
    faults: list[object] = []

    def look() -> None:
        while not done.is_set():
            if set(reader.read().lines) != {LINE}:
                faults.append(reader.read())

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(100):
        data.correct(LINE, f"text {number}")
    done.set()
    for thread in threads:
        thread.join()
    assert faults == [] and user_faults(data.folder) == []
