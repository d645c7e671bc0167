"""Opens the models of a run: the store locates each one, the export makes its ONNX side, an encoder is returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from vfindex.indexer.models.base import LANES_PER_GPU, Encoders, ImageEncoder, PassageEncoder
from vfindex.indexer.models.catalog import E5_WEIGHTS, EFFICIENTNET_WEIGHTS, MINILM_WEIGHTS, find_card
from vfindex.indexer.models.export.cache import Say, ensure_part
from vfindex.indexer.models.export.packaged import ensure_model
from vfindex.indexer.models.hardware import has_cuda, usable_devices
from vfindex.indexer.models.lite import (
    TEXT_MODELS,
    ensure_lite,
    load_prior,
    text_identity,
    visual_templates,
)
from vfindex.indexer.models.presets import (
    BEST_DEFAULT,
    DEFAULT_PRESET,
    IMPUTED_SHARES,
    LITE_SPEECH,
    LITE_TEXT,
    LITE_VISUAL,
    MULTILINGUAL_TEXT,
    PRESETS,
    Choice,
    PresetName,
    chosen_models,
    modalities_of,
    models_of,
    preset_name,
)
from vfindex.indexer.models.priors import audio_prior, text_prior, visual_prior
from vfindex.indexer.models.store import Recogniser, are_present, find_recogniser, is_present, locate
from vfindex.storage.encoders.image import LiteImageEncoder
from vfindex.storage.encoders.text import QUERY, TextEncoder, read_meta
from vfindex.storage.errors import LibraryVersion, ModelError
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.machine import usable_cores
from vfindex.storage.modalities import Modality, ModalityName, ModelKind, get_modality, modality_names
from vfindex.storage.records import QueryModel, Setup
from vfindex.storage.writer import Writer

if TYPE_CHECKING:
    from vfindex.indexer.models.sound.clap import ClapEncoder
    from vfindex.indexer.speech.whisper import Whisper


@dataclass(frozen=True, slots=True)
class Opening:
    """How models are opened.

    threads: of the CPU. left_out: modalities for which no model is opened. compiled: see OpenClipEncoder.
    main_language: see `Whisper`.
    """

    threads: int
    left_out: frozenset[ModalityName] = frozenset()
    compiled: bool = False
    main_language: str = ""


_IN_PACKAGES: tuple[PresetName, ...] = ("lite", "lite-multilingual")
# Text model of `lite` -> the one that takes its place if its package is missing, and the sentence then.
_SPARE_TEXT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        MULTILINGUAL_TEXT: (
            LITE_TEXT,
            f"questions in English only: the package {E5_WEIGHTS.package}, whose model understands other languages, is "
            "not installed or not made for this machine",
        ),
        LITE_TEXT: (
            MULTILINGUAL_TEXT,
            f"text is embedded by {MULTILINGUAL_TEXT}, which finds less for questions in English: the package "
            f"{MINILM_WEIGHTS.package} is not installed",
        ),
    }
)


def install(
    writer: Writer, choice: Choice, sampling: str, cache: Path, *, keeps_speech: bool = False, say: Say
) -> Setup:
    """Give a new library its setup, priors and query encoders. Raises UsageError for an unknown preset, ModelError.

    keeps_speech: the chosen speech model has made the library's transcripts already; it need not be on this machine.
    """
    if choice.preset:
        name = preset_name(choice.preset)
    else:
        name = BEST_DEFAULT if are_present(chosen_models(choice, BEST_DEFAULT), cache) else DEFAULT_PRESET
    references = present_models(choice, name, cache, say=say)
    if choice.preset:
        _refuse_absent(name, references, cache)
    models = _Located(references, cache, say)
    heard = Recogniser(references["speech"]) if choice.speech else find_recogniser(references["speech"], cache)
    if heard.usable and not keeps_speech:
        if heard.note:
            say(heard.note)
        references["speech"] = heard.reference
        ensure_model(find_card("speech", heard.reference), cache, say=say)
    setup = Setup(
        preset=name,
        models=models.identities(),
        query=models.queries(),
        sampling=sampling,
        frame_weight=PRESETS[name].frame_weight,
        word_weight=PRESETS[name].word_weight,
        references=references,
        imputed_share=IMPUTED_SHARES.get(references["text"], 0.0),
    )
    writer.install(setup, models.priors(), models.query_folders())
    return setup


def _refuse_absent(preset: PresetName, references: Mapping[ModelKind, str], cache: Path) -> None:
    """Raise ModelError if embedding models of a preset, which one command pulls, are not on this machine.

    Speech models have substitutes.
    """
    own = PRESETS[preset].models.items()
    cards = [find_card(kind, name) for kind, name in own if kind != "speech" and references.get(kind) == name]
    pulled = (card for card in cards if not (card.package or card.packaged))
    absent = [card.reference for card in pulled if not is_present(card, cache)]
    if absent:
        raise ModelError(
            f"the models of the preset {preset} are not all on this machine ({', '.join(absent)} missing); run: "
            f"vfindex models pull {preset}, or use --preset {DEFAULT_PRESET}, which needs none"
        )


def present_models(choice: Choice, preset: PresetName, cache: Path, *, say: Say) -> dict[ModelKind, str]:
    """Return a preset's models as `chosen_models` does, but for those of `lite` whose package is missing.

    One text model takes the other's place; without its image model a library has no images. Models that were chosen by
    name stay.
    """

    def is_missing(kind: ModelKind, reference: str) -> bool:
        return not is_present(find_card(kind, reference), cache)

    models, once = chosen_models(choice, preset), f"once it is: vfindex upgrade --preset {preset}"
    text = models["text"]
    if choice.text is None and text in _SPARE_TEXT:
        spare, note = _SPARE_TEXT[text]
        if is_missing("text", text) and not is_missing("text", spare):
            models["text"] = spare
            say(f"{note}; {once}")
    if choice.visual is None and models["visual"] == LITE_VISUAL and is_missing("visual", LITE_VISUAL):
        del models["visual"]
        say(
            f"without images, as the package {EFFICIENTNET_WEIGHTS.package} is not installed: moments are found by "
            f"speech, text on the screen, names and titles; {once}"
        )
    return models


def effects_of_missing(cache: Path) -> list[str]:
    """Return what new libraries of the presets in packages do without, a clause for each missing package."""
    said: list[str] = []
    found = [present_models(Choice(), name, cache, say=said.append) for name in _IN_PACKAGES]
    said = [line.rpartition("; ")[0] for line in said]
    if not is_present(find_card("text", found[0]["text"]), cache):
        said.append("nothing can be indexed without a text model")
    return list(dict.fromkeys([*said, *filter(None, [find_recogniser(LITE_SPEECH, cache).note.partition("; ")[0]])]))


def open_encoders(setup: Setup, cache: Path, opening: Opening, *, say: Say) -> Encoders:
    """Return the encoders of a library. Raises as `LibraryModels` does."""
    models = LibraryModels(setup, cache, say=say)
    has_batches = models_of(setup).get("visual", LITE_VISUAL) != LITE_VISUAL
    gpus = len(usable_devices()) if has_batches and has_cuda() else 0
    modalities = tuple(modality for modality in modality_names() if modality in setup.models)
    run = [get_modality(name) for name in modalities if name not in opening.left_out]
    kinds = dict.fromkeys(kind for each in run for kind in (each.model, each.recogniser) if kind is not None)
    return Encoders(
        text=models.text(opening.threads),
        models={kind: models.open(kind, opening) for kind in kinds if kind in models and kind != "text"},
        gpus=gpus,
        lanes=LANES_PER_GPU * gpus or opening.threads if has_batches else 0,
        threads=opening.threads,
        modalities=modalities,
        left_out=opening.left_out,
    )


def query_folders(setup: Setup, cache: Path, *, say: Say) -> dict[str, Path]:
    """Return the sources of a library's query encoders, name -> folder in the cache. Raises ModelError."""
    return _Located(models_of(setup), cache, say).query_folders()


class LibraryModels:
    """The models of a library, located in a cache; each is opened on request."""

    def __init__(self, setup: Setup, cache: Path, *, say: Say) -> None:
        """Raise LibraryVersion if the models differ from those that made the library, ModelError if one is absent."""
        references = models_of(setup)
        self._models = _Located(references, cache, say)
        self._references, self._cache, self._say = references, cache, say
        made_now = self._models.identities()
        if any(made_now.get(modality) != identity for modality, identity in setup.models.items()):
            raise LibraryVersion(
                "this library was made with other models than this vfindex has, and vectors of the two cannot be "
                "compared; it can still be searched; to add videos, upgrade it first: vfindex upgrade"
            )

    def __contains__(self, kind: ModelKind) -> bool:
        """Return whether the library has a model of a kind that is opened here."""
        return kind in self._models.by_kind or (kind in RECOGNISERS and kind in self._references)

    def open(self, kind: ModelKind, opening: Opening) -> Any:
        """Open one of the models. Raises ModelError."""
        if kind in self._models.by_kind:
            return self._models.by_kind[kind].open(opening)
        return RECOGNISERS[kind](self._references[kind], self._cache, self._say, opening)

    def image(self, threads: int) -> ImageEncoder | None:
        """Open the image model, None for a library without images. Raises ModelError."""
        found: ImageEncoder | None = self.open("visual", Opening(threads)) if "visual" in self else None
        return found

    def image_folder(self) -> Path | None:
        """Return the image model's ONNX folder, for `open_image_encoder`; None without images. Raises ModelError."""
        model = self._models.by_kind.get("visual")
        return model.image_folder() if isinstance(model, _LiteVisual | _ClipVisual) else None

    def text(self, threads: int) -> PassageEncoder:
        """Open the text model. Raises ModelError."""
        found: PassageEncoder = self.open("text", Opening(threads))
        return found


class EmbeddingModel(Protocol):
    """A located model that embeds the clips of a modality, and its questions.

    identity: as a library records it. query, query_folder: its query encoder, and where it lies in the cache.
    """

    @property
    def identity(self) -> str: ...

    @property
    def query(self) -> QueryModel: ...

    @property
    def query_folder(self) -> Path: ...

    def open(self, opening: Opening) -> Any:
        """Return the encoder that its extractor takes. Raises ModelError."""
        ...

    def prior(self, modality: Modality) -> ModalityPrior:
        """Return the statistics of a modality. Raises ModelError."""
        ...


class _LiteVisual:
    """EfficientNet-Lite2: labels, embedded by a text model of `lite`, and colours are compared with words."""

    def __init__(self, text: str, cache: Path, say: Say) -> None:
        """text: one of TEXT_MODELS."""
        self.identity = f"{LITE_VISUAL} {EFFICIENTNET_WEIGHTS.sha256[:16]} in {text_identity(text)}"
        self.query = QueryModel(text, visual_templates(text))
        self._paths = ensure_lite(cache, text, say=say)
        self.query_folder = self._paths.text

    def image_folder(self) -> Path:
        return self._paths.visual

    def open(self, opening: Opening) -> ImageEncoder:
        return LiteImageEncoder.open(self._paths.visual, threads=opening.threads)

    def prior(self, modality: Modality) -> ModalityPrior:
        return load_prior(self._paths.prior, modality)


class _ClipVisual:
    """An open_clip model; its text tower is exported on first use."""

    def __init__(self, reference: str, cache: Path, say: Say) -> None:
        self._model, self._cache, self._say = locate("visual", reference, cache), cache, say
        self.identity = self._model.identity

    @cached_property
    def query_folder(self) -> Path:
        return ensure_part(self._model, "clip-text", self._cache, say=self._say)

    @property
    def query(self) -> QueryModel:
        return _query_model(self.query_folder)

    def image_folder(self) -> Path:
        return ensure_part(self._model, "clip-image", self._cache, say=self._say)

    def open(self, opening: Opening) -> ImageEncoder:
        from vfindex.indexer.models.image.open_clip import OpenClipEncoder  # torch takes seconds; `lite` does without

        threads, devices = opening.threads, None if has_cuda() else ["cpu"]
        return OpenClipEncoder.open(self._model.folder, threads=threads, devices=devices, compiled=opening.compiled)

    def prior(self, modality: Modality) -> ModalityPrior:
        return visual_prior(lambda: self.open(Opening(usable_cores())), self.query_folder, modality.weight)


class _LiteText:
    """A text model inside a package."""

    def __init__(self, text: str, cache: Path, say: Say, *, images: bool) -> None:
        """text: one of TEXT_MODELS. images: see `ensure_lite`; whether the image model is that of `lite`."""
        self.identity = text_identity(text)
        self.query = QueryModel(text, (f"{TEXT_MODELS[text].prompt}{QUERY}",))
        self._paths = ensure_lite(cache, text, images=images, say=say)
        self.query_folder = self._paths.text

    def open(self, opening: Opening) -> PassageEncoder:
        return TextEncoder.open(self._paths.text, threads=opening.threads)

    def prior(self, modality: Modality) -> ModalityPrior:
        return load_prior(self._paths.prior, modality)


class _SentenceText:
    """A sentence-transformers model; exported on first use."""

    def __init__(self, reference: str, cache: Path, say: Say) -> None:
        self._model, self._cache, self._say = locate("text", reference, cache), cache, say
        self.identity = self._model.identity

    @cached_property
    def query_folder(self) -> Path:
        return ensure_part(self._model, "sentence", self._cache, say=self._say)

    @property
    def query(self) -> QueryModel:
        return _query_model(self.query_folder)

    def open(self, opening: Opening) -> PassageEncoder:
        if not has_cuda():
            return TextEncoder.open(self.query_folder, threads=opening.threads)
        from vfindex.indexer.models.sentence import SentenceEncoder  # takes seconds to import

        return SentenceEncoder.open(self._model, "cuda")

    def prior(self, modality: Modality) -> ModalityPrior:
        return text_prior(self.query_folder, modality.weight)


class _ClapAudio:
    """A CLAP model; its text tower is exported on first use."""

    def __init__(self, reference: str, cache: Path, say: Say) -> None:
        self._model, self._cache, self._say = locate("audio", reference, cache), cache, say
        self.identity = self._model.identity

    @cached_property
    def query_folder(self) -> Path:
        return ensure_part(self._model, "clap-text", self._cache, say=self._say)

    @property
    def query(self) -> QueryModel:
        return _query_model(self.query_folder)

    def open(self, opening: Opening) -> ClapEncoder:
        from vfindex.indexer.models.sound.clap import ClapEncoder  # torch takes seconds; other libraries do without

        return ClapEncoder.open(self._model.folder, threads=opening.threads, device="cuda" if has_cuda() else "cpu")

    def prior(self, modality: Modality) -> ModalityPrior:
        return audio_prior(self.query_folder, modality.weight)


def _visual(references: Mapping[ModelKind, str], cache: Path, say: Say) -> EmbeddingModel:
    reference, text = references["visual"], references["text"]
    # Labels beside a text model of the hub are in English, as in libraries of every version.
    labels = text if text in TEXT_MODELS else LITE_TEXT
    return _LiteVisual(labels, cache, say) if reference == LITE_VISUAL else _ClipVisual(reference, cache, say)


def _text(references: Mapping[ModelKind, str], cache: Path, say: Say) -> EmbeddingModel:
    text, embeds_labels = references["text"], references.get("visual") == LITE_VISUAL
    if text in TEXT_MODELS:
        return _LiteText(text, cache, say, images=embeds_labels)
    return _SentenceText(text, cache, say)


def _speech(reference: str, cache: Path, say: Say, opening: Opening) -> Whisper:
    from vfindex.indexer.speech.backends import open_whisper  # CTranslate2 takes a second to import

    threads, device = opening.threads, None if usable_devices() else "cpu"
    model = ensure_model(find_card("speech", reference), cache, say=say)
    return open_whisper(model.folder, threads=threads, device=device, main_language=opening.main_language)


# What locates the embedding model of each kind, from the references of all; and what opens a recogniser.
MODELS: dict[ModelKind, Callable[[Mapping[ModelKind, str], Path, Say], EmbeddingModel]] = {
    "visual": _visual,
    "text": _text,
    "audio": lambda references, cache, say: _ClapAudio(references["audio"], cache, say),
}
RECOGNISERS: dict[ModelKind, Callable[[str, Path, Say, Opening], Any]] = {"speech": _speech}


class _Located:
    """The embedding models of a library's modalities, located in a cache."""

    def __init__(self, references: Mapping[ModelKind, str], cache: Path, say: Say) -> None:
        self._modalities = [get_modality(name) for name in modalities_of(references)]
        kinds = dict.fromkeys(modality.model for modality in self._modalities)
        self.by_kind = {kind: MODELS[kind](references, cache, say) for kind in kinds}

    def identities(self) -> dict[ModalityName, str]:
        """Return modality -> identity of the model that makes its vectors, as a library records it."""
        return {each.name: self.by_kind[each.model].identity for each in self._modalities}

    def queries(self) -> dict[ModalityName, QueryModel]:
        """Return modality -> its query encoder."""
        return {each.name: self.by_kind[each.model].query for each in self._modalities}

    def priors(self) -> dict[ModalityName, ModalityPrior]:
        """Return modality -> its prior."""
        return {each.name: self.by_kind[each.model].prior(each) for each in self._modalities}

    def query_folders(self) -> dict[str, Path]:
        """Return name of a query encoder in a library -> its folder in the cache."""
        return {model.query.folder: model.query_folder for model in self.by_kind.values()}


def _query_model(folder: Path) -> QueryModel:
    return QueryModel(folder.parent.name, tuple(read_meta(folder)["templates"]))
