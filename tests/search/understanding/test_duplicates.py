"""The same footage in several files: groups, what could go, what should stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, add_video, axis, clip, install

from vfindex.search.service import SearchService
from vfindex.search.understanding.alignment import LEAST_EVIDENCE, Run
from vfindex.search.understanding.duplicates import DuplicateGroup, DuplicateList, Pair, _limit
from vfindex.storage.db.clips import StoredVectors
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.records import Clip, FloatArray, Location
from vfindex.storage.writer import Writer, writing


def _scene(seed: int, seconds: int, noise: float = 0.0) -> FloatArray:
    """Return two frames a second of something that moves, (2 * seconds, DIM)."""
    random = np.random.default_rng(seed)
    place = 3 * random.normal(size=DIM)
    vectors = place + 0.8 * np.cumsum(random.normal(size=(2 * seconds, DIM)), axis=0)
    vectors += noise * np.random.default_rng(99).normal(size=vectors.shape)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _add(writer: Writer, name: str, frames: FloatArray, said: FloatArray | None = None, **facts: Any) -> None:
    """Add a video in clips of 5 s whose visual vector is the mean of its frames."""
    clips = []
    for at in range(0, len(frames), 10):
        part = frames[at : at + 10]
        mean = part.mean(axis=0)
        vectors = {"visual": mean / np.linalg.norm(mean)} | ({} if said is None else {"speech": said})
        times_s = at / 2 + 0.5 * np.arange(len(part))
        clips.append(Clip(at / 2, (at + len(part)) / 2, 0.0, vectors, part, times_s))
    add_video(writer, name, clips, end_s=len(frames) / 2, last_s=len(frames) / 2 - 0.04, **facts)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> DuplicateList:
    folder = tmp_path_factory.mktemp("duplicates")
    with writing(folder) as writer:
        install(writer)
        _add(writer, "film.mp4", _scene(1, 30), width_px=1920, height_px=1080)
        _add(writer, "small.mp4", _scene(1, 30, 0.02), width_px=640, height_px=360)
        writer.publish()
        _add(writer, "part.mp4", _scene(1, 30)[20:50])
        _add(writer, "talk.mp4", _scene(2, 20), axis(1), width_px=1280, height_px=720)
        _add(writer, "dubbed.mp4", _scene(2, 20, 0.02), axis(2))
        intro = _scene(3, 10)
        for number in range(2):
            _add(writer, f"episode {number}.mp4", np.concatenate([intro, _scene(20 + number, 25)]))
        for number in range(6):
            _add(writer, f"other {number}.mp4", _scene(40 + number, 20))
        still = np.tile(_scene(60, 1)[:1], (40, 1))
        for number in range(2):
            _add(writer, f"still {number}.mp4", still)
    with SearchService(folder) as service:
        return service.duplicates()


def _group(found: DuplicateList, name: str) -> DuplicateGroup:
    [group] = [each for each in found.groups if any(name in str(copy.video) for copy in each.copies)]
    return group


def _verdicts(group: DuplicateGroup) -> dict[str, tuple[bool, str]]:
    return {Path(each.video.decode()).name: (each.could_go, each.why_not) for each in group.copies if each.video}


def test_a_copy_and_an_excerpt_could_go_and_the_best_stays(found: DuplicateList) -> None:
    [group] = [each for each in found.groups if each.kind == "whole" and "small.mp4" in _verdicts(each)]
    assert list(_verdicts(group)) == ["film.mp4", "small.mp4"]
    assert _verdicts(group)["film.mp4"] == (False, "")
    assert _verdicts(group)["small.mp4"] == (True, "")
    places = {Path(each.video.decode()).name: (each.start_s, each.end_s) for each in group.copies if each.video}
    assert places["film.mp4"] == pytest.approx((0.0, 29.5), abs=0.6)
    assert found.could_free == sum(each.bytes for g in found.groups for each in g.copies if each.could_go) > 0


def test_an_excerpt_is_at_its_place_in_the_film(found: DuplicateList) -> None:
    group = _group(found, "part.mp4")
    assert group.kind == "part"
    assert _verdicts(group)["part.mp4"] == (True, "")
    [(start_s, end_s)] = {(each.start_s, each.end_s) for each in group.copies if b"film.mp4" in (each.video or b"")}
    assert (start_s, end_s) == pytest.approx((10.0, 24.5), abs=0.6)


def test_other_words_are_a_reason_to_stay(found: DuplicateList) -> None:
    assert _verdicts(_group(found, "talk.mp4")) == {
        "talk.mp4": (False, ""),
        "dubbed.mp4": (False, "something else is said in it"),
    }


def test_a_shared_intro_frees_nothing(found: DuplicateList) -> None:
    group = _group(found, "episode 0")
    assert group.kind == "shared"
    assert set(_verdicts(group).values()) == {(False, "")}
    assert all(each.end_s == pytest.approx(9.5, abs=1.1) for each in group.copies)


def test_still_pictures_and_unrelated_videos_are_in_no_group(found: DuplicateList) -> None:
    named = {Path(c.video.decode()).name for g in found.groups for c in g.copies if c.video}
    assert not {name for name in named if name.startswith(("other", "still"))}


@pytest.mark.parametrize(("end_s", "limit"), [(29.0, np.log(500)), (10.0, np.log(40_000))])
def test_a_common_part_needs_evidence_against_all_offsets(end_s: float, limit: float) -> None:
    videos: Any = {1: SimpleNamespace(start_s=0.0, end_s=30.0), 2: SimpleNamespace(start_s=0.0, end_s=90.0)}
    pair = Pair(1, 2, Run((0.0, end_s), (40.0, 40.0 + end_s), 0.9, 0.5, 12))
    assert _limit(pair, videos, 500, 40_000) == pytest.approx(limit)
    assert _limit(pair, videos, 10, 20) == LEAST_EVIDENCE


def test_the_same_bytes_at_two_places_and_a_link(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        video_id = add_video(writer, "a.mp4", [clip(visual=axis(1))])
        writer.catalog.place(video_id, Location(b"/videos/b.mp4", 100, 1, 2))
        writer.catalog.place(video_id, Location(b"/videos/c.mp4", 100, 1, 2))
    with SearchService(tmp_path) as service:
        [group] = service.duplicates().groups
    assert group.kind == "file"
    assert [(each.could_go, each.bytes) for each in group.copies] == [(False, 100), (True, 100), (True, 0)]


def test_files_that_filters_do_not_choose_are_kept_first(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        same = add_video(writer, "imports/a.mp4", [clip(visual=axis(1))])
        writer.catalog.place(same, Location(b"/videos/trip/a.mp4", 100, 1, 2))
        _add(writer, "imports/film.mp4", _scene(2, 30))
        _add(writer, "trip/film.mp4", _scene(2, 30))
        writer.publish()

    def gone(filters: str) -> list[bytes | None]:
        with SearchService(tmp_path) as service:
            return sorted(
                each.video or b""
                for group in service.duplicates(filters).groups
                for each in group.copies
                if each.could_go
            )

    assert gone("in:imports") == [b"/videos/imports/a.mp4", b"/videos/imports/film.mp4"]
    assert gone("in:trip") == [b"/videos/trip/a.mp4", b"/videos/trip/film.mp4"]
    assert gone("")[0] == b"/videos/trip/a.mp4", "the first by path stays"


def test_of_recordings_that_overlap_only_those_go_that_the_best_has(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        scene = _scene(1, 150)
        for number in range(6):  # each begins 8 s after the one before; the first and the last share 60 of 100 s
            _add(writer, f"{number}.mp4", scene[16 * number : 16 * number + 200])
        for number in range(6):
            _add(writer, f"other {number}.mp4", _scene(40 + number, 20))
    with SearchService(tmp_path) as service:
        [group] = [each for each in service.duplicates().groups if each.kind == "whole"]
    verdicts = _verdicts(group)
    [best] = [int(name[0]) for name, verdict in verdicts.items() if verdict == (False, "")]
    near = {f"{number}.mp4" for number in (best - 1, best + 1)} & set(verdicts)
    assert {name for name, (could_go, _) in verdicts.items() if could_go} == near
    assert {why for name, (_, why) in verdicts.items() if name not in near | {f"{best}.mp4"}} == {
        "the best lacks a part of it"
    }


def test_frames_of_short_videos_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        for number in range(70):
            _add(writer, f"{number}.mp4", _scene(number, 5))
    read: list[int] = []
    vectors = Snapshot.vectors

    def counting(self: Snapshot, ids: Sequence[int]) -> dict[int, StoredVectors]:
        read.extend(ids)
        return vectors(self, ids)

    monkeypatch.setattr(Snapshot, "vectors", counting)
    with SearchService(tmp_path) as service:
        service.duplicates()
    assert len(set(read)) == 70
    assert len(read) == 70


def test_what_cannot_be_compared_is_a_sentence(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        _add(writer, "a.mp4", _scene(1, 10))
    with SearchService(tmp_path) as service:
        assert service.duplicates().groups == ()
        with pytest.raises(QueryError, match="no video passes the filters"):
            service.duplicates("in:nowhere")
        with pytest.raises(UsageError, match="duplicates takes filters only"):
            service.duplicates("dog")


def test_reading_clips_and_making_groups_report(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        for name in ("film.mp4", "copy.mp4"):
            _add(writer, name, _scene(1, 30))
        writer.publish()
    calls: list[tuple[int, int]] = []
    with SearchService(tmp_path) as service:
        assert len(service.duplicates(progress=lambda done, of: calls.append((done, of))).groups) == 1
    assert calls[0] == (0, 4), "the clips are read before any neighbour is looked up"
    assert calls[-2:] == [(4, 4), (4, 4)], "of the last pair, and of its group"
