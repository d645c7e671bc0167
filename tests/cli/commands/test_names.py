"""Paths and queries as people type them: what a command finds, and its hints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.db.sources import Root, remember
from vfindex.storage.writer import writing

NFC, NFD = "/videos/caf\u00e9.mp4", "/videos/cafe\u0301.mp4"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A library of one video, whose name is decomposed, as on macOS."""
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "cafe\u0301.mp4", [clip(visual=axis(1))])
        writer.publish()
    return tmp_path


@pytest.mark.parametrize("typed", [NFC, NFD])
def test_commands_find_a_file_however_its_name_is_composed(run: Any, folder: Path, typed: str) -> None:
    assert json.loads(run("show", typed, "--library", folder, "--json").out)["video"] == NFD
    like = run("search", "--like", f"{typed}@1", "--library", folder)
    assert like.code == 1 and like.err.startswith("no match"), "the library holds no other clip"
    assert json.loads(run("search", f"x in:{typed}", "--library", folder, "--json").out)["hits"][0]["video"] == NFD
    removed = json.loads(run("remove", typed, "--library", folder, "--json").out)
    assert (removed["path"], removed["videos"]) == (NFD, 1)


def test_a_path_that_may_be_two_is_refused(run: Any, folder: Path) -> None:
    with writing(folder) as writer:
        for name in ("\u00e9/e\u0301.mp4", "e\u0301/\u00e9.mp4"):
            add_video(writer, name, [clip(visual=axis(1))])
    for command in ("show", "remove"):
        ran = run(command, "/videos/\u00e9/\u00e9.mp4", "--library", folder)
        assert ran.code == 2 and "may be any of 2 paths" in ran.err and r"/videos/e\u0301/\xe9.mp4" in ran.err
    assert run("remove", "/videos/\u00e9/e\u0301.mp4", "--library", folder).code == 0, "the exact bytes come first"


def test_hints_are_printed_with_the_hits(run: Any, folder: Path) -> None:
    ran = run("search", "a street without cars", "--library", folder)
    assert ran.code == 0 and len(ran.out.splitlines()) == 1
    assert ran.err.startswith("hint: ") and ran.err.endswith("write: -cars\n")
    ran = run("search", "a street without cars in:nowhere", "--library", folder, "--json")
    assert [hint["kind"] for hint in json.loads(ran.out)["hints"]] == ["in", "negation"] and ran.err == ""
    assert json.loads(run("search", "street", "--library", folder, "--json").out)["hints"] == []


def test_a_removal_names_the_whole_path(run: Any, library: Path) -> None:
    ran = run("remove", "b.mp4", "--library", library)
    assert (ran.code, ran.err) == (1, "vfindex: b.mp4 is not in this library; give its whole path: /videos/b.mp4\n")
    ran = run("remove", "videos", "--library", library)
    listed = f"`vfindex list --library {library}` shows what is"
    assert (ran.code, ran.err) == (1, f"vfindex: videos is not in this library; {listed}\n")


def test_a_path_that_was_only_named_is_removed(run: Any, library: Path) -> None:
    with writing(library) as writer:
        remember(writer.catalog, [Root(b"/old")])
    ran = run("remove", "/old", "--library", library)
    assert ran.code == 0
    assert ran.out == "removed 0 files, 0 videos from the library\n`vfindex reindex` no longer walks 1 path\n"
