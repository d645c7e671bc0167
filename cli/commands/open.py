"""vfindex open"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from shutil import which
from typing import Annotated, NoReturn

import typer

from vfindex.cli.last_search import SeenHit, recall
from vfindex.cli.members import MembersOption, asked_libraries
from vfindex.cli.options import frame_reader
from vfindex.cli.output import clock, plain, say
from vfindex.storage.errors import UsageError, VfindexError, VideoError, counted

NAME = "open"
EXAMPLE = "vfindex open 1"
# Player -> its arguments for a file from a time in seconds. The path is absolute, so that it is never an option.
_PLAYERS: Mapping[str, Callable[[str, float], list[str]]] = {
    "mpv": lambda path, start_s: [f"--start={start_s:.3f}", "--", path],
    "vlc": lambda path, start_s: [f"--start-time={start_s:.3f}", path],
}
# What opens a file with the desktop's program for it, from the beginning.
_OPENER = "open" if sys.platform == "darwin" else "xdg-open"


def command(
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The number of a hit of the last search.")],
    library: MembersOption = None,
) -> None:
    """Play a hit of the last search in mpv or VLC, from its moment.

    Without them, the desktop's own player begins at the start of the file. A hit of a server opens on its page.
    """
    folders, servers = asked_libraries(library)
    hit = _hit(number, recall([*folders, *(each.place for each in servers)]))
    if hit.page:
        _show_page(hit.page)
    path = os.path.abspath(hit.video)
    if not os.path.isfile(path):
        moved = "if it was moved, run: vfindex reindex, and search again"
        raise VfindexError(f"{path} is not there; mount its disk; {moved}")
    program, arguments = _player(path, max(0.0, hit.start_s - _begin_s(path)))
    if program not in _PLAYERS:
        say(f"the moment is at {clock(hit.start_s, tenths=True)}; install mpv or VLC to begin there")
    _start(program, arguments, "install mpv or VLC")


def _show_page(page: str) -> NoReturn:
    """Open the page of a hit in the browser, which the server asks for a token once. Raises VfindexError."""
    advice = f"open this page in a browser: {plain(page)}"
    if not page.startswith(("https://", "http://")) or not which(_OPENER):
        raise VfindexError(f"{_OPENER} is not there; {advice}")
    _start(_OPENER, [page], advice)


def _start(program: str, arguments: list[str], advice: str) -> NoReturn:
    """Become a program. Raises VfindexError with advice."""
    sys.stdout.flush()
    try:
        os.execvp(program, [program, *arguments])
    except OSError as exc:
        raise VfindexError(f"{program} cannot be started ({exc.strerror}); {advice}") from exc


def _hit(number: int, hits: list[SeenHit] | None) -> SeenHit:
    """Return a hit by its number. Raises UsageError."""
    if not hits:
        raise UsageError("no search has left hits to open; run vfindex search with the same --library first")
    for hit in hits:
        if hit.rank == number:
            return hit
    raise UsageError(f"the last search has no hit {number}; it has {counted(len(hits), 'hit')}")


def _player(path: str, start_s: float) -> tuple[str, list[str]]:
    """Return the first program of the search path that plays videos, and its arguments. Raises VfindexError."""
    for program, arguments in _PLAYERS.items():
        if which(program):
            return program, arguments(path, start_s)
    if which(_OPENER):
        return _OPENER, [path]
    raise VfindexError("there is no player: install mpv or VLC")


def _begin_s(path: str) -> float:
    """Return when a file begins, which players call 0; 0 where nothing here reads it."""
    with ExitStack() as opened:
        reader = frame_reader(opened)
        if reader is None:
            return 0.0
        try:
            return reader.read_facts(os.fsencode(path)).clock_s
        except VideoError as exc:
            say(f"its clock cannot be read ({exc.problem.reason}), so the moment may be missed by a second or so")
            return 0.0
