"""Exports the towers of an open_clip model to ONNX, each in a child process and compared with torch:

    python -m vfindex.indexer.models.export.open_clip clip-text | clip-image  SOURCE FOLDER NAME

Writes FOLDER/model, and for clip-text FOLDER/banks.npz. The comparison runs from text or pixels to the vector.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional

from vfindex.indexer.models.export.calibration_images import calibration_images
from vfindex.indexer.models.export.graph import check_parity, main, write_graph, write_tokenizer
from vfindex.indexer.models.priors import background_queries, save_corpus_vectors
from vfindex.storage.encoders.text import TextEncoder, open_session, write_meta
from vfindex.storage.errors import ModelError

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer

PARITY_QUERIES = 64
PARITY_IMAGES = 8
Sizes = dict[int, object]
_ANY = torch.export.Dim.DYNAMIC
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)"


class CausalText(nn.Module):
    """A causal open_clip text tower, without padding to the model's context length.

    Padding changes nothing: no token attends to later ones, and the vector is that of the last token.
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
        """Return (n, dim) rows of length 1; ids (n, length) int64; the mask is unused."""
        length = ids.shape[1]
        x = self.words(ids) + self.positions[:length]
        x = self.norm(self.transformer(x, attn_mask=self.causal[:length, :length]))
        # The end-of-text token has the highest id.
        pooled = x[torch.arange(x.shape[0]), ids.argmax(dim=1)]
        if isinstance(self.projection, nn.Linear):
            pooled = self.projection(pooled)
        elif self.projection is not None:
            pooled = pooled @ self.projection
        return functional.normalize(pooled, dim=1)


class PaddedText(nn.Module):
    """Any open_clip text tower, on texts padded to its context length: its vectors depend on the padding."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (n, dim) rows of length 1; ids (n, context length) int64; the mask is unused."""
        vectors: Tensor = self.network.encode_text(ids, normalize=True)
        return vectors


def export_clip_text(source: Path, folder: Path, name: str) -> None:
    """Write the text tower of an open_clip folder for TextEncoder, and its vectors of the background queries."""
    import open_clip

    text = json.loads((source / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    _check_tokenizer(text)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{source}")
    network: Any = open_clip.create_model(f"local-dir:{source}", require_pretrained=True).eval()
    del network.visual
    own_bpe = isinstance(tokenizer, open_clip.SimpleTokenizer)
    causal = own_bpe and _pools_last_token(text)
    tower, ids, sizes, facts = _causal(network) if causal else _padded(network, tokenizer)
    model = folder / "model"
    write_graph(tower.eval(), (ids, torch.ones(ids.shape)), {"ids": sizes, "mask": sizes}, model)
    own = bpe_tokenizer(tokenizer) if own_bpe else Tokenizer.from_str(tokenizer.tokenizer.backend_tokenizer.to_str())
    write_tokenizer(own, tokenizer.context_length, model)
    cleaning = (text.get("tokenizer_kwargs") or {}).get("clean", "lower" if own_bpe else "whitespace")
    queries = background_queries()[:PARITY_QUERIES]
    with torch.inference_mode():
        expected = network.encode_text(tokenizer(queries), normalize=True).numpy()
    write_meta(model, model=name, dimensions=expected.shape[1], templates=["{}"], cleaning=cleaning, **facts)
    encoder = TextEncoder.open(model, threads=torch.get_num_threads())
    check_parity(encoder.encode(queries), expected)
    save_corpus_vectors(encoder, folder, passages=False)


def export_clip_image(source: Path, folder: Path, name: str) -> None:
    """Write the image tower of an open_clip folder for `open_image_encoder`.

    The graph takes `pixels` (n, size_px, size_px, 3), uint8 RGB, and returns unit vectors (n, dimensions). meta.json
    has size_px, resize_mode (`shortest`: resize the short side, crop the centre; `squash`: resize both sides) and
    interpolation, PIL's name of the filter.
    """
    from vfindex.indexer.models.image.tower import load_tower

    tower = load_tower(source)
    preparation = tower.preparation
    frames = islice(calibration_images(preparation.size_px), PARITY_IMAGES)
    pixels = np.stack([preparation.square(frame) for frame in frames])
    with torch.inference_mode():
        expected = tower(torch.from_numpy(pixels)).numpy()
    model = folder / "model"
    write_graph(tower, (torch.from_numpy(pixels[:2]),), {"pixels": {0: _ANY}}, model)
    write_meta(
        model,
        model=name,
        dimensions=expected.shape[1],
        size_px=preparation.size_px,
        resize_mode=preparation.resize_mode,
        interpolation=preparation.interpolation,
    )
    session = open_session(model, threads=torch.get_num_threads())
    check_parity(session.run(None, {"pixels": pixels})[0], expected)


def bpe_tokenizer(source: SimpleTokenizer) -> Tokenizer:
    """Return open_clip's built-in tokenizer, which has no file; ids are equal for every cleaned text.

    Exception: a literal "<start_of_text>" or "<end_of_text>" in a text stays ordinary words.
    """
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(models.BPE(vocab=source.encoder, merges=merges, end_of_word_suffix="</w>"))
    words = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, in_bytes])
    names = {number: token for token, number in source.encoder.items()}
    start, end = ((names[number], number) for number in (source.sot_token_id, source.eot_token_id))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A {end[0]}", special_tokens=[start, end]
    )
    return tokenizer


def _pools_last_token(text: dict[str, Any]) -> bool:
    """Return whether a text's vector is that of its last token under a causal mask. text: `text_cfg`."""
    sees_all = text.get("no_causal_mask") or text.get("embed_cls")
    return not sees_all and text.get("pool_type", "argmax") == "argmax"


def _causal(network: Any) -> tuple[nn.Module, Tensor, Sizes, dict[str, int]]:
    """Return a tower for texts of any length, example ids, their axes of variable size, and facts for meta.json."""
    return CausalText(getattr(network, "text", network)), torch.full((2, 9), 1000), {0: _ANY, 1: _ANY}, {}


def _padded(network: Any, tokenizer: Any) -> tuple[nn.Module, Tensor, Sizes, dict[str, int]]:
    """Return the same as `_causal`, for a tower that needs texts padded to its context length."""
    inner = getattr(tokenizer, "tokenizer", None)  # one of transformers; open_clip's built-in one pads with 0
    facts = {"length": tokenizer.context_length, "pad": inner.pad_token_id if inner else 0}
    return PaddedText(network), tokenizer(["a dog", "a cat"]), {0: _ANY}, facts


def _check_tokenizer(text: dict[str, Any]) -> None:
    """Raise ModelError if the tokenizer has options that this export does not support. text: `text_cfg`."""
    options = {name for name, value in (text.get("tokenizer_kwargs") or {}).items() if value} - {"clean"}
    unknown = sorted(options) + (["tokenizer_mode"] if text.get("tokenizer_mode") else [])
    if unknown:
        raise ModelError(f"its tokenizer has options that vfindex does not support ({', '.join(unknown)})")


EXPORTS = {"clip-text": export_clip_text, "clip-image": export_clip_image}

if __name__ == "__main__":
    main(EXPORTS)
