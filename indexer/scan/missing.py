"""Files that the library knows and that are not there any more: moved, gone, or on a disk that is not mounted."""

from __future__ import annotations

import errno
import os
import shlex
from collections import deque
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

from vfindex.indexer.boundary import one_file
from vfindex.indexer.runs.run import Run
from vfindex.indexer.scan.walk import ASK_EVERY, Exclusions, Found, fingerprint, is_excluded_below
from vfindex.storage.db.locations import is_below, sample_below
from vfindex.storage.db.sources import Root
from vfindex.storage.errors import Problem, VideoError, counted
from vfindex.storage.records import Location

# Files by which a renamed folder is known again, spread evenly, and how many of them must be there.
SAMPLE, SAMPLE_SHARE = 20, 0.5
# A root that has lost more than this share of its videos at once is rather a disk that is not mounted.
BELIEVED_SHARE = 0.2
_NEXT = "mount its disk; or, if they are gone for good, run: vfindex reindex --allow-missing"
_NEXT_ROOT = (
    "mount its disk; if it was renamed, run: vfindex ingest NEWNAME; "
    "if it is gone for good, run: vfindex reindex --allow-missing, or vfindex remove {}"
)


@dataclass(slots=True)
class _Ground:
    """A root that is judged as a whole: a folder, or all files of one folder that were named one by one."""

    path: bytes
    is_folder: bool
    files: set[bytes] = field(default_factory=set)

    def covers(self, path: bytes) -> bool:
        return path.startswith(self.path.rstrip(b"/") + b"/") if self.is_folder else path in self.files


def is_missing(path: bytes) -> bool:
    """Return whether there is surely nothing at `path`: a disk that does not answer is no proof."""
    try:
        os.lstat(path)
    except OSError as exc:
        return exc.errno in (errno.ENOENT, errno.ENOTDIR)
    return False


def vanished(run: Run, given: Sequence[Root], *, allow_missing: bool) -> tuple[set[bytes], set[bytes]]:
    """Return what is gone from the roots, and what is gone but found again among `run.todo`, which then comes first.

    Roots that are missing, or have lost too much at once, are left alone and told in the report, unless they may be.
    A file below several roots vanishes only if each of them is believed. Nothing is gone where the run is to end.
    """
    unseen = run.unseen()
    grounds = _grounds(unseen, given)
    gone = set()
    for number, path in enumerate(unseen):
        if number % ASK_EVERY == 0 and run.has_stopped():
            break
        if any(ground.covers(path) for ground in grounds) and is_missing(path):
            gone.add(path)
    moved = _moved(run, gone)
    if run.report.interrupted:
        return set(), set()
    gone -= moved
    if not allow_missing:
        for ground in grounds:
            problem = _doubt(ground, run, gone, moved)
            if problem is not None:
                run.report.left_alone.append(problem)
                gone = {path for path in gone if not ground.covers(path)}
    return gone, moved


def excluded(unseen: Set[bytes], given: Sequence[Root]) -> set[bytes]:
    """Return those of `unseen` that are there, and that every root at or above them excludes."""
    tests = {root.path: Exclusions(root.exclude) for root in given}
    chosen = set()
    for path in unseen:
        above = [root for root in tests if is_below(path, root)]
        if above and all(is_excluded_below(root, tests[root], path) for root in above) and not is_missing(path):
            chosen.add(path)
    return chosen


def _new_name(run: Run, root: bytes) -> bytes | None:
    """Return where a folder lies now that is not there, if it or a folder above it was renamed; None if not.

    It is known by its files: size, time and inode. Those of a disk that is not mounted are nowhere; a copy on another
    disk has other inodes.
    """
    with run.writer.catalog.transaction() as connection:
        files = sample_below(connection, root, SAMPLE)
    return next((place for place in _namesakes(root) if files and _are_there(files, root, place)), None)


def _namesakes(path: bytes) -> Iterator[bytes]:
    """Yield the folders that may be `path` under another name of the first folder on its way that is not there."""
    parent, rest = path, b""
    while is_missing(parent):
        parent, name = os.path.split(parent)
        rest = os.path.join(name, rest) if rest else name
    tail = rest.partition(b"/")[2]
    try:
        names = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    yield from (os.path.join(parent, name, tail).rstrip(b"/") for name in names if not name.startswith(b"."))


def _are_there(files: Sequence[Location], root: bytes, place: bytes) -> bool:
    """Return whether enough of the files below `root` lie below `place` as they were."""
    same = 0
    for file in files:
        try:
            found = os.lstat(place + file.path[len(root.rstrip(b"/")) :])
        except OSError:
            continue
        same += (found.st_size, found.st_mtime_ns, found.st_ino) == (file.size_bytes, file.mtime_ns, file.inode)
    return same >= SAMPLE_SHARE * len(files)


def _grounds(unseen: Set[bytes], given: Sequence[Root]) -> list[_Ground]:
    grounds: dict[tuple[bytes, bool], _Ground] = {}
    for root in given:
        is_file = root.path in unseen or os.path.isfile(root.path)
        key = (os.path.dirname(root.path) if is_file else root.path, not is_file)
        ground = grounds.setdefault(key, _Ground(*key))
        if is_file:
            ground.files.add(root.path)
    return list(grounds.values())


def _moved(run: Run, gone: set[bytes]) -> set[bytes]:
    """Return those of `gone` whose content was found elsewhere. Only files of the same size are read for that."""
    by_size: dict[int, list[bytes]] = {}
    for path in gone:
        known = run.known.get(path)
        by_size.setdefault(known.size_bytes if known else 0, []).append(path)
    moved: set[bytes] = set()
    first: list[Found] = []
    by_print: dict[int, dict[str | None, bytes]] = {}
    for found in run.todo:
        if run.has_stopped():
            break
        size_bytes = found.location.size_bytes
        if size_bytes not in by_print:  # once for all files of a size, of which there may be many
            paths = by_size.get(size_bytes, [])
            by_print[size_bytes] = {run.writer.catalog.fingerprint_at(path): path for path in paths}
        places = by_print[size_bytes]
        place = places.get(_fingerprint(found.location.path)) if places else None
        if place is not None and place not in moved:
            moved.add(place)
            first.append(found)
    chosen = set(map(id, first))
    run.todo = deque([*first, *(found for found in run.todo if id(found) not in chosen)])
    return moved


def _fingerprint(path: bytes) -> str:
    """Return a file's fingerprint, "" where it cannot be read: the run comes to it once more, and says why."""
    try:
        with one_file(path, "open"):
            return fingerprint(path)
    except VideoError:
        return ""


def _doubt(ground: _Ground, run: Run, gone: set[bytes], moved: set[bytes]) -> Problem | None:
    """Return why nothing of a root is believed to be gone, None where it is.

    A missing root of which all files lie elsewhere now, or are known to be gone, is no trouble: it has nothing to lose.
    """
    known = [path for path in run.known if ground.covers(path)]
    if ground.is_folder and is_missing(ground.path):
        if moved.issuperset(known):
            return None
        place = _new_name(run, ground.path)
        step = _NEXT_ROOT.format(shlex.quote(os.fsdecode(ground.path)))
        if place is not None:
            step = f"it seems to be {os.fsdecode(place)} now; run: vfindex ingest {shlex.quote(os.fsdecode(place))}"
        return Problem(ground.path, "discover", "missing", "it is not there, so nothing of it was changed", step)
    lost = sum(ground.covers(path) for path in gone)
    if lost <= BELIEVED_SHARE * len(known):
        return None
    words = f"{lost} of its {counted(len(known), 'video')} went at once, so nothing of it was changed"
    return Problem(ground.path, "discover", "lost_too_much", words, _NEXT)
