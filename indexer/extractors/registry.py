"""The extractors by modality: the one place where a modality of the table gets its code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vfindex.indexer.extractors.audio import AudioExtractor
from vfindex.indexer.extractors.base import Extractor, Known
from vfindex.indexer.extractors.ocr import Ocr
from vfindex.indexer.extractors.screen import ScreenExtractor
from vfindex.indexer.extractors.source import VideoSource
from vfindex.indexer.extractors.speech import SpeechExtractor, known_speech
from vfindex.indexer.extractors.text import TextExtractor, known_text
from vfindex.indexer.extractors.visual import ShotExtractor, VisualExtractor
from vfindex.indexer.models.base import Encoders, PassageEncoder
from vfindex.storage.modalities import ModalityName, frame_modality, get_modality


@dataclass(frozen=True, slots=True)
class Registration:
    """open: makes the extractor from the models of a run. known: what it has of a video before it is decoded."""

    open: Callable[[Encoders], Extractor]
    known: Callable[[VideoSource], Known] = lambda _: Known()


EXTRACTORS: dict[ModalityName, Registration] = {
    "visual": Registration(lambda encoders: VisualExtractor(encoders.image_model())),
    "speech": Registration(lambda encoders: SpeechExtractor(encoders.speech), known_speech),
    "screen": Registration(
        lambda encoders: ScreenExtractor(None if "screen" in encoders.left_out else Ocr.open(encoders.threads))
    ),
    "audio": Registration(lambda encoders: AudioExtractor(encoders.models.get("audio"))),
    "text": Registration(lambda _: TextExtractor(), known_text),
}


@dataclass(frozen=True, slots=True)
class Extractors:
    """The extractors of a library's modalities, shared by its running units. text: embeds their text.

    One of them records frames, by which clips are cut, also of a library that has no modality with frames.
    """

    by_modality: Mapping[ModalityName, Extractor]
    text: PassageEncoder


def open_extractors(encoders: Encoders) -> Extractors:
    """Return the extractors of a library, opened once a run. Raises ModelError."""
    found = {name: EXTRACTORS[name].open(encoders) for name in encoders.modalities}
    if not any(get_modality(name).has_frames for name in found):
        found = {frame_modality(): ShotExtractor(), **found}
    return Extractors(found, encoders.text)
