"""vfindex label"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.out_file import ForceOption, check_new_file, out_file
from vfindex.cli.output import path_text, plain, print_json, say
from vfindex.cli.render.progress import progress_bar
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.search.understanding.labelling.label import ClipLabel, Labelling

NAME = "label"
EXAMPLE = "vfindex label genres.json && vfindex search label:cooking onions"


def command(
    classes: Annotated[
        Path, typer.Argument(metavar="CLASSES", help="A file of classes, or: kinetics-400, tone.", show_default=False)
    ],
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the label of each clip as a table.")
    ] = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Compare texts, though classes have examples.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Store nothing.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete the labels of this set, by its file or name.")
    ] = False,
    force: ForceOption = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Label clips and videos with classes of your own.

    A class is a name, descriptions, or examples (docs/label.md). Each clip and each video gets one, or none of
    these. Labels are filters: label:cooking. Exits with 1 if the classes say no more than chance does.
    """
    from vfindex.search.understanding.labelling.classes import read_classes
    from vfindex.search.understanding.labelling.label import NOT_BETTER, label_library
    from vfindex.search.understanding.labelling.probe import FEW_EXAMPLES

    if remove:
        if table is not None or dry_run:
            raise UsageError("--remove deletes labels and makes none; leave out --csv and --dry-run")
        _remove(classes, library_folder(library), json=json)
        return
    chosen, folder = read_classes(classes), library_folder(library)
    if table is not None:
        if table.suffix.lower() != ".csv":
            raise UsageError(f"the table is a .csv; name such a file for --csv, not {table}")
        check_new_file(table, "--csv", force=force)
    rows = None if table is None else partial(_write, table)
    with progress_bar("labelling") as progress:
        done = label_library(folder, chosen, store=not dry_run, by_text=zero_shot, progress=progress, clip_rows=rows)
    if json:
        print_json(done.to_dict())
    else:
        _print(done, dry_run=dry_run)
    few = [each.name for each in chosen.classes if len(each.examples) < FEW_EXAMPLES]
    if done.method == "linear probe" and few:
        names = plain(", ".join(few))
        say(
            f"fewer than {FEW_EXAMPLES} examples of {names}: labels may well be wrong; descriptions do as well as so "
            "few (--zero-shot)"
        )
    if not done.better:
        say(f"{plain(done.classes)}: {NOT_BETTER}; nothing was stored (docs/label.md)")
        raise typer.Exit(1)


def _remove(classes: Path, folder: Path, *, json: bool) -> None:
    """Delete the labels of the set that a file, or a name, stands for. Raises Exit where there are none."""
    from vfindex.search.understanding.labelling.classes import set_name
    from vfindex.search.understanding.labelling.label import stored_sets, unlabel_library

    name = set_name(classes)
    removed = unlabel_library(folder, name)
    if json:
        print_json({"classes": name, "removed": removed})
    else:
        print(plain(f"{name}: {counted(removed, 'label')} deleted"))
    if not removed:
        known = ", ".join(map(plain, stored_sets(folder)))
        there = f"there are those of: {known}" if known else "there are none at all"
        say(f"no labels of a set {plain(name)} are stored; {there}")
        raise typer.Exit(1)


def _print(done: Labelling, *, dry_run: bool) -> None:
    for each in (*done.counts, done.none):
        if each is not None and (each.videos or each.clips):
            name = "none of these" if each is done.none else each.name
            print(plain(f"{counted(each.videos, 'video'):>11}  {counted(each.clips, 'clip'):>11}  {name}"))
    empty = f"; {counted(done.empty, 'clip')} with nothing to compare" if done.empty else ""
    videos, clips = (sum(getattr(each, of) for each in done.counts) for of in ("videos", "clips"))
    stored = (
        "nothing stored" if dry_run else f"labels of {counted(videos, 'video')} and {counted(clips, 'clip')} stored"
    )
    say(f"{done.classes}, {done.method}: {stored}{empty}; P(chance) {done.chance:.3f}")


def _write(path: Path, rows: Iterator[ClipLabel]) -> None:
    """Write the labels of clips as CSV, in UTF-8 with a byte order mark."""
    from vfindex.search.export.table import cell

    with out_file(path, "--csv") as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow(("video", "fingerprint", "start_s", "end_s", "label", "probability", "none"))
        for row in rows:
            name = cell(path_text(row.video) or "")
            span = f"{row.start_s:.3f}", f"{row.end_s:.3f}"
            writer.writerow((name, row.fingerprint, *span, cell(row.label), row.probability, row.none))
        text.flush()
        text.detach()
