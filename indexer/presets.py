"""The presets: which models a library is made with, and the defaults measured for them.

Imports nothing heavy: the command line reads its defaults here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    word_weight: score that a hit gets for each unit of BM25 over the words found.
    templates: what a query becomes before it is encoded for a modality, `{}` standing for the query; several are
    averaged.
    """

    name: PresetName
    visual_model: str
    text_model: str
    speech_model: str
    weights: Mapping[Modality, float]
    frame_weight: float
    word_weight: float
    templates: Mapping[Modality, tuple[str, ...]] = field(
        default_factory=lambda: MappingProxyType({"visual": ("{}",), "speech": ("{}",), "text": ("{}",)})
    )


PRESETS: Mapping[PresetName, Preset] = MappingProxyType(
    {
        "lite": Preset(
            name="lite",
            visual_model="efficientnet-lite2",
            text_model="all-MiniLM-L6-v2",
            speech_model="pocketsphinx-en-us",
            weights=MappingProxyType({"visual": 1.0, "speech": 0.4, "text": 0.4}),
            frame_weight=0.6,
            word_weight=0.01,
        )
    }
)
DEFAULT_PRESET: PresetName = "lite"
