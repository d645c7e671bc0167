"""Chapters of hand-written libraries: the file's, those found, their titles and sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.search.outline import timeline as timelines
from vfindex.search.outline.timeline import timeline_of
from vfindex.search.service import SearchService
from vfindex.storage.errors import LibraryError, QueryError
from vfindex.storage.library import Library
from vfindex.storage.records import Chapter, Segment
from vfindex.storage.writer import writing

# Topic of each clip of 5 s: five of bread, four of climbing, five of bread again.
TOPICS = [0] * 5 + [1] * 4 + [2] * 5
SAID = {
    0: "Knead the dough, then rest the dough.",
    1: "Hold the rope, climb the rope.",
    2: "Play the violin, tune a violin.",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with writing(tmp_path) as writer:
        install(writer)
        clips = [clip(5.0 * n, 5.0 * n + 5, visual=axis(topic)) for n, topic in enumerate(TOPICS)]
        said = [Segment(5.0 * n + 1, 5.0 * n + 4, SAID[topic], "asr", "en") for n, topic in enumerate(TOPICS)]
        add_video(writer, "topics.mp4", clips, said, end_s=70.0)
        stated = (
            Chapter("Two", 30.0, None),
            Chapter("One", 0.0, 20.0),
            Chapter("untimed"),
            Chapter("late", 99.0, 100.0),
        )
        add_video(writer, "stated.mp4", clips, said, end_s=70.0, chapters=stated)
        add_video(writer, "one.mp4", [clip(5.0 * n, 5.0 * n + 5, visual=axis(3)) for n in range(10)], end_s=50.0)
        add_video(
            writer, "few.mp4", [clip(5.0 * n, 5.0 * n + 5, visual=axis(4 + n // 2)) for n in range(4)], end_s=20.0
        )
        add_video(writer, "silent.mp4", [], end_s=10.0)
        writer.publish()
    return tmp_path


def test_chapters_begin_where_topics_change(folder: Path) -> None:
    with SearchService(folder) as service:
        found = service.chapters("topics.mp4")
    assert [(each.start_s, each.end_s) for each in found.chapters] == [(0, 25), (25, 45), (45, 70)]
    assert (found.origin, found.better_than_chance, found.p_value) == ("found", True, 0.01)
    assert [each.words[0] for each in found.chapters] == ["dough", "rope", "violin"]
    assert found.chapters[1].title.startswith("rope, ")
    sentence = found.chapters[2].sentence
    assert sentence is not None and (sentence.text, sentence.track) == (SAID[2], "speech")
    assert sentence.start_s >= 45


def test_the_chapters_of_the_file_come_first(folder: Path) -> None:
    with SearchService(folder) as service:
        stated = service.chapters("stated.mp4")
        found = service.chapters("stated.mp4", detect=True)
    assert [(each.title, each.start_s, each.end_s) for each in stated.chapters] == [("One", 0, 20), ("Two", 30, 70)]
    assert (stated.origin, stated.better_than_chance, stated.p_value) == ("file", None, None)
    assert stated.chapters[0].words[0] == "dough"
    assert found.origin == "found" and len(found.chapters) == 3


def test_sound_after_the_picture_belongs_to_the_last_chapter(folder: Path) -> None:
    with writing(folder) as writer:  # ends 0.5 s after its last clip begins, and is heard for 8 s more
        clips = [clip(5.0 * n, 5.0 * n + 5, visual=axis(topic)) for n, topic in enumerate([0, 0, 1, 1])]
        clips.append(clip(20.0, 28.5, visual=axis(2)))
        said = [Segment(25.0, 28.0, SAID[2], "asr", "en")]
        add_video(writer, "heard.mp4", clips, said, end_s=20.5)
        stated = (Chapter("One", 0.0, None), Chapter("Two", 10.0, None), Chapter("Heard", 22.0, None))
        add_video(writer, "heard-stated.mp4", clips, said, end_s=20.5, chapters=stated)
        writer.publish()
    with SearchService(folder) as service:
        found, of_file = service.chapters("heard.mp4", least_s=5.0), service.chapters("heard-stated.mp4")
        digest = service.digest("heard.mp4")
    assert [(each.start_s, each.end_s) for each in found.chapters] == [(0, 10), (10, 20), (20, 28.5)]
    assert (found.end_s, digest.duration_s) == (28.5, 28.5)
    for chapters in (found, of_file):
        last = chapters.chapters[-1]
        assert last.end_s == 28.5 and last.sentence is not None and last.sentence.text == SAID[2]


def test_a_chapter_quotes_what_begins_in_it(folder: Path) -> None:
    with writing(folder) as writer:
        clips = [clip(5.0 * n, 5.0 * n + 5, visual=axis(n // 2)) for n in range(4)]
        across = Segment(9.0, 12.0, "Knead the dough, then rest the dough, and bake the dough.", "asr", "en")
        inside = Segment(13.0, 14.0, "Bake it.", "asr", "en")
        add_video(writer, "across.mp4", clips, [across, inside], end_s=20.0)
        add_video(writer, "alone.mp4", clips, [across], end_s=20.0)
        writer.publish()
    with SearchService(folder) as service:
        chapters, alone = service.chapters("across.mp4").chapters, service.chapters("alone.mp4").chapters
    assert [each.start_s for each in chapters] == [each.start_s for each in alone] == [0, 10]
    assert chapters[1].sentence is not None and chapters[1].sentence.text == inside.text
    assert alone[1].sentence is not None and alone[1].sentence.text == across.text  # no other is said in it


def test_one_topic_has_no_chapters(folder: Path) -> None:
    with SearchService(folder) as service:
        found = service.chapters("one.mp4")
    assert (found.chapters, found.better_than_chance, found.p_value) == ((), False, 1.0)


def test_too_few_clips_are_not_compared_with_chance(folder: Path) -> None:
    with SearchService(folder) as service:
        found = service.chapters("few.mp4")
        assert [each.start_s for each in found.chapters] == [0, 10] and found.better_than_chance is None
        assert [each.title for each in found.chapters] == ["", ""] and found.chapters[0].sentence is None
        assert service.chapters("few.mp4", least_s=11).chapters == ()


@pytest.mark.parametrize("least_s", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_wrong_length_is_refused(folder: Path, least_s: float) -> None:
    with SearchService(folder) as service, pytest.raises(QueryError, match="a number of seconds above 0"):
        service.chapters("topics.mp4", least_s=least_s)


def test_a_video_without_clips_is_a_sentence(folder: Path) -> None:
    with SearchService(folder) as service, pytest.raises(LibraryError, match="has no clips"):
        service.chapters("silent.mp4")


def test_long_videos_are_merged_to_a_bounded_sequence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelines, "MOST_STEPS", 7)
    with Library.open(folder).snapshot() as snapshot:
        [video] = [each for each in snapshot.videos() if each.fingerprint == "topics.mp4"]
        merged = timeline_of(snapshot, video)
    assert list(merged.edges_s) == [0, 10, 20, 30, 40, 50, 60, 70]
    alike = merged.vectors["visual"] @ merged.vectors["visual"].T
    assert alike[0, 1] > 0.99 and alike[0, 6] < 0.1
