"""Inside the playback child: spans of files, one after the other, as one MP4 file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from vfindex.indexer.playback.sound import AudioEncoder, DecodedAudio
from vfindex.indexer.playback.spans import AudioTrack, VideoTrack, audio_at, follow

MAX_TRACKS = 16
# Denominators of a time base that MP4 keeps: frames of such a file have exactly their own times in the cut.
FINE_BASES = range(10_000, 200_000)


def cut(paths: Sequence[bytes], order: Mapping[str, Any], send: Send, beat: Beat) -> dict[str, Any]:
    """Send the file, and return the fields of its end. order: see `player`. Raises Refusal, FFmpegError."""
    pipe = FilePipe(send)
    output = file_output(pipe, order["timecode"])
    made = _Encoded(output) if order["exact"] else _Copied(output)
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
        tracks = [s.index for s in source.container.streams.audio if s.codec_context is not None][:MAX_TRACKS]
        if isinstance(made, _Encoded):
            prime(source)
        source, feed = packets_from(source, window.start_s, tracks, beat)
        video, audio = made.tracks(source, tracks, window)
        error = follow(source, feed, window, video, audio, beat)
        return video.end_s, error
    finally:
        source.close()


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
            return _encoder(self._output, stream)

    def finish(self, out_s: float) -> None:
        """Write what the encoders hold."""
        for each in self._audio:
            if isinstance(each, AudioEncoder):
                each.finish()


class _Encoded:
    """Frames and samples from the very start to the very end of each span, in the size of the first part."""

    def __init__(self, output: OutputContainer) -> None:
        self._output = output
        self._video: VideoEncoder | None = None
        self._audio: list[AudioEncoder] = []

    def tracks(
        self, source: Source, indices: Sequence[int], window: Window
    ) -> tuple[VideoTrack, dict[int, AudioTrack]]:
        """Return the tracks of a part: as many of audio as the first part has."""
        if self._video is None:
            tick = source.clock.tick
            is_fine = tick.numerator == 1 and tick.denominator in FINE_BASES
            self._video = VideoEncoder(self._output, EDITED, tick if is_fine else TICK, source.video.average_rate)
            self._audio = [_encoder(self._output, audio_at(source, index)) for index in indices]
        audio: dict[int, AudioTrack] = {}
        for index, encoder in zip(indices, self._audio, strict=False):
            audio[index] = DecodedAudio(encoder, window)
        return DecodedVideo(source, self._video, window), audio

    def finish(self, out_s: float) -> None:
        """Write what the encoders hold; the last frame is shown until `out_s`."""
        if self._video is not None:
            self._video.finish(out_s)
        for each in self._audio:
            each.finish()


def _encoder(output: OutputContainer, stream: AudioStream) -> AudioEncoder:
    channels = len(stream.codec_context.layout.channels)
    return AudioEncoder(output, channels, primed=True, language=stream.language)


def _kind(stream: VideoStream | AudioStream) -> tuple[object, ...]:
    """Return what must be equal for packets of two streams to follow each other."""
    shape: tuple[object, ...]
    if isinstance(stream, VideoStream):
        video = stream.codec_context
        shape = (video.width, video.height, video.pix_fmt)
    else:
        shape = (stream.codec_context.sample_rate, stream.codec_context.layout.name)
    return codec_of(stream), stream.codec_context.extradata, *shape
