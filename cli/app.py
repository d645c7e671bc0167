"""The `vfindex` command: its subcommands, exit codes, and the one place where exceptions become messages.

Imports nothing heavy, so `vfindex --help` is instant.
"""

from __future__ import annotations

import errno
import gc
import io
import logging
import os
import sys
import traceback
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from vfindex import __version__
from vfindex.cli.as_typed import QuickGroup
from vfindex.cli.extras import missing_extra
from vfindex.cli.options import HELP_SETTINGS, add_command
from vfindex.cli.output import outliving_reader, print_json, say
from vfindex.cli.run import EXIT_BUG, EXIT_INTERRUPTED, interruption
from vfindex.storage.errors import QueryError, UsageError, VfindexError
from vfindex.storage.files.resources import lack

EXIT_FAILED, EXIT_USAGE = 1, 2
# Errors of a full disk, under a redirected output or in the temporary folder.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    name="vfindex",
    cls=QuickGroup,
    help="Index video libraries and find moments in them by describing them in words.",
    epilog='Example:  vfindex ingest ~/Videos  &&  vfindex search "dog running in park"',
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP_SETTINGS,
)
# The modules of `vfindex.cli.commands`, in the order of the help.
_COMMANDS = (
    *(
        "ingest",
        "reindex",
        "retry",
        "search",
        "similar",
        "unusual",
        "duplicates",
        "ask",
        "open",
        "serve",
        "mcp",
        "status",
    ),
    *(
        "list",
        "show",
        "label",
        "chapters",
        "digest",
        "mark",
        "marks",
        "save",
        "saved",
        "corrections",
        "export",
        "remove",
    ),
    *("purge", "verify", "repair", "rebuild", "questions", "backup", "upgrade", "eval", "tune", "demo", "doctor"),
    *("watch", "runs", "models", "spec"),
)


class _Deferred(TyperCommand):
    """A subcommand, or a group of them, whose module is imported when it is called, or when the help shows its line."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._name = name

    @property
    def _module(self) -> ModuleType:
        return import_module(f"vfindex.cli.commands.{self._name}")

    def get_short_help_str(self, limit: int = 45) -> str:
        module = self._module
        self.help = module.app.info.help if _is_group(module) else module.command.__doc__
        return super().get_short_help_str(limit)

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        return self._built().make_context(*arguments, **settings)

    def _built(self) -> Any:
        module = self._module
        if _is_group(module):
            return typer.main.get_group(module.app)
        alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
        add_command(alone, module.NAME, module.EXAMPLE)(module.command)
        return typer.main.get_command(alone)


def _is_group(module: ModuleType) -> bool:
    return hasattr(module, "app")


def command_line() -> TyperGroup:
    """Return the command line of all subcommands."""
    group = typer.main.get_group(app)
    for option in typer.main.get_install_completion_arguments():
        if isinstance(option, TyperOption):
            option.hidden = True  # in docs/cli.md: the first help fits one screen
        group.params.append(option)
    for name in _COMMANDS:
        group.add_command(_Deferred(name))
    return group


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vfindex {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand not in ("search", "reindex"):  # a reindex turns it on once it has its imports
        gc.enable()
    level = logging.DEBUG if os.environ.get("VFINDEX_DEBUG") else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def main() -> None:
    """Run the command line and exit: 0 success, 1 something failed, 2 wrong usage, 70 a bug, 130 interrupted."""
    # Without standard output or error (`>&-`), Python has None in their place.
    sys.stdout = outliving_reader(sys.stdout) if sys.stdout else open(os.devnull, "w")  # noqa: SIM115  open to the end
    sys.stderr = outliving_reader(sys.stderr) if sys.stderr else open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows escapes, not a traceback
    # A search allocates some 80,000 objects, mostly while importing, that live until the end. Garbage collection frees
    # none of them and took a quarter of the time. Commands that may run for hours turn it on again.
    gc.disable()
    code: int | str | None = EXIT_BUG
    try:
        code = _run()
    except KeyboardInterrupt:  # a second one, while the first was handled
        code = EXIT_INTERRUPTED
    finally:
        gc.freeze()  # else all objects are looked through, now and at the exit
        gc.enable()
        if code == EXIT_BUG and sys.exc_info()[0] is not None:
            traceback.print_exc()
            say("this is a bug of vfindex: please report it with the lines above")
        sys.exit(code)


def _run() -> int | str | None:
    try:
        code = _run_app()
        sys.stdout.flush()
    except (ImportError, MemoryError, OSError, RuntimeError) as exc:
        shortage = lack(exc)
        if shortage is not None:
            say(f"vfindex: {shortage}, and run the same command again")
            return EXIT_FAILED
        if not isinstance(exc, OSError) or exc.errno not in _NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = f"{exc.filename}: " if exc.filename else ""
        say(f"vfindex: {where}{exc.strerror}; make room on that disk and run the same command again")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _run_app() -> int | str | None:
    try:
        _check_working_folder()
        _call_app()
    except SystemExit as exc:
        if exc.code == EXIT_USAGE and _wants_json():
            _print_error("UsageError", "the command line is wrong; standard error says how")
        return exc.code
    except VfindexError as exc:
        if os.environ.get("VFINDEX_DEBUG"):
            traceback.print_exc()
        if _wants_json():
            _print_error(type(exc).__name__, str(exc), exc.position if isinstance(exc, QueryError) else None)
        say(f"vfindex: {exc}")
        return EXIT_USAGE if isinstance(exc, UsageError) else EXIT_FAILED
    return 0


def _call_app() -> None:
    """Run the command. Raises VfindexError for a missing extra, and for a file name that is too long for the system."""
    try:
        with interruption():
            command_line()(prog_name="vfindex")
    except ModuleNotFoundError as exc:
        sentence = missing_extra(exc)
        if sentence is None:
            raise
        raise VfindexError(sentence) from exc
    except OSError as exc:
        if exc.errno != errno.ENAMETOOLONG:
            raise
        raise VfindexError(f"{os.fsdecode(exc.filename)}: {exc.strerror}; use a shorter name") from exc


def _check_working_folder() -> None:
    """Raise VfindexError if the working folder was deleted, so that relative paths lead nowhere."""
    try:
        os.getcwd()
    except FileNotFoundError as exc:
        raise VfindexError("the working folder was deleted; change to another one") from exc


def _wants_json() -> bool:
    """Return whether --json was given; what follows "--" is not an option."""
    options = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    return "--json" in options


def _print_error(kind: str, message: str, position: int | None = None) -> None:
    place = {} if position is None else {"position": position}
    print_json({"error": {"kind": kind, "message": message, **place}})
