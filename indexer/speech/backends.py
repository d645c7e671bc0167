"""The two Whisper back ends, faster-whisper on CTranslate2 and openai-whisper on torch, and voice activity detection.

Both load a local folder only. faster-whisper would download a missing tokenizer, so all files are checked first.
"""

from __future__ import annotations

import ctypes
import importlib.util
import pickle
import platform
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens
from faster_whisper.vad import VadOptions, get_speech_timestamps
from numpy.typing import NDArray

from vfindex.indexer.media.protocol import SAMPLE_RATE_HZ
from vfindex.indexer.speech.hallucination import RawSegment
from vfindex.indexer.speech.whisper import MAX_VOICE_S, TIME_STEP_S, WINDOW_S, SpeechModel, Whisper, WindowTranscript
from vfindex.storage.errors import ModelError
from vfindex.storage.machine import processor_flags
from vfindex.storage.records import FloatArray

if TYPE_CHECKING:
    import torch
    import whisper

CTRANSLATE2_FILES = ("model.bin", "config.json", "tokenizer.json")
BEAM_SIZE = 5  # the default of both projects' commands
MAX_TOKENS = 440  # the longest loop; the decoder has room for 448 with its prompt
# Measured, base in int8: 2.8 to 3.2 core seconds per window in batches of 1, 2, 4 or 8. Single windows share the cores
# best, and kill() waits least. On CUDA the default of faster-whisper.
CPU_BATCH, CUDA_BATCH = 1, 8
WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
FRAMES = 3000  # of the spectrogram of a window
FRAMES_PER_S = 100
X86 = frozenset({"x86_64", "amd64"})
VNNI = frozenset({"avx_vnni", "avx512_vnni"})
# A pause as long as this ends a span of voice: faster-whisper's own setting for batches. `windows_of` pads.
VOICE = VadOptions(max_speech_duration_s=MAX_VOICE_S, min_silence_duration_ms=160, speech_pad_ms=0)
# Written without spaces between words: each character is taken for one.
UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "my"})
TAGS = {"jw": "jv"}  # Whisper's code for Javanese is not a BCP 47 tag
CODES = {tag: code for code, tag in TAGS.items()}
REMEDY = "fetch the model again with `vfindex models pull`, or choose another with --speech"
CUDA_REMEDY = "look after the GPU's driver and memory, or hide the GPU with CUDA_VISIBLE_DEVICES=''"


def find_voice(samples: NDArray[np.int16]) -> list[tuple[int, int]]:
    """Return the possible speech as spans (first, last + 1) in samples, in order, each at most MAX_VOICE_S long.

    samples: (n,) at SAMPLE_RATE_HZ. Silero's voice activity detector, whose weights ship inside faster-whisper.
    """
    spans = get_speech_timestamps(samples.astype(np.float32) / 32768.0, VOICE)
    return [(int(span["start"]), int(span["end"])) for span in spans]


def open_whisper(folder: Path, *, threads: int, device: str | None = None, main_language: str = "") -> Whisper:
    """Load the model in a folder, for CTranslate2 (`model.bin`) or openai-whisper (a single `*.pt`).

    threads: processor cores to use. device: `cpu`, `cuda` or `cuda:N`; None: CUDA if available. main_language: see
    `Whisper`. Raises ModelError. Never uses the network.
    """
    return Whisper(open_model(folder, threads=threads, device=device), find_voice, main_language)


def open_model(folder: Path, *, threads: int, device: str | None) -> SpeechModel:
    """Load the model in a folder with the back end that fits its files. Raises ModelError."""
    if (folder / "model.bin").is_file():
        return FasterWhisper.open(folder, threads=threads, device=device)
    pickles = sorted(folder.glob("*.pt"))
    if len(pickles) == 1:
        return OpenAIWhisper.open(pickles[0], threads=threads, device=device)
    raise ModelError(
        f"{folder}: there is no Whisper model here, neither CTranslate2's ({', '.join(CTRANSLATE2_FILES)}) nor "
        f"a single openai-whisper *.pt; {REMEDY}"
    )


def adds_int8_exactly() -> bool:
    """Return whether sums of int8 products lose nothing: x86 without VNNI adds two in 16 bits, which saturates."""
    return platform.machine().lower() not in X86 or not VNNI.isdisjoint(processor_flags())


class FasterWhisper:
    """Whisper on CTranslate2: int8 or float32 on a processor, float16 on CUDA. A `SpeechModel`."""

    def __init__(self, model: WhisperModel, *, workers: int, batch: int) -> None:
        self._model = model
        self.workers = workers
        self.batch = batch
        self._tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language="en")
        self._suppressed = get_suppressed_tokens(self._tokenizer, (-1,))

    @classmethod
    def open(cls, folder: Path, *, threads: int, device: str | None, number_format: str | None = None) -> FasterWhisper:
        """Load a CTranslate2 folder. On a processor each core has its own worker.

        number_format: of CTranslate2; None for float16 on CUDA, int8 on a processor that adds it exactly, else float32:
        where sums of products saturate, Whisper loses whole sentences.
        """
        for name in CTRANSLATE2_FILES:
            if not (folder / name).is_file():
                raise ModelError(f"{folder / name}: this file of the speech model is missing; {REMEDY}")
        where, indexes = _device(device, ctranslate2.get_cuda_device_count())
        fastest = "float16" if where == "cuda" else "int8" if adds_int8_exactly() else "float32"
        try:
            if where == "cuda":
                _load_cublas()
            model = WhisperModel(
                str(folder),
                device=where,
                device_index=indexes,
                compute_type=number_format or fastest,
                cpu_threads=1,
                num_workers=threads if where == "cpu" else 1,
                local_files_only=True,
            )
            if where == "cuda":  # missing libraries show at the first matrix product
                model.encode(np.zeros((1, model.model.n_mels, FRAMES), dtype=np.float32))
        except Exception as exc:  # tokenizers raises nothing more precise
            remedy = CUDA_REMEDY if where == "cuda" else REMEDY
            raise ModelError(f"{folder}: the speech model cannot be opened ({_brief(exc)}); {remedy}") from exc
        if model.model.n_mels != len(model.feature_extractor.mel_filters):
            raise ModelError(
                f"{folder / 'preprocessor_config.json'}: missing, or of another model: this one takes "
                f"{model.model.n_mels} mel bands; {REMEDY}"
            )
        if where == "cpu":
            return cls(model, workers=threads, batch=CPU_BATCH)
        return cls(model, workers=len(indexes), batch=CUDA_BATCH)

    def transcribe(self, sounds: Sequence[FloatArray], language: str) -> list[WindowTranscript]:
        """Return what each sound says, as `SpeechModel` has it."""
        try:
            encoded = self._model.encode(np.stack([self._features(sound) for sound in sounds]))
            languages = [(language, 1.0)] * len(sounds) if language else self._languages(encoded, len(sounds))
            results = self._model.model.generate(
                encoded,
                [self._prompt(tag) for tag, _ in languages],
                beam_size=BEAM_SIZE,
                max_length=MAX_TOKENS + 3,
                return_scores=True,
                return_no_speech_prob=True,
                suppress_tokens=self._suppressed,
            )
            tokens_of = [result.sequences_ids[0] for result in results]
            times_of = self._times(encoded, tokens_of, sounds, languages[0][0])
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"speech cannot be recognised ({_brief(exc)})") from exc
        heard = []
        for sound, (tag, probability), result, tokens, times_s in zip(
            sounds, languages, results, tokens_of, times_of, strict=True
        ):
            # CTranslate2's score is the mean over the tokens; Whisper's counts the end of the text as one more.
            logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
            pieces = list(timed(tokens, self._tokenizer.timestamp_begin, len(sound) / SAMPLE_RATE_HZ))
            said = _segments(pieces, self._tokenizer.decode, (result.no_speech_prob, logprob))
            words = self._words([text for _, _, text in pieces], times_s, tag)
            timed_words = (replace(raw, words=own) for raw, own in zip(said, words, strict=True))
            heard.append(WindowTranscript(tag, probability, tuple(timed_words)))
        return heard

    def _times(
        self,
        encoded: ctranslate2.StorageView,
        tokens_of: Sequence[Sequence[int]],
        sounds: Sequence[FloatArray],
        tag: str,
    ) -> list[list[float]]:
        """Return when each text token of each sound begins, in seconds.

        By dynamic time warping of the decoder's attention, as in Whisper's own `timing.py`: one more pass of the
        decoder, without a search. tag: a language of the sounds; times hardly depend on it.
        """
        texts = [[token for token in tokens if token < self._tokenizer.eot] for tokens in tokens_of]
        lengths = [min(FRAMES, round(len(sound) / SAMPLE_RATE_HZ * FRAMES_PER_S)) for sound in sounds]
        aligned = self._model.model.align(encoded, self._prompt(tag), texts, lengths)
        found: list[list[float]] = []
        for result in aligned:
            first: dict[int, int] = {}
            for token, frame in result.alignments:
                first.setdefault(token, frame)
            found.append([frame * TIME_STEP_S for frame in first.values()])
        return found

    def _words(
        self, texts: Sequence[list[int]], times_s: Sequence[float], tag: str
    ) -> Iterator[tuple[tuple[float, str], ...]]:
        """Yield the words of each segment of a window, by its tokens. times_s: of all of them."""
        split = self._tokenizer.split_tokens_on_unicode if tag in UNSPACED else self._tokenizer.split_tokens_on_spaces
        at = 0
        for tokens in texts:
            words, parts = split(tokens)
            starts = accumulate(map(len, parts), initial=at)
            yield tuple((times_s[n], word) for n, word in zip(starts, words, strict=False) if n < len(times_s))
            at += len(tokens)

    def knows(self, language: str) -> bool:
        """Return whether the model recognises a language."""
        if not self._model.model.is_multilingual:
            return language == "en"
        return self._model.hf_tokenizer.token_to_id(f"<|{CODES.get(language, language)}|>") is not None

    def _features(self, sound: FloatArray) -> FloatArray:
        """Return the spectrogram of a window, (n_mels, FRAMES)."""
        features: FloatArray = self._model.feature_extractor(padded(sound))
        return features[:, :FRAMES]

    def _languages(self, encoded: ctranslate2.StorageView, n_sounds: int) -> list[tuple[str, float]]:
        """Return language and probability of each input; an English-only model assumes English."""
        if not self._model.model.is_multilingual:
            return [("en", 1.0)] * n_sounds
        best = [guesses[0] for guesses in self._model.model.detect_language(encoded)]
        return [(_tag(token.strip("<|>")), probability) for token, probability in best]

    def _prompt(self, tag: str) -> list[int]:
        if not self._model.model.is_multilingual:
            return [self._tokenizer.sot]
        language = self._model.hf_tokenizer.token_to_id(f"<|{CODES.get(tag, tag)}|>")
        return [self._tokenizer.sot, language, self._tokenizer.transcribe]

    def close(self) -> None:
        """Free the model's memory."""
        self._model.model.unload_model()


class OpenAIWhisper:
    """Whisper on torch, by openai-whisper: float32 on a processor, float16 on CUDA. A `SpeechModel`."""

    workers = 1  # its key-value cache is attached to the model
    batch = 1  # its beam search mixes up the inputs of a batch (20250625)

    def __init__(self, model: whisper.Whisper) -> None:
        self._model = model
        self._half = model.device.type == "cuda"

    @classmethod
    def open(cls, path: Path, *, threads: int, device: str | None) -> OpenAIWhisper:
        """Load a checkpoint of openai-whisper: a pickle of dimensions and tensors; nothing else is unpickled."""
        import torch
        import whisper

        torch.set_num_threads(threads)
        where, indexes = _device(device, torch.cuda.device_count())
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            model = whisper.Whisper(whisper.ModelDimensions(**checkpoint["dims"]))
            model.load_state_dict(checkpoint["model_state_dict"])
            model = model.to(torch.device(where, indexes[0])).eval()
        except (RuntimeError, ValueError, TypeError, KeyError, OSError, EOFError, pickle.UnpicklingError) as exc:
            remedy = CUDA_REMEDY if where == "cuda" else REMEDY
            raise ModelError(f"{path}: the speech model cannot be opened ({_brief(exc)}); {remedy}") from exc
        return cls(model)

    def transcribe(self, sounds: Sequence[FloatArray], language: str) -> list[WindowTranscript]:
        """Return what each sound says, as `SpeechModel` has it."""
        try:
            return [self._transcribe(sound, language) for sound in sounds]
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"speech cannot be recognised ({_brief(exc)})") from exc

    def knows(self, language: str) -> bool:
        """Return whether the model recognises a language."""
        from whisper.tokenizer import LANGUAGES

        return language == "en" or (self._model.is_multilingual and CODES.get(language, language) in LANGUAGES)

    def _transcribe(self, sound: FloatArray, language: str) -> WindowTranscript:
        import torch
        import whisper
        from whisper.tokenizer import get_tokenizer

        model = self._model
        mel = whisper.log_mel_spectrogram(padded(sound), n_mels=model.dims.n_mels, device=model.device)
        with torch.inference_mode():
            encoded = model.embed_audio((mel.half() if self._half else mel)[None])[0]
        probability = 1.0
        if not language:
            language, probability = self._language(encoded)
        code = CODES.get(language, language)
        options = whisper.DecodingOptions(language=code, beam_size=BEAM_SIZE, sample_len=MAX_TOKENS, fp16=self._half)
        result = model.decode(encoded, options)
        tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages, language=code)
        said = _segments(
            timed(result.tokens, tokenizer.timestamp_begin, len(sound) / SAMPLE_RATE_HZ),
            tokenizer.decode,
            (result.no_speech_prob, result.avg_logprob),
        )
        return WindowTranscript(language, probability, said)

    def _language(self, encoded: torch.Tensor) -> tuple[str, float]:
        """Return language and probability of an input; an English-only model assumes English."""
        if not self._model.is_multilingual:
            return "en", 1.0
        _, probabilities = self._model.detect_language(encoded)
        code = max(probabilities, key=lambda code: probabilities[code])
        return _tag(code), float(probabilities[code])

    def close(self) -> None:
        """Free the model's memory."""
        del self._model


def padded(sound: FloatArray) -> FloatArray:
    """Return samples padded with silence to WINDOW_S, Whisper's input length; raises ValueError if they are longer."""
    return np.pad(sound, (0, WINDOW_SAMPLES - len(sound)))


def timed(tokens: Sequence[int], first_time: int, length_s: float) -> Iterator[tuple[float, float, list[int]]]:
    """Yield (start_s, end_s, text tokens) of each segment in a window's tokens, where time tokens enclose each segment.

    first_time: the token of 0 s; those after it are each TIME_STEP_S later. length_s: the end of a segment without
    one.
    """
    start_s, text = 0.0, []
    for token in tokens:
        if token < first_time:
            text.append(token)
            continue
        time_s = (token - first_time) * TIME_STEP_S
        if text:
            yield start_s, time_s, text
            text = []
        start_s = time_s
    if text:
        yield start_s, max(start_s, length_s), text


def _segments(
    pieces: Iterable[tuple[float, float, list[int]]], decode: Callable[[list[int]], str], sure: tuple[float, float]
) -> tuple[RawSegment, ...]:
    """Return the segments of a window; sure: its no_speech_prob and avg_logprob."""
    texts = [(start_s, end_s, decode(tokens)) for start_s, end_s, tokens in pieces]
    ratio = compression_ratio("".join(text for _, _, text in texts))
    return tuple(RawSegment(start_s, end_s, text, *sure, ratio) for start_s, end_s, text in texts)


def compression_ratio(text: str) -> float:
    """Return the size of a text divided by its compressed size, as Whisper computes it."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _tag(code: str) -> str:
    """Return the BCP 47 tag of one of Whisper's codes."""
    return TAGS.get(code, code)


def _device(device: str | None, n_cuda: int) -> tuple[str, list[int]]:
    """Return device type and indices: all GPUs if none is named."""
    if device is None:
        device = "cuda" if n_cuda else "cpu"
    match = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", device)
    if match is None:
        raise ModelError(f"{device}: no such device; speech is recognised on cpu, cuda or cuda:N")
    kind, number = match.groups()
    return kind, [int(number)] if number else list(range(max(n_cuda, 1))) if kind == "cuda" else [0]


def _load_cublas() -> None:
    """Load cuBLAS 12 for CTranslate2 from its pip package, which is not on the library search path."""
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or []) if package else []:
        library = Path(folder, "cublas", "lib", "libcublas.so.12")
        if library.is_file():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _brief(exc: Exception) -> str:
    """Return the beginning of a foreign message's first line."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
