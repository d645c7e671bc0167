"""Sound embeddings by the audio tower of a CLAP model (Wu et al. 2023, arXiv 2211.06687), on a GPU or the CPU.

A model is a folder as transformers writes it for `ClapModel`. Nothing here uses the network. Only this file loads such
models; `export/clap.py` exports the text tower of what it loads.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import ClapModel
from transformers.utils import logging as transformers_logging

from vfindex.indexer.models.sound.mel import MelSettings, Sound
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

# Windows of one call. A window has some 50 MB of activations; more at once are no faster on a CPU.
BATCH_WINDOWS = 4
# Raised by transformers, safetensors and torch for damaged or mismatched files.
_LOADING_ERRORS = (
    AttributeError,
    EOFError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


class ClapEncoder:
    """The audio tower of a model. Calls from several threads are serialised.

    rate_hz: of its sounds. window_s: the longest sound that it takes at once. dim: length of its vectors.
    batch_windows: the fastest number of sounds per call; any number is allowed.
    """

    batch_windows = BATCH_WINDOWS

    def __init__(self, network: Any, settings: MelSettings, device: str) -> None:
        self._network, self._settings, self._device = network.to(device), settings, device
        self._batch = BATCH_WINDOWS
        self._lock = threading.Lock()
        self.rate_hz, self.window_s = settings.rate_hz, settings.window_s
        self.dim = int(network.config.projection_dim)

    @classmethod
    def open(cls, folder: Path, *, threads: int, device: str = "cpu") -> ClapEncoder:
        """Return the encoder of a folder on a torch device. Raises ModelError."""
        network = load_clap(folder)
        del network.text_model, network.text_projection
        if device == "cpu":
            torch.set_num_threads(threads)
        return cls(network, MelSettings.read(folder), device)

    def encode_sounds(self, sounds: Sequence[Sound]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1, in the order of the sounds.

        sounds: one channel at rate_hz, at most window_s long and not empty. The batch size is halved, permanently, when
        the memory of the GPU runs out; raises ModelError if one sound does not fit.
        """
        vectors = np.zeros((len(sounds), self.dim), np.float32)
        with self._lock:
            at = 0
            while at < len(sounds):
                try:
                    rows = self._encode(sounds[at : at + self._batch])
                except torch.OutOfMemoryError as exc:
                    if self._batch == 1:
                        raise ModelError("there is not enough memory on the GPU to encode even one sound") from exc
                    self._batch //= 2
                    torch.cuda.empty_cache()
                    continue
                vectors[at : at + len(rows)] = rows
                at += len(rows)
        if not np.isfinite(vectors).all():
            raise ModelError("the model of sounds gives vectors that are no numbers, as damaged weights do")
        return vectors

    def _encode(self, sounds: Sequence[Sound]) -> FloatArray:
        features = torch.from_numpy(self._settings.spectrograms(sounds)).to(self._device)
        with torch.inference_mode():
            return np.asarray(audio_vectors(self._network, features).cpu().numpy(), np.float32)


def audio_vectors(network: Any, features: Tensor) -> Tensor:
    """Return (n, dim) rows of length 1. features: of `MelSettings.spectrograms`."""
    heard = network.audio_model(input_features=features)
    return functional.normalize(network.audio_projection(heard.pooler_output), dim=1)


def load_clap(folder: Path) -> Any:
    """Return the `ClapModel` of a folder in float32, on the CPU. Raises ModelError if it is damaged or unsupported."""
    read: Any = ClapModel.from_pretrained  # whose result depends on output_loading_info
    quiet: Any = transformers_logging.disable_progress_bar  # it would last 0.1 s
    quiet()
    try:
        network, report = read(str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True)
    except _LOADING_ERRORS as exc:
        reason = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise ModelError(f"{folder}: this CLAP model cannot be loaded ({reason})") from exc
    absent = sorted(report["missing_keys"])
    if absent or report["mismatched_keys"]:
        raise ModelError(f"{folder}: not the weights of this CLAP model: {len(absent)} are missing, as {absent[:1]}")
    if network.config.audio_config.enable_fusion:
        raise ModelError(
            f"{folder}: a CLAP model with feature fusion, which vfindex does not support; take laion/clap-htsat-unfused"
        )
    return network.eval()
