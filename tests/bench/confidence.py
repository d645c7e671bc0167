"""Calibration of confidence labels: python tests/bench/confidence.py [--library DIR] [--media DIR]

Ingests the public collection (unless a library is given), calibrates it as `vfindex ingest` does, and runs its own
questions and 40 about things that no video shows, by visual only, speech only and both. "lost": answerable questions
with "no confident match", and those of them whose first hit was right.

Before that, 200 libraries of normal scores at each of four separations: how many get labels, and the precision of the
labels on a thousand fresh questions of each kind. `--planted` prints only this. tests/search/calibration/test_fit.py
does the same with vectors in one library.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from vfindex.indexer.models.priors import background_queries
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.search.calibration.fit import TopScore, auc, fit, measure
from vfindex.search.calibration.labels import LABELS, META_KEY, Label
from vfindex.search.engine import SearchEngine
from vfindex.search.evaluation.datasets import Question, read_questions
from vfindex.search.query.ast import Query
from vfindex.storage.library import Library
from vfindex.storage.modalities import ModalityName
from vfindex.storage.writer import writing

ABSENT = (
    "a walrus on an ice floe",
    "lava flowing from a volcano",
    "someone playing the harp",
    "astronauts floating inside a space station",
    "a knight in armour on a horse",
    "a lighthouse in a storm",
    "hot air balloons over a valley",
    "a surgeon in an operating theatre",
    "two people playing chess",
    "a camel caravan in the desert",
    "skiers on a chairlift",
    "a bride throwing her bouquet",
    "a combine harvester in a wheat field",
    "an elephant bathing in a river",
    "a submarine coming to the surface",
    "a blacksmith hammering glowing iron",
    "sheep being shorn",
    "a tennis match on a clay court",
    "a bagpiper in a kilt",
    "a snooker player chalking a cue",
    "how interest rates change a mortgage",
    "a recipe for beetroot soup",
    "the history of the Ottoman empire",
    "how vaccines train the immune system",
    "the rules of cricket",
    "the weather forecast for the weekend",
    "how to tune a piano",
    "the price of crude oil",
    "how to change a tyre",
    "an interview with a novelist about her book",
    "what prime numbers are",
    "a lecture on medieval cathedrals",
    "the results of the election in Brazil",
    "how honey bees find flowers",
    "a commentary on a horse race",
    "a bedtime story about three little pigs",
    "a lesson in Spanish verbs",
    "when to plant tomatoes",
    "how a diesel engine works",
    "an apology for a delayed flight",
)
# Modalities searched -> weights, and the modality of the answerable questions.
WAYS: dict[str, tuple[dict[ModalityName, float], str | None]] = {
    "pictures": ({"speech": 0, "text": 0}, "visual"),
    "speech": ({"visual": 0, "text": 0}, "speech"),
    "both": ({}, None),
}


@dataclass(frozen=True)
class Outcome:
    """The first hit of a question: score, label, and whether it is right; score -inf without a hit."""

    score: float
    label: Label | None
    right: bool


def ask(engine: SearchEngine, question: Question, weights: dict[ModalityName, float]) -> Outcome:
    hits = engine.search(Query.plain(question.text), top_k=1, weights=weights)
    if not hits:
        return Outcome(-np.inf, None, False)
    name = os.path.basename(os.fsdecode(hits[0].video or b""))
    return Outcome(hits[0].score, hits[0].confidence, name in {each.video for each in question.relevant})


def row(name: str, answerable: Sequence[Outcome], absent: Sequence[Outcome]) -> str:
    """Return the outcomes of both kinds of questions as a table row."""
    separation = auc(np.array([each.score for each in answerable]), np.array([each.score for each in absent]))
    high = [each for each in answerable if each.label == "high"]
    lost = [each for each in answerable if each.label == "none"]
    wrong = sum(each.label == "high" for each in absent)
    shares = [
        " ".join(f"{sum(each.label == label for each in asked):4}" for label in (*LABELS, None))
        for asked in (answerable, absent)
    ]
    right_high = f"{sum(each.right for each in high)}/{len(high) + wrong}"
    right = sum(each.right for each in lost)
    counts = f"{right_high:>8} {len(lost):5} {right:6}"
    return f"{name:9} {separation:5.2f}  {len(answerable):4} {shares[0]}  {shares[1]}  {counts}"


def report(library: Path, questions: Sequence[Question]) -> None:
    """Calibrate the library, run both kinds of questions, and print the table."""
    opened = Library.open(library)
    calibration = measure(opened, background_queries(), lambda _: None)
    with writing(library) as writer:
        writer.catalog.put(META_KEY, calibration.to_json())
    for modality, trust in calibration.modalities.items():
        print(
            f"{modality}: {trust.reason()}; from {trust.low:.2f} low, {trust.medium:.2f} medium, {trust.high:.2f} high"
        )
    heads = " ".join(f"{str(label)[:4]:>4}" for label in (*LABELS, None))
    print(f"\n{'':17}{'answerable':^30} {'absent':^25}  {'right of':>8} {'lost':>5} {'right':>6}")
    print(f"{'asked by':9} {'AUC':>5}  {'n':>4} {heads}  {heads}  {'high':>8} {'':>5} {'lost':>6}")
    engine = SearchEngine.open(library)
    for name, (weights, modality) in WAYS.items():
        chosen = [q for q in questions if modality in (None, q.modality)]
        answerable = [ask(engine, question, weights) for question in chosen]
        absent = [ask(engine, Question(text, text, ()), weights) for text in ABSENT]
        print(row(name, answerable, absent))


def planted(known: int, background: int = 200, libraries: int = 200, fresh: int = 1000) -> None:
    """Print the precision of labels for normal scores and this many known items."""
    print(f"{'AUC':>5} {'known':>6} {'label':>6}  {'high is right':>13} {'lost':>6} {'high':>6} {'absent high':>11}")
    generator = np.random.default_rng(0)
    for separation in (0.5, 0.7, 0.9, 0.99):
        shift = 2**0.5 * NormalDist().inv_cdf(separation)
        rows = []
        for _ in range(libraries):
            own = [TopScore(score, True) for score in generator.normal(shift, 1, known)]
            trust = fit(own, generator.normal(0, 1, background).tolist())
            if trust.is_reliable:
                present, absent = generator.normal(shift, 1, fresh), generator.normal(0, 1, fresh)
                rows.append([np.mean(x) for x in (present >= trust.high, absent >= trust.high)])
                rows[-1] += [np.mean(present < trust.low), np.mean(absent < trust.low)]
        print(f"{separation:5.2f} {known:6} {len(rows) / libraries:6.2f}", end="")
        if len(rows) > libraries / 20:
            high, wrong, lost, labelled = np.mean(rows, axis=0)
            print(f"  {high / (high + wrong):13.3f} {lost:6.3f} {high:6.3f} {labelled:11.3f}", end="")
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=os.environ.get("VFINDEX_TEST_MEDIA"), help="folder with public/")
    parser.add_argument("--library", type=Path, help="an ingested library of public/videos")
    parser.add_argument("--cache", type=Path, default=os.environ.get("VFINDEX_CACHE"), help="exported models")
    parser.add_argument("--planted", action="store_true", help="normal scores alone, no videos")
    arguments = parser.parse_args()
    for known in (30, 200):
        planted(known)
    if arguments.planted:
        return
    if arguments.media is None:
        parser.error("set VFINDEX_TEST_MEDIA, or give --media")
    public = Path(arguments.media) / "public"
    with tempfile.TemporaryDirectory() as temporary:
        library = arguments.library
        if library is None:
            library = Path(temporary) / "library"
            cache = Path(arguments.cache or Path(temporary) / "cache")
            ingest(library, [os.fsencode(public / "videos")], RunSettings(cache=cache))
        report(library, read_questions(public / "queries.jsonl"))


if __name__ == "__main__":
    main()
