"""Commands that a message suggests, completed with the library that the user named."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise

# The commands that take --library; of groups, with the command of the group.
WITH_LIBRARY = (
    "ingest|reindex|retry|search|similar|unusual|duplicates|ask|open|serve|mcp|status|list|show|label|chapters|digest|"
    "mark|marks|save|saved|corrections|export|remove|purge|verify|repair|rebuild|questions|backup|upgrade|eval|tune|demo|"
    "doctor|watch add|watch list|watch remove|watch run|runs list|runs show|runs|spec export|spec use"
)
# A command where a message suggests one: in backticks, after a colon or comma, `run`, `or` or `to`. Not one that names
# a library itself.
_COMMAND = re.compile(
    rf"(?:(?<=[:,] )|(?<=`)|(?<=\b(?:or|to) )|(?<=\brun ))vfindex (?:{WITH_LIBRARY})(?![\w-])"
    r"(?!(?:(?!vfindex )[^`;])*--library)"
)


def completed(text: str, arguments: Sequence[str]) -> str:
    """Return a message with the --library of a command line, in each suggested command that takes one.

    arguments: of the command line. If they name no library, several or one of a server, the text stays as it is.
    """
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    named = {value for option, value in pairwise(options) if option == "--library"}
    named.update(each.removeprefix("--library=") for each in options if each.startswith("--library="))
    if len(named) != 1 or "://" in (library := named.pop()):
        return text
    return _COMMAND.sub(lambda match: f"{match[0]} --library {shlex.quote(library)}", text)
