"""From a choice of models to open ones, and to what a new library carries of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vfindex.indexer.models.base import Encoders, ImageEncoder, PassageEncoder
from vfindex.indexer.models.catalog import LOCAL
from vfindex.indexer.models.export.folders import ensure_clip_image, ensure_clip_text, ensure_sentence
from vfindex.indexer.models.hardware import has_cuda, usable_cores, usable_devices
from vfindex.indexer.models.lite import EXPORT_VERSION, TEXT_WEIGHTS, VISUAL_WEIGHTS, ensure_lite, load_priors
from vfindex.indexer.models.presets import (
    BEST_DEFAULT,
    DEFAULT_PRESET,
    LITE_SPEECH,
    LITE_TEXT,
    LITE_VISUAL,
    LITE_VISUAL_TEMPLATES,
    PRESETS,
    WEIGHTS,
    Choice,
    PresetName,
)
from vfindex.indexer.models.priors import clip_prior, sentence_prior
from vfindex.indexer.models.store import LocalModel, is_cached, locate
from vfindex.indexer.speech.transcribe import PocketSphinx, Speech
from vfindex.storage.encoders.image import LiteImageEncoder
from vfindex.storage.encoders.text import TextEncoder, read_meta
from vfindex.storage.errors import LibraryVersion, UsageError
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.records import Modality, ModelKind, QueryModel, Setup
from vfindex.storage.writer import Writer

Say = Callable[[str], None]
_LITE_SENTENCES = f"{LITE_TEXT} {TEXT_WEIGHTS.sha256[:16]} {EXPORT_VERSION}"


@dataclass(frozen=True, slots=True)
class Opening:
    """How models are opened. threads: of the processor. asr: the model of speech too. compiled: see OpenClipEncoder."""

    threads: int
    asr: bool
    compiled: bool = False


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
    """A visual model at hand. identity: what decides the meaning of its vectors. open: (threads, compiled).

    side: its text side, exported when it is first asked for. image: the folder of its image side in ONNX, likewise.
    """

    identity: str
    side: Callable[[], _Side]
    image: Callable[[], Path]
    open: Callable[[int, bool], ImageEncoder]
    prior: Callable[[], ModalityPrior]


@dataclass(frozen=True, slots=True)
class _Text:
    """A text model at hand, as `_Visual`. open: threads -> encoder. priors: of speech and text."""

    identity: str
    side: Callable[[], _Side]
    open: Callable[[int], PassageEncoder]
    priors: Callable[[], Mapping[Modality, ModalityPrior]]


def install(writer: Writer, choice: Choice, sampling: str, cache: Path, *, say: Say) -> Setup:
    """Give a new library its setup, priors and query encoders. Raises UsageError for an unknown preset, ModelError."""
    name = preset_name(choice.preset) if choice.preset else _default_preset(choice, cache)
    references = chosen_references(choice, name)
    visual, text = _visual(references["visual"], cache, say), _text(references["text"], cache, say)
    if references["speech"] != LITE_SPEECH:
        locate("speech", references["speech"], cache)
    of_visual, of_text = visual.side(), text.side()
    setup = Setup(
        preset=name,
        models=_identities(visual, text),
        query={"visual": of_visual.query, "speech": of_text.query, "text": of_text.query},
        sampling=sampling,
        frame_weight=PRESETS[name].frame_weight,
        word_weight=PRESETS[name].word_weight,
        references=references,
    )
    priors = {"visual": visual.prior(), **text.priors()}
    writer.install(setup, priors, {side.name: side.folder for side in (of_visual, of_text)})
    return setup


class LibraryModels:
    """The models that a library was made with, found in a cache; each is opened when it is asked for."""

    def __init__(self, setup: Setup, cache: Path, *, say: Say) -> None:
        """Raise LibraryVersion if they are no longer what they were, ModelError."""
        references = references_of(setup)
        self._visual, self._text = _visual(references["visual"], cache, say), _text(references["text"], cache, say)
        self._speech, self._cache = references["speech"], cache
        if _identities(self._visual, self._text) != dict(setup.models):
            raise LibraryVersion(
                "this library was made with other models than this vfindex has, and vectors of the two cannot be "
                f"compared; search goes on as it is; to add to it, change it over with: {_anew(setup)}"
            )

    def image(self, threads: int, *, compiled: bool = False) -> ImageEncoder:
        """Open the model of pictures. Raises ModelError, as all do."""
        return self._visual.open(threads, compiled)

    def image_folder(self) -> Path:
        """Return the model of pictures as `open_image_encoder` opens it; made first where the cache has none."""
        return self._visual.image()

    def text(self, threads: int) -> PassageEncoder:
        """Open the model of texts."""
        return self._text.open(threads)

    def speech(self, threads: int) -> Speech:
        """Open the model of speech."""
        return _speech(self._speech, self._cache, threads)


def _anew(setup: Setup) -> str:
    """Return the command that brings a library over to what its models' names stand for today."""
    references, preset = references_of(setup), preset_name(setup.preset)
    usual = chosen_references(Choice(), preset)
    others = [f" --{kind} {name}" for kind, name in references.items() if name != usual[kind]]
    return f"vfindex upgrade --preset {preset}{''.join(others)}"


def open_encoders(setup: Setup, cache: Path, opening: Opening, *, say: Say) -> Encoders:
    """Open the models that a library was made with.

    Raises LibraryVersion if they are no longer what they were, ModelError.
    """
    models = LibraryModels(setup, cache, say=say)
    return Encoders(
        image=models.image(opening.threads, compiled=opening.compiled),
        text=models.text(opening.threads),
        speech=models.speech(opening.threads) if opening.asr else None,
    )


def query_folders(setup: Setup, cache: Path, *, say: Say) -> dict[str, Path]:
    """Return what a library's query encoders are copied from: name there -> folder in the cache. Raises ModelError."""
    references = references_of(setup)
    sides = (_visual(references["visual"], cache, say).side(), _text(references["text"], cache, say).side())
    return {side.name: side.folder for side in sides}


def _default_preset(choice: Choice, cache: Path) -> PresetName:
    """Return the best preset whose models are all here."""
    return BEST_DEFAULT if is_cached(chosen_references(choice, BEST_DEFAULT), cache) else DEFAULT_PRESET


def advice(setup: Setup) -> str | None:
    """Return how to do better than with the models that a library has, None where it has others than the embedded."""
    if setup.preset != DEFAULT_PRESET or dict(references_of(setup)) != chosen_references(Choice(), DEFAULT_PRESET):
        return None
    return (
        f"this library has the preset {DEFAULT_PRESET}, which needs no download; to find more, run: "
        f"vfindex models pull {BEST_DEFAULT}, then: vfindex upgrade --preset {BEST_DEFAULT}"
    )


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
        return _clip_visual(locate("visual", reference, cache), cache, say)
    paths = ensure_lite(cache, progress=say)
    return _Visual(
        identity=f"{reference} {VISUAL_WEIGHTS.sha256[:16]} in {_LITE_SENTENCES}",
        side=lambda: _Side(LITE_TEXT, paths.text, LITE_VISUAL_TEMPLATES),
        image=lambda: paths.visual,
        open=lambda threads, _: LiteImageEncoder.open(paths.visual, threads=threads),
        prior=lambda: load_priors(paths.prior)["visual"],
    )


def _text(reference: str, cache: Path, say: Say) -> _Text:
    if reference != LITE_TEXT:
        return _sentences(locate("text", reference, cache), cache, say)
    paths = ensure_lite(cache, progress=say)

    def priors() -> dict[Modality, ModalityPrior]:
        return {m: prior for m, prior in load_priors(paths.prior).items() if m != "visual"}

    return _Text(
        identity=_LITE_SENTENCES,
        side=lambda: _Side(LITE_TEXT, paths.text),
        open=lambda threads: TextEncoder.open(paths.text, threads=threads),
        priors=priors,
    )


def _clip_visual(model: LocalModel, cache: Path, say: Say) -> _Visual:
    def side() -> _Side:
        return _side(ensure_clip_text(model, cache, say=say))

    def open_encoder(threads: int, compiled: bool) -> ImageEncoder:
        from vfindex.indexer.models.open_clip import OpenClipEncoder  # torch takes seconds, and `lite` needs none

        names = None if has_cuda() else ["cpu"]
        return OpenClipEncoder.open(model.folder, threads=threads, devices=names, compiled=compiled)

    return _Visual(
        identity=_identity(model),
        side=side,
        image=lambda: ensure_clip_image(model, cache, say=say),
        open=open_encoder,
        prior=lambda: clip_prior(open_encoder(usable_cores(), False), side().folder, WEIGHTS["visual"]),
    )


def _sentences(model: LocalModel, cache: Path, say: Say) -> _Text:
    def side() -> _Side:
        return _side(ensure_sentence(model, cache, say=say))

    def open_encoder(threads: int) -> PassageEncoder:
        if not has_cuda():
            return TextEncoder.open(side().folder, threads=threads)
        from vfindex.indexer.models.sentence import SentenceEncoder  # takes seconds to import

        return SentenceEncoder.open(model, "cuda")

    return _Text(
        identity=_identity(model),
        side=side,
        open=open_encoder,
        priors=lambda: {m: sentence_prior(side().folder, WEIGHTS[m]) for m in ("speech", "text")},
    )


def _speech(reference: str, cache: Path, threads: int) -> Speech:
    if reference == LITE_SPEECH:
        return PocketSphinx(threads)
    from vfindex.indexer.speech.backends import open_whisper  # CTranslate2 and what it brings take a second

    device = None if usable_devices() else "cpu"
    return open_whisper(locate("speech", reference, cache).folder, threads=threads, device=device)


def _side(folder: Path) -> _Side:
    return _Side(folder.parent.name, folder, tuple(read_meta(folder)["templates"]))


def _identity(model: LocalModel) -> str:
    """Return what decides the meaning of a model's vectors; where its folder lies does not."""
    name = model.folder.name if model.reference.startswith(LOCAL) else model.reference
    return f"{name} {model.sha256[:16]}"
