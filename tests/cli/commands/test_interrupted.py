"""Ctrl-C ends a run at once: what it prints then, as text and as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from vfindex.cli.run import print_report
from vfindex.indexer.models import factory
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Run
from vfindex.search.service import SearchService
from vfindex.storage.errors import ModelError
from vfindex.storage.writer import Writer


@pytest.mark.parametrize("at", ["vfindex.indexer.models.presets", "vfindex.indexer.runs.ingest"])
def test_an_ingest_interrupted_while_it_starts_prints_its_report(
    run: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    class Press:
        def find_spec(self, name: str, *_: object) -> None:
            if name == at:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sys, "meta_path", [Press(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, at, raising=False)
    ran = run("ingest", tmp_path, "--library", library, "--json")
    assert (ran.code, json.loads(ran.out)["interrupted"]) == (130, True)
    assert ran.err.endswith("interrupted; run the same command again to continue\n")
    monkeypatch.delitem(sys.modules, at, raising=False)
    ran = run("ingest", tmp_path, "--library", library)
    assert (ran.code, ran.out.splitlines()[-1]) == (130, "interrupted; run the same command again to continue")


@pytest.mark.parametrize("command", ["ingest", "reindex"])
def test_a_run_that_a_second_ctrl_c_ends_prints_its_report(
    run: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "videos").mkdir()
    paths = [tmp_path / "videos"] if command == "ingest" else []
    run("ingest", tmp_path / "videos", "--library", library)

    def restored(_: Run) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "restore_returned", restored)
    ran = run(command, *paths, "--library", library, "--json")
    report = json.loads(ran.out)
    assert (ran.code, report["interrupted"], report["found"], report["left"]) == (130, True, 0, None)
    assert "left" not in run("runs", "show", report["run_id"], "--library", library).out
    assert report["run_id"] > 1
    assert ran.err.endswith("interrupted; run the same command again to continue\n")
    ran = run(command, *paths, "--library", library)
    assert (ran.code, ran.out.splitlines()[-1]) == (130, "interrupted; run the same command again to continue")


def test_a_run_says_what_it_left(capsys: pytest.CaptureFixture[str]) -> None:
    for report in (
        Report(interrupted=True, left=2),
        Report(interrupted=True, left=0, coarse=2),
        Report(interrupted=True, left=0),
        Report(out_of_time=True, left=1),
        Report(out_of_time=True),
    ):
        print_report(report)
    assert capsys.readouterr().out.splitlines()[1::2] == [
        "interrupted: 2 files left; run the same command again to continue",
        "interrupted; run the same command again to continue",
        "interrupted: no file is left; the next run brings the index up to date",
        "out of time: 1 file left; the next run continues",
        "out of time before all files were found; the next run continues",
    ]


def test_a_rebuild_says_that_it_was_interrupted(run: Any, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "publish", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    ran = run("rebuild", "--library", library)
    assert (ran.code, ran.out, ran.err) == (130, "", "interrupted; run the same command again\n")


def caught(error: type[Exception]) -> Any:
    """Return a function that loads like a library that catches Ctrl-C while it is imported, and raises `error`."""

    def load(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise error("initialization failed") from None

    return load


@pytest.mark.parametrize("error", [ImportError, KeyError, ModelError])
def test_a_library_that_catches_ctrl_c_while_models_load_is_interrupted(
    run: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    (tmp_path / "new.mp4").write_bytes(b"video")
    monkeypatch.setattr(factory, "open_encoders", caught(error))
    ran = run("ingest", tmp_path / "new.mp4", "--library", library)
    end = "interrupted: 1 file left; run the same command again to continue"
    assert (ran.code, ran.out.splitlines()[-1], ran.err) == (130, end, "stopping\n")


@pytest.mark.parametrize("error", [ImportError, KeyError, ModelError])
def test_a_library_that_catches_ctrl_c_in_a_search_is_interrupted(
    run: Any, library: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    monkeypatch.setattr(SearchService, "search", caught(error))
    ran = run("search", "fox", "--library", library)
    assert (ran.code, ran.out, ran.err) == (130, "", "")
