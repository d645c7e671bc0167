"""Learning weights and heads: folds, what is learned from planted libraries, and that only a gain is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from library_maker import SETUP, add_video, clip
from numpy.typing import NDArray

from vfindex.cli.app import main
from vfindex.search.calibration.fit import _has_changed
from vfindex.search.calibration.labels import Calibration, ModalityCalibration
from vfindex.search.evaluation import contrastive as contrast
from vfindex.search.evaluation.contrastive import learn_heads, mean_ndcg
from vfindex.search.evaluation.datasets import Question, Relevant
from vfindex.search.evaluation.evaluate import Configuration, judge, run_questions
from vfindex.search.evaluation.metrics import score
from vfindex.search.evaluation.training import Trial, Trials, collect_trials
from vfindex.search.evaluation.tune import MIN_HELD_OUT, learn_weights, split
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.errors import UsageError
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.vector import JointSpec, ModalityPrior, ModalitySpec
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, modality_names
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing

DIM, VIDEOS = 32, 24


def unit(seed: int, n: int = 1) -> FloatArray:
    """Return random unit vectors (n, DIM)."""
    rows = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def prior(weight: float) -> ModalityPrior:
    """Return a prior of random vectors: cosines of unrelated ones spread by the root of 1 / DIM."""
    zero = np.zeros(DIM, np.float32)
    return ModalityPrior(zero, zero, DIM**-0.5, unit(99, 50), weight)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library in which speech answers every question, with weights that almost ignore speech."""
    folder = tmp_path_factory.mktemp("planted") / "library"
    with writing(folder) as writer:
        writer.install(SETUP, {"visual": prior(1.0), "speech": prior(0.05), "text": prior(0.05)}, {})
        for number in range(VIDEOS):
            clips = [clip(5.0 * at, 5.0 * at + 5, visual=unit(1000 + 2 * number + at)[0]) for at in range(2)]
            clips[0] = replace(clips[0], embeddings={**clips[0].embeddings, "speech": unit(number)[0]})
            add_video(writer, f"v{number}.mp4", clips)
        writer.publish()
    return folder


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Let question N have a random visual vector and the speech of video N, or random speech if asked to."""

    def choose(misleading: bool) -> None:
        def encode(self: QueryEncoder, part: Any) -> dict[ModalityName, FloatArray]:
            number = int(part.text.split()[-1])
            said = unit(5000 + number)[0] if misleading else unit(number)[0]
            return {"visual": unit(3000 + number)[0], "speech": said, "text": unit(4000 + number)[0]}

        monkeypatch.setattr(QueryEncoder, "encode", encode)

    choose(False)
    return choose


QUESTIONS = [
    Question(f"q{n}", f"about {n}", (Relevant(f"v{n}.mp4", 1, ((0.0, 5.0),)),), "speech") for n in range(VIDEOS)
]


def write_questions(path: Path) -> Path:
    rows = [{"query_id": q.id, "query": q.text, "relevant": [{"video": q.relevant[0].video}]} for q in QUESTIONS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- folds ----------------------------------------------------------------------------------------------------------


@st.composite
def asked(draw: st.DrawFn) -> list[Question]:
    videos = st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True)
    return [
        Question(f"q{n}", "x", tuple(Relevant(f"v{video}") for video in draw(videos)))
        for n in range(draw(st.integers(MIN_HELD_OUT, 60)))
    ]


@settings(max_examples=30)
@given(asked(), st.integers(2, 6))
def test_training_and_held_out_questions_share_no_video(questions: list[Question], count: int) -> None:
    try:
        folds = split(questions, count)
    except UsageError:
        return
    held_out = [question.id for fold in folds for question in fold.held_out]
    assert len(held_out) == len(set(held_out)) >= MIN_HELD_OUT
    for fold in folds:
        videos = [
            {each.video for question in part for each in question.relevant} for part in (fold.train, fold.held_out)
        ]
        assert not videos[0] & videos[1]
        assert fold.train
        assert fold.held_out


def test_questions_about_one_video_each_are_all_held_out() -> None:
    assert sum(len(fold.held_out) for fold in split(QUESTIONS, 5)) == VIDEOS


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(UsageError, match="only 10 questions can be held out"):
        split(QUESTIONS[:10], 5)


# --- what trials say ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=15), st.integers(0, 1000))
def test_the_ndcg_of_a_trial_is_that_of_the_metrics(grades: list[int], seed: int) -> None:
    scores = np.random.default_rng(seed).permutation(2 * len(grades)).astype(float)
    grades[0] = max(grades[0], 1)
    trial = replace(
        trial_of([], [0.0] * len(scores)),
        firsts=np.arange(0, len(scores), 2),
        grades=np.array(grades, float),
        ideal=np.sort(np.array([float(g) for g in grades if g]))[::-1],
    )
    best = scores.reshape(-1, 2).max(axis=1)
    run = {"q": [f"v{at}" for at in np.argsort(-best)]}
    judged = {"q": {f"v{at}": grade for at, grade in enumerate(grades) if grade}}
    assert trial.ndcg(scores) == pytest.approx(score(judged, run, 10)["nDCG@10"]["q"])


def test_trials_rank_as_searches_do(planted: Path, encoded: Callable[[bool], None]) -> None:
    weights: dict[ModalityName, float] = {"visual": 1.0, "speech": 0.3, "text": 0.3}
    fusion = Fusion("concat", weights)
    trials = collect_trials(Library.open(planted), QUESTIONS, {f"v{n}.mp4": n + 1 for n in range(VIDEOS)}, fusion)
    own = np.array([weights[m] for m in trials.spec.order])
    [answers] = run_questions([Configuration("x", planted, fusion=fusion)], QUESTIONS)
    level = judge(QUESTIONS, answers, "video")
    assert level is not None
    assert 0.2 < mean_ndcg(trials, own, heads_of_nothing(trials)) < 0.95
    for trial in trials.each:
        assert trial.ndcg(trial.scores(own)) == pytest.approx(level.values["nDCG@10"][trial.question.id])
        assert trial.clips[trial.right].tolist() == [2 * int(trial.question.id[1:]) + 1]  # the clip of the span


def heads_of_nothing(trials: Trials) -> contrast.Matrices:
    return {(side, m): np.zeros((contrast.RANK, DIM)) for side in "AB" for m in trials.spec.order}


# --- what is learned ------------------------------------------------------------------------------------------------


def trial_of(right: Sequence[int], similar: Sequence[float], asked: FloatArray | None = None) -> Trial:
    """Return a trial over clips of different videos with visual similarities only."""
    n = len(similar)
    table = np.zeros((n, len(modality_names())))
    table[:, modality_names().index("visual")] = similar
    chosen: NDArray[np.bool_] = np.isin(np.arange(n), right)
    return Trial(
        Question("q", "x", (Relevant("v"),)),
        np.arange(n),
        np.arange(n),
        np.arange(n),
        table,
        np.zeros_like(table),
        chosen,
        chosen.astype(float),
        np.ones(max(1, len(right))),
        {} if asked is None else {"visual": asked},
        np.zeros(len(modality_names()), np.bool_),
    )


def spec_of(dim: int) -> JointSpec:
    zero = np.zeros(dim, np.float32)
    return JointSpec({m: ModalitySpec(zero, zero, 1.0, 1.0) for m in modality_names()})


def turned(count: int, seed: int) -> Trials:
    """Return trials over as many clips, each the answer of one question in another vector space."""
    generator = np.random.default_rng(seed)
    dim = 6
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0]
    questions = generator.standard_normal((count, dim)).astype(np.float32)
    said = np.asarray(questions @ turn, np.float32)
    each = [trial_of([at], generator.standard_normal(count).tolist(), questions[at]) for at in range(count)]
    none = np.zeros_like(said)
    vectors = {m: said if m == "speech" else none for m in modality_names()}
    return Trials(each, spec_of(dim), vectors, {at: at for at in range(count)})


def weighted(**weights: float) -> NDArray[np.float64]:
    """Return weights (n_modalities,), 0 where none is given."""
    return np.array([weights.get(m, 0.0) for m in modality_names()])


def test_heads_generalise_to_held_out_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "RATE", 0.01)
    monkeypatch.setattr(contrast, "STEPS", 60)
    heads = learn_heads(turned(30, 1), turned(10, 2), {"visual": 1.0}, seed=0)
    unseen = turned(20, 3)
    learned = {
        (side, m): head.astype(float)
        for side, of in zip("AB", (heads.clip, heads.query), strict=True)
        for m, head in of.items()
    }
    own = weighted(visual=1.0)
    assert (
        mean_ndcg(unseen, own, learned)
        > mean_ndcg(unseen, own, contrast._initial(unseen, np.random.default_rng(0))) + 0.2
    )


def test_heads_without_a_held_out_gain_add_nothing() -> None:
    train, other = turned(10, 1), turned(10, 2)
    shuffled = np.random.default_rng(4).standard_normal(other.vectors["speech"].shape)
    noise = replace(other, vectors={**other.vectors, "speech": shuffled.astype(np.float32)})
    perfect = replace(
        noise,
        each=[replace(t, similar=np.where(t.right[:, None], 9.0, 0.0) * weighted(visual=1.0)) for t in noise.each],
    )
    heads = learn_heads(train, perfect, {"visual": 1.0}, seed=0)
    assert not any(head.any() for head in heads.query.values())


def test_the_gradient_is_that_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "DROPPED", 0.0)
    trials = turned(3, 1)
    generator = np.random.default_rng(0)
    own = weighted(visual=1.0, speech=0.5, text=0.5)
    matrices = {
        key: generator.normal(size=matrix.shape) * 0.3 for key, matrix in contrast._initial(trials, generator).items()
    }

    def loss() -> float:
        shared = contrast._shared(trials, matrices)
        total = 0.0
        for trial in trials.each:
            query = contrast._shared_query(trial, matrices)
            z = trial.scores(own) + contrast._of(trial, trials, shared).sum(axis=1) @ query
            total += float(np.log(np.exp(z).sum()) - np.log(np.exp(z[trial.right]).sum()))
        return total / len(trials.each)

    gradients = contrast._gradients(trials, own, matrices, generator)
    for key in (("A", "speech"), ("B", "visual")):
        step = 1e-5
        before = matrices[key][2, 3]
        ends = []
        for value in (before - step, before + step):
            matrices[key][2, 3] = value
            ends.append(loss())
        matrices[key][2, 3] = before
        assert gradients[key][2, 3] == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-4)


def test_no_clip_loses_all_its_modalities() -> None:
    trials = [trial_of([0], [0.0] * 200)]
    [kept] = contrast._kept(trials, np.random.default_rng(0))
    assert kept.any(axis=1).all()
    assert 0.2 < 1 - kept.mean() < 0.4


def test_a_weight_without_a_gain_stays() -> None:
    none = Trials([trial_of([0], [1.0, 0.0])], spec_of(2), {}, {})
    start: dict[ModalityName, float] = {"visual": 1.0, "speech": 0.4, "screen": 0.4, "text": 0.4}
    assert learn_weights(none, start, "concat") == start


# --- the whole ------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any, trusted: list[Path] | None = None) -> Any:
    """Return the exit code of `vfindex tune`. trusted: collects the libraries that were calibrated again."""
    monkeypatch.setattr("sys.argv", ["vfindex", "tune", *map(str, arguments)])
    monkeypatch.setattr("vfindex.cli.commands.tune.calibrate_if_due", (trusted if trusted is not None else []).append)
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_winning_fusion_is_stored_and_can_be_reset(
    planted: Path,
    encoded: Callable[[bool], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    queries = write_questions(tmp_path / "q.jsonl")
    trusted: list[Path] = []
    assert run(monkeypatch, queries, "--folds", 2, "--library", planted, "--dry-run", trusted=trusted) == 0
    assert trusted == []
    dry = capsys.readouterr().out
    assert "24 questions, 24 of them held out" in dry
    assert "not stored (--dry-run); it would win" in dry
    assert stored(planted).weights == {}
    assert run(monkeypatch, queries, "--folds", 2, "--library", planted, "--json", trusted=trusted) == 0
    assert trusted == [planted]
    document = json.loads(capsys.readouterr().out)
    assert document["stored"]
    assert document["after"]["value"] > document["before"]["value"] + 0.3
    assert stored(planted).weights == document["weights"]
    assert document["weights"]["speech"] > 2 * 0.05 * document["weights"]["visual"]
    [answers] = run_questions([Configuration("x", planted)], QUESTIONS)
    level = judge(QUESTIONS, answers, "video")
    assert level is not None
    assert level.figures()["all"]["nDCG@10"].value > 0.9
    assert run(monkeypatch, "--reset", "--library", planted) == 0
    assert stored(planted).weights == {
        "visual": 1.0,
        "speech": pytest.approx(0.05, abs=1e-3),
        "text": pytest.approx(0.05, abs=1e-3),
    }


def test_a_fusion_that_does_not_win_is_not_stored(
    planted: Path,
    encoded: Callable[[bool], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoded(True)
    before = stored(planted).to_json()
    queries = write_questions(tmp_path / "q.jsonl")
    monkeypatch.setattr(contrast, "STEPS", 20)
    assert run(monkeypatch, queries, "--folds", 2, "--fusion", "learned", "--library", planted, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["fusion"], document["wins"], document["stored"]) == ("learned", False, False)
    assert run(monkeypatch, queries, "--folds", 2, "--fusion", "weighted", "--library", planted) == 0
    assert "not stored: P(gain) must be at least 0.9" in capsys.readouterr().out
    assert stored(planted).to_json() == before


def test_other_weights_need_a_new_calibration() -> None:
    before = Calibration(
        100, {"speech": ModalityCalibration(0.9, 30, 200, 0.4), "text": ModalityCalibration(0.5, 3, 0, 0.0)}
    )
    spec = spec_of(2).with_weights({"speech": 0.4})
    assert not _has_changed(before, 110, spec)
    assert _has_changed(before, 130, spec)
    assert _has_changed(before, 110, spec.with_weights({"speech": 0.5}))


def stored(folder: Path) -> Fusion:
    with Library.open(folder).snapshot() as snapshot:
        return LibraryMeta(snapshot).fusion


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give a file of queries"),
        (("q.jsonl", "--reset"), "--reset takes neither"),
        (("--reset", "--dry-run"), "neither"),
    ],
)
def test_wrong_usage_is_a_sentence(
    arguments: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert sentence in capsys.readouterr().err
