"""Exports a sentence-transformers model to ONNX, in a child process and compared with torch:

    python -m vfindex.indexer.models.export.sentence sentence  SOURCE FOLDER NAME

Writes FOLDER/model and FOLDER/banks.npz.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from vfindex.indexer.models.export.graph import check_parity, main, write_graph, write_tokenizer
from vfindex.indexer.models.priors import background_queries, save_corpus_vectors
from vfindex.indexer.models.sentence import MAX_TOKENS, load_sentence_model, prompts_of
from vfindex.storage.encoders.text import TextEncoder, write_meta

PARITY_QUERIES = 64
_ANY = torch.export.Dim.DYNAMIC


class Sentences(nn.Module):
    """All modules of a sentence-transformers model: transformer, pooling, dense layers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (n, dim) rows of length 1; ids (n, length) int64, mask (n, length) float32, 0 at padding."""
        features = self.network({"input_ids": ids, "attention_mask": mask.to(torch.int64)})
        return functional.normalize(features["sentence_embedding"], dim=1)


def export_sentence(source: Path, folder: Path, name: str) -> None:
    """Write a sentence-transformers folder for TextEncoder, and its vectors of both corpora."""
    network = load_sentence_model(source, "cpu")
    query_prompt, passage_prompt = prompts_of(network, name)
    own = Tokenizer.from_str(network.tokenizer.backend_tokenizer.to_str())
    pad = network.tokenizer.pad_token_id or 0
    ids = torch.tensor([[100] * 9, [100] * 5 + [pad] * 4])
    mask = torch.tensor([[1.0] * 9, [1.0] * 5 + [0.0] * 4])
    sizes = {0: _ANY, 1: _ANY}
    model = folder / "model"
    write_graph(Sentences(network).eval(), (ids, mask), {"ids": sizes, "mask": sizes}, model)
    write_tokenizer(own, network.max_seq_length or MAX_TOKENS, model)
    queries = [query_prompt + query for query in background_queries()[:PARITY_QUERIES]]
    expected = network.encode(queries, prompt="", normalize_embeddings=True, show_progress_bar=False)
    templates = [f"{query_prompt}{{}}"]
    write_meta(model, model=name, dimensions=expected.shape[1], templates=templates, passage=passage_prompt, pad=pad)
    encoder = TextEncoder.open(model, threads=torch.get_num_threads())
    check_parity(encoder.encode(queries), expected)
    save_corpus_vectors(encoder, folder, passages=True)


EXPORTS = {"sentence": export_sentence}

if __name__ == "__main__":
    main(EXPORTS)
