"""A reader kept open on a machine or by a user that may not write: it follows runs, and leaves no trace.

The reader is a process of user `nobody` where these tests run as root; else of the same user, the modes in its way.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from media import Shot, make_video

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.reindex import reindex
from vfindex.search.engine import SearchEngine

QUESTION = "the hall of the museum"
READER = """
import json, os, sys
from pathlib import Path
from vfindex.search.engine import SearchEngine
from vfindex.storage.errors import VfindexError
from vfindex.storage.files import file_systems

folder, spare, user, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
SearchEngine.open(spare).search("warm up")  # what is imported late, another user may not find
if kind:
    file_systems.file_system = lambda _: kind
if user == "nobody":
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
engine = SearchEngine.open(folder)
for line in sys.stdin:
    try:
        answer = [[os.fsdecode(hit.video), hit.start_s, hit.score] for hit in engine.search(line.strip(), top_k=20)]
    except VfindexError as exc:
        answer = f"{type(exc).__name__}: {exc}"
    print(json.dumps(answer), flush=True)
"""
Answer = list[tuple[str, float, float]] | str


class Reader:
    """A process that keeps a SearchEngine open."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def search(self, question: str = QUESTION) -> Answer:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer if isinstance(answer, str) else rounded(answer)


def rounded(hits: Sequence[Sequence[object]]) -> list[tuple[str, float, float]]:
    return sorted((str(video), float(str(start)), round(float(str(score)), 5)) for video, start, score in hits)


@contextmanager
def reader(
    folder: Path, spare: Path, *, before: Sequence[str] = (), user: str = "", kind: str = ""
) -> Iterator[Reader]:
    """Start a reader. before: a command that runs it. user: `nobody`, if root may become that. kind: file system."""
    command = [*before, sys.executable, "-c", READER, str(folder), str(spare), user, kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield Reader(process)
        assert process.stdin is not None
        process.stdin.close()


def fresh(folder: Path) -> Answer:
    """Return what an engine opened now finds."""
    engine = SearchEngine.open(folder)
    return rounded([(os.fsdecode(hit.video), hit.start_s, hit.score) for hit in engine.search(QUESTION, top_k=20)])


def listing(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return inode, size, mode and times of everything in a library."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        stat = path.lstat()
        found[str(path)] = (stat.st_ino, stat.st_size, stat.st_mode, stat.st_mtime_ns, stat.st_ctime_ns)
    return found


def make(folder: Path, name: str, colour: str) -> None:
    path = make_video(folder / f"{name}.mp4", shots=[Shot(colour, 2)], fps=10)
    path.with_suffix(".srt").write_text(f"1\n00:00:00,100 --> 00:00:01,500\nThis is the {name} of our museum.\n")


@pytest.fixture(scope="module")
def made(models_cache: Path) -> Iterator[Path]:
    """Return a folder that every user may enter: `videos`, and the library of them."""
    base = Path(tempfile.mkdtemp())
    (base / "videos").mkdir()
    for name, colour in (("red door", "red"), ("blue hall", "blue"), ("green hill", "green")):
        make(base / "videos", name, colour)
    ingest(base / "library", [os.fsencode(base / "videos")], settings(models_cache))
    for path in (base, *base.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield base
    shutil.rmtree(base)


@pytest.fixture
def home(made: Path) -> Iterator[Path]:
    """Return a copy of `made` at a path of its own, and the path that the library names its videos by."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    shutil.copytree(made / "library", base / "library")
    shutil.copytree(made / "library", base / "spare")
    kept = {path: path.read_bytes() for path in (made / "videos").iterdir()}
    yield base
    for path in (made / "videos").iterdir():
        path.unlink()
    for path, data in kept.items():
        path.write_bytes(data)
    for path in (base, *base.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(base)


def settings(cache: Path) -> RunSettings:
    return RunSettings(cache=cache, workers=2, asr=False, allow_missing=True)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Let this user write, who may not be root, and nobody else afterwards."""
    folder.chmod(0o755)
    yield
    folder.chmod(0o555)


NIGHTS = (
    {"new": ("grey hall", "grey"), "changed": ("red door", "yellow"), "removed": "green hill"},
    {"new": ("green hill", "green"), "changed": ("blue hall", "white"), "removed": "grey hall"},
)


def follow_two_nights(other: Reader, home: Path, videos: Path, cache: Path) -> None:
    """Change videos and reindex twice; the open reader finds what a fresh one finds, and leaves no trace."""
    folder = home / "library"
    seen = [other.search()]
    for night in NIGHTS:
        make(videos, *night["new"])
        make(videos, *night["changed"])
        for suffix in (".mp4", ".srt"):
            (videos / f"{night['removed']}{suffix}").unlink()
        with writable(folder):
            reindex(folder, settings(cache))
        before = listing(folder)
        found = other.search()
        assert listing(folder) == before
        assert found == fresh(folder)
        assert found not in seen
        names = {Path(video).stem for video, _, _ in found}
        assert night["new"][0] in names and night["removed"] not in names
        seen.append(found)


def mounted_read_only(folder: Path, mount: Path) -> list[str]:
    """Return a command that runs another with `folder` mounted read-only at `mount`; skip if this user may not."""
    mount.mkdir()
    script = f"mount --bind '{folder}' '{mount}' && mount -o remount,ro,bind '{mount}' && exec \"$@\""
    before = ["unshare", "-m", "sh", "-c", script, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*before, "true"], check=False).returncode:
        pytest.skip("this user may not make a mount of its own")
    return before


USER = "nobody" if os.geteuid() == 0 else ""


@pytest.mark.parametrize("kind", ["", "nfs4"])
def test_another_user_follows_two_nights(home: Path, made: Path, models_cache: Path, kind: str) -> None:
    """kind: of the file system; on one of a network no lock and no mapped page is relied on."""
    (home / "library").chmod(0o555)
    with reader(home / "library", home / "spare", user=USER, kind=kind) as other:
        follow_two_nights(other, home, made / "videos", models_cache)


@pytest.mark.parametrize("kind", ["", "nfs4"])
def test_a_read_only_mount_follows_two_nights(home: Path, made: Path, models_cache: Path, kind: str) -> None:
    before = mounted_read_only(home / "library", home / "mount")
    with reader(home / "mount", home / "spare", before=before, kind=kind) as other:
        follow_two_nights(other, home, made / "videos", models_cache)


def test_a_network_reader_may_write_and_does_not(home: Path) -> None:
    """SQLite would create shared memory there, which the writer on the server does not see."""
    with reader(home / "library", home / "spare", kind="cifs") as other:
        before = listing(home / "library")
        assert other.search() == fresh(home / "spare")
        assert listing(home / "library") == before


def test_a_renamed_library_is_a_sentence_and_followed_when_it_returns(home: Path) -> None:
    folder = home / "library"
    with reader(folder, home / "spare", user=USER) as other:
        found = other.search()
        folder.rename(home / "elsewhere")
        answer = other.search()
        assert answer == (
            f"LibraryNotFound: there is no library in {folder} any more; if it was moved, open it where it is now"
        )
        (home / "elsewhere").rename(folder)
        assert other.search() == found
