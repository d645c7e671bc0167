"""How well a library answers questions whose answers are known: by video, by moment, by modality, and how fast."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vfindex.search.calibration.labels import LABELS, Label
from vfindex.search.engine import SearchEngine
from vfindex.search.evaluation.datasets import Question, Relevant
from vfindex.search.evaluation.metrics import Difference, Figure, Span, compare, score, summarise, temporal_iou
from vfindex.search.query.ast import COMBINATIONS, Combination, Query
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.files.regular import read_file
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import FUSIONS, MODALITIES, FusionName, Modality

# What `vfindex search` shows, and so what is measured unless a configuration goes deeper.
DEPTH = 10
# Temporal IoU from which a moment counts as found, as for Charades-STA (Gao et al. 2017) and DiDeMo over a whole
# collection (Escorcia et al. 2019, arXiv 1907.12763). None: the video is enough.
LEVELS: Mapping[str, float | None] = {"video": None, "moment IoU>=0.5": 0.5, "moment IoU>=0.7": 0.7}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to ask. top_k: hits looked at, the depth of the ranking. weights: of the modalities named.

    combine: scores or ranks, as `SearchEngine.search` has it. fusion: tried in place of the library's own, by an exact
    scan.
    """

    name: str
    library: Path
    weights: Mapping[Modality, float] = field(default_factory=dict)
    top_k: int = DEPTH
    per_video: int = 1
    combine: Combination = "convex"
    fusion: Fusion | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A hit as it is judged. video: the name that the questions have for it, or one that none of them has."""

    video: str
    span: Span = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back. found: question -> hits, best first. seconds: taken by each question, in their order.

    refused: question -> why it could not be asked. absent: videos that the questions name and the library has not.
    labels: question -> confidence of its first hit, for the questions that have a hit with one.
    """

    found: Mapping[str, Sequence[Found]]
    depth: int
    seconds: Sequence[float] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    absent: Sequence[str] = ()
    labels: Mapping[str, Label] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Labelled:
    """How many first hits have a label: in a relevant video, in another one, and where the question has no answer."""

    right: int = 0
    wrong: int = 0
    absent: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """Figures of one level. values: measure -> question -> value, over the questions that can be judged there."""

    values: Mapping[str, Mapping[str, float]]
    groups: Mapping[str, Sequence[str]]

    def figures(self) -> dict[str, dict[str, Figure]]:
        """Return group -> measure -> figure."""
        return {name: summarise(self.values, questions) for name, questions in self.groups.items()}


def parse_configuration(text: str, library: Path) -> Configuration:
    """Return the configuration in `text`: `weight=speech=0.2,text=0,top_k=100,combine=rrf,library=DIR`, or a JSON file.

    The file has the same keys: {"weight": {"speech": 0.2}, "top_k": 100}; there are `per_video` and `fusion` too, the
    weights being then those of the fusion. `default` and what is not named are as in `vfindex search` over `library`.
    Raises UsageError, LibraryError.
    """
    entries = _from_file(Path(text)) if text.endswith(".json") else _from_text("" if text == "default" else text)
    weights: dict[Modality, float] = {}
    numbers = {"top_k": DEPTH, "per_video": 1}
    combine: Combination = "convex"
    form: FusionName | None = None
    for key, value in entries:
        modality = next((m for m in MODALITIES if m == key), None)
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


def _fusion(form: FusionName, weights: Mapping[Modality, float], library: Path) -> Fusion:
    """Return a form with these weights; `learned` with the heads that the library has. Raises UsageError."""
    if form == "mean" and weights:
        raise UsageError("--config fusion=mean takes no weights: all modalities count the same in a mean")
    if form != "learned":
        return Fusion(form, weights)
    with Library.open(library).snapshot() as snapshot:
        stored = LibraryMeta(snapshot).fusion
    if stored.heads is None:
        raise UsageError(f"the library {library} has no learned heads; run: vfindex tune QUERIES --fusion learned")
    return Fusion(form, {**stored.weights, **weights}, stored.heads)


def _from_text(text: str) -> list[tuple[str, str]]:
    """Return the pairs of `key=value,...`; the name of a weight is a key of its own."""
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


# --- asking ---------------------------------------------------------------------------------------------------------


def ask(
    configurations: Sequence[Configuration],
    questions: Sequence[Question],
    on_asked: Callable[[int], None] = lambda _: None,
) -> list[Answers]:
    """Return the answers of each configuration, which are asked in turn, so that other work falls on all alike.

    on_asked: told how many questions are done. A question that the engine refuses is unanswered. Raises QueryError if
    a question has no text or no library holds any of the videos, LibraryError, ModelError, UsageError.
    """
    if any(not question.text for question in questions):
        raise UsageError("qrels hold no words to ask with; give the answers of a system as well: --run FILE")
    names = list(dict.fromkeys(each.video for question in questions for each in question.relevant))
    openings = [_Opening(configuration, names) for configuration in configurations]
    for done, question in enumerate(questions, start=1):
        for opening in openings:
            opening.ask(question)
        on_asked(done)
    return [opening.answers() for opening in openings]


class _Opening:
    """A library opened for one configuration, and what it has answered so far."""

    def __init__(self, configuration: Configuration, names: Sequence[str]) -> None:
        self._configuration = configuration
        with Library.open(configuration.library).snapshot() as snapshot:
            places = {place.path: video.id for video in snapshot.videos() for place in video.locations}
        known = locate(names, places)
        if names and not known:
            raise QueryError(
                f"the library {configuration.library} holds none of the {len(names)} videos that the questions are "
                f"about, such as {names[0]}; ingest them first"
            )
        self._absent = [name for name in names if name not in known]
        # Two names of one content are one answer, under whichever name is asked for.
        self._names: dict[int, list[str]] = {}
        for name, video_id in known.items():
            self._names.setdefault(video_id, []).append(name)
        self._places = places
        self._engine = SearchEngine.open(configuration.library, configuration.fusion)
        self._found: dict[str, list[Found]] = {}
        self._seconds: list[float] = []
        self._refused: dict[str, str] = {}
        self._labels: dict[str, Label] = {}
        self._warm = False

    def ask(self, question: Question) -> None:
        try:
            if not self._warm:  # models and index are opened by the first
                self._search(question)
                self._warm = True
            start = time.perf_counter()
            found = self._search(question)
            self._seconds.append(time.perf_counter() - start)
        except QueryError as exc:
            self._refused[question.id] = str(exc)
            return
        self._found[question.id] = found

    def _search(self, question: Question) -> list[Found]:
        chosen = self._configuration
        asked = Query.plain(question.text) if question.is_caption else question.text
        hits = self._engine.search(
            asked, top_k=chosen.top_k, per_video=chosen.per_video, weights=chosen.weights, combine=chosen.combine
        )
        if hits and hits[0].confidence is not None:
            self._labels[question.id] = hits[0].confidence
        wanted = {each.video for each in question.relevant}
        return [Found(self._name(hit.video, wanted), (hit.start_s, hit.end_s)) for hit in hits]

    def _name(self, path: bytes | None, wanted: Iterable[str]) -> str:
        video_id = self._places.get(path or b"", -1)
        names = self._names.get(video_id, [])
        return next((name for name in names if name in wanted), names[0] if names else os.fsdecode(path or b"?"))

    def answers(self) -> Answers:
        depth = self._configuration.top_k
        return Answers(self._found, depth, self._seconds, self._refused, self._absent, self._labels)


def locate(names: Sequence[str], places: Mapping[bytes, int]) -> dict[str, int]:
    """Return name -> video id for the names that the library has. places: path -> video id.

    A name with a folder is the end of a path. One without is a file's name, or that without its extension, for
    published collections name videos without, or by an extension that the copies at hand have not. Raises UsageError
    where several contents fit.
    """
    paths = {os.fsdecode(path): video_id for path, video_id in places.items()}
    files: dict[str, set[str]] = {}
    for path in paths:
        base = os.path.basename(path)
        for key in {base, os.path.splitext(base)[0]}:
            files.setdefault(key, set()).add(path)
    found: dict[str, int] = {}
    for name in names:
        folder, base = os.path.split(name)
        fitting = files.get(base) or files.get(os.path.splitext(base)[0]) or set()
        held = {paths[p] for p in fitting if not folder or f"/{os.path.dirname(p)}".endswith(f"/{folder.lstrip('/')}")}
        if len(held) > 1:
            raise UsageError(f"{name} could be several videos of the library; name it with its folder")
        if held:
            found[name] = held.pop()
    return found


def from_run(run: Mapping[str, Sequence[str]], questions: Sequence[Question]) -> Answers:
    """Return a TREC run as answers to be judged by video. Raises QueryError if it is about other questions."""
    if not any(question.id in run for question in questions):
        raise QueryError("the run answers none of the questions; do their topics go by the same names?")
    found = {question.id: [Found(name) for name in run.get(question.id, ())] for question in questions}
    return Answers(found, max(len(hits) for hits in found.values()))


# --- judging --------------------------------------------------------------------------------------------------------


def judge(questions: Sequence[Question], answers: Answers, level: str) -> Level | None:
    """Return the figures of one of LEVELS, or None where no question can be judged.

    A question without any answer in the collection has no ranking to measure. At moment level a question counts if the
    times of an answer of it were judged.
    """
    iou = LEVELS[level]
    judged: dict[str, dict[str, int]] = {}
    run: dict[str, list[str]] = {}
    for question in questions:
        relevant = [each for each in question.relevant if iou is None or each.spans]
        if not relevant:
            continue
        hits = answers.found.get(question.id, ())
        if iou is None:
            judged[question.id] = {each.video: each.grade for each in relevant}
            run[question.id] = list(dict.fromkeys(hit.video for hit in hits))
        else:
            judged[question.id] = {f"moment {i}": each.grade for i, each in enumerate(relevant)}
            run[question.id] = claim(hits, relevant, iou)
    if not judged:
        return None
    return Level(score(judged, run, answers.depth), _groups([q for q in questions if q.id in judged]))


def labelled(questions: Sequence[Question], answers: Answers) -> dict[Label, Labelled]:
    """Return label -> what the first hits that have it were worth; empty where the library labels none."""
    counts = {label: [0, 0, 0] for label in LABELS}
    for question in questions:
        label = answers.labels.get(question.id)
        if label is not None:
            right = answers.found[question.id][0].video in {each.video for each in question.relevant}
            counts[label][2 if not question.relevant else 0 if right else 1] += 1
    return {label: Labelled(*of) for label, of in counts.items()} if answers.labels else {}


def claim(hits: Sequence[Found], moments: Sequence[Relevant], iou: float) -> list[str]:
    """Return what each hit has found: `moment I`, or `other RANK` for nothing that was still to be found.

    A moment is found once, by the first hit that fits it; a second hit on it is a false one, as in the detection
    tasks of PASCAL VOC (Everingham et al. 2010, section 4.2).
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


def _fit(hit: Found, moment: Relevant, iou: float) -> float:
    """Return the best IoU of a hit with a moment, 0 where it does not fit enough of its spans."""
    if hit.video != moment.video:
        return 0.0
    fits = [value for value in (temporal_iou(hit.span, span) for span in moment.spans) if value >= iou]
    return max(fits) if len(fits) >= moment.agreeing else 0.0


def differences(first: Level, second: Level) -> dict[str, Difference]:
    """Return measure -> what the second has more than the first, over the questions, for the measures of both."""
    questions = first.groups["all"]
    return {
        name: compare([first.values[name][q] for q in questions], [second.values[name][q] for q in questions])
        for name in first.values
        if name in second.values
    }


def _groups(questions: Sequence[Question]) -> dict[str, list[str]]:
    """Return group -> questions: all, then each modality and each scope that the file names."""
    groups = {"all": [question.id for question in questions]}
    for kind in ("modality", "scope"):
        for name in sorted({getattr(question, kind) for question in questions} - {"", *groups}):
            groups[name] = [question.id for question in questions if getattr(question, kind) == name]
    return groups
