"""docs/cli.md agrees with the program: help texts word for word, fields, exit codes, environment variables."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vfindex.cli import app as entry
from vfindex.cli.commands import models, runs, watch
from vfindex.cli.commands.search import _TABLE_WIDTH, EXIT_MISSING
from vfindex.cli.render.run_report import label
from vfindex.indexer.runs.repair import RepairReport
from vfindex.indexer.runs.report import Report, UpgradeReport
from vfindex.search.understanding.duplicates import Copy, DuplicateGroup, DuplicateList
from vfindex.search.understanding.unusual import ClipPlace, UnusualClip, UnusualList

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
COMMANDS = tuple(entry.command_line().commands)


def section(name: str) -> str:
    """Return the text below the heading of a command."""
    match = re.search(rf"^## vfindex {name}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert match, f"docs/cli.md has no section for {name}"
    return match[1]


def documented_fields(name: str) -> set[str]:
    """Return the names in the first column of the section's field tables."""
    rows = re.findall(r"^\| (`[^|]*`) \|", section(name), re.M)
    return {field for row in rows for field in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        *((name,) for name in COMMANDS),
        *((models.NAME, word) for word in ("list", "pull", "add", "check")),
        *((runs.NAME, word) for word in ("list", "show")),
        *((watch.NAME, word) for word in ("add", "list", "remove", "run")),
    ],
)
def test_the_help_is_there_word_for_word(run: Any, arguments: tuple[str, ...]) -> None:
    help_ = run(*arguments, "--help").out
    command = " ".join(("vfindex", *arguments, "--help"))
    where = section(arguments[0]) if arguments else PAGE
    assert f"```text\n$ {command}\n{help_}```\n" in where


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("list",),
        ("show", "/videos/a.mp4"),
        ("chapters", "/videos/a.mp4"),
        ("digest", "/videos/a.mp4"),
        ("remove", "/videos/a.mp4"),
        ("purge",),
        ("verify",),
        ("search", "x"),
        ("ask", "x"),
    ],
)
def test_every_field_is_explained_and_no_other(run: Any, library: Path, arguments: tuple[str, ...]) -> None:
    document = json.loads(run(*arguments, "--library", library, "--json").out)
    fields = set(document)
    for hit in document.get("hits", []):
        fields |= set(hit)
    assert documented_fields(arguments[0]) == fields


def test_the_fields_of_a_report_are_explained() -> None:
    assert documented_fields("ingest") == set(Report().to_dict(str))


def test_the_fields_of_a_repair_are_explained() -> None:
    assert documented_fields("repair") == RepairReport().to_dict(str).keys() - Report().to_dict(str).keys()
    assert Report().to_dict(str).items() <= RepairReport().to_dict(str).items()


def test_the_fields_of_an_upgrade_are_explained() -> None:
    assert documented_fields("upgrade") == {*UpgradeReport(1, {}, {}).to_dict(str), "known_items"}


def test_the_fields_of_models_and_findings_are_explained(run: Any, tmp_path: Path) -> None:
    listed, documented = json.loads(run("models", "list", "--json").out), section("models")
    for rows in ("models", "presets"):
        assert f"| `{rows}` | list of `{{{', '.join(listed[rows][0])}}}`" in documented
    assert documented_fields("models") == set(listed)
    found = json.loads(run("doctor", "--json", "--library", tmp_path).out)
    assert documented_fields("doctor") == set(found)
    assert f"| `findings` | list of `{{{', '.join(found['findings'][0])}}}`" in section("doctor")


def test_the_extras_are_explained() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    listed = re.findall(r"^\| (\w+) \|", section("doctor"), re.M)
    assert set(listed) - {"extra", "field"} == extras - {"all", "test"}


def test_the_ways_a_file_can_end_are_explained() -> None:
    words = set(re.findall(r"^\| ([a-z ]+) \|", section("ingest"), re.M)) - {"word", "field"}
    counts = ("found", "indexed", "unchanged", "moved", "reworded", "coarse", "partial", "failed", "skipped")
    assert words == {label(name) for name in counts}


def test_nested_fields_are_those_of_the_program(run: Any, library: Path) -> None:
    shown = json.loads(run("show", "/videos/a.mp4", "--library", library, "--json").out)
    documented = section("show")
    assert f"| `clips` | list of `{{{', '.join(shown['clips'][0])}}}`" in documented
    assert f"| `transcript` | list of `{{{', '.join(shown['transcript'][0])}}}`" in documented
    [row, _] = json.loads(run("list", "--library", library, "--json").out)["videos"]
    assert f"| `videos` | list of `{{{', '.join(row)}}}`" in section("list")
    states = json.loads(run("status", "--library", library, "--json").out)["states"]
    assert f"`{{{', '.join(states)}}}`" in section("status")


def test_the_fields_of_unusual_clips_are_explained() -> None:
    assert documented_fields("unusual") == {field.name for field in fields(UnusualList)}
    assert f"| `clips` | list of `{{{', '.join(field.name for field in fields(UnusualClip))}}}`" in section("unusual")
    assert f"nearest: `{{{', '.join(field.name for field in fields(ClipPlace))}}}`" in section("unusual")


def test_the_fields_of_duplicates_are_explained() -> None:
    assert documented_fields("duplicates") == {field.name for field in fields(DuplicateList)}
    for key, record in (("| `groups` | list of", DuplicateGroup), ("list of", Copy)):
        assert f"{key} `{{{', '.join(field.name for field in fields(record))}}}`" in section("duplicates")


def test_the_exit_codes_are_the_program_s() -> None:
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.M)]
    assert codes == [0, entry.EXIT_FAILED, entry.EXIT_USAGE, EXIT_MISSING, entry.EXIT_BUG, entry.EXIT_INTERRUPTED]


def test_every_environment_variable_is_named() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cli").glob("*.py"))
    assert set(re.findall(r"VFINDEX_[A-Z]+", PAGE)) == set(re.findall(r"VFINDEX_[A-Z]+", sources))


def test_the_width_at_which_tables_begin_is_the_program_s() -> None:
    assert f"(below {_TABLE_WIDTH} columns: paragraphs)" in " ".join(PAGE.split())
