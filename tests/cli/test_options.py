"""The option layer: what each option of each command refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperOption

from vfindex.cli.app import command_line


def options() -> Iterator[tuple[list[str], TyperOption]]:
    """Yield each option of each command, with the words that lead to the command."""
    for name, command in command_line().commands.items():
        built = command._built()  # type: ignore[attr-defined]
        subcommands = getattr(built, "commands", {})
        for words, each in [([name, sub], each) for sub, each in subcommands.items()] or [([name], built)]:
            yield from ((words, param) for param in each.params if isinstance(param, TyperOption))


def test_an_option_with_one_value_is_refused_twice(run: Any) -> None:
    refused = 0
    for words, param in options():
        name = max(param.opts, key=len)
        if param.multiple or (param.is_flag and not param.secondary_opts):
            continue
        given = [name, param.secondary_opts[0]] if param.is_flag else [f"{name}=1", min(param.opts, key=len), "1"]
        ran = run(*words, *given)
        assert ran.code == 2 and ran.err.startswith(f"vfindex: give {name} "), (words, given, ran.err)
        refused += 1
    assert refused > 100


def test_a_switch_may_be_repeated(run: Any) -> None:
    ran = run("search", "words", "--json", "--json", "--library", "/nowhere")
    assert (ran.code, "no library" in ran.err) == (1, True)
