"""Whisper's transcriber: windows, times, languages, limits, with a model that returns the loudness of its input."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfindex.indexer.media.decoder import AudioBlock
from vfindex.indexer.media.protocol import SAMPLE_RATE_HZ
from vfindex.indexer.speech import whisper as whisper_module
from vfindex.indexer.speech.hallucination import RawSegment
from vfindex.indexer.speech.transcribe import Transcript
from vfindex.indexer.speech.whisper import GAP_S, STOPPED, Sound, Whisper, WindowTranscript, uncovered, windows_of
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

PAUSE, MOST = SAMPLE_RATE_HZ // 5, round(whisper_module.MAX_VOICE_S * SAMPLE_RATE_HZ)
SURE_EN, SURE_DE, UNSURE_FR = 1000, 2000, 3000  # how loud a language is
FILLING = "words enough for as long as it takes"  # for a second as for thirty
LANGUAGES = {SURE_EN: ("en", 0.9), SURE_DE: ("de", 0.8), UNSURE_FR: ("fr", 0.4)}


def loud(length_s: float, level: int = SURE_EN) -> Sound:
    return np.full(round(length_s * SAMPLE_RATE_HZ), level, np.int16)


def silent(length_s: float) -> Sound:
    return loud(length_s, 0)


def voice(samples: Sound) -> list[tuple[int, int]]:
    """All that is not silent, pauses of up to 0.2 s included, in pieces of 29.2 s."""
    at = np.flatnonzero(samples)
    cuts = np.flatnonzero(np.diff(at) > PAUSE)
    whole = [(int(part[0]), int(part[-1]) + 1) for part in np.split(at, cuts + 1) if len(part)]
    return [(a, min(a + MOST, last)) for first, last in whole for a in range(first, last, MOST)]


def level_of(sound: FloatArray) -> int:
    return round(float(sound.max()) * 32768)


class Loudness:
    """A back end that says how loud a sound is, from its first to its last second, in the language of that."""

    workers = 2

    def __init__(self, batch: int = 2) -> None:
        self.batch = batch
        self.calls: list[tuple[int, str]] = []  # sounds, language
        self.numbers = itertools.count()  # no two texts are the same
        self.closed = False

    def transcribe(self, sounds: Sequence[FloatArray], language: str) -> list[WindowTranscript]:
        self.calls.append((len(sounds), language))
        return [self.hear(sound, language) for sound in sounds]

    def knows(self, language: str) -> bool:
        return language in ("en", "de", "fr")

    def hear(self, sound: FloatArray, language: str) -> WindowTranscript:
        level, length_s = level_of(sound), len(sound) / SAMPLE_RATE_HZ
        text = f"no. {next(self.numbers)}, {length_s:.2f} seconds at {level}, {FILLING}"
        said = RawSegment(0.0, length_s, text, 0.1, -0.5, 1.0)
        return WindowTranscript(*((language, 1.0) if language else LANGUAGES[level]), (said,))

    def close(self) -> None:
        self.closed = True


@contextmanager
def opened(model: Loudness) -> Iterator[Whisper]:
    whisper = Whisper(model, voice)
    try:
        yield whisper
    finally:
        whisper.close()


def blocks(sound: Sound, start_s: float = 0.0, size: int = 4096) -> list[AudioBlock]:
    return [AudioBlock(start_s + at / SAMPLE_RATE_HZ, sound[at : at + size]) for at in range(0, len(sound), size)]


def transcript(model: Loudness, parts: Sequence[AudioBlock], covered: Sequence[tuple[float, float]] = ()) -> Transcript:
    with opened(model) as whisper:
        transcriber = whisper.transcriber(covered)
        for block in parts:
            transcriber.feed(block)
        return transcriber.finish()


def spans(result: Transcript) -> list[tuple[float, float]]:
    return [(round(s.start_s, 3), round(s.end_s, 3)) for s in result.segments]


def talk(n: int, level: int = SURE_EN, length_s: float = 20.0) -> list[Sound]:
    """Sound that fills a window, and the pause after it, n times."""
    return [loud(length_s, level), silent(1.0)] * n


def test_segments_have_the_video_s_times() -> None:
    sound = np.concatenate([silent(3), loud(2), silent(40), loud(5), silent(1)])
    result = transcript(Loudness(), blocks(sound, start_s=100.0))
    assert spans(result) == [(103.0, 105.0), (145.0, 150.0)]
    assert [s.text.split(",")[1] for s in result.segments] == [" 2.80 seconds at 1000", " 5.80 seconds at 1000"]
    assert [(s.source, s.language) for s in result.segments] == [("asr", "en")] * 2
    assert result.segments[0].confidence == pytest.approx(0.9 * np.exp(-0.5))
    assert (result.voiced_s, result.recognised_s, result.dropped_s) == pytest.approx((7.0, 7.0, 0.0))
    assert result.problems == []


@pytest.mark.parametrize("size", [160, 1000, 10**6])
def test_segments_do_not_depend_on_the_size_of_blocks(size: int) -> None:
    sound = np.concatenate([silent(0.5), loud(2), silent(1), loud(7)])
    assert transcript(Loudness(), blocks(sound, size=size)) == transcript(Loudness(), blocks(sound))


def test_after_a_gap_times_count_from_it() -> None:
    before, after = blocks(loud(4)), blocks(loud(4), start_s=9.5)
    assert spans(transcript(Loudness(), [*before, *after])) == [(0.0, 4.0), (9.5, 13.5)]
    assert spans(transcript(Loudness(), [*after, *before])) == [(0.0, 4.0), (9.5, 13.5)]
    jitter = blocks(loud(4), start_s=4 + GAP_S / 2)
    assert spans(transcript(Loudness(), [*before, *jitter])) == [(0.0, 8.0)]


def test_silence_is_not_recognised() -> None:
    model = Loudness()
    assert transcript(model, blocks(silent(70))) == Transcript([], 0.0, 0.0, 0.0, [])
    assert model.calls == []


def test_audio_covered_by_subtitles_is_not_recognised() -> None:
    sound = loud(60)
    signs = transcript(Loudness(), blocks(sound), covered=[(10.0, 20.0), (500.0, 501.0)])
    assert spans(signs) == [(0.0, 10.0), (20.0, 49.2), (49.2, 60.0)]
    assert signs.voiced_s == pytest.approx(50.0)
    complete = transcript(Loudness(), blocks(sound), covered=[(0.0, 20.0), (30.0, 60.0)])
    assert (complete.segments, complete.voiced_s) == ([], 0.0)
    edge = transcript(Loudness(), blocks(sound), covered=[(0.0, 5.0), (5.9, 8.0), (9.1, 19.0), (99.0, 100.0)])
    assert spans(edge)[0] == (8.0, 9.1)  # 0.9 s between two subtitles are nothing, 1.1 s may be


@given(
    st.integers(0, 50),
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 20)), max_size=6),
)
def test_uncovered_parts_are_all_that_no_span_takes(start: int, length: int, taken: list[tuple[int, int]]) -> None:
    unit = 160  # 10 ms
    covered, end = [], 0
    for gap, size in taken:
        covered.append((end + gap, end + gap + size))
        end += gap + size
    samples = np.arange(length * unit).astype(np.int16)
    block = AudioBlock(start / 100, samples)
    parts = list(uncovered(block, [(a / 100, b / 100) for a, b in covered]))
    expected = [n for n in range(start, start + length) if not any(a <= n < b for a, b in covered)]
    found = [round(time_s * 100) + n for time_s, part in parts for n in range(len(part) // unit)]
    assert found == expected
    assert all(samples[round((time_s - block.time_s) * SAMPLE_RATE_HZ)] == part[0] for time_s, part in parts)


def test_windows_contain_up_to_30_seconds() -> None:
    sound = np.concatenate([silent(2), loud(10), silent(1), loud(18), silent(1), loud(10), silent(80), loud(29.2)])
    first, second, third = windows_of(7.0, sound, voice)
    assert (first.start_s, first.length_s, first.voiced) == (8.6, 29.8, ((0.4, 10.4), (11.4, 29.4)))
    assert (second.start_s, second.length_s, second.voiced) == (38.6, 10.8, ((0.4, 10.4),))
    assert (third.start_s, third.length_s) == (128.6, 29.6)  # after the 120 s at which the filter is asked
    assert third.voiced == ((0.4, 29.6),)
    assert list(windows_of(0.0, loud(0.9), voice)) == []


def test_windows_share_the_gap_between_them() -> None:
    sound = np.concatenate([silent(0.1), loud(20), silent(0.5), loud(20), silent(0.2)])
    first, second = windows_of(0.0, sound, voice)
    assert (first.start_s, first.length_s, first.voiced) == (0.0, 20.35, ((0.1, 20.1),))
    assert (second.start_s, second.length_s, second.voiced) == (20.35, 20.45, ((0.25, 20.25),))


def test_segments_begin_and_end_with_voice() -> None:
    said = (
        raw(0.0, 6.0, " It began a little later."),
        raw(6.1, 9.0, " And it ended."),
        raw(11.5, 16.0, " After a pause."),
    )
    sound = np.concatenate([silent(5), loud(10), silent(2), loud(3), silent(5)])
    assert spans(transcript(Raving(*said), blocks(sound))) == [(5.0, 10.6), (10.7, 13.6), (17.0, 20.0)]


def test_the_language_is_detected_in_five_windows() -> None:
    model = Loudness()
    result = transcript(model, blocks(np.concatenate(talk(8))))
    assert sorted(model.calls, key=str) == [(1, ""), (1, "en"), (2, ""), (2, ""), (2, "en")]
    assert {s.language for s in result.segments} == {"en"}
    assert len(result.segments) == 8


def test_languages_that_differ_are_kept_by_window() -> None:
    model = Loudness()
    sound = np.concatenate([*talk(4), *talk(5, SURE_DE)])
    result = transcript(model, blocks(sound))
    assert [s.language for s in result.segments] == ["en"] * 4 + ["de"] * 5
    assert all(language == "" for _, language in model.calls)
    assert sum(n for n, _ in model.calls) == 9  # none is heard twice


def test_an_unsure_window_takes_the_language_of_the_others() -> None:
    model = Loudness()
    result = transcript(model, blocks(np.concatenate([*talk(3, UNSURE_FR), *talk(2, SURE_DE), *talk(1)])))
    assert [s.language for s in result.segments] == ["de"] * 5 + ["en"]  # fr 3 x 0.4, de 2 x 0.8
    assert sum(n for n, language in model.calls if language == "de") == 3
    assert sum(n for n, language in model.calls if language == "") == 6
    assert result.assumed == {"de": 3}


@pytest.mark.parametrize(("main", "expected"), [("", "en"), ("de", "de"), ("fr", "fr"), ("tlh", "en")])
def test_a_video_of_unsure_language_takes_that_of_the_library(main: str, expected: str) -> None:
    whisper = Whisper(Loudness(), voice, main)
    transcriber = whisper.transcriber(())
    for block in blocks(loud(5, UNSURE_FR)):
        transcriber.feed(block)
    result = transcriber.finish()
    whisper.close()
    assert [s.language for s in result.segments] == [expected]
    assert result.assumed == {expected: 1}


def test_unsure_probes_do_not_speak_for_the_others() -> None:
    turns = [part for n in range(9) for part in talk(1, SURE_EN if n % 2 else UNSURE_FR)]
    result = transcript(Loudness(), blocks(np.concatenate(turns)))
    assert [s.language for s in result.segments] == ["en"] * 9  # en 4 x 0.9, fr 5 x 0.4


class Raving(Loudness):
    """Says what it is told to say."""

    def __init__(self, *said: RawSegment) -> None:
        super().__init__()
        self.said = said

    def hear(self, sound: FloatArray, language: str) -> WindowTranscript:
        return WindowTranscript("en", 0.9, self.said)


def raw(start_s: float, end_s: float, text: str, no_speech: float = 0.0, logprob: float = 0.0) -> RawSegment:
    return RawSegment(start_s, end_s, text, no_speech, logprob, 1.0)


def test_implausible_text_is_counted_and_dropped() -> None:
    model = Raving(
        raw(0.0, 2.0, " A word or two,"),
        raw(2.0, 5.0, " thank you thank you thank you thank you"),
        raw(5.0, 6.0, " the same."),
        raw(6.0, 7.0, " The same!"),
        raw(7.0, 8.0, " the same"),
        raw(8.0, 9.5, " Applause", no_speech=0.9, logprob=-2.0),
        raw(11.0, 13.0, " where nobody speaks"),
        raw(15.0, 99.0, " up to the end"),
        raw(28.0, 29.0, " beyond it"),
        raw(9.5, 10.0, " \n"),
    )
    result = transcript(model, blocks(np.concatenate([loud(10), silent(5), loud(5)]), start_s=50.0))
    assert [s.text for s in result.segments] == ["A word or two,", "the same.", "up to the end"]
    assert spans(result) == [(50.0, 52.0), (55.0, 56.0), (65.0, 70.0)]
    assert result.dropped_s == pytest.approx(3 + 1 + 1 + 1.5)  # from 11 to 13 s nobody speaks
    assert result.recognised_s == pytest.approx(2 + 1 + 5)
    assert result.voiced_s == pytest.approx(15)


def test_no_more_is_recognised_than_may_be_speech() -> None:
    """The model joins two sentences over a pause, and its segments overlap."""
    model = Raving(raw(0.0, 7.0, " One sentence and another"), raw(4.0, 7.5, " and another one, said twice"))
    result = transcript(model, blocks(np.concatenate([loud(2), silent(3), loud(4), silent(1)])))
    assert [(s.start_s, s.end_s) for s in result.segments] == [(0.0, 7.0), (5.0, 7.5)]
    assert (result.voiced_s, result.recognised_s) == (pytest.approx(6.0), pytest.approx(2 + 2.5))


def test_a_window_of_stock_phrases_alone_is_dropped() -> None:
    thanks = (raw(0.0, 1.0, " Thank you."), raw(1.0, 2.0, " Thank you for watching!"))
    assert transcript(Raving(*thanks), blocks(loud(4))).segments == []
    talk = transcript(Raving(raw(0.0, 2.0, " My fellow Americans."), raw(2.0, 3.0, " Thank you.")), blocks(loud(4)))
    assert [s.text for s in talk.segments] == ["My fellow Americans.", "Thank you."]


def test_a_segment_without_length_is_kept_where_there_is_voice() -> None:
    """Whisper rounds times to 0.02 s, and gives the last word of a window cut off none at all."""
    said = (raw(2.0, 2.0, " Yes."), raw(2.0, 4.0, " That is what I mean."), raw(6.5, 6.5, " No."))
    result = transcript(Raving(*said), blocks(np.concatenate([loud(5), silent(3), loud(2)])))
    assert [(s.start_s, s.text) for s in result.segments] == [(2.0, "Yes."), (2.0, "That is what I mean.")]


def test_no_sound_at_all_has_no_words() -> None:
    model = Loudness()
    assert transcript(model, []) == transcript(model, [AudioBlock(3.0, silent(0))]) == Transcript([], 0.0, 0.0, 0.0, [])
    assert model.calls == []


def test_text_of_another_script_is_dropped() -> None:
    result = transcript(Raving(raw(0.0, 2.0, " It is called"), raw(2.0, 4.0, "ストーリーの終わり")), blocks(loud(4)))
    assert [s.text for s in result.segments] == ["It is called"]


def test_words_begin_with_voice() -> None:
    words = ((0.0, " It"), (0.9, " began,"), (1.1, ","), (1.2, " a"), (5.0, " lit"), (5.2, "tle"), (10.6, " later"))
    said = replace(raw(0.0, 14.0, " It began, a little later."), words=words)
    sound = np.concatenate([silent(5), loud(10), silent(2), loud(3), silent(5)])
    [segment] = transcript(Raving(said), blocks(sound)).segments
    found = [(segment.text[place:], segment.start_s + time_s) for place, time_s in segment.word_times]
    assert [text.split()[0] for text, _ in found] == ["It", "began,", "a", "little", "tle", "later."]
    assert [time_s for _, time_s in found] == pytest.approx([5.0, 5.5, 5.8, 9.6, 9.8, 17.0])


class Failing(Loudness):
    """Cannot take more than two sounds at a time, nor any that is as loud as the one it cannot stand."""

    def __init__(self, unbearable: int = 0) -> None:
        super().__init__(batch=8)
        self.unbearable = unbearable

    def transcribe(self, sounds: Sequence[FloatArray], language: str) -> list[WindowTranscript]:
        self.calls.append((len(sounds), language))
        if len(sounds) > 2:
            raise ModelError("out of memory")
        if any(level_of(sound) == self.unbearable for sound in sounds):
            raise ModelError("a sound that it cannot stand")
        return [self.hear(sound, language) for sound in sounds]


def test_a_batch_that_is_too_large_is_halved_and_nothing_is_lost() -> None:
    result = transcript(Failing(), blocks(np.concatenate(talk(9))))
    assert len(result.segments) == 9
    assert result.problems == []


def test_failing_audio_costs_only_its_window() -> None:
    sound = np.concatenate([*talk(2), *talk(1, SURE_DE), *talk(2)])
    result = transcript(Failing(unbearable=SURE_DE), blocks(sound))
    assert [round(s.start_s) for s in result.segments] == [0, 21, 63, 84]
    assert result.problems == ["a sound that it cannot stand"]
    assert result.voiced_s == pytest.approx(100)
    everything = transcript(Failing(unbearable=SURE_EN), blocks(loud(4)))
    assert (everything.segments, everything.problems) == ([], ["a sound that it cannot stand"])


class Slow(Loudness):
    """Waits until it is told to go on."""

    workers = 1

    def __init__(self) -> None:
        super().__init__(batch=1)
        self.began, self.go_on = threading.Event(), threading.Event()

    def hear(self, sound: FloatArray, language: str) -> WindowTranscript:
        self.began.set()
        self.go_on.wait(20)
        return super().hear(sound, language)


def in_thread(work: Callable[[], Transcript]) -> tuple[threading.Thread, list[Transcript]]:
    results: list[Transcript] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_killing_stops_after_the_batch_in_work() -> None:
    model = Slow()
    whisper = Whisper(model, voice)
    transcriber = whisper.transcriber([])
    for block in blocks(np.concatenate(talk(4))):
        transcriber.feed(block)
    thread, results = in_thread(transcriber.finish)
    assert model.began.wait(20) and whisper.is_intact
    whisper.kill()
    model.go_on.set()
    thread.join(20)
    assert not thread.is_alive() and not whisper.is_intact
    assert len(model.calls) == 1
    assert [round(s.start_s) for s in results[0].segments] == [0]
    assert results[0].problems == [STOPPED]
    late = whisper.transcriber([])
    late.feed(AudioBlock(0.0, loud(4)))
    assert late.finish().problems == [STOPPED]
    whisper.close()
    assert model.closed


def test_units_share_the_model() -> None:
    model = Loudness()
    with opened(model) as whisper:
        transcribers = [whisper.transcriber([]) for _ in range(4)]
        for n, transcriber in enumerate(transcribers):
            for block in blocks(np.concatenate(talk(3)), start_s=1000.0 * n):
                transcriber.feed(block)
        running = [in_thread(transcriber.finish) for transcriber in transcribers]
        for thread, _ in running:
            thread.join(20)
    for n, (_, results) in enumerate(running):
        assert [round(s.start_s - 1000 * n) for s in results[0].segments] == [0, 21, 42]
    assert model.closed


def test_audio_that_takes_too_long_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dragging(Loudness):
        workers = 1

        def hear(self, sound: FloatArray, language: str) -> WindowTranscript:
            time.sleep(0.3)
            return super().hear(sound, language)

    monkeypatch.setattr(whisper_module, "LIMIT_WINDOW_S", 0.1)
    result = transcript(Dragging(batch=1), blocks(np.concatenate(talk(6))))
    assert 2 <= len(result.segments) < 6  # 0.6 s are two or three windows
    assert result.problems == ["speech recognition took longer than 1 s"]


def test_buffered_audio_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper_module, "HELD_S", 50.0)
    model = Loudness()
    with opened(model) as whisper:
        transcriber = whisper.transcriber([])
        for block in blocks(np.concatenate(talk(7))):
            transcriber.feed(block)
            assert sum(run.length_s for run in transcriber._runs) < 50.0
        result = transcriber.finish()
    assert result.voiced_s == pytest.approx(140.0)
    assert result.recognised_s == pytest.approx(140.0)
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(result.segments))


def test_a_gap_after_each_sample_costs_no_memory() -> None:
    model = Loudness()
    with opened(model) as whisper:
        transcriber = whisper.transcriber([])
        for n in range(2000):
            transcriber.feed(AudioBlock(float(n), loud(0.01)))
        assert len(transcriber._runs) == 1
        assert transcriber.finish().segments == []
