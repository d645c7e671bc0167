"""The decode child: the process that parses media, so a crash of the parser affects only one file.

Run as `python -m vfindex.indexer.media.worker MEMORY_BYTES`. It reads requests from stdin and writes answers to
stdout, framed by `protocol`, and ends when stdin closes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import av

from vfindex.indexer.media import container, frames, probe, protocol, seeking
from vfindex.indexer.media.limits import end_with_parent, limit_cpu, limit_process

BEAT_S = 5.0  # between two heartbeats while there is nothing to send
SUBTITLE_BATCH_BYTES = 1 << 17  # of text in one message: escaped as JSON it grows up to sixfold


class AnswerWriter:
    """Writes framed answers to a file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._sent_at_s = time.monotonic()

    def send(self, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
        protocol.write_all(self._fd, protocol.pack(header, payload))
        self._sent_at_s = time.monotonic()

    def beat(self) -> None:
        """Send a heartbeat if nothing was sent for BEAT_S."""
        if time.monotonic() - self._sent_at_s > BEAT_S:
            self.send({"kind": "beat"})


def answer(request: dict[str, Any], path: bytes, out: AnswerWriter) -> None:
    """Answer one request; the last message has kind `probe`, `cuts`, `subtitles` with `last`, `end` or `error`."""
    limit_cpu(request["cpu_s"])
    try:
        if request["kind"] == "probe":
            out.send({"kind": "probe", **probe.probe(path, out.beat)})
        elif request["kind"] == "cuts":
            out.send({"kind": "cuts", "times": seeking.keyframes_before(path, request["times"], out.beat)})
        elif request["kind"] == "subtitles":
            send_subtitles(probe.subtitles(path, request["track"], out.beat), out)
        else:
            order = frames.ReadRequest.parse(request["order"])
            out.send({"kind": "end", **frames.read(path, order, out.send, out.beat)})
    except container.Refusal as refusal:
        out.send({"kind": "error", **refusal.fields})
    except MemoryError:
        out.send({"kind": "error", **container.out_of_memory("decode").fields})


def send_subtitles(events: list[tuple[float, float, str]], out: AnswerWriter) -> None:
    """Send the events in messages of about SUBTITLE_BATCH_BYTES."""
    batch: list[tuple[float, float, str]] = []
    size = 0
    for event in events:
        batch.append(event)
        size += len(event[2]) + 32
        if size > SUBTITLE_BATCH_BYTES:
            out.send({"kind": "subtitles", "events": batch, "last": False})
            batch, size = [], 0
    out.send({"kind": "subtitles", "events": batch, "last": True})


def serve(answer_one: Callable[[dict[str, Any], bytes, AnswerWriter], None]) -> None:
    """Confine this process, and answer requests until stdin closes."""
    end_with_parent()
    limit_process(int(sys.argv[1]))
    av.logging.set_level(av.logging.PANIC)  # FFmpeg's warnings about broken files are not needed
    out = AnswerWriter(os.dup(sys.stdout.fileno()))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # printing libraries cannot break the framing
    while True:
        try:
            request, path = protocol.unpack(protocol.read_exactly)
            answer_one(request, path, out)
        except (EOFError, BrokenPipeError):
            os._exit(0)  # the parent has ended; nothing to clean up


def main() -> None:
    """Answer the requests of a decoder until stdin closes."""
    serve(answer)


if __name__ == "__main__":
    main()
