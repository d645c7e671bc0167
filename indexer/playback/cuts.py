"""Inside the playback child: spans of files, one after the other, as one MP4 file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from vfindex.indexer.media.container import Beat, Refusal, Source, open_source
from vfindex.indexer.media.seeking import packets_from, prime
from vfindex.indexer.playback.codecs import codec_of
from vfindex.indexer.playback.copying import CopiedAudio, CopiedVideo, Window
from vfindex.indexer.playback.output import ENCODE_STEP, FilePipe, Muxer, Send, file_output, written
from vfindex.indexer.playback.picture import EDITED, TICK, DecodedVideo, VideoEncoder
from vfindex.indexer.playback.sound import RATE_HZ, AudioEncoder, DecodedAudio
from vfindex.indexer.playback.spans import AudioTrack, VideoTrack, audio_at, follow

MAX_TRACKS = 16
# Denominators of a time base that MP4 keeps: frames of such a file have exactly their own times in the cut.
FINE_BASES = range(10_000, 200_000)


def cut(paths: Sequence[bytes], order: Mapping[str, Any], send: Send, beat: Beat) -> dict[str, Any]:
    """Send the file, and return the fields of its end. order: see `player`. Raises Refusal, FFmpegError."""
    pipe = FilePipe(send)
    output = file_output(pipe, order["timecode"])
    made = _Encoded(output, _sounds(paths)) if order["exact"] else _Copied(output)
    spans: list[tuple[float, float]] = []
    errors: list[str] = []
    base_s = 0.0
    with written(output, pipe):
        for path, (start_s, end_s) in zip(paths, order["spans"], strict=True):
            window = Window(start_s, end_s, start_s, base_s)
            ended_s, error = _add(made, path, window, beat)
            spans.append((window.zero_s, ended_s))
            base_s = window.out_s(ended_s)
            errors += [error] if error else []
        made.finish(base_s)
    return {"spans": spans, "duration_s": base_s, "error": "; ".join(errors)}


def _add(made: _Copied | _Encoded, path: bytes, window: Window, beat: Beat) -> tuple[float, str]:
    """Add a span; return where it ended, and why early, or ""."""
    source = open_source(path)
    try:
        tracks = [stream.index for stream in _heard(source)]
        if isinstance(made, _Encoded):
            prime(source)
        source, feed = packets_from(source, window.first_s, tracks, beat)
        video, audio = made.tracks(source, tracks, window)
        error = follow(source, feed, window, video, audio, beat)
        return video.end_s, error
    finally:
        source.close()


def _heard(source: Source) -> list[AudioStream]:
    return [stream for stream in source.container.streams.audio if stream.codec_context is not None][:MAX_TRACKS]


@dataclass(frozen=True, slots=True)
class _Sound:
    """A track of audio of all parts: the most channels that it has in one, and its first language."""

    channels: int
    language: str | None


def _sounds(paths: Sequence[bytes]) -> list[_Sound]:
    """Return the tracks of audio of a film of these files: as many as the file with the most has. Raises Refusal."""
    found: list[_Sound] = []
    for path in dict.fromkeys(paths):
        source = open_source(path)
        try:
            of_file = [_Sound(len(each.codec_context.layout.channels), each.language) for each in _heard(source)]
        finally:
            source.close()
        pairs = zip(found, of_file, strict=False)
        both = [_Sound(max(a.channels, b.channels), a.language or b.language) for a, b in pairs]
        found = [*both, *found[len(both) :], *of_file[len(both) :]]
    return found


class _Copied:
    """Packets, from the keyframe at or before each start. Audio that MP4 cannot hold is encoded as AAC."""

    def __init__(self, output: OutputContainer) -> None:
        self._output = output
        self._video: Muxer | None = None
        self._audio: list[Muxer | AudioEncoder] = []
        self._kinds: list[tuple[object, ...]] = []

    def tracks(
        self, source: Source, indices: Sequence[int], window: Window
    ) -> tuple[VideoTrack, dict[int, AudioTrack]]:
        """Return the tracks of a part. Raises Refusal if its packets cannot follow those of the first part."""
        streams = [audio_at(source, index) for index in indices]
        kinds = [_kind(source.video), *map(_kind, streams)]
        if self._video is None:
            self._video = Muxer.copying(self._output, source.video)
            self._audio = [self._begun(stream) for stream in streams]
            self._kinds = kinds
        if kinds != self._kinds:
            reason = "it has other codecs, or other settings of them, than the first part"
            raise Refusal("decode", "not_copied", reason, ENCODE_STEP)
        audio: dict[int, AudioTrack] = {
            index: DecodedAudio(each, window) if isinstance(each, AudioEncoder) else CopiedAudio(each, window)
            for index, each in zip(indices, self._audio, strict=True)
        }
        return CopiedVideo(self._video, window), audio

    def _begun(self, stream: AudioStream) -> Muxer | AudioEncoder:
        try:
            return Muxer.copying(self._output, stream)
        except Refusal:
            channels = len(stream.codec_context.layout.channels)
            return AudioEncoder(self._output, channels, primed=True, language=stream.language)

    def finish(self, out_s: float) -> None:
        """Write what the encoders hold."""
        for each in self._audio:
            if isinstance(each, AudioEncoder):
                each.finish()


class _Encoded:
    """Frames and samples from the very start to the very end of each span, in the size of the first part."""

    def __init__(self, output: OutputContainer, sounds: Sequence[_Sound]) -> None:
        """sounds: tracks of audio; one that a part lacks is silent there."""
        self._output, self._sounds = output, sounds
        self._video: VideoEncoder | None = None
        self._audio: list[AudioEncoder] = []

    def tracks(
        self, source: Source, indices: Sequence[int], window: Window
    ) -> tuple[VideoTrack, dict[int, AudioTrack]]:
        """Return the tracks of a part."""
        if self._video is None:
            tick = source.clock.tick
            is_fine = tick.numerator == 1 and tick.denominator in FINE_BASES
            self._video = VideoEncoder(self._output, EDITED, tick if is_fine else TICK, source.video.average_rate)
            self._audio = [
                AudioEncoder(self._output, each.channels, primed=True, language=each.language) for each in self._sounds
            ]
        for encoder in self._audio:
            encoder.silence(round(window.base_s * RATE_HZ))
        audio: dict[int, AudioTrack] = {}
        for index, encoder in zip(indices, self._audio, strict=False):
            audio[index] = DecodedAudio(encoder, window)
        return DecodedVideo(source, self._video, window), audio

    def finish(self, out_s: float) -> None:
        """Write what the encoders hold; the last frame is shown, and all audio lasts, until `out_s`."""
        if self._video is not None:
            self._video.finish(out_s)
        for each in self._audio:
            each.silence(round(out_s * RATE_HZ))
            each.finish()


def _kind(stream: VideoStream | AudioStream) -> tuple[object, ...]:
    """Return what must be equal for packets of two streams to follow each other."""
    shape: tuple[object, ...]
    if isinstance(stream, VideoStream):
        video = stream.codec_context
        shape = (video.width, video.height, video.pix_fmt)
    else:
        shape = (stream.codec_context.sample_rate, stream.codec_context.layout.name)
    return codec_of(stream), stream.codec_context.extradata, *shape
