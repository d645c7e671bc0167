"""vfindex models list, pull, add, check"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.extras import require
from vfindex.cli.options import JsonOption, add_command, cache_folder, command_group, existing_folder
from vfindex.cli.output import plain, print_json, say
from vfindex.storage.errors import ModelError, UsageError

if TYPE_CHECKING:
    from vfindex.indexer.models.catalog import Card, PackageFile
    from vfindex.indexer.models.hub import Progress

NAME = "models"
EXAMPLE = "vfindex models pull base"
_WIDTH, _INDENT = 80, 19

app = command_group("List, download, add and check models.", EXAMPLE)


@add_command(app, "list", "vfindex models list")
def list_models(json: JsonOption = False) -> None:
    """List all models, their cost, and which are installed.

    GFLOP: per frame; a multiplication and an addition count as two.
    """
    from vfindex.indexer.models.store import known_models

    cache = cache_folder()
    models = [_model(card, cache) for card in known_models(cache)]
    document = {"folder": str(cache / "models"), "models": models, "presets": _presets(models)}
    if json:
        print_json(document)
    else:
        _print(document)


@add_command(app, "pull", EXAMPLE)
def pull_models(
    names: Annotated[list[str], typer.Argument(metavar="PRESET|MODEL", help="Presets, or models by name.")],
    timeout: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Stop after this long without data.  [default: 60]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Download models. No other command downloads anything.

    An interrupted download continues where it stopped.
    """
    require("index")
    from vfindex.indexer.models.export.packaged import ensure_model
    from vfindex.indexer.models.hub import TIMEOUT_S, pull

    cache, rows = cache_folder(), []
    named = _named(names)
    cards = [card for card in named if not _is_embedded(card, cache)]
    for card in named:
        if card not in cards and _has_folder(card, cache):
            ensure_model(card, cache, hashed=True, say=say)  # made of packages, and damaged since
    with _progress() as progress:
        for card in cards:
            model, downloaded = pull(card, cache, timeout_s=timeout or TIMEOUT_S, progress=progress)
            facts = {"folder": str(model.folder), "sha256": model.sha256, "new": downloaded}
            rows.append({"model": card.reference, **facts})
            if not json:
                print(plain(f"{'downloaded' if downloaded else 'present'}: {card.reference} in {model.folder}"))
    if json:
        print_json({"models": rows})
    elif not cards:
        print("nothing to download: these models are part of installed packages")


@add_command(app, "add", "vfindex models add ~/lite-weights")
def add_models(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", parser=existing_folder, help="A folder that contains the files.")
    ],
    json: JsonOption = False,
) -> None:
    """Add the weights of the lite preset from a folder.

    For machines that cannot install their packages. The files are recognised by their sha256.
    """
    from vfindex.indexer.models.catalog import PACKAGE_FILES
    from vfindex.indexer.models.packages import add_package_files

    added = add_package_files(folder, cache_folder())
    missing = [file for file in PACKAGE_FILES if file not in added]
    if json:
        print_json({"added": list(map(_package_file, added)), "missing": list(map(_package_file, missing))})
        return
    for file in added:
        print(plain(f"added: {file.path} of {file.package}"))
    for file in missing:
        say(plain(f"not in {folder}: {file.path} of {file.package}"))


def _package_file(file: PackageFile) -> dict[str, str]:
    return {"file": file.path, "package": file.package, "sha256": file.sha256}


@add_command(app, "check", "vfindex models check")
def check_models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="PRESET|MODEL", help="Presets or models.  [default: all installed]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare model files with their recorded sha256."""
    from vfindex.indexer.models.store import is_present, known_models

    cache = cache_folder()
    if names:
        cards = _named(names)
    else:
        cards = [card for card in known_models(cache) if is_present(card, cache) or _has_folder(card, cache)]
    rows = [{"model": card.reference, "kind": card.kind, "problem": _problem(card, cache)} for card in cards]
    problems = [row["problem"] for row in rows if row["problem"]]
    if json:
        print_json({"clean": not problems, "models": rows})
    else:
        for problem in problems:
            say(f"problem: {problem}")
        print(f"{'NOT clean' if problems else 'clean'}: {', '.join(str(row['model']) for row in rows)}")
    if problems:
        raise typer.Exit(1)


def _is_embedded(card: Card, cache: Path) -> bool:
    """Return whether a model needs no download: its only source is a package, or packages here contain it."""
    from vfindex.indexer.models.packages import are_here

    return bool(card.package) or (bool(card.packaged) and are_here(card.pinned_files, cache))


def _has_folder(card: Card, cache: Path) -> bool:
    from vfindex.indexer.models.store import folder_of

    return not card.package and folder_of(card, cache).is_dir()


def _problem(card: Card, cache: Path) -> str | None:
    from vfindex.indexer.models.packages import check_embedded
    from vfindex.indexer.models.store import check

    try:
        if card.package or (card.packaged and not _has_folder(card, cache)):
            check_embedded(card, cache)
        else:
            check(card.kind, card.reference, cache)
    except ModelError as exc:
        return str(exc)
    return None


def _named(names: list[str]) -> list[Card]:
    """Return the cards of presets and models, each once. Raises UsageError for a name that is neither."""
    from vfindex.indexer.models.catalog import find_card, kind_of
    from vfindex.indexer.models.presets import PRESETS

    presets = {str(name): preset for name, preset in PRESETS.items()}
    cards: dict[str, Card] = {}
    for name in names:
        if name in presets:
            cards |= {reference: find_card(kind, reference) for kind, reference in presets[name].models.items()}
            continue
        try:
            cards[name] = find_card(kind_of(name), name)
        except UsageError as exc:
            raise UsageError(f"{exc}; presets are: {', '.join(presets)}") from exc
    return list(cards.values())


def _model(card: Card, cache: Path) -> dict[str, Any]:
    from vfindex.indexer.models.presets import PRESETS
    from vfindex.indexer.models.store import is_present, read_manifest

    manifest = None if card.package else read_manifest(card, cache)
    on_disk = sum(facts.bytes for facts in manifest.files.values()) if manifest else None
    return {
        "model": card.reference,
        "kind": card.kind,
        "presets": [name for name, preset in PRESETS.items() if card.reference in preset.models.values()],
        "here": is_present(card, cache),
        "embedded": _is_embedded(card, cache),
        "size_bytes": on_disk or card.size_bytes,
        "dim": card.dim,
        "input_size": card.input_size,
        "gflop_per_frame": card.gflop,
        "licence": card.licence,
        "repository": (manifest.repository if manifest else "") or card.repository or None,
        "revision": (manifest.revision if manifest else None) or card.revision,
    }


def _presets(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from vfindex.indexer.models.presets import PRESETS

    by_name = {row["model"]: row for row in models}
    rows = []
    for preset in PRESETS.values():
        own = [by_name[reference] for reference in preset.models.values()]
        rows.append(
            {
                "preset": preset.name,
                **{str(kind): reference for kind, reference in preset.models.items()},
                "here": all(row["here"] for row in own),
                "pull_bytes": sum(row["size_bytes"] for row in own if not row["embedded"]),
                "gflop_per_frame": by_name[preset.models["visual"]]["gflop_per_frame"],
            }
        )
    return rows


def _print(document: dict[str, Any]) -> None:
    print(f"{'':39}{'size':>7}{'dim':>6}{'GFLOP':>7}  {'licence':13}{'here':>4}")
    for row in document["models"]:
        name, size = plain(f"{row['kind']:7}{row['model']}"), _size(row["size_bytes"])
        gflop = "" if row["gflop_per_frame"] is None else f"{row['gflop_per_frame']:.1f}"
        here = "yes" if row["here"] else "no"
        print(f"{name:39}{size:>7}{row['dim'] or '':>6}{gflop:>7}  {row['licence'] or 'see its page':13}{here:>4}")
    print()
    for row in document["presets"]:
        cost = f"{_size(row['pull_bytes'])} to pull" if row["pull_bytes"] else "no download"
        here = "all here" if row["here"] else "not all here"
        print(f"{row['preset']:{_INDENT}}{cost}, {row['gflop_per_frame']:.1f} GFLOP per frame, {here}")
        names = ", ".join((row["visual"], row["text"], row["speech"]))
        print(textwrap.indent(textwrap.fill(names, _WIDTH - _INDENT, break_on_hyphens=False), " " * _INDENT))
    print(f"\nfolder: {plain(document['folder'])}")


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return ""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Yield a callback that draws a progress bar on a terminal, and elsewhere prints a line per file."""
    if not sys.stderr.isatty():
        yield _printer()
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=None),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        drawn = ""

        def draw(progress: Progress) -> None:
            nonlocal drawn
            if progress.reference != drawn:
                drawn = progress.reference
                bar.reset(task, description=plain(drawn), total=progress.total_bytes)
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes)

        yield draw


def _printer() -> Callable[[Progress], None]:
    printed = ("", "")

    def print_file(progress: Progress) -> None:
        nonlocal printed
        current = (progress.reference, progress.file)
        if progress.file and current != printed:
            printed = current
            size = f" ({_size(progress.total_bytes)} in all)" if progress.total_bytes else ""
            say(f"downloading {progress.reference}: {progress.file}{size}")

    return print_file
