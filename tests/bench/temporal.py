"""A temporal head against means of frames: python tests/bench/temporal.py [--library DIR]

Pans to the left and to the right over one wide picture, which have the same frames in another order, by a real image
model (of `lite`). And, with --library: the eight coarse classes of the public collection (public_classes.json).

The control of means of frames is a permutation test (Ojala and Garriga 2010, JMLR 11): the accuracy of the same
cross-validation after the labels have been shuffled. The bootstrap over videos is too narrow for it: held-out labels
are not independent, because their probes share most of what they are fitted to.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vfindex.indexer.models.lite import ensure_lite
from vfindex.indexer.models.temporal import train_head
from vfindex.search.evaluation.labelled_videos import LabelledVideo
from vfindex.search.evaluation.temporal import TemporalChoice, TunedHead, _read, tune_temporal
from vfindex.search.understanding.labelling.classes import ClassSet, LabelClass
from vfindex.search.understanding.labelling.probe import fitted, folds_of
from vfindex.storage.encoders.image import LiteImageEncoder
from vfindex.storage.library import Library

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from panning import DIRECTIONS, pan_library

VIDEOS, FOLDS, PERMUTATIONS = 120, 5, 100


def show(what: str, done: TunedHead, seconds: float) -> None:
    print(f"\n{what}: {done.clips} clips of {done.videos} videos, {seconds:.0f} s of processor time")
    for name, figure in (("means of frames", done.before), ("temporal head", done.after)):
        print(f"  {name:16} accuracy {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]")
    gain = done.difference
    print(f"  gain {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], wins: {done.wins}; P(chance) {done.chance}")


def shuffled(library: Path, names: list[str], labelled: list[LabelledVideo], accuracy: float) -> None:
    """Print the accuracy of means of frames with shuffled labels, and how often it is as far from its mean as this."""
    opened = Library.open(library)
    with opened.snapshot() as snapshot:
        data = _read(snapshot, ClassSet("bench", tuple(map(LabelClass, names))), labelled)
    rng, videos = np.random.default_rng(0), data.examples.videos
    found = []
    for _ in range(PERMUTATIONS):
        labels = rng.permutation(data.examples.classes)
        folds, right = folds_of(videos, labels, FOLDS), np.zeros(len(labels))
        for fold in range(FOLDS):
            held = folds == fold
            weights, offsets = fitted(data.rows[~held], labels[~held], len(names))
            right[held] = (data.rows[held] @ weights.T + offsets).argmax(axis=1) == labels[held]
        found.append(float(right.mean()))
    mean, (low, high) = float(np.mean(found)), np.quantile(found, (0.025, 0.975))
    as_far = 1 + sum(abs(each - mean) >= abs(accuracy - mean) for each in found)
    print(f"  shuffled labels  accuracy {mean:.3f} [{low:.3f}, {high:.3f}], P = {as_far / (PERMUTATIONS + 1):.2f}")


def measure(what: str, library: Path, names: list[str], labelled: list[LabelledVideo]) -> TunedHead:
    before = time.process_time()
    kinds = ClassSet("bench", tuple(LabelClass(name) for name in names))
    done = tune_temporal(library, kinds, train_head, TemporalChoice(labelled, FOLDS))
    show(what, done, time.process_time() - before)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--videos", type=int, default=VIDEOS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        cache = Path(os.environ.get("VFINDEX_CACHE", spare))
        encoder = LiteImageEncoder.open(ensure_lite(cache).visual)
        pans = pan_library(Path(spare) / "pans", chosen.videos, encoder.encode_images, encoder.size_px)
        labelled = [LabelledVideo(f"{DIRECTIONS[n % 2]} {n}", DIRECTIONS[n % 2]) for n in range(chosen.videos)]
        done = measure("pans", pans, list(DIRECTIONS), labelled)
        shuffled(pans, list(DIRECTIONS), labelled, done.before.value)
        if chosen.library is not None:
            copy = Path(shutil.copytree(chosen.library, Path(spare) / "copy"))
            written = json.loads(Path(__file__).with_name("public_classes.json").read_text(encoding="utf-8"))
            names = [each["name"] for each in written["classes"]]
            labelled = [LabelledVideo(stem, name) for name in names for stem in written["videos"][name]]
            measure("eight coarse classes", copy, names, labelled)


if __name__ == "__main__":
    main()
