"""Where the words of a question stand, what each is worth, and which clips that leaves."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query import Moment, Needle, Place
from vfindex.storage.scripts import index_form
from vfindex.storage.snapshot import Snapshot
from vfindex.storage.vectors import ClipSet
from vfindex.storage.words import WordMatch

# Documents with words of the question that are looked at; beyond these BM25 has little to say.
MAX_WORD_MATCHES = 200
# Clips that words bring in, the best documents' first; half as many as the joint index does. To read and score a clip
# takes 0.1 ms at 1,000,000 clips.
MAX_WORD_CLIPS = 100
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


@dataclass(slots=True)
class WordEvidence:
    """Which words of a question a clip's speech, or its video's title and tags, holds."""

    speech: dict[int, list[Found]] = field(default_factory=dict)  # by clip id
    text: dict[int, list[Found]] = field(default_factory=dict)  # by video id
    clip_ids: list[int] = field(default_factory=list)
    weight: dict[Needle, float] = field(default_factory=dict)  # its share of the question, summing to 1

    def worth(self, found: Sequence[Found]) -> float:
        """Return the share of the question that documents hold together."""
        if len(found) == 1:  # hashing a needle takes 1 us, and most clips have one document
            return found[0].worth
        return sum(self.weight[needle] for needle in {needle for each in found for needle in each.needles})

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
    ids = [match.document_id for match in matches]
    holders = dict(zip(loose, snapshot.words.documents_with([needle.text for needle in loose], ids), strict=True))
    known = {match.document_id: match for match in matches}
    for needle in needles:
        if needle.required:
            held = _holding(snapshot, needle, videos)
            holders[needle] = {match.document_id for match in held}
            known |= {match.document_id: match for match in held}
    evidence = WordEvidence(weight=_worth(snapshot, needles, holders))
    spoken: dict[int, Found] = {}
    for document_id, match in known.items():
        place: Place = "text" if match.start_s is None else "speech"
        here = tuple(needle for needle in needles if document_id in holders[needle] and place in needle.places)
        found = Found(match, here, sum(evidence.weight[needle] for needle in here))
        if here and place == "text":
            evidence.text.setdefault(match.video_id, []).append(found)
        elif here:
            spoken[document_id] = found
    during: dict[int, list[int]] = {}
    for document_id, clip_id in snapshot.words.clips_during(spoken):
        evidence.speech.setdefault(clip_id, []).append(spoken[document_id])
        during.setdefault(document_id, []).append(clip_id)
    titled = snapshot.first_clips(list(evidence.text)[:MAX_TITLES], MAX_CLIPS_PER_TITLE) if evidence.text else {}
    brought = (titled.get(m.video_id, ()) if m.start_s is None else during.get(id_, ()) for id_, m in known.items())
    evidence.clip_ids = list(dict.fromkeys(chain.from_iterable(brought)))[:MAX_WORD_CLIPS]
    return evidence


def allowed(
    snapshot: Snapshot, moment: Moment, evidence: WordEvidence, videos: Collection[int] | None = None
) -> ClipSet | None:
    """Return the clips that may answer, or None for all: of `videos`, with all that must stand there and none else."""
    kept = None if videos is None else _clips_of(snapshot, videos)
    for needle in moment.needles():
        if needle.required:
            speech = {id_ for id_, found in evidence.speech.items() if _holds(found, needle)}
            titled = [id_ for id_, found in evidence.text.items() if _holds(found, needle)]
            held = _ids(speech | set(snapshot.clip_ids(videos=titled) if titled else ()))
            kept = held if kept is None else np.intersect1d(kept, held, assume_unique=True)
    dropped: set[int] = set()
    for needle in moment.unwanted():
        matches = _holding(snapshot, needle, videos)
        dropped |= {id_ for _, id_ in snapshot.words.clips_during([m.document_id for m in matches])}
        titled = [match.video_id for match in matches if match.start_s is None]
        dropped |= set(snapshot.clip_ids(videos=titled) if titled else ())
    if kept is None:
        return ClipSet(_ids(dropped), excluded=True) if dropped else None
    return ClipSet(np.setdiff1d(kept, _ids(dropped), assume_unique=True) if dropped else kept)


def _clips_of(snapshot: Snapshot, videos: Collection[int]) -> NDArray[np.int64]:
    """Return the clips of videos, increasing; those of the last videos asked are remembered."""
    last: dict[Collection[int], NDArray[np.int64]] = snapshot.remembered("clips of videos", dict)
    if videos not in last:
        last.clear()
        last[videos] = snapshot.clips_in(videos)
    return last[videos]


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


def _holding(snapshot: Snapshot, needle: Needle, videos: Collection[int] | None) -> list[WordMatch]:
    """Return all documents that hold a needle where it may stand.

    An exact phrase may run on from one segment into the next: then both hold it.
    """
    matches = snapshot.words.holding(needle.text, videos)
    if needle.exact:
        words = plain_words(needle.text)
        matches = [match for match in matches if _stands_in(words, plain_words(match.text))]
        for cut in range(1, min(len(words), MAX_BROKEN_WORDS)):
            head, tail = words[:cut], words[cut:]
            for first, second in snapshot.words.broken(" ".join(head), " ".join(tail), videos):
                if plain_words(first.text)[-cut:] == head and plain_words(second.text)[: len(tail)] == tail:
                    matches += (first, second)
    return [match for match in matches if ("text" if match.start_s is None else "speech") in needle.places]


def plain_words(text: str) -> list[str]:
    """Return the words of a text without case and accents."""
    decomposed = unicodedata.normalize("NFKD", index_form(text).casefold())
    return _WORD.findall("".join(c for c in decomposed if unicodedata.category(c) != "Mn"))


def _stands_in(words: Sequence[str], text: Sequence[str]) -> bool:
    return any(list(text[i : i + len(words)]) == list(words) for i in range(len(text) - len(words) + 1))


def _holds(found: Iterable[Found], needle: Needle) -> bool:
    return any(needle in each.needles for each in found)


def _ids(ids: Collection[int]) -> NDArray[np.int64]:
    return np.fromiter(sorted(ids), np.int64, len(ids))
