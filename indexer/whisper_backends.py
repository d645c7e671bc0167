"""Whisper's two back ends, faster-whisper on CTranslate2 and openai-whisper on torch, and the filter for voice.

Both take a folder of files and nothing else: faster-whisper would ask a model hub for a tokenizer that is missing, so
that every file is looked for first.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ctranslate2
import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.vad import VadOptions, get_speech_timestamps
from numpy.typing import NDArray

from vfindex.indexer.hallucination import RawSegment
from vfindex.indexer.media import SAMPLE_RATE_HZ
from vfindex.indexer.whisper import WINDOW_S, SpeechModel
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

if TYPE_CHECKING:
    import torch
    import whisper

CTRANSLATE2_FILES = ("model.bin", "config.json", "tokenizer.json")
BEAM_SIZE = 5  # as both projects' own commands have it
# A loop ends here at the latest. Talk needs some 150 tokens in 30 s, in scripts that the tokenizer does not know twice
# as many; the decoder has room for 448 with its prompt.
MAX_TOKENS = 440
WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
FRAMES_PER_WINDOW = 3000
S_PER_TIME_TOKEN = 0.02
# A pause as long as this ends a span of voice: faster-whisper's own setting for batches.
VOICE = VadOptions(max_speech_duration_s=WINDOW_S, min_silence_duration_ms=160)
TAGS = {"jw": "jv"}  # Whisper's code for Javanese is none of BCP 47
CODES = {tag: code for code, tag in TAGS.items()}
REMEDY = "fetch the model again with `vfindex models pull`, or choose another with --speech"


def find_voice(samples: NDArray[np.int16]) -> list[tuple[int, int]]:
    """Return the spans that may be speech, (first, last + 1) in samples, in order, none longer than WINDOW_S.

    samples: (n,) at SAMPLE_RATE_HZ. Silero's voice activity detector, whose weights ship inside faster-whisper.
    """
    spans = get_speech_timestamps(samples.astype(np.float32) / 32768.0, VOICE)
    return [(int(span["start"]), int(span["end"])) for span in spans]


def open_model(folder: Path, *, threads: int, device: str | None) -> SpeechModel:
    """Open the model in a folder with the back end that its files are made for. Raises ModelError."""
    if (folder / "model.bin").is_file():
        return FasterWhisper.open(folder, threads=threads, device=device)
    pickles = sorted(folder.glob("*.pt"))
    if len(pickles) == 1:
        return OpenAIWhisper.open(pickles[0], threads=threads, device=device)
    raise ModelError(
        f"{folder}: there is no Whisper model here, neither CTranslate2's ({', '.join(CTRANSLATE2_FILES)}) nor "
        f"a single openai-whisper *.pt; {REMEDY}"
    )


class FasterWhisper:
    """Whisper on CTranslate2: int8 on a processor, float16 on CUDA. A `SpeechModel`."""

    def __init__(self, model: WhisperModel, workers: int) -> None:
        self._model = model
        self._pipeline = BatchedInferencePipeline(model)
        self.workers = workers

    @classmethod
    def open(cls, folder: Path, *, threads: int, device: str | None) -> FasterWhisper:
        """Open a folder of CTranslate2. On a processor each core has a worker of its own."""
        for name in CTRANSLATE2_FILES:
            if not (folder / name).is_file():
                raise ModelError(f"{folder / name}: this file of the speech model is missing; {REMEDY}")
        where, index = _device(device, cuda=ctranslate2.get_cuda_device_count() > 0)
        workers = threads if where == "cpu" else 1
        try:
            model = WhisperModel(
                str(folder),
                device=where,
                device_index=index,
                compute_type="int8" if where == "cpu" else "float16",
                cpu_threads=1,
                num_workers=workers,
                local_files_only=True,
            )
        except (RuntimeError, ValueError, TypeError, OSError) as exc:
            raise ModelError(f"{folder}: the speech model cannot be opened ({_brief(exc)}); {REMEDY}") from exc
        if model.model.n_mels != len(model.feature_extractor.mel_filters):
            raise ModelError(
                f"{folder / 'preprocessor_config.json'}: missing, or of another model: this one takes "
                f"{model.model.n_mels} bands of sound; {REMEDY}"
            )
        return cls(model, workers)

    def detect(self, sound: FloatArray) -> tuple[str, float]:
        """Return the language of a sound and its probability; an English-only model says English."""
        if not self._model.model.is_multilingual:
            return "en", 1.0
        try:
            code, probability, _ = self._model.detect_language(sound)
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"the language cannot be told ({_brief(exc)})") from exc
        return TAGS.get(code, code), float(probability)

    def transcribe(self, sounds: Sequence[FloatArray], language: str) -> list[list[RawSegment]]:
        """Return what is said in each sound."""
        # The pipeline takes one sound and spans of it, and gives back a span's first frame with each segment.
        joined = np.zeros(len(sounds) * WINDOW_SAMPLES, dtype=np.float32)
        spans = []
        for n, sound in enumerate(sounds):
            joined[n * WINDOW_SAMPLES : n * WINDOW_SAMPLES + len(sound)] = sound
            spans.append({"start": n * WINDOW_S, "end": n * WINDOW_S + len(sound) / SAMPLE_RATE_HZ})
        said: list[list[RawSegment]] = [[] for _ in sounds]
        try:
            segments, _ = self._pipeline.transcribe(
                joined,
                language=CODES.get(language, language),
                clip_timestamps=spans,
                batch_size=len(sounds),
                beam_size=BEAM_SIZE,
                max_new_tokens=MAX_TOKENS,
                without_timestamps=False,
            )
            for segment in segments:
                n = segment.seek // FRAMES_PER_WINDOW
                said[n].append(
                    RawSegment(
                        segment.start - n * WINDOW_S,
                        segment.end - n * WINDOW_S,
                        segment.text,
                        segment.no_speech_prob,
                        segment.avg_logprob,
                        segment.compression_ratio,
                    )
                )
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"speech cannot be recognised ({_brief(exc)})") from exc
        return said

    def close(self) -> None:
        """Free the model's memory."""
        self._model.model.unload_model()


class OpenAIWhisper:
    """Whisper on torch, by openai-whisper: float32 on a processor, float16 on CUDA. A `SpeechModel`."""

    workers = 1  # its cache of keys and values hangs on the model itself

    def __init__(self, model: whisper.Whisper) -> None:
        self._model = model

    @classmethod
    def open(cls, path: Path, *, threads: int, device: str | None) -> OpenAIWhisper:
        """Open a checkpoint of openai-whisper: a pickle of dimensions and tensors, and nothing else is unpickled."""
        import torch
        import whisper

        torch.set_num_threads(threads)
        where, index = _device(device, cuda=torch.cuda.is_available())
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            model = whisper.Whisper(whisper.ModelDimensions(**checkpoint["dims"]))
            model.load_state_dict(checkpoint["model_state_dict"])
            model = model.to(where if where == "cpu" else f"{where}:{index}").eval()
        except (RuntimeError, ValueError, TypeError, KeyError, OSError, EOFError, pickle.UnpicklingError) as exc:
            raise ModelError(f"{path}: the speech model cannot be opened ({_brief(exc)}); {REMEDY}") from exc
        return cls(model)

    def detect(self, sound: FloatArray) -> tuple[str, float]:
        """Return the language of a sound and its probability; an English-only model says English."""
        if not self._model.is_multilingual:
            return "en", 1.0
        try:
            _, probabilities = self._model.detect_language(self._spectrogram(sound))
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"the language cannot be told ({_brief(exc)})") from exc
        code = max(probabilities, key=lambda code: probabilities[code])
        return TAGS.get(code, code), float(probabilities[code])

    def transcribe(self, sounds: Sequence[FloatArray], language: str) -> list[list[RawSegment]]:
        """Return what is said in each sound."""
        import whisper
        from whisper.tokenizer import get_tokenizer
        from whisper.utils import compression_ratio

        code = CODES.get(language, language)
        options = whisper.DecodingOptions(
            language=code, beam_size=BEAM_SIZE, sample_len=MAX_TOKENS, fp16=self._model.device.type == "cuda"
        )
        tokenizer = get_tokenizer(
            self._model.is_multilingual, num_languages=self._model.num_languages, language=code, task="transcribe"
        )
        try:
            # One by one: its beam search mixes up the sounds of a batch (openai-whisper 20250625).
            results = [self._model.decode(self._spectrogram(sound), options) for sound in sounds]
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"speech cannot be recognised ({_brief(exc)})") from exc
        said = []
        for sound, result in zip(sounds, results, strict=True):
            pieces = timed(result.tokens, tokenizer.timestamp_begin, len(sound) / SAMPLE_RATE_HZ)
            texts = [(start_s, end_s, tokenizer.decode(tokens)) for start_s, end_s, tokens in pieces]
            said.append(
                [
                    RawSegment(a, b, text, result.no_speech_prob, result.avg_logprob, compression_ratio(text))
                    for a, b, text in texts
                ]
            )
        return said

    def _spectrogram(self, sound: FloatArray) -> torch.Tensor:
        """Return (n_mels, FRAMES_PER_WINDOW) of a sound, filled up with silence."""
        import torch
        import whisper

        padded = whisper.pad_or_trim(torch.from_numpy(sound))
        mel: torch.Tensor = whisper.log_mel_spectrogram(
            padded, n_mels=self._model.dims.n_mels, device=self._model.device
        )
        return mel

    def close(self) -> None:
        """Free the model's memory."""
        del self._model


def timed(tokens: Sequence[int], first_time: int, length_s: float) -> Iterator[tuple[float, float, list[int]]]:
    """Yield (start_s, end_s, text tokens) of a window's tokens, in which times stand before and after each piece.

    first_time: the token of 0 s; those after it are each S_PER_TIME_TOKEN later. length_s: the end of a piece that has
    none.
    """
    start_s, text = 0.0, []
    for token in tokens:
        if token < first_time:
            text.append(token)
            continue
        time_s = (token - first_time) * S_PER_TIME_TOKEN
        if text:
            yield start_s, time_s, text
            text = []
        start_s = time_s
    if text:
        yield start_s, max(start_s, length_s), text


def _device(device: str | None, *, cuda: bool) -> tuple[str, int]:
    """Return the kind of device and its number."""
    name, _, number = (device or ("cuda" if cuda else "cpu")).partition(":")
    return name, int(number or 0)


def _brief(exc: Exception) -> str:
    """Return the first line of a foreign message, and only its beginning."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
