"""Watched questions: three nights of arrivals, moves, re-readings and a killed run give each new hit once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install, place, video

from vfindex.search.calibration.labels import META_KEY, Calibration, ModalityCalibration
from vfindex.search.engine import SearchEngine
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.understanding import watch
from vfindex.search.understanding.watch import Watches
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryLocked, QueryError, UsageError
from vfindex.storage.records import Segment, UnitPlan, UnitResult
from vfindex.storage.user import watches as stored_watches
from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Moment, NewHit
from vfindex.storage.user.repair import repair_user_data, user_faults
from vfindex.storage.user.watches import Present, WatchData
from vfindex.storage.writer import Writer, writing

FOX = "a red fox runs past"
RAIN = "nothing but rain"


def put(
    writer: Writer, name: str, said: str = RAIN, *, fingerprint: str = "", coarse: bool = False, matches: bool = False
) -> None:
    """Commit a video at /videos/NAME, as an ingest does; one that is there already is read again."""
    vectors = {"visual": axis(1 if matches else 2), "speech": axis(3)}
    found = replace(video(fingerprint or name), title="")
    id_ = writer.catalog.begin_video(found, [UnitPlan(0)], recognised=not coarse, coarse=coarse)
    [(unit_id, _)] = writer.catalog.pending_units(id_)
    segments = () if coarse else (Segment(0, 5, said, "asr", "en", confidence=0.9),)
    writer.commit_unit(id_, name, unit_id, UnitResult((clip(**vectors),), segments))
    writer.catalog.finish_video(id_, place(name), [])


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: {m: axis(1) for m in ("visual", "speech", "text")})


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a library whose first night found two videos, one with a fox."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        put(writer, "old fox.mp4", FOX)
        put(writer, "old rain.mp4")
        writer.publish()
    return folder


@pytest.fixture
def night(library: Path) -> Callable[..., None]:
    """Return a function that runs a night: commits videos, moves files, publishes."""

    def run(*puts: dict[str, Any], moves: dict[str, str] | None = None) -> None:
        with writing(library) as writer:
            for each in puts:
                put(writer, **each)
            for fingerprint, to in (moves or {}).items():
                with writer.library.snapshot() as snapshot:
                    old = snapshot.video_with(fingerprint)
                assert old is not None
                writer.catalog.place(old.id, place(to), moved_from=old.locations[0].path)
            writer.publish()

    return run


def watches_of(library: Path) -> Watches:
    return Watches(SearchEngine(library))


def told(library: Path) -> list[tuple[str, str]]:
    """Run all watches as the command does; return watch and fingerprint of what is reported."""
    watches = watches_of(library)
    with watches.alone():
        news = watches.untold(watches.judge())
        watches.tell(news.news)
    return [(each.watch, each.fingerprint) for each in news.news]


def test_three_nights_give_exactly_the_new_hits_once(library: Path, night: Any) -> None:
    watches_of(library).add("fox", "said:fox")
    watches_of(library).add("rain", '"nothing but rain"')
    assert told(library) == []  # all of it was there before

    night(dict(name="a.mp4", said=FOX), dict(name="b.mp4"), dict(name="c.mp4", coarse=True))
    assert told(library) == [("fox", "a.mp4"), ("rain", "b.mp4")]

    # A move, a re-reading of the old and of the reported, the full reading of a preview, and one arrival.
    night(
        dict(name="a.mp4", said=FOX),
        dict(name="old rain.mp4", said=FOX),
        dict(name="c.mp4", said=FOX),
        dict(name="d.mp4", said=f"{FOX}, {RAIN}"),
        moves={"b.mp4": "moved/b.mp4"},
    )
    assert told(library) == [("fox", "c.mp4"), ("fox", "d.mp4"), ("rain", "d.mp4")]

    night(dict(name="d.mp4", said=FOX), dict(name="e.mp4", said=FOX, fingerprint="a.mp4"))
    assert told(library) == []
    hits = WatchData.open(library).hits()
    assert len({(each.name, each.hit.moment) for each in hits}) == len(hits) == 5
    assert [each.id for each in watches_of(library).items(newest=2)] == [4, 5]
    assert user_faults(library) == []


def test_a_preview_that_was_reported_is_no_news_once_it_is_read_fully(library: Path, night: Any) -> None:
    with writing(library) as writer:
        writer.catalog.put(META_KEY, CALIBRATED)
    watches_of(library).add("fox", "a fox")
    night(dict(name="p.mp4", coarse=True, matches=True), dict(name="q.mp4", coarse=True))
    assert told(library) == [("fox", "p.mp4")]
    night(dict(name="p.mp4", matches=True), dict(name="q.mp4"))
    assert told(library) == []


def test_a_preview_from_before_the_watch_is_no_news(library: Path, night: Any) -> None:
    night(dict(name="p.mp4", coarse=True))
    watches_of(library).add("fox", "said:fox")
    night(dict(name="p.mp4", said=FOX))
    assert told(library) == []


def test_a_video_that_is_away_for_a_night_is_no_news(library: Path, night: Any) -> None:
    watches_of(library).add("fox", "said:fox")
    with writing(library) as writer:
        writer.catalog.mark_missing([b"/videos/old fox.mp4"])
    assert told(library) == []
    with writing(library) as writer:
        writer.catalog.restore_missing([b"/videos/old fox.mp4"])
    assert told(library) == []


def test_a_watch_that_begins_later_has_its_own_news(library: Path, night: Any) -> None:
    watches_of(library).add("fox", "said:fox")
    night(dict(name="a.mp4", said=FOX))
    watches_of(library).add("red", "said:red")
    night(dict(name="b.mp4", said=FOX))
    assert told(library) == [("fox", "a.mp4"), ("fox", "b.mp4"), ("red", "b.mp4")]


class Killed(BaseException):
    """Ends a run where a signal would."""


def dying(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """Return a function that raises Killed in place of a call once `left` calls of all have been made."""

    def one(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return call(*args, **kwargs)

    return one


def test_runs_that_end_at_every_step_lose_nothing_and_repeat_nothing(
    library: Path, night: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches_of(library).add("fox", "said:fox")
    watches_of(library).add("red", "said:red")
    night(dict(name="a.mp4", said=FOX), dict(name="b.mp4", said="a red car"), dict(name="c.mp4"))
    reported: list[tuple[str, str]] = []
    ends = 0
    for calls in range(20):  # each gets further than the one before, on the same library
        with monkeypatch.context() as patch:
            left = [calls]
            for name in ("note", "keep", "tell"):
                patch.setattr(WatchData, name, dying(getattr(WatchData, name), left))
            patch.setattr(watch, "answer", dying(watch.answer, left))
            try:
                reported += told(library)
            except Killed:
                ends += 1
            else:
                break
    assert ends >= 5
    assert reported == [("fox", "a.mp4"), ("red", "a.mp4"), ("red", "b.mp4")]
    assert told(library) == []
    assert user_faults(library) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from library_maker import axis
from vfindex.search.engine import SearchEngine
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.understanding.watch import Watches
QueryEncoder.encode = lambda *_: {{m: axis(1) for m in ("visual", "speech", "text")}}
watches = Watches(SearchEngine(Path({library!r})))
with watches.alone():
    watches.judge()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_is_killed_before_it_reports_leaves_the_hits_to_the_next(library: Path, night: Any) -> None:
    watches_of(library).add("fox", "said:fox")
    night(dict(name="a.mp4", said=FOX))
    code = KILLED.format(tests=str(Path(__file__).parents[2]), library=str(library))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert told(library) == [("fox", "a.mp4")]
    assert told(library) == []


def test_a_watch_replaced_while_it_is_judged_keeps_its_own_question(
    library: Path, night: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches_of(library).add("fox", "said:fox")
    watches_of(library).add("rain", '"nothing but rain"')
    night(dict(name="a.mp4", said=FOX), dict(name="b.mp4"))
    search = watch.answer

    def replacing(*arguments: Any) -> Any:
        monkeypatch.setattr(watch, "answer", search)
        UserData.open(library).remove_query("fox")
        watches_of(library).add("fox", "said:bear")
        return search(*arguments)

    monkeypatch.setattr(watch, "answer", replacing)
    assert told(library) == [("rain", "b.mp4")], "no hit of the question that is gone, and the others stay"
    night(dict(name="c.mp4", said="a bear comes"), dict(name="d.mp4", said=FOX))
    assert told(library) == [("fox", "c.mp4")]


def test_one_process_at_a_time_runs_the_watches(library: Path) -> None:
    watches_of(library).add("fox", "said:fox")
    with (
        watches_of(library).alone(),
        pytest.raises(LibraryLocked, match="another vfindex"),
        watches_of(library).alone(),
    ):
        pass


CALIBRATED = Calibration(
    2,
    {m: ModalityCalibration(0.99, 50, 200, weight, 0.3, 0.5, 0.9) for m, weight in (("visual", 1.0), ("speech", 0.5))},
).to_json()


def test_a_question_without_required_words_needs_confidence(library: Path, night: Any) -> None:
    watches_of(library).add("fox", "a fox")
    night(dict(name="a.mp4", matches=True), dict(name="b.mp4"))
    watches = watches_of(library)
    with watches.alone():
        [waiting] = watches.judge()
    assert (waiting.watch, waiting.videos) == ("fox", 2)
    assert waiting.reason.startswith("not better than chance here")
    with writing(library) as writer:
        writer.catalog.put(META_KEY, CALIBRATED)
    assert told(library) == [("fox", "a.mp4")]  # b.mp4 is labelled none


# Only speech tells right from wrong, as where the pictures of a library are not what the image model knows.
HALF_CALIBRATED = Calibration(
    2,
    {
        "visual": ModalityCalibration(0.15, 51, 200, 1.0, 0.3, 0.5, 0.9),
        "speech": ModalityCalibration(0.99, 50, 200, 0.5, 0.3, 0.5, 0.9),
    },
)


def test_videos_wait_whose_best_modality_has_no_labels(
    library: Path, night: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(library) as writer:
        writer.catalog.put(META_KEY, HALF_CALIBRATED.to_json())
    added = watches_of(library).add("fox", "a fox")
    assert (
        added.doubt == "not better than chance here: visual has no labels (AUC 0.15 over 51 known items; 0.8 is needed)"
    )
    assert watches_of(library).watched().watches[0].doubt == added.doubt
    assert watches_of(library).add("said", "said:fox").doubt is None
    night(dict(name="seen.mp4", matches=True))
    for _ in range(2):  # it waits until the library can tell
        watches = watches_of(library)
        with watches.alone():
            waiting = watches.judge()
        assert [(each.watch, each.videos, each.reason) for each in waiting] == [("fox", 1, added.doubt)]
        assert watches.items() == []

    # A video that is found by what is said is told, although another one waits.
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: {"visual": axis(1), "speech": axis(3)})
    night(dict(name="heard.mp4", said=FOX))
    assert told(library) == [("fox", "heard.mp4"), ("said", "heard.mp4")]
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: {"visual": axis(1), "speech": axis(1)})
    with writing(library) as writer:
        writer.catalog.put(META_KEY, CALIBRATED)
    assert told(library) == [("fox", "seen.mp4")]
    assert told(library) == []


def test_a_library_without_calibration_says_so_when_a_question_is_watched(library: Path) -> None:
    watches = watches_of(library)
    added = watches.add("fox", "a fox")
    assert added.doubt == "not better than chance here: visual, speech, text have no labels (not calibrated yet)"
    assert watches.add("said", "said:fox").doubt is None  # what is required needs no label


def test_what_cannot_be_watched_is_a_sentence(library: Path) -> None:
    watches = watches_of(library)
    with pytest.raises(QueryError, match="there is no saved question fox"):
        watches.add("fox")
    for text in ("fox -cat", "fox then dog within 5s", "2:fox dog"):
        with pytest.raises(QueryError, match="no confidence"):
            watches.add("x", text)
    with pytest.raises(QueryError, match="no question named fox is watched"):
        watches.remove("fox")
    watches.add("fox", "said:fox")
    with pytest.raises(UsageError, match="fox is watched already"):
        watches.add("fox")
    with pytest.raises(UsageError, match="another question named fox"):
        watches.add("fox", "said:cat")


def test_the_saved_question_stays_and_takes_its_watch_along(library: Path) -> None:
    user, watches = UserData.open(library), watches_of(library)
    watches.add("fox", "said:fox")
    watches.remove("fox")
    assert [each.name for each in user.saved_queries()] == ["fox"]
    watches.add("fox")
    user.remove_query("fox")
    assert watches.watched().watches == ()


def test_a_record_with_lost_rows_begins_anew(library: Path, night: Any) -> None:
    watches_of(library).add("fox", "said:fox")
    night(dict(name="a.mp4", said=FOX))
    assert told(library) == [("fox", "a.mp4")]
    with sqlite3.connect(library / "user.db") as connection:
        connection.execute("UPDATE arrival SET tokens = x'00' WHERE id = 1")
    assert any("arrival record" in each for each in user_faults(library))
    repair_user_data(library)
    night(dict(name="b.mp4", said=FOX))
    lines: list[str] = []
    with watches_of(library).alone():
        watches_of(library).judge(lines.append)
    assert "begins anew" in lines[0]
    assert told(library) == []  # not a flood of what was there
    night(dict(name="c.mp4", said=FOX))
    assert told(library) == [("fox", "c.mp4")]
    assert user_faults(library) == []


def test_a_count_of_rows_that_is_damaged_costs_no_rows(tmp_path: Path) -> None:
    data = WatchData.open(tmp_path)
    data.note(Present(["a"], []))
    with sqlite3.connect(tmp_path / "user.db") as connection:
        connection.execute("UPDATE sqlite_sequence SET seq = 100000 WHERE name = 'arrival'")
    log = data.note(Present(["a", "b"], []))
    assert (log.last, log.is_whole, len(log.tokens)) == (1, False, 2)
    assert (data.note(Present(["a", "b"], [])).is_whole, data.note(Present(["c"], [])).last) == (True, 2)
    assert user_faults(tmp_path) == []


def test_a_file_of_an_older_version_gains_the_tables(library: Path) -> None:
    UserData.open(library).save_query("fox", "said:fox")
    with sqlite3.connect(library / "user.db") as connection:
        for table in ("watch", "arrival", "watch_hit"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version=2")
    assert watches_of(library).watched().watches == ()
    assert user_faults(library) == []
    watches_of(library).add("fox")
    assert [each.name for each in watches_of(library).watched().watches] == ["fox"]


def test_a_preview_counts_as_another_content_than_the_full_reading(tmp_path: Path) -> None:
    data = WatchData.open(tmp_path)
    assert data.note(Present(["a"], ["b"])).last == 1
    assert data.note(Present(["a"], ["b"])).last == 1
    assert data.note(Present(["a", "b"], [])).last == 2
    assert data.note(Present(["a"], ["b"])).last == 2  # marked for another reading
    assert len(data.note(Present([], [])).tokens) == 3


def test_clips_of_a_long_video_are_read_once_for_all_its_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        clips = [clip(5.0 * n, 5.0 * n + 5, visual=axis(n % 4)) for n in range(30)]
        said = [Segment(5.0 * n, 5.0 * n + 4, f"fox {n} {'o' * 200}", "asr", "en") for n in range(29)]
        add_video(writer, "day.mp4", clips, said, end_s=150.0)
        writer.publish()
    watches, data = watches_of(tmp_path), WatchData.open(tmp_path)
    watches.add("fox", "said:fox")
    data.keep(
        data.watches()[0], [NewHit(Moment("day.mp4", 5000 * n, 5000 * n + 5000), 0.5, "", False) for n in range(30)]
    )
    reads, clips_of = list[int](), Snapshot.clips_of

    def counted(self: Snapshot, video_id: int) -> Any:
        reads.append(video_id)
        return clips_of(self, video_id)

    monkeypatch.setattr(Snapshot, "clips_of", counted)
    items = watches.items()
    assert len(reads) <= 2
    assert [each.key.start_ms for each in items] == [5000 * n for n in range(30)]
    assert [each.snippet for each in items] == [*(f"fox {n} {'o' * 200}"[:160] for n in range(29)), None]


def test_the_newest_hits_are_read_alone_of_many(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watches, data = watches_of(library), WatchData.open(library)
    for name in ("fox", "rain"):
        watches.add(name, f"said:{name}")
        [watch] = [each for each in data.watches() if each.name == name]
        data.keep(watch, [NewHit(Moment("old.mp4", 5000 * n, 5000 * n + 5000), 0.5, "", False) for n in range(50)])
    data.tell(range(2, 101))
    reads, real = list[object](), stored_watches.row_seal

    def counted(row: Sequence[object]) -> int:
        reads.append(row)
        return real(row)

    monkeypatch.setattr(stored_watches, "row_seal", counted)
    assert [(each.name, each.hits, each.new) for each in watches.watched().watches] == [("fox", 50, 1), ("rain", 50, 0)]
    assert [each.id for each in watches.items(newest=3)] == [98, 99, 100]
    assert [each.id for each in watches.untold().news] == [1]
    assert [each.watch for each in watches.items(newest=60)[:11]] == ["fox"] * 10 + ["rain"]
    shown, questions = 3 + 1 + 60, 4 * 2 * 2
    assert len(reads) <= shown + questions
