"""Where the words of a question stand, and what each is worth."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import PLACES, Needle, Place
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.ids import held_in
from vfindex.storage.text.full_text import WordMatch, kept
from vfindex.storage.text.tokenizer import index_form

# Documents with words of the question that are looked at, 35 us each; beyond these BM25 has little to say, and they
# bring in no further clips.
MAX_WORD_MATCHES = 100
# Clips that words bring in, the best documents' first; half as many as the joint index does. To read and score a clip
# takes 0.1 ms at 1,000,000 clips.
MAX_WORD_CLIPS = 100
# Documents that are looked at for what must stand there, 10 us each; of more, see `_chosen`.
MAX_PROVED = 2000
# Videos that a match in their title or tags brings in, the best by BM25, and so many clips of each.
MAX_TITLES = 30
MAX_CLIPS_PER_TITLE = 20
# Places where a phrase is looked for across the end of a segment; longer quotations are seldom typed.
MAX_BROKEN_WORDS = 16
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Found:
    """A segment, title or tag, and those words of the question that it holds, in the question's order.

    worth: their share of the question.
    """

    match: WordMatch
    needles: tuple[Needle, ...]
    worth: float


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The documents that hold a needle where it may stand.

    documents: (n,), increasing. said: (2, n) document and clip. titled: (2, n) document and video.
    """

    documents: NDArray[np.int64]
    said: NDArray[np.int64]
    titled: NDArray[np.int64]

    def __len__(self) -> int:
        return self.documents.size + self.said.size + self.titled.size


@dataclass(slots=True)
class WordEvidence:
    """Which words of a question a clip's speech, or its video's title and tags, holds.

    held: what must stand there. Of its documents, which may be thousands, `meet` reads those of clips looked at.
    """

    speech: dict[int, list[Found]] = field(default_factory=dict)  # by clip id
    text: dict[int, list[Found]] = field(default_factory=dict)  # by video id
    clip_ids: list[int] = field(default_factory=list)
    titled: dict[int, int] = field(default_factory=dict)  # clip id -> its video, of clips that a title brings in
    weight: dict[Needle, float] = field(default_factory=dict)  # its share of the question, summing to 1
    held: dict[Needle, Held] = field(default_factory=dict)
    known: dict[int, Found] = field(default_factory=dict)  # by document id

    def add(self, match: WordMatch, needles: Iterable[Needle]) -> None:
        """Take in a document that holds needles, those that may stand there."""
        place: Place = "text" if match.start_s is None else "speech"
        here = tuple(needle for needle in needles if place in needle.places)
        found = Found(match, here, sum(self.weight[needle] for needle in here))
        self.known[match.document_id] = found
        if here and place == "text":
            self.text.setdefault(match.video_id, []).append(found)

    def say(self, said: Iterable[tuple[int, int]]) -> None:
        """Take in which of the known documents are said during which clips: (document, clip)."""
        for document_id, clip_id in said:
            if (found := self.known[document_id]).needles:
                self.speech.setdefault(clip_id, []).append(found)

    def meet(self, snapshot: Snapshot, clips: Collection[StoredClip]) -> None:
        """Take in the documents of clips that hold what must stand there."""
        if not self.held or not clips:
            return
        ids, videos = np.unique([clip.id for clip in clips]), np.unique([clip.video_id for clip in clips])
        met = [each.said[0, held_in(each.said[1], ids)] for each in self.held.values()]
        met += [each.titled[0, held_in(each.titled[1], videos)] for each in self.held.values()]
        new = np.array([id_ for id_ in np.unique(np.concatenate(met)).tolist() if id_ not in self.known], np.int64)
        for match in snapshot.words.documents(new):
            id_ = np.array([match.document_id])
            self.add(match, [n for n in self.weight if n in self.held and held_in(id_, self.held[n].documents)[0]])
        pairs = [each.said[:, held_in(each.said[0], new)] for each in self.held.values()]
        self.say(sorted({(document, clip) for document, clip in np.concatenate(pairs, axis=1).T.tolist()}))

    def worth(self, found: Sequence[Found]) -> float:
        """Return the share of the question that documents hold together."""
        if len(found) == 1:  # hashing a needle takes 1 us, and most clips have one document
            return found[0].worth
        return sum(self.weight[needle] for needle in {needle for each in found for needle in each.needles})

    def foreseen(self) -> dict[int, float]:
        """Return clip id -> what share of the question it holds, as far as is known before clips are read."""
        worth: dict[int, float] = {id_: self.worth(found) for id_, found in self.speech.items()}
        for id_, video_id in self.titled.items():
            worth[id_] = worth.get(id_, 0.0) + self.worth(self.text[video_id])
        return worth

    def words(self, found: Sequence[Found]) -> tuple[str, ...]:
        """Return the words that documents hold together, in the question's order."""
        needles: Iterable[Needle] = found[0].needles
        if len(found) > 1:
            held = {needle for each in found for needle in each.needles}
            needles = (needle for needle in self.weight if needle in held)
        return tuple(dict.fromkeys(needle.text for needle in needles))


def find_words(snapshot: Snapshot, needles: Sequence[Needle], videos: Collection[int] | None = None) -> WordEvidence:
    """Return where words of the question stand, and what each is worth; videos: the only ones looked at.

    A word's worth is its inverse document frequency, ln(1 + (N - n + 0.5) / (n + 0.5)) (Robertson and Zaragoza 2009,
    section 3.5, floored at 0), times its weight, over the sum of all: a clip that holds every word scores 1.
    """
    loose = [needle for needle in needles if not needle.required]
    matches = snapshot.words.match([n.text for n in loose], MAX_WORD_MATCHES, videos) if loose else []
    holders: dict[Needle, Collection[int]] = {
        needle: {match.document_id for match in matches if needle.text in match.phrases} for needle in loose
    }
    held = _held(snapshot, [needle for needle in needles if needle.required], videos)
    holders |= {needle: set(each.documents.tolist()) for needle, each in held.items()}
    evidence = WordEvidence(weight=_worth(snapshot, needles, holders), held=held)
    for match in matches:
        evidence.add(match, [needle for needle in needles if match.document_id in holders[needle]])
    during: dict[int, list[int]] = {}
    said = snapshot.words.clips_during([match.document_id for match in matches if match.start_s is not None])
    for document_id, clip_id in said:
        during.setdefault(document_id, []).append(clip_id)
    evidence.say(said)
    titled = snapshot.first_clips(list(evidence.text)[:MAX_TITLES], MAX_CLIPS_PER_TITLE) if evidence.text else {}
    evidence.titled = {clip_id: video_id for video_id, clips in titled.items() for clip_id in clips}
    brought = (titled.get(m.video_id, ()) if m.start_s is None else during.get(m.document_id, ()) for m in matches)
    evidence.clip_ids = list(dict.fromkeys(chain.from_iterable(brought)))[:MAX_WORD_CLIPS]
    return evidence


def _held(snapshot: Snapshot, needles: Sequence[Needle], videos: Collection[int] | None) -> dict[Needle, Held]:
    """Return the documents that hold what must stand there; those of the last questions are remembered."""
    known: dict[Hashable, Held] = snapshot.remembered("held", dict)
    asked = tuple((needle.text, needle.exact, needle.places) for needle in needles)
    chosen = cache(lambda: _chosen(snapshot, needles, videos))

    def held(number: int) -> Held:
        key = (number, asked, None if videos is None else frozenset(videos))
        return kept(known, key, lambda: _proved(snapshot, needles[number], chosen()[number], videos))

    return {needle: held(number) for number, needle in enumerate(needles)}


def _chosen(snapshot: Snapshot, needles: Sequence[Needle], videos: Collection[int] | None) -> list[NDArray[np.int64]]:
    """Return for each needle the documents to be looked at for it, at most MAX_PROVED, of videos that hold all needles.

    Those first that hold the most needles, then the newest; half of them, and of the others so many evenly spread ones.
    """
    words = snapshot.words
    lists = [words.holders(needle.text, videos) for needle in needles]
    if all(len(ids) <= MAX_PROVED for ids in lists):
        return lists
    lists = [words.visible(ids) for ids in lists]
    for number, needle in enumerate(needles):
        if needle.places != PLACES and len(lists[number]) > MAX_PROVED:
            written = held_in(lists[number], words.written())
            lists[number] = lists[number][written if needle.places == ("text",) else ~written]
    # A phrase may run on from one segment into the next: then its videos hold no document with all of it.
    whole = [ids for ids, needle in zip(lists, needles, strict=True) if not (needle.exact and _has_many(needle))]
    if len(needles) > 1 and whole:
        shared = reduce(np.intersect1d, [np.unique(words.videos_of(ids)) for ids in whole])
        lists = [ids[np.isin(words.videos_of(ids), shared)] for ids in lists]
    every, times = np.unique(np.concatenate(lists), return_counts=True)
    return [_first(ids, times[np.searchsorted(every, ids)]) for ids in lists]


def _first(ids: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return MAX_PROVED documents, increasing; times: how many needles each holds."""
    if len(ids) <= MAX_PROVED:
        return ids
    ordered, half = ids[np.lexsort((-ids, -times))], MAX_PROVED // 2
    spread = np.linspace(half, len(ids) - 1, MAX_PROVED - half).astype(np.int64)
    return np.asarray(np.sort(np.append(ordered[:half], ordered[spread])))


def _has_many(needle: Needle) -> bool:
    return len(plain_words(needle.text)) > 1


def find_held(snapshot: Snapshot, needle: Needle, videos: Collection[int] | None) -> Held:
    """Return all documents that hold a needle where it may stand; videos: the only ones looked at."""
    return _proved(snapshot, needle, snapshot.words.holders(needle.text, videos), videos)


def _proved(snapshot: Snapshot, needle: Needle, ids: NDArray[np.int64], videos: Collection[int] | None) -> Held:
    """Return those of documents that hold a needle where it may stand.

    An exact phrase may run on from one segment into the next: then both hold it.
    """
    if needle.exact:
        ids = _holding_exactly(snapshot, needle, ids, videos)
    places = snapshot.words.places(ids)  # (4, n): document, video, whether of a segment, clip
    spoken = places[2] == 1
    places = places[:, (spoken & ("speech" in needle.places)) | (~spoken & ("text" in needle.places))]
    spoken = places[2] == 1
    return Held(np.unique(places[0]), places[:, spoken & (places[3] > 0)][[0, 3]], places[:2, ~spoken])


def _worth(
    snapshot: Snapshot, needles: Sequence[Needle], holders: Mapping[Needle, Collection[int]]
) -> dict[Needle, float]:
    """Return each needle's share of the question; nothing where none is found."""
    if not any(holders.values()):
        return {}
    loose = [needle for needle in needles if not needle.required]
    total, counts = snapshot.words.document_frequencies([needle.text for needle in loose])
    known = dict(zip(loose, counts, strict=True))
    counted = {needle: known.get(needle, len(holders[needle])) for needle in needles}
    worth = {needle: needle.weight * math.log1p((total - n + 0.5) / (n + 0.5)) for needle, n in counted.items()}
    return {needle: value / sum(worth.values()) for needle, value in worth.items()}


def _holding_exactly(
    snapshot: Snapshot, needle: Needle, ids: NDArray[np.int64], videos: Collection[int] | None
) -> NDArray[np.int64]:
    """Return those documents that hold a phrase as typed but for case and accents, and those that hold it together."""
    words = plain_words(needle.text)
    found = {m.document_id for m in snapshot.words.documents(ids) if _stands_in(words, plain_words(m.text))}
    for cut in range(1, min(len(words), MAX_BROKEN_WORDS)):
        head, tail = words[:cut], words[cut:]
        for first, second in snapshot.words.broken(" ".join(head), " ".join(tail), videos):
            if plain_words(first.text)[-cut:] == head and plain_words(second.text)[: len(tail)] == tail:
                found |= {first.document_id, second.document_id}
    return np.array(sorted(found), np.int64)


def plain_words(text: str) -> list[str]:
    """Return the words of a text in the one form that `folding.folded` gives letters."""
    form = index_form(text.lower())
    if not form.isascii():
        form = "".join(c for c in unicodedata.normalize("NFKD", form) if unicodedata.category(c) != "Mn")
    return _WORD.findall(form)


def _stands_in(words: Sequence[str], text: Sequence[str]) -> bool:
    return any(list(text[i : i + len(words)]) == list(words) for i in range(len(text) - len(words) + 1))
