"""Directory walk: what counts as a video, what is reported, and odd names and files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.scan.walk import Discovered, Exclusions, Failed, Found, Skipped, discover, fingerprint
from vfindex.storage.errors import VideoError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def walk(*paths: Path, exclude: list[str] | None = None, avoid: list[Path] | None = None) -> list[Discovered]:
    return list(
        discover([os.fsencode(p) for p in paths], exclude=exclude or [], avoid=list(map(os.fsencode, avoid or [])))
    )


def names(found: list[Discovered], root: Path) -> list[str]:
    return [os.fsdecode(os.path.relpath(f.location.path, os.fsencode(root))) for f in found if isinstance(f, Found)]


def problems(found: list[Discovered]) -> dict[str, str]:
    """Base name -> class and code."""
    return {
        os.fsdecode(os.path.basename(f.problem.path)): f"{type(f).__name__} {f.problem.code}"
        for f in found
        if not isinstance(f, Found)
    }


def test_the_parts_of_another_library_are_not_entered(root: Path) -> None:
    put(root, "lib/library.db", "lib/lock", "lib/thumbs/a1/p.webp", "lib/index/1.joint", "lib/editions/1/lock")
    put(
        root, "lib/current", "upgraded/lock", "upgraded/current", "upgraded/editions/1/library.db", "upgraded/query/a/b"
    )
    put(root, "lib/a.mp4", "lib/trip/b.mp4", "lib/lost", "thumbs/p.webp", "no/library.db", "no/thumbs/q.webp")
    found = walk(root)
    assert names(found, root) == ["lib/a.mp4", "lib/trip/b.mp4"]
    assert problems(found) == {
        "lost": "Skipped no_extension",
        "p.webp": "Skipped picture",
        "q.webp": "Skipped picture",
    }


def test_sorts_names_into_videos_near_misses_and_the_rest(root: Path) -> None:
    put(root, "b.MKV", "a.mp4", "g.gif", "sub/c.webm", "p.PNG", "s.wav", "l.m3u8", "f.swf", "plain", "t.srt", "x.py")
    put(root, ".hidden.mp4", ".cache/d.mp4", "Talk. Part 2")
    found = walk(root)
    assert names(found, root) == ["a.mp4", "b.MKV", "g.gif", "sub/c.webm"]
    assert problems(found) == {
        "p.PNG": "Skipped picture",
        "s.wav": "Skipped sound",
        "l.m3u8": "Skipped playlist",
        "f.swf": "Skipped flash",
        "plain": "Skipped no_extension",
        "Talk. Part 2": "Skipped no_extension",
    }
    assert all(
        f.problem.stage == "discover" and f.problem.reason and f.problem.next for f in found if isinstance(f, Skipped)
    )


def test_location_carries_the_stat(root: Path) -> None:
    put(root, "a.mp4")
    (found,) = walk(root)
    assert isinstance(found, Found) and not found.named
    stat = (root / "a.mp4").stat()
    location = found.location
    assert (location.path, location.size_bytes) == (os.fsencode(root / "a.mp4"), 5)
    assert (location.mtime_ns, location.inode) == (stat.st_mtime_ns, stat.st_ino)


def test_named_files_are_found_whatever_their_extension(root: Path) -> None:
    put(root, "p.png", ".hidden.mp4", "plain")
    found = walk(root / "p.png", root / ".hidden.mp4", root / "plain", root)
    assert names(found, root) == ["p.png", ".hidden.mp4", "plain"]
    assert all(isinstance(f, Found) and f.named for f in found)


def test_overlapping_paths_give_each_file_once(root: Path) -> None:
    put(root, "a.mp4", "in/b.mp4", "in/deep/c.mp4", "z.mp4")
    everything = ["a.mp4", "in/b.mp4", "in/deep/c.mp4", "z.mp4"]
    for paths in ([root, root / "in"], [root / "in", root], [root, root], [root / "in/deep/c.mp4", root, root / "in"]):
        found = walk(*paths)
        assert sorted(names(found, root)) == everything
        assert [f.named for f in found if isinstance(f, Found) and f.location.path.endswith(b"c.mp4")] == [
            (root / "in/deep/c.mp4") in paths
        ]


def test_links_are_followed_only_by_name(root: Path, tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/far.mp4")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "far.mp4").symlink_to(tmp_path / "elsewhere/far.mp4")
    (root / "loop").symlink_to(root)
    assert walk(root) == []
    assert names(walk(root / "far.mp4"), tmp_path) == ["elsewhere/far.mp4"]
    assert names(walk(root / "linked"), tmp_path) == ["elsewhere/far.mp4"]


def test_dangling_missing_and_special_paths_fail_by_name(root: Path) -> None:
    (root / "dangling.mp4").symlink_to(root / "nowhere")
    (root / "ring").symlink_to(root / "ring")
    os.mkfifo(root / "fifo.mp4")
    found = walk(root / "dangling.mp4", root / "missing.mp4", root / "fifo.mp4", root / "ring")
    assert problems(found) == {
        "dangling.mp4": "Failed missing",
        "missing.mp4": "Failed missing",
        "fifo.mp4": "Failed not_regular",
        "ring": "Failed not_regular",
    }


@pytest.fixture
def unix_socket(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(root)  # a socket's path is limited to some 100 bytes, a temporary folder's may be longer
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
        yield root / "socket.mp4"


def test_special_files_inside_a_folder_fail_and_the_walk_goes_on(root: Path, unix_socket: Path) -> None:
    os.mkfifo(root / "a_fifo.mp4")
    os.mkfifo(root / "a_fifo.png")
    put(root, "z.mp4")
    found = walk(root)
    assert problems(found) == {"a_fifo.mp4": "Failed not_regular", unix_socket.name: "Failed not_regular"}
    assert names(found, root) == ["z.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every folder")
def test_closed_folder_fails_and_the_walk_goes_on(root: Path) -> None:
    put(root, "closed/a.mp4", "open/b.mp4")
    (root / "closed").chmod(0)
    try:
        found = walk(root)
    finally:
        (root / "closed").chmod(0o700)
    assert problems(found) == {"closed": "Failed unreadable"}
    assert names(found, root) == ["open/b.mp4"]


def test_unlistable_folder_fails_and_the_walk_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root, "broken/a.mp4", "well/b.mp4")
    real = os.scandir

    def scandir(path: bytes) -> object:
        if path.endswith(b"broken"):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = walk(root)
    assert problems(found) == {"broken": "Failed unreadable"}
    assert names(found, root) == ["well/b.mp4"]


def test_odd_names_come_through_as_bytes(root: Path) -> None:
    odd = [b"\xff\xfe.mp4", b"-rf.mp4", b"[red]x[bold].mp4", b"new\nline.mp4", b"\x1b[31m.mp4", "映像 ü.mp4".encode()]
    for name in odd:
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(b"x")
    found = walk(root)
    assert [os.path.basename(f.location.path) for f in found if isinstance(f, Found)] == sorted(odd)
    assert names(walk(root, exclude=["?[?].mp4", "\udcff*"]), root) == [
        os.fsdecode(n) for n in sorted(odd) if n[0] != 255
    ]


@pytest.mark.parametrize(
    ("globs", "left"),
    [
        (["*.mkv"], ["a.mp4", "raw/b.mp4", "raw/old/c.mp4"]),
        (["raw"], ["a.mp4", "d.mkv"]),
        (["raw/*"], ["a.mp4", "d.mkv"]),
        (["raw/"], ["a.mp4", "d.mkv"]),
        (["a.mp4/"], ["a.mp4", "d.mkv", "raw/b.mp4", "raw/old/c.mp4"]),
        (["*/old"], ["a.mp4", "d.mkv", "raw/b.mp4"]),
        (["A.MP4", "?.mkv"], ["a.mp4", "raw/b.mp4", "raw/old/c.mp4"]),
        (["[ab].mp4"], ["d.mkv", "raw/old/c.mp4"]),
        (["root", ""], ["a.mp4", "d.mkv", "raw/b.mp4", "raw/old/c.mp4"]),
    ],
)
def test_exclude(root: Path, globs: list[str], left: list[str]) -> None:
    put(root, "a.mp4", "d.mkv", "raw/b.mp4", "raw/old/c.mp4")
    assert names(walk(root, exclude=globs), root) == left


def test_exclude_applies_to_the_base_name_of_a_named_file(root: Path) -> None:
    put(root, "a.mp4", "b.mp4")
    assert names(walk(root / "a.mp4", root / "b.mp4", exclude=["b.*", "root"]), root) == ["a.mp4"]


def test_the_library_is_never_entered(root: Path) -> None:
    put(root, "lib/thumbs/a.webp", "lib/b.mp4", "library/c.mp4")
    assert names(walk(root, avoid=[root / "lib"]), root) == ["library/c.mp4"]
    assert problems(walk(root / "lib", root / "lib/b.mp4", avoid=[root / "lib"])) == {
        "lib": "Failed library",
        "b.mp4": "Failed library",
    }


def test_sidecar_candidates_share_the_stem(root: Path) -> None:
    put(root, "film.mp4", "film.srt", "film.en.VTT", "film.mp4.ass", "film2.srt", "film.txt", "other.mp4", "film")
    expected = (b"film.en.VTT", b"film.mp4.ass", b"film.srt")
    in_folder = {os.path.basename(f.location.path): f for f in walk(root) if isinstance(f, Found)}
    assert in_folder[b"film.mp4"].sidecar_candidates == expected
    assert in_folder[b"other.mp4"].sidecar_candidates == ()
    (named,) = walk(root / "film.mp4")
    assert isinstance(named, Found) and named.sidecar_candidates == expected


@pytest.fixture
def deep(root: Path) -> Iterator[Path]:
    """A tree deeper than Python's stack, removed here since pytest's own clearing of old folders is recursive."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 100):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("a.mp4", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    yield root
    subprocess.run(["rm", "-rf", "--", str(root)], check=True)


def test_deep_trees_need_no_recursion(deep: Path) -> None:
    assert len(names(walk(deep), deep)) == 1


def test_a_folder_is_read_lazily(root: Path) -> None:
    put(root, "a.mp4", "sub/b.mp4")
    found = discover([os.fsencode(root)])
    assert isinstance(next(found), Found)
    (root / "sub/b.mp4").unlink()
    assert list(found) == []


def write_sparse(path: Path, size: int, marks: dict[int, bytes]) -> bytes:
    with path.open("wb") as file:
        file.truncate(size)
        for place, mark in marks.items():
            file.seek(place)
            file.write(mark)
    return os.fsencode(path)


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    mib = 1 << 20
    one = fingerprint(write_sparse(tmp_path / "one.mp4", 10 * mib, {}))
    assert one == fingerprint(write_sparse(tmp_path / "copy.mkv", 10 * mib, {}))
    assert one[0] == "a" and len(one) == 65
    others = [
        write_sparse(tmp_path / "head", 10 * mib, {0: b"x"}),
        write_sparse(tmp_path / "middle", 10 * mib, {5 * mib: b"x"}),
        write_sparse(tmp_path / "tail", 10 * mib, {10 * mib - 1: b"x"}),
        write_sparse(tmp_path / "longer", 10 * mib + 1, {}),
        write_sparse(tmp_path / "empty", 0, {}),
    ]
    assert len({one, *map(fingerprint, others)}) == 6


@pytest.mark.parametrize("place", [0, 1 << 20, (2 << 20) - 1, (3 << 20) - 1])
def test_fingerprint_reads_all_of_a_small_file(tmp_path: Path, place: int) -> None:
    plain = fingerprint(write_sparse(tmp_path / "plain", 3 << 20, {}))
    assert fingerprint(write_sparse(tmp_path / "marked", 3 << 20, {place: b"x"})) != plain


def test_fingerprint_refuses_special_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    put(tmp_path, "file")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name, code in (("fifo", "not_regular"), ("link", "not_regular"), ("none", "missing"), (".", "not_regular")):
        with pytest.raises(VideoError) as caught:
            fingerprint(os.fsencode(tmp_path / name))
        assert (caught.value.problem.code, caught.value.problem.stage) == (code, "open")


def test_fingerprint_notices_a_file_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "growing.mp4"
    path.write_bytes(b"x" * 100)
    real = os.pread

    def pread(handle: int, length: int, start: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"more")
        return real(handle, length, start)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(VideoError) as caught:
        fingerprint(os.fsencode(path))
    assert caught.value.problem.code == "changing"


def test_failed_and_skipped_differ_by_type(root: Path) -> None:
    put(root, "p.png")
    (found,) = walk(root)
    assert isinstance(found, Skipped) and not isinstance(found, Failed)


def test_brackets_mean_themselves_too_and_accents_are_composed_either_way(root: Path) -> None:
    for name in ("[2024] Trip", "Cafe\u0301", "keep"):
        (root / name).mkdir()
        (root / name / "a.mp4").write_bytes(b"v")
    assert names(walk(root, exclude=["[2024] Trip", "Caf\u00e9/"]), root) == ["keep/a.mp4"]
    assert names(walk(root, exclude=["[2024] Trip/*", "Cafe\u0301/*"]), root) == ["keep/a.mp4"]


def test_a_glob_that_matches_nothing_is_reported(root: Path) -> None:
    (root / "raw").mkdir()
    (root / "raw" / "a.mp4").write_bytes(b"v")
    (root / "b.mp4").write_bytes(b"v")
    exclusions = Exclusions(["raw", "raw/", "*.mp4", "b.mp4/", "RAW", "", "*.mkv"])
    assert not list(discover([os.fsencode(root)], exclude=exclusions))
    assert exclusions.unmatched == ["b.mp4/", "RAW", "*.mkv"]


def test_ingest_tells_globs_that_match_nothing(tmp_path: Path, root: Path, models_cache: Path) -> None:
    (root / "[2024] Trip").mkdir()
    settings = RunSettings(cache=models_cache, asr=False, exclude=("[2024] Trip", "[2025] Trip"))
    report = ingest(tmp_path / "library", [os.fsencode(root)], settings)
    [hint] = report.hints
    assert hint.kind == "exclude" and hint.text.startswith("--exclude [2025] Trip matches nothing")
    assert report.to_dict(os.fsdecode)["hints"] == [{"kind": "exclude", "text": hint.text}]
