"""Which snapshots share a cache: those of one state, whatever connection they use."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from library_maker import add_video, axis, clip, install

from vfindex.storage.library import Library
from vfindex.storage.state_cache import StateCache, States
from vfindex.storage.writer import writing


def test_snapshots_of_one_state_share_values_and_those_of_another_do_not(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        library = Library(tmp_path)
        with library.snapshot() as first, library.snapshot() as second:
            kept = first.remembered("key", object)
            assert second.remembered("key", object) is kept
            add_video(writer, "a", [clip(visual=axis(1))])
            with library.snapshot() as third:
                assert third.remembered("key", object) is not kept
                assert len(third.clip_ids()) == 1
            assert first.remembered("key", object) is kept and first.clip_ids() == []
        library.close()


class Connection:
    """A connection that watches; `count` is what SQLite would count."""

    opened = "here"
    count = 0

    def execute(self, statement: str) -> Connection:
        return self

    def fetchone(self) -> tuple[int]:
        return (Connection.count,)

    def close(self) -> None:
        pass


def test_a_snapshot_that_a_commit_overtakes_is_begun_again() -> None:
    states: States[str] = States(Connection, lambda opened: True)
    steps: list[str] = []

    def begin_once() -> None:
        steps.append("begin")
        if len(steps) == 1:
            Connection.count += 1

    before = states.begin("here", lambda: None, lambda: None)
    after = states.begin("here", begin_once, lambda: steps.append("end"))
    assert steps == ["begin", "end", "begin"] and after is not before
    assert states.begin("here", lambda: None, lambda: None) is after

    def always() -> None:
        Connection.count += 1

    own = states.begin("here", always, lambda: None)
    assert own is not states.begin("here", lambda: None, lambda: None), "no state is known to be that of the snapshot"


def test_a_value_is_computed_once() -> None:
    cache, computed, barrier = StateCache("here"), [], threading.Barrier(8)

    def ask(_: int) -> object:
        barrier.wait()
        return cache.value("key", lambda: computed.append(1) or object())

    with ThreadPoolExecutor(8) as pool:
        assert len({id(value) for value in pool.map(ask, range(8))}) == 1
    assert len(computed) == 1
