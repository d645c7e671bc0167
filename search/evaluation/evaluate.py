"""Evaluation of a library on questions with known answers: quality by video, moment and modality, and latency."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vfindex.search.calibration.labels import LABELS, Label
from vfindex.search.engine import SearchEngine
from vfindex.search.evaluation.datasets import Question, Relevant
from vfindex.search.evaluation.metrics import Difference, Figure, Span, compare, score, summarise, temporal_iou
from vfindex.search.live import require_videos
from vfindex.search.query.ast import COMBINATIONS, Combination, Query
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.files.regular import read_file
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, modality_names
from vfindex.storage.records import FUSIONS, FusionName

PERCENTILES = (50, 90, 99)
# Hits that `vfindex search` shows by default.
DEPTH = 10
# Temporal IoU at which a hit matches a moment, as for Charades-STA (Gao et al. 2017) and DiDeMo over a whole
# collection (Escorcia et al. 2019, arXiv 1907.12763). None: the video alone.
LEVELS: Mapping[str, float | None] = {"video": None} | {f"moment IoU>={iou}": iou for iou in (0.3, 0.5, 0.7)}


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of a search, as `SearchEngine.search` takes them. top_k: the depth of the rankings.

    fusion: replaces the library's own, by an exact scan.
    """

    name: str
    library: Path
    weights: Mapping[ModalityName, float] = field(default_factory=dict)
    top_k: int = DEPTH
    per_video: int = 1
    combine: Combination = "convex"
    fusion: Fusion | None = None


@dataclass(frozen=True, slots=True)
class JudgedHit:
    """A hit to be judged. video: its name in the questions; another name if they do not mention it."""

    video: str
    span: Span = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Rankings:
    """The rankings of one configuration. hits: question id -> hits, best first. seconds: latency of each question.

    refused: question id -> error. absent: videos of the questions that the library lacks. labels: question id ->
    confidence of its first hit, if it has one.
    """

    hits: Mapping[str, Sequence[JudgedHit]]
    depth: int
    seconds: Sequence[float] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    absent: Sequence[str] = ()
    labels: Mapping[str, Label] = field(default_factory=dict)

    def latencies_ms(self) -> dict[int, float]:
        """Return percentile -> milliseconds per question, empty for a run."""
        if not self.seconds:
            return {}
        taken = np.percentile(np.asarray(self.seconds) * 1000, PERCENTILES)
        return {p: round(float(ms), 3) for p, ms in zip(PERCENTILES, taken, strict=True)}


@dataclass(frozen=True, slots=True)
class Labelled:
    """Numbers of first hits with a label: in a relevant video, in another one, and for questions without answer."""

    right: int = 0
    wrong: int = 0
    absent: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """Figures of one level. values: measure -> question id -> value, for the questions judged at this level."""

    values: Mapping[str, Mapping[str, float]]
    groups: Mapping[str, Sequence[str]]

    def figures(self) -> dict[str, dict[str, Figure]]:
        """Return group -> measure -> figure."""
        return {name: summarise(self.values, questions) for name, questions in self.groups.items()}


def parse_configuration(text: str, library: Path) -> Configuration:
    """Return the configuration in `text`: `weight=speech=0.2,text=0,top_k=100,combine=rrf,library=DIR`, or a JSON file.

    The file has the same keys: {"weight": {"speech": 0.2}, "top_k": 100}. Other keys are `per_video` and `fusion`; with
    `fusion` the weights are those of the fusion. `default`, and all keys left out, are as in `vfindex search`.
    Raises UsageError, LibraryError.
    """
    entries = _from_file(Path(text)) if text.endswith(".json") else _from_text("" if text == "default" else text)
    weights: dict[ModalityName, float] = {}
    numbers = {"top_k": DEPTH, "per_video": 1}
    combine: Combination = "convex"
    form: FusionName | None = None
    for key, value in entries:
        modality = next((m for m in modality_names() if m == key), None)
        combination = next((c for c in COMBINATIONS if key == "combine" and c == value), None)
        fused = next((f for f in FUSIONS if key == "fusion" and f == value), None)
        if combination is not None:
            combine = combination
        elif fused is not None:
            form = fused
        elif key == "library" and value:
            library = Path(value).expanduser().absolute()
        elif modality is not None:
            weights[modality] = _number(key, value, 0, whole=False)
        elif key in numbers:
            numbers[key] = int(_number(key, value, 1, whole=True))
        else:
            raise UsageError(
                f"--config has no {f'{key}={value}'!r}; it takes weight=NAME=W, top_k=K, per_video=N, "
                f"combine={'|'.join(COMBINATIONS)}, fusion={'|'.join(FUSIONS)}, library=DIR, or a .json file"
            )
    fusion = None if form is None else _fusion(form, weights, library)
    of_question = weights if fusion is None else {}
    return Configuration(text, library, of_question, numbers["top_k"], numbers["per_video"], combine, fusion)


def _fusion(form: FusionName, weights: Mapping[ModalityName, float], library: Path) -> Fusion:
    """Return a form of fusion with these weights; `learned` with the heads of the library. Raises UsageError."""
    if form == "mean" and weights:
        raise UsageError("--config fusion=mean takes no weights: in a mean all modalities have the same")
    if form != "learned":
        return Fusion(form, weights)
    with Library.open(library).snapshot() as snapshot:
        stored = LibraryMeta(snapshot).fusion
    if stored.heads is None:
        raise UsageError(f"the library {library} has no learned heads; run: vfindex tune QUERIES --fusion learned")
    return Fusion(form, {**stored.weights, **weights}, stored.heads)


def _from_text(text: str) -> list[tuple[str, str]]:
    """Return the pairs of `key=value,...`, with `weight=` left out."""
    parts = [part.strip().removeprefix("weight=") for part in text.split(",") if part.strip()]
    return [(key.strip(), value.strip()) for key, _, value in (part.partition("=") for part in parts)]


def _from_file(path: Path) -> list[tuple[str, str]]:
    try:
        entry: Any = json.loads(read_file(path))
    except OSError as exc:
        raise UsageError(f"the configuration {path} cannot be read ({exc.strerror})") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"the configuration {path} is not JSON ({exc})") from exc
    weights = entry.pop("weight", {}) if isinstance(entry, dict) else None
    if not isinstance(weights, dict):
        raise UsageError(f'the configuration {path} must be an object such as {{"weight": {{"speech": 0.2}}}}')
    return [(key, str(value)) for key, value in [*entry.items(), *weights.items()]]


def _number(key: str, value: str, lowest: int, *, whole: bool) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not lowest <= number < 1_000_000 or (whole and number != int(number)):
        kind = "whole number" if whole else "number"
        raise UsageError(f"--config {key} takes a {kind} from {lowest}, not {value!r}")
    return number


# --- searching ------------------------------------------------------------------------------------------------------


def run_questions(
    configurations: Sequence[Configuration],
    questions: Sequence[Question],
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Rankings]:
    """Return the rankings of each configuration. Configurations take turns, so that other load affects all alike.

    on_done: called with the number of questions done. Questions that raise QueryError are `refused`. Raises QueryError
    if a library has none of the videos, UsageError if a question has no text, LibraryError, ModelError.
    """
    if any(not question.text for question in questions):
        raise UsageError("qrels have no query text; give a run as well: --run FILE")
    names = list(dict.fromkeys(each.video for question in questions for each in question.relevant))
    sessions = [_Session(configuration, names) for configuration in configurations]
    for done, question in enumerate(questions, start=1):
        for session in sessions:
            session.run(question)
        on_done(done)
    return [session.rankings() for session in sessions]


class _Session:
    """An engine for one configuration, and its rankings so far."""

    def __init__(self, configuration: Configuration, names: Sequence[str]) -> None:
        self._configuration = configuration
        with Library.open(configuration.library).snapshot() as snapshot:
            require_videos(snapshot, configuration.library)
            places = {place.path: video.id for video in snapshot.videos() for place in video.locations}
        known = locate(names, places)
        if names and not known:
            raise QueryError(
                f"the library {configuration.library} holds no video that the questions are about, "
                f"such as {names[0]}; ingest them first"
            )
        self._absent = [name for name in names if name not in known]
        # A video may have several names; the one in the question counts.
        self._names: dict[int, list[str]] = {}
        for name, video_id in known.items():
            self._names.setdefault(video_id, []).append(name)
        self._places = places
        self._engine = SearchEngine.open(configuration.library, configuration.fusion)
        self._hits: dict[str, list[JudgedHit]] = {}
        self._seconds: list[float] = []
        self._refused: dict[str, str] = {}
        self._labels: dict[str, Label] = {}
        self._warm = False

    def run(self, question: Question) -> None:
        try:
            if not self._warm:  # the first search opens models and index
                self._search(question)
                self._warm = True
            start = time.perf_counter()
            hits = self._search(question)
            self._seconds.append(time.perf_counter() - start)
        except QueryError as exc:
            self._refused[question.id] = str(exc)
            return
        self._hits[question.id] = hits

    def _search(self, question: Question) -> list[JudgedHit]:
        chosen = self._configuration
        query = Query.plain(question.text) if question.is_caption else question.text
        hits = self._engine.search(
            query, top_k=chosen.top_k, per_video=chosen.per_video, weights=chosen.weights, combine=chosen.combine
        )
        if hits and hits[0].confidence is not None:
            self._labels[question.id] = hits[0].confidence
        mentioned = {each.video for each in question.relevant}
        return [JudgedHit(self._name(hit.video, mentioned), (hit.start_s, hit.end_s)) for hit in hits]

    def _name(self, path: bytes | None, mentioned: Iterable[str]) -> str:
        video_id = self._places.get(path or b"", -1)
        names = self._names.get(video_id, [])
        return next((name for name in names if name in mentioned), names[0] if names else os.fsdecode(path or b"?"))

    def rankings(self) -> Rankings:
        depth = self._configuration.top_k
        return Rankings(self._hits, depth, self._seconds, self._refused, self._absent, self._labels)


def locate(names: Sequence[str], places: Mapping[bytes, int]) -> dict[str, int]:
    """Return name -> video id, for the names in the library. places: path -> video id.

    A name with a folder must be the end of a path. A name without one matches file names, with or without extension:
    published collections often leave it out, or have another than the copies here. Raises UsageError if several videos
    match.
    """
    paths = {os.fsdecode(path): video_id for path, video_id in places.items()}
    files: dict[str, set[str]] = {}
    for path in paths:
        base = os.path.basename(path)
        for key in {base, os.path.splitext(base)[0]}:
            files.setdefault(key, set()).add(path)
    located: dict[str, int] = {}
    for name in names:
        folder, base = os.path.split(name)
        fitting = files.get(base) or files.get(os.path.splitext(base)[0]) or set()
        videos = {
            paths[p] for p in fitting if not folder or f"/{os.path.dirname(p)}".endswith(f"/{folder.lstrip('/')}")
        }
        if len(videos) > 1:
            raise UsageError(f"{name} matches several videos of the library; add its folder")
        if videos:
            located[name] = videos.pop()
    return located


def from_run(run: Mapping[str, Sequence[str]], questions: Sequence[Question]) -> Rankings:
    """Return a TREC run as rankings to judge by video. Raises QueryError if it has none of the questions."""
    if not any(question.id in run for question in questions):
        raise QueryError("the run has none of the questions; are their ids the same?")
    hits = {question.id: [JudgedHit(name) for name in run.get(question.id, ())] for question in questions}
    return Rankings(hits, max(map(len, hits.values())))


# --- judging --------------------------------------------------------------------------------------------------------


def judge(questions: Sequence[Question], rankings: Rankings, level: str) -> Level | None:
    """Return the figures of one of LEVELS; None if no question can be judged.

    Questions without answer are not judged; at moment level, only questions whose answers have times.
    """
    iou = LEVELS[level]
    judged: dict[str, dict[str, int]] = {}
    run: dict[str, list[str]] = {}
    for question in questions:
        relevant = [each for each in question.relevant if iou is None or each.spans]
        if not relevant:
            continue
        hits = rankings.hits.get(question.id, ())
        if iou is None:
            judged[question.id] = {each.video: each.grade for each in relevant}
            run[question.id] = list(dict.fromkeys(hit.video for hit in hits))
        else:
            judged[question.id] = {f"moment {i}": each.grade for i, each in enumerate(relevant)}
            run[question.id] = claim(hits, relevant, iou)
    if not judged:
        return None
    return Level(score(judged, run, rankings.depth), _groups([q for q in questions if q.id in judged]))


def labelled(questions: Sequence[Question], rankings: Rankings) -> dict[Label, Labelled]:
    """Return label -> how many first hits with it were right; empty if the library gives no labels."""
    counts = {label: [0, 0, 0] for label in LABELS}
    for question in questions:
        label = rankings.labels.get(question.id)
        if label is not None:
            right = rankings.hits[question.id][0].video in {each.video for each in question.relevant}
            counts[label][2 if not question.relevant else 0 if right else 1] += 1
    return {label: Labelled(*of) for label, of in counts.items()} if rankings.labels else {}


def claim(hits: Sequence[JudgedHit], moments: Sequence[Relevant], iou: float) -> list[str]:
    """Return for each hit the moment that it matches, `moment I`, or `other RANK` for none.

    A moment is matched once, by the first hit that fits; a second hit on it is a false positive, as in PASCAL VOC
    (Everingham et al. 2010, section 4.2).
    """
    names = []
    left = set(range(len(moments)))
    for rank, hit in enumerate(hits, start=1):
        fits = {i: _fit(hit, moments[i], iou) for i in sorted(left)}
        best = max(fits, key=lambda i: fits[i], default=-1)
        if best >= 0 and fits[best] > 0:
            left.remove(best)
            names.append(f"moment {best}")
        else:
            names.append(f"other {rank}")
    return names


def _fit(hit: JudgedHit, moment: Relevant, iou: float) -> float:
    """Return the best IoU of a hit with a moment; 0 if it fits fewer than `agreeing` spans."""
    if hit.video != moment.video:
        return 0.0
    fits = [value for value in (temporal_iou(hit.span, span) for span in moment.spans) if value >= iou]
    return max(fits) if len(fits) >= moment.agreeing else 0.0


def differences(first: Level, second: Level) -> dict[str, Difference]:
    """Return measure -> difference of the second to the first, for the measures of both."""
    questions = first.groups["all"]
    return {
        name: compare([first.values[name][q] for q in questions], [second.values[name][q] for q in questions])
        for name in first.values
        if name in second.values
    }


def _groups(questions: Sequence[Question]) -> dict[str, list[str]]:
    """Return group -> question ids: all, then each modality and each scope in the file."""
    groups = {"all": [question.id for question in questions]}
    for kind in ("modality", "scope"):
        for name in sorted({getattr(question, kind) for question in questions} - {"", *groups}):
            groups[name] = [question.id for question in questions if getattr(question, kind) == name]
    return groups
