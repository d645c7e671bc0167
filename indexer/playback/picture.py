"""Inside the playback child: frames of a span, whole, upright and of one size, encoded as H.264."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vfindex.indexer.media.clock import FrameTimes
from vfindex.indexer.media.container import Refusal, Source, check_size, rotation, shown_px
from vfindex.indexer.media.seeking import MAX_LAST_S
from vfindex.indexer.playback.copying import Window
from vfindex.indexer.playback.deinterlace import Deinterlacer
from vfindex.indexer.playback.output import Muxer

TICK = Fraction(1, 90_000)
MAX_FAILURES = 2_000  # damaged packets in a row
ENCODER: Final = "libx264"
BT709 = 1  # ITU-T H.273, table 4
LIMITED_RANGE = 1  # as FFmpeg numbers it


@dataclass(frozen=True)
class Quality:
    """How frames are encoded. short_px, long_px: the most of a side. max_fps: of a stream; None keeps all frames."""

    short_px: int
    long_px: int
    max_fps: float | None
    options: dict[str, str]
    gop_frames: int


# For watching: fast, without reordering or lookahead, so that the first frame comes at once.
WATCHED = Quality(720, 1280, 60.0, {"preset": "superfast", "tune": "zerolatency", "crf": "23"}, 60)
# For editing: visually lossless (crf 18), in the size of the source; H.264's level 6.2 ends at 8192 pixels a side.
EDITED = Quality(8192, 8192, None, {"preset": "veryfast", "crf": "18", "bf": "0"}, 60)


class VideoEncoder:
    """Encodes frames at their times; its stream begins with the first one, which decides on size and colours."""

    def __init__(
        self, output: OutputContainer, quality: Quality, tick: Fraction = TICK, rate: Fraction | None = None
    ) -> None:
        """rate: what the file says of itself, for time codes; frames keep their own times."""
        self._output, self._quality, self._tick, self._rate = output, quality, tick, rate
        self._fitter: Fitter | None = None
        self._stream: VideoStream | None = None
        self._muxer: Muxer | None = None
        self._latest: int | None = None  # time of the last frame, in ticks
        self._waiting: Packet[Any] | None = None  # until the next frame tells how long it is shown

    @property
    def has_begun(self) -> bool:
        return self._stream is not None

    @property
    def extradata(self) -> bytes:
        """The parameter sets of the stream."""
        return (self._stream.codec_context.extradata or b"") if self._stream is not None else b""

    def add(self, frame: VideoFrame, source: Source, out_s: float) -> None:
        """Take a frame that is shown at `out_s`; one too soon after the last is left out."""
        ticks = round(out_s / self._tick)
        if self._latest is not None:
            fps = self._quality.max_fps
            least = 1 if fps is None else round(1 / (fps * 1.05) / self._tick)
            if ticks < self._latest + least:
                return
        self._latest = ticks
        fitter, stream = self._begun(frame, source)
        fitted = fitter.fit(frame, source)
        fitted.pts, fitted.time_base = ticks, self._tick
        self._write(stream.codec_context.encode(fitted))

    def finish(self, out_s: float) -> None:
        """Encode the rest; the last frame is shown until `out_s`."""
        if self._stream is None:
            return
        self._write(self._stream.codec_context.encode(None))
        waiting, self._waiting = self._waiting, None
        if waiting is not None and self._muxer is not None:
            waiting.duration = max(1, round(out_s / self._tick) - (waiting.pts or 0))
            self._muxer.write(waiting)

    def _begun(self, frame: VideoFrame, source: Source) -> tuple[Fitter, VideoStream]:
        """Return fitter and stream, begun with the first frame. Raises Refusal."""
        if self._fitter is not None and self._stream is not None:
            return self._fitter, self._stream
        fitter = Fitter.of(frame, source, self._quality)
        try:
            stream = self._output.add_stream(ENCODER, rate=self._rate, options=dict(self._quality.options))
        except (av.FFmpegError, ValueError) as exc:
            raise Refusal(
                "decode", "no_encoder", f"this FFmpeg has no encoder {ENCODER}", "install PyAV's wheel"
            ) from exc
        stream.width, stream.height, stream.pix_fmt = fitter.width_px, fitter.height_px, "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = self._tick
        context.thread_count = 1
        context.gop_size = self._quality.gop_frames
        context.max_b_frames = 0
        context.color_range = LIMITED_RANGE
        is_rgb = frame.format.is_rgb
        context.colorspace = BT709 if is_rgb else frame.colorspace
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
        try:
            context.open()
        except av.FFmpegError as exc:
            size = f"{stream.width}x{stream.height}"
            reason = f"FFmpeg cannot encode frames of {size} as H.264 ({exc.strerror})"
            raise Refusal("decode", "not_encoded", reason, "convert it to another size") from exc
        self._fitter, self._stream, self._muxer = fitter, stream, Muxer(self._output, stream)
        return fitter, stream

    def _write(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            waiting, self._waiting = self._waiting, packet
            if waiting is not None and self._muxer is not None:
                waiting.duration = max(1, (packet.pts or 0) - (waiting.pts or 0))
                self._muxer.write(waiting)


@dataclass
class Fitter:
    """Makes frames upright, with square pixels, of one even size, in 8 bit 4:2:0."""

    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        self._scaler = VideoReformatter()

    @classmethod
    def of(cls, frame: VideoFrame, source: Source, quality: Quality) -> Fitter:
        """Return a fitter to the size of this frame, within the bounds."""
        width, height = upright_px(frame, source)
        share = min(1.0, quality.long_px / max(width, height), quality.short_px / min(width, height))
        return cls(_even(width * share), _even(height * share))

    def fit(self, frame: VideoFrame, source: Source) -> VideoFrame:
        """Return the frame, with black bars where it has another shape."""
        check_size(frame.width, frame.height)
        width, height = upright_px(frame, source)
        share = min(self.width_px / width, self.height_px / height)
        inner = (min(self.width_px, _even(width * share)), min(self.height_px, _even(height * share)))
        if abs(inner[0] - self.width_px) <= 2 and abs(inner[1] - self.height_px) <= 2:
            inner = (self.width_px, self.height_px)
        turns = round(rotation(frame) / 90) % 4
        scaled = self._scaler.reformat(
            frame,
            width=inner[turns % 2],
            height=inner[1 - turns % 2],
            format="yuv420p",
            interpolation=Interpolation.BICUBIC,
            dst_colorspace=Colorspace.ITU709 if frame.format.is_rgb else None,
            dst_color_range="MPEG",
            threads=1,
        )
        if not turns and inner == (self.width_px, self.height_px):
            return scaled
        return self._placed(scaled, turns)

    def _placed(self, frame: VideoFrame, turns: int) -> VideoFrame:
        """Return the frame turned, in the middle of a black one."""
        made = VideoFrame(self.width_px, self.height_px, "yuv420p")
        for number, (source, target) in enumerate(zip(frame.planes, made.planes, strict=True)):
            canvas = _plane(target)
            canvas[:] = 128 if number else 16
            image = np.rot90(_plane(source), turns)
            top, left = ((canvas.shape[side] - image.shape[side]) // 2 for side in (0, 1))
            canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        return made


def _plane(plane: Any) -> NDArray[np.uint8]:
    """Return a view of a plane, (height, width)."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _even(size: float) -> int:
    return max(2, round(size / 2) * 2)


def upright_px(frame: VideoFrame, source: Source) -> tuple[int, int]:
    """Return (width, height) of a frame as shown."""
    width, height = shown_px(frame.width, frame.height, source.video.sample_aspect_ratio)
    return (height, width) if round(rotation(frame) / 90) % 2 else (width, height)


class DecodedVideo:
    """Decodes packets and gives the encoder the frames of the window.

    The first is the frame that is shown when the window starts, wherever its own time lies.
    """

    def __init__(self, source: Source, encoder: VideoEncoder, window: Window) -> None:
        self._source, self._encoder, self._window = source, encoder, window
        self._times = FrameTimes(source.clock)
        self._fields = Deinterlacer()
        self._before: VideoFrame | None = None  # the last frame before the start
        self._failures = 0
        self.damaged = 0
        self.end_s = window.start_s  # of the last frame shown
        self.is_done = False

    @property
    def has_begun(self) -> bool:
        return self._encoder.has_begun and self.end_s > self._window.start_s

    def push(self, packet: Packet[Any]) -> None:
        """Take the next packet. Raises Refusal."""
        if packet.size and not self.is_done:
            self._times.sent(packet)
            self._decode(packet)

    def finish(self) -> None:
        """Take the frames that the decoder holds back."""
        if not self.is_done:
            self._decode(None)
            self._take(self._fields.finish())
        self._show_before()
        if self.is_done:
            self.end_s = self._window.end_s

    def _decode(self, packet: Packet[Any] | None) -> None:
        try:
            frames = self._source.video.codec_context.decode(packet)
        except MemoryError:
            raise
        except av.FFmpegError as exc:
            self.damaged += 1
            self._failures += 1
            if packet is not None:
                self._times.lost(packet)
            if self._failures > MAX_FAILURES:
                reason = f"{self._failures} damaged packets in a row ({exc.strerror})"
                raise Refusal("decode", "damaged", reason, "copy it again") from exc
            return
        self._failures = 0
        for frame in frames:
            time_s = self._times.of(frame)
            if time_s is not None:
                self._take(self._fields.add(frame, time_s))

    def _take(self, frames: Sequence[tuple[VideoFrame, float]]) -> None:
        for frame, time_s in frames:
            if not self.is_done:
                self._frame(frame, time_s)

    def _frame(self, frame: VideoFrame, time_s: float) -> None:
        if time_s >= self._window.beyond_s:
            self.is_done = True
            return
        if time_s <= self._window.first_s:
            self._before = frame
            return
        self._show_before()
        self._show(frame, time_s)

    def _show_before(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            self._show(before, self._window.start_s)

    def _show(self, frame: VideoFrame, time_s: float) -> None:
        self.end_s = min(self._window.end_s, max(self.end_s, time_s + self._length_s(frame)))
        self._encoder.add(frame, self._source, self._window.out_s(time_s))

    def _length_s(self, frame: VideoFrame) -> float:
        length_s = float(frame.duration * self._source.clock.tick) if frame.duration else 0.0
        return length_s if 0 < length_s <= MAX_LAST_S else self._source.clock.frame_s
