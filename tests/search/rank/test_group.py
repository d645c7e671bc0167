"""Neighbours merge into one hit, duplicates fold into one with all places; similar footage stays apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from asking import engine_over, fake_query_vectors
from library_maker import DIM, axis, clip, place

from vfindex.search.rank.group import MAX_MERGED_S, MERGED_SHARE, SAME_WORDS, is_same_footage
from vfindex.search.rank.score import ScoredClip
from vfindex.search.results import Hit
from vfindex.storage.db.clips import StoredClip, StoredVectors
from vfindex.storage.db.sources import known_files
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import Writer, writing


@pytest.fixture(autouse=True)
def every_question_is_axis_0(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, lambda _: axis(0))


def unit(*values: float) -> FloatArray:
    """Return a unit vector with these first components."""
    vector = np.zeros(DIM, np.float32)
    vector[: len(values)] = values
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def scoring(share: float) -> FloatArray:
    """Return a vector whose similarity to the query is `share`."""
    return unit(share, float(np.sqrt(1 - share**2)))


def moving(start_s: float, end_s: float, first: FloatArray, second: FloatArray, **more: FloatArray) -> Clip:
    """Return a clip of two different frames."""
    mean = (first + second) / np.linalg.norm(first + second)
    return Clip(
        start_s, end_s, 0.0, {"visual": mean, **more}, np.stack([first, second]), np.array([start_s, end_s - 0.5])
    )


def spans(hits: list[Hit]) -> list[tuple[str, float, float]]:
    return [(Path((hit.video or b"").decode()).name, hit.start_s, hit.end_s) for hit in hits]


def row(*shares: float, length_s: float = 5.0, gap_s: float = 0.0) -> list[Clip]:
    """Return consecutive clips with these shares as scores."""
    step = length_s + gap_s
    return [clip(step * i, step * i + length_s, visual=scoring(share)) for i, share in enumerate(shares)]


def test_neighbours_with_similar_scores_are_one_hit(tmp_path: Path) -> None:
    near, far = MERGED_SHARE + 0.1, MERGED_SHARE - 0.1
    engine = engine_over(tmp_path, {"a": row(far, near, 1.0, near, near, far)})
    [hit] = engine.search("x")
    assert (hit.start_s, hit.end_s) == (5, 25)
    assert [(span.start_s, span.end_s) for span in hit.moments] == [(10, 15)], "the best moment"
    assert hit.score == pytest.approx(hit.moments[0].score), "the score is that of the best"
    assert spans(engine.search("x", per_video=3)) == [("a", 5, 25), ("a", 0, 5), ("a", 25, 30)]


def test_clips_beyond_the_gap_are_not_merged(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"gaps": row(0.9, 1.0, gap_s=2.0), "weak": row(0.99, 0.1, 0.9)})
    assert spans(engine.search("x", per_video=9)) == [
        ("gaps", 7, 12),
        ("weak", 0, 5),
        ("gaps", 0, 5),
        ("weak", 10, 15),
        ("weak", 5, 10),
    ]


def test_a_merged_hit_has_a_maximum_length(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"talk": row(*[1.0] * 40)})
    [hit] = engine.search("x")
    assert MAX_MERGED_S - 10 < hit.end_s - hit.start_s <= MAX_MERGED_S


def test_a_filtered_neighbour_is_not_merged(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": row(1.0, 0.9)})
    assert spans(engine.search("x")) == [("a", 0, 10)]
    assert spans(engine.search("x then x within 5s"))[0] == ("a", 0, 10)


INTRO = (unit(1, 1), unit(1, 0, 1))


def test_the_same_footage_is_one_hit_with_all_its_places(tmp_path: Path) -> None:
    """Three videos share an intro; the rest of each is still found."""
    videos = {
        name: [moving(start, start + 5, *INTRO), clip(start + 20, start + 25, visual=unit(1, 0, 0, 2 + start))]
        for name, start in (("a", 0.0), ("b", 3.0), ("c", 40.0))
    }
    hits = engine_over(tmp_path, videos).search("x", top_k=9)
    assert spans(hits[:1]) == [("a", 0, 5)]
    assert [(p.video, p.start_s, p.end_s) for p in hits[0].also] == [(b"/videos/b", 3, 8), (b"/videos/c", 40, 45)]
    assert [span[0] for span in spans(hits[1:])] == ["b", "c"], "of the best one's video one hit is enough"
    assert not hits[1].also


def test_a_copy_of_a_video_brings_no_second_hit(tmp_path: Path) -> None:
    whole = [moving(0, 5, *INTRO), moving(20, 25, unit(1, 0, 0, 1.5), unit(1, 0, 0, 0, 1.5))]
    again = [moving(0, 5, *INTRO), moving(20, 25, unit(1, 0, 0, 1.4), unit(1, 0, 0, 0, 1.4))]
    engine = engine_over(tmp_path, {"first": whole, "again": again, "other": [clip(visual=axis(1))]})
    assert {span[0] for span in spans(engine.search("x"))} == {"first", "other"}
    assert [len(hit.also) for hit in engine.search("x", per_video=2)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("still pictures", clip(0, 5, visual=unit(1, 1))),
        ("longer", moving(0, 9, *INTRO)),
        ("other words", moving(0, 5, *INTRO, speech=axis(3))),
        ("silent", moving(0, 5, *INTRO)),
        ("other pictures", moving(0, 5, unit(1, 1), unit(1, 0, 0, 1), speech=axis(2))),
    ],
)
def test_similar_but_different_footage_stays_apart(tmp_path: Path, name: str, other: Clip) -> None:
    first = clip(0, 5, visual=unit(1, 1)) if name == "still pictures" else moving(0, 5, *INTRO, speech=axis(2))
    hits = engine_over(tmp_path, {"a": [first], "b": [other]}).search("x")
    assert len(hits) == 2 and not hits[0].also


def test_words_are_compared_without_what_all_texts_share() -> None:
    """Two sentences of a model whose vectors have much in common are not the same words."""
    common = 3 * axis(5)

    def said(video_id: int, words: FloatArray) -> ScoredClip:
        made = moving(0, 5, *INTRO, speech=(common + words) / np.float32(np.linalg.norm(common + words)))
        vectors = StoredVectors(made.embeddings, made.frame_vectors, made.frame_times_s)
        return ScoredClip(StoredClip(video_id, video_id, 0, 5, None), {}, vectors, means={"speech": common / 10**0.5})

    one, same, other = said(1, axis(2)), said(2, axis(2)), said(3, axis(3))
    assert one.vectors.embeddings["speech"] @ other.vectors.embeddings["speech"] > SAME_WORDS
    assert is_same_footage([one], [same], lambda _: 5.0)
    assert not is_same_footage([one], [other], lambda _: 5.0)


def test_the_other_files_of_one_content_are_named(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(0))]})
    with writing(tmp_path) as writer:
        add_copy(writer)
    [hit] = engine.search("x")
    assert [p.video for p in hit.also] == [b"/videos/copy"]
    assert hit.video == b"/videos/a" and (hit.also[0].start_s, hit.also[0].end_s) == (0, 5)


def add_copy(writer: Writer) -> None:
    [video_id] = {known.video_id for known in known_files(writer.catalog).values()}
    writer.catalog.place(video_id, place("copy"))
