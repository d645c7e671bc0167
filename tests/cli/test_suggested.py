"""Commands that messages suggest get the library that the user named."""

from __future__ import annotations

from importlib import import_module

import pytest
from typer.core import TyperGroup
from typer.main import get_group

from vfindex.cli.app import command_line
from vfindex.cli.suggested import WITH_LIBRARY, completed


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("add some with: vfindex ingest VIDEOS", "add some with: vfindex ingest --library '/my lib' VIDEOS"),
        ("put it back, or run: vfindex repair", "put it back, or run: vfindex repair --library '/my lib'"),
        ("`vfindex list` shows what is", "`vfindex list --library '/my lib'` shows what is"),
        ("to see: vfindex watch run fox", "to see: vfindex watch run --library '/my lib' fox"),
        ("vfindex: no; run: vfindex reindex, and", "vfindex: no; run: vfindex reindex --library '/my lib', and"),
        (
            "free it with: vfindex tune --reset, or vfindex rebuild",
            "free it with: vfindex tune --library '/my lib' --reset, or vfindex rebuild --library '/my lib'",
        ),
    ],
)
def test_a_suggested_command_gets_the_library(text: str, complete: str) -> None:
    assert completed(text, ["list", "--library", "/my lib"]) == complete
    assert completed(text, ["list", "--library=/my lib", "--library", "/my lib"]) == complete
    for arguments in (
        ["list"],
        ["list", "--", "--library", "x"],
        ["list", "--library", "a", "--library", "b"],
        ["search", "--library", "http://desk:8421"],
        ["list", "--library"],
    ):
        assert completed(text, arguments) == text


@pytest.mark.parametrize(
    "text",
    [
        "make one with: vfindex ingest VIDEOS --library /there",
        "run: vfindex models pull base, or use --preset lite",
        "this is a bug of vfindex: please report it",
        "delete it, and vfindex serve makes another",
        "vfindex upgrade cannot begin: the run before still works",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert completed(text, ["list", "--library", "/my lib"]) == text


def test_the_commands_that_take_a_library() -> None:
    takes: set[str] = set()
    for name in command_line().commands:
        module = import_module(f"vfindex.cli.commands.{name}")
        if hasattr(module, "app"):
            group: TyperGroup = get_group(module.app)
            known = {f"{name} {each}": command for each, command in group.commands.items()} | {name: group}
        else:
            known = {name: command_line().commands[name]._built()}
        takes |= {each for each, command in known.items() if any("--library" in p.opts for p in command.params)}
    assert set(WITH_LIBRARY.split("|")) == takes
