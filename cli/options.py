"""Options that several commands share; each is described once, here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vfindex.indexer.runner import RunnerChoice

HELP_SETTINGS = {"help_option_names": ["-h", "--help"]}


def _folder(text: str) -> Path:
    """Return the folder named; `--library "$UNSET"` arrives as "", which a Path takes for the folder one stands in."""
    if not text:
        raise typer.BadParameter("it is empty; name a folder")
    return Path(text)


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
PresetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Models: lite, small, base, large, multilingual.  [default: base if here, or lite]"
    ),
]
VisualOption = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Model of pictures: NAME:TAG or local-dir:PATH.")
]
TextOption = Annotated[str | None, typer.Option(metavar="MODEL", help="Model of texts: NAME or local-dir:PATH.")]
SpeechOption = Annotated[str | None, typer.Option(metavar="MODEL", help="Model of speech: NAME or local-dir:PATH.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Videos read at once.  [default: cores + 1]")
]
RunnerOption = Annotated[str, typer.Option(metavar="NAME", help="Who works: auto, local or ray.")]
AddressOption = Annotated[
    str | None,
    typer.Option(metavar="ADDR", envvar="VFINDEX_RAY_ADDRESS", show_envvar=True, help="A Ray cluster to use."),
]
PathMapOption = Annotated[
    list[str] | None,
    typer.Option(metavar="A=B", help="Its machines find folder A at B; may be given again."),
]
# Told of in docs/cluster.md alone: help fits one screen, and few need it.
GpuShareOption = Annotated[
    float | None, typer.Option(metavar="F", hidden=True, help="Of a GPU, for each of Ray's workers that needs one.")
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write what was looked at, and what is left there, as JSON."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def library_folder(chosen: Path | None) -> Path:
    """Return the library's folder, the platform's place for data if none was chosen."""
    if chosen is not None:
        return chosen.expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("vfindex", appauthor=False)) / "library"


def runner_choice(name: str, address: str | None, path_map: list[str] | None, gpu_share: float | None) -> RunnerChoice:
    """Return who does the work. Raises UsageError."""
    from vfindex.indexer.runner import GPU_SHARE, PathMap, RunnerChoice, runner_name

    share = GPU_SHARE if gpu_share is None else gpu_share
    return RunnerChoice(runner_name(name), address or None, PathMap.parse(path_map or ()), share)


def known_as(path: str) -> list[bytes]:
    """Return the absolute paths under which a library may know what the user calls `path`, the likeliest first.

    Runs resolve the links that they are given by name; a file that is gone has only the path as it stood.
    """
    typed = os.fsencode(path)
    return list(dict.fromkeys((os.path.realpath(typed), os.path.abspath(typed))))


def cache_folder() -> Path:
    """Return where exported models are kept: the platform's place for what can be made again."""
    import platformdirs

    return Path(os.environ.get("VFINDEX_CACHE") or platformdirs.user_cache_dir("vfindex", appauthor=False))
