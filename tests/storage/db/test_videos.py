"""Videos know the run that added them, clips the run that indexed them."""

from __future__ import annotations

from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install, place, video
from sqlalchemy import text

from vfindex.storage.errors import Problem
from vfindex.storage.library import Library
from vfindex.storage.records import Segment, UnitPlan
from vfindex.storage.writer import Writer, writing


def runs_of(library: Path) -> tuple[list[tuple[str, int | None]], list[int | None]]:
    """Return (title, added_run) of each video, and indexed_run of each clip."""
    with Library.open(library).snapshot() as snapshot:
        clips = snapshot.connection.scalars(text("SELECT indexed_run FROM clip ORDER BY id")).all()
        return [(each.title, each.added_run) for each in snapshot.videos()], list(clips)


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "before", [clip(visual=axis(0))])
        writer.catalog.begin_run("ingest")
        add_video(writer, "forest", [clip(visual=axis(1))])
        writer.catalog.begin_run("reindex")
        yield writer  # type: ignore[misc]


def test_a_run_marks_what_it_adds(writer: Writer) -> None:
    add_video(writer, "harbour", [clip(visual=axis(2))])
    assert runs_of(writer.folder) == ([("before", None), ("forest", 1), ("harbour", 2)], [None, 1, 2])


def test_a_video_indexed_again_was_added_when_it_came(writer: Writer) -> None:
    add_video(writer, "forest", [clip(visual=axis(3))])
    assert runs_of(writer.folder) == ([("before", None), ("forest", 1)], [None, 2])


def test_a_failed_file_is_added_by_the_run_that_could_index_it(writer: Writer) -> None:
    location = place("broken")
    problem = Problem(location.path, "decode", "damaged", "it is damaged", "copy it")
    writer.catalog.fail_video("broken", location, problem)
    assert runs_of(writer.folder)[0][2] == ("", 2)
    writer.catalog.begin_run("reindex")
    add_video(writer, "broken", [clip(visual=axis(3))])
    assert runs_of(writer.folder)[0][2] == ("broken", 3)


def test_a_video_of_another_model_version_keeps_its_run(writer: Writer) -> None:
    writer.catalog.begin_video(video("copied"), [UnitPlan(0)], recognised=True, added_run=1)
    assert runs_of(writer.folder)[0][2] == ("copied", 1)


def test_languages_are_those_of_the_segments_that_are_said(tmp_path: Path) -> None:
    """With the index, and in a library of an earlier vfindex, which has none."""
    said = {"a": ["en", "de", "en"], "b": ["EN", ""], "c": ["", ""], "d": ["zh-Hant", "de"], "e": []}
    with writing(tmp_path) as writer:
        install(writer)
        ids = {}
        for name, languages in said.items():
            lines = [Segment(n, n + 1, "words", "sidecar", language) for n, language in enumerate(languages)]
            lines.append(Segment(0, 1, "EXIT", "frames", "fi", 0.9, track="screen"))
            ids[name] = add_video(writer, name, [clip(visual=axis(0))], lines)
        expected = {"en": {"a", "b"}, "de": {"a", "d"}, "": {"b", "c"}, "zh-hant": {"d"}}
        for statement in ("SELECT 1", "DROP INDEX segment_by_language"):
            with writer.catalog.transaction() as connection:
                connection.exec_driver_sql(statement)
            with Library.open(tmp_path).snapshot() as snapshot:
                found = snapshot.videos_by_language()
            assert found == {language: {ids[name] for name in names} for language, names in expected.items()}
