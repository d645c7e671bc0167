"""The presets: which models a library is made with, and the constants of its ranking.

Imports nothing heavy: the command line reads its defaults here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from vfindex.indexer.options import Options, Sampling
from vfindex.storage.records import Modality, Setup

PresetName = Literal["lite", "small", "base", "large", "multilingual"]
LITE_VISUAL, LITE_TEXT, LITE_SPEECH = "efficientnet-lite2", "all-MiniLM-L6-v2", "pocketsphinx-en-us"


@dataclass(frozen=True, slots=True)
class Preset:
    """A library's models and the constants of its ranking.

    visual, text, speech: references of the models, see `store`.
    weights: w_m of every modality where the user names none.
    frame_weight: share of the best frame in a hit's visual term, the clip's own vector having the rest.
    word_weight: score that a hit gets for holding every content word of the query.
    """

    name: PresetName
    visual: str
    text: str
    speech: str
    weights: Mapping[Modality, float]
    frame_weight: float
    word_weight: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Which models are asked for. None: the preset's own; without a preset, what the library has or a new one gets."""

    preset: str | None = None
    visual: str | None = None
    text: str | None = None
    speech: str | None = None


# What a query becomes before it is encoded for `lite`'s pictures. Labels are nouns: the words of a question one by one
# meet them better than its sentence alone does; colours are in no label, and are looked for in the pixels.
LITE_VISUAL_TEMPLATES = ("{}", "{word}", "{colour}")

# Measured for `lite` over the public collection, each as a paired comparison: see docs/decisions/lite.md. All lie on
# plateaus. In units of the spread of unrelated scores; speech from 0.3 to 0.5 ranks alike, at 1 it drowns the pictures.
WEIGHTS: Mapping[Modality, float] = MappingProxyType({"visual": 1.0, "speech": 0.4, "text": 0.4})


def _of_hub(name: PresetName, visual: str, text: str, speech: str) -> Preset:
    # Not measured with these models: the weights are those of `lite`, and a best frame of 0.6 is the published start.
    return Preset(name, visual, text, speech, WEIGHTS, frame_weight=0.6, word_weight=1.0)


PRESETS: Mapping[PresetName, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset("lite", LITE_VISUAL, LITE_TEXT, LITE_SPEECH, WEIGHTS, frame_weight=0.7, word_weight=1.0),
            _of_hub("small", "ViT-B-32-256:datacomp_s34b_b86k", LITE_TEXT, "whisper-base"),
            _of_hub("base", "PE-Core-B-16:meta", "intfloat/multilingual-e5-small", "whisper-small"),
            _of_hub("large", "PE-Core-L-14-336:meta", "BAAI/bge-m3", "whisper-large-v3-turbo"),
            _of_hub("multilingual", "ViT-L-16-SigLIP2-256:webli", "BAAI/bge-m3", "whisper-large-v3-turbo"),
        )
    }
)
# What a new library gets: the first where all its models are at hand, else the second, which needs none.
BEST_DEFAULT: PresetName = "base"
DEFAULT_PRESET: PresetName = "lite"


def options_of(setup: Setup, *, asr: bool) -> Options:
    """Return how files are read for a library. asr: recognise speech."""
    preset = next((preset for name, preset in PRESETS.items() if name == setup.preset), PRESETS[DEFAULT_PRESET])
    speech = setup.references.get("speech", preset.speech)
    return Options(Sampling.parse(setup.sampling), asr, languages=languages_of(speech))


def languages_of(speech: str) -> frozenset[str] | None:
    """Return the languages that a model of speech knows, by its reference; None: whatever is spoken."""
    return frozenset({"en"}) if speech == LITE_SPEECH or speech.endswith(".en") else None
