"""The weights of the `lite` preset, from their packages into optimised ONNX graphs. Runs once, in a child process.

    python -m vfindex.indexer.models.export.lite text | visual  WEIGHTS FOLDER

so that torch is loaded only where no export is cached, its exporter's messages reach nobody, and both exports run side
by side. Every export is compared with torch before it is written down.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vfindex.storage.encoders.text import TextEncoder, open_session, write_meta

TEXT_MODEL = "all-MiniLM-L6-v2"
TEXT_DIM = 384
MAX_TOKENS = 256
VISUAL_SIZE_PX = 260
N_LABELS = 1000
# Least cosine between a vector of the exported graph and torch's.
PARITY = 0.9999
_LAYERS, _HEADS, _INNER_DIM, _VOCABULARY, _POSITIONS = 6, 12, 1536, 30522, 512
_LAYER_NORM_EPS = 1e-12

# all-MiniLM-L6-v2 names its tensors as BERT does; ours, shorter, by the end of the name.
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
    """all-MiniLM-L6-v2: BERT's encoder, mean over the tokens, length 1 (Reimers and Gurevych 2019, arXiv 1908.10084).

    Written out because transformers takes longer to import than this model to export. A test holds it to transformers.
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
        share = mask.unsqueeze(-1)
        return functional.normalize((x * share).sum(1) / share.sum(1), dim=1)


class LabelModel(nn.Module):
    """EfficientNet-Lite2 (Tan and Le 2019, arXiv 1905.11946; without squeeze-and-excitation and swish) on pixels.

    One image at a time: batches gain nothing on a processor (24 images/s alone, 22 to 27 in batches of 4 to 16), and a
    batch of open size takes the exporter three times as long.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (1, N_LABELS) of pixels (1, size, size, 3), uint8 RGB."""
        logits: Tensor = self.network((pixels.permute(0, 3, 1, 2).float() - 127.5) / 127.5)
        return logits


def load_sentence_model(weights: Path) -> SentenceModel:
    """Return the model with the weights of a BERT-named safetensors file."""
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
    """Return EfficientNet-Lite2 with a PyTorch checkpoint whose tensors stand in timm's order under other names."""
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


def export_text(weights: Path, folder: Path) -> None:
    """Write all-MiniLM-L6-v2 as a model folder for TextEncoder; the tokenizer stands beside the weights."""
    model = load_sentence_model(weights)
    example = (torch.full((2, 9), 1000), torch.ones((2, 9)))
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    write_graph(model, example, {"ids": free, "mask": free}, folder)
    tokenizer = json.loads((weights.parent / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["truncation"] = {
        "direction": "Right",
        "max_length": MAX_TOKENS,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    tokenizer["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    write_meta(folder, model=TEXT_MODEL, dimensions=TEXT_DIM, max_tokens=MAX_TOKENS)
    _check_text(model, folder)


def export_visual(weights: Path, folder: Path) -> None:
    """Write EfficientNet-Lite2 as an ONNX folder, with the names and definitions of its labels (labels.json)."""
    model = load_label_model(weights)
    pixels = _test_images(2)
    with torch.inference_mode():
        wanted = torch.cat([model(torch.from_numpy(p)) for p in pixels]).numpy()
    fuse_batch_norms(model)
    write_graph(model, (torch.from_numpy(pixels[0]),), None, folder)
    session = open_session(folder, threads=1)
    found = np.concatenate([session.run(None, {"pixels": p})[0] for p in pixels])
    check_parity(found, wanted)
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    labels = [
        {"names": info.index_to_description(i), "definition": info.index_to_description(i, detailed=True)}
        for i in range(N_LABELS)
    ]
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")


def write_graph(model: nn.Module, example: tuple[Tensor, ...], dynamic: dict[str, object] | None, folder: Path) -> None:
    """Write folder/model.onnx and model.onnx.data, optimised but free of this processor's own layouts.

    example: `ids` and `mask` of a text model, or `pixels`. dynamic: the sizes that may differ from the example's.
    """
    raw = folder / "raw"
    raw.mkdir(parents=True)
    names = ["ids", "mask"] if len(example) == 2 else ["pixels"]
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=names,
            output_names=["result"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned no program")
    program.save(str(raw / "model.onnx"), external_data=True)
    options = ort.SessionOptions()
    # The level above rewrites convolutions for the processor at hand; a library may move to another.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "model.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "model.onnx.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    ort.InferenceSession(str(raw / "model.onnx"), options, providers=["CPUExecutionProvider"])
    shutil.rmtree(raw)


def _check_text(model: SentenceModel, folder: Path) -> None:
    from tokenizers import Tokenizer

    sentence = "a red car waits at the crossing while two children feed pigeons near an old fountain. "
    texts = [sentence[i : 2 * i + 3] * (1 + i % 5) for i in range(64)]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with torch.inference_mode():
        ids = [torch.tensor([tokenizer.encode(text).ids]) for text in texts]
        wanted = torch.cat([model(i, torch.ones(i.shape)) for i in ids]).numpy()
    check_parity(TextEncoder.open(folder).encode(texts), wanted)


def check_parity(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """Raise RuntimeError unless every row found (n, dim) has at least the cosine PARITY to the one wanted."""
    cosines = (found * wanted).sum(1) / (np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1))
    if not cosines.min() >= PARITY:
        raise RuntimeError(f"the exported graph disagrees with torch: cosine {cosines.min():.5f}")


def _test_images(n: int) -> list[NDArray[np.uint8]]:
    """Return n smooth coloured images (1, size, size, 3)."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.random((n, 3, 7, 7), dtype=np.float32))
    large = functional.interpolate(small, size=(VISUAL_SIZE_PX, VISUAL_SIZE_PX), mode="bicubic").clamp(0, 1) * 255
    return [i[None] for i in large.permute(0, 2, 3, 1).to(torch.uint8).numpy()]


def main() -> None:
    """Export one model; any failure ends the process with a traceback on stderr, for the parent to quote."""
    kind, weights, folder = sys.argv[1:]
    {"text": export_text, "visual": export_visual}[kind](Path(weights), Path(folder))


if __name__ == "__main__":
    main()
