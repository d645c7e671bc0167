"""What `vfindex ingest --follow` prints of its batches, and when it is stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vfindex.cli.following import follow_folders
from vfindex.indexer import follow as followed
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.report import Report
from vfindex.storage.errors import Problem

TORN = Problem(b"/videos/torn.mp4", "probe", "truncated", "it ends before its header", "copy it again")
EMPTY = Problem(b"/videos/empty.mp4", "probe", "empty", "it is empty", "copy it again")


def batches() -> list[Report]:
    """Return reports: one file fails, nothing is new, a file is read, another fails."""
    return [
        Report(found=2, indexed=1, failed=[TORN]),
        Report(found=2, unchanged=1, failed=[TORN]),
        Report(found=3, unchanged=1, indexed=1, failed=[TORN]),
        Report(found=4, unchanged=2, failed=[EMPTY, TORN]),
    ]


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Return a function that follows, with these reports, and is stopped by Ctrl-C while it waits."""

    def run(json: bool) -> None:
        def reports(_: Path, __: Sequence[bytes], ___: RunSettings, callbacks: Any, ended: Any) -> None:
            for report in batches():
                ended(report, {b"/videos/new.mp4": 1.25} if report.indexed else {})
            with pytest.raises(KeyboardInterrupt), callbacks.interruptible():
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(followed, "follow", reports)
        monkeypatch.setattr("vfindex.cli.following.calibrate_if_due", lambda _: None)
        follow_folders(tmp_path, [b"/videos"], RunSettings(cache=tmp_path), json=json)

    return run


def test_a_failure_is_told_once(follow: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    follow(json=False)
    out, err = capsys.readouterr()
    assert [line.split(" indexed")[0] for line in out.splitlines()] == ["2 found: 1", "3 found: 1", "4 found: 0"]
    assert err.splitlines() == [
        "failed: /videos/torn.mp4: [probe] it ends before its header; copy it again",
        "following 1 folder; press Ctrl-C to stop",
        "/videos/new.mp4: searchable 1.2 s after it was complete",
        "failed: /videos/empty.mp4: [probe] it is empty; copy it again",
        "stopped; the same command follows again",
    ]


def test_a_document_for_each_batch_that_read_something(
    follow: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    follow(json=True)
    out, err = capsys.readouterr()
    documents = [json.loads(line) for line in out.splitlines()]
    assert [each["found"] for each in documents] == [2, 3, 4]
    assert [len(each["failed"]) for each in documents] == [1, 1, 2]
    assert documents[1]["latency_s"] == {"/videos/new.mp4": 1.25}
    assert err == "stopped; the same command follows again\n"
