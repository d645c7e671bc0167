"""Names as people type them: exact bytes first, then any composition of accents, never a guess."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install, place

from vfindex.search.query.like import Like, clip_of
from vfindex.storage.errors import UsageError
from vfindex.storage.files.names import glob_pattern, resolve
from vfindex.storage.library import Library
from vfindex.storage.writer import writing

NFC, NFD = "/videos/Caf\u00e9/a.mp4".encode(), "/videos/Cafe\u0301/a.mp4".encode()
ODD = b"/videos/\xff\xe9.mp4"


def found(typed: bytes, *known: bytes) -> bytes | None:
    def holds(path: bytes) -> bool:
        return any(each == path or each.startswith(path + b"/") for each in known)

    return resolve([typed], holds, lambda: known)


def test_the_exact_bytes_come_first() -> None:
    assert found(NFC, NFD, NFC) == NFC and found(NFD, NFD, NFC) == NFD
    assert found(ODD, ODD) == ODD and found(b"/videos/*?[a]\\", b"/videos/*?[a]\\") == b"/videos/*?[a]\\"


def test_a_name_is_found_however_its_accents_are_composed() -> None:
    assert found(NFC, NFD, b"/videos/other.mp4") == NFD and found(NFD, NFC) == NFC
    assert found(os.path.dirname(NFC), NFD, NFD + b"x") == os.path.dirname(NFD), "a folder, once"
    assert found(NFC.upper(), NFD) is None and found(NFC, ODD) is None and found(ODD, NFC) is None


def test_an_ambiguous_path_is_not_guessed() -> None:
    mixed = "/videos/e\u0301/\u00e9".encode(), "/videos/\u00e9/e\u0301".encode()
    with pytest.raises(UsageError, match=re.escape(r"any of 2 paths in this library that look alike")) as caught:
        found("/videos/\u00e9/\u00e9".encode(), *mixed)
    assert r"/videos/\xe9/e\u0301" in str(caught.value)


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("[2024] Trip", "[2024] Trip", True),
        ("[2024] Trip", "2 Trip", True),
        ("[2024] *", "[2024] Trip/a.mp4", True),
        ("[ab]*", "b.mp4", True),
        ("a[", "a[", True),
        ("[!a]", "[!a]", True),
        ("why?", "why?", True),
        ("a\\b", "a\\b", True),
        ("Caf\u00e9", "Caf\u00e9", True),
        ("Cafe\u0301", "Caf\u00e9", True),
        ("trip", "Trip", False),
        ("trip", "trips", False),
    ],
)
def test_what_a_glob_matches(glob: str, name: str, matches: bool) -> None:
    assert bool(re.fullmatch(glob_pattern(glob), name)) == matches


def test_a_library_finds_a_file_by_either_form_of_its_name(tmp_path: Path) -> None:
    typed, stored = "/videos/caf\u00e9.mp4", "cafe\u0301.mp4"
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, stored, [clip(visual=axis(0))])
        assert writer.catalog.path_of([typed.encode()]) == place(stored).path
        assert writer.catalog.path_of([b"/videos"]) == b"/videos" and writer.catalog.path_of([b"/video"]) is None
        writer.catalog.mark_missing([place(stored).path])
        assert writer.catalog.path_of([typed.encode()]) == place(stored).path, "what vanished can be removed"
        writer.catalog.restore_missing([place(stored).path])
    with Library.open(tmp_path).snapshot() as snapshot:
        assert snapshot.path_of([typed.encode()]) == place(stored).path
        assert snapshot.path_of([b"/videos"]) is None, "a folder is no video"
        assert clip_of(snapshot, Like(Path(typed), 1.0)).video_id == 1
