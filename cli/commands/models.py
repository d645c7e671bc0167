"""vfindex models list, pull, check"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.extras import require
from vfindex.cli.options import HELP_SETTINGS, JsonOption, PlainCommand, cache_folder
from vfindex.cli.output import plain, print_json, say
from vfindex.storage.errors import ModelError, UsageError
from vfindex.storage.records import ModelKind

if TYPE_CHECKING:
    from vfindex.indexer.models.catalog import Card
    from vfindex.indexer.models.hub import Fetching

NAME = "models"
EXAMPLE = "vfindex models pull base"
_WIDTH, _INDENT = 80, 14

app = typer.Typer(
    help="List, download and check models.",
    epilog=f"Example:  {EXAMPLE}",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP_SETTINGS,
)


@app.command("list", cls=PlainCommand, epilog="Example:  vfindex models list", context_settings=HELP_SETTINGS)
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


@app.command("pull", cls=PlainCommand, epilog=f"Example:  {EXAMPLE}", context_settings=HELP_SETTINGS)
def pull_models(
    names: Annotated[list[str], typer.Argument(metavar="PRESET|MODEL", help="Presets, or models by name.")],
    timeout: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Stop after this long without data.  [default: 60]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Download models. No other command uses the network.

    An interrupted download continues where it stopped.
    """
    require("index")
    from vfindex.indexer.models.hub import TIMEOUT_S, pull

    cache, rows = cache_folder(), []
    cards = [card for card in _named(names) if not card.package]
    with _progress() as tell:
        for card in cards:
            model, fetched = pull(card, cache, timeout_s=timeout or TIMEOUT_S, tell=tell)
            rows.append({"model": card.reference, "folder": str(model.folder), "sha256": model.sha256, "new": fetched})
            if not json:
                print(plain(f"{'fetched' if fetched else 'here'}: {card.reference} in {model.folder}"))
    if json:
        print_json({"models": rows})
    elif not cards:
        print("nothing to fetch: these models come inside packages")


@app.command("check", cls=PlainCommand, epilog="Example:  vfindex models check", context_settings=HELP_SETTINGS)
def check_models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="PRESET|MODEL", help="Presets or models.  [default: all installed]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare the files of models with their sha256."""
    from vfindex.indexer.models.store import is_cached, known_models

    cache = cache_folder()
    if names:
        cards = _named(names)
    else:
        cards = [card for card in known_models(cache) if is_cached({card.kind: card.reference}, cache) or _begun(card)]
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


def _begun(card: Card) -> bool:
    """Return whether a folder of the model is there, however little it holds."""
    from vfindex.indexer.models.store import folder_of

    return not card.package and folder_of(card, cache_folder()).is_dir()


def _problem(card: Card, cache: Path) -> str | None:
    from vfindex.indexer.models.store import check, check_embedded

    try:
        if card.package:
            check_embedded(card)
        else:
            check(card.kind, card.reference, cache)
    except ModelError as exc:
        return str(exc)
    return None


def _named(names: list[str]) -> list[Card]:
    """Return the cards of presets and models, each once. Raises UsageError for a name that is neither."""
    from vfindex.indexer.models.catalog import find_card, kind_of
    from vfindex.indexer.models.presets import PRESETS

    cards: dict[str, Card] = {}
    for name in names:
        for preset in PRESETS.values():
            if preset.name == name:
                of_preset: dict[ModelKind, str] = {
                    "visual": preset.visual,
                    "text": preset.text,
                    "speech": preset.speech,
                }
                cards |= {reference: find_card(kind, reference) for kind, reference in of_preset.items()}
        if name not in PRESETS:
            try:
                cards[name] = find_card(kind_of(name), name)
            except UsageError as exc:
                raise UsageError(f"{exc}; presets are: {', '.join(PRESETS)}") from exc
    return list(cards.values())


def _model(card: Card, cache: Path) -> dict[str, Any]:
    from vfindex.indexer.models.presets import PRESETS
    from vfindex.indexer.models.store import is_cached, read_manifest

    kept = None if card.package else read_manifest(card, cache)
    on_disk = sum(facts.bytes for facts in kept.files.values()) if kept else None
    return {
        "model": card.reference,
        "kind": card.kind,
        "presets": [p.name for p in PRESETS.values() if card.reference in (p.visual, p.text, p.speech)],
        "here": is_cached({card.kind: card.reference}, cache),
        "embedded": bool(card.package),
        "size_bytes": on_disk or card.size_bytes,
        "dim": card.dim,
        "input_size": card.input_size,
        "gflop_per_frame": card.gflop,
        "licence": card.licence,
        "repository": (kept.repository if kept else "") or card.repository or None,
        "revision": (kept.revision if kept else None) or card.revision,
    }


def _presets(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from vfindex.indexer.models.presets import PRESETS

    by_name = {row["model"]: row for row in models}
    rows = []
    for preset in PRESETS.values():
        of_preset = [by_name[reference] for reference in (preset.visual, preset.text, preset.speech)]
        rows.append(
            {
                "preset": preset.name,
                "visual": preset.visual,
                "text": preset.text,
                "speech": preset.speech,
                "here": all(row["here"] for row in of_preset),
                "pull_bytes": sum(row["size_bytes"] for row in of_preset if not row["embedded"]),
                "gflop_per_frame": by_name[preset.visual]["gflop_per_frame"],
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
        cost = f"{_size(row['pull_bytes'])} to pull" if row["pull_bytes"] else "nothing to pull"
        here = "all here" if row["here"] else "not all here"
        print(f"{row['preset']:{_INDENT}}{cost}, {row['gflop_per_frame']:.1f} GFLOP a frame, {here}")
        names = ", ".join((row["visual"], row["text"], row["speech"]))
        print(textwrap.indent(textwrap.fill(names, _WIDTH - _INDENT, break_on_hyphens=False), " " * _INDENT))
    print(f"\nfolder: {plain(document['folder'])}")


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return ""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


@contextmanager
def _progress() -> Iterator[Callable[[Fetching], None]]:
    """Yield a callback that draws bytes, rate and time left on a terminal, and says each file where none looks on."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        drawn = ""

        def tell(fetching: Fetching) -> None:
            nonlocal drawn
            if fetching.reference != drawn:
                drawn = fetching.reference
                bar.reset(task, description=plain(drawn), total=fetching.total_bytes)
            bar.update(task, completed=fetching.done_bytes, total=fetching.total_bytes)

        yield tell


def _lines() -> Callable[[Fetching], None]:
    said = ("", "")

    def tell(fetching: Fetching) -> None:
        nonlocal said
        now = (fetching.reference, fetching.file)
        if fetching.file and now != said:
            said = now
            size = f" ({_size(fetching.total_bytes)} in all)" if fetching.total_bytes else ""
            say(f"fetching {fetching.reference}: {fetching.file}{size}")

    return tell
