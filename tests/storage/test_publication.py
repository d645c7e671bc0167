"""What a publication writes, how segments are merged in the time that is left, and how old indexes are taken over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from library_maker import DIM, add_video, axis, clip, install
from sqlalchemy import text

from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.runs.run import RECALL_S, Callbacks, Run
from vfindex.search.engine import SearchEngine
from vfindex.storage.db.reader import Generation
from vfindex.storage.errors import IndexUnusable, LibraryDamaged, LibraryError
from vfindex.storage.index import builder, gate, merging, segment, tuning
from vfindex.storage.index.builder import Draft
from vfindex.storage.index.codes import CODES, DIMS, Coder, encode
from vfindex.storage.index.file_format import IndexFile, writing_index
from vfindex.storage.index.flat import joint_batches
from vfindex.storage.index.ivf_pq import IvfPq, code_name
from vfindex.storage.index.reader import JointIndex, files_of
from vfindex.storage.index.segment import IndexSegment
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.next_index import MOST_DRIFT
from vfindex.storage.records import Clip, FloatArray, StoredFile
from vfindex.storage.writer import Writer, writing

CLIPS_EACH, CLIPS = 20, 240


def unit(seed: int, count: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def some_clips(seed: int, count: int = CLIPS_EACH) -> list[Clip]:
    seen, said = unit(seed, count), unit(seed + 1000, count)
    return [clip(5.0 * at, 5.0 * at + 5, visual=seen[at], speech=said[at]) for at in range(count)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make libraries of more than 64 clips large, with flat segments of up to 16."""
    monkeypatch.setattr(segment, "EXACT_CLIPS", 64)
    monkeypatch.setattr(IvfPq, "cost", lambda *_: 0.0)
    monkeypatch.setattr(tuning, "QUESTIONS", 8)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a published library of videos v0, v1, ... with 20 clips each, in one segment."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch, writing(folder) as writer:
        patch.setattr(segment, "EXACT_CLIPS", 64)
        patch.setattr(tuning, "QUESTIONS", 8)
        install(writer)
        for number in range(CLIPS // CLIPS_EACH):
            add_video(writer, f"v{number}", some_clips(number))
        writer.publish()
    return folder


@pytest.fixture
def writer(published: Path, tmp_path: Path) -> Iterator[Writer]:
    shutil.copytree(published, tmp_path / "library")
    with writing(tmp_path / "library") as writer:
        yield writer


def current(writer: Writer) -> tuple[Generation, JointIndex]:
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    return generation, writer.library.open_index(generation, thorough=True)


def sizes(writer: Writer) -> list[int]:
    """Return the living clips of each segment."""
    return [len(each) for each in current(writer)[1].segments]


def assert_holds_the_library(writer: Writer) -> None:
    generation, index = current(writer)
    with writer.library.snapshot() as snapshot:
        ids = snapshot.clip_ids(searchable=False)
        assert index.ids().tolist() == ids
        for part, rows in joint_batches(snapshot, generation.spec, ids):
            assert np.allclose(index.vectors(part)[1], rows, atol=5e-3)
    assert verify(writer.library).problems == []


def add(writer: Writer, name: str, seed: int, count: int = CLIPS_EACH) -> None:
    add_video(writer, name, some_clips(seed, count))
    writer.publish()


def merge_all(writer: Writer) -> int:
    return len(list(iter(lambda: writer.merge(lambda: None), False)))


# --- what is written ------------------------------------------------------------------------------------------------


def test_what_is_new_is_one_more_segment(writer: Writer) -> None:
    before, _ = current(writer)
    inode = (writer.library.index / before.file).stat().st_ino
    add(writer, "new", 100)
    writer.catalog.remove(b"/videos/v3")
    writer.publish()
    generation, _ = current(writer)
    assert sizes(writer) == [CLIPS - CLIPS_EACH, CLIPS_EACH]
    assert {path.name for path in writer.library.index.iterdir()} == {
        *("00000001.joint", "00000002.joint", "00000003.segments"),
    }, "after a removal, no earlier generation is kept"
    assert (writer.library.index / before.file).stat().st_ino == inode, "it is not written again"
    assert generation.file == "00000003.segments" and generation.size_bytes < 10_000
    assert_holds_the_library(writer)


def test_files_of_neither_of_the_last_two_generations_are_deleted(writer: Writer) -> None:
    for number in range(3):
        (writer.library.index / "00000002.joint.part").touch()
        add(writer, f"new{number}", 100 + number)
    segments = {f"0000000{n}.joint" for n in (1, 2, 3, 4)}
    assert {path.name for path in writer.library.index.iterdir()} == {
        *segments,
        *("00000003.segments", "00000004.segments"),
    }
    writer.catalog.remove(b"/videos/new0")
    writer.publish()
    assert {path.name for path in writer.library.index.iterdir()} == {*segments, "00000005.segments"} - {
        "00000002.joint"
    }, "no clip of the second segment is alive"
    assert_holds_the_library(writer)


def test_a_small_library_stays_one_flat_segment(tmp_path: Path) -> None:
    with writing(tmp_path / "small") as writer:
        install(writer)
        for number in range(3):
            add(writer, f"v{number}", number)
            _, index = current(writer)
            assert [each.rows.dtype for each in index.segments] == [np.float32] and index.segments[0].codes is None
            assert not merge_all(writer)
        add(writer, "v3", 3)
        assert [each.codes is None for each in current(writer)[1].segments] == [True, False], "80 clips are large"
        merge_all(writer)
        assert sizes(writer) == [80] and current(writer)[1].segments[0].codes is not None
        writer.catalog.remove(b"/videos/v0")
        writer.publish()
        assert sizes(writer) == [60] and current(writer)[0].file.endswith(".joint"), "and 60 are small again"
        assert_holds_the_library(writer)


def test_readers_keep_the_segments_that_they_have(writer: Writer) -> None:
    _, index = current(writer)
    add(writer, "new", 100)
    newer, _ = current(writer)
    again = writer.library.open_index(newer, known=index)
    assert again.segments[0].rows is index.segments[0].rows and again.segments[0].codes is index.segments[0].codes
    assert writer.library.open_index(newer).segments[0].rows is not index.segments[0].rows


def test_search_parameters_are_tuned_once_for_a_size(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    add(writer, "new1", 100, 40)
    tuned: list[object] = []
    plain = builder.tuned_params
    monkeypatch.setattr(builder, "tuned_params", lambda *of: tuned.append(of) or plain(*of))
    add(writer, "new2", 100, 40)
    *_, first, second = current(writer)[1].segments
    assert not tuned and first.tuned == second.tuned
    monkeypatch.setattr(builder, "is_enough", lambda *_: False)
    add(writer, "new3", 100, 40)
    assert len(tuned) == 1, "what does not find enough here is tuned again"


# --- merges ---------------------------------------------------------------------------------------------------------


def test_merges_keep_segments_few(writer: Writer) -> None:
    for number in range(6):
        writer.catalog.remove(f"/videos/v{number % 8}".encode())
        add(writer, f"v{number % 8}", 100 + number)
        merge_all(writer)
        _, index = current(writer)
        assert len(index.segments) <= 6
        assert all(len(each.dead) <= merging.MOST_DEAD * len(each.ids) for each in index.segments)
    assert_holds_the_library(writer)


def test_a_merge_must_fit_the_time_left(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "expected_s", lambda _, clips: clips)
    monkeypatch.setattr("vfindex.storage.next_index.expected_s", lambda _, clips: clips)
    for number in range(4):
        add(writer, f"new{number}", 100 + number, 8)
    writer.catalog.remove(b"/videos/v0")
    writer.catalog.remove(b"/videos/v1")
    writer.publish()
    before, says = sizes(writer), []
    assert not writer.merge(lambda: 20.0) and sizes(writer) == before
    assert writer.merge(lambda: 100.0, says.append) and sizes(writer) == [CLIPS - 2 * CLIPS_EACH, 32]
    assert says == ["merging segments of the joint index, 32 clips"]
    assert writer.merge(lambda: 1000.0) and sizes(writer) == [CLIPS - 2 * CLIPS_EACH + 32]
    assert not writer.merge(lambda: None)
    assert_holds_the_library(writer)


def test_a_merge_whose_time_is_up_changes_nothing(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_COPIED", 50)
    writer.catalog.remove(b"/videos/v0")
    writer.catalog.remove(b"/videos/v1")
    writer.publish()
    before, files, left = current(writer)[0], set(writer.library.index.iterdir()), [100.0, 100.0, 100.0, 0.0]
    assert not writer.merge(lambda: left.pop(0))
    assert not left and current(writer)[0] == before and set(writer.library.index.iterdir()) == files
    assert merge_all(writer) == 1


def test_what_is_not_published_is_not_merged(writer: Writer) -> None:
    for number in range(4):
        add(writer, f"new{number}", 100 + number, 8)
    add_video(writer, "last", some_clips(200))
    assert not writer.merge(lambda: None)
    writer.publish()
    assert writer.merge(lambda: None) and writer.catalog.change() is None
    assert_holds_the_library(writer)


def test_other_clips_get_other_statistics(writer: Writer) -> None:
    generation, _ = current(writer)
    alike = [clip(5.0 * at, 5.0 * at + 5, visual=axis(0)) for at in range(120)]
    add_video(writer, "alike", alike)
    assert writer.publish().spec.to_json() == generation.spec.to_json()
    assert not writer.merge(lambda: 0.0)
    merge_all(writer)
    after, index = current(writer)
    assert after.spec.to_json() != generation.spec.to_json() and sizes(writer) == [CLIPS + 120]
    recipe = builder.Recipe(after.spec, {m: p for m, p in priors(writer).items() if m in after.spec.parts})
    assert builder.drift(index, recipe) < MOST_DRIFT
    assert_holds_the_library(writer)


def priors(writer: Writer) -> Any:
    from vfindex.storage.meta import LibraryMeta

    return LibraryMeta(writer.catalog).priors


def test_a_run_merges_within_its_deadline(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []
    monkeypatch.setattr(Writer, "merge", lambda _, left_s, say: asked.append(left_s()) or len(asked) < 3)
    for interrupted in (False, True):
        run = Run(writer, Options(Sampling(), asr=False), Callbacks(left_s=lambda: 7.0))
        run.report.run_id = writer.catalog.begin_run("ingest")
        run.report.interrupted = interrupted
        run.end(0.0)
        assert asked == [7.0, 7.0, 7.0], "until there is nothing left to merge"


@pytest.mark.parametrize(
    ("took_s", "left_s", "expected"), [(10.0, None, RECALL_S), (10_000.0, None, 500.0), (10_000.0, 7.0, 7.0)]
)
def test_a_run_measures_recall_for_a_share_of_its_time(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, took_s: float, left_s: float | None, expected: float
) -> None:
    budgets: list[float | None] = []
    monkeypatch.setattr(Writer, "measure_recall", lambda _, left_s, say: budgets.append(left_s()))
    for interrupted in (False, True):
        run = Run(writer, Options(Sampling(), asr=False), Callbacks(left_s=lambda: left_s))
        run.report.run_id = writer.catalog.begin_run("ingest")
        run.report.interrupted = interrupted
        run.end(time.monotonic() - took_s)
    [budget] = budgets
    assert budget is not None and expected - 20 <= budget <= expected + 20


def test_clips_that_are_only_deleted_ask_no_questions(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "recall_at_10", lambda *_: pytest.fail("the library was scanned"))
    monkeypatch.setattr(gate, "_items", lambda *_: pytest.fail("known items were searched"))
    writer.catalog.remove(b"/videos/v0")
    writer.publish()
    assert sizes(writer) == [CLIPS - CLIPS_EACH]


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["missing", "damaged", "list"])
def test_a_segment_that_cannot_be_used_is_named_and_built_again(writer: Writer, harm: str) -> None:
    add(writer, "new", 100)
    generation, _ = current(writer)
    path = writer.library.index / {"list": generation.file}.get(harm, "00000002.joint")
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(IndexUnusable, match=r"joint index .* is (missing|damaged or of an older form), so searches"):
        writer.library.open_index(generation)
    [problem] = verify(writer.library).problems
    assert "joint index" in problem
    writer.publish()
    assert sizes(writer) == [CLIPS + CLIPS_EACH]
    assert_holds_the_library(writer)


def test_a_full_disk_keeps_no_segment_that_no_list_names(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for number in range(4):
        add(writer, f"new{number}", 100 + number)
    before = sorted(path.name for path in writer.library.index.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(builder, "write_list", refuse)
        with pytest.raises(LibraryError, match="No space left on device"):
            merge_all(writer)
    assert sorted(path.name for path in writer.library.index.iterdir()) == before
    assert merge_all(writer) == 1
    assert_holds_the_library(writer)


@pytest.mark.parametrize("value", [3.0, np.nan])
def test_a_merge_gives_no_damage_a_checksum(writer: Writer, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Of large files a reader checks some blocks only, and the gate some clips."""
    for number in range(4):
        add(writer, f"new{number}", 100 + number)
    _, index = current(writer)
    [damaged] = [each for each in index.segments if each.file.name == "00000003.joint"]
    file = IndexFile.open(writer.library.index, damaged.file)
    with file.overwriting() as write:
        write("rows", np.array([7]), np.full((1, damaged.dim), value, np.float16))
    monkeypatch.setattr(gate, "SAMPLED_CLIPS", 4)
    with monkeypatch.context() as patch:
        patch.setattr(IndexSegment, "of", classmethod(lambda cls, file, *_: cls._of(file)))
        assert merge_all(writer) == 1
    assert sizes(writer) == [CLIPS, 4 * CLIPS_EACH]
    assert_holds_the_library(writer)


@pytest.mark.parametrize("name", ["../00000001.joint", "", ".."])
def test_a_list_that_leads_outside_is_damaged(writer: Writer, name: str) -> None:
    folder = writer.library.index
    with writing_index(folder / "a.segments") as file:
        stored = file.end({"segments": [{"name": name, "size_bytes": 1, "sha256": "0", "unchecked": {}}]})
    for read in (JointIndex.load, files_of):
        with pytest.raises(LibraryDamaged):
            read(folder, stored)


def test_a_bitmap_of_another_length_is_damage(writer: Writer) -> None:
    _, index = current(writer)
    file = index.segments[0].file
    entry = {"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256, "unchecked": {}}
    with writing_index(writer.library.index / "a.segments") as written:
        written.put("deleted 0", "|u1", [np.zeros(7, np.uint8)])
        stored = written.end({"segments": [entry]})
    with pytest.raises(LibraryDamaged):
        JointIndex.load(writer.library.index, stored)


# --- indexes of earlier versions ------------------------------------------------------------------------------------


def coder_before(rows: FloatArray, segments: Sequence[slice]) -> Coder:
    """Return the codes of the version before: one for every two dimensions, of the vectors as they are."""
    books = []
    for where in segments:
        part = np.asarray(rows[:, where], np.float32)
        part = np.pad(part, ((0, 0), (0, -part.shape[1] % 4)))
        quantizer = faiss.ProductQuantizer(part.shape[1], part.shape[1] // 2, 4)
        quantizer.cp.min_points_per_centroid = 1
        quantizer.train(part)
        books.append(faiss.vector_to_array(quantizer.centroids).reshape(-1, 2 * CODES))
    return Coder(tuple(segments), np.concatenate(books))


def as_before(writer: Writer) -> Generation:
    """Give the library an index as the version before wrote it: rows of deleted clips 0, and named in the file."""
    generation, index = current(writer)
    [part] = index.segments
    rows, dead = np.array(part.rows), np.arange(20, 40)
    rows[dead] = 0
    with writing_index(writer.library.index / generation.file) as file:
        file.put("ids", "<i8", [part.ids])
        file.put("dead", "<i8", [dead])
        file.put("rows", "<f2", [rows])
        for name, dtype in (("members", "<i4"), ("ends", "<i8"), ("centroids", "<f4")):
            file.put(name, dtype, [getattr(part.codes.lists, name)])
        coder = coder_before(rows, part.codes.coder.segments)
        file.put("codebook", "<f4", [coder.codebook])
        for number in range(len(coder.segments)):
            file.put(code_name(number), "|u1", encode(rows, part.codes.lists, coder, number))
        stored = file.end({"built": CLIPS, "efforts": part.tuned.to_dict(), "replaced": 3})
    with writer.catalog.transaction() as connection:
        values = {"size": stored.size_bytes, "sha256": stored.sha256}
        connection.execute(text("UPDATE generation SET size_bytes = :size, sha256 = :sha256, clips = 220"), values)
    return replace(generation, size_bytes=stored.size_bytes, sha256=stored.sha256)


def test_an_index_of_the_version_before_becomes_the_first_segment(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.catalog.remove(b"/videos/v1")
    generation = as_before(writer)
    with writer.catalog.transaction() as connection:
        connection.execute(text("DELETE FROM index_change"))
        connection.execute(text("DELETE FROM meta WHERE key IN ('changed', 'scrub')"))
    assert_holds_the_library(writer)
    queries = np.random.default_rng(9).standard_normal((8, current(writer)[1].dim)).astype(np.float32)
    before = current(writer)[1].nearest(queries, 10)
    assert current(writer)[1].segments[0].codes.coder.dims == 2
    puts: list[int] = []
    plain = Draft.put
    monkeypatch.setattr(Draft, "put", lambda self, ids, rows: puts.append(len(ids)) or plain(self, ids, rows))
    writer.catalog.remove(b"/videos/v2")
    add(writer, "new", 100)
    assert puts == [CLIPS_EACH], "no older vector is read again"
    after, index = current(writer)
    assert files_of(writer.library.index, after.stored)[1] == StoredFile(
        generation.file, generation.size_bytes, generation.sha256
    )
    assert sizes(writer) == [CLIPS - 2 * CLIPS_EACH, CLIPS_EACH]
    old = index.segments[0].nearest(queries[0], 10, None, None)[1]
    assert set(before[1][0].tolist()) - set(range(41, 61)) <= set(old.tolist())
    assert_holds_the_library(writer)
    assert merge_all(writer) and sizes(writer) == [CLIPS - CLIPS_EACH]
    assert current(writer)[1].segments[0].codes.coder.dims == DIMS
    assert_holds_the_library(writer)
    assert SearchEngine.open(writer.folder).library().folder == writer.folder
