"""A joint index that finds less than the previous one is not published, and the run's report says why."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import add_video, clip, install

from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.storage import next_index
from vfindex.storage.db.runs import last_run
from vfindex.storage.errors import NotPublished
from vfindex.storage.index import gate
from vfindex.storage.index.builder import Draft
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import FloatArray, Segment
from vfindex.storage.writer import Writer, writing

VIDEOS = 40
VECTORS = np.random.default_rng(5).normal(size=(VIDEOS + 1, 8)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def add(writer: Writer, number: int) -> None:
    """Add a video that says its own name."""
    name = "".join(chr(97 + int(digit)) for digit in f"{number:03}")
    said = [Segment(0, 1, f"this video tells about {name}", "sidecar")]
    add_video(writer, name, [clip(visual=VECTORS[number], speech=VECTORS[number])], said)


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """Yield the writer of a library with a generation, and clips since; a question's vector is its video's own."""

    def questions(_: Any, items: Sequence[Any], __: Any) -> list[dict[str, FloatArray]]:
        return [{"speech": VECTORS[item.video_id - 1]} for item in items]

    monkeypatch.setattr(gate, "_questions", questions)
    with writing(tmp_path / "library") as writer:
        install(writer)
        for number in range(VIDEOS):
            add(writer, number)
        writer.publish()
        add(writer, VIDEOS)
        yield writer


def test_an_intact_index_is_published(writer: Writer) -> None:
    assert writer.publish().clips == VIDEOS + 1
    assert writer.catalog.change() is None


def test_an_index_of_other_vectors_is_refused(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bad one: the rows of the clips have changed places."""
    inner = Draft.put

    def shuffled(self: Draft, ids: Any, rows: Any) -> None:
        inner(self, ids, (part[::-1] for part in rows))

    monkeypatch.setattr(Draft, "put", shuffled)
    with pytest.raises(NotPublished, match=r"of 41 clips looked at, it has other vectors than library\.db for 40"):
        writer.publish()
    assert_old_one_stays(writer)
    monkeypatch.undo()
    assert writer.publish().clips == VIDEOS + 1


def test_an_index_that_finds_too_little_is_refused(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vectors are right, but a search of it gives the worst."""
    plain = JointIndex.nearest
    monkeypatch.setattr(JointIndex, "nearest", lambda self, queries, *rest: plain(self, -queries, *rest))
    run = Run(writer, Options(Sampling(), asr=False), Callbacks())
    run.report.run_id = writer.catalog.begin_run("ingest")
    run.end(time.monotonic())
    assert "of what an exact scan finds" in run.report.not_published
    with writer.library.snapshot() as snapshot:
        last = last_run(snapshot)
    assert last is not None and last.report is not None and last.report["not_published"] == run.report.not_published
    monkeypatch.undo()
    assert_old_one_stays(writer)


def test_statistics_that_lose_known_items_are_refused(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index finds what a scan with its JointSpec finds; but that JointSpec has turned the vectors round."""
    inner, refused = next_index.estimate_spec, []

    def turned(*arguments: Any) -> JointSpec:
        spec = inner(*arguments)
        return replace(spec, parts={m: replace(part, scale=-part.scale) for m, part in spec.parts.items()})

    def noted(*arguments: Any, **options: Any) -> str | None:
        refused.append(gate.refusal(*arguments, **options))
        return refused[-1]

    monkeypatch.setattr(next_index, "estimate_spec", turned)
    monkeypatch.setattr(next_index, "refusal", noted)
    with writer.library.snapshot() as snapshot:
        before = snapshot.generation()
    after = writer.publish()
    assert "made of the library's own titles and transcripts it answers" in refused[0] and refused[1:] == [None]
    assert before is not None and after.spec.to_json() == before.spec.to_json() and after.clips == VIDEOS + 1


def assert_old_one_stays(writer: Writer) -> None:
    """What was published stays, what came since is in the tail, nothing is left of the other, and it is still due."""
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
        assert generation is not None and generation.clips == VIDEOS
        assert len(snapshot.clip_ids(after=generation.watermark)) == 1
    assert [path.name for path in writer.library.index.iterdir()] == [generation.file]
    assert writer.catalog.change() == "added"
    assert verify(Library.open(writer.folder)).problems == []


def test_one_item_more_or_less_means_nothing() -> None:
    assert not any(gate.is_worse(lost, won) for lost, won in ((0, 0), (1, 0), (4, 0), (5, 3), (0, 9)))
    assert all(gate.is_worse(lost, won) for lost, won in ((5, 0), (8, 1), (24, 0)))
