"""The playback child: like the decode child (`media.worker`), with encoders. It reads media and sends media.

Run as `python -m vfindex.indexer.playback.worker MEMORY_BYTES`.
"""

from __future__ import annotations

from typing import Any

import av

from vfindex.indexer.media import container
from vfindex.indexer.media.limits import limit_cpu
from vfindex.indexer.media.worker import AnswerWriter, serve
from vfindex.indexer.playback import cuts, ladder, spans


def answer(request: dict[str, Any], path: bytes, out: AnswerWriter) -> None:
    """Answer one request; the last message has kind `playability`, `end` or `error`."""
    limit_cpu(request["cpu_s"])
    try:
        if request["kind"] == "playability":
            out.send({"kind": "playability", **ladder.playability(path)})
        elif request["kind"] == "stream":
            out.send({"kind": "end", **spans.stream(path, request["order"], out.send, out.beat)})
        else:
            out.send({"kind": "end", **cuts.cut(path.split(b"\0"), request["order"], out.send, out.beat)})
    except container.Refusal as refusal:
        out.send({"kind": "error", **refusal.fields})
    except MemoryError:
        out.send({"kind": "error", **container.out_of_memory("decode").fields})
    except (av.FFmpegError, ValueError) as exc:  # of a muxer or an encoder; decoders' are handled where they come up
        reason = f"FFmpeg cannot write it as MP4 ({getattr(exc, 'strerror', None) or exc})"
        out.send({"kind": "error", **container.Refusal("decode", "not_written", reason, "convert it").fields})


if __name__ == "__main__":
    serve(answer)
