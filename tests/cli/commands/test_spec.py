"""`vfindex spec`: export, use, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def test_two_libraries_share_a_spec(run: Any, library: Path, tmp_path: Path) -> None:
    other, file = tmp_path / "other", tmp_path / "spec.json"
    shutil.copytree(library, other)
    exported = json.loads(run("spec", "export", file, "--library", library, "--library", other, "--json").out)
    assert exported["libraries"] == 2
    for folder in (library, other):
        used = json.loads(run("spec", "use", file, "--library", folder, "--json").out)
        assert used == {"spec": exported["spec"], "shared": True, "clips": exported["clips"] // 2}
    again = run("spec", "export", tmp_path / "a gain.json", "--library", other)
    assert exported["spec"] in again.out and f"vfindex spec use '{tmp_path}/a gain.json' --library DIR" in again.out
    own = run("spec", "use", "--own", "--library", other)
    assert "with its own spec" in own.out and exported["spec"] not in own.out


def test_export_writes_over_spec_files_only(run: Any, library: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("my notes")
    refused = run("spec", "export", file, "--library", library)
    assert refused.code == 2 and "of another kind" in refused.err and file.read_text() == "my notes"
    for arguments in (("--force",), ()):
        assert run("spec", "export", file, "--library", library, *arguments).code == 0


def test_use_takes_a_file_or_own(run: Any, library: Path, tmp_path: Path) -> None:
    for arguments in ((), (tmp_path / "spec.json", "--own")):
        refused = run("spec", "use", *arguments, "--library", library)
        assert refused.code == 2 and "give the file of a spec, or --own" in refused.err


def test_a_shared_spec_refuses_to_be_tuned(run: Any, library: Path, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    run("spec", "export", file, "--library", library)
    run("spec", "use", file, "--library", library)
    for command in (("tune", "--reset"), ("rebuild", "--fusion", "mean"), ("tune", tmp_path / "queries.jsonl")):
        refused = run(*command, "--library", library)
        assert refused.code == 2 and "uses the shared spec" in refused.err
    assert run("rebuild", "--library", library).code == 0
