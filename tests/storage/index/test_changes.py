"""Changed vectors reach the joint index, whatever its size; until then their rows do not count."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, add_video, clip, install
from numpy.typing import NDArray
from sqlalchemy import text

from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.storage import next_index, publication
from vfindex.storage.db import migrations
from vfindex.storage.db.documents import TranscriptUpdate
from vfindex.storage.db.reader import Generation
from vfindex.storage.db.scrubbing import SCRUB
from vfindex.storage.errors import NotPublished
from vfindex.storage.index import gate
from vfindex.storage.index import segment as vectors
from vfindex.storage.index import tuning as recall
from vfindex.storage.index.builder import Draft
from vfindex.storage.index.erasure import is_erased
from vfindex.storage.index.flat import exact_scan, joint_batches
from vfindex.storage.index.ivf_pq import IvfPq
from vfindex.storage.index.reader import LIST_SUFFIX, JointIndex
from vfindex.storage.index.segment import IndexSegment
from vfindex.storage.library import Library
from vfindex.storage.maintenance import backup
from vfindex.storage.maintenance.rebuild import _drop_unreadable as drop_unreadable
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import Writer, writing

VIDEOS, CLIPS_EACH = 60, 5
CLIPS = VIDEOS * CLIPS_EACH
RANDOM = np.random.default_rng(7)


def unit(count: int) -> FloatArray:
    """Return vectors (count, DIM) of length 1."""
    rows = RANDOM.standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def some_clips(count: int, title: FloatArray) -> list[Clip]:
    seen, said = unit(count), unit(count)
    return [clip(5.0 * at, 5.0 * at + 5, visual=seen[at], speech=said[at], text=title) for at in range(count)]


@pytest.fixture(scope="module", params=[50, vectors.EXACT_CLIPS], ids=["codes", "exact"])
def size(request: pytest.FixtureRequest) -> Iterator[int]:
    """Yield up to how many clips an index has no codes: fewer than the library's, and more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "EXACT_CLIPS", request.param)
        patch.setattr(IvfPq, "cost", lambda *_: 0.0)
        patch.setattr(recall, "QUESTIONS", 16)
        yield request.param


@pytest.fixture(scope="module")
def published(size: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a published library of VIDEOS videos, whose ids are 1 to VIDEOS."""
    folder = tmp_path_factory.mktemp(f"published-{size}")
    with writing(folder) as writer:
        install(writer)
        for number, title in enumerate(unit(VIDEOS)):
            add_video(writer, f"v{number}", some_clips(CLIPS_EACH, title))
        writer.publish()
    return folder


@pytest.fixture
def writer(published: Path, tmp_path: Path) -> Iterator[Writer]:
    """Yield the writer of a library of one's own."""
    shutil.copytree(published, tmp_path / "library")
    with writing(tmp_path / "library") as writer:
        yield writer


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the numbers of clips whose vectors were read from library.db."""
    sizes: list[int] = []
    plain = Draft.put
    monkeypatch.setattr(Draft, "put", lambda self, ids, rows: sizes.append(len(ids)) or plain(self, ids, rows))
    return sizes


def current(writer: Writer) -> tuple[Generation, JointIndex]:
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    return generation, writer.library.open_index(generation, thorough=True)


def asked_for(generation: Generation, title: FloatArray) -> FloatArray:
    """Return the joint vector of a question for a title alone."""
    query = np.zeros(generation.spec.dim, np.float32)
    query[generation.spec.slices()["text"]] = generation.spec.parts["text"].centre(title)
    return query


def assert_as_scanned(writer: Writer, queries: FloatArray) -> None:
    """The index holds the vectors of library.db, and finds what a scan of library.db finds."""
    generation, index = current(writer)
    with writer.library.snapshot() as snapshot:
        ids = snapshot.clip_ids(searchable=False)
        assert index.ids().tolist() == ids
        for part, rows in joint_batches(snapshot, generation.spec, ids):
            held, own = index.vectors(part)
            assert np.all(held) and np.allclose(own, rows, atol=5e-3)
        for query in queries:
            expected = [score for _, score in exact_scan(snapshot, generation.spec, query, ids)[:10]]
            assert np.allclose(index.nearest(query[None], 10)[0][0], expected, atol=1e-2)
    assert len(snapshot_changes(writer)) == 0


def snapshot_changes(writer: Writer) -> NDArray[np.int64]:
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
        return snapshot.changed(0 if generation is None else generation.watermark)


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_renamed_video_is_found_by_its_new_name_once_published(writer: Writer, built: list[int], size: int) -> None:
    [title] = unit(1)
    writer.catalog.retitle(1, "new", (), title)
    assert snapshot_changes(writer).tolist() == [1, 2, 3, 4, 5]
    generation = writer.publish()
    assert built == [CLIPS if size > CLIPS else CLIPS_EACH], "a large index gets what is new"
    _, index = current(writer)
    found = index.nearest(asked_for(generation, title)[None], 5)[1][0]
    assert sorted(found.tolist()) == [1, 2, 3, 4, 5]
    assert_as_scanned(writer, np.stack([asked_for(generation, each) for each in (title, *unit(5))]))
    assert verify(writer.library).problems == []


def test_a_library_whose_every_video_is_renamed_is_published(writer: Writer, built: list[int]) -> None:
    titles = unit(VIDEOS)
    for number, title in enumerate(titles):
        writer.catalog.retitle(number + 1, "new", (), title)
    writer.publish()
    assert built == [CLIPS]
    assert len(current(writer)[1].segments) == 1, "nothing is left of the one before"
    assert_as_scanned(writer, np.stack([asked_for(current(writer)[0], title) for title in titles[:8]]))


def test_after_small_changes_little_is_deleted(writer: Writer, built: list[int], size: int) -> None:
    """Each night a few; a merge reads no vector from library.db."""
    for number, title in enumerate(unit(12)):
        writer.catalog.retitle(number + 1, "new", (), title)
        writer.publish()
        while writer.merge(lambda: None):
            pass
        _, index = current(writer)
        assert sum(len(each.dead) for each in index.segments) <= 0.1 * CLIPS and len(index.segments) <= 5
    assert built == 12 * [CLIPS if size > CLIPS else CLIPS_EACH]
    assert_as_scanned(writer, np.stack([asked_for(current(writer)[0], title) for title in unit(4)]))


def test_other_words_reach_the_index(writer: Writer) -> None:
    [title] = unit(1)
    with writer.catalog.transaction() as connection:
        from vfindex.storage.db.documents import update_transcript

        update_transcript(connection, 2, TranscriptUpdate("new", {}, (), (), title, ()))
    assert snapshot_changes(writer).tolist() == [6, 7, 8, 9, 10]
    writer.publish()
    assert_as_scanned(writer, asked_for(current(writer)[0], title)[None])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE embedding SET vector = zeroblob(16) WHERE clip_id = 3",
        "DELETE FROM embedding WHERE clip_id = 3 AND modality = 'text'",
        "INSERT INTO embedding (clip_id, modality, vector, crc32) VALUES (3, 'other', zeroblob(16), 0)",
        "DELETE FROM clip WHERE id = 3",
        "INSERT OR REPLACE INTO embedding SELECT * FROM embedding WHERE clip_id = 3",
    ],
)
def test_no_statement_changes_a_vector_unseen(writer: Writer, statement: str) -> None:
    with writer.catalog.transaction() as connection:
        connection.execute(text(statement))
    assert snapshot_changes(writer).tolist() == [3]
    with writer.library.snapshot() as snapshot:
        assert snapshot.outdated(CLIPS).tolist() == [3]
        assert snapshot.unindexed(CLIPS).tolist() == ([] if "FROM clip" in statement else [3])


def test_new_clips_are_not_changes(writer: Writer) -> None:
    add_video(writer, "new", some_clips(3, unit(1)[0]))
    assert snapshot_changes(writer).tolist() == []
    with writer.library.snapshot() as snapshot:
        assert snapshot.unindexed(CLIPS).tolist() == [CLIPS + 1, CLIPS + 2, CLIPS + 3]


def test_nothing_is_left_of_removed_vectors(writer: Writer, size: int) -> None:
    if size > CLIPS:
        pytest.skip("an index without codes is always built")
    [before] = current(writer)[1].segments
    vectors_of, codes_of = np.array(before.rows), [np.array(each) for each in before.codes._codes]
    assert np.any(before.rows[5:10])
    writer.catalog.remove(b"/videos/v1")
    writer.publish()
    assert np.any(before.rows[5:10]), "so far they are only passed over"
    writer.scrub()
    generation, index = current(writer)
    [after] = index.segments
    assert len(after.ids) == CLIPS and len(index) == CLIPS - CLIPS_EACH, "the places stay"
    assert after.file == before.file, "no segment is written anew"
    assert not np.any(after.rows[5:10]) and np.array_equal(
        np.delete(after.rows, np.s_[5:10], 0), np.delete(vectors_of, np.s_[5:10], 0)
    )
    assert any(not np.array_equal(one, other) for one, other in zip(codes_of, after.codes._codes, strict=True))
    assert not gives_away(after, vectors_of[5:10], np.arange(5, 10))
    touched = after.codes.lists.blocks_of(np.arange(5, 10))
    for one, other in zip(codes_of, after.codes._codes, strict=True):
        assert np.array_equal(np.delete(one, touched, 0), np.delete(other, touched, 0)), "others keep their codes"
    assert_as_scanned(writer, np.stack([asked_for(generation, title) for title in unit(5)]))
    assert verify(writer.library).problems == []
    writer.publisher.erase_deleted()
    assert current(writer)[0] == generation, "there is nothing left to do"


def gives_away(part: IndexSegment, removed: FloatArray, rows: NDArray[np.int64]) -> bool:
    """Return whether a list's mean and its other vectors tell the sum of removed ones. rows: where these were."""
    lists = part.codes.lists
    for mean, end, size in zip(lists.centroids, lists.ends, lists.sizes, strict=True):
        members = lists.members[end - size : end]
        gone = removed[np.isin(rows, members)].sum(axis=0, dtype=np.float32)
        missing = mean * size - part.rows[members].sum(axis=0, dtype=np.float32)
        if np.any(gone) and gone @ missing > 0.9 * np.linalg.norm(gone) * np.linalg.norm(missing):
            return True
    return False


def test_an_interrupted_erasure_is_finished(writer: Writer, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if size > CLIPS:
        pytest.skip("an index without codes is always built")

    writer.catalog.remove(b"/videos/v1")
    writer.publish()
    for name in ("erase", "write_list"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(publication, name, killed)
            writer.scrub()
        assert verify(writer.library).problems == []
    writer.scrub()
    generation, index = current(writer)
    assert not np.any(index.segments[0].rows[5:10]) and verify(writer.library).problems == []
    writer.catalog.retitle(1, "new", (), unit(1)[0])
    writer.publish()
    assert_as_scanned(writer, np.stack([asked_for(generation, title) for title in unit(5)]))
    assert verify(writer.library).problems == []


def test_an_erasure_during_a_check_or_a_backup_is_no_damage(
    writer: Writer, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size > CLIPS:
        pytest.skip("an index without codes is always built")
    waiting = []

    def erasing(plain: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if waiting and not str(args[0]).endswith(LIST_SUFFIX):
                waiting.pop()
                writer.publisher.erase_deleted()
            return plain(*args, **options)

        return call

    monkeypatch.setattr(backup, "_copy_file", erasing(backup._copy_file))
    monkeypatch.setattr(Library, "open_index", erasing(Library.open_index))
    for number in (1, 2):
        writer.catalog.remove(b"/videos/v%d" % number)
        writer.publish()
        waiting.append(number)
        if number == 1:
            done = backup.back_up(writer.folder, tmp_path / "backup")
            assert verify(Library.open(done.folder)).problems == []
        else:
            assert verify(writer.library).problems == []
        assert waiting == [] and is_erased(current(writer)[1].segments[0])


@pytest.mark.parametrize("fault", ["refused", "killed", "killed when committed"])
def test_what_no_publication_erased_is_erased_later(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Whatever keeps a removal from its publication, or a publication from its end."""
    folder = tmp_path / "library"
    shutil.copytree(published, folder)
    with writing(folder) as writer:
        vectors_of = bytes(current(writer)[1].segments[0].rows[5:10])
        writer.catalog.remove(b"/videos/v1")
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(next_index, "refusal", lambda *_, **__: "it is worse")
            if fault == "killed when committed":
                patch.undo()
                patch.setattr(publication.Publisher, "_drop_old_files", killed)
            if fault != "killed":
                writer.publish_changes()
        scrubbed = None if fault == "killed when committed" else writer.scrub()
        assert scrubbed is None or (scrubbed.in_index and writer.catalog.get(SCRUB) == "1")
    with writing(folder) as writer:
        writer.publish_changes()
    assert [path.name for path in folder.rglob("*") if path.is_file() and vectors_of in path.read_bytes()] == []
    with writing(folder) as writer:
        assert writer.catalog.get(SCRUB) is None and verify(writer.library).problems == []


# --- the gate -------------------------------------------------------------------------------------------------------


def copied(making: Any) -> Draft:
    """Stand for `_Making.extended` with a fault: everything is as before, whatever has changed."""
    generation, index = making._before
    return making._draft(generation.spec, index)


@pytest.mark.parametrize("scanned", [gate.SCANNED_CLIPS, 10])
@pytest.mark.parametrize("renamed", [1, 6])
def test_old_vectors_are_seen_at_every_size_and_cured_at_once(
    writer: Writer, built: list[int], monkeypatch: pytest.MonkeyPatch, scanned: int, renamed: int
) -> None:
    monkeypatch.setattr(gate, "SCANNED_CLIPS", scanned)
    monkeypatch.setattr(next_index.NextIndex, "extended", copied)
    titles = unit(renamed)
    for number, title in enumerate(titles):
        writer.catalog.retitle(number + 1, "new", (), title)
    writer.publish()
    assert built == [CLIPS], "what was refused is built from nothing, in the same call"
    assert_as_scanned(writer, np.stack([asked_for(current(writer)[0], title) for title in titles]))


def test_an_index_that_never_passes_leaves_everything_as_it_was(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = current(writer)
    monkeypatch.setattr(next_index, "refusal", lambda *_, **__: "it is worse")
    writer.catalog.retitle(1, "new", (), unit(1)[0])
    with pytest.raises(NotPublished, match=r"not published: it is worse; .*run: vfindex verify"):
        writer.publish()
    assert current(writer)[0] == before and writer.catalog.change() == "stale"
    assert [path.name for path in writer.library.index.iterdir()] == [before.file]
    assert snapshot_changes(writer).tolist() == [1, 2, 3, 4, 5], "still scanned exactly"
    assert "it is worse" in writer.publish_changes()


def test_verify_compares_vectors_of_the_index(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that no trigger saw: the record of the change is lost."""
    writer.catalog.retitle(1, "new", (), unit(1)[0])
    with writer.catalog.transaction() as connection:
        connection.execute(text("DELETE FROM index_change"))
        connection.execute(text("DELETE FROM meta WHERE key = 'changed'"))
    [problem] = verify(writer.library).problems
    assert "has other vectors than library.db for 5 of 300 clips" in problem and "run: vfindex rebuild" in problem


# --- in the middle of a run -----------------------------------------------------------------------------------------


def test_many_changed_clips_are_published_within_a_run(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    from vfindex.indexer.runs import run as run_module

    monkeypatch.setattr(run_module, "MAX_DELTA_CLIPS", 8)
    before, _ = current(writer)
    run = Run(writer, Options(Sampling(), asr=False), Callbacks())
    counts = []
    for number, title in enumerate(unit(2)):
        run.delta_clips += writer.catalog.retitle(number + 1, "new", (), title)
        run.publish_many()
        counts.append(current(writer)[0].id - before.id)
    assert counts == [0, 1] and run.delta_clips == 0
    writer.catalog.retitle(1, "again", (), unit(1)[0])
    assert Run(writer, Options(Sampling(), asr=False), Callbacks()).delta_clips == 5, "also what a killed run has left"


def test_no_earlier_generation_takes_the_place_of_an_unreadable_one(writer: Writer, built: list[int]) -> None:
    """The first does not know of a rename that the second holds: extended, it would bring the old vectors back."""
    [title] = unit(1)
    writer.catalog.retitle(1, "new", (), title)
    writer.publish()
    built.clear()
    with writer.catalog.transaction() as connection:
        connection.execute(text("UPDATE generation SET spec = 'torn' WHERE id = 2"))
    drop_unreadable(writer.catalog)
    with writer.library.snapshot() as snapshot:
        assert snapshot.generation() is None and len(snapshot.unindexed(0)) == CLIPS
    writer.publish()
    assert built == [CLIPS]
    assert_as_scanned(writer, asked_for(current(writer)[0], title)[None])


# --- libraries of earlier versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clips, change, expected", [(CLIPS, None, 0), (CLIPS, "added", 0), (CLIPS, "stale", CLIPS), (50_001, None, CLIPS)]
)
def test_indexes_of_earlier_versions_that_may_be_stale_are_not_trusted(
    writer: Writer, clips: int, change: str | None, expected: int
) -> None:
    with writer.catalog.transaction() as connection:
        for event in ("insert", "update", "delete"):
            connection.execute(text(f"DROP TRIGGER index_change_{event}"))
        connection.execute(text("DROP TABLE index_change"))
        connection.execute(text("DROP INDEX video_unsearchable"))
        connection.execute(text("DELETE FROM migration WHERE name = 'record_index_changes'"))
        connection.execute(text("UPDATE generation SET clips = :clips"), {"clips": clips})
        if change:
            connection.execute(text("INSERT INTO meta (key, value) VALUES ('changed', :change)"), {"change": change})
        migrations.migrate(connection)
    assert len(snapshot_changes(writer)) == expected
    assert writer.catalog.change() == ("stale" if expected else change)
    writer.catalog.retitle(1, "new", (), unit(1)[0])
    assert len(snapshot_changes(writer)) == max(expected, CLIPS_EACH), "the triggers are there"
