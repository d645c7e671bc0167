"""Floods and slow clients: what one client may take, and that others are served meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip
from serving import PATIENCE_S, Site, eventually, serving

from vfindex.search.http import security
from vfindex.search.http.app import create_app
from vfindex.search.http.limits import MAX_CLIENTS, LimitedBody, RateLimit
from vfindex.search.http.sessions import Sessions
from vfindex.search.http.settings import Limits, Settings, networks
from vfindex.search.service import SearchService
from vfindex.storage.writer import writing

HASTY = Limits(head_s=0.2, body_s=0.2, stalled_s=0.3)


@contextmanager
def connected(site: Site) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", site.port), PATIENCE_S) as sock:
        yield sock


def rest(sock: socket.socket) -> bytes:
    """Return all that a server sends until it closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while data := sock.recv(1 << 16):
            received += data
    return received


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_bodies_have_a_limit(service: SearchService) -> None:
    limits = Limits(body_bytes=1000, upload_bytes=5000)
    json, form = {"content-type": "application/json"}, {"content-type": "multipart/form-data; boundary=b"}
    with serving(service, Settings(limits=limits)) as site:
        assert site.ask("/api/v1/marks", "POST", b"x" * 1001, json).error == (413, "TooLarge")
        assert site.ask("/api/v1/search", "POST", b"x" * 5001, form).error == (413, "TooLarge")
        assert site.ask("/api/v1/search", "POST", b"x" * 4000, form).error == (400, "BadRequest")
        chunks = b"".join(b"%x\r\n%b\r\n" % (500, b"x" * 500) for _ in range(3)) + b"0\r\n\r\n"
        head = b"POST /api/v1/marks HTTP/1.1\r\nhost: x:%d\r\ncontent-type: application/json\r\n" % site.port
        head = head.replace(b"host: x", b"host: 127.0.0.1") + b"transfer-encoding: chunked\r\n\r\n"
        assert site.raw(head + chunks).startswith(b"HTTP/1.1 413 ")
        lie = head.replace(b"transfer-encoding: chunked", b"content-length: 99999999999999999999")
        assert site.raw(lie).startswith(b"HTTP/1.1 4")
        assert site.get("/health").status == 200


def test_heads_have_a_limit(site: Site) -> None:
    host = b"host: 127.0.0.1:%d\r\n" % site.port
    for flood in (
        b"GET /?q=" + b"a" * 100_000 + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"x-a: " + b"b" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"x-a: b\r\n" * 20_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100_000),
    ):
        with connected(site) as sock:
            with suppress(ConnectionError):  # it may close the connection while this is being sent
                sock.sendall(flood)
            assert rest(sock)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"")
    assert site.get("/health").status == 200


def test_odd_requests_are_answered(site: Site) -> None:
    for line, more, status in (
        (b"GET /\xff\xfe HTTP/1.1", b"", b"400"),
        (b"GET http://evil.example/ HTTP/1.1", b"", b"404"),
        (b"GET * HTTP/1.1", b"", b"404"),
        (b"POST /api/v1/marks HTTP/1.1", b"content-length: " + b"9" * 5000 + b"\r\n", b"400"),
        (b"POST /api/v1/marks HTTP/1.1", b"content-length: 1\r\ncontent-length: 2\r\n", b"400"),
        (b"GET / HTTP/1.1", b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n", b"200"),
        (b"NOTHING", b"", b"400"),
    ):
        with connected(site) as sock:
            sock.sendall(line + b"\r\nhost: 127.0.0.1:%d\r\n" % site.port + more + b"\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 " + status), line
    for text in ("\ud800", "\x00", "x" * 5000):
        assert site.post("/marks", {"clip": "v1:0", "note": text * 3}).status in (200, 400)
        assert site.post("/saved", {"name": text, "text": text}).status in (200, 400)
    for path in ("/search?q=%00", "/marks?list=%00", "/videos?filters=in:%00", "/search?q=dog%20in:" + "*a" * 400):
        assert site.get(path).status in (200, 400)
    assert site.ask("/?q=%ff%00").status == 200


def test_parameters_have_a_limit(site: Site) -> None:
    assert site.get("/search?" + "&".join(f"q{n}=" for n in range(1000))).error == (400, "WrongParameter")
    assert site.get("/search?q=" + "a" * 10_000).status in (200, 400)


# --- slow clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /api/v1/health HT",
        b"GET /api/v1/health HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: ",
        b"GET /api/v1/health HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\n\r\nGET /api/v1/hea",
    ],
    ids=["nothing", "line", "header", "second"],
)
def test_a_request_that_does_not_come_ends_the_connection(service: SearchService, sent: bytes) -> None:
    with serving(service, Settings(limits=HASTY)) as site, ExitStack() as opened:
        socks = [opened.enter_context(connected(site)) for _ in range(20)]
        for sock in socks:
            sock.sendall(sent.replace(b"PORT", b"%d" % site.port))
        assert site.get("/health").status == 200, "others are served meanwhile"
        for sock in socks:
            assert rest(sock).count(b"HTTP/1.1 200") == sent.count(b"PORT")


def test_a_body_that_does_not_come_is_refused(service: SearchService) -> None:
    with serving(service, Settings(limits=HASTY)) as site:
        head = b"POST /api/v1/marks HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n" % site.port
        with connected(site) as sock:
            sock.sendall(head + b"content-length: 20\r\n\r\n{")
            assert rest(sock).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("path", "kind", "begun"),
    [
        ("/api/v1/member", "application/json", b"{"),
        ("/api/v1/marks", "application/json", b"{"),
        ("/api/v1/search", "multipart/form-data; boundary=b", b"--b\r\n"),
        ("/", "multipart/form-data; boundary=b", b"--b\r\n"),
    ],
)
def test_a_client_that_leaves_before_its_body_is_no_bug(
    site: Site, caplog: pytest.LogCaptureFixture, path: str, kind: str, begun: bytes
) -> None:
    left = threading.Event()
    receive = LimitedBody.__call__

    async def received(self: LimitedBody) -> Any:
        message = await receive(self)
        if message["type"] == "http.disconnect":
            left.set()
        return message

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LimitedBody, "__call__", received)
        with connected(site) as sock:
            head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{site.port}\r\ncontent-type: {kind}\r\n"
            sock.sendall(f"{head}content-length: 1000\r\n\r\n".encode() + begun)
        assert left.wait(PATIENCE_S)
        assert site.get("/health").status == 200
    assert not caplog.records


def test_a_client_that_does_not_read_loses_its_connection(
    service: SearchService, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (films / "v1.mp4").open("wb") as file:
        file.truncate(64 << 20)
    monkeypatch.setattr(SearchService, "file", lambda *_: Large(bytes(films / "v1.mp4")))
    with serving(service, Settings(limits=HASTY)) as site, connected(site) as sock:
        sock.sendall(b"GET /api/v1/videos/v1/media HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % site.port)
        assert eventually(lambda: is_closed(sock))
        assert len(rest(sock)) < 64 << 20


class Large:
    """A file of a video."""

    container, fingerprint = "mp4", "v1"

    def __init__(self, path: bytes) -> None:
        self.path = path


def is_closed(sock: socket.socket) -> bool:
    """Return whether the server has closed its end; a byte more is then answered with a reset."""
    try:
        sock.send(b"x")
    except OSError:
        return True
    return False


def test_connections_beyond_their_limit_are_closed(service: SearchService) -> None:
    with serving(service, Settings(limits=Limits(connections=5))) as site, ExitStack() as opened:
        socks = [opened.enter_context(connected(site)) for _ in range(20)]
        assert eventually(lambda: sum(is_closed(sock) for sock in socks) >= 15)
        for sock in socks:
            sock.close()
        assert eventually(lambda: answers(site))


def answers(site: Site) -> bool:
    try:
        return site.get("/health").status == 200
    except ConnectionError:
        return False


# --- how often ------------------------------------------------------------------------------------------------------


def test_a_client_has_a_rate_that_fills_again() -> None:
    now = [0.0]
    rate = RateLimit(2.0, 3, now=lambda: now[0])
    assert [rate.take("10.0.0.1") for _ in range(4)] == [0, 0, 0, 0.5]
    assert rate.take("10.0.0.2") == 0, "another client has its own"
    now[0] += 0.5
    assert [rate.take("10.0.0.1") for _ in range(2)] == [0, 0.5]
    now[0] += 3600
    assert [rate.take("10.0.0.1") for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_network_of_ipv6_is_one_client() -> None:
    rate = RateLimit(1.0, 1, now=lambda: 0.0)
    assert rate.take("2001:db8::1") == 0
    assert rate.take("2001:db8::2") == 1
    assert rate.take("2001:db8:0:1::1") == 0


@pytest.mark.parametrize("client", ["::ffff:127.0.0.1", "::FFFF:7f00:1"])
def test_an_ipv4_client_of_an_ipv6_socket_is_one_of_ipv4(service: SearchService, client: str) -> None:
    def origin_of(address: str, forwarded: str) -> str:
        settings = Settings(proxies=networks(["127.0.0.1"]))
        gate = security.Gate(create_app(service, settings), settings, Sessions(settings))
        scope = {"client": (address, 1), "scheme": "http"}
        return gate._origin(scope, {"host": "localhost", "x-forwarded-for": forwarded}).client

    assert origin_of(client, "") == "127.0.0.1"
    assert origin_of(client, "::ffff:10.0.0.7, ::ffff:127.0.0.1") == "10.0.0.7", "a named proxy, however it is written"
    assert origin_of("::ffff:10.0.0.8", "10.0.0.7") == "10.0.0.8"
    assert origin_of("2001:db8::1", "") == "2001:db8::1"


def test_clients_that_are_remembered_have_a_limit() -> None:
    rate = RateLimit(1.0, 1, now=lambda: 0.0)
    for number in range(MAX_CLIENTS + 100):
        rate.take(f"client {number}")
    assert len(rate._left) == MAX_CLIENTS


def test_strangers_are_limited_and_this_machine_is_not(service: SearchService, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = replace(Limits(), requests_per_s=0.001, burst=2)
    with serving(service, Settings(limits=limits)) as site:
        assert [site.get("/health").status for _ in range(4)] == [200] * 4
        monkeypatch.setattr(security, "is_loopback", lambda _: False)
        answers = [site.get("/health") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert int(answers[2].headers["retry-after"]) >= 1


# --- how much at a time ---------------------------------------------------------------------------------------------


class Gate:
    """A search that waits until a test opens it; counts those that run at the same time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.running, self.most = threading.Event(), 0, 0
        self._lock, self._search = threading.Lock(), SearchService.search
        monkeypatch.setattr(SearchService, "search", lambda *args, **options: self.run(*args, **options))

    def run(self, *args: Any, **options: Any) -> Any:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.opened.wait(PATIENCE_S)
        with self._lock:
            self.running -= 1
        return self._search(*args, **options)


def test_searches_wait_for_their_turn_and_no_more_than_may(
    service: SearchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, limits = Gate(monkeypatch), replace(Limits(), searches=2, waiting=2)
    with serving(service, Settings(limits=limits)) as site, ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(site.get, f"/search?q={number}") for number in range(6)]
        assert eventually(lambda: sum(each.done() for each in asked) == 2)
        refused = [each.result() for each in asked if each.done()]
        assert [answer.error for answer in refused] == [(503, "Busy")] * 2
        assert all(answer.headers["retry-after"] for answer in refused)
        assert site.get("/health").status == 200, "what needs no search is answered"
        gate.opened.set()
        assert sorted(each.result().status for each in asked) == [200] * 4 + [503] * 2
        assert gate.most == 2
        assert site.get("/search?q=1").status == 200


def test_a_search_beyond_its_time_is_an_error(service: SearchService, folder: Path) -> None:
    with serving(service, Settings(limits=replace(Limits(), search_s=1e-6))) as site:
        answer = site.get("/search?q=1")
        assert answer.error == (503, "QueryTimeout")
        assert answer.headers["retry-after"]


def test_many_clients_ask_while_the_library_changes(service: SearchService, folder: Path) -> None:
    with serving(service) as site, ThreadPoolExecutor(12) as clients:
        asked = [clients.submit(site.get, f"/search?q={number % 4}&k=3") for number in range(120)]
        for number in range(3):
            with writing(folder) as writer:
                add_video(writer, f"new{number}", [clip(visual=axis(7))])
                writer.publish()
        answers = [each.result() for each in asked]
        assert {answer.status for answer in answers} == {200}
        firsts = [answer.document["hits"][0]["key"][0] for answer in answers]
        assert firsts == [f"v{number % 4}" for number in range(120)]
