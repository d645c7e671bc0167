"""Evaluation over small libraries: names, moments, configurations, runs, and `vfindex eval`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from library_maker import DIM, add_video, axis, clip, install

from vfindex.cli.app import main
from vfindex.search.evaluation.datasets import Question, Relevant
from vfindex.search.evaluation.evaluate import (
    Configuration,
    JudgedHit,
    Labelled,
    Rankings,
    claim,
    differences,
    from_run,
    judge,
    labelled,
    locate,
    parse_configuration,
    run_questions,
)
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.writer import writing

# The question "3" asks for axis 3 in every modality.
SPOKEN = DIM - 1


@pytest.fixture(autouse=True)
def queries_are_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(self: QueryEncoder, query: Any) -> dict[str, Any]:
        return {m: axis(int(query.text.strip('" ')[0])) for m in ("visual", "speech", "text")}

    monkeypatch.setattr(QueryEncoder, "encode", encode)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a library of three videos: each has a visual axis of its own, the third also a speech axis."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        add_video(writer, "a.mp4", [clip(0, 5, visual=axis(0)), clip(5, 10, visual=axis(3))])
        add_video(writer, "b.mp4", [clip(0, 5, visual=axis(1))])
        add_video(writer, "c.mp4", [clip(0, 5, visual=axis(2), speech=axis(SPOKEN))])
        writer.publish()
    return folder


QUESTIONS = (
    Question("q0", "0", (Relevant("a", 2, ((0.0, 5.0),)),), "visual"),
    Question("q3", "3", (Relevant("a.mp4", 1, ((1.0, 5.0),)),), "visual"),
    Question("q7", str(SPOKEN), (Relevant("c.avi"),), "speech"),
    Question("none", "4", ()),
)


def test_a_library_is_judged_by_video_and_by_moment(library: Path) -> None:
    [answers] = run_questions([Configuration("default", library)], QUESTIONS)
    videos = judge(QUESTIONS, answers, "video")
    assert videos is not None
    assert videos.values["success@1"] == {"q0": 1, "q3": 1, "q7": 1}
    assert videos.groups == {"all": ["q0", "q3", "q7"], "speech": ["q7"], "visual": ["q0", "q3"]}
    moments = judge(QUESTIONS, answers, "moment IoU>=0.7")
    assert moments is not None
    assert moments.values["success@1"] == moments.values["recall@5"] == {"q0": 1, "q3": 0}, (
        "the right video at the wrong time is no moment"
    )
    assert len(answers.seconds) == 4 and not answers.refused and not answers.absent


def test_configurations_are_compared_on_the_same_questions(library: Path) -> None:
    deaf = parse_configuration("weight=speech=0", library)
    first, second = run_questions([Configuration("default", library), deaf], QUESTIONS)
    before, after = judge(QUESTIONS, first, "video"), judge(QUESTIONS, second, "video")
    assert before is not None and after is not None
    assert after.values["success@1"] == {"q0": 1, "q3": 1, "q7": 0}
    lost = differences(before, after)["success@1"]
    assert lost.value == pytest.approx(-1 / 3) and lost.p_gain < 0.5


def test_a_question_that_is_refused_counts_0(library: Path) -> None:
    questions = [*QUESTIONS[:1], Question("long", "1 " * 1500, (Relevant("b"),))]
    [answers] = run_questions([Configuration("default", library)], questions)
    level = judge(questions, answers, "video")
    assert list(answers.refused) == ["long"]
    assert level is not None and level.figures()["all"]["nDCG@10"].value == 0.5


def test_a_caption_is_searched_without_syntax(library: Path) -> None:
    quoted = Question("q", '"1"', (Relevant("b"),))
    captions = [replace(quoted, is_caption=True), quoted]
    found = [run_questions([Configuration("default", library)], [question])[0].hits["q"] for question in captions]
    assert found[0][0].video == "b" and found[1] == [], "as a question it is a phrase that nobody says"


def test_an_absent_video_is_reported_and_counts_0(library: Path) -> None:
    questions = [*QUESTIONS[:1], Question("gone", "1", (Relevant("z.mp4"),))]
    [answers] = run_questions([Configuration("default", library)], questions)
    assert answers.absent == ["z.mp4"]
    level = judge(questions, answers, "video")
    assert level is not None and level.values["MAP"]["gone"] == 0
    with pytest.raises(QueryError, match=r"holds no video .* such as z\.mp4"):
        run_questions([Configuration("default", library)], questions[1:])


PLACES = {
    b"/x/video7.mp4": 7,
    b"/y/video8.webm": 8,
    b"/x/same.mp4": 1,
    b"/y/same.mp4": 2,
    b"/z/copy.mp4": 7,
    b"/a\xff": 9,
}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("video7", 7),
        ("video7.mp4", 7),
        ("video7.avi", 7),
        ("copy", 7),
        ("y/video8", 8),
        ("/y/video8.webm", 8),
        ("/x/video8", None),
        ("video", None),
        ("x/same.mp4", 1),
        ("\ud800", None),
        ("a\udcff", 9),
    ],
)
def test_videos_are_located_by_published_names(name: str, found: int | None) -> None:
    assert locate([name], PLACES).get(name) == found


def test_a_name_of_two_videos_is_refused() -> None:
    with pytest.raises(UsageError, match="matches several videos"):
        locate(["same"], PLACES)


def test_a_moment_is_matched_once_by_the_first_hit_that_fits() -> None:
    moments = [Relevant("a", 1, ((0.0, 10.0),)), Relevant("b", 1, ((0.0, 10.0), (20.0, 30.0)))]
    hits = [
        JudgedHit("a", (5, 30)),
        JudgedHit("a", (0, 10)),
        JudgedHit("a", (0, 9)),
        JudgedHit("b", (20, 31)),
        JudgedHit("c", (0, 10)),
    ]
    assert claim(hits, moments, 0.5) == ["other 1", "moment 0", "other 3", "moment 1", "other 5"]


def test_a_moment_of_several_opinions_needs_two_that_agree() -> None:
    moment = Relevant("a", 1, ((0.0, 5.0), (0.0, 10.0), (0.0, 10.0)), agreeing=2)
    assert claim([JudgedHit("a", (0, 5))], [moment], 0.7) == ["other 1"]
    assert claim([JudgedHit("a", (0, 9))], [moment], 0.7) == ["moment 0"]


SECONDS = st.integers(0, 20)
PAIRS = st.tuples(SECONDS, st.integers(1, 20)).map(lambda pair: (float(pair[0]), float(sum(pair))))


@given(st.lists(PAIRS, max_size=6), st.lists(PAIRS, min_size=1, max_size=4), st.sampled_from([0.5, 0.7]))
def test_moments_claimed_are_those_whose_seconds_agree(
    hits: list[tuple[float, float]], spans: list[tuple[float, float]], iou: float
) -> None:
    moments = [Relevant("v", 1, (span,)) for span in spans]
    left = dict(enumerate(set(range(int(a), int(b))) for a, b in spans))
    for name, (start_s, end_s) in zip(claim([JudgedHit("v", hit) for hit in hits], moments, iou), hits, strict=True):
        seconds = set(range(int(start_s), int(end_s)))
        fits = {i: len(seconds & of) / len(seconds | of) for i, of in left.items()}
        fitting = {i for i, fit in fits.items() if fit >= iou and fit == max(fits.values())}
        assert name in {f"moment {i}" for i in fitting} or (not fitting and name.startswith("other"))
        left.pop(int(name.split()[1]), None) if name.startswith("moment") else None


@pytest.mark.parametrize(
    ("text", "weights", "top_k", "per_video"),
    [
        ("default", {}, 10, 1),
        ("weight=speech=0.2,text=0,top_k=50", {"speech": 0.2, "text": 0.0}, 50, 1),
        (" visual=2 , per_video = 3", {"visual": 2.0}, 10, 3),
    ],
)
def test_configurations(text: str, weights: dict[str, float], top_k: int, per_video: int) -> None:
    assert parse_configuration(text, Path("/l")) == Configuration(text, Path("/l"), weights, top_k, per_video)


def test_configurations_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"weight": {"speech": 0.5}, "top_k": 20, "library": "/o"}', encoding="utf-8")
    assert parse_configuration(str(path), Path("/l")) == Configuration(str(path), Path("/o"), {"speech": 0.5}, 20, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("speed=1", "has no 'speed=1'"),
        ("weight=speech=-1", "--config speech takes a number from 0"),
        ("speech=x", "takes a number"),
        ("top_k=0", "takes a whole number from 1"),
        ("top_k=1.5", "takes a whole number from 1"),
        ("top_k=nan", "takes a whole number from 1"),
        ("missing.json", "cannot be read"),
    ],
)
def test_a_wrong_configuration_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_configuration(text, Path("/l"))


@pytest.mark.parametrize("content", ["[1]", "{", '{"weight": 3}', "[" * 100_000])
def test_a_wrong_configuration_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.json"):
        parse_configuration(str(path), Path("/l"))


def test_a_run_is_judged_without_a_library() -> None:
    questions = [Question("1", "", (Relevant("x"),)), Question("2", "", (Relevant("y"),))]
    answers = from_run({"1": ["n", "x"]}, questions)
    level = judge(questions, answers, "video")
    assert level is not None and level.values["MRR"] == {"1": 0.5, "2": 0.0}
    assert judge(questions, Rankings({}, 10), "moment IoU>=0.5") is None
    with pytest.raises(QueryError, match="none of the questions"):
        from_run({"9": ["x"]}, questions)


def test_labels_are_compared_with_relevance() -> None:
    found = {"q0": [JudgedHit("a")], "q3": [JudgedHit("b")], "q7": [JudgedHit("c.avi")], "none": [JudgedHit("a")]}
    answers = Rankings(found, 10, labels={"q0": "high", "q3": "high", "none": "low"})
    counts = labelled(QUESTIONS, answers)
    assert (counts["high"], counts["low"], counts["none"]) == (Labelled(1, 1, 0), Labelled(0, 0, 1), Labelled())
    assert labelled(QUESTIONS, replace(answers, labels={})) == {}


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def invoke(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vfindex", "eval", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return invoke


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    lines = [
        {"query_id": "q0", "query": "0", "relevant": [{"video": "a.mp4", "start": 0, "end": 5}], "modality": "visual"},
        {"query_id": "q7", "query": str(SPOKEN), "relevant": [{"video": "c.mp4"}], "modality": "speech"},
        {"query_id": "none", "query": "4", "relevant": []},
    ]
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_the_command_as_json(run: Any, library: Path, queries: Path) -> None:
    code, out, _ = run(queries, "--library", library, "--config", "default", "--config", "speech=0", "--json")
    document = json.loads(out)
    assert (code, document["questions"], document["without_answer"]) == (0, 3, 1)
    first, second = document["configurations"]
    assert (first["name"], first["depth"], second["name"]) == ("default", 10, "speech=0")
    assert set(first["latency_ms"]) == {"p50", "p90", "p99"}
    assert first["labels"] == {}, "nothing was measured of this library"
    assert first["levels"]["video"]["speech"]["MRR"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert second["levels"]["video"]["speech"]["success@1"]["value"] == 0
    assert list(first["levels"]) == ["video", "moment IoU>=0.3", "moment IoU>=0.5", "moment IoU>=0.7"]
    assert first["levels"]["moment IoU>=0.5"]["all"]["questions"] == 1
    [video, *_] = document["differences"]
    assert (video["from"], video["to"], video["level"]) == ("default", "speech=0", "video")
    assert video["measures"]["success@1"]["value"] == -0.5


def test_the_command_as_text(run: Any, library: Path, queries: Path) -> None:
    code, out, _ = run(queries, "--library", library, "--config", "default", "--config", "speech=0")
    assert code == 0
    assert "3 questions, 1 of them without an answer" in out
    assert "success@1     1.000 [1.000, 1.000]" in out and "all (2)" in out
    assert "== speech=0 against default, video, the same 2 questions" in out
    assert "latency p50 " in out


def test_the_command_judges_runs(run: Any, tmp_path: Path) -> None:
    for name, text in (("qrels", "1 0 x 1\n"), ("one", "1 Q0 n 1 2 t\n1 Q0 x 2 1 t\n"), ("two", "1 Q0 x 1 1 t\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    arguments = (tmp_path / "qrels", "--run", tmp_path / "one", "--run", tmp_path / "two", "--json")
    document = json.loads(run(*arguments)[1])
    assert [c["levels"]["video"]["all"]["MRR"]["value"] for c in document["configurations"]] == [0.5, 1.0]
    assert document["differences"][0]["measures"]["MRR"]["value"] == 0.5
    assert set(document["configurations"][0]["levels"]) == {"video"} and not document["configurations"][0]["latency_ms"]


def test_refused_options(run: Any, tmp_path: Path, library: Path, queries: Path) -> None:
    (tmp_path / "qrels").write_text("1 0 a 1\n", encoding="utf-8")
    (tmp_path / "blank").write_text('{"query": "a", "relevant": []}', encoding="utf-8")
    at = ("--library", library)
    assert run(tmp_path / "qrels", *at)[0] == 2
    assert "there is nothing to measure" in run(tmp_path / "blank", *at)[2]
    assert "one of them" in run(queries, *at, "--config", "default", "--run", tmp_path / "x")[2]
    assert "given twice" in run(queries, *at, "--config", "default", "--config", "default")[2]
    assert run(tmp_path / "absent.jsonl", *at)[0] == 1
