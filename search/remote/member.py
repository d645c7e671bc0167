"""A library on another machine in a search: what is asked of its server, and what is made of the answers.

A question has three steps, each one request to every server at a time: what scores take from the whole library
(`statistics`), the candidates with their scores (`candidates`), and what a reader needs of the results (`hits`). The
server encodes the words itself. Every step names the spec and the state of the library of the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as NotDone
from dataclasses import dataclass, replace
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

from vfindex import __version__
from vfindex.search.hits import Facts, Found
from vfindex.search.query.ast import Order, Query
from vfindex.search.query.like import Like
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Request
from vfindex.search.rank.examples import ExampleClip
from vfindex.search.rank.group import Result
from vfindex.search.rank.retrieve import depths
from vfindex.search.rank.score import ScoredClip
from vfindex.search.rank.source import Statistics
from vfindex.search.rank.temporal import Pair
from vfindex.search.remote import documents
from vfindex.search.remote.address import Address
from vfindex.search.remote.connection import ANSWER_S, Connection
from vfindex.search.remote.documents import Document
from vfindex.storage.errors import LibraryDamaged, LibraryUnreachable, UsageError
from vfindex.storage.modalities import ModalityName, frame_modality
from vfindex.storage.records import ClipKey, FloatArray

T = TypeVar("T")
# Seconds for a thread to say that its time is over; and between the ends of servers that were asked at once.
_SLACK_S, _AT_ONCE_S = 1.0, 0.05
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, LibraryDamaged)


@dataclass(frozen=True, slots=True)
class Scale:
    """What scores are comparable with: the library of `name`, of which this is the hash, see `reading_hash`.

    dims: of the vectors of each modality.
    """

    name: str
    hash: str
    dims: Mapping[ModalityName, int]


@dataclass(frozen=True, slots=True)
class RemoteLibrary:
    """A library that `vfindex serve` serves on another machine. token: None for a server that asks nobody for one."""

    address: Address
    token: str | None = None

    def __repr__(self) -> str:
        return f"RemoteLibrary({self.place})"

    @property
    def place(self) -> str:
        """What names the library in hits."""
        return str(self.address)

    def ask(self, request: Request, query: Query, until_s: float | None) -> RemoteMember:
        """Begin to put a question to the library. Raises UsageError for one that cannot be written down."""
        typed = str(request.text)
        if isinstance(request.text, Query) and parse(typed, wordless=True) != query:
            raise UsageError(
                "this Query has no text that is parsed to it, so other machines cannot be asked; give a text"
            )
        question: Document = {
            "version": __version__,
            "text": typed,
            "top_k": request.top_k,
            "per_video": request.per_video,
            "weights": dict(request.weights),
            "exact": request.exact,
        }
        likes = [image for image in request.images if isinstance(image, Like | ClipKey)]
        asked = [list(each) if isinstance(each, ClipKey) else [str(each.video), each.time_s] for each in likes]
        kinds = ["key" if isinstance(each, ClipKey) else "time" for each in likes]
        question["likes"] = [[kind, *each] for kind, each in zip(kinds, asked, strict=True)]
        now_s = time.monotonic()
        # Half of the time, so that the others can answer without one that is slow.
        end_s = now_s + (ANSWER_S if until_s is None else max(0.0, until_s - now_s) / 2)
        return RemoteMember(self, query, question, end_s)


@dataclass(slots=True)
class Candidates:
    """The candidates of one depth. clips: those of `tops` in a search for one moment. videos: fingerprint, length.

    spans: clip -> start and end with its neighbours, and the clips of its video that were results before.
    """

    sizes: tuple[int, ...]
    tops: tuple[dict[int, float], ...]
    clips: dict[int, ScoredClip]
    pairs: list[Pair]
    videos: dict[int, tuple[str, float]]
    examples: list[ScoredClip]
    cut: tuple[str, ...]
    spans: dict[int, tuple[float, float, tuple[int, ...]]]


class RemoteMember:
    """The part of one library in one question. Each call waits for its answer, or raises LibraryUnreachable."""

    def __init__(self, library: RemoteLibrary, query: Query, question: Document, end_s: float) -> None:
        """Begin with the first step. end_s: of time.monotonic, when the last answer must be there."""
        self.place, self.number = library.place, 0
        self._query, self._question, self._end_s = query, question, end_s
        self._connection = Connection(library.address, library.token)
        self._later: dict[str, Any] = {}
        self._before: Sequence[RemoteMember] = ()
        self._seen: Collection[str] = frozenset()
        self._read: dict[int, Candidates] = {}
        self._answers: dict[int, Future[Document]] = {}
        self._spans: dict[tuple[int, ...], tuple[float, float]] = {}
        self._own: list[Result] = []
        self._depth = 0
        self._last = self._send("statistics", {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.end()

    def failure(self) -> str:
        """Return why there was no answer so far, "" if none is known to be missing."""
        done, _ = wait([self._last], _AT_ONCE_S)
        exc = self._last.exception() if done else None
        return exc.reason if isinstance(exc, LibraryUnreachable) and not exc.has_changed else ""

    # --- the first step ---------------------------------------------------------------------------------------------

    def open(self, number: int, scale: Scale | None) -> Scale:
        """Take what the server says of its library, which becomes number `number`; return the scale of all.

        scale: of the libraries before it, None if it is the first.
        """
        self.number = number
        data = self._answer(self._last)
        own = self._parsed(lambda: self._scale(data))
        if scale is not None and (own.hash, own.dims) != (scale.hash, scale.dims):
            raise self._failed(
                f"its models or spec differ from those of {scale.name} ({own.hash}, not {scale.hash}), so scores "
                "cannot be compared; give both one spec (docs/libraries.md)"
            )
        self._dims = own.dims
        self.facts: Facts = self._parsed(lambda: documents.read_facts(data["facts"]))
        self.statistics: Statistics = self._parsed(lambda: self._statistics(data, 0))
        self.likes = self._parsed(
            lambda: documents.listed(lambda each: documents.read_example(each, number), data["likes"])
        )
        if len(self.likes) != len(self._question["likes"]):
            raise self._failed("it answers another question")
        for each in self.likes:
            if isinstance(each, ExampleClip) and len(each.image) != self._dims[frame_modality()]:
                raise self._failed("its vectors have another dimension")
        self._question |= {"spec": own.hash, "state": documents.text(data["state"]), "likes": []}
        return own if scale is None else scale

    def _scale(self, data: Document) -> Scale:
        if data["version"] != __version__:
            shown = "".join(char for char in documents.text(data["version"]) if char.isprintable())[:40]
            raise self._failed(f"it runs vfindex {shown}, and this is {__version__}; install one version on both")
        dims = documents.by_modality(documents.whole, data["dims"])
        documents.text(data["state"])
        return Scale(self.place, documents.text(data["spec"]), dims)

    def _statistics(self, data: Document, images: int) -> Statistics:
        counts = [len(moment.keywords()) for moment in self._query.moments]
        return documents.read_statistics(data["statistics"], counts, images)

    def compare(self, images: Sequence[FloatArray]) -> None:
        """Begin to ask how similar the library is to images."""
        if images:
            self._later["images"] = [documents.vector_text(each) for each in images]
            self._last = self._send("statistics", self._later)

    def finish_statistics(self) -> Statistics:
        """Return what scores take from the library, with its similarity to the images of `compare`."""
        if "images" in self._later:
            data = self._answer(self._last)
            self.statistics = self._parsed(lambda: self._statistics(data, len(self._later["images"])))
        return self.statistics

    # --- the second -------------------------------------------------------------------------------------------------

    def begin(
        self,
        elsewhere: Statistics,
        spreads: Sequence[float],
        before: tuple[Collection[str], Sequence[RemoteMember]],
        examples: Sequence[ExampleClip],
    ) -> None:
        """Take what the other libraries tell of the question.

        before: fingerprints that need not be searched, and the servers whose copies come first.
        """
        self._seen, self._before = before
        self._later |= {
            "elsewhere": documents.statistics_document(elsewhere)["frequencies"],
            "spreads": list(spreads),
            "examples": [[each.fingerprint, each.middle_s] for each in examples],
        }

    def look(self, depth: int) -> None:
        self._depth = depth
        if depth not in self._answers:
            self._answers[depth] = self._last = self._send("candidates", self._later | {"depth": depth})

    @property
    def cut(self) -> Sequence[str]:
        return self._candidates(self._depth).cut

    def size(self, moment: int) -> int:
        return self._candidates(self._depth).sizes[moment]

    def top_scores(self, moment: int, depth: int) -> Mapping[int, float]:
        return self._candidates(depth).tops[moment]

    def bound(self, moment: int, scores: Sequence[float], depth: int) -> float:
        return min(scores, default=0.0)

    def best(self, depth: int) -> list[ScoredClip]:
        return self.score(self.top_scores(0, depth))

    def score(self, ids: Iterable[int]) -> list[ScoredClip]:
        clips = self._candidates(self._depth).clips
        return sorted((clips[id_] for id_ in ids if id_ in clips), key=lambda each: (-each.score, each.clip.id))

    def pairs(self, tops: Sequence[Mapping[int, float]], when: tuple[Order, float], limit: int) -> list[Pair]:
        pairs = self._candidates(self._depth).pairs
        return [each for each in pairs if each.first.clip.id in tops[0] or each.second.clip.id in tops[1]]

    def duration_s(self, video_id: int) -> float:
        return self._candidates(self._depth).videos[video_id][1]

    def examples(self) -> list[Result]:
        """Return the clips of the library that are examples, or the same moments of their videos, as results."""
        self.look(depths((self._question["top_k"], self._question["per_video"]))[0])
        return [Result.of((each,)) for each in self._candidates(self._depth).examples]

    def _candidates(self, depth: int) -> Candidates:
        if depth not in self._read:
            data = self._answer(self._answers[depth])
            found = self._parsed(lambda: self._candidates_in(data))
            self._read[depth] = found
            hidden = set(self._seen)
            for member in self._before:
                hidden.update(name for name, _ in member._candidates(depth).videos.values())
            _hide(found, {id_ for id_, (name, _) in found.videos.items() if name in hidden})
        return self._read[depth]

    def _candidates_in(self, data: Document) -> Candidates:
        moments = len(self._query.moments)
        sizes = documents.listed(documents.whole, data["sizes"])
        tops = tuple({documents.whole(id_): documents.number(s) for id_, s in top} for top in data["tops"])
        clips = documents.listed(self._clip, data["clips"])
        pairs = [Pair(self._clip(first), self._clip(second)) for first, second in data["pairs"]]
        videos = {
            documents.whole(id_): (documents.text(name), documents.number(length))
            for id_, name, length in data["videos"]
        }
        examples = list(documents.listed(self._clip, data["examples"]))
        cut = documents.listed(documents.typed, data["cut"])
        used = [*clips, *examples, *(clip for each in pairs for clip in (each.first, each.second))]
        if not len(sizes) == len(tops) == moments or any(each.clip.video_id not in videos for each in used):
            raise ValueError("other moments, or a clip of no video")
        if any(each.first.video != each.second.video for each in pairs):
            raise ValueError("a pair of two videos")
        known = {each.clip.id: each for each in clips}
        spans: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        before: dict[int, tuple[int, ...]] = {}
        for id_, start_s, end_s in data["spans"]:
            video_id = known[documents.whole(id_)].clip.video_id
            earlier = before.get(video_id, ())
            spans[id_] = (documents.number(start_s), documents.number(end_s), earlier)
            before[video_id] = (*earlier, id_)
        return Candidates(sizes, tops, known, pairs, videos, examples, cut, spans)

    def _clip(self, data: Any) -> ScoredClip:
        return documents.read_clip(data, self.number, self._dims)

    # --- the third --------------------------------------------------------------------------------------------------

    def merge(self, results: Sequence[Result], apart: Sequence[Result], *, is_last: bool) -> None:
        """Merge the neighbours of results; `found` does so if nothing reads their spans before."""
        growing = [each for each in results if len(each.moments) == 1 and each.similarity_score > 0]
        if is_last or not growing:
            return
        [new] = growing
        known = [each for each in apart if each.video == new.video and _ids(each) in self._spans]
        id_, earlier = new.moments[0].clip.id, tuple(each.moments[0].clip.id for each in known)
        told = self._candidates(self._depth).spans.get(id_)
        if told is not None and told[2] == earlier:
            self._take_spans([new], {(id_,): told[:2]})
            return  # as it is without the other libraries
        groups: list[Document] = [{"ids": _ids(each), "span": self._spans[_ids(each)]} for each in known]
        groups.append({"ids": _ids(new), "span": None})
        self._last = self._send("hits", self._later | {"groups": groups, "duplicates": [], "prints": []})
        self._take_spans([new], self._found(self._last)[1])

    def prints(self, results: Sequence[Result]) -> Collection[str]:
        videos = self._candidates(self._depth).videos
        return {videos[each.video[1]][0] for each in results if each.video[0] == self.number}

    def describe(self, results: Sequence[Result], prints: Collection[str]) -> None:
        self._own = [each for each in results if each.video[0] == self.number]
        copies = {copy.video[1] for each in results for copy in each.duplicates if copy.video[0] == self.number}
        groups = [{"ids": _ids(each), "span": self._spans.get(_ids(each))} for each in self._own]
        step = {"groups": groups, "duplicates": sorted(copies), "prints": sorted(prints)}
        self._last = self._send("hits", self._later | step)

    def found(self) -> Found:
        found, spans = self._found(self._last)
        self._take_spans(self._own, spans)
        wanted = found.hits.keys() ^ {_ids(each) for each in self._own}
        if wanted:
            raise self._failed("it does not answer all that is asked")
        # Scores by which the hits are ranked; in another batch of clips the last digits of float32 differ.
        scored = {_ids(each): replace(found.hits[_ids(each)], score=each.score) for each in self._own}
        return replace(found, hits=scored)

    def _found(self, answer: Future[Document]) -> tuple[Found, dict[tuple[int, ...], tuple[float, float]]]:
        data = self._answer(answer)
        return self._parsed(lambda: documents.read_found(data, self.place))

    def _take_spans(self, results: Sequence[Result], spans: Mapping[tuple[int, ...], tuple[float, float]]) -> None:
        for each in results:
            if _ids(each) not in spans:
                raise self._failed("it does not answer all that is asked")
            each.start_s, each.end_s = self._spans[_ids(each)] = spans[_ids(each)]

    # --- asking -----------------------------------------------------------------------------------------------------

    def _send(self, step: str, more: Mapping[str, Any]) -> Future[Document]:
        """Return the answer to come. Questions of one member follow one another on its connection."""
        answer: Future[Document] = Future()
        question = self._question | dict(more)

        def ask() -> None:
            try:
                answer.set_result(self._connection.ask(step, question, self._end_s))
            except BaseException as exc:  # noqa: BLE001  raised again in the thread that waits
                answer.set_exception(exc)

        # No pool: its threads are waited for at the end of the program, also one that looks up a name for a minute.
        Thread(target=ask, name=f"vfindex-ask-{self.place}", daemon=True).start()
        return answer

    def _answer(self, answer: Future[Document]) -> Document:
        try:
            return answer.result(max(0.0, self._end_s - time.monotonic()) + _SLACK_S)
        except NotDone as exc:
            raise self._failed("it does not answer in time") from exc

    def _parsed(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except _WRONG as exc:
            raise self._failed("its answer is not one of vfindex serve") from exc

    def _failed(self, reason: str) -> LibraryUnreachable:
        return LibraryUnreachable(self.place, reason)


def _ids(result: Result) -> tuple[int, ...]:
    return tuple(each.clip.id for each in result.moments)


def _hide(found: Candidates, videos: Collection[int]) -> None:
    """Leave out the clips of videos."""
    if not videos:
        return
    hidden = {id_ for id_, each in found.clips.items() if each.clip.video_id in videos}
    for each in found.pairs:
        hidden |= {each.first.clip.id, each.second.clip.id} if each.first.clip.video_id in videos else set()
    found.tops = tuple({id_: score for id_, score in top.items() if id_ not in hidden} for top in found.tops)
    found.clips = {id_: each for id_, each in found.clips.items() if id_ not in hidden}
    found.pairs = [each for each in found.pairs if each.first.clip.video_id not in videos]
