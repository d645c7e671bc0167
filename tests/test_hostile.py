"""Hostile files, names, texts and decoders, through the real command line."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran, vfindex
from media import Shot, make_video

from vfindex.indexer.media.decoder import Decoder, Limits
from vfindex.indexer.runners import local
from vfindex.indexer.runs import retry_policy
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.search.engine import SearchEngine
from vfindex.storage.errors import Problem, VideoError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify

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
QUESTIONS = ("it's", "C++", "-foo", "a AND", "*", "NEAR(", "\x1b[31m")


def made(path: Path, seed: int, *, length_s: float = 1.0, **options: Any) -> Path:
    """Write a small video, different for every number."""
    colours = ("red", "green", "blue", "yellow", "white")
    return make_video(path, shots=[Shot(colours[seed % 5], length_s + seed * 0.04)], **options)


@dataclass(frozen=True)
class Trap:
    """A folder of hostile files, its library, and the output of the run; `canaries`: files that must stay unread."""

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
        """Return which canaries were read, and whether a connection arrived."""
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
        unix.bind(os.path.relpath(folder / "socket.mp4"))  # an absolute path may be too long for a socket
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


def test_special_files_are_reported_and_never_block(trap: Trap) -> None:
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


def test_every_readable_file_is_indexed(trap: Trap) -> None:
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


def test_hostile_text_is_shown_and_not_interpreted(trap: Trap) -> None:
    shown = trap.vfindex("show", "said.mp4")
    assert shown.code == 0 and is_harmless(shown.out) and shown.err == ""
    assert "xylophone" in shown.out and "[red]plays[/red]" in shown.out and "zeppelin" in shown.out
    for question in ("xylophone", "zeppelin"):
        found = trap.vfindex("search", question)
        assert found.code == 0 and is_harmless(found.out)
        hits = trap.vfindex("search", question, "--json").document()["hits"]
        assert os.path.basename(hits[0]["video"]) == "said.mp4" and question in hits[0]["words"]
    ran = trap.vfindex("ingest", trap.folder)
    assert is_harmless(ran.out) and is_harmless(ran.err)


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_is_shown(trap: Trap, name: bytes) -> None:
    shown = trap.vfindex("show", "--json", "--", name)
    assert shown.code == 0
    assert os.path.basename(os.fsencode(shown.document()["video"])) == name
    plain = trap.vfindex("show", "--", name)
    assert plain.code == 0 and is_harmless(plain.out)


def test_any_file_name_is_removed_and_indexed_again(trap: Trap) -> None:
    names = NAMES[:3]
    for name in names:
        removed = trap.vfindex("remove", "--", name)
        assert (removed.code, removed.out.splitlines()[0]) == (0, "removed 1 file, 1 video from the library")
    gone = trap.vfindex("show", "--", names[0])
    assert gone.is_sentence() and "vfindex ingest" in gone.err
    back = trap.vfindex("ingest", "--json", "--", *names)
    assert (back.code, back.document()["indexed"]) == (0, len(names))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: ascii(q[:9]))
def test_any_query_gives_hits(trap: Trap, question: str) -> None:
    found = trap.vfindex("search", "--json", "--", question)
    assert (found.code, found.err) == (0, "")
    assert found.document()["query"] == question
    assert found.document()["hits"]


def test_an_unclosed_quotation_is_pointed_at(trap: Trap) -> None:
    asked = trap.vfindex("search", "--", 'red "door')
    assert (asked.code, asked.out) == (1, "")
    assert asked.err.splitlines()[:2] == ['  red "door', "      ^"]
    assert "never closed" in asked.err and "Traceback" not in asked.err


# --- decoders that go wrong -----------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
from vfindex.indexer.media import frames, probe as probing, worker
def misbehave(path):
    if b"hangs" in path: time.sleep(1000)
    while b"spins" in path: pass
    if b"hoards" in path: bytearray(1 << 40)
    if b"crashes" in path: os.kill(os.getpid(), signal.SIGSEGV)
    while b"grows" in path: hoard.append(bytearray(1 << 24))
hoard = []
probe, read = probing.probe, frames.read
def bad_probe(path, beat):
    if b"early" in path: misbehave(path)
    return probe(path, beat)
def bad_read(path, order, send, beat):
    def send_then(*message):
        send(*message)
        if b"late" in path: misbehave(path)
    return read(path, order, send_then, beat)
probing.probe, frames.read = bad_probe, bad_read
worker.main()
"""
ENDS = {
    "hangs early": "timeout",
    "hangs late": "timeout",
    "spins late": "cpu or timeout",  # whichever comes first on a busy machine
    "hoards late": "memory",
    "grows early": "memory",
    "crashes late": "crashed",
}


def test_a_broken_decoder_costs_one_file(tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videos").mkdir()
    names = [*ENDS, "good", "good too"]
    for number, name in enumerate(names):
        made(tmp_path / "videos" / f"{name}.mp4", number)
    limits = Limits(memory_bytes=1 << 30, idle_s=6.0, cpu_base_s=2.0, cpu_per_mb_s=0.0, wall_factor=20.0)
    command = [sys.executable, "-P", "-c", CHILD, str(limits.memory_bytes)]
    monkeypatch.setattr(local, "Decoder", lambda: Decoder(limits, command))
    monkeypatch.setattr(retry_policy, "USUAL_ATTEMPTS", 1)  # the third attempt takes time and shows nothing new
    settings = RunSettings(cache=models_cache, workers=3, asr=False)
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


def test_unreadable_subtitles_do_not_cost_their_video(
    tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Decoder, path: bytes, __: int) -> list[tuple[float, float, str]]:
        raise VideoError(Problem(path, "probe", "damaged", "the subtitles are damaged", "copy it again"))

    monkeypatch.setattr(Decoder, "subtitles", refuse)
    made(tmp_path / "said.mp4", 1, text=[(0.1, 0.8, "words")])
    settings = RunSettings(cache=models_cache, workers=1, asr=False)
    report = ingest(tmp_path / "library", [os.fsencode(tmp_path / "said.mp4")], settings)
    [problem] = report.partial
    assert (problem.stage, problem.code) == ("transcribe", "damaged")
    assert "said.mp4: the subtitles are damaged" in problem.reason
