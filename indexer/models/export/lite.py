"""Exports the models of the `lite` preset to ONNX, each in a child process and compared with torch:

    python -m vfindex.indexer.models.export.lite text | visual  WEIGHTS FOLDER NAME

So torch is imported only if the cache has no export, its exporter's output stays hidden, and both exports run at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vfindex.indexer.models.export.graph import check_parity, main, write_graph
from vfindex.storage.encoders.image import PROTOTYPES
from vfindex.storage.encoders.text import TextEncoder, open_session, write_meta

TEXT_DIM = 384
MAX_TOKENS = 256
VISUAL_SIZE_PX = 260
N_LABELS = 1000
_LAYERS, _HEADS, _INNER_DIM, _VOCABULARY, _POSITIONS = 6, 12, 1536, 30522, 512
_LAYER_NORM_EPS = 1e-12

# BERT's tensor names -> ours.
_EMBEDDING_NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "kinds",
    "embeddings.LayerNorm": "norm",
}
_LAYER_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "inner",
    "output.dense": "out",
    "output.LayerNorm": "norm",
}


class _Layer(nn.Module):
    """A post-norm transformer layer (Devlin et al. 2019, arXiv 1810.04805)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.attention_out = (nn.Linear(TEXT_DIM, TEXT_DIM) for _ in range(4))
        self.attention_norm = nn.LayerNorm(TEXT_DIM, eps=_LAYER_NORM_EPS)
        self.inner = nn.Linear(TEXT_DIM, _INNER_DIM)
        self.out = nn.Linear(_INNER_DIM, TEXT_DIM)
        self.norm = nn.LayerNorm(TEXT_DIM, eps=_LAYER_NORM_EPS)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # (n, length, dim), (n, 1, 1, length)
        n, length, dim = x.shape
        q, k, v = (
            f(x).view(n, length, _HEADS, dim // _HEADS).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.attention_norm(x + self.attention_out(attended.transpose(1, 2).reshape(n, length, dim)))
        normed: Tensor = self.norm(x + self.out(functional.gelu(self.inner(x))))
        return normed


class SentenceModel(nn.Module):
    """all-MiniLM-L6-v2: BERT's encoder with mean pooling (Reimers and Gurevych 2019, arXiv 1908.10084).

    Written out because importing transformers takes longer than exporting this model. A test compares the two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, TEXT_DIM)
        self.positions = nn.Embedding(_POSITIONS, TEXT_DIM)
        self.kinds = nn.Embedding(2, TEXT_DIM)
        self.norm = nn.LayerNorm(TEXT_DIM, eps=_LAYER_NORM_EPS)
        self.layers = nn.ModuleList([_Layer() for _ in range(_LAYERS)])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (n, dim) rows of length 1; ids (n, length) int64, mask (n, length) float32, 0 at padding."""
        x = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]] + self.kinds.weight[0])
        bias = ((mask - 1.0) * 1e9)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        weights = mask.unsqueeze(-1)
        return functional.normalize((x * weights).sum(1) / weights.sum(1), dim=1)


class LabelModel(nn.Module):
    """EfficientNet-Lite2 (Tan and Le 2019, arXiv 1905.11946; without squeeze-and-excitation and swish) on pixels.

    One image at a time: batches gain nothing on a CPU (24 images/s alone, 22 to 27 in batches of 4 to 16), and a
    variable batch size triples the time of the export.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (1, N_LABELS) of pixels (1, size, size, 3), uint8 RGB."""
        logits: Tensor = self.network((pixels.permute(0, 3, 1, 2).float() - 127.5) / 127.5)
        return logits


def load_sentence_model(weights: Path) -> SentenceModel:
    """Return the model with the weights of a safetensors file that uses BERT's names."""
    from safetensors.torch import load_file

    renamed = {}
    for name, tensor in load_file(weights).items():
        stem, _, leaf = name.rpartition(".")
        if stem in _EMBEDDING_NAMES:
            renamed[f"{_EMBEDDING_NAMES[stem]}.{leaf}"] = tensor
        elif stem.startswith("encoder.layer."):
            _, _, index, part = stem.split(".", 3)
            renamed[f"layers.{index}.{_LAYER_NAMES[part]}.{leaf}"] = tensor
    model = SentenceModel()
    model.load_state_dict(renamed)
    return model.eval()


def load_label_model(weights: Path) -> LabelModel:
    """Return EfficientNet-Lite2 with a PyTorch checkpoint whose tensors have timm's order but other names."""
    import timm

    network = timm.create_model("tf_efficientnet_lite2", pretrained=False)
    own = network.state_dict()
    loaded: Mapping[str, Tensor] = torch.load(weights, weights_only=True, map_location="cpu")
    renamed = {name: tensor for name, tensor in zip(own, loaded.values(), strict=True)}
    network.load_state_dict(renamed)
    return LabelModel(network).eval()


def fuse_batch_norms(module: nn.Module) -> None:
    """Fold every batch normalisation of a timm network into the convolution before it: half the nodes to trace."""
    children = list(module.named_children())
    for (name, first), (next_name, second) in pairwise(children):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(first, second))
            # timm's normalisation layers carry the activation that follows.
            setattr(module, next_name, getattr(second, "act", nn.Identity()))
    for child in module.children():
        fuse_batch_norms(child)


def export_text(weights: Path, folder: Path, name: str) -> None:
    """Write all-MiniLM-L6-v2 as a folder for TextEncoder. weights: with tokenizer.json in the same folder."""
    model = load_sentence_model(weights)
    example = (torch.full((2, 9), 1000), torch.ones((2, 9)))
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    write_graph(model, example, {"ids": sizes, "mask": sizes}, folder)
    tokenizer = json.loads((weights.parent / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["truncation"] = {
        "direction": "Right",
        "max_length": MAX_TOKENS,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    tokenizer["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    write_meta(folder, model=name, dimensions=TEXT_DIM, max_tokens=MAX_TOKENS)
    _check_text(model, folder)


def export_visual(weights: Path, folder: Path, name: str) -> None:
    """Write EfficientNet-Lite2, labels.json, the names and definitions of its labels, and PROTOTYPES."""
    model = load_label_model(weights)
    pixels = _test_images(2)
    with torch.inference_mode():
        expected = torch.cat([model(torch.from_numpy(p)) for p in pixels]).numpy()
    prototypes = model.network.state_dict()["classifier.weight"].numpy().copy()  # (N_LABELS, n_features)
    fuse_batch_norms(model)
    write_graph(model, (torch.from_numpy(pixels[0]),), None, folder)
    np.save(folder / PROTOTYPES, prototypes)
    session = open_session(folder, threads=1)
    check_parity(np.concatenate([session.run(None, {"pixels": p})[0] for p in pixels]), expected)
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    labels = [
        {"names": info.index_to_description(i), "definition": info.index_to_description(i, detailed=True)}
        for i in range(N_LABELS)
    ]
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")


def _check_text(model: SentenceModel, folder: Path) -> None:
    from tokenizers import Tokenizer

    sentence = "a red car waits at the crossing while two children feed pigeons near an old fountain. "
    texts = [sentence[i : 2 * i + 3] * (1 + i % 5) for i in range(64)]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with torch.inference_mode():
        ids = [torch.tensor([tokenizer.encode(text).ids]) for text in texts]
        expected = torch.cat([model(i, torch.ones(i.shape)) for i in ids]).numpy()
    check_parity(TextEncoder.open(folder).encode(texts), expected)


def _test_images(n: int) -> list[NDArray[np.uint8]]:
    """Return n smooth coloured images (1, size, size, 3)."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.random((n, 3, 7, 7), dtype=np.float32))
    large = functional.interpolate(small, size=(VISUAL_SIZE_PX, VISUAL_SIZE_PX), mode="bicubic").clamp(0, 1) * 255
    return [i[None] for i in large.permute(0, 2, 3, 1).to(torch.uint8).numpy()]


EXPORTS = {"text": export_text, "visual": export_visual}

if __name__ == "__main__":
    main(EXPORTS)
