"""The libraries of a question: folders on this machine, and addresses of servers with their tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import data_folder, is_address, library_folder, library_folders, own_text
from vfindex.cli.output import path_text, plain
from vfindex.storage.errors import UsageError

if TYPE_CHECKING:
    from vfindex.search.remote.member import RemoteLibrary
    from vfindex.search.results import Hit, Place

TOKENS = "VFINDEX_LIBRARY_TOKENS"
_FILE = "library-tokens"
# No `envvar`: Typer would split the value at spaces. `asked_libraries` reads it.
MembersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--library",
        metavar="DIR",
        help="The library's folder, or https://HOST of a server; repeatable.  [env var: VFINDEX_LIBRARY]",
    ),
]


def asked_libraries(chosen: list[str] | None) -> tuple[list[Path], list[RemoteLibrary]]:
    """Return the folders and the servers of a question, each once. Raises LibraryError, UsageError."""
    named = os.environ.get("VFINDEX_LIBRARY")
    given = chosen or ([named] if named else [])
    if not all(given):
        raise UsageError("--library is empty; name a folder, or the address of a server")
    addresses = [each for each in given if is_address(each)]
    folders = [library_folder(Path(each)) for each in given if not is_address(each)]
    if not addresses:
        return library_folders(folders or None), []
    return list({os.path.realpath(each): each for each in folders}.values()), _servers(addresses)


def _servers(texts: list[str]) -> list[RemoteLibrary]:
    from vfindex.search.remote.address import Address
    from vfindex.search.remote.member import RemoteLibrary

    tokens = library_tokens()
    addresses = dict.fromkeys(map(Address.parse, texts))
    return [RemoteLibrary(each, tokens.get(each.origin)) for each in addresses]


def library_tokens() -> Mapping[str, str]:
    """Return origin -> token, of VFINDEX_LIBRARY_TOKENS before those of this user's file. Raises UsageError."""
    from vfindex.search.remote.address import parse_tokens

    kept: Mapping[str, str] = {}
    try:
        path = data_folder() / _FILE
    except UsageError:  # a user without a home has no file
        path = None
    if path is not None and os.path.lexists(path):
        kept = parse_tokens(own_text(path, f"run: chmod 600 {path}"), str(path))
    return {**kept, **parse_tokens(os.environ.get(TOKENS, ""), TOKENS)}


def place_text(found: Hit | Place) -> str:
    """Return the path of a hit, of one on another machine after its name, as scp writes it; safe for a terminal."""
    path = plain(path_text(found.video) or "?")
    return path if isinstance(found.library, Path) else f"{plain(found.library.partition('://')[2])}:{path}"


def page_of(hit: Hit) -> str | None:
    """Return the address of the page that plays a hit of a library on another machine, None for one on this."""
    if isinstance(hit.library, Path):
        return None
    from urllib.parse import quote

    times = f"t={hit.start_s:.3f}&end={hit.end_s:.3f}"
    return f"{hit.library}/videos/{quote(hit.key.fingerprint, safe='')}?clip={hit.key.start_ms}&{times}"
