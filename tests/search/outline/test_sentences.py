"""Sentences, the words that tell parts apart, and the most central sentence."""

from __future__ import annotations

import numpy as np

from vfindex.search.outline.sentences import centrality, key_terms, sentences_of, terms_of
from vfindex.storage.records import Segment


def said(start_s: float, text: str, length_s: float = 2.0) -> Segment:
    return Segment(start_s, start_s + length_s, text, "asr", "en")


def test_segments_become_sentences_with_their_times() -> None:
    made = sentences_of(
        [said(0, "We knead the"), said(2, "dough now."), said(4, "Then  it\nrests"), said(9, "in an oven")]
    )
    assert [(each.start_s, each.end_s, each.text) for each in made] == [
        (0, 4, "We knead the dough now."),
        (4, 6, "Then it rests"),  # a silence of 3 s follows
        (9, 11, "in an oven"),
    ]


def test_lines_on_the_picture_are_sentences_of_their_own() -> None:
    made = sentences_of([said(0, "we go"), Segment(1, 2, "EXIT", "frames", track="screen"), said(2, "home.")])
    assert [(each.text, each.track) for each in made] == [("we go home.", "speech"), ("EXIT", "screen")]


def test_text_without_an_end_is_cut() -> None:
    made = sentences_of([said(2 * n, f"word{n}") for n in range(20)])
    assert [len(each.text.split()) for each in made] == [8, 8, 4]


def test_terms_are_content_words() -> None:
    assert terms_of("The dog's 2 dogs and 猫 é a Café") == ["dog", "dogs", "猫", "cafe"]


def test_key_terms_tell_a_part_from_the_others() -> None:
    parts = ["people knead the dough, dough and flour, people", "people climb the rope; a rope and people", ""]
    assert key_terms(parts, 1) == [["dough"], ["rope"], []]


def test_the_central_sentence_is_the_one_that_others_resemble() -> None:
    texts = ["the oven bakes the bread", "bread and an oven", "an oven for bread and dough", "a cat sleeps", "..."]
    ranks, likeness = centrality(texts)
    assert int(ranks.argmax()) in (0, 1, 2) and ranks[3] < ranks[:3].min()
    assert ranks[4] == 0.0
    assert likeness[3, 0] == 0.0 and np.allclose(np.diag(likeness)[:4], 1.0)
    assert likeness[0, 1] > 0
