"""The decode child: the process in which media are parsed, so that what breaks it breaks nothing else.

Run as `python -m vfindex.indexer.media.worker MEMORY_BYTES`. Requests come on stdin, answers go to stdout (`wire`); it
ends when stdin closes. The `decode_*` files are the only importers of av.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import av

from vfindex.indexer.media import container, frames, probe, protocol, seeking
from vfindex.indexer.media.limits import end_with_parent, limit_cpu, limit_process

BEAT_S = 5.0  # sign of life while nothing is to be sent
SUBTITLE_BATCH_BYTES = 1 << 17  # of text in one message: escaped as JSON it grows up to sixfold


class Outlet:
    """stdout, framed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._sent_at_s = time.monotonic()

    def send(self, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
        protocol.write_all(self._fd, protocol.pack(header, payload))
        self._sent_at_s = time.monotonic()

    def beat(self) -> None:
        """Tell the parent that work goes on, where nothing was sent for a while."""
        if time.monotonic() - self._sent_at_s > BEAT_S:
            self.send({"kind": "beat"})


def answer(request: dict[str, Any], path: bytes, out: Outlet) -> None:
    """Do one request; the last message has kind `probe`, `cuts`, `subtitles` with `last`, `end` or `error`."""
    limit_cpu(request["cpu_s"])
    try:
        if request["kind"] == "probe":
            out.send({"kind": "probe", **probe.probe(path, out.beat)})
        elif request["kind"] == "cuts":
            out.send({"kind": "cuts", "times": seeking.keyframes_before(path, request["times"], out.beat)})
        elif request["kind"] == "subtitles":
            send_subtitles(probe.subtitles(path, request["track"], out.beat), out)
        else:
            order = frames.Order(**request["order"])
            out.send({"kind": "end", **frames.read(path, order, out.send, out.beat)})
    except container.Refusal as refusal:
        out.send({"kind": "error", **refusal.fields})
    except MemoryError:
        out.send({"kind": "error", **container.out_of_memory("decode").fields})


def send_subtitles(events: list[tuple[float, float, str]], out: Outlet) -> None:
    """Send the events in messages of bounded size."""
    batch: list[tuple[float, float, str]] = []
    size = 0
    for event in events:
        batch.append(event)
        size += len(event[2]) + 32
        if size > SUBTITLE_BATCH_BYTES:
            out.send({"kind": "subtitles", "events": batch, "last": False})
            batch, size = [], 0
    out.send({"kind": "subtitles", "events": batch, "last": True})


def main() -> None:
    """Answer requests until stdin closes."""
    end_with_parent()
    limit_process(int(sys.argv[1]))
    av.logging.set_level(av.logging.PANIC)  # FFmpeg's remarks on broken files help nobody here
    out = Outlet(os.dup(sys.stdout.fileno()))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints cannot spoil the framing
    while True:
        try:
            request, path = protocol.unpack(protocol.read_exactly)
            answer(request, path, out)
        except (EOFError, BrokenPipeError):
            os._exit(0)  # the parent is gone or done; nothing is left to tidy


if __name__ == "__main__":
    main()
