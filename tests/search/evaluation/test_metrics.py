"""Measures against ir_measures and values worked by hand; intervals and paired tests against known cases."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfindex.search.evaluation.metrics import MEDIAN_RANK, compare, measures, score, summarise, temporal_iou

DOCUMENTS = [f"d{i}" for i in range(14)]
JUDGED = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3), min_size=1).filter(lambda g: any(g.values())),
    min_size=1,
)
RUN = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.permutations(DOCUMENTS).map(lambda d: d[:12]))
TIMES = st.floats(0, 1000)
SPANS = st.tuples(TIMES, TIMES).map(lambda pair: (min(pair), max(pair)))


@settings(deadline=None)
@given(JUDGED, RUN)
def test_measures_are_those_of_ir_measures_and_lie_between_0_and_1(
    judged: dict[str, dict[str, int]], run: dict[str, list[str]]
) -> None:
    values = score(judged, run, depth=12)
    chosen = measures(12)
    scored = [ir_measures.ScoredDoc(q, d, 100.0 - i) for q, ds in run.items() for i, d in enumerate(ds)]
    qrels = [ir_measures.Qrel(q, d, grade) for q, grades in judged.items() for d, grade in grades.items()]
    theirs = {(m.query_id, m.measure): m.value for m in ir_measures.iter_calc(list(chosen.values()), qrels, scored)}
    for name, measure in chosen.items():
        assert set(values[name]) == set(judged)
        for question, value in values[name].items():
            assert 0 <= value <= 1
            assert value == pytest.approx(theirs.get((question, measure), 0.0))


def test_measures_worked_by_hand() -> None:
    judged = {"q": {"x": 2, "y": 1}}
    values = {name: of["q"] for name, of in score(judged, {"q": ["n", "y", "x"]}, depth=10).items()}
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    assert values["nDCG@10"] == pytest.approx((1 / math.log2(3) + 2 / math.log2(4)) / ideal)
    assert (values["success@1"], values["success@5"], values["recall@5"], values["recall@10"]) == (0, 1, 1, 1)
    assert values["MRR"] == pytest.approx(1 / 2)
    assert values["MAP"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_documents_beyond_the_depth_do_not_count() -> None:
    run = {"q": [f"n{i}" for i in range(10)] + ["x"]}
    assert score({"q": {"x": 1}}, run, depth=10)["MRR"]["q"] == 0
    deep = score({"q": {"x": 1}}, run, depth=100)
    assert deep["recall@100"]["q"] == 1 and deep["recall@10"]["q"] == deep["recall@5"]["q"] == 0


def test_an_unanswered_question_counts_0_and_stays_in_the_mean() -> None:
    values = score({"a": {"x": 1}, "b": {"x": 1}}, {"a": ["x"]}, depth=10)
    figures = summarise(values, ["a", "b"])
    assert figures["nDCG@10"].value == 0.5
    assert score({"a": {"x": 1}}, {}, depth=10)["nDCG@10"] == {"a": 0.0}


def test_document_names_do_not_affect_measures() -> None:
    odd = {"q 1\n": {"a b\t.mp4": 1}, "\ud800": {"\udcff.mp4": 2}}
    values = score(odd, {question: list(grades) for question, grades in odd.items()}, depth=10)
    assert set(values["MAP"].values()) == {1.0}


def test_the_median_rank_is_infinite_beyond_the_depth() -> None:
    judged = {q: {"x": 1} for q in "abcd"}
    run = {"a": ["x"], "b": ["n", "x"], "c": ["n", "m", "x"]}
    values = score(judged, run, depth=10)
    assert summarise(values, list("abc"))[MEDIAN_RANK].value == 2
    assert summarise(values, list("abcd"))[MEDIAN_RANK].value == 2.5
    assert math.isinf(summarise(values, ["a", "d"])[MEDIAN_RANK].value)
    assert math.isinf(summarise(values, list("abcd"))[MEDIAN_RANK].high)


def test_an_interval_is_as_wide_as_the_normal_one_on_many_questions() -> None:
    sample = np.random.default_rng(1).random(400)
    values = {"MRR": {str(i): float(v) for i, v in enumerate(sample)}}
    figure = summarise(values, list(values["MRR"]))["MRR"]
    half = 1.96 * sample.std() / math.sqrt(len(sample))
    assert figure.low == pytest.approx(sample.mean() - half, abs=0.1 * half)
    assert figure.high == pytest.approx(sample.mean() + half, abs=0.1 * half)


def test_a_paired_test_detects_only_real_differences() -> None:
    generator = np.random.default_rng(2)
    first = generator.random(200)
    same = compare(first, first)
    assert (same.value, same.p_gain, same.p_value) == (0.0, 0.5, 1.0)
    better = compare(first, first + 0.05)
    assert better.value == pytest.approx(0.05) and better.p_gain == 1.0 and better.p_value < 0.001
    noise = generator.normal(0, 0.3, 200)
    worse = compare(first, first + noise - noise.mean() - 0.01)
    assert worse.low < -0.01 < worse.high and worse.p_gain < 0.5
    # z = 0.01 / (0.3 / sqrt(200)) = 0.47, so that p is about 0.64
    assert worse.p_value == pytest.approx(0.64, abs=0.05)


def test_a_paired_test_keeps_its_level() -> None:
    generator = np.random.default_rng(3)
    found = [compare(np.zeros(60), generator.normal(0, 1, 60)).p_value for _ in range(100)]
    assert 0.01 <= np.mean(np.asarray(found) < 0.05) <= 0.12


@given(SPANS, SPANS)
def test_temporal_iou_is_symmetric_and_bounded(one: tuple[float, float], other: tuple[float, float]) -> None:
    assert 0 <= temporal_iou(one, other) <= 1
    assert temporal_iou(one, other) == temporal_iou(other, one)
    if one[0] < one[1]:
        assert temporal_iou(one, one) == pytest.approx(1)


@given(st.tuples(st.integers(0, 60), st.integers(0, 60)), st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_temporal_iou_counts_the_seconds(one: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = (set(range(min(pair), max(pair))) for pair in (one, other))
    counted = len(first & second) / len(first | second) if first | second else 0.0
    spans = [(float(min(pair)), float(max(pair))) for pair in (one, other)]
    assert temporal_iou(spans[0], spans[1]) == pytest.approx(counted)
