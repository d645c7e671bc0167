"""Directory walk: videos, near misses and unreadable paths below the named ones. Also the fingerprint of a file."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from vfindex.indexer.boundary import lacks_resources, not_regular, os_problem
from vfindex.indexer.scan.sidecars import (
    FolderSidecars,
    list_sidecars,
    sidecar_suffix,
    signature,
    subtitle_folder_files,
)
from vfindex.indexer.scan.system_folders import APPLE_DOUBLE, system_kind
from vfindex.storage.db.sources import exclusion_key
from vfindex.storage.errors import Problem, VideoError
from vfindex.storage.files.names import composed, glob_pattern
from vfindex.storage.files.permissions import FOLDERS
from vfindex.storage.files.regular import kind_of, regular_no_link
from vfindex.storage.records import FileState, Location

logger = logging.getLogger(__name__)

# Deliberately broad: the decoder decides, and a silently skipped video is worse than a reported refusal.
# Not .dat and .mod (Video CDs, some camcorders): nearly every file of these names is something else.
VIDEO_EXTENSIONS = frozenset(
    b"3g2 3gp 3gp2 3gpp 264 265 amv asf av1 avc avi divx dv evo f4v flv gif gxf h261 h263 h264 h265 hevc ivf "
    b"m1v m2t m2ts m2v m4v mjpeg mjpg mk3d mkv mov mp4 mp4v mpe mpeg mpg mpv mts mxf nsv nut obu ogm ogv ogx qt rm "
    b"rmvb tod tp trp ts tts vc1 vob vro webm wm wmv wtv xvid y4m".split()
)
_VIDEO_SUFFIXES = frozenset(b"." + extension for extension in VIDEO_EXTENSIONS)

_PICTURES = (
    b"apng arw avif bmp cr2 cr3 dng emf eps exr heic heif ico j2k jfif jp2 jpe jpeg jpg jxl nef orf pbm pgm png pnm "
    b"ppm psd raf raw rw2 svg tga tif tiff webp xcf"
)
_SOUNDS = (
    b"aac ac3 aif aifc aiff amr ape au caf dsf dts eac3 flac m4a m4b m4p mid midi mka mp1 mp2 mp3 mpc mpga oga ogg "
    b"opus ra snd spx tta voc w64 wav wma wv"
)
_PLAYLISTS = b"asx concat cue f4m ffcat ffconcat ism ismc m3u m3u8 mpd pls ram sdp smil strm wpl wvx xspf"
_NEAR_MISS_CODE = {
    extension: code
    for code, extensions in (("picture", _PICTURES), ("sound", _SOUNDS), ("playlist", _PLAYLISTS), ("flash", b"swf"))
    for extension in extensions.split()
}
_NEAR_MISS_WORDS = {
    "picture": ("a still picture", "nothing to do: only videos are indexed"),
    "sound": ("an audio file", "nothing to do: only videos are indexed"),
    "playlist": ("a playlist: it only names other files, and these are not opened", "index the files that it names"),
    "flash": ("a Flash programme, not a video", "convert it to .mp4"),
    "no_extension": ("the name has no extension", "name the file itself on the command line, or rename it"),
}

# Parts of a library of vfindex without videos. It shows by `lock` with `library.db` or `current`.
_FILES_OF_LIBRARY = {b"lock", b"current"}
_FOLDERS_OF_LIBRARY = {*map(os.fsencode, FOLDERS), b"questions", b"editions"}

FINGERPRINT_VERSION = "a"  # changes with the hashed data, so old and new fingerprints never compare equal
FINGERPRINT_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A file to be indexed.

    named: given on the command line, so a refusal is a failure whatever the extension.
    sidecar_candidates: its sidecars as `FolderSidecars` finds them, as paths relative to its folder.
    """

    location: Location
    named: bool
    sidecar_candidates: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A media file, or possible media file, that is not a video.

    system: the kind of system folder or file that was not entered ("recycle bin"), "" for any other file.
    """

    problem: Problem
    system: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A named path or a video that cannot be read."""

    problem: Problem


T = TypeVar("T")
Discovered = Found | Skipped | Failed
# Files between two calls of `stop`: some milliseconds of a local disk, and half a second
# of a network disk that takes 2 ms a file.
ASK_EVERY = 256
# Returns the videos of a folder to yield. Called per folder: per file it would take a third of the time.
Sift = Callable[[Collection[FileState]], Collection[FileState]]


@dataclass
class _Walk:
    """The state of one `discover` call: folders entered, files given by name, folders never entered."""

    is_excluded: Exclusions | None
    avoid: frozenset[bytes]
    removed: frozenset[bytes]
    sift: Sift
    stop: Callable[[], bool]
    ticks: int = 0
    named_files: set[bytes] = field(default_factory=set)
    entered: set[bytes] = field(default_factory=set)
    siblings: dict[bytes, FolderSidecars] = field(default_factory=dict)
    links: int = 0

    def until_stopped(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items, one per file, until it is time to stop."""
        for item in items:
            if self.is_stopped():
                return
            yield item

    def is_stopped(self) -> bool:
        """Return whether it is time to stop. Calls `stop` once in ASK_EVERY files and folders."""
        self.ticks += 1
        return self.ticks % ASK_EVERY == 0 and self.stop()


def discover(
    paths: Sequence[bytes],
    *,
    exclude: Sequence[str] | Exclusions = (),
    avoid: Sequence[bytes] = (),
    removed: Collection[bytes] = (),
    sift: Sift = lambda states: states,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Discovered]:
    """Yield every video below `paths`, every near miss (`Skipped`) and every unreadable path (`Failed`).

    A named file is `Found` whatever its extension; a named link is resolved. Inside folders, symbolic links and hidden
    names are ignored; near misses are images, audio, playlists, Flash and names without extension; system
    folders (recycle bins, previews and snapshots of network disks) and the parts of any library of vfindex are not
    entered; anything else yields nothing.
    Order: as named; in a folder first its files, then its folders, each sorted by bytes. Every file is yielded once,
    even if the named paths overlap. All paths are absolute bytes and need not be UTF-8.

    exclude: globs where `*` matches any characters, `/` too, `?` one and `[ab]` a choice or these literal brackets;
    case-sensitive, accents match however composed. A file or folder is excluded if a glob matches its base name or its
    path relative to the named folder; a glob ending in `/` matches folders only. Of a named file only the base name is
    tried; a named folder is always entered.
    avoid: folders that are never entered (the library itself). removed: files and folders, as `exclusion_key` has them,
    that count only if they are named. sift: filters the videos to yield. stop: called at
    every ASK_EVERY-th file or folder; True ends the walk.
    """
    exclusions = exclude if isinstance(exclude, Exclusions) else Exclusions(exclude)
    avoided = frozenset(os.path.realpath(path) for path in avoid)
    walk = _Walk(exclusions or None, avoided, frozenset(removed), sift, stop)
    roots = [_resolve(path) for path in walk.until_stopped(paths)]
    walk.named_files.update(root for root in roots if isinstance(root, bytes) and not os.path.isdir(root))
    seen: set[bytes] = set()
    for root in roots:
        path = root if isinstance(root, bytes) else root.problem.path
        if path in seen:
            continue
        seen.add(path)
        if isinstance(root, Failed):
            yield root
        elif _is_avoided(root, walk.avoid):
            yield _failed(root, "library", "it is inside the library", "name the folder of your videos")
        elif root in walk.named_files:
            name = os.path.basename(root)
            if walk.is_excluded is None or not walk.is_excluded(name, name, False):
                yield _named_file(root, walk)
        else:
            yield from _folder(root, walk)
    if walk.links:
        logger.info("symbolic links not followed: %d; name them on the command line to index them", walk.links)


def is_excluded_below(root: bytes, exclude: Exclusions, path: bytes) -> bool:
    """Return whether `discover` leaves out a file at or below a named path."""
    name = os.path.basename(path)
    if path == root:
        return exclude(name, name, False)
    parts = path[len(root.rstrip(b"/")) + 1 :].split(b"/")
    if any(map(system_kind, parts[:-1])) or system_kind(name) == APPLE_DOUBLE:
        return True
    heads = (b"/".join(parts[: end + 1]) for end in range(len(parts)))
    return any(exclude(parts[i], head, i < len(parts) - 1) for i, head in enumerate(heads))


def fingerprint(path: bytes) -> str:
    """Return the content identity of a regular file: a version letter and 64 hex digits.

    SHA-256 over the size and the whole file up to 3 MiB, else over the size and the first, middle and last MiB: copies
    have equal fingerprints, and a file of any size costs three reads.
    Raises VideoError (missing, unreadable, not_regular, changing) at stage `open`; links are not followed.
    """
    try:
        with open(path, "rb", buffering=0, opener=regular_no_link) as file:
            before = os.fstat(file.fileno())
            digest = hashlib.sha256(b"%d:" % before.st_size)
            for start, length in _hashed_ranges(before.st_size):
                digest.update(_read_range(file.fileno(), start, length))
            after = os.fstat(file.fileno())
    except OSError as exc:
        raise VideoError(os_problem(path, "open", exc)) from exc
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        words = ("the file is still being written", "index it again when it is complete")
        raise VideoError(Problem(path, "open", "changing", *words))
    return FINGERPRINT_VERSION + digest.hexdigest()


def _resolve(path: bytes) -> bytes | Failed:
    """Return the file or folder that a named path leads to, or why there is none."""
    resolved = os.path.realpath(path)
    try:
        mode = os.stat(resolved).st_mode
    except OSError as exc:
        return Failed(os_problem(os.path.abspath(path), "discover", exc))
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return Failed(not_regular(resolved, "discover", kind_of(mode)))
    if not os.access(resolved, os.R_OK):
        return Failed(os_problem(resolved, "discover", PermissionError(errno.EACCES, os.strerror(errno.EACCES))))
    return resolved


def _is_avoided(path: bytes, avoid: frozenset[bytes]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip(b"/") + b"/") for folder in avoid)


def _named_file(path: bytes, walk: _Walk) -> Discovered:
    folder, name = os.path.split(path)
    try:
        found = os.stat(path, follow_symlinks=False)
        if folder not in walk.siblings or not is_video_name(
            name
        ):  # once per folder: a shell's glob may name every file in it
            walk.siblings[folder] = list_sidecars(folder, is_video_name, name)
    except PermissionError:
        walk.siblings[folder] = FolderSidecars((), ())  # a folder may be searchable but not readable
    except OSError as exc:
        return Failed(os_problem(path, "discover", exc))
    own = walk.siblings[folder].of(name)
    return Found(_location(path, found, own), True, own)


def _folder(root: bytes, walk: _Walk) -> Iterator[Discovered]:
    """Yield the files below one named folder; iterative, because a tree may be deeper than Python's stack."""
    pending = [root]
    prefix = len(root.rstrip(b"/")) + 1
    is_excluded = walk.is_excluded
    while pending and not walk.is_stopped():
        folder = pending.pop()
        if folder in walk.entered or folder in walk.avoid:
            continue
        walk.entered.add(folder)
        files: dict[bytes, os.DirEntry[bytes]] = {}
        folders: list[bytes] = []
        system: list[Skipped] = []
        try:
            with os.scandir(folder) as entries:
                for entry in walk.until_stopped(entries):
                    name = entry.name
                    if name[0] == 46:  # a dot: hidden
                        system += filter(None, [_system_item(entry)])
                        continue
                    is_file = entry.is_file(follow_symlinks=False)
                    is_folder = not is_file and entry.is_dir(follow_symlinks=False)
                    if is_folder and (item := _system_item(entry)):
                        system.append(item)
                        continue
                    if is_excluded is not None and is_excluded(name, entry.path[prefix:], is_folder):
                        continue
                    if is_folder:
                        folders.append(entry.path)
                    elif is_file or not entry.is_symlink():
                        files[name] = entry
                    else:
                        walk.links += 1
        except OSError as exc:
            yield Failed(os_problem(folder, "discover", exc))
        folders, files = _wanted(folders, files, walk.removed)
        yield from sorted(system, key=lambda item: item.problem.path)
        pending.extend(sorted(folders, reverse=True))
        yield from _files(files, subtitle_folder_files(folder, map(os.path.basename, folders)), walk)


def _wanted(
    folders: list[bytes], files: dict[bytes, os.DirEntry[bytes]], removed: frozenset[bytes]
) -> tuple[list[bytes], dict[bytes, os.DirEntry[bytes]]]:
    """Return the folders and files of one folder without parts of a library, and what a user has removed from this."""
    if b"lock" in files and not files.keys().isdisjoint((b"library.db", b"current")):
        folders = [path for path in folders if os.path.basename(path) not in _FOLDERS_OF_LIBRARY]
        files = {name: entry for name, entry in files.items() if name not in _FILES_OF_LIBRARY}
    if removed:
        folders = [path for path in folders if exclusion_key(path) not in removed]
        files = {name: entry for name, entry in files.items() if exclusion_key(entry.path) not in removed}
    return folders, files


def _system_item(entry: os.DirEntry[bytes]) -> Skipped | None:
    """Return a system folder, or a system file with a video's extension, as `Skipped`; else None."""
    kind = system_kind(entry.name)
    is_meant = is_video_name(entry.name) if kind == APPLE_DOUBLE else kind and entry.is_dir(follow_symlinks=False)
    words = (f"it is a {kind}", "name it on the command line if you want what it holds")
    return Skipped(Problem(entry.path, "discover", "system", *words), kind) if is_meant else None


def is_video_name(name: bytes) -> bool:
    """Return whether a file name has an extension of videos."""
    return _extension(name) in VIDEO_EXTENSIONS


def sidecars_of(path: bytes) -> tuple[bytes, ...]:
    """Return the sidecars of the video at `path`, as paths relative to its folder; none if that cannot be listed.

    Raises OSError for lack of handles or memory.
    """
    folder, video = os.path.split(path)
    try:
        return list_sidecars(folder, is_video_name, video).of(video)
    except OSError as exc:
        if lacks_resources(exc):
            raise
        return ()


def _files(files: Mapping[bytes, os.DirEntry[bytes]], subtitles: Sequence[bytes], walk: _Walk) -> Iterator[Discovered]:
    """Yield the videos and near misses of one folder, sorted by name. subtitles: files in its subtitle folders."""
    names = sorted(files)
    others = {name: _extension(name) for name in names if name[name.rfind(b".") :] not in _VIDEO_SUFFIXES}
    videos = [name for name in names if name not in others or others[name] in VIDEO_EXTENSIONS]
    yielded: dict[bytes, Discovered] = dict(_near_misses(files, others, walk))
    sidecars = FolderSidecars(videos, [*filter(sidecar_suffix, others), *subtitles])
    states: dict[FileState, os.DirEntry[bytes]] = {}
    named_files, is_regular = walk.named_files, stat.S_ISREG
    for name in walk.until_stopped(videos):
        entry = files[name]
        path = entry.path
        if path in named_files:
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError as exc:
            yielded[name] = Failed(os_problem(path, "discover", exc))
            continue
        if not is_regular(found.st_mode):
            yielded[name] = Failed(not_regular(path, "discover", kind_of(found.st_mode)))
            continue
        beside = signature(path, sidecars.of(name))
        states[path, found.st_size, found.st_mtime_ns, beside] = entry
    for state in walk.sift(states):
        entry = states[state]
        inode = entry.stat(follow_symlinks=False).st_ino  # as it was read above
        yielded[entry.name] = Found(Location(*state[:3], inode, state[3]), False, sidecars.of(entry.name))
    yield from (yielded[name] for name in sorted(yielded))


def _near_misses(
    files: Mapping[bytes, os.DirEntry[bytes]], others: Mapping[bytes, bytes], walk: _Walk
) -> Iterator[tuple[bytes, Skipped]]:
    """Yield name and reason of the near misses. others: name -> extension."""
    for name, extension in others.items():
        code = _NEAR_MISS_CODE.get(extension) if extension else "no_extension"
        entry = files[name]
        if code is not None and entry.path not in walk.named_files and entry.is_file(follow_symlinks=False):
            yield name, Skipped(Problem(entry.path, "discover", code, *_NEAR_MISS_WORDS[code]))


def _extension(name: bytes) -> bytes:
    """Return the part after the last dot in lower case, empty if it contains a space ("Talk. Part 2")."""
    _, dot, extension = name.rpartition(b".")
    return extension.lower() if dot and b" " not in extension else b""


def _location(path: bytes, found: os.stat_result, beside: Sequence[bytes]) -> Location:
    return Location(path, found.st_size, found.st_mtime_ns, found.st_ino, signature(path, beside))


class Exclusions:
    """Tests names against globs; see `discover`. unmatched: globs that have matched nothing yet."""

    def __init__(self, globs: Sequence[str]) -> None:
        self.unmatched = list(dict.fromkeys(glob for glob in globs if glob.strip("/")))
        self._one = {glob: re.compile(rf"{glob_pattern(glob.rstrip('/'))}\Z") for glob in self.unmatched}
        self._any = {is_folder: self._together(is_folder) for is_folder in (False, True)}

    def __bool__(self) -> bool:
        return bool(self._one)

    def __call__(self, name: bytes, relative: bytes, is_folder: bool) -> bool:
        """Return whether a file or folder is excluded by its base name, or by its path relative to the named folder."""
        names = [composed(os.fsdecode(each)) for each in (name, relative)]
        matches = self._any[is_folder].match
        if not any(map(matches, names)):
            return False
        for glob in [glob for glob in self.unmatched if is_folder or not glob.endswith("/")]:
            if any(map(self._one[glob].match, names)):
                self.unmatched.remove(glob)
        return True

    def _together(self, is_folder: bool) -> re.Pattern[str]:
        chosen = [each.pattern for glob, each in self._one.items() if is_folder or not glob.endswith("/")]
        return re.compile("|".join(chosen) or r"(?!)")


def _hashed_ranges(size: int) -> list[tuple[int, int]]:
    block = FINGERPRINT_BLOCK_BYTES
    if size <= 3 * block:
        return [(0, size)]
    return [(0, block), ((size - block) // 2, block), (size - block, block)]


def _read_range(handle: int, start: int, length: int) -> bytes:
    """Return `length` bytes from `start`, fewer if the file was truncated meanwhile."""
    pieces = []
    while length > 0:
        piece = os.pread(handle, length, start)
        if not piece:
            break
        pieces.append(piece)
        start += len(piece)
        length -= len(piece)
    return b"".join(pieces)


def _failed(path: bytes, code: str, reason: str, next_step: str) -> Failed:
    return Failed(Problem(path, "discover", code, reason, next_step))
