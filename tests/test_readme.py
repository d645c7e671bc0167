"""README and docs agree with the code: their Python runs, their numbers are those of constants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.cli.demo_media import QUESTIONS
from vfindex.indexer.media.container import ALLOWED_FORMATS, MAX_PIXELS, MAX_SIDE_PX
from vfindex.indexer.media.decoder import Limits
from vfindex.indexer.media.limits import STDERR_BYTES
from vfindex.indexer.models.catalog import PACKAGE_FILES
from vfindex.indexer.pipeline.prepare import MIN_LAST_UNIT_S, UNIT_S
from vfindex.indexer.pipeline.unit_reader import MAX_UNIT_FRAMES
from vfindex.indexer.speech.subtitles import MAX_SIDECAR_BYTES
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.db import schema
from vfindex.storage.joint.vector import PRIOR_CLIPS
from vfindex.storage.publication import MAX_DELTA_CLIPS
from vfindex.storage.writer import writing

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def encode(*_: Any) -> dict[str, Any]:
        return {m: axis(1) for m in ("visual", "speech", "text")}

    with writing(tmp_path / "library") as writer:
        install(writer)
        add_video(writer, "dog.mp4", [clip(visual=axis(1))])
        writer.publish()
    monkeypatch.setattr(QueryEncoder, "encode", encode)
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert len([line for line in block.splitlines() if line]) <= 6
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1 b'/videos/dog.mp4' 0.0 5.0 ")


def test_the_run_of_the_readme_has_the_demo_s_queries() -> None:
    for question in QUESTIONS:
        shown = re.search(rf'^"{re.escape(question.text)}" \({question.modality}\)\n  1\. (\S+) ', README, re.M)
        assert shown, f"README.md does not show the answer to {question.text!r}"
        assert shown[1] == question.expected


def test_links_have_targets() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_architecture_names_every_table() -> None:
    for table in schema.metadata.tables:
        assert f"`{table}`" in ARCHITECTURE


def test_the_architecture_has_a_row_for_every_room() -> None:
    rows = dict(
        re.findall(r"^\| `((?:cli|indexer|search|storage)/[a-z/]+)` \|[^|]+\| `([a-z_]+\.py)` \|$", ARCHITECTURE, re.M)
    )
    packages = ("cli", "indexer", "search", "storage")
    folders = {path.parent for package in packages for path in (ROOT / package).rglob("*.py")}
    assert set(rows) == {path.relative_to(ROOT).as_posix() for path in folders if path.parent != ROOT}
    for room, first in rows.items():
        assert (ROOT / room / first).exists(), f"{room}: {first}"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (ARCHITECTURE, f"near multiples of {UNIT_S:.0f} s"),
        (ARCHITECTURE, f"last stretch below {MIN_LAST_UNIT_S:.0f} s"),
        (ARCHITECTURE, f"as much as {PRIOR_CLIPS} clips"),
        (ARCHITECTURE, f"more than {MAX_DELTA_CLIPS:,} clips are new or changed"),
        (SECURITY, f"(`RLIMIT_AS`) | {Limits().memory_bytes >> 30} GiB |"),
        (SECURITY, f"(`RLIMIT_CPU`) | {Limits().cpu_base_s:g} s + {Limits().cpu_per_mb_s:g} s per MiB of file |"),
        (SECURITY, f"silence, by the parent's clock | {Limits().idle_s:g} s |"),
        (SECURITY, f"one request | {Limits().wall_factor:g} times the processor time |"),
        (SECURITY, f"(`RLIMIT_FSIZE`) | {STDERR_BYTES >> 10} KiB,"),
        (SECURITY, f"2^{MAX_PIXELS.bit_length() - 1} pixels, {MAX_SIDE_PX:,} on a side"),
        (SECURITY, f"at most {MAX_SIDECAR_BYTES // 10**6} MB"),
        (SECURITY, f"at most {MAX_UNIT_FRAMES:,} frames"),
        (SECURITY, f"Allowed formats: {', '.join(ALLOWED_FORMATS)}."),
        *((SECURITY, f"| `{each.requirement}` | `{each.path}` |") for each in PACKAGE_FILES),
    ],
)
def test_numbers_and_names_are_those_of_the_code(page: str, words: str) -> None:
    assert words in " ".join(page.split())
