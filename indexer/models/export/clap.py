"""Exports the text tower of a CLAP model to ONNX, in a child process and compared with torch:

    python -m vfindex.indexer.models.export.clap clap-text  SOURCE FOLDER NAME

Writes FOLDER/model, FOLDER/sounds.npy and FOLDER/banks.npz.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer

from vfindex.indexer.models.export.graph import check_parity, main, write_graph, write_tokenizer
from vfindex.indexer.models.priors import SOUND_VECTORS, background_queries, save_corpus_vectors
from vfindex.indexer.models.sound.calibration_sounds import calibration_sounds
from vfindex.indexer.models.sound.clap import ClapEncoder, load_clap
from vfindex.indexer.models.sound.mel import MelSettings
from vfindex.storage.encoders.text import QUERY, TextEncoder, write_meta

PARITY_QUERIES = 64
# The captions that the models were trained with have at most 77 tokens (LAION-AI/CLAP, `training/data.py`).
MAX_TOKENS = 77
# The caption of a sound as it is, and the prompt for its name (LAION-AI/CLAP, README).
TEMPLATES = [QUERY, f"This is a sound of {QUERY}."]
_ANY = torch.export.Dim.DYNAMIC


class Captions(nn.Module):
    """The text tower of a CLAP model."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.tower, self.projection = network.text_model, network.text_projection

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (n, dim) rows of length 1; ids (n, length) int64, mask (n, length) float32, 0 at padding."""
        read = self.tower(input_ids=ids, attention_mask=mask.to(torch.int64))
        return functional.normalize(self.projection(read.pooler_output), dim=1)


def export_clap_text(source: Path, folder: Path, name: str) -> None:
    """Write the text tower of a CLAP folder for TextEncoder, its vectors of the background queries, and of sounds."""
    network = load_clap(source)
    pad = int(network.config.text_config.pad_token_id)
    tower = Captions(network).eval()
    ids = torch.tensor([[100] * 9, [100] * 5 + [pad] * 4])
    mask = torch.tensor([[1.0] * 9, [1.0] * 5 + [0.0] * 4])
    sizes = {0: _ANY, 1: _ANY}
    model = folder / "model"
    write_graph(tower, (ids, mask), {"ids": sizes, "mask": sizes}, model)
    write_tokenizer(Tokenizer.from_file(str(source / "tokenizer.json")), MAX_TOKENS, model)
    queries = background_queries()[:PARITY_QUERIES]
    expected = captions_by_transformers(source, network, queries)
    write_meta(model, model=name, dimensions=expected.shape[1], templates=TEMPLATES, pad=pad)
    encoder = TextEncoder.open(model, threads=torch.get_num_threads())
    check_parity(encoder.encode(queries), expected)
    settings = MelSettings.read(source)
    heard = ClapEncoder(network, settings, "cpu").encode_sounds(list(calibration_sounds(settings.rate_hz)))
    np.save(folder / SOUND_VECTORS, heard)
    save_corpus_vectors(encoder, folder, passages=False)


def captions_by_transformers(source: Path, network: Any, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vectors (n, dim) of texts by transformers' own tokenizer and model."""
    tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=True)
    given = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    with torch.inference_mode():
        found = network.get_text_features(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        found = getattr(found, "pooler_output", found)  # a record from transformers 5 on
        return np.asarray(functional.normalize(found, dim=1).numpy(), np.float32)


EXPORTS = {"clap-text": export_clap_text}

if __name__ == "__main__":
    main(EXPORTS)
