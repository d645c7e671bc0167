"""Text embeddings by sentence-transformers, on a GPU. On a CPU the indexer runs the same model by ONNX Runtime.

Only this file loads such models with torch; `export/sentence.py` exports what it loads.
"""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

from vfindex.storage.encoders.text import readable
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

if TYPE_CHECKING:
    from vfindex.indexer.models.store import LocalModel

# Indexed texts are short: chunks of 25 words, titles. Some models accept 8192 tokens, which would take gigabytes for
# attention alone; the others accept at most 512.
MAX_TOKENS = 512
BATCH_TEXTS = 256
# Query and passage prompts of model families whose folders do not state them: Wang et al. 2022, arXiv 2212.03533;
# Xiao et al. 2023, arXiv 2309.07597. bge-m3 was trained without prompts.
_FAMILIES = (
    (re.compile(r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?"), "query: ", "passage: "),
    (
        re.compile(r"bge-(small|base|large)-en(-v1\.5)?"),
        "Represent this sentence for searching relevant passages: ",
        "",
    ),
)
# Raised by sentence-transformers, transformers and torch for damaged or mismatched files.
_LOADING_ERRORS = (
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


class SentenceEncoder:
    """A sentence model, in half precision on a GPU; a `PassageEncoder`.

    Calls from several threads are serialised: a tokenizer of transformers refuses concurrent use.
    """

    def __init__(self, network: SentenceTransformer, passage_prompt: str) -> None:
        self._network = network
        self._prompt = passage_prompt
        self._batch = BATCH_TEXTS
        self._lock = threading.Lock()
        self.dim = int(network.get_embedding_dimension() or 0)

    @classmethod
    def open(cls, model: LocalModel, device: str) -> SentenceEncoder:
        """Return the encoder of a sentence-transformers folder on a torch device. Raises ModelError."""
        network = load_sentence_model(model.folder, device)
        if device != "cpu":
            network.half()
        return cls(network, prompts_of(network, model.name)[1])

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1, in the order of `texts`; the passage prompt is prepended.

        The batch size is halved, permanently, when memory runs out; raises ModelError if one text does not fit.
        """
        prompted = [self._prompt + readable(t) for t in texts]
        with self._lock:
            while True:
                try:
                    return self._encode(prompted)
                except torch.OutOfMemoryError as exc:
                    if self._batch == 1:
                        raise ModelError("there is not enough memory on the GPU to encode even one text") from exc
                    self._batch //= 2
                torch.cuda.empty_cache()

    def _encode(self, texts: Sequence[str]) -> FloatArray:
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = self._network.encode(
            list(texts), prompt="", batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)


def load_sentence_model(folder: Path, device: str) -> SentenceTransformer:
    """Return the model of a sentence-transformers folder in float32; texts are truncated to MAX_TOKENS.

    Raises ModelError if a file is missing, damaged or unsupported.
    """
    try:
        network = SentenceTransformer(str(folder), device=device, local_files_only=True)
    except _LOADING_ERRORS as exc:
        reason = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise ModelError(f"{folder}: this sentence-transformers model cannot be loaded ({reason})") from exc
    network.max_seq_length = min(network.max_seq_length or MAX_TOKENS, MAX_TOKENS)
    return network.float().eval()


def prompts_of(network: SentenceTransformer, name: str) -> tuple[str, str]:
    """Return the query and the passage prompt of a model. name: without its owner, to recognise its family."""
    return chosen_prompts(network.prompts, network.default_prompt_name, name)


def chosen_prompts(prompts: Mapping[str, str | None], default_name: str | None, name: str) -> tuple[str, str]:
    """Return the query and the passage prompt: the folder's, else those of the model's family.

    prompts, default_name: `prompts` and `default_prompt_name` of config_sentence_transformers.json. The passage prompt
    is the first of `document`, `passage` and `corpus`, as in sentence-transformers' encode_document.
    """
    known = {key: text for key, text in prompts.items() if text}
    default = known.get(default_name or "", "")
    query = known.get("query", default)
    passage = next((known[key] for key in ("document", "passage", "corpus") if key in known), default)
    if query or passage:
        return query, passage
    families = ((query, passage) for pattern, query, passage in _FAMILIES if pattern.fullmatch(name))
    return next(families, ("", ""))
