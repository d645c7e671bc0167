"""Commands with a joint index that cannot be used or published, and exact search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.indexer.runs import ingest as ingesting
from vfindex.indexer.runs.report import Report
from vfindex.storage import next_index
from vfindex.storage.writer import writing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a published library of three videos, of which b.mp4 is the best answer."""
    with writing(tmp_path / "library") as writer:
        install(writer)
        for number, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
            add_video(writer, name, [clip(visual=axis(number), text=axis(number))])
        writer.publish()
    return tmp_path / "library"


def test_an_exact_search_gives_the_same_hits(run: Any, folder: Path) -> None:
    found, exact = (run("search", "x", "--json", *more, "--library", folder) for more in ((), ("--exact",)))
    assert found.code == exact.code == 0 and json.loads(found.out) == json.loads(exact.out)
    assert json.loads(exact.out)["hits"][0]["video"] == "/videos/b.mp4"
    [path] = (folder / "index").iterdir()
    path.unlink()
    assert run("search", "x", "--exact", "--library", folder).err == ""


def test_a_missing_index_is_reported_by_search_and_status(
    run: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = json.loads(run("status", "--json", "--library", folder).out)
    assert (document["generation"], document["clips_in_generation"], document["index_problem"]) == (1, 3, None)
    [path] = (folder / "index").iterdir()
    path.unlink()
    document = json.loads(run("status", "--json", "--library", folder).out)
    sentence = f"the joint index {path} is missing, so searches scan every clip; run: vfindex rebuild"
    assert (document["generation"], document["clips_in_generation"]) == (None, 0)
    assert document["index_problem"] == sentence
    status = run("status", "--library", folder)
    assert status.code == 0 and f"index       not used: {sentence}" in status.out and "generation" not in status.out
    found = run("search", "x", "--library", folder)
    assert found.code == 0 and "/videos/b.mp4" in found.out and caplog.messages == [sentence]


def test_a_removal_is_reported_even_if_no_index_passes(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_index, "refusal", lambda *_, **__: "it is worse")
    ran = run("remove", "/videos/b.mp4", "--library", folder)
    assert ran.code == 0 and "removed 1 file, 1 video from the library" in ran.out
    assert "the new joint index was not published: it is worse; searches stay correct" in ran.err
    assert "/videos/b.mp4" not in run("search", "x", "--library", folder).out


def test_a_run_without_a_new_index_has_failed(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(found=1, unchanged=1, not_published="the new joint index was not published: it is worse")
    monkeypatch.setattr(ingesting, "ingest", lambda *_, **__: report)
    ran = run("ingest", "/videos", "--library", folder)
    assert ran.code == 1 and "the new joint index was not published: it is worse" in ran.err
    report.not_published = ""
    assert run("ingest", "/videos", "--library", folder).code == 0
