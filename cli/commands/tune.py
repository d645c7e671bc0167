"""vfindex tune"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import print_json, say
from vfindex.cli.run import calibrate_if_due
from vfindex.storage.errors import UsageError, counted
from vfindex.storage.modalities import ModalityName

if TYPE_CHECKING:
    from vfindex.search.evaluation.tune import Tuned

NAME = "tune"
EXAMPLE = "vfindex tune queries.jsonl --dry-run"
Learned = Literal["concat", "weighted", "learned"]


def command(
    queries: Annotated[
        Path | None,
        typer.Argument(metavar="QUERIES", help="Queries with known answers (docs/evaluation.md).", show_default=False),
    ] = None,
    fusion: Annotated[
        Learned, typer.Option(metavar="NAME", help="Form of fusion: concat, weighted or learned.")
    ] = "concat",
    folds: Annotated[int, typer.Option(metavar="N", min=2, max=20, help="Folds of the cross-validation.")] = 5,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Only the queries of this split.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Store nothing.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Restore the preset's weights.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Learn modality weights from queries with known answers.

    They are stored only if they win on held-out queries and videos.
    """
    if reset and (queries is not None or dry_run):
        raise UsageError("--reset takes neither QUERIES nor --dry-run")
    if queries is None and not reset:
        raise UsageError("give a file of queries with known answers (docs/evaluation.md), or --reset")
    folder = library_folder(library)
    if queries is None:
        _reset(folder, json)
        return
    from vfindex.search.evaluation.datasets import read_questions
    from vfindex.search.evaluation.tune import tune
    from vfindex.storage.library import Library
    from vfindex.storage.maintenance.rebuild import adopt, refuse_shared

    if not dry_run:
        with Library.open(folder).snapshot() as snapshot:
            refuse_shared(snapshot)
    tuned = tune(folder, read_questions(queries, split=split), fusion, folds, say)
    stored = tuned.wins and not dry_run
    if stored:
        adopt(folder, tuned.fusion)
        calibrate_if_due(folder)
    if json:
        print_json(_document(tuned, stored))
    else:
        _print(tuned, stored)


def _reset(folder: Path, json: bool) -> None:
    from vfindex.storage.maintenance.rebuild import adopt

    fusion = adopt(folder, None)
    calibrate_if_due(folder)
    if json:
        print_json({"fusion": fusion.form, "weights": dict(fusion.weights), "stored": True})
    else:
        print(f"concat, {_weights(fusion.weights)}, the preset's weights")


def _document(tuned: Tuned, stored: bool) -> dict[str, object]:
    return {
        "fusion": tuned.fusion.form,
        "weights": dict(tuned.fusion.weights),
        "weights_before": dict(tuned.before_fusion.weights),
        "questions": tuned.questions,
        "held_out": tuned.held_out,
        "before": asdict(tuned.before),
        "after": asdict(tuned.after),
        "difference": asdict(tuned.difference),
        "wins": tuned.wins,
        "stored": stored,
    }


def _print(tuned: Tuned, stored: bool) -> None:
    from vfindex.search.evaluation.tune import MEASURE, WINS

    d = tuned.difference
    print(f"{counted(tuned.questions, 'question')}, {tuned.held_out} of them held out")
    print(f"learned {tuned.fusion.form}: {_weights(tuned.fusion.weights)}")
    print(
        f"held out, {MEASURE} {tuned.before.value:.3f} -> {tuned.after.value:.3f}, "
        f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}], P(gain) {d.p_gain:.2f}"
    )
    if stored:
        print("stored for all searches; to restore the preset's weights: vfindex tune --reset")
    elif tuned.wins:
        print("not stored (--dry-run); it would win")
    else:
        print(f"not stored: P(gain) must be at least {WINS:g}")


def _weights(weights: Mapping[ModalityName, float]) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
