"""Speech recognition: voice activity, no hangs or crashes, and results that depend only on the audio."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vfindex.indexer.boundary import NO_RESOURCES, one_file
from vfindex.indexer.media import child
from vfindex.indexer.media.decoder import AudioBlock
from vfindex.indexer.media.protocol import SAMPLE_RATE_HZ
from vfindex.indexer.speech import transcribe
from vfindex.indexer.speech.recognizer_pool import Recognition, RecognizerPool, SpeechLimits, Word
from vfindex.indexer.speech.transcribe import PocketSphinxTranscriber, Transcript
from vfindex.indexer.speech.vad import GAP_S, MAX_UTTERANCE_S, VoiceFinder, syllable_depth
from vfindex.storage.errors import VideoError

Sound = NDArray[np.int16]
MEDIA = os.environ.get("VFINDEX_TEST_MEDIA")
needs_media = pytest.mark.skipif(MEDIA is None, reason="real speech comes from the folder in VFINDEX_TEST_MEDIA")

# A recogniser that hears one word in each utterance: how many samples it has.
FAKE = """
import os, sys
from vfindex.indexer.media import protocol as wire
while True:
    try:
        request, pcm = wire.unpack(lambda n: sys.stdin.buffer.read(n) or os._exit(0))
    except EOFError:
        break
    wire.write_all(1, wire.pack({"words": %s}))
"""
COUNTING = "[[str(len(pcm) // 2), 0.0, 0.1, 0.9]] * 20"


def fake(words: str) -> list[str]:
    return [sys.executable, "-P", "-c", FAKE % words]


def voiced(length_s: float, level: float = 8000.0) -> Sound:
    """A buzz of 120 Hz with its harmonics, in syllables: voice to the detector."""
    t = np.arange(int(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    buzz = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
    return (level * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)) / 2).astype(np.int16)


def silent(length_s: float) -> Sound:
    return np.zeros(int(length_s * SAMPLE_RATE_HZ), np.int16)


def blocks(sound: Sound, size: int = 1024, start_s: float = 0.0) -> list[AudioBlock]:
    return [AudioBlock(start_s + i / SAMPLE_RATE_HZ, sound[i : i + size]) for i in range(0, len(sound), size)]


def find(parts: Sequence[AudioBlock]) -> list[tuple[float, float, bytes]]:
    finder = VoiceFinder()
    found = [u for block in parts for u in finder.feed(block)] + list(finder.finish())
    return [(round(u.start_s, 3), round(u.length_s, 3), u.samples.tobytes()) for u in found]


def transcript(
    pool: RecognizerPool, parts: Sequence[AudioBlock], covered: Sequence[tuple[float, float]] = ()
) -> Transcript:
    transcriber = PocketSphinxTranscriber(pool, covered)
    for block in parts:
        transcriber.feed(block)
    return transcriber.finish()


@cache
def speech() -> Sound:
    """About 13 s about a telescope: "in one of the largest clean rooms in the world"."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    path = Path(MEDIA or "") / "edge" / "nasa_13013.mp4.audio.mp3"
    with av.open(str(path)) as container:
        frames = [g for f in container.decode(audio=0) for g in resampler.resample(f)] + resampler.resample(None)
    return np.concatenate([g.to_ndarray()[0] for g in frames])


def test_voice_between_silences_is_one_utterance() -> None:
    sound = np.concatenate([silent(1), voiced(2), silent(1.5)])
    ((start_s, length_s, pcm),) = find(blocks(sound))
    assert start_s == pytest.approx(1.0, abs=0.4)
    assert length_s == pytest.approx(2.2, abs=0.5)
    assert sound.tobytes().find(pcm) == round(start_s * SAMPLE_RATE_HZ) * 2  # its time is where it lies


@pytest.mark.parametrize("size", [1, 100, 479, 4096, 10**6])
def test_utterances_do_not_depend_on_the_size_of_blocks(size: int) -> None:
    sound = np.concatenate([silent(0.5), voiced(0.8), silent(1), voiced(0.7)])  # ends while speaking, and mid-frame
    assert find(blocks(sound[:-7], size)) == find(blocks(sound[:-7]))


@pytest.mark.parametrize("level", [0, 1])
def test_silence_and_its_last_bit_hold_no_voice(level: int) -> None:
    noise = np.random.default_rng(0).integers(-level, level + 1, 5 * SAMPLE_RATE_HZ).astype(np.int16)
    assert find(blocks(noise)) == []


def test_a_long_utterance_is_cut_and_nothing_is_lost() -> None:
    sound = voiced(47)
    pause = int(13.2 * SAMPLE_RATE_HZ)
    sound[pause : pause + 2400] //= 20  # too short to end an utterance, but the best place to cut one
    found = find(blocks(sound))
    assert len(found) > 3
    assert all(length_s <= MAX_UTTERANCE_S + 0.5 for _, length_s, _ in found)
    assert found[0][0] + found[0][1] == pytest.approx(13.27, abs=0.15)
    for (start_s, length_s, _), (next_s, _, _) in itertools.pairwise(found):
        assert start_s + length_s == pytest.approx(next_s, abs=0.002)
    assert b"".join(pcm for _, _, pcm in found) in sound.tobytes()


def test_a_gap_ends_the_utterance_and_later_times_count_from_it() -> None:
    before, after = blocks(voiced(2)), blocks(voiced(2), start_s=10.0)
    (first, second) = find([*before, *after])
    assert first[0] + first[1] <= 2.01
    assert second[0] == pytest.approx(10.0, abs=0.2)
    assert len(find([*before, *blocks(voiced(2), start_s=2 + GAP_S / 2)])) == 1
    (_, again) = find([*after, *before])  # times that run backwards
    assert again[0] == pytest.approx(0.0, abs=0.2)


def test_words_become_segments_at_the_right_time() -> None:
    with RecognizerPool(2, command=fake('[["a", 0, 0.4, 1.0], ["b", 0.5, 0.9, 0.25], ["c", 1.6, 2.0, 0.0]]')) as pool:
        sound = np.concatenate([silent(1), voiced(1.6), silent(2)])
        result = transcript(pool, blocks(sound, start_s=100.0))
    ((start_s, length_s, _),) = find(blocks(sound, start_s=100.0))
    talk = transcribe.talk_share(3, length_s)
    (segment,) = result.segments
    assert (segment.text, segment.source, segment.language) == ("a b", "asr", "en")
    assert (segment.start_s, segment.end_s) == pytest.approx((start_s, start_s + 0.9), abs=0.001)
    assert segment.confidence == pytest.approx(0.5 * talk)  # the geometric mean of 1 and 0.25
    assert result.dropped_s == pytest.approx(0.4)
    assert result.recognised_s == pytest.approx(0.9)
    assert result.voiced_s == pytest.approx(length_s, abs=0.001)
    assert result.problems == []


def test_music_is_poor_in_words() -> None:
    assert transcribe.talk_share(5, 7.0) == 0
    assert 0 < transcribe.talk_share(10, 7.0) < transcribe.talk_share(12, 7.0) < 1
    assert transcribe.talk_share(1, 0.8) == transcribe.talk_share(40, 12.0) == 1  # "banana" and a lecture


def steady(length_s: float) -> Sound:
    """The buzz of `voiced` without its syllables, in a little noise: voice to the detector."""
    t = np.arange(int(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    buzz = 2400 * sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
    return (buzz + np.random.default_rng(3).normal(0, 300, len(t))).astype(np.int16)


def test_syllables_have_depth() -> None:
    t = np.arange(6 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    noise = np.random.default_rng(2).normal(0, 3000, len(t))
    for rate_hz, expected in ((4.0, 0.5 / 2**0.5), (1.0, 0.1), (12.0, 0.1)):
        depth = syllable_depth((noise * (1 + 0.5 * np.sin(2 * np.pi * rate_hz * t))).astype(np.int16))
        assert depth == pytest.approx(expected, abs=0.1)  # noise itself wavers
    assert syllable_depth(silent(3)) == pytest.approx(0)


def test_steady_audio_is_not_recognised() -> None:
    with RecognizerPool(1, command=fake(COUNTING)) as pool:
        music = transcript(pool, blocks(np.concatenate([silent(1), steady(9), silent(2)])))
        short = transcript(pool, blocks(np.concatenate([silent(1), steady(1), silent(2)])))
    assert music.segments == []
    assert music.steady_s == music.voiced_s > 8
    assert len(short.segments) == 1  # too short to tell
    assert short.steady_s == 0


def test_audio_covered_by_subtitles_is_not_recognised() -> None:
    sound = np.concatenate([silent(1), voiced(1), silent(2), voiced(1), silent(2)])
    with RecognizerPool(1, command=fake(COUNTING)) as pool:
        everything = transcript(pool, blocks(sound))
        signs = transcript(pool, blocks(sound), covered=[(0.9, 2.3), (60.0, 61.0)])
        complete = transcript(pool, blocks(sound), covered=[(0.0, 1.0), (3.0, 3.5), (6.0, 7.0)])
    assert len(everything.segments) == 2
    assert [s.start_s > 3 for s in signs.segments] == [True]
    assert complete.segments == []
    assert complete.voiced_s == 0


def test_segments_come_in_order_whatever_worker_is_first() -> None:
    sound = np.concatenate([part for n in range(8) for part in (voiced(0.5 + 0.1 * n), silent(1))])
    with RecognizerPool(3, command=fake(COUNTING)) as pool:
        result = transcript(pool, blocks(sound))
    assert [int(s.text.split()[0]) for s in result.segments] == [len(pcm) // 2 for _, _, pcm in find(blocks(sound))]
    assert [s.start_s for s in result.segments] == sorted(s.start_s for s in result.segments)


class SlowPool(RecognizerPool):
    """Takes its time, and hears nothing."""

    def _recognize(self, samples: Sound) -> Recognition:
        time.sleep(0.01)
        return Recognition(())


def test_pending_audio_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcribe, "PENDING_S", 5.0)
    with SlowPool(1) as pool:
        transcriber = PocketSphinxTranscriber(pool, ())
        for block in blocks(np.tile(np.concatenate([voiced(0.6), silent(0.6)]), 30), size=4096):
            transcriber.feed(block)
            assert transcriber._pending_s <= 5.0
        assert transcriber.finish().voiced_s > 15


def test_time_that_subtitles_take() -> None:
    spans = transcribe.covered_spans([(70.0, 71.0), (0.0, 2.0), (1.0, 3.0), (500.0, 501.0)])
    assert spans == [(0.0, 3.0), (70.0, 71.0), (500.0, 501.0)]
    assert transcribe.overlap_s(spans, 2.5, 70.5) == 1.0
    assert transcribe.overlap_s(spans, 3.0, 70.0) == transcribe.overlap_s([], 0.0, 9.0) == 0
    assert transcribe.covered_spans([(0.0, 3.0), (5.0, 9.0)]) == [(0.0, 9.0)]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import time; time.sleep(99)", "took longer"),
        ("while True: pass", "took longer"),
        ("raise SystemExit(3)", "status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("import os; os.write(1, b'x' * 99); import sys; sys.stdin.buffer.read()", "no usable answer"),
        ("print('\\0\\0\\0\\x02[]', end='', flush=True); import sys; sys.stdin.buffer.read()", "no usable answer"),
        (FAKE % '[["a", 0.5, 0.1, 1.0]]', "no usable answer"),
        (FAKE % '[["a", 0.0, 1e9, 1.0]]', "no usable answer"),
        (FAKE % '[["a\\x1b", 0.0, 0.1, 1.0]]', "no usable answer"),
        (FAKE % '[["a", 0.0, 0.1, "x"]]', "no usable answer"),
        (FAKE % '[["a", 0.0, 0.1, 1.0]] * 999', "no usable answer"),
        (FAKE % '{"a": 1}', "no usable answer"),
    ],
)
def test_a_lost_recogniser_costs_its_utterance_only(script: str, words: str) -> None:
    limits = SpeechLimits(base_s=1.0 if words == "took longer" else 60.0, factor=0.0)
    with RecognizerPool(1, limits, command=[sys.executable, "-P", "-c", script]) as pool:
        result = pool.submit(voiced(14)).result(timeout=90)  # more than a pipe holds
    assert result.words == ()
    assert words in result.problem


def test_a_lost_recogniser_is_replaced(tmp_path: Path) -> None:
    marker = tmp_path / "died"
    once = f"import os\nif not os.path.exists({str(marker)!r}):\n    open({str(marker)!r}, 'w'); os._exit(9)\n"
    with RecognizerPool(1, command=[sys.executable, "-P", "-c", once + FAKE % COUNTING]) as pool:
        result = transcript(pool, blocks(np.concatenate([voiced(1), silent(1), voiced(1), silent(1)])))
    assert len(result.segments) == 1
    assert [("status 9" in p) for p in result.problems] == [True]


def test_recognisers_that_only_die_are_given_up() -> None:
    with RecognizerPool(1, SpeechLimits(failures=2), command=["false"]) as pool:
        problems = [pool.submit(voiced(0.1)).result().problem for _ in range(4)]
    assert ["status" in p for p in problems] == [True, True, False, False]
    assert "off" in problems[3]
    with RecognizerPool(1, command=["/nonexistent/recogniser"]) as pool:
        assert pool.submit(voiced(0.1)).result().problem


def test_a_lack_of_handles_is_not_the_audio_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(child.subprocess, "Popen", start)
    sound = blocks(np.concatenate([voiced(1), silent(1)]))
    with RecognizerPool(1) as pool, pytest.raises(VideoError) as raised, one_file(b"/videos/a.mp4", "decode"):
        transcript(pool, sound)
    assert raised.value.problem.code == NO_RESOURCES
    assert "ulimit -n" in raised.value.problem.next


def test_no_recogniser_starts_before_the_first_utterance() -> None:
    with RecognizerPool(2, command=["/nonexistent/recogniser"]) as pool:
        assert transcript(pool, blocks(silent(3))).problems == []


def test_killing_the_pool_ends_work_at_once() -> None:
    pool = RecognizerPool(1, command=[sys.executable, "-c", "import time; time.sleep(99)"])
    transcriber = PocketSphinxTranscriber(pool, ())
    for block in blocks(np.concatenate([voiced(1), silent(1), voiced(1), silent(1)])):
        transcriber.feed(block)
    time.sleep(0.3)
    pool.kill()
    began = time.monotonic()
    result = transcriber.finish()
    pool.close()
    assert time.monotonic() - began < 5
    assert len(result.problems) == 2  # one stopped in work, one before


def test_the_recogniser_ends_with_its_parent() -> None:
    script = (
        "import numpy as np, sys, time\nfrom vfindex.indexer.speech.recognizer_pool import RecognizerPool\n"
        "pool = RecognizerPool(1)\n"
        "pool.submit(np.zeros(1600, np.int16)).result()\nprint(pool._idle[0].pid, flush=True)\ntime.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return  # ended; whoever inherited it has not looked yet
        time.sleep(0.05)
    pytest.fail("the recogniser outlives its parent")


def test_a_recogniser_without_memory_is_a_recorded_problem() -> None:
    with RecognizerPool(1, SpeechLimits(memory_bytes=64 << 20)) as pool:
        result = pool.submit(voiced(1)).result(timeout=60)
    assert result.words == ()
    assert "status" in result.problem


def test_extreme_audio_is_decoded() -> None:
    noise = np.random.default_rng(1).integers(-32768, 32768, SAMPLE_RATE_HZ).astype(np.int16)
    with RecognizerPool(1) as pool:
        for sound in (
            silent(1),
            noise,
            np.full(SAMPLE_RATE_HZ, 32767, np.int16),
            voiced(0.01),
            silent(0),
            silent(0.001),
        ):
            assert pool.submit(sound).result().problem == ""


@needs_media
def test_real_speech_is_understood() -> None:
    said = speech()[4 * SAMPLE_RATE_HZ : 9 * SAMPLE_RATE_HZ]
    with RecognizerPool(1) as pool:
        result = transcript(pool, blocks(said, start_s=4.0))
    rooms = next(s for s in result.segments if "one of the largest clean rooms in the" in s.text)
    assert 4.2 - 0.5 <= rooms.start_s <= rooms.end_s <= 8.4 + 0.5  # as the subtitles of this video have it
    assert all(transcribe.MIN_CONFIDENCE <= (s.confidence or 0) <= 1 for s in result.segments)
    assert result.problems == []
    assert 2 < result.recognised_s <= result.voiced_s <= 5.0


@needs_media
def test_words_depend_only_on_the_audio() -> None:
    parts = [speech()[84000:110000], speech()[144000:168000], voiced(0.5)]

    def hear(workers: int, order: Sequence[int]) -> dict[int, tuple[Word, ...]]:
        with RecognizerPool(workers) as pool:
            futures = {n: pool.submit(parts[n]) for n in order}
            return {n: future.result().words for n, future in futures.items()}

    first = hear(1, [0, 1, 2])
    assert len(first[0]) > 2
    assert hear(2, [2, 1, 0, 1]) == first
