"""Calls in other threads."""

from __future__ import annotations

import concurrent.futures.thread
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock, Thread, get_ident
from typing import Any

import pytest

from vfindex.storage import threads
from vfindex.storage.threads import Begun, parts_of, together


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ThreadPoolExecutor(1)
    monkeypatch.setattr(threads, "_threads", lambda: executor)


@pytest.mark.usefixtures("one_thread")
def test_another_thread_makes_the_call() -> None:
    started = Event()

    def call() -> int:
        started.set()
        return get_ident()

    begun = Begun(call)
    assert started.wait(60)
    assert begun.result() not in {get_ident(), None}


@pytest.mark.usefixtures("one_thread")
def test_a_call_that_no_thread_has_begun_is_made_here() -> None:
    started, go_on = Event(), Event()

    def busy() -> bool:
        started.set()
        return go_on.wait(60)

    first = Begun(busy)
    assert started.wait(60)
    assert Begun(get_ident).result() == get_ident()
    go_on.set()
    assert first.result()


@pytest.mark.usefixtures("one_thread")
def test_its_error_is_raised() -> None:
    begun = Begun(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        begun.result()
    begun.end()


@pytest.mark.usefixtures("one_thread")
def test_the_end_waits_for_a_call_that_has_begun() -> None:
    started, ended = Event(), Event()

    def call() -> None:
        started.set()
        Event().wait(0.2)
        ended.set()

    begun = Begun(call)
    assert started.wait(60)
    begun.end()
    assert ended.is_set()


@pytest.mark.usefixtures("one_thread")
def test_a_call_that_has_not_begun_is_not_made_after_the_end() -> None:
    started, go_on, made = Event(), Event(), Event()

    def busy() -> bool:
        started.set()
        return go_on.wait(60)

    first = Begun(busy)
    assert started.wait(60)
    dropped = Begun(made.set)
    dropped.end()
    dropped.end()
    go_on.set()
    assert first.result() and Begun(lambda: None).result() is None
    assert not made.is_set()


def test_an_interrupt_before_the_call_is_raised_and_nothing_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def acquire(self, *, blocking: bool) -> bool:
            raise KeyboardInterrupt

    threads._threads.cache_clear()
    with monkeypatch.context() as no_other:
        no_other.setattr(Thread, "start", no_thread)
        begun = Begun(get_ident)
    begun._claim = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        begun.result()
    begun._claim = Lock()
    begun.end()
    begun.end()


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("where", "name", "value"), [(Thread, "start", no_thread), (concurrent.futures.thread, "_shutdown", True)]
)
def test_without_another_thread_the_call_is_made_here_once(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any
) -> None:
    threads._threads.cache_clear()
    made: list[int] = []
    with monkeypatch.context() as limited:
        limited.setattr(where, name, value)
        kept = Begun(lambda: made.append(get_ident()))
        dropped = Begun(lambda: made.append(0))
        kept.result()
        dropped.end()
    for _ in range(20):
        Begun(lambda: None).result()
    threads._threads().submit(lambda: None).result()
    assert made == [get_ident()]


def test_calls_that_no_thread_can_make_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    threads._threads.cache_clear()
    monkeypatch.setattr(Thread, "start", no_thread)
    for _ in range(20):
        Begun(lambda: None).result()
    assert threads._threads()._work_queue.qsize() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    Begun(lambda: None).result()
    threads._threads().submit(lambda: None).result()  # there is a thread, and the fork does not have it
    process = os.fork()
    if not process:
        signal.alarm(60)
        code = 2
        try:
            started = Event()
            begun = Begun(started.set)
            code = 0 if started.wait(30) else 1
            begun.result()
        finally:
            os._exit(code)
    assert os.waitpid(process, 0)[1] == 0


@pytest.mark.parametrize("count", [1, 2, 100])
def test_calls_made_together_return_in_order(count: int) -> None:
    threads._threads.cache_clear()
    assert together(lambda number: number, count) == list(range(count))


@pytest.mark.usefixtures("one_thread")
def test_after_an_error_no_call_goes_on() -> None:
    begun, ended = Event(), Event()

    def call(number: int) -> None:
        if number == 1:
            begun.set()
            Event().wait(0.2)
            ended.set()
        elif number == 0:
            assert begun.wait(60)
            raise ZeroDivisionError
        else:
            raise AssertionError(number)  # the one other thread was busy until the end

    with pytest.raises(ZeroDivisionError):
        together(call, 3)
    assert ended.is_set()


def test_an_interrupt_between_two_calls_ends_those_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *given: Any, **more: Any) -> Any:
            if self._work_queue.qsize() + len(self._threads) >= 3:
                raise KeyboardInterrupt
            return super().submit(*given, **more)

    def call(number: int) -> None:
        Event().wait(0.2)
        made.append(number)

    with Interrupted(1) as pool:
        monkeypatch.setattr(threads, "_threads", lambda: pool)
        with pytest.raises(KeyboardInterrupt):
            together(call, 9)
        ended = list(made)
    assert made == ended and len(made) <= 1


@pytest.mark.parametrize(
    ("amount", "parts"), [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (21, 2), (30, 2), (31, 4), (70, 4), (71, 8)]
)
def test_work_is_divided_into_a_power_of_two(amount: int, parts: int) -> None:
    assert parts_of(amount, 10) == parts
    assert amount / parts < 20
