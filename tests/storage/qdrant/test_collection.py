"""Qdrant's client: what users may type, who gets the API key, and what is said of a server that refuses."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import qdrant_client
from library_maker import add_video, axis, clip, install

from vfindex.storage.collections import Collections
from vfindex.storage.errors import IndexUnusable, NotPublished, UsageError
from vfindex.storage.maintenance.rebuild import rebuild
from vfindex.storage.qdrant.collection import KEY_VARIABLE, URL_VARIABLE, Collection, server_of
from vfindex.storage.writer import writing


def test_places_of_the_index() -> None:
    assert server_of("built-in") == ""
    assert server_of("qdrant:https://host") == "https://host:6333"
    assert server_of("qdrant:http://10.0.0.7:6334/") == "http://10.0.0.7:6334"
    assert server_of("qdrant:https://[::1]:7000/base/") == "https://[::1]:7000/base"
    for wrong in ("", "qdrant:", "qdrant:host:6333", "qdrant:ftp://host", "https://host", "qdrant:https://host?key=1"):
        with pytest.raises(UsageError, match="takes built-in or qdrant:URL"):
            server_of(wrong)
    with pytest.raises(UsageError, match="must hold no key") as refused:
        server_of("qdrant:https://me:secret@host")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url, named, key, expected",
    [
        ("http://localhost:6333", None, "top-secret", None),
        ("http://localhost:6333", "http://localhost:6333", "top-secret", "top-secret"),
        ("https://host:6333", "https://host", " top-secret\r\n", "top-secret"),
        ("https://host:6333", "https://host", "top-secret-ö", "QDRANT_API_KEY is no API key"),
        ("https://host:6333", "https://host", "top-secret\n2", "QDRANT_API_KEY is no API key"),
        ("http://localhost:6333", "host:6333", None, "QDRANT_URL must be the URL of Qdrant without a key"),
        ("http://localhost:6333", "https://me:top-secret@host", None, "QDRANT_URL must be the URL of Qdrant"),
        ("https://host:6333", "https://host", "top-secret", "top-secret"),
        ("https://host:6333", "https://host", None, None),
        ("http://host:6333", "http://host:6333/", None, None),
        ("http://host:6333", "http://host:6333", "top-secret", "would be sent to host unencrypted; use https"),
        (
            "https://host:6333",
            None,
            "top-secret",
            "QDRANT_URL does not name the Qdrant server at https://host:6333; to use it, set QDRANT_URL=",
        ),
        (
            "https://evil:6333",
            "https://host:6333",
            "top-secret",
            "QDRANT_URL does not name the Qdrant server at https://evil:6333",
        ),
    ],
)
def test_who_gets_the_key(
    monkeypatch: pytest.MonkeyPatch, url: str, named: str | None, key: str | None, expected: str | None
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(qdrant_client, "QdrantClient", lambda **settings: made.append(settings))
    for name, value in ((URL_VARIABLE, named), (KEY_VARIABLE, key)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    if expected in (None, "top-secret"):
        Collection(url, "a")
        [settings] = made
        assert (settings["url"], settings["api_key"]) == (url, expected) and "verify" not in settings
    else:
        with pytest.raises(IndexUnusable, match=expected) as refused:
            Collection(url, "a")
        assert not made and "top-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "status, said",
    [
        (200, "Collection exists returned None"),
        (401, "set QDRANT_URL and QDRANT_API_KEY"),
        (429, "Resource Exhausted Response"),
        (503, "it answers 503 Service Unavailable"),
    ],
)
def test_what_a_server_answers_is_one_sentence(monkeypatch: pytest.MonkeyPatch, status: int, said: str) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("api-key"))
            self.send_response(status)
            self.send_header("Retry-After", "3")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    heard: list[str | None] = []
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv(URL_VARIABLE, url)
        monkeypatch.setenv(KEY_VARIABLE, "top-secret")
        with pytest.raises(IndexUnusable, match=rf"^the collection a of Qdrant at {url} cannot be used \(") as refused:
            Collection(url, "a").state()
        server.shutdown()
    assert said in str(refused.value) and "\n" not in str(refused.value) and heard == ["top-secret"]


def test_a_proxy_that_the_client_cannot_use_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "ftp://127.0.0.1:9")
    with pytest.raises(IndexUnusable, match=r"^Qdrant at http://127\.0\.0\.1:9 cannot be used \(.*ftp"):
        Collection("http://127.0.0.1:9", "a")


def test_a_closed_port_is_one_sentence() -> None:
    with pytest.raises(IndexUnusable, match=r"^the collection a of Qdrant at http://127\.0\.0\.1:9 cannot be used \("):
        Collection("http://127.0.0.1:9", "a").state()


def test_a_server_that_was_never_reached_leaves_nothing_to_delete(tmp_path: Path) -> None:
    folder, place = tmp_path / "library", "qdrant:http://127.0.0.1:9"
    with writing(folder) as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(1))])
        writer.publish()
    with pytest.raises(NotPublished, match=f"once it can be used, run: vfindex rebuild --index {place}"):
        rebuild(folder, place=place)
    with writing(folder) as writer:
        assert Collections(writer.catalog).all() == () and writer.publisher.left() == ""
