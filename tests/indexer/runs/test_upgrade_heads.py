"""Temporal heads in an upgrade: kept with their image model, named where they are dropped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from library_maker import DIM
from upgrading import Upgrade, add, make_library, upgrader

from vfindex.indexer.models.presets import Choice
from vfindex.indexer.options import Sampling
from vfindex.indexer.runs.run import Callbacks
from vfindex.storage.heads import TemporalHead, put_head, shapes_of, stored_head
from vfindex.storage.library import Library
from vfindex.storage.maintenance.rollback import roll_back
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.writer import writing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_library(tmp_path / "lib")


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Upgrade:
    return upgrader(folder, monkeypatch)


def head(model: str) -> TemporalHead:
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes_of(DIM, 2).items()}
    return TemporalHead(("left", "right"), model, weights, 0.01, 2.0)


def with_heads(folder: Path, **models: str) -> None:
    with writing(folder) as writer:
        for classes, model in models.items():
            put_head(writer.catalog, writer.folder, classes, head(model))


def heads_of(folder: Path) -> dict[str, str]:
    """Return set of classes -> image model of its temporal head."""
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        names = LibraryMeta(snapshot).temporal_heads
        found = {name: stored_head(snapshot, library.folder, name) for name in names}
    return {name: each.model for name, each in found.items() if each is not None}


def saying(lines: list[str]) -> Callbacks:
    return Callbacks(say=lines.append)


def test_a_temporal_head_stays_as_long_as_its_image_model(folder: Path, run: Upgrade) -> None:
    with_heads(folder, pans="V", waves="V")
    said: list[str] = []
    report = run(callbacks=saying(said))
    assert (report.swapped, report.dropped_heads, said) == (True, (), [])
    assert heads_of(folder) == {"pans": "V", "waves": "V"} and verify(Library.open(folder)).problems == []


def test_one_that_is_dropped_is_named_before_it_goes_and_in_the_report(folder: Path, run: Upgrade) -> None:
    with_heads(folder, pans="V")
    said: list[str] = []
    report = run(Choice(visual="V2"), saying(said))
    assert not report.swapped and heads_of(folder) == {"pans": "V"}, "files are missing"
    assert [
        line for line in said if "'pans'" in line and "vfindex tune CLASSES --temporal" in line and "dropped" in line
    ]
    report = run(Choice(visual="V2"), allow_missing=True)
    assert (report.swapped, report.dropped_heads, heads_of(folder)) == (True, ("pans",), {})
    assert report.to_dict(os.fsdecode)["dropped_heads"] == ("pans",)


def test_heads_that_the_new_version_has_already_stay(folder: Path, run: Upgrade) -> None:
    with_heads(folder, pans="V")
    run(Choice(visual="V2"), allow_missing=True)
    with_heads(folder, pans="V2", waves="V2")
    roll_back(folder)
    assert heads_of(folder) == {"pans": "V"}
    with writing(folder) as writer:
        add(writer, "other")
    again = run(Choice(visual="V2"), allow_missing=True)
    assert (again.version, again.dropped_heads, heads_of(folder)) == (1, (), {"pans": "V2", "waves": "V2"})


def test_a_damaged_head_is_dropped_and_one_of_another_sampling_is_named(folder: Path, run: Upgrade) -> None:
    with_heads(folder, pans="V", waves="V")
    with Library.open(folder).snapshot() as snapshot:
        digest = LibraryMeta(snapshot).temporal_heads["waves"]
    said: list[str] = []
    report = run(callbacks=saying(said), sampling=Sampling.parse("2"), allow_missing=True)
    assert report.dropped_heads == () and heads_of(folder) == {"pans": "V", "waves": "V"}
    assert sum("another sampling" in line for line in said) == 2
    roll_back(folder)
    (folder / "heads" / f"{digest}.safetensors").write_bytes(b"torn")
    assert run(allow_missing=True).dropped_heads == ("pans", "waves"), "one file, as their weights are equal"
