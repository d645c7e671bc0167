"""Inside the playback child: a span of a file as media that a browser plays while it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from vfindex.indexer.media.clock import seconds
from vfindex.indexer.media.container import Beat, Refusal, Source, open_source
from vfindex.indexer.media.seeking import packets_from, prime
from vfindex.indexer.playback.codecs import avc1_name, mime_type
from vfindex.indexer.playback.copying import CopiedAudio, CopiedVideo, Window
from vfindex.indexer.playback.ladder import Choice, choose
from vfindex.indexer.playback.output import Muxer, Send, StreamPipe, stream_output, written
from vfindex.indexer.playback.picture import WATCHED, DecodedVideo, VideoEncoder
from vfindex.indexer.playback.sound import AudioEncoder, DecodedAudio

VideoTrack: TypeAlias = CopiedVideo | DecodedVideo
AudioTrack: TypeAlias = CopiedAudio | DecodedAudio
Feed: TypeAlias = "Iterator[Packet[Any] | str]"

INTERLEAVE_S = 10.0  # how far behind the video its audio may be stored
MAX_HELD_PACKETS = 20_000  # of audio, before the first frame
AAC_LC = "mp4a.40.2"


def stream(path: bytes, order: Mapping[str, Any], send: Send, beat: Beat) -> dict[str, Any]:
    """Send a span, before it how it is played, and return the fields of its end. Raises Refusal, FFmpegError."""
    source = open_source(path)
    try:
        chosen = choose(source, copies=order["copies"])
        window = Window(order["start_s"], order["end_s"], order["start_s"])
        if not chosen.video:
            prime(source)
        heard = () if chosen.audio is None else (chosen.audio,)
        source, feed = packets_from(source, window.first_s, heard, beat)
        return _Span(source, chosen, window, send).send(feed, beat)
    finally:
        source.close()


class _Span:
    """A span of an open file, copied or encoded as chosen."""

    def __init__(self, source: Source, chosen: Choice, window: Window, send: Send) -> None:
        self._source, self._chosen, self._window, self._send = source, chosen, window, send
        self._pipe = StreamPipe(send, self._announce)
        self._output = stream_output(chosen.container, self._pipe)
        self._encoder = None if chosen.video else VideoEncoder(self._output, WATCHED)
        self._sound: AudioEncoder | None = None

    def send(self, feed: Feed, beat: Beat) -> dict[str, Any]:
        """Send it; return the fields of its end."""
        window = self._window
        with written(self._output, self._pipe):
            video, audio = self._video(), self._audio(self._output)
            error = follow(self._source, feed, window, video, audio, beat)
            if self._encoder is not None:
                self._encoder.finish(window.out_s(video.end_s))
            if self._sound is not None:
                self._sound.finish()
        return {"end_s": video.end_s, "error": error}

    def _video(self) -> VideoTrack:
        if self._encoder is not None:
            return DecodedVideo(self._source, self._encoder, self._window)
        muxer = Muxer.copying(self._output, self._source.video)
        return CopiedVideo(muxer, self._window)

    def _audio(self, output: OutputContainer) -> dict[int, AudioTrack]:
        if self._chosen.audio is None:
            return {}
        index = self._chosen.audio
        if not self._chosen.audio_name:
            self._sound = AudioEncoder(output, 2, primed=False)
            return {index: DecodedAudio(self._sound, self._window)}
        muxer = Muxer.copying(output, audio_at(self._source, index))
        return {index: CopiedAudio(muxer, self._window)}

    def _announce(self) -> None:
        """Send how the stream is played; called before its first byte."""
        chosen, encoder = self._chosen, self._encoder
        name = chosen.video if encoder is None else avc1_name(encoder.extradata) or ""
        sound = chosen.audio_name or ("" if chosen.audio is None else AAC_LC)
        kind = mime_type(chosen.container, [each for each in (name, sound) if each])
        rung = "remux" if encoder is None else "transcode"
        self._send({"kind": "stream", "rung": rung, "content_type": kind, "start_s": self._window.zero_s})


def audio_at(source: Source, index: int) -> AudioStream:
    """Return the audio stream with this index. Raises Refusal."""
    for stream in source.container.streams.audio:
        if stream.index == index:
            return stream
    raise Refusal("decode", "not_copied", "its streams change as they are read", "copy it again")


def follow(
    source: Source, feed: Feed, window: Window, video: VideoTrack, audio: Mapping[int, AudioTrack], beat: Beat
) -> str:
    """Give the tracks their packets up to the end of the window; return why they ended early, or "". Raises Refusal.

    Audio waits for the first frame: the output has no header before.
    """
    held: list[Packet[Any]] = []
    error = ""
    for packet in feed:
        beat()
        if isinstance(packet, str):
            error = packet
            continue
        is_video = packet.stream_index == source.video.index
        time_s = seconds(packet.dts, packet.time_base) or 0.0
        if is_video:
            video.push(packet)
        elif len(held) < MAX_HELD_PACKETS:
            held.append(packet)
        if video.has_begun:
            held = _given(audio, held)
            for track in audio.values() if is_video else ():
                track.keep_up(time_s)
        if video.is_done and (
            all(track.is_done for track in audio.values()) or (time_s or 0.0) > window.end_s + INTERLEAVE_S
        ):
            break
    video.finish()
    if not video.has_begun:
        reason = error or "not one frame of this span can be decoded"
        raise Refusal("decode", "no_frames", reason, "check that it plays")
    _given(audio, held)
    for track in audio.values():
        track.finish()
    return error


def _given(audio: Mapping[int, AudioTrack], held: list[Packet[Any]]) -> list[Packet[Any]]:
    """Give the tracks the packets that wait, and return none."""
    for packet in held:
        if packet.stream_index in audio:
            audio[packet.stream_index].push(packet)
    return []
