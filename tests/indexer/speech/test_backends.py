"""Whisper's back ends on a tiny model with a fixed script, and voice activity detection."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_whisper
from numpy.typing import NDArray

from vfindex.indexer.media.decoder import AudioBlock
from vfindex.indexer.media.protocol import SAMPLE_RATE_HZ
from vfindex.indexer.speech import backends
from vfindex.indexer.speech.backends import FasterWhisper, find_voice, open_model, open_whisper, padded, timed
from vfindex.indexer.speech.whisper import MAX_VOICE_S, PAD_S, SpeechModel
from vfindex.storage import machine
from vfindex.storage.errors import ModelError

Sound = NDArray[np.int16]
MEDIA = os.environ.get("VFINDEX_TEST_MEDIA")
needs_media = pytest.mark.skipif(MEDIA is None, reason="real speech comes from the folder in VFINDEX_TEST_MEDIA")
SCRIPT = (0.0, " One of the largest clean rooms", 2.5, 2.5, " in the world. Ключ, 部屋!", 4.0)
TEXTS = ["One of the largest clean rooms", "in the world. Ключ, 部屋!"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of the model, by back end."""
    base = tmp_path_factory.mktemp("whisper")
    source = tiny_whisper.make_whisper(base / "transformers", SCRIPT, language="jw")
    openai = base / "openai"
    openai.mkdir()
    tiny_whisper.checkpoint(source, openai / "tiny.pt")
    return {"faster-whisper": tiny_whisper.convert(source, base / "ctranslate2"), "openai-whisper": openai}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> Iterator[dict[str, SpeechModel]]:
    """Return the open model, by back end."""
    opened = {name: open_model(folder, threads=1, device="cpu") for name, folder in folders.items()}
    yield opened
    for model in opened.values():
        model.close()


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the folders of a model of English alone."""
    base = tmp_path_factory.mktemp("english")
    source = tiny_whisper.make_whisper(base / "transformers", (0.0, " Hello there.", 1.5), language=None)
    openai = base / "openai"
    openai.mkdir()
    tiny_whisper.checkpoint(source, openai / "tiny.en.pt")
    return [tiny_whisper.convert(source, base / "ctranslate2"), openai]


both = pytest.mark.parametrize("name", ["faster-whisper", "openai-whisper"])


@cache
def speech() -> Sound:
    """About 13 s about a telescope, from its first word on."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    path = Path(MEDIA or "") / "edge" / "nasa_13013.mp4.audio.mp3"
    with av.open(str(path)) as container:
        frames = [g for f in container.decode(audio=0) for g in resampler.resample(f)] + resampler.resample(None)
    return np.concatenate([g.to_ndarray()[0] for g in frames])


def noise(length_s: float) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(0, 0.1, round(length_s * SAMPLE_RATE_HZ)).astype(np.float32)


@needs_media
@both
def test_a_model_s_text_gets_the_video_s_time(folders: dict[str, Path], name: str) -> None:
    whisper = open_whisper(folders[name], threads=1, device="cpu")
    transcriber = whisper.transcriber([])
    for at in range(0, len(speech()), 1024):
        transcriber.feed(AudioBlock(100 + at / SAMPLE_RATE_HZ, speech()[at : at + 1024]))
    result = transcriber.finish()
    whisper.close()
    begin_s = 100 + find_voice(speech())[0][0] / SAMPLE_RATE_HZ
    assert [s.text for s in result.segments] == TEXTS
    times = [(s.start_s - begin_s, s.end_s - begin_s) for s in result.segments]
    assert times == [pytest.approx((0.0, 2.5 - PAD_S)), pytest.approx((2.5 - PAD_S, 4.0 - PAD_S))]
    assert [(s.language, s.source) for s in result.segments] == [("jv", "asr")] * 2  # Whisper's own code is jw
    assert all(0.85 < (s.confidence or 0) < 0.97 for s in result.segments)  # exp of -0.1, less a little
    assert (result.recognised_s, result.dropped_s, result.problems) == (pytest.approx(4.0 - PAD_S), 0.0, [])
    assert 10 < result.voiced_s < 11


def test_both_back_ends_hear_the_same(folders: dict[str, Path], models: dict[str, SpeechModel]) -> None:
    sounds = [noise(30.0), noise(3.0)]
    exact = FasterWhisper.open(folders["faster-whisper"], threads=1, device="cpu", number_format="float32")
    for language in ("", "en"):
        one, other = (model.transcribe(sounds, language) for model in (exact, models["openai-whisper"]))
        for a, b in zip(one, other, strict=True):
            assert a.language == b.language == (language or "jv")
            assert a.probability == pytest.approx(b.probability, abs=1e-3)
            assert [s.text for s in a.segments] == [s.text for s in b.segments]
            for x, y in zip(a.segments, b.segments, strict=True):
                assert (x.start_s, x.end_s) == (y.start_s, y.end_s)
                assert x.avg_logprob == pytest.approx(y.avg_logprob, abs=2e-3)
                assert x.no_speech_prob == pytest.approx(y.no_speech_prob, rel=0.1)
                assert x.compression_ratio == y.compression_ratio < 1
    exact.close()


@pytest.mark.parametrize(
    ("name", "flags", "exact"),
    [
        ("x86_64", "flags : avx2 avx_vnni", True),
        ("AMD64", "flags : avx512f avx512_vnni", True),
        ("x86_64", "flags : avx2 avx512f", False),
        ("x86_64", "", False),
        ("aarch64", "Features : asimd", True),
    ],
)
def test_int8_is_added_exactly(monkeypatch: pytest.MonkeyPatch, name: str, flags: str, exact: bool) -> None:
    monkeypatch.setattr(backends.platform, "machine", lambda: name)
    monkeypatch.setattr(machine, "kernel_file", lambda _: flags)
    assert backends.adds_int8_exactly() is exact


@pytest.mark.parametrize(("exact", "number_format"), [(True, "int8_float32"), (False, "float32")])
def test_int8_is_for_processors_that_add_it_exactly(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, exact: bool, number_format: str
) -> None:
    monkeypatch.setattr(backends, "adds_int8_exactly", lambda: exact)
    opened = FasterWhisper.open(folders["faster-whisper"], threads=1, device="cpu")
    assert opened._model.model.compute_type == number_format
    opened.close()


@both
def test_language_and_audio_reach_the_model(models: dict[str, SpeechModel], name: str) -> None:
    def logprob(sound: NDArray[np.float32], language: str) -> float:
        (heard,) = models[name].transcribe([sound], language)
        return heard.segments[0].avg_logprob

    found = models[name].transcribe([noise(5.0)], "")[0]
    assert 0.9 < found.probability < 1
    assert models[name].transcribe([noise(5.0)], "jv")[0].probability == 1
    assert logprob(noise(5.0), "jv") == pytest.approx(logprob(noise(5.0), ""), abs=1e-6)
    assert abs(logprob(noise(5.0), "jv") - logprob(noise(5.0), "ru")) > 1e-5
    assert abs(logprob(noise(5.0), "jv") - logprob(0 * noise(5.0), "jv")) > 1e-4


def test_an_english_only_model_detects_english(english: list[Path]) -> None:
    for folder in english:
        model = open_model(folder, threads=1, device="cpu")
        (heard,) = model.transcribe([noise(4.0)], "")
        model.close()
        assert (heard.language, heard.probability) == ("en", 1.0)
        assert [(s.start_s, s.end_s, s.text) for s in heard.segments] == [(0.0, 1.5, " Hello there.")]


def test_inputs_of_a_batch_are_independent(models: dict[str, SpeechModel]) -> None:
    model = models["faster-whisper"]
    sounds = [noise(2.0), 0 * noise(7.0), noise(30.0)]
    together = model.transcribe(sounds, "")
    alone = [model.transcribe([sound], "")[0] for sound in sounds]
    for a, b in zip(together, alone, strict=True):
        assert [s.text for s in a.segments] == [s.text for s in b.segments]
        assert a.segments[0].avg_logprob == pytest.approx(b.segments[0].avg_logprob, abs=1e-4)
    assert len({round(heard.segments[0].avg_logprob, 5) for heard in together}) == 3


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named_and_not_fetched(folders: dict[str, Path], tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(folders["faster-whisper"], tmp_path / "copy")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=rf"copy/{missing}: this file of the speech model is missing; fetch") as caught:
        open_whisper(folder, threads=1, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="there is no Whisper model here"):
        open_whisper(tmp_path, threads=1, device="cpu")
    for name in ("a.pt", "b.pt"):
        shutil.copy(folders["openai-whisper"] / "tiny.pt", tmp_path / name)
    with pytest.raises(ModelError, match=r"nor a single openai-whisper \*\.pt"):
        open_whisper(tmp_path, threads=1, device="cpu")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("faster-whisper", "model.bin"),
        ("faster-whisper", "config.json"),
        ("faster-whisper", "tokenizer.json"),
        ("openai-whisper", "tiny.pt"),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_file_is_one_sentence(
    folders: dict[str, Path], tmp_path: Path, name: str, file: str, share: float
) -> None:
    folder = shutil.copytree(folders[name], tmp_path / "copy")
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"copy.*the speech model cannot be opened \(.*\); fetch") as caught:
        open_whisper(folder, threads=1, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_description_of_another_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["faster-whisper"], tmp_path / "copy")
    (folder / "preprocessor_config.json").write_text('{"feature_size": 128}')
    with pytest.raises(ModelError, match=r"preprocessor_config\.json: missing, or of another model.* 80 mel bands"):
        open_whisper(folder, threads=1, device="cpu")


class _Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(
        pickle.dumps({"dims": {}, "model_state_dict": _Trap(tmp_path / "run")}, protocol=2)
    )
    with pytest.raises(ModelError, match="cannot be opened"):
        open_whisper(tmp_path, threads=1, device="cpu")
    assert not (tmp_path / "run").exists()


@both
def test_a_missing_device_is_reported(folders: dict[str, Path], name: str) -> None:
    for device, words in (("tpu", "no such device"), ("cuda:99", r"cannot be opened \(.*\); look after")):
        with pytest.raises(ModelError, match=words):
            open_whisper(folders[name], threads=1, device=device)


def test_cublas_is_found_where_pip_puts_it() -> None:
    if not any(package.metadata["Name"] == "nvidia-cublas-cu12" for package in importlib.metadata.distributions()):
        pytest.skip("cuBLAS 12 comes with faiss-gpu, on Linux alone")
    code = "import ctypes; from vfindex.indexer.speech.backends import _load_cublas; _load_cublas();"
    code += "ctypes.CDLL('libcublas.so.12')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@both
def test_audio_too_long_for_the_model_is_a_model_error(models: dict[str, SpeechModel], name: str) -> None:
    with pytest.raises(ModelError, match="speech cannot be recognised"):
        models[name].transcribe([noise(31.0)], "en")


def test_audio_is_padded_with_silence() -> None:
    whole = padded(noise(3.0))
    assert whole.shape == (30 * SAMPLE_RATE_HZ,)
    assert np.array_equal(whole[: 3 * SAMPLE_RATE_HZ], noise(3.0))
    assert not whole[3 * SAMPLE_RATE_HZ :].any()
    with pytest.raises(ValueError, match="negative"):
        padded(noise(30.1))


def test_tokens_between_times_are_pieces() -> None:
    first = 1000
    assert list(timed([1000, 1, 2, 1050, 1060, 3, 1100], first, 9.0)) == [
        (0.0, 1.0, [1, 2]),
        (pytest.approx(1.2), 2.0, [3]),
    ]
    assert list(timed([5, 6], first, 9.0)) == [(0.0, 9.0, [5, 6])]  # no times at all
    assert list(timed([1000, 1, 1050, 1050, 2], first, 9.0)) == [(0.0, 1.0, [1]), (1.0, 9.0, [2])]  # cut off
    assert list(timed([1050, 2], first, 0.5)) == [(1.0, 1.0, [2])]
    assert list(timed([1000, 1050], first, 9.0)) == list(timed([], first, 9.0)) == []


@needs_media
def test_voice_is_found_in_talk() -> None:
    spans = find_voice(np.concatenate([np.zeros(5 * SAMPLE_RATE_HZ, np.int16), speech()]))
    assert spans[0][0] / SAMPLE_RATE_HZ == pytest.approx(5.72, abs=0.05)  # the first word begins at 0.7 s
    assert sum(b - a for a, b in spans) > 0.75 * len(speech())  # its pauses take 2.5 of 12.6 s
    assert all(a < b <= c for (a, b), (c, _) in itertools.pairwise(spans))


@needs_media
def test_no_span_of_voice_is_longer_than_a_window() -> None:
    breathless = np.tile(speech()[9 * SAMPLE_RATE_HZ : 10 * SAMPLE_RATE_HZ], 70)
    lengths_s = [(b - a) / SAMPLE_RATE_HZ for a, b in find_voice(breathless)]
    assert len(lengths_s) == 3
    assert sum(lengths_s) > 65
    assert max(lengths_s) <= MAX_VOICE_S


def test_silence_noise_and_nothing_hold_no_voice() -> None:
    hiss = np.random.default_rng(0).normal(0, 6000, 10 * SAMPLE_RATE_HZ)
    for sound in (np.zeros(SAMPLE_RATE_HZ, np.int16), np.zeros(0, np.int16), np.ones(1, np.int16), hiss):
        assert find_voice(np.asarray(sound, dtype=np.int16)) == []
