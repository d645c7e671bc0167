"""A question as one vector a modality, by the query encoders that the library carries."""

from __future__ import annotations

from vfindex.search.query.ast import Part
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.errors import ModelError
from vfindex.storage.files.resources import lack
from vfindex.storage.library import Library
from vfindex.storage.records import FloatArray, Modality, QueryModel, Setup


class QueryEncoder:
    """The query side of a library's models; each is opened at its first use and kept."""

    def __init__(self, library: Library, setup: Setup) -> None:
        self._library = library
        self._setup = setup
        self._open: dict[str, TextEncoder] = {}

    def encode(self, query: Part) -> dict[Modality, FloatArray]:
        """Return modality -> (dim,) float32 of length 1, for the modalities that the part asks. Raises ModelError."""
        asked = {m: model for m, model in self._setup.query.items() if m in query.modalities}
        wanted: dict[str, list[QueryModel]] = {}
        for model in dict.fromkeys(asked.values()):
            wanted.setdefault(model.folder, []).append(model)
        vectors: dict[QueryModel, FloatArray] = {}
        for models in wanted.values():
            templates = [model.templates for model in models]
            rows = self._encoder(models[0]).encode_query(query.text, query.words, templates)
            vectors.update(zip(models, rows, strict=True))
        return {modality: vectors[model] for modality, model in asked.items()}

    def _encoder(self, model: QueryModel) -> TextEncoder:
        if model.folder not in self._open:
            try:
                self._open[model.folder] = TextEncoder.open(self._library.query_folder(model))
            except ModelError as exc:
                if lack(exc):
                    raise
                # The model's own advice is for a cache, where it is made anew when it is missed.
                raise ModelError(f"{str(exc).partition(';')[0]}; run: vfindex repair") from exc
        return self._open[model.folder]
