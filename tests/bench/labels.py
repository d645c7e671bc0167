"""Labels of the public collection: python tests/bench/labels.py --library DIR

Eight coarse classes were written down from the collection's SOURCES.csv and judgements, before anything was measured
(public_classes.json): 48 videos are of a class, 20 of none. Each video gets the label that `vfindex label` gives it.

zero-shot: the descriptions of the classes. 5-shot: for each video, a probe on one clip (the middle one) each of five
other videos of every class, drawn at random; classes with five videos or fewer have one clip of every other video. The
library's own clips, without labels, set centre, spread and probabilities, as at run time.

closed: the 48 videos, none left out of the choice. open: all 68, with none of these as a ninth class.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from vfindex.search.calibration.fit import auc
from vfindex.search.evaluation.classification import Classification, calibration_error
from vfindex.search.evaluation.metrics import compare
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.understanding.labelling.classes import NONE, LabelClass
from vfindex.search.understanding.labelling.label import Classifier, items_of, read_features
from vfindex.search.understanding.labelling.mixture import fit_mixture, fit_separation
from vfindex.search.understanding.labelling.probe import Examples, Probe, fit_probe, held_out_scores
from vfindex.search.understanding.labelling.zero_shot import zero_shot
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library, reading_spec
from vfindex.storage.meta import LibraryMeta

SHOTS, SEED = 5, 0
FIGURES = ("accuracy", "balanced accuracy", "F1 (macro)", "F1 (micro)")


def truths(snapshot: Snapshot, videos: np.ndarray, judged: dict[str, list[str]]) -> np.ndarray:
    """Return the class (n,) of each video by the name of its file, the number of classes for none."""
    names = {name: number for number, (_, own) in enumerate(judged.items()) for name in own}
    named = snapshot.named(videos.tolist())
    return np.array([names[Path(os.fsdecode(named[int(id_)][1][0])).stem] for id_ in videos])


def shares_of(classifier: Classifier, features: np.ndarray) -> np.ndarray:
    """Return (n, C + 1) probabilities, with the mixture of these videos."""
    scores = classifier.scores(features)
    return np.asarray(fit_mixture(scores, classifier.separation).probabilities(scores))


def few_shot(snapshot: Snapshot, spec: JointSpec, truth: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, C + 1) probabilities of each video, by probes on other videos: calibrated on held-out ones, or not."""
    items, generator = items_of(snapshot), np.random.default_rng(SEED)
    nothing = np.zeros(0, np.float32)
    reader = Probe(spec, nothing, nothing, 1.0, nothing, nothing)
    clips, videos, pooled = read_features(snapshot, reader, items)
    middle = np.array([np.flatnonzero(items.videos == id_)[int(np.sum(items.videos == id_)) // 2] for id_ in videos])
    shares, uncalibrated = [], []
    for number in range(len(videos)):
        chosen = []
        for label in range(classes):
            others = np.flatnonzero((truth == label) & (np.arange(len(videos)) != number))
            chosen.append(generator.choice(others, min(SHOTS, len(others)), replace=False))
        rows = np.concatenate(chosen)
        examples = Examples(items.ids[middle[rows]], truth[rows], videos[rows])
        features = clips[middle[rows]]
        separation = fit_separation(held_out_scores(features, examples, clips), examples.classes)
        probe = replace(fit_probe(features, examples, spec), separation=separation).against(clips)
        shares.append(shares_of(probe, pooled)[number])
        uncalibrated.append(shares_of(replace(probe, separation=None), pooled)[number])
    return np.stack(shares), np.stack(uncalibrated)


def brier(truth: np.ndarray, shares: np.ndarray) -> list[float]:
    """Return the Brier score of each video."""
    return [float(each) for each in ((shares - np.eye(shares.shape[1])[truth]) ** 2).sum(axis=1)]


def show(name: str, found: Classification) -> None:
    """Print figures beside their controls."""
    figures, controls = found.figures(), found.controls()
    print(f"\n{name}: {len(found.truth)} videos, {len(found.classes)} classes")
    for measure in FIGURES:
        each = [figures[measure], controls["majority"][measure], controls["chance"][measure]]
        print(f"  {measure:18}" + "  ".join(f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in each))
    gain, brier = found.against_majority(), figures["Brier"]
    print(f"  accuracy over majority {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
    error = calibration_error(found.reliability())
    print(f"  Brier {brier.value:.3f} [{brier.low:.3f}, {brier.high:.3f}], calibration error {error:.3f}")
    for each in found.reliability():
        if each.items:
            said = f"said {each.probability:.2f}  right {each.right:.2f}"
            print(f"    {each.low:.1f}-{each.high:.1f}  {each.items:3} videos  {said}")


def judge(name: str, classes: tuple[str, ...], truth: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Print all figures of a method; return which videos of a class are right in the closed choice."""
    known, none = truth < len(classes), shares[:, -1]
    closed = shares[known, :-1] / shares[known, :-1].sum(axis=1, keepdims=True)
    of_class = Classification(classes, truth[known], closed)
    show(f"{name}, closed", of_class)
    show(f"{name}, open", Classification((*classes, NONE), truth, shares))
    draws = np.random.default_rng(0)
    for what, own in (("20 videos of other kinds", none[~known]), ("48 videos of a class", none[known])):
        means = own[draws.integers(0, len(own), (10_000, len(own)))].mean(axis=1)
        print(f"  P(none), {what}: mean {own.mean():.3f} {np.percentile(means, [2.5, 97.5]).round(3)}")
    print(f"  P(none) tells the two apart with AUC {auc(none[~known], none[known]):.3f}")
    return of_class.right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True)
    chosen = parser.parse_args()
    written = json.loads(Path(__file__).with_name("public_classes.json").read_text(encoding="utf-8"))
    classes = [LabelClass(each["name"], tuple(each["descriptions"])) for each in written["classes"]]
    names = tuple(each.name for each in classes)
    library = Library.open(chosen.library)
    with library.snapshot() as snapshot:
        spec, meta = reading_spec(snapshot)[0], LibraryMeta(snapshot)
        by_text = zero_shot(classes, QueryEncoder(library, meta.existing_setup()), spec, meta.priors)
        _, videos, pooled = read_features(snapshot, by_text, items_of(snapshot))
        truth = truths(snapshot, videos, written["videos"])
        print(f"{len(videos)} videos; P(chance) of zero-shot {by_text.chance(pooled):.4f}")
        first = judge("zero-shot", names, truth, shares_of(by_text, pooled))
        calibrated, plain = few_shot(snapshot, spec, truth, len(names))
        second = judge(f"{SHOTS}-shot", names, truth, calibrated)
        judge(f"{SHOTS}-shot, not calibrated on held-out examples", names, truth, plain)
        known = truth < len(names)
        for what, rows, last in (("closed", known, -1), ("open", known | True, None)):
            pair = [each[rows, :last] / each[rows, :last].sum(axis=1, keepdims=True) for each in (plain, calibrated)]
            gain = compare(brier(truth[rows], pair[0]), brier(truth[rows], pair[1]))
            print(f"\nBrier, calibrated over not, {what}: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
        gain = compare(first.astype(float).tolist(), second.astype(float).tolist())
        print(f"\n{SHOTS}-shot over zero-shot, closed accuracy: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
        frames = ("visual",)
        alone = zero_shot(classes, QueryEncoder(library, meta.existing_setup()), spec, meta.priors, frames)
        _, _, seen = read_features(snapshot, alone, items_of(snapshot))
        judge("zero-shot, frames alone", names, truth, shares_of(alone, seen))


if __name__ == "__main__":
    main()
