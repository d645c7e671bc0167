"""The scan cache: up-to-date files, the others, and files that a scan did not find."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.db.sources import read_scan_cache
from vfindex.storage.errors import Problem
from vfindex.storage.records import FileStamp, Location
from vfindex.storage.writer import Writer, writing

BAD = Location(b"/videos/bad", 3, 4, 5)


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    with writing(tmp_path) as writer:
        install(writer)
        for number, name in enumerate(("a", "b", "coarse")):
            add_video(writer, name, [clip(visual=axis(number))])
        writer.catalog.mark_preview(3)
        writer.catalog.fail_video("abad", BAD, Problem(BAD.path, "decode", "damaged", "it is torn", "copy it"))
        yield writer


def paths(states: set[tuple[bytes, int, int, str]]) -> list[str]:
    return sorted(os.fsdecode(os.path.basename(state[0])) for state in states)


def test_fully_indexed_files_are_up_to_date(writer: Writer) -> None:
    known = read_scan_cache(writer.catalog, recognised=False)
    assert paths(set(known.up_to_date)) == ["a", "b"]
    assert sorted(known) == [b"/videos/a", b"/videos/b", b"/videos/bad", b"/videos/coarse"]
    assert known.get(BAD.path) == FileStamp(BAD.path, 3, 4, "failed", 0)
    coarse, whole = known.get(b"/videos/coarse"), known.get(b"/videos/a")
    assert coarse and whole and (coarse.coarse, whole.coarse, whole.state) == (1, 0, "indexed")
    assert whole[:3] in {state[:3] for state in known.up_to_date}
    assert known.get(b"/videos/c") is None
    assert (b"/videos/a" in known, BAD.path in known, b"/videos/c" in known) == (True, True, False)


def test_files_without_speech_recognition_are_not_up_to_date_when_it_is_on(writer: Writer) -> None:
    with writer.catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE video SET recognised = (id = 1)")
    assert paths(set(read_scan_cache(writer.catalog, recognised=True).up_to_date)) == ["a"]
    assert paths(set(read_scan_cache(writer.catalog, recognised=False).up_to_date)) == ["a", "b"]


def test_unseen_files_are_returned(writer: Writer) -> None:
    known = read_scan_cache(writer.catalog, recognised=False)
    met = {b"/videos/a", b"/videos/b"}
    assert known.unseen(met, 2) == known.unseen(met, 0) == {b"/videos/coarse", BAD.path}
    assert known.unseen({b"/videos/a", BAD.path}, 1) == {b"/videos/coarse", b"/videos/b"}
    known.add(FileStamp(b"/videos/back", 1, 1, "indexed", 1))
    assert known.unseen(met, 2) == {b"/videos/coarse", BAD.path, b"/videos/back"}
