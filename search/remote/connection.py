"""Questions to a server, over one connection with limits: time, size, no redirects, certificates verified."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from vfindex import __version__
from vfindex.search.remote.address import Address
from vfindex.storage.errors import LibraryChanged, LibraryUnreachable

PATH = "/api/v1/member"
# Until a server accepts a connection, and until it has answered one step of a question.
CONNECT_S, ANSWER_S = 5.0, 20.0
# The largest answer: 10,000 candidates of a search for 1,000 hits have 50 MB.
MAX_BYTES = 64 << 20
_PIECE = 1 << 16
# Characters that are shown of what a server says.
_SHOWN_CHARS = 200
_NOT_THERE = "no vfindex of this version answers there; check the address, or install {version} there"
_NO_TOKEN = "it asks for a token, and none is set for it; docs/libraries.md says where to put it"
_WRONG_TOKEN = "it refuses the token; docs/libraries.md says which one it takes"


class Connection:
    """A connection to a server, opened at the first question. token: None for a server that asks nobody for one."""

    def __init__(self, address: Address, token: str | None) -> None:
        self._address, self._token = address, token
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

    def ask(self, step: str, question: Mapping[str, Any], until_s: float | None) -> dict[str, Any]:
        """Return the answer to one step of a question. until_s: of time.monotonic; None: ANSWER_S.

        Raises LibraryUnreachable with a clause that says why there is none.
        """
        most_s = time.monotonic() + ANSWER_S
        end_s = most_s if until_s is None else min(until_s, most_s)
        body = json.dumps({"step": step, "question": question}).encode("ascii")
        try:
            if self._open is not None:
                try:
                    return self._answered(body, end_s)
                except ConnectionError:  # the server closes connections that were silent for some seconds
                    self.close()
            return self._answered(body, end_s)
        except TimeoutError:
            self._fail("it does not answer in time")
        except ssl.SSLCertVerificationError as exc:
            self._fail(f"its certificate is not trusted ({exc.verify_message}); see docs/libraries.md")
        except ssl.SSLError as exc:
            self._fail(f"no encrypted connection is possible ({exc.reason or 'TLS failed'}); it may not serve https")
        except socket.gaierror:
            self._fail("there is no machine of this name")
        except (http.client.HTTPException, ValueError, RecursionError):
            self._fail("its answer is not one of vfindex serve")
        except OSError as exc:
            self._fail(f"it cannot be reached ({exc.strerror or 'the connection ended'})")

    def _answered(self, body: bytes, end_s: float) -> dict[str, Any]:
        connection = self._connected(end_s)
        headers = {"content-type": "application/json", "user-agent": f"vfindex/{__version__}"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        connection.request("POST", f"{self._address.path}{PATH}", body, headers)
        self._limit(end_s)
        answer = connection.getresponse()
        data = self._read(answer, end_s)
        if answer.status != 200:
            self._refused(answer.status, data)
        found = json.loads(data, parse_constant=_no_number)
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found

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

    def _read(self, answer: http.client.HTTPResponse, end_s: float) -> bytes:
        """Return the body. A server that sends a byte now and then is slow, too."""
        pieces, size = [], 0
        while piece := answer.read1(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BYTES:
                self._fail(f"its answer is larger than {MAX_BYTES >> 20} MiB")
            self._limit(end_s)
            _left(end_s)
        if answer.length:  # the connection ended before the body did
            raise http.client.IncompleteRead(b"")
        answer.close()  # the connection is free for the next step
        return b"".join(pieces)

    def _refused(self, status: int, data: bytes) -> NoReturn:
        """Raise what an answer that is an error means."""
        if 300 <= status < 400:
            self._fail("it sends questions on to another address, which is not followed; name that one, if it is yours")
        kind, message = _error_in(data)
        if self._token is not None:
            message = message.replace(self._token, "...")
        if status == 401:
            self._fail(_WRONG_TOKEN if self._token else _NO_TOKEN)
        if kind == LibraryChanged.__name__:
            self._fail("it changes too fast to be searched; ask again after its run", has_changed=True)
        # Forbidden: a token for reading may ask questions, but post nothing to any other path.
        if status in (404, 405) or kind in ("UnknownParameter", "Forbidden"):
            self._fail(_NOT_THERE.format(version=f"vfindex {__version__}"))
        self._fail(f"it answers: {message}" if message else f"it answers with the status {status}")

    def _fail(self, reason: str, *, has_changed: bool = False) -> NoReturn:
        self.close()
        raise LibraryUnreachable(str(self._address), reason, has_changed=has_changed)


def _left(end_s: float) -> float:
    """Return the seconds that are left. Raises TimeoutError."""
    left = end_s - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _error_in(data: bytes) -> tuple[str, str]:
    """Return kind and message of an error of vfindex, empty for any other; what it says is on one line."""
    try:
        error = json.loads(data)["error"]
        kind, message = error["kind"], error["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", ""
    if not isinstance(kind, str) or not isinstance(message, str):
        return "", ""
    return kind, "".join(char if char.isprintable() else "?" for char in message)[:_SHOWN_CHARS]


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)
