"""Watched questions: which videos are new, and which of their moments answer a saved question.

A video is judged once, when a search first finds it. One that is moved, renamed, read again or missing for a while is
the same content and no news; a preview in which nothing was found is judged once more when it has been read fully. What
a watch finds is stored before anybody is told, so a killed run loses nothing and finds nothing twice.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from vfindex.search.calibration.labels import LABELS, META_KEY, Calibration, Label, LibraryLabeller, open_weights
from vfindex.search.engine import SearchEngine, answer
from vfindex.search.marks import marks_with_paths
from vfindex.search.query.ast import Query
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Request
from vfindex.search.results import Hit
from vfindex.search.understanding.news import News, NewsItem, Waiting, WatchInfo, WatchList
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.units import preview_videos, searchable_prints
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.library import again_if_changed, reading_spec
from vfindex.storage.modalities import ModalityName, modality_names
from vfindex.storage.records import ClipKey
from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Mark, Moment, NewHit, Watch, WatchHit
from vfindex.storage.user.watches import Arrivals, Present, WatchData, token

# Hits of one new video at most: the best moments of an hour of a recorder.
MOMENTS_A_VIDEO = 3
# New videos asked of at a time, so that memory does not grow with a first night.
BATCH_VIDEOS = 100
# A watch asks of each new video, of which few answer; below it a hit is more likely wrong than right.
LEAST: Label = "medium"
# Why hits by a modality cannot be told from chance.
Doubts = Mapping[ModalityName, str]
_NEVER_SURE = (
    "hits of this question get no confidence, so news could not be told from chance; use plain words, or require words "
    'as in said:"..." (docs/watch.md)'
)


class Watches:
    """The watched questions of a library."""

    def __init__(self, engine: SearchEngine) -> None:
        self._engine = engine

    def add(self, name: str, text: str | None = None, *, least: Label = LEAST) -> WatchInfo:
        """Watch a question, saved under this name; return it. What the library holds already is not new.

        text: None for a saved question. least: the label that a hit needs. Raises QueryError, UsageError.
        """
        if least not in LABELS[1:]:
            raise UsageError(f"the confidence must be one of {', '.join(LABELS[1:])}, not {least!r}")
        user = UserData.open(self._engine.library().root)
        saved = user.saved_query(name)
        if text is None and saved is None:
            raise QueryError(
                f"there is no saved question {name}; add one with: vfindex watch add {shlex.quote(name)} TEXT"
            )
        _check(text if text is not None else saved.text if saved is not None else "")
        if text is not None:
            user.save_query(name, text)
        return next(self._infos([self._data().add(name, least, self._present())], {}))

    def watched(self) -> WatchList:
        """Return the watched questions, by name."""
        counts = self._data().counts()
        return WatchList(tuple(self._infos(self._data().watches(), counts)))

    def remove(self, name: str) -> WatchInfo:
        """Stop watching a question and delete its hits; the question stays saved. Raises QueryError."""
        found = next((each for each in self.watched().watches if each.name == name), None)
        if found is None:
            raise QueryError(f"no question named {name} is watched; `vfindex watch list` shows those that are")
        self._data().remove(name)
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the one process that judges and reports. Raises LibraryLocked."""
        with self._data().alone():
            yield

    def judge(self, say: Callable[[str], None] = lambda _: None) -> tuple[Waiting, ...]:
        """Find and store the new hits of all watches; return those that could not judge. Call it inside `alone`.

        say: told before each watch that has videos to judge, and of a damaged record. Raises QueryError, ModelError.
        """
        data = self._data()
        if not data.watches():
            return ()
        log = data.note(self._present())
        if not log.is_whole:
            say("the record of the videos seen was damaged and begins anew: those in the library now are not news")
        return tuple(waiting for each in data.watches() if (waiting := self._judge(each, log, say)) is not None)

    def untold(self, waiting: Sequence[Waiting] = ()) -> News:
        """Return the hits that nobody was told."""
        return News(tuple(self.items(untold=True)), tuple(waiting))

    @again_if_changed
    def items(self, *, untold: bool = False, newest: int | None = None) -> list[NewsItem]:
        """Return stored hits, the oldest first, with the paths that their videos have now.

        untold: only those that nobody was told. newest: at most so many.
        """
        data = self._data()
        texts = {each.name: each.text for each in data.watches()}
        hits = data.hits(texts, untold=untold, newest=newest)
        with self._engine.library().snapshot() as snapshot:
            return list(_items(snapshot, hits, texts))

    def tell(self, items: Sequence[NewsItem]) -> None:
        """Store that these items have been reported."""
        if items:
            self._data().tell([each.id for each in items])

    def _judge(self, watch: Watch, log: Arrivals, say: Callable[[str], None]) -> Waiting | None:
        query, prints = parse(watch.text), self._candidates(watch, log)
        if prints:
            say(f"{watch.name}: asking {watch.text} of {len(prints)} new")
        [doubts] = self._doubts([query])
        waiting: list[ModalityName] = []
        for start in range(0, len(prints), BATCH_VIDEOS):
            waiting += self._ask(watch, query, tuple(prints[start : start + BATCH_VIDEOS]), doubts)
        if waiting:  # those that could be judged are asked again, too: a watch knows how far it is in the log, no more
            return Waiting(watch.name, len(waiting), _sentence({m: doubts[m] for m in waiting}))
        self._data().keep(watch, [], log.last)
        return None

    def _ask(self, watch: Watch, query: Query, prints: tuple[str, ...], doubts: Doubts) -> list[ModalityName]:
        """Store the hits of new videos; return for each video that has none but may answer what it was found by.

        Its best modality says nothing of chance here.
        """
        chosen = replace(query, filters=replace(query.filters, prints=prints))
        request = Request(chosen, top_k=MOMENTS_A_VIDEO * len(prints), per_video=MOMENTS_A_VIDEO)
        hits = list(answer([self._engine], request))
        news = [hit for hit in hits if _counts(hit, query, watch.least)]
        self._data().keep(watch, [_new(hit) for hit in news])
        told = {hit.key.fingerprint for hit in news}
        by = {hit.key.fingerprint: _best_modality(hit) for hit in reversed(hits)}
        return [m for name, m in by.items() if m is not None and m in doubts and name not in told]

    @again_if_changed
    def _candidates(self, watch: Watch, log: Arrivals) -> list[str]:
        """Return the fingerprints of the videos that a watch has not judged, in order of their ids."""
        new, older = log.between(watch.done, log.last), log.between(0, watch.since)
        if not len(new):
            return []
        known = {each.hit.moment.fingerprint for each in self._data().hits([watch.name])}
        with self._engine.library().snapshot() as snapshot:
            prints, previews = searchable_prints(snapshot), preview_videos(snapshot)
        names = [name for name in sorted(prints, key=prints.__getitem__) if name not in known]
        own = np.fromiter((token(name, preview=name in previews) for name in names), np.uint64, len(names))
        before = np.fromiter((token(name, preview=True) for name in names), np.uint64, len(names))
        chosen = np.isin(own, new) & ~np.isin(before, older)
        return [name for name, is_new in zip(names, chosen.tolist(), strict=True) if is_new]

    @again_if_changed
    def _present(self) -> Present:
        with self._engine.library().snapshot() as snapshot:
            previews = preview_videos(snapshot)
            return Present([each for each in searchable_prints(snapshot) if each not in previews], previews)

    @again_if_changed
    def _doubts(self, queries: Sequence[Query]) -> list[Doubts]:
        """Return for each question why hits by a modality cannot be told from chance. Hits with its words can."""
        with self._engine.library().snapshot() as snapshot:
            calibration, weights = Calibration.from_json(snapshot.get(META_KEY)), dict.fromkeys(modality_names(), 1.0)
            if snapshot.counts()["clip"]:
                weights = open_weights(reading_spec(snapshot)[0])
        return [
            {} if _requires_words(query) else LibraryLabeller.of(calibration, query, weights).doubts
            for query in queries
        ]

    @property
    def folder(self) -> Path:
        """The folder of the library."""
        return self._engine.folder

    def _data(self) -> WatchData:
        return WatchData.open(self._engine.library().root)

    def _infos(self, watches: Sequence[Watch], counts: Mapping[str, tuple[int, int]]) -> Iterator[WatchInfo]:
        doubts = self._doubts([parse(each.text) for each in watches])
        for watch, unsure in zip(watches, doubts, strict=True):
            hits, new = counts.get(watch.name, (0, 0))
            doubt = _sentence(unsure) if unsure else None
            yield WatchInfo(watch.name, watch.text, watch.least, hits, new, watch.by, watch.at, doubt)


def _check(text: str) -> None:
    """Raise QueryError for a question of which no library tells hits from chance."""
    query = parse(text)
    parts = [part for moment in query.moments for part in moment.parts()]
    if not _requires_words(query) and (len(parts) != 1 or parts[0].weight != 1.0):
        raise QueryError(_NEVER_SURE)


def _requires_words(query: Query) -> bool:
    """Return whether every hit contains words that the question requires, in each of its moments."""
    return all(any(keyword.required for keyword in moment.keywords()) for moment in query.moments)


def _counts(hit: Hit, query: Query, least: str) -> bool:
    if _requires_words(query):
        return True
    return hit.confidence is not None and LABELS.index(hit.confidence) >= LABELS.index(least)


def _best_modality(hit: Hit) -> ModalityName | None:
    """Return the modality that adds most to the score of a hit."""
    scores = {m: score for m, score in hit.modalities.items() if score is not None}
    return max(scores, key=scores.__getitem__, default=None)


def _sentence(doubts: Doubts) -> str:
    """Return why the library cannot judge, the modalities with the same reason together."""
    reasons = dict.fromkeys(doubts.values())
    names = {reason: [m for m, own in doubts.items() if own == reason] for reason in reasons}
    clauses = [f"{', '.join(own)} {'has' if len(own) == 1 else 'have'} {reason}" for reason, own in names.items()]
    return f"not better than chance here: {'; '.join(clauses)}"


def _new(hit: Hit) -> NewHit:
    moment = Moment(hit.key.fingerprint, round(1000 * hit.start_s), round(1000 * hit.end_s))
    return NewHit(moment, hit.score, hit.confidence or "", hit.coarse)


def _items(snapshot: Snapshot, hits: Sequence[WatchHit], texts: dict[str, str]) -> Iterator[NewsItem]:
    """Yield stored hits with what the library says of their videos now."""
    marks = [Mark(each.id, each.hit.moment, "", "", "", None, "", each.at) for each in hits]
    places = marks_with_paths(snapshot, marks).marks
    said = _said(snapshot, [place.clip for place in places if place.clip is not None])
    for stored, place in zip(hits, places, strict=True):
        yield NewsItem(
            id=stored.id,
            watch=stored.name,
            question=texts[stored.name],
            video=place.video,
            presence=place.presence,
            fingerprint=place.fingerprint,
            key=place.clip or place.key,
            start_s=place.start_s,
            end_s=place.end_s,
            score=stored.hit.score,
            confidence=stored.hit.confidence or None,
            preview=stored.hit.preview,
            snippet=None if place.clip is None else said.get(place.clip),
            found_at=stored.at,
            told_at=stored.told,
        )


def _said(snapshot: Snapshot, keys: Iterable[ClipKey]) -> dict[ClipKey, str]:
    """Return what is said during clips, at most 160 characters of each. The clips of a video are read once."""
    starts_ms: dict[str, set[int]] = {}
    for key in keys:
        starts_ms.setdefault(key.fingerprint, set()).add(key.start_ms)
    found: dict[ClipKey, str] = {}
    for fingerprint, wanted in starts_ms.items():
        video = snapshot.video_with(fingerprint)
        clips = [] if video is None else [each for each in snapshot.clips_of(video.id) if each.start_ms in wanted]
        said = snapshot.said([each.id for each in clips])
        found |= {ClipKey(fingerprint, each.start_ms): said[each.id][:160] for each in clips if said.get(each.id)}
    return found
