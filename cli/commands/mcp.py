"""vfindex mcp"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from vfindex.cli.extras import require
from vfindex.cli.options import LibrariesOption, frame_reader, library_folders, media_player
from vfindex.cli.out_file import check_new_file
from vfindex.cli.output import say

if TYPE_CHECKING:
    from vfindex.search.mcp.exports import ExportFolder

NAME = "mcp"
EXAMPLE = "vfindex mcp --print-config claude-code"
Client = Literal["claude-desktop", "claude-code", "cursor", "vscode", "codex", "gemini"]
# Where each client that no command sets up keeps its servers.
_PLACES = {
    "claude-desktop": "claude_desktop_config.json (Settings, Developer, Edit Config)",
    "cursor": "~/.cursor/mcp.json, or .cursor/mcp.json of a project",
    "vscode": ".vscode/mcp.json of a folder, or what 'MCP: Open User Configuration' opens",
    "gemini": "~/.gemini/settings.json, or .gemini/settings.json of a project",
}
# Clients that a command sets up, up to the server's name; --env and the server's own command line follow.
_COMMANDS = {
    "claude-code": ("claude", "mcp", "add", "--scope", "user", "vfindex"),
    "codex": ("codex", "mcp", "add", "vfindex"),
}
# What of this shell's environment the client's lacks.
_KEPT = ("VFINDEX_CACHE",)


def command(
    library: LibrariesOption = None,
    export_folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Let agents write clips into this folder; else they write nothing."),
    ] = None,
    print_config: Annotated[
        Client | None,
        typer.Option(metavar="CLIENT", help=f"Print what to tell a client, and exit: {', '.join(get_args(Client))}."),
    ] = None,
) -> None:
    """Offer the libraries to agents, on standard input and output.

    Speaks the Model Context Protocol (docs/mcp.md). A client starts it, and it ends with the client.
    """
    require("mcp")
    folders = library_folders(library)
    if export_folder is not None:
        export_folder = export_folder.expanduser().absolute()
        check_new_file(export_folder / NAME, "--export-folder", force=True)
    if print_config is not None:
        _print_config(print_config, folders, export_folder)
    else:
        _serve(folders, export_folder)


def _serve(folders: list[Path], export_folder: Path | None) -> None:
    import asyncio

    from vfindex.search.mcp.exports import ExportFolder
    from vfindex.search.mcp.server import ToolServer
    from vfindex.search.mcp.tools import tools_of
    from vfindex.search.service import SearchService

    target = None if export_folder is None else ExportFolder(export_folder)
    with ExitStack() as opened:
        player = None if target is None else media_player(opened)
        service = opened.enter_context(SearchService(folders, frame_reader(opened), player))
        service.use_gpus()
        service.check()  # before a client relies on it
        server = opened.enter_context(ToolServer(tools_of(service, target)))
        if sys.stdin.isatty():
            say("waiting for a client on standard input; to set one up: vfindex mcp --print-config CLIENT")
        # They end it at once: a thread waits for standard input, which Python would wait for.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _ending(target))
        asyncio.run(server.serve_stdio())


def _ending(target: ExportFolder | None) -> Callable[[int, object], None]:
    """Return what ends the process by a signal, without a part of a file left."""

    def end(number: int, _: object) -> None:
        if target is not None:
            target.discard()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return end


def _print_config(client: Client, folders: list[Path], export_folder: Path | None) -> None:
    line, environment = _command_line(folders, export_folder), _environment()
    say("run in a terminal:" if client in _COMMANDS else f"put into {_PLACES[client]}:")
    if client in _COMMANDS:
        given = [word for name, text in environment.items() for word in ("--env", f"{name}={text}")]
        print(shlex.join([*_COMMANDS[client], *given, "--", *line]))
        return
    server: dict[str, Any] = {"command": line[0], "args": line[1:]}
    if environment:
        server["env"] = environment
    if client == "vscode":
        server = {"type": "stdio", **server}
    print(json.dumps({"servers" if client == "vscode" else "mcpServers": {"vfindex": server}}, indent=2))


def _command_line(folders: list[Path], export_folder: Path | None) -> list[str]:
    """Return how to start this program from anywhere: clients know neither this shell's PATH nor its folder."""
    program = Path(sys.argv[0]).absolute()
    is_ours = program.name == "vfindex" and program.is_file()
    start = [str(program)] if is_ours else [sys.executable, "-c", "from vfindex.cli.entry import main; main()"]
    libraries = [word for folder in folders for word in ("--library", str(folder))]
    exports = [] if export_folder is None else ["--export-folder", str(export_folder)]
    return [*start, NAME, *libraries, *exports]


def _environment() -> dict[str, str]:
    return {name: str(Path(text).absolute()) for name in _KEPT if (text := os.environ.get(name))}
