"""Adapters of the joint index and its peers for ann.py: `build`, `open`, `search`, each in its own process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ann_data import Material
from numpy.typing import NDArray

from vfindex.storage.index import segment
from vfindex.storage.index.builder import Draft, Recipe
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.vector import JointSpec, ModalityPrior, ModalitySpec
from vfindex.storage.records import FloatArray, StoredFile

THREADS = 2
# Clips given to a peer at a time.
BATCH = 50_000
Ids = NDArray[np.int64]


class Engine(Protocol):
    """knobs: values of the search parameter, rising; one value if there is none to tune. path: of what was built."""

    knobs: Sequence[int]
    path: Path

    def __init__(self, folder: Path, material: Material) -> None: ...

    def build(self) -> None:
        """Make the index in `folder`."""

    def open(self) -> None:
        """Open the index that was made."""

    def search(self, query: FloatArray, knob: int, kept: Ids | None) -> Ids:
        """Return at least the ids of the best ten, among `kept` if that is given."""


class Ours:
    """The joint index as published, with its tuned search parameters."""

    knobs = (0,)
    file = "ours"

    def __init__(self, folder: Path, material: Material) -> None:
        self.path = folder / f"{self.file}{len(material.clips)}"
        self.material = material

    def build(self) -> None:
        shape, zeros = (
            self.material.shape,
            {m: np.zeros(dim, np.float32) for m, dim in self.material.shape.dims.items()},
        )
        spec = JointSpec({m: ModalitySpec(zero, zero, 1.0, shape.weights[m]) for m, zero in zeros.items()})
        priors = {
            m: ModalityPrior(zeros[m], zeros[m], 1.0, self.material.background[:, where], shape.weights[m])
            for m, where in shape.slices().items()
        }
        clips = self.material.clips
        self.path.mkdir(exist_ok=True)
        draft = Draft(self.path, 1, Recipe(spec, priors))
        draft.put(np.arange(len(clips)), batches(clips))
        (self.path / "stored.json").write_text(json.dumps(asdict(draft.finish())))

    def open(self) -> None:
        stored = StoredFile(**json.loads((self.path / "stored.json").read_text()))
        self.index = JointIndex.load(self.path, stored)

    def search(self, query: FloatArray, knob: int, kept: Ids | None) -> Ids:
        return self.index.nearest(query[None], 10, kept)[1][0]


class Exact(Ours):
    """The exact joint index, at any size."""

    file = "exact"

    def build(self) -> None:
        segment.EXACT_CLIPS = len(self.material.clips)
        super().build()


class HnswLib:
    """hnswlib with its usual 16 links, 200 candidates while building; a filter is a Python callback."""

    knobs = (50, 100, 200, 400, 800, 1600, 3200, 6400)

    def __init__(self, folder: Path, material: Material) -> None:
        import hnswlib

        self.path, self.clips = folder / f"hnswlib{len(material.clips)}.bin", material.clips
        self.index: Any = hnswlib.Index("ip", material.clips.shape[1])

    def build(self) -> None:
        """Go on from the last BATCH that was saved: a million clips take an hour."""
        begun, start = self.path.with_suffix(".part"), time.perf_counter() - spent_s(self.path)
        if begun.exists():
            self.index.load_index(str(begun), max_elements=len(self.clips))
        else:
            self.index.init_index(max_elements=len(self.clips), M=16, ef_construction=200)
        for first in range(self.index.get_current_count(), len(self.clips), BATCH):
            part = np.asarray(self.clips[first : first + BATCH], np.float32)
            self.index.add_items(part, np.arange(first, first + len(part)), num_threads=THREADS)
            self.index.save_index(f"{begun}.new")
            os.replace(f"{begun}.new", begun)
            spent(self.path).write_text(json.dumps(time.perf_counter() - start))
        os.replace(begun, self.path)
        spent(self.path).unlink()

    def open(self) -> None:
        self.index.load_index(str(self.path), max_elements=len(self.clips))
        self.index.set_num_threads(1)
        self.allowed = np.zeros(len(self.clips), bool)

    def search(self, query: FloatArray, knob: int, kept: Ids | None) -> Ids:
        self.index.set_ef(knob)
        if kept is None:
            return np.asarray(self.index.knn_query(query, 10)[0][0], np.int64)
        self.allowed[kept] = True
        try:
            return np.asarray(self.index.knn_query(query, 10, filter=self.allowed.__getitem__)[0][0], np.int64)
        except RuntimeError:  # fewer than ten were found
            return np.zeros(0, np.int64)


class USearch:
    """USearch with its default 16 links and 128 candidates; no filters in Python, so it over-fetches."""

    knobs = (64, 128, 256, 512, 1024, 2048, 4096, 8192)

    def __init__(self, folder: Path, material: Material) -> None:
        from usearch.index import Index

        self.path, self.clips = folder / f"usearch{len(material.clips)}.bin", material.clips
        self.index: Any = Index(
            ndim=material.clips.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=128
        )

    def build(self) -> None:
        for first in range(0, len(self.clips), BATCH):
            part = np.asarray(self.clips[first : first + BATCH], np.float32)
            self.index.add(np.arange(first, first + len(part)), part, threads=THREADS)
        self.index.save(str(self.path))

    def open(self) -> None:
        self.index.load(str(self.path))

    def search(self, query: FloatArray, knob: int, kept: Ids | None) -> Ids:
        self.index.expansion_search = knob
        found = np.asarray(self.index.search(query, 10 if kept is None else knob, threads=1).keys, np.int64)
        return found if kept is None else found[np.isin(found, kept)][:10]


class Lance:
    """LanceDB with an IVF_HNSW_SQ index, scored again from the vectors; a filter is a list of ids, pushed down."""

    knobs = (1, 2, 4, 8, 16, 32, 64)

    def __init__(self, folder: Path, material: Material) -> None:
        self.path, self.clips = folder / f"lance{len(material.clips)}", material.clips

    def build(self) -> None:
        import lancedb
        import pyarrow

        def rows(first: int) -> Any:
            part = np.asarray(self.clips[first : first + BATCH], np.float32)
            flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part.reshape(-1)), part.shape[1])
            return pyarrow.table({"id": np.arange(first, first + len(part)), "vector": flat})

        table = lancedb.connect(self.path).create_table("clips", rows(0), mode="overwrite")
        for first in range(BATCH, len(self.clips), BATCH):
            table.add(rows(first))
        table.create_index(metric="dot", index_type="IVF_HNSW_SQ", vector_column_name="vector")
        table.create_scalar_index("id")

    def open(self) -> None:
        import lancedb

        self.table: Any = lancedb.connect(self.path).open_table("clips")

    def search(self, query: FloatArray, knob: int, kept: Ids | None) -> Ids:
        asked = self.table.search(query, vector_column_name="vector").metric("dot").limit(10)
        asked = asked.nprobes(knob).refine_factor(max(1, knob // 2)).ef(20 * knob)
        if kept is not None:
            asked = asked.where(f"id IN ({','.join(map(str, kept.tolist()))})", prefilter=True)
        return np.asarray(asked.select(["id"]).to_arrow()["id"], np.int64)


class SqliteVec:
    """sqlite-vec, exact, in the SQLite of apsw: Python's own may be built without extensions. It has no inner product:
    an extra dimension gives all vectors equal length, so the nearest has the largest inner product.
    """

    knobs = (0,)

    def __init__(self, folder: Path, material: Material) -> None:
        self.path, self.clips = folder / f"sqlite{len(material.clips)}.db", material.clips

    def _connect(self) -> Any:
        import apsw
        import sqlite_vec

        connection = apsw.Connection(str(self.path))
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        return connection

    def build(self) -> None:
        self.path.unlink(missing_ok=True)
        width = self.clips.shape[1] + 1
        squares = np.concatenate([(part**2).sum(axis=1) for part in batches(self.clips)])
        last = np.sqrt(squares.max() - squares).astype(np.float32)
        with self._connect() as connection:
            connection.execute(f"CREATE VIRTUAL TABLE clips USING vec0(id INTEGER PRIMARY KEY, vector float[{width}])")
            for first in range(0, len(self.clips), BATCH):
                rows = np.column_stack([self.clips[first : first + BATCH], last[first : first + BATCH]])
                data = [(first + at, row.tobytes()) for at, row in enumerate(rows.astype(np.float32))]
                connection.executemany("INSERT INTO clips VALUES (?, ?)", data)

    def open(self) -> None:
        self.connection = self._connect()

    def search(self, query: FloatArray, knob: int, kept: Ids | None) -> Ids:
        among = "" if kept is None else " AND id IN (SELECT value FROM json_each(?))"
        parameters: list[Any] = [np.append(query, np.float32(0)).astype(np.float32).tobytes(), 10]
        parameters += [] if kept is None else [json.dumps(kept.tolist())]
        rows = self.connection.execute(f"SELECT id FROM clips WHERE vector MATCH ? AND k = ?{among}", parameters)
        return np.array([id_ for (id_,) in rows], np.int64)


def batches(clips: NDArray[np.float16]) -> Iterator[FloatArray]:
    """Yield the clips as float32, BATCH at a time."""
    return (np.asarray(clips[first : first + BATCH], np.float32) for first in range(0, len(clips), BATCH))


ENGINES: Mapping[str, type[Engine]] = {
    "ours": Ours,
    "exact": Exact,
    "hnswlib": HnswLib,
    "usearch": USearch,
    "lancedb": Lance,
    "sqlite-vec": SqliteVec,
}
# Packages of the peers; vfindex needs none of them.
MODULES = {"hnswlib": "hnswlib", "usearch": "usearch", "lancedb": "lancedb", "sqlite-vec": "sqlite_vec"}


def spent(path: Path) -> Path:
    """Return the file with the seconds that an interrupted build of an index has taken."""
    return path.with_suffix(".spent")


def spent_s(path: Path) -> float:
    """Return what is in it, 0 without it."""
    return float(json.loads(spent(path).read_text())) if spent(path).exists() else 0.0


def timed_build(engine: Engine, kept_at: Path) -> float:
    """Build the index if missing, and return the build time in seconds."""
    if not kept_at.exists():
        start = time.perf_counter() - spent_s(engine.path)
        engine.build()
        kept_at.write_text(json.dumps({"wall": time.perf_counter() - start}))
    return float(json.loads(kept_at.read_text())["wall"])
