"""Servers that are down, slow, hostile or of another kind: a sentence each, and the others answer."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answering import answering, sending
from certificates import certificate
from serving import Site, serving

from vfindex.search.http.settings import Settings, Tokens
from vfindex.search.remote import connection as connection_module
from vfindex.search.remote.address import Address, parse_tokens
from vfindex.search.remote.connection import Connection
from vfindex.search.remote.member import RemoteLibrary
from vfindex.search.results import Hits
from vfindex.search.service import SearchService
from vfindex.storage.errors import LibraryError, LibraryUnreachable, UsageError

TOKEN = "secret-of-this-server-0123456789-abcdef"
NOT_VFINDEX = "its answer is not one of vfindex serve"


def asked(folder: Path, port: int, token: str | None = TOKEN, **options: Any) -> Hits:
    """Return the answer of a library here and a server."""
    library = RemoteLibrary(Address("http", "127.0.0.1", port), token)
    return SearchService(folder, remotes=[library]).search("a", min_confidence="none", **options)


def reason(folder: Path, port: int, **options: Any) -> str:
    """Return why a server is missing in an answer that has the hits of the library here."""
    hits = asked(folder, port, **options)
    [missing] = hits.missing
    assert missing.library == f"http://127.0.0.1:{port}" and len(hits) == 7
    assert TOKEN not in json.dumps(hits.to_dict())
    assert hits.to_dict()["missing"] == [{"library": missing.library, "reason": missing.reason}]
    return missing.reason


OK = b"HTTP/1.1 200 OK"
STATE = {"spec": "x", "state": "y", "dims": {}, "facts": {}, "statistics": {}, "likes": []}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (sending(OK, b"<html>"), NOT_VFINDEX),
        (sending(OK, b"[1]"), NOT_VFINDEX),
        (sending(OK, b"{}"), NOT_VFINDEX),
        (sending(OK, b'{"version": NaN}'), NOT_VFINDEX),
        (sending(OK, b"[" * 100_000), NOT_VFINDEX),
        (sending(OK, b'{"version": ' + b"9" * 9000 + b"}"), NOT_VFINDEX),
        (sending(OK, json.dumps(STATE | {"version": connection_module.__version__}).encode()), "its models or spec"),
        (sending(OK, b'{"version": "9.9\\u001b[31m"}'), "it runs vfindex 9.9[31m, and this is"),
        (lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.9\r\n"), NOT_VFINDEX),
        (lambda sock: sock.sendall(OK + b"\r\ncontent-length: 99\r\n\r\n{"), NOT_VFINDEX),
        (lambda sock: sock.sendall(OK + b"\r\n" + b"a: b\r\n" * 200 + b"\r\n"), NOT_VFINDEX),
        (lambda sock: sock.sendall(OK + b"\r\na: " + b"b" * 70_000 + b"\r\n\r\n"), NOT_VFINDEX),
        (sending(b"HTTP/1.1 404 Not Found"), "no vfindex of this version answers there"),
        (sending(b"HTTP/1.1 403 No", b'{"error": {"kind": "Forbidden", "message": "may only read"}}'),
         "no vfindex of this version answers there; check the address"),
        (sending(b"HTTP/1.1 500 Bug", b"\x1b[31m"), "it answers with the status 500"),
        (sending(b"HTTP/1.1 401 No"), "it refuses the token"),
        (sending(b"HTTP/1.1 503 No", json.dumps({"error": {"kind": "Busy", "message": f"\x07wait, {TOKEN}"}}).encode()),
         "it answers: ?wait, ..."),
    ],
)  # fmt: skip
def test_an_answer_that_is_none(folders: list[Path], answer: Any, expected: str) -> None:
    with answering(answer) as (port, _):
        assert reason(folders[1], port).startswith(expected)


def test_a_redirect_is_not_followed(folders: list[Path]) -> None:
    with answering(sending(OK, b"{}")) as (other, seen):
        for status in (301, 302, 307, 308):
            where = b"HTTP/1.1 %d Moved\r\nlocation: http://127.0.0.1:%d/" % (status, other)
            with answering(sending(where)) as (port, _):
                assert reason(folders[1], port).startswith("it sends questions on to another address")
    assert seen == []


def test_an_answer_too_large(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_BYTES", 1 << 20)

    def forever(sock: socket.socket) -> None:
        sock.sendall(OK + b"\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            sock.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")

    with answering(forever) as (port, _):
        assert reason(folders[1], port) == "its answer is larger than 1 MiB"


@pytest.mark.parametrize("head", [b"", OK + b"\r\ncontent-length: 1000\r\n\r\n"])
def test_a_server_that_is_slow(folders: list[Path], head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfindex.search.remote.member.ANSWER_S", 1.0)
    done = threading.Event()

    def trickle(sock: socket.socket) -> None:
        sock.sendall(head)
        while not done.wait(0.05):
            sock.sendall(b" ")

    with answering(trickle) as (port, _):
        assert reason(folders[1], port) == "it does not answer in time"
        assert reason(folders[1], port, timeout_s=6) == "it does not answer in time"
        done.set()


def test_a_time_limit_leaves_time_for_the_others(folders: list[Path]) -> None:
    done = threading.Event()
    with answering(lambda _: done.wait(60)) as (port, _):
        assert reason(folders[1], port, timeout_s=10) == "it does not answer in time"
        done.set()


def test_a_server_that_is_down(folders: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert reason(folders[1], port) == "it cannot be reached (Connection refused)"
    down = RemoteLibrary(Address("http", "127.0.0.1", port))
    with pytest.raises(LibraryError, match=rf"^http://127\.0\.0\.1:{port}: it cannot be reached"):
        SearchService([], remotes=[down]).search("a")
    unknown = RemoteLibrary(Address("https", "no.such.host.invalid", 443))
    hits = SearchService(folders[1], remotes=[unknown, down]).search("a", min_confidence="none")
    assert [each.library for each in hits.missing] in ([unknown.place, down.place], [down.place, unknown.place])
    assert len(hits) == 7


def test_a_server_that_ends_between_two_steps(
    folders: list[Path], sites: list[Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Connection.ask

    for late in ("candidates", "hits"):

        def failing(self: Any, step: str, *arguments: Any, late: str = late) -> Any:
            if step == late:
                raise LibraryUnreachable("http://127.0.0.1", "gone")
            return ask(self, step, *arguments)

        monkeypatch.setattr(Connection, "ask", failing)
        library = RemoteLibrary(Address("http", "127.0.0.1", sites[2].port))
        monkeypatch.setattr(RemoteLibrary, "place", property(lambda _: "http://127.0.0.1"))
        hits = SearchService(folders[1], remotes=[library]).search("heron a", top_k=30, min_confidence="none")
        alone = SearchService(folders[1]).search("heron a", top_k=30, min_confidence="none")
        assert [each.reason for each in hits.missing] == ["gone"]
        assert [hit.score for hit in hits] == [hit.score for hit in alone], "nothing of the missing one counts"


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a document with another value at a path."""
    if not path:
        return value
    if isinstance(document, list):
        return [changed(e, path[1:], value) if n == path[0] else e for n, e in enumerate(document)]
    return {k: changed(e, path[1:], value) if k == path[0] else e for k, e in document.items()}


def paths_in(document: Any, depth: int = 0) -> Iterator[tuple[Any, ...]]:
    """Yield the paths to the values of a document: of a list, to the first two."""
    yield ()
    pairs = list(enumerate(document))[:2] if isinstance(document, list) else []
    pairs = list(document.items()) if isinstance(document, dict) else pairs
    for key, each in pairs:
        yield from ((key, *path) for path in paths_in(each))


def values_at(document: Any, path: tuple[Any, ...]) -> list[Any]:
    """Return what may replace the value at a path: other types, and extremes of its own."""
    for key in path:
        document = document[key]
    extremes: dict[type, list[Any]] = {int: [1e999, 2**70, True], float: [1e999, 2**70, True], list: [[[]], [{}]]}
    return [None, -1, "x", [], {}, *extremes.get(type(document), [])]


@pytest.mark.parametrize("step", ["statistics", "candidates", "hits"])
def test_no_changed_answer_ends_a_question(
    folders: list[Path], sites: list[Site], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value of each answer is replaced by others: there are hits, and a sentence, and never a traceback.

    The server answers an equal question once.
    """
    ask, answers, known = Connection.ask, list[Any](), dict[tuple[str, str], Any]()

    def recorded(self: Any, name: str, question: Any, until_s: float | None) -> Any:
        key = name, json.dumps(question)
        if key not in known:
            known[key] = ask(self, name, question, until_s)
        if name == step:
            answers.append(known[key])
        return known[key]

    library = RemoteLibrary(Address("http", "127.0.0.1", sites[2].port))
    monkeypatch.setattr(Connection, "ask", recorded)
    service = SearchService(folders[1], remotes=[library])
    service.search("heron a lang:xx", images=(), top_k=3, min_confidence="none")
    service.search("heron a", top_k=3, min_confidence="none")
    answer = answers[-1]
    for path in paths_in(answer):
        for value in values_at(answer, path):

            def forged(self: Any, name: str, *arguments: Any, path: Any = path, value: Any = value) -> Any:
                found = recorded(self, name, *arguments)
                return changed(found, path, value) if name == step else found

            monkeypatch.setattr(Connection, "ask", forged)
            hits = service.search("heron a", top_k=3, min_confidence="none")
            assert len(hits) == 3, (path, value)
            json.dumps(hits.to_dict(), allow_nan=False)


# --- tokens and certificates ----------------------------------------------------------------------------------------


def test_a_token_for_reading_is_enough_and_a_wrong_one_is_told(folders: list[Path]) -> None:
    tokens = Tokens(TOKEN, TOKEN[::-1])
    with SearchService(folders[2]) as served, serving(served, Settings(tokens=tokens)) as site:
        assert asked(folders[1], site.port, TOKEN).missing == ()
        assert asked(folders[1], site.port, TOKEN[::-1]).missing == ()
        [missing] = asked(folders[1], site.port, "x" * 40).missing
        assert missing.reason.startswith("it refuses the token; ")
        [missing] = asked(folders[1], site.port, None).missing
        assert missing.reason.startswith("it asks for a token, and none is set for it; ")


def test_the_token_is_sent_to_its_server_alone_and_shown_nowhere(folders: list[Path]) -> None:
    library = RemoteLibrary(Address("http", "127.0.0.1", 1), TOKEN)
    assert TOKEN not in repr(library) + str(library) + repr(vars(SearchService([], remotes=[library])))
    with answering(sending(OK, b"{}")) as (port, received):
        reason(folders[1], port)
    assert f"authorization: Bearer {TOKEN}".encode() in received[0]


def test_certificates_are_verified(folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("good", "other"):
        (tmp_path / name).mkdir()
    good, other = certificate(tmp_path / "good", "127.0.0.1"), certificate(tmp_path / "other", "films.example")
    with (
        SearchService(folders[2]) as served,
        serving(served, files=good) as site,
        serving(served, files=other) as wrong,
    ):
        trusted = RemoteLibrary(Address("https", "127.0.0.1", site.port))
        [missing] = SearchService(folders[1], remotes=[trusted]).search("a").missing
        assert (
            missing.reason.startswith("its certificate is not trusted (self") and "docs/libraries.md" in missing.reason
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(good[0]))
        hits = SearchService(folders[1], remotes=[trusted]).search("a", top_k=30, min_confidence="none")
        assert hits.missing == () and len(hits) == 14
        monkeypatch.setenv("SSL_CERT_FILE", str(other[0]))
        named = RemoteLibrary(Address("https", "127.0.0.1", wrong.port))
        [missing] = SearchService(folders[1], remotes=[named]).search("a").missing
        assert "IP address mismatch" in missing.reason
        plain = RemoteLibrary(Address("http", "127.0.0.1", site.port), TOKEN)
        [missing] = SearchService(folders[1], remotes=[plain]).search("a").missing
        assert (
            missing.reason in (NOT_VFINDEX, "it cannot be reached (the connection ended)") or "reset" in missing.reason
        )
    with answering(sending(OK, b"{}")) as (port, received):
        library = RemoteLibrary(Address("https", "127.0.0.1", port), TOKEN)
        [missing] = SearchService(folders[1], remotes=[library]).search("a").missing
        assert missing.reason.startswith("no encrypted connection is possible")
    assert TOKEN.encode() not in b"".join(received)


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://Films.example", "https://films.example"),
        ("https://films.example:443/", "https://films.example"),
        ("https://films.example:8421/archive/", "https://films.example:8421/archive"),
        ("http://127.0.0.1:8421", "http://127.0.0.1:8421"),
        ("http://localhost", "http://localhost"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://\uff46ilms.example.", "https://films.example"),
        ("HTTPS://[2001:db8::1]:8421", "https://[2001:db8::1]:8421"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert str(Address.parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://films.example", "is not encrypted"),
        ("http://192.168.1.7:8421", "is not encrypted"),
        ("http://127.0.0.1.evil.example", "is not encrypted"),
        ("https://user:pass-word@films.example", "may hold no user and no password"),
        ("https://user:pass-word@films.example:x", "may hold no user and no password"),
        ("https://", "is no address"),
        ("ftp://films.example", "is no address"),
        ("https://films.example:x", "is no address"),
        ("https://films..example", "is no address"),
        (f"https://{'a' * 64}.example", "is no address"),
        ("https://films.example:99999", "is no address"),
        ("https://films.example/?token=a", "is no address"),
        ("https://films.example/#a", "is no address"),
        ("https://films.example/a b", "is no address"),
        ("https://films.example/..%2f", "is no address"),
        ("https://[::1", "is no address"),
        ("https://a\nb", "is no address"),
    ],
)
def test_addresses_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Address.parse(text)
    assert "pass-word" not in str(caught.value) and "\n" not in str(caught.value)


def test_tokens_belong_to_an_origin() -> None:
    text = f"# films\nhttps://films.example:8421/archive {TOKEN}\n\nhttps://other.example abc https://third.example d"
    tokens = parse_tokens(text, "the file")
    assert tokens == {
        "https://films.example:8421": TOKEN,
        "https://other.example": "abc",
        "https://third.example": "d",
    }
    for wrong in (
        TOKEN,
        f"films.example {TOKEN}",
        f"https://a.example {TOKEN} https://b.example",
        f"{TOKEN} https://a",
    ):
        with pytest.raises(UsageError, match=r"^the file must hold pairs of an address and its token") as caught:
            parse_tokens(wrong, "the file")
        assert TOKEN not in str(caught.value)
