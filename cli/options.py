"""Options that several commands share, each described once, and how their help is laid out."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperArgument

from vfindex.cli.as_typed import QuickCommand
from vfindex.cli.extras import EXTRAS, require
from vfindex.cli.output import say
from vfindex.storage.errors import LibraryError, ModelError, UsageError
from vfindex.storage.files.regular import regular_no_link

if TYPE_CHECKING:
    from vfindex.indexer.runners.base import RunnerChoice
    from vfindex.search.engine import SearchEngine
    from vfindex.search.playback import Player
    from vfindex.search.stills import FrameReader

_OR_HOME = "and one for models with VFINDEX_CACHE, or set HOME to a folder that you may write to"
_NAME_CACHE = "name a folder with VFINDEX_CACHE, or set HOME to one that you may write to"
_MAX_SECRETS = 10_000
# Names the key of the endpoint that phrases answers of `ask`.
LLM_KEY = "VFINDEX_LLM_KEY"
# Metavars of options whose values name files.
_FILES = ("FILE", "DIR")
# What may be a word or a file: -cars, -kite.
_DASHED = re.compile(r"-[^\W\d_]\w")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WRONG_USAGE: type[Any] = typer.BadParameter.__mro__[1]  # also of unknown options; Typer has no name for it
HELP_SETTINGS = {"help_option_names": ["-h", "--help"]}
Command = TypeVar("Command", bound=Callable[..., Any])


class PlainCommand(QuickCommand):
    """A command whose help names arguments by their metavar alone, without Typer's `{PATH}` and Python types.

    Words and files that are taken for options, as `-cars`, are told where they belong, and numbers their range. A
    second file is refused where one is taken.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        dashed = [arg for arg in args if _DASHED.match(arg)]  # parsing empties the list
        try:
            _, _, given = self.make_parser(ctx).parse_args(list(args))
            if not ctx.resilient_parsing:
                _refuse_twice(given)
            return super().parse_args(ctx, args)
        except _WRONG_USAGE as exc:
            exc.message = _range_of(getattr(exc, "param", None)) or exc.message
            if dashed and any(isinstance(param, TyperArgument) for param in self.params):
                exc.message += f"; if {dashed[0]} is no option, put it last, after --"
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for param in self.params:
            if isinstance(param, TyperArgument):
                param.display_type_rich = lambda ctx: None  # type: ignore[method-assign]  # Typer has no option for it
        super().format_options(ctx, formatter)


def add_command(app: typer.Typer, name: str, example: str) -> Callable[[Command], Command]:
    """Return a decorator that adds a command whose help ends in an example."""
    return app.command(name, cls=PlainCommand, epilog=f"Example:  {example}", context_settings=HELP_SETTINGS)


def command_group(help_: str, example: str, *, bare: bool = False) -> typer.Typer:
    """Return a group of commands. bare: without a command it does something itself, not show its help."""
    return typer.Typer(
        help=help_,
        epilog=f"Example:  {example}",
        no_args_is_help=not bare,
        invoke_without_command=bare,
        rich_markup_mode=None,
        context_settings=HELP_SETTINGS,
    )


def _refuse_twice(given: Sequence[Any]) -> None:
    """Raise UsageError for a second file or folder where one is taken: the first would not be written, or not read.

    Of other values the last one counts, so that a shell's alias can hold some.
    """
    for param in given:
        if param.metavar in _FILES and not param.multiple and given.count(param) > 1:
            what = "library" if param.name == "library" else "file" if param.metavar == "FILE" else "folder"
            raise UsageError(f"give {max(param.opts, key=len)} once; this command takes one {what}")


def _range_of(param: Any) -> str | None:
    """Return which numbers an option with a range takes, None for other parameters; Typer's words are a validator's."""
    least, most = getattr(param, "min", None), getattr(param, "max", None)
    if least is None:
        return None
    kind = "a whole number" if param.type_descriptor.annotation is int else "a number"
    return f"give {kind} of at least {least}" if most is None else f"give {kind} from {least} to {most}"


def _folder(text: str) -> Path:
    """Return the folder; `--library "$UNSET"` arrives as "", which Path takes for the working folder."""
    if not text:
        raise typer.BadParameter("it is empty; name a folder")
    if is_address(text):
        raise typer.BadParameter(
            "it is the address of a server, which only search and open take; name a folder, or run this command there"
        )
    return Path(text)


def is_address(text: str) -> bool:
    """Return whether a text is meant as the address of a server, not as a folder."""
    return _ADDRESS.match(text) is not None


def existing_folder(text: str) -> Path:
    """Return the folder if there is one; for arguments."""
    folder = _folder(text)
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder")
    return folder


LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        parser=_folder,
        metavar="DIR",
        envvar="VFINDEX_LIBRARY",
        show_envvar=True,
        help="The library's folder.  [default: in the user's data folder]",
    ),
]
# No `envvar`: Typer would split the value at spaces. `library_folders` reads it.
LibrariesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--library",
        parser=_folder,
        metavar="DIR",
        help="The library's folder; repeatable.  [env var: VFINDEX_LIBRARY]",
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Models: lite, lite-multilingual, small, base, large, multilingual.  [default: base if here, else lite]",
    ),
]
VisualOption = Annotated[str | None, typer.Option(metavar="MODEL", help="Image model: NAME:TAG or local-dir:PATH.")]
TextOption = Annotated[str | None, typer.Option(metavar="MODEL", help="Text model: NAME or local-dir:PATH.")]
SpeechOption = Annotated[str | None, typer.Option(metavar="MODEL", help="Speech model: NAME or local-dir:PATH.")]
AudioOption = Annotated[str | None, typer.Option(metavar="MODEL", help="Model of sounds: NAME or local-dir:PATH.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Videos in parallel.  [default: cores + 1]")
]
RunnerOption = Annotated[str, typer.Option(metavar="NAME", help="Run on: auto, local or ray.")]
AddressOption = Annotated[
    str | None,
    typer.Option(metavar="ADDR", envvar="VFINDEX_RAY_ADDRESS", show_envvar=True, help="Ray cluster."),
]
PathMapOption = Annotated[
    list[str] | None,
    typer.Option(metavar="A=B", help="Folder A is B on the workers; repeatable."),
]
# Described in docs/cluster.md alone: help fits one screen, and few need it.
GpuShareOption = Annotated[
    float | None, typer.Option(metavar="F", hidden=True, help="Share of a GPU for each Ray worker.")
]
ProgressiveOption = Annotated[
    bool, typer.Option("--progressive", help="Index a quick preview of all new videos first.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be removed, and change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Check every place afterwards and write the result as JSON."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def library_folder(chosen: Path | None) -> Path:
    """Return the library's folder, by default in the user's data folder. Raises LibraryError, UsageError."""
    if chosen is not None:
        try:
            return chosen.expanduser().absolute()
        except RuntimeError as exc:
            raise UsageError(f"{chosen}: there is no such home folder; give the full path") from exc
    base = _platform_folder("user_data_dir")
    if base is None or not _is_usable(base / "library"):
        where = f" in {base / 'library'}, nor can one be made there" if base else ""
        raise LibraryError(f"there is no library{where} ({_no_home()}); name a folder with --library DIR, {_OR_HOME}")
    return base / "library"


def library_folders(chosen: list[Path] | None) -> list[Path]:
    """Return the folders of one library or more, each once. Raises LibraryError, UsageError."""
    if not chosen:
        named = os.environ.get("VFINDEX_LIBRARY")
        return [library_folder(_folder(named) if named else None)]
    folders = [library_folder(each) for each in chosen]
    return list({os.path.realpath(folder): folder for folder in folders}.values())


def data_folder() -> Path:
    """Return this user's data folder. Raises UsageError if there is none."""
    base = _platform_folder("user_data_dir")
    if base is None or not _is_usable(base):
        raise UsageError(f"there is no folder for this user's data ({_no_home()}); set HOME to one that you may write")
    return base


def own_text(path: Path, advice: str) -> str:
    """Return the text of a file of secrets. Raises UsageError, with advice, if other users may read it."""
    try:
        with open(path, "rb", opener=regular_no_link) as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise UsageError(f"other users may read {path} (its mode must be 600); {advice}")
            return file.read(_MAX_SECRETS).decode("utf-8", "replace")
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}; {advice}") from exc


def state_folder() -> Path | None:
    """Return where this user's programs keep what they did last, None without a home that can be written."""
    base = _platform_folder("user_state_dir")
    return base if base is not None and _is_usable(base) else None


def _platform_folder(kind: str) -> Path | None:
    """Return a folder of platformdirs for this program, None if the home folder is unknown."""
    import platformdirs

    try:
        folder = Path(getattr(platformdirs, kind)("vfindex", appauthor=False))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def _is_usable(folder: Path) -> bool:
    """Return whether a folder exists or can be created."""
    near = next(place for place in (folder, *folder.parents) if os.path.lexists(place) or place == place.parent)
    return near == folder or (near.is_dir() and os.access(near, os.W_OK | os.X_OK))


def _no_home() -> str:
    """Return why the user's home cannot be used, as a clause."""
    home = os.environ.get("HOME")
    return f"HOME is {home}, which cannot be written" if home else "HOME is not set"


def runner_choice(name: str, address: str | None, path_map: list[str] | None, gpu_share: float | None) -> RunnerChoice:
    """Return the runner that the options choose. Raises UsageError, VfindexError if Ray is not installed."""
    from vfindex.indexer.runners.base import PathMap, RunnerChoice, runner_name

    if name == "ray" or address:
        require("ray")
    share = 1.0 if gpu_share is None else gpu_share
    return RunnerChoice(runner_name(name), address or None, PathMap.parse(path_map or ()), share)


def frame_reader(opened: ExitStack) -> FrameReader | None:
    """Return a reader of video files, closed with `opened`; None where the extra `index` is not installed."""
    if EXTRAS["index"].missing():
        return None
    from vfindex.indexer.stills import FrameDecoder

    return opened.enter_context(FrameDecoder())


def media_player(opened: ExitStack) -> Player | None:
    """Return a player of video files, closed with `opened`; None where the extra `index` is not installed."""
    if EXTRAS["index"].missing():
        return None
    from vfindex.indexer.playback.player import MediaPlayer

    return opened.enter_context(MediaPlayer())


def give_image_encoder(engine: SearchEngine) -> None:
    """Make sure that a library has its image encoder. Raises VfindexError without the extra `index`, ModelError."""
    if engine.pictures.are_readable:
        return
    require("index")
    from vfindex.indexer.models.factory import LibraryModels

    folder = LibraryModels(engine.setup, cache_folder(), say=say).image_folder()
    if folder is not None:
        engine.pictures.take(folder)


def refuse_empty(paths: Iterable[str]) -> None:
    """Raise UsageError for an empty path, which the system takes for the working folder."""
    if not all(paths):
        raise UsageError("a path is empty; name a file or a folder, or . for the working folder")


def known_as(path: str) -> list[bytes]:
    """Return the absolute paths under which a library may know `path`, the likeliest first.

    Runs resolve links in the paths that they are given; a deleted file has only its path as typed.
    """
    refuse_empty([path])
    typed = os.fsencode(path)
    return list(dict.fromkeys((os.path.realpath(typed), os.path.abspath(typed))))


def cache_folder() -> Path:
    """Return the folder of exported models: VFINDEX_CACHE, else the user's cache folder.

    Without a writable home, a private folder of this user in the temporary folder. Raises ModelError.
    """
    if chosen := os.environ.get("VFINDEX_CACHE"):
        return Path(chosen).absolute()
    base = _platform_folder("user_cache_dir")
    return base if base is not None and _is_usable(base) else _temporary_cache()


def _temporary_cache() -> Path:
    """Return a temporary folder that only this user can write to. Raises ModelError."""
    import tempfile

    try:
        folder = Path(tempfile.gettempdir()) / f"vfindex-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as exc:
        raise ModelError(f"there is no folder for models ({_no_home()}, {exc.strerror}); {_NAME_CACHE}") from exc
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ModelError(f"{folder} is not this user's own, and {_no_home()}; {_NAME_CACHE}")
    return folder
