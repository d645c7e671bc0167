"""Full disks: a sentence, exit 1, committed units stay, and the next run continues."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Ran, vfindex
from media import Shot, make_video

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.storage.errors import LibraryError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.writer import writing

# The query encoders, which are larger, are elsewhere. All but FREE_KB is used.
DISK_KB, FREE_KB = 8192, 64
LONGER_S = 20.0


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Return a folder of one short video."""
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "one.mp4", shots=[Shot("red", 1)])
    return tmp_path / "videos"


def add_videos(videos: Path, count: int, length_s: float = 4.0) -> None:
    for number in range(count):
        make_video(videos / f"{number}.mp4", shots=[Shot("red", length_s + number), Shot("blue", 2)])


def limited(most_bytes: int, cache: Path, *arguments: object, when: str = "") -> Ran:
    """Run `vfindex ARGUMENTS` with a limit on file size, as on a full disk.

    when: the method of Writer whose first call starts the limit; None: from the beginning.
    """
    begin = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))"
    later = (
        f"from vfindex.storage.writer import Writer; inner = Writer.{when}\n"
        f"def limited(*rest): {begin}; return inner(*rest)\n"
        f"Writer.{when} = limited\n"
    )
    code = f"import resource\n{later if when else begin}\nfrom vfindex.cli.app import main; main()"
    # Python would keep truncated bytecode of its modules.
    environment = os.environ | {"VFINDEX_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=230)
    return Ran(done.returncode, done.stdout, done.stderr)


def assert_nothing_is_lost(ran: Ran, library: Path, videos: Path, cache: Path) -> None:
    """Fail unless the command printed one sentence, the library verifies, and the same command completes the work."""
    assert ran.is_sentence() and "could not be written" in ran.err, ran
    assert verify(Library.open(library)).problems == []
    assert vfindex(cache, "search", "red", "--library", library).out.count("\n") >= 1
    again = vfindex(cache, "ingest", videos, "--library", library, "--json")
    report = again.document()
    assert (again.code, report["found"], report["failed"]) == (0, len(list(videos.iterdir())), [])
    assert report["unchanged"] >= 1
    result = verify(Library.open(library))
    assert (result.problems, result.notes) == ([], [])


def test_a_full_disk_while_units_are_committed(tmp_path: Path, videos: Path, models_cache: Path) -> None:
    library = tmp_path / "library"
    ingest(library, [os.fsencode(videos)], RunSettings(cache=models_cache, workers=1, asr=False, ocr=False))
    add_videos(videos, count=2)
    ran = limited(1 << 12, models_cache, "ingest", videos, "--library", library)
    assert_nothing_is_lost(ran, library, videos, models_cache)


def test_a_full_disk_for_the_joint_index(tmp_path: Path, videos: Path, models_cache: Path) -> None:
    """All units are committed, each within the log's old length; only the new index exceeds the limit."""
    library = tmp_path / "library"
    ingest(library, [os.fsencode(videos)], RunSettings(cache=models_cache, workers=1, asr=False, ocr=False))
    [index] = (library / "index").iterdir()
    add_videos(videos, count=1, length_s=LONGER_S)
    ingest_all = ("ingest", videos, "--library", library, "--no-asr", "--no-ocr")
    with Library.open(library).snapshot() as snapshot:
        before = snapshot.generation()
    ran = limited(index.stat().st_size, models_cache, *ingest_all, when="publish")
    with Library.open(library).snapshot() as snapshot:
        assert snapshot.counts()["indexed"] == 2, "what was committed stays"
        after = snapshot.generation()
    assert before is not None and after is not None and after.id == before.id, "the old one stays"
    assert [path.name for path in (library / "index").iterdir()] == [index.name]
    assert_nothing_is_lost(ran, library, videos, models_cache)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a disk of DISK_KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "vfindex-test", os.fspath(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no disk may be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", os.fspath(folder)], check=True)


def test_a_disk_that_is_full_at_a_commit_is_named(small_disk: Path) -> None:
    """Not the folder for temporary files, which is elsewhere."""
    room = shutil.disk_usage(small_disk).free - 50_000
    (small_disk / "fill").write_bytes(bytes(room))
    library = small_disk / "library"
    with (
        pytest.raises(LibraryError, match=rf"could not be written \(.*full\); free some space in {library}, which has"),
        writing(library),
    ):
        pass


def test_a_disk_that_fills_up(tmp_path: Path, small_disk: Path, videos: Path, models_cache: Path) -> None:
    """The query encoders are elsewhere, to keep the disk small; with more room the same command completes."""
    library = tmp_path / "library"
    ingest(library, [os.fsencode(videos)], RunSettings(cache=models_cache, workers=1, asr=False, ocr=False))
    query = (library / "query").rename(tmp_path / "query")
    moved = small_disk / "library"
    subprocess.run(["cp", "-a", os.fspath(library), os.fspath(moved)], check=True)
    (moved / "query").symlink_to(query)
    add_videos(videos, count=2)
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    os.truncate(filler, max(0, filler.stat().st_size - (FREE_KB << 10)))
    ran = vfindex(models_cache, "ingest", videos, "--library", moved, "--no-asr", "--no-ocr")
    filler.unlink()
    assert_nothing_is_lost(ran, moved, videos, models_cache)
