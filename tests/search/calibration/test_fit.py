"""Confidence labels: in a library with planted relevance, and the calibration over plain numbers."""

from __future__ import annotations

import atexit
import gc
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from library_maker import SETUP, add_video, prior

from vfindex.cli.app import main
from vfindex.search.calibration.fit import TopScore, auc, calibrate_if_changed, fit, items_for, shortened
from vfindex.search.calibration.known_items import TITLE, KnownItem
from vfindex.search.calibration.labels import (
    LABELS,
    META_KEY,
    MIN_ITEMS,
    SCORES,
    Calibration,
    Label,
    Labeller,
    ModalityCalibration,
    open_weights,
)
from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Part
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.parser import parse
from vfindex.search.results import Hit
from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.joint.vector import JointSpec, ModalitySpec
from vfindex.storage.library import Library
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import Clip, FloatArray, Segment
from vfindex.storage.writer import writing

# --- planted relevance ----------------------------------------------------------------------------------------------

DIM, VIDEOS = 24, 60
BANK = [f"elsewhere {number}" for number in range(60)]
# AUC -> cosine of a question with the clip that answers it, beside noise. The AUC that is measured is compared.
PLANTED = {0.5: 0.0, 0.7: 0.545, 0.9: 0.69, 0.99: 0.81}


def direction(seed: str) -> FloatArray:
    vector = np.random.default_rng(zlib.crc32(seed.encode())).normal(size=DIM)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library of one spoken clip per video, each with its own vector."""
    folder = tmp_path_factory.mktemp("planted")
    none = np.zeros((0, DIM), np.float32)
    with writing(folder) as writer:
        writer.install(replace(SETUP, word_weight=0.0), {"speech": prior(DIM)}, {})
        for number in range(VIDEOS):
            spoken = Clip(0.0, 5.0, 0.0, {"speech": direction(f"video {number}")}, none, np.zeros(0))
            words = " ".join(f"about{number}x{letter}" for letter in "abcde")
            add_video(writer, f"v{number}", [spoken], [Segment(0, 2, words, "sidecar")])
        writer.publish()
    return folder


def plant(monkeypatch: pytest.MonkeyPatch, cosine: float) -> None:
    """Let queries that start with "aboutN" match the clip of video N with this cosine, and others none."""

    def encode(self: QueryEncoder, part: Part) -> dict[str, FloatArray]:
        number, _, _ = part.text.removeprefix("about").partition("x")
        strength = cosine if part.text.startswith("about") else 0.0
        return {"speech": strength * direction(f"video {number}") + math.sqrt(1 - strength**2) * direction(part.text)}

    monkeypatch.setattr(QueryEncoder, "encode", encode)


def stored(folder: Path) -> Calibration:
    with Library.open(folder).snapshot() as snapshot:
        calibration = Calibration.from_json(snapshot.get(META_KEY))
    assert calibration is not None
    return calibration


def ask(engine: SearchEngine, questions: list[str]) -> list[Hit]:
    return [engine.search(question, top_k=1)[0] for question in questions]


@pytest.mark.parametrize("separation", PLANTED)
def test_reliable_modalities_give_correct_labels(
    folder: Path, monkeypatch: pytest.MonkeyPatch, separation: float
) -> None:
    plant(monkeypatch, PLANTED[separation])
    with writing(folder) as writer:
        writer.catalog.put(META_KEY, Calibration(0, {}).to_json())
    calibrate_if_changed(folder, BANK, lambda _: None)
    trust = stored(folder).modalities["speech"]
    assert trust.auc == pytest.approx(separation, abs=0.05)
    assert (trust.known, trust.background) == (VIDEOS, len(BANK))

    engine = SearchEngine.open(folder)
    asked = 45 if separation > 0.8 else 5
    answerable = ask(engine, [f"about{number}x fresh" for number in range(asked)])
    others = ask(engine, [f"nowhere {number}" for number in range(asked)])
    labels = [hit.confidence for hit in answerable + others]
    if separation < 0.8:
        assert set(labels) == {None}
        return
    assert {"high", "none"} <= set(labels) <= set(LABELS)
    right = [hit.video == f"/videos/v{number}".encode() for number, hit in enumerate(answerable)]
    high = [ok for ok, hit in zip(right, answerable, strict=True) if hit.confidence == "high"]
    high += [False for hit in others if hit.confidence == "high"]
    assert len(high) >= asked / 8 and np.mean(high) >= 0.95
    assert np.mean([hit.confidence == "none" for hit in answerable]) <= 0.10
    assert np.mean([hit.confidence == "none" for hit in others]) >= (0.25 if separation == 0.9 else 0.80)


def test_a_library_is_calibrated_again_only_after_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, 0.9)
    messages: list[str] = []
    for clips, times in ((VIDEOS, 0), (int(VIDEOS * 0.9), 0), (int(VIDEOS * 0.7), 1)):
        with writing(folder) as writer:
            writer.catalog.put(META_KEY, Calibration(clips, {}).to_json())
        calibrate_if_changed(folder, BANK[:5], messages.append)
        assert len(messages) == times
    assert stored(folder).clips == VIDEOS


def test_a_damaged_calibration_is_measured_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search advises to ingest again, which refused it as well."""
    plant(monkeypatch, 0.9)
    with writing(folder) as writer:
        writer.catalog.put(META_KEY, "[1")
    calibrate_if_changed(folder, BANK[:5], lambda _: None)
    assert stored(folder).clips == VIDEOS


# --- the rule -------------------------------------------------------------------------------------------------------

VALUES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


@given(VALUES, VALUES)
def test_auc_is_the_share_of_pairs_in_order(above: list[float], below: list[float]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a in above for b in below]
    assert auc(np.asarray(above), np.asarray(below)) == pytest.approx(np.mean(pairs))


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), max_size=30),
    st.lists(st.floats(-1e3, 1e3), max_size=30),
)
def test_thresholds_are_always_ordered(known: list[tuple[float, bool]], null: list[float]) -> None:
    trust = fit([TopScore(score, right) for score, right in known], null)
    assert 0 <= trust.auc <= 1
    assert trust.low <= trust.medium <= trust.high
    assert Calibration.from_json(Calibration(3, {"text": trust}).to_json()) == Calibration(3, {"text": trust})


def normal(separation: float, known: int, seed: int) -> ModalityCalibration:
    """Return the calibration of normally distributed scores, `separation` standard deviations apart."""
    generator = np.random.default_rng(seed)
    own = [TopScore(score, True) for score in generator.normal(separation, 1, known)]
    return fit(own, generator.normal(0, 1, 200).tolist())


def test_the_precision_of_high_over_many_libraries() -> None:
    # At d' = 1.812 the AUC is 0.9; the point where odds of 19 to 1 are reached lies at ln(19) / d' + d' / 2 = 2.53.
    trusts = [normal(1.812, 200, seed) for seed in range(40)]
    assert np.median([trust.high for trust in trusts]) == pytest.approx(2.53, abs=0.2)
    assert np.median([trust.medium for trust in trusts]) == pytest.approx(0.906, abs=0.1)
    fresh = np.random.default_rng(99)
    own, null = fresh.normal(1.812, 1, 20_000), fresh.normal(0, 1, 20_000)
    precision = [np.mean(own >= t.high) / (np.mean(own >= t.high) + np.mean(null >= t.high)) for t in trusts]
    assert np.mean(precision) >= 0.96
    assert max(np.mean(own < trust.low) for trust in trusts) <= 0.10


def test_wrong_hits_raise_the_thresholds() -> None:
    generator = np.random.default_rng(5)
    null = generator.normal(0, 1, 200).tolist()
    scores = generator.normal(4, 1, 200)
    sure = fit([TopScore(score, True) for score in scores], null)
    half = fit([TopScore(score, number % 2 == 0) for number, score in enumerate(scores)], null)
    assert sure.high < 4 and half.high > scores.max(), "where half of what is found is wrong, nothing is high"


def test_too_few_items_or_a_low_auc_give_no_labels() -> None:
    assert not normal(5.0, MIN_ITEMS - 1, 0).is_reliable and normal(5.0, MIN_ITEMS, 0).is_reliable
    assert not normal(0.7, 200, 0).is_reliable
    assert not fit([], [1.0]).is_reliable and not fit([TopScore(1.0, True)], []).is_reliable
    assert "(19 known items" in normal(5.0, MIN_ITEMS - 1, 0).reason()
    assert "; 0.8 is needed" in normal(0.7, 200, 0).reason()
    assert normal(5.0, 200, 0).reason() == "labelled (AUC 1.00 over 200 known items)"


def spec(**weights: float) -> JointSpec:
    zero = np.zeros(2, np.float32)
    return JointSpec({m: ModalitySpec(zero, zero, 1.0, w) for m, w in weights.items()})  # type: ignore[misc]


TELLS = ModalityCalibration(0.95, 100, 200, 1.0, low=1.0, medium=2.0, high=3.0)
MUTE = ModalityCalibration(0.55, 100, 200, 1.0)


@pytest.mark.parametrize(
    ("text", "weights", "scores", "label"),
    [
        ("a dog", {"visual": 1, "speech": 1}, {"visual": 9.0, "speech": 3.5}, "high"),
        ("a dog", {"visual": 1, "speech": 1}, {"visual": 9.0, "speech": 0.5}, None),
        ("a dog", {"visual": 1, "speech": 1}, {"visual": 9.0, "speech": None}, None),
        ("a dog", {"visual": 0, "speech": 1}, {"speech": 0.5}, "none"),
        ("a dog", {"visual": 0, "speech": 1}, {"speech": 1.5}, "low"),
        ("a dog", {"visual": 0, "speech": 1}, {"visual": 9.0, "speech": 2.5}, "medium"),
        ("a dog", {"visual": 0, "speech": 0.5}, {"speech": 9.0}, None),
        ("said:dog", {"visual": 1, "speech": 1}, {"speech": 0.5}, "none"),
        ("shown:dog", {"visual": 1, "speech": 1}, {"visual": 9.0}, None),
        ("2:dog park", {"visual": 0, "speech": 1}, {"speech": 9.0}, None),
        ("dog -cat", {"visual": 0, "speech": 1}, {"speech": 9.0}, None),
        ("dog then cat within 5s", {"visual": 0, "speech": 1}, {"speech": 9.0}, None),
    ],
)
def test_the_label_of_a_hit(
    text: str, weights: dict[str, float], scores: dict[ModalityName, float | None], label: Label | None
) -> None:
    stored = Calibration(9, {"visual": MUTE, "speech": TELLS}).to_json()
    assert Labeller.of([stored], parse(text), open_weights(spec(**weights))).label(scores) == label
    assert Labeller.of([None], parse(text), open_weights(spec(**weights))).label(scores) is None


@pytest.mark.parametrize(
    ("others", "label"),
    [
        ([], "high"),
        ([replace(TELLS, low=3.0, medium=4.0, high=5.0)], "low"),
        ([replace(TELLS, known=3, high=9.0)], "high"),  # too few known items to tell
        ([replace(TELLS, auc=0.6)], None),
        ([None], None),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_label_holds_in_every_library(
    others: list[ModalityCalibration | None], label: Label | None, order: int
) -> None:
    each = [TELLS, *others][::order]
    stored = [None if of is None else Calibration(9, {"speech": of}).to_json() for of in each]
    labeller = Labeller.of(stored, parse("said:dog"), open_weights(spec(speech=1)))
    assert labeller.label({"speech": 3.5}) == label
    assert (labeller.share({"speech": 3.5}) is None) == (label is None)


@pytest.mark.parametrize("modality", ["visual", "audio"])
def test_images_and_sounds_are_calibrated_by_titles_alone(modality: ModalityName) -> None:
    said, shown = (
        [KnownItem(f"{name} {n}", "f", source, name) for n in range(30)]
        for name, source in (("speech", "asr"), ("screen", "frames"))
    )
    titles = [KnownItem(f"title {n}", "f", TITLE, "text") for n in range(30)]
    assert items_for(modality, [*said, *shown]) == []
    assert items_for(modality, [*said, *shown, *titles]) == titles
    assert items_for("speech", [*said, *shown, *titles]) == said
    assert items_for("screen", [*said, *shown, *titles]) == shown


def test_a_calibration_of_other_scores_is_ignored() -> None:
    old = json.loads(Calibration(9, {"speech": TELLS}).to_json()) | {"scores": SCORES - 1}
    assert Calibration.from_json(json.dumps(old)) is None and Calibration.from_json(None) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"clips": 1, "scores": 1, "trust": {"speech": {}}}', json.dumps({"clips": None})]
)
def test_a_damaged_calibration_is_reported(text: str) -> None:
    with pytest.raises(LibraryDamaged, match="run: vfindex ingest again"):
        Calibration.from_json(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("so what we want to do now is take a look at the second part of the garden", "now look part"),
        ("Holiday in Rome 2019", "Holiday Rome"),
        ("2019", "2019"),
        ("a dog", "dog"),
    ],
)
def test_known_items_are_shortened_to_content_words(text: str, kept: str) -> None:
    assert shortened(text) == kept


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def invoke(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vfindex", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        atexit.unregister(gc.freeze)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return invoke


def test_the_command_reports_that_there_is_no_confident_match(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    plant(monkeypatch, 1.0)
    best = SearchEngine.open(folder).search("about7x")[0].score
    strict, mild = (ModalityCalibration(0.99, 60, 100, 1.0, *[best + by] * 3) for by in (0.1, -0.1))
    at = ("--library", folder)

    def store(trust: ModalityCalibration) -> None:
        with writing(folder) as writer:
            writer.catalog.put(META_KEY, Calibration(VIDEOS, {"speech": trust}).to_json())

    store(strict)
    assert run("search", "about7x", *at) == (
        1,
        "",
        "no confident match; --all shows the closest clips\n",
    )
    nothing = json.loads(run("search", "about7x", *at, "--json")[1])
    assert (nothing["confident"], nothing["hits"]) == (False, [])
    shown = json.loads(run("search", "about7x", *at, "--json", "--min-confidence", "none")[1])
    assert {hit["confidence"] for hit in shown["hits"]} == {"none"} and shown["confident"] is False
    store(mild)
    found = json.loads(run("search", "about7x", *at, "--json", "--min-confidence", "high")[1])
    assert found["hits"][0]["video"] == "/videos/v7" and found["confident"] is True
    assert {hit["confidence"] for hit in found["hits"]} == {"high"}
    status = json.loads(run("status", *at, "--json")[1])
    assert status["confidence"] == {
        "speech": {"labelled": True, "auc": 0.99, "questions": 60, "reason": mild.reason()},
    }
    assert "confidence  speech: labelled (AUC 0.99 over 60 known items)" in run("status", *at)[1]


def test_hits_without_labels_are_shown_unless_labels_are_required(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    plant(monkeypatch, 1.0)
    with writing(folder) as writer:
        writer.catalog.put(META_KEY, Calibration(VIDEOS, {"speech": MUTE}).to_json())
    plain = json.loads(run("search", "about7x", "--library", folder, "--json")[1])
    assert plain["confident"] is None and len(plain["hits"]) == 10
    assert (
        json.loads(run("search", "about7x", "--library", folder, "--json", "--min-confidence", "low")[1])["hits"] == []
    )
