"""Thumbnails, frames and streams: what is sent, and that nothing is left behind when a client leaves."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from library_maker import PICTURE
from serving import PATIENCE_S, Site, eventually, serving

from vfindex.search.service import SearchService
from vfindex.storage.errors import Overloaded, Problem, VideoError
from vfindex.storage.library import Library
from vfindex.storage.records import EncodedFrame, Playability


def damaged() -> VideoError:
    return VideoError(Problem(b"/films/v1.mp4", "decode", "damaged", "it is damaged", "save it again"))


# --- thumbnails -----------------------------------------------------------------------------------------------------


def test_a_thumbnail_is_the_library_s_image(site: Site, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.get("/videos/v1/thumbnails/0").error == (404, "NotFound"), "this clip has none"
    image = films / "image.webp"
    image.write_bytes(PICTURE)
    monkeypatch.setattr(Library, "thumbnail", lambda *_: image)
    answer = site.get("/videos/v1/thumbnails/0")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, PICTURE, "image/webp")
    assert answer.headers["cache-control"] == "private, max-age=3600"
    assert site.get("/videos/v1/thumbnails/0", if_none_match=answer.headers["etag"]).status == 304
    assert site.get("/videos/v1/thumbnails/1").error == (404, "NotFound")
    image.unlink()
    image.symlink_to(films / "secret.mp4")
    assert site.get("/videos/v1/thumbnails/0").error == (404, "NotFound"), "a link leads out of the library"


# --- frames ---------------------------------------------------------------------------------------------------------


class Frames:
    """Frames whose image says which one it is."""

    def read_frames(self, path: bytes, times_s: Sequence[float], size_px: int) -> list[EncodedFrame]:
        if os.path.basename(path) == b"v2.mp4":
            raise damaged()
        return [
            EncodedFrame(t, size_px, size_px, f"{os.path.basename(path)!r} {t} {size_px}".encode()) for t in times_s
        ]

    def read_facts(self, path: bytes) -> Any:
        raise damaged()


def test_a_frame_is_that_of_a_time(folder: Path) -> None:
    with SearchService(folder, frames=Frames()) as service, serving(service) as site:
        answer = site.get("/videos/v1/frame?t=2.5&size=320")
        assert (answer.status, answer.body) == (200, b"b'v1.mp4' 2.5 320")
        assert answer.headers["content-type"] == "image/webp"
        assert site.get("/videos/v1/frame?t=2.5&size=320", if_none_match=answer.headers["etag"]).status == 304
        assert site.get("/videos/v1/frame?t=999").body == b"b'v1.mp4' 9.96 640", "the last one"
        assert site.get("/videos/v2/frame").error == (422, "VideoError")
        for wrong in ("t=x", "t=nan", "t=inf", "t=1e9", "size=15", "size=1281", "t=1&t=2"):
            assert site.get(f"/videos/v1/frame?{wrong}").error == (400, "WrongParameter")


def test_a_server_that_decodes_nothing_says_so(site: Site) -> None:
    for path in ("/videos/v1/frame", "/videos/v1/playback", "/videos/v1/stream"):
        status, _ = site.get(path).error
        assert status == 501


def test_a_file_that_is_not_there_is_not_found(folder: Path, films: Path) -> None:
    with SearchService(folder, frames=Frames(), player=Player(Chunks(1))) as service, serving(service) as site:
        (films / "v1.mp4").unlink()
        (films / "v3.mp4").write_bytes(b"another file")
        for number, part in ((1, "is not there"), (3, "has changed")):
            for path in ("frame?t=1", "playback", "stream", "media"):
                answer = site.get(f"/videos/v{number}/{path}")
                assert answer.error == (404, "NotFound"), "no player waits for it, as it does while too many play"
                assert part in answer.document["error"]["message"]


# --- streams --------------------------------------------------------------------------------------------------------


class Chunks:
    """A stream of chunks, each sent when a test opens the gate; it notes whether it was closed."""

    rung, content_type, start_s = "transcode", 'video/mp4; codecs="avc1.4d401f"', 1.5

    def __init__(self, count: int | None, fails: bool = False) -> None:
        self.count, self.fails = count, fails
        self.is_closed, self.sent = threading.Event(), 0

    def __iter__(self) -> Iterator[bytes]:
        while self.count is None or self.sent < self.count:
            if self.is_closed.is_set():
                return
            self.sent += 1
            yield b"c" * 10_000
        if self.fails:
            raise damaged()

    def close(self) -> None:
        self.is_closed.set()

    def __enter__(self) -> Chunks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Player:
    """Plays `stream`; notes what was asked for."""

    def __init__(self, stream: Chunks | Exception) -> None:
        self.made, self.asked = stream, list[Any]()

    def playability(self, path: bytes) -> Playability:
        return Playability("transcode", 'video/mp4; codecs="avc1"', "its codec is mpeg2video")

    def stream(self, path: bytes, start_s: float, end_s: float, rung: Any) -> Chunks:
        self.asked.append((os.path.basename(path), start_s, end_s, rung))
        if isinstance(self.made, Exception):
            raise self.made
        return self.made

    def cut(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


def test_a_stream_is_a_span_and_says_where_it_begins(folder: Path) -> None:
    player = Player(stream := Chunks(3))
    with SearchService(folder, player=player) as service, serving(service) as site:
        answer = site.get("/videos/v1/stream?start_s=2&end_s=5&rung=transcode")
        assert (answer.status, answer.body) == (200, b"c" * 30_000)
        assert answer.headers["content-type"] == stream.content_type
        assert (answer.headers["vfindex-start-s"], answer.headers["vfindex-rung"]) == ("1.500000", "transcode")
        assert answer.headers["cache-control"] == "no-store"
        assert player.asked == [(b"v1.mp4", 2.0, 5.0, "transcode")]
        assert stream.is_closed.wait(PATIENCE_S)
        assert site.ask("/api/v1/videos/v1/stream", "HEAD").status == 200
        assert len(player.asked) == 1, "nothing is decoded for a HEAD"
        assert site.get("/videos/v1/playback").document["rung"] == "transcode"
        assert site.get("/videos/v1/stream?start_s=5&end_s=2").error == (400, "QueryError")


def test_streams_that_are_too_many_or_cannot_be_made_are_errors(folder: Path) -> None:
    for problem, error in ((Overloaded("too many play"), (503, "Overloaded")), (damaged(), (422, "VideoError"))):
        with SearchService(folder, player=Player(problem)) as service, serving(service) as site:
            assert site.get("/videos/v1/stream").error == error


def test_a_stream_that_breaks_ends_the_connection(folder: Path) -> None:
    player = Player(stream := Chunks(2, fails=True))
    with SearchService(folder, player=player) as service, serving(service) as site:
        answer = site.raw(b"GET /api/v1/videos/v1/stream HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % site.port)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert not answer.endswith(b"0\r\n\r\n"), "the last chunk of a whole answer"
        assert stream.is_closed.wait(PATIENCE_S)
        assert site.get("/health").status == 200


def test_clients_that_leave_end_their_streams(folder: Path) -> None:
    streams = [Chunks(None) for _ in range(20)]
    player = Player(streams[0])
    before = threading.active_count()
    with SearchService(folder, player=player) as service, serving(service) as site:
        for stream in streams:
            player.made = stream
            with socket.create_connection(("127.0.0.1", site.port), PATIENCE_S) as sock:
                sock.sendall(b"GET /api/v1/videos/v1/stream HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % site.port)
                assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        for stream in streams:
            assert stream.is_closed.wait(PATIENCE_S)
        assert site.get("/health").status == 200
    assert eventually(lambda: threading.active_count() <= before + 40), "threads of the framework's pool may stay"


def test_a_server_that_stops_ends_its_streams(folder: Path) -> None:
    player = Player(stream := Chunks(None))
    with SearchService(folder, player=player) as service:
        with serving(service) as site:
            sock = socket.create_connection(("127.0.0.1", site.port), PATIENCE_S)
            sock.sendall(b"GET /api/v1/videos/v1/stream HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % site.port)
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        assert stream.is_closed.wait(PATIENCE_S)
        sock.close()
