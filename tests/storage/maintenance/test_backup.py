"""A backup made while another process commits and publishes is a whole library of one instant."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.errors import LibraryError, LibraryNotFound, UsageError
from vfindex.storage.heads import FOLDER, TemporalHead, put_head, shapes_of
from vfindex.storage.index import model_versions
from vfindex.storage.library import Library
from vfindex.storage.maintenance import backup as backing
from vfindex.storage.maintenance.backup import back_up
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import SEARCHABLE
from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Moment, NewMark
from vfindex.storage.writer import writing

# Commits videos one after the other, publishes after every fifth, and empties the log after every seventh.
WRITER = """
import sys
from itertools import count
from pathlib import Path
from library_maker import add_video, axis, clip, install
from vfindex.storage.records import Segment
from vfindex.storage.writer import writing
with writing(Path(sys.argv[1])) as writer:
    install(writer)
    for number in count():
        clips = [clip(5.0 * i, 5.0 * i + 5, visual=axis(number % 8), speech=axis(i % 8)) for i in range(20)]
        add_video(writer, f"{number:05}", clips, [Segment(1, 2, f"number {number}", "asr", "en")])
        if number % 5 == 4:
            writer.publish()
        if number % 7 == 6:
            writer.checkpoint()
"""
COPIES = 8


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Keep a process writing to a library during the block."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)])
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], env=os.environ | {"PYTHONPATH": path})
    try:
        while not is_published(folder):
            assert process.poll() is None
            time.sleep(0.01)
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def is_published(folder: Path) -> bool:
    """Return whether a library has a joint index. It may not be there yet."""
    with suppress(LibraryError), Library.open(folder).snapshot() as snapshot:
        return snapshot.generation() is not None
    return False


def names(folder: Path) -> list[str]:
    """Return the fingerprints of the searchable videos of a library, each with all its clips."""
    with Library.open(folder).snapshot() as snapshot:
        videos = [video for video in snapshot.videos() if video.state in SEARCHABLE]
        assert all(len(snapshot.clips_of(video.id)) == 20 for video in videos)
        return [video.fingerprint for video in videos]


def test_copies_at_random_instants_are_whole(tmp_path: Path) -> None:
    instants, counts = random.Random(7), []
    with written_to(tmp_path / "library"):
        for number in range(COPIES):
            time.sleep(instants.random() / 4)
            UserData.open(tmp_path / "library").add_mark(NewMark(Moment("00000", 5 * number, 5), note="seen"))
            done = back_up(tmp_path / "library", tmp_path / f"copy {number}")
            counts.append(done.videos)
    assert counts == sorted(counts) and len(set(counts)) > COPIES // 2, "the writer went on"
    for number, count in enumerate(counts):
        copy = tmp_path / f"copy {number}"
        assert names(copy) == [f"{each:05}" for each in range(count)]
        found = verify(Library.open(copy))
        assert found.problems == [] and found.recall_at_10 == 1.0
        assert len(UserData.open(copy).marks()) == number + 1
        assert not [path.name for path in copy.iterdir() if path.name.endswith(("-wal", "-shm", "-journal"))]
    with writing(copy) as writer:
        add_video(writer, "more", [clip(visual=axis(1))])
        writer.publish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with writing(tmp_path / "library") as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(1))])
        writer.publish()
    return tmp_path / "library"


def test_the_version_in_use_is_copied(folder: Path, tmp_path: Path) -> None:
    with writing(folder / "editions" / "1") as writer:
        install(writer)
        for name in ("a", "b"):
            add_video(writer, name, [clip(visual=axis(2))])
        writer.publish()
    model_versions.put_in_use(folder, 1)
    UserData.open(folder).save_query("q", "text")
    done = back_up(folder, tmp_path / "deep" / "copy")
    assert (done.videos, done.clips, done.folder) == (2, 2, tmp_path / "deep" / "copy")
    assert model_versions.history(done.folder) == [0]
    assert len(UserData.open(done.folder).saved_queries()) == 1
    assert verify(Library.open(done.folder)).clean
    assert os.listdir(tmp_path / "deep") == ["copy"]


def test_the_copy_has_the_modes_of_the_library(folder: Path, tmp_path: Path) -> None:
    (folder / "library.db").chmod(0o640)
    folder.chmod(0o750)
    copy = back_up(folder, tmp_path / "copy").folder
    assert {path.stat().st_mode & 0o777 for path in copy.rglob("*") if path.is_file()} == {0o640}
    assert copy.stat().st_mode & 0o777 == 0o750


def test_a_folder_that_is_taken_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for target, told in (
        ("taken", "exists already"),
        ("taken/file", "exists already"),
        ("library/x", "inside the lib"),
    ):
        with pytest.raises(UsageError, match=told):
            back_up(folder, tmp_path / target)
    with pytest.raises(LibraryNotFound):
        back_up(tmp_path / "none", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert os.listdir(tmp_path / "taken") == ["file"]


def test_an_index_that_is_replaced_meanwhile_is_copied_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_database, published = backing._copy_database, []

    def publishing(source: Path, target: Path) -> None:
        copy_database(source, target)
        if len(published) < 1:
            for _ in range(2):
                with writing(folder) as writer:
                    add_video(writer, f"more {len(published)}", [clip(visual=axis(2))])
                    published.append(writer.publish())

    monkeypatch.setattr(backing, "_copy_database", publishing)
    done = back_up(folder, tmp_path / "copy")
    assert done.videos == 3 and verify(Library.open(done.folder)).clean


def test_a_temporal_head_that_is_replaced_meanwhile_is_copied_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(chance: float) -> None:
        weights = {name: np.ones(shape, np.float32) for name, shape in shapes_of(8, 2).items()}
        with writing(folder) as writer:
            put_head(writer.catalog, folder, "kinds", TemporalHead(("a", "b"), "m", weights, chance, 2.0))

    copy_database, copied = backing._copy_database, []

    def training(source: Path, target: Path) -> None:
        copy_database(source, target)
        copied.append(target)
        if len(copied) == 1:
            train(0.02)

    train(0.01)
    monkeypatch.setattr(backing, "_copy_database", training)
    done = back_up(folder, tmp_path / "copy")
    assert len(copied) == 2 and verify(Library.open(done.folder)).clean
    [head] = (folder / FOLDER).iterdir()
    head.unlink()
    done = back_up(folder, tmp_path / "damaged")  # no second try: it would be missing then, too
    assert len(copied) == 3 and not verify(Library.open(done.folder)).clean


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(backing, "_copy_file", refuse)
    with pytest.raises(LibraryError, match=r"copy could not be written \(No space left on device\)"):
        back_up(folder, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path)) == ["library"]
