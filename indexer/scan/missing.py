"""Missing files of a library: moved, deleted, or on a disk that is not mounted."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from vfindex.indexer.boundary import one_file
from vfindex.indexer.scan.walk import ASK_EVERY, Exclusions, Found, fingerprint, is_excluded_below
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.locations import is_below, sample_below
from vfindex.storage.db.sources import Root, ScanCache
from vfindex.storage.errors import Problem, VideoError, counted
from vfindex.storage.records import Location

SAMPLE = 20  # evenly spread files by which a renamed folder is recognised
SAMPLE_SHARE = 0.5  # of them that must match
MAX_LOST_SHARE = 0.2  # if a root loses more of its videos at once, its disk is probably not mounted
_NEXT = "mount its disk; or, if they were deleted, run: vfindex reindex --allow-missing"
_NEXT_ROOT = (
    "mount its disk; if it was renamed, run: vfindex ingest NEWNAME; "
    "if it was deleted, run: vfindex reindex --allow-missing, or vfindex remove {}"
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The scan cache of the library. unseen: paths in `known` that the walk did not find."""

    catalog: Catalog
    known: ScanCache
    unseen: Set[bytes]


@dataclass(frozen=True, slots=True)
class Missing:
    """Which recorded files are missing.

    gone: deleted. moved: old path -> new file with the same content. left_alone: why missing files of a root are not
    counted as deleted.
    """

    gone: set[bytes] = field(default_factory=set)
    moved: dict[bytes, Found] = field(default_factory=dict)
    left_alone: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class _RootGroup:
    """A folder, or all single files named in one folder. Its missing files are all accepted as deleted, or none is."""

    path: bytes
    is_folder: bool
    files: set[bytes] = field(default_factory=set)

    def covers(self, path: bytes) -> bool:
        return path.startswith(self.path.rstrip(b"/") + b"/") if self.is_folder else path in self.files


def is_missing(path: bytes) -> bool:
    """Return whether `path` certainly does not exist; False if its disk does not answer."""
    try:
        os.lstat(path)
    except OSError as exc:
        return exc.errno in (errno.ENOENT, errno.ENOTDIR)
    return False


def find_missing(
    recorded: Recorded,
    new: Sequence[Found],
    roots: Sequence[Root],
    *,
    allow_missing: bool,
    stop: Callable[[], bool],
) -> Missing:
    """Return which unseen files below `roots` were deleted, and which were moved to one of the `new` files.

    A root that is missing, or has lost too much at once, is left alone unless allow_missing; a file below several roots
    counts as deleted only if none of them is left alone. Once `stop` returns True, nothing counts as deleted.
    """
    groups = _grouped(recorded.unseen, roots)
    gone = set()
    for number, path in enumerate(recorded.unseen):
        if number % ASK_EVERY == 0 and stop():
            break
        if any(group.covers(path) for group in groups) and is_missing(path):
            gone.add(path)
    moved = _moved(recorded, gone, new, stop)
    if stop():
        return Missing()
    gone -= moved.keys()
    left_alone = []
    for group in () if allow_missing else groups:
        problem = _doubt(recorded, group, gone, moved.keys())
        if problem is not None:
            left_alone.append(problem)
            gone = {path for path in gone if not group.covers(path)}
    return Missing(gone, moved, left_alone)


def excluded(unseen: Set[bytes], roots: Sequence[Root]) -> set[bytes]:
    """Return the unseen files that still exist and are excluded by every root at or above them."""
    tests = {root.path: Exclusions(root.exclude) for root in roots}
    chosen = set()
    for path in unseen:
        above = [root for root in tests if is_below(path, root)]
        if above and all(is_excluded_below(root, tests[root], path) for root in above) and not is_missing(path):
            chosen.add(path)
    return chosen


def _grouped(unseen: Set[bytes], roots: Sequence[Root]) -> list[_RootGroup]:
    groups: dict[tuple[bytes, bool], _RootGroup] = {}
    for root in roots:
        is_file = root.path in unseen or os.path.isfile(root.path)
        key = (os.path.dirname(root.path) if is_file else root.path, not is_file)
        group = groups.setdefault(key, _RootGroup(*key))
        if is_file:
            group.files.add(root.path)
    return list(groups.values())


def _moved(recorded: Recorded, gone: Set[bytes], new: Iterable[Found], stop: Callable[[], bool]) -> dict[bytes, Found]:
    """Return old path -> new file with the same content. Reads only files of equal size."""
    by_size: dict[int, list[bytes]] = {}
    for path in gone:
        known = recorded.known.get(path)
        by_size.setdefault(known.size_bytes if known else 0, []).append(path)
    moved: dict[bytes, Found] = {}
    by_print: dict[int, dict[str | None, bytes]] = {}
    for found in new:
        if stop():
            break
        size_bytes = found.location.size_bytes
        if size_bytes not in by_print:  # once for all files of a size: there may be many
            paths = by_size.get(size_bytes, [])
            by_print[size_bytes] = {recorded.catalog.fingerprint_at(path): path for path in paths}
        old_paths = by_print[size_bytes]
        old_path = old_paths.get(_fingerprint(found.location.path)) if old_paths else None
        if old_path is not None:
            moved.setdefault(old_path, found)
    return moved


def _fingerprint(path: bytes) -> str:
    """Return a file's fingerprint, "" if it cannot be read: the run opens it later and reports why."""
    try:
        with one_file(path, "open"):
            return fingerprint(path)
    except VideoError:
        return ""


def _doubt(recorded: Recorded, group: _RootGroup, gone: Set[bytes], moved: Set[bytes]) -> Problem | None:
    """Return why the missing files of a group are not accepted as deleted; None if they are.

    A missing root is no problem if all its files were moved or are already recorded as missing.
    """
    known = [path for path in recorded.known if group.covers(path)]
    if group.is_folder and is_missing(group.path):
        if moved >= set(known):
            return None
        new_path = _renamed(recorded, group.path)
        step = _NEXT_ROOT.format(shlex.quote(os.fsdecode(group.path)))
        if new_path is not None:
            step = (
                f"it seems to be {os.fsdecode(new_path)} now; run: vfindex ingest {shlex.quote(os.fsdecode(new_path))}"
            )
        words = "the folder is missing, so its videos were left as they are"
        return Problem(group.path, "discover", "missing", words, step)
    lost = sum(group.covers(path) for path in gone)
    if lost <= MAX_LOST_SHARE * len(known):
        return None
    words = f"{lost} of its {counted(len(known), 'video')} disappeared at once, so none was marked as missing"
    return Problem(group.path, "discover", "lost_too_much", words, _NEXT)


def _renamed(recorded: Recorded, root: bytes) -> bytes | None:
    """Return the new path of a missing folder if it or a parent was renamed, else None.

    Recognised by size, time and inode of its files: a copy on another disk has other inodes.
    """
    with recorded.catalog.transaction() as connection:
        files = sample_below(connection, root, SAMPLE)
    return next((folder for folder in _namesakes(root) if files and _holds(folder, files, root)), None)


def _namesakes(path: bytes) -> Iterator[bytes]:
    """Yield `path` with its first missing folder replaced by each of that folder's siblings."""
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


def _holds(folder: bytes, files: Sequence[Location], root: bytes) -> bool:
    """Return whether `folder` contains SAMPLE_SHARE of the files recorded below `root`, unchanged."""
    same = 0
    for file in files:
        try:
            found = os.lstat(folder + file.path[len(root.rstrip(b"/")) :])
        except OSError:
            continue
        same += (found.st_size, found.st_mtime_ns, found.st_ino) == (file.size_bytes, file.mtime_ns, file.inode)
    return same >= SAMPLE_SHARE * len(files)
