"""Text to the ids of a unigram vocabulary of pieces, as SentencePiece defines it (Kudo 2018, arXiv 1804.10959).

The library `tokenizers` takes 0.8 s to read 250,000 pieces, as long as a whole search; here they are looked up in a
hash table of the file, which is read in 9 ms. A test holds both to the same ids.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

PIECES, REPLACEMENTS = "pieces.npz", "replacements.json"
START, END, UNKNOWN = 0, 2, 3  # ids of XLM-R, whose vocabulary this is (Conneau et al. 2020, arXiv 1911.02116)
SPACE = "\u2581"  # SentencePiece's mark of a word's beginning
# SentencePiece's own: an unknown character is worse than every piece by this log-probability.
_UNKNOWN_PENALTY = 10.0
# Words whose ids are kept. Texts repeat their words: with it, passages of 25 words take 0.2 ms instead of 1.2.
_KEPT_WORDS = 1 << 15


class PieceTokenizer:
    """Splits texts into the pieces with the highest summed log-probability. Threads may share it."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], replacements: Mapping[str, str], length: int) -> None:
        """arrays, replacements: see `vocabulary`. length: ids of a text at most, START and END included."""
        self._bytes = arrays["bytes"].tobytes()
        self._starts, self._scores = arrays["starts"].data, arrays["scores"].data
        self._slots = arrays["slots"].data
        self._longest = int(arrays["longest"])
        self._unknown_score = float(arrays["scores"].min()) - _UNKNOWN_PENALTY
        self._replacements = str.maketrans(dict(replacements))
        self._content = length - 2
        self._word = lru_cache(_KEPT_WORDS)(self._split)

    @classmethod
    def open(cls, folder: Path, length: int) -> PieceTokenizer:
        """Return the tokenizer of a folder. Raises OSError, KeyError or ValueError for damaged files."""
        with np.load(folder / PIECES, allow_pickle=False) as data:
            arrays = {name: data[name] for name in ("bytes", "starts", "scores", "slots", "longest")}
        return cls(arrays, json.loads((folder / REPLACEMENTS).read_text(encoding="utf-8")), length)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, truncated."""
        return [self._ids(text) for text in texts]

    def _ids(self, text: str) -> list[int]:
        plain = text if text.isascii() and text.isprintable() else text.translate(self._replacements)
        ids = [piece for word in plain.split() for piece in self._word(SPACE + word)]
        return [START, *ids[: self._content], END]

    def _split(self, word: str) -> tuple[int, ...]:
        """Return the best pieces of a word by Viterbi's algorithm; runs of unknown characters are one UNKNOWN."""
        data = word.encode()
        ends = [0]  # in bytes, of the first n characters
        for character in word:
            ends.append(ends[-1] + len(character.encode()))
        best = [0.0] + [-math.inf] * len(word)
        last = [(0, UNKNOWN)] * (len(word) + 1)  # where the best last piece begins, and its id
        for first in range(len(word)):
            start, score = ends[first], best[first]
            for stop in range(first + 1, min(len(word), first + self._longest) + 1):
                piece = self._find(data[start : ends[stop]])
                if piece and score + self._scores[piece] > best[stop]:
                    best[stop], last[stop] = score + self._scores[piece], (first, piece)
            if score + self._unknown_score > best[first + 1]:
                best[first + 1], last[first + 1] = score + self._unknown_score, (first, UNKNOWN)
        ids: list[int] = []
        at = len(word)
        while at:
            at, piece = last[at]
            if piece != UNKNOWN or not ids or ids[-1] != UNKNOWN:
                ids.append(piece)
        return tuple(reversed(ids))

    def _find(self, piece: bytes) -> int:
        """Return the id of a piece, 0 if it is none."""
        slots, starts = self._slots, self._starts
        mask = len(slots) - 1
        at = crc32(piece) & mask
        while found := slots[at]:
            if self._bytes[starts[found] : starts[found + 1]] == piece:
                return int(found)
            at = (at + 1) & mask
        return 0


def vocabulary(pieces: Sequence[bytes], scores: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return the arrays of PIECES: `bytes` of all pieces one after the other, their `starts`, `scores` (n,), `slots`,
    an open-addressing hash table of ids by CRC-32, and the number of characters of the `longest`.

    Special tokens, whose score is 0, have no slot, so that no text contains them.
    """
    mask = (1 << (2 * len(pieces) - 1).bit_length()) - 1
    slots = [0] * (mask + 1)
    normal = [piece for piece, score in enumerate(scores.tolist()) if score < 0]
    for piece in normal:
        at = crc32(pieces[piece]) & mask
        while slots[at]:
            at = (at + 1) & mask
        slots[at] = piece
    return {
        "bytes": np.frombuffer(b"".join(pieces), np.uint8),
        "starts": np.cumsum([0, *map(len, pieces)], dtype=np.uint32),
        "scores": scores.astype(np.float32),
        "slots": np.array(slots, np.uint32),
        "longest": np.array(max(len(pieces[piece].decode()) for piece in normal)),
    }
