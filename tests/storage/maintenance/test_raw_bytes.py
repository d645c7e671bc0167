"""Bytes in the files of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfindex.storage.maintenance import raw_bytes
from vfindex.storage.maintenance.raw_bytes import files_with


@pytest.mark.parametrize("together", [1, 4, 5, 1 << 24])
def test_bytes_are_found_wherever_a_part_of_a_file_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(raw_bytes, "_TOGETHER", together)
    for at in range(12):
        (tmp_path / f"{at:02}").write_bytes(b"." * at + b"okapi" + b"." * (11 - at))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "other").write_bytes(b"okap okap apio")
    assert files_with(tmp_path, [b"okapi"]) == (14, [f"{at:02}" for at in range(12)])
    assert files_with(tmp_path, [b"zebra", b"api", b"o"], passed_over=["other"]) == (
        13,
        [f"{at:02}" for at in range(12)],
    )
    assert files_with(tmp_path, [b"zebra"]) == (14, [])
