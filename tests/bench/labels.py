"""Labels of the public collection: python tests/bench/labels.py --library DIR

Eight coarse classes were written down from the collection's SOURCES.csv and judgements, before anything was measured
(public_classes.json): 48 videos are of a class, 20 of none. Each video gets the label that `vfindex label` gives it.

zero-shot: the descriptions of the classes. 5-shot: for each video, a probe on one clip (the middle one) each of five
other videos of every class, drawn at random; classes with five videos or fewer have one clip of every other video. The
library's own clips, without labels, set centre, spread and probabilities, as at run time.

closed: the 48 videos, none left out of the choice. open: all 68, with none of these as a ninth class.

few classes: each three of the eight by 5-shot, with all other videos as of none; only videos without examples count.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from vfindex.search.calibration.fit import auc
from vfindex.search.evaluation.classification import Classification, calibration_error
from vfindex.search.evaluation.metrics import compare
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.understanding.labelling.classes import NONE, LabelClass
from vfindex.search.understanding.labelling.label import Classifier, items_of, read_features, shares_of
from vfindex.search.understanding.labelling.mixture import fit_mixture
from vfindex.search.understanding.labelling.probe import Examples, Probe, learn_probe
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


def video_shares(classifier: Classifier, features: np.ndarray) -> np.ndarray:
    """Return (n, C + 1) probabilities, with the mixture of these videos."""
    scores = classifier.scores(features)
    return shares_of(classifier, fit_mixture(scores, classifier.separation, classifier.known), features)


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
        probe = learn_probe(features, examples, spec, clips, items.videos)
        shares.append(video_shares(probe, pooled)[number])
        uncalibrated.append(video_shares(replace(probe, separation=None), pooled)[number])
    return np.stack(shares), np.stack(uncalibrated)


def few_classes(snapshot: Snapshot, spec: JointSpec, truth: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Return (n,) means over each three of the classes: of right videos, of none found, and of always none.

    NaN for a video that never counts.
    """
    items, generator = items_of(snapshot), np.random.default_rng(SEED)
    nothing = np.zeros(0, np.float32)
    clips, videos, pooled = read_features(snapshot, Probe(spec, nothing, nothing, 1.0, nothing, nothing), items)
    middle = np.array([np.flatnonzero(items.videos == id_)[int(np.sum(items.videos == id_)) // 2] for id_ in videos])
    right: list[np.ndarray] = []
    own: list[np.ndarray] = []
    for chosen in combinations(range(classes), 3):
        of_set = np.array([chosen.index(label) if label in chosen else 3 for label in truth.tolist()])
        drawn = [np.flatnonzero(of_set == label) for label in range(3)]
        rows = np.concatenate([generator.choice(of, min(SHOTS, len(of) - 1), replace=False) for of in drawn])
        examples = Examples(items.ids[middle[rows]], of_set[rows], videos[rows])
        probe = learn_probe(clips[middle[rows]], examples, spec, clips, items.videos)
        found = video_shares(probe, pooled).argmax(axis=1)
        counts = np.isin(np.arange(len(videos)), rows, invert=True)
        right.append(np.where(counts, found == of_set, np.nan))
        own.append(np.where(counts, of_set, np.nan))
    table, labels = np.array(right), np.array(own)
    return {
        "accuracy": np.nanmean(table, axis=0),
        "accuracy of always none": np.nanmean(np.where(np.isnan(labels), np.nan, labels == 3), axis=0),
        "none, found": np.nanmean(np.where(labels == 3, table, np.nan), axis=0),
        "of a class, right": np.nanmean(np.where(labels < 3, table, np.nan), axis=0),
    }


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
        first = judge("zero-shot", names, truth, video_shares(by_text, pooled))
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
        print(f"\nfew classes, {SHOTS}-shot: three of the eight, the other videos are of none")
        few = few_classes(snapshot, spec, truth, len(names))
        few["accuracy over always none"] = few["accuracy"] - few["accuracy of always none"]
        for what, own in few.items():
            own, draws = own[~np.isnan(own)], np.random.default_rng(0)
            means = own[draws.integers(0, len(own), (10_000, len(own)))].mean(axis=1)
            print(f"  {what:28}{own.mean():+.3f} {np.percentile(means, [2.5, 97.5]).round(3)}")
        frames = ("visual",)
        alone = zero_shot(classes, QueryEncoder(library, meta.existing_setup()), spec, meta.priors, frames)
        _, _, seen = read_features(snapshot, alone, items_of(snapshot))
        judge("zero-shot, frames alone", names, truth, video_shares(alone, seen))


if __name__ == "__main__":
    main()
