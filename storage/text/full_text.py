"""Full text search in a snapshot: documents that contain a word or phrase, and their clips."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import Ids, in_sorted
from vfindex.storage.records import Box, SegmentSource, WordTimes, box_of, word_times_of
from vfindex.storage.text.bm25 import saturations
from vfindex.storage.text.corrected import NOTHING_CORRECTED, CorrectedText, Corrections, moved_times
from vfindex.storage.text.document_lists import (
    MAX_PASSED,
    MAX_WHOLE,
    DocumentLists,
    Holders,
    Remembered,
    Rows,
    are_many,
    as_json,
    by_worth,
    merged,
    newest_of,
)
from vfindex.storage.text.folding import FOLD_KEY, fold_of
from vfindex.storage.text.id_ranges import Spans, newest_part
from vfindex.storage.text.tokenizer import index_form

# Document id -> BM25, and -> the phrases that it holds.
Compared = tuple[dict[int, float], dict[int, list[str]]]
# Subtitles break a sentence at the end of a line; a segment that begins later than this is another sentence.
CONTINUES_S = 2.0
# Segments whose predecessor is read for a phrase that two share: 10 us each.
MAX_BROKEN = 2_000
# Documents ranked by FTS5's own BM25, 2 us each. Of more, MAX_RANKED are indexed in memory, 15 us each.
MAX_COMPARED = 2_000
MAX_RANKED = 150
# A word in more documents is common, and not all its documents are candidates. 20,000 take 3 ms.
MAX_LISTED = 20_000
# Of a common word, the newest so many are, and the newest so many that hold a rarer word of the question, too; in some
# videos, so many of each stretch of ids.
MAX_NEWEST, LEAST_NEWEST = 4_000, 250
# Stretches of document ids to which a search in some videos keeps: 40 us each and word.
MAX_SPANS = 64
_OF_DOCUMENT = "SELECT d.id, d.video_id, d.kind, d.text, s.start_s, s.end_s, s.source, s.box, s.word_times, s.speakers"
_JOINED = " JOIN video v ON v.id = d.video_id LEFT JOIN segment s ON s.id = d.segment_id"
_SEARCHABLE = " v.state IN ('indexed', 'partial')"
_RANKED = "SELECT rowid, -bm25(document_fts) FROM document_fts WHERE document_fts MATCH ?"
# CROSS JOIN goes through the list in its order.
_CHOSEN = f"{_OF_DOCUMENT} FROM json_each(?) j CROSS JOIN document d ON d.id = j.value{_JOINED} WHERE{_SEARCHABLE}"
_TEXTS = (
    "SELECT d.id, d.text FROM json_each(?) j CROSS JOIN document d ON d.id = j.value"
    f" JOIN video v ON v.id = d.video_id WHERE{_SEARCHABLE}"
)
_OF_VIDEOS = " AND d.video_id IN (SELECT value FROM json_each(?))"
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
    """Full text search of one snapshot, `Snapshot.words`. lists: its lists of documents."""

    def __init__(self, rows: Rows, remembered: Remembered, corrections: Corrections) -> None:
        self._rows = rows
        self._remembered = remembered
        self._corrections = corrections
        self._corrected = None if corrections.lines else NOTHING_CORRECTED
        self.lists = DocumentLists(rows, remembered, lambda: self.corrected)

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
        scores, holding = compare(lists, worth, videos)
        best = sorted(scores, key=lambda id_: (-scores[id_], -id_))[:limit]
        rows = self._rows(_CHOSEN, (as_json(best),)) if best else []
        return [self._read(row, scores[row[0]], frozenset(holding[row[0]])) for row in rows]

    def _compared(
        self, lists: Mapping[str, Ids], worth: Mapping[str, float], videos: Collection[int] | None
    ) -> Compared:
        """Return all candidates with FTS5's own BM25; corrected ones are not in its index."""
        holding: dict[int, list[str]] = {}
        if are_many(videos):
            lists = {phrase: np.sort(self.lists.searchable(ids, videos)[0]) for phrase, ids in lists.items()}
        for phrase, ids in lists.items():
            for id_ in ids.tolist():
                holding.setdefault(id_, []).append(phrase)
        rows = self._rows(_RANKED, (" OR ".join(map(self._quoted, lists)),))
        scores = {id_: value for id_, value in rows if id_ in holding}
        corrected = {phrase: self.corrected.corrected(ids) for phrase, ids in lists.items()}
        if any(map(len, corrected.values())):
            scores |= self._compared_apart(corrected, worth, videos)[0]
        return scores, holding

    def _compared_apart(
        self, lists: Mapping[str, Ids], worth: Mapping[str, float], videos: Collection[int] | None
    ) -> Compared:
        """Return the MAX_RANKED candidates with the highest sum of idf, by BM25 over these alone."""
        texts = self._texts(by_worth(lists, worth), videos)
        holding: dict[int, list[str]] = {id_: [] for id_ in texts}
        scores = dict.fromkeys(texts, 0.0)
        for phrase, shares in zip(lists, saturations(texts, list(map(self._quoted, lists))), strict=True):
            for id_, share in shares.items():
                scores[id_] += worth[phrase] * share
                holding[id_].append(phrase)
        return scores, holding

    def _candidates(self, counts: Mapping[str, int], videos: Collection[int] | None) -> dict[str, Ids]:
        """Return for each phrase documents that hold it, increasing; counts: of all, by phrase, the rarest first.

        Those of other videos are left out where `videos` are few. All of a rare phrase. Of a common one the newest, and
        the newest of those that hold a rare phrase or the rarest of the common ones, so that whatever holds the rarest
        words together is among them.
        """
        asked = {phrase: self._quoted(phrase) for phrase in counts}
        common = [phrase for phrase, n in counts.items() if n > MAX_LISTED]
        rare = [phrase for phrase in counts if phrase not in common]
        rarer = {*rare, *common[:1]}
        found_rare = self.lists.all_of([asked[phrase] for phrase in rare])
        lists = {phrase: self.lists.within(ids, videos) for phrase, ids in zip(rare, found_rare, strict=True)}
        if not common:
            return lists
        is_cut, newest_videos = are_many(videos), newest_of(videos)
        spans = self.lists.spans(newest_videos, MAX_SPANS)
        passed = newest_part(self.lists.spans(None) if is_cut else spans, MAX_PASSED / counts[common[0]])
        for phrase in common:
            found, is_whole = self._newest(asked[phrase], spans)
            found = self.lists.within(found, newest_videos)
            others = [asked[other] for other in counts if other != phrase and (phrase == common[0] or other in rarer)]
            is_whole = is_whole and not is_cut
            if not is_whole and videos is not None and len(found) < MAX_RANKED and counts[phrase] <= MAX_WHOLE:
                found = self.lists.within(self.lists.all_of([asked[phrase]])[0], videos)
            elif not is_whole and others:
                both, _ = self._newest(f"{asked[phrase]} AND ({' OR '.join(others)})", passed)
                found, _ = merged([found, self.lists.within(both, videos)])
            lists[phrase] = found
        return lists

    def _newest(self, expression: str, spans: Spans) -> tuple[Ids, bool]:
        """Return the newest documents in each span that match an expression, and whether these are all."""
        return self.lists.newest(expression, spans, max(MAX_NEWEST // max(1, len(spans)), LEAST_NEWEST))

    def _texts(self, ids: Ids, videos: Collection[int] | None) -> dict[int, str]:
        """Return the index forms of the first MAX_RANKED documents of searchable `videos`, in the order given."""
        texts: dict[int, str] = {}
        start, step = 0, MAX_RANKED
        limits = (as_json(videos),) if videos is not None and are_many(videos) else ()
        query = f"{_TEXTS}{_OF_VIDEOS if limits else ''} LIMIT ?"
        while start < len(ids) and len(texts) < MAX_RANKED:
            chosen = as_json(ids[start : start + step])
            texts |= self._rows(query, (chosen, *limits, MAX_RANKED - len(texts)))
            start, step = start + step, 4 * step
        corrected = self.corrected.documents
        return {id_: index_form(corrected.get(id_, words), self._fold) for id_, words in texts.items()}

    def holders(self, phrase: str, videos: Collection[int] | None = None, *, every: bool = False) -> Holders:
        """Return the documents that contain a phrase in any inflection: in `videos` if these are few, else in all.

        Of a common phrase the newest, see `DocumentLists.holding`, unless every one is asked for.
        """
        return self.lists.holding(self._quoted(phrase), self.rarity(phrase), videos, every=every)

    def rarity(self, phrase: str) -> int:
        """Return how many documents hold the rarest word of a phrase."""
        return min(self._counts(phrase.split()), default=0)

    def together(self, phrases: Sequence[str]) -> Ids:
        """Return the newest documents that contain all phrases."""
        passed = MAX_PASSED / max(1, min(map(self.rarity, phrases)))
        spans = newest_part(self.lists.spans(None), passed)
        return self._newest(" AND ".join(map(self._quoted, phrases)), spans)[0]

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
        rows = self._rows(_CHOSEN, (as_json(ids),)) if len(ids) else []
        return [self._read(row) for row in rows if videos is None or row[1] in videos]

    def _read(self, row: Sequence[Any], bm25: float = 0.0, phrases: frozenset[str] = frozenset()) -> WordMatch:
        """Return a row of _OF_DOCUMENT, corrected."""
        found, text = _match(row, bm25, phrases), self.corrected.documents.get(row[0])
        if text is None:
            return found
        return replace(found, text=text, word_times=moved_times(found.text, text, found.word_times))

    def texts(self, ids: Ids) -> dict[int, str]:
        """Return document id -> its text, corrected, of documents of searchable videos."""
        texts: dict[int, str] = dict(self._rows(_TEXTS, (as_json(ids),))) if len(ids) else {}
        corrected = self.corrected.documents
        return texts | {id_: corrected[id_] for id_ in texts.keys() & corrected.keys()}

    def broken(
        self, head: str, tail: str, videos: Collection[int] | None = None, *, every: bool = False
    ) -> tuple[list[tuple[int, int]], bool]:
        """Return neighbouring segments of a track, as documents, the first holding `head`, the second beginning with
        `tail`; and whether these are all in `videos`.

        The rarer of the two is looked up first. Of more than MAX_BROKEN segments that may be the second, those are read
        whose document follows one with `head`, the newest first, unless every one is asked for.
        """
        starts = f"^ {self._quoted(tail)}"
        sides = [(self._quoted(head), self.rarity(head)), (starts, self.rarity(tail))]
        lists: dict[str, Holders] = {}
        for expression, passed in sorted(sides, key=lambda each: each[1]):
            found = lists[expression] = self.lists.holding(expression, passed, videos, every=every)
            if not len(found.ids):
                return [], found.is_whole
            if len(found.ids) <= MAX_BROKEN:
                videos = set(self.lists.searchable(found.ids, videos)[1].tolist())
        before, later = lists[sides[0][0]].ids, lists[starts].ids
        is_whole = all(each.is_whole for each in lists.values())
        if len(later) > MAX_BROKEN and not every:
            later, is_whole = later[in_sorted(later - 1, before)][-MAX_BROKEN:], False
        pairs = self._rows(
            "SELECT d.id, (SELECT e.id FROM segment p JOIN document e ON e.segment_id = p.id"
            " WHERE p.video_id = s.video_id AND e.kind = d.kind AND (p.start_s, p.id) < (s.start_s, s.id)"
            " AND p.end_s >= s.start_s - ? ORDER BY p.start_s DESC, p.id DESC LIMIT 1)"
            " FROM document d JOIN segment s ON s.id = d.segment_id"
            " WHERE d.id IN (SELECT value FROM json_each(?))",
            (CONTINUES_S, as_json(self.lists.searchable(later, videos)[0])),
        )
        known = set(before.tolist())
        return [(first, second) for second, first in pairs if first in known], is_whole

    def document_frequencies(self, words: Sequence[str]) -> tuple[int, list[int]]:
        """Return (documents in all, for each word the number of documents that hold it)."""
        total = self._remembered("documents", lambda: int(self._rows("SELECT count(*) FROM document", ())[0][0]))
        return total, self._counts(words)

    def _counts(self, words: Sequence[str]) -> list[int]:
        """Return how many documents hold each word."""
        counts: dict[str, int] = self._remembered("document frequencies", dict)
        new = [word for word in dict.fromkeys(words) if word not in counts]
        if new:
            one = "SELECT ?, count(*) FROM document_fts WHERE document_fts MATCH ?"
            parameters = (value for word in new for value in (word, self._quoted(word)))
            counts |= dict(self._rows(" UNION ALL ".join([one] * len(new)), tuple(parameters)))
        return [counts[word] + self.corrected.difference(self._quoted(word)) for word in words]

    def clips_during(self, document_ids: Collection[int]) -> list[tuple[int, int]]:
        """Return (document id, clip id) of the clips during the segment of a document, in order of time."""
        if not document_ids:
            return []
        return self._rows(
            f"SELECT d.id, c.id FROM document d JOIN segment s ON s.id = d.segment_id JOIN {DURING}"
            " WHERE d.id IN (SELECT value FROM json_each(?)) ORDER BY d.id, c.start_s",
            (as_json(document_ids),),
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
            (as_json(document_ids), as_json(sorted(kinds))),
        )
        return np.array(found, np.int64).reshape(-1, 4).T


def _match(row: Sequence[Any], bm25: float, phrases: frozenset[str]) -> WordMatch:
    """Return a row of _OF_DOCUMENT."""
    id_, video_id, kind, words, start_s, end_s, source, box, times, speakers = row
    names, word_times = tuple((speakers or "").splitlines()), word_times_of(times)
    return WordMatch(id_, video_id, kind, words, start_s, end_s, source, box_of(box), word_times, names, bm25, phrases)
