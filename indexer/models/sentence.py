"""Texts to unit vectors by sentence-transformers: on CUDA, where ONNX Runtime's processor kernels are slow.

Only this file and `export_towers` load these models with torch. On the processor the indexer reads the same model from
the ONNX folder of `towers.ensure_sentence`.
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

from vfindex.indexer.models.export.folders import short_name
from vfindex.storage.encoders.text import readable
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

if TYPE_CHECKING:
    from vfindex.indexer.models.store import LocalModel

# What is indexed is short: windows of 25 words, titles. Some models read 8192 tokens, where attention alone would take
# gigabytes; 512 are more than all others read.
MAX_TOKENS = 512
BATCH_TEXTS = 256
# The prompts of families that were trained with some but whose folders do not say so, for queries and for passages:
# Wang et al. 2022, arXiv 2212.03533; Xiao et al. 2023, arXiv 2309.07597. bge-m3 was trained without.
_FAMILIES = (
    (re.compile(r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?"), "query: ", "passage: "),
    (
        re.compile(r"bge-(small|base|large)-en(-v1\.5)?"),
        "Represent this sentence for searching relevant passages: ",
        "",
    ),
)
# What sentence-transformers, transformers and torch raise for a folder whose files do not fit, or are no such files.
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
    """An open sentence model on a GPU, in half precision. dim: the length of its vectors.

    `encode_passages` may be called from several threads: they take turns, for transformers' tokenizers refuse to be
    used by two at once.
    """

    def __init__(self, network: SentenceTransformer, passage_prompt: str) -> None:
        self._network = network
        self._prompt = passage_prompt
        self._batch = BATCH_TEXTS
        self._turn = threading.Lock()
        self.dim = int(network.get_embedding_dimension() or 0)

    @classmethod
    def open(cls, model: LocalModel, device: str) -> SentenceEncoder:
        """Return the encoder of a sentence-transformers folder on a torch device. Raises ModelError."""
        network = load_sentence_model(model.folder, device)
        if device != "cpu":
            network.half()
        return cls(network, prompts_of(network, short_name(model.reference))[1])

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1, in the order of `texts`, with the model's prompt for passages.

        A batch for which the memory does not suffice is halved; raises ModelError if it does not suffice for one text.
        """
        clean = [self._prompt + readable(t) for t in texts]
        with self._turn:
            while True:
                try:
                    return self._encode(clean)
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
    """Return the model of a sentence-transformers folder, float32, for texts of at most MAX_TOKENS tokens.

    Raises ModelError if a file is missing, damaged or unfit.
    """
    try:
        network = SentenceTransformer(str(folder), device=device, local_files_only=True)
    except _LOADING_ERRORS as exc:
        reason = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise ModelError(f"{folder}: this sentence-transformers model cannot be loaded ({reason})") from exc
    network.max_seq_length = min(network.max_seq_length or MAX_TOKENS, MAX_TOKENS)
    return network.float().eval()


def prompts_of(network: SentenceTransformer, name: str) -> tuple[str, str]:
    """Return what stands before a query and before a passage: as the model's folder says, else as its family has it.

    name: the model's, without its publisher's.
    """
    return chosen_prompts(network.prompts, network.default_prompt_name, name)


def chosen_prompts(prompts: Mapping[str, str | None], default_name: str | None, name: str) -> tuple[str, str]:
    """Return a query's and a passage's prompt out of what config_sentence_transformers.json has.

    prompts, default_name: its fields `prompts` and `default_prompt_name`. Passages are what sentence-transformers'
    encode_document takes: `document`, `passage` or `corpus`, the first that is there.
    """
    known = {key: text for key, text in prompts.items() if text}
    default = known.get(default_name or "", "")
    query = known.get("query", default)
    passage = next((known[key] for key in ("document", "passage", "corpus") if key in known), default)
    if query or passage:
        return query, passage
    families = (both for pattern, *both in _FAMILIES if pattern.fullmatch(name))
    query, passage = next(families, ("", ""))
    return query, passage
