"""Small videos made with PyAV: shots of flat colours or gradients, tones, odd time stamps, subtitles, damage.

    make_video(path, shots=[Shot("red", 2.0), Shot("blue", 3.0)], tone_hz=440)

Everything is deterministic and decodes on any FFmpeg build: the default codec is MPEG-4 part 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

TIME_BASE = Fraction(1, 1000)
SAMPLE_RATE_HZ = 16_000
ASS_HEADER = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n"
    b"Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, "
    b"Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, "
    b"MarginV, Encoding\n"
    b"Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\n\n"
    b"[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (30, 60, 220),
    "yellow": (230, 220, 40),
}


def media_folder(kind: str) -> Path:
    """Return the folder of real media (`public`, `edge`); skips the test if it is missing."""
    root = os.environ.get("VFINDEX_TEST_MEDIA")
    if not root or not (Path(root) / kind).is_dir():
        pytest.skip("VFINDEX_TEST_MEDIA names no folder of real media")
    return Path(root) / kind


@dataclass(frozen=True)
class Shot:
    """One take: a colour of COLOURS, or a gradient from it to `to`; a bar moves so that frames differ.

    picture: (height, width, 3) uint8 shown instead.
    """

    colour: str = "grey"
    length_s: float = 2.0
    to: str | None = None
    picture: NDArray[np.uint8] | None = field(default=None, compare=False)

    def image(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return frame `index` of the shot, (height, width, 3)."""
        if self.picture is not None:
            rows = np.arange(height) * len(self.picture) // height
            columns = np.arange(width) * self.picture.shape[1] // width
            return np.ascontiguousarray(self.picture[rows][:, columns])
        first = np.array(COLOURS[self.colour], np.float32)
        last = np.array(COLOURS[self.to or self.colour], np.float32)
        mix = np.linspace(0, 1, width, dtype=np.float32)[:, None]
        image = np.broadcast_to(first + (last - first) * mix, (height, width, 3)).astype(np.uint8)
        bar = max(1, width // 32)
        left = (index * bar) % max(1, width - bar + 1)
        image[: max(1, height // 16), left : left + bar] = 255 - image[0, 0]
        return image


def shot_frames(shots: Sequence[Shot], fps: float, width: int, height: int) -> list[tuple[float, NDArray[np.uint8]]]:
    """Return (time_s, image) of every frame of the shots at a constant rate."""
    frames = []
    for shot in shots:
        frames += [shot.image(index, width, height) for index in range(max(1, round(shot.length_s * fps)))]
    return [(index / fps, image) for index, image in enumerate(frames)]


@dataclass(frozen=True)
class Spec:
    """The parameters of `make_video`; times in seconds, sizes in pixels.

    keyframe_s: distance of keyframes. times_s: presentation times instead of a constant rate. start_s: added to all
    times. time_base: of the codec, None: milliseconds, as in Matroska. tone_hz: one tone per channel, 0: silence; None:
    no audio. tone_s: duration of the audio, None: of the video. tone_gap_s: span without audio packets. audio_tracks:
    how many, all alike; each has another language. aspect: of a pixel. rotation_deg: counter-clockwise rotation by the
    player (MP4 and MOV). text: subtitles as (start_s, end_s, text).
    """

    shots: Sequence[Shot] = (Shot("red"), Shot("blue"))
    fps: float = 25.0
    width: int = 160
    height: int = 96
    codec: str = "mpeg4"
    pix_fmt: str = "yuv420p"
    keyframe_s: float = 1.0
    b_frames: int = 0
    times_s: Sequence[float] | None = None
    start_s: float = 0.0
    time_base: Fraction | None = None
    tone_hz: float | Sequence[float] | None = None
    tone_s: float | None = None
    tone_gap_s: tuple[float, float] | None = None
    audio_tracks: int = 1
    aspect: Fraction = Fraction(1)
    rotation_deg: int = 0
    text: Sequence[tuple[float, float, str]] = ()
    text_codec: str = "mov_text"
    tags: dict[str, str] = field(default_factory=dict)
    codec_options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)


LAYOUTS = {1: "mono", 2: "stereo", 16: "hexadecagonal"}  # number of tones -> FFmpeg's name


def make_video(path: Path, **options: Any) -> Path:
    """Write the video that a Spec of these options describes; the container is that of the suffix. Returns `path`."""
    spec = Spec(**options)
    with av.open(str(path), "w", options=spec.container_options) as container:
        container.metadata.update(spec.tags)
        video = _video_stream(container, spec)
        audio = [] if spec.tone_hz is None else [_audio_stream(container, spec, n) for n in range(spec.audio_tracks)]
        if spec.text:
            _write_text(container, spec)
        frames = shot_frames(spec.shots, spec.fps, spec.width, spec.height)
        if spec.times_s is not None:
            frames = [(time_s, image) for time_s, (_, image) in zip(spec.times_s, frames, strict=False)]
        end_s = _encode_video(container, video, spec, frames)
        for track in audio:
            _encode_audio(container, track, spec, spec.tone_s if spec.tone_s is not None else end_s)
    return path


def _video_stream(container: Any, spec: Spec) -> Any:
    video = container.add_stream(
        spec.codec, rate=Fraction(spec.fps).limit_denominator(1001), options=spec.codec_options
    )
    video.width, video.height, video.pix_fmt = spec.width, spec.height, spec.pix_fmt
    context = video.codec_context
    # Some codecs and containers only support multiples of the frame duration.
    rigid = spec.codec.startswith(("mpeg1", "mpeg2")) or container.name.endswith(".avi")
    context.time_base = 1 / Fraction(spec.fps).limit_denominator(1001) if rigid else spec.time_base or TIME_BASE
    context.gop_size = max(1, round(spec.keyframe_s * spec.fps))
    context.max_b_frames = spec.b_frames
    context.bit_rate = 400_000
    context.thread_count = 1
    context.sample_aspect_ratio = spec.aspect
    video.sample_aspect_ratio = spec.aspect
    if spec.rotation_deg:
        video.set_display_rotation(spec.rotation_deg)
    return video


def _audio_stream(container: Any, spec: Spec, number: int) -> Any:
    codec = {"webm": "libopus", "ogv": "libopus", "mpg": "mp2"}.get(container.name.rpartition(".")[2], "aac")
    rate = 48_000 if codec == "libopus" else SAMPLE_RATE_HZ if codec == "aac" else 44_100
    layout = LAYOUTS[np.size(spec.tone_hz)]
    stream = container.add_stream(codec if layout in ("mono", "stereo") else "pcm_s16le", rate=rate, layout=layout)
    if spec.audio_tracks > 1:
        stream.metadata["language"] = ("eng", "deu", "fra")[number]
    return stream


def _encode_video(container: Any, video: Any, spec: Spec, frames: list[tuple[float, NDArray[np.uint8]]]) -> float:
    end_s = 0.0
    for time_s, image in frames:
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        time_base = video.codec_context.time_base
        frame.pts, frame.time_base = round((spec.start_s + time_s) / time_base), time_base
        end_s = spec.start_s + time_s + 1 / spec.fps
        container.mux(video.encode(frame))
    container.mux(video.encode(None))
    return end_s


def _encode_audio(container: Any, audio: Any, spec: Spec, end_s: float) -> None:
    rate = audio.codec_context.sample_rate
    tones = np.atleast_1d(np.asarray(spec.tone_hz, np.float64))
    times_s = np.arange(int((end_s - spec.start_s) * rate)) / rate
    samples = (0.4 * np.sin(2 * np.pi * tones[:, None] * times_s) * 32767).astype(np.int16)  # (channels, n)
    for begin in range(0, samples.shape[1], rate // 4):
        if spec.tone_gap_s is not None and spec.tone_gap_s[0] <= begin / rate < spec.tone_gap_s[1]:
            continue
        block = np.ascontiguousarray(samples[:, begin : begin + rate // 4].T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout=LAYOUTS[len(tones)])
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = round(spec.start_s * rate) + begin
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def _write_text(container: Any, spec: Spec) -> None:
    stream = container.add_stream(spec.text_codec)
    stream.codec_context.subtitle_header = ASS_HEADER  # every text encoder needs one, even if it stores none
    stream.codec_context.time_base = stream.time_base = TIME_BASE
    for start_s, end_s, text in spec.text:
        data = text.encode()
        packet = av.Packet(len(data).to_bytes(2, "big") + data if spec.text_codec == "mov_text" else data)
        packet.stream, packet.time_base = stream, TIME_BASE
        packet.pts = packet.dts = round(start_s / TIME_BASE)
        packet.duration = round((end_s - start_s) / TIME_BASE)
        container.mux(packet)


def truncate(source: Path, target: Path, share: float) -> Path:
    """Write the first `share` (0 to 1) of the bytes of `source`; returns `target`."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def overwrite(source: Path, target: Path, change: Callable[[bytearray], None]) -> Path:
    """Write a copy of `source` with its bytes altered by `change`; returns `target`."""
    data = bytearray(source.read_bytes())
    change(data)
    target.write_bytes(data)
    return target
