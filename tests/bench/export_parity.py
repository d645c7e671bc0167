"""Exported text models compared with torch: lowest cosine, export time, load time, speed.

    python tests/bench/export_parity.py [MODEL ...]

MODEL: one of open_clip's architectures, or one of the sentence models in SENTENCES. All have random weights at full
size, and small tokenizers if the real one is on the hub. Exits with 1 if a cosine is below `export.graph.PARITY`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from vfindex.indexer.models.export.cache import ensure_part
from vfindex.indexer.models.export.graph import PARITY
from vfindex.indexer.models.priors import background_queries, sentences
from vfindex.indexer.models.store import LocalModel
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.records import FloatArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_models import CLIP_PIXELS, make_open_clip
from tiny_sentences import make_sentences

DEFAULT = ("ViT-B-32-256", "PE-Core-B-16", "multilingual-e5-small")
# Sizes of the hub's configurations; XLM-RoBERTa with mean or first-token pooling.
SENTENCES = {
    "multilingual-e5-small": ("mean", (250_037, 384, 1536, 514, 12, 12)),
    "bge-m3": ("cls", (250_002, 1024, 4096, 8194, 24, 16)),
}
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_hidden_layers",
    "num_attention_heads",
)
Result = TypeVar("Result")
REPEATS = 5
# Run in a fresh process, as in a search: prints the seconds to load the model and to encode the first query.
OPENING = """
import sys, time
from pathlib import Path
from typing import TypeVar
from vfindex.storage.encoders.text import TextEncoder
began = time.perf_counter()
encoder = TextEncoder.open(Path(sys.argv[1]))
opened = time.perf_counter()
encoder.encode(["a dog running in the park"])
print(opened - began, time.perf_counter() - opened)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one model; speeds in sentences per second on one thread; None: torch was not timed."""

    name: str
    cosine: float
    export_s: float
    open_s: float
    first_s: float
    onnx_speed: float
    torch_speed: float | None = None


def measure_clip(name: str, work: Path) -> Row:
    """Return the figures of an open_clip architecture's text tower."""
    import open_clip
    import torch

    config = open_clip.get_model_config(name)
    if config is None:
        raise SystemExit(f"open_clip has no architecture {name!r}")
    model = local(name, make_open_clip(work / name, config, CLIP_PIXELS))
    folder, export_s = timed(lambda: ensure_part(model, "clip-text", work, say=ignore))
    network = open_clip.create_model(f"local-dir:{model.folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model.folder}")
    with torch.inference_mode():
        wanted = network.encode_text(tokenizer(background_queries()), normalize=True).numpy()
    del network
    encoder = TextEncoder.open(folder)
    found, taken_s = timed(lambda: encoder.encode(background_queries()))
    return Row(name, least_cosine(found, wanted), export_s, *opening_s(folder), len(found) / taken_s)


def measure_sentences(name: str, work: Path) -> Row:
    """Return the figures of a sentence model."""
    import torch
    from sentence_transformers import SentenceTransformer

    pooling, sizes = SENTENCES[name]
    folder = make_sentences(work / name, "xlm-roberta", pooling, prompts={}, sizes=dict(zip(SIZES, sizes, strict=True)))
    model = local(name, folder)
    exported, export_s = timed(lambda: ensure_part(model, "sentence", work, say=ignore))
    torch.set_num_threads(1)
    network = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    encoder = TextEncoder.open(exported)
    texts = sentences()
    runs = [
        timed(lambda: np.asarray(network.encode(texts, prompt="", normalize_embeddings=True))),
        timed(lambda: encoder.encode(texts)),
    ]
    (wanted, torch_s), (found, onnx_s) = runs
    return Row(
        name,
        least_cosine(found, wanted),
        export_s,
        *opening_s(exported),
        len(texts) / onnx_s,
        torch_speed=len(texts) / torch_s,
    )


def opening_s(folder: Path) -> tuple[float, float]:
    """Return the median seconds to load a model and to encode the first query, each in a fresh process."""
    command = [sys.executable, "-c", OPENING, str(folder)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(REPEATS)]
    opened, first = (statistics.median(float(run[column]) for run in runs) for column in (0, 1))
    return opened, first


def local(name: str, folder: Path) -> LocalModel:
    """Return a model as the store returns it."""
    weights = next(folder.glob("*.safetensors"))
    return LocalModel(name, folder, weights, name)


def timed(run: Callable[[], Result]) -> tuple[Result, float]:
    """Return a function's result and the seconds it took."""
    began = time.perf_counter()
    result = run()
    return result, time.perf_counter() - began


def least_cosine(found: FloatArray, wanted: FloatArray) -> float:
    """Return the lowest cosine between rows of length 1."""
    return float((found * wanted).sum(axis=1).min())


def ignore(line: str) -> None:
    """Say nothing."""


def report(names: Sequence[str]) -> bool:
    """Print a row per model; return whether all reach PARITY."""
    reached = True
    print(f"{'model':24} {'cosine':>8} {'export':>8} {'open':>7} {'first':>7} {'texts/s':>8} {'torch':>7}")
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            row = (measure_sentences if name in SENTENCES else measure_clip)(name, Path(work))
        reached &= row.cosine >= PARITY
        by_torch = "" if row.torch_speed is None else f"{row.torch_speed:.1f}"
        print(
            f"{row.name:24} {row.cosine:8.6f} {row.export_s:6.0f} s {1000 * row.open_s:4.0f} ms "
            f"{1000 * row.first_s:4.0f} ms {row.onnx_speed:8.1f} {by_torch:>7}",
            flush=True,
        )
    return reached


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("models", nargs="*", default=DEFAULT, metavar="MODEL")
    sys.exit(not report(parser.parse_args().models))


if __name__ == "__main__":
    main()
