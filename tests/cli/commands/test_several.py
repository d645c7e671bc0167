"""Several `--library`: search, show and status take them, other commands refuse them, and what one lacks is named."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.writer import writing


@pytest.fixture
def two(run: Any, library: Path, tmp_path: Path) -> tuple[str, ...]:
    """Return the options of two libraries with one spec: of a and b, and of b and c."""
    other = tmp_path / "other"
    with writing(other) as writer:
        install(writer)
        for name in "bc":
            add_video(writer, name, [clip(visual=axis(1), speech=axis(2))])
        writer.publish()
    options = ("--library", str(library), "--library", str(other))
    assert run("spec", "export", tmp_path / "spec.json", *options).code == 0
    for folder in (library, other):
        assert run("spec", "use", tmp_path / "spec.json", "--library", folder).code == 0
    return options


def test_a_search_lists_each_content_once_with_its_library(run: Any, two: tuple[str, ...]) -> None:
    hits = json.loads(run("search", "words", "--all", "--json", *two).out)["hits"]
    found = sorted((hit["key"][0], Path(hit["library"]).name) for hit in hits)
    assert found == [("a", "library"), ("b", "library"), ("c", "other")]


def test_the_key_of_a_hit_finds_its_video(run: Any, two: tuple[str, ...]) -> None:
    for name in ("c", "/videos/c", "videos/c"):
        shown = json.loads(run("show", name, "--json", *two).out)
        assert (shown["fingerprint"], shown["locations"]) == ("c", ["/videos/c"])
    missing = run("show", "d.mp4", *two)
    assert missing.code == 1 and missing.err.count("\n") == 1 and "d.mp4 is not in this library" in missing.err


def test_a_name_that_fits_a_video_of_each_is_refused(run: Any, two: tuple[str, ...]) -> None:
    with writing(Path(two[3])) as writer:
        add_video(writer, "trip/a.mp4", [clip(visual=axis(1))])
    for arguments in (("show", "a.mp4"), ("search", "--like", "a.mp4@1")):
        refused = run(*arguments, *two)
        assert refused.code == 2
        assert "fits 2 videos of the libraries: /videos/a.mp4, /videos/trip/a.mp4; give more of the path" in refused.err
    assert json.loads(run("show", "videos/trip/a.mp4", "--json", *two).out)["fingerprint"] == "trip/a.mp4"


def test_status_shows_each(run: Any, two: tuple[str, ...]) -> None:
    shown = json.loads(run("status", "--json", *two).out)["libraries"]
    assert [each["videos"] for each in shown] == [2, 2]
    assert len({each["spec"] for each in shown}) == 1 and all(each["spec_is_shared"] for each in shown)
    assert run("status", *two).out.count("library     ") == 2


@pytest.mark.parametrize(
    "command",
    [
        *("list", "marks", "saved", "runs list", "eval queries.jsonl", "mark a@1", "save name words", "ingest x"),
        *("reindex", "retry", "remove x", "purge", "verify", "repair", "rebuild", "tune --reset", "upgrade"),
        "spec use spec.json",
    ],
)
def test_a_command_of_one_library_refuses_two(run: Any, two: tuple[str, ...], command: str) -> None:
    refused = run(*command.split(), *two)
    assert refused.code == 2
    assert refused.err == "vfindex: give --library once; this command takes one library\n"


@pytest.mark.parametrize("command", ["search words", "show c", "status"])
def test_a_library_that_is_missing_is_named(run: Any, two: tuple[str, ...], command: str) -> None:
    shutil.rmtree(two[3])
    missing = run(*command.split(), *two)
    assert missing.code == 1 and missing.err.count("\n") == 1
    assert f"there is no library in {two[3]}" in missing.err


@pytest.mark.parametrize("command", ["search words", "show c"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE meta SET value = '99', seal = NULL WHERE key = 'min_reader'", "written by a newer vfindex"),
        ("UPDATE meta SET value = '99' WHERE key = 'min_reader'", "is not as it was written"),
    ],
)
def test_a_library_that_cannot_be_read_is_named(
    run: Any, two: tuple[str, ...], command: str, change: str, reason: str
) -> None:
    with closing(sqlite3.connect(Path(two[3]) / "library.db")) as connection, connection:
        connection.execute(change)
    refused = run(*command.split(), *two)
    assert refused.code == 1 and refused.err.count("\n") == 1
    assert two[3] in refused.err and reason in refused.err


def test_a_library_that_a_run_holds_is_searched(run: Any, two: tuple[str, ...]) -> None:
    with writing(Path(two[3])) as writer:
        add_video(writer, "d", [clip(visual=axis(1))])
        hits = json.loads(run("search", "words", "--all", "--json", *two).out)["hits"]
    assert {hit["key"][0] for hit in hits} == {"a", "b", "c", "d"}


def test_libraries_of_different_specs_are_refused_with_the_cure(run: Any, two: tuple[str, ...]) -> None:
    assert run("spec", "use", "--own", "--library", two[3]).code == 0
    refused = run("search", "words", *two)
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert (
        f"vfindex spec export spec.json {' '.join(two)}" in refused.err and "vfindex spec use spec.json" in refused.err
    )
    for command in ("serve", "mcp"):
        pytest.importorskip("uvicorn" if command == "serve" else "mcp", reason=f"the extra {command} is not installed")
        assert run(command, *two).err == refused.err, "before a client asks"
    assert run("show", "c", *two).code == 0 == run("status", *two).code, "they compare no scores"
