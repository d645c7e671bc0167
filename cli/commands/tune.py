"""vfindex tune"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vfindex.cli.extras import require
from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import plain, print_json, say, show
from vfindex.cli.render.progress import progress_bar
from vfindex.cli.run import calibrate_if_due
from vfindex.storage.errors import UsageError, counted
from vfindex.storage.modalities import ModalityName

if TYPE_CHECKING:
    from vfindex.search.evaluation.temporal import TunedHead
    from vfindex.search.evaluation.tune import Tuned

NAME = "tune"
EXAMPLE = "vfindex tune queries.jsonl --dry-run"
Learned = Literal["concat", "weighted", "learned"]


def command(
    queries: Annotated[
        Path | None,
        typer.Argument(
            metavar="QUERIES", help="Queries with known answers (docs/evaluation.md), or classes.", show_default=False
        ),
    ] = None,
    fusion: Annotated[
        Learned, typer.Option(metavar="NAME", help="Form of fusion: concat, weighted or learned.")
    ] = "concat",
    folds: Annotated[int, typer.Option(metavar="N", min=2, max=20, help="Folds of the cross-validation.")] = 5,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Only the queries of this split.")] = None,
    temporal: Annotated[
        bool, typer.Option("--temporal", help="Train a head on the order of frames instead (docs/label.md).")
    ] = False,
    clips: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Labelled videos for --temporal, else the examples.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Store nothing.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Restore the preset's weights, or delete the head.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Learn modality weights from queries with known answers.

    They are stored only if they win on held-out queries and videos. With --temporal, QUERIES is a file of classes; its
    labels use the head if that wins.
    """
    if temporal:
        _temporal(queries, library_folder(library), (clips, split, folds), dry_run=dry_run, reset=reset, json=json)
        return
    if clips is not None:
        raise UsageError("--clips are labelled videos for --temporal; add it")
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


def _temporal(
    classes: Path | None,
    library: Path,
    chosen: tuple[Path | None, str | None, int],
    *,
    dry_run: bool,
    reset: bool,
    json: bool,
) -> None:
    """Train and compare a temporal head, or delete it. chosen: labelled videos, their split, folds."""
    from vfindex.search.evaluation.labelled_videos import read_labelled
    from vfindex.search.evaluation.temporal import TemporalChoice, forget_temporal, tune_temporal
    from vfindex.search.understanding.labelling.classes import read_classes

    clips, split, folds = chosen
    if classes is None:
        raise UsageError("give a file of classes whose temporal head is trained (docs/label.md)")
    if reset and (clips or dry_run):
        raise UsageError("--reset deletes a temporal head; leave out --clips and --dry-run")
    if split is not None and (clips is None or split not in ("1", "2", "3")):
        raise UsageError(f"--split is 1, 2 or 3 of the labelled videos of --clips, not {split!r:.40}")
    kinds = read_classes(classes)
    if reset:
        removed = forget_temporal(library, kinds.name)
        if json:
            print_json({"classes": kinds.name, "removed": removed})
        else:
            gone = "its temporal head is deleted; to replace the labels that it gave: vfindex label CLASSES"
            show(f"{kinds.name}: {gone if removed else 'no temporal head'}")
        raise typer.Exit(0 if removed else 1)
    require("index")
    labelled = None
    if clips is not None:
        labelled = read_labelled(clips, None if split is None else int(split), "train")
    from vfindex.indexer.models.temporal import train_head

    with progress_bar("training") as progress:
        done = tune_temporal(library, kinds, train_head, TemporalChoice(labelled, folds, not dry_run), progress)
    if json:
        print_json(done.to_dict())
    else:
        _print_head(done)


def _print_head(done: TunedHead) -> None:
    d = done.difference
    print(
        plain(f"{done.classes}: {counted(done.clips, 'clip')} of {counted(done.videos, 'video')}, each held out once")
    )
    print(
        f"held out, accuracy {done.before.value:.3f} of the probe -> {done.after.value:.3f} of the temporal head, "
        f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
    )
    if done.stored:
        show("stored; to label by it: vfindex label CLASSES; to delete it: vfindex tune CLASSES --temporal --reset")
    elif done.wins:
        print("not stored (--dry-run); it would win")
    else:
        print(
            "the order of frames does not win here: not stored, and `vfindex label` compares means of frames as before"
        )


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
        show("stored for all searches; to restore the preset's weights: vfindex tune --reset")
    elif tuned.wins:
        print("not stored (--dry-run); it would win")
    else:
        print(f"not stored: P(gain) must be at least {WINS:g}")


def _weights(weights: Mapping[ModalityName, float]) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
