"""Commands killed at random instants: the library as a reader finds it, and after the command is repeated.

A command runs in a process forked from a server that has imported everything, so kills do not hit imports. It reports
its phase through a pipe. Units are 2 s long, so short videos have several.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from equality import QUESTIONS, assert_equal_libraries, contents
from media import Shot, make_video

from vfindex.search.engine import SearchEngine
from vfindex.storage.errors import LibraryNotFound, VfindexError
from vfindex.storage.index import segment
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify

UNIT_S = 2.0
# Fingerprint -> the searchable clips of the video: start in ms, start_s, end_s.
Videos = dict[str, list[tuple[int, float, float]]]
TIMEOUT_S = 230  # for a busy machine
# Phase of a command by function; the innermost counts.
PHASES = (
    ("vfindex.indexer.runs.execute", "index_files", "opening models"),
    ("vfindex.indexer.runs.scheduler", "Scheduler.work", "reading videos"),
    ("vfindex.storage.writer", "Writer.install", "installing"),
    ("vfindex.storage.writer", "Writer.commit_unit", "committing a unit"),
    ("vfindex.storage.writer", "Writer.discard_thumbnails", "deleting thumbnails"),
    ("vfindex.storage.writer", "Writer.publish", "publishing"),
    ("vfindex.storage.writer", "Writer.merge", "merging segments"),
    ("vfindex.storage.publication", "Publisher.erase_deleted", "erasing vectors"),
    ("vfindex.storage.db.catalog", "Catalog.begin_video", "beginning a video"),
    ("vfindex.storage.db.catalog", "Catalog.finish_video", "finishing a video"),
    ("vfindex.storage.db.catalog", "Catalog.retitle", "retitling"),
    ("vfindex.storage.db.catalog", "Catalog.place", "moving"),
    ("vfindex.storage.db.catalog", "Catalog.mark_missing", "entering what vanished"),
    ("vfindex.storage.db.catalog", "Catalog.remove", "removing"),
    ("vfindex.storage.db.catalog", "Catalog.purge", "purging"),
    ("vfindex.indexer.runs.repair", "salvage_database", "saving a database"),
    ("vfindex.indexer.runs.repair", "set_aside", "setting videos aside"),
    ("vfindex.indexer.runs.repair", "rewrite_words", "writing words anew"),
    ("vfindex.search.calibration.fit", "calibrate_if_changed", "calibrating scores"),
)
STARTING = "starting"
NAMES = ("ingest", "reindex", "remove", "purge", "publish", "rebuild", "repair", "segments", "segments remove")
# As the first argument: libraries of more than two clips count as large, so their index has several segments.
SEGMENTED = "segmented"
# Modules that the commands import lazily.
_PRELOADED = (
    *("vfindex.cli.app", "vfindex.indexer.runs.ingest", "vfindex.indexer.runs.reindex"),
    *("vfindex.indexer.runs.scheduler", "vfindex.indexer.runs.repair", "vfindex.search.calibration.fit"),
    *("vfindex.storage.maintenance.rebuild", "vfindex.storage.maintenance.verify"),
    *("faiss", "onnxruntime", "PIL.WebPImagePlugin", "crashing"),
)


@dataclass(frozen=True)
class Phase:
    """A phase of an undisturbed run: its name, occurrence and duration. STARTING: the whole run."""

    name: str
    number: int
    length_s: float


@dataclass(frozen=True)
class Scenario:
    """A command, the library `before` it (None: no library), and the library after an undisturbed run."""

    name: str
    arguments: tuple[str, ...]
    before: Path | None
    after: Path
    phases: tuple[Phase, ...]

    def instant(self, chance: random.Random) -> Instant:
        """Return a random instant: every second time in the whole run, else in a randomly chosen phase."""
        names = sorted({phase.name for phase in self.phases})
        name = STARTING if chance.random() < 0.5 else chance.choice(names)
        phase = chance.choice([phase for phase in self.phases if phase.name == name])
        return Instant(phase.name, phase.number, phase.length_s * chance.random())


@dataclass(frozen=True)
class Instant:
    """When to kill: the delay after the start of the number-th phase of a name, or of the run."""

    phase: str
    number: int
    after_s: float


@dataclass(frozen=True)
class Killed:
    """The outcome of a kill. phase: of the command, None if it had ended. faults: of the library."""

    phase: str | None
    faults: tuple[str, ...] = ()


class Machine:
    """Runs `vfindex ARGUMENTS` to its end, or kills it."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(_PRELOADED))

    def run(self, *arguments: str, library: Path) -> tuple[int, list[Phase]]:
        """Return the exit code and the phases of an undisturbed run."""
        with self._started(arguments, library) as (process, messages):
            open_phases, done = [(STARTING, 0, time.monotonic())], []
            counts: Counter[str] = Counter()
            for name in messages:
                if name:
                    counts[name] += 1
                    open_phases.append((name, counts[name], time.monotonic()))
                else:
                    name, number, began = open_phases.pop()
                    done.append(Phase(name, number, time.monotonic() - began))
            process.join(TIMEOUT_S)
            name, number, began = open_phases[0]
            return int(process.exitcode), [*done, Phase(STARTING, 0, time.monotonic() - began)]

    def kill(self, *arguments: str, library: Path, at: Instant) -> str | None:
        """Kill a run at an instant; return the phase that it was in, None if it had ended."""
        with self._started(arguments, library) as (process, messages):
            stack = [STARTING]
            seen: Counter[str] = Counter()
            if at.phase != STARTING:
                for name in messages:
                    _follow(stack, name)
                    seen[name] += 1
                    if (name, seen[name]) == (at.phase, at.number):
                        break
            process.join(at.after_s)
            ended = process.exitcode is not None
            if not ended:
                os.kill(process.pid, signal.SIGKILL)
                process.join(TIMEOUT_S)
            for name in messages:
                _follow(stack, name)
            return None if ended else stack[-1]

    @contextmanager
    def _started(self, arguments: tuple[str, ...], library: Path) -> Iterator[tuple[Any, Iterator[str]]]:
        """Yield the running process and its messages: a phase that begins, or "" for the end of the innermost."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_act, args=((*arguments, "--library", os.fspath(library)), os.fspath(self._cache), sender)
        )
        process.start()
        sender.close()
        messages = _told(receiver)
        try:
            next(messages)  # it is ready
            yield process, messages
        finally:
            process.kill()
            process.join()
            receiver.close()


def _told(receiver: Connection) -> Iterator[str]:
    while True:
        try:
            yield receiver.recv_bytes().decode()
        except (EOFError, OSError):
            return


def _follow(stack: list[str], name: str) -> None:
    if name:
        stack.append(name)
    elif len(stack) > 1:
        stack.pop()


def _act(arguments: tuple[str, ...], cache: str, pipe: Connection) -> None:
    """In the new process: run the command and report its phases."""
    from vfindex.cli.app import main
    from vfindex.indexer.pipeline import prepare

    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(silent, descriptor)
    os.environ["VFINDEX_CACHE"] = cache
    prepare.UNIT_S, prepare.MIN_LAST_UNIT_S = UNIT_S, UNIT_S / 2
    if arguments[0] == SEGMENTED:
        segment.EXACT_CLIPS, arguments = 2, arguments[1:]
    for module, name, phase in PHASES:
        _tell(module, name, phase, pipe)
    sys.argv = ["vfindex", *arguments]
    pipe.send_bytes(b"ready")
    main()


def _tell(module: str, name: str, phase: str, pipe: Connection) -> None:
    owner: Any = importlib.import_module(module)
    *parents, last = name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    inner: Callable[..., Any] = getattr(owner, last)

    @functools.wraps(inner)
    def telling(*args: Any, **kwargs: Any) -> Any:
        pipe.send_bytes(phase.encode())
        try:
            return inner(*args, **kwargs)
        finally:
            pipe.send_bytes(b"")

    setattr(owner, last, telling)


# --- what is killed -------------------------------------------------------------------------------------------------


def make_scenarios(base: Path, machine: Machine, names: Collection[str]) -> list[Scenario]:
    """Make videos, initial and expected libraries; return the scenarios of these NAMES.

    Raises RuntimeError if an undisturbed command fails.
    """
    videos = base / "videos"
    first, again = base / "first", base / "again"
    _make_videos(videos)
    _do(machine, "ingest", videos, "--no-asr", "--no-ocr", library=first)
    _change_videos(videos)
    reindex = ("reindex", "--allow-missing", "--workers", "2")
    _do(machine, *reindex, library=copy_library(first, again))
    unpublished = copy_library(again, base / "unpublished")
    with closing(sqlite3.connect(unpublished / "library.db")) as connection, connection:
        connection.execute("INSERT INTO meta (key, value) VALUES ('changed', 'stale')")
    torn = copy_library(again, base / "torn")
    _tear(torn / "library.db", "embedding")
    ingest = ("ingest", os.fspath(videos), "--no-asr", "--no-ocr", "--workers", "2")
    begun = [
        ("ingest", ingest, None),
        ("reindex", reindex, first),
        ("remove", ("remove", os.fspath(videos / "old")), again),
        ("purge", ("purge", "--now"), again),
        ("publish", ingest, unpublished),
        ("rebuild", ("rebuild",), again),
        ("repair", ("repair", "--workers", "2"), torn),
        ("segments", (SEGMENTED, *reindex), first),
        ("segments remove", (SEGMENTED, "remove", os.fspath(videos / "old")), again),
    ]
    scenarios = []
    for name, arguments, before in (each for each in begun if each[0] in names):
        after = base / f"after {name}"
        if before is not None:
            copy_library(before, after)
        scenarios.append(Scenario(name, arguments, before, after, _do(machine, *arguments, library=after)))
    return scenarios


def _tear(database: Path, table: str) -> None:
    """Overwrite the root page of a table."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        [(size_bytes,)] = connection.execute("PRAGMA page_size").fetchall()
    with database.open("rb+") as file:
        file.seek((page - 1) * size_bytes)
        file.write(b"\xa5" * size_bytes)


def _do(machine: Machine, *arguments: str | Path, library: Path) -> tuple[Phase, ...]:
    code, phases = machine.run(*map(os.fspath, arguments), library=library)
    if code or verify(Library.open(library)).problems:
        raise RuntimeError(f"{arguments[0]} failed undisturbed, with exit code {code}")
    return tuple(phases)


def _make_videos(folder: Path) -> None:
    (folder / "old").mkdir(parents=True)
    colours = {"red door": "red", "gone hill": "green", "moving boat": "blue", "changing sky": "grey"}
    for name, colour in colours.items():
        _video(folder / f"{name}.mp4", colour, 2)
    _video(folder / "old" / "yellow field.mp4", "yellow", 2)
    _video(folder / "old" / "white hall.mp4", "white", 1)


def _change_videos(folder: Path) -> None:
    """Delete one video, move one, change one, and add one of three units."""
    for path in folder.glob("gone hill.*"):
        path.unlink()
    for path in folder.glob("moving boat.*"):
        path.rename(folder / "old" / path.name)
    _video(folder / "changing sky.mp4", "black", 2)
    _video(folder / "new tower.mp4", "green", 6)


def _video(path: Path, colour: str, length_s: float) -> None:
    shots = [Shot(colour, length_s / 2), Shot("white" if colour != "white" else "red", length_s / 2, to=colour)]
    make_video(path, shots=shots, fps=10, width=96, height=64)
    text = f"1\n00:00:00,200 --> 00:00:00,900\nThis is the {path.stem} of our museum.\n"
    path.with_suffix(".srt").write_text(text)


def copy_library(source: Path, target: Path) -> Path:
    """Copy a library; link the query encoders, which never change."""

    def copy(file: str, to: str) -> str:
        if Path(file).parent.parent.name == "query":
            os.link(file, to)
        else:
            shutil.copyfile(file, to)
        return to

    shutil.copytree(source, target, copy_function=copy)
    return target


# --- the kill -------------------------------------------------------------------------------------------------------


def kill(machine: Machine, scenario: Scenario, scratch: Path, at: Instant) -> Killed:
    """Kill a command, check the library, repeat the command, and compare with the library of an undisturbed run."""
    library = _begin(scenario, scratch)
    try:
        phase = machine.kill(*scenario.arguments, library=library, at=at)
        if phase is None:
            return Killed(None)
        return Killed(phase, (*left(scenario, library), *_repeated(machine, scenario, library)))
    finally:
        shutil.rmtree(library, ignore_errors=True)


def _repeated(machine: Machine, scenario: Scenario, library: Path) -> Iterator[str]:
    code, _ = machine.run(*scenario.arguments, library=library)
    # The repeated command reports that a path removed before the kill is not in the library.
    if code not in ((0, 1) if scenario.name.endswith("remove") else (0,)):
        yield f"the repetition ended with {code}"
    yield from verify(Library.open(library)).problems
    try:
        assert_equal_libraries(library, scenario.after)
    except AssertionError as exc:
        yield f"the repetition ended elsewhere: {exc}"
    yield from (f"{path.name} was left behind" for path in library.rglob("*.part"))


def _begin(scenario: Scenario, scratch: Path) -> Path:
    library = scratch / "killed"
    if scenario.before is not None:
        copy_library(scenario.before, library)
    return library


def left(scenario: Scenario, library: Path) -> Iterator[str]:
    """Yield the faults of the library after a kill: damage, an incomplete video, a lost video, no answer."""
    if scenario.name == "repair":
        return  # damaged before the command, perhaps still
    before = _videos(scenario.before) if scenario.before else {}
    after = _videos(scenario.after)
    try:
        now = _videos(library)
        yield from verify(Library.open(library)).problems
    except LibraryNotFound:
        if scenario.before is not None:
            yield "the library is gone"
        return
    for fingerprint, clips in now.items():
        if clips not in (before.get(fingerprint), after.get(fingerprint)):
            yield f"the video {fingerprint} is half a video"
    for fingerprint in before.keys() & after.keys() - now.keys():
        yield f"the video {fingerprint} is lost"
    if now and not SearchEngine.open(library).search("a red door in a museum"):
        yield "a search finds nothing"


def _videos(library: Path) -> Videos:
    """Return the searchable clips of every video, in order of time."""
    found: Videos = {}
    for (fingerprint, start_ms), (start_s, end_s, _) in sorted(contents(library).items(), key=lambda item: item[0]):
        found.setdefault(fingerprint, []).append((start_ms, start_s, end_s))
    return found


# --- searches meanwhile ---------------------------------------------------------------------------------------------


@dataclass
class Meanwhile:
    """The outcome of searches while commands wrote. generations: of the joint index that were used."""

    searches: int = 0
    rounds: int = 0
    generations: int = 0
    faults: list[str] = field(default_factory=list)


def search_meanwhile(machine: Machine, scenario: Scenario, scratch: Path, searches: int) -> Meanwhile:
    """Search one library repeatedly with one engine while a reindex commits and publishes and a purge deletes.

    When both have ended, they start again on a new copy, until enough searches have run.
    """
    known = [_videos(folder) for folder in (scenario.before, scenario.after) if folder is not None]
    result = Meanwhile()
    while result.searches < searches:
        library = _begin(scenario, scratch)
        engine = SearchEngine.open(library)
        for arguments in (scenario.arguments, ("purge", "--now")):
            with machine._started(arguments, library) as (process, _):
                while process.exitcode is None:
                    _search(engine, library, known, result)
            if process.exitcode:
                result.faults.append(f"{arguments[0]} ended with {process.exitcode}")
        with Library.open(library).snapshot() as snapshot:
            generation = snapshot.generation()
        result.generations += generation.id if generation else 0
        result.rounds += 1
        shutil.rmtree(library)
    return result


def _search(engine: SearchEngine, library: Path, known: list[Videos], result: Meanwhile) -> None:
    question = (*QUESTIONS, "a red door in a museum")[result.searches % (len(QUESTIONS) + 1)]
    result.searches += 1
    try:
        hits = engine.search(question)
    except VfindexError as exc:
        result.faults.append(f"search {result.searches}: {exc}")
        return
    if not hits:
        result.faults.append(f"search {result.searches}: nothing was found")
    for fingerprint, clips in _videos(library).items():
        if not any(clips == videos.get(fingerprint) for videos in known):
            result.faults.append(f"search {result.searches}: the video {fingerprint} is half a video")
