"""The tables of library.db, private to storage.

SQLAlchemy Core rather than mapped classes: the frozen records of `records.py` are the typed face, and importing the ORM
costs a cold search an eighth of its time (docs/decisions/storage.md). Column names are the field's words; times are
seconds.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    func,
    select,
    text,
)

from vfindex.storage.records import Box, WordTimes, box_of, box_text, word_times_of, word_times_text

metadata = MetaData()


class BoxText(TypeDecorator[Box]):
    """A box, stored as text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Box | None, dialect: object) -> str | None:
        return None if value is None else box_text(value)

    def process_result_value(self, value: str | None, dialect: object) -> Box | None:
        return box_of(value)


class WordTimesText(TypeDecorator[WordTimes]):
    """The times of words, stored as text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: WordTimes | None, dialect: object) -> str | None:
        return word_times_text(value or ())

    def process_result_value(self, value: str | None, dialect: object) -> WordTimes:
        return word_times_of(value)


class Lines(TypeDecorator[tuple[str, ...]]):
    """Several texts of one line each, stored as lines; NULL without any."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: object) -> str | None:
        return "\n".join(value or ()) or None

    def process_result_value(self, value: str | None, dialect: object) -> tuple[str, ...]:
        return tuple((value or "").splitlines())


def _owner(target: str) -> Column[int]:
    """Return a foreign key column whose rows go with their owner."""
    name = target.split(".")[0] + "_id"
    return Column(name, Integer, ForeignKey(target, ondelete="CASCADE"), nullable=False)


def _path_columns() -> tuple[Column[bytes], Column[int], Column[int], Column[int], Column[int], Column[str]]:
    """Return the columns of a location or tombstone: path, owner, and the stat that says whether the file changed."""
    return (
        Column("path", LargeBinary, primary_key=True),
        _owner("video.id"),
        Column("size_bytes", Integer, nullable=False),
        Column("mtime_ns", Integer, nullable=False),
        Column("inode", Integer, nullable=False),
        Column("beside", Text, nullable=False, default="", server_default=""),
    )


def _seal() -> Column[int]:
    """Return the column of a row's checksum, see integrity.py."""
    return Column("seal", Integer)


meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    _seal(),
)

# One row a content. `state`: progress; `state_before`: the state that a missing (`vanished`) video returns to.
# `problem`: JSON of a Problem without its path. `coarse`: indexed as a preview; a later run indexes it fully. `held`:
# how many rows it has, see integrity.py. `added_run`: the run that first began the content, kept by a staged re-index
# and by an upgrade; NULL before it was recorded. `staged`: 1 for a staged re-index of the searchable video with this
# fingerprint, see videos.py.
video = Table(
    "video",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("container", Text, nullable=False),
    Column("codec", Text, nullable=False),
    Column("width_px", Integer, nullable=False),
    Column("height_px", Integer, nullable=False),
    Column("rotation_deg", Integer, nullable=False),
    Column("start_s", Float, nullable=False),
    Column("last_s", Float, nullable=False),
    Column("end_s", Float, nullable=False),
    Column("frames", Integer),
    Column("has_audio", Integer, nullable=False),
    Column("title", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("chapters", Text, nullable=False),
    Column("problem", Text),
    Column("recognised", Integer, nullable=False),
    Column("coarse", Integer, nullable=False, default=0, server_default="0"),
    Column("state_before", Text, nullable=False, default="indexing"),
    Column("held", Integer, default=0),
    _seal(),
    Column("added_run", Integer),
    Column("fps", Text),
    Column("time_base", Text),
    Column("start_timecode", Text),
    Column("staged", Integer, nullable=False, default=0, server_default="0"),
    UniqueConstraint("fingerprint", "staged"),
    CheckConstraint("state IN ('indexing', 'indexed', 'partial', 'failed', 'quarantined', 'vanished')"),
    CheckConstraint("state_before IN ('indexing', 'indexed', 'partial', 'failed', 'quarantined')"),
    # Few videos are not searchable; a search finds them without a scan of all.
    Index("video_unsearchable", "id", sqlite_where=text("state NOT IN ('indexed', 'partial')")),
    sqlite_autoincrement=True,
)

# Several rows for one video are copies of one content.
location = Table(
    "location",
    metadata,
    *_path_columns(),
    _seal(),
    Index("location_by_video", "video_id"),
)

# A missing location, see locations.py. gone_at: when it was found missing.
tombstone = Table(
    "tombstone",
    metadata,
    *_path_columns(),
    Column("gone_at", Text, nullable=False),
    _seal(),
    Index("tombstone_by_video", "video_id"),
)

# Every path that was given to `ingest`; exclude: JSON list of the globs given with it.
root = Table(
    "root",
    metadata,
    Column("path", LargeBinary, primary_key=True),
    Column("exclude", Text, nullable=False),
    Column("added_at", Text, nullable=False),
    _seal(),
)

# Paths below the roots that `remove` excluded: runs skip them until they are named.
exclusion = Table(
    "exclusion",
    metadata,
    Column("path", LargeBinary, primary_key=True),
    Column("added_at", Text, nullable=False),
    _seal(),
)

# The path of an unfinished video, which has no location before it is finished.
begun = Table(
    "begun",
    metadata,
    Column("video_id", Integer, ForeignKey("video.id", ondelete="CASCADE"), primary_key=True),
    Column("path", LargeBinary, nullable=False),
    Index("begun_by_path", "path"),
)

# A work unit: a video, or [start_s, end_s) of a long one; end_s is NULL where it runs to the end.
unit = Table(
    "unit",
    metadata,
    Column("id", Integer, primary_key=True),
    _owner("video.id"),
    Column("number", Integer, nullable=False),
    Column("start_s", Float),
    Column("end_s", Float),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text),
    Column("coverage", Text, nullable=False),
    _seal(),
    UniqueConstraint("video_id", "number"),
    CheckConstraint("state IN ('pending', 'done')"),
)

# A failed attempt, see records.Attempt. unit: the number of one, NULL for the file before its units.
attempt = Table(
    "attempt",
    metadata,
    Column("id", Integer, primary_key=True),
    _owner("video.id"),
    Column("unit", Integer),
    Column("care", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Text, nullable=False),
    _seal(),
    Index("attempt_by_video", "video_id"),
)

# Ids only grow (AUTOINCREMENT): the watermark of a generation is the last id that it holds. `indexed_run`: the run that
# made this row, NULL before it was recorded.
clip = Table(
    "clip",
    metadata,
    Column("id", Integer, primary_key=True),
    _owner("video.id"),
    Column("unit_id", Integer, ForeignKey("unit.id", ondelete="CASCADE"), nullable=False),
    Column("start_ms", Integer, nullable=False),
    Column("start_s", Float, nullable=False),
    Column("end_s", Float, nullable=False),
    Column("start_uncertainty_s", Float, nullable=False),
    Column("thumbnail", Text),
    Column("crc32", Integer, nullable=False),
    _seal(),
    Column("indexed_run", Integer),
    UniqueConstraint("video_id", "start_ms"),
    Index("clip_by_unit", "unit_id"),
    sqlite_autoincrement=True,
)

# vector: float16. With row ids, because a row of more than 1,002 bytes in a table without them takes a page of its own
# (docs/decisions/storage.md).
embedding = Table(
    "embedding",
    metadata,
    Column("id", Integer, primary_key=True),
    _owner("clip.id"),
    Column("modality", Text, nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Column("crc32", Integer, nullable=False),
    UniqueConstraint("clip_id", "modality"),
)

# The frames of a clip: times (n float64) and vectors (n x dim float16).
frame = Table(
    "frame",
    metadata,
    Column("clip_id", Integer, ForeignKey("clip.id", ondelete="CASCADE"), primary_key=True),
    Column("times", LargeBinary, nullable=False),
    Column("vectors", LargeBinary, nullable=False),
    Column("crc32", Integer, nullable=False),
)

# track: the modality that the segment is of. box: where its text stands on the picture. word_times: when its
# words begin. speakers: their names, one a line.
segment = Table(
    "segment",
    metadata,
    Column("id", Integer, primary_key=True),
    _owner("video.id"),
    Column("unit_id", Integer, ForeignKey("unit.id", ondelete="CASCADE"), nullable=False),
    Column("start_s", Float, nullable=False),
    Column("end_s", Float, nullable=False),
    Column("text", Text, nullable=False),
    Column("language", Text, nullable=False),
    Column("confidence", Float),
    Column("source", Text, nullable=False),
    Column("crc32", Integer, nullable=False),
    _seal(),
    Column("track", Text, nullable=False, default="speech", server_default="speech"),
    Column("box", BoxText),
    Column("word_times", WordTimesText),
    Column("speakers", Lines),
    Index("segment_by_video", "video_id", "start_s"),
    Index("segment_by_unit", "unit_id"),
    Index("segment_by_speakers", "speakers", "video_id", sqlite_where=text("speakers IS NOT NULL")),
    # The language first: for conditions on tracks alone, SQLite would prefer it to `segment_by_video`.
    Index("segment_by_language", "language", "track", "video_id"),
)

# The words of full text search: a segment (kind: its track), a title or tags of a video (kind title, tag).
# documents.py keeps the index `document_fts` equal to it.
document = Table(
    "document",
    metadata,
    Column("id", Integer, primary_key=True),
    _owner("video.id"),
    Column("segment_id", Integer, ForeignKey("segment.id", ondelete="CASCADE")),
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),
    _seal(),
    Index("document_by_video", "video_id"),
    Index("document_by_segment", "segment_id"),
    sqlite_autoincrement=True,
)

# What `label` gave a clip, or its whole video (clip_id NULL). classes: the set of classes, name: one of them. Triggers
# delete the labels of a clip whose vectors change, and those of its video (see migrations.py).
label = Table(
    "label",
    metadata,
    Column("id", Integer, primary_key=True),
    _owner("video.id"),
    Column("clip_id", Integer, ForeignKey("clip.id", ondelete="CASCADE")),
    Column("classes", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("probability", Float, nullable=False),
    _seal(),
    Index("label_by_name", "name", "video_id", "clip_id"),
    Index("label_by_video", "video_id", "clip_id"),
    Index("label_by_clip", "clip_id"),
)

generation = Table(
    "generation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("file", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("watermark", Integer, nullable=False),
    Column("clips", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    _seal(),
    sqlite_autoincrement=True,
)

# Clips up to the watermark of the newest generation whose vectors changed or were deleted since: their rows in its
# file are invalid. Triggers on `embedding` fill it, so that no statement can change a vector unrecorded (see
# migrations.py); the next generation empties it.
index_change = Table(
    "index_change",
    metadata,
    Column("clip_id", Integer, primary_key=True),
)

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("command", Text, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("finished_at", Text),
    Column("report", Text),
    _seal(),
    sqlite_autoincrement=True,
)

# Of the run that a writer's transaction belongs to: one writer at a time, and its run is the newest.
newest_run = select(func.max(run.c.id)).scalar_subquery()

migration = Table(
    "migration",
    metadata,
    Column("name", Text, primary_key=True),
    Column("applied_at", Text, nullable=False),
)
