"""Readers of published collections; wrong files raise one sentence with the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media import media_folder

from vfindex.search.evaluation.datasets import Question, Relevant, read_questions, read_run
from vfindex.storage.errors import QueryError, UsageError, VfindexError

OURS = """\
{"query_id": "p1", "query": "a dog", "relevant": [{"video": "a.mp4", "grade": 2, "start": 1.5, "end": 4}], \
"modality": "visual", "scope": "broad", "split": "test"}

{"query": " rain ", "relevant": [{"video": "b.mp4", "segments": [[0, 1], [4, 6]], "start": 4, "end": 6}, \
{"video": "c"}]}
{"query_id": "none", "query": "a walrus", "relevant": []}
"""
MSRVTT = """\
key,vid_key,video_id,sentence
ret0,msr9770,video9770,a person is connecting something to system
ret1,msr9771,video9771,"a little girl, running"
"""
MSVD_CSV = """\
VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description
mv89psg6zh4,33,46,588702,unverified,55,Slovene,"Papagaj se umiva."
mv89psg6zh4,33,46,362812,unverified,35,English,A bird in a sink keeps getting under the running water.
"""
MSVD_TEXT = """\
# some words about licences
-4wsuPCjDBc_5_15 a squirrel is eating a peanut in it's shell
PD6eQY7yCfw_32_37 the dog sat
"""
DIDEMO = [
    {
        "annotation_id": 83,
        "description": "first time the woman looks down",
        "video": "12090392@N02_13482799053_87ef417396.mov",
        "times": [[0, 0], [0, 1], [5, 5]],
        "num_segments": 6,
    }
]
ACTIVITYNET = {
    "v_uqiMw7tQ1Cc": {
        "duration": 55.15,
        "timestamps": [[0.28, 55.15], [13.79, 13.0]],
        "sentences": [" A weight lifting tutorial is given.", " The coach helps the guy in red. "],
    }
}
QRELS = "1501 0 shot1_1 2\n1501 0 shot1_2 0\n1501 0 shot1_3 -1\n1502 0 shot9_9 1\n"


def write(folder: Path, text: str | bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_our_own_form(tmp_path: Path) -> None:
    first, second, third = read_questions(write(tmp_path, OURS))
    assert first == Question("p1", "a dog", (Relevant("a.mp4", 2, ((1.5, 4.0),)),), "visual", "broad", "test")
    assert second.id == "3" and second.text == "rain"
    assert second.relevant == (Relevant("b.mp4", 1, ((0.0, 1.0), (4.0, 6.0))), Relevant("c"))
    assert third.relevant == ()
    assert read_questions(tmp_path / "file", split="test") == [first]


def test_the_public_collection_is_read_whole() -> None:
    path = media_folder("public") / "queries.jsonl"
    questions = read_questions(path)
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [question.text for question in questions] == [each["query"] for each in written]
    timed = sum("start" in relevant for each in written for relevant in each["relevant"])
    assert sum(bool(each.spans) for question in questions for each in question.relevant) == timed > 100


def test_msr_vtt(tmp_path: Path) -> None:
    first, second = read_questions(write(tmp_path, MSRVTT.replace("\n", "\r\n")))
    assert (first.id, first.relevant) == ("ret0", (Relevant("video9770"),))
    assert second.text == "a little girl, running"


def test_msvd_as_a_table_and_as_lines(tmp_path: Path) -> None:
    [bird] = read_questions(write(tmp_path, MSVD_CSV))
    assert bird.relevant == (Relevant("mv89psg6zh4_33_46"),)
    lines = write(tmp_path, MSVD_TEXT, "AllVideoDescriptions.txt")
    assert [question.relevant[0].video for question in read_questions(lines)] == [
        "-4wsuPCjDBc_5_15",
        "PD6eQY7yCfw_32_37",
    ]
    write(tmp_path, "PD6eQY7yCfw_32_37\n", "test_list.txt")
    [dog] = read_questions(lines, split="test")
    assert dog.text == "the dog sat"
    with pytest.raises(QueryError, match=r"train_list\.txt cannot be read"):
        read_questions(lines, split="train")
    with pytest.raises(UsageError, match="a split is a name"):
        read_questions(lines, split="../test")


def test_didemo_counts_chunks_of_five_seconds(tmp_path: Path) -> None:
    [question] = read_questions(write(tmp_path, json.dumps(DIDEMO)))
    video = "12090392@N02_13482799053_87ef417396.mov"
    assert question.relevant == (Relevant(video, 1, ((0.0, 5.0), (0.0, 10.0), (25.0, 30.0)), agreeing=2),)
    [one] = read_questions(write(tmp_path, json.dumps([{**DIDEMO[0], "times": [[1, 4]]}])))
    assert one.relevant[0].spans == ((5.0, 25.0),) and one.relevant[0].agreeing == 1


@pytest.mark.parametrize("indent", [None, 1])
def test_activitynet_captions(tmp_path: Path, indent: int | None) -> None:
    first, second = read_questions(write(tmp_path, json.dumps(ACTIVITYNET, indent=indent)))
    assert first.relevant == (Relevant("v_uqiMw7tQ1Cc", 1, ((0.28, 55.15),)),)
    assert second.relevant == (Relevant("v_uqiMw7tQ1Cc"),), "times that run backwards judge nothing"
    [whole] = read_questions(tmp_path / "file", paragraphs=True)
    assert whole.text == "A weight lifting tutorial is given. The coach helps the guy in red."
    assert whole.relevant == (Relevant("v_uqiMw7tQ1Cc"),)


def test_trec_qrels_and_runs(tmp_path: Path) -> None:
    first, second = read_questions(write(tmp_path, QRELS))
    assert first.relevant == (Relevant("shot1_1", 2),) and second.id == "1502"
    run = "1 Q0 a 1 0.5 us\n1 Q0 b 2 0.9 us\n1 Q0 c 3 0.5 us\n2 Q0 a 1 1e3 us\n"
    assert read_run(write(tmp_path, run)) == {"1": ["b", "c", "a"], "2": ["a"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "in no supported format"),
        (b"\x80\x04\x95pickle", "line 1: it is not text in UTF-8"),
        (b'{"query": "a", "relevant": []}\n\xff\n', "line 2: it is not text in UTF-8"),
        ("hello world\n", "in no supported format"),
        ('{"video": "a.mp4", "label": "b"}\n{"video": "c.mp4", "label": "d"}\n', "has labelled videos"),
        ("label,youtube_id,time_start\nb,abc,1\n", "has labelled videos, not queries: eval takes it with --task"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n", "has labelled videos"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n", "has labelled videos"),
        ('{"name": "x", "classes": ["a", "b"]}', "is a file of classes, not of queries; label takes it"),
        ('{"name": "x",\n "classes": ["a", "b"]}', "is a file of classes"),
        ('["a", {"name": "b"}]', "is a file of classes"),
        ('{"query": "a", "relevant": []}\n{"query": "b", "relevant": [', "line 2: it is not JSON"),
        ('{"query": "a", "relevant": []}\n[1]\n', "line 2: a JSON object"),
        ('{"query": "", "relevant": []}', 'line 1: "query" must be a non-empty text'),
        ('{"query": 7, "relevant": []}', 'line 1: "query" must be a non-empty text'),
        ('{"query": "a"}', 'line 1: "relevant" must be a list'),
        ('{"query": "a", "relevant": [3]}', "line 1: a JSON object"),
        ('{"query": "a", "relevant": [{"video": "v", "grade": 1.5}]}', "line 1: a grade is a whole number"),
        ('{"query": "a", "relevant": [{"video": "v", "grade": true}]}', "line 1: a grade is a whole number"),
        ('{"query": "a", "relevant": [{"video": "v", "start": 2, "end": 1}]}', "line 1: a span must end after"),
        ('{"query": "a", "relevant": [{"video": "v", "start": NaN, "end": 1}]}', "line 1: a span is"),
        ('{"query": "a", "relevant": [{"video": "v", "start": 0, "end": 1e999}]}', "line 1: a span is"),
        ('{"query": "a", "relevant": [{"video": "v"}, {"video": "v"}]}', "line 1: a video is given twice"),
        ('{"query_id": "x", "query": "a", "relevant": []}\n' * 2, "line 2: the question 'x' is given twice"),
        ('{"query": "a", "relevant": ' + "[" * 100_000, "line 1: it"),
        ("[" * 100_000, "line 1: it"),
        ('{"query": "a", "relevant": [{"video": "v", "grade": ' + "9" * 5000 + "}]}", "line 1: its JSON is too large"),
        ("key,vid_key,video_id,sentence\nret0,msr1,video1,\n", 'line 2: "sentence" must be a non-empty text'),
        ("key,vid_key,video_id,sentence\nret0\n", 'line 2: "sentence" must be a non-empty text'),
        ("key,vid_key,video_id,sentence\nr,m,v," + "x" * 200_000 + "\n", "line 2: it is not CSV"),
        ("a_1_2 words\nb_1_2\n", "line 2: a video's name and a sentence"),
        ('[{"video": "v", "description": "d", "times": []}]', 'entry 1: "times" must be a list'),
        ('[{"video": "v", "description": "d", "times": [["a", 1]]}]', "entry 1: a span is"),
        ('[{"video": "v", "description": "d", "times": [[3, 1]]}]', "entry 1: a span must end after"),
        ('{"v": {"timestamps": [[0, 1]], "sentences": []}}', "sentence 1: 'v' must have as many"),
        ("1 0 a 1\n1 0 a 1\n", "line 2: the document 'a' is given twice"),
        ("1 0 a 1\n1 0 a x\n", "line 2: TREC qrels have four columns"),
    ],
)
def test_a_wrong_file_raises_one_sentence_with_the_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        read_questions(write(tmp_path, text))
    assert says in str(caught.value)
    assert str(tmp_path / "file") in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("1 Q0 a 1 0.5\n", "line 1: a TREC run has six columns"),
        ("1 Q0 a 1 0.5 t\n1 Q0 b 1 nan t\n", "line 2: the score is 'nan'"),
        ("1 Q0 a 1 0.5 t\n1 Q0 a 2 0.4 t\n", "line 2: the document 'a' is given twice"),
    ],
)
def test_a_wrong_run_raises_one_sentence_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(QueryError, match="file") as caught:
        read_run(write(tmp_path, text))
    assert says in str(caught.value)


def test_missing_splits_and_paragraphs_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, OURS)
    with pytest.raises(UsageError, match="no split 'val'; there are test"):
        read_questions(path, split="val")
    with pytest.raises(UsageError, match="neither"):
        read_questions(path, paragraphs=True)
    with pytest.raises(UsageError, match="none of its questions names a split"):
        read_questions(write(tmp_path, QRELS), split="test")
    with pytest.raises(QueryError, match="cannot be read"):
        read_questions(tmp_path)


FORMS = [OURS, MSRVTT, MSVD_CSV, MSVD_TEXT, json.dumps(DIDEMO), json.dumps(ACTIVITYNET), QRELS]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FORMS), st.integers(0, 400), st.integers(0, 40), st.binary(max_size=12))
def test_a_damaged_file_gives_questions_or_a_query_error(
    tmp_path: Path, form: str, at: int, length: int, instead: bytes
) -> None:
    data = form.encode()
    path = write(tmp_path, data[:at] + instead + data[at + length :])
    try:
        questions = read_questions(path)
    except VfindexError as exc:
        assert str(path) in str(exc)
    else:
        assert len({question.id for question in questions}) == len(questions) > 0
