"""A file that crashes its decoder is retried, then decoded safely, then quarantined; a refusal is final."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from media import Shot, make_video

from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.pipeline import prepare
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.retry import chosen, retry
from vfindex.indexer.runs.retry_policy import is_worth_decoding, next_attempt
from vfindex.storage.db.runs import attempt_counts, attempts_of
from vfindex.storage.errors import Problem, VideoError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Attempt, KnownFile, Location

Ingest = Callable[..., Report]


def failed(*tries: tuple[str, str]) -> list[Attempt]:
    return [Attempt(0, care, code, "it broke", "now") for care, code in tries]  # type: ignore[arg-type]


def test_two_usual_attempts_then_a_safe_one() -> None:
    assert next_attempt(failed()) == "usual"
    assert next_attempt(failed(("usual", "crashed"))) == "usual"
    assert next_attempt(failed(("usual", "cpu"))) == "safe", "as usual, it would take as long again"
    assert next_attempt(failed(("usual", "crashed"), ("usual", "timeout"))) == "safe"
    assert next_attempt(failed(("usual", "cpu"), ("safe", "crashed"))) is None


def test_which_files_are_retried() -> None:
    codes = {"a": ("failed", "damaged"), "b/c": ("failed", "playlist"), "b/d": ("quarantined", "crashed")}
    codes |= {"e": ("indexed", ""), "f": ("partial", "damaged")}
    place = Location(b"", 0, 0, 0)
    known = {
        f"/{name}".encode(): KnownFile(1, "", place, state, True, {"code": code})  # type: ignore[arg-type]
        for name, (state, code) in codes.items()
    }
    assert chosen(known, [], quarantined=False) == [b"/a"]
    assert chosen(known, [], quarantined=True) == [b"/a", b"/b/d"]
    assert chosen(known, [b"/b"], quarantined=True) == [b"/b/d"]
    assert chosen(known, [b"/b/c", b"/b/d", b"/e", b"/f"], quarantined=False) == [b"/b/c", b"/b/d", b"/f"]


@pytest.fixture
def run(tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Ingest:
    """Return a function that ingests one video of three units and 12 s into one library."""
    monkeypatch.setattr(prepare, "UNIT_S", 4.0)
    monkeypatch.setattr(prepare, "MIN_LAST_UNIT_S", 2.0)
    make_video(tmp_path / "long.mp4", shots=[Shot("red", 5), Shot("blue", 4), Shot("green", 3)])

    def again() -> Report:
        settings = RunSettings(cache=models_cache, workers=1, asr=False, ocr=False)
        return ingest(tmp_path / "lib", [os.fsencode(tmp_path / "long.mp4")], settings)

    return again


class Breaks:
    """A decoder's `read` that breaks in units: begin in s -> the tries that break. Counts the tries."""

    def __init__(self, breaks: dict[float | None, Callable[[int, str], bool]]) -> None:
        self.breaks = breaks
        self.tries: Counter[float | None] = Counter()
        self.real = Decoder.read

    def __call__(self, decoder: Decoder, path: bytes, **order: Any) -> Iterator[Any]:
        start_s = order["start_s"]
        self.tries[start_s] += 1
        if start_s in self.breaks and self.breaks[start_s](self.tries[start_s], order["sampling"].mode):
            raise VideoError(Problem(path, "decode", "crashed", "its decoder crashed", "convert it"), quarantine=True)
        return self.real(decoder, path, **order)


def patch(monkeypatch: pytest.MonkeyPatch, breaks: Breaks) -> Breaks:
    monkeypatch.setattr(Decoder, "read", lambda *args, **order: breaks(*args, **order))
    return breaks


def tries(folder: Path) -> list[tuple[Any, ...]]:
    with Library.open(folder).snapshot() as snapshot:
        [video] = snapshot.videos()
        found = attempts_of(snapshot, video.id)
        assert attempt_counts(snapshot).get(video.id, 0) == len(found)
    return sorted((attempt.unit, attempt.care, attempt.code) for attempt in found)


def test_a_broken_unit_is_retried_and_then_decoded_safely(
    tmp_path: Path, run: Ingest, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = patch(monkeypatch, Breaks({None: lambda n, _: n == 1, 4.0: lambda _, mode: mode == "auto"}))
    report = run()
    assert [problem.reason for problem in report.partial] == [
        "only keyframes were read, and no sound, because its decoder crashed"
    ]
    assert broken.tries == {None: 2, 4.0: 3, 8.0: 1}
    assert tries(tmp_path / "lib") == [(0, "usual", "crashed"), (1, "usual", "crashed"), (1, "usual", "crashed")]
    with Library.open(tmp_path / "lib").snapshot() as snapshot:
        clips = snapshot.clips_of(1)
        assert snapshot.coverage(1)[1]["visual"].endswith("sampling keyframes")
    assert (clips[0].start_s, clips[-1].end_s) == (0.0, pytest.approx(12.0, abs=0.1))
    assert verify(Library.open(tmp_path / "lib")).clean
    monkeypatch.undo()
    assert (
        retry(tmp_path / "lib", [os.fsencode(tmp_path / "long.mp4")], RunSettings(models_cache, workers=1)).indexed == 1
    )
    assert tries(tmp_path / "lib") == []


def test_committed_units_stay_however_many_others_break(
    tmp_path: Path, run: Ingest, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patch(patched, Breaks({4.0: lambda *_: True, 8.0: lambda *_: True}))
        assert [(problem.code, problem.reason) for problem in run().partial] == [("damaged", "its decoder crashed")]
    assert len(tries(tmp_path / "lib")) == 6
    with Library.open(tmp_path / "lib").snapshot() as snapshot:
        assert [clip.end_s for clip in snapshot.clips_of(1)] == [4.0]
    assert verify(Library.open(tmp_path / "lib")).clean
    settings = RunSettings(models_cache, workers=1)
    assert retry(tmp_path / "lib", [], settings).found == 0
    assert retry(tmp_path / "lib", [os.fsencode(tmp_path / "long.mp4")], settings).indexed == 1


def test_a_video_whose_first_units_break_is_skipped(
    tmp_path: Path, run: Ingest, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        broken = patch(patched, Breaks({None: lambda *_: True, 4.0: lambda *_: True}))
        assert [problem.code for problem in run().failed] == ["crashed"]
    assert broken.tries[8.0] == 0, "two broke and none could be read"
    assert len(tries(tmp_path / "lib")) == 6
    settings = RunSettings(models_cache, workers=1)
    assert retry(tmp_path / "lib", [], settings).found == 0
    with monkeypatch.context() as patched:
        patch(patched, Breaks({4.0: lambda *_: True}))
        report = retry(tmp_path / "lib", [], replace(settings, quarantined=True))
        assert [problem.reason for problem in report.partial] == ["its decoder crashed"]
    assert tries(tmp_path / "lib") == [(1, "safe", "crashed"), (1, "usual", "crashed"), (1, "usual", "crashed")]


def test_the_rest_is_worth_decoding_while_more_is_read_than_breaks() -> None:
    assert is_worth_decoding(1, 0) and is_worth_decoding(2, 3)
    assert not is_worth_decoding(2, 0) and not is_worth_decoding(2, 2)


def test_a_resumed_run_counts_earlier_attempts(tmp_path: Path, run: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(n: int, _: str) -> bool:
        if n == 2:
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patched:
        patch(patched, Breaks({4.0: kill}))
        with pytest.raises(KeyboardInterrupt):
            run()
    broken = patch(monkeypatch, Breaks({4.0: lambda _, mode: mode == "auto"}))
    assert len(run().partial) == 1
    assert broken.tries[4.0] == 2
