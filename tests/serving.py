"""A server of a library in a thread of this process, and a client that sends exactly what a test says."""

from __future__ import annotations

import faulthandler
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import unescape
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any

from library_maker import axis, clip, video

from vfindex.search.http.app import create_app
from vfindex.search.http.server import Address, bound_socket, make_server
from vfindex.search.http.sessions import Sessions
from vfindex.search.http.settings import Settings, Tools
from vfindex.search.service import SearchService
from vfindex.storage.records import Location, Segment, UnitPlan, UnitResult
from vfindex.storage.writer import Writer

# A server that does not start or stop within this time fails the test.
PATIENCE_S = 60
VIDEOS = 4
SCRIPT = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
# Of the file of every video; its number follows.
CONTENT = bytes(range(256)) * 40


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and kind of an error, which has the one form of all errors."""
        assert list(self.document) == ["error"]
        assert self.document["error"].keys() - {"position"} == {"kind", "message"}
        return self.status, self.document["error"]["kind"]


@dataclass(frozen=True)
class Site:
    """A server that runs. headers: sent with every request."""

    port: int
    settings: Settings
    sessions: Sessions
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer to a request. headers: None as a value leaves one out."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Return the answer to a GET. headers: with underscores for dashes."""
        return self.ask(f"/api/v1{path}", headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, document: Any, method: str = "POST", **headers: str) -> Answer:
        """Return the answer to a JSON document."""
        sent = {"content-type": "application/json"} | {n.replace("_", "-"): value for n, value in headers.items()}
        return self.ask(f"/api/v1{path}", method, json.dumps(document).encode(), sent)

    def raw(self, data: bytes) -> bytes:
        """Return all that the server sends, until it closes the connection, in answer to these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as sock:
            sock.sendall(data)
            return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def add_file(writer: Writer, path: Path, number: int) -> None:
    """Commit video `v{number}` of two clips, which looks like and says its number, at a path."""
    id_ = writer.catalog.begin_video(video(f"v{number}"), [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(id_)
    clips = tuple(clip(5.0 * i, 5.0 * i + 5, visual=axis(number), speech=axis(number)) for i in range(2))
    segments = (Segment(1, 3, f"number {number} {SCRIPT}", "asr", "en"),)
    writer.commit_unit(id_, f"v{number}", unit_id, UnitResult(clips, segments, {"visual": "2 frames"}))
    size = path.stat().st_size if path.exists() else 100
    writer.catalog.finish_video(id_, Location(bytes(path), size, 1, 1), [])


@contextmanager
def serving(
    service: SearchService,
    settings: Settings | None = None,
    tools: Tools | None = None,
    files: tuple[Path, Path] | None = None,
) -> Iterator[Site]:
    """Yield a server of a service on a free port of this machine. files: certificate and key, for https."""
    address = Address("127.0.0.1", 0, *(files or (None, None)))
    with bound_socket(address) as sock:
        port = sock.getsockname()[1]
        settings = settings or Settings(port=port)
        sessions, ready = Sessions(settings), threading.Event()
        server = make_server(create_app(service, settings, sessions, tools), address, settings.limits, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            assert ready.wait(PATIENCE_S), "the server does not start"
            yield Site(port, settings, sessions)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            if thread.is_alive():
                faulthandler.dump_traceback(sys.__stderr__)  # shows what keeps it
            assert not thread.is_alive(), "the server does not stop"


def eventually(holds: Callable[[], bool]) -> bool:
    """Return whether something becomes true while a test may wait."""
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return True


def logged_in(site: Site, token: str) -> Site:
    """Return the server for a client that sends a token."""
    return replace(site, headers={"authorization": f"Bearer {token}"})


BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def page_of(site: Site, path: str, status: int = 200) -> str:
    """Return a page as a browser gets it."""
    answer = site.ask(path, headers=BROWSER)
    assert (answer.status, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), path
    return answer.body.decode()


def shown(html: str) -> str:
    """Return the text of a page or a part of it, on one line."""
    return " ".join(unescape(re.sub("<[^>]*>", " ", html)).split())


def links(html: str) -> list[str]:
    return [unescape(each) for each in re.findall('href="([^"]*)"', html)]


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def check_page(html: bytes) -> None:
    """Nothing of a page is a script of its own, an event handler, or an address of another site."""
    for tag, attributes in Elements(html).found:
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
        assert tag not in ("style", "base", "iframe", "object", "embed")
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style", (tag, name)
            if name in ("href", "src", "action"):
                assert re.match(r"/(?![/\\])|\?|#\w*$", value or ""), (tag, value)
