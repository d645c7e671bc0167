"""Full text search in a snapshot: documents that contain a word or phrase, and their clips.

SQLite returns each list of documents as one text, in a fifth of the time of one row a document. Lists are combined as
sorted arrays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence, Sized
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import FEW_VIDEOS, Ids, in_sorted, listed
from vfindex.storage.records import Box, SegmentSource, WordTimes, box_of, word_times_of
from vfindex.storage.text.bm25 import saturations
from vfindex.storage.text.corrected import NOTHING_CORRECTED, CorrectedText, Corrections, moved_times
from vfindex.storage.text.folding import FOLD_KEY, fold_of
from vfindex.storage.text.id_ranges import Spans, around, newest_part, outside
from vfindex.storage.text.tokenizer import index_form

# A statement and its parameters -> its rows; a key and what computes something -> that, as of the snapshot.
Rows = Callable[[str, tuple[Any, ...]], list[Any]]
Remembered = Callable[[str, Callable[[], Any]], Any]
# Document id -> BM25, and -> the phrases that it holds.
Compared = tuple[dict[int, float], dict[int, list[str]]]
K = TypeVar("K")
V = TypeVar("V", bound=Sized)
# Results of one kind that are cached until the next commit, and how many ids they may hold together (32 MB): paging
# and refined queries ask for the same lists again.
KEPT = 32
KEPT_IDS = 4_000_000
# Subtitles break a sentence at the end of a line; a segment that begins later than this is another sentence.
CONTINUES_S = 2.0
# Documents ranked by FTS5's own BM25, 2 us each. Of more, MAX_RANKED are indexed in memory, 15 us each.
MAX_COMPARED = 2_000
MAX_RANKED = 150
# A word in more documents is common, and not all its documents are candidates. 20,000 take 3 ms.
MAX_LISTED = 20_000
# Of a common word, the newest so many are, and the newest so many that hold a rarer word of the question, too; in some
# videos, so many of each stretch of ids.
MAX_NEWEST, LEAST_NEWEST = 4_000, 250
# If that leaves few documents of the chosen videos, all of a word in up to this many documents: 25 ms for 100,000.
MAX_WHOLE = 200_000
# Documents of the rarest common word that are passed for those with another; of more, the newest: 0.1 us each.
MAX_PASSED = 500_000
# Stretches of document ids to which a search in some videos keeps: 40 us each and word.
MAX_SPANS = 64
# And runs of documents of unsearchable videos that a search in all videos leaves out.
MAX_HOLES = 3
_OF_DOCUMENT = "SELECT d.id, d.video_id, d.kind, d.text, s.start_s, s.end_s, s.source, s.box, s.word_times, s.speakers"
_JOINED = " JOIN video v ON v.id = d.video_id LEFT JOIN segment s ON s.id = d.segment_id"
_SEARCHABLE = " v.state IN ('indexed', 'partial')"
_RANKED = "SELECT rowid, -bm25(document_fts) FROM document_fts WHERE document_fts MATCH ?"
# CROSS JOIN goes through the list in its order.
_CHOSEN = f"{_OF_DOCUMENT} FROM json_each(?) j CROSS JOIN document d ON d.id = j.value{_JOINED} WHERE{_SEARCHABLE}"
_TEXTS = (
    "SELECT d.id, d.text FROM json_each(?) j CROSS JOIN document d ON d.id = j.value"
    f" JOIN video v ON v.id = d.video_id WHERE{_SEARCHABLE} LIMIT ?"
)
# The clips of a segment lie between the last that begins before it and the last that begins within it: the rows of the
# others are not read, however long the video is. Milliseconds are rounded, so that one more is allowed for. Clips that
# only touch a segment are not its own: chapters follow each other, and files store their times in milliseconds.
_TOUCHED = "min(0.0015, (s.end_s - s.start_s) / 4)"
DURING = (
    "clip c ON c.video_id = s.video_id AND c.start_s <= s.end_s AND c.end_s > s.start_s"
    f" AND (c.start_s < s.end_s - {_TOUCHED} OR c.start_s <= s.start_s)"
    f" AND (c.end_s > s.start_s + {_TOUCHED} OR c.end_s >= s.end_s)"
    " AND c.start_ms <= 1000 * s.end_s + 1 AND c.start_ms >= coalesce((SELECT max(b.start_ms) FROM clip b"
    " WHERE b.video_id = s.video_id AND b.start_ms <= 1000 * s.start_s - 1), -9e15)"
)
_LISTED = "SELECT ?, group_concat(id, ' ') FROM (SELECT rowid AS id FROM document_fts WHERE document_fts MATCH ?"
_NEWEST = (
    "SELECT group_concat(id, ' ') FROM (SELECT rowid AS id FROM document_fts WHERE document_fts MATCH ?"
    " AND rowid BETWEEN ? AND ? ORDER BY rowid DESC LIMIT ?)"
)
# Held while a cache of `kept` changes: several threads search one library.
_KEEPING = Lock()


@dataclass(frozen=True, slots=True)
class WordMatch:
    """A document that holds words of the question: a segment, a title or a tag.

    start_s, end_s, source, box, word_times, speakers: of a segment only. bm25: Okapi BM25, higher is better; phrases:
    those that it holds, of the question's; both only where `match` found it.
    """

    document_id: int
    video_id: int
    kind: str
    text: str
    start_s: float | None
    end_s: float | None
    source: SegmentSource | None
    box: Box | None
    word_times: WordTimes = ()
    speakers: tuple[str, ...] = ()
    bm25: float = 0.0
    phrases: frozenset[str] = frozenset()


class Words:
    """Full text search of one snapshot, `Snapshot.words`."""

    def __init__(self, rows: Rows, remembered: Remembered, corrections: Corrections) -> None:
        self._rows = rows
        self._remembered = remembered
        self._corrections = corrections
        self._corrected = None if corrections.lines else NOTHING_CORRECTED
        self._whole: dict[str, Ids] = {}

    @property
    def version(self) -> str:
        """Differs where corrections differ; a state of the library has any number of them."""
        return self._corrections.version

    @property
    def corrected(self) -> CorrectedText:
        """The corrected lines among these documents, cached until the next commit or correction."""
        if self._corrected is None:
            known: dict[str, CorrectedText] = self._remembered("corrected", dict)
            found = known.get(self.version)
            if found is None:
                found = CorrectedText.of(self._rows, self._corrections, self._fold)
                known.clear()
                known[self.version] = found
            self._corrected = found
        return self._corrected

    def match(self, phrases: Sequence[str], limit: int, videos: Collection[int] | None = None) -> list[WordMatch]:
        """Return the documents that hold any of the words or phrases, best first by BM25 (Robertson and Zaragoza 2009).

        videos: the only ones looked at. Every phrase is quoted, so that no character of a question is syntax.
        Where more than MAX_COMPARED documents hold one, MAX_RANKED are compared whose words are the rarest together, of
        equals the newest. Of a word in more than MAX_LISTED documents those are looked at that hold another word as
        well, and the newest.
        """
        total, counts = self.document_frequencies(phrases)
        asked = {phrase: n for phrase, n in sorted(zip(phrases, counts, strict=True), key=lambda each: each[1]) if n}
        lists = self._candidates(asked, videos)
        if not any(map(len, lists.values())):
            return []
        worth = {phrase: math.log1p((total - n + 0.5) / (n + 0.5)) for phrase, n in asked.items()}
        compare = self._compared if sum(counts) <= MAX_COMPARED else self._compared_apart
        scores, holding = compare(lists, worth)
        best = sorted(scores, key=lambda id_: (-scores[id_], -id_))[:limit]
        rows = self._rows(_CHOSEN, (_json(best),)) if best else []
        return [replace(self._read(row), bm25=scores[row[0]], phrases=frozenset(holding[row[0]])) for row in rows]

    def _compared(self, lists: Mapping[str, Ids], worth: Mapping[str, float]) -> Compared:
        """Return all candidates with FTS5's own BM25; corrected ones are not in its index."""
        holding: dict[int, list[str]] = {}
        for phrase, ids in lists.items():
            for id_ in ids.tolist():
                holding.setdefault(id_, []).append(phrase)
        rows = self._rows(_RANKED, (" OR ".join(map(self._quoted, lists)),))
        scores = {id_: value for id_, value in rows if id_ in holding}
        corrected = {phrase: self.corrected.corrected(ids) for phrase, ids in lists.items()}
        if any(map(len, corrected.values())):
            scores |= self._compared_apart(corrected, worth)[0]
        return scores, holding

    def _compared_apart(self, lists: Mapping[str, Ids], worth: Mapping[str, float]) -> Compared:
        """Return the MAX_RANKED candidates with the highest sum of idf, by BM25 over these alone."""
        texts = self._texts(_by_worth(lists, worth))
        holding: dict[int, list[str]] = {id_: [] for id_ in texts}
        scores = dict.fromkeys(texts, 0.0)
        for phrase, shares in zip(lists, saturations(texts, list(map(self._quoted, lists))), strict=True):
            for id_, share in shares.items():
                scores[id_] += worth[phrase] * share
                holding[id_].append(phrase)
        return scores, holding

    def _candidates(self, counts: Mapping[str, int], videos: Collection[int] | None) -> dict[str, Ids]:
        """Return for each phrase documents that hold it, increasing; counts: of all, by phrase, the rarest first.

        All of a rare phrase. Of a common one the newest, and the newest of those that hold a rare phrase or the rarest
        of the common ones, so that whatever holds the rarest words together is among them.
        """
        asked = {phrase: self._quoted(phrase) for phrase in counts}
        common = [phrase for phrase, n in counts.items() if n > MAX_LISTED]
        rare = [phrase for phrase in counts if phrase not in common]
        rarer = {*rare, *common[:1]}
        lists = dict(zip(rare, self._listed([asked[phrase] for phrase in rare]), strict=True))
        if not common:
            return {phrase: self._within(ids, videos) for phrase, ids in lists.items()}
        spans = self._spans(videos)
        passed = newest_part(spans, MAX_PASSED / counts[common[0]])
        lists = {phrase: self._within(ids, videos) for phrase, ids in lists.items()}
        for phrase in common:
            found, is_whole = self._newest(asked[phrase], spans)
            found = self._within(found, videos)
            others = [asked[other] for other in counts if other != phrase and (phrase == common[0] or other in rarer)]
            if not is_whole and videos is not None and len(found) < MAX_RANKED and counts[phrase] <= MAX_WHOLE:
                found = self._within(self._holding(asked[phrase]), videos)
            elif not is_whole and others:
                both, _ = self._newest(f"{asked[phrase]} AND ({' OR '.join(others)})", passed)
                found, _ = _merged([found, self._within(both, videos)])
            lists[phrase] = found
        return lists

    def _texts(self, ids: Ids) -> dict[int, str]:
        """Return the index forms of the first MAX_RANKED documents of searchable videos, in the order given."""
        texts: dict[int, str] = {}
        start, step = 0, MAX_RANKED
        while start < len(ids) and len(texts) < MAX_RANKED:
            texts |= self._rows(_TEXTS, (_json(ids[start : start + step]), MAX_RANKED - len(texts)))
            start, step = start + step, 4 * step
        corrected = self.corrected.documents
        return {id_: index_form(corrected.get(id_, words), self._fold) for id_, words in texts.items()}

    def _listed(self, expressions: Sequence[str]) -> list[Ids]:
        """Return for each expression all documents that match it, increasing."""
        if not expressions:
            return []
        parameters = tuple(value for number, each in enumerate(expressions) for value in (number, each))
        rows = dict(self._rows(" UNION ALL ".join([f"{_LISTED})"] * len(expressions)), parameters))
        return [self.corrected.matching(each, listed(rows[number])) for number, each in enumerate(expressions)]

    def _newest(self, expression: str, spans: Spans) -> tuple[Ids, bool]:
        """Return the newest documents in each span that match an expression, increasing, and whether these are all."""
        each = max(MAX_NEWEST // max(1, len(spans)), LEAST_NEWEST)
        parameters = tuple(value for span in spans for value in (expression, *span, each))
        rows = self._rows(" UNION ALL ".join([_NEWEST] * len(spans)), parameters) if spans else []
        found = [listed(ids)[::-1] for (ids,) in rows]
        corrected = [self.corrected.matching(expression, *of_span) for of_span in zip(found, spans, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *corrected]), all(len(ids) < each for ids in found)

    def _spans(self, videos: Collection[int] | None) -> Spans:
        """Return stretches of ids, increasing, that hold the documents of videos and few others.

        None: of all videos, but for the longest stretches of documents that no search may return, as of a video that is
        being indexed, whose words are the newest.
        """
        if videos is None:
            return outside(self._hidden(), self._remembered("last document", self._last), MAX_HOLES)
        return around(self._of_videos(videos), MAX_SPANS)

    def _hidden(self) -> Ids:
        """Return the documents of videos that are not searchable, increasing; once a commit."""
        query = "SELECT group_concat(d.id, ' ') FROM video v CROSS JOIN document d ON d.video_id = v.id WHERE NOT"
        return self._remembered("hidden", lambda: np.sort(listed(self._rows(query + _SEARCHABLE, ())[0][0])))  # type: ignore[no-any-return]

    def visible(self, ids: Ids) -> Ids:
        """Return the documents that belong to searchable videos."""
        return ids[~in_sorted(ids, self._hidden())]

    def _last(self) -> int:
        return int(self._rows("SELECT coalesce(max(id), 1) FROM document", ())[0][0])

    def _within(self, ids: Ids, videos: Collection[int] | None) -> Ids:
        """Return the documents that belong to `videos`."""
        return ids if videos is None or not len(ids) else ids[in_sorted(ids, self._of_videos(videos))]

    def _of_videos(self, videos: Collection[int]) -> Ids:
        """Return the documents of videos, increasing; cached."""
        known: dict[frozenset[int], Ids] = self._remembered("documents of videos", dict)
        return kept(known, frozenset(videos), lambda: self._documents_of(videos))

    def _documents_of(self, videos: Collection[int]) -> Ids:
        if len(videos) > FEW_VIDEOS:
            ids, owners = self._owners()
            return np.asarray(ids[np.isin(owners, list(videos))])
        of_video = "SELECT group_concat(d.id, ' ') FROM json_each(?) j CROSS JOIN document d ON d.video_id = j.value"
        return np.sort(listed(self._rows(of_video, (_json(videos),))[0][0]))

    def _owners(self) -> NDArray[np.int64]:
        """Return (2, n): all documents, increasing, and the video of each: 0.1 s at 200,000, once a commit."""
        return self._remembered("owners", self._read_owners)  # type: ignore[no-any-return]

    def _read_owners(self) -> NDArray[np.int64]:
        query = "SELECT group_concat(id, ' '), group_concat(video_id, ' ') FROM document"
        found = np.stack([listed(column) for column in self._rows(query, ())[0]])
        return np.asarray(found[:, np.argsort(found[0])])

    def videos_of(self, ids: Ids) -> NDArray[np.int64]:
        """Return the video (n,) of each document."""
        known, owners = self._owners()
        found: NDArray[np.int64] = owners[np.searchsorted(known, ids)]
        return found

    def of_kinds(self, ids: Ids, kinds: Collection[str]) -> Ids:
        """Return the documents of these kinds. These, or all others if they are fewer, are listed once a commit."""
        names = _json(sorted(kinds))
        found: tuple[Ids, bool] = self._remembered(f"documents of {names}", lambda: self._read_kinds(names))
        listed_ids, inside = found
        kept_ids: Ids = ids[in_sorted(ids, listed_ids) == inside]
        return kept_ids

    def _read_kinds(self, names: str) -> tuple[Ids, bool]:
        among = "kind IN (SELECT value FROM json_each(?))"
        [(n, total)] = self._rows(f"SELECT total({among}), count(*) FROM document", (names,))
        inside = 2 * n <= total
        query = f"SELECT group_concat(id, ' ') FROM document WHERE ({among}) = ?"
        return np.sort(listed(self._rows(query, (names, inside))[0][0])), inside

    def holders(self, phrase: str, videos: Collection[int] | None = None) -> Ids:
        """Return all documents that contain a phrase in any inflection, increasing. videos: only of these."""
        return self._within(self._holding(self._quoted(phrase)), videos)

    def _holding(self, expression: str) -> Ids:
        if expression not in self._whole:
            self._whole[expression] = self._listed([expression])[0]
        return self._whole[expression]

    @property
    def _fold(self) -> int:
        """The fold version of the index; queries to an older library use its version."""
        return self._remembered("fold", self._read_fold)  # type: ignore[no-any-return]

    def _read_fold(self) -> int:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (FOLD_KEY,))
        return fold_of(rows[0][0] if rows else None)

    def _quoted(self, phrase: str) -> str:
        """Return words as an FTS5 string in the form of the index, in which nothing is syntax."""
        return '"' + index_form(phrase, self._fold).replace('"', '""').replace("\0", " ") + '"'

    def documents(self, ids: Collection[int] | Ids, videos: Collection[int] | None = None) -> list[WordMatch]:
        """Return documents of searchable videos in the order given; videos: of these."""
        rows = self._rows(_CHOSEN, (_json(ids),)) if len(ids) else []
        return [self._read(row) for row in rows if videos is None or row[1] in videos]

    def _read(self, row: Sequence[Any]) -> WordMatch:
        """Return a row of _OF_DOCUMENT, corrected."""
        found, text = _match(row), self.corrected.documents.get(row[0])
        if text is None:
            return found
        return replace(found, text=text, word_times=moved_times(found.text, text, found.word_times))

    def broken(self, head: str, tail: str, videos: Collection[int] | None = None) -> list[tuple[WordMatch, WordMatch]]:
        """Return neighbouring segments of a track, the first holding `head`, the second beginning with `tail`."""
        before = self.holders(head, videos)
        later = self._within(self._holding(f"^ {self._quoted(tail)}"), videos)
        if not len(before) or not len(later):
            return []
        pairs = self._rows(
            "SELECT d.id, (SELECT e.id FROM segment p JOIN document e ON e.segment_id = p.id"
            " WHERE p.video_id = s.video_id AND e.kind = d.kind AND (p.start_s, p.id) < (s.start_s, s.id)"
            " AND p.end_s >= s.start_s - ? ORDER BY p.start_s DESC, p.id DESC LIMIT 1)"
            " FROM document d JOIN segment s ON s.id = d.segment_id"
            " WHERE d.id IN (SELECT value FROM json_each(?))",
            (CONTINUES_S, _json(later)),
        )
        known = set(before.tolist())
        found = {second: first for second, first in pairs if first in known}
        by_id = {match.document_id: match for match in self.documents([*found, *found.values()], videos=videos)}
        return [(by_id[first], by_id[second]) for second, first in found.items() if first in by_id and second in by_id]

    def document_frequencies(self, words: Sequence[str]) -> tuple[int, list[int]]:
        """Return (documents in all, for each word the number of documents that hold it)."""
        total = self._remembered("documents", lambda: int(self._rows("SELECT count(*) FROM document", ())[0][0]))
        counts: dict[str, int] = self._remembered("document frequencies", dict)
        new = [word for word in dict.fromkeys(words) if word not in counts]
        if new:
            one = "SELECT ?, count(*) FROM document_fts WHERE document_fts MATCH ?"
            parameters = (value for word in new for value in (word, self._quoted(word)))
            counts |= dict(self._rows(" UNION ALL ".join([one] * len(new)), tuple(parameters)))
        return total, [counts[word] + self.corrected.difference(self._quoted(word)) for word in words]

    def clips_during(self, document_ids: Collection[int]) -> list[tuple[int, int]]:
        """Return (document id, clip id) of the clips during the segment of a document, in order of time."""
        if not document_ids:
            return []
        return self._rows(
            f"SELECT d.id, c.id FROM document d JOIN segment s ON s.id = d.segment_id JOIN {DURING}"
            " WHERE d.id IN (SELECT value FROM json_each(?)) ORDER BY d.id, c.start_s",
            (_json(document_ids),),
        )

    def clips_at(self, spans: Mapping[int, Sequence[tuple[float, float]]]) -> list[tuple[int, int]]:
        """Return (document id, clip id) of the clips of a document's video during any of these spans."""
        if not spans:
            return []
        asked = [(id_, *span) for id_, of_document in spans.items() for span in of_document]
        number, start_s, end_s = (f"json_extract(j.value, '$[{n}]')" for n in range(3))
        return self._rows(
            f"SELECT DISTINCT d.id, c.id FROM json_each(?) j CROSS JOIN document d ON d.id = {number}"
            f" CROSS JOIN clip c ON c.video_id = d.video_id AND c.start_ms <= 1000 * {end_s} AND c.end_s > {start_s}"
            " AND c.start_ms >= coalesce((SELECT max(b.start_ms) FROM clip b WHERE b.video_id = d.video_id"
            f" AND b.start_ms <= 1000 * {start_s}), -9e15) AND c.start_s < {end_s}",
            (json.dumps(asked),),
        )

    def places(self, document_ids: Ids, kinds: Collection[str]) -> NDArray[np.int64]:
        """Return (4, n): document, its video, whether it is of a segment, and a clip during that, 0 for none; of these
        kinds, and of searchable videos.
        """
        if not len(document_ids):
            return np.zeros((4, 0), np.int64)
        found = self._rows(
            "SELECT d.id, d.video_id, d.segment_id IS NOT NULL, coalesce(c.id, 0) FROM json_each(?) j"
            f" CROSS JOIN document d ON d.id = j.value{_JOINED} LEFT JOIN {DURING} WHERE{_SEARCHABLE}"
            " AND d.kind IN (SELECT value FROM json_each(?))",
            (_json(document_ids), _json(sorted(kinds))),
        )
        return np.array(found, np.int64).reshape(-1, 4).T


def kept(known: MutableMapping[K, V], key: K, compute: Callable[[], V]) -> V:
    """Return the cached value of a key, or compute it; the newest stay cached, up to KEPT and KEPT_IDS."""
    found = known.get(key)
    if found is None:
        found = compute()
        with _KEEPING:
            while known and (len(known) >= KEPT or sum(map(len, known.values())) + len(found) > KEPT_IDS):
                known.pop(next(iter(known)))
            known[key] = found
    return found


def _match(row: Sequence[Any]) -> WordMatch:
    """Return a row of _OF_DOCUMENT."""
    id_, video_id, kind, words, start_s, end_s, source, box, times, speakers = row
    names = tuple((speakers or "").splitlines())
    return WordMatch(id_, video_id, kind, words, start_s, end_s, source, box_of(box), word_times_of(times), names)


def _by_worth(lists: Mapping[str, Ids], worth: Mapping[str, float]) -> Ids:
    """Return documents, those first that hold what is worth most together, of equals the newest."""
    ids, places = _merged(list(lists.values()))
    values = np.repeat([worth[phrase] for phrase in lists], [len(ids_of) for ids_of in lists.values()])
    together = np.bincount(places, values, len(ids))
    return np.asarray(ids[::-1][np.argsort(-together[::-1], kind="stable")])


def _merged(lists: Sequence[Ids]) -> tuple[Ids, NDArray[np.int64]]:
    """Return the ids of increasing lists, each once and increasing, and the place there of each id of the lists.

    Three times as fast as numpy's `unique`, which does not know that the lists are sorted.
    """
    every = np.concatenate(lists)
    order = np.argsort(every, kind="stable")
    ordered = every[order]
    new = np.append(True, ordered[1:] != ordered[:-1])[: len(every)]
    places = np.empty(len(every), np.int64)
    places[order] = np.cumsum(new) - 1
    return ordered[new], places


def _json(values: Collection[int | str] | Ids) -> str:
    return json.dumps(values.tolist() if isinstance(values, np.ndarray) else list(values))
