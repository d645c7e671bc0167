"""Interruptions, concurrent writers, unwritable output and invalid libraries, through the command line."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ran, start, vfindex
from media import Shot, make_video

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.storage.errors import LibraryNotFound
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify

# --- interruptions and other writers --------------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Return a folder of videos that take one worker long: every frame is sampled."""
    (tmp_path / "slow").mkdir()
    make_video(tmp_path / "slow" / "a short.mp4", shots=[Shot("red", 1)])
    for number in (1, 2):
        make_video(tmp_path / "slow" / f"long {number}.mp4", shots=[Shot("blue", 4 + number)])
    return tmp_path / "slow"


def wait_for(library: Path, state: str) -> None:
    """Wait until the library has a video in this state."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        try:
            with Library.open(library).snapshot() as snapshot:
                if snapshot.counts().get(state):
                    return
        except LibraryNotFound:
            pass  # it is being created
        time.sleep(0.05)
    raise AssertionError(f"no video came to be {state}")


def test_one_interruption_finishes_running_units(tmp_path: Path, slow: Path, models_cache: Path) -> None:
    library = tmp_path / "library"
    arguments = ("ingest", slow, "--library", library, "--no-asr", "--workers", "1", "--sampling", "10", "--json")
    with start(models_cache, *arguments) as process:
        wait_for(library, "indexed")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    ran = Ran(process.returncode, out.decode(), err.decode())
    assert ran.code == 130
    assert ran.err == "stopping after the videos in progress; press Ctrl-C again to stop at once\n"
    done = ran.document()["indexed"]
    assert 1 <= done < 3
    assert verify(Library.open(library)).problems == []
    rest = vfindex(models_cache, *arguments)
    report = rest.document()
    assert (rest.code, report["unchanged"], report["indexed"]) == (0, done, 3 - done)
    assert verify(Library.open(library)).problems == []


def test_a_second_writer_is_refused_and_two_interruptions_end_at_once(
    tmp_path: Path, slow: Path, models_cache: Path
) -> None:
    library = tmp_path / "library"
    arguments = ("ingest", slow, "--library", library, "--no-asr", "--workers", "1", "--sampling", "25")
    with start(models_cache, *arguments) as process:
        wait_for(library, "indexed")
        wait_for(library, "indexing")
        second = vfindex(models_cache, *arguments)
        assert second.is_sentence() and "another vfindex is writing to the library" in second.err
        assert process.poll() is None, "the first was not disturbed"
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        began_s = time.monotonic()
        _, err = process.communicate(timeout=100)
    assert time.monotonic() - began_s < 10, "at once"
    assert process.returncode == 130 and b"Traceback" not in err
    assert verify(Library.open(library)).problems == []


# --- disks, folders and libraries that are not what they should be --------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, models_cache: Path) -> Path:
    """Return a library of one video, tmp_path/videos/one.mp4."""
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "one.mp4", shots=[Shot("red", 1)])
    settings = RunSettings(cache=models_cache, workers=1, asr=False)
    ingest(tmp_path / "library", [os.fsencode(tmp_path / "videos")], settings)
    return tmp_path / "library"


def test_output_that_cannot_be_written_is_a_sentence(library: Path, models_cache: Path) -> None:
    def fill() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    def close() -> None:
        os.close(1)
        os.close(2)

    full = vfindex(models_cache, "status", "--library", library, prepare=fill)
    assert full.is_sentence() and "make room" in full.err
    assert vfindex(models_cache, "status", "--library", library, prepare=close) == Ran(0, "", "")


def test_a_deleted_working_folder_is_a_sentence(tmp_path: Path, library: Path, models_cache: Path) -> None:
    def leave() -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    ran = vfindex(models_cache, "ingest", ".", "--library", library, prepare=leave)
    assert ran.is_sentence() and "change to another" in ran.err


def garbage(folder: Path) -> None:
    (folder / "library.db").write_bytes(bytes(range(256)) * 40)


def nothing(folder: Path) -> None:
    (folder / "library.db").touch()


def folder_instead(folder: Path) -> None:
    (folder / "library.db").mkdir()


@pytest.mark.parametrize("break_it", [garbage, nothing, folder_instead])
def test_an_invalid_library_is_a_sentence(tmp_path: Path, models_cache: Path, break_it: Callable[[Path], None]) -> None:
    break_it(tmp_path)
    for command in (("search", "red"), ("status",), ("remove", "x.mp4")):
        assert vfindex(models_cache, *command, "--library", tmp_path).is_sentence()
    assert "Traceback" not in vfindex(models_cache, "verify", "--library", tmp_path).err


@pytest.mark.parametrize("break_it", [garbage, folder_instead])
def test_nothing_is_written_into_an_invalid_library(
    tmp_path: Path, models_cache: Path, break_it: Callable[[Path], None]
) -> None:
    break_it(tmp_path)
    before = (tmp_path / "library.db").stat()
    ran = vfindex(models_cache, "ingest", tmp_path.parent, "--library", tmp_path)
    assert ran.is_sentence() and "--library" in ran.err
    after = (tmp_path / "library.db").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_folder_that_cannot_have_a_library_is_a_sentence(tmp_path: Path, models_cache: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "library", Path("/proc/vfindex")):
        assert vfindex(models_cache, "ingest", tmp_path, "--library", place).is_sentence()
    make_video(tmp_path / "video.mp4", shots=[Shot("red", 1)])
    ran = vfindex(tmp_path / "file" / "cache", "ingest", tmp_path, "--library", tmp_path / "library")
    assert ran.is_sentence() and "VFINDEX_CACHE" in ran.err
    ran = vfindex(models_cache, "status", "--library", "")
    assert ran.code == 2 and "it is empty" in ran.err


def test_without_a_home_there_is_a_sentence(models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "VFINDEX_LIBRARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/nonexistent")
    ran = vfindex(models_cache, "status")
    assert ran.is_sentence() and "there is no library in /nonexistent/vfindex" in ran.err
