"""A server that answers each connection with bytes of a test's own, and keeps what it received."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def answering(answer: Callable[[socket.socket], object], context: ssl.SSLContext | None = None) -> Iterator[Any]:
    """Yield the port of a server that answers each connection with `answer`, and the list of all it received."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    plain, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(plain,), daemon=True).start()

        def talk(plain: socket.socket) -> None:
            try:
                sock = plain if context is None else context.wrap_socket(plain, server_side=True)
                with sock:
                    received.append(request(sock))
                    answer(sock)
            except OSError:
                plain.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], received
        server.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def request(sock: socket.socket) -> bytes:
    """Return all that a client asks: what a server leaves unread resets the connection, and its answer may be lost."""
    data = piece = sock.recv(1 << 16)
    while piece and data.startswith(b"POST ") and not is_whole(data):
        piece = sock.recv(1 << 16)
        data += piece
    return data


def is_whole(data: bytes) -> bool:
    head, ends, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return bool(ends and length) and len(body) >= int(length[1])


def sending(head: bytes, body: bytes = b"") -> Callable[[socket.socket], object]:
    return lambda sock: sock.sendall(head + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
