"""What an upgrade does with a shared spec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from library_maker import SETUP, add_video, axis, clip, prior

from vfindex.indexer.runs.upgrade import _carry_shared_spec as carry_shared_spec
from vfindex.storage.library import Library
from vfindex.storage.maintenance.shared_spec import exported, use_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import Setup
from vfindex.storage.writer import writing

FINER = replace(SETUP, sampling="2")
OTHER = replace(SETUP, models={**SETUP.models, "visual": "another"})


@pytest.mark.parametrize(("setup", "is_kept"), [(FINER, True), (OTHER, False)])
def test_an_upgrade_keeps_it_with_the_same_models_only(tmp_path: Path, setup: Setup, is_kept: bool) -> None:
    old, file, said = tmp_path / "old", tmp_path / "spec.json", []
    with writing(old) as writer:
        writer.install(SETUP, {m: prior() for m in SETUP.models}, {})
        add_video(writer, "a", [clip(visual=axis(1))])
        writer.publish()
    file.write_text(exported([old]).to_json())
    shared = use_spec(old, file).spec
    with writing(tmp_path / "new") as writer:
        writer.install(setup, {m: prior() for m in setup.models}, {})
        carry_shared_spec(Library.open(old), writer, setup, said.append)
        add_video(writer, "b", [clip(visual=axis(2))])
        spec = writer.publish().spec
        assert LibraryMeta(writer.catalog).shares_spec == is_kept
    assert (spec.to_json() == shared.to_json()) == is_kept
    assert len(said) == (not is_kept) and all("estimates its own" in each for each in said)
