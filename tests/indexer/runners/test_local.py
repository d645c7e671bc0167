"""Units of several videos share batches of an image model: equal results, separate failures, and an end to all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from media import Shot, make_video

from vfindex.indexer.extractors.registry import open_extractors
from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.models.base import Encoders, Pixels
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.pipeline.prepare import Prepared, prepare
from vfindex.indexer.pipeline.stages import Indexed, index_unit
from vfindex.indexer.runners.local import AHEAD_FILES, DecoderThreads, HeadersAhead, LocalRunner
from vfindex.indexer.runners.open_models import ModelOwner
from vfindex.indexer.scan.walk import Found, discover, fingerprint
from vfindex.storage.errors import ModelError, VideoError
from vfindex.storage.records import FloatArray

OPTIONS = Options(Sampling("fps", 2.0), asr=False)
COLOURS = ("red", "green", "blue", "white")


class Colours:
    """A picture's unit vector: its mean colour. Waits with its first batch until it is released; refuses blue ones."""

    size_px, dim, batch_frames = 64, 3, 64

    def __init__(self, refuses: bool = False) -> None:
        self.sizes: list[int] = []
        self.release = threading.Event()
        self._refuses = refuses

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        self.sizes.append(len(frames))
        assert self.release.wait(60)
        means = np.stack([frame.mean(axis=(0, 1)) + 1 for frame in frames])
        if self._refuses and (means[:, 2] > 2 * means[:, 0]).any():
            raise ModelError("a blue frame")
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)


class Words:
    """A text's vector: always the same."""

    dim = 1

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        return np.ones((len(texts), 1), dtype=np.float32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, decoder: Decoder) -> list[Prepared]:
    """Return a video of each colour, of different lengths."""
    folder = tmp_path_factory.mktemp("videos")
    for number, colour in enumerate(COLOURS):
        make_video(folder / f"{number}.mp4", shots=[Shot(colour, 2 + number, to="black")])
    found = [item for item in discover([os.fsencode(folder)]) if isinstance(item, Found)]
    texts = Encoders(Words(), {"visual": Colours()})
    return [prepare(item, fingerprint(item.location.path), OPTIONS, decoder, texts) for item in found]


@contextmanager
def running(workers: int, encoder: Colours) -> Iterator[LocalRunner]:
    with ModelOwner() as owner:
        models = owner.models(None, lambda: Encoders(Words(), {"visual": encoder}, lanes=1))
        with LocalRunner(DecoderThreads(workers), models) as runner:
            yield runner


def begin_all(videos: Sequence[Prepared], encoder: Colours, runner: LocalRunner) -> list[Future[Indexed]]:
    """Begin the units; return when the first one's frames are in the encoder, and those of the others in the queue."""
    assert runner._models.images is not None
    futures = [runner.index(videos[0], videos[0].units[0], OPTIONS)]
    while not encoder.sizes:
        time.sleep(0.01)
    futures += [runner.index(video, video.units[0], OPTIONS) for video in videos[1:]]
    while runner._models.images._requests.qsize() < len(videos) - 1:
        time.sleep(0.01)
    return futures


def test_units_that_share_batches_are_those_of_each_alone(videos: list[Prepared], decoder: Decoder) -> None:
    encoder = Colours()
    with running(len(videos), encoder) as runner:
        futures = begin_all(videos, encoder, runner)
        encoder.release.set()
        shared = [future.result() for future in futures]
    assert len(encoder.sizes) == 2, "what waited together is one batch, across videos"
    alone = Encoders(Words(), {"visual": encoder})
    for video, unit in zip(videos, shared, strict=True):
        expected = index_unit(video, video.units[0], OPTIONS, decoder, open_extractors(alone))
        assert [clip.frame_times_s.tolist() for clip in unit.result.clips] == [
            clip.frame_times_s.tolist() for clip in expected.result.clips
        ]
        for clip, other in zip(unit.result.clips, expected.result.clips, strict=True):
            assert np.allclose(clip.frame_vectors, other.frame_vectors, atol=1e-6)
            assert clip.thumbnail == other.thumbnail


def test_children_start_before_the_models_are_open(videos: list[Prepared]) -> None:
    with DecoderThreads(3) as threads:
        threads.start(2)
        started = [decoder._child for decoder in threads._decoders]
        assert [child is not None and child.running() for child in started] == [False, True, True]
        assert threads.submit(lambda decoder: decoder._child).result() is started[-1], "which the first file then gets"


def headers_of(paths: Sequence[bytes], threads: DecoderThreads) -> HeadersAhead:
    """Return the headers of files, once all are read."""
    headers = HeadersAhead(threads, paths)
    wait(headers._reading.values())
    return headers


def test_headers_read_ahead_are_taken_once(videos: list[Prepared], decoder: Decoder) -> None:
    paths = [video.found.location.path for video in videos]
    with DecoderThreads(2) as threads:
        headers = headers_of(paths, threads)
        headers.stop()
        for path in paths:
            assert headers.take(path) == decoder.probe(path)
            assert headers.take(path) is None, "a second attempt reads it again"
        assert headers.take(b"/another") is None


def test_headers_read_ahead_of_a_changed_file_are_dropped(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mp4", shots=[Shot("red", 2)])
    with DecoderThreads(1) as threads:
        headers = headers_of([os.fsencode(video)], threads)
        make_video(video, shots=[Shot("red", 4)])
        assert headers.take(os.fsencode(video)) is None


def test_an_unreadable_header_fails_its_own_file(tmp_path: Path, videos: list[Prepared]) -> None:
    broken = tmp_path / "v.mp4"
    broken.write_bytes(b"no video" * 100)
    sound = videos[0].found.location.path
    with DecoderThreads(1) as threads:
        headers = headers_of([os.fsencode(broken), sound], threads)
        with pytest.raises(VideoError):
            headers.take(os.fsencode(broken))
        assert headers.take(sound) is not None


def test_headers_are_read_ahead_only_until_the_models_are_open(videos: list[Prepared]) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def hold(_: Decoder) -> None:
        began.set()
        assert goes_on.wait(60)

    encoder = Colours()
    with DecoderThreads(1) as threads, ModelOwner() as owner:
        held = threads.submit(hold)
        assert began.wait(60)
        headers = HeadersAhead(threads, [video.found.location.path for video in videos])
        models = owner.models(None, lambda: Encoders(Words(), {"visual": encoder}, lanes=1))
        with LocalRunner(threads, models, headers) as runner:
            assert all(future.cancelled() for future in headers._reading.values())
            goes_on.set()
            held.result(60)
            found = videos[0].found
            prepared = runner.prepare(found, videos[0].video.fingerprint, OPTIONS).result(60)
            assert prepared.video == videos[0].video


def test_many_headers_are_not_read_ahead() -> None:
    with DecoderThreads(1) as threads:
        headers = HeadersAhead(threads, (f"/missing/{n}".encode() for n in count()))
        headers.stop()
        assert len(headers._reading) == AHEAD_FILES


def test_a_video_that_fails_in_a_shared_batch_fails_alone(videos: list[Prepared]) -> None:
    encoder = Colours(refuses=True)
    with running(len(videos), encoder) as runner:
        futures = begin_all(videos, encoder, runner)
        encoder.release.set()
        failed = [colour for colour, future in zip(COLOURS, futures, strict=True) if future.exception(60) is not None]
    assert failed == ["blue"]
    assert isinstance(futures[COLOURS.index("blue")].exception(), ModelError)


def test_a_last_frame_waits_for_no_other_video(videos: list[Prepared]) -> None:
    encoder = Colours()
    encoder.release.set()
    with running(1, encoder) as runner:
        for video in videos:  # none begins before the one before it has ended
            assert runner.index(video, video.units[0], OPTIONS).result(60).result.clips
    assert max(encoder.sizes) < encoder.batch_frames


def test_a_run_that_is_broken_off_ends_with_frames_in_the_queue(videos: list[Prepared]) -> None:
    encoder, waits = Colours(), threading.Event()
    before = threading.active_count()

    def broken_off() -> None:
        with running(len(videos), encoder) as runner:
            begin_all(videos, encoder, runner)
            waits.set()
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(broken_off)
        assert waits.wait(60)
        encoder.release.set()  # the batch that is computed ends as it would
        assert isinstance(run.exception(60), KeyboardInterrupt)
    assert threading.active_count() <= before
