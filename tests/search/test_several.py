"""Several libraries, one question: the same hits as of one library of all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, SETUP, add_video, clip, prior

from vfindex.search.query.encode import QueryEncoder
from vfindex.search.service import SearchService
from vfindex.storage.errors import UsageError
from vfindex.storage.maintenance.shared_spec import exported, use_own_spec, use_spec
from vfindex.storage.records import FloatArray, Segment
from vfindex.storage.writer import writing

RANDOM = np.random.default_rng(3)
NAMES = [f"v{number:02}" for number in range(24)]
WORDS = ("heron", "lake", "boat")


def unit(count: int) -> FloatArray:
    rows = RANDOM.standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


SEEN, SAID, ASKED = unit(len(NAMES) * 3), unit(len(NAMES) * 3), unit(20)


def make(folder: Path, numbers: list[int]) -> Path:
    """Return a library of some of the videos, of three clips each; every word is in some of them."""
    with writing(folder) as writer:
        writer.install(SETUP, {m: prior() for m in SETUP.models}, {})
        for number in numbers:
            rows = range(3 * number, 3 * number + 3)
            clips = [clip(5.0 * (r % 3), 5.0 * (r % 3) + 5, visual=SEEN[r], speech=SAID[r]) for r in rows]
            words = " ".join(word for step, word in enumerate(WORDS, 2) if number % step == 0) or "nothing"
            add_video(writer, NAMES[number], clips, [Segment(0, 5, words, "sidecar")])
        writer.publish()
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a library of all videos and two of a part each, with one spec."""
    base = tmp_path_factory.mktemp("several")
    whole = make(base / "whole", list(range(24)))
    first, second = make(base / "A", list(range(9))), make(base / "B", list(range(9, 24)))
    (base / "spec.json").write_text(exported([first, second]).to_json())
    for folder in (whole, first, second):
        use_spec(folder, base / "spec.json")
    return whole, first, second


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each query the vector of its last character's place in ASKED."""

    def encode(_: Any, part: Any) -> dict[str, FloatArray]:
        vector = ASKED[sum(map(ord, str(part.text))) % len(ASKED)]
        return {m: vector for m in ("visual", "speech", "text")}

    monkeypatch.setattr(QueryEncoder, "encode", encode)


QUERIES = ("a", "b", "heron", "lake boat", "heron lake", '"boat"', "said:lake", "heron -boat", "a then b within 20s")


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("per_video", [1, 3])
def test_two_parts_give_the_hits_of_the_whole(folders: tuple[Path, Path, Path], query: str, per_video: int) -> None:
    whole, *parts = folders
    options: dict[str, Any] = {"top_k": 12, "per_video": per_video, "min_confidence": "none"}
    one = SearchService(whole).search(query, **options)
    several = SearchService(parts).search(query, **options)
    assert [(hit.rank, hit.key) for hit in several] == [(hit.rank, hit.key) for hit in one] and one
    np.testing.assert_allclose([hit.score for hit in several], [hit.score for hit in one], atol=1e-3)
    assert {hit.library for hit in several} == set(parts)


@pytest.mark.usefixtures("asked")
def test_a_content_in_two_libraries_is_one_hit(folders: tuple[Path, Path, Path]) -> None:
    hits = SearchService(folders[:2]).search("a", top_k=100, per_video=3, min_confidence="none")
    alone = SearchService(folders[0]).search("a", top_k=100, per_video=3, min_confidence="none")
    assert [hit.key for hit in hits] == [hit.key for hit in alone]
    assert {hit.to_dict()["library"] for hit in hits} == {str(folders[0])}, "of equals the first library's"


@pytest.mark.usefixtures("asked")
def test_clips_of_either_library_are_examples(folders: tuple[Path, Path, Path]) -> None:
    one, several = SearchService(folders[0]), SearchService(folders[1:])
    for name in ("v01", "v20"):
        [key] = [hit.key for hit in one.search("a", top_k=24, min_confidence="none") if hit.key.fingerprint == name]
        alike = several.similar(key)
        assert [hit.key for hit in alike] == [hit.key for hit in one.similar(key)]
        assert several.video(name).fingerprint == several.transcript(name).fingerprint == name


@pytest.mark.usefixtures("asked")
def test_libraries_that_cannot_be_compared_are_refused(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(folders[2], own)
    use_own_spec(own)
    with pytest.raises(
        UsageError, match=r"different specs, .* vfindex spec export spec\.json --library .* vfindex spec"
    ):
        SearchService([folders[1], own]).search("a")
    with writing(own) as writer:
        setup = json.loads(writer.catalog.get("setup") or "")
        writer.catalog.put("setup", json.dumps({**setup, "word_weight": 2.0}))
    with pytest.raises(UsageError, match=r"\(word_weight 2, not 0\.5\).*vfindex upgrade --library"):
        SearchService([folders[1], own]).search("a")
    with pytest.raises(UsageError, match="rrf fuses ranks"):
        SearchService(folders[1:]).search("a", combine="rrf")
