"""From a choice of models to open ones, and to what a new library carries of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vfindex.indexer.encoders import ImageEncoder, LiteImageEncoder
from vfindex.indexer.lite import EXPORT_VERSION, TEXT_WEIGHTS, VISUAL_WEIGHTS, ensure_lite, load_priors
from vfindex.indexer.pipeline import Encoders
from vfindex.indexer.presets import (
    BEST_DEFAULT,
    DEFAULT_PRESET,
    LITE_TEXT,
    LITE_VISUAL,
    LITE_VISUAL_TEMPLATES,
    PRESETS,
    Choice,
    PresetName,
)
from vfindex.indexer.store import is_cached
from vfindex.indexer.transcribe import PocketSphinx
from vfindex.storage.errors import LibraryVersion, UsageError
from vfindex.storage.joint import ModalityPrior
from vfindex.storage.records import Modality, ModelKind, QueryModel, Setup
from vfindex.storage.text_encoder import TextEncoder
from vfindex.storage.writer import Writer

Say = Callable[[str], None]
_LITE_SENTENCES = f"{LITE_TEXT} {TEXT_WEIGHTS.sha256[:16]} {EXPORT_VERSION}"


@dataclass(frozen=True, slots=True)
class _Side:
    """A model's text side as a library carries it: the name of its folder there, where it lies now, its templates."""

    name: str
    folder: Path
    templates: tuple[str, ...] = ("{}",)

    @property
    def query(self) -> QueryModel:
        return QueryModel(self.name, self.templates)


@dataclass(frozen=True, slots=True)
class _Visual:
    """A visual model at hand. identity: what decides the meaning of its vectors. open: threads -> encoder."""

    identity: str
    side: _Side
    open: Callable[[int], ImageEncoder]
    prior: Callable[[], ModalityPrior]


@dataclass(frozen=True, slots=True)
class _Text:
    """A text model at hand. priors: of speech and text."""

    identity: str
    side: _Side
    open: Callable[[int], TextEncoder]
    priors: Callable[[], Mapping[Modality, ModalityPrior]]


def install(writer: Writer, choice: Choice, sampling: str, cache: Path, *, say: Say) -> Setup:
    """Give a new library its setup, priors and query encoders. Raises UsageError for an unknown preset, ModelError."""
    name = preset_name(choice.preset) if choice.preset else _default_preset(choice, cache, say)
    references = chosen_references(choice, name)
    visual, text = _visual(references["visual"], cache, say), _text(references["text"], cache, say)
    setup = Setup(
        preset=name,
        models=_identities(visual, text),
        query={"visual": visual.side.query, "speech": text.side.query, "text": text.side.query},
        sampling=sampling,
        frame_weight=PRESETS[name].frame_weight,
        word_weight=PRESETS[name].word_weight,
        references=references,
    )
    priors = {"visual": visual.prior(), **text.priors()}
    writer.install(setup, priors, {side.name: side.folder for side in (visual.side, text.side)})
    return setup


def open_encoders(setup: Setup, cache: Path, *, threads: int, asr: bool, say: Say) -> Encoders:
    """Open the models that a library was made with; asr: the one of speech too.

    Raises LibraryVersion if they are no longer what they were, ModelError.
    """
    references = references_of(setup)
    visual, text = _visual(references["visual"], cache, say), _text(references["text"], cache, say)
    if _identities(visual, text) != dict(setup.models):
        raise LibraryVersion(
            "this library was made with other models than this vfindex has, and vectors of the two cannot be compared; "
            "make a new library with --library DIR, or install the vfindex that made this one"
        )
    return Encoders(
        image=visual.open(threads),
        text=text.open(threads),
        speech=PocketSphinx(threads) if asr else None,
    )


def _default_preset(choice: Choice, cache: Path, say: Say) -> PresetName:
    """Return the best preset whose models are all here; say how to get better ones where that is the embedded one."""
    if is_cached(chosen_references(choice, BEST_DEFAULT), cache):
        return BEST_DEFAULT
    say(
        f"this library is made with the preset {DEFAULT_PRESET}, which needs no download; to find more, run: "
        f"vfindex models pull {BEST_DEFAULT}, then: vfindex upgrade --preset {BEST_DEFAULT}"
    )
    return DEFAULT_PRESET


def references_of(setup: Setup) -> Mapping[ModelKind, str]:
    """Return the references of a library's models; libraries that store none were made with those of their preset."""
    return setup.references or chosen_references(Choice(), preset_name(setup.preset))


def chosen_references(choice: Choice, preset: PresetName) -> dict[ModelKind, str]:
    """Return a preset's models, but for those chosen by name."""
    chosen = PRESETS[preset]
    return {
        "visual": choice.visual or chosen.visual,
        "text": choice.text or chosen.text,
        "speech": choice.speech or chosen.speech,
    }


def preset_name(name: str) -> PresetName:
    """Return `name` if it is a preset. Raises UsageError."""
    for known in PRESETS:
        if known == name:
            return known
    raise UsageError(f"there is no preset {name!r}; choose from: {', '.join(PRESETS)}")


def _identities(visual: _Visual, text: _Text) -> dict[Modality, str]:
    """Return modality -> what decides the meaning of its vectors, as a library remembers it."""
    return {"visual": visual.identity, "speech": text.identity, "text": text.identity}


def _visual(reference: str, cache: Path, say: Say) -> _Visual:
    if reference != LITE_VISUAL:
        raise UsageError(f"there is no visual model {reference!r}")
    paths = ensure_lite(cache, progress=say)
    return _Visual(
        identity=f"{reference} {VISUAL_WEIGHTS.sha256[:16]} in {_LITE_SENTENCES}",
        side=_Side(LITE_TEXT, paths.text, LITE_VISUAL_TEMPLATES),
        open=lambda threads: LiteImageEncoder.open(paths.visual, threads=threads),
        prior=lambda: load_priors(paths.prior)["visual"],
    )


def _text(reference: str, cache: Path, say: Say) -> _Text:
    if reference != LITE_TEXT:
        raise UsageError(f"there is no text model {reference!r}")
    paths = ensure_lite(cache, progress=say)

    def priors() -> dict[Modality, ModalityPrior]:
        return {m: prior for m, prior in load_priors(paths.prior).items() if m != "visual"}

    return _Text(
        identity=_LITE_SENTENCES,
        side=_Side(LITE_TEXT, paths.text),
        open=lambda threads: TextEncoder.open(paths.text, threads=threads),
        priors=priors,
    )
