"""Readers of the files of test collections: questions with their relevant videos, and runs.

Formats: ours (JSON lines), MSR-VTT 1k-A (csv), MSVD (csv or AllVideoDescriptions.txt), DiDeMo and ActivityNet
Captions (JSON), TREC qrels; and TREC runs. docs/evaluation.md shows a line of each.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfindex.search.evaluation.metrics import Span
from vfindex.storage.db.locations import paths_by_fingerprint
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.files.permissions import USER_DATABASE
from vfindex.storage.files.regular import read_file
from vfindex.storage.library import Library
from vfindex.storage.modalities import frame_modality
from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Mark

# The largest collection, ActivityNet Captions, has 10 MB; a larger file is something else.
MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_GRADE = 1_000
# DiDeMo's times are chunks of 5 s (Hendricks et al. 2017, section 4).
DIDEMO_CHUNK_S = 5.0
# A hit matches a moment of DiDeMo if it fits at least two annotators (Escorcia et al. 2019, arXiv 1907.12763).
DIDEMO_AGREEING = 2


@dataclass(frozen=True, slots=True)
class Relevant:
    """A relevant video. video: its file name, with or without folder and extension. grade: 1 or more.

    spans: relevant spans in seconds of the file's clock, any of which is an answer; () if not judged. agreeing: the
    number of spans that a hit must fit, if they are several annotators' opinions of one moment.
    """

    video: str
    grade: int = 1
    spans: tuple[Span, ...] = ()
    agreeing: int = 1


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its relevant videos, which may be none. text: "" for qrels.

    modality, scope, split: as in the file, "" if missing. is_caption: a sentence about a video, without syntax.
    """

    id: str
    text: str
    relevant: tuple[Relevant, ...]
    modality: str = ""
    scope: str = ""
    split: str = ""
    is_caption: bool = False


def read_questions(path: Path, *, split: str | None = None, paragraphs: bool = False) -> list[Question]:
    """Return the questions of a file in its order; the format is recognised by the content.

    `user.db` of a library: the questions that people judged in it, in order of their first judgement.

    split: only this part. paragraphs: join all sentences about a video (DiDeMo, ActivityNet Captions) into one
    question, as in papers on video retrieval. Raises QueryError with the wrong line, UsageError for a split or
    paragraphs that the file does not have.
    """
    if path.name == USER_DATABASE:
        return _from_marks(path, split=split, paragraphs=paragraphs)
    text = _read(path)
    read = _form(path, text)
    questions = list(_unique(path, read(path, text)))
    if paragraphs:
        questions = _joined(path, questions, read)
    if split is not None:
        questions = _part(path, questions, split, read)
    if not questions:
        raise QueryError(f"{path} has no questions")
    return questions


def read_run(path: Path) -> dict[str, list[str]]:
    """Return question id -> documents, best first, of a TREC run file: `topic Q0 document rank score tag` a line.

    As in trec_eval, the order is by score, ties by document name in reverse; the rank column is ignored. Raises
    QueryError with the wrong line.
    """
    scores: dict[str, dict[str, float]] = {}
    for number, line in _lines(_read(path)):
        fields = line.split()
        if len(fields) != 6:
            raise _wrong(path, number, "a TREC run has six columns: topic, Q0, document, rank, score, tag")
        value = _float(fields[4])
        if value is None:
            raise _wrong(path, number, f"the score is {fields[4]!r}, not a number")
        if fields[2] in scores.setdefault(fields[0], {}):
            raise _wrong(path, number, f"the document {fields[2]!r} is given twice for topic {fields[0]!r}")
        scores[fields[0]][fields[2]] = value
    if not scores:
        raise QueryError(f"{path} is empty; a TREC run has one line per hit")
    return {topic: [d for d, _ in sorted(of.items(), key=_by_score, reverse=True)] for topic, of in scores.items()}


def _by_score(pair: tuple[str, float]) -> tuple[float, str]:
    return pair[1], pair[0]


def _from_marks(path: Path, *, split: str | None, paragraphs: bool) -> list[Question]:
    """Return the judged questions of a library, of a clip the newest judgement; missing videos are left out.

    Raises QueryError without a judgement, UsageError for parts that judgements do not have, LibraryError.
    """
    if split is not None or paragraphs:
        raise UsageError(f"{path} has judgements, which have neither parts nor paragraphs; leave these options out")
    if not path.is_file():
        raise QueryError(f"{path} is not there; judge clips first: vfindex mark VIDEO@TIME --question TEXT --grade N")
    marks = [mark for mark in UserData.open(path.parent).marks() if mark.grade is not None]
    newest: dict[str, dict[tuple[str, int], Mark]] = {mark.question: {} for mark in marks}
    for mark in sorted(marks, key=Mark.written):
        newest[mark.question][mark.moment.fingerprint, mark.moment.start_ms] = mark
    if not newest:
        raise QueryError(f"{path} has no judgements; make some: vfindex mark VIDEO@TIME --question TEXT --grade N")
    with Library.open(path.parent).snapshot() as snapshot:
        prints = {mark.moment.fingerprint for of in newest.values() for mark in of.values()}
        paths = {name: os.fsdecode(at) for name, at in paths_by_fingerprint(snapshot, prints).items() if at is not None}
    return [
        Question(str(number), text, tuple(_judged_videos(of.values(), paths)))
        for number, (text, of) in enumerate(newest.items(), start=1)
    ]


def _judged_videos(marks: Iterable[Mark], paths: Mapping[str, str]) -> Iterator[Relevant]:
    """Yield the videos that marks judge relevant, each once, with the spans and the best grade of its marks."""
    by_video: dict[str, list[Mark]] = {}
    for mark in marks:
        if mark.grade and mark.moment.fingerprint in paths:
            by_video.setdefault(paths[mark.moment.fingerprint], []).append(mark)
    for video, of in by_video.items():
        spans = tuple((each.moment.start_ms / 1000, each.moment.end_ms / 1000) for each in of)
        yield Relevant(video, max(each.grade or 0 for each in of), spans)


# --- formats ------------------------------------------------------------------------------------------------------

# A line of UCF101's lists, and what a class of a file of classes may have.
_UCF_LINE = re.compile(r"\w+/v_\w+\.\w+(\s+\d+)?")
_CLASS_FIELDS = {"name", "descriptions", "examples"}
Reader = Callable[[Path, str], Iterator[tuple[int, Question]]]


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise QueryError(f"{path} has more than {MAX_FILE_BYTES >> 20} MiB, too large for a file of questions")
        data = read_file(path)
    except OSError as exc:
        raise QueryError(f"{path} cannot be read ({exc.strerror}); name a file of questions") from exc
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise _wrong(path, data.count(b"\n", 0, exc.start) + 1, "it is not text in UTF-8") from exc


def _form(path: Path, text: str) -> Reader:
    """Return the reader for a file, by its first line that is not empty or a comment."""
    first = next((line for _, line in _lines(text)), "")
    other = _other_file(path, text, first)
    if other is not None:
        raise QueryError(other)
    if first.startswith("["):
        return _didemo
    if first.startswith("{"):
        # JSON lines have a "query" in the first line. Any other object is a JSON document.
        try:
            return _jsonl if "query" in json.loads(first) else _activitynet
        except (ValueError, RecursionError):
            return _jsonl if '"query' in first else _activitynet
    columns = set(first.split(","))
    if {"video_id", "sentence"} <= columns:
        return _msrvtt
    if {"VideoID", "Start", "End", "Description"} <= columns:
        return _msvd_csv
    if re.fullmatch(r"\S+\s+\S+\s+\S+\s+-?\d+", first):
        return _qrels
    if re.match(r"\S+_\d+_\d+ ", first):
        return _msvd_text
    raise QueryError(
        f"{path} is in no supported format: JSON lines, MSR-VTT 1k-A, MSVD, DiDeMo, ActivityNet Captions, "
        "TREC qrels (docs/evaluation.md)"
    )


def _other_file(path: Path, text: str, first: str) -> str | None:
    """Return which command takes a file of another kind: labelled videos, or classes; None for questions."""
    entries: list[Any] = []
    with suppress(ValueError, RecursionError):
        whole: Any = json.loads(text if first.startswith("[") or first == text.strip() else first)
        entries = whole if isinstance(whole, list) else [whole]
    with suppress(ValueError, RecursionError):
        entries = entries or [json.loads(text)]
    named = [each if isinstance(each, dict) else {"name": each} for each in entries[:1]]
    rows = {"label", "youtube_id"} <= set(first.split(",")) or _UCF_LINE.fullmatch(first)
    if rows or any({"video", "label"} <= set(each) for each in named):
        return (
            f"{path} has labelled videos, not queries: eval takes it with --task classification, and tune --temporal "
            "with --clips"
        )
    if any("classes" in each or (set(each) <= _CLASS_FIELDS and isinstance(each.get("name"), str)) for each in named):
        return f"{path} is a file of classes, not of queries; label takes it, and tune with --temporal"
    return None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) without empty lines and comments."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def _unique(path: Path, numbered: Iterable[tuple[int, Question]]) -> Iterator[Question]:
    seen: set[str] = set()
    for number, question in numbered:
        if question.id in seen:
            raise _wrong(path, number, f"the question {question.id!r} is given twice")
        seen.add(question.id)
        yield question


def _joined(path: Path, questions: list[Question], read: Reader) -> list[Question]:
    if read not in (_didemo, _activitynet):
        raise UsageError(f"--paragraphs joins the sentences of DiDeMo and ActivityNet Captions, and {path} is neither")
    texts: dict[str, list[str]] = {}
    for question in questions:
        texts.setdefault(question.relevant[0].video, []).append(question.text)
    return [_caption(v, " ".join(said), Relevant(v)) for v, said in texts.items()]


def _part(path: Path, questions: list[Question], split: str, read: Reader) -> list[Question]:
    """Return the questions of a split; for MSVD a list of videos next to the file, `test_list.txt`."""
    if read in (_msvd_csv, _msvd_text):
        if split != Path(split).name:
            raise UsageError(f"a split is a name, such as test, not {split!r}")
        names = {line for _, line in _lines(_read(path.with_name(f"{split}_list.txt")))}
        chosen = [question for question in questions if question.relevant[0].video in names]
    else:
        chosen = [question for question in questions if question.split == split]
    if not chosen:
        known = sorted({question.split for question in questions} - {""})
        there = f"there are {', '.join(known)}" if known else "none of its questions names a split"
        raise UsageError(f"{path} has no split {split!r}; {there}")
    return chosen


# --- one reader a form; each yields (line or entry, question) -------------------------------------------------------


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Question]]:
    for number, line in _lines(text):
        entry = _object(path, number, _json(path, line, number))
        question = _text(path, number, entry, "query")
        relevant = entry.get("relevant")
        if not isinstance(relevant, list):
            raise _wrong(path, number, '"relevant" must be a list of {"video": ..., "grade": ...}')
        graded = [_relevant(path, number, _object(path, number, each)) for each in relevant]
        if len({each.video for each in graded}) < len(graded):
            raise _wrong(path, number, "a video is given twice among the relevant ones")
        name = str(entry.get("query_id", number))
        answers = tuple(each for each in graded if each.grade > 0)
        modality, scope, part = (str(entry.get(key, "")) for key in ("modality", "scope", "split"))
        yield number, Question(name, question, answers, modality, scope, part)


def _relevant(path: Path, number: int, entry: dict[str, Any]) -> Relevant:
    grade = entry.get("grade", 1)
    if isinstance(grade, bool) or not isinstance(grade, int) or not 0 <= grade <= MAX_GRADE:
        raise _wrong(path, number, f"a grade is a whole number from 0 to {MAX_GRADE}, not {str(grade)[:60]}")
    spans = entry.get("segments")
    if spans is None:
        start, end = entry.get("start"), entry.get("end")
        spans = [] if start is None or end is None else [[start, end]]
    if not isinstance(spans, list):
        raise _wrong(path, number, '"segments" must be a list of [start, end]')
    return Relevant(_text(path, number, entry, "video"), grade, tuple(_span(path, number, span) for span in spans))


def _caption(name: str, text: str, video: Relevant) -> Question:
    return Question(name, text, (video,), frame_modality(), is_caption=True)


def _msrvtt(path: Path, text: str) -> Iterator[tuple[int, Question]]:
    for number, row in _csv(path, text):
        sentence, video = _text(path, number, row, "sentence"), _text(path, number, row, "video_id")
        yield number, _caption(row.get("key") or str(number), sentence, Relevant(video))


def _msvd_csv(path: Path, text: str) -> Iterator[tuple[int, Question]]:
    for number, row in _csv(path, text):
        if row.get("Language", "English") != "English" or not row.get("Description"):
            continue
        video = "_".join(_text(path, number, row, name) for name in ("VideoID", "Start", "End"))
        yield number, _caption(str(number), row["Description"], Relevant(video))


def _msvd_text(path: Path, text: str) -> Iterator[tuple[int, Question]]:
    for number, line in _lines(text):
        video, _, sentence = line.partition(" ")
        if not sentence:
            raise _wrong(path, number, "a video's name and a sentence are expected")
        yield number, _caption(str(number), sentence, Relevant(video))


def _didemo(path: Path, text: str) -> Iterator[tuple[int, Question]]:
    entries = _json(path, text)
    if not isinstance(entries, list):
        raise QueryError(f"{path} is not a list of DiDeMo annotations")
    for number, each in enumerate(entries, start=1):
        entry = _object(path, number, each)
        times = entry.get("times")
        if not isinstance(times, list) or not times:
            raise _wrong(path, number, '"times" must be a list of [first chunk, last chunk]', "entry")
        spans = []
        for span in times:
            first, last = _span(path, number, span, "entry", may_be_empty=True)
            spans.append((first * DIDEMO_CHUNK_S, (last + 1) * DIDEMO_CHUNK_S))
        video = Relevant(
            _text(path, number, entry, "video", "entry"), 1, tuple(spans), min(DIDEMO_AGREEING, len(spans))
        )
        name = str(entry.get("annotation_id", number))
        yield number, _caption(name, _text(path, number, entry, "description", "entry"), video)


def _activitynet(path: Path, text: str) -> Iterator[tuple[int, Question]]:
    entries = _object(path, 1, _json(path, text))
    number = 0
    for video, each in entries.items():
        entry = _object(path, number + 1, each, "sentence")
        sentences, times = entry.get("sentences"), entry.get("timestamps")
        if not isinstance(sentences, list) or not isinstance(times, list) or len(sentences) != len(times):
            raise _wrong(path, number + 1, f"{video!r} must have as many timestamps as sentences", "sentence")
        for place, (sentence, span) in enumerate(zip(sentences, times, strict=True)):
            number += 1
            said = _text(path, number, {"sentence": sentence}, "sentence", "sentence")
            start_s, end_s = _span(path, number, span, "sentence", may_run_backwards=True)
            # Some published times run backwards; the sentence still describes the video.
            spans = ((start_s, end_s),) if start_s < end_s else ()
            yield number, _caption(f"{video}#{place}", said, Relevant(video, 1, spans))


def _qrels(path: Path, text: str) -> Iterator[tuple[int, Question]]:
    topics: dict[str, dict[str, int]] = {}
    first: dict[str, int] = {}
    for number, line in _lines(text):
        fields = line.split()
        if len(fields) != 4 or not re.fullmatch(r"-?\d{1,9}", fields[3]):
            raise _wrong(path, number, "TREC qrels have four columns: topic, iteration, document, grade")
        topic, document = fields[0], fields[2]
        if document in topics.setdefault(topic, {}):
            raise _wrong(path, number, f"the document {document!r} is given twice for topic {topic!r}")
        topics[topic][document] = min(int(fields[3]), MAX_GRADE)
        first.setdefault(topic, number)
    for topic, grades in topics.items():
        answers = tuple(Relevant(document, grade) for document, grade in grades.items() if grade > 0)
        yield first[topic], Question(topic, "", answers)


# --- validation -----------------------------------------------------------------------------------------------------


def _wrong(path: Path, number: int, why: str, place: str = "line") -> QueryError:
    return QueryError(f"{path}, {place} {number}: {why}")


def _json(path: Path, text: str, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise _wrong(path, first_line + exc.lineno - 1, f"it is not JSON ({exc.msg})") from exc
    except (ValueError, RecursionError) as exc:  # a number of thousands of digits, a nesting of thousands of levels
        raise _wrong(path, first_line, "its JSON is too large or too deep") from exc


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    while True:
        try:
            row = next(rows, None)
        except csv.Error as exc:
            raise _wrong(path, rows.line_num + 1, f"it is not CSV ({exc})") from exc
        if row is None:
            return
        yield rows.line_num, {k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str)}


def _object(path: Path, number: int, value: Any, place: str = "line") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, number, "a JSON object is expected", place)
    return value


def _text(path: Path, number: int, entry: dict[str, Any], name: str, place: str = "line") -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(path, number, f'"{name}" must be a non-empty text', place)
    return value.strip()


def _float(value: Any) -> float | None:
    """Return a finite number; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _span(
    path: Path,
    number: int,
    value: Any,
    place: str = "line",
    *,
    may_be_empty: bool = False,
    may_run_backwards: bool = False,
) -> Span:
    pair = [_float(time) for time in value] if isinstance(value, list) and len(value) == 2 else [None, None]
    start, end = pair
    if start is None or end is None:
        raise _wrong(path, number, f"a span is [start, end] in numbers, not {str(value)[:60]}", place)
    if not may_run_backwards and (start > end or (start == end and not may_be_empty)):
        raise _wrong(path, number, f"a span must end after it starts, not run from {start:g} to {end:g}", place)
    return start, end
