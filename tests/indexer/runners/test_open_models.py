"""Models stay open from run to run while the next asks for the same, and their owner closes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import Shot, make_video

from vfindex.indexer.follow import follow
from vfindex.indexer.models import factory
from vfindex.indexer.models.base import Encoders
from vfindex.indexer.options import Sampling
from vfindex.indexer.runners.local import DecoderThreads, LocalRunner
from vfindex.indexer.runners.open_models import ModelOwner, OpenModels
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.speech.whisper import Allowance, Whisper, Window, WindowTranscript
from vfindex.storage.errors import ModelError, Problem, VideoError
from vfindex.storage.records import FloatArray


@dataclass
class Speech:
    """A speech model that notes what becomes of it."""

    log: list[str]
    is_intact: bool = True

    def kill(self) -> None:
        self.is_intact = False
        self.log.append("kill")

    def close(self) -> None:
        self.log.append("close")


class Images:
    size_px, dim, batch_frames = 64, 3, 2

    def encode_images(self, frames: Sequence[Any]) -> FloatArray:
        return np.ones((len(frames), 3), np.float32)


@dataclass
class Opener:
    """Opens models without a modality, and notes it."""

    log: list[str] = field(default_factory=list)
    lanes: int = 0

    def __call__(self) -> Encoders:
        self.log.append("open")
        models = {"speech": Speech(self.log), "visual": Images()}
        return Encoders(None, models, lanes=self.lanes, gpus=self.lanes, modalities=())  # type: ignore[arg-type]


@pytest.fixture
def opener() -> Opener:
    return Opener()


def test_equal_requests_share_models_until_the_owner_closes_them(opener: Opener) -> None:
    with ModelOwner() as owner:
        first = owner.models(("setup", 2), opener)
        with LocalRunner(DecoderThreads(1), first):
            pass
        assert owner.models(("setup", 2), opener) is first and opener.log == ["open"]
        with LocalRunner(DecoderThreads(1), first):
            pass
    assert opener.log == ["open", "close"], "the runner closes only what it made"


def test_another_request_closes_the_models_before_it_opens_its_own(opener: Opener) -> None:
    with ModelOwner() as owner:
        first = owner.models("en", opener)
        assert owner.models("de", opener) is not first and opener.log == ["open", "close", "open"]
        assert owner.models("en", opener) is not first and opener.log == ["open", "close"] * 2 + ["open"]


def test_a_run_that_is_broken_off_kills_its_models_and_the_next_opens_others(opener: Opener) -> None:
    with ModelOwner() as owner:
        with pytest.raises(KeyboardInterrupt), LocalRunner(DecoderThreads(1), owner.models(1, opener)):
            raise KeyboardInterrupt
        assert opener.log == ["open", "kill"]
        owner.models(1, opener)
        assert opener.log == ["open", "kill", "close", "open"]


@pytest.mark.parametrize(
    ("error", "opened"),
    [
        (ModelError("no frame fits in memory"), 2),
        (RuntimeError("CUDA error"), 2),
        (VideoError(Problem(b"a", "decode", "x", "y", "z")), 1),
    ],
)
def test_models_that_failed_on_a_unit_are_opened_anew(opener: Opener, error: Exception, opened: int) -> None:
    with ModelOwner() as owner:
        models = owner.models(1, opener)
        with pytest.raises(type(error)), models.in_use():
            raise error
        owner.models(1, opener)
        assert opener.log.count("open") == opened


class Limited:
    """A speech model that fails on more than one sound at once, and on each if it is broken."""

    workers, batch = 1, 2

    def __init__(self, broken: bool) -> None:
        self._broken = broken

    def knows(self, language: str) -> bool:
        return True

    def transcribe(self, sounds: Sequence[FloatArray], language: str) -> list[WindowTranscript]:
        if self._broken or len(sounds) > 1:
            raise ModelError("out of memory")
        return [WindowTranscript()] * len(sounds)

    def close(self) -> None: ...


@pytest.mark.parametrize("broken", [False, True])
def test_speech_is_opened_anew_if_it_failed_on_a_window(broken: bool) -> None:
    with ModelOwner() as owner:
        speech = Whisper(Limited(broken), lambda samples: ())
        first = owner.models(1, lambda: Encoders(None, {"speech": speech}, modalities=()))  # type: ignore[arg-type]
        windows = [Window(0.0, np.zeros(100, np.int16), ())] * 2
        heard = speech.transcribe(windows, "en", Allowance(2))
        assert [bool(each.problem) for each in heard] == [broken] * 2
        assert (owner.models(1, Opener()) is first) != broken


def test_an_owner_whose_models_cannot_be_opened_has_none(opener: Opener) -> None:
    def broken() -> Encoders:
        raise ModelError("the weights are gone")

    with ModelOwner() as owner:
        owner.models(1, opener)
        with pytest.raises(ModelError, match="gone"):
            owner.models(2, broken)
        assert opener.log == ["open", "close"]
        with pytest.raises(ModelError, match="no image model"):
            owner.models(3, lambda: replace(opener(), models={"speech": Speech(opener.log)}, modalities=("visual",)))
        assert opener.log == ["open", "close"] * 2, "what was opened before the fault is closed"
    assert opener.log == ["open", "close"] * 2


def test_the_busy_share_of_a_run_is_that_of_its_own_batches() -> None:
    with ModelOwner() as owner:
        models = owner.models(1, Opener(lanes=1))
        assert models.images is not None
        models.images._busy_s = 1000.0
        with LocalRunner(DecoderThreads(1), models) as runner:
            assert [*runner.gpu_busy().values()] == [0.0]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes of a library's models: "open" and "close"."""
    log: list[str] = []
    real, close = factory.open_encoders, OpenModels.close

    def open_encoders(*given: Any, **named: Any) -> Encoders:
        log.append("open")
        return real(*given, **named)

    def closed(self: OpenModels) -> None:
        log.append("close")
        close(self)

    monkeypatch.setattr(factory, "open_encoders", open_encoders)
    monkeypatch.setattr(OpenModels, "close", closed)
    return log


def write(folder: Path, colour: str) -> None:
    made = folder.with_name(f"{colour}.mp4")
    make_video(made, shots=[Shot(colour, 1)])
    made.rename(folder / made.name)
    os.utime(folder / made.name, (1.6e9, 1.6e9))  # no longer written


def quick(cache: Path) -> RunSettings:
    return RunSettings(cache, sampling=Sampling("fps", 1), asr=False, ocr=False, workers=1)


def test_runs_of_their_own_open_and_close_their_own(tmp_path: Path, models_cache: Path, log: list[str]) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for colour in ("red", "blue"):
        write(folder, colour)
        assert ingest(tmp_path / "lib", [os.fsencode(folder)], quick(models_cache)).indexed == 1
    assert log == ["open", "close"] * 2


def test_the_batches_of_a_follow_share_their_models(tmp_path: Path, models_cache: Path, log: list[str]) -> None:
    pytest.importorskip("watchdog", reason="watchdog follows folders: pip install watchdog")
    folder = tmp_path / "videos"
    folder.mkdir()
    write(folder, "red")
    more: list[Callable[[], None]] = [lambda: write(folder, "blue"), lambda: write(folder, "green")]
    indexed: list[int] = []

    def ended(report: Report, _: object) -> None:
        indexed.append(report.indexed)
        if more:
            more.pop()()

    callbacks = Callbacks(stop=lambda: sum(indexed) == 3)
    follow(tmp_path / "lib", [os.fsencode(folder)], quick(models_cache), callbacks, ended)
    assert sum(indexed) == 3 and log == ["open", "close"]
