"""vfindex ingest"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vfindex.cli.extras import require
from vfindex.cli.following import follow_folders
from vfindex.cli.options import (
    AddressOption,
    AudioOption,
    GpuShareOption,
    JsonOption,
    LibraryOption,
    PathMapOption,
    PresetOption,
    ProgressiveOption,
    RunnerOption,
    SpeechOption,
    TextOption,
    VisualOption,
    WorkersOption,
    cache_folder,
    library_folder,
    refuse_empty,
    runner_choice,
)
from vfindex.cli.run import finish, interrupt_reported, print_run, run_ingest
from vfindex.storage.errors import UsageError, VfindexError

NAME = "ingest"
EXAMPLE = "vfindex ingest ~/Videos --exclude 'raw/*'"


def command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", hidden=True)],
    preset: PresetOption = None,
    visual: VisualOption = None,
    text: TextOption = None,
    speech: SpeechOption = None,
    audio: AudioOption = None,
    sampling: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="auto, keyframes or a rate in fps.  [default: auto]"),
    ] = None,
    asr: Annotated[
        bool | None,
        typer.Option("--asr/--no-asr", help="Transcribe speech.  [default: as last time, or on]"),
    ] = None,
    ocr: Annotated[
        bool | None,
        typer.Option("--ocr/--no-ocr", help="Read text in frames.  [default: as last time, or on]"),
    ] = None,
    sounds: Annotated[
        bool | None,
        typer.Option("--sounds/--no-sounds", help="Embed sounds.  [default: as last time, or on]"),
    ] = None,
    workers: WorkersOption = None,
    compiled: Annotated[
        bool, typer.Option("--compile", hidden=True, help="Compile the image model first, which takes minutes.")
    ] = False,
    progressive: ProgressiveOption = False,
    runner: RunnerOption = "auto",
    ray_address: AddressOption = None,
    path_map: PathMapOption = None,
    gpu_share: GpuShareOption = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Skip matching names and paths; repeatable.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay, and index files as they arrive.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Index new and changed videos, named or in folders. After Ctrl-C the same command continues."""
    named = [os.fsencode(path) for path in paths]
    with interrupt_reported(json=json):
        require("index")
        if follow:
            require("follow")
        from vfindex.indexer.models.presets import Choice
        from vfindex.indexer.options import Sampling
        from vfindex.indexer.runs.execute import RunSettings

        refuse_empty(paths)
        settings = RunSettings(
            cache=cache_folder(),
            choice=Choice(preset, visual, text, speech, audio=audio),
            sampling=Sampling.parse(sampling) if sampling else None,
            asr=asr,
            ocr=ocr,
            sounds=sounds,
            workers=workers,
            compiled=compiled,
            exclude=tuple(exclude or ()),
            progressive=progressive,
            runner=runner_choice(runner, ray_address, path_map, gpu_share),
        )
        folder = library_folder(library)
        _refuse_addresses(paths)
        _refuse_missing(paths, folder)
        report = None if follow else run_ingest(folder, named, settings)
    if report is None:
        follow_folders(folder, named, settings, json=json)
        return
    print_run(report, json=json)
    finish(report, folder)


def _refuse_addresses(paths: list[str]) -> None:
    for path in paths:
        if "://" in path and not os.path.lexists(path):
            raise UsageError(f"{path} is an address; download the video, with yt-dlp for example, and name its file")


def _refuse_missing(paths: list[str], folder: Path) -> None:
    """Raise VfindexError before a library is made for paths none of which exists."""
    if not os.path.exists(folder) and not any(os.path.lexists(path) for path in paths):
        raise VfindexError(f"{paths[0]}: there is no such file or folder; check the spelling and the mount")
