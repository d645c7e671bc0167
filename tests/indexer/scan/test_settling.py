"""Files of followed folders are read once they are complete, and not before."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from vfindex.indexer import follow as followed
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.scan.settling import CLOSED_S, QUIET_S, Settling, told_of_changes
from vfindex.storage.errors import LibraryLocked, Problem, UsageError

FILE = b"/cam/a.mp4"


@dataclass
class Time:
    s: float = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture
def settling(now: Time) -> Settling:
    return Settling(now, now)


def state(now: Time, age_s: float, path: bytes = FILE) -> tuple[bytes, int, int, str]:
    return path, 100, int((now.s - age_s) * 1e9), ""


def test_a_file_that_was_closed_is_complete_soon_after(settling: Settling, now: Time) -> None:
    settling.wrote(FILE)
    settling.closed(FILE)
    assert settling.wait_s() == pytest.approx(CLOSED_S) and not settling.is_settled(state(now, 0))
    now.s += CLOSED_S
    assert settling.wait_s() == 0.0 and settling.is_settled(state(now, CLOSED_S))
    assert settling.take() == {FILE: pytest.approx(CLOSED_S)}
    settling.forget([FILE])
    assert settling.wait_s() is None


def test_a_file_that_is_written_to_all_the_time_is_never_complete(settling: Settling, now: Time) -> None:
    for _ in range(100):
        settling.wrote(FILE)
        now.s += QUIET_S / 2
        assert not settling.is_settled(state(now, QUIET_S / 2)) and settling.take() == {}
    now.s += QUIET_S / 2
    assert settling.take() == {FILE: pytest.approx(QUIET_S)}


def test_one_that_is_opened_again_while_it_is_read_is_read_again(settling: Settling, now: Time) -> None:
    settling.closed(FILE)
    now.s += CLOSED_S
    taken = settling.take()
    settling.wrote(FILE)
    settling.forget(list(taken))
    assert settling.wait_s() == pytest.approx(QUIET_S)


def test_one_that_is_complete_again_while_it_is_read_is_read_again(settling: Settling, now: Time) -> None:
    settling.closed(FILE)
    now.s += CLOSED_S
    taken = settling.take()
    settling.wrote(FILE)
    settling.closed(FILE)
    now.s += 60
    settling.forget(list(taken))
    assert settling.take() == {FILE: pytest.approx(60)}


def test_a_young_file_that_nobody_told_of_waits_until_it_is_old(settling: Settling, now: Time) -> None:
    assert settling.is_settled(state(now, QUIET_S)) and settling.is_settled(state(now, -50))
    assert not settling.is_settled(state(now, 1))
    assert settling.wait_s() == pytest.approx(QUIET_S - 1)
    settling.gone(FILE)
    assert settling.wait_s() is None


def test_other_files_wake_nobody(settling: Settling) -> None:
    for name in (b"/cam/log.txt", b"/cam/.a.mp4", b"/cam/a.mp4.part"):
        settling.closed(name)
    assert settling.wait_s() is None
    settling.closed(b"/cam/a.srt")
    assert settling.wait_s() is not None


def wait_for(settling: Settling, path: Path) -> None:
    end = time.monotonic() + 30
    while os.fsencode(path) not in settling._closed:
        assert time.monotonic() < end, "no event came"
        time.sleep(0.01)


def test_the_system_tells_of_files_that_are_closed_and_renamed(tmp_path: Path) -> None:
    pytest.importorskip("watchdog", reason="watchdog follows folders: pip install watchdog")
    (tmp_path / "later").mkdir()
    settling = Settling()
    with told_of_changes([os.fsencode(tmp_path)], settling):
        (tmp_path / "later" / "a.mp4").write_bytes(b"a")
        wait_for(settling, tmp_path / "later" / "a.mp4")
        (tmp_path / "b.part").write_bytes(b"b")
        (tmp_path / "b.part").rename(tmp_path / "b.mp4")
        wait_for(settling, tmp_path / "b.mp4")
        assert os.fsencode(tmp_path / "b.part") not in settling._due


def test_it_reads_what_arrives_until_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("watchdog", reason="watchdog follows folders: pip install watchdog")
    runs: list[str] = []
    reports: list[dict[bytes, float]] = []

    def ingest(*_: object, sift: object, name: str) -> Report:
        runs.append(name)
        if len(runs) == 2:
            raise LibraryLocked("another vfindex is writing")
        if len(runs) == 1:
            (tmp_path / "a.mp4").write_bytes(b"a")
            (tmp_path / "broken.mp4").write_bytes(b"b")
        return Report(
            found=1, failed=[Problem(os.fsencode(tmp_path / "broken.mp4"), "open", "not_a_video", "it is no video", "")]
        )

    monkeypatch.setattr(followed, "ingest", ingest)
    monkeypatch.setattr(followed, "_LOCKED_S", 0.01)
    callbacks = Callbacks(stop=lambda: len(reports) == 2)
    settings = RunSettings(tmp_path / "cache")
    followed.follow(
        tmp_path / "library", [os.fsencode(tmp_path)], settings, callbacks, lambda _, told: reports.append(told)
    )
    assert runs == ["follow"] * 3
    assert [[*each] for each in reports] == [[], [os.fsencode(tmp_path / "a.mp4")]]


def test_a_file_cannot_be_followed(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    with pytest.raises(UsageError, match=r"a\.mp4 is no folder"):
        followed.follow(
            tmp_path / "l", [os.fsencode(tmp_path / "a.mp4")], RunSettings(tmp_path), Callbacks(), lambda *_: None
        )
