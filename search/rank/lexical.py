"""Keyword matches: which documents (segments, titles, tags) contain the query's keywords, and what each is worth."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate, chain, pairwise, zip_longest

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Keyword
from vfindex.search.rank.required import documents_to_check, kinds_of
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.ids import in_sorted
from vfindex.storage.modalities import ModalityName, modality_of_document, word_modalities
from vfindex.storage.text.document_lists import kept
from vfindex.storage.text.full_text import WordMatch
from vfindex.storage.text.repeats import repeats
from vfindex.storage.text.tokenizer import plain_words

# Documents with optional keywords that are read, the best by BM25, 35 us each. Further ones change little in the score
# and add no candidates.
MAX_WORD_MATCHES = 100
# Candidates that keywords add, those of the best documents first; half as many as the joint index adds. Reading and
# scoring a clip takes 0.1 ms at 1,000,000 clips.
MAX_WORD_CLIPS = 100
# Videos that a match in their title or tags adds, the best by BM25; and clips that a document adds.
MAX_TITLES = 30
MAX_CLIPS_PER_DOCUMENT = 20
# Words of a phrase up to which it may continue from one segment into the next; longer quotations are rare.
MAX_SPLIT_WORDS = 16


@dataclass(frozen=True, slots=True)
class DocumentMatch:
    """A document and the keywords it contains, in the order of the query. share: their share of all idf weights."""

    document: WordMatch
    modality: ModalityName
    keywords: tuple[Keyword, ...]
    share: float


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How many documents libraries have, and for each keyword how many contain it; those of several add up."""

    documents: int = 0
    counts: tuple[int, ...] = ()

    def plus(self, other: Frequencies) -> Frequencies:
        """Return the frequencies in both."""
        counts = tuple(map(sum, zip_longest(self.counts, other.counts, fillvalue=0)))
        return Frequencies(self.documents + other.documents, counts)


NO_DOCUMENTS = Frequencies()


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """The documents that contain a keyword in one of its modalities.

    documents: (n,), increasing. timed: (2, n) document of a segment, and a clip during it. whole: (2, n) document of a
    whole video, and the video. frequency: how many documents of the library contain it. is_cut: whether some were left
    out that might answer.
    """

    documents: NDArray[np.int64]
    timed: NDArray[np.int64]
    whole: NDArray[np.int64]
    frequency: int
    is_cut: bool = False

    def __len__(self) -> int:
        return self.documents.size + self.timed.size + self.whole.size


@dataclass(slots=True)
class KeywordMatches:
    """The keywords of a query in the text of clips and of whole videos.

    required: the postings of required keywords. Their documents may be thousands; `load_clips` reads those of the
    clips that are scored. absent: the share of the optional keywords that no document contains.
    """

    timed: dict[int, list[DocumentMatch]] = field(default_factory=dict)  # by clip id
    whole: dict[int, list[DocumentMatch]] = field(default_factory=dict)  # by video id
    clip_ids: list[int] = field(default_factory=list)
    titled: dict[int, int] = field(default_factory=dict)  # clip id -> video id, of clips added by a title
    shares: dict[Keyword, float] = field(default_factory=dict)  # of the query's idf weights, summing to 1
    required: dict[Keyword, Postings] = field(default_factory=dict)
    documents: dict[int, DocumentMatch] = field(default_factory=dict)  # by document id
    clip_shares: dict[int, float] = field(default_factory=dict)  # by clip id, before `load_clips`
    absent: float = 0.0

    @property
    def cut(self) -> tuple[str, ...]:
        """The required keywords that more documents contain than were looked at."""
        return tuple(keyword.text for keyword, postings in self.required.items() if postings.is_cut)

    def add(self, document: WordMatch, keywords: Iterable[Keyword]) -> None:
        """Add a document that contains keywords; those not allowed in its modality are ignored."""
        modality = modality_of_document(document.kind) or ""
        accepted = tuple(keyword for keyword in keywords if modality in keyword.modalities)
        match = DocumentMatch(document, modality, accepted, sum(self.shares[keyword] for keyword in accepted))
        self.documents[document.document_id] = match
        if accepted and document.start_s is None:
            self.whole.setdefault(document.video_id, []).append(match)

    def add_clips(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Assign added documents of segments to the clips during them: (document id, clip id)."""
        for document_id, clip_id in pairs:
            if (match := self.documents[document_id]).keywords:
                self.timed.setdefault(clip_id, []).append(match)

    def of_clip(self, clip_id: int, video_id: int) -> dict[ModalityName, list[DocumentMatch]]:
        """Return modality -> the matches in a clip's text and in that of its whole video, in the table's order."""
        matches = [*self.timed.get(clip_id, ()), *self.whole.get(video_id, ())]
        return _by_modality(matches) if matches else {}

    def load_clips(self, snapshot: Snapshot, clips: Collection[StoredClip]) -> None:
        """Add the documents of clips that contain required keywords."""
        if not self.required or not clips:
            return
        ids, videos = np.unique([clip.id for clip in clips]), np.unique([clip.video_id for clip in clips])
        of_clips = [each.timed[0, in_sorted(each.timed[1], ids)] for each in self.required.values()]
        of_clips += [each.whole[0, in_sorted(each.whole[1], videos)] for each in self.required.values()]
        new = np.array([i for i in np.unique(np.concatenate(of_clips)).tolist() if i not in self.documents], np.int64)
        for document in snapshot.words.documents(new):
            id_ = np.array([document.document_id])
            contained = [k for k in self.shares if k in self.required and in_sorted(id_, self.required[k].documents)[0]]
            self.add(document, contained)
        pairs = [each.timed[:, in_sorted(each.timed[0], new)] for each in self.required.values()]
        self.add_clips(sorted({(document, clip) for document, clip in np.concatenate(pairs, axis=1).T.tolist()}))

    def shares_of(self, by_modality: Mapping[ModalityName, Sequence[DocumentMatch]]) -> dict[ModalityName, float]:
        """Return modality -> share of the idf weights that the documents of a clip contain together.

        Burnt-in subtitles that repeat what is said count once, as speech.
        """
        said: list[DocumentMatch] = []
        if len(by_modality) > 1:
            timed = (each for found in by_modality.values() for each in found if each.document.start_s is not None)
            said = sorted(
                (each for each in timed if each.document.box is None), key=lambda each: each.document.start_s or 0.0
            )
        texts = [each.document.text for each in said]

        def counts(match: DocumentMatch) -> bool:
            return match.document.box is None or not texts or not repeats(match.document.text, texts)

        return {modality: self._share([*filter(counts, found)]) for modality, found in by_modality.items()}

    def _share(self, matches: Sequence[DocumentMatch]) -> float:
        if len(matches) == 1:  # hashing a keyword takes 1 us, and most clips have one document
            return matches[0].share
        contained = {keyword for each in matches for keyword in each.keywords}
        return sum(share for keyword, share in self.shares.items() if keyword in contained)

    def find_clip_shares(self) -> None:
        """Set `clip_shares`, the shares of the idf weights, by the documents added so far."""
        texts: dict[int, list[DocumentMatch]] = dict(self.timed)
        for id_, video_id in self.titled.items():
            texts[id_] = [*texts.get(id_, ()), *self.whole[video_id]]
        self.clip_shares = {id_: sum(self.shares_of(_by_modality(each)).values()) for id_, each in texts.items()}

    def words_of(self, matches: Sequence[DocumentMatch]) -> tuple[str, ...]:
        """Return the keywords that documents contain together, in the order of the query."""
        keywords: Iterable[Keyword] = matches[0].keywords
        if len(matches) > 1:
            contained = {keyword for each in matches for keyword in each.keywords}
            keywords = (keyword for keyword in self.shares if keyword in contained)
        return tuple(dict.fromkeys(keyword.text for keyword in keywords))


def match_keywords(
    snapshot: Snapshot,
    keywords: Sequence[Keyword],
    videos: Collection[int] | None = None,
    elsewhere: Frequencies = NO_DOCUMENTS,
) -> KeywordMatches:
    """Return the matches of keywords in `videos`; None: in all videos.

    elsewhere: in the libraries that are searched with this one; their documents count for the frequencies.

    A keyword's share is its inverse document frequency, ln(1 + (N - n + 0.5) / (n + 0.5)) (Robertson and Zaragoza
    2009, section 3.5, floored at 0), times its weight, over the sum of all: a clip with every keyword has 1.
    """
    optional = [keyword for keyword in keywords if not keyword.required]
    documents = snapshot.words.match([k.text for k in optional], MAX_WORD_MATCHES, videos) if optional else []
    required = _required_postings(snapshot, [keyword for keyword in keywords if keyword.required], videos)
    holders: dict[Keyword, Collection[int]] = {
        keyword: {each.document_id for each in documents if keyword.text in each.phrases} for keyword in optional
    }
    holders |= {keyword: set(each.documents.tolist()) for keyword, each in required.items()}
    shares, absent, found = dict[Keyword, float](), 0.0, any(holders.values())
    if optional or found:
        is_of_all = len(keywords) == 1 or (len(required) == 1 and videos is None)  # of one keyword none is needed
        everywhere = find_frequencies(snapshot, keywords, required if is_of_all else {}).plus(elsewhere)
        shares, absent = _idf_shares(everywhere, keywords, found=found)
    matches = KeywordMatches(shares=shares, required=required, absent=absent)
    for document in documents:
        matches.add(document, [keyword for keyword in keywords if document.document_id in holders[keyword]])
    clips_of: dict[int, list[int]] = {}
    pairs = snapshot.words.clips_during([each.document_id for each in documents if each.start_s is not None])
    for document_id, clip_id in pairs:
        clips_of.setdefault(document_id, []).append(clip_id)
    matches.add_clips(pairs)
    clips_of = {document_id: ids[:MAX_CLIPS_PER_DOCUMENT] for document_id, ids in clips_of.items()}
    titled = snapshot.first_clips(list(matches.whole)[:MAX_TITLES], MAX_CLIPS_PER_DOCUMENT) if matches.whole else {}
    matches.titled = {clip_id: video_id for video_id, clips in titled.items() for clip_id in clips}
    added = (titled.get(d.video_id, ()) if d.start_s is None else clips_of.get(d.document_id, ()) for d in documents)
    matches.clip_ids = list(dict.fromkeys(chain.from_iterable(added)))[:MAX_WORD_CLIPS]
    matches.find_clip_shares()
    return matches


def _required_postings(
    snapshot: Snapshot, keywords: Sequence[Keyword], videos: Collection[int] | None
) -> dict[Keyword, Postings]:
    """Return the postings of required keywords; those of the last queries are cached until the next commit."""
    cached: dict[Hashable, Postings] = snapshot.remembered("postings", dict)
    asked = tuple((keyword.text, keyword.exact, keyword.modalities) for keyword in keywords)
    key = (snapshot.words.version, asked)
    documents = cache(lambda: documents_to_check(snapshot, keywords, videos))

    def postings(number: int) -> Postings:
        own_key = (number, key, None if videos is None else frozenset(videos))
        return kept(cached, own_key, lambda: verified(number))

    def verified(number: int) -> Postings:
        chosen = documents()[number]
        found = _verified(snapshot, keywords[number], chosen.ids, videos)
        if chosen.is_cut or chosen.is_narrowed:
            [frequency] = snapshot.words.document_frequencies([keywords[number].text])[1]
            found = replace(found, frequency=frequency, is_cut=found.is_cut or chosen.is_cut)
        # Clips of a segment that has several phrases may each have one of them.
        return _said_in(snapshot, keywords[0].text, found) if len(keywords) == 1 and keywords[0].exact else found

    return {keyword: postings(number) for number, keyword in enumerate(keywords)}


def find_postings(snapshot: Snapshot, keyword: Keyword, videos: Collection[int]) -> Postings:
    """Return all postings of a keyword in at most FEW_VIDEOS videos."""
    ids = snapshot.words.holders(keyword.text, videos, every=True).ids
    return _verified(snapshot, keyword, ids, videos, every=True)


def _verified(
    snapshot: Snapshot,
    keyword: Keyword,
    ids: NDArray[np.int64],
    videos: Collection[int] | None,
    *,
    every: bool = False,
) -> Postings:
    """Return the postings among documents `ids`, with the exact phrase checked, in the keyword's modalities only.

    An exact phrase may continue from one segment into the next: then both contain it. every: read all such segments.
    """
    is_cut = False
    if keyword.exact:
        ids, is_cut = _containing_phrase(snapshot, keyword, ids, videos, every=every)
    rows = snapshot.words.places(ids, kinds_of(keyword))  # (4, n): document, video, whether of a segment, clip
    timed, documents = rows[2] == 1, np.unique(rows[0])
    return Postings(documents, rows[:, timed & (rows[3] > 0)][[0, 3]], rows[:2, ~timed], len(documents), is_cut)


def _said_in(snapshot: Snapshot, phrase: str, found: Postings) -> Postings:
    """Return the postings of a phrase without clips in which it is not said, though its segment goes on in them.

    Where the times of words are unknown, all clips of a segment are kept.
    """
    documents, counts = np.unique(found.timed[0], return_counts=True)
    spans = {}
    for document in snapshot.words.documents(documents[counts > 1]):
        known = _phrase_spans(document, phrase)
        if known and len(known) == _count(plain_words(document.text), plain_words(phrase)):
            spans[document.document_id] = known
    pairs = found.timed.T.tolist()
    said = set(snapshot.words.clips_at(spans)) & set(map(tuple, pairs))
    timed = {document_id for document_id, _ in said}
    is_said = np.array([d not in timed or (d, c) in said for d, c in pairs], np.bool_)
    return replace(found, timed=found.timed[:, is_said])


def find_frequencies(
    snapshot: Snapshot, keywords: Sequence[Keyword], required: Mapping[Keyword, Postings] | None = None
) -> Frequencies:
    """Return the frequencies of keywords in a library, whatever filters and other keywords a query has.

    required: the postings of required keywords that were looked up alone and in all videos.
    """
    if not keywords:
        return NO_DOCUMENTS
    documents, counts = snapshot.words.document_frequencies([each.text for each in keywords if not each.required])
    optional, looked_up = iter(counts), required or {}
    cached: dict[Hashable, tuple[int]] = snapshot.remembered("frequencies", dict)

    def frequency(keyword: Keyword) -> int:
        if keyword in looked_up:
            return looked_up[keyword].frequency
        key = (snapshot.words.version, keyword.text, keyword.exact, keyword.modalities)
        return kept(cached, key, lambda: (_frequency(snapshot, keyword),))[0]

    return Frequencies(documents, tuple(frequency(each) if each.required else next(optional) for each in keywords))


def _frequency(snapshot: Snapshot, keyword: Keyword) -> int:
    """Return how many documents contain a required keyword; of a common one, those with its words."""
    [chosen] = documents_to_check(snapshot, [keyword], None)
    if chosen.is_cut:
        return snapshot.words.document_frequencies([keyword.text])[1][0]
    return len(_verified(snapshot, keyword, chosen.ids, None).documents)


def _idf_shares(
    everywhere: Frequencies, keywords: Sequence[Keyword], *, found: bool
) -> tuple[dict[Keyword, float], float]:
    """Return each keyword's share of the idf weights, empty if no document contains any, and `KeywordMatches.absent`.

    everywhere: in all libraries that are searched. found: whether a document of this one contains any keyword.
    """
    optional = [keyword for keyword in keywords if not keyword.required]
    total, frequencies = everywhere.documents, dict(zip(keywords, everywhere.counts, strict=True))
    weights = {k: k.weight * math.log1p((total - n + 0.5) / (n + 0.5)) for k, n in frequencies.items()}
    shares = {keyword: value / sum(weights.values()) for keyword, value in weights.items()}
    return shares if found else {}, sum(shares[keyword] for keyword in optional if not frequencies[keyword])


def _containing_phrase(
    snapshot: Snapshot, keyword: Keyword, ids: NDArray[np.int64], videos: Collection[int] | None, *, every: bool
) -> tuple[NDArray[np.int64], bool]:
    """Return the documents that contain a phrase as typed but for case and accents, alone or with the next one; and
    whether some that may contain it with the next one were left out.
    """
    words, is_cut = plain_words(keyword.text), False
    matched = {id_ for id_, text in snapshot.words.texts(ids).items() if _count(plain_words(text), words)}
    for cut in range(1, min(len(words), MAX_SPLIT_WORDS)):
        head, rest = words[:cut], words[cut:]
        pairs, is_whole = snapshot.words.broken(" ".join(head), " ".join(rest), videos, every=every)
        is_cut = is_cut or not is_whole
        texts = snapshot.words.texts(np.unique(np.array(pairs, np.int64)))
        for first, second in pairs:
            if plain_words(texts[first])[-cut:] == head and plain_words(texts[second])[: len(rest)] == rest:
                matched |= {first, second}
    return np.array(sorted(matched), np.int64), is_cut


def phrase_s(document: WordMatch, phrase: str) -> float | None:
    """Return when a phrase that a segment contains begins, None if no time of its first word is known.

    Of one that continues in the next segment, when its first part begins.
    """
    return next((start_s for start_s, _ in _phrase_spans(document, phrase)), None)


def _phrase_spans(document: WordMatch, phrase: str) -> list[tuple[float, float]]:
    """Return when a phrase begins, where that is known, and until when it is said at most; see `phrase_s`."""
    if document.start_s is None or document.end_s is None or not document.word_times:
        return []
    places, times = zip(*document.word_times, strict=True)
    pieces = ["".join(plain_words(document.text[a:b])) for a, b in pairwise([*places, len(document.text)])]
    said, wanted = plain_words(document.text[places[0] :]), plain_words(phrase)
    number = {at: n for n, at in enumerate(accumulate(map(len, said), initial=0))}  # of the word that begins there
    begins = accumulate(map(len, pieces), initial=0)
    begun = {number[at]: document.start_s + s for at, s in zip(begins, times, strict=False) if at in number}
    if _count(plain_words(document.text), wanted):
        found = [n for n in begun if said[n : n + len(wanted)] == wanted]
    else:
        found = [n for n in begun if said[n:] and said[n:] == wanted[: len(said) - n]]
    ends = {n: min((begun[k] for k in begun if k >= n + len(wanted)), default=document.end_s) for n in found}
    return [(begun[n], ends[n]) for n in found]


def _count(text: Sequence[str], words: Sequence[str]) -> int:
    """Return how often words occur in a text."""
    return sum(list(text[i : i + len(words)]) == list(words) for i in range(len(text) - len(words) + 1))


def _by_modality(matches: Sequence[DocumentMatch]) -> dict[ModalityName, list[DocumentMatch]]:
    """Return modality -> its matches, in the table's order."""
    found: dict[ModalityName, list[DocumentMatch]] = {}
    for each in matches:
        found.setdefault(each.modality, []).append(each)
    return found if len(found) < 2 else {m: found[m] for m in word_modalities() if m in found}
