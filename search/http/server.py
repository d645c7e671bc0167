"""The server: a socket, TLS, limits on connections, and a clean end."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vfindex.search.http.settings import Limits
from vfindex.storage.errors import UsageError, VfindexError

# Calls that run when the server is to stop have this long to end.
GRACE_S = 3
# Connections that the kernel keeps until they are accepted.
BACKLOG = 256


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. port 0: any free one. cert, key: files in PEM, for https."""

    host: str
    port: int
    cert: Path | None = None
    key: Path | None = None


def bound_socket(address: Address) -> socket.socket:
    """Return a socket that listens. Raises VfindexError if the port is in use or the host is not of this machine."""
    host, port = address.host, address.port
    try:
        [(family, _, _, _, place), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise UsageError(f"{host} is no address of this machine ({exc.strerror}); give one with --host") from exc
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise VfindexError(_cannot_listen(exc, host, port)) from exc
    return sock


def _cannot_listen(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use, perhaps by another vfindex serve; give another one with --port"
    if exc.errno == errno.EACCES:
        return f"port {port} may not be used by this user; give one of 1024 or more with --port"
    return f"cannot listen on {host}, port {port} ({os.strerror(exc.errno or 0)}); give an address of this machine"


def check_tls(address: Address) -> None:
    """Raise UsageError if certificate and key cannot be used."""
    if (address.cert is None) != (address.key is None):
        raise UsageError("--cert and --key go together: the certificate, and its private key, both in PEM")
    if address.cert is None or address.key is None:
        return
    for file in (address.cert, address.key):
        try:
            file.open("rb").close()
        except OSError as exc:
            raise UsageError(f"{file}: {exc.strerror}; give a file in PEM") from exc
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(address.cert, address.key, password=_no_password)
    except (ssl.SSLError, ValueError) as exc:
        raise UsageError(f"{address.cert} and {address.key} are no certificate and its private key in PEM") from exc


def _no_password() -> str:
    raise ValueError("the key has a password")


class Protocol(H11Protocol):
    """HTTP/1.1 that ends the connections of clients that neither send nor read: uvicorn waits for them for ever.

    A request must come within `limits.head_s`, and what was sent must be read within `limits.stalled_s`.
    """

    limits: ClassVar[Limits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.limits.connections:
            transport.abort()  # uvicorn answers it with 503, but keeps it: the process would run out of files
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not `close`, which waits until all is read.
        self._stall_timer = self.loop.call_later(self.limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_stall_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head_timer()
        self._end_stall_timer()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_s, self.transport.close)

    def _end_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM; uvicorn would raise them again after its end, which is an end like any other."""
        if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def make_server(app: ASGIApp, address: Address, limits: Limits, ready: Callable[[], None]) -> uvicorn.Server:
    """Return a server; its `run(sockets=[socket])` ends at SIGINT or SIGTERM. ready: called once it answers."""

    class Limited(Protocol):
        pass

    Limited.limits = limits

    config = uvicorn.Config(
        app,
        http=Limited,
        ws="none",
        loop="asyncio",
        lifespan="on",
        access_log=False,  # questions are nobody's business
        log_config=None,
        log_level="critical",  # what a client sends is no news; bugs are logged by the application
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.connections,
        h11_max_incomplete_event_size=limits.head_bytes,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=address.cert,
        ssl_keyfile=address.key,
    )
    return _Server(config, ready)
