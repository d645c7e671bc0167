"""Speech recognition of real audio with the real Whisper of `lite`, and the time that subtitles cover."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from reading import sound_of

from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Decoder
from vfindex.indexer.media.protocol import SAMPLE_RATE_HZ
from vfindex.indexer.models.catalog import find_card
from vfindex.indexer.models.export.packaged import ensure_model
from vfindex.indexer.models.presets import LITE_SPEECH
from vfindex.indexer.options import Sampling
from vfindex.indexer.speech import transcribe
from vfindex.indexer.speech.backends import open_whisper
from vfindex.indexer.speech.transcribe import Transcript
from vfindex.indexer.speech.whisper import Whisper

Sound = NDArray[np.int16]
MEDIA = os.environ.get("VFINDEX_TEST_MEDIA")
needs_media = pytest.mark.skipif(MEDIA is None, reason="real speech comes from the folder in VFINDEX_TEST_MEDIA")


@pytest.fixture(scope="module")
def whisper(models_cache: Path) -> Iterator[Whisper]:
    """Return the recogniser of `lite`."""
    model = ensure_model(find_card("speech", LITE_SPEECH), models_cache, say=print)
    opened = open_whisper(model.folder, threads=1, device="cpu")
    yield opened
    opened.close()


def transcript(whisper: Whisper, sound: Sound, size: int = 4096) -> Transcript:
    transcriber = whisper.transcriber(())
    for at in range(0, len(sound), size):
        transcriber.feed(AudioBlock(at / SAMPLE_RATE_HZ, sound[at : at + size]))
    return transcriber.finish()


@cache
def decoded(path: str) -> Sound:
    """Return the audio of a file of the test media."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(str(Path(MEDIA or "") / path)) as container:
        frames = [g for f in container.decode(audio=0) for g in resampler.resample(f)] + resampler.resample(None)
    return np.concatenate([g.to_ndarray()[0] for g in frames])


def speech() -> Sound:
    """About 13 s about a telescope: "in one of the largest clean rooms in the world"."""
    return decoded("edge/nasa_13013.mp4.audio.mp3")


def words(result: Transcript) -> str:
    return " ".join("".join(c for c in s.text.lower() if c.isalnum() or c == " ") for s in result.segments)


def test_time_that_subtitles_take() -> None:
    spans = transcribe.covered_spans([(70.0, 71.0), (0.0, 2.0), (1.0, 3.0), (500.0, 501.0)])
    assert spans == [(0.0, 3.0), (70.0, 71.0), (500.0, 501.0)]
    assert transcribe.overlap_s(spans, 2.5, 70.5) == 1.0
    assert transcribe.overlap_s(spans, 3.0, 70.0) == transcribe.overlap_s([], 0.0, 9.0) == 0
    assert transcribe.covered_spans([(0.0, 3.0), (5.0, 9.0)]) == [(0.0, 9.0)]


@needs_media
def test_real_speech_is_understood(whisper: Whisper) -> None:
    result = transcript(whisper, speech())
    assert "in one of the largest clean rooms in the world" in words(result)
    assert {s.language for s in result.segments} == {"en"}
    assert all((s.confidence or 0) > 0.4 for s in result.segments)
    assert result.problems == []


@needs_media
def test_words_depend_only_on_the_audio(whisper: Whisper) -> None:
    alone = transcript(whisper, speech())
    transcript(whisper, decoded("edge/nasa_13013.mp4.audio.mp3")[::2])
    assert transcript(whisper, speech(), size=999) == alone


@pytest.mark.parametrize("level", [0, 1, 300, 32767])
def test_noise_and_silence_have_no_words(whisper: Whisper, level: int) -> None:
    noise = np.random.default_rng(0).integers(-level, level + 1, 20 * SAMPLE_RATE_HZ).astype(np.int16)
    assert transcript(whisper, noise).segments == []


def sines(*hz: float, length_s: float = 20.0) -> Sound:
    t = np.arange(int(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (3000 * sum(np.sin(2 * np.pi * f * t) for f in hz)).astype(np.int16)


@pytest.mark.parametrize("chord", [(440.0,), (220.0, 277.2, 329.6), (60.0, 120.0, 180.0)])
def test_tones_have_no_words(whisper: Whisper, chord: Sequence[float]) -> None:
    assert transcript(whisper, sines(*chord)).segments == []


@needs_media
@pytest.mark.parametrize(
    ("video", "about"),
    [
        ("v001.mkv", "says Thank you three times over a noise"),
        ("v021.mp4", "repeats a Japanese word"),
        ("v039.mp4", "hums"),
    ],
)
def test_real_sound_without_speech_has_no_words(whisper: Whisper, video: str, about: str) -> None:
    result = transcript(whisper, decoded(f"public/videos/{video}"))
    assert result.segments == [], f"without its guards Whisper {about}"
    assert result.dropped_s > 0


@needs_media
def test_a_film_of_unsure_language_is_taken_for_english(whisper: Whisper) -> None:
    result = transcript(whisper, decoded("public/videos/v030.mp4"))
    assert "somebody must have stolen the crown jewels" in words(result)
    assert result.assumed == {"en": 1}


@needs_media
def test_a_song_keeps_its_words_and_music_has_none(whisper: Whisper) -> None:
    """A rapped song over a band: its rhythm, rhymes and music look like what the guards drop."""
    song = transcript(whisper, decoded("public/videos/v057.mp4"))
    said = words(song).replace("selfstarter", "self starter")
    assert re.search("by being a lot smarter by being (a|the) self starter", said)  # it is "a", sung fast
    assert (song.dropped_s, song.assumed) == (0.0, {})
    drums = transcript(whisper, decoded("public/videos/v055.mp4"))
    assert drums.segments == []


@needs_media
def test_telephone_sound_is_understood(whisper: Whisper, decoder: Decoder, tmp_path: Path) -> None:
    """8 kHz, the speech on the left, silence on the right."""
    import av

    path = tmp_path / "telephone.mkv"
    left = speech()[::2]
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=5), container.add_stream("pcm_s16le", rate=8000)
        video.width, video.height, audio.layout = 64, 48, "stereo"
        for n in range(65):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = n
            container.mux(video.encode(frame))
        for at in range(0, len(left), 800):
            both = np.stack([left[at : at + 800], np.zeros_like(left[at : at + 800])], axis=1)
            block = av.AudioFrame.from_ndarray(both.reshape(1, -1), format="s16", layout="stereo")
            block.sample_rate, block.pts = 8000, at
            container.mux(audio.encode(block))
        container.mux(video.encode(None))
    name = os.fsencode(path)
    track = sound_of(decoder, name)
    items = decoder.read(name, taps=[AudioTap()], sampling=Sampling(), audio=track)
    transcriber = whisper.transcriber(())
    for item in items:
        if isinstance(item, AudioBlock):
            transcriber.feed(item)
    assert "clean rooms in the world" in words(transcriber.finish())


@needs_media
def test_words_have_their_times(whisper: Whisper) -> None:
    said = transcript(whisper, decoded("public/videos/v054.mp4"))
    words = [(s.text[at:].split()[0], s.start_s + time_s) for s in said.segments for at, time_s in s.word_times]
    assert [time_s for word, time_s in words if word == "ask"] == pytest.approx([3.3, 8.2], abs=0.2)
    assert [time_s for word, time_s in words if word.startswith("country")] == pytest.approx([5.8, 10.0], abs=0.2)


@needs_media
def test_noise_between_words_is_left_out(whisper: Whisper) -> None:
    noise = np.random.default_rng(1).normal(0, 400, 30 * SAMPLE_RATE_HZ).astype(np.int16)
    result = transcript(whisper, np.concatenate([noise, speech(), noise]))
    length_s = len(speech()) / SAMPLE_RATE_HZ
    assert "clean rooms in the world" in words(result)
    assert all(30 - 1 < s.start_s < s.end_s < 30 + length_s + 1 for s in result.segments)
