"""Clips for one moment of a question, each scored by modality, best first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from vfindex.search.rank.delta import View
from vfindex.search.rank.lexical import WordEvidence
from vfindex.search.rank.prefilter import Allowed
from vfindex.search.rank.query_vectors import Asked
from vfindex.search.rank.rrf import ReciprocalRanks
from vfindex.search.rank.score import Scored, score_clips, skimmed
from vfindex.storage.joint.vector import fuse_query
from vfindex.storage.records import FloatArray

# Of candidates, the share that is read: the first hundred where two hundred come from the index and one from words. To
# read a clip with its frames takes 25 us at 1,000,000 clips, ten times as long as to compare its joint vector. What is
# lost are clips that their best frame alone would lift over so many others, see docs/decisions/lite.md.
READ_SHARE = 0.5
# So many times as deep is looked where clips drop out for what is said in them.
MAX_DROPPED = 8


class Ranking:
    """The clips that may answer one moment, ranked as deep as asked; no clip is scored twice."""

    def __init__(self, view: View, asked: Asked, evidence: WordEvidence, among: Allowed | None) -> None:
        self._view = view
        self._asked = asked
        self._evidence = evidence
        self._among = among
        alone = [{m: vector} for m, vector in asked.vectors.items() if m in (view.ranks or ())]
        lists = [asked.vectors] if view.ranks is None else alone
        self._joint = np.stack([fuse_query(each, view.spec) for each in lists or [{}]])  # (n_lists, dim)
        self._clips = None if among is None else among.clips
        tail = view.tail
        self._outdated = tail.outdated
        self._tails = [tail.best(joint, self._clips) for joint in self._joint]
        self._worded = self._pick(evidence.clip_ids)
        self._words = evidence.foreseen()
        self._scored: dict[int, Scored | None] = {}
        self._ranks = ReciprocalRanks((), {})
        held = len(view.index) if view.index is not None else 0
        self._size = held + len(tail.ids)
        if self._clips is not None:
            self._size = min(self._size, len(self._clips))

    def is_exhausted(self, depth: int) -> bool:
        """Return whether looking deeper than `depth` finds no further clip."""
        return READ_SHARE * depth >= self._size

    def best(self, depth: int) -> list[Scored]:
        """Return candidates, best first: the better half of `depth` each of index and tail, and of all with words.

        Where ranks are fused, so many of the index and the tail for each modality, and all of them.
        """
        ids = self._candidates(depth)
        if self._view.ranks is not None:
            self._ranks = ReciprocalRanks(self._similar(ids), self._view.ranks)
            return self.scored(ids)
        return self.scored(self._leading(ids, depth))

    def leading(self, depth: int) -> dict[int, float]:
        """Return the clips that `best` reads, each with its score as `foreseen` has it."""
        if self._view.ranks is not None:
            return {each.clip.id: each.score for each in self.best(depth)}
        return self._leading(self._candidates(depth), depth)

    def foreseen(self, ids: Sequence[int]) -> dict[int, float]:
        """Return the scores of those of the clips that may answer, without best frames where joint vectors tell them.

        Only those of `concat` tell what each modality adds.
        """
        picked = self._pick(ids)
        if self._view.ranks is not None or self._view.spec.fusion != "concat":
            return {each.clip.id: each.score for each in self.scored(picked)}
        scores = skimmed(self._view, np.array(picked, np.int64), self._asked)
        read = {each.clip.id: each.score for each in self.scored(np.array(picked)[np.isinf(scores)].tolist())}
        words = np.array([self._words.get(id_, 0.0) for id_ in picked])
        values = scores + self._view.setup.word_weight * words
        return {id_: read.get(id_, value) for id_, value in zip(picked, values.tolist(), strict=True)}

    def _candidates(self, depth: int) -> list[int]:
        ids = list(self._worded)
        for joint, tail in zip(self._joint, self._tails, strict=True):
            ids += self._first(tail.__getitem__, depth) + self._first(partial(self._nearest, joint), depth)
        return list(dict.fromkeys(ids))

    def _leading(self, ids: Sequence[int], depth: int) -> dict[int, float]:
        wanted = int(READ_SHARE * depth)
        known = self.foreseen(ids)
        chosen = sorted(known, key=lambda id_: -known[id_])[:wanted] if len(known) > wanted else known
        return {id_: known[id_] for id_ in chosen}

    def _nearest(self, joint: FloatArray, wanted: slice) -> list[int]:
        """Return the clips of the index that come first."""
        index = self._view.index
        if index is None:
            return []
        _, ids = index.search(joint[None], wanted.stop, self._clips, self._outdated)
        found: list[int] = ids[0].tolist()
        return found

    def _first(self, ordered: Callable[[slice], list[int]], depth: int) -> list[int]:
        """Return the first `depth` that may answer; where many of them hold what is unwanted, others come up."""
        among = self._among
        if among is None or not among.unwanted:
            return ordered(slice(depth))
        looked = depth + depth // 8
        while True:
            found = ordered(slice(looked))
            picked = among.pick(found)
            if len(picked) >= depth or len(found) < looked or looked >= MAX_DROPPED * depth:
                return picked[:depth]
            looked *= 2

    def bound(self, scores: Sequence[float], depth: int) -> float:
        """Return what a clip scores at most that is not among those of these scores, the first of this depth."""
        if self._view.ranks is not None:
            return self._ranks.bound(depth)
        return min(scores, default=0.0)

    def scored(self, ids: Iterable[int]) -> list[Scored]:
        """Return those of the clips that may answer, scored, best first; ties in order of clip id.

        Where ranks are fused, by their places among the candidates last looked for.
        """
        known = self._similar(ids)
        if self._view.ranks is not None:
            known = [replace(each, ranked=self._ranks.contributions(each)) for each in known]
        return sorted(known, key=lambda each: (-each.score, each.clip.id))

    def _similar(self, ids: Iterable[int]) -> list[Scored]:
        wanted = self._pick(list(dict.fromkeys(ids)))
        new = [id_ for id_ in wanted if id_ not in self._scored]
        self._scored |= dict.fromkeys(new)
        for each in score_clips(self._view, new, self._asked, self._evidence) if new else ():
            self._scored[each.clip.id] = each
        return [scored for id_ in wanted if (scored := self._scored[id_]) is not None]

    def _pick(self, ids: Sequence[int]) -> list[int]:
        return list(ids) if self._among is None else self._among.pick(ids)
