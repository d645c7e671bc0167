"""From torch modules to ONNX graphs, and the command line of the child processes that export them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from vfindex.indexer.media.limits import end_with_parent
from vfindex.storage.errors import ModelError

# Least cosine between a vector of the exported graph and torch's.
PARITY = 0.9999


def write_graph(model: nn.Module, example: tuple[Tensor, ...], dynamic: dict[str, object] | None, folder: Path) -> None:
    """Write folder/model.onnx and model.onnx.data, with only those optimisations that suit every processor.

    example: `ids` and `mask` of a text model, or `pixels`. dynamic: input name -> its axes of variable size.
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
    # The next level up rewrites convolutions for this processor, but a library may move to another.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "model.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "model.onnx.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    ort.InferenceSession(str(raw / "model.onnx"), options, providers=["CPUExecutionProvider"])
    shutil.rmtree(raw)


def check_parity(exported: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Raise RuntimeError if the cosine of any row (n, dim) to torch's is below PARITY."""
    lengths = np.linalg.norm(exported, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (exported * expected).sum(1) / lengths
    if not cosines.min() >= PARITY:
        raise RuntimeError(f"the exported graph disagrees with torch: cosine {cosines.min():.5f}")


def write_tokenizer(tokenizer: Tokenizer, max_tokens: int, folder: Path) -> None:
    """Write folder/tokenizer.json: truncates to `max_tokens`, never pads."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def main(exports: Mapping[str, Callable[[Path, Path, str], None]]) -> None:
    """Run the export of the command line, PART SOURCE FOLDER NAME. The parent quotes the last line of stderr."""
    end_with_parent()
    part, source, folder, name = sys.argv[1:]
    torch.backends.mha.set_fastpath_enabled(False)  # tracing needs torch's plain operators
    try:
        exports[part](Path(source), Path(folder), name)
    except ModelError as exc:
        raise SystemExit(str(exc)) from exc
