"""The presets: which models a library is made with, and the defaults measured for them.

Imports nothing heavy: the command line reads its defaults here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from vfindex.storage.records import Modality

PresetName = Literal["lite"]


@dataclass(frozen=True, slots=True)
class Preset:
    """A library's models and the constants of its ranking.

    visual_model, text_model, speech_model: names as they stand in the models' meta.json.
    weights: w_m of every modality where the user names none.
    frame_weight: share of the best frame in a hit's visual term, the clip's own vector having the rest.
    word_weight: score that a hit gets for holding every content word of the query.
    templates: what a query becomes before it is encoded for a modality, see `TextEncoder.encode_query`.
    """

    name: PresetName
    visual_model: str
    text_model: str
    speech_model: str
    weights: Mapping[Modality, float]
    frame_weight: float
    word_weight: float
    templates: Mapping[Modality, tuple[str, ...]]


# Measured over the public collection, each as a paired comparison: see docs/decisions.md. All lie on plateaus.
_LITE = Preset(
    name="lite",
    visual_model="efficientnet-lite2",
    text_model="all-MiniLM-L6-v2",
    speech_model="pocketsphinx-en-us",
    # In units of the spread of unrelated scores; speech from 0.3 to 0.5 ranks alike, at 1 it drowns the pictures.
    weights=MappingProxyType({"visual": 1.0, "speech": 0.4, "text": 0.4}),
    frame_weight=0.7,
    word_weight=1.0,
    # Labels are nouns: the words of a question one by one meet them better than its sentence alone does.
    templates=MappingProxyType({"visual": ("{}", "{word}"), "speech": ("{}",), "text": ("{}",)}),
)
PRESETS: Mapping[PresetName, Preset] = MappingProxyType({"lite": _LITE})
DEFAULT_PRESET: PresetName = "lite"
