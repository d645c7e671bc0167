"""The service: what its calls return, what it refuses, time limits, and many threads over a library that changes."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import axis_of_digit, fake_query_vectors, names
from library_maker import add_video, axis, clip, install

from vfindex.search.engine import SearchEngine
from vfindex.search.query.like import Like
from vfindex.search.service import SearchService
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.errors import LibraryError, LibraryNotFound, QueryError, QueryTimeout, UsageError
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.library import Library
from vfindex.storage.records import Chapter, ClipKey, Document, Segment
from vfindex.storage.writer import writing

THREADS, QUESTIONS, GENERATIONS, VIDEOS, CLIPS = 8, 400, 3, 6, 4


@pytest.fixture(autouse=True)
def queries_are_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a library in which video N has clips of axis N, and says N."""
    with writing(tmp_path) as writer:
        install(writer)
        for number in range(VIDEOS):
            clips = [clip(5.0 * i, 5.0 * i + 5, visual=axis(number), speech=axis(number)) for i in range(CLIPS)]
            add_video(writer, f"v{number}", clips, [Segment(6, 8, f"number {number}", "asr", "en")])
        writer.publish()
    return tmp_path


# --- calls ----------------------------------------------------------------------------------------------------------


def test_a_hit_names_its_video_and_its_clip(folder: Path) -> None:
    with SearchService(folder) as service:
        hit = service.search("3", top_k=1)[0]
        video = service.video("/videos/v3")
        chosen = next(each for each in video.clips if each.clip_id == hit.clip_id)
        assert (hit.video_id, hit.key) == (video.video_id, ClipKey(video.fingerprint, round(chosen.start_s * 1000)))
        assert chosen.key == hit.key
        assert hit.to_dict()["key"] == [video.fingerprint, hit.key.start_ms]
        assert service.video(video.fingerprint) == video, "a fingerprint names a video as well as its path"
        assert service.transcript(video.fingerprint).segments == video.transcript != ()


def test_a_video_is_found_by_the_end_of_its_path(folder: Path) -> None:
    with writing(folder) as writer:
        for name in ("a/trip/beach.mp4", "b/trip/dune.mp4", "c/dune.mp4"):
            add_video(writer, name, [clip(visual=axis(1))])
    with SearchService(folder) as service:
        beach = service.video("/videos/a/trip/beach.mp4")
        assert service.video("beach.mp4") == service.video("trip/beach.mp4") == beach
        assert service.transcript("beach.mp4").video == beach.video
        by_path = service.similar("/videos/a/trip/beach.mp4@1")
        assert names(service.similar("beach.mp4@1")) == names(by_path) != []
        assert service.video("trip/dune.mp4").video == b"/videos/b/trip/dune.mp4"
        several = "dune.mp4 fits 2 videos: /videos/b/trip/dune.mp4, /videos/c/dune.mp4; give more of the path"
        for call in (service.video, service.transcript, lambda name: service.similar(f"{name}@1")):
            with pytest.raises(UsageError, match=f"^{several}$"):
                call("dune.mp4")
        for name in ("each.mp4", "p/beach.mp4", "/trip/beach.mp4"):
            with pytest.raises(LibraryError, match="is not in this library, and there is no such file"):
                service.video(name)


def test_a_file_that_is_not_in_the_library_is_not_another_of_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(folder) as writer:
        add_video(writer, "trip/beach.mp4", [clip(visual=axis(1))])
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "beach.mp4").touch()
    monkeypatch.chdir(tmp_path / "here")
    with SearchService(folder) as service, pytest.raises(LibraryError, match="vfindex ingest beach"):
        service.video("beach.mp4")


def test_a_video_has_its_clock_and_the_run_that_added_it(folder: Path) -> None:
    chapter = Chapter("Arrival", 1.0, 3.0)
    with writing(folder) as writer:
        run_id = writer.catalog.begin_run("ingest")
        add_video(
            writer, "timed", [clip(visual=axis(7))], fps="30000/1001", time_base="1/30000",
            start_timecode="10:00:00;00", chapters=(chapter,),
        )  # fmt: skip
        writer.catalog.end_run(run_id, {})
    with SearchService(folder) as service:
        video = service.video("/videos/timed")
        assert (video.fps, video.time_base, video.start_timecode) == ("30000/1001", "1/30000", "10:00:00;00")
        assert (video.added_run, video.chapters) == (run_id, (chapter,))
        assert {each.video: each.added_run for each in service.videos().videos}[b"/videos/timed"] == run_id
        assert (service.video("/videos/v1").added_run, service.video("/videos/v1").fps) == (None, None)


def test_segments_and_matches_name_their_track_and_source(folder: Path) -> None:
    with writing(folder) as writer:
        add_video(writer, "named", [clip(visual=axis(7))], documents=[Document("title", "a harbour")])
    with SearchService(folder) as service:
        [segment] = service.transcript("/videos/v3").segments
        assert (segment.track, segment.source) == ("speech", "asr")
        [match] = service.search("said:number", min_confidence="none")[0].matches
        assert (match.track, match.source, match.kind) == ("speech", "asr", "speech")
        [titled] = service.search("harbour", min_confidence="none")[0].matches
        assert (titled.track, titled.source, titled.kind) == ("text", None, "title")


def test_a_transcript_is_what_is_said_and_other_tracks_are_asked_for(folder: Path) -> None:
    said = Segment(1, 2, "hello", "sidecar", "en")
    shown = Segment(0, 2, "EXIT", "frames", "", 0.9, "screen", (0.1, 0.1, 0.2, 0.2))
    chapter = Segment(0, 9, "Arrival", "chapter", track="text")
    with writing(folder) as writer:
        add_video(writer, "both", [clip(visual=axis(1))], [said, shown, chapter])
    with SearchService(folder) as service:
        video = service.video("/videos/both")
        assert (video.transcript, set(video.other_text)) == ((said,), {shown, chapter})
        assert service.transcript("/videos/both").segments == (said,)
        tracks = {track: service.transcript("/videos/both", track=track).segments for track in ("screen", "text")}
        assert tracks == {"screen": (shown,), "text": (chapter,)}


def test_similar_takes_a_key_or_a_video_and_a_time(folder: Path) -> None:
    with SearchService(folder) as service:
        key = service.video("/videos/v2").clips[1].key
        by_key, by_time = service.similar(key), service.similar(Like(Path("/videos/v2"), 6.0))
        assert names(by_key) == names(by_time) == names(service.similar("/videos/v2@0:06"))
        assert names(by_key)[0] == "v2" and key not in [hit.key for hit in by_key], "another clip looks the same"
        assert names(service.similar(f"{key.fingerprint}@6")) == names(by_key)
        assert service.thumbnail(key) == service.video("/videos/v2").clips[1].thumbnail
        with pytest.raises(QueryError, match="begins at 7 ms; the video was cut anew since"):
            service.similar(ClipKey(key.fingerprint, 7))
        with pytest.raises(LibraryError, match="is not in this library, and there is no such file"):
            service.video("caf\udce9.mp4")
        with pytest.raises(QueryError, match="nobody is not in this library"):
            service.similar(ClipKey("nobody", 0))


def test_pages_of_videos(folder: Path) -> None:
    with SearchService(folder) as service:
        page = service.videos(first=2, limit=3)
        assert (page.total, [each.video for each in page.videos]) == (
            VIDEOS, [b"/videos/v2", b"/videos/v3", b"/videos/v4"],
        )  # fmt: skip
        assert [each.clips for each in page.videos] == [CLIPS] * 3 and page.videos[0].languages == ("en",)
        assert service.videos(first=VIDEOS).videos == ()
        filtered = service.videos("in:v1")
        assert (filtered.total, filtered.videos[0].video) == (1, b"/videos/v1")
        assert service.videos("in:nowhere").hints[0].kind == "in"
        with pytest.raises(UsageError, match="list takes filters only"):
            service.videos("a dog")


def test_a_status_counts_what_a_search_can_find(folder: Path) -> None:
    with SearchService(folder) as service:
        before = service.status()
        assert (before.clips, before.segments) == (VIDEOS * CLIPS, VIDEOS)
        with writing(folder) as writer:
            writer.catalog.mark_missing([b"/videos/v1"])
        after = service.status()
    assert (after.videos, after.states["vanished"]) == (VIDEOS - 1, 1)
    assert (after.clips, after.segments) == ((VIDEOS - 1) * CLIPS, VIDEOS - 1)
    assert after.clips_with == {m: n - CLIPS if n else 0 for m, n in before.clips_with.items()}


def test_a_status_of_a_library_without_videos(tmp_path: Path) -> None:
    with SearchService(tmp_path / "none") as nothing, pytest.raises(LibraryNotFound):
        nothing.status()
    with writing(tmp_path):
        pass
    with SearchService(tmp_path) as service:
        assert (service.status().videos, service.status().last_run, service.runs().runs) == (0, None, ())
        assert service.videos().total == 0
        with pytest.raises(QueryError, match="holds no videos yet"):
            service.search("3")
        with pytest.raises(LibraryError, match="there is no run 7"):
            service.run(7)


def test_a_closed_service_leaves_no_file_open(folder: Path) -> None:
    service = SearchService(folder)
    assert service.search("3")
    with service.engine.library().snapshot() as running:
        service.close()
        service.close()
        assert running.video_ids(), "what runs goes on"
    assert _open_files(folder) == []
    for call in (lambda: service.search("3"), service.status, service.marks, lambda: service.videos()):
        with pytest.raises(LibraryError, match="was closed by this program; open it again to read it"):
            call()
    assert _open_files(folder) == []


def test_a_forked_process_opens_the_library_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that a thread holds at the fork is never released in the child: a question would wait for ever."""
    with SearchService(folder) as service:
        assert service.search("3")
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            for call in (lambda: service.search("3"), service.status, service.marks, lambda: service.engine.setup):
                with pytest.raises(LibraryError, match="before this process was forked; open it again in this one"):
                    call()
            service.close()
            assert SearchService(folder).search("3")
        assert service.search("3"), "the parent's stays open"


def test_questions_that_run_at_close_end_with_hits_or_a_sentence(folder: Path) -> None:
    for _ in range(3):
        service, begun = SearchService(folder), threading.Barrier(THREADS + 1)
        expected = {str(number): answers(service, str(number)) for number in range(VIDEOS)}
        with ThreadPoolExecutor(THREADS) as pool:
            asked = [pool.submit(_until_closed, service, begun) for _ in range(THREADS)]
            begun.wait()
            service.close()
            found = [future.result() for future in asked]
        assert all(hits == expected[text] for answered in found for text, hits in answered)
        assert _open_files(folder) == []


def _until_closed(service: SearchService, begun: threading.Barrier) -> list[tuple[str, Any]]:
    """Return the answers to questions until the service is closed, which must be said in one sentence."""
    found = [("3", answers(service, "3"))]
    begun.wait()
    for number in itertools.cycle(range(VIDEOS)):
        try:
            found.append((str(number), answers(service, str(number))))
        except LibraryError as exc:
            assert "was closed by this program" in str(exc)
            return found
    raise AssertionError


def _open_files(folder: Path) -> list[str]:
    open_files = [path for fd in Path("/proc/self/fd").iterdir() if (path := _target(fd)).startswith(str(folder))]
    return [path for path in open_files if path.endswith((".db", "-wal", "-shm"))]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


# --- marks and saved questions ----------------------------------------------------------------------------------------


def test_marks_are_made_found_and_deleted(folder: Path) -> None:
    with SearchService(folder) as service:
        hit = service.search("3", top_k=1)[0]
        made = service.mark(hit.key, list_="goals", note="the second", by="Ann")
        assert (made.video, made.key, made.presence) == (hit.video, hit.key, "present")
        assert (made.start_s, made.end_s, made.by) == (hit.moments[0].start_s, hit.moments[0].end_s, "Ann")
        assert service.similar(made.key) == service.similar(hit.key)
        judged = service.mark("/videos/v1@0:06", question="one", grade=3)
        assert service.marks().marks == (made, judged) and service.marks(question="one").marks == (judged,)
        with pytest.raises(UsageError, match="there is no mark 7"):
            service.remove_marks([made.id, 7])
        assert service.remove_marks([made.id]).marks == (made,) and service.marks().marks == (judged,)


def test_a_mark_in_a_video_that_is_cut_anew_has_a_clip(folder: Path) -> None:
    """The clip that holds most of the marked span, not the one that holds its first moment."""
    with SearchService(folder) as service:
        made = service.mark("/videos/v1@6")
        assert made.clip == made.key == ClipKey("v1", 5000)
        for cuts, start_ms in (([0, 5.5, 12], 5500), ([0, 20], 0), ([0, 2, 9, 20], 2000), ([0, 4], None)):
            with writing(folder) as writer:
                writer.catalog.remove(b"/videos/v1")
                add_video(writer, "v1", [clip(a, b, visual=axis(1)) for a, b in pairwise(map(float, cuts))])
                writer.publish()
            [mark] = service.marks().marks
            assert mark.clip == (None if start_ms is None else ClipKey("v1", start_ms))
            assert replace(mark, clip=made.clip) == made


def test_a_run_that_holds_the_library_refuses_no_mark_and_no_question(folder: Path) -> None:
    with SearchService(folder) as service, writing(folder):
        assert service.mark("/videos/v1@2").key.start_ms == 0
        saved = service.save_query("three", "3", by="Ann")
        assert service.saved_queries().saved == (saved,) == (service.saved_query("three"),)
        assert service.search(service.saved_query("three").text)[0].video == b"/videos/v3"
        assert service.remove_query("three") == saved
        with pytest.raises(QueryError, match="there is no saved question three; save one with: vfindex save three"):
            service.remove_query("three")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"list_": 3}, "the name of the list must be text, not 3"),
        ({"note": b"x"}, "the note must be text"),
        ({"question": "one", "grade": "2"}, "a grade is 0 (not relevant) to 3, not '2'"),
        ({"question": "one", "grade": 1.5}, "a grade is 0 (not relevant) to 3, not 1.5"),
        ({"question": "one"}, "a judgement has a question and a grade"),
        ({"by": 3}, "the name of the user must be text"),
    ],
)
def test_a_wrong_mark_is_one_sentence(folder: Path, options: dict[str, Any], sentence: str) -> None:
    with SearchService(folder) as service, pytest.raises(UsageError) as refused:
        service.mark("/videos/v1@2", **options)
    assert str(refused.value).startswith(sentence)


# --- time limits ----------------------------------------------------------------------------------------------------


def test_a_search_that_is_late_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SearchService(folder) as service:
        assert service.search("3", timeout_s=3600.0) == service.search("3")
        monkeypatch.setattr(time, "monotonic", iter(range(1000)).__next__)
        with pytest.raises(QueryTimeout, match="reached its time limit and was stopped; give it more time"):
            service.search("3", timeout_s=0.5)
        monkeypatch.undo()


def test_a_long_statement_is_interrupted(folder: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    library = Library(folder)
    with pytest.raises(QueryTimeout), library.snapshot(time.monotonic() + 0.05) as snapshot:
        snapshot._fetched(endless)
    with library.snapshot() as snapshot:
        assert snapshot.clip_ids(), "the connection goes on without a limit"


# --- threads --------------------------------------------------------------------------------------------------------


def answers(engine: SearchEngine | SearchService, text: str) -> list[tuple[bytes | None, float, float, ClipKey]]:
    return [(hit.video, hit.start_s, round(hit.score, 5), hit.key) for hit in engine.search(text, top_k=9)]


def test_threads_share_one_index_and_one_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    load = JointIndex.load
    monkeypatch.setattr(JointIndex, "load", lambda *args, **options: loads.append(args) or load(*args, **options))
    counted: list[object] = []
    unindexed = Snapshot.video_ids
    monkeypatch.setattr(Snapshot, "video_ids", lambda self: counted.append(self) or unindexed(self))
    barrier = threading.Barrier(THREADS)

    def ask(number: int) -> Any:
        barrier.wait()
        with service.engine.library().snapshot() as snapshot:
            snapshot.remembered("a value", snapshot.video_ids)
        return answers(service, str(number % VIDEOS))

    with SearchService(folder) as service, ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(ask, range(THREADS)))
    assert len(loads) == 1 and len(counted) == 1
    assert found == [answers(SearchEngine.open(folder), str(number % VIDEOS)) for number in range(THREADS)]


def test_threads_search_while_generations_are_published(folder: Path) -> None:
    """Every answer is that of one of the states: with all clips of a new video, or with none of them."""
    expected = {text: [answers(SearchEngine.open(folder), text)] for text in map(str, range(VIDEOS))}
    done, failures = threading.Event(), []

    def ask(number: int) -> list[tuple[str, Any]]:
        found = []
        while len(found) < QUESTIONS // THREADS or not done.is_set():
            text = str((number + len(found)) % VIDEOS)
            try:
                found.append((text, answers(service, text)))
            except Exception as exc:  # noqa: BLE001  whatever it is, it must come back from the thread
                failures.append(exc)
                break
        return found

    with SearchService(folder) as service, ThreadPoolExecutor(THREADS) as pool:
        asked = [pool.submit(ask, number) for number in range(THREADS)]
        try:
            for generation in range(GENERATIONS):
                with writing(folder) as writer:
                    add_video(
                        writer, f"new{generation}", [clip(5.0 * i, 5.0 * i + 5, visual=axis(0)) for i in range(9)]
                    )
                    _keep(expected, folder)
                    writer.publish()
                _keep(expected, folder)
        finally:
            done.set()
        found = [each for future in asked for each in future.result()]
        last = {text: answers(service, text) for text in expected}
    assert failures == []
    assert len(found) >= QUESTIONS
    assert [text for text, hits in found if hits not in expected[text]] == []
    assert last == {text: answers(SearchEngine.open(folder), text) for text in expected}


def _keep(expected: dict[str, list[Any]], folder: Path) -> None:
    for text, states in expected.items():
        states.append(answers(SearchEngine.open(folder), text))


def test_an_encoder_is_opened_once_for_all_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    opened: list[Path] = []

    class Once:
        def encode_queries(self, queries: Sequence[Any], templates: Sequence[Any]) -> Any:
            return np.array([[axis(1)] * len(templates)] * len(queries))

    monkeypatch.setattr(TextEncoder, "open", classmethod(lambda cls, path, **_: opened.append(path) or Once()))
    engine = SearchEngine.open(folder)
    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(lambda number: engine.search("x"), range(THREADS)))
    assert len(opened) == len(set(opened))
