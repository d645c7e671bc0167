"""The presets: a library's models and the constants of its ranking. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal, get_args

from vfindex.indexer.models.catalog import CARD_KINDS, CARDS
from vfindex.indexer.options import Options, Sampling
from vfindex.storage.errors import UsageError
from vfindex.storage.modalities import ModalityName, ModelKind, get_modality, modality_names
from vfindex.storage.records import Setup

PresetName = Literal["lite", "lite-multilingual", "small", "base", "large", "multilingual"]
# Recognisers that come with the library of an extra, and that every preset has where it is installed: its module, and
# the reference of the models in it.
WITH_EXTRAS: Mapping[ModelKind, tuple[str, str]] = MappingProxyType({"screen": ("rapidocr", "pp-ocrv6-small")})
LITE_VISUAL, LITE_TEXT, LITE_SPEECH = "efficientnet-lite2", "all-MiniLM-L6-v2", "whisper-base"
# The text model of `lite-multilingual`, of 4 bits.
MULTILINGUAL_TEXT = "multilingual-e5-small-q4"
# Recognises speech where the weights of LITE_SPEECH are missing.
SPARE_SPEECH = "whisper-tiny.en"
# Models that a processor runs fast enough: those in packages.
_NEEDING_NO_GPU = frozenset(card.reference for card in CARDS if card.pinned_files)
# The recogniser of `lite` in libraries of earlier versions; LITE_SPEECH takes its place in new videos.
FORMER_SPEECH = "pocketsphinx-en-us"
# Chosen on halves of the public videos: of 20, none chooses less, see docs/decisions/screen.md.
WORD_WEIGHT = 3.0
# Text models for questions in other languages than the library's, whose words match nothing -> `Setup.imputed_share`:
# the slope of the share of words that do match, in English, see docs/decisions/languages.md.
IMPUTED_SHARES: Mapping[str, float] = MappingProxyType({MULTILINGUAL_TEXT: 0.15})


@dataclass(frozen=True, slots=True)
class Preset:
    """The models of a library and the constants of its ranking.

    models: references, see `catalog`.
    frame_weight: share of the best frame in a hit's visual score; the clip's own vector has the rest.
    word_weight: score added to a hit that contains every content word of the query.
    """

    name: PresetName
    models: Mapping[ModelKind, str]
    frame_weight: float
    word_weight: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The models that a user chose. None: those of the preset; no preset: those of the library, or the default.

    screen: None without the extra; a library that has it keeps it where the extra is missing.
    """

    preset: str | None = None
    visual: str | None = None
    text: str | None = None
    speech: str | None = None
    screen: str | None = None
    audio: str | None = None

    @classmethod
    def of(cls, preset: str | None, models: Mapping[ModelKind, str]) -> Choice:
        """Return the choice of these models, but for kinds of which there is no choice."""
        return cls(preset, **{kind: models.get(kind) for kind in CHOSEN_KINDS})

    def models(self) -> dict[ModelKind, str]:
        """Return the models that were chosen by name."""
        return {kind: name for kind in CHOSEN_KINDS if (name := getattr(self, kind))}


# The kinds of models that a user can name.
CHOSEN_KINDS: tuple[ModelKind, ...] = tuple(kind for kind in get_args(ModelKind) if kind in Choice.__annotations__)


def _hub_preset(name: PresetName, visual: str, text: str, speech: str) -> Preset:
    # Unmeasured with these models: the weights are the table's; a frame weight of 0.6 is the published start.
    return _preset(name, visual, text, speech, frame_weight=0.6)


def _preset(name: PresetName, visual: str, text: str, speech: str, *, frame_weight: float) -> Preset:
    models: Mapping[ModelKind, str] = MappingProxyType({"visual": visual, "text": text, "speech": speech})
    return Preset(name, models, frame_weight, WORD_WEIGHT)


PRESETS: Mapping[PresetName, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            _preset("lite", LITE_VISUAL, LITE_TEXT, LITE_SPEECH, frame_weight=0.7),
            _preset("lite-multilingual", LITE_VISUAL, MULTILINGUAL_TEXT, LITE_SPEECH, frame_weight=0.7),
            _hub_preset("small", "ViT-B-32-256:datacomp_s34b_b86k", LITE_TEXT, "whisper-base"),
            _hub_preset("base", "PE-Core-B-16:meta", "intfloat/multilingual-e5-small", "whisper-small"),
            _hub_preset("large", "PE-Core-L-14-336:meta", "BAAI/bge-m3", "whisper-large-v3-turbo"),
            _hub_preset("multilingual", "ViT-L-16-SigLIP2-256:webli", "BAAI/bge-m3", "whisper-large-v3-turbo"),
        )
    }
)
# A new library gets the first if all its models are on this machine, else the second, which needs no download.
BEST_DEFAULT: PresetName = "base"
DEFAULT_PRESET: PresetName = "lite"


def preset_name(name: str) -> PresetName:
    """Return `name` if it is a preset. Raises UsageError."""
    for known in PRESETS:
        if known == name:
            return known
    raise UsageError(f"there is no preset {name!r}; choose from: {', '.join(PRESETS)}")


def chosen_models(choice: Choice, preset: PresetName) -> dict[ModelKind, str]:
    """Return a preset's models, replaced by those that the user chose by name, and those of installed extras."""
    extras = {kind: reference for kind, (module, reference) in WITH_EXTRAS.items() if find_spec(module)}
    return {**PRESETS[preset].models, **extras, **choice.models()}


def models_of(setup: Setup) -> Mapping[ModelKind, str]:
    """Return the references of a library's models; the oldest libraries, all of `lite`, store none."""
    return setup.references or {**PRESETS[preset_name(setup.preset)].models, "speech": FORMER_SPEECH}


def modalities_of(references: Mapping[ModelKind, str]) -> tuple[ModalityName, ...]:
    """Return the modalities that a library of these models has: those whose models are all among them."""
    table = [get_modality(name) for name in modality_names()]
    return tuple(each.name for each in table if {each.model, each.recogniser or each.model} <= references.keys())


def unusable_kinds() -> frozenset[ModelKind]:
    """Return the recognisers of extras that are not installed here."""
    return frozenset(kind for kind, (module, _) in WITH_EXTRAS.items() if find_spec(module) is None)


def uses_gpu(references: Mapping[ModelKind, str]) -> bool:
    """Return whether one of a library's models is meant for a GPU, if there is one."""
    return any(kind in CARD_KINDS and model not in _NEEDING_NO_GPU for kind, model in references.items())


def same_choice(setup: Setup) -> Choice:
    """Return the choice of a library's preset as it is in this version, and of the models chosen instead of it."""
    preset = preset_name(setup.preset)
    usual = PRESETS[preset].models
    own = {k: m for k, m in models_of(setup).items() if m not in (FORMER_SPEECH, usual.get(k, m))}
    return Choice.of(preset, own)


def better_models(setup: Setup) -> str | None:
    """Return advice to the owner of a library with the models of `lite`, None for any other library."""
    if setup.preset != DEFAULT_PRESET or not PRESETS[DEFAULT_PRESET].models.items() <= models_of(setup).items():
        return None
    return (
        f"this library uses the preset {DEFAULT_PRESET}, which needs no download; for better results run: "
        f"vfindex models pull {BEST_DEFAULT}, then: vfindex upgrade --preset {BEST_DEFAULT}"
    )


def options_of(setup: Setup, *, asr: bool) -> Options:
    """Return how the files of a library are read. asr: recognise speech."""
    preset = next((preset for name, preset in PRESETS.items() if name == setup.preset), PRESETS[DEFAULT_PRESET])
    speech = setup.references.get("speech", preset.models["speech"])
    return Options(Sampling.parse(setup.sampling), asr, languages=languages_of(speech))


def languages_of(speech: str) -> frozenset[str] | None:
    """Return the languages of a speech model by its reference; None: every language."""
    return frozenset({"en"}) if speech.endswith(".en") else None
