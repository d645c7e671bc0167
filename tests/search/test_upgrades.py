"""An open engine follows upgrades and rollbacks of the models."""

from __future__ import annotations

from pathlib import Path

import pytest
from library_maker import SETUP, add_video, axis, clip, prior

from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Query
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.index.model_versions import discard, put_in_use, roll_back, version_folder
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing


def make(folder: Path, dim: int, *names: str) -> None:
    """Make a model version of `dim` dimensions whose videos have axis 1."""
    with writing(folder) as writer:
        writer.install(SETUP, {m: prior(dim) for m in ("visual", "speech", "text")}, {})
        for name in names:
            add_video(writer, name, [clip(visual=axis(1, dim))])
        writer.publish()


def test_an_open_engine_follows_a_swap_to_other_dimensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dims: dict[Path, int] = {}

    def encode(self: QueryEncoder, query: Query) -> dict[ModalityName, FloatArray]:
        return {m: axis(1, dims[self._library.folder]) for m in ("visual", "speech", "text")}

    monkeypatch.setattr(QueryEncoder, "encode", encode)
    for number, dim, names in ((0, 8, ("old",)), (1, 5, ("new", "newer"))):
        make(version_folder(tmp_path, number), dim, *names)
        dims[version_folder(tmp_path, number)] = dim
    engine = SearchEngine.open(tmp_path)

    def videos() -> list[bytes | None]:
        return [hit.video for hit in engine.search("1")]

    assert videos() == [b"/videos/old"]
    put_in_use(tmp_path, 1)
    assert videos() == [b"/videos/new", b"/videos/newer"]
    roll_back(tmp_path)
    assert videos() == [b"/videos/old"]
    put_in_use(tmp_path, 1)
    discard(tmp_path, [0])
    assert videos() == [b"/videos/new", b"/videos/newer"]
