"""Makes the next generation of a joint index in Qdrant: puts clips into a collection, and deletes them there."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from vfindex.storage.errors import IndexUnusable, NotPublished, counted
from vfindex.storage.ids import evenly_spaced, in_sorted
from vfindex.storage.index.builder import Recipe
from vfindex.storage.index.file_format import writing_index
from vfindex.storage.index.tuning import CLIPS_A_QUESTION, FEW_QUESTIONS, LEAST, KnownBest, questions
from vfindex.storage.qdrant.collection import WRITING_S, Collection, Ids
from vfindex.storage.qdrant.index import QDRANT_SUFFIX, Facts, QdrantGeneration, QdrantIndex, Source, Target, tokens_of
from vfindex.storage.records import FloatArray, StoredFile

logger = logging.getLogger(__name__)
# Candidates of Qdrant's graph that are tried when a generation is made; the first with enough recall is kept.
EFFORTS = (64, 128, 256, 512, 1024, 2048)
# Seconds between looks at a collection that builds its graph.
_POLL_S = 2.0


class QdrantDraft:
    """The next generation in Qdrant: `put` and `drop` as of `builder.Draft`, then `finish`, then `settle`.

    Extends the collection of the generation before, or makes another. Every method raises IndexUnusable.
    """

    has_sealed = True  # so that the gate measures recall

    def __init__(
        self, path: tuple[Path, int], recipe: Recipe, target: Target, source: Source, before: QdrantGeneration | None
    ) -> None:
        """path: the folder of the files, and the number of the generation. before: None for a new collection."""
        self._folder, self._number = path
        self.spec, self._priors, self._source, self._before = recipe.spec, recipe.priors, source, before
        self._token = secrets.token_hex(16)
        self._held = self._earlier = np.zeros(0, np.int64) if before is None else before.ids()
        self._best: KnownBest | None = None
        self._file: StoredFile | None = None
        if before is None:
            name = f"{target.prefix}{self._number:08d}-{self._token[:8]}"
            self._collection = Collection(target.url, name, WRITING_S)
            self._collection.state()  # a server that cannot be reached holds nothing to be remembered
            target.announce(name)
            self._collection.create(self.spec.dim, {"tokens": self._token}, target.like)
            self._require([self._token])
        else:
            self._collection = before.collection(WRITING_S)
            if self._tokens() != [before.facts.token]:  # a killed publication has left what it had put
                self._drop_strays()
            self._collection.mark({"tokens": f"{before.facts.token} {self._token}"})
            self._require([before.facts.token, self._token])

    @property
    def is_new(self) -> bool:
        """Whether another collection is made."""
        return self._before is None

    def ids(self) -> Ids:
        """Return the clip ids of the generation, as it stands, increasing."""
        return self._held

    def put(self, ids: Ids, rows: Iterable[FloatArray]) -> None:
        """Put clips, in the place of older vectors of these. ids: increasing. rows: in batches (n, dim)."""
        sample = ids[evenly_spaced(len(ids), CLIPS_A_QUESTION * FEW_QUESTIONS)]
        own = [part for _, part in self._source.rows(sample)]
        own_rows = np.concatenate([np.zeros((0, self.spec.dim), np.float32), *own])
        asked = questions(self.spec, self._priors, own_rows, FEW_QUESTIONS)
        self._best = KnownBest([np.concatenate(kinds) for kinds in asked])
        at = 0
        for part in rows:
            of_part = ids[at : at + len(part)]
            self._collection.put(of_part, self._source.videos(of_part), part)
            self._best.see(of_part, part)
            at += len(part)
        self._held = np.union1d(self._held, ids)

    def drop(self, ids: Ids) -> None:
        """Delete clips. ids: increasing; those that are not there are passed over."""
        self._collection.drop_points(ids[in_sorted(ids, self._held)])
        self._held = np.setdiff1d(self._held, ids)

    def finish(self) -> StoredFile:
        """Return the file of the generation. Raises NotPublished if it lacks clips or recall, OSError."""
        self._wait()
        last = int(self._held.max(initial=0))
        where = (self._collection.url, self._collection.name, self._token)
        facts = Facts(*where, self.spec.dim, EFFORTS[0], len(self._held), last)
        every = np.zeros(last + 1, np.bool_)
        every[self._held] = True
        bits = np.packbits(every, bitorder="little")
        for effort in EFFORTS:
            facts = replace(facts, effort=effort)
            trial = QdrantGeneration(facts, bits)
            recall = 1.0 if self._best is None else min(self._best.recall(QdrantIndex(trial, self._source)))
            if recall >= LEAST:
                break
        else:
            raise NotPublished(f"{self._collection.place} finds {recall:.2f} of what an exact scan finds")
        with writing_index(self._folder / f"{self._number:08d}{QDRANT_SUFFIX}") as file:
            file.put("held", "|u1", [bits])
            self._file = file.end({"qdrant": asdict(facts)})
        return self._file

    def settle(self) -> None:
        """Let the collection name this generation alone, which is committed."""
        try:
            self._collection.mark({"tokens": self._token})
        except IndexUnusable as exc:  # it names both; the next publication looks for strays
            logger.info("%s", exc)

    def discard(self) -> None:
        """Delete the file, and what was put; what Qdrant keeps now, the next publication deletes."""
        if self._file is not None:
            (self._folder / self._file.name).unlink(missing_ok=True)
        try:
            if self._before is None:
                self._collection.drop()
            else:
                self._collection.drop_points(np.setdiff1d(self._held, self._earlier))
        except IndexUnusable as exc:
            logger.info("%s", exc)

    def _wait(self) -> None:
        """Return when the collection holds all clips and has built its graph, whose recall would differ before."""
        while (state := self._collection.state()) is not None and state.is_busy:
            time.sleep(_POLL_S)
        if state is None or state.clips != len(self._held):
            count = 0 if state is None else state.clips
            raise NotPublished(f"{self._collection.place} holds {counted(count, 'clip')}, not {len(self._held)}")

    def _drop_strays(self) -> None:
        found = self._collection.ids()
        self._collection.drop_points(found[~in_sorted(found, self._held)])

    def _tokens(self) -> list[str]:
        state = self._collection.state()
        return [] if state is None else tokens_of(state)

    def _require(self, tokens: list[str]) -> None:
        if self._tokens() != tokens:
            raise IndexUnusable(f"{self._collection.place} does not keep its metadata: Qdrant 1.16 or newer is needed")
