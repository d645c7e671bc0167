"""From a preset's name to open models, and to what a new library carries of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vfindex.indexer.encoders import LiteImageEncoder
from vfindex.indexer.lite import EXPORT_VERSION, TEXT_WEIGHTS, VISUAL_WEIGHTS, ensure_lite, load_priors
from vfindex.indexer.pipeline import Encoders
from vfindex.indexer.presets import DEFAULT_PRESET, PRESETS, PresetName
from vfindex.indexer.transcribe import PocketSphinx
from vfindex.storage.errors import LibraryVersion, UsageError
from vfindex.storage.records import MODALITIES, Modality, QueryModel, Setup
from vfindex.storage.text_encoder import TextEncoder
from vfindex.storage.writer import Writer


def install(writer: Writer, preset: str | None, sampling: str, cache: Path, *, say: Callable[[str], None]) -> Setup:
    """Give a new library its setup, priors and query encoders. Raises UsageError for an unknown preset, ModelError."""
    name = preset_name(preset or DEFAULT_PRESET)
    chosen = PRESETS[name]
    paths = ensure_lite(cache, progress=say)
    folder = chosen.text_model
    setup = Setup(
        preset=name,
        models=_models(),
        query={m: QueryModel(folder, chosen.templates[m]) for m in MODALITIES},
        sampling=sampling,
        frame_weight=chosen.frame_weight,
        word_weight=chosen.word_weight,
    )
    writer.install(setup, load_priors(paths.prior), {folder: paths.text})
    return setup


def open_encoders(setup: Setup, cache: Path, *, threads: int, asr: bool, say: Callable[[str], None]) -> Encoders:
    """Open the models that a library was made with; asr: the one of speech too.

    Raises LibraryVersion if this vfindex has others, ModelError.
    """
    preset_name(setup.preset)
    paths = ensure_lite(cache, progress=say)
    if _models() != dict(setup.models):
        raise LibraryVersion(
            "this library was made with other models than this vfindex has, and vectors of the two cannot be compared; "
            "make a new library with --library DIR, or install the vfindex that made this one"
        )
    return Encoders(
        image=LiteImageEncoder.open(paths.visual, threads=threads),
        text=TextEncoder.open(paths.text, threads=threads),
        speech=PocketSphinx(threads) if asr else None,
    )


def preset_name(name: str) -> PresetName:
    """Return `name` if it is a preset. Raises UsageError."""
    for known in PRESETS:
        if known == name:
            return known
    raise UsageError(f"there is no preset {name!r}; choose from: {', '.join(PRESETS)}")


def _models() -> dict[Modality, str]:
    """Return modality -> model, hash of its weights and version of its export, as a library remembers them."""
    visual, text = PRESETS["lite"].visual_model, PRESETS["lite"].text_model
    sentences = f"{text} {TEXT_WEIGHTS.sha256[:16]} {EXPORT_VERSION}"
    return {
        "visual": f"{visual} {VISUAL_WEIGHTS.sha256[:16]} in {sentences}",
        "speech": sentences,
        "text": sentences,
    }
