"""Inside the playback child: frames that were stored as two fields, as whole frames."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph
from av.video.frame import VideoFrame

# One frame for each, so that frame numbers stay; frames that are not marked as interlaced pass as they are. bwdif is
# motion adaptive, made of the BBC's w3fdif and yadif.
FILTER, OPTIONS = "bwdif", "mode=send_frame:deint=interlaced"
MIN_SIDE_PX = 8  # the filter takes planes from 4 x 4 on; those of colour have half the size

Timed = tuple[VideoFrame, float]


class Deinterlacer:
    """Takes frames with their times, and gives the same number back, in order.

    From the first interlaced frame on, each comes when the next one is known, which it is compared with.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._shape: tuple[Any, ...] = ()
        self._within: deque[tuple[float, int]] = deque()  # time in s, and duration in ticks of the source

    def add(self, frame: VideoFrame, time_s: float) -> list[Timed]:
        """Take the next frame; return those that are ready."""
        ready: list[Timed] = []
        shape = (frame.width, frame.height, frame.format.name)
        if shape != self._shape:
            ready = self.finish()
            self._shape = shape
        if self._graph is None:
            if not frame.interlaced_frame or min(shape[:2]) < MIN_SIDE_PX:
                return [*ready, (frame, time_s)]
            self._graph = _graph(frame)
        self._within.append((time_s, frame.duration))
        frame.pts, frame.time_base = None, Fraction(1)  # its time is kept here
        self._graph.vpush(frame)
        return ready + self._pulled(self._graph)

    def finish(self) -> list[Timed]:
        """Return the frames that wait for another one."""
        graph, self._graph = self._graph, None
        if graph is None:
            return []
        graph.vpush(None)
        return self._pulled(graph)

    def _pulled(self, graph: Graph) -> list[Timed]:
        ready: list[Timed] = []
        while self._within:
            try:
                frame = graph.vpull()
            except (BlockingIOError, av.EOFError):
                break
            time_s, frame.duration = self._within.popleft()
            ready.append((frame, time_s))
        return ready


def _graph(frame: VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    graph.link_nodes(source, graph.add(FILTER, OPTIONS), graph.add("buffersink")).configure()
    return graph
