"""Several libraries, one question: the same hits as of one library of all."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import SETUP, add_video, clip, prior
from old_libraries import BEFORE_TRACKS, FIRST, stored
from parted import ENCODED_AGAIN, FOOTAGE, NAMES, QUERIES, SEEN, answers, fake_vectors, moving, with_one_spec

from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.like import Like
from vfindex.search.service import SearchService
from vfindex.storage.db import engine as database
from vfindex.storage.errors import LibraryDamaged, LibraryVersion, QueryError, UsageError
from vfindex.storage.library import Library, reading_spec
from vfindex.storage.maintenance.shared_spec import exported, use_own_spec, use_spec
from vfindex.storage.records import ClipKey, Location
from vfindex.storage.writer import writing


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a library of all videos and two of a part each, with one spec."""
    whole, first, second = with_one_spec(tmp_path_factory.mktemp("several"), list(range(9)), list(range(9, 24)))
    return whole, first, second


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vectors(monkeypatch)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("per_video", [1, 3])
def test_two_parts_give_the_hits_of_the_whole(folders: tuple[Path, Path, Path], query: str, per_video: int) -> None:
    whole, *parts = folders
    options: dict[str, Any] = {"top_k": 12, "per_video": per_video, "min_confidence": "none"}
    one = SearchService(whole).search(query, **options)
    several = SearchService(parts).search(query, **options)
    assert answers(several) == answers(one) and one
    np.testing.assert_allclose([hit.score for hit in several], [hit.score for hit in one], atol=1e-6)
    assert {hit.library for hit in several} == set(parts) or "in:" in query


@pytest.mark.usefixtures("asked")
def test_a_content_in_two_libraries_is_one_hit(folders: tuple[Path, Path, Path]) -> None:
    hits = SearchService(folders[:2]).search("a", top_k=100, per_video=3, min_confidence="none")
    alone = SearchService(folders[0]).search("a", top_k=100, per_video=3, min_confidence="none")
    assert [hit.key for hit in hits] == [hit.key for hit in alone]
    assert {hit.to_dict()["library"] for hit in hits} == {str(folders[0])}, "of equals the first library's"


@pytest.mark.parametrize("order", [1, -1])
def test_footage_in_two_libraries_is_one_hit(
    folders: tuple[Path, Path, Path], order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: dict.fromkeys(("visual", "text"), SEEN[3 * FOOTAGE]))
    whole, *parts = folders
    several = SearchService(parts[::order]).search("a", top_k=24, min_confidence="none")
    names = [NAMES[FOOTAGE], NAMES[ENCODED_AGAIN]][::order]
    assert several[0].video == f"/videos/{names[0]}".encode()
    assert [place.video for place in several[0].also] == [f"/videos/{names[1]}".encode()]
    assert len(several) == len(SearchService(whole).search("a", top_k=24, min_confidence="none")) == 23


@pytest.mark.usefixtures("asked")
def test_a_filter_chooses_among_the_copies_of_a_content(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    first, second = (shutil.copytree(folders[1], tmp_path / name) for name in ("first", "second"))
    with Library.open(second).snapshot() as snapshot, writing(second) as writer:
        for video in snapshot.videos():
            writer.catalog.place(video.id, Location(f"/archive/{video.fingerprint}".encode(), 100, 1, 1))
    service = SearchService([first, second])
    for filters, library in (("", first), ("in:/videos", first), ("in:/archive", second)):
        hits = service.search(f"a {filters}", top_k=50, min_confidence="none")
        assert [hit.library for hit in hits] == [library] * 9
    places = {place.video for hit in service.search("a", min_confidence="none") for place in hit.also}
    assert places == {f"/archive/{name}".encode() for name in NAMES[:9]}


@pytest.mark.usefixtures("asked")
def test_clips_of_either_library_are_examples(folders: tuple[Path, Path, Path]) -> None:
    one, several = SearchService(folders[0]), SearchService(folders[1:])
    for name in ("v01", "v20"):
        [key] = [hit.key for hit in one.search("a", top_k=24, min_confidence="none") if hit.key.fingerprint == name]
        alike = several.similar(key)
        assert [hit.key for hit in alike] == [hit.key for hit in one.similar(key)]
        assert several.video(name).fingerprint == several.transcript(name).fingerprint == name


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    """Return two libraries of the same still pictures, each with its own paths."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        with writing(folder) as writer:
            writer.install(SETUP, {m: prior() for m in SETUP.models}, {})
            for number in range(3):
                cuts = [clip(5.0 * n, 5.0 * n + 5, visual=SEEN[2 * number + n]) for n in range(2)]
                id_ = add_video(writer, f"v{number}", cuts)
                writer.catalog.place(id_, Location(f"/{folder.name}/v{number}".encode(), 100, 1, 1))
                writer.catalog.remove(f"/videos/v{number}".encode())
            writer.publish()
    (tmp_path / "spec.json").write_text(exported(folders).to_json())
    for folder in folders:
        use_spec(folder, tmp_path / "spec.json")
    return folders


@pytest.mark.usefixtures("asked")
def test_no_clip_is_like_itself_in_another_library(copies: list[Path]) -> None:
    """A content is searched in the first library whose copy passes; the example may be named in another."""
    service = SearchService(copies)
    for name, filters in (("/a/v1", ""), ("/b/v1", ""), ("/a/v1", "in:/b"), ("/b/v1", "in:/a")):
        hits = service.search(filters, images=[Like(Path(name), 1.0)], per_video=9, min_confidence="none")
        assert ClipKey("v1", 0) not in [hit.key for hit in hits] and ClipKey("v1", 5000) in [hit.key for hit in hits]


def test_the_library_that_has_the_video_says_why_there_is_no_clip(copies: list[Path]) -> None:
    for folders, name in itertools.product((copies, copies[::-1]), ("/a/v1", "/b/v1", "v1")):
        with pytest.raises(QueryError, match=f"^no clip of {name} covers 99 s: it runs from 0 s to 10 s$"):
            SearchService(folders).thumbnail(f"{name}@99")
        with pytest.raises(QueryError, match=r"^nowhere is not in this library"):
            SearchService(folders).thumbnail("nowhere@1")


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


def test_a_library_of_an_older_layout_is_one_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (stored(BEFORE_TRACKS, tmp_path / name) for name in ("old", "new"))
    with writing(new):
        pass  # migrates
    with Library.open(old).snapshot() as snapshot:
        dims = {m: part.dim for m, part in reading_spec(snapshot)[0].parts.items()}
    monkeypatch.setattr(
        QueryEncoder, "encode", lambda *_: {m: np.full(dim, dim**-0.5, np.float32) for m, dim in dims.items()}
    )
    alone = SearchService(old).search("a", min_confidence="none")
    for folders in ([old, new], [new, old]):
        hits = SearchService(folders).search("a", min_confidence="none")
        assert [hit.key for hit in hits] == [hit.key for hit in alone] and alone
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in alone], atol=1e-6)
        assert {hit.library for hit in hits} == {folders[0]}


def test_a_library_that_is_too_old_is_named(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    first = stored(FIRST, tmp_path / "first")
    for several in ([folders[1], first], [first, folders[1]]):
        with pytest.raises(LibraryVersion, match=r"first: this library was written by an older vfindex; run"):
            SearchService(several).search("a")


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("order", [1, -1])
def test_a_library_that_is_damaged_while_it_is_open_is_named(
    folders: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    pragmas = database._pragmas  # without a cache, as of a library that is larger than it
    monkeypatch.setattr(database, "_pragmas", lambda *asked, **how: [*pragmas(*asked, **how), "cache_size=0"])
    damaged = shutil.copytree(folders[2], tmp_path / "damaged")
    service = SearchService([folders[1], damaged][::order])
    assert service.search("a", min_confidence="none") and service.video("v20")
    with (damaged / "library.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (damaged / "library.db").stat().st_size)
    for call in (lambda: service.search("b"), lambda: service.video("v20"), lambda: service.similar("v20@1")):
        with pytest.raises(LibraryDamaged, match=re.escape(f"{damaged}: ")):
            call()


@pytest.mark.usefixtures("asked")
def test_a_library_is_published_while_several_are_searched(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    growing = shutil.copytree(folders[2], tmp_path / "growing")
    service, done = SearchService([folders[1], growing]), threading.Event()
    old = {hit.key.fingerprint for hit in service.search("a", top_k=50, min_confidence="none")}
    added = [f"new{number}" for number in range(4)]

    def ask() -> list[set[str]]:
        found = []
        while not done.is_set():
            found.append({hit.key.fingerprint for hit in service.search("a", top_k=50, min_confidence="none")})
        return found

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask) for _ in range(2)]
        try:
            for number, name in enumerate(added):
                with writing(growing) as writer:
                    add_video(writer, name, [moving(3 * len(NAMES) + number)])
                    writer.publish()
        finally:
            done.set()
        states = [old | set(added[:count]) for count in range(len(added) + 1)]
        assert [found for future in asked for found in future.result() if found not in states] == []
    assert {hit.key.fingerprint for hit in service.search("a", top_k=50, min_confidence="none")} == states[-1]
