"""Files, names, words and machines that mean harm or are simply unlucky, met through the real command line."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran, start, vfindex
from media import Shot, make_video

from vfindex.indexer import local
from vfindex.indexer.ingest import IngestSettings, ingest
from vfindex.indexer.media import Decoder, Limits
from vfindex.search.engine import SearchEngine
from vfindex.storage.errors import LibraryNotFound
from vfindex.storage.library import Library
from vfindex.storage.verify import verify

PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXTINF:5,\n{file}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{file}'\nfile '{url}'\nfile canary.bin\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}
NAMES = (b"-x.mp4", b"line\nbreak.mp4", b"caf\xe9 \xff.mp4", b"\x1b[31mred [bold]x[end].mp4", b"--json.mp4")
SIDECAR = (
    b"1\n00:00:00,200 --> 00:00:01,000\nThe \x1b]0;owned\x07 xylophone\x00 [red]plays[/red] \x9b31m\xc2\x9b31m\n\n"
    b"2\n00:00:01,000 --> 00:00:01,800\n<b>bold</b> <script>alert(1)</script> \xe2\x80\xaeevil\r\x08\n"
)
QUESTIONS = ("it's", "C++", "-foo", "a AND", '"', "*", "NEAR(", "\x1b[31m")


def made(path: Path, seed: int, *, length_s: float = 1.0, **options: Any) -> Path:
    """Write a small video that no other number gives."""
    colours = ("red", "green", "blue", "yellow", "white")
    return make_video(path, shots=[Shot(colours[seed % 5], length_s + seed * 0.04)], **options)


@dataclass(frozen=True)
class Trap:
    """A folder of hostile things, the library made of it, and what the run said; `canaries`: what must stay unread."""

    folder: Path
    library: Path
    cache: Path
    canaries: tuple[Path, ...]
    server: socket.socket
    first: Ran

    def vfindex(self, command: str, *arguments: object) -> Ran:
        return vfindex(self.cache, command, "--library", self.library, *arguments, cwd=self.folder)

    def ended(self, how: str, report: dict[str, Any] | None = None) -> dict[bytes, dict[str, str]]:
        rows = (report or self.first.document())[how]
        return {os.path.basename(os.fsencode(row["path"])): row for row in rows}

    def touched(self) -> list[str]:
        """Return which canaries were read, and whether anyone called."""
        found = [path.name for path in self.canaries if path.stat().st_atime_ns]
        try:
            self.server.accept()
        except BlockingIOError:
            return found
        return [*found, "the server"]


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Iterator[Trap]:
    root = tmp_path_factory.mktemp("hostile")
    folder = root / "videos"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        server.setblocking(False)
        port = server.getsockname()[1]
        canaries = (made(root / "canary.mp4", 30), folder / "canary.bin")
        canaries[1].write_bytes(canaries[0].read_bytes())
        for kind, text in PLAYLISTS.items():
            filled = text.format(url=f"http://127.0.0.1:{port}/a.mp4", file=canaries[0], port=port)
            (folder / f"{kind}.mp4").write_text(filled)
            (folder / f"list.{kind}").write_text(filled)
        _make_oddities(folder)
        unix.bind(os.path.relpath(folder / "socket.mp4"))  # an absolute one may be too long for a socket
        for path in canaries:  # reading would renew the time of access, as it is older than the change
            os.utime(path, ns=(0, time.time_ns()))
        library = root / "library"
        first = vfindex(models_cache, "ingest", folder, "--library", library, "--no-asr", "--json")
        yield Trap(folder, library, models_cache, canaries, server, first)


def _make_oddities(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    made(folder / "folder.mp4" / "inside.mp4", 1)
    (folder / "loop").symlink_to(folder)
    (folder / "itself.mp4").symlink_to("itself.mp4")
    made(folder / "said.mp4", 2, length_s=2.0, tags={"title": "\x1b[31mTagged\x07 [bold]zeppelin[end]"})
    (folder / "said.srt").write_bytes(SIDECAR)
    made(folder / "huge.mp4", 3)
    (folder / "huge.srt").write_bytes(b"1\n00:00:00,000 --> 00:00:01,000\nword\n\n" * 300_000)
    made(folder / "zeros.mp4", 4)
    (folder / "zeros.vtt").write_bytes(bytes(100_000))
    for number, name in enumerate(NAMES):
        path = made(folder / "made.mp4", 5 + number)
        os.rename(os.fsencode(path), os.path.join(os.fsencode(folder), name))


# --- files ----------------------------------------------------------------------------------------------------------


def test_playlists_are_refused_and_nothing_in_them_is_opened(trap: Trap) -> None:
    failed, skipped = trap.ended("failed"), trap.ended("skipped")
    assert trap.first.code == 1 and "Traceback" not in trap.first.err
    for kind in PLAYLISTS:
        assert failed[f"{kind}.mp4".encode()]["code"] == "playlist"
        assert skipped[f"list.{kind}".encode()]["code"] == "playlist"
    named = [trap.folder / f"list.{kind}" for kind in PLAYLISTS]
    report = trap.vfindex("ingest", "--json", *named).document()
    assert {row["code"] for row in report["failed"]} == {"playlist"}
    assert len(report["failed"]) == report["found"] == len(PLAYLISTS)
    assert trap.touched() == []


def test_what_is_no_file_is_told_and_not_waited_for(trap: Trap) -> None:
    failed = trap.ended("failed")
    assert {failed[name]["code"] for name in (b"pipe.mp4", b"socket.mp4")} == {"not_regular"}
    assert not {b"loop", b"itself.mp4"} & set(failed), "links in a folder are passed over"
    named = [trap.folder / "itself.mp4", trap.folder / "pipe.mp4", "/dev/zero", trap.folder / "missing.mp4"]
    report = trap.vfindex("ingest", "--json", *named).document()
    codes = [row["code"] for row in sorted(report["failed"], key=lambda row: row["path"])]
    assert sorted(codes) == ["missing", "not_regular", "not_regular", "not_regular"]
    again = trap.vfindex("ingest", "--json", trap.folder / "loop", trap.folder, trap.folder / "loop" / "loop")
    report = trap.first.document()
    assert again.document()["found"] == report["found"], "a folder named three ways is walked once"


def test_all_that_can_be_is_indexed(trap: Trap) -> None:
    report = trap.first.document()
    assert report["indexed"] == 2 + len(NAMES)
    assert {name: row["stage"] for name, row in trap.ended("partial").items()} == {
        b"huge.mp4": "transcribe",
        b"zeros.mp4": "transcribe",
    }
    assert "10 MB" in trap.ended("partial")[b"huge.mp4"]["reason"]
    assert verify(Library.open(trap.library)).problems == []


# --- words and names ------------------------------------------------------------------------------------------------


def is_harmless(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text.replace("\t", "\n"))


def test_hostile_words_are_shown_and_not_obeyed(trap: Trap) -> None:
    shown = trap.vfindex("show", "said.mp4")
    assert shown.code == 0 and is_harmless(shown.out) and shown.err == ""
    assert "xylophone" in shown.out and "[red]plays[/red]" in shown.out and "zeppelin" in shown.out
    for question in ("xylophone", "zeppelin"):
        found = trap.vfindex("search", question)
        assert found.code == 0 and is_harmless(found.out)
        hits = trap.vfindex("search", question, "--json").document()["hits"]
        assert os.path.basename(hits[0]["video"]) == "said.mp4" and question in hits[0]["words"]
    told = trap.vfindex("ingest", trap.folder)
    assert is_harmless(told.out) and is_harmless(told.err)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_shown(trap: Trap, name: bytes) -> None:
    shown = trap.vfindex("show", "--json", "--", name)
    assert shown.code == 0
    assert os.path.basename(os.fsencode(shown.document()["video"])) == name
    plain = trap.vfindex("show", "--", name)
    assert plain.code == 0 and is_harmless(plain.out)


def test_any_name_is_removed_and_indexed_again(trap: Trap) -> None:
    for name in NAMES:
        removed = trap.vfindex("remove", "--", name)
        assert (removed.code, removed.out) == (0, "forgot 1 file, 1 video\n")
    gone = trap.vfindex("show", "--", NAMES[0])
    assert gone.is_sentence() and "vfindex ingest" in gone.err
    back = trap.vfindex("ingest", "--json", "--", *NAMES)
    assert (back.code, back.document()["indexed"]) == (0, len(NAMES))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: ascii(q[:9]))
def test_any_question_gives_hits(trap: Trap, question: str) -> None:
    found = trap.vfindex("search", "--json", "--", question)
    assert (found.code, found.err) == (0, "")
    assert found.document()["query"] == question
    assert found.document()["hits"]


# --- decoders that go wrong -----------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
from vfindex.indexer import decode_child, decode_open, decode_read
def misbehave(path):
    if b"hangs" in path: time.sleep(1000)
    while b"spins" in path: pass
    if b"hoards" in path: bytearray(1 << 40)
    if b"crashes" in path: os.kill(os.getpid(), signal.SIGSEGV)
    while b"grows" in path: hoard.append(bytearray(1 << 24))
hoard = []
probe, read = decode_open.probe, decode_read.read
def bad_probe(path, beat):
    if b"early" in path: misbehave(path)
    return probe(path, beat)
def bad_read(path, order, send, beat):
    def send_then(*message):
        send(*message)
        if b"late" in path: misbehave(path)
    return read(path, order, send_then, beat)
decode_open.probe, decode_read.read = bad_probe, bad_read
decode_child.main()
"""
ENDS = {
    "hangs early": "timeout",
    "hangs late": "timeout",
    "spins late": "cpu or timeout",  # whichever a busy machine comes to first
    "hoards late": "memory",
    "grows early": "memory",
    "crashes late": "crashed",
}


def test_bad_decoders_cost_one_file_each(tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videos").mkdir()
    names = [*ENDS, "good", "good too"]
    for number, name in enumerate(names):
        made(tmp_path / "videos" / f"{name}.mp4", number)
    limits = Limits(memory_bytes=1 << 30, idle_s=6.0, cpu_base_s=2.0, cpu_per_mb_s=0.0, wall_factor=20.0)
    command = [sys.executable, "-P", "-c", CHILD, str(limits.memory_bytes)]
    monkeypatch.setattr(local, "Decoder", lambda: Decoder(limits, command))
    settings = IngestSettings(cache=models_cache, workers=3, asr=False)
    videos = [os.fsencode(tmp_path / "videos")]
    report = ingest(tmp_path / "library", videos, settings)
    codes = {os.path.basename(row.path).decode()[:-4]: row.code for row in report.failed}
    assert set(codes) == set(ENDS)
    assert all(code in ENDS[name].split() for name, code in codes.items())
    assert all(row.reason and row.next for row in report.failed)
    assert (report.indexed, report.found) == (2, len(names))
    with Library.open(tmp_path / "library").snapshot() as snapshot:
        assert snapshot.counts()["quarantined"] == len(ENDS)
    hits = SearchEngine.open(tmp_path / "library").search("good")
    assert {os.path.basename(hit.video or b"") for hit in hits} == {b"good.mp4", b"good too.mp4"}
    assert verify(Library.open(tmp_path / "library")).problems == []
    monkeypatch.setattr(Decoder, "probe", lambda *_: 1 / 0)
    again = ingest(tmp_path / "library", videos, settings)
    assert (again.unchanged, len(again.failed)) == (2, len(ENDS)), "what is quarantined is not opened again"


# --- interruptions and other writers --------------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Return a folder of videos that keep one worker busy for long: every frame is asked for."""
    (tmp_path / "slow").mkdir()
    made(tmp_path / "slow" / "a short.mp4", 0)
    for number in (1, 2):
        made(tmp_path / "slow" / f"long {number}.mp4", number, length_s=4.0)
    return tmp_path / "slow"


def wait_for(library: Path, state: str) -> None:
    """Return once the library holds a video in this state."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        try:
            with Library.open(library).snapshot() as snapshot:
                if snapshot.counts().get(state):
                    return
        except LibraryNotFound:
            pass  # it is being made
        time.sleep(0.05)
    raise AssertionError(f"no video came to be {state}")


def test_one_interruption_ends_after_the_work_in_hand(tmp_path: Path, slow: Path, models_cache: Path) -> None:
    library = tmp_path / "library"
    arguments = ("ingest", slow, "--library", library, "--no-asr", "--workers", "1", "--sampling", "25", "--json")
    with start(models_cache, *arguments) as process:
        wait_for(library, "indexed")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    ran = Ran(process.returncode, out.decode(), err.decode())
    assert ran.code == 130
    assert ran.err == "stopping after the videos in work; press Ctrl-C again to stop at once\n"
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


# --- machines that are unlucky --------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, models_cache: Path) -> Path:
    """Return a library of one video, tmp_path/videos/one.mp4."""
    (tmp_path / "videos").mkdir()
    made(tmp_path / "videos" / "one.mp4", 0)
    settings = IngestSettings(cache=models_cache, workers=1, asr=False)
    ingest(tmp_path / "library", [os.fsencode(tmp_path / "videos")], settings)
    return tmp_path / "library"


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path, library: Path, models_cache: Path) -> None:
    for number in (1, 2, 3):
        make_video(tmp_path / "videos" / f"{number}.mp4", shots=[Shot("red", 4.0 + number)])
    arguments = ("ingest", tmp_path / "videos", "--library", library, "--sampling", "auto")
    most = 1 << 12  # no file may grow beyond that, as on a disk without room

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    full = vfindex(models_cache, *arguments, prepare=fill)
    assert full.is_sentence() and "could not be written" in full.err
    assert verify(Library.open(library)).problems == []
    assert vfindex(models_cache, "search", "red", "--library", library).out.count("\n") == 1
    again = vfindex(models_cache, *arguments, "--json")
    assert (again.code, again.document()["unchanged"], again.document()["indexed"]) == (0, 1, 3)


def garbage(folder: Path) -> None:
    (folder / "library.db").write_bytes(bytes(range(256)) * 40)


def nothing(folder: Path) -> None:
    (folder / "library.db").touch()


def folder_instead(folder: Path) -> None:
    (folder / "library.db").mkdir()


@pytest.mark.parametrize("break_it", [garbage, nothing, folder_instead])
def test_a_false_library_is_a_sentence(tmp_path: Path, models_cache: Path, break_it: Callable[[Path], None]) -> None:
    break_it(tmp_path)
    for command in (("search", "red"), ("status",), ("remove", "x.mp4")):
        assert vfindex(models_cache, *command, "--library", tmp_path).is_sentence()
    assert "Traceback" not in vfindex(models_cache, "verify", "--library", tmp_path).err


@pytest.mark.parametrize("break_it", [garbage, folder_instead])
def test_nothing_is_written_into_a_false_library(
    tmp_path: Path, models_cache: Path, break_it: Callable[[Path], None]
) -> None:
    break_it(tmp_path)
    before = (tmp_path / "library.db").stat()
    ran = vfindex(models_cache, "ingest", tmp_path.parent, "--library", tmp_path)
    assert ran.is_sentence() and "--library" in ran.err
    after = (tmp_path / "library.db").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_place_that_takes_no_library_is_a_sentence(tmp_path: Path, models_cache: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "library", Path("/proc/vfindex")):
        assert vfindex(models_cache, "ingest", tmp_path, "--library", place).is_sentence()
    made(tmp_path / "video.mp4", 0)
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
