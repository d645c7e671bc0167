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


def test_a_second_file_is_refused_where_one_is_taken(run: Any) -> None:
    refused = set()
    for words, param in options():
        name = max(param.opts, key=len)
        if param.metavar in ("FILE", "DIR") and not param.multiple:
            ran = run(*words, f"{name}=1", min(param.opts, key=len), "1")
            assert ran.code == 2 and ran.err.startswith(f"vfindex: give {name} once; "), (words, name, ran.err)
            refused.add(name)
    assert refused >= {"--output", "--csv", "--classes", "--library"}


def test_of_other_values_the_last_counts(run: Any) -> None:
    ran = run("search", "words", "--json", "--json", "--top-k", "0", "--top-k", "3", "--library", "/nowhere")
    assert (ran.code, "no library" in ran.err) == (1, True)
