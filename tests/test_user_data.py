"""Marks and saved questions made while a run holds the library, and after all that can happen to a library."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
from command_line import TIMEOUT_S, Ran, start, vfindex
from media import media_folder

from vfindex.search.query.like import clip_of
from vfindex.storage.db.sources import stored_exclusions
from vfindex.storage.errors import LibraryDamaged, LibraryLocked, LibraryNotFound
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import ClipKey
from vfindex.storage.writer import locked, writing

# Real files, each of two clips at least. The clips of the first begin elsewhere at one frame a second.
SCREEN = "a screen.ts"
VIDEOS = {
    SCREEN: "c28_rotating_screen.ts",
    "chapters.mkv": "c23_chapters.mkv",
    "joined.ts": "c05a_two_recordings_joined.ts",
    "unwanted.ts": "c05b_pts_wraps.ts",
}
OTHER_SAMPLING = "1"
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Home:
    """A folder of videos and their library. Commands run in their own processes, as users run them."""

    base: Path
    library: Path
    cache: Path

    def video(self, name: str) -> Path:
        return self.base / "videos" / name

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        return start(self.cache, *arguments, "--library", self.library)

    def run(self, *arguments: object) -> Ran:
        """Run a command that must succeed."""
        ran = vfindex(self.cache, *arguments, "--library", self.library)
        assert ran.code == 0, ran.err
        return ran

    def mark(self, name: str, time_s: float, *more: object) -> dict[str, Any]:
        return self.run("mark", f"{self.video(name)}@{time_s:g}", *more, "--json").document()

    def written(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the marks and the saved questions."""
        return self.run("marks", "--json").document()["marks"], self.run("saved", "--json").document()["saved"]


@dataclass(frozen=True)
class Kept:
    """What must stand: marks, saved questions and removed paths."""

    marks: list[dict[str, Any]]
    saved: list[dict[str, Any]]
    removed: tuple[bytes, ...]

    @classmethod
    def of(cls, home: Home) -> Self:
        """Return it; fail if a mark of a video that is there is not found at its time."""
        marks, saved = home.written()
        with closing(Library.open(home.library)) as library, library.snapshot() as snapshot:
            for mark in marks:
                clip, middle_s = mark.pop("clip"), (mark["start_s"] + mark["end_s"]) / 2
                assert (clip is None) == (mark["presence"] != "present")
                if clip is not None:
                    found = clip_of(snapshot, ClipKey(*clip))
                    assert clip[0] == mark["fingerprint"] and found.start_s <= middle_s < found.end_s
            return cls(marks, saved, stored_exclusions(snapshot))

    def with_more(self, home: Home, *, marks: int, saved: int) -> Self:
        """Return this and what is new, so many of each."""
        now = self.of(home)
        assert (len(now.marks), len(now.saved)) == (len(self.marks) + marks, len(self.saved) + saved)
        return replace(self, marks=self.marks + now.marks[-marks:], saved=self.saved + now.saved[-saved:])

    def renamed(self, old: Path, new: Path) -> Self:
        marks = [mark | {"video": str(new)} if mark["video"] == str(old) else mark for mark in self.marks]
        assert marks != self.marks
        return replace(self, marks=marks)

    def check(self, home: Home) -> None:
        """Fail unless all of it is there, and nothing else, in a sound library."""
        assert self.of(home) == self
        assert verify(Library.open(home.library)).problems == []


@pytest.fixture
def home(tmp_path: Path, models_cache: Path) -> Home:
    (tmp_path / "videos").mkdir()
    for name, source in VIDEOS.items():
        shutil.copyfile(media_folder("cases") / source, tmp_path / "videos" / name)
    return Home(tmp_path, tmp_path / "library", models_cache)


@contextmanager
def standing_still(run: subprocess.Popen[bytes], folder: Path, reached: Callable[[], bool]) -> Iterator[None]:
    """Stop a run where `reached()` is true, for this block; fail if it ends before, or does not hold the lock there."""
    until_s = time.monotonic() + TIMEOUT_S
    while not reached():
        assert run.poll() is None and time.monotonic() < until_s
        time.sleep(0.01)
    run.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(LibraryLocked), locked(folder):
            pass
        yield
        assert run.poll() is None
    finally:
        run.send_signal(signal.SIGCONT)


def ended(run: subprocess.Popen[bytes]) -> str:
    """Wait for a run that must succeed; return its standard output."""
    out, err = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 0, err.decode()
    return out.decode()


def has(library: Path, video: Path) -> bool:
    """Return whether a library, or a version of it, has clips of a video; either may still be in the making."""
    try:
        with closing(Library.open(library)) as opened, opened.snapshot() as snapshot:
            found = snapshot.video_at(os.fsencode(video))
            return found is not None and bool(snapshot.clips_of(found.id))
    except (LibraryNotFound, LibraryDamaged):
        return False


def age_models(library: Path) -> None:
    """Name the models as those of an older `lite`, so that an upgrade replaces them."""
    with writing(library) as writer:
        setup = json.loads(writer.catalog.get("setup") or "")
        setup["models"] = {modality: f"{name} of before" for modality, name in setup["models"].items()}
        writer.catalog.put("setup", json.dumps(setup))


def lose_pages(library: Path) -> None:
    """Overwrite the first page of the clips, and the one of the removed paths, as a bad disk does."""
    database = library / "library.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name IN ('clip', 'exclusion')"
        pages = [page for (page,) in connection.execute(query)]
    assert len(pages) == 2
    with database.open("rb+") as file:
        for page in pages:
            file.seek((page - 1) * PAGE_BYTES)
            file.write(os.urandom(PAGE_BYTES))


def test_what_people_write_while_a_run_works_outlives_all_that_happens_to_a_library(home: Home) -> None:
    screen, library, version = home.video(SCREEN), home.library, home.library / "editions" / "1"
    ingest = home.start("ingest", home.base / "videos", "--preset", "lite", "--no-asr", "--workers", 1)
    with standing_still(ingest, library, lambda: has(library, screen)):
        first = home.mark(SCREEN, 13, "--list", "screens", "--note", "it turns")
        home.run("save", "rain", "a car in the rain")
        assert home.written()[0] == [first]
    ended(ingest)
    home.mark("chapters.mkv", 2, "--question", "a talk", "--grade", 2)
    home.mark("unwanted.ts", 7)
    home.run("remove", "--yes", home.video("unwanted.ts"))
    kept = Kept.of(home)
    assert [mark["presence"] for mark in kept.marks] == ["present", "present", "gone"]
    kept.check(home)

    age_models(library)
    upgrade = home.start("upgrade", "--preset", "lite", "--sampling", OTHER_SAMPLING)
    with standing_still(upgrade, version, lambda: has(version, screen)):
        home.mark("joined.ts", 20)
        home.run("save", "snow", "snow in the evening")
    ended(upgrade)
    kept = kept.with_more(home, marks=1, saved=1)
    kept.check(home)
    assert (first["key"][1], home.written()[0][0]["clip"][1]) == (11_833, 12_000), "its video was cut anew"

    home.run("rebuild")
    kept.check(home)

    home.video("joined.ts").rename(home.video("renamed.ts"))
    home.run("reindex")
    kept = kept.renamed(home.video("joined.ts"), home.video("renamed.ts"))
    kept.check(home)

    lose_pages(in_use(library))
    assert vfindex(home.cache, "verify", "--library", library).code == 1
    home.run("repair")
    kept.check(home)
    home.run("reindex")
    assert not has(library, home.video("unwanted.ts"))

    shutil.copytree(library, home.base / "copy")
    kept.check(replace(home, library=home.base / "copy"))

    home.run("upgrade", "--rollback")
    kept.renamed(home.video("renamed.ts"), home.video("joined.ts")).check(home)  # as that version knows it
