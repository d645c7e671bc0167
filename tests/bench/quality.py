"""Gain of each ranking step on real videos: python tests/bench/quality.py [--quick] [--library DIR]

Ingests the public collection (unless a library is given) and runs every query of queries.jsonl with one hit per video.
A row is one way to rank: nDCG@10 and success@5 with a bootstrap 95 % interval over the queries, and its gain over the
row named there: the paired difference of both measures and P(gain), the share of resamples in which it is ahead. An
unanswered query counts 0.

The first row is visual only; each further row adds one step up to the default of `vfindex search`. Then other fusions,
and the result of `vfindex tune` on held-out queries and videos; then other encoders, for which the library is rebuilt
from frames encoded once (--quick skips them, --kept stores the encoded frames); at last the default by modality and
scope. A row ahead with P(gain) of 0.9 is followed by its gain in nDCG@10 in random halves of the videos. --config
compares configurations of `vfindex eval` instead.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from quality_frames import texts_kept
from quality_steps import RECIPES, make_again, read_material

from vfindex.indexer.models.presets import WORD_WEIGHT
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.search.engine import SearchEngine
from vfindex.search.evaluation.datasets import Question, read_questions
from vfindex.search.evaluation.evaluate import (
    DEPTH,
    JudgedHit,
    Level,
    Rankings,
    differences,
    judge,
    parse_configuration,
    run_questions,
)
from vfindex.search.evaluation.tune import tune
from vfindex.search.query.ast import Combination
from vfindex.search.rank import score as ranking
from vfindex.storage.errors import UsageError
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, usual_modalities, word_modalities
from vfindex.storage.records import FusionName, Setup

MEASURES = ("nDCG@10", "success@1", "success@5", "success@10", "MRR")
TOLD = ("nDCG@10", "success@5")
DEFAULT = "default"
# From this P(gain) on a step becomes the default, if its gain is confirmed in halves of the videos.
WINS = 0.9
SPLITS = 20
SENTENCE, WORDS, COLOURS = "{}", "{word}", "{colour}"
PHOTO, PHOTO_OF_WORDS = "a photo of {}", "a photo of a {word}"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to search a library. frame_weight, word_weight, templates (visual): None: those of the library.

    plain: without the sharpening of sentences.
    """

    weights: Mapping[ModalityName, float] = field(default_factory=dict)
    frame_weight: float | None = None
    word_weight: float | None = None
    templates: tuple[str, ...] | None = None
    plain: bool = False
    combine: Combination = "convex"
    fusion: Fusion | None = None

    def setup(self, setup: Setup) -> Setup:
        """Return the library's setup with the changes of this way."""
        query = dict(setup.query)
        if self.templates is not None:
            query["visual"] = replace(query["visual"], templates=self.templates)
        frame_weight = setup.frame_weight if self.frame_weight is None else self.frame_weight
        word_weight = setup.word_weight if self.word_weight is None else self.word_weight
        return replace(setup, query=query, frame_weight=frame_weight, word_weight=word_weight)

    def constants(self) -> AbstractContextManager[object]:
        """Return the sharpening of sentences for as long as this is open."""
        return patch.multiple(ranking, NOISE_SPREADS=0.0, ABOVE_NOISE=1.0) if self.plain else nullcontext()


EQUAL: Mapping[ModalityName, float] = dict.fromkeys(usual_modalities(), 1.0)
_PICTURES = Way(dict.fromkeys(word_modalities(), 0.0), 0.0, 0.0, (SENTENCE,), plain=True)
_WORDED = replace(_PICTURES, templates=(SENTENCE, WORDS))
_COLOURED = replace(_PICTURES, templates=(SENTENCE, WORDS, COLOURS))
_SPOKEN = replace(_COLOURED, weights=EQUAL)
# Each of them is compared with the one before.
STEPS: Mapping[str, Way] = {
    "pictures, the question as a sentence": _PICTURES,
    "+ its words one by one": _WORDED,
    "+ its colours": _COLOURED,
    "+ speech and screen, weighted alike": _SPOKEN,
    "+ keywords": replace(_SPOKEN, word_weight=WORD_WEIGHT),
    "+ best frame": replace(_SPOKEN, word_weight=WORD_WEIGHT, frame_weight=0.7),
    "+ sharpened sentences": replace(_SPOKEN, word_weight=WORD_WEIGHT, frame_weight=0.7, plain=False),
    "+ weights = default": Way(),
}
# Each of them is compared with the default.
OTHERS: Mapping[str, Way] = {
    "without colours": Way(templates=(SENTENCE, WORDS)),
    "without words one by one": Way(templates=(SENTENCE, COLOURS)),
    'and "a photo of" the sentence': Way(templates=(SENTENCE, PHOTO, WORDS, COLOURS)),
    'words as "a photo of a WORD"': Way(templates=(SENTENCE, PHOTO_OF_WORDS, COLOURS)),
    "without the best frame": Way(frame_weight=0.0),
    "best frame 0.5": Way(frame_weight=0.5),
    "best frame alone": Way(frame_weight=1.0),
    "without keywords": Way(word_weight=0.0),
    "sentences not sharpened": Way(plain=True),
    "speech 0.25": Way({"speech": 0.25}),
    "speech 0.6": Way({"speech": 0.6}),
    "screen 0.25": Way({"screen": 0.25}),
    "screen 0.6": Way({"screen": 0.6}),
    "reciprocal ranks (k = 60)": Way(combine="rrf"),
    "reciprocal ranks, equal weights": Way(EQUAL, combine="rrf"),
    "fusion mean": Way(fusion=Fusion("mean")),
    "fusion weighted": Way(fusion=Fusion("weighted")),
}
TUNED: Sequence[FusionName] = ("concat", "weighted", "learned")


class Table:
    """The rows so far, by name."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = questions
        self._levels: dict[str, Level] = {}
        print(f"{'':34} {'nDCG@10':^21} {'success@5':^21}  {'d nDCG@10':^23} P(gain)  {'d success@5':^23} P(gain)")

    def add(self, name: str, answers: Rankings, against: str | None) -> None:
        """Print a row. against: the name of an earlier one."""
        level = judged(self._questions, answers)
        self._levels[name] = level
        figures = level.figures()["all"]
        cells = [f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in (figures[m] for m in TOLD)]
        wins = False
        if against is not None:
            found = differences(self._levels[against], level)
            cells.append("")
            for d in (found[m] for m in TOLD):
                cells[-1] += f" {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]  {d.p_gain:.3f} "
            wins = found[TOLD[0]].p_gain >= WINS
        print(f"{name:34} {' '.join(cells)}", flush=True)
        if wins and against is not None:
            print(f"{'':34} {self._in_halves(self._levels[against], level)}", flush=True)

    def _in_halves(self, before: Level, after: Level) -> str:
        """Return the gain in halves of the videos; a query belongs to its first video's half."""
        first, second = before.values[TOLD[0]], after.values[TOLD[0]]
        asked = [question for question in self._questions if question.id in first]
        gains = [(question.relevant[0].video, second[question.id] - first[question.id]) for question in asked]
        videos = sorted({video for video, _ in gains})
        means = []
        for seed in range(SPLITS):
            drawn = np.random.default_rng(seed).permutation(len(videos))[: len(videos) // 2]
            half = {videos[at] for at in drawn.tolist()}
            means.append(float(np.mean([gain for video, gain in gains if video in half])))
        ahead = sum(mean > 0 for mean in means)
        return f"in random halves of the videos: {min(means):+.3f} to {max(means):+.3f}, ahead in {ahead} of {SPLITS}"

    def __getitem__(self, name: str) -> Level:
        return self._levels[name]


def judged(questions: Sequence[Question], answers: Rankings) -> Level:
    """Return the figures at video level. Raises UsageError if no query has an answer."""
    level = judge(questions, answers, "video")
    if level is None:
        raise UsageError("none of the questions has an answer in the library")
    return level


def asked(folder: Path, questions: Sequence[Question], way: Way) -> Rankings:
    """Return the answers of a library to all queries in one way."""
    with Library.open(folder).snapshot() as snapshot:
        setup = way.setup(LibraryMeta(snapshot).existing_setup())
    engine, found = SearchEngine(folder, way.fusion), {}
    with patch.object(LibraryMeta, "setup", setup):
        engine.searcher()
    with way.constants():
        for question in questions:
            hits = engine.search(question.text, top_k=DEPTH, weights=way.weights, combine=way.combine)
            found[question.id] = [JudgedHit(os.path.basename(os.fsdecode(hit.video or b""))) for hit in hits]
    return Rankings(found, DEPTH)


def tuning(folder: Path, questions: Sequence[Question], form: FusionName) -> None:
    """Print the gain of a learned fusion on held-out queries."""
    tuned = tune(folder, questions, form)
    weights = ", ".join(f"{m} {w:.2f}" for m, w in tuned.fusion.weights.items())
    d = tuned.difference
    print(
        f"{f'tune {form}':34} {tuned.after.value:.3f} [{tuned.after.low:.3f}, {tuned.after.high:.3f}] "
        f"on {tuned.held_out} held out, before {tuned.before.value:.3f}; "
        f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]  {d.p_gain:.3f}  "
        f"{weights}",
        flush=True,
    )


def report(level: Level) -> None:
    """Print one row per group of queries."""
    print(f"{'questions':>14} {'n':>4}  " + "  ".join(f"{m:^21}" for m in MEASURES))
    for name, figures in level.figures().items():
        cells = [f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in (figures[m] for m in MEASURES)]
        print(f"{name:>14} {len(level.groups[name]):>4}  " + "  ".join(f"{cell:^21}" for cell in cells))


def table(folder: Path, questions: Sequence[Question], recipes: Callable[[Table], None] | None) -> None:
    """Print all rows. recipes: adds those of the encoders."""
    rows = Table(questions)
    before = None
    for name, way in STEPS.items():
        rows.add(name, asked(folder, questions, way), before)
        before = name
    print()
    rows.add(DEFAULT, asked(folder, questions, Way()), None)
    for name, way in OTHERS.items():
        rows.add(name, asked(folder, questions, way), DEFAULT)
    print()
    for form in TUNED:
        tuning(folder, questions, form)
    if recipes is not None:
        print()
        recipes(rows)
    print()
    report(rows[DEFAULT])


def compare(questions: Sequence[Question], library: Path, texts: Sequence[str]) -> None:
    """Print the figures of configurations, the further ones compared with the first."""
    chosen = [parse_configuration(text, library) for text in texts]
    first, *others = [judged(questions, answers) for answers in run_questions(chosen, questions)]
    report(first)
    for configuration, level in zip(chosen[1:], others, strict=True):
        print(f"\n{configuration.name}")
        report(level)
        print(f"{configuration.name} against {chosen[0].name}")
        for name, d in differences(first, level).items():
            if name in MEASURES:
                print(f"{name:>14}  {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]  P(gain) {d.p_gain:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=os.environ.get("VFINDEX_TEST_MEDIA"), help="folder with public/")
    parser.add_argument("--library", type=Path, help="an ingested library of public/videos")
    parser.add_argument("--cache", type=Path, default=os.environ.get("VFINDEX_CACHE"), help="exported models")
    parser.add_argument("--quick", action="store_true", help="leave the encoders as they are")
    parser.add_argument("--kept", type=Path, help="where frames as the model saw them stay")
    parser.add_argument("--config", action="append", help="as in vfindex eval; again to compare")
    arguments = parser.parse_args()
    if arguments.media is None:
        parser.error("set VFINDEX_TEST_MEDIA, or give --media")
    public = Path(arguments.media) / "public"
    questions = read_questions(public / "queries.jsonl")
    with tempfile.TemporaryDirectory() as temporary:
        library = arguments.library
        cache = Path(arguments.cache or Path(temporary) / "cache")
        if library is None:
            library = Path(temporary) / "library"
            done = ingest(library, [os.fsencode(public / "videos")], RunSettings(cache=cache))
            print(f"{done.found} files: {done.indexed} indexed, {len(done.failed)} failed, {done.clips} clips")
        if arguments.config:
            compare(questions, library, arguments.config)
            return

        def recipes(rows: Table) -> None:
            material = read_material(library, cache, os.cpu_count() or 1, arguments.kept or Path(temporary) / "kept")
            first = next(iter(RECIPES))
            for number, (name, recipe) in enumerate(RECIPES.items()):
                again = make_again(material, recipe, Path(temporary) / f"again-{number}")
                rows.add(name, asked(again, questions, Way()), None if name == first else first)
                shutil.rmtree(again)

        with texts_kept():
            table(library, questions, None if arguments.quick else recipes)


if __name__ == "__main__":
    main()
