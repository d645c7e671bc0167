"""Unigram pieces: the best segmentation, unknown characters, and agreement with the library `tokenizers`."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from vfindex.storage.encoders.pieces import END, PIECES, REPLACEMENTS, START, UNKNOWN, PieceTokenizer, vocabulary

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def tokenizer(scores: dict[str, float], length: int = 100) -> PieceTokenizer:
    """Return the tokenizer of a small vocabulary; ids go on after the special tokens."""
    pieces = [*SPECIAL, *scores]
    arrays = vocabulary([piece.encode() for piece in pieces], np.array([0.0] * 4 + list(scores.values()), np.float32))
    return PieceTokenizer(arrays, {"\u0001": "", "ﬁ": "fi", "\u3000": " "}, length)


def oracle(scores: dict[str, float]) -> Tokenizer:
    found = Tokenizer(models.Unigram([*((piece, 0.0) for piece in SPECIAL), *scores.items()], UNKNOWN))
    found.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return found


def total(ids: list[int], scores: dict[str, float]) -> float:
    """Return the summed score of the known pieces."""
    return sum([*[0.0] * 4, *scores.values()][piece] for piece in ids)


def test_the_pieces_with_the_highest_sum_win() -> None:
    scores = {"▁": -3.0, "▁a": -2.0, "b": -2.5, "ab": -4.0, "▁ab": -4.2, "c": -1.0}
    assert tokenizer(scores).encode(["ab abc", "c"]) == [[START, 8, 8, 9, END], [START, 4, 9, END]]
    cheaper = scores | {"▁ab": -4.6}  # now ▁a and b cost 4.5
    assert tokenizer(cheaper).encode(["ab"]) == [[START, 5, 6, END]]


def test_unknown_characters_in_a_row_are_one_token() -> None:
    assert tokenizer({"▁": -3.0, "b": -2.5}).encode(["xyzb x"]) == [[START, 4, UNKNOWN, 5, 4, UNKNOWN, END]]


def test_characters_are_replaced_and_special_tokens_are_text() -> None:
    scores = {"▁": -3.0, "f": -2.0, "i": -2.1, "<": -2.2, "s": -2.3, ">": -2.4}
    assert tokenizer(scores).encode(["ﬁ", "f\u3000i\u0001"]) == [[START, 4, 5, 6, END], [START, 4, 5, 4, 6, END]]
    assert tokenizer(scores).encode(["<s>"]) == [[START, 4, 7, 8, 9, END]]


def test_long_texts_are_truncated_and_empty_ones_have_no_pieces() -> None:
    assert tokenizer({"▁": -3.0, "b": -2.5}, 5).encode(["bbbbbb", "", " "]) == [
        [START, 4, 5, 5, END],
        [START, END],
        [START, END],
    ]


def test_any_vocabulary_gives_the_pieces_of_the_library() -> None:
    rng = random.Random(0)
    for _ in range(20):
        pieces = {"".join(rng.choices("▁abé犬", k=rng.randint(1, 4))) for _ in range(40)} - {""}
        pieces = {piece for piece in pieces if "▁" not in piece[1:]} | {"▁"}
        scores = {piece: -rng.uniform(1, 9) for piece in sorted(pieces)}
        mine, other = tokenizer(scores), oracle(scores)
        for text in ("".join(rng.choices("abé犬z  ", k=12)) for _ in range(20)):
            [found], expected = mine.encode([text]), [START, *other.encode(text).ids, END]
            # Segmentations may be equally good, and their sums differ by rounding alone.
            assert total(found, scores) == pytest.approx(total(expected, scores))
            assert len(found) == len(expected)


def test_the_files_of_a_folder_are_read_back(tmp_path: Path) -> None:
    np.savez(
        tmp_path / PIECES,
        **vocabulary([b"<s>", b"<pad>", b"</s>", b"<unk>", "▁a".encode()], np.array([0, 0, 0, 0, -1])),
    )
    (tmp_path / REPLACEMENTS).write_text(json.dumps({"\uff41": "a"}))
    assert PieceTokenizer.open(tmp_path, 9).encode(["\uff41 a"]) == [[START, 4, 4, END]]
    (tmp_path / REPLACEMENTS).unlink()
    with pytest.raises(OSError, match="replacements"):
        PieceTokenizer.open(tmp_path, 9)
