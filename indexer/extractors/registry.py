"""The extractors by modality: the one place where a modality of the table gets its code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vfindex.indexer.extractors.base import Extractor, Known
from vfindex.indexer.extractors.source import VideoSource
from vfindex.indexer.extractors.speech import SpeechExtractor, known_speech
from vfindex.indexer.extractors.text import TextExtractor, known_text
from vfindex.indexer.extractors.visual import VisualExtractor
from vfindex.indexer.models.base import Encoders
from vfindex.storage.modalities import ModalityName


@dataclass(frozen=True, slots=True)
class Registration:
    """open: makes the extractor from the models of a run. known: what it has of a video before it is decoded."""

    open: Callable[[Encoders], Extractor]
    known: Callable[[VideoSource], Known] = lambda _: Known()


EXTRACTORS: dict[ModalityName, Registration] = {
    "visual": Registration(lambda encoders: VisualExtractor(encoders.image)),
    "speech": Registration(lambda encoders: SpeechExtractor(encoders.speech), known_speech),
    "text": Registration(lambda _: TextExtractor(), known_text),
}


def open_extractors(encoders: Encoders) -> dict[ModalityName, Extractor]:
    """Return the extractors of a library's modalities."""
    return {modality: EXTRACTORS[modality].open(encoders) for modality in encoders.modalities}
