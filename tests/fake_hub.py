"""A model hub on 127.0.0.1 that implements the protocol of a download, correctly or with faults."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 1000  # files from this size on are stored like large ones on the real hub, with their sha256


def safetensors(values: int) -> bytes:
    """Return a file in the format safetensors with one tensor of that many numbers."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * values)


def sentence_files() -> dict[str, bytes]:
    """Return the files of a sentence-transformers repository, with some unneeded ones."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    return {
        "modules.json": json.dumps(modules).encode(),
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
        "model.safetensors": safetensors(100_000),
        "pytorch_model.bin": b"a pickle",
        "onnx/model.onnx": b"a graph",
        "README.md": b"# A model",
    }


@dataclass
class Hub:
    """The contents of the server, and its faults.

    repositories: name -> files. requests: (path, Range header) in order.
    cut: this file's body stops in its middle, the connection stays. drop: the same, and the connection is closed, once.
    spoil: this file is sent with wrong bytes. hang: no answer to paths that contain this text.
    missing: answer 404 with this error code.
    """

    repositories: dict[str, dict[str, bytes]]
    cut: str = ""
    drop: str = ""
    spoil: str = ""
    hang: str = ""
    missing: str = ""
    address: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub while the body runs; its `address` is set."""

    class Handler(_Handler):
        held = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    held: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, path = self.held, urlsplit(self.path).path
        hub.requests.append((path, self.headers.get("Range", "")))
        if hub.hang and hub.hang in path:
            hub.over.wait(60)
            return
        if hub.missing:
            self._send(404, b"{}", {"X-Error-Code": hub.missing, "X-Error-Message": "not here"})
            return
        if listing := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(\w+))?", path):
            self._list(listing[1])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            self._file(hub.repositories[found[1]], found[3])
        else:
            self._send(404, b"", {})

    def _list(self, repository: str) -> None:
        siblings = [_sibling(name, data) for name, data in self.held.repositories[repository].items()]
        document = {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": []}
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _file(self, files: dict[str, bytes], name: str) -> None:
        data, hub = files[name], self.held
        if name == hub.spoil:
            data = bytes(byte ^ 1 for byte in data)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        extent = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if asked else {}
        body = data[start:]
        if name in (hub.cut, hub.drop):
            self._head(206 if asked else 200, len(body), extent)
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if name == hub.cut:
                hub.over.wait(60)
            hub.drop, self.close_connection = "", True
            return
        self._send(206 if asked else 200, body, extent)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    large = {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}
    return {"rfilename": name, "size": len(data), "blobId": blob, **(large if len(data) >= LARGE_BYTES else {})}
