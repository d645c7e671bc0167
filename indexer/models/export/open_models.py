"""The sides of open_clip and sentence-transformers models, from their own folders into optimised ONNX graphs.

    python -m vfindex.indexer.models.export.open_models clip-text | clip-image | sentence  SOURCE FOLDER NAME

writes FOLDER/model, and for texts FOLDER/banks.npz. Runs in a child process, as `export` does: open_clip and
sentence-transformers are imported only where no export is cached. Every export is compared with torch, from the text
or the pixels to the vector.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional

from vfindex.indexer.models.calibration_images import general_pictures
from vfindex.indexer.models.export.lite import check_parity, write_graph
from vfindex.indexer.models.priors import BANKS, background_queries, save_banks
from vfindex.storage.encoders.text import TextEncoder, open_session, write_meta
from vfindex.storage.errors import ModelError

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer

PARITY_QUERIES = 64
PARITY_PICTURES = 8
Free = dict[int, object]
_FREE = torch.export.Dim.DYNAMIC
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)"


class CausalText(nn.Module):
    """open_clip's text tower on texts as long as they are, not padded to the model's own length.

    Nothing changes: no token sees what follows it, and the vector is that of the last token.
    """

    causal: Tensor

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.words = tower.token_embedding
        self.positions = tower.positional_embedding
        self.transformer = tower.transformer
        self.norm = tower.ln_final
        self.projection = tower.text_projection
        self.register_buffer("causal", tower.attn_mask, persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (n, dim) rows of length 1; ids (n, length) int64; the mask is not needed."""
        length = ids.shape[1]
        x = self.words(ids) + self.positions[:length]
        x = self.norm(self.transformer(x, attn_mask=self.causal[:length, :length]))
        # The token at the end of every text is the highest of all.
        pooled = x[torch.arange(x.shape[0]), ids.argmax(dim=1)]
        if isinstance(self.projection, nn.Linear):
            pooled = self.projection(pooled)
        elif self.projection is not None:
            pooled = pooled @ self.projection
        return functional.normalize(pooled, dim=1)


class PaddedText(nn.Module):
    """Any text tower of open_clip, on texts padded to the model's own length: padding is part of what it reads."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (n, dim) rows of length 1; ids (n, the model's length) int64; the mask is not needed."""
        vectors: Tensor = self.network.encode_text(ids, normalize=True)
        return vectors


class Sentences(nn.Module):
    """A sentence-transformers model with all its modules: transformer, pooling, dense layers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (n, dim) rows of length 1; ids (n, length) int64, mask (n, length) float32, 0 at padding."""
        features = self.network({"input_ids": ids, "attention_mask": mask.to(torch.int64)})
        return functional.normalize(features["sentence_embedding"], dim=1)


def export_clip_text(source: Path, folder: Path, name: str) -> None:
    """Write the text tower of an open_clip folder as a model folder for TextEncoder, and its background queries."""
    import open_clip

    text = json.loads((source / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    _refuse_odd_tokens(text)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{source}")
    network: Any = open_clip.create_model(f"local-dir:{source}", require_pretrained=True).eval()
    del network.visual
    own_bpe = isinstance(tokenizer, open_clip.SimpleTokenizer)
    tower, ids, free, facts = _causal(network) if own_bpe and _reads_to_its_end(text) else _padded(network, tokenizer)
    model = folder / "model"
    write_graph(tower.eval(), (ids, torch.ones(ids.shape)), {"ids": free, "mask": free}, model)
    own = bpe_tokenizer(tokenizer) if own_bpe else Tokenizer.from_str(tokenizer.tokenizer.backend_tokenizer.to_str())
    _write_tokenizer(own, tokenizer.context_length, model)
    cleaning = (text.get("tokenizer_kwargs") or {}).get("clean", "lower" if own_bpe else "whitespace")
    queries = background_queries()[:PARITY_QUERIES]
    with torch.inference_mode():
        wanted = network.encode_text(tokenizer(queries), normalize=True).numpy()
    write_meta(model, model=name, dimensions=wanted.shape[1], templates=["{}"], cleaning=cleaning, **facts)
    encoder = TextEncoder.open(model, threads=torch.get_num_threads())
    check_parity(encoder.encode(queries), wanted)
    save_banks(encoder, folder / BANKS, passages=False)


def export_clip_image(source: Path, folder: Path, name: str) -> None:
    """Write the image tower of an open_clip folder as an ONNX folder."""
    from vfindex.indexer.models.open_clip import load_tower

    tower = load_tower(source)
    preparation = tower.preparation
    frames = islice(general_pictures(preparation.size_px), PARITY_PICTURES)
    pixels = np.stack([preparation.square(frame) for frame in frames])
    with torch.inference_mode():
        wanted = tower(torch.from_numpy(pixels)).numpy()
    model = folder / "model"
    write_graph(tower, (torch.from_numpy(pixels[:2]),), {"pixels": {0: _FREE}}, model)
    write_meta(
        model,
        model=name,
        dimensions=wanted.shape[1],
        size_px=preparation.size_px,
        resize_mode=preparation.resize_mode,
        interpolation=preparation.interpolation,
    )
    session = open_session(model, threads=torch.get_num_threads())
    check_parity(session.run(None, {"pixels": pixels})[0], wanted)


def export_sentence(source: Path, folder: Path, name: str) -> None:
    """Write a sentence-transformers folder as a model folder for TextEncoder, and the vectors of both banks."""
    from vfindex.indexer.models.sentence import MAX_TOKENS, load_sentence_model, prompts_of

    network = load_sentence_model(source, "cpu")
    query_prompt, passage_prompt = prompts_of(network, name)
    own = Tokenizer.from_str(network.tokenizer.backend_tokenizer.to_str())
    pad = network.tokenizer.pad_token_id or 0
    ids = torch.tensor([[100] * 9, [100] * 5 + [pad] * 4])
    mask = torch.tensor([[1.0] * 9, [1.0] * 5 + [0.0] * 4])
    free = {0: _FREE, 1: _FREE}
    model = folder / "model"
    write_graph(Sentences(network).eval(), (ids, mask), {"ids": free, "mask": free}, model)
    _write_tokenizer(own, network.max_seq_length or MAX_TOKENS, model)
    queries = [query_prompt + query for query in background_queries()[:PARITY_QUERIES]]
    wanted = network.encode(queries, prompt="", normalize_embeddings=True, show_progress_bar=False)
    templates = [f"{query_prompt}{{}}"]
    write_meta(model, model=name, dimensions=wanted.shape[1], templates=templates, passage=passage_prompt, pad=pad)
    encoder = TextEncoder.open(model, threads=torch.get_num_threads())
    check_parity(encoder.encode(queries), wanted)
    save_banks(encoder, folder / BANKS, passages=True)


def bpe_tokenizer(source: SimpleTokenizer) -> Tokenizer:
    """Return open_clip's own tokenizer, which has no file: equal ids for every text that went through its cleaning.

    But for "<start_of_text>" and "<end_of_text>" written out in a text, which stay words here.
    """
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(models.BPE(vocab=source.encoder, merges=merges, end_of_word_suffix="</w>"))
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, in_bytes])
    names = {number: token for token, number in source.encoder.items()}
    start, end = ((names[number], number) for number in (source.sot_token_id, source.eot_token_id))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A {end[0]}", special_tokens=[start, end]
    )
    return tokenizer


def _reads_to_its_end(text: dict[str, Any]) -> bool:
    """Return whether a text's vector is that of its last token, which sees the tokens before it alone."""
    sees_all = text.get("no_causal_mask") or text.get("embed_cls")
    return not sees_all and text.get("pool_type", "argmax") == "argmax"


def _causal(network: Any) -> tuple[nn.Module, Tensor, Free, dict[str, int]]:
    """Return the tower on texts as long as they are, an example, what of it is free, and facts for meta.json."""
    return CausalText(getattr(network, "text", network)), torch.full((2, 9), 1000), {0: _FREE, 1: _FREE}, {}


def _padded(network: Any, tokenizer: Any) -> tuple[nn.Module, Tensor, Free, dict[str, int]]:
    """Return the same as `_causal` of a tower that wants all texts at its own length."""
    inner = getattr(tokenizer, "tokenizer", None)  # of transformers; open_clip's own pads with 0
    facts = {"length": tokenizer.context_length, "pad": inner.pad_token_id if inner else 0}
    return PaddedText(network), tokenizer(["a dog", "a cat"]), {0: _FREE}, facts


def _write_tokenizer(tokenizer: Tokenizer, max_tokens: int, folder: Path) -> None:
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def _refuse_odd_tokens(text: dict[str, Any]) -> None:
    """Raise ModelError if a model makes its tokens in a way that this export does not follow."""
    options = {name for name, value in (text.get("tokenizer_kwargs") or {}).items() if value} - {"clean"}
    odd = sorted(options) + (["tokenizer_mode"] if text.get("tokenizer_mode") else [])
    if odd:
        raise ModelError(f"its tokenizer has options that vfindex does not know ({', '.join(odd)})")


def main() -> None:
    """Export one side; any failure ends the process with its reason on stderr, for the parent to quote."""
    side, source, folder, name = sys.argv[1:]
    # Tracing needs torch's plain operators.
    torch.backends.mha.set_fastpath_enabled(False)
    export = {"clip-text": export_clip_text, "clip-image": export_clip_image, "sentence": export_sentence}[side]
    try:
        export(Path(source), Path(folder), name)
    except ModelError as exc:
        raise SystemExit(str(exc)) from exc


if __name__ == "__main__":
    main()
