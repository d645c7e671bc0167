"""JSON over one HTTP connection with limits: time, size, no redirects, certificates verified."""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from vfindex import __version__
from vfindex.search.remote.address import Address
from vfindex.storage.errors import VfindexError

# Until a server accepts a connection.
CONNECT_S = 5.0
_PIECE = 1 << 16
_REDIRECTED = "it sends questions on to another address, which is not followed; name that one, if it is yours"


class NoAnswer(VfindexError):
    """A server gives no answer that can be used. Its text is a clause that says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What is expected at an address. other: the clause for an answer of anything else. page: on certificates."""

    other: str
    page: str


class JsonConnection:
    """A connection to a server, opened at the first question. token: None for a server that asks nobody for one."""

    def __init__(self, address: Address, token: str | None, peer: Peer) -> None:
        self._address, self._token, self._peer = address, token, peer
        self._open: http.client.HTTPConnection | None = None
        self._has_ended = False

    def end(self) -> None:
        """Close the connection permanently, also under a call that waits."""
        self._has_ended = True
        self.close()

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        connection, self._open = self._open, None
        if connection is None:
            return
        if connection.sock is not None:
            with suppress(OSError):  # it may have ended by itself
                connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    def post(self, path: str, document: Mapping[str, Any], end_s: float, max_bytes: int) -> tuple[int, bytes]:
        """Return status and body of the answer to a document. end_s: of time.monotonic. A redirect is not followed.

        Raises NoAnswer with a clause that says why there is none; the connection is closed then.
        """
        body = json.dumps(document).encode("ascii")
        try:
            if self._open is not None:
                try:
                    return self._posted(path, body, end_s, max_bytes)
                except ConnectionError:  # the server closes connections that were silent for some seconds
                    self.close()
            return self._posted(path, body, end_s, max_bytes)
        except TimeoutError:
            self.fail("it does not answer in time")
        except ssl.SSLCertVerificationError as exc:
            self.fail(f"its certificate is not trusted ({exc.verify_message}); see {self._peer.page}")
        except ssl.SSLError as exc:
            self.fail(f"no encrypted connection is possible ({exc.reason or 'TLS failed'}); it may not serve https")
        except socket.gaierror:
            self.fail("there is no machine of this name")
        except (http.client.HTTPException, ValueError):
            self.fail(self._peer.other)
        except OSError as exc:
            self.fail(f"it cannot be reached ({exc.strerror or 'the connection ended'})")

    def parsed(self, data: bytes) -> dict[str, Any]:
        """Return the object in a body. Raises NoAnswer."""
        try:
            found = json.loads(data, parse_constant=_no_number)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.fail(self._peer.other)
        return found

    def fail(self, reason: str) -> NoReturn:
        """Close the connection and raise NoAnswer."""
        self.close()
        raise NoAnswer(reason)

    def _posted(self, path: str, body: bytes, end_s: float, max_bytes: int) -> tuple[int, bytes]:
        connection = self._connected(end_s)
        headers = {"content-type": "application/json", "user-agent": f"vfindex/{__version__}"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        connection.request("POST", f"{self._address.path}{path}", body, headers)
        connection.response_class = _answer_until(end_s)
        answer = connection.getresponse()
        data = self._read(answer, max_bytes)
        if 300 <= answer.status < 400:
            self.fail(_REDIRECTED)
        return answer.status, data

    def _connected(self, end_s: float) -> http.client.HTTPConnection:
        """Return the open connection; its socket waits no longer than until `end_s`."""
        if self._open is None or self._open.sock is None:
            host, port, wait_s = self._address.host, self._address.port, min(CONNECT_S, _left(end_s))
            if self._address.scheme == "https":
                context = ssl.create_default_context()
                opened: http.client.HTTPConnection = http.client.HTTPSConnection(
                    host, port, timeout=wait_s, context=context
                )
            else:
                opened = http.client.HTTPConnection(host, port, timeout=wait_s)
            opened.connect()
            self._open = opened
            if self._has_ended:
                raise TimeoutError
        self._limit(end_s)
        return self._open

    def _limit(self, end_s: float) -> None:
        if self._open is not None and self._open.sock is not None:
            self._open.sock.settimeout(_left(end_s))

    def _read(self, answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
        """Return the body."""
        pieces, size = [], 0
        while piece := answer.read1(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                self.fail(f"its answer is larger than {max_bytes >> 20} MiB")
        if answer.length:  # the connection ended before the body did
            raise http.client.IncompleteRead(b"")
        answer.close()  # the connection is free for the next step
        return b"".join(pieces)


class _Until(io.RawIOBase):
    """What a socket receives until a time. A server that sends a byte now and then is slow, too, also in a header."""

    def __init__(self, sock: socket.socket, received: io.RawIOBase, end_s: float) -> None:
        self._sock, self._received, self._end_s = sock, received, end_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._end_s))
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


def _answer_until(end_s: float) -> type[http.client.HTTPResponse]:
    """Return the class of an answer whose reads all raise TimeoutError from `end_s` on."""

    class Answer(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **settings: Any) -> None:
            super().__init__(sock, *args, **settings)
            self.fp = io.BufferedReader(_Until(sock, self.fp.detach(), end_s))

    return Answer


def _left(end_s: float) -> float:
    """Return the seconds that are left. Raises TimeoutError."""
    left = end_s - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)
