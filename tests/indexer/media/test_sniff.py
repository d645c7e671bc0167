"""What a file is that is no video, by its first bytes, and what to do about it."""

from __future__ import annotations

from vfindex.indexer.media.sniff import diagnose


def test_a_text_file_may_be_a_failed_download_or_no_video_at_all() -> None:
    found = diagnose(b"milk, bread, eggs\n" * 8)
    assert (found.code, found.reason) == ("text", "a text file")
    assert found.next == "if it should be a video, download it again; to leave it out: vfindex remove FILE"
