"""`vfindex runs` of a run that an error ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from library_maker import install

from vfindex.storage.writer import writing

REASON = "Ray cannot be reached at head:6379 (no route to host); see docs/cluster.md"


def test_the_error_that_ended_a_run_is_named(run: Any, tmp_path: Path) -> None:
    with writing(tmp_path / "library") as writer:
        install(writer)
        report = {"found": 0, "indexed": 0, "failed": [], "wall_s": 1.0, "error": REASON}
        writer.catalog.end_run(writer.catalog.begin_run("ingest"), report)
    listed = run("runs", "list", "--library", tmp_path / "library").out
    assert listed.endswith(f"0 found: 0 indexed, 0 failed, ended early: {REASON}, 0:01\n")
    shown = run("runs", "show", "1", "--library", tmp_path / "library").out
    assert f"it was    ended early: {REASON}\n" in shown
    page = tmp_path / "page.html"
    run("runs", "show", "1", "--page", page, "--library", tmp_path / "library")
    assert f"ended early: {REASON}" in page.read_text()
