"""Mutation tests of search: each step of a search is replaced by a constant, and a test must fail.

    python tests/mutants.py [--all]

prints one JSON object, mutation -> names of the tests that fail. Only the test that should fail runs, or its whole file
with `--all`. All mutations share one process, so imports run once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vfindex.search.calibration import fit
from vfindex.search.calibration.labels import Labeller, ModalityCalibration
from vfindex.search.rank import examples, group, lexical, query_vectors, score, source
from vfindex.search.rank.rrf import ReciprocalRanks

HERE = Path(__file__).resolve().parent / "search"
CALIBRATED = "calibration/test_fit.py::test_reliable_modalities_give_correct_labels"
NOTHING: Callable[..., None] = lambda *_, **__: None  # noqa: E731  # the shortest form

# Name -> replacement (owner, attribute, value), and the test that must fail.
Mutation = tuple[Any, str, Any]
MUTATIONS: Mapping[str, tuple[Mutation, str]] = {
    "the best frame counts nothing": (
        (score, "_mix_best_frames", lambda clips, values, part, by: values),
        "rank/test_candidates.py::test_the_picture_is_mixed_with_the_best_frame_alone",
    ),
    "similarities are not sharpened": (
        (score, "sharpened", lambda value, spread: value),
        "rank/test_candidates.py::test_unrelated_talk_does_not_outweigh_a_picture",
    ),
    "neighbours stay apart": (
        (source, "merge_neighbours", NOTHING),
        "rank/test_group.py::test_neighbours_with_similar_scores_are_one_hit",
    ),
    "every neighbour belongs": (
        (group, "MERGED_SHARE", -1e9),
        "rank/test_group.py::test_clips_beyond_the_gap_are_not_merged",
    ),
    "no footage is the same": (
        (group, "is_same_footage", lambda *_: False),
        "rank/test_group.py::test_the_same_footage_is_one_hit_with_all_its_places",
    ),
    "all footage is the same": (
        (group, "is_same_footage", lambda *_: True),
        "rank/test_group.py::test_similar_but_different_footage_stays_apart[longer-other1]",
    ),
    "ranks are scores": (
        (ReciprocalRanks, "contributions", lambda self, scored: dict(scored.modalities)),
        "rank/test_rrf.py::test_scores_are_reciprocal_ranks",
    ),
    "all ranks are one": (
        (ReciprocalRanks, "contributions", lambda self, scored: {"visual": 1.0}),
        "rank/test_rrf.py::test_a_modality_that_a_clip_lacks_is_neutral",
    ),
    "calibration trusts everything": (
        (fit, "fit", lambda known, background, weight=1.0: ModalityCalibration(1.0, 99, 99, weight, 0.0, 0.0, 0.0)),
        CALIBRATED + "[0.5]",
    ),
    "calibration trusts nothing": (
        (fit, "fit", lambda known, background, weight=1.0: ModalityCalibration(0.5, 99, 99, weight)),
        CALIBRATED + "[0.7]",
    ),
    "every hit is labelled high": ((Labeller, "label", lambda self, scores: "high"), CALIBRATED + "[0.5]"),
    "all words are worth the same": (
        (lexical, "_idf_shares", lambda everywhere, keywords, found: ({n: 1 / len(keywords) for n in keywords}, 0.0)),
        "rank/test_lexical.py::test_a_rare_keyword_has_a_larger_share",
    ),
    "no term has a weight": (
        (
            examples,
            "combine_parts",
            lambda parts, vectors, spec: query_vectors.combine_parts(parts[:1], vectors[:1], spec),
        ),
        "query/test_parser.py::test_a_weight_scales_its_term",
    ),
    "filters let all through": (
        (source, "filtered", NOTHING),
        "query/test_filters.py::test_a_filtered_search_ranks_the_videos_that_pass",
    ),
    "pictures are not asked for": (
        (examples, "add_images", lambda query, images, spreads, spec: query),
        "query/test_image.py::test_words_and_images_are_combined",
    ),
    "pictures keep their spread": (
        (query_vectors.ImageSample, "spreads", lambda self: [1.0] * len(self.squares)),
        "query/test_image.py::test_picture_similarities_are_scaled_to_the_spread_of_texts",
    ),
    "the clip that is named answers itself": (
        (examples, "score_clips", lambda view, ids, query, keywords: []),
        "query/test_image.py::test_a_clip_finds_similar_clips_but_not_itself_or_its_copies",
    ),
}


class Failures:
    """A plugin of pytest that keeps the names of the tests that fail."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.names.append(report.nodeid.rpartition("::")[2])


def failing(node: str) -> list[str]:
    """Return the names of the failing tests of a file, or of its named test."""
    failures = Failures()
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--no-header", "--tb=no"]
    pytest.main([str(HERE / node), *options], plugins=[failures])
    return failures.names


def main() -> None:
    """Run each mutation's test; pytest's output goes to standard error."""
    sys.stdout, out = sys.stderr, sys.stdout
    noticed: dict[str, list[str]] = {}
    for name, ((owner, attribute, replacement), node) in MUTATIONS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, attribute, replacement)
            noticed[name] = failing(node.partition("::")[0] if "--all" in sys.argv else node)
    print(json.dumps(noticed, indent=1), file=out)


if __name__ == "__main__":
    main()
