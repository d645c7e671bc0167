"""Text queries as one vector per modality, by the query encoders stored in the library."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, TypeAlias

from vfindex.search.query.ast import Part, Query
from vfindex.search.query.like import Like
from vfindex.storage.errors import ModelError
from vfindex.storage.files.resources import lack
from vfindex.storage.library import Library
from vfindex.storage.machine import usable_cores
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import ClipKey, FloatArray, QueryModel, Setup
from vfindex.storage.threads import Begun

if TYPE_CHECKING:
    from vfindex.storage.encoders.text import TextEncoder

# For each moment of a query, for each of its parts: modality -> (dim,).
WordVectors: TypeAlias = Sequence[Sequence[Mapping[ModalityName, FloatArray]]]


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A query with its vectors.

    words: waits for those of the words. pictures: (dim,) each. likes: clips of the library to find similar clips for.
    """

    query: Query
    words: Callable[[], WordVectors]
    pictures: Sequence[FloatArray]
    likes: Sequence[Like | ClipKey]

    @property
    def has_images(self) -> bool:
        return bool(self.pictures or self.likes)


class QueryEncoder:
    """The query encoders of a library, opened at their first use, for all threads.

    At most one query a core is encoded at a time: more at once are no faster, and each takes memory of its own.
    """

    def __init__(self, library: Library, setup: Setup) -> None:
        self._library = library
        self._setup = setup
        self._open: dict[str, TextEncoder] = {}
        self._opening = Lock()
        self._cores = BoundedSemaphore(usable_cores())

    def begin(self, query: Query, without: Collection[ModalityName], opened: ExitStack) -> Callable[[], WordVectors]:
        """Encode a query's words in another thread, while its keywords are looked up; return what waits for them.

        without: modalities that do not count. opened: ends with the search, and waits for them even if it failed.
        """
        moments = [[part.but(without) for part in moment.parts()] for moment in query.moments]

        def encoded() -> WordVectors:
            return [[self.encode(part) for part in parts] for parts in moments]

        begun = Begun(encoded)
        opened.callback(begun.end)
        return begun.result

    def encode(self, part: Part) -> dict[ModalityName, FloatArray]:
        """Return modality -> (dim,) float32 of length 1, for the modalities of the part. Raises ModelError."""
        return {m: rows[0] for m, rows in self.encode_all([part], part.modalities).items()}

    def encode_all(self, parts: Sequence[Part], modalities: Collection[ModalityName]) -> dict[ModalityName, FloatArray]:
        """Return modality -> (n, dim) float32, rows of length 1: of each part in these modalities. Raises ModelError.

        Many at once take a quarter of the time of single ones.
        """
        models_of = {m: model for m, model in self._setup.query.items() if m in modalities}
        by_folder: dict[str, list[QueryModel]] = {}
        for model in dict.fromkeys(models_of.values()):
            by_folder.setdefault(model.folder, []).append(model)
        vectors: dict[QueryModel, FloatArray] = {}
        for models in by_folder.values():
            templates = [model.templates for model in models]
            try:
                encoder = self._encoder(models[0])
                with self._cores:
                    rows = encoder.encode_queries([(part.text, part.words) for part in parts], templates)
            except ModelError as exc:
                if lack(exc):
                    raise
                # The exporter's own advice is about the cache, where a missing model is exported again.
                raise ModelError(f"{str(exc).partition(';')[0]}; run: vfindex repair") from exc
            vectors.update((model, rows[:, number]) for number, model in enumerate(models))
        return {modality: vectors[model] for modality, model in models_of.items()}

    def encode_passages(self, modality: ModalityName, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1: texts as a run embeds those of a modality. Raises ModelError."""
        encoder = self._encoder(self._setup.query[modality])
        with self._cores:
            return encoder.encode_passages(texts)

    def _encoder(self, model: QueryModel) -> TextEncoder:
        from vfindex.storage.encoders.text import TextEncoder  # with ONNX Runtime, 30 ms that only a search takes

        with self._opening:
            if model.folder not in self._open:
                self._open[model.folder] = TextEncoder.open(self._library.query_folder(model))
            return self._open[model.folder]
