"""Videos by the names that people use."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import engine_over
from library_maker import axis, clip

from vfindex.search.service import SearchService
from vfindex.storage.errors import LibraryError, UsageError

# `engine_over` makes paths of names, below /videos.
NAMES = ("Trip/Beach.MP4", "trip/beach.mp4", "Cafe\u0301.mkv", "Straße 7.mov", "clip.part1.mp4")


@pytest.fixture
def service(tmp_path: Path) -> SearchService:
    engine_over(tmp_path, {name: [clip(visual=axis(n))] for n, name in enumerate(NAMES)}).close()
    return SearchService(tmp_path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Trip/Beach.MP4", 0),
        ("beach.mp4", 1),
        ("/videos/trip/beach.mp4", 1),
        ("CAFÉ.MKV", 2),
        ("cafe", 2),
        ("strasse 7", 3),
        ("clip.part1", 4),
        ("videos/clip.part1", 4),
    ],
)
def test_a_name_in_any_case_with_or_without_folders_and_suffix(service: SearchService, name: str, found: int) -> None:
    fingerprint = service.fingerprint(name)
    assert service.video(fingerprint).video == f"/videos/{NAMES[found]}".encode()
    assert service.fingerprint(fingerprint) == fingerprint


def test_several_are_candidates_and_none_has_a_hint(service: SearchService) -> None:
    with pytest.raises(UsageError, match=r"^'BEACH' fits 2 videos: /videos/Trip/Beach.MP4, /videos/trip/beach.mp4; "):
        service.fingerprint("BEACH")
    with pytest.raises(LibraryError, match=r"^no video is named 'part'; similar names: /videos/clip.part1.mp4$"):
        service.fingerprint("part")
    for name in ("each.mp4", "clip", "", "/", "videos", "/etc/passwd"):
        with pytest.raises(LibraryError, match=r"^no video is named "):
            service.fingerprint(name)
