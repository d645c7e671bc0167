"""A cluster's worker, in this process: equal results, and files that it lacks."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import Shot, make_video

from vfindex.indexer.extractors.registry import open_extractors
from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.models.base import Encoders, Pixels
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.pipeline.prepare import Prepared, prepare
from vfindex.indexer.pipeline.stages import Indexed, index_unit
from vfindex.indexer.runners import worker as worker_module
from vfindex.indexer.runners.worker import Failure, Job, Models, UnitWorker
from vfindex.indexer.scan.walk import Found, discover, fingerprint
from vfindex.storage.errors import ClusterError, ModelError, VideoError
from vfindex.storage.records import FloatArray

OPTIONS = Options(Sampling("fps", 2.0), asr=False)


class Colours:
    """A picture's unit vector: its mean colour."""

    size_px, dim, batch_frames = 64, 3, 2

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        means = np.stack([frame.mean(axis=(0, 1)) + 1 for frame in frames])
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)


class Lengths:
    """A text's unit vector: one of two, by its length."""

    dim = 2

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        return np.eye(2, dtype=np.float32)[[len(text) % 2 for text in texts]]


ENCODERS = Encoders(Lengths(), {"visual": Colours()})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, decoder: Decoder) -> Prepared:
    path = tmp_path_factory.mktemp("videos") / "red door.mp4"
    make_video(path, shots=[Shot("red", 3), Shot("green", 3, to="white"), Shot("blue", 3, to="black")])
    path.with_suffix(".srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nThis is the red door.\n")
    (found,) = discover([os.fsencode(path)])
    assert isinstance(found, Found)
    return prepare(found, fingerprint(found.location.path), OPTIONS, decoder, ENCODERS)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[UnitWorker]:
    monkeypatch.setattr(worker_module, "open_encoders", lambda *_, **__: ENCODERS)
    setup: Any = None
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = UnitWorker(Models(setup, Path()), 1, 2, "here")
    assert made.open() == ""
    runner = made._runner
    assert runner is not None
    with runner:
        yield made


def test_a_unit_that_travels_is_the_unit_of_one_process(
    prepared: Prepared, decoder: Decoder, worker: UnitWorker, tmp_path: Path
) -> None:
    (plan,) = prepared.units
    whole = index_unit(prepared, plan, OPTIONS, decoder, open_extractors(ENCODERS))
    there = tmp_path / "there.mp4"
    there.symlink_to(os.fsdecode(prepared.found.location.path))
    job = Job(prepared, plan, OPTIONS, os.fsencode(there.resolve()))
    unit = pickle.loads(pickle.dumps(worker.index(pickle.loads(pickle.dumps(job)))))
    assert isinstance(unit, Indexed) and len(whole.result.clips) > 1
    assert (unit.end, unit.lost, unit.result.coverage) == (whole.end, whole.lost, whole.result.coverage)
    assert unit.result.segments == whole.result.segments
    for clip, other in zip(unit.result.clips, whole.result.clips, strict=True):
        assert (clip.start_s, clip.end_s, clip.thumbnail) == (other.start_s, other.end_s, other.thumbnail)
        assert clip.frame_vectors.tolist() == other.frame_vectors.tolist()
        assert {m: v.tolist() for m, v in clip.embeddings.items()} == {
            m: v.tolist() for m, v in other.embeddings.items()
        }


def test_a_file_that_only_the_worker_does_not_see_is_the_worker_s_fault(
    prepared: Prepared, worker: UnitWorker, tmp_path: Path
) -> None:
    job = Job(prepared, prepared.units[0], OPTIONS, os.fsencode(tmp_path / "red door.mp4"))
    failure = worker.index(job)
    assert isinstance(failure, Failure)
    error = failure.error(job)
    assert isinstance(error, ClusterError)
    assert str(error).startswith(f"here does not see {tmp_path / 'red door.mp4'} as this machine does (")
    assert "--path-map" in str(error)


def test_a_file_that_has_changed_for_all_is_its_own_fault(prepared: Prepared, worker: UnitWorker) -> None:
    other = replace(prepared, video=replace(prepared.video, fingerprint="another"))
    job = Job(other, prepared.units[0], OPTIONS, prepared.found.location.path)
    failure = worker.index(job)
    assert isinstance(failure, Failure)
    with pytest.raises(VideoError, match="changed while it was indexed"):
        raise failure.error(job)


def test_a_failure_names_the_path_of_the_driver(prepared: Prepared, worker: UnitWorker, tmp_path: Path) -> None:
    there = tmp_path / "there.mp4"
    there.write_bytes(b"no video" * 100)
    video = replace(prepared.video, fingerprint=fingerprint(os.fsencode(there)))
    job = Job(replace(prepared, video=video), prepared.units[0], OPTIONS, os.fsencode(there))
    failure = worker.index(job)
    assert isinstance(failure, Failure) and failure.problem.path == os.fsencode(there)
    error = failure.error(job)
    assert isinstance(error, VideoError) and error.problem.path == prepared.found.location.path


def test_models_that_cannot_be_opened_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Encoders:
        raise ModelError("no such model")

    monkeypatch.setattr(worker_module, "open_encoders", broken)
    setup: Any = None
    assert UnitWorker(Models(setup, Path()), 1, 2, "here").open() == "here: no such model"
