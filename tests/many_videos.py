"""Libraries of many videos, made by a few statements, and the bookkeeping of one more file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from library_maker import DIM, axis, clip, install, place, video
from sqlalchemy import text

from vfindex.storage.db.documents import TranscriptUpdate, UnitTranscript
from vfindex.storage.db.locations import mark_missing, restore_missing
from vfindex.storage.errors import Problem
from vfindex.storage.records import Attempt, Document, Segment, UnitPlan, UnitResult
from vfindex.storage.writer import Writer

_MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count) INSERT INTO"
_VIDEO = (
    "id, fingerprint, state, size_bytes, container, codec, width_px, height_px, rotation_deg, start_s, last_s, end_s,"
    " frames, has_audio, title, tags, chapters, recognised, state_before"
)
_STATEMENTS = (
    f"{_MANY} video ({_VIDEO}) SELECT i, 'old' || i, 'indexed', 100, 'mp4', 'h264', 320, 240, 0, 0.0, 9.96, 10.0,"
    " 250, 1, 'old ' || i, '{}', '[]', 1, 'indexing' FROM n",
    f"{_MANY} location (path, video_id, size_bytes, mtime_ns, inode)"
    " SELECT CAST('/videos/old' || i AS BLOB), i, 100, 1, 1 FROM n",
    f"{_MANY} unit (id, video_id, number, state, attempts, coverage) SELECT i, i, 0, 'done', 1, '{{}}' FROM n",
    f"{_MANY} clip (id, video_id, unit_id, start_ms, start_s, end_s, start_uncertainty_s, crc32)"
    " SELECT i, i, i, 0, 0.0, 5.0, 0.0, 0 FROM n",
    f"{_MANY} embedding (clip_id, modality, vector, crc32) SELECT i, 'text', zeroblob({2 * DIM}), 0 FROM n",
    f"{_MANY} frame (clip_id, times, vectors, crc32) SELECT i, zeroblob(8), zeroblob({2 * DIM}), 0 FROM n",
    f"{_MANY} segment (id, video_id, unit_id, start_s, end_s, text, language, source, crc32)"
    " SELECT i, i, i, 0.0, 5.0, 'said ' || i, 'en', 'sidecar', 0 FROM n",
    f"{_MANY} document (video_id, segment_id, kind, text) SELECT i, i, 'speech', 'said ' || i FROM n",
    "INSERT INTO document_fts (rowid, text) SELECT id, text FROM document",
)


def fill(writer: Writer, count: int) -> None:
    """Make a published library of `count` videos, of one clip each, /videos/old1 to /videos/oldCOUNT."""
    install(writer)
    with writer.catalog.transaction() as connection:
        for statement in _STATEMENTS:
            connection.execute(text(statement), {"count": count} if ":count" in statement else {})
        connection.execute(text("INSERT INTO tombstone SELECT *, '2026-01-01' FROM location WHERE video_id % 10 = 0"))
        connection.execute(text("DELETE FROM location WHERE video_id % 10 = 0"))
        connection.execute(text("UPDATE video SET state = 'vanished', state_before = 'indexed' WHERE id % 10 = 0"))
    writer.publish()


def finished(writer: Writer, number: int) -> None:
    """Index a video of one clip with one segment."""
    name, said = f"new{number}", [Segment(0, 1, f"something new {number}", "sidecar")]
    video_id = writer.catalog.begin_video(video(name), [UnitPlan(0)], recognised=True)
    [(unit_id, plan)] = writer.catalog.pending_units(video_id)
    writer.catalog.note_attempt(video_id, Attempt(plan.number, "usual", "killed", "it died", "2026-01-01"))
    writer.commit_unit(video_id, name, unit_id, UnitResult((clip(visual=axis(1), text=axis(2)),), tuple(said)))
    writer.catalog.finish_video(video_id, place(name), [Document("title", name)])


def replaced(writer: Writer, number: int) -> None:
    """Find other content at a path; the old video is deleted."""
    name = f"other{number}"
    video_id = writer.catalog.begin_video(video(name), [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(video_id)
    writer.commit_unit(video_id, name, unit_id, UnitResult((clip(visual=axis(1)),), ()))
    writer.catalog.finish_video(video_id, place(f"old{10 * number + 1}"), [])


def moved(writer: Writer, number: int) -> None:
    """Find a video at another path; its old path is gone."""
    video_id = 10 * number + 2
    writer.catalog.names(video_id), writer.catalog.former_paths(video_id), writer.catalog.sidecar_states(video_id)
    writer.catalog.place(video_id, place(f"moved{number}"), moved_from=f"/videos/old{video_id}".encode())


def renamed(writer: Writer, number: int) -> None:
    """Give a video the title of another name."""
    writer.catalog.retitle(10 * number + 3, f"named {number}", [Document("title", f"named {number}")], axis(3))


def failed(writer: Writer, number: int) -> None:
    """Record that a file cannot be read."""
    location = place(f"broken{number}")
    problem = Problem(location.path, "decode", "damaged", "it is damaged", "copy it again")
    writer.catalog.fail_video(f"broken{number}", location, problem)


def reworded(writer: Writer, number: int) -> None:
    """Change the subtitles of a video."""
    video_id = 10 * number + 4
    said = UnitTranscript(video_id, (Segment(0, 1, f"other words {number}", "sidecar"),), {video_id: axis(4)}, "")
    writer.catalog.update_transcript(
        video_id, place(f"old{video_id}"), TranscriptUpdate("t", {}, (), (), axis(5), (said,))
    )


def vanished(writer: Writer, number: int) -> None:
    """Mark a file as missing, and restore another one."""
    with writer.catalog.transaction() as connection:
        mark_missing(connection, [f"/videos/old{10 * number + 5}".encode()], "2026-01-01")
        restore_missing(connection, [f"/videos/old{10 * number + 10}".encode()])


BOOKKEEPING: Mapping[str, Callable[[Writer, int], None]] = {
    function.__name__: function for function in (finished, replaced, moved, renamed, failed, reworded, vanished)
}
